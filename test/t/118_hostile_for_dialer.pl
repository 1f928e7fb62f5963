# What a remote, a name server or an option does to hold up the process that opens
# connections ahead of demand: it harms nobody but its own pool. Others are filled
# meanwhile, and the server shuts down.
use strict;
use warnings;

use SilentNameServer;
use ConpoolTest;
use FakeServer qw(message auth_ok hang);
use IO::Select;
use IO::Socket::INET;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

local $ENV{LD_PRELOAD} = silent_names();
my $dir = PostgreSQL::Test::Utils::tempdir();
my $remote = new_remote('remote');
my $tunnels = 0;
my $local = new_local('local',
	conf => "conpool.max_pools = 200\nconpool.tunnel_workers = $tunnels");
setup_local($local, $remote);

# a file of which reading never ends
my $fifo = "$dir/fifo";
mkfifo($fifo, 0600) or die "mkfifo: $!";

my $errors = join '', map { "x\nLOCATION:  y$_" } 1 .. 500_000;
my $fake = FakeServer->new({
	long_error => { greeting => sub {
			$_[0]->send(auth_ok() . message('E', "SFATAL\0C28000\0M$errors\0\0"));
			hang(@_);
		} },
	gss => { greeting => sub { $_[0]->send(message('R', pack 'N', 7)); hang(@_) } } });

# The kernel accepts, nobody else does.
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 200) // die "listen: $!";

# Agrees to whatever encryption is asked for, and says nothing more.
my $encrypting = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 20) // die "listen: $!";
start_worker(
	sub {
		my ($goes_on) = @_;
		my $select = IO::Select->new($encrypting);
		my %asked;
		while ($goes_on->())
		{
			foreach my $socket ($select->can_read(0.1))
			{
				if ($socket == $encrypting)
				{
					$select->add($socket->accept // next);
				}
				elsif (!sysread $socket, my $request, 8192)
				{
					$select->remove($socket);
					delete $asked{$socket};
					close $socket;
				}
				elsif (!$asked{$socket}++)
				{
					syswrite $socket, 'S';
				}
			}
		}
		return ();
	});

# --- the attacks --------------------------------------------------------------------

my %at_fake = (host => '127.0.0.1', port => $fake->port);
my %at_encrypting = (host => '127.0.0.1', port => $encrypting->sockport);
my $many = join ',', map { "h$_.hangs" } 1 .. 60;

# name => [ server options, what the pool says then, more ]
#   copies => n     so many servers
#   tunnels => 0    the dialer has to connect by itself
my %keys = (
	root_certificate => { sslrootcert => $fifo },
	verified => { sslmode => 'verify-full', sslrootcert => $fifo },
	allowed => { sslmode => 'require', sslcrl => $fifo },
	certificate => { sslcert => $fifo, sslkey => $fifo });
my %gss = (%at_fake, host => 'db.hangs', hostaddr => '127.0.0.1', dbname => 'gss');
my @attacks = (
	(map { ("${_}_here" => [ { %at_encrypting, %{ $keys{$_} } }, 'encrypted', tunnels => 0 ]) }
		  sort keys %keys),
	gss_here => [ {%gss}, 'GSS', tunnels => 0 ],
	gss => [ {%gss}, 'GSS' ],
	(map { ($_ => [ { %at_encrypting, %{ $keys{$_} } }, 'not a regular file' ]) } sort keys %keys),
	long_error => [ {%at_fake}, '^connection.*FATAL:  x' ],
	password_file => [ { %at_fake, passfile => $fifo }, 'password file' ],
	endless_password_file => [ { %at_fake, passfile => '/proc/self/pagemap' }, 'password file' ],
	service => [ { service => 'nowhere' }, 'service' ],
	many_paths => [ { host => join(',', map { "/$_" } 1 .. 64) }, 'No such file' ],
	many_names => [ { host => $many }, 'timed out looking up host name' ],
	mute => [ { host => '127.0.0.1', port => $mute->sockport, connect_timeout => '5min' }, '.',
		copies => 40 ]);

# one that is preloaded hangs for any name that ends like that, be it valid or not
@attacks = map { $attacks[$_] } grep { $attacks[ $_ & ~1 ] !~ /^gss/ } 0 .. $#attacks
  if $ENV{LD_PRELOAD};

my $client;

sub run
{
	my ($sql) = @_;
	my $result = $client->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return;
}

sub create_attackers
{
	my ($name, $options, $copies) = @_;
	my %option = (dbname => $name, connect_timeout => '5s', min_size => 2, %$options);
	my $list = join ', ', map { "$_ '$option{$_}'" } sort keys %option;
	my @names = map { "${name}_$_" } 1 .. $copies;
	foreach my $server (@names)
	{
		run("CREATE SERVER $server FOREIGN DATA WRAPPER conpool OPTIONS ($list)");
		run("CREATE USER MAPPING FOR postgres SERVER $server OPTIONS
			(user 'nobody', password_required 'false')");
	}
	return @names;
}

while (my ($name, $attack) = splice @attacks, 0, 2)
{
	my ($options, $reason, %of) = @$attack;
	if ($tunnels != ($of{tunnels} // 1))
	{
		$tunnels = $of{tunnels} // 1;
		$local->append_conf('postgresql.conf', "conpool.tunnel_workers = $tunnels");
		$local->restart;
	}
	$client = WireClient->new($local);
	my @servers = create_attackers($name, $options, $of{copies} // 1);

	# it is at work when the next pool comes
	wait_for($local, q{SELECT count(*) > 0 FROM conpool.pools WHERE server = 'mute_1' AND connecting > 0},
		"$name: has begun") if $of{copies};
	create_server($local, $remote, "other_$name", options => q{min_size '2'});
	my $start = time;
	wait_for_pool($local, "other_$name", 'idle = 2', "$name: another pool is filled");
	my $filled = time - $start;
	wait_for_pool($local, "${name}_1", "idle = 0 AND upkeep_error ~ '$reason'",
		"$name: its own pool says why it is not");
	cmp_ok($filled, '<', 15, "$name: the other pool did not wait for long");
	note sprintf 'figure: filled_beside_%s = %.2f s', $name, $filled;
	wait_for_pool($local, "other_$name", 'idle = 2 AND upkeep_error IS NULL',
		"$name: the other one has no problem");

	$client->hang_up;
	$start = time;
	$local->stop('fast');
	cmp_ok(time - $start, '<', 5, "$name: the server shuts down meanwhile");
	$local->start;
	$client = WireClient->new($local);
	run("DROP SERVER $_ CASCADE") for @servers, "other_$name";
	$client->hang_up;
}

# --- callers -------------------------------------------------------------------------

$client = WireClient->new($local);
create_attackers('long_error', { %at_fake, min_size => 0 }, 1);
my $start = time;
my $result = $client->query(q{SELECT conpool.exec('long_error_1', 'SELECT 1')});
is($result->{error}, '28000', 'a caller gets the long error');
cmp_ok(time - $start, '<', 10, 'at once');
cmp_ok(length $result->{message}, '<', 20_000, 'a part of it');

create_attackers('long_list', { host => join(',', ("127.0.0.1") x 64), port => $mute->sockport,
	min_size => 0, connect_timeout => '20s' }, 1);
$client->query(q{SET statement_timeout = '500ms'});
$start = time;
is($client->query(q{SELECT conpool.exec('long_list_1', 'SELECT 1')})->{error}, '57014',
	'a long list of hosts can be interrupted');
cmp_ok(time - $start, '<', 5, 'at once');

# looked up before a tunnel is asked
create_attackers('no_answer', { host => 'db.hangs', port => $mute->sockport,
	min_size => 0, connect_timeout => '20s' }, 1);
$start = time;
is($client->query(q{SELECT conpool.exec('no_answer_1', 'SELECT 1')})->{error}, '57014',
	'a name that is looked up for ever can be interrupted');
cmp_ok(time - $start, '<', 5, 'at once');
$client->query(q{SET statement_timeout = 0});
create_server($local, $remote, 'half', host => 'db.hangs,127.0.0.1',
	options => q{connect_timeout '4'});
is($client->query(q{SELECT conpool.exec('half', 'SELECT 1')})->{error}, undef,
	'and holds up no other host of the list for longer than its share');
$client->hang_up;

is(join("\n", slurp_file($local->logfile) =~ /^.*(?:TRAP:|PANIC:|was terminated by signal).*$/mg),
	'', 'no process crashed');

done_testing();
