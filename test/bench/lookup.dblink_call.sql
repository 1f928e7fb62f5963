\set aid random(1, :accounts)
SELECT abalance
  FROM dblink('@SERVER@', 'select abalance from pgbench_accounts where aid = ' || :aid::int)
    AS t(abalance int) \gset
\if :abalance != :aid
SELECT 1 / 0;
\endif
