-- What one user of a connection leaves behind the next one does not see.
SET statement_timeout = '30s';
SELECT test.server('auto', $$max_size '1'$$);
SELECT test.server('always', $$max_size '1', reset 'always'$$);
SELECT test.server('never', $$max_size '1', reset 'never'$$);

-- what is left of a setting, a temporary table, a prepared statement, a cursor
-- and an advisory lock
CREATE FUNCTION pg_temp.look(server text, OUT work_mem text, OUT temp bool, OUT prepared int, OUT cursors int, OUT locks int)
LANGUAGE sql AS $$
	SELECT * FROM conpool.query(server, $remote$
		SELECT current_setting('work_mem'), to_regclass('pg_temp.t') IS NOT NULL,
			(SELECT count(*) FROM pg_prepared_statements),
			(SELECT count(*) FROM pg_cursors WHERE name = 'c'),
			(SELECT count(*) FROM pg_locks WHERE locktype = 'adv' || 'isory' AND pid = pg_backend_pid()) $remote$)
		AS t(work_mem text, temp bool, prepared int, cursors int, locks int) $$;
CREATE FUNCTION pg_temp.found_after(server text, statement text,
	OUT work_mem text, OUT temp bool, OUT prepared int, OUT cursors int, OUT locks int, OUT resets int)
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM conpool.exec(server, statement);
	SELECT * INTO work_mem, temp, prepared, cursors, locks FROM pg_temp.look(server);
	resets := pg_temp.resets(server);
END $$;
CREATE FUNCTION pg_temp.resets(server text) RETURNS bigint LANGUAGE sql AS
	$$ SELECT resets FROM conpool.stat_pools s WHERE s.server = $1 AND database = current_database() $$;
CREATE FUNCTION pg_temp.leave(server text) RETURNS text LANGUAGE sql AS $$
	SELECT conpool.exec(server, 'SET work_mem = ''1MB''') || ', ' ||
		conpool.exec(server, 'CREATE TEMP TABLE t AS SELECT 1') || ', ' ||
		conpool.exec(server, 'PREPARE p AS SELECT 1') || ', ' ||
		conpool.exec(server, 'DECLARE c CURSOR WITH HOLD FOR SELECT 1') || ', ' ||
		conpool.exec(server, 'SELECT pg_advisory_lock(1)') $$;

-- auto: nothing, after each of them
SELECT * FROM pg_temp.look('auto');
SELECT statement, found.*
  FROM (VALUES ('SET work_mem = ''1MB'''), ('CREATE TEMP TABLE t AS SELECT 1'), ('SELECT 1 AS a INTO TEMP t'),
		('PREPARE p AS SELECT 1'), ('DECLARE c CURSOR WITH HOLD FOR SELECT 1'), ('SELECT pg_advisory_lock(1)'),
		('SELECT set_config(''work_mem'', ''1MB'', false)'), ('UPDATE pg_settings SET setting = 1024 WHERE name = ''work_mem'''),
		('EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1'), ('DO $$BEGIN SET work_mem = ''1MB''; END$$'),
		('SELECT 1; SET work_mem = ''1MB''; SELECT 2')) AS list(statement),
	pg_temp.found_after('auto', statement) AS found;

-- always: the same; each checkin resets
SELECT pg_temp.leave('always');
SELECT * FROM pg_temp.look('always');
SELECT pg_temp.resets('always');

-- never: everything is left
SELECT pg_temp.leave('never');
SELECT * FROM pg_temp.look('never');
SELECT pg_temp.resets('never');
-- LISTEN: so that the connection, which has a lock, is closed
SELECT conpool.exec('never', 'LISTEN channel');

-- what leaves nothing behind is not reset
SELECT conpool.reset_stats('auto');
SELECT conpool.exec('auto', 'SELECT 1'), conpool.exec('auto', 'VALUES (1)'), conpool.exec('auto', 'SELECT $1', 1),
	conpool.exec('auto', 'WITH x AS (SELECT 1) TABLE x'), conpool.exec('auto', 'SHOW work_mem'), conpool.exec('auto', 'EXPLAIN SELECT 1');
SELECT pg_temp.resets('auto');
-- an explicit lease always is
SELECT conpool.checkout('auto', 'session') AS lease \gset
SELECT conpool.exec(:lease, 'SELECT 1');
SELECT conpool.checkin(:lease);
SELECT * FROM pg_temp.look('auto');
SELECT pg_temp.resets('auto');
-- an error may have left something
SELECT conpool.exec('auto', 'SELECT 1 / 0');
SELECT * FROM pg_temp.look('auto');
SELECT pg_temp.resets('auto');

-- all that with one connection; what a reset cannot undo closes it
SELECT server, connects, discarded FROM conpool.stat_pools
 WHERE server IN ('auto', 'always', 'never') AND database = current_database() ORDER BY server;
SELECT conpool.exec('auto', 'LISTEN channel');
SELECT conpool.exec('auto', 'SELECT 1');
SELECT conpool.exec('auto', 'SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY');
SELECT * FROM conpool.query('auto', 'SHOW transaction_read_only') AS t(read_only text);
SELECT connects, discarded FROM conpool.stat_pools WHERE server = 'auto' AND database = current_database();

SELECT test.at_rest();
DROP SERVER auto CASCADE;
DROP SERVER always CASCADE;
DROP SERVER never CASCADE;
