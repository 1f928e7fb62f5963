# A network that swallows everything: callers have their errors within the limits
# that were set, others do not notice, and when it is back so is service.
use strict;
use warnings;

# Packets are dropped in a network of our own, where the system lets its users
# have one; else a proxy in front of the remote falls silent. That is less: the
# kernel goes on to accept connections and to take what is sent.
my $dropper;

BEGIN
{
	my @own_network = qw(unshare --user --map-current-user --net --keep-caps);
	my %try = (
		nft => [ nft => 'add table inet t; add chain inet t c { type filter hook input priority 0; };'
			  . 'add rule inet t c drop' ],
		iptables => [qw(iptables -A INPUT -d 127.0.0.2 -j DROP)]);
	local $ENV{PATH} = "$ENV{PATH}:/usr/sbin:/sbin";
	$dropper = $ENV{CONPOOL_DROPPER};
	unless (defined $dropper || $^C)
	{
		open my $out, '>&', \*STDOUT;
		open my $err, '>&', \*STDERR;
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		($dropper) = grep { system(@own_network, @{ $try{$_} }) == 0 } qw(nft iptables);
		open STDOUT, '>&', $out;
		open STDERR, '>&', $err;
		$ENV{CONPOOL_DROPPER} = $dropper //= '';
		exec @own_network, $^X, (map { "-I$_" } @INC), $0 if $dropper;
	}
}

use ConpoolTest;
use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

# --- the network ------------------------------------------------------------------

# A network of one's own begins with its loopback interface down.
sub bring_up_loopback
{
	my ($get_flags, $set_flags, $up) = (0x8913, 0x8914, 1);
	my $socket = IO::Socket::INET->new(Proto => 'udp') // die "socket: $!";
	my $request = pack 'a16 s x14', 'lo', 0;
	ioctl $socket, $get_flags, $request or die "ioctl: $!";
	my ($name, $flags) = unpack 'a16 s', $request;
	ioctl $socket, $set_flags, pack('a16 s x14', 'lo', $flags | $up) or die "ioctl: $!";
	return;
}
bring_up_loopback() if $dropper;

my $remote = new_remote('remote',
	$dropper ? (conf => "listen_addresses = '127.0.0.1, 127.0.0.2'") : ());
my $local = new_local('local', conf => 'conpool.validate_interval = 0');
setup_local($local, $remote);

# What the "dark" pools connect to, which is where the network is going to fail.
my ($dark_host, $dark_port) = ('127.0.0.2', $remote->port);

# Takes connections and passes on what is said, but not while it is silent.
my $silent = 0;
sub proxy
{
	my ($listener, $goes_on) = @_;
	my $select = IO::Select->new($listener);
	my %other;
	$SIG{PIPE} = 'IGNORE';
	$SIG{USR1} = sub { $silent = 1 };
	$SIG{USR2} = sub { $silent = 0 };
	while ($goes_on->())
	{
		usleep(10_000) if $silent;
		foreach my $socket ($silent ? () : $select->can_read(0.01))
		{
			if ($socket == $listener)
			{
				my $peer = $listener->accept or next;
				my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
					PeerPort => $remote->port) or next;
				$select->add($peer, $server);
				@other{ $peer, $server } = ($server, $peer);
			}
			elsif ($other{$socket})
			{
				my $data;
				next if sysread($socket, $data, 65536) && syswrite $other{$socket}, $data;
				my $other = delete $other{$socket};
				delete $other{$other};
				$select->remove($socket, $other);
				close $_ for $socket, $other;
			}
		}
	}
	return ();
}

my $proxy;
unless ($dropper)
{
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100) // die "listen: $!";
	$proxy = start_worker(sub { proxy($listener, @_) });
	($dark_host, $dark_port) = ('127.0.0.1', $listener->sockport);
}
note 'the network fails by ' . ($dropper ? "$dropper, which drops its packets" : 'a proxy that falls silent');

sub network
{
	my ($works) = @_;
	local $ENV{PATH} = "$ENV{PATH}:/usr/sbin:/sbin";
	if ($dropper eq 'nft')
	{
		system_or_bail('nft', $works ? 'delete table inet dark' :
			'add table inet dark; add chain inet dark in { type filter hook input priority 0; };'
			  . 'add rule inet dark in ip daddr 127.0.0.2 drop;'
			  . 'add rule inet dark in ip saddr 127.0.0.2 drop');
	}
	elsif ($dropper)
	{
		system_or_bail('iptables', $works ? '-D' : '-A', 'INPUT', $_, '127.0.0.2', '-j', 'DROP')
		  for '-d', '-s';
	}
	else
	{
		kill $works ? 'USR2' : 'USR1', $proxy->{pid};
	}
	return;
}

# --- pools ------------------------------------------------------------------------

# the kernel accepts, nobody else does
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100) // die "listen: $!";

sub create_pool
{
	my ($name, $host, $port, $options, %opt) = @_;
	create_server($local, $remote, $name, options => $options, %opt);
	$local->safe_psql($opt{dbname} // 'postgres',
		"ALTER SERVER $name OPTIONS (SET host '$host', SET port '$port')");
	return;
}

sub create_dark { return create_pool(shift, $dark_host, $dark_port, @_) }

# The time in which the kernel finds out: one second until it asks, two until it
# gives up.
my $kernel = q{keepalives_idle '1', keepalives_interval '1', tcp_user_timeout '2000'};
my $connect = q{connect_timeout '1'};

create_dark(connects => $connect);
create_dark(checks_out => q{connect_timeout '30', checkout_timeout '1s'});
create_dark(runs => "$kernel, $connect");
create_dark(sends => "$kernel, $connect");
create_dark(cancels => $connect);
create_dark(queues => "$kernel, $connect, max_size '1'");
create_dark(leases => $connect);
create_dark(ends => $connect);
create_dark(patient => q{connect_timeout '60', checkout_timeout '60s'});
create_dark(patient_runs => '');
create_dark(idle => qq{$connect, min_size '3', validate_interval '1s'});
create_pool(mute_connects => '127.0.0.1', $listener->sockport, $connect);
create_pool(mute_checks_out => '127.0.0.1', $listener->sockport,
	q{connect_timeout '30', checkout_timeout '1s'});
create_pool(mute_idle => '127.0.0.1', $listener->sockport, q{connect_timeout '60', min_size '1'});

create_server($local, $remote, 'well');
create_server($local, $remote, 'well_reset', options => q{max_size '1', reset 'always'});

$local->safe_psql('postgres', 'CREATE DATABASE other');
$local->safe_psql('other', 'CREATE EXTENSION conpool');
create_dark(ahead => qq{$connect, min_size '1'}, dbname => 'other');

my $broker = broker_pid($local);
my $client = WireClient->new($local);

sub exec_on
{
	my ($on, $sql) = @_;
	return "SELECT conpool.exec($on, '$sql')";
}

# Those who are going to suffer use connections that somebody else has opened.
foreach my $pool (qw(runs sends cancels queues leases patient_runs))
{
	is($client->query(exec_on("'$pool'", 'SELECT 1'))->{error}, undef, "$pool: it works");
}
wait_for_pool($local, 'idle', 'idle = 3');
wait_for_pool($local, 'ahead', 'idle = 1');
my $lease = $client->query(q{SELECT conpool.checkout('leases', 'session')})->{rows}[0][0];

# --- those who are not to notice ----------------------------------------------------

# Uses a pool again and again: how often, 99th percentile and longest in microseconds.
sub measure
{
	my ($pool, $goes_on) = @_;
	my $session = WireClient->new($local);
	my @times;
	while ($goes_on->())
	{
		my $start = time;
		my $result = $session->query("SELECT * FROM conpool.query('$pool', 'SELECT 1') AS t(a int)");
		push @times, int(1e6 * (time - $start));
		die $result->{message} if $result->{error};
		usleep(2_000);
	}
	@times = sort { $a <=> $b } @times;
	return (count => scalar @times, p99 => $times[ int(0.99 * @times) ], longest => $times[-1]);
}

sub start_measuring
{
	return map { my $pool = $_; start_worker(sub { measure($pool, @_) }) } qw(well well_reset);
}

my @measuring = start_measuring();
usleep(2_500_000);
my @before = map { stop_workers($_) } @measuring;

# --- the network fails ------------------------------------------------------------

# pool => [ statement, SQLSTATE, seconds it takes at most ]
my %calls = (
	connects => [ 'SELECT 1', '08001', 1 ],
	mute_connects => [ 'SELECT 1', '08001', 1 ],
	checks_out => [ 'SELECT 1', '53300', 1 ],
	mute_checks_out => [ 'SELECT 1', '53300', 1 ],
	# statement_timeout, and as long again as an abort may take
	cancels => [ 'SELECT 1', '57014', 2.5 ],
	$dropper ? (
		runs => [ 'SELECT pg_sleep(60)', '08006', 3 ],
		sends => [ 'SELECT 1', '08006', 3 ],
		queues => [ 'SELECT pg_sleep(60)', '08006', 3 ],
		# terminated at once; a session waits a second for what it leaves behind
		ends => [ 'SELECT pg_sleep(60)', '57P01', 1 ],
	) : ());
my $margin = 3;
my %session = map { $_ => WireClient->new($local) } keys %calls;

sub call
{
	my ($pool) = @_;
	$session{$pool}->send(exec_on("'$pool'", $calls{$pool}[0]));
	return time;
}

$session{cancels}->query(q{SET statement_timeout = '500ms'});
my %begun = map { $_ => call($_) } grep { $calls{$_}[0] =~ /sleep/ } keys %calls;
wait_for($remote, 'SELECT count(*) = ' . keys(%begun) . q{ FROM pg_stat_activity
	WHERE wait_event = 'PgSleep'}, 'statements are under way');
my @waiters;
if ($dropper)
{
	@waiters = map { WireClient->new($local) } 1 .. 3;
	$_->send(exec_on(q{'queues'}, 'SELECT 1')) for @waiters;
	wait_for_pool($local, 'queues', 'waiting = 3');
}

network(0);
my $dark_since = time;
@measuring = start_measuring();
%begun = map { $_ => $begun{$_} ? $dark_since : call($_) } keys %calls;
kill 'TERM', $session{ends}{pid} if $dropper;

# Answers, in the order in which they come; but the one to a cancelled statement
# has an end only when its session has given up on the remote.
my $select = IO::Select->new(map { $session{$_}{socket} } grep { $_ ne 'cancels' } keys %session);
my %pool_of = map { $session{$_}{socket} => $_ } keys %session;

sub take_answer
{
	my ($pool) = @_;
	my ($sqlstate, $limit) = @{ $calls{$pool} }[ 1, 2 ];
	my $result = $session{$pool}->result;
	my $took = time - $begun{$pool};
	is($result->{error}, $sqlstate, "$pool: $sqlstate");
	cmp_ok($took, '<', $limit + $margin, "$pool: within its limit");
	note sprintf 'figure: silent network, %s: %s after %.1f s, limit %s s',
	  $pool, $sqlstate, $took, $limit;
	return;
}

while ($select->count)
{
	my @ready = $select->can_read(20) or last;
	$select->remove(@ready);
	take_answer($pool_of{$_}) for @ready;
}
is($select->count, 0, 'everybody has had an answer');
take_answer('cancels');
foreach my $waiter (@waiters)
{
	is($waiter->result->{error}, '08001', 'who waited has had an answer');
}
cmp_ok(time - $dark_since, '<', 3 + 1 + 2 * $margin, 'in time') if @waiters;

# Who comes now does not have to wait for what is known.
my $result;
my $took;
wait_until(
	sub {
		my $start = time;
		$result = $client->query(exec_on(q{'connects'}, 'SELECT 1'));
		$took = time - $start;
		$result->{message} =~ /not tried again yet/;
	},
	'the breaker is open');
cmp_ok($took, '<', 0.5, 'an error at once');

# --- what goes on meanwhile ---------------------------------------------------------

# Sessions and the dialer hang for a minute, if need be.
my ($connects, $runs) = map { WireClient->new($local) } 1 .. 2;
$connects->send(exec_on(q{'patient'}, 'SELECT 1'));
$runs->send(exec_on(q{'patient_runs'}, 'SELECT 1'));
wait_for_pool($local, $_, 'connecting = 1') for qw(patient mute_idle);
wait_for_pool($local, 'patient_runs', 'leased = 1');
my $start = time;
$local->safe_psql('postgres', 'DROP DATABASE other');
cmp_ok(time - $start, '<', 15, 'a database can be dropped meanwhile');
note sprintf 'figure: silent network, DROP DATABASE = %.2f s', time - $start;
wait_for_pool($local, $_, 'connecting + leased = 1') for qw(patient patient_runs mute_idle);
foreach my $waits ($connects, $runs)
{
	$waits->cancel;
	is($waits->result->{error}, '57014', 'who hangs can be cancelled');
}

create_server($local, $remote, 'well_new', options => q{min_size '2'});
wait_for_pool($local, 'well_new', 'idle = 2', 'other pools are filled');

wait_for($local, q{SELECT validation_failures >= 3 FROM conpool.stat_pools WHERE server = 'idle'},
	'idle connections are found dead');
wait_for_pool($local, 'idle', 'idle + validating = 0', 'none of them is left');
$took = time - $dark_since;
cmp_ok($took, '<', 20, 'before the kernel would have noticed');
note sprintf 'figure: silent network, all idle connections found dead after = %.1f s', $took;
wait_for($local, q{SELECT count(*) = 0 FROM conpool.pools WHERE database = 'other'},
	'the pools of the dropped database are gone');

my @meanwhile = map { stop_workers($_) } @measuring;
foreach my $i (0, 1)
{
	my $pool = $i == 0 ? 'well' : 'well_reset';
	my ($before, $now) = ($before[$i], $meanwhile[$i]);
	is(join(' ', grep { /died/ } keys %$before, keys %$now), '', "$pool: it has seen no error");
	note sprintf 'figure: silent network, p99 of another pool (%s) = %.2f ms before, '
	  . '%.2f ms meanwhile, ratio %.2f (longest %.0f and %.0f ms, %d and %d calls)',
	  $pool, $before->{p99} / 1000, $now->{p99} / 1000, $now->{p99} / $before->{p99},
	  $before->{longest} / 1000, $now->{longest} / 1000, $before->{count}, $now->{count};
	cmp_ok($now->{longest} / 1e6, '<', 1.5, "$pool: nobody was kept waiting");
}

# --- it is back -------------------------------------------------------------------

network(1);
my $back_since = time;
foreach my $pool ('patient', 'patient_runs', grep { !/mute/ } sort keys %calls)
{
	wait_until(sub { !$client->query(exec_on("'$pool'", 'SELECT 1'))->{error} },
		"$pool: service is back");
}
my $back = time - $back_since;
wait_for_pool($local, 'idle', q{idle = 3 AND size = 3 AND breaker = 'closed'},
	'idle: min_size is reached again');
note sprintf 'figure: silent network, service back after = %.1f s, min_size after = %.1f s',
  $back, time - $back_since;
cmp_ok(time - $back_since, '<', 20, 'soon');
is($client->query(exec_on($lease, 'SELECT 1'))->{error},
	undef, 'a connection that nobody used meanwhile lives on');
is($client->query("SELECT conpool.checkin($lease)")->{error}, undef, 'and goes back');

# --- what is left -------------------------------------------------------------------

$local->safe_psql('postgres', q{ALTER SERVER mute_idle OPTIONS (SET min_size '0')});
close $listener;
is($local->safe_psql('postgres', 'SELECT test.at_rest()'), 't', 'slots add up, nothing is held');
is($local->safe_psql('postgres', q{SELECT sum(size) = (SELECT count(*) FROM conpool.connections)
		FROM conpool.pools}), 't', 'in all pools together');
is(broker_pid($local), $broker, 'the broker has gone through it all');

# --- the end ------------------------------------------------------------------------

network(0);
$client->send(exec_on(q{'patient_runs'}, 'SELECT 1'));
wait_for_pool($local, 'patient_runs', 'leased = 1', 'a statement is under way in the silence');
$start = time;
$local->stop('fast');
cmp_ok(time - $start, '<', 10, 'a server can be stopped that waits for the network');
note sprintf 'figure: silent network, fast shutdown = %.1f s', time - $start;
is(join("\n", slurp_file($local->logfile) =~
		/^.*(?:TRAP:|PANIC:|was terminated by signal).*$/mg), '', 'no process crashed');

done_testing();
