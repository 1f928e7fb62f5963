# Whatever dblink answers, conpool_dblink answers the same: hundreds of generated calls
# bring the same rows, types, errors and notices with both.
#
# CONPOOL_SEED has the generators draw other calls than usual, CONPOOL_CALLS that many
# times as many, and with DBLINK=dblink dblink is compared with itself:
#
#     CONPOOL_SEED=7 CONPOOL_CALLS=10 make check SUITES=tap TESTS=620_dblink_differential
use strict;
use warnings;

use ConpoolTest;
use DblinkPair;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{CONPOOL_SEED} || 1;
srand $seed;
note("figure: seed = $seed");

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'max_prepared_transactions = 5');
my $pair = DblinkPair->new($local, $remote);

sub pick { return $_[ rand @_ ] }

sub shuffled
{
	my %key = map { $_ => rand } 0 .. $#_;
	return map { $_[$_] } sort { $key{$a} <=> $key{$b} } keys %key;
}

# How many of what is drawn: as many as given, times CONPOOL_CALLS.
sub draws
{
	my ($count) = @_;
	return 1 .. $count * ($ENV{CONPOOL_CALLS} || 1);
}

sub literal
{
	my ($text) = @_;
	return q{'} . $text =~ s/'/''/gr . q{'};
}

# Where there is a "", there is no such argument.
sub arguments { return join ', ', grep { $_ ne '' } @_ }

# dblink or dblink_get_result in a FROM list, with those arguments.
sub rows
{
	my ($function, $columns, @args) = @_;
	return "SELECT * FROM $function(" . arguments(@args) . ") AS t($columns)";
}

# --- wanted differences -----------------------------------------------------------------

my $unreachable = qr/^sqlstate: 08001$/m;
$pair->known(
	{
		call => qr/dblink_error_message/,
		dblink => qr/^row: another command is already in progress$/m,
		companion => qr/^row: (?!another)/m,
		reason => 'the last error is that of a statement, not that one was refused'
	},
	{
		call => qr/dblink_get_result/,
		dblink => qr/^message: another command is already in progress$/m,
		companion => qr/^message: could not obtain message string for remote error$/m,
		reason => 'nor is that the error of an empty statement'
	},
	{
		call => qr/dblink_get_result/,
		dblink => qr/^message: connection lost$/m,
		companion => qr/\Acolumns: .*\ntag: SELECT 0\n\z/,
		reason => 'a lost connection is an error once, not twice'
	},
	{
		call => qr/'one'/,
		dblink => qr/^sqlstate: (08006|00000)\nmessage: .*another command is already in progress$/m,
		companion => qr/^sqlstate: (08006|00000)\nmessage: .*connection lost$/m,
		reason => 'a lost connection is lost at once',
		optional => 1
	},
	{
		call => qr/port=1|127.0.0.1:1/,
		dblink => $unreachable,
		companion => qr/$unreachable.*^detail: Failures in a row: \d+;.*^Last error: connection to/ms,
		reason => 'the breaker does not try a dead remote at each call',
		optional => 1
	},
	{
		call => qr/password|postgresql:/,
		dblink => $unreachable,
		companion => qr/$unreachable.*^detail: <hidden: it may hold a password>$/ms,
		reason => 'libpq repeats part of a string that it does not understand'
	},
	{
		call => qr/client_encoding=nonsense/,
		dblink => qr/^detail: .*invalid value for parameter "client_encoding"/m,
		companion => qr/^tag: SELECT 1$/m,
		reason => 'the encoding is that of the database in any case'
	},
	{
		call => qr/connect_timeout=x/,
		# from 16 on dblink does not look at it
		dblink => $local->pg_version < 16 ? $unreachable : qr/^tag: SELECT 1$/m,
		companion => qr/$unreachable.*^detail: invalid value for option "connect_timeout": "x"$/ms,
		reason => 'conpool reads connect_timeout by itself'
	},
	{
		call => qr/replication=database/,
		dblink => $unreachable,
		companion => qr/$unreachable.*^detail: option "replication" is not allowed/ms,
		reason => 'a walsender is of no use for statements'
	},
	{
		call => qr/hostaddr=127\.0\.0\.1 port=1/,
		dblink => qr/$unreachable.*"127\.0\.0\.1", port 1 failed/ms,
		companion => qr/$unreachable.*" \(127\.0\.0\.1\), port 1 failed/ms,
		reason => 'PGHOST of the environment is named beside the address',
		optional => 1
	},
	{
		call => qr/no_such_setting=1/,
		dblink => qr/^detail: (?<why>.*: FATAL:  .*"no_such_setting")$/m,
		companion => qr/^detail: (?<why>.*: FATAL:  .*"no_such_setting")\n\g{why}$/m,
		reason => 'libpq tries again without an application_name, of which dblink gives none'
	},
	{
		call => qr/current_setting\('+application_name/,
		dblink => qr/^row: $/m,
		companion => qr/^row: conpool side$/m,
		reason => 'connections say whose they are'
	},
	{
		call => qr/'2024-03-04'.*AS t\(a text, b text/s,
		dblink => qr/^row: 04\.03\.2024 \|.*\| P1Y2M \|/m,
		companion => qr/^row: 2024-03-04 \|.*\| 1 year 2 mons \|/m,
		reason => 'dates look the same whatever settings the remote database has'
	});

# --- what is there on the remote ------------------------------------------------------

$pair->on_remote(q{
	CREATE TYPE pair AS (a int, b text);
	CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
	CREATE DOMAIN small AS int CHECK (value < 10);
	CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price numeric CHECK (price > 0));
	CREATE TABLE parts (item int REFERENCES items DEFERRABLE INITIALLY DEFERRED, part text);
	CREATE TABLE secrets (secret text);
	INSERT INTO items VALUES (1, 'one', 1), (2, 'two', 2.50), (3, 'three', NULL);
	CREATE FUNCTION fail(state text, said text, detail text, hint text) RETURNS int
	LANGUAGE plpgsql AS $$
	BEGIN
		RAISE EXCEPTION '%', said USING ERRCODE = state, DETAIL = detail, HINT = hint;
	END $$;
	CREATE FUNCTION fail_inside() RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM 1 / 0;
		RETURN 1;
	END $$;
	CREATE FUNCTION chat() RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		RAISE NOTICE 'a notice';
		RAISE WARNING 'a warning';
		RETURN 1;
	END $$;
	GRANT ALL ON items, parts TO PUBLIC;
	GRANT ALL ON SCHEMA public TO PUBLIC;
	ALTER DATABASE {remote} SET lock_timeout = '20s'});
$pair->on_local(q{
	CREATE TYPE pair AS (a int, b text);
	CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
	CREATE DOMAIN small AS int CHECK (value < 10)});

# Statements with the columns that fit, or "text" where there are none.
my @good = (
	[ 'SELECT 1' => 'a int' ],
	[ q{SELECT 1, 'two', NULL::text} => 'a int, b text, c text' ],
	[ q{SELECT ''} => 'a text' ],
	[ 'SELECT i, repeat(chr(64 + i), i) FROM generate_series(1, 5) AS i' => 'a int, b text' ],
	[ 'SELECT i FROM generate_series(1, 0) AS i' => 'a int' ],
	[ 'TABLE items ORDER BY id' => 'a int, b text, c numeric' ],
	[ 'VALUES (1), (2), (NULL)' => 'a int' ],
	[ 'SHOW max_identifier_length' => 'a text' ],
	[ 'EXPLAIN (COSTS OFF) SELECT 1' => 'a text' ],
	[ 'SELECT 1; SELECT 2' => 'a int' ],
	[ 'SELECT 1; SELECT i FROM generate_series(1, 0) AS i' => 'a int' ],
	[ q{UPDATE items SET name = name; SELECT 'after'} => 'a text' ],
	[ 'SELECT chat()' => 'a int' ],
	[ 'SELECT ROW(1, 2), ARRAY[1, 2]' => 'a text, b int[]' ],
	[ 'UPDATE items SET name = name WHERE id < 3 RETURNING id' => 'a int' ],
	[ 'PREPARE p AS SELECT 5; EXECUTE p; DEALLOCATE p' => 'a text' ],
	[ 'SELECT 1;' => 'a int' ],
	[ 'BEGIN; SELECT 4; COMMIT' => 'a text' ],
	[ 'SELECT pg_notify(NULL, NULL)' => 'a text' ]);
my @commands = map { [ $_ => 'a text' ] } (
	'UPDATE items SET name = name',
	'UPDATE items SET name = name WHERE false',
	q{INSERT INTO items VALUES (10, 'ten', 10); DELETE FROM items WHERE id = 10},
	'SELECT 1; UPDATE items SET name = name',
	'CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1), (2); DROP TABLE t',
	'DO $$ BEGIN RAISE NOTICE \'hello\'; END $$',
	'SET enable_seqscan = on',
	'RESET enable_seqscan',
	'COMMIT',
	'ROLLBACK',
	'LOCK TABLE items; UPDATE items SET name = name',
	'ANALYZE items',
	'NOTIFY someone',
	'DISCARD PLANS',
	'BEGIN; SAVEPOINT s; ROLLBACK TO s; COMMIT');
my @bad = map { [ $_ => 'a int' ] } (
	'SELEC 1',
	q{SELECT 'open},
	'SELECT 1/0',
	'SELECT * FROM nowhere',
	'SELECT nothing FROM items',
	'SELECT * FROM secrets',
	'SELECT no_such_function(1)',
	q{SELECT 'x'::int},
	q{SELECT '30000000000'::int},
	q{SELECT '2024-02-30'::date},
	'SELECT 12::small',
	q{INSERT INTO items VALUES (1, 'again', 1)},
	q{INSERT INTO items VALUES (4, NULL, 1)},
	q{INSERT INTO items VALUES (4, 'four', -1)},
	q{INSERT INTO parts VALUES (77, 'wheel')},
	q{SELECT fail('ABC12', 'said so', 'a detail', 'a hint')},
	q{SELECT fail('P0001', 'said so', '', '')},
	q{SELECT fail('22012', 'line one' || chr(10) || 'line two', 'détail', 'ünd hint')},
	q{SELECT fail('42P01', '%s %d 100%', '%m', '%')},
	'SELECT fail_inside()',
	'SELECT i / (3 - i) FROM generate_series(1, 5) AS i',
	'SELECT 1; SELECT 1/0; SELECT 3',
	'SELECT 1; SELEC 2',
	'SET no_such_setting = 1',
	'SET statement_timeout = 10; SELECT pg_sleep(100)',
	'SAVEPOINT s',
	'VACUUM items; SELECT 1',
	'CREATE ROLE regress_remote',
	'ALTER SYSTEM SET work_mem = 1',
	'EXECUTE nothing',
	'FETCH 1 FROM nothing',
	'DROP TABLE items_of_nobody');
my @odd = map { [ $_ => 'a text' ] } ('', ';', ' ', '-- nothing', '/* nothing */ ;;', 'SELECT');

# --- all functions without a connection -----------------------------------------------

my @without = (
	q{SELECT dblink_disconnect()},
	q{SELECT dblink_disconnect('one')},
	q{SELECT dblink_get_connections()},
	rows('dblink', 'a int', q{'SELECT 1'}),
	rows('dblink', 'a int', q{'SELECT 1'}, 'false'),
	rows('dblink', 'a int', q{'one'}, q{'SELECT 1'}),
	rows('dblink', 'a int', q{'one'}, q{'SELECT 1'}, 'false'),
	q{SELECT dblink_exec('RESET ALL')},
	q{SELECT dblink_exec('RESET ALL', false)},
	q{SELECT dblink_exec('one', 'RESET ALL')},
	q{SELECT dblink_exec('one', 'RESET ALL', false)},
	q{SELECT dblink_open('c', 'SELECT 1')},
	q{SELECT dblink_open('c', 'SELECT 1', false)},
	q{SELECT dblink_open('one', 'c', 'SELECT 1')},
	q{SELECT dblink_open('one', 'c', 'SELECT 1', false)},
	rows('dblink_fetch', 'a int', q{'c'}, 1),
	rows('dblink_fetch', 'a int', q{'c'}, 1, 'false'),
	rows('dblink_fetch', 'a int', q{'one'}, q{'c'}, 1),
	rows('dblink_fetch', 'a int', q{'one'}, q{'c'}, 1, 'false'),
	q{SELECT dblink_close('c')},
	q{SELECT dblink_close('c', false)},
	q{SELECT dblink_close('one', 'c')},
	q{SELECT dblink_close('one', 'c', false)},
	q{SELECT dblink_send_query('one', 'SELECT 1')},
	q{SELECT dblink_is_busy('one')},
	rows('dblink_get_result', 'a int', q{'one'}),
	rows('dblink_get_result', 'a int', q{'one'}, 'false'),
	q{SELECT dblink_cancel_query('one')},
	q{SELECT dblink_error_message('one')},
	q{SELECT * FROM dblink_get_notify()},
	q{SELECT * FROM dblink_get_notify('one')});

$pair->begin('no connection');
$pair->call(@without);
$pair->begin('no connection, ordinary', user => 'regress_plain');
$pair->call(map { pick(@without) } draws(5));

# --- forms of a call ------------------------------------------------------------------

my @connect = (
	q{SELECT dblink_connect('{conninfo}')},
	q{SELECT dblink_connect('one', '{conninfo}')},
	q{SELECT dblink_connect('two', 'srv')});
my $connections =
  q{SELECT array_agg(a ORDER BY a COLLATE "C") FROM unnest(dblink_get_connections()) AS a};

# By dblink or dblink_exec, to wherever; mostly to where it succeeds.
sub one_form
{
	my ($statement, $columns) = @{ $_[0] };
	my $target = pick('', '', (q{'one'}) x 3, q{'two'}, q{'srv'}, q{'{conninfo}'}, q{'{admin}'},
		q{'nowhere'}, q{'other'}, q{'bare'});
	my @args = ($target, literal($statement), pick('', '', 'true', 'false', 'false'));
	return 'SELECT dblink_exec(' . arguments(@args) . ')' if rand() < 0.4;
	return rows('dblink', rand() < 0.9 ? $columns : 'a date, b date', @args);
}

foreach my $user ('postgres', 'regress_plain')
{
	$pair->begin("forms, $user", user => $user);
	$pair->call(@connect);
	foreach my $statement (shuffled(@good, @commands, @bad, @odd))
	{
		$pair->call(map { one_form($statement) } draws(1));
		$pair->call(q{SELECT dblink_error_message('one')}) if rand() < 0.1;
	}
}

# --- where a call may stand -----------------------------------------------------------

$pair->begin('places');
$pair->call(
	@connect,
	q{SELECT dblink('one', 'SELECT 1')},
	q{SELECT * FROM dblink('one', 'SELECT 1')},
	q{SELECT dblink('one', 'UPDATE items SET name = name')},
	q{SELECT dblink_fetch('c', 1)},
	q{SELECT dblink_get_result('one')},
	q{SELECT (dblink_get_notify('one')).*},
	q{SELECT dblink_get_notify()},
	q{SELECT dblink_current_query()},
	rows('dblink', 'a text', q{'one'}, q{'SELECT current_setting(''application_name'')'}),
	q{SELECT dblink_exec('one', 'SET work_mem = 1000'), dblink_exec('one', 'SELECT 1', false)},
	q{SELECT * FROM dblink('one', 'SELECT 1') AS a(a int), dblink('one', 'SELECT 2') AS b(b int),
		dblink('SELECT 3') AS c(c int)},
	q{SELECT i, a FROM generate_series(1, 3) AS i,
		LATERAL dblink('one', 'SELECT ' || 10 * i) AS t(a int)},
	q{SELECT * FROM dblink('one', (SELECT a FROM dblink('two', 'SELECT ''SELECT 9''')
		AS t(a text))) AS t(a int)},
	q{SELECT * FROM dblink('one', 'SELECT i FROM generate_series(1, 100000) AS i')
		AS t(a int) LIMIT 2},
	q{SELECT count(*), sum(a) FROM dblink('one', 'SELECT i FROM generate_series(1, 100000) AS i')
		AS t(a int)},
	q{SELECT EXISTS (SELECT FROM dblink('one', 'SELECT i FROM generate_series(1, 3) AS i')
		AS t(a int))},
	q{CREATE TEMP TABLE mine AS SELECT * FROM dblink('one', 'TABLE items')
		AS t(id int, name text, price numeric)},
	q{TABLE mine ORDER BY id},
	q{SELECT id, name FROM mine WHERE id IN
		(SELECT a FROM dblink('one', 'VALUES (2), (3)') AS t(a int)) ORDER BY 1},
	q{CREATE TEMP VIEW seen AS SELECT * FROM dblink('one', 'SELECT 1, 2') AS t(a int, b int)},
	q{SELECT b FROM seen},
	q{PREPARE asked(text) AS SELECT * FROM dblink('one', $1) AS t(a int)},
	q{EXECUTE asked('SELECT 11'); EXECUTE asked('SELECT 12')},
	q{CREATE FUNCTION pg_temp.twice(int) RETURNS TABLE (a int, b int) LANGUAGE sql AS
		$$ SELECT $1, a FROM dblink('one', 'SELECT ' || 2 * $1) AS t(a int) $$},
	q{SELECT * FROM pg_temp.twice(4)},
	q{SELECT * FROM ROWS FROM (dblink('one', 'VALUES (1), (2)') AS (a int),
		generate_series(1, 3))},
	q{SELECT * FROM dblink('one', 'VALUES (1), (2)') WITH ORDINALITY AS t(a int)},
	q{SELECT * FROM ROWS FROM (dblink('one', 'VALUES (1), (2)') AS (a int)) WITH ORDINALITY},
	q{BEGIN; DECLARE c SCROLL CURSOR FOR
		SELECT * FROM dblink('one', 'VALUES (1), (2), (3)') AS t(a int);
		FETCH 1 FROM c; FETCH LAST FROM c; FETCH FIRST FROM c; COMMIT},
	q{EXPLAIN (COSTS OFF) SELECT * FROM dblink('one', 'SELECT 1') AS t(a int)},
	q{SELECT t FROM dblink('one', 'SELECT 1, 2') AS t(a int, b int)},
	q{SELECT pg_typeof(a), a IS NULL FROM dblink('one', 'SELECT NULL') AS t(a numeric(3, 1))},
	q{SELECT * FROM dblink('one', 'SELECT 123.456, ''abcdef''')
		AS t(a numeric(5, 1), b varchar(3))},
	q{SELECT * FROM dblink('one', 'SELECT 123456, 1') AS t(a numeric(3, 1), b int)},
	q{SELECT count(*) FROM dblink('one', 'SELECT') AS t(a int)},
	q{BEGIN READ ONLY; SELECT dblink_exec('one', 'UPDATE items SET name = name'); COMMIT},
	q{BEGIN; SELECT dblink_exec('one', 'UPDATE items SET name = name');
		PREPARE TRANSACTION '{remote}'},
	q{ROLLBACK PREPARED '{remote}'});
$pair->call(map { rows('dblink', $_, q{'one'}, q{'SELECT 1, ''two'''}) }
	  'a int', 'a int, b text, c text', 'a int, b int', 'a text, b text', 'a date, b text',
	'b int, a varchar(1)');

# --- types ----------------------------------------------------------------------------

my @types = (
	[ bool => 'true', 'f' ],
	[ '"char"' => 'x', '' ],
	[ name => 'a name' ],
	[ int2 => -32768, 32767 ],
	[ int4 => -2147483648, 0 ],
	[ int8 => '-9223372036854775808', '9223372036854775807' ],
	[ float4 => 0.1, 'NaN', '-Infinity', '1.17549435e-38', '16777217' ],
	[ float8 => 0.1, 'NaN', '1e-310', '0.30000000000000004', '-0' ],
	[ numeric => 'NaN', 'Infinity', '1e100', '0.000', '-123.4500' ],
	[ 'numeric(6, 2)' => '1234.567' ],
	[ money => '12.34', '-1', '1234567.89' ],
	[ text => '', ' ', 'ünïcödé 日本 😀', "two\nlines\ttab", q{quo'te"s}, '\N', 'NULL', '{}', '\x41' ],
	[ 'varchar(3)' => 'abcdef', '' ],
	[ 'char(5)' => 'ab', '' ],
	[ bytea => '\x00ff27225c', '', 'abc\\\\\000' ],
	[ date => 'infinity', '0044-03-15 BC', '2024-02-29', '12024-01-01' ],
	[ time => '23:59:60', '00:00:00.000001' ],
	[ timetz => '12:00+05:30', '12:00:01.5-13' ],
	[ timestamp => 'infinity', '2024-01-02 03:04:05.6', '0001-01-01 BC' ],
	[ timestamptz => '-infinity', '2024-07-02 03:04:05.6+02', '1900-01-01 00:00' ],
	[ interval => '1 year 2 mons -3 days 04:05:06.789', '-1 day', '0', '1000000 hours' ],
	[ uuid => 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' ],
	[ inet => '192.168.1.1/24', '::1' ],
	[ cidr => '10.0.0.0/8' ],
	[ macaddr => '08:00:2b:01:02:03' ],
	[ macaddr8 => '08:00:2b:01:02:03:04:05' ],
	[ 'bit(4)' => '1010' ],
	[ varbit => '', '101' ],
	[ point => '(1,2.5)' ],
	[ line => '{1,2,3}' ],
	[ lseg => '[(0,0),(1,1)]' ],
	[ box => '(1,1),(0,0)' ],
	[ path => '[(0,0),(1,1)]', '((0,0),(1,1))' ],
	[ polygon => '((0,0),(1,1),(1,0))' ],
	[ circle => '<(0.1,0),2>' ],
	[ json => '{"a": [1,  2], "a": null}', '"x"', 'null' ],
	[ jsonb => '{"b": 1, "a": "\u00fc"}', 'null' ],
	[ jsonpath => '$.a[*] ? (@ > 1)' ],
	[ xml => '<a b="c">d</a>', 'text', '' ],
	[ tsvector => 'a:1 b:2A' ],
	[ tsquery => 'a & !b' ],
	[ int4range => '[1,5)', 'empty', '(,)' ],
	[ numrange => '[1.5,2.5]' ],
	[ daterange => '[2024-01-02,2024-03-04)' ],
	[ tstzrange => '[2024-01-02 03:04+00,)' ],
	[ int4multirange => '{[1,3),[5,7)}' ],
	[ 'int[]' => '{1,NULL,3}', '{{1,2},{3,4}}', '[0:1]={1,2}', '{}' ],
	[ 'text[]' => '{"a,b","\"","",NULL,"NULL",ü}' ],
	[ 'date[]' => '{2024-01-02}' ],
	[ 'interval[]' => '{"1 day -1 sec"}' ],
	[ pair => '(1,two)', '(,)', '(,"")' ],
	[ 'pair[]' => '{"(1,\"a b\")"}' ],
	[ mood => 'so so' ],
	[ small => 9 ],
	[ oid => 4294967295 ],
	[ regtype => 'integer' ],
	[ regclass => 'pg_class' ],
	[ regproc => 'now' ],
	[ xid => 5 ],
	[ tid => '(1,2)' ],
	[ pg_lsn => '16/B374D848' ],
	[ pg_snapshot => '10:20:10,14' ]);

# A query for all values of a type, and a NULL.
sub values_of
{
	my ($type, @values) = @_;
	return literal("SELECT v::$type FROM (VALUES (NULL), "
		  . join(', ', map { '(' . literal($_) . ')' } @values)
		  . ') AS v(v)');
}

sub somewhere { return pick('', q{'one'}, q{'two'}, q{'srv'}, q{'{conninfo}'}) }

$pair->begin('types');
$pair->call(@connect);
foreach my $type (@types)
{
	$pair->call(rows('dblink', "a $type->[0]", somewhere(), values_of(@$type)));
}
foreach (draws(20))
{
	my ($from, $to) = (pick(@types), pick(@types));
	$pair->call(
		rows('dblink', "a $to->[0]", q{'one'}, values_of(@$from), pick('true', 'false')));
}

# --- how dates and the like look ------------------------------------------------------

my @date_styles = ('ISO, MDY', 'ISO, DMY', 'SQL, DMY', 'SQL, MDY', 'German', 'Postgres, DMY',
	'Postgres, MDY');
my @interval_styles = qw(postgres postgres_verbose sql_standard iso_8601);
my @zones = ('UTC', 'America/St_Johns', 'Asia/Kathmandu', '<+05>-05');
my $date_columns =
  'a date, b timestamp, c timestamptz, d interval, e daterange, f date[], g interval, h time';
my $dates = q{SELECT date '2024-03-04', timestamp '2024-03-04 05:06:07.8',
	timestamptz '2024-03-04 05:06:07+09', interval '-1 year 2 days -03:00',
	daterange '[2024-03-04,2024-05-06)', ARRAY[date '2024-03-04'],
	interval '1 year 2 mons', time '01:02'};

sub set_styles
{
	return sprintf q{SET datestyle = %s; SET intervalstyle = %s; SET timezone = %s},
	  map { literal(pick(@$_)) } \@date_styles, \@interval_styles, \@zones;
}

$pair->begin('styles');
$pair->call(@connect);
foreach (draws(10))
{
	$pair->call(set_styles());
	$pair->call('SELECT dblink_exec(' . literal(set_styles()) . ')') if rand() < 0.6;
	$pair->call(map { rows('dblink', $date_columns, $_, literal($dates)) } '', somewhere());
	$pair->call(rows('dblink', $date_columns =~ s/(\w) [^,]+/$1 text/gr, literal($dates)));
}
$pair->call(
	q{SHOW datestyle},
	q{SHOW intervalstyle},
	q{SELECT dblink_open('c', 'SELECT date ''2024-03-04''')},
	rows('dblink_fetch', 'a date', q{'c'}, 1),
	q{SELECT dblink_exec('one', 'SET datestyle = ''Postgres, DMY''')},
	q{SELECT dblink_send_query('one', 'SELECT date ''2024-03-04''')},
	rows('dblink_get_result', 'a date', q{'one'}));

# --- encodings ------------------------------------------------------------------------

foreach my $encoding ('LATIN1', 'SQL_ASCII')
{
	my $db = lc "_$encoding";
	foreach my $side (@{ $pair->{sides} })
	{
		$local->safe_psql('postgres',
			"CREATE DATABASE $side->{db}$db ENCODING '$encoding' TEMPLATE template0");
		$pair->create_side($side, "$side->{db}$db");
	}
	$pair->begin($encoding, db => $db);
	$pair->call(
		@connect,
		(map { rows('dblink', 'a text', $_, q{'SELECT chr(233)'}) } q{'one'}, q{'srv'}, q{'{conninfo}'}),
		rows('dblink', 'a text', q{'one'}, q{'SELECT chr(8364)'}),
		rows('dblink', 'a text', q{'one'}, q{'SELECT chr(8364)'}, 'false'),
		rows('dblink', 'a text', q{'one'}, q{'SHOW client_encoding'}),
		rows('dblink', 'a int', q{'one'},
			q{'SELECT length(''' || convert_from('\xc3a9', getdatabaseencoding()) || ''')'}),
		rows('dblink', 'a int', q{'one'}, q{'SELECT fail(''P0001'', chr(233), '''', '''')'}),
		rows('dblink', 'a int', q{'one'}, q{'SELECT fail(''P0001'', chr(233), chr(8364), '''')'}));
}

# --- cursors --------------------------------------------------------------------------

# Open, fetch, close, in the user's own transactions and in those made for them.
sub cursor_call
{
	my $name = pick('c', 'c', 'c', 'd', '"E f"', 'gone');
	my $on = pick('', '', q{'one'});
	my $fail = pick('', 'true', 'false');
	my $kind = rand 20;
	if ($kind < 6)
	{
		my $sql = pick((q{SELECT i, i * 1.5 FROM generate_series(1, 5) AS i}) x 4,
			'SELECT 1, 2 WHERE false', 'UPDATE items SET name = name',
			'SELECT 1 / (3 - i), i FROM generate_series(1, 5) AS i', 'SELEC', 'TABLE nowhere');
		return 'SELECT dblink_open(' . arguments($on, literal($name), literal($sql), $fail) . ')';
	}
	return rows('dblink_fetch', pick(('a int, b numeric') x 6, 'a int', 'a date, b date'),
		$on, literal($name), pick(1, 2, 2, 3, 100, 0, -1, -100), $fail)
	  if $kind < 13;
	return 'SELECT dblink_close(' . arguments($on, literal($name), $fail) . ')' if $kind < 17;
	return rows('dblink', 'a int', $on, pick(q{'SELECT 1'}, q{'SELECT 1/0'}), $fail)
	  if $kind < 18;
	my $command = pick(qw(BEGIN COMMIT ROLLBACK ABORT),
		'SELECT 1/0', 'SAVEPOINT s', 'ROLLBACK TO s', "CLOSE $name", 'CLOSE ALL');
	return 'SELECT dblink_exec(' . arguments($on, literal($command), $fail) . ')';
}

$pair->begin('cursors');
$pair->call(@connect);
$pair->call(
	q{SELECT dblink_open('c', 'SELECT i FROM generate_series(1, 3) AS i')},
	q{SELECT dblink_open('d', 'SELECT 1')},
	q{SELECT * FROM dblink('SELECT count(*) FROM pg_cursors') AS t(a int)},
	rows('dblink_fetch', 'a int', q{'c'}, 2),
	rows('dblink_fetch', 'a int', q{'c'}, 2),
	rows('dblink_fetch', 'a int', q{'c'}, 2),
	rows('dblink_fetch', 'a int', q{'c'}, 0),
	q{SELECT dblink_close('c')},
	q{SELECT dblink_exec('SAVEPOINT still_in_transaction')},
	q{SELECT dblink_close('d')},
	q{SELECT dblink_exec('SAVEPOINT no_longer')},
	# in a transaction of the user's own, which close does not end
	q{SELECT dblink_exec('BEGIN')},
	q{SELECT dblink_open('c', 'SELECT 1')},
	q{SELECT dblink_close('c')},
	q{SELECT dblink_exec('SAVEPOINT s')},
	q{SELECT dblink_exec('COMMIT')},
	# a commit that fails
	q{SELECT dblink_open('c', 'SELECT 1')},
	q{SELECT dblink_exec('INSERT INTO parts VALUES (66, ''wheel'')')},
	q{SELECT dblink_close('c')},
	q{SELECT dblink_exec('SAVEPOINT s')},
	q{SELECT dblink_disconnect()},
	q{SELECT dblink_connect('{conninfo}')});
# names that are no names
foreach my $name (map { literal($_) } '', 'a b', '"', q{it's}, '%s')
{
	$pair->call(
		"SELECT dblink_open($name, 'SELECT 1', false)",
		rows('dblink_fetch', 'a int', $name, 1, 'false'),
		"SELECT dblink_close($name, false)");
}
foreach my $round (draws(2))
{
	$pair->begin("cursors, round $round", user => pick('postgres', 'regress_plain'));
	$pair->call(@connect);
	$pair->call(map { cursor_call() } 1 .. 45);
}

# --- queries that are not waited for --------------------------------------------------

my $send = q{SELECT dblink_send_query('one', %s)};
my $get = rows('dblink_get_result', 'a int', q{'one'});
my $not_busy = q{SELECT dblink_is_busy('one')};

sub async_call
{
	my $kind = rand 20;
	return sprintf $send, literal(pick(
		'SELECT 1', 'SELECT 1; SELECT 2', 'SELECT i FROM generate_series(1, 3) AS i',
		'SELECT 1; SELECT 1/0', 'UPDATE items SET name = name',
		'UPDATE items SET name = name; SELECT 2', '', 'SELEC', 'SELECT 1/0', 'SELECT 1, 2',
		q{SELECT 'x'}, 'SELECT 1 WHERE false', 'BEGIN', 'COMMIT', 'SELECT 1;;SELECT 2',
		'SELECT count(*)::int FROM generate_series(1, 100000)'))
	  if $kind < 6;
	return rows('dblink_get_result', pick(('a int') x 5, 'a text', 'a int, b int'), q{'one'},
		pick('', 'true', 'false'))
	  if $kind < 14;
	return q{SELECT dblink_error_message('one')} if $kind < 15;
	return pick(
		rows('dblink', 'a int', q{'one'}, q{'SELECT 5'}),
		rows('dblink', 'a int', q{'one'}, q{'SELECT 5'}, 'false'),
		q{SELECT dblink_exec('one', 'UPDATE items SET name = name')},
		q{SELECT dblink_exec('one', 'UPDATE items SET name = name', false)},
		q{SELECT dblink_open('one', 'c', 'SELECT 1')},
		q{SELECT dblink_open('one', 'c', 'SELECT 1', false)},
		rows('dblink_fetch', 'a int', q{'one'}, q{'c'}, 1),
		q{SELECT dblink_close('one', 'c', false)},
		q{SELECT * FROM dblink_get_notify('one')},
		q{SELECT dblink_get_connections()});
}

$pair->begin('asynchronous');
$pair->call(@connect);
$pair->call(
	$get,
	$not_busy,
	sprintf($send, q{'SELECT pg_sleep(100)'}),
	$not_busy,
	sprintf($send, q{'SELECT 1'}),
	q{SELECT dblink_error_message('one')});
$pair->wait_for_sleep;
$pair->call(q{SELECT dblink_cancel_query('one')});
$pair->call_until($not_busy, 0);
$pair->call(
	$get, $get,
	q{SELECT dblink_error_message('one')},
	sprintf($send, q{'SELECT 1; SELECT chat(); SELECT pg_sleep(100)'}),
	$get);
$pair->wait_for_sleep;
$pair->call(
	q{SELECT dblink_cancel_query('one')},
	rows('dblink_get_result', 'a int', q{'one'}, 'false'),
	$get,
	q{SELECT dblink_error_message('one')},
	q{SELECT dblink_cancel_query('one')},
	q{SELECT dblink_error_message('one')},
	# on two connections at the same time, and two in one statement
	q{SELECT dblink_send_query('one', 'SELECT 1'), dblink_send_query('two', 'SELECT 2')},
	q{SELECT * FROM dblink_get_result('two') AS t(a int), dblink_get_result('one') AS s(b int)},
	q{SELECT a FROM dblink_get_result('one') AS t(a int)
		UNION ALL SELECT a FROM dblink_get_result('two') AS s(a int)},
	q{SELECT dblink_send_query('one', 'SELECT 1'), dblink_send_query('one', 'SELECT 2')},
	q{SELECT dblink_disconnect('one')},
	q{SELECT dblink_connect('one', '{conninfo}')},
	sprintf($send, q{'SELECT 1'}));
$pair->call_until($not_busy, 0);
$pair->call(
	q{SELECT dblink_disconnect('one')},
	q{SELECT dblink_connect('one', '{conninfo}')},
	# over the ends of local transactions, good and bad
	'BEGIN', sprintf($send, q{'SELECT 1; SELECT 2; SELECT 3; SELECT 4'}), 'ROLLBACK', $get,
	'BEGIN', $get, 'SELECT 1/0', $get, 'COMMIT', $get,
	'BEGIN', 'SAVEPOINT s', $get, 'ROLLBACK TO s', $get, 'SAVEPOINT t',
	sprintf($send, q{'SELECT 7'}), 'ROLLBACK TO t', 'ROLLBACK', $get, $get);
foreach my $round (draws(2))
{
	$pair->begin("asynchronous, round $round", user => pick('postgres', 'regress_plain'));
	$pair->call(@connect);
	foreach (1 .. 45)
	{
		$pair->call(async_call());
		$pair->call_until($not_busy, 0) if rand() < 0.2;
	}
}

# --- names ----------------------------------------------------------------------------

my @names = ('', ' ', 'A b', 'ONE', q{it's}, '"q"', 'a=b', '日本語', 'srv', 'x' x 63, 'x' x 64,
	'x' x 70, 'ü' x 40, 'ü' x 31 . 'xx', 'postgresql://127.0.0.1:1', '%s');

sub named_call
{
	my $name = literal(pick(@names));
	return pick(
		"SELECT dblink_connect($name, '{conninfo}')",
		"SELECT dblink_connect($name, '{conninfo}')",
		"SELECT dblink_connect($name, 'srv')",
		"SELECT dblink_disconnect($name)",
		rows('dblink', 'a int', $name, q{'SELECT 1'}),
		"SELECT dblink_exec($name, 'SELECT 1/0', false)",
		"SELECT dblink_error_message($name)",
		"SELECT dblink_is_busy($name)",
		"SELECT dblink_open($name, 'c', 'SELECT 1')",
		"SELECT dblink_close($name, 'c')",
		$connections);
}

$pair->begin('names');
$pair->call(
	q{SELECT dblink_get_connections()},
	(map { "SELECT dblink_connect('$_', '{conninfo}')" } qw(one one One)),
	$connections,
	q{SELECT dblink_connect('two', 'port=1')},
	$connections,
	q{SELECT dblink_connect('two', 'srv')},
	q{SELECT dblink_disconnect('one'), dblink_disconnect('two')},
	q{SELECT dblink_disconnect('one')},
	q{SELECT dblink_connect('one', 'srv')},
	# a new unnamed connection takes the place of the old one, if it comes to be
	q{SELECT dblink_connect('{conninfo}')},
	q{SELECT dblink_exec('CREATE TEMP TABLE of_the_first (a int)')},
	q{SELECT dblink_connect('port=1')},
	rows('dblink', 'a int', q{'TABLE of_the_first'}),
	q{SELECT dblink_connect('srv')},
	rows('dblink', 'a int', q{'TABLE of_the_first'}),
	q{SELECT dblink_disconnect()},
	q{SELECT dblink_disconnect()},
	$connections,
	# a connection goes before a server of its name
	q{SELECT dblink_connect('srv', '{admin}')},
	rows('dblink', 'a text', q{'srv'}, q{'SELECT current_user'}),
	q{SELECT dblink_disconnect('srv')},
	rows('dblink', 'a text', q{'srv'}, q{'SELECT current_user'}));
$pair->call(map { named_call() } draws(40));

# --- NULL: all functions are strict ----------------------------------------------------

my %argument = (text => q{'one'}, bool => 'false', int => 1, int2vector => q{'1'}, 'text[]' => q{'{1}'});
my @returns_rows = (
	[ dblink => 'text' ],
	[ dblink => 'text', 'bool' ],
	[ dblink => 'text', 'text' ],
	[ dblink => 'text', 'text', 'bool' ],
	[ dblink_fetch => 'text', 'int' ],
	[ dblink_fetch => 'text', 'int', 'bool' ],
	[ dblink_fetch => 'text', 'text', 'int' ],
	[ dblink_fetch => 'text', 'text', 'int', 'bool' ],
	[ dblink_get_result => 'text' ],
	[ dblink_get_result => 'text', 'bool' ]);
my @returns_value = (
	[ dblink_connect => 'text' ],
	[ dblink_connect => 'text', 'text' ],
	[ dblink_connect_u => 'text', 'text' ],
	[ dblink_disconnect => 'text' ],
	[ dblink_exec => 'text' ],
	[ dblink_exec => 'text', 'text' ],
	[ dblink_exec => 'text', 'text', 'bool' ],
	[ dblink_open => 'text', 'text' ],
	[ dblink_open => 'text', 'text', 'text', 'bool' ],
	[ dblink_close => 'text' ],
	[ dblink_close => 'text', 'text', 'bool' ],
	[ dblink_send_query => 'text', 'text' ],
	[ dblink_is_busy => 'text' ],
	[ dblink_cancel_query => 'text' ],
	[ dblink_error_message => 'text' ],
	[ dblink_get_pkey => 'text' ],
	[ dblink_get_notify => 'text' ],
	[ dblink_build_sql_insert => 'text', 'int2vector', 'int', 'text[]', 'text[]' ],
	[ dblink_build_sql_delete => 'text', 'int2vector', 'int', 'text[]' ],
	[ dblink_build_sql_update => 'text', 'int2vector', 'int', 'text[]', 'text[]' ]);

# One of the arguments is NULL.
sub with_null
{
	my (@types) = @_;
	my $null = int rand @types;
	return map { ($_ == $null ? 'NULL' : $argument{ $types[$_] }) . "::$types[$_]" } 0 .. $#types;
}

$pair->begin('null');
$pair->call(@connect);
foreach my $function (@returns_rows)
{
	my ($name, @types) = @$function;
	$pair->call(rows($name, 'a int', with_null(@types)));
}
foreach my $function (@returns_value)
{
	my ($name, @types) = @$function;
	$pair->call("SELECT $name(" . arguments(with_null(@types)) . ')');
}

# --- notifications --------------------------------------------------------------------

my $notify = q{SELECT notify_name, extra, be_pid =
		(SELECT a FROM dblink('one', 'SELECT pg_backend_pid()') AS t(a int))
	FROM dblink_get_notify(%s)};
$pair->begin('notifications');
$pair->call(
	@connect,
	sprintf($notify, ''),
	q{SELECT dblink_exec('one', 'LISTEN "Some one"')},
	q{SELECT dblink_exec('LISTEN other')},
	sprintf($notify, q{'one'}),
	q{SELECT dblink_exec('one',
		'NOTIFY "Some one"; NOTIFY "Some one", ''payload ü''; NOTIFY unheard')},
	sprintf($notify, q{'one'}),
	sprintf($notify, q{'one'}),
	sprintf($notify, ''),
	q{SELECT dblink_exec('two', 'NOTIFY "Some one", ''from two''; NOTIFY other, ''the rest''')});
$pair->call_until(q{SELECT extra, notify_name FROM dblink_get_notify('one')}, 'from two');
$pair->call_until(q{SELECT extra, notify_name FROM dblink_get_notify()}, 'the rest');
$pair->call(
	q{SELECT dblink_exec('one', 'BEGIN; NOTIFY "Some one"; ROLLBACK')},
	sprintf($notify, q{'one'}),
	q{SELECT dblink_exec('one', 'UNLISTEN *')},
	q{SELECT dblink_exec('one', 'NOTIFY "Some one"')},
	sprintf($notify, q{'one'}),
	rows('dblink', 'a text', q{'one'}, q{'SELECT pg_listening_channels()'}));

# --- statements for a copy of a row ---------------------------------------------------

$pair->on_local(q{
	CREATE TABLE plain (a int, b text, c date, PRIMARY KEY (a));
	INSERT INTO plain VALUES (1, 'one', '2024-01-02'), (2, NULL, NULL),
		(3, 'it''s "quoted" \ and %s', 'infinity');
	CREATE SCHEMA "Odd s";
	CREATE TABLE "Odd s"."Odd t" ("a b" text, gone int, "select" int, "C" numeric, also_gone text,
		d bytea, PRIMARY KEY ("select", "a b"));
	INSERT INTO "Odd s"."Odd t" VALUES
		('x y', 0, 1, 1.50, '', '\xff'), ('', 0, 2, NULL, '', NULL);
	ALTER TABLE "Odd s"."Odd t" DROP gone, DROP also_gone;
	CREATE TABLE keyless (a int, b int);
	INSERT INTO keyless VALUES (1, 1), (1, 2), (NULL, 3);
	CREATE TABLE "unique" (a int UNIQUE NOT NULL, b text);
	INSERT INTO "unique" VALUES (5, 'five');
	CREATE TABLE covering (a int, b int, c int, PRIMARY KEY (b, a) INCLUDE (c));
	INSERT INTO covering VALUES (1, 2, 3);
	CREATE TABLE parted (a int, b text, PRIMARY KEY (a)) PARTITION BY LIST (a);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
	INSERT INTO parted VALUES (1, 'in a part');
	CREATE TABLE generated (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 2) STORED,
		c int GENERATED ALWAYS AS IDENTITY);
	INSERT INTO generated VALUES (1);
	CREATE TABLE typed (a int PRIMARY KEY, p pair, m mood, t timestamptz, i interval, j jsonb);
	INSERT INTO typed VALUES (1, '(1,"x y")', 'sad', '2024-01-02 03:04+00', '1 day', '{"a": 1}');
	CREATE VIEW looked AS SELECT * FROM plain;
	CREATE MATERIALIZED VIEW kept AS SELECT * FROM plain;
	CREATE SEQUENCE counted;
	CREATE INDEX indexed ON plain (b);
	CREATE TABLE empty (a int PRIMARY KEY);
	CREATE TABLE nothing ();
	CREATE TABLE forbidden (a int PRIMARY KEY);
	GRANT ALL ON plain, "Odd s"."Odd t", keyless, looked TO regress_plain;
	GRANT USAGE ON SCHEMA "Odd s" TO regress_plain});
my @tables = (
	'plain', '"Odd s"."Odd t"', 'keyless', '"unique"', 'covering', 'parted', 'parted_1',
	'generated', 'typed', 'looked', 'kept', 'counted', 'indexed', 'empty', 'nothing',
	'forbidden', 'public.plain', 'Plain', 'unknown', '', 'a.b.c.d', '"', 'Odd s.Odd t',
	'pg_catalog.pg_class', 'pair');

sub text_array
{
	my @elements = map { pick(1, 1, 1, 2, 2, 3, 'NULL', '"x y"', '""', q{"it's"}) }
	  1 .. pick(0, (1) x 8, 2, 2, 2, 3);
	return literal('{' . join(',', @elements) . '}');
}

sub build_call
{
	my $what = pick(qw(insert update delete));
	my $table = rand() < 0.8 ? $tables[ rand 9 ] : pick(@tables);
	my $columns = pick((1) x 8, (2) x 3, '2 1', '1 2', '2 1', 3, 0, -1, 9, '1 1', '', '4 5');
	return "SELECT dblink_build_sql_$what("
	  . arguments(literal($table), literal($columns), pick((1) x 8, 2, 2, 2, 0, -1, 5),
		map { text_array() } 1 .. ($what eq 'delete' ? 1 : 2))
	  . ')';
}

my $odd_row = q{'"Odd s"."Odd t"', '2 1', 2, '{1,x y}'};
$pair->begin('building SQL');
$pair->call(map { 'SELECT * FROM dblink_get_pkey(' . literal($_) . ')' } @tables);
$pair->call(
	"SELECT dblink_build_sql_insert($odd_row, '{7,NULL}')",
	"SELECT dblink_build_sql_update($odd_row, '{NULL,it''s}')",
	"SELECT dblink_build_sql_delete($odd_row)",
	q{SELECT dblink_build_sql_insert('typed', '1', 1, '{1}', '{2}')},
	q{SET datestyle = 'German'; SET intervalstyle = 'iso_8601'; SET timezone = 'Asia/Kathmandu'},
	q{SELECT dblink_build_sql_update('typed', '1', 1, '{1}', '{2}')},
	q{SELECT dblink_build_sql_insert('plain', '1', 1, '{{1}}', '{2}')},
	q{SELECT dblink_build_sql_insert('plain', '1 2', 1, '{3}', '{2}')},
	q{SET search_path = ''},
	q{SELECT public.dblink_build_sql_insert('public.plain', '1', 1, '{1}', '{2}')},
	q{RESET search_path});
$pair->call(map { build_call() } draws(50));
$pair->begin('building SQL, ordinary', user => 'regress_plain');
$pair->call(map { build_call() } draws(10));

# --- connections that fail ------------------------------------------------------------

my $there = 'host=127.0.0.1 port={port} dbname={remote} user=regress_remote password=remote-secret';
my $uri = 'postgresql://regress_remote:remote-secret@127.0.0.1:{port}/{remote}';
my $two_hosts = $there =~ s/host=127.0.0.1/host=127.0.0.1,127.0.0.1/r;
my @strings = (
	'host=127.0.0.1 port=1 dbname={remote} user=regress_remote password=x',
	'hostaddr=127.0.0.1 port=1 password=x',
	'host=/nowhere port=5 password=x',
	$there =~ s/remote-secret/wrong/r,
	$there =~ s/ password.*//r,
	"$there password=''",
	$there =~ s/\{remote\}/unknown_db/r,
	$there =~ s/user=\w+/user=unknown_role/r,
	$there =~ s/\{port\}/abc/r,
	$there =~ s/\{port\}/700000/r,
	$two_hosts =~ s/port=\{port\}/port=1,{port}/r,
	$two_hosts =~ s/port=\{port\}/port=1,2/r,
	"$there foo=bar",
	"$there port",
	"$there password='open",
	"$there sslmode=nonsense",
	"$there sslmode=require",
	"$there gssencmode=disable sslmode=disable",
	"$there options='-c no_such_setting=1'",
	"$there options='-c work_mem=77'",
	"$there client_encoding=latin1",
	"$there client_encoding=nonsense",
	"$there connect_timeout=x",
	"$there connect_timeout=5",
	"$there target_session_attrs=read-only",
	"$there target_session_attrs=any",
	"$there application_name='an application'",
	"$there fallback_application_name='fallen back'",
	"$there replication=database",
	"$there passfile=/nowhere",
	"$there sslkey=/nowhere",
	"$there service=unknown_service",
	"  $there\n  ",
	'service=unknown_service',
	$uri,
	"$uri?application_name=uri",
	"$uri?nonsense=1",
	$uri =~ s/remote-secret/wrong/r,
	$uri =~ s/\{port\}/1/r,
	'postgresql://[::1',
	'postgres://127.0.0.1:{port}/{remote}?user=regress_remote&password=remote-secret',
	'{socket}',
	'{socket} password=not-asked-for',
	'=',
	'password',
	'password=x',
	q{host='127.0.0.1'   port = {port} dbname={remote} user = regress_remote
		password = 'remote\-secret'},
	'',
	' ',
	'no such name');
my $who = q{'SELECT current_user, current_setting(''work_mem''), current_setting(''client_encoding'')'};

foreach my $user ('postgres', 'regress_plain')
{
	$pair->begin("connecting, $user", user => $user);
	foreach my $string (map { literal($_) } @strings)
	{
		my $connect = pick(qw(dblink_connect dblink_connect dblink_connect_u));
		$pair->call(pick(
				rows('dblink', 'a text, b text, c text', $string, $who),
				rows('dblink', 'a text, b text, c text', $string, $who, 'false'),
				"SELECT dblink_exec($string, 'RESET work_mem', false)",
				"SELECT $connect($string)",
				"SELECT $connect('n', $string), dblink_disconnect('n')"));
	}
	$pair->call(rows('dblink', 'a text, b text, c text', $who), $connections);
	foreach my $server (q{'srv'}, q{'other'}, q{'bare'}, q{'SRV'})
	{
		$pair->call(
			"SELECT dblink_connect($server)",
			"SELECT dblink_connect_u($server)",
			rows('dblink', 'a int', $server, q{'SELECT 1'}));
	}
}

# --- remote sessions that end ---------------------------------------------------------

my @after = (
	rows('dblink', 'a int', q{'SELECT 1'}),
	rows('dblink', 'a int', q{'SELECT 1'}, 'false'),
	rows('dblink', 'a int', q{'one'}, q{'SELECT 1'}),
	q{SELECT dblink_exec('one', 'SELECT 1')},
	q{SELECT dblink_exec('one', 'RESET ALL', false)},
	q{SELECT dblink_open('one', 'c', 'SELECT 1')},
	rows('dblink_fetch', 'a int', q{'one'}, q{'c'}, 1),
	q{SELECT dblink_close('one', 'c')},
	q{SELECT dblink_send_query('one', 'SELECT 1')},
	rows('dblink_get_result', 'a int', q{'one'}),
	q{SELECT dblink_is_busy('one')},
	q{SELECT dblink_error_message('one')},
	q{SELECT * FROM dblink_get_notify('one')},
	q{SELECT dblink_get_connections()});
my @again = (
	q{SELECT dblink_disconnect('one')},
	q{SELECT dblink_connect('one', 'srv')},
	q{SELECT dblink_connect('srv')});

$pair->begin('ended');
$pair->quietly(@again);
foreach my $first (shuffled(@after))
{
	$pair->terminate;
	$pair->call($first, map { pick(@after) } 1 .. 3);
	$pair->call(@again) if rand() < 0.2;
	$pair->quietly(@again);
}
foreach my $open (
	q{SELECT dblink_open('one', 'c', 'SELECT 1')},
	q{SELECT dblink_exec('one', 'BEGIN')},
	sprintf($send, q{'SELECT pg_sleep(100)'}),
	sprintf($send, q{'SELECT 1; SELECT chat(); SELECT pg_sleep(100)'}))
{
	$pair->call($open);
	$pair->wait_for_sleep if $open =~ /sleep/;
	$pair->terminate;
	$pair->call($open =~ /sleep/ ? ($get) x 4 : (), map { pick(@after) } 1 .. 2);
	$pair->quietly(@again);
}
foreach my $target ('', q{'one'}, q{'{conninfo}'})
{
	my @args = ($target, q{'SELECT pg_terminate_backend(pg_backend_pid())'});
	foreach my $call (
		rows('dblink', 'a text', @args),
		rows('dblink', 'a text', @args, 'false'),
		'SELECT dblink_exec(' . arguments(@args, 'false') . ')')
	{
		$pair->call($call);
		$pair->quietly(@again);
	}
}

# --- local transactions ---------------------------------------------------------------

# What has been done remotely stays done, and connections stay.
my $note = q{SELECT dblink_exec('one', 'INSERT INTO items VALUES (%d, ''noted'', 1)')};
my $look = rows('dblink', 'a int', q{'one'}, q{'SELECT id FROM items WHERE name = ''noted'' ORDER BY 1'});
my $next = rows('dblink_fetch', 'a int, b text, c numeric', q{'c'}, 1);
$pair->begin('transactions');
$pair->call(@connect);
$pair->call(
	'BEGIN', sprintf($note, 20), 'ROLLBACK', $look,
	'BEGIN', q{SELECT dblink_connect('made', 'srv')}, 'ROLLBACK', $connections,
	'BEGIN', q{SELECT dblink_disconnect('made')}, 'ROLLBACK', $connections,
	'BEGIN', 'SAVEPOINT s', sprintf($note, 21), q{SELECT dblink_connect('made', 'srv')},
	'SELECT 1/0', $look, 'ROLLBACK TO s', $look, $connections,
	sprintf($note, 21), 'ROLLBACK TO s', $look, 'COMMIT', $look, $connections,
	'BEGIN', q{SELECT dblink_exec('one', 'BEGIN')}, sprintf($note, 22), 'ROLLBACK', $look,
	q{SELECT dblink_exec('one', 'ROLLBACK')}, $look,
	'BEGIN', q{SELECT dblink_open('c', 'TABLE items ORDER BY id')}, 'COMMIT', $next,
	'BEGIN', 'ROLLBACK', $next, q{SELECT dblink_close('c')},
	'BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY', sprintf($note, 23), $look, 'COMMIT', $look);
$pair->call(
	q{DO $$ BEGIN
		PERFORM dblink_exec('one', 'SELECT 1/0');
	EXCEPTION WHEN division_by_zero THEN
		RAISE NOTICE '% % %', sqlstate, sqlerrm, dblink_error_message('one');
	END $$},
	q{DO $$ DECLARE d text; h text; c text; BEGIN
		PERFORM dblink_exec('one', 'SELECT fail(''AB001'', ''m'', ''d'', ''h'')');
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT,
			c = PG_EXCEPTION_CONTEXT;
		RAISE NOTICE '% % % %', sqlstate, d, h, c;
	END $$},
	q{DO $$ DECLARE r record; BEGIN
		FOR r IN SELECT * FROM dblink('one', 'SELECT i FROM generate_series(1, 3) AS i')
			AS t(a int)
		LOOP
			BEGIN
				PERFORM dblink_exec('one', format('SELECT 1 / (%s - 2)', r.a));
			EXCEPTION WHEN OTHERS THEN
				RAISE NOTICE '% %', sqlstate,
					(SELECT a FROM dblink('one', 'SELECT ''fine''') AS t(a text));
			END;
		END LOOP;
	END $$},
	q{DO $$ BEGIN
		BEGIN
			PERFORM dblink_connect('inner', 'srv');
			RAISE 'undone';
		EXCEPTION WHEN OTHERS THEN
			RAISE NOTICE '%', sqlerrm;
		END;
		PERFORM dblink_exec('inner', 'RESET ALL');
		PERFORM dblink_disconnect('inner');
	END $$},
	q{DO $$ BEGIN PERFORM dblink_open('one', 'c', 'SELECT 1'); RAISE 'undone'; END $$},
	rows('dblink_fetch', 'a int', q{'one'}, q{'c'}, 1),
	q{SELECT dblink_close('one', 'c')},
	q{DO $$ BEGIN PERFORM dblink_send_query('one', 'SELECT 8'); RAISE 'undone'; END $$},
	$get, $get,
	q{DO $$ BEGIN
		PERFORM dblink_exec('one', 'BEGIN');
		COMMIT;
		PERFORM dblink_exec('one', 'ROLLBACK');
		ROLLBACK;
	END $$},
	sprintf($note, 24), $look);

# --- who may use what -----------------------------------------------------------------

$pair->on_local(q{
	GRANT EXECUTE ON FUNCTION dblink_connect_u(text), dblink_connect_u(text, text)
		TO regress_plain;
	CREATE FUNCTION connect_for(text, text) RETURNS text LANGUAGE sql SECURITY DEFINER AS
		$$ SELECT dblink_connect($1, $2) $$;
	CREATE FUNCTION ask_for(text, text) RETURNS text LANGUAGE sql SECURITY DEFINER AS
		$$ SELECT a FROM dblink($1, $2) AS t(a text) $$});
my $role = q{'SELECT current_user'};
$pair->begin('roles', user => 'regress_plain');
$pair->call(
	q{SELECT dblink_connect_u('one', '{socket}')},
	rows('dblink', 'a text', q{'one'}, $role),
	q{SELECT dblink_exec('one', 'RESET ALL')},
	q{SELECT dblink_open('one', 'c', 'SELECT 1')},
	rows('dblink_fetch', 'a int', q{'one'}, q{'c'}, 1),
	q{SELECT dblink_close('one', 'c')},
	sprintf($send, $role),
	rows('dblink_get_result', 'a text', q{'one'}),
	rows('dblink_get_result', 'a text', q{'one'}),
	q{SELECT dblink_error_message('one'), dblink_is_busy('one'), dblink_cancel_query('one')},
	q{SELECT dblink_connect('two', '{socket}')},
	rows('dblink', 'a text', q{'{socket}'}, $role),
	q{SELECT dblink_disconnect('one')},
	q{SELECT connect_for('made', '{socket}')},
	rows('dblink', 'a text', q{'made'}, $role),
	q{SELECT ask_for('made', 'SELECT current_user')},
	q{SELECT ask_for('{socket}', 'SELECT current_user')},
	q{SELECT dblink_connect('mine', '{conninfo}')},
	q{SELECT ask_for('mine', 'SELECT current_user')},
	q{SELECT connect_for('theirs', 'other')},
	rows('dblink', 'a text', q{'theirs'}, $role),
	$connections,
	q{SELECT dblink_disconnect('theirs')});
$pair->begin('other roles');
$pair->call(
	@connect,
	q{SELECT dblink_connect('admin', '{admin}')},
	q{SET ROLE regress_plain},
	rows('dblink', 'a text', q{'admin'}, $role),
	q{SELECT dblink_exec('admin', 'RESET ALL')},
	sprintf($send, $role),
	rows('dblink_get_result', 'a text', q{'one'}),
	q{RESET ROLE},
	rows('dblink_get_result', 'a text', q{'one'}),
	q{SET ROLE regress_plain},
	q{SELECT dblink_disconnect('one'), dblink_disconnect()},
	$connections,
	q{SET SESSION AUTHORIZATION regress_plain},
	rows('dblink', 'a text', q{'admin'}, $role),
	q{RESET SESSION AUTHORIZATION},
	q{SET ROLE regress_plain},
	rows('dblink', 'a text', q{'other'}, $role),
	rows('dblink', 'a text', q{'two'}, $role),
	q{RESET ROLE},
	$connections);

# --- settings of the remote database --------------------------------------------------

$pair->on_remote(q{
	ALTER DATABASE {remote} SET datestyle = 'German';
	ALTER DATABASE {remote} SET intervalstyle = 'iso_8601';
	ALTER DATABASE {remote} SET bytea_output = 'escape';
	ALTER DATABASE {remote} SET timezone = 'Asia/Kathmandu';
	ALTER DATABASE {remote} SET extra_float_digits = 0});
$pair->terminate;
$pair->begin('settings of the remote');
$pair->call(@connect);
foreach my $target (q{'one'}, q{'srv'}, q{'{conninfo}'})
{
	$pair->call(
		rows('dblink', $date_columns, $target, literal($dates)),
		rows('dblink', $date_columns =~ s/(\w) [^,]+/$1 text/gr, $target, literal($dates)),
		rows('dblink', 'a float8, b float4, c bytea', $target,
			q{'SELECT float8 ''0.1'', float4 ''0.1'', bytea ''\xff'''}));
}

$pair->finish(not_all => $seed != 1);
done_testing();
