# Several hosts in one server: whoever connects reaches the one that will do,
# past hosts that refuse, say nothing, do not even take notice, or are of the
# wrong kind; sessions and the dialer alike.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(message);
use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

# --- hosts ----------------------------------------------------------------------

my $primary = new_remote('primary', init => { allows_streaming => 1 });
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;

my $local = new_local('local');
setup_local($local, $primary);

# bound, but nobody listens
my @closed = map { IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp') // die "bind: $!" } 1 .. 2;

# the kernel accepts, nobody else does
my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100) // die "listen: $!";

# the kernel does not accept either: its queue is full
my $deaf = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) // die "listen: $!";
my @callers;
my $is_deaf;
until ($is_deaf || @callers > 20)
{
	push @callers,
	  IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $deaf->sockport, Blocking => 0);
	$is_deaf = !IO::Select->new($callers[-1])->can_write(0.3);
}
ok($is_deaf, 'a port that takes no notice of who connects');

# Servers that end every attempt in their own way.
sub server_that_says
{
	my ($sqlstate) = @_;
	my $words = message('E', "SFATAL\0C$sqlstate\0Mno\0\0");
	my $greeting = sub { $_[0]->send($words) if $sqlstate; 0 };
	return FakeServer->new({ conpool_remote => { greeting => $greeting } });
}
my %fake = (
	hangs_up => server_that_says(''),
	starts => server_that_says('57P03'),
	forbids => server_that_says('28000'));

my %port = (
	primary => $primary->port,
	standby => $standby->port,
	closed => $closed[0]->sockport,
	closed_too => $closed[1]->sockport,
	silent => $silent->sockport,
	deaf => $deaf->sockport,
	map { $_ => $fake{$_}->port } keys %fake);

# --- servers --------------------------------------------------------------------

# A server with a list of hosts, given by the names above.
sub create_list
{
	my ($name, $hosts, $options) = @_;
	my $ports = join ',', map { $port{$_} } split / /, $hosts;
	create_server($local, $primary, $name, options => $options);
	$local->safe_psql('postgres', qq{ALTER SERVER $name OPTIONS (SET port '$ports',
		SET host '} . $ports =~ s/\d+/127.0.0.1/gr . q{')});
	return;
}

my $get_port = 'SELECT inet_server_port()';

sub query_port
{
	my ($server) = @_;
	return "SELECT * FROM conpool.query('$server', '$get_port') AS t(port int)";
}

# "primary", "standby", or the SQLSTATE of an error.
sub outcome
{
	my ($result) = @_;
	my %name = reverse %port;
	return $result->{error} // $name{ $result->{rows}[0][0] };
}

# --- ahead of demand: sets out now, is looked at later ---------------------------

my @ahead = (
	ahead_refused => [ 'closed primary', 'primary', '' ],
	ahead_silent => [ 'silent primary', 'primary', '' ],
	ahead_deaf => [ 'deaf primary', 'primary', '' ],
	ahead_writes =>
	  [ 'standby primary', 'primary', q{, target_session_attrs 'read-write'} ],
	ahead_reads =>
	  [ 'primary standby', 'standby', q{, target_session_attrs 'prefer-standby'} ],
	ahead_hangs_up => [ 'hangs_up starts primary', 'primary', '' ]);
my %ahead = @ahead;
create_list($_, $ahead{$_}[0], qq{min_size '2', connect_timeout '4' $ahead{$_}[2]})
  for sort keys %ahead;

# --- hosts that take their time ----------------------------------------------------

# With six seconds for all of them, a list of two has three for the first. Of two
# passes over it the second does not begin with the one that was silent.
my @slow = (
	silent => [ 'silent primary', 'primary', 6, 3 ],
	deaf => [ 'deaf primary', 'primary', 6, 3 ],
	silent_and_deaf => [ 'silent deaf primary', 'primary', 6, 4 ],
	silent_preferred => [ 'silent primary', 'primary', 12, 3, 'prefer-standby' ],
	no_answer => [ 'closed silent', '08001', 5, 5 ]);
my %slow = @slow;
my %client;
foreach my $name (sort keys %slow)
{
	my ($hosts, undef, $limit, undef, $target) = @{ $slow{$name} };
	create_list("slow_$name", $hosts,
		qq{connect_timeout '$limit'} . ($target ? ", target_session_attrs '$target'" : ''));
	$client{$name} = WireClient->new($local);
	$client{$name}->send(query_port("slow_$name"));
}

# --- hosts that answer at once: meanwhile ---------------------------------------

my $client = WireClient->new($local);
my @quick = (
	refused => [ 'closed primary', 'primary' ],
	refused_twice => [ 'closed closed_too primary', 'primary' ],
	last_refuses => [ 'primary closed', 'primary' ],
	hangs_up => [ 'hangs_up primary', 'primary' ],
	starts => [ 'starts primary', 'primary' ],
	# as with libpq, who is turned away does not go on to the next
	forbidden => [ 'forbids primary', '28000' ],
	anybody => [ 'standby primary', 'standby', 'any' ],
	read_write => [ 'standby primary', 'primary', 'read-write' ],
	a_primary => [ 'standby primary', 'primary', 'primary' ],
	read_only => [ 'primary standby', 'standby', 'read-only' ],
	a_standby => [ 'primary standby', 'standby', 'standby' ],
	prefer_standby => [ 'primary standby', 'standby', 'prefer-standby' ],
	prefer_in_vain => [ 'closed primary', 'primary', 'prefer-standby' ],
	nobody_writes => [ 'closed standby', '08001', 'read-write' ],
	nobody_stands_by => [ 'closed primary', '08001', 'standby' ]);
my %quick = @quick;
foreach my $name (sort keys %quick)
{
	my ($hosts, $expected, $target) = @{ $quick{$name} };
	create_list($name, $hosts,
		q{connect_timeout '20'} . ($target ? ", target_session_attrs '$target'" : ''));
	my $start = time;
	my $result = $client->query(query_port($name));
	is(outcome($result), $expected, "$name: of $hosts it is $expected");
	cmp_ok(time - $start, '<', 5, "$name: at once");
}

# Other ways to write a list; what replaces host and port.
my $c = $port{closed};
my $p = $port{primary};
my %forms = (
	names_and_addresses =>
	  qq{SET host 'a.invalid,b.invalid', ADD hostaddr '127.0.0.1,127.0.0.1', SET port '$c,$p'},
	one_port => qq{SET host '::1,127.0.0.1'},
	socket_directory => qq{SET host '/nowhere,127.0.0.1'});
foreach my $name (sort keys %forms)
{
	create_server($local, $primary, $name);
	$local->safe_psql('postgres', "ALTER SERVER $name OPTIONS ($forms{$name})");
	is(outcome($client->query(query_port($name))), 'primary', "a list as $name");
}
is(outcome($client->query(query_port(
		"postgresql://regress_remote:remote-secret\@127.0.0.1:$c,127.0.0.1:$port{standby},"
		  . "127.0.0.1:$p/conpool_remote?target_session_attrs=read-write"))),
	'primary', 'a list in a URI');
create_server($local, $primary, 'misfit');
$local->safe_psql('postgres', "ALTER SERVER misfit OPTIONS (SET port '1,2,3')");
my $result = $client->query(query_port('misfit'));
is($result->{error}, '08001', 'a list that does not fit');
like($result->{detail}, qr/could not match 3 port numbers to 1 hosts/, 'what is wrong with it');

# What the breaker learns: a list is down when all its hosts are.
is($local->safe_psql('postgres', q{SELECT connect_failures, breaker, failures
		FROM conpool.stat_pools JOIN conpool.pools USING (server) WHERE server = 'refused'}),
	'0|closed|0', 'a host that refuses is no failure if another does not');
$result = $client->query(query_port('nobody_writes'));
like($result->{detail}, qr/port $port{closed} failed: Connection refused/,
	'the error names the host that refuses');
like($result->{detail}, qr/port $port{standby} failed: session is read-only/,
	'and the one that is of the wrong kind');

# --- how the slow ones went -------------------------------------------------------

my %result;
foreach my $name (sort keys %slow)
{
	my ($hosts, $expected) = @{ $slow{$name} };
	$result{$name} = $client{$name}->result;
	is(outcome($result{$name}), $expected, "slow_$name: of $hosts it is $expected");
}
foreach my $line (split /\n/, $local->safe_psql('postgres', q{
	SELECT server, total_connect_time / 1000 FROM conpool.stat_pools
	WHERE server LIKE 'slow_%' AND connects > 0}))
{
	my ($name, $seconds) = $line =~ /slow_(\w+)\|(.*)/;
	my ($hosts, undef, undef, $share) = @{ $slow{$name} };
	note sprintf 'figure: connect to %s = %.2f s, of which %s s are given away',
	  join(', ', split / /, $hosts), $seconds, $share;
	cmp_ok($seconds, '>', $share - 0.1, "slow_$name: the others had their share of the time");
	cmp_ok($seconds, '<', $share + 2, "slow_$name: and no more");
}
like($result{no_answer}{detail}, qr/port $port{closed} failed: Connection refused/,
	'all down: the error names the host that refuses');
like($result{no_answer}{detail}, qr/port $port{silent} failed: timeout expired/,
	'and the one that is silent');
like($local->safe_psql('postgres',
		q{SELECT last_error FROM conpool.pools WHERE server = 'slow_no_answer'}),
	qr/port $port{closed} .* port $port{silent} /s, 'and so does the view');

# --- and those ahead of demand ----------------------------------------------------

foreach my $name (sort keys %ahead)
{
	my ($hosts, $expected) = @{ $ahead{$name} };
	wait_for_pool($local, $name, 'idle = 2', "$name: min_size is reached");
	is($local->safe_psql('postgres',
			"SELECT DISTINCT remote_address FROM conpool.connections WHERE server = '$name'"),
		"127.0.0.1:$port{$expected}", "$name: of $hosts it is $expected");
}

# --- a host that comes back ---------------------------------------------------------

create_list('down', 'closed standby', q{connect_timeout '5', max_size '4'});
create_list('ahead_down', 'closed standby', q{connect_timeout '5', min_size '2'});
wait_for_pool($local, 'ahead_down', 'idle = 2');
is(outcome($client->query(query_port($_))), 'standby', "$_: up") for qw(anybody down);
$standby->stop('immediate');

# an idle connection is lost: nobody notices while another host will do
is(outcome($client->query(query_port($_))), 'primary', "$_: there is another host")
  for qw(anybody prefer_standby ahead_reads);

$result = $client->query(query_port('down'));
is($result->{error}, '08001', 'all hosts are down');
like($result->{detail}, qr/port $port{closed} failed: .* port $port{standby} failed: /s,
	'the error names them all');
my $refused = sub {
	$result = $client->query(query_port('down'));
	return ($result->{message} // '') =~ /not tried again yet/;
};
wait_until($refused, 'the breaker is open', 10);
is($result->{error}, '08001', 'who comes then fails at once');
like($result->{detail}, qr/port $port{closed} failed: .* port $port{standby} failed: /s,
	'with the same reason');
wait_for_pool($local, 'ahead_down',
	qq{size = 0 AND breaker <> 'closed' AND upkeep_error ~ 'port $port{closed} .* port $port{standby} '},
	'min_size cannot be reached, for the same reason');

$standby->start;
my $start = time;
wait_until(sub { outcome($client->query(query_port('down'))) eq 'standby' },
	'service comes back by itself');
wait_for_pool($local, 'ahead_down', q{idle = 2 AND breaker = 'closed' AND upkeep_error IS NULL},
	'and so does min_size');
note sprintf 'figure: service and min_size back after the return of a host = %.1f s', time - $start;

# --- what is left -------------------------------------------------------------------

is($local->safe_psql('postgres', 'SELECT test.at_rest()'), 't', 'all pools are at rest');

done_testing();
