# The clock of the server's machine jumps an hour forward, and back: nothing is
# closed for that, nobody wakes late or early, and the views show sound times.
# Only the local server's clock is changed: test/c/clock_shift.c.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC CLOCK_REALTIME);
use WireClient;

my $library = PostgreSQL::Test::Utils::tempdir . '/clock_shift.so';
my $shift = PostgreSQL::Test::Utils::tempdir . '/shift';
my $source = ($ENV{CONPOOL_SETUP} // 'test/setup') . '/../c/clock_shift.c';
chomp(my $cc = `$ENV{PG_CONFIG} --cc`);
system(split(' ', $cc), '-shared', '-fPIC', '-o', $library, $source) == 0
  or plan skip_all => 'test/c/clock_shift.c could not be built';

# Sets the server's clock, for all its processes, so many seconds ahead.
sub set_clock
{
	my ($ahead) = @_;
	open my $file, -e $shift ? '+<' : '>', $shift or die "$shift: $!";
	syswrite $file, pack('q', $ahead);
	close $file;
	return;
}

set_clock(0);
my $remote = new_remote('remote');
my $local = new_local('local', start => 0, conf => "conpool.validate_interval = 3min\nlog_timezone = UTC");
{
	local %ENV = (%ENV, LD_PRELOAD => $library, CLOCK_SHIFT => $shift);
	$local->start;
}
setup_local($local, $remote);

# Three that nothing happens to in minutes ...
my $minutes = q{idle_timeout '5min', max_lifetime '20min', leak_threshold '3min'};
create_server($local, $remote, 'kept', options => "min_size '2', $minutes");
create_server($local, $remote, 'idle',
	user => 'regress_remote_two',
	options => "max_size '3', $minutes");
create_server($local, $remote, 'tight', options => "max_size '1', $minutes");
my $quiet = q{server IN ('kept', 'idle', 'tight')};
# ... and four in which something does all the time, beside load
create_server($local, $remote, 'checked', options => q{min_size '1', validate_interval '300ms'});
create_server($local, $remote, 'young',
	user => 'regress_remote_admin',
	options => q{min_size '1', max_lifetime '2s', validate_interval '0'});
create_server($local, $remote, 'brief', options => q{idle_timeout '4s', leak_threshold '4s'});
create_server($local, $remote, 'loaded', options => q{max_size '2'});

sub now { return clock_gettime(CLOCK_MONOTONIC) }

# By how much the server's clock is ahead, in seconds.
sub ahead
{
	return $local->safe_psql('postgres',
		sprintf 'SELECT round(extract(epoch FROM clock_timestamp()) - %f)',
		clock_gettime(CLOCK_REALTIME));
}

# Is the broker's clock that of the sessions? It has the time written to the log.
sub broker_is_with_us
{
	my $log = -s $local->logfile;
	my $pid = broker_pid($local);
	my $line = qr/^(\S+ \S+ UTC) \[$pid\] .*LOG:  logging memory contexts/m;
	$local->safe_psql('postgres', "SELECT pg_log_backend_memory_contexts($pid)");
	$local->wait_for_log($line, $log);
	my ($then) = slurp_file($local->logfile, $log) =~ $line;
	return $local->safe_psql('postgres',
		"SELECT clock_timestamp() BETWEEN '$then' AND timestamptz '$then' + interval '1min'");
}

sub connections
{
	my ($where) = @_;
	return $local->safe_psql('postgres',
		"SELECT string_agg(remote_pid::text, ',' ORDER BY remote_pid)
		 FROM conpool.connections WHERE $where");
}

# Waits until a counter of a server's pool has grown by that.
sub grows
{
	my ($server, $column, $from, $by, $name) = @_;
	return wait_for($local,
		"SELECT $column >= $from + $by FROM conpool.stat_pools WHERE server = '$server'", $name);
}

sub counter
{
	my ($server, $column) = @_;
	return $local->safe_psql('postgres',
		"SELECT $column FROM conpool.stat_pools WHERE server = '$server'");
}

# All times that the views show, but those that are too far from the clock's.
# (stats_reset, and what is told of leaks that are over, is what the clock showed
# then.)
sub times_that_cannot_be
{
	my $rows = join ' UNION ALL ',
	  map { "SELECT '$_' AS view, to_jsonb(v) AS columns FROM conpool.$_ v" }
	  qw(pools connections leases waiters leaks stat_pools);
	return $local->safe_psql(
		'postgres', qq{
		SELECT view, columns ->> 'server', key, value, clock_timestamp()
		FROM ($rows) AS r, jsonb_each_text(columns)
		WHERE value ~ '^\\d+-\\d\\d-\\d\\dT' AND key <> 'stats_reset' AND
			columns ->> 'outcome' IS NULL AND
			CASE WHEN key IN ('expires_at', 'next_attempt', 'upkeep_next_try')
				 THEN value::timestamptz NOT BETWEEN clock_timestamp() - interval '5 min'
						AND clock_timestamp() + interval '31 min'
				 ELSE value::timestamptz NOT BETWEEN clock_timestamp() - interval '5 min'
						AND clock_timestamp() + interval '1 s' END});
}

my $users = WireClient->new($local);
my $holder = WireClient->new($local);
my $checkout = q{SELECT conpool.checkout('%s', 'session', '%s')};
$users->query(sprintf $checkout, 'idle', '20s') for 1 .. 3;
$users->query(q{SELECT conpool.checkin(lease) FROM conpool.leases});
my $lease = $holder->query(sprintf $checkout, 'tight', '20s')->{rows}[0][0];
$users->query(q{SELECT conpool.exec('brief', 'SELECT 1')});
wait_for_pool($local, 'idle', 'idle = 3');
wait_for_pool($local, 'kept', 'idle = 2');
wait_for_pool($local, 'brief', 'size = 0');
my $broker = broker_pid($local);

foreach my $jump ('forward', 'back')
{
	# --- before: sessions that wait, connections whose time is running

	my ($patient, $impatient, $leaker) = map { WireClient->new($local) } 1 .. 3;
	my $before = connections($quiet);
	my ($expired, $closed, $leaks, $checks) = (
		counter('young', 'expired'),
		counter('brief', 'idle_closed'),
		counter('brief', 'leaks'),
		counter('checked', 'validations'));
	my @load = start_load($local, 2, 'loaded');

	# a remote that is not there, and a breaker that tries again
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	$local->safe_psql(
		'postgres', qq{
		CREATE SERVER broken_$jump FOREIGN DATA WRAPPER conpool
			OPTIONS (host '127.0.0.1', port '$port', min_size '1');
		CREATE USER MAPPING FOR CURRENT_USER SERVER broken_$jump OPTIONS (user 'u')});
	wait_for_pool($local, "broken_$jump", 'failures >= 1');

	$patient->send(sprintf $checkout, 'tight', '1min');
	wait_for_pool($local, 'tight', 'waiting = 1');
	my $leaked = $leaker->query(sprintf $checkout, 'brief', '20s')->{rows}[0][0];
	my $used = now();
	$users->query(q{SELECT conpool.exec('brief', 'SELECT 1')});
	$impatient->send(sprintf $checkout, 'tight', '5s');
	is(counter('brief', 'idle_closed + leaks'), $closed + $leaks, "$jump: nothing happens yet");

	# --- the jump

	my $jumped = now();
	set_clock($jump eq 'forward' ? 3600 : 0);
	cmp_ok(abs(ahead() - ($jump eq 'forward' ? 3600 : 0)), '<=', 60, "$jump: the clock jumps");
	is(broker_is_with_us(), 't', "$jump: that of the broker, too");

	# at least two ticks
	grows('checked', 'validations', counter('checked', 'validations'), 3,
		"$jump: connections are checked");
	my $early = $local->safe_psql('postgres',
		q{SELECT idle_closed, leaks FROM conpool.stat_pools WHERE server = 'brief'});
	if (now() < $used + 3.9)
	{
		is($early, "$closed|$leaks", "$jump: nothing is closed, or a leak, too early");
	}
	else
	{
		note "$jump: too slow to see what happens too early";
	}

	# --- after: all in its time

	my $result = $impatient->result;
	is($result->{error}, '53300', "$jump: a session runs out of time");
	my $time = now() - $used;
	cmp_ok($time, '>=', 4.9, "$jump: not early");
	cmp_ok($time, '<', 20, "$jump: nor late");
	note sprintf 'figure: a wait of 5 s over a jump %s = %.2f s', $jump, $time;
	grows('brief', 'idle_closed', $closed, 1, "$jump: idle_timeout is seen");
	grows('brief', 'leaks', $leaks, 1, "$jump: leak_threshold is seen");
	cmp_ok(now() - $used, '<', 20, "$jump: before long");
	$expired = counter('young', 'expired');
	grows('young', 'expired', $expired, 1, "$jump: max_lifetime is seen");
	my $failures =
	  $local->safe_psql('postgres', "SELECT failures FROM conpool.pools WHERE server = 'broken_$jump'");
	cmp_ok($failures, '>=', 3, "$jump: the breaker tries again");

	is(times_that_cannot_be(), '', "$jump: the views show sound times");
	is(connections($quiet), $before, "$jump: no connection is closed");
	is( $local->safe_psql(
			'postgres',
			"SELECT sum(idle_closed + expired + leaks + discarded + validations)
			 FROM conpool.stat_pools WHERE $quiet"),
		0,
		"$jump: nor checked, nor a lease a leak");

	# --- what is asked for works

	wait_for_pool($local, 'tight', 'waiting = 1', "$jump: a session with more time still waits");
	$holder->query("SELECT conpool.checkin($lease)");
	ok($lease = $patient->result->{rows}[0][0], "$jump: it gets what comes free");
	$holder->hang_up;
	$holder = $patient;
	$leaker->query("SELECT conpool.checkin($leaked)");
	$local->safe_psql('postgres', "DROP SERVER broken_$jump CASCADE");
	my $old = connections(q{server = 'kept'});
	$remote->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM unnest('{$old}'::int[]) pid");
	$time = now();
	wait_for($local, qq{SELECT count(*) = 2 FROM conpool.connections
		WHERE server = 'kept' AND state = 'idle' AND remote_pid NOT IN ($old)},
		"$jump: lost connections are replaced");
	cmp_ok(now() - $time, '<', 15, "$jump: before long");
	$local->safe_psql('postgres', q{SELECT conpool.reset_stats('kept')});
	my $seen = stop_workers(@load);
	cmp_ok(delete $seen->{right}, '>', 0, "$jump: load goes on");
	is_deeply($seen, {}, "$jump: without an error");
	is(broker_pid($local), $broker, "$jump: so does the broker");
}

done_testing();
