-- Arguments travel as parameters, with their type where it is built in.
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN positives AS positive[];
CREATE TYPE pair AS (a int, b text);
CREATE TYPE moods AS RANGE (subtype = mood);
SELECT conpool.exec('remote', $$CREATE TYPE mood AS ENUM ('sad', 'happy')$$),
	conpool.exec('remote', 'CREATE TYPE pair AS (a int, b text)');

-- the remote sees the type that was passed
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', 1) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', 1::bigint) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', 1.50) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', true) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', 'it''s $1'::text) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', 'ab'::varchar(5)) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', '2020-02-29'::date) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', '\xdeadbeef'::bytea) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', '[1,5)'::int4range) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', '{[1,5),[7,9)}'::int4multirange) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', 'pg_class'::regclass) AS t(type text, value text);

-- an array is one parameter, a domain its base type; an array of domains is
-- of a type that the remote does not have
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', ARRAY[1,NULL,3]) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', '[0:1]={"a b","{c}"}'::text[]) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1::text', 5::positive) AS t(type text, value text);
SELECT * FROM conpool.query('remote', 'SELECT $1::int[]', '{1,2}'::positives) AS t(value positives);

-- types of this database, unknown literals and NULLs are for the remote to
-- understand
SELECT * FROM conpool.query('remote', 'SELECT $1 > ''sad''::mood, $2 || ''!''', 'happy'::mood, 'text')
	AS t(happier bool, value text);
SELECT * FROM conpool.query('remote', 'SELECT ($1::pair).b, $2::mood[]', '(1,"x y")'::pair, ARRAY['sad', 'happy']::mood[])
	AS t(b text, moods mood[]);
SELECT * FROM conpool.query('remote', 'SELECT $1 + 1, $2::date', '41', '2020-02-29') AS t(a int, b date);
SELECT * FROM conpool.query('remote', 'SELECT $1::text IS NULL, $2::int IS NULL, pg_typeof($2)', NULL, NULL::int)
	AS t(a bool, b bool, type text);
SELECT * FROM conpool.query('remote', 'SELECT $1', '(1,2)'::pair) AS t(a text);
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1)', 'unknown') AS t(a text);
\echo :LAST_ERROR_SQLSTATE

-- VARIADIC: each element is a parameter
SELECT * FROM conpool.query('remote', 'SELECT pg_typeof($1), $1 - $2, $3 IS NULL', VARIADIC ARRAY[44, 2, NULL])
	AS t(type text, difference int, is_null bool);
SELECT * FROM conpool.query('remote', 'SELECT $1::mood, $2::mood', VARIADIC ARRAY['sad', 'happy']::mood[])
	AS t(a mood, b mood);
SELECT * FROM conpool.query('remote', 'SELECT 1', VARIADIC ARRAY[]::int[]) AS t(a int);
SELECT * FROM conpool.query('remote', 'SELECT 1', VARIADIC NULL::int[]) AS t(a int);
SELECT * FROM conpool.query('remote', 'SELECT 1', VARIADIC 5) AS t(a int);

-- too few, too many; texts are never part of the statement
SELECT * FROM conpool.query('remote', 'SELECT $1::int, $2::int', 1) AS t(a int, b int);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('remote', 'SELECT $1', '''; DROP TYPE mood; --'::text) AS t(a text);
SELECT conpool.exec('remote', 'SELECT $1', VARIADIC array_fill(1, ARRAY[65536]));
\echo :LAST_ERROR_SQLSTATE
SELECT n FROM (SELECT string_agg('$' || n, ',') AS list FROM generate_series(1, 65535) n) l,
	conpool.query('remote', 'SELECT count(x) FROM unnest(ARRAY[' || list || ']) x',
				  VARIADIC array_fill(1, ARRAY[65535])) AS t(n int);

-- the same in a function whose arguments have other types at the next call
CREATE FUNCTION type_of(anyelement) RETURNS text LANGUAGE sql AS
	$$ SELECT type FROM conpool.query('remote', 'SELECT pg_typeof($1)', $1) AS t(type text) $$;
SELECT type_of(1), type_of('a'::text), type_of(ARRAY[1.5]), type_of(7::positive);
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	result int;
BEGIN
	SELECT a INTO result FROM conpool.query('remote', 'SELECT $1 * 2', n) AS t(a int);
	RETURN result;
END $$;
SELECT sum(twice(n)) FROM generate_series(1, 20) n;
DROP FUNCTION twice, type_of;

SELECT conpool.exec('remote', 'DROP TYPE mood, pair');
DROP TYPE moods, mood, pair;
DROP DOMAIN positives, positive;
SELECT test.at_rest();
