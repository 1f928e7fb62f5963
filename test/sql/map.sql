-- map(), map_as() and try_map(): many servers at the same time.
SELECT test.server('map_' || n) FROM generate_series(1, 4) n;
SELECT test.server('map_two', $$max_size '2'$$);

-- each row as an object, beside its server
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2'], 'SELECT g AS id, ''n'' || g AS name FROM generate_series(1, 2) g')
	ORDER BY server, data ->> 'id';

-- rows of every result set of a text, and none of what has no columns
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2'], 'SELECT 1 AS a; SET LOCAL work_mem = ''2MB''; SELECT 2 AS b, 3 AS c')
	ORDER BY server, data ->> 'a';
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2'], 'SELECT 1 AS a WHERE false');
SELECT * FROM conpool.map('{}'::text[], 'SELECT 1');

-- parameters; a statement for each server; a server twice
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2'], 'SELECT $1 + 1 AS a, $2 AS b', 41, 'x'::text) ORDER BY server;
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2'], 'SELECT $1 + $2 AS a', VARIADIC ARRAY[1, 2]) ORDER BY server;
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2', 'map_1'], ARRAY['SELECT 1 AS a', 'SELECT 2 AS b', 'SELECT 3 AS c'])
	ORDER BY data::text;
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2'], ARRAY['SELECT $1 AS a', 'SELECT $1 || ''!'' AS b'], 'x'::text) ORDER BY server;

-- a connection string
SELECT data FROM conpool.map(ARRAY['map_1', test.conninfo()], 'SELECT current_database() AS db') ORDER BY server = 'map_1';

-- as values of a type: scalars, composite types by name, domains
SELECT * FROM conpool.map_as(NULL::int, ARRAY['map_1', 'map_2'], 'SELECT g FROM generate_series(1, 2) g') ORDER BY server, data;
CREATE TYPE pg_temp.item AS (id int, name text);
SELECT server, (data).* FROM conpool.map_as(NULL::pg_temp.item, ARRAY['map_1', 'map_2'],
	ARRAY['SELECT ''one'' AS name, 1 AS id', 'SELECT NULL::int AS id, $1 AS name'], 'two'::text) ORDER BY server;
CREATE DOMAIN pg_temp.named AS pg_temp.item CHECK ((VALUE).name IS DISTINCT FROM 'bad');
SELECT * FROM conpool.map_as(NULL::pg_temp.named, ARRAY['map_1', 'map_2'], 'SELECT 1 AS id, ''good'' AS name') ORDER BY server;
SELECT * FROM conpool.map_as(NULL::pg_temp.named, ARRAY['map_1'], 'SELECT 1 AS id, ''bad'' AS name');
SELECT * FROM conpool.map_as(NULL::jsonb, ARRAY['map_1'], 'SELECT ''{"a": 1}''::json');
SELECT * FROM conpool.map_as(NULL::record, ARRAY['map_1'], 'SELECT 1');
SELECT * FROM conpool.map_as(NULL::int, ARRAY['map_1'], 'SELECT 1, 2');
SELECT * FROM conpool.map_as(NULL::int, ARRAY['map_1'], 'SELECT ''x''');
SELECT * FROM conpool.map_as(NULL::pg_temp.item, ARRAY['map_1'], 'SELECT 1 AS id');

-- dates are read as each server writes them, whatever comes in between
SET conpool.pool_mode = 'session';
SELECT conpool.exec('map_1', 'SET datestyle = ''German''');
SELECT conpool.exec('map_2', 'SET datestyle = ''SQL, MDY''');
SELECT server, data, count(*) FROM conpool.map_as(NULL::date, ARRAY['map_1', 'map_2', 'map_3'],
	'SELECT date ''2020-02-01'' FROM generate_series(1, 5000)') GROUP BY server, data ORDER BY server;
DISCARD ALL;

-- what is not there, or does not fit
SELECT * FROM conpool.map(NULL, 'SELECT 1');
SELECT * FROM conpool.map(ARRAY['map_1', NULL], 'SELECT 1');
SELECT * FROM conpool.map(ARRAY['map_1'], NULL::text);
SELECT * FROM conpool.map(ARRAY['map_1'], NULL::text[]);
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2'], ARRAY['SELECT 1', NULL]);
SELECT * FROM conpool.try_map(ARRAY['map_1', NULL], 'SELECT 1');
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2'], ARRAY['SELECT 1']);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.map(ARRAY['map_1', 'nowhere'], 'SELECT 1');

-- they run at the same time: each waits until all four are there
SELECT conpool.exec('map_1', 'CREATE SEQUENCE map_there');
CREATE FUNCTION pg_temp.all_there(n int) RETURNS text LANGUAGE sql AS $$
	SELECT format('DO $do$ BEGIN
		PERFORM nextval(''map_there'');
		FOR i IN 1 .. 2000 LOOP
			IF (SELECT last_value >= %s FROM map_there) THEN RETURN; END IF;
			PERFORM pg_sleep(0.01);
		END LOOP;
		RAISE ''somebody has not come'';
	END $do$; SELECT ''there'' AS "is"', n) $$;
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2', 'map_3', 'map_4'], pg_temp.all_there(4)) ORDER BY server;
SELECT * FROM conpool.try_map(ARRAY['map_1', 'map_2', 'map_3', 'map_1'], pg_temp.all_there(8)) ORDER BY server;
SELECT conpool.exec('map_1', 'DROP SEQUENCE map_there');

-- as many as the pool has room for: the others wait, with no regard to its timeout or queue
SELECT count(*) FROM conpool.map(ARRAY['map_two', 'map_two'], 'SELECT 1');
ALTER SERVER map_two OPTIONS (checkout_timeout '100 ms', max_waiters '0');
SELECT count(*) FROM conpool.map(array_fill('map_two'::text, ARRAY[7]), 'SELECT pg_sleep(0.1)');
SELECT size FROM conpool.pools WHERE server = 'map_two' AND database = current_database();

ALTER SERVER map_two OPTIONS (DROP checkout_timeout, DROP max_waiters);

-- what is held already does not come free by itself
SELECT conpool.checkout('map_two', 'session') AS one, conpool.checkout('map_two', 'session') AS two \gset
SELECT * FROM conpool.try_map(ARRAY['map_1', 'map_two'], 'SELECT 1 AS a') ORDER BY server;
SELECT conpool.checkin(:one);
SELECT count(*) FROM conpool.map(array_fill('map_two'::text, ARRAY[3]), 'SELECT 1');
SELECT conpool.checkin(:two);

-- the first error stops the others, and says where it was
CREATE FUNCTION pg_temp.running() RETURNS bigint LANGUAGE sql AS $$
	SELECT n FROM conpool.query('remote_admin', 'SELECT count(*) FROM pg_stat_activity
		WHERE usename = ''regress_remote'' AND state = ''active'' AND query LIKE ''%pg_sleep(60)%''') AS t(n bigint) $$;
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2', 'map_3'], ARRAY['SELECT pg_sleep(60)', 'SELECT 1 / 0', 'SELECT pg_sleep(60)']);
SELECT test.wait_until('pg_temp.running() = 0');
SELECT * FROM conpool.map_as(NULL::int, ARRAY['map_1', 'map_2', 'map_3'], ARRAY['SELECT 1, pg_sleep(60)', 'SELECT ''x''', 'SELECT pg_sleep(60)']);
SELECT test.wait_until('pg_temp.running() = 0');
-- and so does a cancel
SET statement_timeout = '200 ms';
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2', 'map_3'], 'SELECT pg_sleep(60)');
SELECT * FROM conpool.try_map(ARRAY['map_1', 'map_2', 'map_3'], 'SELECT pg_sleep(60)');
RESET statement_timeout;
SELECT test.wait_until('pg_temp.running() = 0');

-- try_map: an error is a row, and the others go on
SELECT * FROM conpool.try_map(ARRAY['map_1', 'map_2', 'map_3'],
	ARRAY['SELECT 1 AS a', 'SELECT 1 / (3 - g) AS b FROM generate_series(1, 3) g', 'SELECT nothing'])
	ORDER BY server, error NULLS FIRST, data ->> 'b';
-- those of the checkout, too: down, unknown, without a mapping, wrong password, paused
CREATE SERVER map_down FOREIGN DATA WRAPPER conpool OPTIONS (host '127.0.0.1', port '1');
CREATE USER MAPPING FOR CURRENT_USER SERVER map_down OPTIONS (user 'nobody', password 'none');
CREATE SERVER map_bare FOREIGN DATA WRAPPER conpool OPTIONS (host '127.0.0.1', port '1');
SELECT test.server('map_wrong');
ALTER USER MAPPING FOR CURRENT_USER SERVER map_wrong OPTIONS (SET password 'wrong');
SELECT test.server('map_paused', $$checkout_timeout '100 ms'$$);
SELECT conpool.pause('map_paused');
SELECT server, data, sqlstate, split_part(error, ': ', 1) AS error, error LIKE '%: connection to server %' AS reason
FROM conpool.try_map(ARRAY['map_paused', 'map_down', 'nowhere', 'map_bare', 'map_wrong', 'map_1'], 'SELECT 1 AS a') ORDER BY server;
\set VERBOSITY terse
SELECT * FROM conpool.map(ARRAY['map_1', 'map_wrong'], 'SELECT pg_sleep(60)');
\set VERBOSITY default
-- rights
CREATE ROLE regress_map;
SET ROLE regress_map;
SELECT * FROM conpool.try_map(ARRAY['map_1'], 'SELECT 1 AS a');
RESET ROLE;
DROP ROLE regress_map;
-- lost connections, and what cannot be done
SELECT server, data, sqlstate, error FROM conpool.try_map(ARRAY['map_1', 'map_2', 'map_3'],
	ARRAY['DO $$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(60); END$$', 'COPY (SELECT 1) TO STDOUT', 'SELECT 1 AS a']) ORDER BY server;
-- but not our own errors
SELECT * FROM conpool.try_map(ARRAY['map_1'], $$SELECT '"\u0000"'::json AS zero$$);

-- in PL/pgSQL an error can be caught, and nothing stays behind
DO $$
BEGIN
	PERFORM FROM conpool.map(ARRAY['map_1', 'map_2'], ARRAY['SELECT pg_sleep(60)', 'SELECT 1 / 0']);
EXCEPTION WHEN division_by_zero THEN
	RAISE NOTICE '%, then %', SQLERRM, (SELECT count(*) FROM conpool.map(ARRAY['map_1', 'map_2'], 'SELECT 1'));
END $$;
SELECT test.wait_until('pg_temp.running() = 0');

-- pool_mode transaction: one connection for each server, one statement after the other;
-- what fails in try_map() leaves the remote transaction as it was
SET conpool.pool_mode = 'transaction';
BEGIN;
SELECT * FROM conpool.map(ARRAY['map_1', 'map_2', 'map_1'],
	ARRAY['CREATE TABLE map_kept (n int)', 'SELECT 1 AS a', 'SELECT count(*) FROM map_kept']) ORDER BY server, data::text;
SELECT server, scope FROM conpool.leases WHERE pid = pg_backend_pid() ORDER BY server;
SELECT server, data, sqlstate FROM conpool.try_map(ARRAY['map_1', 'map_1', 'map_1', 'map_3'],
	ARRAY['INSERT INTO map_kept VALUES (1)', 'SELECT 1 / 0', 'INSERT INTO map_kept VALUES (2)', 'SELECT 1 / 0']) ORDER BY server;
SAVEPOINT s;
SELECT server, data, sqlstate FROM conpool.try_map(ARRAY['map_1', 'map_1'],
	ARRAY['SELECT 1 / 0', 'INSERT INTO map_kept VALUES (3) RETURNING n']) ORDER BY data;
ROLLBACK TO s;
SELECT * FROM conpool.map(ARRAY['map_1'], 'SELECT array_agg(n ORDER BY n) AS n FROM map_kept');
ROLLBACK;
SELECT * FROM conpool.map(ARRAY['map_1'], 'SELECT to_regclass(''map_kept'') AS "table"');

-- pool_mode session
SET conpool.pool_mode = 'session';
SELECT count(DISTINCT data) FROM conpool.map(array_fill('map_1'::text, ARRAY[4]), 'SELECT pg_backend_pid() AS pid');
DISCARD ALL;

-- large results come in turn
SELECT server, count(*), sum((data ->> 'g')::int) FROM conpool.map(ARRAY['map_1', 'map_2', 'map_3', 'map_4'],
	'SELECT g, repeat(''x'', 100) AS filler FROM generate_series(1, 20000) g') GROUP BY server ORDER BY server;

SELECT conpool.resume('map_paused');
SELECT test.at_rest();
