# Whatever happens to the broker, it comes back, its pools fill up again without
# anybody asking, and nothing is lost.
use strict;
use warnings;

use ConpoolTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

plan skip_all => 'there is no /proc' unless -d '/proc/self/fd';
plan skip_all => 'there is no prlimit' if system('prlimit --version >/dev/null 2>&1') != 0;

my $remote = new_remote('remote', conf => 'max_connections = 200');
my $local = new_local('local', conf => "restart_after_crash = on\nconpool.validate_interval = 0");
setup_local($local, $remote);
create_server($local, $remote, 'kept',
	options => q{min_size '3', max_size '8', checkout_timeout '20s'});
create_server($local, $remote, 'many',
	user => 'regress_remote_admin',
	options => q{max_size '80'});
create_server($local, $remote, 'loaded',
	user => 'regress_remote_two',
	options => q{max_size '3', checkout_timeout '20s'});

my $broker;    # its process ID
my $limit;     # of its descriptors
my $kept = q{usename = 'regress_remote'};

# Process IDs of the remote's backends.
sub remote_pids
{
	my ($condition) = @_;
	return $remote->safe_psql('postgres',
		"SELECT string_agg(pid::text, ',' ORDER BY pid) FROM pg_stat_activity WHERE $condition");
}

# As many connections as min_size says, none of them an old one. Only the remote
# is asked.
sub wait_for_new
{
	my ($size, $old, $when) = @_;
	my $start = time;
	wait_for(
		$remote,
		"SELECT count(*) = $size AND count(*) FILTER (WHERE pid IN ($old)) = 0
		 FROM pg_stat_activity WHERE $kept",
		"$when: the pool fills up by itself");
	note sprintf 'figure: min_size is back after %s = %.1f s', $when, time - $start;
	return;
}

# Waits until there is another broker than that one.
sub wait_for_new_broker
{
	my ($old, $when) = @_;
	wait_for(
		$local,
		qq{SELECT count(*) = 1 FROM pg_stat_activity, conpool.pools
		   WHERE backend_type = 'conpool broker' AND pid <> $old
		   AND server = 'kept' AND broker = 'running'},
		"$when: there is a new broker");
	return;
}

# At rest: the pools and the remote have the same connections, and all are idle.
sub check_nothing_lost
{
	my ($when) = @_;
	foreach my $server (qw(kept loaded))
	{
		my $user = $server eq 'kept' ? 'regress_remote' : 'regress_remote_two';
		wait_for_pool($local, $server, 'size = idle AND waiting = 0', "$when: $server is at rest");
		my $known = $local->safe_psql('postgres',
			"SELECT string_agg(remote_pid::text, ',' ORDER BY remote_pid)
			 FROM conpool.connections WHERE server = '$server'");
		wait_for(
			$remote,
			"SELECT coalesce(string_agg(pid::text, ',' ORDER BY pid), '') = '$known'
			 FROM pg_stat_activity WHERE usename = '$user'",
			"$when: the remote has the connections of $server, and no others");
	}
	return;
}

# Has the load end; gives the number of right answers, and what went wrong.
sub end_load
{
	my ($when, @load) = @_;
	my $seen = stop_workers(@load);
	my $right = delete $seen->{right} // 0;
	is(delete $seen->{wrong}, undef, "$when: no wrong answer");
	note "$when: $right right answers", map { ", $seen->{$_} times $_" } sort keys %$seen;
	return ($right, $seen);
}

# Sets a soft limit of a running process.
sub limit
{
	my ($pid, $what, $value) = @_;
	system('prlimit', '--pid', $pid, "--$what=$value:") == 0 or die 'prlimit failed';
	return;
}

sub lowest_free_descriptor
{
	my ($pid) = @_;
	my $fd = 0;
	$fd++ while -l "/proc/$pid/fd/$fd";
	return $fd;
}

# Leaves the broker no descriptor. Once a second it opens a file; when it cannot
# it gives up those that it has open for later, and the limit goes down.
sub take_descriptors
{
	do
	{
		$limit = lowest_free_descriptor($broker);
		my $log = -s $local->logfile;
		limit($broker, 'nofile', $limit);
		$local->wait_for_log(qr/out of file descriptors/, $log);
	} while (lowest_free_descriptor($broker) < $limit);
	return;
}

# In seconds.
sub processor_time
{
	my ($pid) = @_;
	my @field = split ' ', slurp_file("/proc/$pid/stat") =~ s/.*\) //sr;
	return ($field[11] + $field[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

sub descriptors
{
	my ($pid) = @_;
	return scalar(() = glob "/proc/$pid/fd/*");
}

count_remote($remote, 3, 'the pool is full when nobody has asked for it yet', 'regress_remote');
my $query = q{SELECT * FROM conpool.query(%s, 'SELECT pg_backend_pid()') AS t(pid int)};

# --- it is cancelled, and terminated

$broker = broker_pid($local);
my $old = remote_pids($kept);
is($local->safe_psql('postgres', "SELECT pg_cancel_backend($broker)"), 't', 'a cancel');
# it keeps a duplicate of the connection's socket
my $idler = WireClient->new($local);
is($idler->query(sprintf $query, q{'kept'})->{error}, undef, 'the pool works');
is(broker_pid($local), $broker, 'it costs nothing: the same broker');
is(remote_pids($kept), $old, 'and the same connections');

my @load = (start_load($local, 4, 'loaded'), start_load($local, 2, 'loaded', fresh => 1));
is($local->safe_psql('postgres', "SELECT pg_terminate_backend($broker)"), 't', 'its end');
wait_for_new(3, $old, 'SIGTERM');
wait_for_new_broker($broker, 'SIGTERM');
my ($right, $errors) = end_load('SIGTERM', @load);
cmp_ok($right, '>', 0, 'SIGTERM: the load goes on');
is_deeply($errors, {}, 'SIGTERM: no caller hears of it');
check_nothing_lost('SIGTERM');

# --- it is killed: the server restarts all

$broker = broker_pid($local);
$old = remote_pids($kept);
kill 'KILL', $broker;
wait_for_new(3, $old, 'SIGKILL');
wait_for_new_broker($broker, 'SIGKILL');
is($local->safe_psql('postgres', sprintf $query, q{'loaded'}) =~ /^\d+$/, 1,
	'SIGKILL: service again');
check_nothing_lost('SIGKILL');

# --- it is stopped for a while

$broker = broker_pid($local);
@load = (start_load($local, 4, 'loaded'), start_load($local, 2, 'loaded', fresh => 1));
wait_for($local, q{SELECT checkouts > 50 FROM conpool.stat_pools WHERE server = 'loaded'},
	'SIGSTOP: the load runs');
my $stopped;
END { kill 'CONT', $stopped if $stopped; }
$stopped = $broker;
kill 'STOP', $broker;
my $before = $local->safe_psql('postgres',
	q{SELECT queries FROM conpool.stat_pools WHERE server = 'loaded'});
# long enough for all that waits for the broker to give up
wait_for($local,
	qq{SELECT queries > $before + 10 FROM conpool.stat_pools WHERE server = 'loaded'},
	'SIGSTOP: who has a connection in the session goes on with it');
my $fresh = WireClient->new($local);
my $start = time;
my $result = $fresh->query(sprintf $query, q{'kept'});
is($result->{error}, '53300', 'SIGSTOP: who has none gets an error');
like($result->{message}, qr/could not get a connection of pool "kept" from conpool's broker/,
	'SIGSTOP: that tells why');
cmp_ok(time - $start, '<', 10, 'SIGSTOP: before long');
kill 'CONT', $broker;
undef $stopped;
is($fresh->query(sprintf $query, q{'kept'})->{error}, undef, 'SIGCONT: service again');
($right, $errors) = end_load('SIGSTOP', @load);
is_deeply([ grep { !/^53300: .*conpool's broker/ } keys %$errors ],
	[], 'SIGSTOP: no error but that one');
is(broker_pid($local), $broker, 'SIGCONT: it is the same broker');
check_nothing_lost('SIGCONT');

# --- an error in its loop: no memory for one more connection

my $holder = WireClient->new($local);
my $lease = $holder->query(q{SELECT conpool.checkout('loaded', 'session')})->{rows}[0][0];
my $leased = $holder->query(sprintf $query, $lease)->{rows}[0][0];
$old = remote_pids($kept);
my ($size) = slurp_file("/proc/$broker/status") =~ /^VmSize:\s+(\d+) kB/m;
limit($broker, 'as', $size * 1024);
my $log = -s $local->logfile;
my $other = WireClient->new($local);
my $opened = 0;
until ($opened == 80 || !-d "/proc/$broker")
{
	$result = $other->query(q{SELECT conpool.checkout('many', 'session')});
	last if $result->{error};
	$opened++;
}
note "the broker had memory for $opened connections";
is($result->{error}, undef, 'ERROR: callers get their connections all the same');
$local->wait_for_log(
	qr/ERROR:  out of memory.*background worker "conpool broker" \(PID $broker\) exited with exit code 1/s,
	$log);
pass('ERROR: it ends with exit code 1, and the log says why');
wait_for_new(3, $old, 'ERROR');
wait_for_new_broker($broker, 'ERROR');
is($holder->query(sprintf $query, $lease)->{rows}[0][0], $leased, 'ERROR: a lease goes on');
$holder->query("SELECT conpool.checkin($lease)");
$other->hang_up;
check_nothing_lost('ERROR');
is($holder->query(sprintf $query, q{'kept'})->{error}, undef, 'ERROR: service again');

# --- no descriptor left

# No session has adopted any of kept, and one has adopted the one of loaded.
$old = remote_pids($kept);
$local->safe_psql('postgres', q{SELECT conpool.close_idle(s) FROM unnest('{kept,loaded,many}'::text[]) s});
wait_for_new(3, $old, 'close_idle()');
is($holder->query(sprintf $query, q{'loaded'})->{error}, undef, 'descriptors: one more connection');
check_nothing_lost('close_idle()');

$broker = broker_pid($local);
my ($usual) = slurp_file("/proc/$broker/limits") =~ /^Max open files +(\d+)/m;
my $open = descriptors($broker);
take_descriptors();
# What it closes and opens anew must be below the limit, too: with a request it
# makes the set that it waits with anew, and with two it has done so.
limit($broker, 'nofile', $usual);
is(WireClient->new($local)->query(sprintf $query, q{'loaded'})->{error}, undef,
	'descriptors: a request')
  for 1 .. 2;
take_descriptors();
$other = WireClient->new($local);
$start = time;
my ($since, $worked) = (time, processor_time($broker));
is($other->query(sprintf $query, q{'many'})->{error}, undef,
	'descriptors: a new connection answers');
cmp_ok(time - $start, '<', 15, 'descriptors: before long');
wait_for_pool($local, 'many', 'size = 0', 'descriptors: it ends there');
is($holder->query(sprintf $query, q{'loaded'})->{error}, undef,
	'descriptors: who has adopted a connection goes on with it');
$result = $other->query(sprintf $query, q{'kept'});
is($result->{error}, '53300', 'descriptors: who has not gets an error');
like($result->{message}, qr/could not get a connection of pool "kept" from conpool's broker/,
	'descriptors: that tells why');
$local->safe_psql('postgres', q{ALTER SERVER kept OPTIONS (SET min_size '5')});
wait_for_pool($local, 'kept', q{upkeep_error LIKE '%broker%'},
	'descriptors: the view tells why min_size is not reached');
note $local->safe_psql('postgres', q{SELECT upkeep_error FROM conpool.pools WHERE server = 'kept'});
is(broker_pid($local), $broker, 'descriptors: the broker is still the same');

cmp_ok(processor_time($broker) - $worked, '<', 0.5 + (time - $since) / 4,
	'descriptors: it does not go round in circles');

# with one to spare it hears what is asked, but takes nothing
limit($broker, 'nofile', $limit + 1);
wait_until(sub { !$other->query(sprintf $query, q{'kept'})->{error} },
	'one descriptor: connections can be had again');
$start = time;
is($other->query(sprintf $query, q{'many'})->{error}, undef,
	'one descriptor: a new connection answers');
cmp_ok(time - $start, '<', 5, 'one descriptor: at once');
wait_for_pool($local, 'many', 'size = 0', 'one descriptor: it ends there');

limit($broker, 'nofile', $usual);
wait_for_pool($local, 'kept', 'idle = 5 AND upkeep_error IS NULL',
	'descriptors: min_size is reached when there are some again');
is($other->query(sprintf $query, q{'many'})->{error}, undef, 'descriptors: a new connection');
wait_for_pool($local, 'many', 'idle = 1 AND unshared = 0', 'descriptors: is shared again');
check_nothing_lost('descriptors');
is(broker_pid($local), $broker, 'descriptors: the broker is still the same');
# two connections of kept, one of many
cmp_ok(descriptors($broker), '<=', $open + 3, 'descriptors: it has left none open');

done_testing();
