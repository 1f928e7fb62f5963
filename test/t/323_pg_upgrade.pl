# pg_upgrade from and to a server with conpool in it: servers, mappings with
# their passwords, rights and what is built on conpool's functions come along;
# meanwhile there is no broker, and nobody connects.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

chomp(my $bindir = `$ENV{PG_CONFIG} --bindir`);
plan skip_all => "there is no pg_upgrade in $bindir" unless -x "$bindir/pg_upgrade";

my $remote = new_remote('remote', conf => 'log_connections = on');
my $old = new_local('old');
my $new = new_local('new', start => 0);

# All that is to come along; pg_dump gives options in an order of its own.
sub definitions
{
	my ($node) = @_;
	return $node->safe_psql(
		'postgres', q{
		SELECT srvname, ARRAY(SELECT unnest(srvoptions) ORDER BY 1), srvacl FROM pg_foreign_server ORDER BY 1;
		SELECT srvname, usename, ARRAY(SELECT unnest(umoptions) ORDER BY 1) FROM pg_user_mappings ORDER BY 1, 2;
		SELECT oid::regprocedure, proacl FROM pg_proc WHERE pronamespace = 'conpool'::regnamespace
		  ORDER BY oid::regprocedure::text;
		SELECT extname, extversion FROM pg_extension ORDER BY 1});
}
# --- what there is

my $odd = q{it's an "odd" \\ pass=word};
my $quoted = $odd =~ s/'/''/gr;
$remote->safe_psql('postgres', "ALTER ROLE regress_remote_two PASSWORD '$quoted'");
setup_local($old, $remote);
$old->safe_psql('postgres', 'CREATE ROLE regress_user LOGIN');
create_server($old, $remote, 'kept', options => q{min_size '2', reset 'always'});
create_server($old, $remote, 'odd', user => 'regress_remote_two', for => 'regress_user');
$old->safe_psql(
	'postgres', qq{
	ALTER USER MAPPING FOR regress_user SERVER odd OPTIONS (SET password '$quoted', min_size '1');
	GRANT USAGE ON FOREIGN SERVER odd TO regress_user;
	-- restored before the server that it names
	CREATE SERVER alias FOREIGN DATA WRAPPER conpool OPTIONS (server 'kept', max_size '3');
	REVOKE EXECUTE ON FUNCTION conpool.checkout(text, text, interval) FROM PUBLIC;
	GRANT EXECUTE ON FUNCTION conpool.reset_stats(text) TO regress_user;
	CREATE VIEW rows_of_remote AS SELECT * FROM conpool.query('kept', 'SELECT 1') AS t(a int);
	CREATE MATERIALIZED VIEW kept_rows AS SELECT * FROM rows_of_remote;
	CREATE VIEW mine AS SELECT server, min_size, idle FROM conpool.pools;
	CREATE FUNCTION remote_one() RETURNS int BEGIN ATOMIC SELECT a FROM rows_of_remote; END;
	CREATE DATABASE old_version});
$old->safe_psql('old_version', q{CREATE EXTENSION conpool VERSION '1.0'});
create_server($old, $remote, 'there', dbname => 'old_version', user => 'regress_remote_admin');
$old->safe_psql('old_version',
	q{CREATE VIEW mine AS SELECT server, size FROM conpool.pools WHERE server = 'there'});

count_remote($remote, 2, 'the old server has filled its pools', 'regress_remote');
count_remote($remote, 1, 'all of them', 'regress_remote_two');
my $definitions = definitions($old);
$old->stop;
count_remote($remote, 0, 'the old server has ended');

my $connections = qr/connection authorized: user=regress_remote/;
my $log = -s $remote->logfile;

# --- the upgrade

my $start = time;
command_ok(
	[
		'pg_upgrade', '--no-sync',
		'-d' => $old->data_dir,
		'-D' => $new->data_dir,
		'-b' => $bindir,
		'-B' => $bindir,
		'-s' => $new->host,
		'-p' => $old->port,
		'-P' => $new->port
	],
	'pg_upgrade');
note sprintf 'figure: pg_upgrade = %.1f s', time - $start;
unlike(slurp_file($remote->logfile, $log), $connections, 'nobody has connected meanwhile');

# --- a server in its mode has no broker, and does not need one

my $started =
  system('pg_ctl', '-s', '-w', '-D', $new->data_dir, '-l', $new->logfile, '-o', '-b', 'start');
is($started, 0, 'the new server starts in the mode of pg_upgrade');
$new->_update_pid(1);
$log = -s $remote->logfile;
SKIP:
{
	skip 'there is no /proc' unless -d '/proc/self/fd', 1;
	is(join(' ', map { server_processes($new, "conpool $_") } qw(broker reader dialer)),
		'', 'without broker, reader and dialer');
}
is(broker_pid($new), '', 'the view of processes says so, too');
my ($status, $out, $err) = $new->psql('postgres',
	q{ALTER SERVER kept OPTIONS (SET min_size '3'); TABLE rows_of_remote});
is($out, '1', 'queries work');
like($err, qr/WARNING:  conpool's broker is not running: connections are not shared/,
	'unshared, with a warning');
count_remote($remote, 0, 'nothing is left of them');
my @seen = slurp_file($remote->logfile, $log) =~ /$connections/g;
is(scalar(@seen), 1, 'nobody else has connected');
$new->safe_psql('postgres', q{ALTER SERVER kept OPTIONS (SET min_size '2')});
$new->stop;

# --- the new server

$new->start;
count_remote($remote, 2, 'the new server fills its pools', 'regress_remote');
count_remote($remote, 1, 'with whatever password', 'regress_remote_two');
is(definitions($new), $definitions, 'it has all servers, mappings and rights');
is( $new->safe_psql('postgres', 'TABLE mine') =~ /^kept\|2\|2$/m,
	1, 'a view of ours on a view of conpool');
is($new->safe_psql('postgres', 'SELECT remote_one(), a FROM kept_rows'),
	'1|1', 'a function and a materialized view on the remote');
is($new->safe_psql('postgres', 'REFRESH MATERIALIZED VIEW kept_rows; TABLE kept_rows'),
	'1', 'which can be refreshed');
is( $new->safe_psql(
		'postgres',
		q{SET ROLE regress_user; SELECT conpool.exec('odd', 'SELECT 1')}),
	'SELECT 1',
	'another role has its own mapping');
is($new->safe_psql('postgres', q{SELECT conpool.exec('alias', 'SELECT 1')}),
	'SELECT 1', 'a server that names another one');
is( $new->safe_psql(
		'old_version', q{
		SELECT conpool.exec('there', 'SELECT 1');
		TABLE mine;
		SELECT extversion FROM pg_extension WHERE extname = 'conpool'}),
	"SELECT 1\nthere|1\n1.0",
	'a database with version 1.0 of the extension');
is( $new->safe_psql(
		'old_version', q{
		DROP VIEW mine;
		ALTER EXTENSION conpool UPDATE;
		SELECT server, idle, breaker FROM conpool.pools WHERE server = 'there'}),
	'there|1|closed',
	'can be updated');

done_testing();
