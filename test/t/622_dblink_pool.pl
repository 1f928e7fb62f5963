# conpool_dblink's connections are those of pools: they are shared, counted and limited,
# clean for whoever gets them next, and nobody's who may not have them.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

my $remote = new_remote('remote', conf => 'max_connections = 60');
my $host = $remote->host;
my $port = $remote->port;
my $db = $ConpoolTest::remote_db;
$remote->safe_psql('postgres', 'CREATE DATABASE elsewhere OWNER regress_remote');

# Options from a service file, which a server finds by its environment.
my $service_file = PostgreSQL::Test::Utils::tempdir() . '/services';
my $login = "host=127.0.0.1\nport=$port\nuser=regress_remote\npassword=remote-secret\n";

sub write_services
{
	my (%dbname) = @_;
	open my $file, '>', $service_file or die "$service_file: $!";
	print $file map { "[$_]\ndbname=$dbname{$_}\n$login" } sort keys %dbname;
	close $file;
	return;
}

write_services(one => $db);
my $local = new_local('local', start => 0, conf => q{
conpool.max_size = 3
conpool.max_connections = 16
});
{
	local $ENV{PGSERVICEFILE} = $service_file;
	$local->start;
}
setup_local($local, $remote);

$local->safe_psql('postgres', qq{
	CREATE EXTENSION conpool_dblink;
	CREATE ROLE regress_one LOGIN;
	CREATE ROLE regress_two LOGIN;
	GRANT EXECUTE ON FUNCTION dblink_connect_u(text, text) TO regress_one;
	CREATE SERVER srv FOREIGN DATA WRAPPER dblink_fdw
		OPTIONS (host '127.0.0.1', port '$port', dbname '$db');
	CREATE USER MAPPING FOR PUBLIC SERVER srv
		OPTIONS (user 'regress_remote', password 'remote-secret');
	CREATE VIEW totals AS SELECT server, role, size, idle, leased, unshared, connects, overflowed
		FROM conpool.pools JOIN conpool.stat_pools USING (server, database, role)});
create_server($local, $remote, 'limited', options => q{max_size '2', max_server_size '3'});
my $conninfo = conninfo($remote);

# By which port the remote sees it a connection is known.
my $which = 'SELECT inet_client_port()';

sub session { return WireClient->new($local, @_) }

# The last row, or the error; dies of nothing.
sub outcome
{
	my ($client, $sql) = @_;
	my $result = $client->query($sql);
	return $result->{error} ? "$result->{error}: $result->{message}" :
	  join ',', map { $_ // 'null' } @{ $result->{rows}[-1] // [] };
}

sub ask
{
	my ($client, $on, $sql) = @_;
	return outcome($client, "SELECT * FROM dblink('$on', '$sql') AS t(a text)");
}

# The same by who has no time to wait for a connection.
sub in_vain
{
	my ($client, $on, $sql) = @_;
	outcome($client, q{SET conpool.checkout_timeout = '500 ms'});
	my $outcome = ask($client, $on, $sql);
	outcome($client, 'RESET conpool.checkout_timeout');
	return $outcome;
}

# Of the pool that this session's calls with the string belong to.
sub totals
{
	my ($columns, $role) = @_;
	$role //= 'postgres';
	return $local->safe_psql('postgres',
		"SELECT $columns FROM totals WHERE server LIKE '%regress_remote%' AND role = '$role'");
}

sub wait_for_rest
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($local, 'SELECT sum(size) = sum(idle) FROM conpool.pools', $name);
}

# --- one connection is enough -----------------------------------------------------------

my $client = session();
my %seen = map { ask($client, $conninfo, $which) => 1 } 1 .. 50;
is(outcome($client, qq{SELECT count(DISTINCT a) FROM generate_series(1, 50) AS i,
	LATERAL dblink('$conninfo', '$which, ' || i) AS t(a int, i int)}), 1,
		'calls in a statement share it');
is(scalar keys %seen, 1, 'so do statements');
is(totals('connects, size'), '1|1', 'a hundred calls, one connection');
my ($first) = keys %seen;
my $other = session();
is(ask($other, $conninfo, $which), $first, 'another session uses the same');
is(outcome($client, qq{SELECT dblink_exec('$conninfo', 'RESET work_mem')}), 'RESET',
	'so does dblink_exec');
wait_for_rest('which has it cleaned');
is(outcome($client, qq{SELECT dblink_connect('one', '$conninfo')}), 'OK', 'and dblink_connect');
is(ask($client, 'one', $which), $first, 'which has it for itself');
isnt(ask($other, $conninfo, $which), $first, 'while others have another one');
is(outcome($client, q{SELECT dblink_disconnect('one')}), 'OK', 'until dblink_disconnect');
wait_for_rest('that gives it back');
is(totals('connects, size'), '2|2', 'two connections now');
is(ask($client, 'srv', $which), ask($other, 'srv', $which), 'servers have pools, too');
is(outcome($client, q{SELECT connects FROM totals WHERE server = 'srv'}), 1, 'one connection');

# --- what is shown ----------------------------------------------------------------------

my $shown = q{SELECT scope, sql, remote_pid IS NOT NULL FROM conpool.leases WHERE pid = %d};
my $connect = q{SELECT dblink_connect('one', 'srv')};
is(outcome($client, $connect), 'OK', 'a connection by name');
is(outcome($other, sprintf $shown, $client->{pid}), "session,$connect,t",
	'is shown with what opened it');
outcome($client, q{SELECT dblink_disconnect('one')});
$remote->safe_psql($db, 'CREATE TABLE gate (); GRANT ALL ON gate TO PUBLIC');
my $gate = WireClient->new($remote, dbname => $db);
$gate->query('BEGIN; LOCK TABLE gate');
my $call = q{SELECT * FROM dblink('srv', 'SELECT 1 FROM gate') AS t(a int)};
$client->send($call);
wait_for($local, "SELECT count(*) = 1 FROM conpool.leases WHERE scope = 'statement'
	AND remote_pid IS NOT NULL", 'a call that runs');
is(outcome($other, sprintf $shown, $client->{pid}), "statement,$call,t",
	'is shown with its statement');
$gate->query('ROLLBACK');
$gate->hang_up;
is($client->result->{error}, undef, 'it ends well');
wait_for_rest('and is over');

# --- more than max_size -----------------------------------------------------------------

my $connects = totals('connects');
is(outcome($client, "SELECT dblink_connect('n' || i, '$conninfo') FROM generate_series(1, 6) AS i"),
	'OK', 'six connections by name, where max_size is 3');
%seen = map { ask($client, "n$_", $which) => 1 } 1 .. 6;
is(scalar keys %seen, 6, 'they are six');
is(totals('leased, unshared, overflowed'), '6|3|3', 'three of them unshared, and counted');
is(ask($client, $conninfo, 'SELECT 1'), 1, 'who holds all of them need not wait for a call');
is(totals('overflowed'), 4, 'that was counted, too');
like(in_vain($other, $conninfo, 'SELECT 1'), qr/^53300: /, 'others do');
is(outcome($other, "SELECT dblink_connect('mine', '$conninfo')"), 'OK',
	'but not to connect by name');
is(outcome($other, q{SELECT dblink_disconnect('mine')}), 'OK', 'which is over');
wait_for_pool($local, totals('server'), 'size = 6', 'and closed');
is(outcome($client, q{SELECT dblink_disconnect('n' || i) FROM generate_series(1, 6) AS i}), 'OK',
	'all are given back');
wait_for_rest('to be idle, or closed');
is(totals('size, idle, unshared'), '3|3|0', 'max_size are left');
count_remote($remote, 4, 'as the remote says, with the one of the server');

# By its own wish nobody waits; with the setting off one has to, and for oneself in vain.
is(outcome($client, q{SET conpool.dblink_overflow = off; SHOW conpool.dblink_overflow}), 'off',
	'without overflow');
is(outcome($client, "SELECT dblink_connect('n' || i, '$conninfo') FROM generate_series(1, 3) AS i"), 'OK',
	'three');
like(outcome($client, "SELECT dblink_connect('n4', '$conninfo')"),
	qr/^(53300|40P01): /, 'and no more');
like(ask($client, $conninfo, 'SELECT 1'), qr/^(53300|40P01): /, 'a call has to have one, too');
outcome($other, 'SET conpool.dblink_overflow = off');
like(in_vain($other, $conninfo, 'SELECT 1'), qr/^53300: /, 'another session waits in vain');
is(outcome($client, 'SELECT array_agg(a ORDER BY a) FROM unnest(dblink_get_connections()) AS a'),
	'{n1,n2,n3}', 'what there was is there still');
is(outcome(session(user => 'regress_one'), 'SET conpool.dblink_overflow = on'),
	'42501: permission denied to set parameter "conpool.dblink_overflow"',
		'that is for superusers to say');
outcome($client, $_) for 'RESET conpool.dblink_overflow', 'DISCARD ALL';
outcome($other, 'RESET conpool.dblink_overflow');
is(totals('overflowed'), 5, 'nothing was opened beyond max_size');
wait_for_rest('all is back');

# --- the other limits hold ----------------------------------------------------------------

is(outcome($client, q{SELECT dblink_connect('n' || i, 'limited') FROM generate_series(1, 3) AS i}),
	'OK', 'above max_size of a server of conpool');
like(outcome($client, q{SELECT dblink_connect('n4', 'limited')}),
	qr/^(53300|40P01): /, 'not above max_server_size');
like(in_vain($other, 'limited', 'SELECT 1'), qr/^53300: /, 'whoever wants it');
is(outcome($client, q{SELECT overflowed || ' ' || leased FROM totals WHERE server = 'limited'}), '1 3',
	'as is counted');
outcome($client, 'DISCARD ALL');
wait_for_rest('these are back, too');

outcome($client, q{SET conpool.checkout_timeout = '3 s'});
my $all = outcome($client, qq{DO \$\$ BEGIN
		FOR i IN 1 .. 30 LOOP
			PERFORM dblink_connect('n' || i, '$conninfo');
		END LOOP;
	END \$\$});
like($all, qr/^(53300|40P01): /, 'conpool.max_connections is the end');
outcome($client, 'RESET conpool.checkout_timeout');
my $got = outcome($client, 'SELECT array_length(dblink_get_connections(), 1)');
cmp_ok($got, '>', 3, 'of what goes beyond max_size');
cmp_ok($local->safe_psql('postgres', 'SELECT sum(size) FROM conpool.pools'), '<=', 16,
	'of all pools');
is(ask($client, "n$got", 'SELECT 12'), 12, 'what could be had works');
is(ask($other, 'srv', 'SELECT 1'), 1, 'others have theirs still');
is(ask(session(user => 'regress_two'), $conninfo, 'SELECT 1'), 1, 'and can have more');
outcome($client, 'SELECT dblink_disconnect(a) FROM unnest(dblink_get_connections()) AS a');
wait_for_rest('and are back, or gone');
is(totals('size'), 3, 'max_size of them');

# --- whose connections these are ------------------------------------------------------------

my $one = session(user => 'regress_one');
my $two = session(user => 'regress_two');
my %port = map { $_->[0] => ask($_->[1], $conninfo, $which) }
  ([ postgres => $client ], [ one => $one ], [ two => $two ]);
like($port{$_}, qr/^\d+$/, "$_ has a connection by that string") for sort keys %port;
isnt($port{one}, $port{postgres}, "not the superuser's");
isnt($port{one}, $port{two}, "nor another role's");
is(ask($one, $conninfo, $which), $port{one}, 'but finds its own again');

# Where the remote asks for no password it is for superusers only.
my $socket = "host=$host port=$port dbname=$db user=regress_remote";
my $refused = $local->pg_version < 16 ?
  '2F003: password is required' :
  '2F003: password or GSSAPI delegated credentials required';
like(ask($client, $socket, 'SELECT pg_backend_pid()'), qr/^\d+$/, 'a superuser needs no password');
like(ask($client, "$socket password=x", 'SELECT 1'), qr/^1$/, 'nor is asked for one that is given');
is(ask($one, $socket, 'SELECT 1'), $refused, 'others do not get that');
is(ask($one, "$socket password=x", 'SELECT 1'), $refused,
	'nor with a password that nobody asks for');
is(outcome($one, "SELECT dblink_connect('mine', '$socket')"), $refused, 'nor by dblink_connect');
is(outcome($one, "SELECT dblink_connect_u('lent', '$socket')"), 'OK', 'but by dblink_connect_u');
is(ask($one, 'lent', 'SELECT current_user'), 'regress_remote', 'what that opened the caller uses');
is(outcome($one, q{SELECT dblink_open('lent', 'c', 'SELECT 6'); SELECT * FROM dblink_fetch('lent', 'c', 1) AS t(a int)}),
	6, 'with all functions');
is(ask($one, $socket, 'SELECT 1'), $refused, 'which lends nothing else');
is(outcome($one, q{SELECT dblink_disconnect('lent')}), 'OK', 'and gives it back');
is(ask($one, $socket, 'SELECT 1'), $refused, 'still nothing else');
like(outcome($two, "SELECT dblink_connect_u('lent', '$socket')"),
	qr/^42501: permission denied for function dblink_connect_u/, 'that is not for everybody');
$one->query("SELECT dblink_connect_u('lent', '$socket')");
is(outcome($one, 'SELECT count(*) FROM conpool.leases WHERE pid = pg_backend_pid()'), 0,
	'a lease of the superuser is not for others to see');
$_->hang_up for $one, $two;
wait_for_rest('with their sessions all leases end');

# --- by the environment ---------------------------------------------------------------------

is(ask($client, 'service=one', 'SELECT current_database()'), $db, 'a service of the file');
is(outcome($client, q{SELECT dblink_connect('kept', 'service=one')}), 'OK', 'also by name');
is(ask($client, 'service=one', 'SELECT current_database()'), $db, 'and for calls beside it');
write_services(one => 'elsewhere', two => $db);
is(ask($client, 'service=one', 'SELECT current_database()'), 'elsewhere',
	'a changed file is read at once');
is(ask($other, 'service=one', 'SELECT current_database()'), 'elsewhere', 'by other sessions, too');
is(ask($client, 'service=two', 'SELECT current_database()'), $db, 'a new service is found');
is(ask($client, 'kept', 'SELECT current_database()'), $db, 'what is connected stays that');
is(outcome($client, q{SELECT dblink_disconnect('kept')}), 'OK', 'until it is given back');
is(ask($other, 'service=one', 'SELECT current_database()'), 'elsewhere',
	'when nobody gets it any more');
is(ask($other, 'service=one', 'SELECT current_database()'), 'elsewhere', 'nor later');
write_services(two => $db);
is(ask($client, 'service=one', 'SELECT 1'), '08001: could not establish connection',
	'a service that is no longer there');
is(ask(session(user => 'regress_one'), 'service=two', 'SELECT 1'), $refused, "its password is the server's own");
wait_for_rest('no lease is left of that');

# --- clean for the next ------------------------------------------------------------------------

# What a session may leave behind, and how it shows.
my %left = (
	'a setting' => [ 'SET work_mem = 77', 'SHOW work_mem' ],
	'a temporary table' => [ 'CREATE TEMP TABLE mine (a int)', q{SELECT count(*) FROM pg_class WHERE relname = ''mine''} ],
	'a prepared statement' => [ 'PREPARE mine AS SELECT 1', 'SELECT count(*) FROM pg_prepared_statements' ],
	'a lock' => [ 'DO $$ BEGIN PERFORM pg_advisory_lock(620); END $$',
		q{SELECT count(*) FROM pg_locks WHERE locktype = ''advisory''} ],
	'a transaction' => [ 'BEGIN; CREATE TABLE never (a int)', q{SELECT count(*) FROM pg_class WHERE relname = ''never''} ],
	'a failed transaction' => [ 'BEGIN; SAVEPOINT s; ROLLBACK; BEGIN ISOLATION LEVEL SERIALIZABLE',
		'SHOW transaction_isolation' ],
	'a cursor' => [ 'DECLARE mine CURSOR WITH HOLD FOR SELECT 1', 'SELECT count(*) FROM pg_cursors' ],
	'a channel' => [ 'LISTEN mine', 'SELECT count(*) FROM pg_listening_channels()' ],
	'a default' => [ 'SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE',
		'SHOW transaction_isolation' ]);
my %clean = map { $_ => ask($client, $conninfo, $left{$_}[1]) } keys %left;
my %ends = (
	dblink_disconnect => sub { $_[0]->query(q{SELECT dblink_disconnect('one')}) },
	'DISCARD ALL' => sub { $_[0]->query('DISCARD ALL') },
	'the end of the session' => sub { $_[0]->hang_up });
foreach my $end (sort keys %ends)
{
	foreach my $what ([ grep { !/transaction|channel/ } sort keys %left ], ['a transaction'])
	{
		my $holder = session();
		my $result = $holder->query("SELECT dblink_connect('one', '$conninfo');"
			  . join ';', map { "SELECT dblink_exec('one', \$sql\$$left{$_}[0]\$sql\$)" } @$what);
		is($result->{error}, undef, "$end: there is " . join ', ', @$what) or diag($result->{message});
		my $used = ask($holder, 'one', $which);
		$ends{$end}->($holder);
		wait_for_rest("$end gives it back");
		# whichever of the idle ones comes: hold all of them, in a session of its own
		my $next = session();
		outcome($next, "SELECT dblink_connect('n' || i, '$conninfo') FROM generate_series(1, 3) AS i");
		my ($again) = grep { ask($next, "n$_", $which) eq $used } 1 .. 3;
		ok($again, "$end: the connection is used again");
		$again //= 1;
		is(ask($next, "n$again", $left{$_}[1]), $clean{$_}, "$end: without $_") for @$what;
		$next->hang_up;
		wait_for_rest('that was that');
	}
}
foreach my $what ('a channel', 'a failed transaction')
{
	my $holder = session();
	$holder->query("SELECT dblink_connect('one', '$conninfo'); SELECT dblink_exec('one', '$left{$what}[0]')");
	$holder->query(q{SELECT * FROM dblink('one', 'SELECT 1/0') AS t(a int)}) if $what =~ /failed/;
	$holder->query(q{SELECT dblink_disconnect('one')});
	wait_for_rest("given back with $what");
	is(ask($holder, $conninfo, $left{$what}[1]), $clean{$what}, "$what is not passed on");
}

# --- where conpool itself is not ------------------------------------------------------------------

$local->safe_psql('postgres', 'CREATE DATABASE without');
$local->safe_psql('without', 'CREATE EXTENSION conpool_dblink');
my $without = session(dbname => 'without');
is(ask($without, $conninfo, 'SELECT 1'), 1, 'a database without the extension conpool');
is(outcome($without, "SELECT dblink_connect('one', '$conninfo'); SELECT dblink_exec('one', 'RESET ALL')"),
	'RESET', 'has all of that');
$without->hang_up;
wait_for_rest('in pools of its own');

$local->append_conf('postgresql.conf', q{shared_preload_libraries = ''});
$local->restart;
my $client_alone = session();
foreach my $call (
	"SELECT dblink_connect('$conninfo')",
	"SELECT dblink_connect('one', '$conninfo')",
	"SELECT dblink_connect_u('one', '$conninfo')",
	"SELECT * FROM dblink('$conninfo', 'SELECT 1') AS t(a int)",
	"SELECT * FROM dblink('srv', 'SELECT 1') AS t(a int)",
	"SELECT dblink_exec('$conninfo', 'RESET ALL')")
{
	my $result = session()->query($call);
	is($result->{error}, '55000', 'without the library: ' . substr $call, 0, 30);
	like("$result->{message} $result->{hint}", qr/conpool.*shared_preload_libraries.*postgresql\.conf/s,
		'it says what is missing');
}
is(outcome(session(), q{SELECT dblink_disconnect('one')}), '08003: connection "one" not available',
	'no connection, of course');
is(outcome(session(), q{SELECT dblink_get_connections()}), 'null', 'and no names');
is(outcome(session(), q{SELECT colname FROM dblink_get_pkey('pg_class')}), 'oid',
	'what needs no connection works');
done_testing();
