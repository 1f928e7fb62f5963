-- query_json(): one object for each row.
SELECT * FROM conpool.query_json('remote', 'SELECT g AS id, ''n'' || g AS name FROM generate_series(1, 2) g');
SELECT data ->> 'a' FROM conpool.query_json('remote', 'SELECT $1 AS a', 'x'::text) AS t(data);

-- what becomes a number, a boolean, null, json; all else is text
\pset format unaligned
SELECT jsonb_pretty(conpool.query_json('remote', $$SELECT 1::smallint AS int2, 9223372036854775807 AS int8,
	0.10 AS numeric, 0.1::float4 AS float4, 1e10::float8 AS float8, 'NaN'::float8 AS nan,
	'-Infinity'::numeric AS infinity, true AS "true", false AS "false", NULL::int AS "null",
	'{"b": [1, {"c": null}], "a": "x"}'::json AS json, '"scalar"'::jsonb AS jsonb, 'null'::json AS json_null,
	'it''s "quoted" \ ' || chr(10) AS text, '2020-02-29'::date AS date, '\x00ff'::bytea AS bytea,
	'1 day'::interval AS "interval", 'a'::"char" AS "char", '1 2'::int2vector AS int2vector, point(1, 2) AS point$$));

-- arrays of any shape
SELECT * FROM conpool.query_json('remote', $$SELECT ARRAY[1, NULL, 3] AS a, '{}'::int[] AS b,
	'{{1,2},{3,4}}'::numeric[] AS c, '[5:6]={x,"y,z"}'::text[] AS d, '{t,f}'::bool[] AS e,
	ARRAY['{"k": 1}'::json, '[2]'] AS f, '{{{"a"}}}'::varchar[] AS g, NULL::int[] AS h,
	ARRAY['NaN'::float8, 1] AS i, ARRAY[box '(1,2),(3,4)'] AS j$$);

\pset format aligned

-- no rows, no columns, columns with the same name, types of the remote
SELECT * FROM conpool.query_json('remote', 'SELECT 1 AS a WHERE false');
SELECT * FROM conpool.query_json('remote', 'SELECT FROM generate_series(1, 2)');
SELECT * FROM conpool.query_json('remote', 'SELECT 1 AS a, 2 AS a, 3');
SELECT * FROM conpool.query_json('remote', 'SELECT d AS row, ARRAY[d] AS rows FROM (SELECT 1, 2) AS d');

-- a value that jsonb cannot hold names its column; the connection survives
SELECT * FROM conpool.query_json('remote', $$SELECT 1 AS a, '"\u0000"'::json AS zero$$);
\echo :LAST_ERROR_SQLSTATE

-- on a lease
SELECT conpool.checkout('remote', 'session') AS lease \gset
SELECT * FROM conpool.query_json(:lease, 'SELECT 1 AS a');
SELECT * FROM conpool.query_json(:lease, 'SELECT $1 AS a, $2 AS b', 1, ARRAY['x']);
SELECT conpool.checkin(:lease);

SELECT test.at_rest();
