# What a pool does with its connections is the same when they go through a tunnel:
# sharing, limits, reset, cancel, checks, age and ends; and the views tell.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use Test::More;
use WireClient;

plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $certificates = Certificates->new;
my $remote = new_remote('remote');
offer_tls($remote, $certificates, hba => 'host all all 127.0.0.1/32 scram-sha-256');
use_tls($remote, $certificates);
my $local = new_local('local');
setup_local($local, $remote);

my ($one, $other, $third) = map { WireClient->new($local) } 1 .. 3;
my $watcher = WireClient->new($local);
my $remote_watcher = WireClient->new($remote);
my @stopped;
END { kill 'CONT', @stopped if @stopped; }

# Servers are known to the remote by their names.
sub create
{
	my ($server, $options) = @_;
	create_server($local, $remote, $server,
		options => join ', ', "application_name '$server'", $options // ());
	return;
}

# The columns of a query's only row.
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
			(values_of("SELECT $condition FROM pg_stat_activity LEFT JOIN pg_stat_ssl USING (pid)
				WHERE application_name = '$server'", $remote_watcher))[0] eq 't';
		},
		$what);
}

sub lease
{
	my ($session, $server) = @_;
	return (values_of("SELECT conpool.checkout('$server', 'session')", $session))[0];
}

# --- set out now, looked at later --------------------------------------------------

create('ahead', q{min_size '3'});
create('idle', q{idle_timeout '1s'});
create('old', q{max_lifetime '2s'});
create('checked', q{validate_interval '500ms'});
create('hangs', q{validate_interval '1s'});
my %early = map { $_ => remote_pid($one, $_) } qw(idle old checked hangs);
my ($created) = values_of('SELECT clock_timestamp()');
push @stopped, $early{hangs};
kill 'STOP', @stopped;

# --- sharing -------------------------------------------------------------------------

create('shared');
wait_for_pool($local, 'ahead', 'idle = 3 AND tunnelled = 3', 'those ahead of demand are there');
my @pids = map { remote_pid($_, 'shared') } $one, $other, $third, $one;
is(join(' ', @pids), join(' ', ($pids[0]) x 4), 'all sessions use the same connection');
remote_has('shared', 'count(*) = 1 AND bool_and(ssl)', 'the remote has one, encrypted');
wait_for($local, 'SELECT sum(opened) = 8 FROM conpool.tunnels',
	'a tunnel has opened it, and those of before');
my @how = values_of("SELECT version, cipher FROM pg_stat_ssl WHERE pid = $pids[0]", $remote_watcher);
is( join(' ', values_of(q{SELECT remote_pid, state, encrypted, tls_version, tls_cipher, tunnel, remote_address
		FROM conpool.connections WHERE server = 'shared'})),
	join(' ', $pids[0], 'idle t', @how, '1 127.0.0.1:' . $remote->port),
	'the view describes it');
is(join(' ', values_of(q{SELECT size, idle, tunnelled, unshared FROM conpool.pools WHERE server = 'shared'})),
	'1 1 1 0', 'and so does that of the pools');
is( (values_of(q{SELECT detail FROM conpool.diagnose('shared') WHERE step = 'encryption'}))[0],
	"encrypted by $how[0] ($how[1]); sslmode is \"verify-full\"; connections are shared through a tunnel",
	'and a diagnosis');

# --- limits ----------------------------------------------------------------------------

create('limited', q{max_size '2'});
my @leases = map { lease($one, 'limited') } 1 .. 2;
is(join(' ', values_of(q{SELECT size, leased, tunnelled FROM conpool.pools WHERE server = 'limited'})),
	'2 2 2', 'max_size is reached');
is( $other->query(q{SELECT conpool.checkout('limited', 'session', '100ms')})->{error},
	'53300', 'there are no more');
my ($first) = values_of("SELECT remote_pid FROM conpool.leases WHERE lease = $leases[0]");
my $query = q{SELECT * FROM conpool.query('limited', 'SELECT pg_backend_pid()') AS t(pid int)};
$_->send($query) for $other, $third;
wait_for_pool($local, 'limited', 'waiting = 2', 'others wait');
$one->query("SELECT conpool.checkin($leases[0])");
is($_->result->{rows}[0][0], $first, 'and get the one that comes back') for $other, $third;
$one->query("SELECT conpool.checkin($leases[1])");
remote_has('limited', 'count(*) = 2', 'the remote has seen no more than two');

# --- session state ------------------------------------------------------------------------

create('state', q{max_size '1'});
my $pid = remote_pid($one, 'state');
my $lease = lease($one, 'state');
values_of("SELECT conpool.exec($lease, \$\$$_\$\$)", $one)
  for q{SET work_mem = '77MB'}, 'CREATE TEMP TABLE mine (a int)', 'SELECT pg_advisory_lock(4711)';
$one->query("SELECT conpool.checkin($lease)");
wait_for($local, q{SELECT resets = 1 FROM conpool.stat_pools WHERE server = 'state'},
	'a connection is reset');
is( join(' ', values_of(q{SELECT * FROM conpool.query('state', $$SELECT pg_backend_pid(),
		current_setting('work_mem') = '77MB', to_regclass('pg_temp.mine'),
		count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()$$)
		AS t(pid int, work_mem bool, mine text, locks int)}, $other)),
	"$pid f - 0", 'it is the same, and clean');

values_of("SELECT conpool.exec('state', 'CREATE TABLE written (a int)')", $one);
$lease = lease($one, 'state');
values_of("SELECT conpool.exec($lease, '$_')", $one) for 'BEGIN', 'INSERT INTO written VALUES (1)';
$one->query("SELECT conpool.checkin($lease)");
is( join(' ', values_of(q{SELECT * FROM conpool.query('state', 'SELECT pg_backend_pid(), count(*) FROM written')
		AS t(pid int, n int)}, $other)),
	"$pid 0", 'an open transaction is rolled back');

$lease = lease($one, 'state');
values_of("SELECT conpool.exec($lease, 'LISTEN news')", $one);
$one->query("SELECT conpool.checkin($lease)");
isnt(remote_pid($other, 'state'), $pid, 'one that listens is not used again');
remote_has('state', 'count(*) = 1', 'but closed');

# --- what passes -----------------------------------------------------------------------------

my $size = 5_000_000;
my $counted = 'SELECT sum(bytes_sent), sum(bytes_received) FROM conpool.tunnels';
my ($sent, $received) = values_of($counted);
is((values_of("SELECT length(a) FROM conpool.query('shared', 'SELECT repeat(''x'', $size)') AS t(a text)", $one))[0],
	$size, 'a long value comes');
is((values_of("SELECT a FROM conpool.query('shared', 'SELECT length(\$1)', repeat('x', $size)) AS t(a int)", $one))[0],
	$size, 'and goes');
wait_for($local, "SELECT sent - $sent >= $size AND received - $received >= $size
	FROM ($counted) AS t(sent, received)", 'the bytes are counted');
($sent, $received) = map { $_ - $size } (values_of("SELECT sent - $sent, received - $received
	FROM ($counted) AS t(sent, received)"));
cmp_ok($sent, '<', 100_000, 'once, those that were sent');
cmp_ok($received, '<', 100_000, 'and those that were received');
is( join(' ', values_of(q{SELECT * FROM conpool.query('shared',
		'SELECT count(*), sum(length(a)) FROM (SELECT repeat(''x'', i % 100) FROM generate_series(1, 200000) i) t(a)')
		AS t(n int, sum int)})),
	join(' ', values_of(q{SELECT count(*), sum(length(a)) FROM conpool.query('shared',
		'SELECT repeat(''x'', i % 100) FROM generate_series(1, 200000) i') AS t(a text)})),
	'many rows');

# --- cancel ------------------------------------------------------------------------------------

create('cancelled', q{max_size '1'});
$pid = remote_pid($one, 'cancelled');
my $sleep = q{SELECT conpool.exec('cancelled', 'SELECT pg_sleep(100)')};
foreach my $n (1 .. 3)
{
	is($one->query("SET statement_timeout = '50ms'; $sleep")->{error}, '57014', "statement_timeout $n");
	$one->query('RESET statement_timeout');
	remote_has('cancelled', q{bool_and(state = 'idle')}, 'nothing runs any more');
	is(remote_pid($other, 'cancelled'), $pid, 'the connection serves again');
}
my %cancelled = (
	'while it waits' => 'SELECT pg_sleep(100)',
	'while rows come' => q{SELECT repeat('x', 1000) FROM generate_series(1, 1000000000)});
foreach my $what (sort keys %cancelled)
{
	$one->send("SELECT count(*) FROM conpool.query('cancelled', \$\$$cancelled{$what}\$\$) AS t(a text)");
	remote_has('cancelled', q{count(*) FILTER (WHERE state = 'active') = 1}, "$what: it runs");
	$one->cancel;
	is($one->result->{error}, '57014', "$what: a cancel request");
	remote_has('cancelled', q{count(*) FILTER (WHERE state = 'active') = 0}, "$what: nothing runs any more");
	remote_pid($other, 'cancelled');
}
$lease = lease($one, 'cancelled');
values_of("SELECT conpool.exec($lease, 'SET work_mem = 77777')", $one);
is($one->query("SET statement_timeout = '50ms'; SELECT conpool.exec($lease, 'SELECT pg_sleep(100)')")->{error},
	'57014', 'a cancel on a lease');
$one->query('RESET statement_timeout');
is((values_of("SELECT * FROM conpool.query($lease, 'SHOW work_mem') AS t(a text)", $one))[0],
	'77777kB', 'leaves its session as it is');
$one->query("SELECT conpool.checkin($lease)");

# --- ends ----------------------------------------------------------------------------------------

create('ends', q{max_size '1'});
$pid = remote_pid($one, 'ends');
my $client = WireClient->new($local);
$lease = lease($client, 'ends');
$client->hang_up;
wait_for_pool($local, 'ends', 'idle = 1', 'a session that ends leaves its connection behind');
is(remote_pid($one, 'ends'), $pid, 'for others');

my $long = q{SELECT conpool.exec('ends', 'SELECT pg_sleep(100)')};
$client = WireClient->new($local);
$client->send($long);
remote_has('ends', q{count(*) FILTER (WHERE state = 'active') = 1}, 'a statement runs');
values_of("SELECT pg_terminate_backend($client->{pid})");
is($client->result->{error}, '57P01', 'its session is terminated');
remote_has('ends', q{count(*) FILTER (WHERE state = 'active') = 0}, 'nothing runs any more');
remote_pid($one, 'ends');

$other->send($long);
remote_has('ends', q{count(*) FILTER (WHERE state = 'active') = 1}, 'a statement runs');
values_of(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ends'},
	$remote_watcher);
my $result = $other->result;
is($result->{error}, '08006', 'its remote backend is terminated');
like($result->{detail}, qr/terminating connection due to administrator command/, 'and has said why');
remote_pid($_, 'ends') for $other, $one;
wait_for_pool($local, 'ends', 'idle = 1 AND size = 1 AND tunnelled = 1', 'there is a new one');

# --- other options ---------------------------------------------------------------------------------

create('altered');
$pid = remote_pid($one, 'altered');
foreach my $mode (qw(disable require))
{
	my $tls = $mode eq 'disable' ? 'false' : 'true';
	values_of("ALTER SERVER altered OPTIONS (SET sslmode '$mode')");
	my $now = remote_pid($one, 'altered');
	isnt($now, $pid, "sslmode $mode: a new connection");
	remote_has('altered', "count(*) = 1 AND bool_and(ssl = $tls AND pid = $now)",
		"sslmode $mode: the other one is closed");
	wait_for_pool($local, 'altered', "size = 1 AND tunnelled = $tls\::int AND unshared = 0");
	is(remote_pid($other, 'altered'), $now, "sslmode $mode: and shared");
	$pid = $now;
}
values_of(q{SELECT conpool.reconnect('altered')});
isnt(remote_pid($one, 'altered'), $pid, 'reconnect(): a new connection');
values_of(q{SELECT conpool.close_idle('altered')});
wait_for_pool($local, 'altered', 'size = 0', 'close_idle(): none');
remote_has('altered', 'count(*) = 0', 'the remote has seen them go');

# --- what was set out ---------------------------------------------------------------------------------

my ($ahead) = values_of(q{SELECT array_agg(remote_pid) FROM conpool.connections WHERE server = 'ahead'});
values_of(q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'ahead'},
	$remote_watcher);
wait_for_pool($local, 'ahead', "idle = 3 AND size = 3 AND tunnelled = 3 AND NOT EXISTS
	(SELECT FROM conpool.connections WHERE server = 'ahead' AND remote_pid = ANY ('$ahead'))",
	'min_size: what is lost is replaced');
remote_has('ahead', 'count(*) = 3 AND bool_and(ssl)', 'encrypted');

foreach my $server (qw(idle old))
{
	wait_for_pool($local, $server, 'size = 0', "$server: closed");
	remote_has($server, 'count(*) = 0', "$server: the remote has seen it go");
}
wait_for($local, "SELECT state = 'idle' AND checked_at > '$created'::timestamptz + interval '1 s'
	AND remote_pid = $early{checked} FROM conpool.connections WHERE server = 'checked'",
	'validate_interval: one that answers is kept');
wait_for_pool($local, 'hangs', 'size = 0', 'one that does not is closed');
isnt(remote_pid($one, 'hangs'), $early{hangs}, 'and replaced');
kill 'CONT', @stopped;
remote_has('hangs', "bool_and(pid <> $early{hangs})", 'it goes when it comes to itself');

# --- what is left ----------------------------------------------------------------------------------------

is($local->safe_psql('postgres', 'SELECT test.at_rest()'), 't', 'all pools are at rest');
wait_for($local, q{
	SELECT (SELECT sum(connections) FROM conpool.tunnels) = count(*) AND bool_and(tunnel IS NOT NULL)
	FROM conpool.connections WHERE encrypted}, 'the tunnel has no other connections');
is($local->safe_psql('postgres', 'SELECT sum(unshared) FROM conpool.pools'), '0', 'all were shared');
is(join(' ', values_of('SELECT count(*), sum(failed) FROM conpool.tunnels')), '1 0', 'none has failed');

done_testing();
