# diagnose() names the step that is broken, says what to do, raises no error
# whatever is broken, can be cancelled wherever it hangs, and leaves nothing behind.
use strict;
use warnings;

use SilentNameServer;
use ConpoolTest;
use FakeServer qw(greet hang message parameter ready row_header one_row);
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

my @steps = (
	'library preloaded', 'broker', 'server', 'USAGE', 'user mapping',
	'password rule', 'connection strings', 'pool', 'name resolution', 'TCP',
	'login', 'encryption', 'round trip time', 'remote max_connections', 'pool query');

my $remote = new_remote('remote');
my $local;
{
	local $ENV{LD_PRELOAD} = silent_names();
	$local = new_local('local',
		conf => "conpool.validate_interval = 0\nlog_disconnections = on");
}
setup_local($local, $remote);
my $port = $remote->port;

# --- remotes that misbehave -----------------------------------------------------

sub remote_error
{
	my ($peer, $sqlstate, $text) = @_;
	return $peer->send(message('E', "SERROR\0VERROR\0C$sqlstate\0M$text\0\0") . ready());
}

# Answers a statement with a beginning and then, for ever, with more of the same.
sub flood
{
	my ($peer, $beginning, @more) = @_;
	my $n = 0;
	$peer->send($beginning);
	while (1)
	{
		# all of it, or what comes next would be nonsense
		my $left = join '', map { ref ? $_->($n++) : $_ x 1000 } @more;
		while (length $left)
		{
			my $sent = syswrite $peer, $left or return 0;
			substr $left, 0, $sent, '';
		}
	}
}

sub drip
{
	my ($peer) = @_;
	usleep(10_000) while $peer->send(message('N', "SNOTICE\0C00000\0Mno\0\0"));
	return 0;
}

my $row = message('D', pack('nNa', 1, 1, '1'));
my %flood = (
	rows => [ row_header(), $row ],
	sets => [ '', row_header() . $row . message('C', "SELECT 1\0") ],
	commands => [ '', message('C', "SELECT 1\0") ],
	empty_statements => [ '', message('I', '') ],
	errors => [ '', message('E', "SERROR\0C22012\0Mno\0\0") ],
	notices => [ '', message('N', "SNOTICE\0C00000\0Mno\0\0") ],
	notifications => [ '', message('A', pack('N', 1) . "a\0b\0") ],
	parameters => [ '', sub { join '', map { parameter("p$_[0].$_" => 'x') } 1 .. 1000 } ],
	copied => [ message('H', pack 'Cn', 0, 0), message('d', 'x') ],
	copying => [ message('G', pack 'Cn', 0, 0), message('N', "SNOTICE\0C00000\0Mno\0\0") ],
	long_row => [ row_header() . 'D' . pack('NnN', 500_000_010, 1, 500_000_000), 'x' x 100 ]);

# Whatever is asked first is answered with that.
sub instead_of_an_answer
{
	my ($do, @what) = @_;
	return { greeting => sub {
			my ($peer) = @_;
			greet($peer);
			return sysread($peer, my $any, 8192) ? $do->($peer, @what) : 0;
		} };
}

my $fake = FakeServer->new({
	(map { $_ => instead_of_an_answer(\&flood, @{ $flood{$_} }) } keys %flood),
	drips => instead_of_an_answer(\&drip),
	drips_in_pool => {
		answer => sub {
			my ($peer, $sql) = @_;
			return $sql =~ /^SELECT 1\0/ ? drip($peer) : $peer->send(one_row() . ready());
		} },
	good => {},
	mute => { greeting => sub { hang(@_) } },
	dumb => { greeting => sub { greet(@_); hang(@_) } },
	cancels => { answer => sub { remote_error($_[0], '57014', 'canceling the remote statement') } },
	tells => { answer => sub { remote_error($_[0], '28P01', 'wrong: password=terribly-secret') } },
	mute_in_pool => {
		answer => sub {
			my ($peer, $sql) = @_;
			return $sql =~ /^SELECT 1\0/ ? hang($peer) : $peer->send(one_row() . ready());
		} },
	answers_two => {
		answer => sub { $_[0]->send(one_row() =~ s/1(C.{4}SELECT)/2$1/sr . ready()) } }});

# A port of which nothing is ever heard: so many have connected to it that the
# kernel drops what others send.
my $hole = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) // die "listen: $!";
my @fill;
foreach (1 .. 8)
{
	my $socket = IO::Socket::INET->new(Proto => 'tcp', Blocking => 0) // die "socket: $!";
	$socket->connect($hole->sockport, Socket::inet_aton('127.0.0.1'));
	push @fill, $socket;
}
usleep(100_000);

# A server of which options are given in place of the usual ones.
sub create
{
	my ($name, $host, $host_port, $options, %opt) = @_;
	create_server($local, $remote, $name, options => $options, %opt);
	$local->safe_psql('postgres',
		"ALTER SERVER $name OPTIONS (SET host '$host', SET port '$host_port')");
	return;
}

sub create_fake
{
	my ($name, $options) = @_;
	create($name, '127.0.0.1', $fake->port, $options // '');
	return $local->safe_psql('postgres', "ALTER SERVER $name OPTIONS (SET dbname '$name')");
}

# to be stopped, so that it starts no process again
my ($postmaster) = slurp_file($local->data_dir . '/postmaster.pid') =~ /^(\d+)/;
END { kill 'CONT', $postmaster if $postmaster; }

# --- asking ----------------------------------------------------------------------

my $client = WireClient->new($local);

# What was found, by step: { ok, detail, hint }. It must be all steps in order.
sub diagnose
{
	my ($server, $by) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $result = ($by // $client)->query(
		"SELECT step, ok, detail, hint FROM conpool.diagnose(\$server\$$server\$server\$)");
	is_deeply(
		[ $result->{error}, map { $_->[0] } @{ $result->{rows} } ],
		[ undef, @steps ],
		"$server: all steps in order, and no error") or diag $result->{message};
	return { map { $_->[0] => { ok => $_->[1], detail => $_->[2], hint => $_->[3] } }
		  @{ $result->{rows} } };
}

sub describe { return defined $_[0] ? $_[0] : 'NULL' }

# That step has failed, and only steps behind it were not tried.
sub fails_at
{
	my ($found, $step, $detail, $hint, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(describe($found->{$step}{ok}), 'f', "$name: $step");
	like(describe($found->{$step}{detail}), $detail, "$name: detail");
	like(describe($found->{$step}{hint}), $hint, "$name: hint");
	my @wrong = grep
	{
		my $finding = $found->{$_};
		$_ ne $step && (defined $finding->{ok} ? $finding->{ok} eq 'f' :
			  $finding->{detail} !~ /^not tried: /)
	} @steps;
	is("@wrong", '', "$name: no other step has failed, or lacks a reason");
	return;
}

# The steps that were not tried.
sub untried
{
	my ($found) = @_;
	return join ', ', grep { !defined $found->{$_}{ok} } @steps;
}

sub all_well
{
	my ($found, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @wrong = grep { describe($found->{$_}{ok}) ne 't' } @steps;
	is("@wrong", '', "$name: all steps went well")
	  or diag join "\n", map { describe($found->{$_}{detail}) } @wrong;
	return;
}

# Descriptors of a session, but for files, which the server opens and closes as it likes.
sub descriptors
{
	my ($session) = @_;
	my @open = grep { (readlink // '') !~ m{^/} } glob sprintf '/proc/%d/fd/*', $session->{pid};
	return scalar @open;
}

# The most memory that a session has had, in kilobytes.
sub memory
{
	my ($session) = @_;
	return slurp_file("/proc/$session->{pid}/status") =~ /^VmHWM:\s+(\d+)/m ? $1 : 0;
}

# Nothing is leased, waited for, being opened or locked. Closing may take a moment.
sub nothing_left
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for(
		$local,
		q{SELECT NOT EXISTS (SELECT FROM conpool.leases) AND
				 NOT EXISTS (SELECT FROM conpool.waiters) AND
				 NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory') AND
				 (SELECT coalesce(sum(leased + connecting + closing), 0) = 0 FROM conpool.pools)},
		"$name: nothing is left behind");
}

# --- all is well ------------------------------------------------------------------

my $found = diagnose('remote');
all_well($found, 'first call');
like($found->{broker}{detail}, qr/^running: process \d+/, 'the broker');
like($found->{'user mapping'}{detail}, qr/"postgres", remote user "regress_remote"/, 'the mapping');
like($found->{pool}{detail}, qr/none yet.*max_size is 10/, 'no pool yet');
like($found->{TCP}{detail}, qr/^127\.0\.0\.1:$port: connected in [\d.]+ ms$/, 'the port');
like($found->{login}{detail}, qr/PostgreSQL \d.*a password was asked for/, 'version and login');
like($found->{encryption}{detail},
	qr/^not encrypted; sslmode .*"prefer", and TLS was not to be had; connections are shared$/,
	'sharing');
like($found->{'round trip time'}{detail}, qr/^[\d.]+ ms, the median of 5/, 'round trips');
like(
	$found->{'remote max_connections'}{detail},
	qr/max_connections is 100 there, superuser_reserved_connections 3: that leaves 97/,
	'what the remote allows');
like($found->{'pool query'}{detail}, qr/SELECT 1 came back in .*a new one/, 'a new connection');
count_remote($remote, 1, 'the pool has one, the login is gone', 'regress_remote');
is($local->safe_psql('postgres',
		q{SELECT remote_max_connections FROM conpool.pools WHERE server = 'remote'}),
	'97', 'the pool knows what the remote allows');

my $before = descriptors($client);
$found = diagnose('remote');
all_well($found, 'second call');
like($found->{pool}{detail}, qr/max_size is 10: 0 leased, 1 idle/, 'the pool by now');
like($found->{'pool query'}{detail}, qr/an idle one/, 'an idle connection');
is(descriptors($client), $before, 'no descriptor is left');
nothing_left('all is well');

my $string = conninfo($remote);
$found = diagnose($string);
all_well($found, 'connection string');
like($found->{server}{detail}, qr/^connection string: host=127.*user=regress_remote$/, 'its name');
unlike("@{[ map { values %$_ } values %$found ]}", qr/remote-secret/, 'no password');

create_server($local, $remote, 'ahead', options => q{min_size '2'});
wait_for_pool($local, 'ahead', 'idle = 2');
like(diagnose('ahead')->{broker}{detail}, qr/; dialer: .*; reader: /, 'the other workers');

is($client->query('SELECT conpool.diagnose(NULL)')->{error}, '22004', 'no server is an error');

# --- definitions and rights ----------------------------------------------------------

fails_at(diagnose('unknown'), 'server', qr/"unknown" does not exist/, qr/CREATE SERVER/, 'unknown');

$local->safe_psql('postgres', q{
	CREATE SERVER refers FOREIGN DATA WRAPPER conpool OPTIONS (server 'nowhere');
	CREATE SERVER refers_on FOREIGN DATA WRAPPER conpool OPTIONS (server 'refers');
	CREATE SERVER refers_well FOREIGN DATA WRAPPER conpool OPTIONS (server 'remote', max_size '3');
	CREATE ROLE app LOGIN; CREATE ROLE owner LOGIN});
fails_at(diagnose('refers'), 'server', qr/refers to server "nowhere", which does not exist/,
	qr/^ALTER SERVER refers OPTIONS \(SET server/, 'to nowhere');
fails_at(diagnose('refers_on'), 'server', qr/refers to server "refers", which refers to another/,
	qr/^ALTER SERVER refers_on/, 'to another one');
$found = diagnose('refers_well');
all_well($found, 'through option server');
like($found->{server}{detail}, qr/"refers_well".*are those of foreign server "remote"/, 'of whom');

my $app = WireClient->new($local, user => 'app');
$found = diagnose('remote', $app);
fails_at($found, 'USAGE', qr/role "app" lacks USAGE on foreign server "remote"/,
	qr/^GRANT USAGE ON FOREIGN SERVER remote TO app$/, 'no USAGE');
unlike("@{[ map { values %$_ } values %$found ]}", qr/127\.0\.0\.1|$port|regress_remote/,
	'and nothing is told of the remote');
$local->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER refers_well TO app');
fails_at(diagnose('refers_well', $app), 'USAGE', qr/"remote"/,
	qr/^GRANT USAGE ON FOREIGN SERVER remote TO app$/, 'no USAGE on the other one');

$local->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER remote TO app');
$found = diagnose('remote', $app);
fails_at($found, 'user mapping', qr/none for role "app" or PUBLIC on server "remote"/,
	qr/^CREATE USER MAPPING FOR app SERVER remote OPTIONS/, 'no mapping');
unlike("@{[ map { values %$_ } values %$found ]}", qr/127\.0\.0\.1|$port|regress_remote/,
	'and nothing is told of the remote');

$local->safe_psql('postgres', q{CREATE USER MAPPING FOR PUBLIC SERVER remote
	OPTIONS (user 'regress_remote', password 'remote-secret')});
$found = diagnose('remote', $app);
all_well($found, 'a mapping for PUBLIC');
is($found->{'user mapping'}{detail}, 'the one for PUBLIC', 'whose user is not shown');
like($found->{'password rule'}{detail}, qr/^required, .*; one is given$/, 'the password rule');

$local->safe_psql('postgres', q{ALTER USER MAPPING FOR PUBLIC SERVER remote OPTIONS (DROP password)});
fails_at(diagnose('remote', $app), 'password rule', qr/Non-superusers must provide a password/,
	qr/option "password".*password_required/, 'no password');
fails_at(diagnose($string =~ s/ password=.*//r, $app), 'password rule', qr/connection string/,
	qr/NULL/, 'a string without one');
$local->safe_psql('postgres', q{ALTER USER MAPPING FOR PUBLIC SERVER remote
	OPTIONS (ADD password 'remote-secret', ADD password_required 'false')});
like(diagnose('remote', $app)->{'password rule'}{detail}, qr/^not required: .*password_required/,
	'a superuser has waived it');
$local->safe_psql('postgres', 'DROP USER MAPPING FOR PUBLIC SERVER remote');

# by its Unix socket the remote trusts everybody
create('trusting', $remote->host, $port, '', for => 'app');
$local->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER trusting TO app');
$found = diagnose('trusting', $app);
fails_at($found, 'login', qr/did not ask for a password/, qr/pg_hba\.conf.*password_required/,
	'not asked for a password');
like($found->{TCP}{detail}, qr/\.s\.PGSQL\.$port: connected/, 'the Unix socket');

$client->query('SET conpool.allow_conninfo = off');
$found = diagnose($string);
fails_at($found, 'connection strings', qr/allow_conninfo is off/, qr/superuser/, 'not allowed');
is($found->{pool}{detail}, 'not tried: step "connection strings" has failed', 'and what follows');
$client->query('RESET conpool.allow_conninfo');
fails_at(diagnose('host=x nonsense=y'), 'server', qr/invalid connection string/, qr/keyword=value/,
	'a wrong string');
$found = diagnose(q{host=127.0.0.1 port=1 user=u password=very-secret dbname='password=very-secret'});
unlike("@{[ map { map { $_ // '' } values %$_ } values %$found ]}", qr/very-secret/,
	'a password in the wrong place');

# what cannot be a definition any more is said of the server
create_server($local, $remote, 'too_many');
$local->safe_psql('postgres', q{UPDATE pg_foreign_server SET srvoptions =
	ARRAY['host=' || repeat('127.0.0.1,', 100) || '127.0.0.1'] WHERE srvname = 'too_many'});
fails_at(diagnose('too_many'), 'server', qr/option "host" has too many entries/, qr/NULL/,
	'a definition of another time');

# --- reaching it ---------------------------------------------------------------------

# a name that no name server needs to be asked for
create('nameless', 'no..such..name', $port, '');
fails_at(diagnose('nameless'), 'name resolution', qr/^"no\.\.such\.\.name": .+ \(\d+\.\d ms\)$/,
	qr/option hostaddr/, 'an unknown name');

create('named', 'localhost', $port, '');
$found = diagnose('named');
all_well($found, 'a name');
like($found->{'name resolution'}{detail}, qr/^"localhost": .*127\.0\.0\.1.*ms\)$/, 'its address');
# the pool's connection gets an epoll set of its own with the first wait, whenever that is
$before = descriptors($client);
diagnose('named') foreach 1 .. 4;
cmp_ok(descriptors($client), '<=', $before + 1, 'no descriptor is left');

create('refused', '127.0.0.1', 1, '');
$found = diagnose('refused');
fails_at($found, 'TCP', qr/^127\.0\.0\.1:1: Connection refused after /, qr/listen_addresses/, 'refused');
is($found->{login}{detail}, 'not tried: step "TCP" has failed', 'and what follows');

create('socketless', '/no/such/directory', $port, '');
fails_at(diagnose('socketless'), 'TCP', qr{^/no/such/directory/\.s\.PGSQL\.$port: No such file},
	qr/port/, 'no Unix socket');

create('listed', '127.0.0.1,127.0.0.1', "1,$port", '');
$found = diagnose('listed');
all_well($found, 'one of two hosts');
like($found->{TCP}{detail}, qr/:1: Connection refused.*:$port: connected/, 'both are told of');
like(describe($found->{TCP}{hint}), qr/host and port/, 'with a hint');

create('dark', '127.0.0.1', $hole->sockport, q{connect_timeout '1'});
my $start = time;
$found = diagnose('dark');
fails_at($found, 'TCP', qr/: no answer after 1\d\d\d\.\d ms/, qr/connect_timeout/, 'a black hole');
cmp_ok(time - $start, '<', 4, 'it takes no longer than the limit');

# --- logging in ------------------------------------------------------------------------

create_server($local, $remote, 'wrong_password');
$local->safe_psql('postgres', q{ALTER USER MAPPING FOR postgres SERVER wrong_password
	OPTIONS (SET password 'not-it')});
fails_at(diagnose('wrong_password'), 'login', qr/password authentication failed.*28P01/,
	qr/ALTER USER MAPPING FOR postgres SERVER wrong_password/, 'a wrong password');

create_server($local, $remote, 'no_database');
$local->safe_psql('postgres', q{ALTER SERVER no_database OPTIONS (SET dbname 'nowhere')});
fails_at(diagnose('no_database'), 'login', qr/"nowhere" does not exist.*3D000/,
	qr/dbname: ALTER SERVER no_database/, 'no such database');

create_server($local, $remote, 'no_room', user => 'regress_remote_two');
$remote->safe_psql('postgres', 'ALTER ROLE regress_remote_two CONNECTION LIMIT 0');
fails_at(diagnose('no_room'), 'login', qr/too many connections for role.*53300/,
	qr/CONNECTION LIMIT/, 'no room');
$remote->safe_psql('postgres', 'ALTER ROLE regress_remote_two CONNECTION LIMIT -1');

create_server($local, $remote, 'insists', options => q{sslmode 'require'});
fails_at(diagnose('insists'), 'login', qr/does not support SSL/, qr/ALTER SERVER insists/,
	'no encryption there');

create_fake(mute => q{connect_timeout '1'});
$start = time;
fails_at(diagnose('mute'), 'login', qr/^no answer within 1000 ms/, qr/connect_timeout/, 'mute');
cmp_ok(time - $start, '<', 4, 'it takes no longer than the limit');

# --- what the connection is like ----------------------------------------------------------

create_fake(dumb => q{connect_timeout '1'});
$found = diagnose('dumb');
is(describe($found->{login}{ok}), 't', 'dumb: login');
is(describe($found->{'round trip time'}{ok}), 'f', 'dumb: no round trip');
like($found->{'round trip time'}{detail}, qr/no answer in time/, 'dumb: detail');
is(describe($found->{'pool query'}{ok}), 'f', 'dumb: no query either');
nothing_left('dumb');

create_fake('good');
$found = diagnose('good');
fails_at($found, 'remote max_connections', qr/no numbers/, qr/pooler/, 'no PostgreSQL');

create_fake('cancels');
$found = diagnose('cancels');
like($found->{'remote max_connections'}{detail}, qr/canceling the remote statement.*57014/,
	'a cancel there is not ours');
like($found->{'pool query'}{detail}, qr/canceling the remote statement.*57014/, 'nor in the pool');

create_fake('tells');
$found = diagnose('tells');
like($found->{'pool query'}{detail}, qr/hidden: it may hold a password/, 'what may hold a password');
unlike("@{[ map { map { $_ // '' } values %$_ } values %$found ]}", qr/terribly/, 'is not shown');

create_fake('answers_two');
fails_at(
	do { my $f = diagnose('answers_two'); $f->{'remote max_connections'}{ok} = 't'; $f },
	'pool query', qr/something else than 1/, qr/log of the remote/, 'another answer');

# what never ends is seen to be no answer, wherever it comes
{
	my $session = WireClient->new($local);
	diagnose('good', $session);
	my $open = descriptors($session);
	my $memory = memory($session);
	foreach my $name (sort keys %flood)
	{
		create_fake($name => q{connect_timeout '30'});
		my $begun = time;
		$found = diagnose($name, $session);
		cmp_ok(time - $begun, '<', 3, "endless $name: at once");
		foreach my $step ('round trip time', 'pool query')
		{
			is(describe($found->{$step}{ok}), 'f', "endless $name: $step");
			like(describe($found->{$step}{detail}), qr/something that was not asked for/,
				"endless $name: detail");
		}
		cmp_ok(descriptors($session), '<=', $open, "endless $name: no descriptor is left");
	}
	nothing_left('endless answers');
	my $grown = memory($session) - $memory;
	note "figure: session_memory_after_endless_answers = $grown kB";
	cmp_ok($grown, '<', 16_384, 'and not kept');
	$session->hang_up;
}

create_server($local, $remote, 'greedy', options => q{max_size '50'});
$local->safe_psql('postgres', q{
	CREATE USER MAPPING FOR PUBLIC SERVER greedy
		OPTIONS (user 'regress_remote', password 'remote-secret');
	GRANT USAGE ON FOREIGN SERVER greedy TO app});
all_well(diagnose('greedy'), 'one pool of 50');
$found = diagnose('greedy', $app);
fails_at($found, 'remote max_connections', qr/leaves 97; max_size is 50; .*\(2\) may have 100$/,
	qr/max_server_size to 97/, 'two pools of 50');
$local->safe_psql('postgres', q{ALTER SERVER greedy OPTIONS (ADD max_server_size '60')});
like(diagnose('greedy', $app)->{'remote max_connections'}{detail},
	qr/max_server_size 60; .*\(2\) may have 60$/, 'with a limit for both');

# encrypted
SKIP:
{
	my $dir = $remote->data_dir;
	my $made = eval {
		run_log(
			[
				'openssl', 'req', '-new', '-x509', '-days', '2', '-nodes', '-newkey',
				'rsa:2048', '-subj', '/CN=remote', '-keyout', "$dir/server.key", '-out',
				"$dir/server.crt"
			]);
	};
	skip 'needs openssl', 13 unless $made;
	chmod 0600, "$dir/server.key";
	$remote->append_conf('postgresql.conf', 'ssl = on');
	$remote->reload;
	wait_for($remote, q{SELECT current_setting('ssl') = 'on'});
	$found = diagnose('insists');
	all_well($found, 'encrypted');
	like($found->{encryption}{detail},
		qr/^encrypted by TLSv[\d.]+ \([\w-]+\); sslmode is "require"; .* are shared through a tunnel$/,
		'how it is encrypted and shared');
	is($found->{encryption}{hint}, undef, 'and there is nothing to do');

	kill 'STOP', $postmaster;
	kill 'TERM', $client->query('SELECT pid FROM conpool.tunnels')->{rows}[0][0];
	wait_until(
		sub { !defined $client->query('SELECT pid FROM conpool.tunnels')->{rows}[0][0] },
		'there is no tunnel');
	$found = diagnose('insists');
	all_well($found, 'no tunnel');
	like($found->{encryption}{detail}, qr/not shared: no tunnel is running$/,
		'no tunnel: says why it is not shared');
	like(describe($found->{encryption}{hint}), qr/server log/, 'no tunnel: where to look');
	kill 'CONT', $postmaster;
	wait_for($local, 'SELECT bool_and(pid IS NOT NULL) FROM conpool.tunnels', 'it is back');

	my $without = new_local('without', conf => 'conpool.tunnel_workers = 0');
	setup_local($without, $remote);
	$found = diagnose('remote', WireClient->new($without));
	all_well($found, 'without tunnels');
	like($found->{encryption}{detail},
		qr/sslmode is not set, and so "prefer"; .* not shared: conpool.tunnel_workers is 0$/,
		'without tunnels: says why it is not shared');
	like(describe($found->{encryption}{hint}), qr/tunnel_workers to 1.*restart/, 'and what to do');
	$without->stop;
	$remote->append_conf('postgresql.conf', 'ssl = off');
	$remote->reload;
	wait_for($remote, q{SELECT current_setting('ssl') = 'off'});
}

# --- the pool's state ------------------------------------------------------------------------

my $holder = WireClient->new($local);
create_server($local, $remote, 'small',
	options => q{max_size '1', checkout_timeout '1s', max_server_size '1'});
$holder->query(q{SELECT conpool.checkout('small', 'session') AS lease});
my $waiter = WireClient->new($local);
$waiter->query(q{SET conpool.checkout_timeout = '1min'});
$local->safe_psql('postgres', q{ALTER SERVER small OPTIONS (DROP checkout_timeout)});
$waiter->send(q{SELECT conpool.exec('small', 'SELECT 1')});
wait_for_pool($local, 'small', 'waiting = 1');
$client->query(q{SET conpool.checkout_timeout = '1s'});
$found = diagnose('small');
is(describe($found->{pool}{ok}), 'f', 'full: pool');
like($found->{pool}{detail}, qr/max_size is 1: 1 leased.*1 waiting.*Longest held by pid/, 'full: detail');
like(describe($found->{pool}{hint}), qr/conpool\.leases/, 'full: hint');
is(describe($found->{'round trip time'}{ok}), 't', 'full: the remote is looked at all the same');
is(describe($found->{'pool query'}{ok}), 'f', 'full: pool query');
like($found->{'pool query'}{detail}, qr/timed out waiting for a connection/, 'full: which has no turn');
$holder->hang_up;
is($waiter->result->{error}, undef, 'who waited has his turn');
nothing_left('full');

# the one connection is held by this transaction
$client->query(q{BEGIN; SELECT conpool.checkout('small')});
$found = diagnose('small');
is($client->query('COMMIT')->{error}, undef, 'the transaction goes on');
like($found->{'pool query'}{detail}, qr/holds every connection.*itself/, 'full by oneself');
nothing_left('full by oneself');

$local->safe_psql('postgres', q{SELECT conpool.pause('remote')});
$found = diagnose('remote');
fails_at($found, 'pool', qr/It is paused/, qr/^SELECT conpool\.resume\('remote'\)$/, 'paused');
is(untried($found), 'pool query', 'paused: the rest is looked at');
$local->safe_psql('postgres', q{SELECT conpool.resume('remote')});

create('broken', '127.0.0.1', 1, '');
$client->query(q{SELECT conpool.exec('broken', 'SELECT 1')}) foreach 1 .. 12;
$found = diagnose('broken');
is(describe($found->{pool}{ok}), 'f', 'breaker: pool');
like($found->{pool}{detail}, qr/Breaker open: \d+ failures.*Last error .*refused/, 'breaker: detail');
like(describe($found->{pool}{hint}), qr/SELECT conpool\.warm\('broken'\)/, 'breaker: hint');
is(describe($found->{TCP}{ok}), 'f', 'breaker: what is wrong is found out all the same');
nothing_left('breaker');

# with idle connections a remote that lets nobody in serves all the same
$client->query(q{SELECT conpool.exec('no_room', 'SELECT 1')});
wait_for_pool($local, 'no_room', 'idle = 1');
$remote->safe_psql('postgres', 'ALTER ROLE regress_remote_two CONNECTION LIMIT 0');
$found = diagnose('no_room');
fails_at($found, 'login', qr/53300/, qr/CONNECTION LIMIT/, 'no room for more');
like($found->{'pool query'}{detail}, qr/an idle one/, 'but a query comes back');
$remote->safe_psql('postgres', 'ALTER ROLE regress_remote_two CONNECTION LIMIT -1');

# options that nobody else knows yet
$client->query(q{BEGIN; CREATE SERVER fresh FOREIGN DATA WRAPPER conpool OPTIONS (server 'remote')});
$found = diagnose('fresh');
all_well($found, 'not yet committed');
like($found->{encryption}{detail}, qr/not shared: its options are of this transaction/, 'unshared');
$client->query('ROLLBACK');

# --- where it hangs it can be cancelled ---------------------------------------------------------

create('silent', 'db.hangs', $port, '');
$local->safe_psql('postgres', q{ALTER SERVER dark OPTIONS (SET connect_timeout '30')});
$local->safe_psql('postgres', q{ALTER SERVER mute OPTIONS (SET connect_timeout '30')});
$local->safe_psql('postgres', q{ALTER SERVER dumb OPTIONS (SET connect_timeout '30')});
create_fake($_ => q{connect_timeout '30'}) foreach qw(mute_in_pool drips drips_in_pool);

# What each hangs in can be seen by the time that it takes otherwise.
my %hangs = (
	silent => 'name resolution',
	dark => 'TCP',
	mute => 'login',
	dumb => 'round trip time',
	drips => 'round trip time, by and by',
	mute_in_pool => 'pool query',
	drips_in_pool => 'pool query, by and by');
foreach my $server (sort keys %hangs)
{
	my $session = WireClient->new($local);
	# stopping what runs on a lease may take its time
	my $limit = $server =~ /_in_pool$/ ? 3.5 : 1.5;
	$session->query(q{SELECT count(*) FROM conpool.diagnose('named')});
	my $open = descriptors($session);

	$session->send("SELECT * FROM conpool.diagnose('$server')");
	usleep(500_000);
	$start = time;
	$session->cancel;
	my $result = $session->result;
	is($result->{error}, '57014', "cancelled in $hangs{$server}");
	cmp_ok(time - $start, '<', $limit, 'at once');

	$start = time;
	$result = $session->query("SET statement_timeout = '300ms';
		SELECT * FROM conpool.diagnose('$server')");
	is($result->{error}, '57014', "timed out in $hangs{$server}");
	cmp_ok(time - $start, '<', $limit + 0.3, 'in time');
	is($session->query('RESET statement_timeout; SELECT 1')->{rows}[0][0], 1, 'the session goes on');
	nothing_left($hangs{$server});
	# but for the socket of a lookup that hangs
	$open++ if $server eq 'silent';
	cmp_ok(descriptors($session), '<=', $open, 'no descriptor is left');

	# and within a block with an exception handler that may not see it
	$result = $session->query(q{SET statement_timeout = '300ms';
		DO $$ BEGIN PERFORM conpool.diagnose('} . $server . q{');
		EXCEPTION WHEN OTHERS THEN RAISE EXCEPTION 'swallowed'; END $$});
	is($result->{error}, '57014', 'it is a cancel to PL/pgSQL as well');
	$session->query('RESET statement_timeout');

	$session->send("SELECT * FROM conpool.diagnose('$server')");
	usleep(300_000);
	$local->safe_psql('postgres', "SELECT pg_terminate_backend($session->{pid})");
	is($session->result->{error}, '57P01', "terminated in $hangs{$server}");
	wait_for($local, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $session->{pid})",
		'the session is gone');
	nothing_left("$hangs{$server}, terminated");
}

# one session at a time logs in
$local->safe_psql('postgres', q{ALTER SERVER mute OPTIONS (ADD checkout_timeout '1s')});
my $first = WireClient->new($local);
$first->send(q{SELECT * FROM conpool.diagnose('mute')});
wait_for($local, q{SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')});
$found = diagnose('mute');
like($found->{login}{detail}, qr/^not tried: another session is diagnosing/, 'one at a time');
is($found->{encryption}{detail}, 'not tried: step "login" was not tried', 'and what follows');
$first->cancel;
is($first->result->{error}, '57014', 'the first one was at it');

# the limit of looking up names
$start = time;
$found = diagnose('silent');
fails_at($found, 'name resolution', qr/^"db\.hangs": no answer \(5\d\d\d\.\d ms\)/, qr/hostaddr/,
	'a silent name server');
cmp_ok(time - $start, '<', 8, 'it takes no longer than the limit');
like($found->{'pool query'}{detail}, qr/name server does not answer/, 'libpq is not asked');

# that session ends at once, whatever its lookup does
my $session = WireClient->new($local);
$session->send(q{SELECT * FROM conpool.diagnose('silent')});
usleep(300_000);
$session->cancel;
is($session->result->{error}, '57014', 'cancelled');
$session->hang_up;
wait_for($local, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $session->{pid})",
	'a session whose lookup hangs ends');
wait_until(
	sub { slurp_file($local->logfile) =~ /\[$session->{pid}\] .*disconnection: session time/ },
	'as others do');

# --- no broker, no library -------------------------------------------------------------------------

my $broker = broker_pid($local);
kill 'STOP', $postmaster;
kill 'TERM', $broker;
wait_until(
	sub {
		($client->query(q{SELECT broker FROM conpool.pools LIMIT 1})->{rows}[0][0] // '') eq
		  'not running' || !kill 0, $broker;
	},
	'there is no broker');
$found = diagnose('remote');
fails_at($found, 'broker', qr/^not running: connections are not shared/, qr/server log/, 'no broker');
is(untried($found), '', 'no broker: all else is looked at');
like($found->{encryption}{detail}, qr/not shared: the broker is not running/, 'no broker: unshared');
kill 'CONT', $postmaster;
wait_for($local, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'conpool broker'},
	'the broker is back');

my $bare = new_local('bare', preload => 0);
setup_local($bare, $remote);
my $plain = WireClient->new($bare);
$found = diagnose('remote', $plain);
fails_at($found, 'library preloaded', qr/was not loaded at server start/,
	qr/shared_preload_libraries.*restart/, 'no library');
is(untried($found), join(', ', @steps[ 1 .. $#steps ]), 'no library: nothing else is tried');

done_testing();
