\if :connected = 0
SELECT dblink_connect('open', '@SERVER@');
\set connected 1
\endif
\set aid random(1, :accounts)
SELECT abalance
  FROM dblink('open', 'select abalance from pgbench_accounts where aid = ' || :aid::int)
    AS t(abalance int) \gset
\if :abalance != :aid
SELECT 1 / 0;
\endif
