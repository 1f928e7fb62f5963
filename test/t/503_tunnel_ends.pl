# A tunnel that ends, is stopped or goes with the server costs the connections that
# go through it, and nothing else: sessions get an error or another connection, and
# the pools are full again soon, without anybody asking.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use FakeServer qw(message hang);
use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

plan skip_all => 'there is no /proc' unless -d '/proc/self/fd';
plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $soon = 15;    # seconds for whatever is to be over soon

# Asks for more rounds of SCRAM than anybody lives to see. (It is there before any
# worker is, whose pipes it would keep open.)
my $endless = FakeServer->new({ endless => { greeting => \&ask_for_rounds } });

sub ask_for_rounds
{
	my ($peer) = @_;
	$peer->send(message('R', pack('N', 10) . "SCRAM-SHA-256\0\0"));
	sysread $peer, my $first, 8192;
	my ($nonce) = $first =~ /r=(.*)/s;
	$peer->send(message('R', pack('N', 11) . "r=${nonce}more,s=c2FsdA==,i=2000000000"));
	return hang($peer);
}

my $certificates = Certificates->new;
my $remote = new_remote('remote', tls => $certificates);
my $local = new_local('local', conf => 'restart_after_crash = on');
setup_local($local, $remote);
create_loop($local);
create_server($local, $remote, 'kept', options => q{min_size '2', max_size '2'});
create_server($local, $remote, 'used', user => 'regress_remote_two');
create_server($local, $remote, 'loaded',
	user => 'regress_remote_admin',
	options => q{max_size '3', checkout_timeout '20s'});

my $stopped;
END { kill 'CONT', $stopped if $stopped; }

my $warning = q{WARNING: conpool's tunnel is not running: encrypted connections are not shared};
# process ID of the remote's backend, and whether it is encrypted
my $query = q{SELECT * FROM conpool.query(%s,
	'SELECT pid, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()') AS t(pid int, ssl bool)};

sub run
{
	my ($sql) = @_;
	return $local->safe_psql('postgres', $sql);
}

sub tunnel_pid
{
	return run('SELECT pid FROM conpool.tunnels');
}

sub wait_for_new_tunnel
{
	my ($old, $when) = @_;
	return wait_for($local, "SELECT pid <> $old FROM conpool.tunnels",
		"$when: there is a new tunnel");
}

# Keeps new tunnels from listening, so that there is none when this one has ended.
my $socket = $local->data_dir . '/pg_stat_tmp/conpool.tunnel.1';

sub block_tunnel
{
	rename $socket, "$socket.old" or die "rename: $!";
	mkdir $socket or die "mkdir: $!";
	return;
}

sub unblock_tunnel
{
	rmdir $socket or die "rmdir: $!";
	unlink "$socket.old";
	return;
}

# min_size is reached, with none of the old connections (an array of SQL).
sub wait_for_full
{
	my ($old, $when) = @_;
	my $start = time;
	wait_for_pool($local, 'kept', "idle = 2 AND size = 2 AND tunnelled = 2 AND NOT EXISTS
		(SELECT FROM conpool.connections WHERE server = 'kept' AND remote_pid = ANY ('$old'))",
		"$when: the pool is filled by itself");
	note sprintf 'figure: min_size is back after %s = %.1f s', $when, time - $start;
	return;
}

sub kept_pids
{
	return run(q{SELECT coalesce(array_agg(remote_pid), '{}') FROM conpool.connections
		WHERE server = 'kept'});
}

# What the pools know is what the tunnel and the remote have.
sub check_nothing_lost
{
	my ($when) = @_;
	wait_for_pool($local, 'kept', 'idle = 2', "$when: min_size is reached");
	wait_for($local, q{SELECT sum(size - idle - leased) = 0 FROM conpool.pools},
		"$when: the pools are at rest");
	wait_for($local, q{SELECT (SELECT sum(connections) FROM conpool.tunnels) = sum(tunnelled)
		FROM conpool.pools}, "$when: the tunnel has the pools' connections, and no others");
	wait_until(
		sub {
			run(q{SELECT string_agg(remote_pid::text, ',' ORDER BY remote_pid)
				FROM conpool.connections WHERE server <> 'loop'}) eq
			  $remote->safe_psql('postgres', q{SELECT string_agg(pid::text, ',' ORDER BY pid)
				FROM pg_stat_activity WHERE usename LIKE 'regress%'});
		},
		"$when: so does the remote");
	return;
}

# A statement that runs until it is lost or cancelled.
sub start_statement
{
	my ($client, $of, $when) = @_;
	$client->send("SELECT conpool.exec($of, 'SELECT pg_sleep(100)')");
	wait_for($remote,
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		"$when: a statement runs");
	return;
}

# The remote learns that nobody wants the answer when it sends it.
sub end_statements
{
	$remote->safe_psql('postgres',
		q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
	return;
}

sub crashes
{
	return join "\n",
	  slurp_file($local->logfile) =~ /^.*(?:TRAP:|PANIC:|was terminated by signal).*$/mg;
}

# --- it ends, and does not come back for a while ----------------------------------------

my ($runs, $holds, $transacts, $asks) = map { WireClient->new($local) } 1 .. 4;
wait_for_full('{}', 'start');
my $tunnel = tunnel_pid();
my $old = kept_pids();
start_statement($runs, q{'used'}, 'its end');
my $lease = $holds->query(q{SELECT conpool.checkout('used', 'session')})->{rows}[0][0];
$transacts->query('BEGIN');
is($transacts->query(q{SELECT conpool.checkout('used', 'transaction') IS NOT NULL})->{rows}[0][0],
	't', 'a lease of a transaction');
my $asked = $asks->query(sprintf $query, q{'used'});
is($asked->{rows}[0][1], 't', 'a query, encrypted');
wait_for_pool($local, 'used', 'tunnelled = 4 AND leased = 3 AND idle = 1');

block_tunnel();
my $start = time;
kill 'TERM', $tunnel;
my $result = $runs->result;
is($result->{error}, '08006', 'its end: the statement under way is lost');
like($result->{message}, qr/"used"/, 'its end: the error names the pool');
cmp_ok(time - $start, '<', $soon, 'its end: at once');
wait_for($local, 'SELECT pid IS NULL AND connections = 0 FROM conpool.tunnels',
	'its end: there is none');
is($holds->query("SELECT conpool.exec($lease, 'SELECT 1')")->{error}, '08006', 'its end: a lease is lost')
  for 1 .. 2;
is($holds->query("SELECT conpool.checkin($lease)")->{error}, undef, 'its end: and can be given back');
is($transacts->query(q{SELECT conpool.exec(lease, 'SELECT 1') FROM conpool.leases
	WHERE pid = pg_backend_pid()})->{error}, '08006', 'its end: so is that of a transaction');
$transacts->query('ROLLBACK');
is($transacts->query('SELECT 1')->{rows}[0][0], '1', 'its end: the sessions are well');
wait_for_pool($local, 'used', 'size = 0', 'its end: an idle connection leaves its pool');
wait_for_pool($local, 'kept', q{size = 0 AND breaker = 'closed'
	AND upkeep_error LIKE '%no tunnel is running%'}, 'its end: min_size has to wait, and says why');
end_statements();

# meanwhile
my @got = map { $asks->query(sprintf $query, q{'used'}) } 1 .. 3;
is($_->{rows}[0][1], 't', 'no tunnel: callers are served, encrypted') for @got;
isnt($got[0]{rows}[0][0], $got[1]{rows}[0][0], 'no tunnel: on connections of their own');
is_deeply([ map { @{ $_->{notices} } } @got ], [$warning], 'no tunnel: they are warned, once');
is($transacts->query(sprintf $query, q{'used'})->{notices}[0], $warning, 'no tunnel: in each session');
wait_for_pool($local, 'used', 'size = 0 AND unshared = 0', 'no tunnel: all are closed again');
like(run(q{SELECT detail FROM conpool.diagnose('used') WHERE step = 'encryption'}),
	qr/no tunnel is running/, 'no tunnel: diagnose() tells');

unblock_tunnel();
wait_for_new_tunnel($tunnel, 'again');
wait_for_full($old, 'a while without a tunnel');
my @again = map { $_->query(sprintf $query, q{'used'}) } $asks, $transacts, $asks;
is_deeply([ map { @{ $_->{notices} } } @again ], [], 'again: no warning');
is($again[0]{rows}[0][0], $again[$_]{rows}[0][0], 'again: connections are shared') for 1 .. 2;
wait_for_pool($local, 'used', 'size = 1 AND tunnelled = 1', 'again: through the tunnel');
check_nothing_lost('again');

# --- it ends under load -------------------------------------------------------------------

my @load = (start_load($local, 4, 'loaded'), start_load($local, 2, 'loaded', fresh => 1));
foreach my $turn (1 .. 2)
{
	my $enough = run(q{SELECT queries + 100 FROM conpool.stat_pools WHERE server = 'loaded'});
	wait_for($local, qq{SELECT queries > $enough FROM conpool.stat_pools WHERE server = 'loaded'},
		"load: it is at work, $turn");
	($old, $tunnel) = (kept_pids(), tunnel_pid());
	kill 'TERM', $tunnel;
	wait_for_new_tunnel($tunnel, "load, $turn");
}
wait_for_full($old, 'an end under load');
my $seen = stop_workers(@load);
my $right = delete $seen->{right} // 0;
note "$right right answers", map { ", $seen->{$_} times $_" } sort keys %$seen;
is_deeply([ grep { !/^08006: / } keys %$seen ], [],
	'load: no error but that of statements under way');
check_nothing_lost('load');

# --- it ends while orders are under way ---------------------------------------------------

# Agrees to encryption and says nothing more.
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 20) // die "listen: $!";
my $agreeing = start_worker(
	sub {
		my ($goes_on) = @_;
		my $select = IO::Select->new($mute);
		my %said;
		my $handshakes = 0;
		while ($goes_on->())
		{
			foreach my $peer ($select->can_read(0.1))
			{
				if ($peer == $mute)
				{
					$select->add($peer->accept // next);
				}
				elsif (!sysread $peer, my $bytes, 8192)
				{
					$select->remove($peer);
					delete $said{$peer};
					close $peer;
				}
				elsif ($said{$peer}++)
				{
					$handshakes++;
				}
				else
				{
					syswrite $peer, 'S';
				}
			}
		}
		return (handshakes => $handshakes);
	});

my %limit = (mute => 4, muter => 600);    # seconds
run(sprintf q{
	CREATE SERVER %1$s FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '%2$d', sslmode 'require', connect_timeout '%3$ds');
	CREATE USER MAPPING FOR postgres SERVER %1$s OPTIONS (user 'nobody', password 'x')},
	$_, $mute->sockport, $limit{$_})
  for sort keys %limit;
$start = time;
$holds->send(q{SELECT conpool.exec('muter', 'SELECT 1')});
$runs->send(q{SELECT conpool.exec('mute', 'SELECT 1')});
wait_for($local, q{SELECT sum(connecting) = 2 FROM conpool.pools WHERE server LIKE 'mute%'},
	'orders: two hang in the handshake');
$tunnel = tunnel_pid();
kill 'TERM', $tunnel;
wait_for_new_tunnel($tunnel, 'orders');
$holds->cancel;
is($holds->result->{error}, '57014', 'orders: one can be cancelled');
$result = $runs->result;
is($result->{error}, '08001', 'orders: the other has an error');
like($result->{message}, qr/"mute": timeout/, 'orders: that tells how it came');
cmp_ok(time - $start, '>=', $limit{mute}, 'orders: after its time');
cmp_ok(time - $start, '<', $limit{mute} + $soon, 'orders: and not much later');
wait_for($local, q{SELECT sum(size) = 0 FROM conpool.pools WHERE server LIKE 'mute%'},
	'orders: nothing is left');

run(sprintf q{
	CREATE SERVER endless FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '%d', dbname 'endless', connect_timeout '1s');
	CREATE USER MAPPING FOR postgres SERVER endless OPTIONS (user 'nobody', password 'x')},
	$endless->port);
# a thread computes for as long as it is let
is($runs->query(q{SELECT conpool.exec('endless', 'SELECT 1')})->{error}, '08001', 'a thread is busy');
$tunnel = tunnel_pid();
$start = time;
kill 'TERM', $tunnel;
wait_until(sub { !-d "/proc/$tunnel" }, 'a thread is busy: the tunnel ends all the same');
cmp_ok(time - $start, '<', $soon, 'a thread is busy: soon');
wait_for_new_tunnel($tunnel, 'a thread is busy');
cmp_ok(stop_workers($agreeing)->{handshakes}, '>=', 2, 'it were handshakes');
check_nothing_lost('orders');

# --- it stands still ----------------------------------------------------------------------

create_server($local, $remote, 'fresh', options => q{connect_timeout '1s'});
create_server($local, $remote, 'hasty', options => q{checkout_timeout '1s'});
my $leaves = WireClient->new($local);
foreach my $client ($holds, $leaves)
{
	$lease = $client->query(q{SELECT conpool.checkout('used', 'session')})->{rows}[0][0];
	is($client->query("SELECT conpool.exec($lease, 'SELECT 1')")->{error}, undef, 'stopped: a lease');
	$client->query(q{SET statement_timeout = '500ms'});
}
wait_for_full('{}', 'what was before');
$tunnel = $stopped = tunnel_pid();
kill 'STOP', $stopped;

# each in its session, at the same time
my %error;
my %took;
my %asks = (
	lease => [ $holds, q{SELECT conpool.exec(lease, 'SELECT 1') FROM conpool.leases
		WHERE pid = pg_backend_pid()} ],
	idle => [ $asks, q{SET statement_timeout = '500ms'; SELECT conpool.exec('kept', 'SELECT 1')} ],
	connects => [ $runs, q{SELECT conpool.exec('fresh', 'SELECT 1')} ],
	hurries => [ $transacts, q{SELECT conpool.exec('hasty', 'SELECT 1')} ]);
$start = time;
$_->[0]->send($_->[1]) for values %asks;
create_server($local, $remote, 'ahead', options => q{min_size '1', connect_timeout '1s'});
$leaves->hang_up;
foreach my $name (qw(lease idle connects hurries))
{
	$result = $asks{$name}[0]->result;
	$error{$name} = join ' ', map { $result->{$_} // '' } qw(error message detail hint);
	cmp_ok(time - $start, '<', $soon, "stopped: $name: an answer soon");
	note sprintf 'figure: %s, while the tunnel is stopped = %.1f s', $name, time - $start;
}
like($error{lease}, qr/^57014/, 'stopped: a statement can be cancelled');
like($error{idle}, qr/^57014/, 'stopped: on a connection that was idle, too');
like($error{connects}, qr/^08001 .*conpool's tunnel/s, 'stopped: who connects is told about the tunnel');
like($error{hurries}, qr/^53300 .*conpool's tunnel/s, 'stopped: so is who has less time');
wait_for_pool($local, 'ahead', q{upkeep_error LIKE '%tunnel%'}, 'stopped: so is who reads about min_size');
is( run(q{SELECT string_agg(server, ', ') FROM conpool.pools
		WHERE server IN ('fresh', 'hasty', 'ahead') AND (breaker <> 'closed' OR failures > 0)}),
	'', 'stopped: the remote is not blamed');
wait_for($local, "SELECT count(*) = 0 FROM conpool.leases WHERE pid = $leaves->{pid}",
	'stopped: a session with a lease can end');
is(run('SELECT pid FROM conpool.tunnels'), $stopped, 'stopped: the view has it');

kill 'CONT', $stopped;
undef $stopped;
$_->query('RESET statement_timeout') for $holds, $asks;
is($_->[0]->query(sprintf $query, "'$_->[1]'")->{rows}[0][1], 't', "going on: $_->[1] serves")
  for [ $holds, 'used' ], [ $asks, 'kept' ], [ $runs, 'fresh' ], [ $transacts, 'hasty' ];
wait_for_pool($local, 'ahead', 'idle = 1 AND tunnelled = 1 AND upkeep_error IS NULL',
	'going on: min_size is reached');
is(tunnel_pid(), $tunnel, 'going on: it is the same tunnel');
$holds->query('SELECT conpool.checkin(lease) FROM conpool.leases WHERE pid = pg_backend_pid()');
check_nothing_lost('going on');
run(q{DROP SERVER fresh CASCADE; DROP SERVER hasty CASCADE; DROP SERVER ahead CASCADE});

# --- the broker ends ----------------------------------------------------------------------

my $kept = q{SELECT remote_pid FROM conpool.leases WHERE pid = pg_backend_pid()};
$lease = $holds->query(q{SELECT conpool.checkout('used', 'session')})->{rows}[0][0];
my $leased = $holds->query($kept)->{rows}[0][0];
wait_for_full('{}', 'what was before');
$old = kept_pids();
my $broker = broker_pid($local);
kill 'TERM', $broker;
wait_for_full($old, 'the end of the broker');
isnt(broker_pid($local), $broker, 'the broker ends: there is another one');
is($holds->query(sprintf $query, $lease)->{rows}[0][0], $leased, 'the broker ends: a lease goes on');
is($holds->query("SELECT conpool.checkin($lease)")->{error}, undef, 'the broker ends: and is given back');
wait_for_pool($local, 'used', 'size = 1 AND idle = 1 AND tunnelled = 1');
is($asks->query(sprintf $query, q{'used'})->{rows}[0][0], $leased,
	'the broker ends: its connection is kept');
is(tunnel_pid(), $tunnel, 'the broker ends: the tunnel does not');
check_nothing_lost('the broker ends');
is(crashes(), '', 'no process has crashed');

# --- the server ends ----------------------------------------------------------------------

# One of the pools leads back to the server itself.
Certificates::offer_tls($local, $certificates);
run(sprintf q{
	CREATE ROLE regress_loop LOGIN SUPERUSER PASSWORD 'loop-secret';
	CREATE SERVER loop FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '%d', dbname 'postgres', min_size '2',
				 sslmode 'verify-full', sslrootcert '%s');
	CREATE USER MAPPING FOR CURRENT_USER SERVER loop
		OPTIONS (user 'regress_loop', password 'loop-secret')},
	$local->port, $certificates->path('root.crt'));

sub use_pools
{
	my ($when) = @_;
	($holds, $asks) = map { WireClient->new($local) } 1 .. 2;
	foreach my $server (qw(kept used loop))
	{
		is($holds->query("SELECT conpool.checkout('$server', 'session')")->{error}, undef,
			"$when: a lease of $server");
		is($asks->query(sprintf $query, "'$server'")->{rows}[0][1], 't', "$when: a query on $server");
	}
	wait_for($local,
		q{SELECT count(*) FILTER (WHERE leased = 1 AND idle >= 1 AND tunnelled = size) = 3
		  FROM conpool.pools WHERE server IN ('kept', 'used', 'loop')},
		"$when: tunnelled connections are leased and idle");
	return;
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
	my ($pid, $begun, $when) = @_;
	waitpid $pid, 0;
	is($?, 0, "$when: the server stops");
	cmp_ok(time - $begun, '<', $soon, "$when: soon");
	note sprintf 'figure: stop, %s = %.1f s', $when, time - $begun;
	$local->_update_pid(0);
	count_remote($remote, 0, "$when: no connection is left over");
	return;
}

sub wait_for_all
{
	my ($when) = @_;
	wait_for($local,
		q{SELECT count(*) FILTER (WHERE idle = 2 AND size = 2 AND tunnelled = 2) = 2
		  FROM conpool.pools WHERE server IN ('kept', 'loop')},
		"$when: the pools are filled");
	return;
}

foreach my $mode (qw(fast immediate))
{
	use_pools($mode);
	my $begun = time;
	await_stop(begin_stop($mode), $begun, $mode);
	is(join(' ', glob "$socket*"), '', "$mode: no socket is left") if $mode eq 'fast';
	$local->start;
	wait_for_all($mode);
}
use_pools('smart');
$asks->hang_up;
my $stop = begin_stop('smart');
wait_until(sub { slurp_file($local->data_dir . '/postmaster.pid') =~ /^stopping/m },
	'smart: the server is stopping');
count_remote($remote, 2, 'smart: only what is leased is left');
$result = $holds->query(
	q{SELECT count(*) FROM conpool.leases l,
		LATERAL conpool.query(l.lease, 'SELECT 1') AS t(a int) WHERE pid = pg_backend_pid()});
is($result->{rows}[0][0], 3, 'smart: the leases go on');
is($holds->query(sprintf $query, q{'used'})->{rows}[0][1], 't', 'smart: so does the use of pools');
my $begun = time;
$holds->hang_up;
await_stop($stop, $begun, 'smart');
$local->start;
wait_for_all('smart');
is(crashes(), '', 'no process has crashed at that');

# --- it is killed: the server restarts all ---------------------------------------------------

use_pools('killed');
$old = kept_pids();
kill 'KILL', tunnel_pid();
ok($_->result->{lost}, 'killed: all sessions end') for $holds, $asks;
wait_until(sub { eval { WireClient->new($local) } }, 'killed: the server is back');
wait_for_full($old, 'SIGKILL');
wait_for_all('killed');
check_nothing_lost('killed');

done_testing();
