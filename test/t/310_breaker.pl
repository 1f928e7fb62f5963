# The breaker of a pool: while its remote cannot be reached, callers that find no
# live connection fail at once and are told why, one at a time tries again, ever
# more rarely, and the first success lets everybody in, a few at a time.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(greet hang);
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

# Startups on the fake server: when they begin and end. While a file "down"
# is there it hangs up at the end of them.
my $dir = PostgreSQL::Test::Utils::tempdir;

sub startup
{
	my ($name, $seconds, $peer) = @_;
	append_to_file("$dir/$name", sprintf "begin %.6f\n", time);
	sleep $seconds;
	my $down = -e "$dir/down";
	append_to_file("$dir/$name", sprintf "end %.6f\n", time);
	return $down ? 0 : greet($peer);
}

my $slow = 0.5;    # seconds of a startup of "slow"
my $fake = FakeServer->new({
	slow => { greeting => sub { startup('slow', $slow, @_) } },
	ramp => {
		greeting => sub { startup('ramp', 0.2, @_) },
		answer => sub { sleep 0.1; $_[0]->send(FakeServer::one_row() . FakeServer::ready()) }
	},
	late => { greeting => \&late_startup },
	silent => { greeting => \&hang }
});

# The first one fails after a while, the second at once, then all is well.
sub late_startup
{
	my ($peer) = @_;
	append_to_file("$dir/late", '.');
	my $number = -s "$dir/late";
	sleep 1.5 if $number == 1;
	return $number > 2 ? greet($peer) : 0;
}

# How many startups there were, and how many at a time.
sub startups
{
	my ($name) = @_;
	my ($count, $running, $most) = (0, 0, 0);
	foreach my $line (split /\n/, slurp_file("$dir/$name"))
	{
		$running += $line =~ /^begin/ ? 1 : -1;
		$count++ if $line =~ /^begin/;
		$most = $running if $running > $most;
	}
	return ($count, $most);
}

# Bound, but nobody listens there.
my $nobody = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp') or die "bind: $!";
my $dead_port = $nobody->sockport;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
my $watch = WireClient->new($local);

sub server_on
{
	my ($name, $port, $dbname, $options) = @_;
	$options = $options ? ", $options" : '';
	$local->safe_psql('postgres', qq{
		CREATE SERVER $name FOREIGN DATA WRAPPER conpool
			OPTIONS (host '127.0.0.1', port '$port', dbname '$dbname' $options);
		CREATE USER MAPPING FOR CURRENT_USER SERVER $name
			OPTIONS (user 'regress_remote', password 'remote-secret')});
	return;
}

# Columns of a pool's row in pools or stat_pools.
sub pool
{
	my ($name, $columns, $view) = @_;
	$view //= 'pools';
	my $result =
	  $watch->query("SELECT $columns FROM conpool.$view WHERE server = '$name'");
	die "$columns: $result->{message}" if $result->{error};
	return join '|', map { $_ // '' } @{ $result->{rows}[0] };
}

sub counted { my ($name, $columns) = @_; return pool($name, $columns, 'stat_pools') }

# The statement that every caller sends.
sub call
{
	my ($name, $sql) = @_;
	$sql //= 'SELECT 1';
	return "SELECT conpool.exec('$name', '$sql')";
}

# --- callers fail at once, and are told why -----------------------------------

server_on('dead', $dead_port, 'nowhere');
my $client = WireClient->new($local);
my $begun = time;
my $result = $client->query(call('dead'));
is($result->{error}, '08001', 'the first caller finds out');
like($result->{detail}, qr/Connection refused/, 'and is told what');
is( pool('dead', q{breaker, failures, breaker_since > now() - interval '1 minute',
		last_error_at = breaker_since, last_error_sqlstate}),
	'open|1|t|t|', 'the breaker is open');
like(pool('dead', 'last_error'), qr/Connection refused/, 'the view has the reason');
is(counted('dead', 'breaker_opened, connect_failures, checkout_failures, refused'),
	'1|1|1|0', 'and the counters have it');

my %seen = (tried => 1, refused => 0, others => 0);
my $longest = 0;
my $odd = '';
until (time > $begun + 2)
{
	my $start = time;
	$result = $client->query(call('dead'));
	my $taken = time - $start;
	$longest = $taken if $taken > $longest;
	my $is_refusal = $result->{message} =~ /^could not connect for pool "dead": not tried again yet$/;
	my $what = $is_refusal ? 'refused' : $result->{error} eq '08001' ? 'tried' : 'others';
	$seen{$what}++;
	$odd = $result->{detail}
	  unless $result->{detail} =~ ($is_refusal
		? qr/^Failures in a row: $seen{tried}; the next attempt is due in \d+\.\d s\.\nLast error: .*Connection refused/s
		: qr/Connection refused/);
	sleep 0.002;
}
note "figure: outage of 2 s, one caller every 2 ms = $seen{tried} connects, "
  . "$seen{refused} refusals";
is($seen{others}, 0, 'every caller gets 08001');
is($odd, '', 'with the last error and when the next attempt is due');
cmp_ok($longest, '<', 1, 'at once');
cmp_ok($seen{refused}, '>', 5 * $seen{tried}, 'few are let to try');
is( counted('dead', 'breaker_opened, connect_failures, refused, checkout_failures'),
	join('|', 1, $seen{tried}, $seen{refused}, $seen{tried} + $seen{refused}),
	'each is counted once');
is(pool('dead', 'failures'), $seen{tried}, 'failures in a row');

# --- delays grow to the limit -------------------------------------------------

my $limit = 30;
my ($first, $last) = (pool('dead', 'failures') + 1, 40);
my @delays;
foreach my $n ($first .. $last)
{
	$watch->query(q{SELECT conpool.warm('dead')});
	$result = $client->query(call('dead'));
	fail("failure $n: warm() lets one try") if $result->{message} =~ /not tried/;
	my ($failures, $delay) = split /\|/,
	  pool('dead', 'failures, extract(epoch FROM next_attempt - last_error_at)');
	my $most = 0.1 * 2**($n - 1);
	$most = $limit if $most > $limit;
	push @delays, $delay if $most == $limit;
	fail("failure $n: delay $delay s") unless $failures == $n && $delay >= 0.001 && $delay <= $most;
}
pass("after each of $last failures the delay is within its bounds");
cmp_ok(scalar(@delays), '>', 25, 'of those many have reached the limit');
@delays = sort { $a <=> $b } @delays;
note "figure: delays at the limit = $delays[0] to $delays[-1] s";
cmp_ok($delays[-1], '>', $limit / 3, 'the delays grow');
cmp_ok($delays[0], '<', $limit / 3, 'and are spread');

# --- another address ----------------------------------------------------------

# the breaker is open, for long
foreach (1 .. 100)
{
	last if pool('dead', q{next_attempt > now() + interval '5 s'}) eq 't';
	$watch->query(q{SELECT conpool.warm('dead')});
	$client->query(call('dead'));
}
$local->safe_psql('postgres', q{ALTER SERVER dead OPTIONS (ADD max_size '3')});
$result = $client->query(call('dead'));
my ($due) = $result->{detail} =~ /due in (\d+\.\d) s/;
my $column = pool('dead', q{extract(epoch FROM next_attempt - now())});
ok(defined $due && abs($due - $column) < 2, 'ALTER SERVER of a size opens nothing')
  or diag("$result->{detail}, $column s");
$local->safe_psql('postgres',
	"ALTER SERVER dead OPTIONS (SET port '" . $remote->port . "', SET dbname 'conpool_remote')");
is($client->query(call('dead'))->{rows}[0][0], 'SELECT 1',
	'ALTER SERVER to an address that answers lets callers through at once');
is(pool('dead', 'breaker, failures, next_attempt'), 'closed|0|', 'the breaker is closed');

# what somebody tries out and does not commit is nobody else's trouble
$client->query("BEGIN; ALTER SERVER dead OPTIONS (SET port '$dead_port')");
is($client->query(call('dead'))->{error}, '08001', 'an address that is not committed');
is( pool('dead', 'breaker, failures'), 'closed|0', 'leaves the breaker alone');
$client->query('ROLLBACK');
is($client->query(call('dead'))->{rows}[0][0], 'SELECT 1', 'and is forgotten');

# --- one at a time tries ------------------------------------------------------

append_to_file("$dir/down", '');
server_on('slow', $fake->port, 'slow', q{connect_concurrency '1'});
my @clients = map { WireClient->new($local) } 1 .. 8;
$_->query(call('remote')) for @clients;    # the slow first time is over
$begun = time;
$_->send(call('slow')) for @clients;
my @results = map { $_->result } @clients;
my $taken = time - $begun;
is(join(' ', map { $_->{error} // 'none' } @results), join(' ', ('08001') x 8),
	'all who wait when a connect fails');
is((startups('slow'))[0], 1, 'are turned away without a try');
is(counted('slow', 'connect_failures, refused, checkout_failures, waited'), '1|7|8|7',
	'which the counters show');
cmp_ok($taken, '<', $slow + 1, 'at once');

# sessions that call all the time; more could try, were it not for the breaker
my $sessions = 8;
$local->safe_psql('postgres', q{ALTER SERVER slow OPTIONS (SET connect_concurrency '4')});
my @callers = map {
	start_worker(sub {
		my ($go_on) = @_;
		my $caller = WireClient->new($local);
		my %count = (calls => 0, slow => 0);
		while ($go_on->())
		{
			my $start = time;
			my $got = $caller->query(call('slow'));
			$count{calls}++;
			$count{slow}++ if time - $start >= $slow;
			$count{ 'error ' . ($got->{error} // 'none') }++;
			$count{'under way'}++ if ($got->{detail} // '') =~ /another attempt is under way/;
			sleep 0.01;
		}
		return %count;
	})
} 1 .. $sessions;
sleep 3;
my $report = stop_workers(@callers);
my ($attempts, $at_a_time) = startups('slow');
note "figure: $sessions callers for 3 s = $report->{calls} calls, $attempts connects";
is($at_a_time, 1, 'one at a time tries');
cmp_ok($attempts, '>', 1, 'they go on trying');
is($report->{'error 08001'}, $report->{calls}, 'all callers fail');
cmp_ok($report->{slow}, '<=', $attempts + 5, 'only who tries waits for what comes of it');
cmp_ok($report->{'under way'}, '>', 0, 'some are told that an attempt is under way');
is(counted('slow', 'breaker_opened, connect_failures, checkout_failures'),
	join('|', 1, $attempts, 8 + $report->{calls}), 'the remote saw what was counted');

# --- the first success --------------------------------------------------------

server_on('ramp', $fake->port, 'ramp', q{max_size '6', connect_concurrency '2'});
is($client->query(call('ramp'))->{error}, '08001', 'another pool cannot connect, either');
unlink "$dir/down", "$dir/ramp";
my $load = start_worker(sub {
	my ($go_on) = @_;
	my @callers = map { WireClient->new($local) } 1 .. 16;
	my %count = (good => 0, bad => 0);
	while ($go_on->())
	{
		$_->send(call('ramp')) for @callers;
		$count{ $_->result->{error} ? 'bad' : 'good' }++ for @callers;
	}
	return %count;
});
my ($most, $samples) = (0, 0);
wait_until(
	sub {
		my ($connecting, $idle) = split /\|/, pool('ramp', 'connecting, idle + leased = 6');
		$most = $connecting if $connecting > $most;
		$samples++;
		return $idle eq 't';
	},
	'the pool fills');
is(pool('ramp', q{breaker, failures, next_attempt, breaker_since > last_error_at}),
	'closed|0||t', 'the first success closes the breaker');
$report = stop_workers($load);
cmp_ok($report->{good}, '>', 16, 'and service is back');
($attempts, $at_a_time) = startups('ramp');
is($attempts, 6, 'no connect more than there are places');
is($at_a_time, 2, 'no more at a time than connect_concurrency');
note "figure: most connecting at a time in $samples looks = $most";
cmp_ok($most, '<=', 2, 'which the view shows');
is(counted('ramp', 'breaker_opened'), '1', 'it has not opened again');

# even if nobody who comes has much time
my $hurry = WireClient->new($local);
$hurry->query(q{SET conpool.checkout_timeout = '500ms'});
append_to_file("$dir/down", '');
$watch->query(q{SELECT conpool.close_idle('ramp')});
is($client->query(call('ramp'))->{error}, '08001', 'it cannot connect once more');
unlink "$dir/down";
wait_until(sub { !$hurry->query(call('ramp'))->{error} }, 'one in a hurry finds that it can', 10);

# --- what is known by then ----------------------------------------------------

server_on('late', $fake->port, 'late');
$client->send(call('late'));
wait_until(sub { -e "$dir/late" }, 'one tries to connect');
is($watch->query(call('late'))->{error}, '08001', 'the next one fails sooner');
is(pool('late', 'breaker, connecting'), 'open|1', 'and opens the breaker');
$watch->query(q{SELECT conpool.warm('late')});
is($watch->query(call('late'))->{rows}[0][0], 'SELECT 1', 'the third closes it');
is(pool('late', 'breaker, connecting'), 'closed|1', 'while the first still tries');
is($client->result->{rows}[0][0], 'SELECT 1', 'that fails, and has the connection of the third');
is(pool('late', 'breaker, failures, size'), 'closed|0|1', 'an old failure opens nothing');
is(counted('late', 'breaker_opened, connect_failures, checkout_failures'), '1|2|1',
	'but is counted');

# --- live connections go on -------------------------------------------------------

# Server "live" has one connection that is leased and one that is idle; from now
# on its remote lets nobody in.
create_server($local, $remote, 'live', options => q{max_size '5', connect_concurrency '3'});
my $holder = WireClient->new($local);
my $checkout = q{SELECT conpool.checkout('live', 'session')};
my $lease = $holder->query($checkout)->{rows}[0][0];
$client->query(call('live'));
my $let_in = sub {
	$remote->safe_psql('postgres', "ALTER DATABASE conpool_remote ALLOW_CONNECTIONS $_[0]");
};
$let_in->('false');

$_->send(call('live', 'SELECT pg_sleep(0.05)')) for @clients;
@results = map { $_->result } @clients;
is(join(' ', map { $_->{error} // 'none' } @results), join(' ', ('none') x 8),
	'the connections that live serve all callers');
is(pool('live', 'breaker, size, last_error_sqlstate'), 'open|2|55000',
	'while no other can be opened');
is(counted('live', 'checkout_failures, connect_failures > 0, breaker_opened'), '0|t|1',
	'nobody sees the failures');

# only the leased one is left: others wait for it, its holder does not
my $idle = $watch->query(
	q{SELECT remote_pid FROM conpool.connections WHERE server = 'live' AND state = 'idle'})->{rows}[0][0];
$remote->safe_psql('postgres', "SELECT pg_terminate_backend($idle)");
wait_for_pool($local, 'live', 'size = 1 AND leased = 1');
$begun = time;
$result = $holder->query(call('live'));
is($result->{error}, '08001', 'who could only hope for his own does not wait');
cmp_ok(time - $begun, '<', 1, 'but fails at once');
$client->send(call('live'));
wait_for_pool($local, 'live', 'waiting = 1', 'who can hope for another\'s waits');
$holder->query("SELECT conpool.checkin($lease)");
is($client->result->{rows}[0][0], 'SELECT 1', 'the waiter gets the connection');

# it is lost: there is nothing to wait for any more
$lease = $holder->query($checkout)->{rows}[0][0];
$_->send(call('live')) for @clients;
wait_for_pool($local, 'live', 'waiting = 8');
my $pid = $watch->query(q{SELECT remote_pid FROM conpool.leases WHERE server = 'live'})->{rows}[0][0];
$remote->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
$begun = time;
is($holder->query("SELECT conpool.exec($lease, 'SELECT 1')")->{error}, '08006',
	'the last connection is lost');
$holder->query("SELECT conpool.checkin($lease)");
@results = map { $_->result } @clients;
is(join(' ', map { $_->{error} // 'none' } @results), join(' ', ('08001') x 8),
	'all who waited for it fail');
cmp_ok(time - $begun, '<', 3, 'at once');
like($results[-1]{detail}, qr/not currently accepting connections/, 'with the reason');
$let_in->('true');
$watch->query(q{SELECT conpool.warm('live')});
is($client->query(call('live'))->{rows}[0][0], 'SELECT 1', 'warm() has the next one try');

# --- what is not the remote's fault -------------------------------------------

create_server($local, $remote, 'password');
$local->safe_psql('postgres',
	q{ALTER USER MAPPING FOR CURRENT_USER SERVER password OPTIONS (SET password 'wrong')});
is($client->query(call('password'))->{error}, '28P01', 'a wrong password') for 1 .. 3;
is(pool('password', 'breaker, failures, breaker_since, next_attempt, last_error_sqlstate'),
	'closed|0|||28P01', 'does not open the breaker');
is(counted('password', 'breaker_opened, connect_failures, checkout_failures, refused'),
	'0|3|3|0', 'everybody may try his own');

# one who has little time has learnt nothing about the remote
server_on('silent', $fake->port, 'silent',
	q{connect_timeout '2', connect_concurrency '1'});
$hurry->query(q{SET conpool.checkout_timeout = '50ms'});
is($hurry->query(call('silent'))->{error}, '53300', 'no time to connect') for 1 .. 3;
is(pool('silent', 'breaker, failures'), 'closed|0', 'does not open the breaker');
$result = $client->query(call('silent'));
is($result->{error}, '08001', 'a remote that says nothing in time');
is(pool('silent', 'breaker, failures'), 'open|1', 'does');

# the one who tries gives up: then somebody else may
$local->safe_psql('postgres', q{ALTER SERVER silent OPTIONS (SET connect_timeout '20')});
foreach my $case ([ 'timeout', '53300' ], [ 'cancel', '57014' ], [ 'end', '57P01' ])
{
	my ($way, $error) = @$case;
	my $prober = WireClient->new($local);
	$watch->query(q{SELECT conpool.warm('silent')});
	if ($way eq 'timeout')
	{
		# others have precedence for a moment
		$prober->query(q{SET conpool.checkout_timeout = '100ms'});
		wait_until(sub { $prober->query(call('silent'))->{error} eq $error }, "$way of who tries");
	}
	else
	{
		$prober->send(call('silent'));
		wait_until(sub { pool('silent', 'breaker, connecting') eq 'probing|1' }, 'one tries');
		$way eq 'cancel' ? $prober->cancel : kill 'TERM', $prober->{pid};
		is($prober->result->{error}, $error, "$way of who tries");
	}
	wait_for_pool($local, 'silent', q{connecting = 0});
	is(pool('silent', 'breaker, failures, next_attempt <= clock_timestamp()'), 'open|1|t',
		"$way: the next one may try at once");
}

# --- other pools --------------------------------------------------------------

is($client->query(call('remote'))->{rows}[0][0], 'SELECT 1', 'another pool');
is(pool('remote', 'breaker, failures, breaker_since, last_error'), 'closed|0||',
	'is not concerned');

# what has no pool has no breaker, either
my $small = new_local('small', conf => 'conpool.max_pools = 1');
setup_local($small, $remote);
$holder = WireClient->new($small);
$holder->query(q{SELECT conpool.checkout('remote', 'session')});
my $caller = WireClient->new($small);
my $nowhere = conninfo($remote) =~ s/port=\d+/port=$dead_port/r;
my $good = conninfo($remote);
is($caller->query(call($nowhere))->{error}, '08001', 'an address that does not answer')
  for 1 .. 5;
is($caller->query(call($good))->{rows}[0][0], 'SELECT 1',
	'is nothing to others that have no pool, either');

# --- who may see why ----------------------------------------------------------

server_on('public', $dead_port, 'secret_place');
$local->safe_psql('postgres', q{
	CREATE ROLE regress_user LOGIN;
	CREATE ROLE regress_stranger LOGIN;
	CREATE ROLE regress_watcher LOGIN IN ROLE pg_read_all_stats;
	DROP USER MAPPING FOR CURRENT_USER SERVER public;
	CREATE USER MAPPING FOR PUBLIC SERVER public
		OPTIONS (user 'regress_remote', password 'remote-secret');
	GRANT USAGE ON FOREIGN SERVER public TO regress_user});
my %role = map { $_ => WireClient->new($local, user => "regress_$_") } qw(user stranger watcher);
is($role{user}->query(call('public'))->{error}, '08001', 'a pool of everybody');
my $shown = q{SELECT breaker, last_error_at IS NOT NULL, last_error
	FROM conpool.pools WHERE server = '%s'};
like($role{$_}->query(sprintf $shown, 'public')->{rows}[0][2], qr/$dead_port/,
	"the $_ sees why it does not work") for qw(user watcher);
is_deeply($role{stranger}->query(sprintf $shown, 'public')->{rows},
	[ [ 'open', 't', '<insufficient privilege>' ] ], 'a stranger sees only that');
is_deeply($role{stranger}->query(sprintf $shown, 'silent')->{rows},
	[], 'and of a pool of somebody else nothing');
is($role{stranger}->query(call('public'))->{error}, '42501', 'nor can he ask it');

done_testing();
