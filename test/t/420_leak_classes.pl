# A lease that is held for longer than leak_threshold is what its holder is
# doing: told of once when it is found and once when it is over, with all there
# is to know about it; one that works is none.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

# WireClient over TCP, without a password.
package TcpClient
{
	our @ISA = ('WireClient');
	our $port;

	sub _connect
	{
		return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port)
		  // die "cannot connect: $!";
	}
}

my $remote = new_remote('remote');
my $local = new_local('local', start => 0, conf => 'compute_query_id = on');
my $hba = $local->data_dir . '/pg_hba.conf';
my $rules = slurp_file($hba);
unlink $hba;
append_to_file($hba, "host all regress_alice 127.0.0.1/32 trust\n$rules");
$local->start;
$TcpClient::port = $local->port;
setup_local($local, $remote);
$local->safe_psql('postgres', q{
	CREATE ROLE regress_alice LOGIN;
	CREATE ROLE regress_bob LOGIN;
	CREATE ROLE regress_monitor LOGIN IN ROLE pg_read_all_stats;});

my $watch = WireClient->new($local);
my $remote_watch = WireClient->new($remote, dbname => $ConpoolTest::remote_db);

sub value
{
	my ($sql, $client) = @_;
	my $result = ($client // $watch)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return join '|', map { $_ // '' } @{ $result->{rows}[0] // ['no row'] };
}

sub wait_for_value
{
	my ($sql, $expected, $name) = @_;
	my $value;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until(sub { ($value = value($sql)) eq $expected }, $name)
	  || diag("$sql: $value");
}

sub create
{
	my ($options, @servers) = @_;
	value("SELECT test.server('$_', \$\$$options\$\$)") for @servers;
	return;
}

# Of the first row of a server in a view.
sub of
{
	my ($view, $server, $columns, $condition) = @_;
	return value("SELECT $columns FROM conpool.$view WHERE server = '$server'"
		  . ($condition ? " AND $condition" : ''));
}
sub leases { return of('leases', @_) }
sub held { return of('leaks', @_, 'outcome IS NULL') }
sub over { return of('leaks', @_, 'outcome IS NOT NULL') }

sub counters
{
	my ($server) = @_;
	return of('stat_pools', $server, 'leaks, leaks_idle, leaks_idle_in_transaction,
		leaks_busy, leaks_abandoned, auto_returned');
}

# Lines of the log about a pool's leaks: what was found, and what was over.
sub found
{
	my ($server) = @_;
	return slurp_file($local->logfile) =~ /WARNING:  connection of pool "$server" leaked: (.*)/g;
}

sub ended
{
	my ($server) = @_;
	return slurp_file($local->logfile) =~
	  /LOG:  ((?:not a leak after all|leak is over): lease .*) of pool "$server" (.*\n.*DETAIL:  .*)/g;
}

# --- each class, by a session that does just that ---------------------------------

# What is held for a second may be one. Enough for a session to get from its
# checkout to where it is to be seen.
my $threshold = q{leak_threshold '1s'};

# server => what its session runs, and the class of that. A statement that does
# not end is not waited for.
my %class = (
	idle => [ 'idle', q{SELECT conpool.checkout('idle', 'session')} ],
	open => [ 'idle in transaction', q{BEGIN; SELECT conpool.checkout('open')} ],
	failed => [ 'idle in transaction',
		q{SELECT conpool.checkout('failed', 'session'); BEGIN; SELECT 1 / 0} ],
	busy => [ 'busy elsewhere', q{SELECT conpool.checkout('busy', 'session'), pg_sleep(1000)} ],
	silent_idle => [ 'idle', q{SELECT conpool.checkout('silent_idle', 'session')} ],
	silent_open => [ 'idle in transaction', q{BEGIN; SELECT conpool.checkout('silent_open')} ],
	silent_busy =>
	  [ 'busy elsewhere', q{SELECT conpool.checkout('silent_busy', 'session'), pg_sleep(1000)} ]);
my %is = (idle => 0, 'idle in transaction' => 1, 'busy elsewhere' => 2, abandoned => 3);
create($threshold, sort keys %class);
create($threshold, qw(works chats later changes));
create(q{leak_threshold '1h'}, 'patient');
create(q{leak_threshold '0'}, 'never');

# how stat_pools counts leaks of these classes, if nothing was auto_returned
sub counted
{
	my (@classes) = @_;
	my @count = (0) x 4;
	$count[ $is{$_} ]++ for @classes;
	return join '|', $classes[0] eq 'abandoned' ? scalar @classes : 1, @count, 0;
}

my %session = map { $_ => WireClient->new($local) }
  keys %class, qw(works chats later changes patient never);
value('SET track_activities = off', $session{$_}) for grep { /silent/ } keys %class;
foreach my $server (qw(patient never))
{
	value("SELECT conpool.checkout('$server', 'session')", $session{$server});
}

# these work: one long statement, and short ones that follow each other
$session{works}->send(q{SELECT conpool.exec('works', 'SELECT pg_sleep(1000)')});
$session{chats}->send(
	q{DO $$ DECLARE
		lease constant bigint := conpool.checkout('chats', 'session');
	BEGIN
		LOOP
			PERFORM conpool.exec(lease, 'SELECT pg_sleep(0.02)');
			PERFORM pg_sleep(0.05);
		END LOOP;
	END $$});
my $later = value(q{SELECT conpool.checkout('later', 'session')}, $session{later});
value('SELECT pg_advisory_lock(1)', $remote_watch);
$session{later}->send("SELECT conpool.exec($later, 'SELECT pg_advisory_lock(1)')");

foreach my $server (sort keys %class)
{
	my $session = $session{$server};
	$session->send($class{$server}[1]);
	$session->result unless $server =~ /busy/;
}
$session{changes}->query(q{SELECT conpool.checkout('changes', 'session')});

foreach my $server (sort keys %class)
{
	my ($class, $sql) = @{ $class{$server} };
	my $pid = $session{$server}{pid};
	wait_for_value("SELECT leak FROM conpool.leases WHERE server = '$server'",
		$class, "$server: its lease is $class");
	is( held($server, q{class, pid, held_for > '1s', ended_at, sql}),
		"$class|$pid|t||$sql",
		"$server: so is the leak");
	wait_until(sub { found($server) }, "$server: it is logged");
	like((found($server))[0], qr/^held by pid $pid for [\d.]+ s \($class\)$/,
		"$server: as what it is");
	is(counters($server), counted($class), "$server: it is counted");
}

# --- what works, and what is not held for long ------------------------------------

wait_for_value(q{SELECT leak FROM conpool.leases WHERE server = 'works'},
	'working', 'a statement that runs');
is(leases('works', q{held_for > '1s', running_since >= since, last_used}),
	't|t|', 'it runs since it was begun');
wait_for_value(q{SELECT leak FROM conpool.leases WHERE server = 'chats'},
	'working', 'statements that follow each other');
is(leases('chats', q{held_for > '1s', last_used > now() - interval '10 s'}),
	't|t', 'the last one was a moment ago');
wait_for_value(q{SELECT leak FROM conpool.leases WHERE server = 'later'},
	'working', 'a statement that will end');
foreach my $server (qw(works chats later patient never))
{
	is(held($server, 'class'), 'no row', "$server: not in leaks");
}

# the statement has ended, the lease has not
my $ends = value('SELECT clock_timestamp()');
value('SELECT pg_advisory_unlock(1)', $remote_watch);
is($session{later}->result->{error}, undef, 'it ends');
wait_for_value(q{SELECT class FROM conpool.leaks WHERE server = 'later'},
	'idle', 'then it is a leak');
is(leases('later', 'leak, running_since'), 'idle|', 'and does not work any more');
is(leases('later', qq{last_used > '$ends'}), 't', 'nor has for a moment');
is( leases('later', q{clock_timestamp() - last_used > interval '1 s'}),
	't', 'which is the last second at least');
wait_until(sub { found('later') }, 'it is logged');
like((found('later'))[0], qr/ \(idle\)$/, 'as what it is');

# --- leases that are looked at further down ---------------------------------------

# One pool that all may see, and one of alice's own; she comes over TCP.
create($threshold, qw(shared hers));
value(
	q{DROP USER MAPPING FOR CURRENT_USER SERVER shared;
	CREATE USER MAPPING FOR PUBLIC SERVER shared
		OPTIONS (user 'regress_remote', password 'remote-secret');
	CREATE USER MAPPING FOR regress_alice SERVER hers
		OPTIONS (user 'regress_remote', password 'remote-secret');
	GRANT USAGE ON FOREIGN SERVER shared, hers TO regress_alice, regress_bob;
	CREATE FUNCTION public.take(server text) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		RETURN conpool.checkout(server, 'session');
	END $$});
my $alice = TcpClient->new($local, user => 'regress_alice');
my ($bob, $monitor) = map { WireClient->new($local, user => "regress_$_") } qw(bob monitor);
value(q{SET application_name = 'the nightly job'}, $alice);
my $takes = q{SELECT public.take('hers'), public.take('shared') /* alice */};
my ($hers, $shared) = split /\|/, value($takes, $alice);

# a lease of a role that is not the session's
value(
	q{CREATE ROLE regress_carol;
	GRANT regress_carol TO regress_bob;
	GRANT USAGE ON FOREIGN SERVER shared TO regress_carol;
	CREATE FUNCTION public.take_as_carol() RETURNS bigint LANGUAGE sql SECURITY DEFINER
		AS $$ SELECT public.take('shared') $$;
	ALTER FUNCTION public.take_as_carol() OWNER TO regress_carol});
my $other = TcpClient->new($local, user => 'regress_alice');
my $carols = value(q{SELECT public.take_as_carol()}, $other);

# a change that is not committed yet makes one
create($threshold, 'unshared');
my $owner = WireClient->new($local);
value(
	q{BEGIN;
	ALTER SERVER unshared OPTIONS (ADD application_name 'changed');
	SELECT conpool.checkout('unshared', 'session') FROM generate_series(1, 3);
	COMMIT}, $owner);
is(value(q{SELECT unshared FROM conpool.pools WHERE server = 'unshared'}), 3, 'unshared ones');

# --- what it does changes ----------------------------------------------------------

wait_until(sub { found('changes') }, 'a leak is found');
is(held('changes', 'class'), 'idle', 'it is idle');
$session{changes}->send('SELECT pg_sleep(1000)');
wait_for_value(q{SELECT leak FROM conpool.leases WHERE server = 'changes'},
	'busy elsewhere', 'now it is busy');
is(held('changes', 'class'), 'busy elsewhere', 'that is shown');

# the broker looks once a second
my $now = value('SELECT clock_timestamp()');
wait_for_value(
	qq{SELECT held_for > '5s' AND clock_timestamp() > '$now'::timestamptz + interval '3 s'
	   FROM conpool.leaks WHERE server = 'changes' AND outcome IS NULL},
	't', 'time goes by');
foreach my $server (qw(changes later), sort keys %class)
{
	my $class = $class{$server} ? $class{$server}[0] : 'idle';
	is(scalar(my @warnings = found($server)), 1, "$server: it is logged once");
	is(counters($server), counted($class), "$server: counted once");
	is( value("SELECT count(*), min(detail) FROM conpool.events
			   WHERE server = '$server' AND event LIKE 'leak%'"),
		"1|$class", "$server: an event once");
}
foreach my $server (qw(works chats patient never))
{
	is(leases($server, q{held_for > '5s'}), 't', "$server: held for long");
	is(leases($server, 'leak'), $server =~ /works|chats/ ? 'working' : '', "$server: no leak");
	is(held($server, 'class'), 'no row', "$server: not shown");
	is(scalar(my @warnings = found($server)), 0, "$server: not logged");
	is(counters($server), '0|0|0|0|0|0', "$server: not counted");
}

# --- how they end --------------------------------------------------------------------

sub lease { my ($server) = @_; return leases($server, 'lease') }

my %lease = map { $_ => lease($_) } keys %class, 'changes', 'later';
$session{$_}->cancel for qw(busy silent_busy changes);
is($session{$_}->result->{error}, '57014', "$_: cancelled") for qw(busy silent_busy changes);

# what it was found to be, how it ended, and what is logged then
my %end = (
	idle => [
		'checked in', 'idle',
		sub { value("SELECT conpool.checkin($lease{idle})", $session{idle}) }
	],
	silent_open =>
	  [ 'transaction ended', 'idle in transaction', sub { $session{silent_open}->query('COMMIT') } ],
	open =>
	  [ 'transaction ended', 'idle in transaction', sub { $session{open}->query('ROLLBACK') } ],
	busy => [ 'session ended', 'abandoned', sub { $session{busy}->hang_up } ],
	silent_busy => [
		'session ended',
		'abandoned',
		sub { value("SELECT pg_terminate_backend($session{silent_busy}{pid})") }
	],
	silent_idle => [ 'reclaimed', 'idle', sub { value("SELECT conpool.reclaim($lease{silent_idle})") } ],
	failed => [
		'connection lost',
		'idle in transaction',
		sub {
			$remote->safe_psql('postgres',
				'SELECT pg_terminate_backend(' . leases('failed', 'remote_pid') . ', 60000)');
			$session{failed}->query('ROLLBACK');
			is($session{failed}->query("SELECT conpool.exec($lease{failed}, 'SELECT 1')")->{error},
				'08006', 'a connection is lost');
		}
	],
	changes => [
		'checked in', 'idle',
		sub { value("SELECT conpool.checkin($lease{changes})", $session{changes}) }
	],
	later => [
		'checked in', 'idle', sub { value("SELECT conpool.checkin($lease{later})", $session{later}) }
	]);
foreach my $server (sort keys %end)
{
	my ($outcome, $class, $end) = @{ $end{$server} };
	my $pid = $session{$server}{pid};
	my $since = leases($server, 'since');
	is(scalar(my @lines = ended($server)), 0, "$server: it is not over");
	$end->();
	wait_for_value("SELECT outcome FROM conpool.leaks WHERE server = '$server'",
		$outcome, "$server: $outcome");
	is(over($server, 'class, lease, pid, ended_at = since + held_for, ended_at <= now()'),
		"$class|$lease{$server}|$pid|t|t", "$server: it was $class");
	is( over($server, "abs(extract(epoch FROM since - '$since')) < 0.01"),
		't', "$server: since when it was held");
	is(leases($server, 'lease'), 'no row', "$server: the lease is over");

	wait_until(sub { @lines = ended($server) }, "$server: that is logged");
	my $given_back = $outcome =~ /checked in|transaction ended/;
	is( shift @lines,
		($given_back ? 'not a leak after all' : 'leak is over') . ": lease $lease{$server}",
		"$server: which lease");
	my ($how, $seconds, $why, $found, $sql) =
	  (shift @lines) =~ /^(.*) after ([\d.]+) s(.*)\n.*DETAIL:  It was found "(.*)", and was taken by: (.*)$/;
	is("$how$why", $given_back ? 'was given back' : "ended ($outcome)", "$server: how it ended");
	is("$found|$sql", over($server, 'class, sql'), "$server: as what it was found");
	cmp_ok(abs($seconds - over($server, q{extract(epoch FROM held_for)})), '<', 0.2,
		"$server: how long it was held");
	is("@lines", '', "$server: that is all");
	is( value("SELECT count(*), max(detail) FROM conpool.events
			   WHERE server = '$server' AND event = 'leak over'"),
		"1|$outcome", "$server: one event");
}
is(counters('busy'), counted('busy elsewhere', 'abandoned'), 'one leak, of two classes');
is(counters('open'), '1|0|1|0|0|1', 'one that the end of its transaction gave back');
is(scalar(my @warnings = found('busy')), 1, 'that it was abandoned is not logged any more');
value("SELECT conpool.checkin($lease{failed})", $session{failed});
is(value(q{SELECT count(*) FROM conpool.leaks WHERE server = 'failed'}),
	1, 'the husk of a lost one is given back and forgotten');

# --- abandoned, without a threshold ----------------------------------------------------

my @abandoned = map { WireClient->new($local) } 1 .. 3;
my @left = map { value(q{SELECT conpool.checkout('never', 'session')}, $_) } @abandoned;
$abandoned[0]->hang_up;
value("SELECT pg_terminate_backend($abandoned[1]{pid})");
$abandoned[2]->send('SELECT pg_sleep(1000)');
$abandoned[2]->hang_up;
value("SELECT pg_terminate_backend($abandoned[2]{pid})");
foreach my $i (0 .. 2)
{
	wait_for_value(
		"SELECT class, pid, outcome, sql FROM conpool.leaks WHERE lease = $left[$i]",
		"abandoned|$abandoned[$i]{pid}|session ended|SELECT conpool.checkout('never', 'session')",
		'a lease that a session has left behind');
}
is(counters('never'), '3|0|0|0|3|0', 'they are counted');
is(scalar(@warnings = grep { / \(abandoned\)$/ } found('never')), 3, 'and logged');
is(leases('never', 'leak'), '', 'the one that is held is still none');

# --- given back by the end of a transaction: only counted --------------------------------

my $automatic = WireClient->new($local);
foreach my $end ('COMMIT', 'ROLLBACK', 'SELECT 1 / 0',
	q{SAVEPOINT one; SELECT conpool.checkout('patient'); ROLLBACK TO one; COMMIT})
{
	$automatic->query("BEGIN; SELECT conpool.checkout('patient'); $end");
	$automatic->query('ROLLBACK') if $end =~ /0$/;
}
is(counters('patient'), '0|0|0|0|0|5', 'leases of a transaction are counted');
value(q{BEGIN; SELECT conpool.checkout('patient')}, $automatic);
$automatic->hang_up;
wait_for_value(q{SELECT auto_returned FROM conpool.stat_pools WHERE server = 'patient'},
	6, 'also when the session ends with it');
my $mode = WireClient->new($local);
$mode->query(q{BEGIN; SELECT conpool.checkin(conpool.checkout('patient')); COMMIT});
foreach my $scope (qw(transaction session))
{
	$mode->query("SET conpool.pool_mode = '$scope'");
	is($mode->query(q{SELECT conpool.exec('patient', 'SELECT 1')})->{error},
		undef, "a lease of pool_mode $scope");
}
$mode->hang_up;
wait_for_value(q{SELECT count(*) FROM conpool.leases WHERE server = 'patient'},
	1, 'all but one are over');
is(counters('patient'), '0|0|0|0|0|6', 'nothing else is counted');
is(value(q{SELECT count(*) FROM conpool.leaks WHERE server = 'patient'}), 0, 'or shown');
is(scalar(@warnings = found('patient')), 0, 'or logged');

# --- who, from where, for what ---------------------------------------------------------

wait_for_value(q{SELECT count(*) FROM conpool.leaks WHERE holder = 'regress_alice'},
	2, 'leaks of another role');
is( value(qq{SELECT l.application_name = a.application_name AND l.application_name = 'the nightly job' AND
			 l.client_addr = host(a.client_addr) AND l.client_addr = '127.0.0.1' AND
			 l.query_id = a.query_id AND l.query_id <> 0 AND l.sql = a.query AND
			 l.pid = $alice->{pid}
			 FROM conpool.leaks l JOIN pg_stat_activity a USING (pid) WHERE lease = $hers}),
	't', 'as pg_stat_activity shows them');
my $all = join '|', 'regress_alice', 'the nightly job', '127.0.0.1', $takes,
  value("SELECT query_id FROM pg_stat_activity WHERE pid = $alice->{pid}"),
  'PL/pgSQL function take(text) line 3 at RETURN';
my $hidden = 'regress_alice|the nightly job||<insufficient privilege>||<insufficient privilege>';

sub shown
{
	my ($client, $lease) = @_;
	return value("SELECT holder, application_name, client_addr, sql, query_id, stack
				  FROM conpool.leaks WHERE lease = $lease", $client);
}

sub who_sees_what
{
	my ($when) = @_;
	foreach my $lease ($hers, $shared)
	{
		my $pool = $lease == $hers ? 'a pool of her own' : 'a pool of everybody';
		is(shown($watch, $lease), $all, "$when, in $pool: a superuser sees all");
		is(shown($monitor, $lease), $all, "$when, in $pool: so does who may monitor");
		is(shown($alice, $lease), $all, "$when, in $pool: and she herself");
		is(shown($bob, $lease), $lease == $hers ? 'no row' : $hidden,
			"$when, in $pool: another role does not");
	}
	return;
}
who_sees_what('held');
foreach my $lease ($hers, $shared)
{
	my $columns = 'role, application_name, client_addr, sql, query_id, stack';
	is( value("SELECT $columns FROM conpool.leases WHERE lease = $lease", $bob),
		$lease == $hers ? 'no row' : $hidden =~ s/regress_alice/public/r,
		'leases hides the same');
	is( value("SELECT $columns FROM conpool.leases WHERE lease = $lease", $monitor),
		$all =~ s/regress_alice/$lease == $hers ? 'regress_alice' : 'public'/er,
		'from nobody else');
}
wait_until(sub { found('hers') && found('shared') }, 'both are logged');
value("SELECT conpool.checkin($hers), conpool.checkin($shared)", $alice);
value('RESET application_name', $alice);
who_sees_what('over');

# the role that took it, not the session's
wait_for_value("SELECT holder FROM conpool.leaks WHERE lease = $carols",
	'regress_carol', 'the role that took it');
is(shown($bob, $carols), $hidden =~ s/^.*?\|.*?\|/regress_carol||/r,
	'whose privileges do not do, as the session is of another one');

# --- connections that are not shared -----------------------------------------------------

wait_for_value(
	q{SELECT count(*) FILTER (WHERE class = 'idle') FROM conpool.leaks WHERE server = 'unshared'},
	3, 'they leak as well');
wait_until(sub { @warnings = found('unshared'); @warnings == 3 }, 'are logged');
my @unshared = map { $_->[0] } @{ $watch->query(
	q{SELECT lease FROM conpool.leases WHERE server = 'unshared' ORDER BY lease})->{rows} };
value("SELECT conpool.checkin($unshared[0])", $owner);
$remote->safe_psql('postgres', 'SELECT pg_terminate_backend('
	  . value("SELECT remote_pid FROM conpool.leases WHERE lease = $unshared[1]") . ', 60000)');
is($owner->query("SELECT conpool.exec($unshared[1], 'SELECT 1')")->{error}, '08006', 'one is lost');
$owner->hang_up;
my @outcome = ('checked in', 'connection lost', 'session ended');
wait_for_value("SELECT outcome FROM conpool.leaks WHERE lease = $unshared[$_]",
	$outcome[$_], "unshared: $outcome[$_]") for 0 .. 2;
is(value(q{SELECT count(*) FROM conpool.leaks WHERE server = 'unshared'}), 3, 'each once');
is(counters('unshared'), '3|3|0|0|1|0', 'counted once');

# --- the ring ------------------------------------------------------------------------

create(q{leak_threshold '1ms', reset 'never', max_size '65'}, 'ring');
my $ring = WireClient->new($local);
my @order;
foreach my $round (1, 2)
{
	my $leases = $ring->query(q{SELECT conpool.checkout('ring', 'session', '60 s')
		FROM generate_series(1, 65)})->{rows};
	wait_for_value(q{SELECT leaks FROM conpool.stat_pools WHERE server = 'ring'},
		65 * $round, 'many leaks');
	value("SELECT conpool.checkin($_->[0])", $ring) for @$leases;
	unshift @order, map { $_->[0] } reverse @$leases;
}
my $rows = $watch->query('SELECT lease, outcome FROM conpool.leaks')->{rows};
my @recent = map { $_->[0] } grep { defined $_->[1] } @$rows;
is("@recent", "@order[0 .. 125] $shared $hers",
	'the latest 128 are kept, newest first; but those of another role stay');
is(join(' ', map { defined $_->[1] ? 'over' : 'held' } @$rows) =~ s/(\w+) (?=\1)//gr,
	'held over', 'after those that are held');

# --- nothing is left behind ------------------------------------------------------------

foreach my $client (values %session, $alice, $other, $ring)
{
	value("SELECT pg_terminate_backend($client->{pid})");
}
is(value('SELECT test.at_rest()'), 't', 'the pools come to rest');
is(value('SELECT count(*) FROM conpool.leaks WHERE outcome IS NULL'), 0, 'nothing leaks');

done_testing();
