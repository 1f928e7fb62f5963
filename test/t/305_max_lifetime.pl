# Connections are closed at the age of max_lifetime or up to a tenth before: never
# all at once, never while they are leased, and nobody who uses the pool notices.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(sleep);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'max_connections = 60');
setup_local($local, $remote);
create_loop($local);

my $watcher = WireClient->new($local);

# The first column of a query's rows, or of the only one.
sub value
{
	my ($sql) = @_;
	my @values = map { $_->[0] } @{ $watcher->query($sql)->{rows} };
	return wantarray ? @values : $values[0];
}

sub counter
{
	my ($server, $column) = @_;
	return value("SELECT $column FROM conpool.stat_pools WHERE server = '$server'");
}

# Opens as many connections of a pool, one right after the other.
sub open_together
{
	my ($server, $count) = @_;
	my $client = WireClient->new($local);
	$client->query('BEGIN');
	$client->query("SELECT conpool.checkout('$server') FROM generate_series(1, $count)");
	$client->query('COMMIT');
	$client->hang_up;
	return wait_for_pool($local, $server, "idle = $count");
}

# --- what is opened together ends at different times ---------------------------

my $minutes = 30;
create_server($local, $remote, 'spread',
	options => qq{max_size '20', max_lifetime '${minutes}min'});
open_together('spread', 20);
my $ages = $watcher->query(q{
	SELECT min(lifetime), max(lifetime), max(end_at) - min(end_at)
	FROM (SELECT extract(epoch FROM expires_at - opened_at) AS lifetime,
				 extract(epoch FROM expires_at) AS end_at
		  FROM conpool.connections WHERE server = 'spread') AS c});
my ($first, $last, $spread) = map { 100 * $_ / 60 / $minutes } @{ $ages->{rows}[0] };
note sprintf 'figure: expiry_spread_20_connections = %.1f %% of max_lifetime', $spread;
cmp_ok($spread, '>', 5, 'their ends are far apart');
cmp_ok($first, '>=', 89.9, 'none is a tenth too early');
cmp_ok($last, '<=', 100.1, 'none is late');
is(counter('spread', 'expired'), 0, 'none has come to its end yet');

# --- what is leased stays ---------------------------------------------------------

create_server($local, $remote, 'leased', options => q{max_size '2', max_lifetime '2s'});
my $holder = WireClient->new($local);
my $lease = $holder->query(q{SELECT conpool.checkout('leased', 'session')})->{rows}[0][0];
my $whose = "SELECT * FROM conpool.query($lease, 'SELECT pg_backend_pid()') AS t(pid int)";
my $pid = $holder->query($whose)->{rows}[0][0];
my $runner = WireClient->new($local);
$runner->send(join ';', map { "SELECT * FROM conpool.query('leased',
	'SELECT pg_backend_pid() FROM pg_sleep($_)') AS t(pid int)" } 4, 0);

# --- a setting made shorter --------------------------------------------------------

# Of these pools all connections are over their time at once: one that nobody
# uses, one that nobody uses but that is kept full, and one all of whose
# connections are in use.
my %size = (unused => 12, kept => 12, used => 8);
my $unlimited = q{max_lifetime '0'};
create_server($local, $remote, 'unused', options => "max_size '12', $unlimited");
create_server($local, $remote, 'kept', options => "min_size '12', max_size '12', $unlimited");
create_server($local, $remote, 'used', options => "max_size '8', $unlimited");
open_together('unused', $size{unused});
wait_for_pool($local, 'kept', 'idle = 12', 'min_size is there');
my @loops = start_loop($local, 'used', sessions => 8, statement => 'SELECT 1 FROM pg_sleep(0.02)');
wait_for_pool($local, 'used', 'size = 8', 'all are in use');
is(value(q{SELECT count(expires_at) FROM conpool.connections
		   WHERE server IN ('unused', 'kept', 'used')}), 0, 'with 0 there is no end');

wait_for($local, q{SELECT count(*) = 32 FROM conpool.connections
	WHERE server IN ('unused', 'kept', 'used')
	AND clock_timestamp() - opened_at > interval '3 s'}, 'they grow old');
is(join(' ', map { counter($_, 'expired') } sort keys %size), '0 0 0', 'and stay');
my $connects = counter('used', 'connects');
my $before = value('SELECT clock_timestamp()');

# How many of the old ones are left, each number with a time before and one after
# it was true, in seconds.
my %left = map { $_ => [] } keys %size;
my $samples = 0;
my $owner = WireClient->new($local);
$owner->send(join ';',
	map { "ALTER SERVER $_ OPTIONS (SET max_lifetime '3s')" } sort keys %size);
my $end = value('SELECT extract(epoch FROM clock_timestamp()) + 2.5');
while (1)
{
	my @row = @{ $watcher->query(join ' ', 'SELECT extract(epoch FROM clock_timestamp()),',
		(map { "(SELECT count(*) FROM conpool.connections WHERE server = '$_'
				 AND opened_at < '$before' AND state <> 'closing')," } sort keys %size),
		'extract(epoch FROM clock_timestamp())')->{rows}[0] };
	my ($from, $to) = @row[ 0, -1 ];
	push @{ $left{ (sort keys %size)[ $_ - 1 ] } }, [ $from, $row[$_], $to ] for 1 .. 3;
	$samples++;
	last if $from > $end;
	sleep 0.02;
}
is($owner->result->{error}, undef, 'the setting is changed');
note "figure: samples_in_2.5_s = $samples samples";
foreach my $server (sort keys %size)
{
	my @samples = @{ $left{$server} };
	my $worst = 0;
	foreach my $i (0 .. $#samples)
	{
		foreach my $j (reverse 0 .. $i - 1)
		{
			# less than a tick apart, and that is between two ticks at least
			last if $samples[$i][2] - $samples[$j][0] > 0.9;
			my $gone = $samples[$j][1] - $samples[$i][1];
			$worst = $gone if $gone > $worst;
		}
	}
	note "figure: closed_at_a_time_of_$size{$server}_$server = $worst connections";
	cmp_ok($worst, '<=', $size{$server} / 4, "$server: a quarter at a time, at most");
	cmp_ok($samples[-1][1], '<=', $size{$server} * 0.7, "$server: but they go");
	# that is three times a quarter at most
	my ($last) = grep { $_->[2] <= $end } reverse @samples;
	cmp_ok($last->[1], '>', 0, "$server: after a while some are left");
}

wait_for_pool($local, 'unused', 'size = 0', 'an unused pool ends up empty');
is(counter('unused', 'expired'), 12, 'expired counts each');
is(counter('unused', 'idle_closed'), 0, 'as nothing else');
wait_until(sub { counter('kept', 'expired') >= 24 }, 'one that is kept full goes on to be renewed');
wait_for_pool($local, 'kept', 'size = 12 AND idle = 12', 'and is full again');

stop_loop($local);
my $result = finish_loop(@loops);
is($result->{errors}, '', 'who uses a pool meanwhile sees no error');
note sprintf 'figure: longest_statement_of_20_ms = %.0f ms', 1000 * $result->{longest};
cmp_ok($result->{longest}, '<', 2, 'nor does anybody wait for long');
cmp_ok(counter('used', 'expired'), '>=', 8, 'though all connections were replaced');
cmp_ok(counter('used', 'connects') - $connects, '>=', 8, 'by new ones');

# --- the leases ----------------------------------------------------------------------

is($holder->query($whose)->{rows}[0][0], $pid, 'a lease keeps its connection beyond its time');
is(value(q{SELECT count(*) FROM conpool.connections WHERE server = 'leased'
		   AND state = 'leased' AND expires_at < clock_timestamp()}), 1, 'which is over');
my $done = $runner->result;
is($done->{error}, undef, 'a statement that goes on beyond it comes to its end');
my ($other, $next) = map { $_->[0] } @{ $done->{rows} };
isnt($next, $other, 'the one after it has another connection');
wait_for_pool($local, 'leased', 'size = 1', 'whose time ends while it is idle');
is(counter('leased', 'expired'), 2, 'both are counted');
$holder->query("SELECT conpool.checkin($lease)");
wait_for_pool($local, 'leased', 'size = 0', 'the one of the lease is closed at checkin');
is(counter('leased', 'expired'), 3, 'and counted');
wait_for($remote, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ($pid, $other)",
	'the remote has seen them go');

done_testing();
