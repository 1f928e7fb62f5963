-- The counters of stat_pools are exact; reset_stats() sets them to zero.
SELECT test.server('stats', $$max_size '1', checkout_timeout '100ms'$$);
CREATE TEMP VIEW counters AS SELECT s.* FROM conpool.stat_pools s WHERE server = 'stats' AND database = current_database();
CREATE TEMP VIEW counts AS SELECT checkouts, checkout_timeouts, checkout_cancels, connects, connect_failures,
	queries, query_errors, rows, discarded, resets, leaks FROM counters;
SELECT * FROM counts;

-- queries, rows received and rows changed; one connection
SELECT count(*) FROM conpool.query('stats', 'SELECT generate_series(1, 10)') AS t(n int);
SELECT conpool.exec('stats', 'SELECT generate_series(1, 5)');
SELECT conpool.exec('stats', 'SELECT generate_series(1, 2); SELECT 1');
SELECT conpool.exec('stats', 'CREATE TABLE stats AS SELECT generate_series(1, 7) AS n');
SELECT conpool.exec('stats', 'UPDATE stats SET n = n + 1 WHERE n > 4');
SELECT conpool.exec('stats', 'DROP TABLE stats');
SELECT test.at_rest();
SELECT * FROM counts;

-- errors, there and here
SELECT conpool.exec('stats', 'SELECT 1 / 0');
SELECT * FROM conpool.query('stats', 'SELECT ''x''') AS t(n int);
SELECT test.at_rest();
SELECT * FROM counts;

-- a lease that is held counts at once; statements on it too
SELECT conpool.reset_stats('stats');
SELECT conpool.checkout('stats', 'session') AS lease \gset
SELECT conpool.exec(:lease, 'SELECT 1'), conpool.exec(:lease, 'SELECT 2');
SELECT * FROM counts;
SELECT conpool.checkin(:lease);
SELECT test.at_rest();
SELECT * FROM counts;

-- times
SELECT total_checkout_time > 0 AS checkout, max_checkout_time BETWEEN total_checkout_time / checkouts AND total_checkout_time AS max_checkout,
	total_wait_time > 0 AS wait, max_wait_time <= total_wait_time AS max_wait, total_connect_time, stats_reset <= now() AS since FROM counters;

-- a connection that was terminated is discarded and replaced, its caller
-- served; connecting takes time
SELECT conpool.reset_stats('stats');
SELECT * FROM conpool.query('stats', 'SELECT pg_backend_pid()') AS t(victim int) \gset
SELECT * FROM conpool.query('remote_admin', 'SELECT pg_terminate_backend($1, 10000)', :victim) AS t(terminated bool);
SELECT conpool.exec('stats', 'SELECT 1');
SELECT test.at_rest();
SELECT checkouts, connects, discarded, queries, query_errors, total_connect_time > 0 AS connect_time FROM counters;

-- a lost connection is discarded, too
SELECT conpool.reset_stats('stats');
SELECT conpool.exec('stats', 'SELECT pg_terminate_backend(pg_backend_pid())');
SELECT test.at_rest();
SELECT checkouts, connects, discarded, queries, query_errors FROM counters;

-- remote transactions; without a statement there is none
CREATE TEMP VIEW transactions AS SELECT queries, remote_commits, remote_rollbacks, remote_commits_unknown FROM counters;
SELECT conpool.reset_stats('stats');
BEGIN;
SELECT conpool.checkout('stats') > 0 AS taken;
COMMIT;
SELECT test.at_rest();
TABLE transactions;
BEGIN;
SELECT conpool.exec(conpool.checkout('stats'), 'SELECT 1');
COMMIT;
SELECT test.at_rest();
TABLE transactions;
BEGIN;
SELECT conpool.exec(conpool.checkout('stats'), 'SELECT 1');
ROLLBACK;
SELECT test.at_rest();
TABLE transactions;
-- a savepoint is none of its own
BEGIN;
SELECT conpool.checkout('stats') AS lease \gset
SELECT conpool.exec(:lease, 'SELECT 1');
SAVEPOINT s;
SELECT conpool.exec(:lease, 'SELECT 1');
ROLLBACK TO s;
SELECT conpool.exec(:lease, 'SELECT 1');
COMMIT;
SELECT test.at_rest();
TABLE transactions;
-- one that was lost with its connection before COMMIT is not among them
BEGIN;
SELECT conpool.exec(conpool.checkout('stats'), 'SELECT pg_terminate_backend(pg_backend_pid())');
COMMIT;
SELECT test.at_rest();
TABLE transactions;
-- lost in COMMIT
SELECT conpool.exec('remote_admin', $$CREATE TABLE fatal (); GRANT INSERT ON fatal TO regress_remote;
	CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
	CREATE CONSTRAINT TRIGGER die AFTER INSERT ON fatal DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()$$);
BEGIN;
SELECT conpool.exec(conpool.checkout('stats'), 'INSERT INTO fatal DEFAULT VALUES');
COMMIT;
\echo :LAST_ERROR_SQLSTATE
SELECT test.at_rest();
TABLE transactions;
SELECT conpool.exec('remote_admin', 'DROP TABLE fatal; DROP FUNCTION die');

-- waits that end in a timeout count as waits: the figures must not get better
-- when things get worse
SELECT format('host=%s port=%s dbname=%s user=postgres', split_part(current_setting('unix_socket_directories'), ',', 1),
			  current_setting('port'), current_database()) AS loopback \gset
SELECT conpool.checkout(:'loopback', 'session') AS other \gset
SELECT conpool.exec(:other, 'SELECT conpool.checkout(''stats'', ''session'')');
SELECT conpool.reset_stats('stats');
SELECT test.error_of($$SELECT conpool.exec('stats', 'SELECT 1')$$) LIMIT 1;
SELECT test.error_of($$SELECT conpool.checkout('stats', timeout => '50ms')$$) LIMIT 1;
SET statement_timeout = '50ms';
SELECT conpool.checkout('stats', timeout => '30s');
RESET statement_timeout;
SELECT checkouts, checkout_timeouts, checkout_cancels, waited, total_wait_time BETWEEN 195 AND 10000 AS total_wait_time,
	max_wait_time BETWEEN 99 AND 10000 AS max_wait_time FROM counters;
-- LISTEN: so that the connection is closed at checkin
SELECT conpool.exec(:other, 'LISTEN channel');
SELECT conpool.checkin(:other);

-- reset_stats(): one server, all of them; who may
SELECT stats_reset AS before FROM counters \gset
SELECT conpool.exec('remote', 'SELECT 1');
SELECT conpool.reset_stats('stats');
SELECT stats_reset > :'before' AS later FROM counters;
SELECT test.at_rest();
SELECT conpool.exec('stats', 'SELECT 1');
SELECT server, queries > 0 AS queries FROM conpool.stat_pools WHERE server IN ('stats', 'remote') AND database = current_database() ORDER BY server;
SELECT conpool.reset_stats();
SELECT server, queries > 0 AS queries FROM conpool.stat_pools WHERE server IN ('stats', 'remote') AND database = current_database() ORDER BY server;
SELECT conpool.reset_stats('nowhere');
\echo :LAST_ERROR_SQLSTATE
SELECT test.conninfo() AS conninfo \gset
SELECT conpool.exec(:'conninfo', 'SELECT 1');
SELECT conpool.reset_stats(:'conninfo');
SELECT queries FROM conpool.stat_pools WHERE server ~ 'user=regress_remote$' AND role = 'postgres' AND database = current_database()
	ORDER BY queries LIMIT 1;
CREATE ROLE regress_alice;
SET ROLE regress_alice;
SELECT conpool.reset_stats('stats');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION conpool.reset_stats TO regress_alice;
SET ROLE regress_alice;
SELECT conpool.reset_stats('stats');
RESET ROLE;
DROP OWNED BY regress_alice;
DROP ROLE regress_alice;

SELECT test.at_rest();
DROP SERVER stats CASCADE;
