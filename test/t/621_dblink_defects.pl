# What dblink does badly and conpool_dblink does not: COPY spins, a statement that is
# cancelled here goes on remotely, DISCARD ALL leaves connections behind.
use strict;
use warnings;

use Carp;
use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
$remote->safe_psql($ConpoolTest::remote_db, q{
	CREATE TABLE items (id int);
	INSERT INTO items SELECT generate_series(1, 10000);
	GRANT ALL ON items TO PUBLIC});
my $port = $remote->port;
$local->safe_psql('postgres', qq{
	CREATE EXTENSION conpool_dblink;
	CREATE SERVER srv FOREIGN DATA WRAPPER dblink_fdw
		OPTIONS (host '127.0.0.1', port '$port', dbname '$ConpoolTest::remote_db');
	CREATE USER MAPPING FOR PUBLIC SERVER srv
		OPTIONS (user 'regress_remote', password '$ConpoolTest::password{regress_remote}')});
my $conninfo = conninfo($remote);

my $sleep = 'SELECT pg_sleep(1000)';
my $running = q{FROM pg_stat_activity WHERE wait_event = 'PgSleep'};

# Sessions have what is open on the remote: "one" and the unnamed connection.
sub session
{
	my $client = WireClient->new($local);
	my $result = $client->query(
		qq{SELECT dblink_connect('one', '$conninfo'), dblink_connect('srv');
		SELECT dblink_exec('one', 'CREATE TEMP TABLE kept (a int); INSERT INTO kept VALUES (7)')});
	is($result->{error}, undef, 'a session connects');
	return $client;
}

# Waits until as many of the sleeps run.
sub wait_for_running
{
	my ($count, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($remote, "SELECT count(*) = $count $running", $name);
}

# Waits until nobody holds a connection, and all that are open are idle.
sub wait_for_rest
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($local, q{SELECT sum(size) = sum(idle) AND NOT EXISTS (SELECT FROM conpool.leases)
		FROM conpool.pools}, $name);
}

# What a statement brings, of which the last value counts, or its error.
sub outcome
{
	my ($client, $sql) = @_;
	my $result = $client->query($sql);
	return $result->{error} ? "$result->{error}: $result->{message}" :
	  join ',', map { $_ // 'null' } @{ $result->{rows}[-1] // ['nothing'] };
}

# --- COPY -------------------------------------------------------------------------------

# Opens both connections anew: COPY has cost them the remote session.
sub connect_anew
{
	my ($client) = @_;
	$client->query(q{SELECT dblink_disconnect('one')});
	my $result = $client->query(qq{SELECT dblink_connect('one', '$conninfo'), dblink_connect('srv')});
	return $result->{error} ? croak($result->{message}) : ();
}

# A reply comes at all, or WireClient dies, and it is an error.
my $client = session();
my %on = (unnamed => '', named => q{'one', }, server => q{'srv', }, string => qq{'$conninfo', });
foreach my $copy ('COPY items TO STDOUT', 'COPY items FROM STDIN',
	'SELECT 1; COPY items TO STDOUT; SELECT 2', 'BEGIN; COPY items FROM STDIN; COMMIT')
{
	foreach my $where (sort keys %on)
	{
		my $args = "$on{$where}'$copy'";
		foreach my $sql ("SELECT * FROM dblink($args) AS t(a text)", "SELECT dblink_exec($args)")
		{
			my $result = $client->query($sql);
			is($result->{error}, '0A000', ($sql =~ /(dblink\w*)/)[0] . ", $where: $copy");
			connect_anew($client) unless $where =~ /server|string/;
		}
	}
	my $result = $client->query(qq{SELECT dblink_send_query('one', '$copy')});
	is($result->{rows}[0][0], 1, "sent: $copy");
	my @errors = grep { defined }
	  map { $client->query(q{SELECT * FROM dblink_get_result('one') AS t(a text)})->{error} } 1 .. 4;
	is("@errors", '0A000', 'one error comes of that, then the end');
	connect_anew($client);
}
foreach my $sql ("SELECT * FROM dblink('one', 'COPY items TO STDOUT', false) AS t(a text)",
	"SELECT dblink_exec('one', 'COPY items FROM STDIN', false)")
{
	my $result = $client->query($sql);
	is($result->{error}, undef, "$sql: no error");
	like("@{ $result->{notices} }", qr/^NOTICE: .*COPY/, 'but a notice');
	connect_anew($client);
}
is($remote->safe_psql($ConpoolTest::remote_db, 'SELECT count(*) FROM items'), 10000,
	'nothing was copied in');
is(outcome($client, q{SELECT * FROM dblink('one', 'SELECT 5') AS t(a int)}), 5,
	'what was opened anew works');
wait_for($remote, q{SELECT count(*) = 0 FROM pg_stat_activity
	WHERE usename = 'regress_remote' AND state <> 'idle'}, 'nothing is left running');
$client->hang_up;
wait_for_rest('nor is a lease left');

# --- cancel -----------------------------------------------------------------------------

# The remote statement ends, too, and what it ran on can be used, with its state.
my %run = (
	'dblink, named' => "SELECT * FROM dblink('one', '$sleep') AS t(a text)",
	'dblink, unnamed' => "SELECT * FROM dblink('$sleep') AS t(a text)",
	'dblink, server' => "SELECT * FROM dblink('srv', '$sleep') AS t(a text)",
	'dblink, connection string' => "SELECT * FROM dblink('$conninfo', '$sleep') AS t(a text)",
	'dblink, a notice wanted' => "SELECT * FROM dblink('one', '$sleep', false) AS t(a text)",
	'dblink_exec' => "SELECT dblink_exec('one', 'DO \$\$ BEGIN PERFORM pg_sleep(1000); END \$\$')",
	'dblink_fetch' => "SELECT dblink_open('one', 'c', '$sleep');
		SELECT * FROM dblink_fetch('one', 'c', 1) AS t(a text)",
	'dblink_get_result' => "SELECT dblink_send_query('one', '$sleep');
		SELECT * FROM dblink_get_result('one') AS t(a text)",
	'in a remote transaction' => "SELECT dblink_exec('one', 'BEGIN');
		SELECT * FROM dblink('one', '$sleep') AS t(a text)",
	'in a local transaction' => "BEGIN; SELECT * FROM dblink('one', '$sleep') AS t(a text)",
	'in an exception block' => "DO \$\$ BEGIN
		PERFORM * FROM dblink('one', '$sleep') AS t(a text);
		EXCEPTION WHEN division_by_zero THEN NULL; END \$\$");

sub is_usable
{
	my ($client, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$client->query('ROLLBACK');
	$client->query(q{SELECT dblink_exec('one', 'ROLLBACK')});
	is(outcome($client, q{SELECT * FROM dblink('one', 'SELECT a FROM kept') AS t(a int)}), 7,
		"$name: the named connection is what it was");
	is(outcome($client, q{SELECT * FROM dblink('SELECT 8') AS t(a int)}), 8, "$name: so is the unnamed one");
	return;
}

foreach my $name (sort keys %run)
{
	$client = session();
	$client->send($run{$name});
	wait_for_running(1, "$name: the remote statement runs");
	$client->cancel;
	my $result = $client->result;
	is($result->{error}, '57014', "$name: it is cancelled");
	is($result->{message}, 'canceling statement due to user request', 'by the user');
	wait_for_running(0, "$name: remotely, too");
	is_usable($client, $name);
	$client->hang_up;
}

$client = session();
my $result = $client->query("SET statement_timeout = 300; $run{'dblink, named'}");
is($result->{message}, 'canceling statement due to statement timeout', 'statement_timeout ends it');
wait_for_running(0, 'remotely, too');
$client->query('RESET statement_timeout');
is_usable($client, 'statement_timeout');

# Sessions that end in the middle.
$client->send($run{'dblink, named'});
wait_for_running(1, 'it runs again');
$local->safe_psql('postgres', "SELECT pg_terminate_backend($client->{pid})");
is($client->result->{error}, '57P01', 'the session is ended');
wait_for_running(0, 'so is the remote statement');
wait_for_rest('what was borrowed, and held, is back');

# --- DISCARD ALL ------------------------------------------------------------------------

$client = session();
is(outcome($client, qq{SELECT dblink_connect('two', 'srv'), dblink_connect('three', 'srv');
	SELECT dblink_send_query('two', '$sleep'); SELECT dblink_open('three', 'c', 'SELECT 1')}),
	'OK', 'more of them, one with a query on its way, one in a transaction');
wait_for_running(1, 'the query runs');
is($local->safe_psql('postgres', 'SELECT count(*) FROM conpool.leases'), 4, 'four leases');
is(outcome($client, 'DISCARD ALL'), 'nothing', 'DISCARD ALL');
is(outcome($client, 'SELECT dblink_get_connections()'), 'null', 'no names are left');
wait_for_running(0, 'the query has been stopped');
wait_for_rest('all are back in their pools');
is(outcome($client, q{SELECT * FROM dblink('one', 'SELECT 1') AS t(a int)}),
	'08001: could not establish connection', 'a name stands for nothing');
is(outcome($client, q{SELECT * FROM dblink('SELECT 1') AS t(a int)}),
	'08003: connection not available', 'neither is there an unnamed one');
is(outcome($client, qq{SELECT dblink_connect('one', '$conninfo'), dblink_connect('srv')}), 'OK,OK',
	'names are free again');
like(outcome($client, q{SELECT * FROM dblink('one', 'SELECT a FROM kept') AS t(a int)}),
	qr/^42P01: relation "kept" does not exist/, 'nothing of the former ones is left');
my $opened = $local->safe_psql('postgres', 'SELECT sum(connects) FROM conpool.stat_pools');
$client->query('DISCARD ALL');
wait_for_rest('a second time');
is(outcome($client, qq{SELECT dblink_connect('one', '$conninfo'), dblink_connect('srv')}), 'OK,OK',
	'anew');
is($local->safe_psql('postgres', 'SELECT sum(connects) FROM conpool.stat_pools'), $opened,
	'with the connections that were there');
$client->hang_up;
wait_for_rest('and back');

# --- the end of a session with queries on their way ---------------------------------------

my %ending = (
	'disconnects' => sub { $_[0]->query('SELECT dblink_disconnect(a) FROM unnest(dblink_get_connections()) AS a'); },
	'hangs up' => sub { $_[0]->hang_up; },
	'is terminated' => sub {
		$local->safe_psql('postgres', "SELECT pg_terminate_backend($_[0]{pid}, 60000)");
	},
	'is done' => sub { $_[0]->_put('X' . pack 'N', 4); });
foreach my $how (sort keys %ending)
{
	$client = session();
	is(outcome($client, qq{SELECT dblink_connect('two', 'srv');
		SELECT dblink_send_query('one', '$sleep'), dblink_send_query('two', '$sleep')}), '1,1',
			'two queries are sent');
	wait_for_running(2, 'and run');
	$ending{$how}->($client);
	wait_for_running(0, "a session that $how: they are stopped");
	$client->hang_up;
	wait_for_rest('and their connections are back');
}

done_testing();
