# The broker ends and comes back: connections that nobody uses are lost with
# it, leased ones go on and come back to the pool, and so does every slot.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'one',
	options => q{max_size '3', checkout_timeout '20s'});

my $holder = WireClient->new($local);
my $other = WireClient->new($local);

# The first column of the first row.
sub value
{
	my ($client, $sql) = @_;
	my $result = $client->query($sql);
	diag("$result->{error}: $result->{message}") if $result->{error};
	return $result->{rows}[0][0];
}

sub checkout
{
	my ($client) = @_;
	return value($client, q{SELECT conpool.checkout('one', 'session')});
}

# Ends the broker and waits for the next one.
sub restart_broker
{
	my ($how) = @_;
	my $old = broker_pid($local);
	kill 'TERM', $old;
	wait_for(
		$local,
		qq{SELECT count(*) = 1 FROM pg_stat_activity, conpool.pools
		   WHERE backend_type = 'conpool broker' AND pid <> $old
		   AND server = 'one' AND broker = 'running'},
		"there is a new broker $how");
	return;
}

my $remote_pid = q{SELECT * FROM conpool.query(%s, 'SELECT pg_backend_pid()') AS t(pid int)};

# --- idle and leased connections

my $lease = checkout($holder);
my $pid = value($holder, sprintf $remote_pid, $lease);
my @more = map { checkout($other) } 1 .. 2;
value($other, "SELECT conpool.checkin($_)") for @more;
wait_for_pool($local, 'one', 'idle = 2 AND leased = 1');

my $broker = broker_pid($local);
kill 'INT', $broker;
is(value($holder, sprintf $remote_pid, $lease), $pid, 'a query on the lease');
is(broker_pid($local), $broker, 'a cancel does nothing to the broker');

restart_broker('after the first end');
count_remote($remote, 1, 'idle connections ended with the old broker',
	'regress_remote');
wait_for_pool($local, 'one', 'size = 1 AND leased = 1',
	'their slots are free');
is(value($holder, sprintf $remote_pid, $lease),
	$pid, 'the leased connection goes on');

restart_broker('after the second end');
is(value($holder, sprintf $remote_pid, $lease),
	$pid, 'the leased connection goes on');
value($holder, "SELECT conpool.checkin($lease)");
wait_for_pool($local, 'one', 'size = 1 AND idle = 1',
	'it comes back to the pool');
is(value($other, sprintf $remote_pid, q{'one'}),
	$pid, 'and serves the next session');

# --- a lease of scope statement that is in use meanwhile

$holder->send(
	q{SELECT * FROM conpool.query('one', 'SELECT 1 FROM pg_sleep(3)') AS t(a int)}
);
wait_for_pool($local, 'one', 'leased = 1');
restart_broker('while a statement runs');
is($holder->result->{rows}[0][0], '1', 'the statement ends well');
wait_for_pool($local, 'one', 'size = 1 AND idle = 1',
	'its connection comes back to the pool');
is(value($other, sprintf $remote_pid, q{'one'}),
	$pid, 'and serves the next session');

# --- a connection that is being reset: a lock on its temporary table makes
# that last

my $locker = WireClient->new($remote, dbname => 'conpool_remote');
$lease = checkout($holder);
value($holder, "SELECT conpool.exec($lease, 'CREATE TEMP TABLE stuff ()')");
my $table = value($holder,
	"SELECT * FROM conpool.query($lease, 'SELECT format(''%I.stuff'', nspname) FROM pg_namespace WHERE oid = pg_my_temp_schema()') AS t(name text)"
);
$locker->query("BEGIN; LOCK TABLE $table IN ACCESS SHARE MODE");
value($holder, "SELECT conpool.checkin($lease)");
wait_for_pool($local, 'one', 'size = 1 AND resetting = 1');
$other->send(q{SELECT * FROM conpool.query('one', 'SELECT 1') AS t(a int)});
is($other->result->{rows}[0][0], '1', 'others get another connection');
restart_broker('while a connection is reset');
wait_for_pool($local, 'one', 'size = 0', 'its slot is free');
$locker->query('ROLLBACK');
count_remote($remote, 0, 'it has ended', 'regress_remote');

# --- the pool has all its places

@more = map { checkout($other) } 1 .. 3;
my $result = $holder->query(q{SELECT conpool.checkout('one', 'session', '100ms')});
is($result->{error}, '53300', 'three connections, and not a fourth');
value($other, "SELECT conpool.checkin($_)") for @more;
wait_for_pool($local, 'one', 'size = 3 AND idle = 3');

# --- a restart with a queue

@more = map { checkout($other) } 1 .. 3;
$holder->send(q{SELECT conpool.checkout('one', 'session')});
wait_for_pool($local, 'one', 'waiting = 1');
restart_broker('while a session waits');
value($other, "SELECT conpool.checkin($more[0])");
ok($holder->result->{rows}[0][0], 'it gets its connection');

done_testing();
