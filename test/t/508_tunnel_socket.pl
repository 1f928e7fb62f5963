# A tunnel takes orders from whoever holds the permit, over a private socket, and nothing
# else: strangers, silent and talkative peers get nothing and hold up nobody; and no
# descriptor of all this is inherited by a program.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use Cwd;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX ();
use PostgreSQL::Test::Utils;
use Socket qw(SHUT_WR);
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

plan skip_all => 'there is no /proc' unless -d '/proc/self/fd';
plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my ($order_magic, $cancel_magic) = (0x43504f54, 0x43504331);
my $name_length = 128;
my $limit = 20;    # seconds; the tunnel's own for a silent peer is 5
my ($slots, $generations) = (8, 40);

# The probe speaks to the tunnel from a backend: test/c/tunnel_probe.c.
my $library = PostgreSQL::Test::Utils::tempdir . '/tunnel_probe.so';
my ($cc, @include) = map { my $line = `$ENV{PG_CONFIG} $_`; chomp $line; $line }
  qw(--cc --includedir-server --includedir);
my $test = ($ENV{CONPOOL_SETUP} // 'test/setup') . '/..';
system(split(' ', $cc), '-shared', '-fPIC', '-o', $library,
	(map { "-I$_" } "$test/../src", @include), "$test/c/tunnel_probe.c", '-lpthread') == 0
  or plan skip_all => 'the probe could not be built';

my $certificates = Certificates->new;
my $remote = new_remote('remote', tls => $certificates);
my $local = new_local('local', conf => "conpool.max_connections = $slots");
setup_local($local, $remote);
$local->safe_psql('postgres', qq{
	CREATE FUNCTION probe_orders(slots int, generations int) RETURNS text
		LANGUAGE c AS '$library';
	CREATE FUNCTION probe_while_connecting(slots int, generations int) RETURNS void
		LANGUAGE c AS '$library';
	CREATE FUNCTION probe_result() RETURNS text
		LANGUAGE c AS '$library';
	CREATE FUNCTION probe_descriptors(message bytea, descriptors int) RETURNS text
		LANGUAGE c AS '$library'});
create_server($local, $remote, 'one', options => q{max_size '1'});
create_server($local, $remote, 'two', options => q{max_size '2'});

# A remote that never answers.
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100) // die "listen: $!";
$local->safe_psql('postgres', sprintf q{
	CREATE SERVER mute FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '%d', sslmode 'require', connect_timeout '60s');
	CREATE USER MAPPING FOR postgres SERVER mute OPTIONS (user 'nobody', password 'x')}, $mute->sockport);

my $watcher = WireClient->new($local);
my ($connecting, $other) = map { WireClient->new($local) } 1 .. 2;
my $log_start = -s $local->logfile;

sub value
{
	my ($sql, $session) = @_;
	my $result = ($session // $watcher)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return $result->{rows}[0][0];
}

my $tunnel = value('SELECT pid FROM conpool.tunnels');
my $query = q{SELECT pid FROM conpool.query('one', 'SELECT pg_backend_pid()') AS t(pid int)};

# A connection is opened through the tunnel.
sub check_service
{
	my ($when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	value(q{SELECT conpool.close_idle('one')});
	my $start = time;
	like(value($query), qr/^\d+$/, "$when: a connection is opened");
	cmp_ok(time - $start, '<', $limit / 2, "$when: without waiting for others");
	return;
}

check_service('at first');

sub descriptors
{
	my ($pid) = @_;
	return scalar(() = glob "/proc/$pid/fd/*");
}

# Once all is closed that is going to be.
sub check_descriptors
{
	my ($expected, $when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until(sub { descriptors($tunnel) == $expected }, "$when: the tunnel has kept no descriptor")
	  || diag(map { "$_ " . (readlink($_) // '') . "\n" } glob "/proc/$tunnel/fd/*");
}

my $descriptors = descriptors($tunnel);

# --- by hand --------------------------------------------------------------------------

# By a relative path: socket paths are short.
my $directory = $local->data_dir . '/pg_stat_tmp';
my $before = getcwd;
chdir $directory or BAIL_OUT("chdir: $!");

sub peer
{
	return IO::Socket::UNIX->new(Peer => 'conpool.tunnel.1') // die "tunnel: $!";
}

sub order
{
	my (%of) = @_;
	my $text = $of{text} // "host\0db\0user\0me\0";
	return pack("LLLlQQllL a$name_length x4",
		$of{magic} // $order_magic, $of{text_size} // length $text,
		$of{pairs} // 2, $of{slot} // 0, $of{generation} // 1,
		$of{pool_generation} // 1, $of{pool} // 0, $of{timeout} // 1000, 0, 'probe') . $text;
}

sub cancel
{
	my (%of) = @_;
	my $key = $of{key} // 'keys';
	return pack 'LlQlLa256', $cancel_magic, $of{pid} // 1, $of{id} // 1,
	  $of{key_length} // length $key, $of{timeout} // 1000, $key;
}

# What the tunnel answers: "closed", "silent" for too long, or that it has.
sub answer
{
	my ($peer, $patience) = @_;
	my $reply = '';
	while (IO::Select->new($peer)->can_read($patience // $limit))
	{
		sysread $peer, $reply, 1000, length $reply or last;
	}
	return 'silent' if IO::Select->new($peer)->can_read(0) == 0;
	return $reply eq '' ? 'closed' : 'answered';
}

sub say_to_tunnel
{
	my ($bytes, %how) = @_;
	local $SIG{PIPE} = 'IGNORE';
	my $peer = peer();
	syswrite $peer, $bytes;
	shutdown $peer, SHUT_WR if $how{end};
	return answer($peer, $how{limit});
}

# At once: it has understood it as a whole. (Else the structure has changed.)
my $begun = time;
is(say_to_tunnel(order()), 'closed', 'an order of somebody without a permit');
cmp_ok(time - $begun, '<', 4, 'is refused at once') or BAIL_OUT('orders have another form');
is(say_to_tunnel(order(magic => $order_magic + 1)), 'closed', 'wrong magic');
is(say_to_tunnel('GET / HTTP/1.1' . "\r\n" x 20), 'closed', 'another protocol');
is(say_to_tunnel("\0" x 100_000), 'closed', 'many zeros');
is(say_to_tunnel(join '', map { chr int rand 256 } 1 .. 10_000), 'closed', 'garbage') for 1 .. 20;
is(say_to_tunnel('', end => 1), 'closed', 'nothing at all');
foreach my $size (1, 3, 4, 5, length(order()) - 20, length(order()) - 1)
{
	is(say_to_tunnel(substr(order(), 0, $size), end => 1), 'closed', "an order that ends after $size bytes");
}
is(say_to_tunnel(substr(cancel(), 0, $_), end => 1), 'closed', "a cancel that ends after $_ bytes") for 4, 24, 279;
is(say_to_tunnel(order(text_size => $_)), 'closed', "$_ bytes of text") for 1024 * 1024 + 1, 0x7fffffff, 0xffffffff;
is(say_to_tunnel(order(slot => $_)), 'closed', "slot $_") for -1, -2147483648, $slots, 2147483647;
is(say_to_tunnel(order(pool => $_)), 'closed', "pool $_") for -1, 2147483647;

# --- strangers ----------------------------------------------------------------------------

is((stat 'conpool.tunnel.1')[2] & 0777, 0700, 'the socket is for its owner only');
SKIP:
{
	skip 'this needs a root who may pass on the right to change the uid', 3
	  unless $ENV{CONPOOL_CAN_SETUID};

	# Something that takes until it is complete: who is turned away at once does not get there.
	my @answers = ('closed', 'silent', 'answered');
	my $half = sub {
		my $got = say_to_tunnel(substr(order(), 0, 7), limit => 2);
		return (grep { $answers[$_] eq $got } 0 .. 2)[0];
	};
	isnt(as_other_user($half), 0, 'another uid cannot connect');
	chmod 0711, '.';
	chmod 0777, 'conpool.tunnel.1';
	my $status = as_other_user($half);
	is($answers[$status] // "exit status $status", 'closed', 'if it can, it is turned away');
	chmod 0700, '.', 'conpool.tunnel.1';
	is($answers[ $half->() ], 'silent', 'while the right one is heard');
}

# --- cancels ----------------------------------------------------------------------------------

# A connection whose backend is known; the rest is not to be had.
my $pid = value($query);
$other->send(q{SELECT conpool.exec('one', 'SELECT pg_sleep(100)')});
wait_for_pool($local, 'one', 'leased = 1', 'a statement runs');
foreach my $wrong (
	[ 'a key' => {} ],
	[ 'another number' => { id => 4711 } ],
	[ 'no key' => { key => '', key_length => 0 } ],
	[ 'less than no key' => { key_length => -1 } ],
	[ 'a key too long' => { key_length => 257 } ],
	[ 'a key much too long' => { key_length => 2147483647 } ],
	[ 'no time' => { timeout => 0 } ],
	[ 'all the time' => { timeout => 0xffffffff } ])
{
	my ($what, $of) = @$wrong;
	is(say_to_tunnel(cancel(pid => $pid, %$of)), 'closed', "a cancel with $what");
}
is($remote->safe_psql('postgres', "SELECT state FROM pg_stat_activity WHERE pid = $pid"),
	'active', 'it still runs');
$other->cancel;
is($other->result->{error}, '57014', 'until its session is cancelled');

# --- the silent ----------------------------------------------------------------------------------

# More of them than the tunnel has places for; the last ones promise a lot, and one
# does go on, but too slowly.
my $memory = process_memory($tunnel);
my @silent = map { peer() } 1 .. 300;
$begun = time;
syswrite $_, substr order(), 0, 7 for @silent[ 50 .. 149 ];
syswrite $_, order(text => 'x', text_size => 1024 * 1024) for @silent[ 150 .. 249 ];
check_service("beside 300 silent peers, $_") for 1 .. 3;
note sprintf 'figure: memory of the tunnel with 100 orders of 1 MB half there = +%d kB',
  process_memory($tunnel)->{own} - $memory->{own};
my $slow = fork() // die "fork: $!";
if ($slow == 0)
{
	local $SIG{PIPE} = 'IGNORE';
	my $peer = peer();
	my $sent = 0;
	my $end = time + $limit;
	while (time < $end && syswrite $peer, substr order(), $sent++, 1)
	{
		usleep(250_000);
	}
	POSIX::_exit(time < $end ? 0 : 1);
}
is(join(', ', grep { $_ ne 'closed' } map { answer($_) } @silent), '', 'all are dropped in the end');
my $took = time - $begun;
cmp_ok($took, '<', $limit, 'soon');
cmp_ok($took, '>', 3, 'though not at once');
waitpid $slow, 0;
is($?, 0, 'so is a slow one');
@silent = ();
cmp_ok(process_memory($tunnel)->{own} - $memory->{own}, '<', 1024, 'the tunnel has not grown');

# --- whoever has a permit -----------------------------------------------------------------------------

# While a session connects, another thread of it gives orders in its name.
value("SELECT probe_while_connecting($slots, $generations)", $connecting);
$connecting->send(q{SELECT conpool.exec('mute', 'SELECT 1')});
is($connecting->result->{error}, '57014', 'a session connects, until it is cancelled');
my %said;
foreach my $line (split /\n/, value('SELECT probe_result()', $connecting))
{
	my ($what, $answer) = $line =~ /^(.*?): (.*)/ or next;
	push @{ $said{$what} }, $answer;
}
like(join('; ', @{ delete($said{taken}) // [] }), qr/^\d+ \d+ failed: [^;]*refused$/,
	'its orders are taken, with one slot and generation only');
foreach my $right ('right', 'right again', 'a name without end')
{
	like(delete($said{$right})->[0], qr/^failed: .*Connection refused/, "$right: gone about");
}
like(delete($said{'an unknown option'})->[0],
	qr/^failed: .*invalid connection option "no_such_option"/, 'an unknown option: so libpq says');
cmp_ok(scalar(keys %said), '>', 10, 'others are wrong');
foreach my $what (sort keys %said)
{
	is(join(' ', @{ $said{$what} }), join(' ', ('refused') x @{ $said{$what} }), "$what: refused");
}

# Another one of the server's processes, meanwhile, and one that has a lease.
$connecting->send(q{SELECT conpool.exec('mute', 'SELECT 1')});
wait_for_pool($local, 'mute', 'connecting = 1', 'a session connects');
is(value("SELECT probe_orders($slots, $generations)", $other), '', 'no order of another session is taken');
$connecting->cancel;
is($connecting->result->{error}, '57014', 'it is cancelled');
value(q{SELECT conpool.checkout('one', 'session')}, $other);
is(value("SELECT probe_orders($slots, $generations)", $other), '', 'a lease is no permit');
$other->query('DISCARD ALL');

# --- descriptors -------------------------------------------------------------------------------------------

foreach my $message ([ garbage => 'xyz' x 100 ], [ order => order() ], [ 'half an order', substr order(), 0, 50 ],
	[ cancel => cancel() ], [ 'a byte' => 'x' ])
{
	my ($what, $bytes) = @$message;
	is(value(sprintf(q{SELECT probe_descriptors('\x%s', %d)}, unpack('H*', $bytes), $_), $other),
		'refused', "$what with $_ descriptors")
	  for 1, 2, 8;
}
wait_for_pool($local, 'mute', 'size = 0', 'nothing is left of what was given up');
value($query);
check_descriptors($descriptors, 'after all');

chdir $before;

# --- programs ------------------------------------------------------------------------------------------------

my $list = PostgreSQL::Test::Utils::tempdir . '/list';

# Sockets and the like of a process that a program would inherit, but for those
# that PostgreSQL itself has left so.
sub unprotected
{
	my ($pid) = @_;
	my %unprotected;
	foreach my $fd (map { m{(\d+)$} } glob "/proc/$pid/fd/*")
	{
		next unless (readlink("/proc/$pid/fd/$fd") // '') =~ /^(socket:.*|anon_inode:.*)/;
		my $file = $1;
		my ($flags) = slurp_file("/proc/$pid/fdinfo/$fd") =~ /^flags:\s+(\d+)/m;
		$unprotected{$file} = 1 unless oct($flags) & oct('02000000');
	}
	return join ' ', sort keys %unprotected;
}

sub inherited
{
	my ($session) = @_;
	my $result = $session->query("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; ls -l /proc/self/fd >$list'");
	my $listed = slurp_file($list);
	die "no list of descriptors: $listed" unless $listed =~ / 0 -> /;
	return join ' ', $listed =~ /(socket:\S+)/g;
}

# "first" has opened one itself, and adopts what "second" has opened.
my ($first, $second) = map { WireClient->new($local) } 1 .. 2;
my ($own, $inherited) = (unprotected($first->{pid}), inherited($first));
my $session_sockets = grep { (readlink($_) // '') =~ /^socket:/ } glob "/proc/$first->{pid}/fd/*";
my $mine = value(q{SELECT conpool.checkout('two', 'session')}, $first);
my $theirs = value(q{SELECT conpool.checkout('two', 'session')}, $second);
value("SELECT conpool.checkin($theirs)", $second);
wait_for_pool($local, 'two', 'idle = 1 AND leased = 1 AND tunnelled = 2', 'two connections are open');
$theirs = value(q{SELECT conpool.checkout('two', 'session')}, $first);
is(value(q{SELECT connects FROM conpool.stat_pools WHERE server = 'two'}), 2, 'a session has both');
cmp_ok(scalar(grep { (readlink($_) // '') =~ /^socket:/ } glob "/proc/$first->{pid}/fd/*"),
	'>=', $session_sockets + 2, 'it has their sockets');
is(inherited($first), $inherited, 'a program gets none of them');
is(unprotected($first->{pid}), $own, 'they are closed on exec');
value("SELECT conpool.checkin($_)", $first) for $mine, $theirs;
is(inherited($first), $inherited, 'nor after they were given back');

my $sockets_before = unprotected($connecting->{pid});
$connecting->send(q{SELECT conpool.exec('mute', 'SELECT 1')});
wait_for_pool($local, 'mute', 'connecting = 1', 'a session connects');
is(unprotected($connecting->{pid}), $sockets_before, "the order's socket is closed on exec");
# libpq says so of its own sockets, right after it has made them
wait_until(sub { unprotected($tunnel) eq '' }, 'so are all of the tunnel');
is(unprotected(broker_pid($local)), '', 'and of the broker');
$connecting->cancel;
is($connecting->result->{error}, '57014', 'it is cancelled');

# --- the tunnel ------------------------------------------------------------------------------------------------

is(value('SELECT pid FROM conpool.tunnels'), $tunnel, 'the tunnel has gone through it all');
check_service('in the end');
unlike(slurp_file($local->logfile, $log_start), qr/TRAP:|PANIC:|tunnel.*(?:exited|terminated)/, 'nothing has crashed');
is(value('SELECT test.at_rest()'), 't', 'all pools are at rest');

done_testing();
