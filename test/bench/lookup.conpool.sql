\set aid random(1, :accounts)
SELECT abalance
  FROM conpool.query('@SERVER@', 'select abalance from pgbench_accounts where aid = $1', :aid::int)
    AS t(abalance int) \gset
\if :abalance != :aid
SELECT 1 / 0;
\endif
