-- Every built-in type goes there as a parameter and comes back, bit for bit.
CREATE TABLE sample (type text, value text);
INSERT INTO sample SELECT type, unnest(literals) FROM (VALUES
	('boolean', ARRAY['t', 'f']),
	('bytea', ARRAY['\x00ff5c', '', 'a\\b']),
	('"char"', ARRAY['a', '']),
	('name', ARRAY['A "name"', '']),
	('bigint', ARRAY['-9223372036854775808', '9223372036854775807']),
	('smallint', ARRAY['-32768', '32767']),
	('integer', ARRAY['-2147483648', '2147483647']),
	('int2vector', ARRAY['1 2 3', '']),
	('oidvector', ARRAY['1 2 4294967295', '']),
	('regproc', ARRAY['pg_backend_pid', '-']),
	('regprocedure', ARRAY['abs(integer)']),
	('regoper', ARRAY['||/']),
	('regoperator', ARRAY['+(integer,integer)']),
	('regclass', ARRAY['pg_class', 'information_schema.tables']),
	('regcollation', ARRAY['"C"']),
	('regtype', ARRAY['integer[]']),
	('regconfig', ARRAY['english']),
	('regdictionary', ARRAY['simple']),
	('regrole', ARRAY['postgres']),
	('regnamespace', ARRAY['pg_catalog']),
	('text', ARRAY['', ' ', E'\t\n\r\b\\''"{}()', 'NULL', 'naïve €', repeat('x', 10000)]),
	('oid', ARRAY['0', '4294967295']),
	('tid', ARRAY['(4294967295,65535)']),
	('xid', ARRAY['4294967295']),
	('xid8', ARRAY['18446744073709551615']),
	('cid', ARRAY['4294967295']),
	('json', ARRAY['{"b": 1,  "a": [null, "\u00e9"]}', '"x"', 'null']),
	('jsonb', ARRAY['{"b": 1,  "a": [null, 1.50]}', '"x"', 'null']),
	('jsonpath', ARRAY['$."a"[*]?(@ > 1)']),
	('xml', ARRAY['<a b="c">d</a>', 'text <b/>', '']),
	('point', ARRAY['(0.1,-1e300)', '(NaN,Infinity)']),
	('lseg', ARRAY['[(0.1,0.2),(3,4)]']),
	('path', ARRAY['[(0.1,0.2),(3,4)]', '((1,2),(3,4))']),
	('box', ARRAY['(3,4),(0.1,0.2)']),
	('polygon', ARRAY['((0.1,0.2),(3,4),(5,6))']),
	('line', ARRAY['{1,-0.1,3}']),
	('circle', ARRAY['<(0.1,0.2),3>']),
	('real', ARRAY['0.1', '1e-45', '3.4028235e+38', '-0', 'NaN', '-Infinity', '16777217']),
	('double precision', ARRAY['0.1', '4.9406564584124654e-324', '1.7976931348623157e+308',
		'-0', 'NaN', 'Infinity', '0.30000000000000004', '123456789012345.67', '1e23']),
	('money', ARRAY['1234567.89', '-0.01', '-92233720368547758.08']),
	('macaddr', ARRAY['08:00:2b:01:02:03']),
	('macaddr8', ARRAY['08:00:2b:01:02:03:04:05']),
	('inet', ARRAY['10.1.2.3/8', '::1', 'fe80::1/64']),
	('cidr', ARRAY['10.0.0.0/8', '2001:db8::/32']),
	('aclitem', ARRAY['postgres=r*w/postgres', '=X/postgres']),
	('character(5)', ARRAY['ab', '']),
	('character varying(5)', ARRAY['ab ', '']),
	('character varying', ARRAY['ab ']),
	('date', ARRAY['2020-02-29', '0044-03-15 BC', '5874897-12-31', 'infinity', '-infinity']),
	('time', ARRAY['23:59:59.999999', '24:00']),
	('timetz', ARRAY['12:34:56.789+05:30', '00:00-15:59:59']),
	('timestamp', ARRAY['2020-02-29 23:59:59.999999', '0044-03-15 12:00 BC', '294276-12-31', 'infinity']),
	('timestamptz', ARRAY['2020-02-29 23:59:59.999999+00', '1900-01-01 00:00+00', '2021-11-07 05:30+00',
		'2021-11-07 06:30+00', '0044-03-15 12:00+00 BC', '-infinity']),
	('interval', ARRAY['1 year -2 mons +3 days -04:05:06.789', '-1 day 1 hour', '0', '-1 mon', '-00:00:00.000001',
		'-178000000 years']),
	('numeric', ARRAY['0.10', '-1e-1000', '1e1000', 'NaN', 'Infinity', '-Infinity', '12345678901234567890.123456789']),
	('numeric(5,2)', ARRAY['123.45', '-0.01']),
	('bit(5)', ARRAY['10101']),
	('bit varying', ARRAY['1', '', '111100001111']),
	('uuid', ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']),
	('pg_lsn', ARRAY['FFFFFFFF/FFFFFFFF', '0/0']),
	('pg_snapshot', ARRAY['10:20:10,14,15']),
	('txid_snapshot', ARRAY['10:20:10,14,15']),
	('refcursor', ARRAY['c1']),
	('tsvector', ARRAY['''a b'':1A,2 ''it''''s'':3', '']),
	('tsquery', ARRAY['''fat'' & ( ''rat'':AB* | !''cat'' ) <2> ''x''']),
	('int4range', ARRAY['[1,5)', '(,)', 'empty', '[3,)']),
	('int8range', ARRAY['[1,9223372036854775807)']),
	('numrange', ARRAY['(0.10,1e20]']),
	('daterange', ARRAY['[2020-02-29,2020-03-02)', '(,infinity)']),
	('tsrange', ARRAY['["2020-02-29 01:02:03.004","2020-03-01 00:00:00")']),
	('tstzrange', ARRAY['["2020-02-29 01:02:03.004+00","2020-03-01 00:00:00+00")']),
	('int4multirange', ARRAY['{[1,3),[5,8)}', '{}']),
	('int8multirange', ARRAY['{[1,3),[5,8)}']),
	('nummultirange', ARRAY['{(0.10,1e20]}']),
	('datemultirange', ARRAY['{[2020-02-29,2020-03-02),[2021-01-01,)}']),
	('tsmultirange', ARRAY['{["2020-02-29 00:00:00","2020-03-01 00:00:00")}']),
	('tstzmultirange', ARRAY['{["2020-02-29 00:00:00+00","2020-03-01 00:00:00+00")}'])
	) AS list(type, literals);

-- Types for which there is no sample.  None of them can be read from text.
SELECT oid::regtype FROM pg_type
 WHERE oid < 10000 AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A'
   AND oid NOT IN (SELECT type::regtype FROM sample) AND typname !~ '^_'
 ORDER BY 1;

-- A statement of its own for each type, so that parameter and column have it.
CREATE FUNCTION round_trip(type text, value text,
						   OUT remote_type text, OUT same bool, OUT same_array bool)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT r.type, record_image_eq(ROW(l.value), ROW(r.value))
		FROM (SELECT %L::%s AS value) l,
			 conpool.query(''remote'', ''SELECT $1, pg_typeof($1)'', l.value)
			 AS r(value %2$s, type text)', value, type) INTO remote_type, same;
	EXECUTE format('SELECT record_image_eq(ROW(l.value), ROW(r.value))
		FROM (SELECT ARRAY[%L::%s, NULL, %1$L::%2$s] AS value) l,
			 conpool.query(''remote'', ''SELECT $1'', l.value)
			 AS r(value %2$s[])', value, type) INTO same_array;
END $$;

SELECT type, count(*) AS samples, bool_and(same) AS same, bool_and(same_array) AS in_array,
	   nullif(min(remote_type), type::regtype::text) AS remote_type
  FROM sample, round_trip(type, value)
 GROUP BY type ORDER BY type::regtype;

-- NULL of each
CREATE FUNCTION null_trip(type text, OUT is_null bool) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT r.there AND r.value IS NULL
		FROM conpool.query(''remote'', ''SELECT $1, $1 IS NULL'', NULL::%s)
			 AS r(value %1$s, there bool)', type) INTO is_null;
END $$;
SELECT is_null, count(*) > 70 AS all FROM (SELECT DISTINCT type FROM sample) s, null_trip(type)
 GROUP BY 1;

-- arrays of other shapes
SELECT * FROM conpool.query('remote', 'SELECT $1, $2, $3',
	'{{1,NULL},{3,4}}'::int[], '[-1:0][2:3]={{"",NULL},{"null","\"\\"}}'::text[], '{}'::int[])
	AS t(a int[], b text[], c int[]);

DROP FUNCTION null_trip, round_trip;
DROP TABLE sample;
SELECT test.at_rest();
