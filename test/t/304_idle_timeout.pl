# Connections that nobody has used for idle_timeout are closed, those unused for
# longest first, down to min_size; others are not.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_loop($local);
create_server($local, $remote, 'kept',
	options => q{min_size '2', max_size '6', idle_timeout '2s'});
create_server($local, $remote, 'never', options => q{max_size '3', idle_timeout '0'});
create_server($local, $remote, 'held', options => q{max_size '2', idle_timeout '1s'});
create_server($local, $remote, 'often', options => q{max_size '1', idle_timeout '2s'});
create_server($local, $remote, 'busy', options => q{max_size '3', idle_timeout '2s'});

my $watcher = WireClient->new($local);

# The first column of a query's rows, or of the only one.
sub value
{
	my ($sql) = @_;
	my @values = map { $_->[0] } @{ $watcher->query($sql)->{rows} };
	return wantarray ? @values : $values[0];
}

# The time, and by remote backend since when the connections of a pool are idle;
# in seconds.
sub idle
{
	my ($server) = @_;
	my $result = $watcher->query(qq{
		SELECT NULL, extract(epoch FROM clock_timestamp())
		UNION ALL
		SELECT remote_pid, extract(epoch FROM idle_since) FROM conpool.connections
		WHERE server = '$server' AND state = 'idle'});
	my ($now, @idle) = @{ $result->{rows} };
	return ($now->[1], map { @$_ } @idle);
}

sub backends
{
	my ($server) = @_;
	return join ' ', value(qq{SELECT remote_pid FROM conpool.connections
		WHERE server = '$server' ORDER BY remote_pid});
}

sub counter
{
	my ($server, $column) = @_;
	return value("SELECT $column FROM conpool.stat_pools WHERE server = '$server'");
}

# A connection of the pool, leased by a session of its own.
sub lease
{
	my ($server) = @_;
	my $client = WireClient->new($local);
	my $id = $client->query("SELECT conpool.checkout('$server', 'session')")->{rows}[0][0];
	my $pid = value("SELECT remote_pid FROM conpool.leases WHERE lease = $id");
	return { client => $client, id => $id, pid => $pid };
}

# Returns when the connection is idle.
sub give_back
{
	my ($lease) = @_;
	$lease->{client}->query("SELECT conpool.checkin($lease->{id})");
	wait_until(sub {
			return !value(qq{SELECT 1 FROM conpool.connections
				WHERE remote_pid = $lease->{pid} AND state <> 'idle'});
		}, 'a connection is given back');
	return;
}

# --- pools that keep what they have, all this time -----------------------------

my @loops = start_loop($local, 'busy', sessions => 3, statement => 'SELECT 1 FROM pg_sleep(0.05)');
wait_for_pool($local, 'busy', 'size = 3', 'all connections of a pool are in use');
my @leases = map { lease('never') } 1 .. 3;
give_back($_) for @leases;
my $never = backends('never');
my ($held, $other) = map { lease('held') } 1 .. 2;
give_back($other);

# --- down to min_size -----------------------------------------------------------

wait_for_pool($local, 'kept', 'idle = 2', 'min_size is there');
@leases = map { lease('kept') } 1 .. 6;
my $connects = counter('kept', 'connects');
give_back($_) for @leases;
my @stays = map { $_->{pid} } @leases[ 4, 5 ];

my ($now, %since) = idle('kept');
my ($early, $misplaced, $oldest) = (0, 0, 0);
wait_until(sub {
		($now, my %left) = idle('kept');
		foreach my $pid (grep { !exists $left{$_} } keys %since)
		{
			my $age = $now - delete $since{$pid};
			$early++ if $age < 1.95;
			$oldest = $age if $age > $oldest;
			$misplaced++ if grep { $_ < $now - $age } values %left;
		}
		return keys %since == 2;
	}, 'what is idle is closed');
is($early, 0, 'not before its time');
is($misplaced, 0, 'what was idle for longest first');
note sprintf 'figure: closed_after_idle_timeout_2s = %.2f s', $oldest;
cmp_ok($oldest, '<', 2 + 4, 'nor much later');

my %used;
wait_until(sub {
		$used{ value(q{SELECT *
			FROM conpool.query('often', 'SELECT pg_backend_pid()') AS t(pid int)}) }++;
		($now, my %left) = idle('kept');
		return !grep { $now - $_ < 5 } values %left;
	}, 'more than once that time passes');
is(backends('kept'), join(' ', sort { $a <=> $b } @stays),
	'the last ones used stay, min_size of them');
is(counter('kept', 'idle_closed'), 4, 'idle_closed counts the others');
is(counter('kept', 'connects'), $connects, 'none was replaced');
count_remote($remote, 2 + 3 + 1 + 1 + 3, 'the remote has seen them go');

# --- who is used stays ------------------------------------------------------------

stop_loop($local);
my $result = finish_loop(@loops);
is($result->{errors}, '', 'the busy pool serves');
is(counter('busy', 'idle_closed'), 0, 'and nothing of it is closed');
is(counter('busy', 'connects'), 3, 'or replaced');
wait_for_pool($local, 'busy', 'size = 0', 'until it is idle');
is(counter('busy', 'idle_closed'), 3, 'which is counted');

is(scalar keys %used, 1, 'what is used now and then stays all the time');

is(backends('held'), $held->{pid}, 'a lease keeps its connection');
is(counter('held', 'idle_closed'), 1, 'the other one of its pool is closed');
give_back($held);
($now, %since) = idle('held');
wait_until(sub {
		($now, my %left) = idle('held');
		return keys %left == 0;
	}, 'after the lease it is closed');
cmp_ok($now - ($since{ $held->{pid} } // $now), '>', 0.95, 'its time counts from there');
is(counter('held', 'idle_closed'), 2, 'it is counted as well');

# --- 0, and a change of it ----------------------------------------------------------

is(backends('never'), $never, 'with 0 nothing is closed');
is(counter('never', 'idle_closed'), 0, 'nor counted');
$local->safe_psql('postgres', q{ALTER SERVER never OPTIONS (SET idle_timeout '1s')});
wait_for_pool($local, 'never', 'size = 0', 'another idle_timeout needs nobody to use the pool');
is(counter('never', 'idle_closed'), 3, 'all are counted');
wait_for_pool($local, 'often', 'size = 0');
count_remote($remote, 2, 'what is left is min_size');

done_testing();
