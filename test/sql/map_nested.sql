-- Maps within maps: input functions are called for the values that come, and what a
-- domain's CHECK calls may ask for connections while the map that reads the values holds
-- some, or waits for one.
SELECT test.server('nested'), test.server('nested_one', $$max_size '1', checkout_timeout '30 s'$$),
	test.server('nested_held', $$max_size '1', checkout_timeout '30 s'$$),
	test.server('nested_kept', $$max_size '1', checkout_timeout '30 s'$$);
-- what waits for ever fails by this
SET statement_timeout = '10 s';

-- another session holds the connections of two pools
SELECT format('host=%s port=%s dbname=%s user=postgres', split_part(current_setting('unix_socket_directories'), ',', 1),
			  current_setting('port'), current_database()) AS loopback \gset
SELECT conpool.checkout(:'loopback', 'session') AS other \gset
SELECT conpool.exec(:other, $$SELECT conpool.checkout('nested_held', 'session'), conpool.checkout('nested_kept', 'session')$$) AS done \gset

-- The SQL in a setting is run for the first value.
CREATE FUNCTION pg_temp.run_nested(value text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	sql constant text := current_setting('test.nested');
	line record;
BEGIN
	IF value IS NOT NULL AND sql <> '' THEN
		PERFORM set_config('test.nested', '', false);
		FOR line IN EXECUTE sql LOOP
			RAISE NOTICE 'within %: %', value, line;
		END LOOP;
	END IF;
	RETURN true;
END $$;
CREATE DOMAIN pg_temp.nested AS text CHECK (pg_temp.run_nested(VALUE));
CREATE FUNCTION pg_temp.nest(sql text, VARIADIC servers text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('test.nested', sql, false);
	RETURN QUERY SELECT * FROM test.error_of(format($f$
		SELECT count(*) FROM conpool.map_as(NULL::pg_temp.nested, %L, 'SELECT ''a value''')$f$, servers));
END $$;
\set VERBOSITY terse

-- what can be had at once, can be had
SELECT pg_temp.nest($$SELECT server, data FROM conpool.map('{nested, nested_one}', 'SELECT 1 AS a') ORDER BY server$$, 'nested');

-- one flight queues: there is one queue that a session can stand in
SELECT pg_temp.nest($$SELECT conpool.map('{nested_kept}', 'SELECT 1')$$, 'nested', 'nested_held');
SELECT pg_temp.nest($$SELECT conpool.map('{nested_held}', 'SELECT 1')$$, 'nested', 'nested_held');
SELECT pg_temp.nest($$SELECT conpool.map('{nested_kept, nested_one}', 'SELECT 1')$$, 'nested', 'nested_held');
SELECT pg_temp.nest($$SELECT conpool.map_as(NULL::int, '{nested_kept}', 'SELECT 1')$$, 'nested', 'nested_held');
SELECT pg_temp.nest($$SELECT conpool.exec('nested_kept', 'SELECT 1')$$, 'nested', 'nested_held');
-- an error in a row of the inner one leaves the outer one where it stands
SELECT pg_temp.nest(format($$
	SELECT server, sqlstate FROM conpool.try_map('{nested_kept}', 'SELECT 1')
	UNION ALL SELECT server, 'position ' || position FROM conpool.waiters WHERE pid = pg_backend_pid()
	UNION ALL SELECT 'given back', conpool.exec(%s, 'SELECT conpool.checkin(lease) FROM conpool.leases
		WHERE server = ''nested_held'' AND pid = pg_backend_pid()')$$, :other), 'nested', 'nested_held');

-- the only connection of a pool, which comes free when the value has been read: nobody
-- who needs it for that can wait for it
SELECT pg_temp.nest($$SELECT conpool.exec('nested_one', 'SELECT 1')$$, 'nested_one');
SELECT pg_temp.nest($$SELECT conpool.checkout('nested_one', 'session')$$, 'nested_one');
SELECT pg_temp.nest($$SELECT conpool.map('{nested_one}', 'SELECT 1')$$, 'nested_one');
SELECT pg_temp.nest($$SELECT conpool.map('{nested, nested_one}', 'SELECT 1')$$, 'nested_one');
SELECT pg_temp.nest($$SELECT server, data, sqlstate FROM conpool.try_map('{nested, nested_one}', 'SELECT 1 AS a') ORDER BY server$$, 'nested_one');

-- no end of these has left anything behind
RESET statement_timeout;
SELECT pg_temp.nest($$SELECT 'nothing'$$, 'nested', 'nested_one', 'nested_held', 'nested_one', 'nested_one');
SELECT conpool.checkin(:other);
SELECT test.at_rest();
DROP SERVER nested, nested_one, nested_held, nested_kept CASCADE;
