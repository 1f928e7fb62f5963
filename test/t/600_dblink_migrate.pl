# From dblink to conpool_dblink: the migration script loses nothing of a database in
# which views, functions, servers, mappings and grants depend on dblink, and leaves
# all as it was if it fails. Where nothing depends on dblink, DROP and CREATE EXTENSION
# are enough.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

my $script = ($ENV{CONPOOL_SETUP} // 'test/setup') . '/../../sql/conpool_dblink_migrate.sql';

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
plan skip_all => 'needs dblink'
  if $local->safe_psql('postgres',
	q{SELECT count(*) FROM pg_available_extensions WHERE name = 'dblink'}) eq '0';
my $port = $remote->port;

# --- what there is ------------------------------------------------------------------

# Everything about dblink's objects and what depends on them that a migration must leave
# as it is. Ours: the function's library and symbol, what it says of itself.
my $everything = q{
	SELECT 'function', p.oid, p.oid::regprocedure, proowner::regrole, pronamespace::regnamespace,
		prorettype::regtype, prolang, procost, prorows, proisstrict, prosecdef, proretset,
		provolatile, proparallel, proconfig, proacl,
		(SELECT initprivs FROM pg_init_privs WHERE objoid = p.oid)
	FROM pg_proc AS p WHERE pronamespace IN ('public'::regnamespace, 'links'::regnamespace)
	ORDER BY p.oid;
	SELECT 'type', oid, typname, typowner::regrole, typacl,
		(SELECT initprivs FROM pg_init_privs WHERE objoid = t.oid)
	FROM pg_type AS t WHERE typname ~ 'dblink' ORDER BY oid;
	SELECT 'wrapper', oid, fdwname, fdwowner::regrole, fdwvalidator::regprocedure, fdwacl,
		(SELECT initprivs FROM pg_init_privs WHERE objoid = w.oid)
	FROM pg_foreign_data_wrapper AS w ORDER BY oid;
	SELECT 'server', * FROM pg_foreign_server ORDER BY oid;
	SELECT 'mapping', * FROM pg_user_mapping ORDER BY oid;
	SELECT 'relation', oid, relname, relkind, relowner::regrole, relacl
	FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY oid;
	SELECT 'view', oid::regclass, pg_get_viewdef(oid)
	FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm') ORDER BY oid;
	SELECT 'comment', pg_describe_object(classoid, objoid, objsubid), description
	FROM pg_description WHERE description ~ 'mine' ORDER BY 2;
	SELECT 'member', pg_describe_object(classid, objid, objsubid) FROM pg_depend
	WHERE deptype = 'e' AND refobjid IN (SELECT oid FROM pg_extension WHERE extname ~ 'dblink')
	ORDER BY 2;
	SELECT 'goes with it', pg_describe_object(classid, objid, objsubid) FROM pg_depend
	WHERE deptype = 'x' AND refobjid IN (SELECT oid FROM pg_extension WHERE extname ~ 'dblink')
	ORDER BY 2;
	SELECT 'role', classid::regclass, objid, objsubid, refobjid::regrole, deptype
	FROM pg_shdepend
	WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND
		classid <> 'pg_extension'::regclass
	ORDER BY 2, 3, 4, 5, 6;};

# What pg_dump has to save of it.
my $dumped = q{
	SELECT 'privilege', pg_describe_object(c.class, c.oid, 0), a.grantor::regrole,
		CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, privilege_type, is_grantable
	FROM (SELECT 'pg_proc'::regclass, oid, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
		  WHERE pronamespace IN ('public'::regnamespace, 'links'::regnamespace)
		  UNION ALL
		  SELECT 'pg_type'::regclass, oid, coalesce(typacl, acldefault('T', typowner)) FROM pg_type
		  WHERE typname = 'dblink_pkey_results'
		  UNION ALL
		  SELECT 'pg_foreign_data_wrapper'::regclass, oid, coalesce(fdwacl, acldefault('F', fdwowner))
		  FROM pg_foreign_data_wrapper
		  UNION ALL
		  SELECT 'pg_foreign_server'::regclass, oid, coalesce(srvacl, acldefault('S', srvowner))
		  FROM pg_foreign_server) AS c(class, oid, acl),
		aclexplode(acl) AS a
	ORDER BY 1, 2, 3, 4, 5, 6;
	SELECT 'server', srvname, fdwname, ARRAY(SELECT unnest(srvoptions) ORDER BY 1)
	FROM pg_foreign_server
		JOIN pg_foreign_data_wrapper AS w ON w.oid = srvfdw ORDER BY 2;
	SELECT 'mapping', srvname, usename, ARRAY(SELECT unnest(umoptions) ORDER BY 1)
	FROM pg_user_mappings ORDER BY 2, 3;
	SELECT 'view', oid::regclass::text, pg_get_viewdef(oid)
	FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm') ORDER BY 2;
	SELECT 'member', pg_describe_object(classid, objid, objsubid), extname
	FROM pg_depend JOIN pg_extension AS e ON e.oid = refobjid
	WHERE deptype = 'e' AND extname ~ 'dblink' ORDER BY 2;
	SELECT 'goes with it', pg_describe_object(classid, objid, objsubid) FROM pg_depend
	WHERE deptype = 'x' AND refobjid IN (SELECT oid FROM pg_extension WHERE extname ~ 'dblink')
	ORDER BY 2;};

# What CREATE EXTENSION makes.
my $made = q{
	SELECT p.oid::regprocedure::text COLLATE "C", provolatile, proisstrict, prosecdef, proparallel,
		proretset, prorettype::regtype, proargnames, proargmodes, proallargtypes::regtype[],
		procost, prorows, proacl, prosrc, probin, obj_description(p.oid, 'pg_proc'),
		(SELECT initprivs FROM pg_init_privs WHERE objoid = p.oid)
	FROM pg_proc AS p WHERE proname ~ '^dblink' ORDER BY 1;
	SELECT pg_describe_object(classid, objid, objsubid), obj_description(objid, relname)
	FROM pg_depend JOIN pg_class AS c ON c.oid = classid
	WHERE deptype = 'e' AND refobjid IN (SELECT oid FROM pg_extension WHERE extname ~ 'dblink')
	ORDER BY 1;
	SELECT extname, extversion, extnamespace::regnamespace, extrelocatable
	FROM pg_extension WHERE extname ~ 'dblink';
	SELECT fdwname, fdwvalidator::regprocedure FROM pg_foreign_data_wrapper ORDER BY 1;};

my $extensions = q{SELECT string_agg(format('%s %s %s', extname, extversion,
	extnamespace::regnamespace), ',') FROM pg_extension WHERE extname ~ 'dblink'};

sub state_of
{
	my ($dbname, $query, $node) = @_;
	return ($node // $local)
	  ->safe_psql($dbname, "SET search_path = public, links; $query");
}

# Compares two of these, line by line.
sub same
{
	my ($got, $expected, $test_name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_deeply([ split /\n/, $got ], [ split /\n/, $expected ], $test_name);
}

# Runs the migration script: its exit status and what psql said.
sub migrate
{
	my ($dbname, %opt) = @_;
	my $node = $opt{node} // $local;
	my ($out, $err) = ('', '');
	IPC::Run::run(
		[
			'psql', '-Xq', '-d' => $node->connstr($dbname),
			'-U' => $opt{user} // 'postgres',
			'-f' => $script
		],
		'>', \$out, '2>', \$err);
	return ($? >> 8, $err);
}

# A migration that must fail, and leave everything as it is.
sub migration_fails
{
	my ($dbname, $message, $test_name, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = state_of($dbname, $everything . $extensions, $opt{node});
	my ($status, $said) = migrate($dbname, %opt);
	is($status, 3, $test_name);
	like($said, $message, '  for that reason');
	same(state_of($dbname, $everything . $extensions, $opt{node}),
		$before, '  nothing has changed');
	return;
}

# Creates a database with schema "links", and runs SQL in it.
sub create_database
{
	my ($dbname, $sql, $node) = @_;
	$node //= $local;
	$node->safe_psql('postgres', "CREATE DATABASE $dbname");
	$node->safe_psql($dbname,
		"CREATE SCHEMA links; GRANT USAGE ON SCHEMA links TO PUBLIC;
		SET search_path = public, links; $sql");
	return;
}

# --- a database in which much depends on dblink -------------------------------------

$local->safe_psql('postgres',
	'CREATE ROLE regress_some LOGIN; CREATE ROLE regress_other; CREATE ROLE regress_none LOGIN');
create_database('app', qq{
	CREATE EXTENSION dblink SCHEMA links;
	CREATE SERVER far FOREIGN DATA WRAPPER dblink_fdw
		OPTIONS (host '127.0.0.1', port '$port', dbname '$ConpoolTest::remote_db');
	CREATE USER MAPPING FOR postgres SERVER far
		OPTIONS (user 'regress_remote', password '$ConpoolTest::password{regress_remote}');
	CREATE USER MAPPING FOR regress_some SERVER far
		OPTIONS (user 'regress_remote_two', password '$ConpoolTest::password{regress_remote_two}');
	CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'nobody', password 'it''s \\ "so"');
	GRANT USAGE ON FOREIGN SERVER far TO regress_some WITH GRANT OPTION;

	CREATE TABLE kept (a int PRIMARY KEY, b text);
	INSERT INTO kept SELECT i, 'row ' || i FROM generate_series(1, 3) AS i;
	CREATE VIEW line AS SELECT * FROM dblink('far', 'SELECT inet_client_port()') AS t(port int);
	CREATE VIEW lines AS SELECT a, port FROM kept CROSS JOIN line;
	GRANT SELECT ON line TO regress_some;
	CREATE MATERIALIZED VIEW fetched AS
		SELECT * FROM dblink('far', 'SELECT 42, now()') AS t(a int, at timestamptz);
	CREATE INDEX ON fetched (a);
	CREATE FUNCTION inlined() RETURNS int LANGUAGE sql
		BEGIN ATOMIC; SELECT a FROM dblink('far', 'SELECT 4') AS t(a int); END;
	CREATE FUNCTION typed() RETURNS SETOF dblink_pkey_results LANGUAGE sql
		AS \$\$ SELECT * FROM links.dblink_get_pkey('kept') \$\$;
	CREATE TABLE of_type (key dblink_pkey_results, keys dblink_pkey_results[]);
	INSERT INTO of_type VALUES ((1, 'a'), ARRAY[(1, 'a')::dblink_pkey_results]);

	GRANT EXECUTE ON FUNCTION dblink_connect_u(text), dblink_connect_u(text, text)
		TO regress_some WITH GRANT OPTION;
	REVOKE EXECUTE ON FUNCTION dblink_exec(text, text) FROM PUBLIC;
	GRANT EXECUTE ON FUNCTION dblink_exec(text, text) TO regress_other;
	REVOKE USAGE ON TYPE dblink_pkey_results FROM PUBLIC;
	GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO regress_other;
	SET ROLE regress_some;
	GRANT USAGE ON FOREIGN SERVER far TO regress_other;
	GRANT EXECUTE ON FUNCTION dblink_connect_u(text) TO regress_other;
	RESET ROLE;

	ALTER FUNCTION dblink(text, text) ROWS 17 COST 3;
	ALTER FUNCTION dblink_exec(text) SET statement_timeout = '5s';
	COMMENT ON FUNCTION dblink(text, text) IS 'this one is mine';
	CREATE FUNCTION follower() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
	CREATE TRIGGER follower BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION follower();
	ALTER FUNCTION follower() DEPENDS ON EXTENSION dblink;
	ALTER TRIGGER follower ON kept DEPENDS ON EXTENSION dblink;
	ALTER MATERIALIZED VIEW fetched DEPENDS ON EXTENSION dblink;
	ALTER INDEX kept_pkey DEPENDS ON EXTENSION dblink;
});

my (undef, undef, $refused) = $local->psql('app', 'DROP EXTENSION dblink');
like($refused, qr/other objects depend on it/, 'dblink cannot just be dropped');

my $before = state_of('app', $everything);
like($before, qr/^goes with it\|trigger follower/m, 'there is something to be compared');
my ($status, $said) = migrate('app');
is($status, 0, 'the script does its work') or diag $said;
is($local->safe_psql('app', $extensions), 'conpool_dblink 1.0 links', 'the extension is ours');
same(state_of('app', $everything), $before, 'all the rest is what it was');

# --- it works, and on the pool ------------------------------------------------------

my $pool = q{SELECT server || ' ' || idle || ' ' || leased FROM conpool.pools
	WHERE database = 'app' AND role = 'postgres'};
my $first = state_of('app', 'SELECT port FROM line');
wait_for($local, "SELECT ($pool) = 'far 1 0'", 'a view has had a connection of the pool');
is(state_of('app', 'SELECT DISTINCT port FROM lines'), $first, 'another view has it, too');
wait_for($local, "SELECT ($pool) = 'far 1 0'", 'it comes back');
is(state_of('app', q{SELECT inlined(); SELECT * FROM typed();
	REFRESH MATERIALIZED VIEW fetched; SELECT a FROM fetched; SELECT * FROM of_type}),
	"4\n1|a\n42\n(1,a)|{\"(1,a)\"}", 'functions, the materialized view, the type');
wait_for($local, "SELECT ($pool) ~ '^far [0-9]+ 0'", 'and nothing is held');

my $session = WireClient->new($local, dbname => 'app');
$session->query('SET search_path = public, links');
$session->query(q{SELECT dblink_connect('mine', 'far')});
is($local->safe_psql('postgres',
		q{SELECT server || ' ' || scope FROM conpool.leases WHERE database = 'app'}),
	'far session', 'a named connection is a lease');
$session->query(q{SELECT dblink_disconnect('mine')});
wait_for($local, "SELECT ($pool) ~ '^far [0-9]+ 0'", 'and is given back');

# There is no extension conpool in this database: the pools are kept up even so.
my $at_rest = q{bool_and(idle = size AND size > 0) FROM conpool.pools WHERE database = 'app'};
my $connections = q{SELECT string_agg(remote_pid::text, ' ' ORDER BY remote_pid)
	FROM conpool.connections WHERE database = 'app'};
wait_for($local, "SELECT $at_rest", 'all pools are at rest');
$first = $local->safe_psql('postgres', $connections);
$local->safe_psql('postgres', 'ALTER SYSTEM SET conpool.max_size = 7');
$local->reload;
wait_for($local, "SELECT min(max_size) = 7 AND $at_rest", 'a new setting comes to the pools');
is($local->safe_psql('postgres', $connections), $first, 'which keep their connections');

my $some = WireClient->new($local, dbname => 'app', user => 'regress_some');
is($some->query('SELECT port > 0 FROM line')->{rows}[0][0],
	't', 'another role has its mapping and its grant');
my $none = WireClient->new($local, dbname => 'app', user => 'regress_none');
is($none->query(q{SELECT links.dblink_exec('far', 'SELECT 1')})->{error},
	'42501', 'what was revoked is');

# --- dump and restore ---------------------------------------------------------------

my $dump = PostgreSQL::Test::Utils::tempdir . '/app.sql';
$local->command_ok([ 'pg_dump', '-f' => $dump, '-d' => $local->connstr('app') ], 'it is dumped');
unlike(slurp_file($dump), qr/CREATE EXTENSION[^;]* dblink\b|CREATE FOREIGN DATA WRAPPER/,
	'without dblink, and without what is the extension\'s');
$local->safe_psql('postgres', 'CREATE DATABASE copied');
$local->command_ok(
	[
		'psql', '-Xq', '-v' => 'ON_ERROR_STOP=1', '-d' => $local->connstr('copied'),
		'-f' => $dump
	],
	'and restored');
same(state_of('copied', $dumped), state_of('app', $dumped), 'nothing is lost');
like(state_of('copied', 'SELECT port FROM line'), qr/^\d+$/, 'and it works there');

# --- what the script makes is what CREATE EXTENSION makes ---------------------------

create_database('fresh', 'CREATE EXTENSION conpool_dblink');
create_database('bare', 'CREATE EXTENSION dblink');
create_database('oldest', q{
	CREATE EXTENSION dblink;
	ALTER EXTENSION dblink DROP FOREIGN DATA WRAPPER dblink_fdw;
	ALTER EXTENSION dblink DROP FUNCTION dblink_fdw_validator(text[], oid);
	DROP FOREIGN DATA WRAPPER dblink_fdw;
	DROP FUNCTION dblink_fdw_validator(text[], oid);
	ALTER FUNCTION dblink(text, text) PARALLEL UNSAFE;
	UPDATE pg_extension SET extversion = '1.0' WHERE extname = 'dblink'});
foreach my $dbname ('bare', 'oldest')
{
	is((migrate($dbname))[0], 0, "$dbname: migrated");
	same(state_of($dbname, $made), state_of('fresh', $made), "$dbname: as if newly made");
}
is(
	state_of(
		'fresh', q{SELECT count(*) FROM pg_proc WHERE probin ~ 'conpool' AND proname ~ '^dblink'}),
	41,
	'with all functions');

# --- the simple way -----------------------------------------------------------------

create_database('simple', q{CREATE EXTENSION dblink SCHEMA links; DROP EXTENSION dblink;
	CREATE EXTENSION conpool_dblink SCHEMA links});
my $call = q{SELECT a FROM dblink('} . conninfo($remote) . q{', 'SELECT 7') AS t(a int)};
is(state_of('simple', $call), '7',
	'DROP and CREATE EXTENSION where nothing depends on it');
$local->safe_psql('simple', 'ALTER EXTENSION conpool_dblink SET SCHEMA public');
is($local->safe_psql('simple', $call), '7', 'it can be moved');
$local->safe_psql('simple', 'DROP EXTENSION conpool_dblink; CREATE EXTENSION dblink');
is($local->safe_psql('simple', $extensions), 'dblink 1.2 public', 'and the way back');

# --- a wrapper that is there already ------------------------------------------------

my $wrapper = q{SELECT w.oid, fdwowner::regrole, fdwhandler, fdwvalidator, fdwacl, fdwoptions,
	(SELECT count(*) FROM pg_depend AS d WHERE d.objid = w.oid AND deptype = 'e')
	FROM pg_foreign_data_wrapper AS w};
create_database('stray', qq{
	CREATE FOREIGN DATA WRAPPER dblink_fdw OPTIONS (anything 'goes');
	GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO regress_some;
	CREATE SERVER far FOREIGN DATA WRAPPER dblink_fdw
		OPTIONS (host '127.0.0.1', port '$port', dbname '$ConpoolTest::remote_db');
	CREATE USER MAPPING FOR postgres SERVER far
		OPTIONS (user 'regress_remote', password '$ConpoolTest::password{regress_remote}')});
my $stray = $local->safe_psql('stray', $wrapper);
$local->safe_psql('stray', 'CREATE EXTENSION conpool_dblink');
is($local->safe_psql('stray', $wrapper), $stray, 'a stray wrapper is kept as it is');
is($local->safe_psql('stray', q{SELECT a FROM dblink('far', 'SELECT 9') AS t(a int)}),
	'9', 'its servers can be used');
$local->safe_psql('stray', 'DROP EXTENSION conpool_dblink');
is($local->safe_psql('stray', $wrapper), $stray, 'and it outlives the extension');

# Both may have been left behind.
$local->safe_psql('stray', q{CREATE FUNCTION dblink_fdw_validator(text[], oid) RETURNS void
	LANGUAGE sql AS 'SELECT'; ALTER FOREIGN DATA WRAPPER dblink_fdw VALIDATOR dblink_fdw_validator});
$stray = $local->safe_psql('stray', $wrapper);
$local->safe_psql('stray', 'CREATE EXTENSION conpool_dblink');
is($local->safe_psql('stray', $wrapper), $stray, 'so is its validator');

# --- what cannot be done ------------------------------------------------------------

create_database('refused', q{CREATE EXTENSION dblink SCHEMA links;
	CREATE VIEW there AS SELECT * FROM dblink('nowhere', 'SELECT 1') AS t(a int);
	GRANT EXECUTE ON FUNCTION dblink_connect_u(text) TO regress_some;
	CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'});
migration_fails('refused', qr/must be superuser/, 'by anybody else', user => 'regress_some');
$local->safe_psql('refused', 'ALTER EXTENSION dblink ADD FUNCTION mine()');
migration_fails('refused', qr/members that conpool_dblink does not know.*public\.mine\(\)/s,
	'with another member');
$local->safe_psql('refused', 'ALTER EXTENSION dblink DROP FUNCTION mine()');
$local->safe_psql('refused', 'ALTER FUNCTION links.dblink(text) SET SCHEMA public');
migration_fails('refused', qr/function dblink\(text\) does not exist/, 'with a function elsewhere');
$local->safe_psql('refused',
	'ALTER FUNCTION dblink(text) SET SCHEMA links; CREATE SCHEMA two');
$local->safe_psql('refused', 'CREATE EXTENSION conpool_dblink SCHEMA two');
migration_fails('refused', qr/exists beside "dblink"/, 'with both of them');
$local->safe_psql('refused', 'DROP EXTENSION conpool_dblink');
is((migrate('refused'))[0], 0, 'without all that it is done');
migration_fails('refused', qr/database "refused" has no extension "dblink"/, 'not twice');

# Functions that are not dblink's are nobody's to adopt.
$local->safe_psql('fresh', q{DROP EXTENSION conpool_dblink;
	CREATE EXTENSION dblink;
	DO $$ DECLARE object text; BEGIN
		FOR object IN SELECT concat_ws(' ', upper(replace(type, '-', ' ')), identity)
			FROM pg_depend CROSS JOIN pg_identify_object(classid, objid, 0)
			WHERE deptype = 'e' AND
				refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dblink') AND
				identity !~ '\[\]$'
		LOOP EXECUTE format('ALTER EXTENSION dblink DROP %s', object); END LOOP;
	END $$;
	DROP EXTENSION dblink;
	CREATE OR REPLACE FUNCTION dblink_current_query() RETURNS text LANGUAGE sql AS 'SELECT 1::text'});
(undef, undef, $refused) =
  $local->psql('fresh', q{CREATE EXTENSION conpool_dblink VERSION 'dblink'});
like($refused, qr/dblink_current_query\(\) is not one of dblink's library/,
	'functions of somebody else are not adopted');

# Without conpool in the server.
my $unloaded = new_local('unloaded', preload => 0);
create_database('app', 'CREATE EXTENSION dblink', $unloaded);
migration_fails('app', qr/conpool is not loaded.*shared_preload_libraries/s, 'without conpool',
	node => $unloaded);

# --- what somebody may have prepared for it -----------------------------------------

# Operators in dblink's schema that fit better than PostgreSQL's own: called by a
# superuser they make one of who has made them.
my $traps = join ";\n", map {
	my ($left, $right) = @$_;
	my $function = "links.trap_${left}_$right";
	qq{CREATE FUNCTION $function($left, $right) RETURNS boolean LANGUAGE plpgsql AS \$\$
		BEGIN
			EXECUTE 'ALTER ROLE regress_some SUPERUSER';
			RETURN \$1::oid = \$2::oid;
		END \$\$;
		CREATE OPERATOR links.= (FUNCTION = $function, LEFTARG = $left, RIGHTARG = $right)};
} [qw(oid regclass)], [qw(regclass oid)], [qw(oid regproc)], [qw(regprocedure regproc)];
create_database('trapped', q{CREATE EXTENSION dblink SCHEMA links;
	GRANT CREATE ON SCHEMA links TO regress_some;
	ALTER FUNCTION dblink_exec(text) SET application_name = E'x\nAS ''y''';
	ALTER FUNCTION dblink_open(text, text) SET application_name = E'AS z\nAS ''y'', ''z''\n'});
$local->safe_psql('trapped', "SET ROLE regress_some; $traps");
my $is_superuser = q{SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_some'};
$local->safe_psql('trapped', q{SELECT 1::oid OPERATOR(links.=) 'pg_proc'::regclass});
is($local->safe_psql('trapped', $is_superuser), 't', 'a trap is set for superusers');
$local->safe_psql('trapped', 'ALTER ROLE regress_some NOSUPERUSER');
$before = state_of('trapped', $everything);
($status, $said) = migrate('trapped');
is($status, 0, 'the script does its work in spite of it') or diag $said;
is($local->safe_psql('trapped', $is_superuser), 'f', 'and is not caught');
same(state_of('trapped', $everything), $before, 'settings of functions are what they were');
is($local->safe_psql('trapped', q{SELECT count(*) FROM pg_proc
		WHERE probin ~ 'conpool' AND prosrc ~ '^conpool_dblink' AND proname ~ '^dblink'}),
	41, 'all functions are ours');

done_testing();
