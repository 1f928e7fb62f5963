# leak_action 'reclaim' while the pools are busy: those who leak lose their leases,
# everybody else notices nothing, and nothing is lost or counted wrongly.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

my $seconds = 10;
my @servers = qw(one two three);

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'log_statement = none');
setup_local($local, $remote);

sub value
{
	my ($client, $sql) = @_;
	my $result = $client->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return join '|', map { $_ // '' } @{ $result->{rows}[0] // ['no row'] };
}

# Each takes no more than a moment of a second, unless it works: more would be a leak.
$local->safe_psql(
	'postgres', q{
	SELECT test.server(server, $$max_size '6', leak_threshold '1s', leak_action 'reclaim'$$)
		FROM unnest('{one,two,three}'::text[]) AS server;
	CREATE TABLE used (remote_pid int, at timestamptz);
	CREATE TABLE leaked (lease bigint, remote_pid int);

	-- statements that are answered at once
	CREATE FUNCTION short(server text, seconds float8, OUT checkouts int, OUT queries int)
	LANGUAGE plpgsql AS $$
	DECLARE
		until constant timestamptz := clock_timestamp() + seconds * interval '1 s';
		began timestamptz;
		answer int;
		pid int;
	BEGIN
		checkouts := 0;
		WHILE clock_timestamp() < until LOOP
			checkouts := checkouts + 1;
			began := clock_timestamp();
			SELECT * INTO answer, pid FROM conpool.query(server, 'SELECT $1::int, pg_backend_pid()', checkouts)
				AS t(a int, pid int);
			ASSERT answer = checkouts, 'another answer';
			INSERT INTO used VALUES (pid, began);
			PERFORM pg_sleep(0.005);
		END LOOP;
		queries := checkouts;
	END $$;

	-- statements that take longer than leak_threshold
	CREATE FUNCTION long(server text, seconds float8, OUT checkouts int, OUT queries int)
	LANGUAGE plpgsql AS $$
	DECLARE
		until constant timestamptz := clock_timestamp() + seconds * interval '1 s';
	BEGIN
		checkouts := 0;
		WHILE clock_timestamp() < until LOOP
			checkouts := checkouts + 1;
			PERFORM conpool.exec(server, 'SELECT pg_sleep(2.2)');
		END LOOP;
		queries := checkouts;
	END $$;

	-- leases for several statements
	CREATE FUNCTION several(server text, seconds float8, OUT checkouts int, OUT queries int)
	LANGUAGE plpgsql AS $$
	DECLARE
		until constant timestamptz := clock_timestamp() + seconds * interval '1 s';
		lease bigint;
	BEGIN
		checkouts := 0;
		WHILE clock_timestamp() < until LOOP
			checkouts := checkouts + 1;
			lease := conpool.checkout(server, 'session');
			FOR i IN 1 .. 3 LOOP
				PERFORM conpool.exec(lease, 'SELECT 1 FROM pg_sleep(0.005)');
			END LOOP;
			PERFORM conpool.checkin(lease);
		END LOOP;
		queries := 3 * checkouts;
	END $$});

# --- those who leak ---------------------------------------------------------------------

# Two leases at a time, of an idle session and of one that does something else, until
# they are gone; and one of a session that ends.
sub leak
{
	my ($server, $goes_on) = @_;
	my ($watch, $idle, $busy) = map { WireClient->new($local) } 1 .. 3;
	my %count;
	my $take = sub {
		my ($client) = @_;
		my $lease = value($client, "SELECT conpool.checkout('$server', 'session')");
		value($watch,
			"WITH l AS (SELECT remote_pid FROM conpool.leases WHERE lease = $lease)
			 INSERT INTO leaked SELECT $lease, remote_pid FROM l");
		return $lease;
	};
	while ($goes_on->())
	{
		my $leaver = WireClient->new($local);
		value($leaver, "SELECT conpool.checkout('$server', 'session')");
		$leaver->hang_up;
		$count{"$server abandoned"}++;

		my %lease = (busy => $take->($busy));
		$busy->send("SELECT pg_sleep(1000)");
		$lease{idle} = $take->($idle);
		my $deadline = time + 60;
		usleep(20_000)
		  while time < $deadline
		  && value($watch, "SELECT count(*) FROM conpool.leases WHERE lease IN ($lease{busy}, $lease{idle})");
		$busy->cancel;
		$count{"the busy one was ended"}++ unless $busy->result->{error} eq '57014';
		foreach my $how ([ idle => $idle ], [ busy => $busy ])
		{
			my ($name, $client) = @$how;
			my $result = $client->query("SELECT conpool.exec($lease{$name}, 'SELECT 1')");
			my $told = ($result->{error} // '') eq '08003' && ($result->{detail} // '') =~ /^conpool's broker /;
			$count{ $told ? "$server $name" : 'not told: ' . ($result->{error} // 'no error') }++;
		}
	}
	return %count;
}

my @leaking = map { my $server = $_; start_worker(sub { leak($server, @_) }) } @servers;
my %clients;
foreach my $server (@servers)
{
	foreach my $what ('short', 'short', 'short', 'several', 'long')
	{
		my $client = WireClient->new($local);
		$client->send("SELECT * FROM $what('$server', $seconds)");
		push @{ $clients{$server} }, $client;
	}
}

# --- what they have seen ------------------------------------------------------------------

my (%checkouts, %queries);
foreach my $server (@servers)
{
	foreach my $client (@{ $clients{$server} })
	{
		my $result = $client->result;
		is($result->{message}, undef, "$server: a session that does not leak sees no error");
		$checkouts{$server} += $result->{rows}[0][0];
		$queries{$server} += $result->{rows}[0][1];
	}
}
my $leaked = stop_workers(@leaking);
is(join("\n", grep { !/ (idle|busy|abandoned)$/ } sort keys %$leaked), '',
	'who leaks is told so, and of nothing else');

# --- what is left ----------------------------------------------------------------------------

my $watch = WireClient->new($local);
is(value($watch, 'SELECT test.at_rest()'), 't', 'the pools come to rest, their states add up');
foreach my $server (@servers)
{
	my ($idle, $busy, $abandoned) = map { $leaked->{"$server $_"} // 0 } qw(idle busy abandoned);
	my $checkouts = $checkouts{$server} + $idle + $busy + $abandoned;
	my $all = $idle + $busy + $abandoned;
	cmp_ok($_, '>', 1, "$server: several") for $idle, $busy, $abandoned;
	is( value($watch, "SELECT leaks, leaks_idle, leaks_busy, leaks_abandoned, leaks_idle_in_transaction,
					auto_returned FROM conpool.stat_pools WHERE server = '$server'"),
		"$all|$idle|$busy|$abandoned|0|0", "$server: each leak is counted, and nothing else");
	is( value($watch, "SELECT checkouts, checkout_timeouts, checkout_cancels, checkout_failures,
					queries, query_errors FROM conpool.stat_pools WHERE server = '$server'"),
		"$checkouts|0|0|0|$queries{$server}|0",
		"$server: so is each checkout, and each query");
	foreach my $kind ([ wait => $checkouts ], [ checkout => $checkouts ], [ remote => $queries{$server} ])
	{
		is( value($watch, "SELECT sum(count) FROM conpool.stat_latency
						   WHERE server = '$server' AND kind = '$kind->[0]'"),
			$kind->[1], "$server: $kind->[0]: each is in the distribution");
	}
	is( value($watch, "SELECT connects - size FROM conpool.stat_pools
					   JOIN conpool.pools USING (server, database, role) WHERE server = '$server'"),
		$idle + $busy, "$server: what was reclaimed was closed, and nothing else");
	is( value($watch, "SELECT count(*) FILTER (WHERE event = 'reclaimed'),
						count(*) FILTER (WHERE event = 'leak found'), count(*) FILTER (WHERE event = 'leak over')
					   FROM conpool.events WHERE server = '$server'"),
		join('|', $idle + $busy, $all, $all), "$server: each is an event");
	my @lines = slurp_file($local->logfile) =~ /LOG:  reclaimed a leaked connection of pool "$server"/g;
	is(scalar(@lines), $idle + $busy, "$server: and a line in the log");
}

is( value($watch, q{SELECT count(*) FROM leaked
		LEFT JOIN conpool.leaks USING (lease) WHERE outcome IS DISTINCT FROM 'reclaimed'}),
	0, 'each is among the leaks');
is( value($watch, q{SELECT count(*) FROM leaked JOIN conpool.leaks USING (lease)
		JOIN used USING (remote_pid) WHERE at > ended_at}),
	0, 'no connection was used once it was reclaimed');
my $pids = value($watch, 'SELECT string_agg(remote_pid::text, \',\') FROM leaked');
wait_for($remote, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ($pids)",
	'they have all ended');
is(remote_backends($remote), value($watch, 'SELECT sum(size) FROM conpool.pools'),
	'the remote has as many connections as the pools');
my @crashes = slurp_file($local->logfile) =~
  /^.*(?:TRAP:|PANIC:|was terminated by signal|exited with exit code 1\b).*$/mg;
is(join("\n", @crashes), '', 'no process crashed');
note 'figure: leases reclaimed under load = ' . value($watch, 'SELECT count(*) FROM leaked')
  . ' beside ' . value($watch, q{SELECT sum(checkouts) FROM conpool.stat_pools}) . ' checkouts';

done_testing();
