# Passwords that go to a tunnel show up nowhere: not in shared memory, views, titles of
# processes, errors, nor in the log, even at DEBUG5; and what carried them to the tunnel
# is overwritten as soon as it has connected.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

plan skip_all => 'there is no /proc' unless -d '/proc/self/fd';
plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my ($password, $wrong, $passphrase) = ('right-Xa7Qd0Zk', 'wrong-Mf3Wp9Ty', 'key-secret');

# The probe looks into shared memory: test/c/tunnel_probe.c.
my $library = PostgreSQL::Test::Utils::tempdir . '/tunnel_probe.so';
my ($cc, @include) = map { my $line = `$ENV{PG_CONFIG} $_`; chomp $line; $line }
  qw(--cc --includedir-server --includedir);
my $test = ($ENV{CONPOOL_SETUP} // 'test/setup') . '/..';
system(split(' ', $cc), '-shared', '-fPIC', '-o', $library,
	(map { "-I$_" } "$test/../src", @include), "$test/c/tunnel_probe.c", '-lpthread') == 0
  or plan skip_all => 'the probe could not be built';

my $certificates = Certificates->new;
my $remote = new_remote('remote', tls => $certificates);
my $local = new_local('local', conf => q{
log_min_messages = debug5
log_error_verbosity = verbose
log_statement = all
log_min_duration_statement = 0
});
setup_local($local, $remote);
$remote->safe_psql('postgres', "CREATE ROLE regress_unique LOGIN PASSWORD '$password'");
$local->safe_psql('postgres', qq{CREATE FUNCTION probe_memory(name text, size bigint, needle bytea)
	RETURNS int LANGUAGE c AS '$library'});

# Remotes that never answer.
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100, Timeout => 60) // die "listen: $!";

# What brings the passwords is not to be logged by PostgreSQL itself.
my $owner = WireClient->new($local);
$owner->query(q{SET log_statement = none; SET log_min_duration_statement = -1});
my %tls = tls_options($remote);
my ($crt, $key) = map { $certificates->path("regress_remote$_") } qw(.crt .locked.key);

sub create
{
	my ($server, $secret, $port, $options, @more) = @_;
	my %mapping = (user => 'regress_unique', password => $secret, @more);
	my $result = $owner->query(sprintf q{
		CREATE SERVER %s FOREIGN DATA WRAPPER conpool OPTIONS
			(host '127.0.0.1', port '%d', dbname 'conpool_remote', sslmode 'verify-full', sslrootcert '%s' %s);
		CREATE USER MAPPING FOR postgres SERVER %s OPTIONS (%s)},
		$server, $port, $tls{sslrootcert}, $options, $server,
		join ', ', map { "$_ '$mapping{$_}'" } sort keys %mapping);
	die $result->{message} if $result->{error};
	return;
}

my $port = $remote->port;
create('asked', $password, $port, q{, max_size '2'});
create('ahead', $password, $port, q{, min_size '2'});
create('keyed', $password, $port, '', sslcert => $crt, sslkey => $key, sslpassword => $passphrase);
create('badly_keyed', $password, $port, '', sslcert => $crt, sslkey => $key, sslpassword => $wrong);
create('wrong', $wrong, $port, '');
create('nobody', $password, 1, '');
create('mute', $password, $mute->sockport, q{, connect_timeout '60s'});
create('mute_ahead', $password, $mute->sockport, q{, connect_timeout '60s', min_size '1'});
# so that what it said last is not this
$owner->query(q{SELECT 'nothing'});

my ($one, $other) = map { WireClient->new($local) } 1 .. 2;
my $watcher = WireClient->new($local);
my $seen = '';

# Runs it, whether it fails or not, and collects what it says.
sub say_all
{
	my ($sql, $session) = @_;
	my $result = ($session // $watcher)->query($sql);
	$seen .= join "\n", (map { join '|', map { $_ // '' } @$_ } @{ $result->{rows} }),
	  (map { $result->{$_} // '' } qw(message detail hint)), @{ $result->{notices} }, '';
	return $result;
}

# --- what is looked into -----------------------------------------------------------------

# Parts of shared memory; not those in which PostgreSQL has what the catalogs have, what
# is being logged, and what was executed last.
my $parts = say_all(q{SELECT name, size FROM pg_shmem_allocations WHERE name IS NOT NULL AND
	name NOT IN ('<anonymous>', 'Buffer Blocks', 'XLOG Ctl', 'Backend Activity Buffer')})->{rows};
cmp_ok(scalar(grep { $_->[0] =~ /conpool/ } @$parts), '>', 4, 'parts of shared memory are ours');

# In which of them is it? The call itself is not to bring it there.
sub shared_memory_with
{
	my ($text) = @_;
	my $needle = unpack 'H*', $text ^ ("\xff" x length $text);
	my @found;
	foreach my $part (@$parts)
	{
		my $result = $watcher->query("SELECT probe_memory('$part->[0]', $part->[1], '\\x$needle')");
		die "$part->[0]: $result->{message}" if $result->{error};
		push @found, $part->[0] if $result->{rows}[0][0] > 0;
	}
	return join ', ', @found;
}

sub check_shared_memory
{
	my ($when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(shared_memory_with($_), '', "$when: \"$_\" is not in shared memory") for $password, $wrong, $passphrase;
	return;
}

# How often a process has it in memory of its own.
sub memory_with
{
	my ($pid, $text) = @_;
	my $count = 0;
	open my $memory, '<:raw', "/proc/$pid/mem" or die "/proc/$pid/mem: $!";
	foreach (split /\n/, slurp_file("/proc/$pid/maps"))
	{
		my ($from, $to, $name) = /^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ \S+\s*(.*)/ or next;
		no warnings 'portable';
		my ($at, $size) = (hex $from, hex($to) - hex $from);
		sysseek $memory, $at, 0 or next;
		my $bytes = '';
		sysread $memory, $bytes, $size or next;
		$count++ while $bytes =~ /\Q$text\E/g;
	}
	return $count;
}

# An order is keywords and values in turn; libpq keeps them in no such way.
my $in_order = "password\0$password\0";

# --- while it connects ---------------------------------------------------------------------

$one->send(q{SELECT conpool.exec('mute', 'SELECT 1')});
wait_for($local, q{SELECT count(*) FILTER (WHERE connecting = 1) = 2 FROM conpool.pools
	WHERE server IN ('mute', 'mute_ahead')}, 'a session and the dialer connect');
# the tunnel has got their orders, and gone about them
my @peers = map { $mute->accept } 1 .. 2;
check_shared_memory('while a tunnel connects');
my ($tunnel) = map { $_->[0] } @{ say_all('SELECT pid FROM conpool.tunnels')->{rows} };
my $can_look = eval { memory_with($tunnel, 'x'); 1 };
SKIP:
{
	skip 'no process may look into another', 1 unless $can_look;
	cmp_ok(memory_with($tunnel, $in_order), '>=', 2, 'the tunnel has two orders');
}
say_all("SELECT * FROM conpool.$_") for qw(pools connections tunnels waiters);

$one->cancel;
is($one->result->{error}, '57014', 'a session gives up');
say_all(q{ALTER SERVER mute_ahead OPTIONS (SET min_size '0')});
close $_ for @peers;
wait_for($local, q{SELECT sum(size) = 0 FROM conpool.pools WHERE server LIKE 'mute%'}, 'both are over');

# --- when it is connected, or has failed ------------------------------------------------------

like(say_all(q{SELECT conpool.exec('asked', 'SELECT 1')}, $_)->{rows}[0][0], qr/SELECT 1/, 'a session')
  for $one, $other;
like(say_all(q{SELECT conpool.exec('keyed', 'SELECT 1')}, $one)->{rows}[0][0], qr/SELECT 1/, 'with a key');
wait_for_pool($local, 'ahead', 'idle = 2 AND tunnelled = 2', 'the dialer');
is(say_all(q{SELECT sum(tunnelled) FROM conpool.pools})->{rows}[0][0], '4', 'all through the tunnel');
is(say_all(q{SELECT conpool.exec('wrong', 'SELECT 1')}, $one)->{error}, '28P01', 'a wrong password');
is(say_all(q{SELECT conpool.exec('badly_keyed', 'SELECT 1')}, $one)->{error}, '08001', 'a wrong passphrase');
is(say_all(q{SELECT conpool.exec('nobody', 'SELECT 1')}, $one)->{error}, '08001', 'nobody there');
is(say_all(q{SELECT conpool.exec('asked', 'SELECT 1/0')}, $one)->{error}, '22012', 'an error of the remote');
kill 'TERM', @{ say_all(q{SELECT remote_pid FROM conpool.connections WHERE server = 'asked'})->{rows}[0] };
say_all(q{SELECT conpool.exec('asked', 'SELECT 1')}, $one);
like(say_all("SELECT * FROM conpool.diagnose('$_')")->{rows}[0][0], qr/\S/, "diagnose('$_')")
  for qw(asked keyed wrong badly_keyed nobody);

check_shared_memory('when it is connected');
isnt(shared_memory_with('badly_keyed'), '', 'what is there would be found');
SKIP:
{
	skip 'no process may look into another', 4 unless $can_look;
	my %process = (
		tunnel => $tunnel,
		broker => broker_pid($local),
		dialer => (server_processes($local, 'conpool dialer'))[0]);
	is(memory_with($process{$_} // 0, $in_order), 0, "the $_ has no order left") for sort keys %process;
	is(memory_with($process{broker}, $password), 0, 'the broker has never had the password');
}

# --- what has been seen, and logged ------------------------------------------------------------

foreach my $view (map { $_->[0] } @{ say_all(q{SELECT relname FROM pg_class
	WHERE relnamespace = 'conpool'::regnamespace AND relkind = 'v' ORDER BY 1})->{rows} })
{
	is(say_all("SELECT * FROM conpool.$view")->{error}, undef, "view $view");
}
is(say_all('SELECT length(conpool.report()) > 1000')->{rows}[0][0], 't', 'the report');
say_all('SELECT conpool.report()');
say_all('SELECT * FROM pg_stat_activity');
# of workers that are in no view as well
my ($postmaster) = slurp_file($local->data_dir . '/postmaster.pid') =~ /^(\d+)/;
foreach my $dir (glob '/proc/[0-9]*')
{
	my ($parent) = (eval { slurp_file("$dir/stat") } // '') =~ /.*\) \S (\d+)/s;
	next unless ($parent // 0) == $postmaster;
	$seen .= (eval { slurp_file("$dir/cmdline") } // '') . "\n";
}
like($seen, qr/conpool tunnel 1/, 'titles of processes');

$_->hang_up for $one, $other, $owner, $watcher;
$local->stop;
my $log = slurp_file($local->logfile);
like($log, qr/DEBUG:  /, 'the log says a lot');
like($log, qr/statement: SELECT conpool.exec\('asked'/, 'of statements as well');
foreach my $secret ($password, $wrong, $passphrase)
{
	is(join("\n", $seen =~ /^.*\Q$secret\E.*$/mg), '', "\"$secret\" was not shown");
	is(join("\n", $log =~ /^.*\Q$secret\E.*$/mg), '', 'nor logged');
}

done_testing();
