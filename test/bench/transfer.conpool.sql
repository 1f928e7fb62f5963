\set aid random(1, :accounts - 5)
BEGIN;
SELECT (conpool.exec('@SERVER@', 'update pgbench_accounts set abalance = aid where aid = $1', :aid::int) = 'UPDATE 1')::int AS ok \gset
SELECT conpool.exec('@SERVER@', 'update pgbench_accounts set abalance = aid where aid = $1', :aid::int + 1);
SELECT conpool.exec('@SERVER@', 'update pgbench_accounts set abalance = aid where aid = $1', :aid::int + 2);
SELECT conpool.exec('@SERVER@', 'update pgbench_accounts set abalance = aid where aid = $1', :aid::int + 3);
SELECT conpool.exec('@SERVER@', 'update pgbench_accounts set abalance = aid where aid = $1', :aid::int + 4);
COMMIT;
\if :ok != 1
SELECT 1 / 0;
\endif
