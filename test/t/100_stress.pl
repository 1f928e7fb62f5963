# 64 sessions, a pool of 4, and everything that can go wrong for 30 seconds:
# remote errors, timeouts, cancels, clients that hang up, sessions and remote
# backends that are terminated. No answer goes to the wrong session, no
# statement runs twice, nothing is left behind, every counter adds up, and the
# remote never sees a fifth session.
#
# With CONPOOL_TLS in the environment all of this goes through a tunnel, which
# does not grow; CONPOOL_STRESS is another number of seconds.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

my $sessions = 64;
my $size = 4;
my $seconds = $ENV{CONPOOL_STRESS} || 30;
my $role = 'regress_stress';    # the local role of all sessions

my $tls = $ENV{CONPOOL_TLS} ? Certificates->new : undef;
my $remote = new_remote('remote',
	conf => "log_connections = on\nmax_connections = 40\n", tls => $tls);
my $local = new_local('local', conf => 'max_connections = 250');
setup_local($local, $remote);

# The remote itself refuses a fifth session, also while one is on its way out:
# a backend counts until it has gone.
$remote->safe_psql('conpool_remote', qq{
	ALTER ROLE regress_remote CONNECTION LIMIT $size;
	CREATE TABLE inserted (id bigint PRIMARY KEY);
	ALTER TABLE inserted OWNER TO regress_remote;
	CREATE TABLE stop ();
	CREATE TABLE seen (most int, samples int);
});
$local->safe_psql('postgres', qq{
	CREATE ROLE $role LOGIN;
	CREATE TABLE stop ();
	CREATE TABLE seen (wrong int, samples int);
});
create_server($local, $remote, 'stress',
	for => $role,
	options => "max_size '$size', checkout_timeout '1s'");
$local->safe_psql('postgres', "GRANT USAGE ON FOREIGN SERVER stress TO $role");

# --- processes beside this one ----------------------------------------------

# Runs code in a child; returns where to read what it returns, name => number.
sub start
{
	my ($code) = @_;
	pipe(my $from, my $to) or die "pipe: $!";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		my %report = eval { $code->() };
		$report{"died: $@"} = 1 if $@;
		print $to map { "$_\t$report{$_}\n" } keys %report;
		close $to;
		POSIX::_exit(0);
	}
	close $to;
	return $from;
}

# Reads such reports to their end and adds them up.
sub add_up
{
	my %sum;
	foreach my $from (@_)
	{
		while (my $line = <$from>)
		{
			my ($name, $number) = $line =~ /^(.*)\t(\d+)$/ or next;
			$sum{$name} += $number;
		}
	}
	wait() for @_;
	return \%sum;
}

# --- one session ------------------------------------------------------------

my $end;       # when to stop
my $client;    # the connection with the local server
my %count;     # what this session knows of what it did
my $serial;    # makes every parameter unique

# A session of its own, also when the last one has been terminated.
sub connect_local
{
	until ($client = eval { WireClient->new($local, user => $role) })
	{
		die $@ if time > $end + 30;
		sleep 0.05;
	}
	return;
}

# What may happen to any statement here, or follow from it in a transaction.
my %expected = map { $_ => 1 } qw(
  22012 25P01 25P02 3B001 53300 57014 57P01 08001 08003 08006);

# Counts the outcome of a statement, and of the lease that it takes, if any.
#   takes => 1    takes one lease; a failed one is certain to have got one
#                 (22012, 08006), or none (53300), else it is in between
#   runs => 1     runs one remote statement
#   rows => n     which gives n rows if it succeeds
sub account
{
	my ($result, %of) = @_;
	my $error = $result->{lost} ? 'lost' : $result->{error} // '';
	my $ran = $error eq '' || $error eq '22012' || ($of{takes} && $error eq '08006');

	$count{"unexpected $error $result->{message}"}++
	  unless $error eq '' || $error eq 'lost' || $expected{$error};
	$count{errors}++ if $ran && $error ne '';
	$count{resets} += $of{resets} if $of{resets} && $error eq '';
	if ($of{takes})
	{
		my $what =
		    $ran ? 'checkouts'
		  : $error eq '53300' ? 'timeouts'
		  : $error eq '08001' ? 'failures'
		  : 'unknown';
		$count{$what}++;
	}
	if ($of{runs})
	{
		$count{ $ran ? 'queries' : 'queries_unknown' }++;
		$count{ $error eq '' ? 'rows' : 'rows_unknown' } += $of{rows} // 0;
	}
	connect_local() if $result->{lost};
	return $error eq '';
}

# A statement that must answer with its own parameter, from a clean session.
sub check
{
	my ($on, $tag, %of) = @_;
	my $n = ++$serial;
	my $result = $client->query(
		"SELECT * FROM conpool.query($on,
		 'SELECT \$1 * 7, coalesce(current_setting(''stress.tag'', true), '''')', ${n}::bigint)
		 AS t(n bigint, tag text)");
	my $ok = account($result, runs => 1, rows => 1, %of);
	$count{sprintf 'mixed up: %s %s instead of %s %s', @{ $result->{rows}[0] }, $n * 7, $tag}++
	  if $ok && "@{ $result->{rows}[0] }" ne $n * 7 . " $tag";
	return $ok;
}

# Takes an explicit lease; its id, or undef.
sub checkout
{
	my ($scope, $timeout) = @_;
	my $result = $client->query("SELECT conpool.checkout('stress', '$scope', $timeout)");
	return account($result, takes => 1) ? $result->{rows}[0][0] : undef;
}

# Plain SQL here.
sub local_sql
{
	my ($sql, %of) = @_;
	return account($client->query($sql), %of);
}

my $sleep = q{SELECT conpool.exec('stress', 'SELECT pg_sleep(0.2)')};

# What a session does, and how often.
my %actions = (
	lookup => [ 80, sub { check("'stress'", '', takes => 1) } ],
	insert => [
		10, sub {
			my $done = local_sql('SELECT conpool.exec(\'stress\',
				\'INSERT INTO inserted VALUES ($1)\', ' . ++$serial . ')',
				takes => 1, runs => 1, rows => 1);
			$count{ $done ? 'inserted' : 'inserted_unknown' }++;
		}
	],
	rows => [
		3, sub {
			local_sql(q{SELECT sum(n) FROM conpool.query('stress',
				'SELECT * FROM generate_series(1, 2000)') AS t(n int)},
				takes => 1, runs => 1, rows => 2000);
		}
	],
	error => [
		6, sub {
			local_sql(q{SELECT conpool.exec('stress', 'SELECT 1/0')},
				takes => 1, runs => 1);
		}
	],
	caught_error => [
		5, sub {
			local_sql(q{DO $$ BEGIN
					PERFORM conpool.exec('stress', 'SELECT 1/0');
				EXCEPTION WHEN division_by_zero THEN NULL;
				END $$}, takes => 1);
			$count{queries_unknown}++;
		}
	],
	setting => [
		3, sub {
			local_sql(q{SELECT conpool.exec('stress', 'SET stress.tag = 1')},
				takes => 1, runs => 1, resets => 1);
		}
	],
	timeout => [
		3, sub {
			local_sql('SET statement_timeout = 15');
			local_sql($sleep, takes => 1, runs => 1, rows => 1);
			local_sql('SET statement_timeout = 0');
		}
	],
	cancel => [
		3, sub {
			$client->send($sleep);
			sleep rand 0.03;
			$client->cancel;
			account($client->result, takes => 1, runs => 1, rows => 1);
		}
	],
	hang_up => [
		2, sub {
			$client->send($sleep);
			sleep rand 0.03;
			$client->hang_up;
			account({ lost => 1 }, takes => 1, runs => 1, rows => 1);
		}
	],
	# not worth much patience
	impatient => [ 4, sub { checkout('transaction', q{'5 ms'}) } ],
	savepoint => [
		6, sub {
			local_sql('BEGIN');
			my $first = checkout('transaction', 'NULL');
			local_sql('SAVEPOINT s');
			my $second = defined $first && checkout('transaction', q{'50 ms'});
			check($second, '') if $second;
			local_sql('ROLLBACK TO s');
			check($first, '') if defined $first;
			local_sql(rand() < 0.5 ? 'COMMIT' : 'ROLLBACK');
		}
	],
	session_lease => [
		5, sub {
			my $lease = checkout('session', 'NULL') // return;
			my $tag = ++$serial;
			if (local_sql("SELECT conpool.exec($lease, 'SET stress.tag = $tag')", runs => 1))
			{
				check($lease, $tag);
				local_sql('BEGIN; SELECT 1/0');    # a local abort does not end it
				local_sql('ROLLBACK');
				check($lease, $tag);
			}
			# some leave it to the end of the session
			if (rand() < 0.1)
			{
				$client->hang_up;
				$count{hang_ups}++;
				connect_local();
			}
			else
			{
				local_sql("SELECT conpool.checkin($lease)", resets => 1);
			}
		}
	],
	# closed at checkin, and long in closing: that counts until it is over
	listen => [
		3, sub {
			my $lease = checkout('session', 'NULL') // return;
			local_sql("SELECT conpool.exec($lease, 'LISTEN stress')", runs => 1);
			local_sql(qq{SELECT conpool.exec($lease, \$\$
				DO 'BEGIN FOR i IN 1 .. 50 LOOP
					EXECUTE ''CREATE TEMP TABLE t'' || i || ''()'';
				END LOOP; END' \$\$)}, runs => 1);
			local_sql("SELECT conpool.checkin($lease)");
		}
	],
	open_transaction => [
		3, sub {
			my $lease = checkout('session', 'NULL') // return;
			local_sql("SELECT conpool.exec($lease, 'BEGIN')", runs => 1);
			local_sql("SELECT conpool.checkin($lease)", resets => 1);
		}
	],);

my @choices = map { ($_) x $actions{$_}[0] } sort keys %actions;

sub session
{
	my ($number) = @_;
	srand $number;
	$serial = $number * 1_000_000_000;
	connect_local();
	while (time < $end)
	{
		$actions{ $choices[ rand @choices ] }[1]->();
		# a lease that a failed checkin left behind ends here
		$count{discards}++ if rand() < 0.02 && local_sql('DISCARD ALL');
	}
	$client->hang_up;
	return %count;
}

# --- those who disturb and those who watch ----------------------------------

# Does one thing to one of the sessions of a role, again and again.
sub disturb
{
	my ($node, $user, $function, $pause) = @_;
	my $done = 0;
	my $admin = WireClient->new($node);
	while (time < $end)
	{
		my $result = $admin->query("SELECT $function(pid) FROM pg_stat_activity
			WHERE usename = '$user' AND state = 'active' ORDER BY random() LIMIT 1");
		$done += @{ $result->{rows} };
		sleep $pause;
	}
	return ("$function on " . $node->name => $done);
}

# Looks with a query every few milliseconds until the table "stop" has a row.
sub watch
{
	my ($node, $dbname, $expression, $pause) = @_;
	my $result = WireClient->new($node, dbname => $dbname)->query(qq{
		DO \$\$ DECLARE
			most int := 0;
			n int := 0;
		BEGIN
			LOOP
				PERFORM pg_stat_clear_snapshot();
				most := greatest(most, $expression);
				n := n + 1;
				EXIT WHEN EXISTS (SELECT FROM stop);
				PERFORM pg_sleep($pause);
			END LOOP;
			INSERT INTO seen VALUES (most, n);
		END \$\$});
	return defined $result->{error} ? ("watch: $result->{message}" => 1) : ();
}

# --- the broker, from outside -----------------------------------------------

my $broker = $local->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'conpool broker'});

# The sockets it has; of some it has two descriptors.
sub broker_sockets
{
	my %seen;
	/^socket:/ and $seen{$_}++ for map { readlink($_) // '' } glob "/proc/$broker/fd/*";
	return wantarray ? values %seen : scalar keys %seen;
}

# Beside it: all there is of tunnels, if there are any.
my $tunnel = $tls && $local->safe_psql('postgres', 'SELECT pid FROM conpool.tunnels');

sub tunnel_files
{
	return scalar(() = glob "/proc/$tunnel/fd/*");
}

# --- the run ----------------------------------------------------------------

# The broker's first reset leaves it a socket that it keeps for good.
my $query = q{SELECT conpool.exec('stress', 'SET stress.tag = 1')};
my $at_rest = q{SELECT idle = size AND waiting = 0 FROM conpool.pools WHERE server = 'stress'};
$local->safe_psql('postgres', "GRANT $role TO postgres; SET ROLE $role; $query");
wait_for($local, $at_rest, 'the first connection is open');
$local->safe_psql('postgres', q{SELECT conpool.reset_stats('stress')});
my $log_start = -s $remote->logfile;
my $has_proc = -d "/proc/$broker/fd";
my $sockets = $has_proc && scalar(broker_sockets()) - 1;
my $files = $has_proc && $tls && tunnel_files();

$end = time + $seconds;
my @watchers = (
	start(sub {
		watch($remote, 'conpool_remote', q{(SELECT count(*) FROM pg_stat_activity
			WHERE usename = 'regress_remote')}, 0.002) }),
	start(sub {
		watch($local, 'postgres', qq{(SELECT count(*) FROM conpool.pools
			WHERE server = 'stress' AND (size > $size OR size <>
				idle + leased + connecting + resetting + validating + closing OR
				unshared > 0))}, 0.01) }));
my @others = (
	start(sub { disturb($remote, 'regress_remote', 'pg_terminate_backend', 0.3) }),
	start(sub { disturb($local, $role, 'pg_cancel_backend', 0.1) }),
	start(sub { disturb($local, $role, 'pg_terminate_backend', 0.5) }));
my @sessions = map { my $n = $_; start(sub { session($n) }) } 1 .. $sessions;

sleep 5;
my %memory = $has_proc ? map { $_ => process_memory($_) } $broker, $tunnel // () : ();
my $did = add_up(@sessions);
my $done = add_up(@others);

# --- what is left -----------------------------------------------------------

wait_for($local, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '$role'",
	'all sessions end');
wait_for($local, $at_rest, 'the pool comes to rest');

$_->safe_psql($_ == $remote ? 'conpool_remote' : 'postgres', 'INSERT INTO stop DEFAULT VALUES')
  for $remote, $local;
my $watched = add_up(@watchers);
is(join(', ', sort keys %$watched), '', 'the watchers saw the end');

is(join("\n", grep { /^(unexpected|mixed up|died)/ } sort keys %$did), '',
	'no answer was mixed up, no error was unexpected');
is(join("\n", grep { /^died/ } sort keys %$done), '', 'those who disturb lived');
cmp_ok($_->[1], '>', 0, "$_->[0] happened")
  for (map { [ $_ => $done->{$_} ] } sort keys %$done),
  map { [ $_ => $did->{$_} // 0 ] }
  qw(checkouts timeouts unknown errors rows inserted hang_ups discards);

is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.leases}),
	0, 'no lease is held');
is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.waiters}),
	0, 'nobody waits');
# One that was terminated last is found dead before long.
my $open;
wait_until(
	sub {
		$open = $local->safe_psql('postgres',
			q{SELECT size FROM conpool.pools WHERE server = 'stress'});
		return remote_backends($remote, 'regress_remote') == $open;
	}, 'the remote has as many connections as the pool');
cmp_ok($open, '<=', $size, 'which are not too many');

my ($most, $samples) = split /\|/,
  $remote->safe_psql('conpool_remote', 'SELECT most, samples FROM seen');
is($most, $size, 'the remote had all of its sessions, and never more');
cmp_ok($samples, '>', 20 * $seconds, 'it was looked at often enough');
ok(slurp_file($remote->logfile) !~ /too many connections for role/,
	'it never had to refuse one');
my ($wrong, $looks) = split /\|/, $local->safe_psql('postgres', 'SELECT wrong, samples FROM seen');
is($wrong, 0, "the pool's size was right at each look, and all of it shared");
cmp_ok($looks, '>', 5 * $seconds, 'and there were enough of them');

# --- the counters -----------------------------------------------------------

my %stat;
my @columns = qw(checkouts checkout_timeouts checkout_cancels waited connects
  connect_failures queries query_errors rows discarded resets leaks);
@stat{@columns} = split /\|/, $local->safe_psql('postgres',
	'SELECT ' . join(',', @columns) . q{ FROM conpool.stat_pools WHERE server = 'stress'});
note explain { sessions => $did, others => $done, statistics => \%stat };

# From what the sessions know for certain up to all that they do not know: a
# statement that was cancelled or cut off may have had its lease or not.
sub between
{
	my ($value, $known, $unknown, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($known <= $value && $value <= $known + $unknown, "$name adds up")
	  or diag("$value is not between $known and $known + $unknown");
	return;
}
my %d = map { $_ => $did->{$_} // 0 } keys %$did;
my $unknown = $d{unknown};
between($stat{checkouts}, $d{checkouts}, $unknown, 'checkouts');
between($stat{checkout_timeouts}, $d{timeouts}, $unknown, 'checkout_timeouts');
between($stat{checkout_cancels}, 0, $unknown, 'checkout_cancels');
between($stat{checkouts} + $stat{checkout_timeouts} + $stat{checkout_cancels},
	$d{checkouts} + $d{timeouts}, $unknown, 'the sum of these');
between($stat{connect_failures}, $d{failures} // 0, $unknown + $d{timeouts},
	'connect_failures');
between($stat{waited}, 1, $stat{checkouts} + $stat{checkout_timeouts} +
	$stat{checkout_cancels} + $stat{connect_failures}, 'waited');
between($stat{queries}, $d{queries}, $d{queries_unknown}, 'queries');
between($stat{query_errors}, $d{errors}, $d{queries_unknown} + $unknown, 'query_errors');
between($stat{rows}, $d{rows}, $d{rows_unknown}, 'rows');
between($stat{resets}, $d{resets}, $stat{checkouts} - $d{resets}, 'resets');
between($stat{leaks}, 1, $d{hang_ups} + $unknown, 'leaks');
between($stat{discarded}, 1, $stat{connects}, 'discarded');
my $inserted = $remote->safe_psql('conpool_remote', 'SELECT count(*) FROM inserted');
between($inserted, $d{inserted}, $d{inserted_unknown}, 'what was inserted');
my $logins = () =
  slurp_file($remote->logfile, $log_start) =~ /connection authorized: user=regress_remote database/g;
between($logins, $stat{connects},
	$stat{connect_failures} + $stat{checkout_cancels} + $stat{checkout_timeouts},
	'the number of logins');
is( $local->safe_psql('postgres', q{SELECT total_wait_time >= max_wait_time AND
		total_checkout_time >= max_checkout_time AND max_checkout_time > 0
		FROM conpool.stat_pools WHERE server = 'stress'}), 't', 'so do the times');

# --- the processes ----------------------------------------------------------

my @crashes = slurp_file($local->logfile) =~
  /^.*(?:TRAP:|PANIC:|was terminated by signal|exited with exit code 1\b).*$/mg;
is(join("\n", @crashes), '', 'no process crashed');
SKIP:
{
	skip 'there is no /proc', 3 unless $has_proc;
	is(scalar(broker_sockets()), $sockets + $open, 'the broker has the pooled sockets, and no others');
	is(join(', ', grep { $_ > 2 } broker_sockets()), '', 'by no more than two descriptors each');
	cmp_ok(process_memory($broker)->{own} - $memory{$broker}{own}, '<', 4096, 'and did not grow');
}
SKIP:
{
	skip 'not over TLS', 6 unless $tls;
	is($local->safe_psql('postgres', q{SELECT tunnelled FROM conpool.pools WHERE server = 'stress'}),
		$open, 'all connections go through a tunnel');
	wait_for($local, "SELECT pid = $tunnel AND connections = $open FROM conpool.tunnels",
		'which is the one that was there, and has no others');
	my $in_clear = () = slurp_file($remote->logfile, $log_start) =~
	  /connection authorized: user=regress_remote database(?!.* SSL enabled)/g;
	is($in_clear, 0, 'nobody has logged in without TLS');
	cmp_ok($local->safe_psql('postgres', 'SELECT sum(opened) FROM conpool.tunnels'),
		'>=', $stat{connects}, 'all of them by way of the tunnel');
	skip 'there is no /proc', 2 unless $has_proc;
	my ($was, $is) = ($memory{$tunnel}, process_memory($tunnel));
	diag("figure: tunnel, memory before = $was->{all} kB (of its own $was->{own} kB, share $was->{share} kB)");
	diag("figure: tunnel, memory after $logins connections = $is->{all} kB (of its own $is->{own} kB, share $is->{share} kB)");
	cmp_ok($is->{own} - $was->{own}, '<', 4096, 'it has not grown');
	cmp_ok(tunnel_files() - $files, '<=', 2 * $open, 'nor left files open');
}
is($local->safe_psql('postgres', "SET ROLE $role; $query"), 'SET', 'the pool still serves');

done_testing();
