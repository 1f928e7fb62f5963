-- A database with an older version of the extension works with this library, and is updated.
SELECT current_database() AS test_database, host, port, test.tls() AS tls FROM test.remote \gset
CREATE DATABASE regress_update TEMPLATE template0;
\c regress_update
CREATE EXTENSION conpool VERSION '1.0';
CREATE SERVER s FOREIGN DATA WRAPPER conpool OPTIONS (host :'host', port :'port', dbname 'conpool_remote', idle_timeout '1h');
CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (user 'regress_remote', password 'remote-secret');

-- 1.0: its views have the columns they had
SELECT conpool.exec('s', 'SELECT 1');
SELECT conpool.checkout('s', 'session') AS lease \gset
SELECT attrelid::regclass AS view, count(*) AS columns FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
 WHERE relnamespace = 'conpool'::regnamespace AND attnum > 0 GROUP BY 1 ORDER BY 1;
SELECT server, database, role, max_size, size, leased, broker FROM conpool.pools WHERE database = current_database();
SELECT server, state, uses, encrypted = :'tls' AS encryption, pid = pg_backend_pid() AS mine FROM conpool.connections WHERE database = current_database();
SELECT server, checkouts, connects, leaks, stats_reset <= now() AS since FROM conpool.stat_pools WHERE database = current_database();
SELECT count(*) FROM conpool.leases WHERE database = current_database();
SELECT count(*) FROM conpool.waiters WHERE database = current_database();
ALTER SERVER s OPTIONS (ADD leak_threshold '1ms');
SELECT conpool.exec('s', 'SELECT pg_sleep(0.1)');
SELECT lease = :lease AS same, pid = pg_backend_pid() AS mine, holder, held_for > '0' AS held_for, sql, class FROM conpool.leaks WHERE database = current_database();
ALTER SERVER s OPTIONS (DROP leak_threshold);
SELECT conpool.pause('s');
PREPARE pools AS SELECT server, size FROM conpool.pools WHERE database = current_database();
EXECUTE pools;

-- what depends on a view that changes stops the update
CREATE VIEW mine AS SELECT server, size FROM conpool.pools;
\set SHOW_CONTEXT never
ALTER EXTENSION conpool UPDATE;
\set SHOW_CONTEXT errors
SELECT extversion FROM pg_extension WHERE extname = 'conpool';
DROP VIEW mine;
ALTER EXTENSION conpool UPDATE TO '1.1';
SELECT extversion FROM pg_extension WHERE extname = 'conpool';

-- 1.1: the lease and its connection are still there
SELECT conpool.exec(:lease, 'SELECT 1');
SELECT conpool.checkin(:lease);
EXECUTE pools;
SELECT server, min_size, max_size, effective_max_size, idle_timeout, server_size, paused, dropped, breaker FROM conpool.pools
 WHERE database = current_database();
SELECT server, checked_at >= opened_at AS checked, expires_at > opened_at AS expires FROM conpool.connections WHERE database = current_database();
SELECT server, checkouts, connects, checkout_failures, refused, dials, breaker_opened FROM conpool.stat_pools WHERE database = current_database();
SELECT conpool.pause('s'), conpool.resume('s');
SELECT conpool.close_idle('s');
SELECT conpool.exec('s', 'SELECT 1');
SELECT bool_and(has_table_privilege('public', oid, 'SELECT')) AS public_selects FROM pg_class WHERE relnamespace = 'conpool'::regnamespace AND relkind = 'v';
SELECT attrelid::regclass AS view, count(*) AS columns FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
 WHERE relnamespace = 'conpool'::regnamespace AND attnum > 0 GROUP BY 1 ORDER BY 1;
SELECT conpool.checkout('s', 'session') AS lease \gset
SELECT lease = :lease AS same, application_name, scope FROM conpool.leases WHERE database = current_database();

-- what depends on a view that is dropped stops this update, too
CREATE VIEW mine AS SELECT lease, sql FROM conpool.leases;
\set SHOW_CONTEXT never
ALTER EXTENSION conpool UPDATE TO '1.2';
\set SHOW_CONTEXT errors
DROP VIEW mine;
ALTER EXTENSION conpool UPDATE TO '1.2';
SELECT extversion FROM pg_extension WHERE extname = 'conpool';

-- 1.2: the lease is still there, and what was counted
SELECT conpool.exec(:lease, 'SELECT 1');
EXECUTE pools;
SELECT server, leak_action, leak_threshold FROM conpool.pools WHERE database = current_database();
SELECT lease = :lease AS same, application_name, last_used > since AS last_used, leak FROM conpool.leases WHERE database = current_database();
SELECT server, queries, remote_max > 0 AS remote_max, peak_leased FROM conpool.stat_pools WHERE database = current_database();
SELECT kind, sum(count) > 0 AS measured FROM conpool.stat_latency WHERE database = current_database() GROUP BY kind ORDER BY kind;
SELECT count(*) > 0 AS events FROM conpool.events WHERE database = current_database();
SELECT attrelid::regclass AS view, count(*) AS columns FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
 WHERE relnamespace = 'conpool'::regnamespace AND attnum > 0 GROUP BY 1 ORDER BY 1;

-- this update leaves alone what depends on the views, and what was granted on them
CREATE VIEW mine AS SELECT server, state, encrypted IS NULL AS unknown FROM conpool.connections WHERE database = current_database();
TABLE mine;
REVOKE SELECT ON conpool.pools FROM PUBLIC;
GRANT SELECT ON conpool.pools TO pg_monitor;
ALTER EXTENSION conpool UPDATE TO '1.3';
SELECT extversion FROM pg_extension WHERE extname = 'conpool';

-- 1.3: the lease is still there
SELECT conpool.exec(:lease, 'SELECT 1');
EXECUTE pools;
TABLE mine;
SELECT has_table_privilege('public', 'conpool.pools', 'SELECT') AS public, has_table_privilege('pg_monitor', 'conpool.pools', 'SELECT') AS monitor;
SELECT server, bool_and(encrypted = (tls_version IS NOT NULL)) AS tls_version, bool_and(encrypted = (tls_cipher IS NOT NULL)) AS tls_cipher,
	   count(tunnel) = sum(DISTINCT tunnelled) AS tunnelled
  FROM conpool.connections JOIN conpool.pools USING (server, database, role) WHERE database = current_database() GROUP BY server;
SELECT count(*) = current_setting('conpool.tunnel_workers')::int AS tunnels FROM conpool.tunnels;
SELECT finding FROM conpool.advice WHERE database = current_database();
SELECT proname FROM pg_proc WHERE pronamespace = 'conpool'::regnamespace AND proname ~ '_[0-9]';
SELECT server, queries, peak_leased FROM conpool.stat_pools WHERE database = current_database();

-- this one, too: of a view that gets columns, and of functions that the library had all along
CREATE OR REPLACE VIEW mine AS SELECT server, state, encrypted IS NULL AS unknown, queries
  FROM conpool.connections JOIN conpool.stat_pools USING (server, database, role) WHERE database = current_database();
REVOKE SELECT ON conpool.stat_pools FROM PUBLIC;
GRANT SELECT ON conpool.stat_pools TO pg_monitor;
BEGIN;
SELECT conpool.exec('s', 'SELECT 1') FROM set_config('conpool.pool_mode', 'transaction', true);
ALTER EXTENSION conpool UPDATE;
SELECT extversion FROM pg_extension WHERE extname = 'conpool';

-- 1.4: the lease is still there, and the transaction that was begun before
SELECT conpool.exec('s', 'SELECT 1');
COMMIT;
SELECT conpool.exec(:lease, 'SELECT 1');
SELECT DISTINCT server, unknown, queries FROM mine;
SELECT has_table_privilege('public', 'conpool.stat_pools', 'SELECT') AS public, has_table_privilege('pg_monitor', 'conpool.stat_pools', 'SELECT') AS monitor;
SELECT server, overflowed, remote_commits, remote_rollbacks, remote_commits_unknown FROM conpool.stat_pools WHERE database = current_database();
SELECT conpool.send(:lease, 'SELECT 1') AS request \gset
SELECT * FROM conpool.result(:request) AS t(n int);
SELECT * FROM conpool.map('{s}', 'SELECT 1 AS n');
SELECT attrelid::regclass AS view, count(*) AS columns FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
 WHERE relnamespace = 'conpool'::regnamespace AND attnum > 0 GROUP BY 1 ORDER BY 1;
SELECT proname FROM pg_proc WHERE pronamespace = 'conpool'::regnamespace AND proname ~ '_[0-9]';
SELECT conpool.checkin(:lease);

DROP EXTENSION conpool CASCADE;
\c :test_database
DROP DATABASE regress_update;
SELECT test.at_rest();
