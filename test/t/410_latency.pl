# The distributions of waits, checkouts, connects and remote statements are those
# of durations that the test has measured itself, and count each exactly once,
# whatever sessions, their connections and resets of statistics come to.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(greet);
use List::Util qw(max sum0);
use POSIX qw(ceil);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep usleep);
use WireClient;

# --- the buckets by themselves ------------------------------------------------

my $source = ($ENV{CONPOOL_SETUP} // 'test/setup') . '/../c/histogram_check.c';
my $program = PostgreSQL::Test::Utils::tempdir . '/histogram_check';
my $config = $ENV{PG_CONFIG} // 'pg_config';
chomp(my ($cc, $include) = (`$config --cc`, `$config --includedir-server`));
my @build = (split(' ', $cc), '-O1', '-I', $include, '-o', $program, $source, '-lm');
ok(run_log(\@build), 'test/c/histogram_check.c is built');
my $wrong = `$program`;
is($?, 0, 'src/histogram.c is right') or diag($wrong);

# --- servers --------------------------------------------------------------------

# A remote that takes its time to let anybody in: once each of these, in seconds.
my @delays = ((0.02) x 12, (0.06) x 6, (0.15) x 2);
my $knocks = PostgreSQL::Test::Utils::tempdir . '/knocks';
my $fake = FakeServer->new({
	slow => {
		greeting => sub {
			my ($peer) = @_;
			append_to_file($knocks, '.');
			sleep $delays[ (-s $knocks) - 1 ];
			return greet($peer);
		}
	},
	checked => {
		answer => sub {
			my ($peer, $sql) = @_;
			return $sql !~ /die/ && $peer->send(FakeServer::one_row() . FakeServer::ready());
		},
		sync => sub { sleep 0.15; $_[0]->send(FakeServer::ready()) }
	}
});

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
my $port = $fake->port;
$local->safe_psql(
	'postgres', qq{
	SET client_min_messages = warning;
	CREATE SERVER slow FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '$port', dbname 'slow', reset 'never');
	CREATE SERVER checked FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '$port', dbname 'checked', reset 'never', max_size '2');
	CREATE USER MAPPING FOR CURRENT_USER SERVER slow OPTIONS (user 'u', password 'p');
	CREATE USER MAPPING FOR CURRENT_USER SERVER checked OPTIONS (user 'u', password 'p');

	-- milliseconds
	CREATE FUNCTION test.clock() RETURNS float8 LANGUAGE sql
		AS 'SELECT extract(epoch FROM clock_timestamp()) * 1000';

	-- how long a remote statement takes, seen from outside
	CREATE FUNCTION test.timed(server text, statement text) RETURNS float8 LANGUAGE plpgsql AS \$\$
	DECLARE
		began constant float8 := test.clock();
	BEGIN
		PERFORM conpool.exec(server, statement);
		RETURN test.clock() - began;
	END \$\$;

	-- the same with a new connection each time
	CREATE FUNCTION test.timed_connect(server text) RETURNS float8 LANGUAGE plpgsql AS \$\$
	DECLARE
		taken constant float8 := test.timed(server, 'SELECT 1');
	BEGIN
		PERFORM test.wait_until(format('SELECT idle = 1 FROM conpool.pools WHERE server = %L', server));
		PERFORM conpool.close_idle(server);
		PERFORM test.wait_until(format('SELECT size = 0 FROM conpool.pools WHERE server = %L', server));
		RETURN taken;
	END \$\$;

	-- one lease, and when it was asked for, had, and given back
	CREATE FUNCTION test.turn(server text, hold float8, OUT began float8, OUT got float8,
							  OUT gave float8, OUT done float8) LANGUAGE plpgsql AS \$\$
	DECLARE
		lease bigint;
	BEGIN
		began := test.clock();
		lease := conpool.checkout(server, 'session');
		got := test.clock();
		PERFORM pg_sleep(hold);
		gave := test.clock();
		PERFORM conpool.checkin(lease);
		done := test.clock();
	END \$\$;
});
create_server($local, $remote, $_, options => q{max_size '1', reset 'never'})
  for qw(statements leases queue undone);
my ($watch, $holder, @clients) = map { WireClient->new($local) } 1 .. 12;

sub value
{
	my ($sql, $client) = @_;
	my $result = ($client // $watch)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return join '|', map { $_ // '' } @{ $result->{rows}[0] };
}

sub counted { my ($server, $columns) = @_; return value("SELECT $columns FROM conpool.stat_pools WHERE server = '$server'") }

sub wait_for_value
{
	my ($sql, $name) = @_;
	return wait_until(sub { value($sql) eq 't' }, $name // $sql);
}

sub wait_for_state
{
	my ($server, $condition, $name) = @_;
	return wait_for_value("SELECT $condition FROM conpool.pools WHERE server = '$server'", $name);
}

# --- comparing ------------------------------------------------------------------

my @shares = (0.5, 0.9, 0.95, 0.99);
# Microseconds are cut, and the clock that the server measures with is not
# adjusted as ours is.
my $early = sub { my ($ms) = @_; return $ms * 0.999 - 0.01 };
my $late = sub { my ($ms) = @_; return $ms * 1.001 + 0.01 };

# Each duration was no shorter than one of $least, and no longer than the one of
# $most in the same place, in milliseconds; what is between the two is the
# scheduler's. So, both sorted, the n-th shortest lies between the n-th of each:
# that is what buckets and percentiles are compared with.
sub compare
{
	my ($server, $kind, $least, $most) = @_;
	my @least = sort { $a <=> $b } @$least;
	my @most = sort { $a <=> $b } @$most;
	my $n = @least;
	my $buckets = $watch->query(
		"SELECT le_ms, count, cumulative FROM conpool.stat_latency
		 WHERE server = '$server' AND kind = '$kind'")->{rows};
	my ($sum, $last) = (0, -1);
	my @odd;
	foreach my $bucket (@$buckets)
	{
		my ($le, $count, $cumulative) = @$bucket;
		$sum += $count;
		push @odd, "$le: $count, $cumulative after $last, $sum"
		  unless $count > 0 && $cumulative == $sum && $le > $last;
		$last = $le;
		my $at_least = grep { $late->($_) <= $le } @most;
		my $at_most = grep { $early->($_) <= $le } @least;
		push @odd, "up to $le ms: $cumulative, not $at_least to $at_most"
		  unless $cumulative >= $at_least && $cumulative <= $at_most;
	}
	is($sum, $n, "$kind: each duration is counted");
	is(join("\n", @odd), '', "$kind: in its bucket, cumulated");

	my ($p50, $p90, $p95, $p99, $longest) = split /\|/,
	  counted($server, join ', ', map { "${kind}_$_" } qw(p50 p90 p95 p99 max));
	my @percentiles = ($p50, $p90, $p95, $p99);
	my $worst = 0;
	foreach my $i (0 .. $#shares)
	{
		my $rank = ceil($shares[$i] * $n) - 1;
		my ($from, $to) = ($least[$rank], $most[$rank]);
		ok($percentiles[$i] >= $early->($from) && $percentiles[$i] <= 1.05 * $late->($to),
			sprintf '%s: p%g', $kind, $shares[$i] * 100)
		  or diag("$percentiles[$i] ms, not between $from and $to");
		my $error = max($from - $percentiles[$i], $percentiles[$i] - $to, 0) / $to;
		$worst = $error if $error > $worst;
	}
	ok($longest >= $early->($least[-1]) && $longest <= $late->($most[-1]), "$kind: the longest")
	  or diag("$longest ms, not between $least[-1] and $most[-1]");
	my $total = counted($server, "total_${kind}_time");
	ok($total >= $early->(sum0 @least) - 0.01 * $n && $total <= $late->(sum0 @most), "$kind: the total")
	  or diag("$total ms of $n, not between " . sum0(@least) . ' and ' . sum0(@most));
	my $spread = max(map { my $rank = ceil($_ * $n) - 1; $most[$rank] / $least[$rank] - 1 } @shares);
	note sprintf 'figure: percentiles of %d times of %s are off by up to = %.2f %%, beside %.2f %% for scheduling',
	  $n, $kind, 100 * $worst, 100 * $spread;
	return;
}

# --- remote statements ----------------------------------------------------------

value(q{SELECT conpool.exec('statements', 'SELECT 1')});
value(q{SELECT conpool.reset_stats('statements')});
my @sleeps = ((0.003) x 60, (0.01) x 30, (0.03) x 8, (0.1) x 2);
my (@least, @most);
foreach my $sleep (@sleeps)
{
	push @least, $sleep * 1000;
	push @most, value("SELECT test.timed('statements', 'SELECT pg_sleep($sleep)')");
}
compare('statements', 'remote', \@least, \@most);
is(counted('statements', 'queries'), scalar(@sleeps), 'remote: as many as queries');

# --- leases -----------------------------------------------------------------------

value(q{SELECT * FROM test.turn('leases', 0)});
value(q{SELECT conpool.reset_stats('leases')});
@least = @most = ();
foreach my $hold ((0.004) x 25, (0.02) x 20, (0.07) x 5)
{
	my ($began, $got, $gave, $done) = split /\|/, value("SELECT * FROM test.turn('leases', $hold)");
	push @least, $gave - $got;
	push @most, $done - $began;
}
compare('leases', 'checkout', \@least, \@most);

# --- connects ---------------------------------------------------------------------

@most = map { value(q{SELECT test.timed_connect('slow')}) } @delays;
compare('slow', 'connect', [ map { $_ * 1000 } @delays ], \@most);
is(counted('slow', 'connects'), scalar(@delays), 'connect: as many as connects');
# all of these waited for that
compare('slow', 'wait', [ map { $_ * 1000 } @delays ], \@most);

# --- a queue of known length ------------------------------------------------------

my $before = time;
my $lease = value(q{SELECT conpool.checkout('queue', 'session')}, $holder);
my $since = time;
value(q{SELECT conpool.reset_stats('queue')});
my @seen;    # that it waits
foreach my $i (0 .. $#clients)
{
	$clients[$i]->send('SELECT * FROM test.turn(' . "'queue', 0.02)");
	wait_for_state('queue', 'waiting = ' . ($i + 1));
	push @seen, time;
}
sleep 0.2;
my $released = time;
value("SELECT conpool.checkin($lease)", $holder);
my @turns = map { $_->result->{rows}[0] } @clients;
# how long the first one held it, seen from here
my ($held_least, $held_most) = (1000 * ($released - $since), 1000 * (time - $before));
@least = @most = ();
my (@held_least, @held_most) = ($held_least);
@held_most = ($held_most);
my $free = 1000 * $released;    # not given back before
foreach my $i (0 .. $#turns)
{
	my ($began, $got, $gave, $done) = @{ $turns[$i] };
	push @least, $free - 1000 * $seen[$i];
	push @most, $got - $began;
	push @held_least, $gave - $got;
	push @held_most, $done - $free;
	$free = $gave;
}
compare('queue', 'wait', \@least, \@most);
compare('queue', 'checkout', \@held_least, \@held_most);
is(counted('queue', 'checkouts, waited, peak_waiting'), '10|10|10', 'wait: all had to queue');

# --- a wait is not over before the connection can be used ----------------------

# One of two connections dies, so the other one is asked whether it still lives.
my ($first, $second) =
  map { value(q{SELECT conpool.checkout('checked', 'session')}, $_) } @clients[ 0, 1 ];
is($clients[0]->query("SELECT conpool.exec($first, 'die')")->{error}, '08006', 'a connection dies');
value("SELECT conpool.checkin($first)", $clients[0]);
$first = value(q{SELECT conpool.checkout('checked', 'session')}, $clients[0]);
value(q{SELECT conpool.reset_stats('checked')});
$clients[2]->send(q{SELECT test.timed('checked', 'SELECT 1')});
wait_for_state('checked', 'waiting = 1');
value("SELECT conpool.checkin($second)", $clients[1]);
compare('checked', 'wait', [150], [ $clients[2]->result->{rows}[0][0] ]);
value("SELECT conpool.checkin($first)", $clients[0]);

# --- what was counted too early ---------------------------------------------------

my @stopped;
END { kill 'CONT', @stopped if @stopped; }

# One that is granted a lease when it cannot go on, what happens then, and how
# it goes on: what counts of all that?
sub granted_and
{
	my ($name, $signal, $expected, @then) = @_;
	my $waiter = WireClient->new($local);
	my $held = value(q{SELECT conpool.checkout('undone', 'session')}, $holder);
	value(q{SELECT conpool.reset_stats('undone')});
	$waiter->send(q{SELECT conpool.exec('undone', 'SELECT 1')});
	wait_for_state('undone', 'waiting = 1');
	@stopped = $waiter->{pid};
	kill 'STOP', @stopped;
	value("SELECT conpool.checkin($held)", $holder);
	wait_for_value("SELECT count(*) = 1 FROM conpool.leases WHERE server = 'undone' AND pid = $waiter->{pid}",
		"$name: a grant that is not known yet");
	$_->() for @then;
	kill $signal, @stopped if $signal;
	kill 'CONT', @stopped;
	my $error = $waiter->result->{error};
	@stopped = ();
	$waiter->hang_up;
	is($error, $signal ? '57014' : undef, "$name: how it ends");
	wait_for_state('undone', 'size = idle AND waiting = 0');
	is( counted('undone', 'checkouts, checkout_timeouts, checkout_cancels, queries, discarded,
		total_wait_time >= 0 AND total_checkout_time >= 0'),
		$expected, "$name: what is counted");
	check_sums('undone', $name);
	return;
}

# At rest: each wait is in the distribution, and each statement.
sub check_sums
{
	my ($server, $name) = @_;
	my $of = sub { "(SELECT coalesce(sum(count), 0) FROM conpool.stat_latency WHERE server = s.server AND kind = '$_[0]')" };
	my ($wait, $remote_count, $connect) = map { $of->($_) } qw(wait remote connect);
	is( value("SELECT checkouts + checkout_timeouts + checkout_cancels - $wait, queries - $remote_count, connects - $connect
		 FROM conpool.stat_pools AS s WHERE server = '$server'"),
		'0|0|0',
		"$name: each checkout, query and connect is in its distribution");
	is( value("SELECT count(*) FROM (SELECT count, cumulative, sum(count) OVER (PARTITION BY kind ORDER BY le_ms) AS expected
			FROM conpool.stat_latency WHERE server = '$server') AS l WHERE count <= 0 OR cumulative <> expected"),
		'0',
		"$name: and all are cumulated");
	return;
}

my $reset = sub { value(q{SELECT conpool.reset_stats('undone')}) };
my $cut = sub {
	my $pid = value(q{SELECT remote_pid FROM conpool.connections WHERE server = 'undone'});
	$remote->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 60000)");
};
granted_and('taken up', '', '1|0|0|1|0|t');
granted_and('taken up after a reset', '', '0|0|0|1|0|t', $reset);
granted_and('cancelled', 'INT', '0|0|1|0|0|t');
granted_and('cancelled after a reset', 'INT', '0|0|1|0|0|t', $reset);
granted_and('found dead', '', '1|0|0|1|1|t', $cut);
granted_and('found dead after a reset', '', '1|0|0|1|1|t', $cut, $reset);

# The same when it takes long to learn that, the broker being slow: that is not
# waited for twice. Too slow, and there would be nothing to see.
my $late_client = WireClient->new($local);
my $waited;
for (1 .. 5)
{
	value(q{SELECT conpool.exec('undone', 'SELECT 1')});
	wait_for_state('undone', 'idle = 1');
	value(q{SELECT conpool.reset_stats('undone')});
	@stopped = broker_pid($local);
	kill 'STOP', @stopped;
	$cut->();
	$late_client->send(q{SELECT test.timed('undone', 'SELECT 1')});
	wait_for_value("SELECT count(*) = 1 FROM conpool.leases WHERE pid = $late_client->{pid}");
	sleep 0.3;
	kill 'CONT', @stopped;
	@stopped = ();
	$waited = $late_client->result->{rows}[0][0];
	last if $waited;
}
is(counted('undone', 'checkouts, connects, discarded'), '1|1|1', 'found dead late: another one is opened');
compare('undone', 'wait', [300], [$waited]);

# --- a wild mix -------------------------------------------------------------------

create_server($local, $remote, 'wild',
	user => 'regress_remote_two',
	options => q{max_size '3', max_waiters '3', checkout_timeout '60ms', connect_concurrency '3'});

# One call, of a kind of its own; what came of it.
sub wild_call
{
	my ($client, $kind) = @_;
	my $sleep = rand 0.02;
	my $call = "SELECT conpool.exec('wild', 'SELECT pg_sleep($sleep)')";
	if ($kind eq 'lease')
	{
		$call = q{SELECT conpool.checkout('wild', 'session')};
		my $got = $client->query($call);
		return $got if $got->{error};
		my $id = $got->{rows}[0][0];
		$client->query("SELECT conpool.exec($id, 'SELECT $_')") for 1 .. rand 3;
		$client->query("SELECT conpool.checkin($id)");
		return $got;
	}
	if ($kind eq 'limited')
	{
		$client->query(sprintf 'SET statement_timeout = %d', 1 + rand 20);
		my $got = $client->query($call);
		$client->query('RESET statement_timeout');
		return $got;
	}
	return $client->query($call =~ s/SELECT pg_sleep.*?\)/SELECT 1 \/ 0/r) if $kind eq 'failed';
	$client->send($call);
	if ($kind eq 'cancelled' || $kind eq 'terminated')
	{
		usleep(rand 20_000);
		$kind eq 'cancelled' ? $client->cancel : kill 'TERM', $client->{pid};
	}
	return $client->result;
}

# Sessions that do this until they are stopped; how often what came of it.
sub start_wild
{
	my (@kinds) = @_;
	return map {
		my $seed = $_;
		start_worker(sub {
			my ($goes_on) = @_;
			srand $seed;
			my %count;
			my $client;
			while ($goes_on->())
			{
				$client //= WireClient->new($local);
				my $result = wild_call($client, $kinds[ rand @kinds ]);
				$count{ $result->{error} // 'none' }++;
				usleep(3_000) if ($result->{error} // '') eq '53300';
				$client = undef if $result->{lost} || ($result->{error} // '') eq '57P01';
			}
			return %count;
		})
	} 1 .. 8;
}

# Meanwhile, for that many seconds: connections die, idle or not.
sub run_wild
{
	my ($seconds, $also, @workers) = @_;
	my $end = time + $seconds;
	my $observer = WireClient->new($remote);
	while (time < $end)
	{
		usleep(30_000);
		$observer->query(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE usename = 'regress_remote_two' ORDER BY random() LIMIT 1});
		$also->();
	}
	my $seen = stop_workers(@workers);
	wait_for_value(q{SELECT count(*) = 0 FROM conpool.leases WHERE server = 'wild'});
	wait_for_state('wild', 'leased + waiting + connecting = 0');
	return $seen;
}

# first all that callers can tell one from another
my $seen = run_wild(2, sub { }, start_wild(qw(plain plain lease failed)));
my ($timeouts, $failures) = map { delete $seen->{$_} // 0 } qw(53300 08001);
my $served = sum0 values %$seen;
note "figure: wild mix = $served served, $timeouts turned away for want of time or room, $failures for want of a remote";
cmp_ok($served, '>', 20, 'many are served');
cmp_ok($timeouts, '>', 20, 'many are not');
is(counted('wild', 'checkouts, checkout_timeouts, checkout_cancels, checkout_failures'),
	"$served|$timeouts|0|$failures", 'each is counted as what its caller saw');
check_sums('wild', 'wild mix');
is(value(q{SELECT sum(count) FROM conpool.stat_latency WHERE server = 'wild' AND kind = 'checkout'}),
	$served, 'and each lease as one that has ended');
my $longest = counted('wild', 'wait_max');
is(counted('wild', 'max_wait_time'), $longest, 'both tell the same maximum') unless $failures;

# then with those who give up, and resets
$seen = run_wild(
	3,
	sub {
		value(q{SELECT conpool.reset_stats('wild')}) if rand() < 0.3;
	},
	start_wild(qw(plain lease failed limited cancelled terminated)));
note 'wilder: ', join ', ', map { "$seen->{$_} times $_" } sort keys %$seen;
cmp_ok($seen->{57014} // 0, '>', 20, 'many were cancelled');
cmp_ok($seen->{'57P01'} // 0, '>', 5, 'some were terminated');
check_sums('wild', 'wilder mix with resets');
is( value(q{SELECT count(*) FROM conpool.stat_pools AS s, jsonb_each(to_jsonb(s)) AS c(name, value)
		WHERE CASE jsonb_typeof(value) WHEN 'number' THEN value::text::float8 < 0 END}),
	'0',
	'nothing is less than nothing');
note 'figure: connections found dead by who had got them = ',
  value(q{SELECT count(*) FROM conpool.events WHERE server = 'wild' AND detail = 'found dead'
	AND pid NOT IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'conpool broker')});

done_testing();
