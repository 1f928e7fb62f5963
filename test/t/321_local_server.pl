# However the server ends, it ends soon, leaves no connection on any remote, and
# has its pools filled when it is back, without anybody asking. One of the pools
# leads back to the server itself.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

plan skip_all => 'there is no /proc' unless -d '/proc/self/fd';

my $limit = 10;    # seconds for any end
my $remote = new_remote('remote');
my $local = new_local('local', conf => 'restart_after_crash = on');
setup_local($local, $remote);
create_server($local, $remote, 'kept', options => q{min_size '2'});
create_server($local, $remote, 'used', user => 'regress_remote_two');
$local->safe_psql(
	'postgres', sprintf q{
	CREATE ROLE regress_loop LOGIN SUPERUSER;
	CREATE SERVER loop FOREIGN DATA WRAPPER conpool
		OPTIONS (host '%s', port '%d', dbname 'postgres', min_size '2');
	CREATE USER MAPPING FOR CURRENT_USER SERVER loop OPTIONS (user 'regress_loop')},
	$local->host, $local->port);
my $query = q{SELECT * FROM conpool.query('%s', 'SELECT 1') AS t(a int)};

# Asks nothing of a pool: what is there is there by itself.
sub wait_for_full
{
	my ($when) = @_;
	my $start = time;
	count_remote($remote, 2, "$when: the pool is filled", 'regress_remote');
	wait_for(
		$local,
		q{SELECT count(*) = 2 FROM pg_stat_activity WHERE usename = 'regress_loop'},
		"$when: that which leads back to the server, too");
	note sprintf 'figure: min_size is back after %s = %.1f s', $when, time - $start;
	wait_for($local,
		q{SELECT count(*) = 4 AND bool_and(state = 'idle') FROM conpool.connections},
		"$when: all connections are idle");
	return;
}

# Sessions with leases, and idle connections; each pool has both.
sub use_pools
{
	my ($when) = @_;
	my ($holder, $other) = map { WireClient->new($local) } 1 .. 2;
	foreach my $server (qw(kept used loop))
	{
		my $result = $holder->query("SELECT conpool.checkout('$server', 'session')");
		is($result->{error}, undef, "$when: a lease of $server");
		is($other->query(sprintf $query, $server)->{rows}[0][0], '1', "$when: a query on $server");
	}
	wait_for($local,
		q{SELECT count(*) FILTER (WHERE leased = 1 AND idle >= 1) = 3 FROM conpool.pools
		  WHERE server IN ('kept', 'used', 'loop')},
		"$when: connections are leased and idle");
	return ($holder, $other);
}

sub begin_stop
{
	my ($mode) = @_;
	my $pid = fork() // die "fork: $!";
	exec 'pg_ctl', '-s', '-D', $local->data_dir, '-m', $mode, '-t', '60', 'stop'
	  if $pid == 0;
	return $pid;
}

sub await_stop
{
	my ($pid, $start, $when) = @_;
	waitpid $pid, 0;
	is($?, 0, "$when: the server stops");
	my $time = time - $start;
	cmp_ok($time, '<', $limit, "$when: before long");
	note sprintf 'figure: stop, %s = %.1f s', $when, $time;
	$local->_update_pid(0);
	check_remote($when, $start);
	return;
}

sub check_remote
{
	my ($when, $start) = @_;
	count_remote($remote, 0, "$when: no connection is left over");
	my $time = time - $start;
	cmp_ok($time, '<', $limit, "$when: soon");
	note sprintf 'figure: the remote is rid of all connections, %s = %.1f s', $when, $time;
	return;
}

sub is_stopping
{
	return slurp_file($local->data_dir . '/postmaster.pid') =~ /^stopping/m;
}

wait_for_full('first start');

# --- fast and immediate shutdown

foreach my $mode (qw(fast immediate))
{
	my @sessions = use_pools($mode);
	my $runs;
	if ($mode eq 'fast')
	{
		# without a farewell the remote would learn of it only at its end
		$runs = WireClient->new($local);
		$runs->send(q{SELECT conpool.exec('used', 'SELECT pg_sleep(100)')});
		wait_for($remote,
			q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
			"$mode: a statement runs");
	}
	my $start = time;
	await_stop(begin_stop($mode), $start, $mode);
	is(join(' ', map { s{.*/}{}r } glob $local->data_dir . '/pg_stat_tmp/conpool.*'),
		'', "$mode: no socket is left")
	  if $mode eq 'fast';
	$local->start;
	wait_for_full($mode);
}

# --- smart shutdown: without any session, and with one that holds leases

my $start = time;
await_stop(begin_stop('smart'), $start, 'smart');
$local->start;
wait_for_full('smart');

my ($holder, $other) = use_pools('smart with leases');
$other->hang_up;
my $stop = begin_stop('smart');
wait_until(\&is_stopping, 'smart with leases: the server is stopping');
count_remote($remote, 2, 'smart with leases: only what is leased is left');
# as long as it takes to open connections anew
my $watched = time;
my $most = 0;
while (time < $watched + 3)
{
	my $now = $remote->safe_psql('postgres',
		q{SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'regress%'});
	$most = $now if $now > $most;
	$now = $holder->query(
		q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'regress_loop'})->{rows}[0][0];
	$most = "loop: $now" if $now > 1;
}
is($most, 2, 'smart with leases: nothing is opened ahead of demand');
my $leases = $holder->query(
	q{SELECT count(*) FROM conpool.leases l,
		LATERAL conpool.query(l.lease, 'SELECT 1') AS t(a int) WHERE pid = pg_backend_pid()});
is($leases->{rows}[0][0], 3, 'smart with leases: the leases go on');
is($holder->query(sprintf $query, 'used')->{rows}[0][0],
	'1', 'smart with leases: so does the use of pools');
is(kill(0, $stop), 1, 'smart with leases: the server waits for the session');
$start = time;
$holder->query('SELECT conpool.checkin(lease) FROM conpool.leases WHERE pid = pg_backend_pid()');
$holder->hang_up;
await_stop($stop, $start, 'smart with leases');
$local->start;
wait_for_full('smart with leases');

# --- a session is killed: the server restarts all

my @sessions = use_pools('crash');
my $remote_pids = $remote->safe_psql('postgres',
	q{SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE usename LIKE 'regress%'});
$start = time;
kill 'KILL', $sessions[0]{pid};
ok($sessions[1]->result->{lost}, 'crash: all sessions end');
wait_for($remote,
	"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ($remote_pids)",
	'crash: no connection is left over');
note sprintf 'figure: the remote is rid of all connections, crash = %.1f s', time - $start;
wait_for_full('crash');

# --- the postmaster is killed

my $workers = join ' ', map { server_processes($local, $_) } 'conpool broker', 'conpool dialer';
like($workers, qr/^\d+ \d+$/, 'the postmaster is killed: broker and dialer are there');
@sessions = use_pools('the postmaster is killed');
$start = time;
$local->kill9;
check_remote('the postmaster is killed', $start);
wait_until(sub { !grep { -d "/proc/$_" } split ' ', $workers },
	'the postmaster is killed: broker and dialer end');
wait_until(sub { $local->start(fail_ok => 1) }, 'the postmaster is killed: a new one');
wait_for_full('the postmaster is killed');

# --- a session is killed, and the server does not restart

$local->safe_psql('postgres', 'ALTER SYSTEM SET restart_after_crash = off');
$local->reload;
wait_for($local, q{SELECT current_setting('restart_after_crash') = 'off'}, 'restart_after_crash = off');
@sessions = use_pools('restart_after_crash = off');
$start = time;
kill 'KILL', $sessions[0]{pid};
wait_until(sub { !-e $local->data_dir . '/postmaster.pid' },
	'restart_after_crash = off: the server is gone');
cmp_ok(time - $start, '<', $limit, 'restart_after_crash = off: before long');
$local->_update_pid(0);
check_remote('restart_after_crash = off', $start);
$local->start;
wait_for_full('restart_after_crash = off');

done_testing();
