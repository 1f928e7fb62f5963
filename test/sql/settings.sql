-- Settings that change the text of values, here or there, change no value.
CREATE TABLE sample AS SELECT
	'1.1'::float8 / 3 AS f8, '0.1'::float4 AS f4, date '2020-02-03' AS d,
	timestamp '2020-02-03 04:05:06.000007' AS ts,
	timestamptz '2020-02-03 04:05:06.000007+00' AS tstz, time '04:05:06.7' AS t,
	interval '-1 year -2 mons 3 days -04:05:06' AS i, interval '-1 day 1 hour' AS i2,
	'\x00ff5c'::bytea AS b, money '1234.56' AS m, ARRAY['NULL', NULL, 'a'] AS a,
	tstzrange('2020-02-03 00:00+00', '2020-02-04 00:00+00') AS r,
	'information_schema.tables'::regclass AS c, point(0.1, 1e23) AS p, xml 'text <b/>' AS x,
	ARRAY[timestamp '2020-02-03', '0044-03-15 BC'] AS tss;

-- The sample goes there, is printed there, and comes back: the same?  target
-- is a literal: a server or a lease.
CREATE FUNCTION trip(target text, OUT same bool) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT record_image_eq(ROW(s.*), ROW(q.*)) FROM sample s, conpool.query(%s,
		''SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16'',
		f8, f4, d, ts, tstz, t, i, i2, b, m, a, r, c, p, x, tss)
	AS q(f8 float8, f4 float4, d date, ts timestamp, tstz timestamptz, t time, i interval, i2 interval,
		 b bytea, m money, a text[], r tstzrange, c regclass, p point, x xml, tss timestamp[])',
		target) INTO same;
END $$;

-- here
CREATE FUNCTION trip_with(name text, value text, OUT same bool) LANGUAGE plpgsql AS $$
DECLARE
	before constant text := current_setting(name);
BEGIN
	PERFORM set_config(name, value, false);
	same := trip('''remote''') AND current_setting(name) = value;
	PERFORM set_config(name, before, false);
END $$;
CREATE TABLE setting AS SELECT * FROM (VALUES
	('timezone', 'Asia/Kolkata'), ('timezone', 'America/New_York'),
	('datestyle', 'ISO, DMY'), ('datestyle', 'SQL, DMY'), ('datestyle', 'SQL, MDY'),
	('datestyle', 'SQL, YMD'), ('datestyle', 'German, YMD'), ('datestyle', 'Postgres, DMY'),
	('datestyle', 'Postgres, YMD'),
	('intervalstyle', 'sql_standard'), ('intervalstyle', 'iso_8601'),
	('intervalstyle', 'postgres_verbose'), ('extra_float_digits', '-15'),
	('extra_float_digits', '0'), ('bytea_output', 'escape'), ('array_nulls', 'off'), ('xmloption', 'document'),
	('search_path', 'information_schema, public')) AS list(name, value);
SELECT name, value, same FROM setting, trip_with(name, value);

-- there, on a lease whose user says so
CREATE FUNCTION trip_on(lease bigint, name text, value text, OUT same bool) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM conpool.exec(lease, 'SELECT set_config($1, $2, false)', name, value);
	same := trip(lease::text);
END $$;
SELECT conpool.checkout('remote', 'session') AS lease \gset
SELECT name, value, same FROM setting, trip_on(:lease, name, value)
 WHERE name IN ('datestyle', 'intervalstyle', 'bytea_output', 'timezone');
SELECT conpool.checkin(:lease);

-- there, by default: conpool's own choice comes first
SELECT test.server('other', role => 'regress_remote_two');
SELECT conpool.exec('remote_admin', format('ALTER ROLE regress_remote_two SET %s = ''%s''',
	name, replace(value, ', ', ''', ''')))
  FROM setting WHERE name <> 'search_path';
SELECT trip('''other''');
SELECT * FROM conpool.query('other', 'SELECT current_setting(''datestyle''), current_setting(''timezone''),
	current_setting(''extra_float_digits'')') AS t(datestyle text, timezone text, digits int);
SELECT conpool.exec('remote_admin', 'ALTER ROLE regress_remote_two RESET ALL');

-- query_json has the remote's text, in the same form
SET datestyle = 'German';
SELECT * FROM conpool.query_json('remote', 'SELECT $1 AS d, $2 AS f, $3 AS i', date '2020-02-03', 1.1::float8 / 3,
	interval '-1 day 1 hour');
RESET datestyle;

DROP SERVER other CASCADE;
DROP FUNCTION trip_with, trip_on, trip;
DROP TABLE setting, sample;
SELECT test.at_rest();
