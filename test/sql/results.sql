-- Results of any shape; what does not fit is an error, and life goes on.
SELECT test.server('results', $$max_size '1'$$);

-- empty, no columns, many columns
SELECT * FROM conpool.query('results', 'SELECT 1, ''x'' WHERE false') AS t(a int, b text);
SELECT * FROM conpool.query('results', '') AS t(a int);
SELECT count(*) FROM conpool.query_json('results', 'SELECT FROM generate_series(1, 3)');
SELECT conpool.exec('results', 'SELECT FROM generate_series(1, 3)');
CREATE FUNCTION pg_temp.wide(columns int, OUT rows bigint, OUT sum bigint) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE (SELECT format('SELECT count(*), sum(%s) FROM
			conpool.query(''results'', ''SELECT %s FROM generate_series(1, 3)'') AS t(%s)',
			string_agg('c' || n, '+'), string_agg(n::text, ','), string_agg('c' || n || ' int', ','))
		FROM generate_series(1, columns) n) INTO rows, sum;
END $$;
SELECT * FROM pg_temp.wide(1600);

-- no rows of a statement that returns none
CREATE FUNCTION pg_temp.rows_of(sql text) RETURNS bigint LANGUAGE sql AS
	$$ SELECT count(*) FROM conpool.query('results', sql) AS t(a int) $$;
SELECT pg_temp.rows_of('CREATE TEMP TABLE few (a int)');

-- more rows than fit in work_mem
SET work_mem = '64kB';
SELECT count(*), sum(n), sum(length(t)) FROM
	conpool.query('results', 'SELECT n, repeat(''x'', 50) FROM generate_series(1, 100000) n') AS t(n bigint, t text);
RESET work_mem;

-- a value of 200 MB, there and back; the session does not keep its buffer
SELECT length(value), md5(value) = md5(repeat('0123456789', 20000000)) AS same
  FROM conpool.query('results', 'SELECT repeat($1, $2)', '0123456789'::text, 20000000) AS t(value text);
SELECT length FROM conpool.query('results', 'SELECT length($1)', repeat('x', 200000000)) AS t(length int);

-- wrong number of columns: named are the pool, and a column
SELECT * FROM conpool.query('results', 'SELECT 1 AS a, date ''2020-01-01'' AS b') AS t(a int);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('results', 'SELECT 1 AS a') AS t(a int, b text);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('results', 'SELECT FROM generate_series(1, 2)') AS t(a int);
\echo :LAST_ERROR_SQLSTATE

-- a value that does not parse as the declared type
SELECT * FROM conpool.query('results', 'SELECT 1 AS a, ''x'' || g AS b FROM generate_series(1, 3) g') AS t(first int, second int);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('results', 'SELECT 1234.5') AS t(a numeric(3,1));
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('results', 'SELECT ROW(1, 2)::information_schema.sql_identifier') AS t(a date);
\echo :LAST_ERROR_SQLSTATE

-- after all of these the same connection is there
SELECT connects, discarded, query_errors > 0 AS errors FROM conpool.stat_pools
 WHERE server = 'results' AND database = current_database();

-- if too much is still to come the connection is closed instead, at once
SELECT * FROM conpool.query('results', 'SELECT CASE n WHEN 5 THEN ''x'' ELSE n::text END
	FROM (SELECT generate_series(1, 1000000000) n) s') AS t(a int);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('results', 'SELECT 1') AS t(a int);

SELECT test.at_rest();
DROP SERVER results CASCADE;
