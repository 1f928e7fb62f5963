-- What local statements did with a pool, by query ID.
SELECT test.server('stat_statements');
CREATE ROLE regress_alice;
CREATE USER MAPPING FOR regress_alice SERVER stat_statements OPTIONS (user 'regress_remote', password 'remote-secret');
GRANT USAGE ON FOREIGN SERVER stat_statements TO regress_alice;
CREATE TEMP VIEW statements AS SELECT * FROM conpool.stat_statements WHERE server = 'stat_statements' AND database = current_database();
GRANT SELECT ON statements TO PUBLIC;
SET compute_query_id = on;

-- constants make no difference
SELECT conpool.exec('stat_statements', 'SELECT 1');
SELECT conpool.exec('stat_statements', 'SELECT generate_series(1, 3)');
SELECT conpool.exec('stat_statements', 'SELECT 1 / 0');
SELECT role, caller, query_id IS NOT NULL AS query_id, calls, rows, errors, query FROM statements;
SELECT total_wait_time > 0 AS wait, total_remote_time > 0 AS remote, max_remote_time BETWEEN total_remote_time / calls AND total_remote_time AS max,
	   since <= now() AS since FROM statements;

-- all statements of one call, and of one lease
SELECT count(conpool.exec('stat_statements', 'SELECT ' || n)) FROM generate_series(1, 10) AS n;
SELECT conpool.checkout('stat_statements', 'session') AS lease \gset
SELECT conpool.exec(:lease, 'SELECT 1') AS on_lease;
SELECT conpool.checkin(:lease);
SELECT test.at_rest();
SELECT calls, rows, errors, replace(query, :'lease', 'N') AS query FROM statements ORDER BY query COLLATE "C";

-- the same query ID as elsewhere
CREATE FUNCTION pg_temp.own_id() RETURNS bigint LANGUAGE sql AS 'SELECT query_id FROM pg_stat_activity WHERE pid = pg_backend_pid()';
SELECT conpool.exec('stat_statements', 'SELECT 1') AS joined, pg_temp.own_id() AS id \gset
SELECT query_id = :id AS same, calls FROM statements WHERE query ~ 'joined';

-- of another role it is another statement; without a query ID it is one of them all
SET ROLE regress_alice;
SELECT conpool.exec('stat_statements', 'SELECT 1');
SELECT role, caller, calls FROM statements;
RESET ROLE;
SET compute_query_id = off;
SELECT conpool.exec('stat_statements', 'SELECT 1') AS unknown;
SELECT conpool.exec('stat_statements', 'SELECT 1') AS another;
SELECT caller, calls FROM statements WHERE query_id IS NULL;
RESET compute_query_id;

-- a call that got no connection is an error, too
ALTER SERVER stat_statements OPTIONS (ADD max_size '1');
SET compute_query_id = on;
SELECT conpool.checkout('stat_statements', 'session') AS lease \gset
SELECT test.wait_until($$(SELECT sum(closing) = 0 FROM conpool.pools WHERE server = 'stat_statements' AND database = current_database())$$);
\set VERBOSITY terse
SELECT 1 AS refused, conpool.exec('stat_statements', 'SELECT 1');
\set VERBOSITY default
SELECT conpool.checkin(:lease);
SELECT calls, errors, total_remote_time FROM statements WHERE query ~ 'refused';
RESET compute_query_id;

-- the beginning of a long one
SET compute_query_id = on;
SELECT conpool.exec('stat_statements', 'SELECT 1') AS a_column_with_quite_a_long_name_01, 2 AS a_column_with_quite_a_long_name_02, 3 AS a_column_with_quite_a_long_name_03,
	4 AS a_column_with_quite_a_long_name_04, 5 AS a_column_with_quite_a_long_name_05, 6 AS a_column_with_quite_a_long_name_06, 7 AS a_column_with_quite_a_long_name_07;
SELECT octet_length(query), right(query, 20) FROM statements WHERE query ~ 'quite_a_long_name';
RESET compute_query_id;

SELECT conpool.stat_statements_evictions() >= 0 AS evictions;
SELECT conpool.reset_stats('stat_statements');
SELECT count(*) FROM statements;
SELECT test.at_rest();
DROP SERVER stat_statements CASCADE;
DROP ROLE regress_alice;
