# A remote that breaks off, or speaks nonsense, under TLS loses that one connection;
# what is odd but allowed is borne. Nobody else's connections notice, and the tunnel
# neither ends nor grows.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use IPC::Open2;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

plan skip_all => 'there is no /proc' unless -d '/proc/self/fd';
plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $soon = 15;    # seconds for whatever is to be over soon
my $certificates = Certificates->new;
my $dir = PostgreSQL::Test::Utils::tempdir();

# The peers: test/c/tls_peer.c.
my ($source) = map { "$_/../c/tls_peer.c" } $ENV{CONPOOL_SETUP};
my $warnings = `gcc -std=gnu11 -Wall -O1 -o '$dir/tls_peer' '$source' -lssl -lcrypto 2>&1`;
die "tls_peer.c could not be built: $warnings" unless $? == 0;
is($warnings, '', 'test/c/tls_peer.c is built');
my $peers = open2(my $from_peers, my $to_peers, "$dir/tls_peer", $certificates->path('good.crt'),
	$certificates->path('good.key'));
my %port;
while (my $line = <$from_peers>)
{
	my ($name, $number) = $line =~ /^(\S+) (\d+)$/ or last;
	$port{$name} = $number;
}

my $remote = new_remote('remote', tls => $certificates);
my $local = new_local('local');
setup_local($local, $remote);
create_loop($local);
create_server($local, $remote, 'steady', options => q{min_size '1', max_size '3'});
create_server($local, $remote, 'other', user => 'regress_remote_two', options => q{max_size '3'});
wait_for_pool($local, 'steady', 'idle = 1 AND tunnelled = 1', 'a connection with a good remote');

my $client = WireClient->new($local);
my $other = WireClient->new($local);
my $tunnel = $local->safe_psql('postgres', 'SELECT pid FROM conpool.tunnels');
# beside all that follows
my @loop = start_loop($local, 'steady', seconds => 600);

sub descriptors
{
	return scalar(() = glob "/proc/$tunnel/fd/*");
}

my $descriptors;

# A server for a behaviour of the peers.
sub create_peer
{
	my ($name, $options) = @_;
	$options //= '';
	$local->safe_psql('postgres', sprintf q{
		CREATE SERVER %s FOREIGN DATA WRAPPER conpool
			OPTIONS (host '127.0.0.1', port '%d', dbname '%s', sslmode 'require' %s);
		CREATE USER MAPPING FOR postgres SERVER %s OPTIONS (user 'nobody', password 'x')},
		$name, $port{$name} // $port{good}, $name, $options, $name);
	return;
}

sub query
{
	my ($server, $sql) = @_;
	$sql //= q{'SELECT 1'};
	return $client->query("SELECT * FROM conpool.query('$server', $sql) AS t(pid int, text text)");
}

# What is it to be, an error or an answer?
sub outcome
{
	my ($result) = @_;
	return 'lost' if $result->{lost};
	return $result->{error} // $result->{rows}[0][1];
}

sub check_other
{
	my ($when) = @_;
	return is(
		outcome($other->query(
			q{SELECT * FROM conpool.query('other', $$SELECT 1, 'good'$$) AS t(a int, b text)})),
		'good', "$when: others are served");
}

# Others are served, with a new connection.
sub check_connects
{
	my ($when) = @_;
	my $connects = q{SELECT connects FROM conpool.stat_pools WHERE server = 'other'};
	my $before = $other->query($connects)->{rows}[0][0];
	$other->query(q{SELECT conpool.close_idle('other')});
	check_other($when);
	is($other->query($connects)->{rows}[0][0], $before + 1, "$when: and connected");
	return is(
		$other->query(q{SELECT tunnelled FROM conpool.pools WHERE server = 'other'})->{rows}[0][0],
		1, "$when: through the tunnel");
}

check_other('at first');
wait_for_pool($local, 'other', 'idle = 1 AND tunnelled = 1');
$descriptors = descriptors();

# --- until it is ready ------------------------------------------------------------------

# name => [ SQLSTATE, what is said ]
my %early = (
	hello_garbage => [ '08001', 'SSL' ],
	hello_close => [ '08001', 'SSL' ],
	hello_reset => [ '08001', 'SSL|reset' ],
	hello_alert => [ '08001', 'alert' ],
	greeting_close => [ '08001', 'connection has been closed' ],
	greeting_garbage => [ '08001', 'SSL' ],
	gss => [ '08001', 'GSSAPI' ]);
foreach my $name (sort keys %early)
{
	create_peer($name);
	my $start = time;
	my $result = query($name);
	is(outcome($result), $early{$name}[0], "$name: an error");
	like($result->{detail} // '', qr/$early{$name}[1]/, "$name: that says why");
	cmp_ok(time - $start, '<', $soon, "$name: soon");
	check_other($name);
}

# --- in an answer -----------------------------------------------------------------------

my @in_row = map { "row_$_" } qw(close reset notify notify_only garbage half forged);
foreach my $name (@in_row)
{
	create_peer($name);
	my $start = time;
	is(outcome(query($name)), '08006', "$name: the statement is lost");
	cmp_ok(time - $start, '<', $soon, "$name: soon");
	check_other($name);
}
wait_for($local, qq{SELECT sum(size) = 0 FROM conpool.pools WHERE server LIKE 'row\\_%'},
	'none of these connections is left');

# --- while nothing runs -------------------------------------------------------------------

my @idle = ((map { "idle_$_" } qw(close reset notify notify_only garbage)), 'renegotiates');
my %first;
foreach my $name (@idle)
{
	create_peer($name);
	$first{$name} = query($name);
	is(outcome($first{$name}), 'good', "$name: an answer");
}
foreach my $name (@idle)
{
	wait_for_pool($local, $name, 'size = 0', "$name: the connection leaves the pool");
	my $second = query($name);
	is(outcome($second), 'good', "$name: the next statement has another one");
	isnt($second->{rows}[0][0], $first{$name}{rows}[0][0], "$name: which is new");
}
check_other('idle');

# --- what is allowed --------------------------------------------------------------------------

# New keys in both directions: the client's come with what it sends next.
create_peer('new_keys');
my $many = q{SELECT count(*), count(DISTINCT pid), max(pid), sum(length(text)) FILTER (WHERE length(text) > 9),
	max(text) FILTER (WHERE length(text) <= 9)
	FROM conpool.query('new_keys', 'SELECT 1 /* ' || repeat('x', %d) || ' */') AS t(pid int, text text)};
my @many = map { $client->query(sprintf $many, $_)->{rows}[0] } 10, 1_000_000, 10;
is_deeply([ @$_[ 0, 1, 3 ] ], [ 20001, 1, 4_000_000 ], 'new keys: a large result is complete') for @many;
is($many[0][2], $many[$_][2], 'new keys: and the connection is kept') for 1 .. 2;
my @updates = map { $_->[4] } @many;
cmp_ok($updates[1], '>', $updates[0], 'new keys: in the other direction, too');
cmp_ok($updates[2], '>', $updates[1], 'new keys: again and again');
note "figure: key updates by the tunnel = @updates";

create_peer('bytes');
my $bytes = $client->query(q{SELECT count(*), count(DISTINCT text), max(text), max(pid)
	FROM conpool.query('bytes', 'SELECT 1') AS t(pid int, text text)})->{rows}[0];
is_deeply([ @$bytes[ 0 .. 2 ] ], [ 500, 1, 'a text that takes one record for each of its characters' ],
	'records of one byte: all is there');

# Tickets come after each answer, also when nobody waits for anything.
create_peer('tickets');
create_peer('tls12');
foreach my $name (qw(tickets tls12))
{
	my %pid;
	foreach (1 .. 5)
	{
		my $result = query($name);
		$pid{ $result->{rows}[0][0] // $result->{error} }++;
		usleep(10_000);
	}
	is_deeply([ values %pid ], [5], "$name: one connection serves all statements");
}
is( $local->safe_psql('postgres', q{SELECT string_agg(DISTINCT server || ' ' || tls_version, ', ')
		FROM conpool.connections WHERE server IN ('tickets', 'tls12') AND tunnel = 1}),
	'tickets TLSv1.3, tls12 TLSv1.2', 'what the view says of them');

# What is said before "ready" can only be passed on if it is short.
create_peer('long_greeting');
my @long = map { query('long_greeting') } 1 .. 2;
is_deeply([ map { outcome($_) } @long ], [ 'good', 'good' ], 'a long greeting: statements are served');
isnt($long[0]{rows}[0][0], $long[1]{rows}[0][0], 'a long greeting: without sharing');
wait_for_pool($local, 'long_greeting', 'size = 0', 'a long greeting: nothing is left');

# The first half of a message comes with "ready", and libpq has it; so the rest is
# nonsense to whoever has the connection then, and he may notice or not.
create_peer('half_message');
like(outcome(query('half_message')), qr/^(?:good|0800[16])$/, 'half a message') for 1 .. 3;
check_other('what is allowed');

# A peer that sends new keys as fast as it can is busy, and keeps nobody from his work.
create_peer('idle_updates');
is(outcome(query('idle_updates')), 'good', 'endless new keys: an answer');
my $start = time;
$client->query(q{SET statement_timeout = '300ms'});
is(outcome(query('idle_updates')), '57014', 'endless new keys: the next statement is cancelled');
$client->query('RESET statement_timeout');
cmp_ok(time - $start, '<', $soon, 'endless new keys: soon');
check_other('endless new keys');
wait_for_pool($local, 'idle_updates', 'size = 0', 'endless new keys: they end');

# --- often ------------------------------------------------------------------------------------

sub misbehave
{
	my ($times) = @_;
	my %seen;
	foreach (1 .. $times)
	{
		$seen{"$_ " . outcome(query($_))}++ for @in_row, 'long_greeting';
		foreach my $name (qw(hello_garbage greeting_close))
		{
			# the breaker is to let it through
			$client->query("SELECT conpool.warm('$name')");
			$seen{"$name " . outcome(query($name))}++;
		}
	}
	return \%seen;
}

# What is used once by a thread or a pool stays; what is lost with each connection
# adds up every time.
misbehave(3);
my $rounds = 5;
my $growth;
foreach my $span (1 .. 5)
{
	my $before = process_memory($tunnel)->{own};
	is_deeply(
		misbehave($rounds),
		{
			(map { ("$_ 08006" => $rounds) } @in_row),
			'long_greeting good' => $rounds,
			'hello_garbage 08001' => $rounds,
			'greeting_close 08001' => $rounds
		},
		"again and again, $span");
	$growth = process_memory($tunnel)->{own} - $before;
	note "figure: growth of the tunnel by $rounds of each = $growth kB, of $before kB";
	last if $growth < 100;
}
cmp_ok($growth, '<', 100, 'the tunnel does not grow');

# --- files that nobody writes -----------------------------------------------------------------

# More callers, one after the other, than a pool may have threads of the tunnel.
my $fifo = "$dir/fifo";
mkfifo($fifo, 0600) or die "mkfifo: $!";
create_peer('fifo', ", sslrootcert '$fifo', connect_timeout '300ms'");
$start = time;
foreach (1 .. 6)
{
	$client->query(q{SELECT conpool.warm('fifo')});
	my $result = query('fifo');
	is(outcome($result), '08001', 'a file without end: an error');
	like("$result->{message} $result->{detail}", qr/timeout|regular/, 'a file without end: that says why');
}
cmp_ok(time - $start, '<', $soon, 'a file without end: soon');
check_connects('a file without end');

# --- at rest ----------------------------------------------------------------------------------

wait_for($local, q{SELECT (SELECT connections FROM conpool.tunnels) = sum(tunnelled) AND
	sum(size - idle - leased) = 0 FROM conpool.pools},
	'the tunnel has the connections of the pools, and no others');
$client->query(q{SELECT conpool.close_idle(s)
	FROM unnest('{new_keys,bytes,tickets,tls12,renegotiates,half_message}'::text[]) AS s});
$client->query(q{SELECT conpool.close_idle(server) FROM conpool.pools WHERE server LIKE 'idle%'});
wait_for($local, q{SELECT connections = 2 FROM conpool.tunnels}, 'only the good ones are left');
cmp_ok(descriptors(), '<=', $descriptors, 'it has left no descriptor open');
like(slurp_file($local->logfile), qr/encrypted connection of pool "$_->[0]" with 127.* was lost.*\n.*$_->[1]/,
	"the log says of $_->[0] what went wrong")
  for [ 'row_close', 'without ending TLS' ], [ 'row_forged', 'TLS error: ' ],
  [ 'row_reset', 'Connection reset' ];
unlike(slurp_file($local->logfile), qr/encrypted connection of pool "row_notify"/,
	'but nothing of what ended in good order');

# --- rounds of SCRAM --------------------------------------------------------------------------

# A thread computes for as long as anybody lives.
create_peer('rounds', q{, connect_timeout '500ms'});
$start = time;
my $result = query('rounds');
is(outcome($result), '08001', 'endless rounds: an error');
like($result->{message}, qr/timeout/, 'endless rounds: by timeout');
cmp_ok(time - $start, '<', $soon, 'endless rounds: soon');
check_connects('endless rounds');

stop_loop($local);
my $steady = finish_loop(@loop);
is($steady->{errors}, '', 'a good connection had no errors meanwhile');
cmp_ok($steady->{longest}, '<', 5, 'and did not wait for long');
cmp_ok($steady->{done}, '>', 100, 'it was used all the time');
note sprintf 'figure: longest statement beside the peers = %.3f s', $steady->{longest};
is($local->safe_psql('postgres', q{SELECT connects || ' ' || connect_failures FROM conpool.stat_pools
	WHERE server = 'steady'}), '1 0', 'it is the same connection');
is($local->safe_psql('postgres', 'SELECT pid FROM conpool.tunnels'), $tunnel, 'and the same tunnel');
is(join("\n", slurp_file($local->logfile) =~ /^.*(?:TRAP:|PANIC:|was terminated by signal).*$/mg),
	'', 'no process has crashed');

$start = time;
$local->stop('fast');
cmp_ok(time - $start, '<', $soon, 'the server ends all the same');
ok(!-d "/proc/$tunnel", 'and the tunnel with it');
count_remote($remote, 0, 'and its connections');
close $to_peers;
waitpid $peers, 0;

done_testing();
