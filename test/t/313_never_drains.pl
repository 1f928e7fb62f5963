# Connections are killed faster than they can be used, whatever they are just
# doing. Afterwards the pool is back at min_size without anybody asking, and no
# place is lost.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

my $seconds = 3;    # of killing, each time
my $slots = 8;      # one lost would be missed at the end
my $remote = new_remote('remote');
my $local = new_local('local', conf => "conpool.max_connections = $slots\n");
setup_local($local, $remote);
create_server($local, $remote, 'one', options => qq{min_size '4', max_size '$slots'});
my $watch = WireClient->new($local);
my $far = WireClient->new($remote);

my @stopped;
END { kill 'CONT', @stopped if @stopped }

sub row
{
	my ($sql) = @_;
	my $result = $watch->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return @{ $result->{rows}[0] };
}

sub pool { return row("SELECT $_[0] FROM conpool.pools WHERE server = 'one'") }

sub remote_pids
{
	my ($state) = @_;
	my $result = $watch->query(
		"SELECT remote_pid FROM conpool.connections WHERE server = 'one' AND state = '$state'");
	return map { $_->[0] } @{ $result->{rows} };
}

my $closed = 0;    # connections that ended though nothing was wrong with them

# At rest, with as many sessions on the remote as it has connections.
sub is_whole
{
	my ($size) = pool('CASE WHEN idle >= 4 AND size = idle THEN size END');
	return defined $size
	  && $size == $far->query(
		q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'regress_remote'})->{rows}[0][0];
}

# Waits for what happens when nobody asks for anything.
sub check_recovery
{
	my ($what) = @_;
	my $begun = time;
	my ($due) = pool(q{extract(epoch FROM
		greatest(next_attempt, upkeep_next_try, clock_timestamp()) - clock_timestamp())});
	wait_until(\&is_whole, "$what: back at min_size");
	my $taken = time - $begun;
	note sprintf 'figure: %s: until the pool is whole = %.1f s', $what, $taken;
	cmp_ok($taken, '<', $due + 8, "$what: in good time");
	my ($size) = pool('size');
	is(join('|', row(q{SELECT breaker, waiting, upkeep_error, server_size,
			(SELECT count(*) FROM conpool.connections) FROM conpool.pools WHERE server = 'one'})),
		"closed|0||$size|$size", "$what: no place is lost");
	is(join('|', row(q{SELECT connects - discarded, dials <= connects, checkout_timeouts + checkout_cancels
			FROM conpool.stat_pools WHERE server = 'one'})),
		join('|', $size + $closed, 't', 0), "$what: the counters agree");
	return;
}

# Kills all sessions of the pool, again and again.
sub kill_all
{
	my ($goes_on) = @_;
	my $killer = WireClient->new($remote);
	my %count = (killed => 0);
	while ($goes_on->())
	{
		$count{killed} += $killer->query(q{SELECT count(pg_terminate_backend(pid))
			FROM pg_stat_activity WHERE usename = 'regress_remote'})->{rows}[0][0];
		sleep 0.005;
	}
	return %count;
}

wait_for_pool($local, 'one', 'idle = 4', 'the pool is filled');

# --- without callers ----------------------------------------------------------------

my $killer = start_worker(\&kill_all);
sleep $seconds;
my $report = stop_workers($killer);
note "figure: idle: killed in $seconds s = $report->{killed} connections";
cmp_ok($report->{killed}, '>', 8, 'idle: many are killed');
check_recovery('idle');

# --- with callers -------------------------------------------------------------------------

my @load = start_load($local, 12, 'one');
sleep 0.2;
$killer = start_worker(\&kill_all);
sleep $seconds;
$report = stop_workers($killer);
my $calls = stop_workers(@load);
note "figure: in use: killed in $seconds s = $report->{killed} connections";
note 'figure: in use: calls = ', join ', ', map { "$_: $calls->{$_}" } sort keys %$calls;
my $all = 0;
$all += $_ for values %$calls;
is(join("\n", grep { !/^(right$|08006: |08001: )/ } keys %$calls), '',
	'in use: who loses his connection, or gets none, is told');
cmp_ok($report->{killed}, '>', 8, 'in use: many are killed');
cmp_ok($calls->{right}, '>', 100, 'in use: yet there is service');
check_recovery('in use');
is((row(q{SELECT checkouts + checkout_failures FROM conpool.stat_pools WHERE server = 'one'}))[0],
	$all, 'in use: every call is counted once');

# --- while they are reset ----------------------------------------------------------------------

# Sessions of the remote that stand still until they are told to end.
sub stop_sessions { push @stopped, @_; kill 'STOP', @_; return }

sub end_sessions
{
	kill 'TERM', @_;
	kill 'CONT', @_;
	my %ended = map { $_ => 1 } @_;
	@stopped = grep { !$ended{$_} } @stopped;
	return;
}

my @clients = map { WireClient->new($local) } 1 .. $slots;
my @leases = map { $_->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0] } @clients;
my @pids = remote_pids('leased');
is(scalar @pids, $slots, 'all places are in use');
stop_sessions(@pids);
$clients[$_]->query("SELECT conpool.checkin($leases[$_])") for 0 .. $#clients;
is(join('|', pool('resetting, size')), "$slots|$slots", 'all connections are being reset');
end_sessions(@pids);
check_recovery('resetting');

# --- while they are checked -----------------------------------------------------------------------

@pids = remote_pids('idle');
stop_sessions(@pids);
$local->safe_psql('postgres', q{ALTER SERVER one OPTIONS (ADD validate_interval '100ms')});
my $validating = 0;
wait_until(
	sub {
		my @now = remote_pids('validating');
		$validating += @now;
		end_sessions(@now);
		return !@stopped;
	},
	'connections are being checked');
is($validating, 4, 'all that were there');
$local->safe_psql('postgres', q{ALTER SERVER one OPTIONS (SET validate_interval '0')});
check_recovery('validating');

# --- while they are opened ------------------------------------------------------------------------

# Has sessions of the remote wait for a second, or not, when they begin.
sub set_delay
{
	my ($name, $delay) = @_;
	my $loaded = 'SELECT pg_conf_load_time()';
	my $before = $far->query($loaded)->{rows}[0][0];
	$far->query("ALTER SYSTEM SET $name = $delay");
	$far->query('SELECT pg_reload_conf()');
	wait_until(sub { $far->query($loaded)->{rows}[0][0] ne $before }, "$name is $delay");
	return;
}

# The first are killed before they say anything. The others do not look at
# their signals until they have said that they are ready.
my ($untitled) = $remote->data_dir =~ m{([^/]+)$};
foreach my $case ([ 'pre_auth_delay', $untitled, 3 ], [ 'post_auth_delay', 'startup', 5 ])
{
	my ($name, $title, $enough) = @$case;
	my $opened = q{SELECT connects, connect_failures FROM conpool.stat_pools WHERE server = 'one'};
	my ($connects, $failures) = row($opened);
	set_delay($name, 1);
	$closed += (row(q{SELECT conpool.close_idle('one')}))[0];
	my %killed;
	wait_until(
		sub {
			my @new = grep { !$killed{$_}++ } server_processes($remote, $title);
			kill 'TERM', @new;
			my @now = row($opened);
			return ($name eq 'pre_auth_delay' ? $now[1] - $failures : $now[0] - $connects) >= $enough;
		},
		"$name: connections are killed while they are opened");
	cmp_ok(scalar(keys %killed), '>=', $enough, "$name: each of them");
	set_delay($name, 0);
	check_recovery($name);
}

# --- no place is lost ---------------------------------------------------------------------------------

@leases = map { $_->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0] } @clients;
is(scalar(grep { defined } @leases), $slots, 'all places can be used');
is(scalar(remote_pids('leased')), $slots, 'each once');
$_->query('SELECT conpool.checkin(' . shift(@leases) . ')') for @clients;
wait_until(sub { (pool('idle'))[0] == $slots }, 'and given back');

done_testing();
