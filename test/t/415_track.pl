# What can be seen of time: conpool.track turns measuring off and on while the
# server runs, conpool.log_min_wait logs long waits, pg_stat_activity says what
# sessions and the broker are at, and the remote's whom a connection serves.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(greet hang);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', conf => q{
compute_query_id = on
log_statement = 'none'
conpool.validate_interval = 0
});
setup_local($local, $remote);
create_server($local, $remote, 'one', options => q{max_size '1', reset 'never'});
create_server($local, $remote, 'two', options => q{max_size '2', min_size '2'});
$local->safe_psql('postgres', 'CREATE ROLE regress_user LOGIN');

my $fake = FakeServer->new({
	mute => { greeting => \&hang },
	stuck => { greeting => \&greet, answer => \&hang }
});

sub fake_server
{
	my ($name, $options) = @_;
	my $port = $fake->port;
	$options = $options ? ", $options" : '';
	$local->safe_psql('postgres', qq{
		CREATE SERVER $name FOREIGN DATA WRAPPER conpool
			OPTIONS (host '127.0.0.1', port '$port', dbname '$name' $options);
		CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (user 'u', password 'p')});
	return;
}

my ($watch, $client, $holder) = map { WireClient->new($local) } 1 .. 3;

sub values_of
{
	my ($sql, $by) = @_;
	my $result = ($by // $watch)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return map { join '|', map { $_ // '' } @$_ } @{ $result->{rows} };
}

sub value { return join ',', values_of(@_) }

sub wait_for_value
{
	my ($sql, $name) = @_;
	return wait_until(sub { value($sql) eq 't' }, $name // $sql);
}

sub wait_for_state
{
	my ($server, $condition) = @_;
	return wait_for_value("SELECT $condition FROM conpool.pools WHERE server = '$server'",
		"pool $server: $condition");
}

sub exec_on
{
	my ($server, $sql) = @_;
	$sql //= 'SELECT 1';
	return "SELECT conpool.exec('$server', \$s\$$sql\$s\$)";
}

# All processes that measure have heard of it: the sessions with their next
# statement, the broker when it next turns.
sub set_track
{
	my ($value, @sessions) = @_;
	my $log = -s $local->logfile;
	$local->safe_psql('postgres', "ALTER SYSTEM SET conpool.track = $value");
	$local->reload;
	$local->wait_for_log(qr/parameter "conpool.track" changed to "$value"/, $log);
	foreach my $session (@sessions ? @sessions : ($watch, $client, $holder))
	{
		wait_until(sub { value('SHOW conpool.track', $session) eq $value }, "conpool.track is $value");
	}
	return;
}

# A wait of about so many seconds, in a queue; returns how long it was, at least
# and at most, in milliseconds.
sub wait_for_lease
{
	my ($seconds, $sql) = @_;
	my $lease = value(q{SELECT conpool.checkout('one', 'session')}, $holder);
	my $begun = time;
	$client->send($sql // exec_on('one'));
	wait_for_state('one', 'waiting = 1');
	my $waits = time;
	sleep $seconds;
	my $released = time;
	value("SELECT conpool.checkin($lease)", $holder);
	is($client->result->{error}, undef, "a wait of $seconds s is over");
	return (1000 * ($released - $waits), 1000 * (time - $begun));
}

# --- conpool.track --------------------------------------------------------------------

# Something of all that is measured and counted.
sub do_something
{
	value(exec_on('one'), $client) for 1 .. 3;
	is($client->query(exec_on('one', 'SELECT 1 / 0'))->{error}, '22012', 'an error');
	wait_for_lease(0.02);
	my $lease = value(q{SELECT conpool.checkout('one', 'session')}, $holder);
	is($client->query(q{SELECT conpool.checkout('one', 'session', '20ms')})->{error}, '53300', 'a timeout');
	value("SELECT conpool.checkin($lease)", $holder);
	wait_for_state('one', 'idle = 1');
	value(q{SELECT conpool.close_idle('one')});
	wait_for_state('one', 'size = 0');
	value(exec_on('one'), $client);
	return;
}

my $names = q{SELECT column_name FROM information_schema.columns WHERE table_schema = 'conpool'
	AND table_name = 'stat_pools' AND data_type = '%s' ORDER BY ordinal_position};
my @times = grep { $_ ne 'total_breaker_time' } values_of(sprintf $names, 'double precision');
my @counters = qw(checkouts checkout_timeouts waited connects queries query_errors rows);
cmp_ok(scalar(@times), '>=', 26, 'times, percentiles and maxima');

sub measured
{
	my $columns = join ', ', map { "coalesce(${_}::text, '')" } @times;
	return join "\n", value("SELECT $columns FROM conpool.stat_pools WHERE server = 'one'"),
	  value(q{SELECT kind, le_ms, count, cumulative FROM conpool.stat_latency WHERE server = 'one'}),
	  value(q{SELECT query_id, calls, total_wait_time, total_remote_time FROM conpool.stat_statements WHERE server = 'one' ORDER BY 1});
}

sub counted { return value('SELECT ' . join(', ', @counters) . q{ FROM conpool.stat_pools WHERE server = 'one'}) }

is(value('SHOW conpool.track'), 'on', 'it is on unless turned off');
do_something();
my ($measured, $counted) = (measured(), counted());
like($measured, qr/wait\|.*checkout\|.*connect\|.*remote\|/s, 'all is measured');

set_track('off');
do_something();
is(measured(), $measured, 'off: times, distributions and statements stand still');
my @before = split /\|/, $counted;
my @after = split /\|/, counted();
is(join('|', map { $after[$_] - $before[$_] } 0 .. $#counters), '8|1|2|1|6|1|5', 'off: ' . join(', ', @counters) . ' go on');
is(value(q{SELECT count FROM conpool.stat_errors WHERE server = 'one' AND sqlstate = '22012'}), '2', 'off: so do errors');
is(value(q{SELECT peak_leased, peak_waiting FROM conpool.stat_pools WHERE server = 'one'}), '1|1', 'off: and peaks');

# what was not measured is not taken back either, when a connection turns out dead
my @stopped;
END { kill 'CONT', @stopped if @stopped; }
my $waiter = WireClient->new($local);
my $lease = value(q{SELECT conpool.checkout('one', 'session')}, $holder);
$waiter->send(exec_on('one'));
wait_for_state('one', 'waiting = 1');
@stopped = $waiter->{pid};
kill 'STOP', @stopped;
value("SELECT conpool.checkin($lease)", $holder);
wait_for_value("SELECT count(*) = 1 FROM conpool.leases WHERE pid = $waiter->{pid}", 'off: one is granted a connection');
my $dies = value(q{SELECT remote_pid FROM conpool.connections WHERE server = 'one'});
$remote->safe_psql('postgres', "SELECT pg_terminate_backend($dies, 60000)");
kill 'CONT', @stopped;
@stopped = ();
is($waiter->result->{error}, undef, 'off: which is dead, so he opens another one');
is(measured(), $measured, 'off: still all stands still');

# a statement begins before it is turned on, and ends after
$client->send(exec_on('one', 'SELECT pg_sleep(0.3)'));
set_track('on', $watch, $holder);
is($client->result->{error}, undef, 'on again: a statement that was under way');
do_something();
is( value(q{SELECT count(*) FROM (VALUES ('wait'), ('checkout'), ('connect'), ('remote')) AS k(kind)
		WHERE (SELECT sum(count) FROM conpool.stat_latency WHERE server = 'one' AND kind = k.kind) IS NULL}),
	'0', 'on again: measured again');
isnt(measured(), $measured, 'on again: times go on');

# In the midst of everything, connections that die included.
create_server($local, $remote, 'load', options => q{max_size '2', max_waiters '3', checkout_timeout '50ms'}, user => 'regress_remote_two');
my @load = start_load($local, 6, 'load');
my $observer = WireClient->new($remote);
foreach my $round (1 .. 10)
{
	set_track($round % 2 ? 'off' : 'on');
	for (1 .. 3)
	{
		sleep 0.03;
		$observer->query(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE usename = 'regress_remote_two' ORDER BY random() LIMIT 1});
	}
}
my $seen = stop_workers(@load);
cmp_ok($seen->{right}, '>', 20, 'load while it is turned off and on');
wait_for_value(q{SELECT leased + waiting + connecting + resetting = 0 FROM conpool.pools WHERE server = 'load'});
is( value(q{SELECT string_agg(name || ' ' || value, ', ') FROM conpool.stat_pools AS s, jsonb_each(to_jsonb(s)) AS c(name, value)
		WHERE CASE jsonb_typeof(value) WHEN 'number' THEN value::text::float8 < 0 END}),
	'', 'nothing is less than nothing');
is( value(q{SELECT count(*) FROM (SELECT count, cumulative, sum(count) OVER (PARTITION BY server, role, kind ORDER BY le_ms) AS expected
		FROM conpool.stat_latency) AS l WHERE count <= 0 OR cumulative <> expected}),
	'0', 'in no bucket, either');
is( value(q{SELECT checkouts + checkout_timeouts + checkout_cancels >= sum(count) FILTER (WHERE kind = 'wait'),
		queries >= sum(count) FILTER (WHERE kind = 'remote'), connects >= sum(count) FILTER (WHERE kind = 'connect')
		FROM conpool.stat_pools AS s JOIN conpool.stat_latency USING (server, role) WHERE server = 'load'
		GROUP BY s.checkouts, s.checkout_timeouts, s.checkout_cancels, s.queries, s.connects}),
	't|t|t', 'no more is measured than counted');
value(q{SELECT conpool.reset_stats('load')});
my $users = WireClient->new($local);
value(exec_on('load'), $users) for 1 .. 20;
is( value(q{SELECT checkouts, queries, sum(count) FILTER (WHERE kind = 'wait'), sum(count) FILTER (WHERE kind = 'remote'),
		sum(count) FILTER (WHERE kind = 'checkout') FROM conpool.stat_pools JOIN conpool.stat_latency USING (server, role)
		WHERE server = 'load' GROUP BY 1, 2}),
	'20|20|20|20|20', 'after a reset all is exact again');

# who may
my $user = WireClient->new($local, user => 'regress_user');
is($watch->query('SET conpool.track = off')->{error}, '55P02', 'no session can turn it off for itself');

# --- conpool.log_min_wait ---------------------------------------------------------------

is($user->query(q{SET conpool.log_min_wait = 0})->{error}, '42501', 'log_min_wait is not for everybody');
is($user->query(q{SHOW conpool.log_min_wait})->{rows}[0][0], '-1', 'by default nothing is logged');

# Waits that the client's session has logged since, in milliseconds.
my $log = -s $local->logfile;

sub logged
{
	my $text = slurp_file($local->logfile, $log);
	$log += length $text;
	my @waits = $text =~ /^\S+ \S+ \S+ \[$client->{pid}\] .*LOG:  waited ([\d.]+) ms for a connection of pool "one"$/mg;
	return @waits;
}

# Exactly those that were longer: but a machine that is slow may make any of them
# longer than it was meant to be, and then both would be right.
sub check_log
{
	my ($limit, @waits) = @_;
	my @lines = logged();
	my $must = grep { $_->[0] >= $limit } @waits;
	my $may = grep { $_->[1] >= $limit } @waits;
	ok(@lines >= $must && @lines <= $may, "$limit ms: those that were longer are logged")
	  or diag(scalar(@lines) . " lines, not $must to $may");
	note "of $must to $may waits of $limit ms, logged: @lines";
	# in their order, how long each was
	my @candidates = grep { $_->[1] >= $limit } @waits;
	my $odd = '';
	foreach my $ms (@lines)
	{
		shift @candidates while @candidates && !($ms >= $candidates[0][0] - 0.1 && $ms <= $candidates[0][1]);
		$odd .= " $ms" unless shift @candidates;
	}
	is($odd, '', "$limit ms: and how long they were");
	return;
}

wait_for_lease(0.4);
is(join(' ', logged()), '', 'none is logged unless it is wanted');
value(q{SET conpool.log_min_wait = '250ms'}, $client);
check_log(250, map { [ wait_for_lease($_) ] } (0.02, 0.4, 0.05, 0.3));
value(q{SET conpool.log_min_wait = 0}, $client);
my $begun = time;
value(exec_on('one'), $client);
check_log(0, [ 0, 1000 * (time - $begun) ], [ wait_for_lease(0.05) ]);

# the statement is with it, unless there may be a password in it
my $from = $log;
wait_for_lease(0.02, exec_on('one', q{SELECT 'beauty'}));
wait_for_lease(0.02, exec_on('one', q{SELECT 'password=beast'}));
my @more = logged();
is(scalar(@more), 2, 'two more');
like(slurp_file($local->logfile, $from), qr/waited .*\n.*DETAIL:  max_size is 1: .*\n.*STATEMENT:  SELECT .*beauty/,
	'the statement is in the log');
unlike(slurp_file($local->logfile, $from), qr/beast/, 'but not with what may be a password');

# who gets none has an error, and no such line
$lease = value(q{SELECT conpool.checkout('one', 'session')}, $holder);
is($client->query(q{SELECT conpool.checkout('one', 'session', '50ms')})->{error}, '53300', 'a wait in vain');
value("SELECT conpool.checkin($lease)", $holder);
is(join(' ', logged()), '', 'is not logged as a wait');

# it works without measuring
set_track('off');
check_log(0, [ wait_for_lease(0.05) ]);
set_track('on');
value('RESET conpool.log_min_wait', $client);
if ($local->pg_version >= 15)
{
	$local->safe_psql('postgres', 'GRANT SET ON PARAMETER conpool.log_min_wait TO regress_user');
	is($user->query(q{SET conpool.log_min_wait = 0})->{error}, undef, 'it can be granted');
}

# --- wait events -----------------------------------------------------------------------------

my $has_names = $local->safe_psql('postgres', 'SHOW server_version_num') >= 170000;

sub waits_for
{
	my ($event, $pid, $name) = @_;
	my $expected = $has_names ? $event : 'Extension';
	return wait_for_value(
		"SELECT wait_event_type = 'Extension' AND wait_event = '$expected' FROM pg_stat_activity WHERE pid = $pid",
		"a session waits $name: $expected");
}

# The same of a wait that ends by itself before long: if it was not seen, once more.
sub waits_briefly_for
{
	my ($event, $session, $name, $begin) = @_;
	my $expected = $has_names ? $event : 'Extension';
	$begin->();
	return wait_until(
		sub {
			my ($state, $waits) = split /\|/, value("SELECT state, wait_event_type || ' ' || wait_event
				FROM pg_stat_activity WHERE pid = $session->{pid}");
			return 1 if ($waits // '') eq "Extension $expected";
			if ($state eq 'idle')
			{
				$session->result;
				$begin->();
			}
			return 0;
		},
		"a session waits $name: $expected");
}

my $broker = broker_pid($local);

waits_for('ConpoolMain', $broker, 'for something to do, the broker');

$lease = value(q{SELECT conpool.checkout('one', 'session')}, $holder);
$client->send(exec_on('one'));
waits_for('ConpoolLease', $client->{pid}, 'for a lease');
value("SELECT conpool.checkin($lease)", $holder);
$client->result;

$client->send(exec_on('one', 'SELECT pg_sleep(60)'));
waits_for('ConpoolRemote', $client->{pid}, 'for a remote result');
$client->cancel;
is($client->result->{error}, '57014', 'it is cancelled');
wait_for_value("SELECT wait_event = 'ClientRead' FROM pg_stat_activity WHERE pid = $client->{pid}", 'then it waits for nothing of ours');

fake_server('mute', q{connect_timeout '60s'});
$client->send(exec_on('mute'));
waits_for('ConpoolConnect', $client->{pid}, 'for a remote to let it in');
$client->cancel;
is($client->result->{error}, '57014', 'it gives up');

# the remote does not answer to a cancel request either, for two seconds
fake_server('stuck');
waits_briefly_for('ConpoolCancel', $client, 'for a remote statement to stop', sub {
	$client->send(exec_on('stuck'));
	waits_for('ConpoolRemote', $client->{pid}, 'for a result that does not come');
	$client->cancel;
});
is($client->result->{error}, '57014', 'it goes on without');

$lease = value(q{SELECT conpool.checkout('one', 'session')}, $holder);
$client->send(q{SELECT conpool.pause('one')});
waits_for('ConpoolDrain', $client->{pid}, 'for a lease that is to end');
value("SELECT conpool.checkin($lease)", $holder);
is($client->result->{error}, undef, 'it has ended');
value(q{SELECT conpool.resume('one')});
wait_for_state('one', 'idle = 1');

# the broker keeps quiet: the session that has never used that connection asks it
@stopped = ($broker);
kill 'STOP', @stopped;
my $stranger = WireClient->new($local);
waits_briefly_for('ConpoolBroker', $stranger, 'for the broker', sub { $stranger->send(exec_on('one')) });
kill 'CONT', @stopped;
@stopped = ();
my $answer = $stranger->result->{error} // '';
ok($answer eq '' || $answer eq '53300', 'it is answered, or not in time') or diag($answer);

# --- the broker ---------------------------------------------------------------------------------

value(q{SELECT conpool.close_idle(server) FROM (SELECT DISTINCT server FROM conpool.pools WHERE server IN ('one', 'load')) AS s});
wait_for_value(q{SELECT sum(size) = 2 AND sum(idle) = 2 FROM conpool.pools});
my $says = q{FROM pg_stat_activity WHERE backend_type = 'conpool broker'};
wait_for_value("SELECT query = 'keeping 2 connections of 1 pool' AND state = 'idle' $says", 'the broker says what it keeps');
$lease = value(q{SELECT conpool.checkout('one', 'session')}, $holder);
wait_for_value("SELECT query = 'keeping 3 connections of 2 pools' $says", 'those in use, too');
my $since = value('SELECT clock_timestamp()');
value("SELECT conpool.checkin($lease)", $holder);
value(q{SELECT conpool.close_idle('one')});
wait_for_value("SELECT query = 'keeping 2 connections of 1 pool' $says", 'and no more when they are gone');
is(value("SELECT query_start > '$since' $says"), 't', 'since when');

# --- whom a connection serves --------------------------------------------------------------------

my $long = 'a_server_with_a_very_long_name_that_nobody_can_remember_for_long';
my $cut = substr $long, 0, 63;
create_server($local, $remote, 'named', options => q{application_name 'my own'});
value(qq{CREATE SERVER $cut FOREIGN DATA WRAPPER conpool OPTIONS (server 'one')});
value(exec_on($_), $client) for 'one', 'named', $cut, conninfo($remote);

# the join of the README, asked through conpool itself
my $join = q{
	SELECT c.server, r.application_name, c.state = CASE WHEN c.pid IS NULL THEN 'idle' ELSE 'leased' END
	FROM conpool.query('remote_admin', $$ SELECT pid, application_name FROM pg_stat_activity
			WHERE usename = 'regress_remote' $$) AS r(pid int, application_name text)
		FULL JOIN (SELECT * FROM conpool.connections WHERE server <> 'remote_admin') AS c ON c.remote_pid = r.pid
	ORDER BY r.application_name COLLATE "C"};
wait_for_value(q{SELECT sum(size) = sum(idle) FROM conpool.pools});
my $expected = join("\n",
	'host=127.0.0.1 port=' . $remote->port . ' dbname=conpool_remote user=regress_remote|conpool postgres|t',
	"$cut|" . substr("conpool postgres/$cut", 0, 63) . '|t',
	'one|conpool postgres/one|t',
	('two|conpool postgres/two|t') x 2,
	'named|my own|t');
my $got = '';
wait_until(sub { $got = join "\n", values_of($join); $got eq $expected },
	'each connection is one of the remote\'s, whose name says whom it serves', 20)
  or diag($got);

# under another name of the server the connection is another one
value(q{ALTER SERVER one RENAME TO renamed});
value(exec_on('renamed'), $client);
wait_for_value(q{SELECT size = 1 AND idle = 1 FROM conpool.pools WHERE server = 'renamed'});
is( $remote->safe_psql('postgres', q{SELECT string_agg(application_name, ',') FROM pg_stat_activity WHERE application_name ~ '/(one|renamed)$'}),
	'conpool postgres/renamed', 'also when it is renamed');

done_testing();
