\if :connected = 0
SELECT dblink_connect('open', '@SERVER@');
\set connected 1
\endif
\set aid random(1, :accounts - 5)
BEGIN;
SELECT dblink_exec('open', 'begin isolation level repeatable read');
SELECT (dblink_exec('open', 'update pgbench_accounts set abalance = aid where aid = ' || :aid::int) = 'UPDATE 1')::int AS ok \gset
SELECT dblink_exec('open', 'update pgbench_accounts set abalance = aid where aid = ' || (:aid::int + 1));
SELECT dblink_exec('open', 'update pgbench_accounts set abalance = aid where aid = ' || (:aid::int + 2));
SELECT dblink_exec('open', 'update pgbench_accounts set abalance = aid where aid = ' || (:aid::int + 3));
SELECT dblink_exec('open', 'update pgbench_accounts set abalance = aid where aid = ' || (:aid::int + 4));
SELECT dblink_exec('open', 'commit');
COMMIT;
\if :ok != 1
SELECT 1 / 0;
\endif
