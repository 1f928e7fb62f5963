# An abort takes a few seconds at most, however many connections there are that somebody
# keeps waiting: a broker that does not answer, remotes that hang on every savepoint.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

# What one of them is waited for is 2 s, and a fraction of a second for each of the
# others.
my $soon = 7;
my $opened = 60;    # connections, with the broker stopped
my $levels = 8;     # savepoints

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'kept', options => q{max_size '70'});
create_server($local, $remote, 's' . $_, options => q{pool_mode 'transaction'}) for 1 .. $levels;

my @stopped;
END { kill 'CONT', @stopped if @stopped; }

sub stop
{
	push @stopped, @_;
	return kill 'STOP', @_;
}

# Rolls back; how long that took.
sub roll_back
{
	my ($client, $what) = @_;
	my $start = time;
	my $result = $client->query('ROLLBACK');
	my $took = time - $start;
	is($result->{error}, undef, "$what: is rolled back");
	note sprintf 'figure: rollback, %s = %.2f s', $what, $took;
	cmp_ok($took, '<', $soon, "$what: soon");
	return;
}

# --- a broker that does not answer ----------------------------------------------

my $broker = broker_pid($local);
is(stop($broker), 1, 'the broker is stopped');
my $client = WireClient->new($local);
$client->query('BEGIN');
is($client->query(
		"SELECT count(conpool.checkout('kept', 'transaction')) FROM generate_series(1, $opened)")
	  ->{rows}[0][0], $opened, 'leases can be had');
count_remote($remote, $opened, 'connections were opened without the broker');
roll_back($client, 'the broker is stopped');
is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.leases}), 0, 'no lease is left');
count_remote($remote, 0, 'connections that nobody took over are closed');
kill 'CONT', splice @stopped;
wait_for_pool($local, 'kept', 'size = 0', 'their places come free');
is($client->query(q{SELECT conpool.exec('kept', 'SELECT 1')})->{error}, undef, 'the pool works');

# --- a remote that hangs on every level -----------------------------------------

my %pid;
$client->query('BEGIN');
foreach my $level (1 .. $levels)
{
	$client->query("SAVEPOINT s$level");
	$pid{$level} = $client->query(
		"SELECT * FROM conpool.query('s$level', 'SELECT pg_backend_pid()') AS t(pid int)")
	  ->{rows}[0][0];
}
is(stop(values %pid), $levels, 'a remote backend hangs on every level');
roll_back($client, "$levels levels hang");
is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.leases}), 0, 'no lease is left');
is($client->query(q{SELECT conpool.exec('kept', 'SELECT 1')})->{error}, undef, 'the session goes on');
kill 'CONT', splice @stopped;
wait_for($local, q{SELECT sum(leased + closing + resetting) = 0 FROM conpool.pools},
	'all pools are at rest');
is($client->query(q{SELECT conpool.exec('s1', 'SELECT 1')})->{error}, undef, 'the pools work');

done_testing();
