-- Errors that callers of a pool got, by SQLSTATE.
SELECT test.server('stat_errors', $$max_size '1', checkout_timeout '50ms'$$);
CREATE TEMP VIEW errors AS SELECT * FROM conpool.stat_errors WHERE server = 'stat_errors' AND database = current_database();
SET compute_query_id = on;

-- the remote's
SELECT test.error_of($$SELECT conpool.exec('stat_errors', 'SELECT 1 / 0')$$) LIMIT 1;
SELECT test.error_of($$SELECT conpool.exec('stat_errors', 'SELECT 1 / 0')$$) LIMIT 1;
SELECT test.error_of($$SELECT conpool.exec('stat_errors', 'SELECT nothing')$$) LIMIT 1;
-- conpool's own
SELECT conpool.checkout('stat_errors', 'session') AS lease \gset
SELECT test.error_of($$SELECT conpool.exec('stat_errors', 'SELECT 1')$$) LIMIT 1;
SELECT conpool.checkin(:lease);
SELECT format('host=%s port=%s dbname=%s user=postgres', split_part(current_setting('unix_socket_directories'), ',', 1),
			  current_setting('port'), current_database()) AS loopback \gset
SELECT conpool.checkout(:'loopback', 'session') AS other \gset
SELECT conpool.exec(:other, 'SELECT conpool.checkout(''stat_errors'', ''session'')');
SELECT test.error_of($$SELECT conpool.exec('stat_errors', 'SELECT 1')$$) LIMIT 1;
-- LISTEN: so that the connection is closed at checkin
SELECT conpool.exec(:other, 'LISTEN channel');
SELECT conpool.checkin(:other);
SELECT test.at_rest();
SELECT sqlstate, count, last_message, last_caller, last_query_id IS NOT NULL AS query_id, first_seen <= last_seen AND last_seen <= now() AS seen,
	   first_seen < last_seen AS again
  FROM errors ORDER BY sqlstate COLLATE "C";
-- as stat_pools counts them
SELECT query_errors, checkout_timeouts FROM conpool.stat_pools WHERE server = 'stat_errors' AND database = current_database();

-- the last one's message
SELECT test.error_of($$SELECT conpool.exec('stat_errors', 'SELECT nowhere')$$) LIMIT 1;
SELECT count, last_message FROM errors WHERE sqlstate = '42703';

-- the query ID is that of the local statement
CREATE FUNCTION pg_temp.own_id() RETURNS bigint LANGUAGE sql AS 'SELECT query_id FROM pg_stat_activity WHERE pid = pg_backend_pid()';
SELECT (SELECT count(*) FROM test.error_of($$SELECT conpool.exec('stat_errors', 'SELECT 1 / 0')$$)) > 0 AS failed, pg_temp.own_id() AS id \gset
SELECT last_query_id = :id AS same, count FROM errors WHERE sqlstate = '22012';
RESET compute_query_id;

SELECT conpool.reset_stats('stat_errors');
SELECT count(*) FROM errors;
SELECT test.at_rest();
DROP SERVER stat_errors CASCADE;
