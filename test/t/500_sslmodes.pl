# Whether a connection is encrypted, or not made at all, is up to libpq and its
# options: a pool comes out as psql does with the same options, and says the same if
# it fails. What is encrypted goes through a tunnel, and all of them are shared.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $certificates = Certificates->new;
my $root = $certificates->path('root.crt');
my $remote = new_remote('remote');
my $second = new_remote('second');    # without TLS at first
my $local = new_local('local');
setup_local($local, $remote);
my $port = $remote->port;

# Who may come how: "two" with TLS only, "admin" without TLS only.
offer_tls($remote, $certificates, hba => <<'HBA');
host all regress_remote 127.0.0.1/32 scram-sha-256
hostssl all regress_remote_two 127.0.0.1/32 scram-sha-256
hostnossl all regress_remote_admin 127.0.0.1/32 scram-sha-256
HBA

# --- one way to connect, in two manners -------------------------------------------

my ($one, $other) = map { WireClient->new($local) } 1 .. 2;
my $servers = 0;
my $tunnels_asked = 0;    # attempts that a tunnel must have made

my $ssl = q{SELECT pg_backend_pid(), ssl, version, cipher, inet_server_port()
	FROM pg_stat_ssl WHERE pid = pg_backend_pid()};

# All options of a connection.
sub all_options
{
	return (
		host => '127.0.0.1',
		port => $port,
		dbname => 'conpool_remote',
		user => 'regress_remote',
		connect_timeout => 60,
		@_);
}

sub password
{
	return $ConpoolTest::password{ $_[0] };
}

# What psql gets, or says when it fails.
sub direct
{
	my (%options) = @_;
	$options{password} //= password($options{user});
	my ($out, $err);
	my $ok = run_log(
		[
			'psql', '-XAtw', '-c' => $ssl,
			'-d' => join ' ', map { "$_='$options{$_}'" } sort keys %options
		],
		'>' => \$out,
		'2>' => \$err);
	chomp($out, $err);
	return $ok ? { row => [ split /\|/, $out ] } : { error => $err =~ s/^psql: error: //r };
}

# A server of its own for these options; returns its name.
sub create_pool
{
	my (%options) = @_;
	my $server = 'pool_' . ++$servers;
	my ($user, $password) = delete @options{qw(user password)};
	$password //= password($user);
	my $options = join ', ', map { "$_ '$options{$_}'" } sort keys %options;
	my $result = $one->query(qq{
		CREATE SERVER $server FOREIGN DATA WRAPPER conpool OPTIONS ($options);
		CREATE USER MAPPING FOR postgres SERVER $server
			OPTIONS (user '$user', password '$password')});
	die $result->{message} if $result->{error};
	return $server;
}

sub query
{
	my ($session, $server) = @_;
	return $session->query("SELECT * FROM conpool.query('$server', \$\$$ssl\$\$)
		AS t(pid text, ssl text, version text, cipher text, port text)");
}

# Connects with these options, by psql and by a pool. Expected: "tls" or "clear", or a
# pattern of the error.
sub connects
{
	my ($what, $expected, %given) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $as_psql = delete $given{as_psql} // 1;
	my %options = all_options(%given);
	my $direct = $as_psql ? direct(%options) : undef;
	my $server = create_pool(%options);
	my $result = query($one, $server);
	$tunnels_asked++
	  unless ($options{sslmode} // '') eq 'disable' || $options{host} =~ m{^/};
	if (ref $expected)
	{
		is($result->{error}, '08001', "$what: refused");
		like($result->{detail}, $expected, "$what: for that reason");
		is($result->{detail}, $direct->{error}, "$what: as psql says") if $as_psql;
		return;
	}
	my ($pid, @how) = @{ $result->{rows}[0] // [] };
	is($result->{detail}, undef, "$what: connected");
	is($how[0], $expected eq 'tls' ? 't' : 'f', "$what: $expected");
	is(join('|', map { $_ // '' } @how), join('|', @{ $direct->{row} }[ 1 .. 4 ]), "$what: as psql")
	  if $as_psql;
	is(query($other, $server)->{rows}[0][0], $pid, "$what: shared with another session");
	my $shown = $one->query("SELECT encrypted, tls_version, tls_cipher, tunnel
		FROM conpool.connections WHERE server = '$server'")->{rows};
	is(join(' ', map { $_ // '-' } map { @$_ } @$shown),
		$expected eq 'tls' ? "t $how[1] $how[2] 1" : 'f - - -',
		"$what: so says the view");
	return $server;
}

# --- modes and certificates ---------------------------------------------------------

my $invalid = qr/certificate verify failed/;
my $other_name = qr/"other\.example".* does not match host name "127\.0\.0\.1"/;
my $no_tls = qr/server does not support SSL/;
my @modes = qw(disable allow prefer require verify-ca verify-full);
my %table = (
	good => [qw(clear clear tls tls tls tls)],
	expired => [ qw(clear clear tls tls), $invalid, $invalid ],
	wrong_host => [ qw(clear clear tls tls tls), $other_name ],
	self_signed => [ qw(clear clear tls tls), $invalid, $invalid ],
	no => [ qw(clear clear clear), $no_tls, $no_tls, $no_tls ]);

# If there is an authority to go by, the other modes go by it too.
my %with_authority = (
	good => { prefer => 'tls', require => 'tls' },
	wrong_host => { prefer => 'tls', require => 'tls' },
	expired => { prefer => 'clear', require => $invalid },
	self_signed => { prefer => 'clear', require => $invalid },
	no => { prefer => 'clear', require => $no_tls });

foreach my $certificate (qw(expired wrong_host self_signed good no))
{
	my @port = $certificate eq 'no' ? (port => $second->port) : ();
	show_certificate($remote, $certificates, $certificate) unless @port;
	foreach my $i (0 .. $#modes)
	{
		my $mode = $modes[$i];
		connects("$certificate certificate, $mode", $table{$certificate}[$i],
			@port, sslmode => $mode, $mode =~ /^verify/ ? (sslrootcert => $root) : ());
	}
	my $outcomes = $with_authority{$certificate} // {};
	connects("$certificate certificate, $_ with an authority", $outcomes->{$_},
		@port, sslmode => $_, sslrootcert => $root)
	  for sort keys %$outcomes;
}
connects('no sslmode', 'tls');

# --- what the remote lets in ----------------------------------------------------------

my $not_in_clear = qr/no pg_hba\.conf entry .*, no encryption/;
my $not_by_tls = qr/no pg_hba\.conf entry .*, SSL encryption/;
my %lets_in = (
	regress_remote_two => { disable => $not_in_clear, map { $_ => 'tls' } @modes[ 1 .. 5 ] },
	regress_remote_admin => {
		(map { $_ => 'clear' } @modes[ 0 .. 2 ]),
		(map { $_ => $not_by_tls } @modes[ 3 .. 5 ]) });
foreach my $user (sort keys %lets_in)
{
	foreach my $mode (@modes)
	{
		my $expected = $lets_in{$user}{$mode};
		my @options = (user => $user, sslmode => $mode, sslrootcert => $root);
		if (!ref $expected)
		{
			connects("$user, $mode", $expected, @options);
			next;
		}
		# by the remote, and not for a while
		my %options = all_options(@options);
		my $result = query($one, create_pool(%options));
		$tunnels_asked++ unless $mode eq 'disable';
		is($result->{error}, '28000', "$user, $mode: turned away");
		like($result->{detail}, $expected, "$user, $mode: for that reason");
		is($result->{detail}, direct(%options)->{error}, "$user, $mode: as psql says");
	}
}

# --- names and addresses ----------------------------------------------------------------

my @verified = (sslmode => 'verify-full', sslrootcert => $root);
connects('by name', 'tls', @verified, host => 'localhost');
connects('by name and address', 'tls', @verified, host => 'localhost', hostaddr => '127.0.0.1');
# Of these two libpq tells the address only.
connects('by another name',
	qr/"elsewhere\.example" \(127\.0\.0\.1\).* does not match host name "elsewhere\.example"/,
	@verified, host => 'elsewhere.example', hostaddr => '127.0.0.1', as_psql => 0);
connects('by a name that there is not', qr/could not translate host name "no\.such\.name\.invalid"/,
	@verified, host => 'no.such.name.invalid');
$tunnels_asked--;    # there was nothing to ask for
show_certificate($remote, $certificates, 'wrong_host');
connects('a name that only the certificate knows', 'tls',
	@verified, host => 'other.example', hostaddr => '127.0.0.1');
connects('the name that leads there', qr/"other\.example".* does not match host name "localhost"/,
	@verified, host => 'localhost');
show_certificate($remote, $certificates, 'good');

connects("a Unix socket, $_", 'clear', host => $remote->host, sslmode => $_, sslrootcert => $root)
  for qw(prefer require verify-full);

# --- several hosts ------------------------------------------------------------------------

# bound, but nobody listens
my $closed = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp') // die "bind: $!";
my $dead = $closed->sockport;

# Of the two the last one is connected to.
sub goes_to
{
	my ($what, $expected_port, @options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $server = connects($what, 'tls', @verified, @options) // return;
	is(query($one, $server)->{rows}[0][4], $expected_port, "$what: the right one");
	return;
}

connects('nobody listens', qr/Connection refused/, @verified, port => $dead);
connects('nobody listens, by name', qr/Connection refused/, @verified, host => 'localhost', port => $dead);
goes_to('the first one is dead', $port, host => 'localhost,localhost', port => "$dead,$port");
goes_to('the first one is dead, by address',
	$port, host => '127.0.0.1,127.0.0.1', port => "$dead,$port");

# Unlike libpq conpool goes on to the next host unless one has turned it away.
my @both = (host => '127.0.0.1,localhost', port => $second->port . ",$port", as_psql => 0);
goes_to('the first one has no TLS', $port, @both);
offer_tls($second, $certificates, certificate => 'wrong_host');
goes_to('the first one has the wrong certificate', $port, @both);
connects('both have the wrong certificate', qr/"127\.0\.0\.1".* "localhost"/s,
	@verified, host => '127.0.0.1,localhost', port => $second->port, as_psql => 0);
show_certificate($second, $certificates, 'good');
goes_to('both will do', $second->port, @both);
$second->append_conf('postgresql.conf', 'default_transaction_read_only = on');
$second->reload;
wait_for($second, q{SELECT current_setting('default_transaction_read_only')::bool}, 'the first one is read-only');
goes_to('read-write', $port, @both, target_session_attrs => 'read-write', as_psql => 1);
goes_to('read-only', $second->port, @both, target_session_attrs => 'read-only', as_psql => 1);
connects('no standby', qr/server is not in hot standby mode/,
	@verified, target_session_attrs => 'standby');

# --- what else there is to TLS -------------------------------------------------------------

connects('no authority', qr/root certificate file "\S+" does not exist/,
	sslmode => 'verify-ca', sslrootcert => "$root.missing");
connects('none in the file', qr/could not read root certificate file/,
	sslmode => 'verify-ca', sslrootcert => $certificates->path('root.key'));
connects('another authority', $invalid,
	sslmode => 'verify-ca', sslrootcert => $certificates->path('other_root.crt'));

my @crl = (sslcrl => $certificates->path('root.crl'));
connects('a list of revoked certificates', 'tls', @verified, @crl);
show_certificate($remote, $certificates, 'revoked');
connects('a revoked certificate, without the list', 'tls', @verified);
connects('a revoked certificate', $invalid, @verified, @crl);
connects('a revoked certificate, lists in a directory',
	$invalid, @verified, sslcrldir => $certificates->path('crl'));
show_certificate($remote, $certificates, 'good');

my $old = connects('TLS 1.2 wanted', 'tls', @verified, ssl_max_protocol_version => 'TLSv1.2');
is(query($one, $old)->{rows}[0][2], 'TLSv1.2', 'TLS 1.2 wanted: had');
$remote->append_conf('postgresql.conf', q{ssl_max_protocol_version = 'TLSv1.2'});
$remote->reload;
wait_for($remote, q{SELECT current_setting('ssl_max_protocol_version') = 'TLSv1.2'},
	'the remote knows no more');
connects('TLS 1.2 had', 'tls', @verified);
connects('TLS 1.3 wanted', qr/alert protocol version|SSL error: /,
	@verified, ssl_min_protocol_version => 'TLSv1.3');

connects("sslsni $_", 'tls', @verified, sslsni => $_) for 0, 1;

# What libpq says of the name before anything is encrypted.
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5) // die "listen: $!";

sub receive
{
	my ($peer, $size) = @_;
	my $data = '';
	while (length $data < $size)
	{
		IO::Select->new($peer)->can_read(60) or die 'nothing comes';
		sysread $peer, $data, $size - length $data, length $data or die 'the end of file comes';
	}
	return $data;
}

sub client_hello
{
	my (%options) = @_;
	my $server = create_pool(
		all_options(
			host => 'localhost',
			hostaddr => '127.0.0.1',
			port => $listener->sockport,
			sslmode => 'require',
			gssencmode => 'disable',
			%options));
	$one->send("SELECT conpool.exec('$server', 'SELECT 1')");
	IO::Select->new($listener)->can_read(60) or die 'nobody comes';
	my $peer = $listener->accept;
	is(unpack('x4 N', receive($peer, 8)), 80877103, 'asks for TLS');
	syswrite $peer, 'S';
	my $hello = receive($peer, unpack 'x3 n', receive($peer, 5));
	close $peer;
	is($one->result->{error}, '08001', 'and fails when that ends');
	$tunnels_asked++;
	return $hello;
}

like(client_hello(sslsni => 1), qr/localhost/, 'the server is told which name it goes by');
unlike(client_hello(sslsni => 0), qr/localhost/, 'or not');

# --- by a connection string ---------------------------------------------------------------

my %options = all_options(@verified, host => 'localhost', password => password('regress_remote'));
my $string = join ' ', map { "$_=$options{$_}" } sort keys %options;
my @rows = map { query($_, $string)->{rows}[0] } $one, $other;
is($rows[0][1], 't', 'a connection string: encrypted');
is($rows[0][0], $rows[1][0], 'a connection string: shared');
$tunnels_asked++;

# --- that it was tunnels --------------------------------------------------------------------

wait_for($local, "SELECT sum(opened + failed) = $tunnels_asked FROM conpool.tunnels",
	'tunnels made all attempts that may have come out encrypted, and no others');
is( $local->safe_psql('postgres', q{SELECT count(*) FROM conpool.connections WHERE
		encrypted <> (tunnel IS NOT NULL) AND state <> 'connecting'}),
	'0', 'what is encrypted goes through them');
is( $local->safe_psql('postgres', 'SELECT sum(tunnelled), sum(unshared) FROM conpool.pools'),
	$local->safe_psql('postgres', 'SELECT sum(connections), 0 FROM conpool.tunnels'),
	'they say so themselves');
is($local->safe_psql('postgres', 'SELECT test.at_rest()'), 't', 'all pools are at rest');

done_testing();
