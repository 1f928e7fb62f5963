# Who may use a connection, and as whom, is the same through a tunnel: certificates of
# clients and their keys, passwords that must be asked for, channel binding; and what a
# remote says to those whom it turns away.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use File::Copy;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $certificates = Certificates->new;
my $root = $certificates->path('root.crt');
my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
my $port = $remote->port;

# "remote" needs a certificate and a password, "two" nothing but a certificate, "admin"
# nothing but a password, and may come without TLS as well.
offer_tls($remote, $certificates, hba => <<'HBA');
hostssl all regress_remote 127.0.0.1/32 scram-sha-256 clientcert=verify-full
hostssl all regress_remote_two 127.0.0.1/32 cert
host all regress_remote_admin 127.0.0.1/32 scram-sha-256
HBA
$local->safe_psql('postgres', 'CREATE ROLE regress_user');

my $client = WireClient->new($local);
my $servers = 0;
my $opened = 0;    # connections that tunnels must have opened
my $who = q{SELECT pg_backend_pid(), ssl, client_dn, usename FROM pg_stat_ssl
	JOIN pg_stat_activity USING (pid) WHERE pid = pg_backend_pid()};

sub run
{
	my ($sql) = @_;
	my $result = $client->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return $result->{rows}[0] && $result->{rows}[0][0];
}

# The options of a mapping: a certificate, and its key unless there is another one.
sub certificate
{
	my ($name, $key) = @_;
	return (
		sslcert => $certificates->path("$name.crt"),
		sslkey => $key // $certificates->path("$name.key"));
}

sub password
{
	my ($role) = @_;
	return (password => $ConpoolTest::password{$role});
}

# What psql says that fails with all these options.
sub psql_error
{
	my (%options) = @_;
	my $err;
	run_log(
		[
			'psql', '-XAtw', '-c' => 'SELECT 1',
			'-d' => join ' ', map { "$_='$options{$_}'" } sort keys %options
		],
		'>' => \my $out,
		'2>' => \$err) and return 'no error';
	chomp $err;
	return $err =~ s/^psql: error: //r;
}

# A server of its own with a mapping. Those options that are given as "server" belong
# to the former, and "for" says whose the latter is.
sub create_pool
{
	my (%mapping) = @_;
	my $server = 'pool_' . ++$servers;
	my $for = delete $mapping{for} // 'postgres';
	my %server = (
		host => 'localhost',
		port => $port,
		dbname => 'conpool_remote',
		sslmode => 'verify-full',
		sslrootcert => $root,
		connect_timeout => 60,
		%{ delete $mapping{server} // {} });
	$mapping{user} //= 'regress_remote';
	my ($server_options, $mapping_options) =
	  map { my $of = $_; join ', ', map { "$_ '$of->{$_}'" } sort keys %$of } \%server, \%mapping;
	run(qq{
		CREATE SERVER $server FOREIGN DATA WRAPPER conpool OPTIONS ($server_options);
		GRANT USAGE ON FOREIGN SERVER $server TO regress_user;
		CREATE USER MAPPING FOR $for SERVER $server OPTIONS ($mapping_options)});
	delete $mapping{password_required};
	return ($server, \%server, \%mapping);
}

sub query
{
	my ($server) = @_;
	return $client->query("SELECT * FROM conpool.query('$server', \$\$$who\$\$)
		AS t(pid text, ssl text, dn text, role text)");
}

# What becomes of the pool: "size tunnelled unshared breaker", and the last error's
# SQLSTATE if there was one.
sub comes_to
{
	my ($server, $expected, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $condition;
	wait_until(
		sub {
			$condition = run("SELECT concat_ws(' ', size, tunnelled, unshared, breaker, last_error_sqlstate)
				FROM conpool.pools WHERE server = '$server'");
			return $condition eq $expected;
		},
		$what) or diag "$condition instead of $expected";
	return;
}

# Connects as the remote knows it, and shares that.
sub let_in
{
	my ($what, $dn, @options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($server) = create_pool(@options);
	my ($first, $second) = map { query($server) } 1 .. 2;
	$opened++;
	is($first->{detail}, undef, "$what: let in");
	is(join(' ', map { $_ // '-' } @{ $first->{rows}[0] // [] }[ 1, 2 ]),
		't ' . ($dn // '-'), "$what: the remote knows who comes");
	is($second->{rows}[0][0], $first->{rows}[0][0], "$what: the connection is shared");
	comes_to($server, '1 1 0 closed', "$what: through a tunnel");
	return $server;
}

# Is turned away with that SQLSTATE and for that reason, in psql's words. Whoever cannot
# log in is told so again: that is no outage.
sub turned_away
{
	my ($what, $sqlstate, $reason, %options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $as_psql = delete $options{as_psql} // 1;
	my ($server, $of_server, $of_mapping) = create_pool(%options);
	my $result = query($server);
	is($result->{error}, $sqlstate, "$what: turned away");
	like($result->{detail}, $reason, "$what: for that reason");
	is($result->{detail}, psql_error(%$of_server, %$of_mapping), "$what: as psql says") if $as_psql;
	return $server if $sqlstate eq '08001';
	comes_to($server, "0 0 0 closed $sqlstate", "$what: which is no outage");
	is(query($server)->{detail}, $result->{detail}, "$what: and is tried again");
	return $server;
}

# --- certificates ---------------------------------------------------------------------

my @mine = (certificate('regress_remote'), password('regress_remote'));
my $shared = let_in('certificate and password', '/CN=regress_remote', @mine);
let_in('nothing but a certificate', '/CN=regress_remote_two',
	user => 'regress_remote_two', certificate('regress_remote_two'));
let_in('nothing but a password', undef,
	user => 'regress_remote_admin', password('regress_remote_admin'));

turned_away('no certificate', '28000', qr/connection requires a valid client certificate/,
	password('regress_remote'));
turned_away("somebody else's certificate", '28000',
	qr/certificate authentication failed for user "regress_remote_two"/,
	user => 'regress_remote_two', certificate('regress_remote'));
turned_away("somebody else's certificate, and a password", '28P01',
	qr/authentication failed for user "regress_remote"/,
	certificate('regress_remote_two'), password('regress_remote'));
turned_away('a certificate that is not there', '28000', qr/requires a valid client certificate/,
	@mine, sslcert => '/nowhere/client.crt');
turned_away('a key that is not there', '08001', qr/private key file "\S+"/,
	@mine, sslkey => '/nowhere/client.key');
turned_away("another one's key", '08001', qr/private key file /,
	certificate('regress_remote', $certificates->path('regress_remote_two.key')),
	password('regress_remote'));

my $open_key = $certificates->path('.') . '/open.key';
copy($certificates->path('regress_remote.key'), $open_key) or die "copy: $!";
chmod 0644, $open_key;
turned_away('a key that others can read', '08001', qr/private key file .* has group or world access/,
	certificate('regress_remote', $open_key), password('regress_remote'));

# With TLS 1.3 a client is connected before the server has looked at its certificate, and
# may find the connection gone before it can read why.
my %no_good = (
	client_revoked => 'certificate revoked',
	client_expired => 'certificate expired',
	client_untrusted => 'unknown ca');
foreach my $name (sort keys %no_good)
{
	my @certificate = (certificate($name), password('regress_remote'));
	turned_away("$name, TLS 1.2", '08001', qr/SSL error: .*alert $no_good{$name}/,
		@certificate, server => { ssl_max_protocol_version => 'TLSv1.2' });
	turned_away($name, '08001',
		qr/alert $no_good{$name}|server closed the connection|could not (send|receive)/,
		@certificate, as_psql => 0);
}

# --- keys with a passphrase -------------------------------------------------------------

my @locked = (
	certificate('regress_remote', $certificates->path('regress_remote.locked.key')),
	password('regress_remote'));
let_in('a key with a passphrase', '/CN=regress_remote', @locked, sslpassword => 'key-secret');
turned_away('a wrong passphrase', '08001', qr/could not load private key file/,
	@locked, sslpassword => 'no-secret');
# (psql might ask for it)
turned_away('no passphrase', '08001', qr/could not load private key file/, @locked, as_psql => 0);

# --- passwords ----------------------------------------------------------------------------

my @admin = (user => 'regress_remote_admin');
my $wrong = turned_away('a wrong password', '28P01',
	qr/password authentication failed for user "regress_remote_admin"/,
	@admin, password => 'no-secret');
turned_away('a wrong password, with and without TLS', '28P01',
	qr/(password authentication failed for user.*){2}/s,
	@admin, password => 'no-secret', server => { sslmode => 'prefer' });
turned_away('no password', '28P01', qr/no password supplied/, @admin);
run("ALTER USER MAPPING FOR postgres SERVER $wrong
	OPTIONS (SET password '$ConpoolTest::password{regress_remote_admin}')");
is(query($wrong)->{rows}[0][3], 'regress_remote_admin', 'a password put right serves at once');
$opened++;

my @required = (channel_binding => 'require');
let_in('channel binding', undef, @admin, password('regress_remote_admin'), server => {@required});
turned_away('channel binding in the clear', '08001', qr/channel binding required/,
	@admin, password('regress_remote_admin'), server => { @required, sslmode => $_ })
  for qw(disable allow);
turned_away('channel binding, but nothing to bind', '08001', qr/channel binding required/,
	user => 'regress_remote_two', certificate('regress_remote_two'), server => {@required});

# --- those who are no superusers ------------------------------------------------------------

run('GRANT USAGE ON FOREIGN DATA WRAPPER conpool TO regress_user; SET ROLE regress_user');
run(q{CREATE SERVER own FOREIGN DATA WRAPPER conpool OPTIONS (host 'localhost')});
foreach my $option (qw(sslcert sslkey))
{
	my $result = $client->query("CREATE USER MAPPING FOR regress_user SERVER own OPTIONS ($option '/a/file')");
	is($result->{error}, '42501', "$option is for superusers to set");
}
run(q{CREATE USER MAPPING FOR regress_user SERVER own OPTIONS (sslpassword 'key-secret')});
my $altered = $client->query(q{ALTER USER MAPPING FOR regress_user SERVER own OPTIONS (ADD sslkey '/a/file')});
is($altered->{error}, '42501', 'sslkey is not to be added either');
run('RESET ROLE');

my @for = (for => 'regress_user');
my ($both) = create_pool(@for, @mine);
my ($certificate_only) =
  create_pool(@for, user => 'regress_remote_two', certificate('regress_remote_two'),
	password('regress_remote_two'));
my ($without_password) =
  create_pool(@for, user => 'regress_remote_two', certificate('regress_remote_two'));
my ($waived) =
  create_pool(@for, user => 'regress_remote_two', certificate('regress_remote_two'),
	password_required => 'false');
my $mine = query($shared)->{rows}[0][0];
count_remote($remote, 1, 'a role has one connection', 'regress_remote_two');
run('SET ROLE regress_user');

my @pids = map { query($both)->{rows}[0][0] } 1 .. 2;
is($pids[0], $pids[1], "a superuser's certificate and a password that is asked for will do");
isnt($pids[0], $mine, 'and that is not his connection');

my $result = query($certificate_only);
is($result->{error}, '2F003', 'a password that is not asked for will not');
like($result->{detail}, qr/the remote server does not request a password/, 'for that reason');
is(query($without_password)->{error}, '2F003', 'nor will none');

@pids = map { query($waived)->{rows}[0][0] } 1 .. 2;
is($pids[0], $pids[1], 'unless a superuser says that none is required');
run('RESET ROLE');
comes_to($certificate_only, '0 0 0 closed', 'of what was refused nothing is kept');
comes_to($waived, '1 1 0 closed', 'but what is allowed goes through a tunnel');
count_remote($remote, 2, 'the remote has seen it go', 'regress_remote_two');
$opened += 3;
wait_for($local, "SELECT sum(opened) = $opened FROM conpool.tunnels",
	'it was a tunnel that was let in by nothing but the certificate');

# What a superuser has opened serves nobody else.
my ($public) =
  create_pool(for => 'PUBLIC', user => 'regress_remote_two', certificate('regress_remote_two'),
	password('regress_remote_two'));
is(query($public)->{rows}[0][1], 't', 'a superuser may use it');
run('SET ROLE regress_user');
is(query($public)->{error}, '2F003', 'but nobody else may');
run('RESET ROLE');

# --- another certificate -----------------------------------------------------------------

my %revoked = certificate('client_revoked');
run("ALTER USER MAPPING FOR postgres SERVER $shared
	OPTIONS (SET sslcert '$revoked{sslcert}', SET sslkey '$revoked{sslkey}')");
is(query($shared)->{error}, '08001', 'what the former certificate has opened is not used any more');
wait_for($remote, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $mine",
	'and is closed');

is($local->safe_psql('postgres', 'SELECT test.at_rest()'), 't', 'all pools are at rest');
is($local->safe_psql('postgres', 'SELECT sum(unshared) FROM conpool.pools'), '0',
	'nothing was opened but by a tunnel');

done_testing();
