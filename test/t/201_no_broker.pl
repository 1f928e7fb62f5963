# Without a broker queries work on connections of their own, within the limits
# of the pool. There is none for as long as the postmaster is stopped, for it
# cannot start a new one; sessions go on meanwhile.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'one',
	options => q{max_size '2', checkout_timeout '20s'});

my $postmaster;
END { kill 'CONT', $postmaster if $postmaster; }

my ($a, $b, $c, $observer) = map { WireClient->new($local) } 1 .. 4;
my $remote_observer = WireClient->new($remote);

sub wait_for_value
{
	my ($client, $query, $name) = @_;
	return wait_until(sub { ($client->query($query)->{rows}[0][0] // '') eq 't' },
		$name);
}

sub wait_for_one
{
	my ($condition, $name) = @_;
	return wait_for_value($observer,
		"SELECT $condition FROM conpool.pools WHERE server = 'one'",
		$name // "pool one: $condition");
}

sub wait_for_backends
{
	my ($expected, $name) = @_;
	return wait_for_value(
		$remote_observer,
		"SELECT count(*) = $expected FROM pg_stat_activity
		 WHERE usename = 'regress_remote'",
		$name // "the remote has $expected backends");
}

my $query = q{SELECT * FROM conpool.query('one', 'SELECT 1') AS t(a int)};
my $warning =
  q{WARNING: conpool's broker is not running: connections are not shared};

# c has an idle connection in its cache, a holds a lease
my $lease = $a->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0];
is($c->query($query)->{rows}[0][0], '1', 'a query');
wait_for_one('idle = 1 AND leased = 1');

my $broker = broker_pid($local);
$postmaster = $local->{_pid};
kill 'STOP', $postmaster;
kill 'TERM', $broker;
wait_for_one(q{broker = 'not running' AND size = 1 AND leased = 1},
	'the broker is gone, and the idle connection with it');
wait_for_backends(1);

is($a->query("SELECT * FROM conpool.query($lease, 'SELECT 2') AS t(a int)")->{rows}[0][0],
	'2', 'a lease goes on');

my $result = $b->query($query);
is($result->{rows}[0][0], '1', 'a query opens a connection');
is_deeply($result->{notices}, [$warning], 'with a warning');
wait_for_one('size = 1', 'which ends with it');
wait_for_backends(1);
$result = $b->query($query);
is($result->{rows}[0][0], '1', 'the next query does, too');
is_deeply($result->{notices}, [], 'without a warning');
is($c->query($query)->{rows}[0][0], '1', 'what a session has adopted is of no use now');

# the limits hold
$result = $b->query(q{SELECT conpool.checkout('one', 'session')});
my $unshared = $result->{rows}[0][0];
ok($unshared, 'a checkout');
wait_for_one('size = 2 AND leased = 2 AND unshared = 1', 'is unshared');
$result = $c->query(q{SELECT conpool.checkout('one', 'session', '100ms')});
is($result->{error}, '53300', 'no more connections than max_size');

# what is given back, is ended, and its place goes to the next in the queue
$c->send($query);
wait_for_one('waiting = 1');
$a->query("SELECT conpool.checkin($lease)");
is($c->result->{rows}[0][0], '1', 'a waiter gets the place of what is given back');
wait_for_one('size = 1 AND unshared = 1');
$b->query("SELECT conpool.checkin($unshared)");
wait_for_one('size = 0 AND unshared = 0', 'all slots are free');
wait_for_backends(0);

# a lease that ends after the broker is back can be shared again
$lease = $a->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0];
kill 'CONT', $postmaster;
undef $postmaster;
wait_for_one(q{broker = 'running'}, 'there is a new broker');
$a->query("SELECT conpool.checkin($lease)");
wait_for_one('size = 0', 'what was unshared stays so');
$result = $b->query($query);
is_deeply([ $result->{rows}[0][0], @{ $result->{notices} } ],
	['1'], 'a query, without warning');
wait_for_one('size = 1 AND idle = 1 AND unshared = 0', 'is shared again');

done_testing();
