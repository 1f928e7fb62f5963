# Where there is no tunnel an encrypted connection cannot be shared: it serves one
# lease, counts in its pool meanwhile, and is closed. It is never replaced by one in
# the clear, and whoever asks learns why.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use Test::More;
use WireClient;

plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $certificates = Certificates->new;
my $root = $certificates->path('root.crt');
my $remote = new_remote('remote');
my $plain = new_remote('plain');
offer_tls($remote, $certificates,
	certificate => 'wrong_host',
	hba => 'host all all 127.0.0.1/32 scram-sha-256');

my $local = new_local('local', conf => 'conpool.tunnel_workers = 0');
setup_local($local, $remote);
create_server($local, $remote, 'prefers', options => q{max_size '2'});
create_server($local, $remote, 'requires', options => q{sslmode 'require'});
create_server($local, $remote, 'disables', options => q{sslmode 'disable'});
create_server($local, $remote, 'verifies',
	options => qq{sslmode 'verify-full', sslrootcert '$root'});
create_server($local, $plain, 'insists', options => q{sslmode 'require'});
create_server($local, $remote, 'ahead', options => q{sslmode 'require', min_size '2'});

my ($a, $b) = map { WireClient->new($local) } 1 .. 2;

sub ssl_query
{
	my ($server) = @_;
	return "SELECT * FROM conpool.query('$server',
		'SELECT pid, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()') AS t(pid int, ssl bool)";
}

# --- unshared

foreach my $server (qw(prefers requires))
{
	my ($first, $second) =
	  map { $a->query(ssl_query($server))->{rows}[0] } 1 .. 2;
	is($first->[1], 't', "$server: encrypted");
	isnt($first->[0], $second->[0], "$server: one connection for each lease");
	wait_for_pool($local, $server, 'size = 0 AND unshared = 0',
		"$server: closed after it");
}
count_remote($remote, 0, 'the remote has seen them go', 'regress_remote');

my @leases =
  map { $a->query(q{SELECT conpool.checkout('prefers', 'session')})->{rows}[0][0] }
  1 .. 2;
wait_for_pool($local, 'prefers', 'size = 2 AND leased = 2 AND unshared = 2',
	'they count in their pool');
is( $local->safe_psql('postgres',
		q{SELECT count(*) FROM conpool.connections WHERE encrypted AND tls_version ~ '^TLSv1'
			AND tls_cipher <> '' AND tunnel IS NULL AND state = 'leased'}),
	'2',
	'and are shown as encrypted, and by what');
is($b->query(q{SELECT conpool.checkout('prefers', 'session', '100ms')})->{error},
	'53300', 'up to max_size');
$b->send(ssl_query('prefers'));
wait_for_pool($local, 'prefers', 'waiting = 1');
$a->query("SELECT conpool.checkin($leases[0])");
is($b->result->{rows}[0][1], 't', 'a waiter takes the place of one that is closed');
$a->query("SELECT conpool.checkin($leases[1])");
wait_for_pool($local, 'prefers', 'size = 0 AND unshared = 0');

# --- in use

is( $a->query(
		q{SELECT count(*), sum(length(t)) FROM conpool.query('requires',
			'SELECT repeat(''x'', i % 100) FROM generate_series(1, 200000) AS i') AS r(t text)}
	)->{rows}[0][1],
	'9900000',
	'many rows over an encrypted connection');
is( $a->query(
		q{SELECT length(t) FROM conpool.query('requires',
			'SELECT repeat($1, 1000)', repeat('x', 10000)) AS r(t text)}
	)->{rows}[0][0],
	'10000000',
	'a long value there and back');
my $lease =
  $a->query(q{SELECT conpool.checkout('requires', 'session')})->{rows}[0][0];
$a->query(q{SET statement_timeout = '100ms'});
is($a->query("SELECT conpool.exec($lease, 'SELECT pg_sleep(100)')")->{error},
	'57014', 'a cancel');
$a->query('RESET statement_timeout');
is($a->query("SELECT conpool.exec($lease, 'SELECT 1')")->{rows}[0][0],
	'SELECT 1', 'is sent on, and the connection survives');
$a->hang_up;
wait_for_pool($local, 'requires', 'size = 0', 'it ends with its session');
count_remote($remote, 0, 'and the remote has seen it go', 'regress_remote');

# --- never lowered

my $result = $b->query(ssl_query('insists'));
is($result->{error}, '08001', 'a remote without encryption is refused');
like($result->{detail}, qr/does not support SSL/, 'for that reason');
$result = $b->query(ssl_query('verifies'));
is($result->{error}, '08001', 'so is one with another name in its certificate');
like($result->{detail}, qr/"other.example".* does not match host name "127.0.0.1"/, 'for that reason');

my @shared = map { $b->query(ssl_query('disables'))->{rows}[0] } 1 .. 2;
is($shared[0][1], 'f', 'in the clear where one says so');
is($shared[0][0], $shared[1][0], 'such a connection is shared');

# --- the reason

is($local->safe_psql('postgres', 'SELECT count(*) FROM conpool.tunnels'), '0', 'there is no tunnel');
like(
	$local->safe_psql('postgres',
		q{SELECT detail FROM conpool.diagnose('requires') WHERE step = 'encryption'}),
	qr/^encrypted by TLSv1.*connections are not shared: conpool.tunnel_workers is 0$/,
	'a diagnosis says why');
wait_for_pool($local, 'ahead',
	q{size - connecting = 0 AND breaker = 'closed' AND upkeep_error ~ 'encrypted.*conpool.tunnel_workers is 0'},
	'and so does min_size, which has none');

done_testing();
