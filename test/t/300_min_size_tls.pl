# Connections that are kept ahead of demand come by way of a tunnel where they may
# be encrypted: names are looked up before and verified all the same, every host of
# a list has its turn, and what goes wrong can be read in the view "pools". A tunnel
# that ends costs its connections; the pool gets new ones by itself.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use FakeServer qw(message hang);
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $certificates = Certificates->new;
my $remote = new_remote('remote', tls => $certificates);
my $clear = new_remote('clear');
my $local = new_local('local');
setup_local($local, $remote);
my $port = $remote->port;
my $root = $certificates->path('root.crt');
my $verified = "sslmode 'verify-full', sslrootcert '$root'";
my %two = (options => q{min_size '2'});

# All connections are there, idle, and go through tunnels or do not.
sub full
{
	my ($server, $tunnelled, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for_pool($local, $server,
		"idle = 2 AND size = 2 AND tunnelled = $tunnelled AND unshared = 0 AND upkeep_error IS NULL",
		"$server: $what");
}

# There are none, for that reason, which is no fault of the remote's if so it says.
sub fails
{
	my ($server, $reason, $breaker) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for_pool($local, $server,
		"size - connecting = 0 AND upkeep_error ~ '$reason' AND breaker = '$breaker'",
		"$server: $reason");
}

sub run
{
	my ($sql) = @_;
	return $local->safe_psql('postgres', $sql);
}

# A server with these options.
sub create
{
	my ($server, $options) = @_;
	return run(qq{
		CREATE SERVER $server FOREIGN DATA WRAPPER conpool
			OPTIONS ($options, dbname 'conpool_remote', min_size '2');
		CREATE USER MAPPING FOR postgres SERVER $server
			OPTIONS (user 'regress_remote', password 'remote-secret')});
}

sub tunnel_pid
{
	return run('SELECT pid FROM conpool.tunnels');
}

# --- by name and by address -----------------------------------------------------------

$certificates->make('server', 'by_name', 'localhost');
show_certificate($remote, $certificates, 'by_name');
create_server($local, $remote, 'by_name', %two, host => 'localhost');
full('by_name', 2, 'a name that is looked up is verified');
is( run(q{SELECT bool_and(encrypted AND tunnel = 1 AND tls_version ~ '^TLSv1' AND tls_cipher <> ''
			AND remote_address ~ '127\.0\.0\.1') FROM conpool.connections WHERE server = 'by_name'}),
	't', 'what is known of them');
is( $remote->safe_psql('postgres',
		q{SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
		  WHERE ssl AND usename = 'regress_remote'}),
	2, 'they are encrypted on the other side');
is(run(q{SELECT n FROM conpool.query('by_name', 'SELECT 6 * 7') t(n int)}), 42, 'they serve');

create_server($local, $remote, 'by_address', %two);
fails('by_address', 'certificate for .* does not match host name', 'open');
show_certificate($remote, $certificates, 'good');
full('by_address', 2, 'as soon as the certificate is right');

# --- several hosts ---------------------------------------------------------------------

my $dead = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) // die "listen: $!";
my $dead_port = $dead->sockport;
close $dead;
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100) // die "listen: $!";
my %first = (
	dead => "host 'localhost,127.0.0.1', port '$dead_port,$port'",
	nameless => "host 'no.such.name.invalid,localhost', port '$port'",
	mute => sprintf("host 'localhost,localhost', port '%d,%d', connect_timeout '4'",
		$mute->sockport, $port));
foreach my $name (sort keys %first)
{
	create("first_$name", "$first{$name}, $verified");
	full("first_$name", 2, 'the other host serves');
}

# --- in the clear, and what a tunnel does not do ------------------------------------------

create_server($local, $clear, 'in_clear', %two);
full('in_clear', 0, 'a remote without TLS, by a tunnel: its socket is passed on');
create_server($local, $clear, 'insists', options => q{min_size '2', sslmode 'require'});
fails('insists', 'does not support SSL', 'open');

my $fake = FakeServer->new(
	{ gss => { greeting => sub { $_[0]->send(message('R', pack 'N', 7)); hang(@_) } } });
run(sprintf q{CREATE SERVER gss FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', hostaddr '127.0.0.1', port '%d', dbname 'gss', min_size '2');
	CREATE USER MAPPING FOR postgres SERVER gss
		OPTIONS (user 'nobody', password_required 'false')}, $fake->port);
fails('gss', 'GSSAPI', 'closed');

# --- a tunnel that ends --------------------------------------------------------------------

# one that has connections
my $before = run(q{SELECT array_agg(remote_pid) FROM conpool.connections WHERE server = 'by_name'});
my $pid = tunnel_pid();
kill 'TERM', $pid;
wait_for_pool($local, 'by_name', "idle = 2 AND tunnelled = 2 AND NOT EXISTS
	(SELECT FROM conpool.connections WHERE server = 'by_name' AND remote_pid = ANY ('$before'))",
	'lost connections are replaced');
isnt(tunnel_pid(), $pid, 'by another process');
full('in_clear', 0, 'those in the clear stay');

# one that is connecting
create('interrupted', sprintf "host '127.0.0.1', port '%d', connect_timeout '60', $verified",
	$mute->sockport);
wait_for_pool($local, 'interrupted', 'connecting = 1', 'a connect hangs');
kill 'TERM', tunnel_pid();
fails('interrupted', 'tunnel', 'closed');
my $start = time;
run(sprintf q{ALTER SERVER interrupted OPTIONS (SET port '%d')}, $port);
full('interrupted', 2, 'afterwards');
cmp_ok(time - $start, '<', 30, 'soon');

# several, one after the other, while others wait to be opened
create_server($local, $remote, 'beset', options => q{min_size '20', max_size '20'});
foreach (1 .. 3)
{
	wait_for($local, 'SELECT pid IS NOT NULL FROM conpool.tunnels', 'a tunnel is there');
	kill 'TERM', tunnel_pid();
}
wait_for_pool($local, 'beset', 'idle = 20 AND tunnelled = 20', 'all are there in the end');
wait_for($local, q{SELECT sum(closing + connecting) = 0 FROM conpool.pools
	WHERE server NOT IN ('insists', 'gss')}, 'nothing is left behind');

done_testing();
