# Statements on connections that go through a tunnel are cancelled at any moment, also
# while the tunnel or the remote stands still: that stops them soon, and never hits a
# statement of somebody else.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use LateCancel;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

plan skip_all => 'needs /proc' unless -d '/proc/self/fd';
plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $soon = 15;    # seconds for whatever is to be over soon; conpool's own limit is 2
my $pairs = 3;    # of sessions, each with a pool of one connection
my $times = 100;  # a statement of each pair is cancelled

my $certificates = Certificates->new;
my $remote = new_remote('remote', tls => $certificates, conf => 'log_statement = none');
my $local = new_local('local');
setup_local($local, $remote);

my $watcher = WireClient->new($local);
my $remote_watcher = WireClient->new($remote);
my $gate = WireClient->new($remote, dbname => 'conpool_remote');
my ($one, $other) = map { WireClient->new($local) } 1 .. 2;

my %stopped;
END { kill 'CONT', keys %stopped if %stopped; }

# Servers with one connection, known to the remote by their names.
sub create
{
	my ($server, $options) = @_;
	create_server($local, $remote, $server,
		options => join ', ', "max_size '1', application_name '$server'", $options // ());
	return;
}

sub values_of
{
	my ($sql, $session) = @_;
	my $result = ($session // $watcher)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return map { $_ // '-' } @{ $result->{rows}[0] // [] };
}

sub remote_pid
{
	my ($session, $server) = @_;
	return (values_of("SELECT * FROM conpool.query('$server', 'SELECT pg_backend_pid()')
		AS t(pid int)", $session))[0];
}

# What the remote says of a pool's backends, once it is so.
sub remote_has
{
	my ($server, $condition, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until(
		sub {
			(values_of("SELECT $condition FROM pg_stat_activity
				WHERE application_name = '$server'", $remote_watcher))[0] eq 't';
		},
		$what);
}

my $runs = q{count(*) FILTER (WHERE state = 'active') = 1};
my $at_rest = q{count(*) FILTER (WHERE state = 'active') = 0};

# Closed in doubt, so far.
sub discarded
{
	my ($server) = @_;
	return (values_of("SELECT discarded FROM conpool.stat_pools WHERE server = '$server'"))[0];
}

sub is_cancelled
{
	my ($session, $begun, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($session->result->{error}, '57014', "$what: cancelled");
	cmp_ok(time - $begun, '<', $soon, "$what: soon");
	note sprintf 'figure: %s, cancelled after = %.3f s', $what, time - $begun;
	return;
}

# The connection serves on, or it was closed and counted.
sub is_sound
{
	my ($server, $pid, $discarded, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $now = remote_pid($other, $server);
	my $lost = $now == $pid ? 0 : 1;
	is(discarded($server) - $discarded, $lost,
		"$what: its connection is " . ($lost ? 'closed, and counted' : 'as good as new'));
	return $lost;
}

sub halt
{
	my ($pid) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$stopped{$pid} = 1;
	kill 'STOP', $pid;
	return wait_until(sub { slurp_file("/proc/$pid/stat") =~ /.*\) T/s }, 'a process stands still');
}

sub go_on
{
	my ($pid) = @_;
	kill 'CONT', $pid;
	delete $stopped{$pid};
	return;
}

# A session waits for its remote, and has nothing that others need.
sub wait_for_remote
{
	my ($session, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($local, "SELECT state = 'active' AND wait_event_type = 'Extension'
		FROM pg_stat_activity WHERE pid = $session->{pid}", $what);
}

# --- a statement that waits -------------------------------------------------------------

create('waits');
my $pid = remote_pid($one, 'waits');
my $sleep = q{conpool.exec('waits', 'SELECT pg_sleep(100)')};
my %how = (
	'pg_cancel_backend()' => sub { values_of("SELECT pg_cancel_backend($one->{pid})") },
	'a cancel request' => sub { $one->cancel });
foreach my $what (sort keys %how)
{
	$one->send("SELECT $sleep");
	remote_has('waits', $runs, "$what: a statement runs");
	my $begun = time;
	$how{$what}->();
	is_cancelled($one, $begun, $what);
	remote_has('waits', $at_rest, "$what: nothing runs any more");
	is(is_sound('waits', $pid, 0, $what), 0, "$what: the same connection");
}

# in the middle of a transaction that goes on
$one->query(q{SET statement_timeout = '100ms'});
my $begun = time;
is( $one->query(qq{DO \$\$ BEGIN
		BEGIN
			PERFORM $sleep;
			RAISE 'it was not cancelled';
		EXCEPTION WHEN query_canceled THEN NULL;
		END;
		PERFORM conpool.exec('waits', 'SELECT 1');
	END \$\$})->{message}, undef, 'statement_timeout: cancelled, and the transaction goes on');
cmp_ok(time - $begun, '<', $soon, 'statement_timeout: soon');
$one->query('RESET statement_timeout');
remote_has('waits', $at_rest, 'statement_timeout: nothing runs any more');
is(is_sound('waits', $pid, 0, 'statement_timeout'), 0, 'statement_timeout: the same connection');

# --- a result that has come in half ---------------------------------------------------------

# The session stands still until the remote can send no more; the first thing that it
# finds then is that it is cancelled.
create('half');
my $rows = q{SELECT 1, ''::text UNION ALL SELECT 2, pg_advisory_xact_lock(4711)::text
	UNION ALL SELECT i, repeat('x', 1000) FROM (SELECT generate_series(3, 1000000000) AS i) AS s};
foreach my $n (1 .. 3)
{
	$pid = remote_pid($one, 'half');
	my $discarded = discarded('half');
	$gate->query('SELECT pg_advisory_lock(4711)');
	$one->send("SELECT count(*) FROM conpool.query('half', \$\$$rows\$\$) AS t(i int, t text)");
	remote_has('half', q{bool_or(wait_event_type = 'Lock')}, "half a result $n: it begins");
	wait_for_remote($one, "half a result $n: the session waits for it");
	halt($one->{pid});
	$gate->query('SELECT pg_advisory_unlock(4711)');
	remote_has('half', q{bool_or(wait_event = 'ClientWrite')}, "half a result $n: there is much of it");
	values_of("SELECT pg_cancel_backend($one->{pid})");
	$begun = time;
	go_on($one->{pid});
	is_cancelled($one, $begun, "half a result $n");
	remote_has('half', $at_rest, "half a result $n: nothing runs any more");
	is_sound('half', $pid, $discarded, "half a result $n");
}

# --- a statement that has been sent in half ----------------------------------------------------

create('unsent');
$pid = remote_pid($one, 'unsent');
halt($pid);
my ($sent) = values_of('SELECT bytes_sent FROM conpool.tunnels');
$one->send(q{SELECT conpool.exec('unsent', 'SELECT length($1)', repeat('x', 30000000))});
wait_for($local, "SELECT bytes_sent > $sent + 50000 FROM conpool.tunnels", 'half a statement is sent');
wait_for_remote($one, 'half a statement: its session waits for room');
$begun = time;
values_of("SELECT pg_cancel_backend($one->{pid})");
is_cancelled($one, $begun, 'half a statement');
isnt(remote_pid($other, 'unsent'), $pid, 'half a statement: its connection is gone');
is(discarded('unsent'), 1, 'half a statement: and counted');
go_on($pid);
remote_has('unsent', "bool_and(pid <> $pid)", 'half a statement: the remote has noticed');

# --- many, at random ----------------------------------------------------------------------------

# Of each pair the one is cancelled, and the other waits for the same connection.
sub cancel_often
{
	my ($server) = @_;
	my %count = (cancelled => 0, done => 0, served => 0);
	my ($victim, $heir) = map { WireClient->new($local) } 1 .. 2;
	foreach my $n (1 .. $times)
	{
		my $statement =
		  rand() < 0.5
		  ? sprintf('SELECT pg_sleep(%.4f)', rand 0.01)
		  : sprintf(q{SELECT repeat('x', 1000) FROM generate_series(1, %d)}, rand 10_000);
		$victim->send("SELECT conpool.exec('$server', \$\$$statement\$\$)");
		usleep(rand 10_000);
		$heir->send("SELECT * FROM conpool.query('$server', 'SELECT \$1::int FROM pg_sleep(0.001)', $n) AS t(a int)");
		$victim->cancel;
		my $result = $victim->result;
		$count{ !$result->{error} ? 'done' : $result->{error} eq '57014' ? 'cancelled' : $result->{message} }++;
		$result = $heir->result;
		$count{ $result->{error} ? "hit: $result->{error} $result->{message}"
			: $result->{rows}[0][0] eq $n ? 'served' : 'wrong' }++;
		# in case that the cancel came after its statement
		$victim->query('SELECT 1 FROM pg_sleep(0.001)');
	}
	$_->hang_up for $victim, $heir;
	return %count;
}

create("often_$_") for 1 .. $pairs;
create('beside');
my @load = start_load($local, 2, 'beside');
$begun = time;
my @workers = map { my $server = "often_$_"; start_worker(sub { cancel_often($server) }) } 1 .. $pairs;
my $count = stop_workers(@workers);
my $load = stop_workers(@load);
note sprintf 'figure: %d cancels in %.1f s: %s', $pairs * $times, time - $begun,
  join ', ', map { "$_ = $count->{$_}" } sort keys %$count;
my $cancelled = delete $count->{cancelled};
cmp_ok($cancelled, '>', $times / 2, 'statements were cancelled');
is($cancelled + delete $count->{done}, $pairs * $times, 'the others had come to their end');
is_deeply($count, { served => $pairs * $times }, 'no statement was hit by a cancel of another one');
is(join(' ', sort keys %$load), 'right', 'nor was any on another connection');
my ($connects, $lost) = values_of(q{SELECT sum(connects), sum(discarded) FROM conpool.stat_pools
	WHERE server LIKE 'often%'});
is($connects - $lost, $pairs, 'connections were kept, or closed and counted');
note "figure: of $cancelled cancels so many cost the connection = $lost";
cmp_ok($lost, '<', $cancelled / 2, 'most were kept');

# --- late ones ----------------------------------------------------------------------------------

my $requests = PostgreSQL::Test::Utils::tempdir() . '/requests';
append_to_file($requests, '');
create('proxied');
values_of("ALTER SERVER proxied OPTIONS (SET port '" . start_proxy($remote->port, 0, $requests) . "')");
remote_pid($one, 'proxied');
is($one->query(q{SET statement_timeout = '50ms'; SELECT conpool.exec('proxied', 'SELECT pg_sleep(100)')})->{error},
	'57014', 'the remote is reached for a cancel where it was for the connection');
$one->query('RESET statement_timeout');
remote_has('proxied', $at_rest, 'and has stopped');
is(-s $requests, encrypts_cancels() ? 0 : 1, 'in the clear if libpq can do no better');

SKIP:
{
	skip 'cancels are encrypted', 1 if encrypts_cancels();
	cancel_late($local, $remote, 0.7, 1, 'kept');
	cancel_late($local, $remote, 20, 3, 'closed');
}

# --- the tunnel stands still ------------------------------------------------------------------------

my ($tunnel) = values_of('SELECT pid FROM conpool.tunnels');
my @names = ('a cancel', 'a lease', 'a session that ends');
my @sessions = map { WireClient->new($local) } @names;
create("still_$_") for 0 .. $#names;
my ($lease) = values_of(q{SELECT conpool.checkout('still_1', 'session')}, $sessions[1]);
foreach my $n (0 .. $#names)
{
	my $of = $n == 1 ? $lease : "'still_$n'";
	$sessions[$n]->send("SELECT conpool.exec($of, 'SELECT pg_sleep(100)')");
	remote_has("still_$n", $runs, "the tunnel stands still: $names[$n]: a statement runs");
}
halt($tunnel);
$begun = time;
values_of("SELECT pg_cancel_backend($sessions[$_]{pid})") for 0, 1;
values_of("SELECT pg_terminate_backend($sessions[2]{pid})");
is_cancelled($sessions[$_], $begun, "the tunnel stands still: $names[$_]") for 0, 1;
is($sessions[2]->result->{error}, '57P01', "the tunnel stands still: $names[2]: it has");
cmp_ok(time - $begun, '<', $soon, "the tunnel stands still: $names[2]: soon");
is($sessions[1]->query("SELECT conpool.exec($lease, 'SELECT 1')")->{error},
	'08006', 'the tunnel stands still: the lease is lost');
go_on($tunnel);
foreach my $n (0 .. $#names)
{
	remote_has("still_$n", $at_rest, "the tunnel goes on: $names[$n]: nothing runs any more");
	ok(remote_pid($other, "still_$n"), "the tunnel goes on: $names[$n]: its pool serves");
	remote_has("still_$n", 'count(*) = 1', "the tunnel goes on: $names[$n]: one connection");
}
is(discarded("still_$_"), 1, "the tunnel goes on: $names[$_]: one was closed, and counted")
  for 0 .. $#names;

# --- what is left --------------------------------------------------------------------------------------

is((values_of('SELECT test.at_rest()'))[0], 't', 'all pools are at rest');
is((values_of('SELECT pid FROM conpool.tunnels'))[0], $tunnel, 'it is the same tunnel');
wait_for($local, q{SELECT (SELECT sum(connections) FROM conpool.tunnels) = sum(tunnelled) FROM conpool.pools},
	'it has the connections of the pools, and no others');

done_testing();
