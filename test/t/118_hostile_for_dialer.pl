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
my $local = new_local('local', conf => 'conpool.max_pools = 200');
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
#   password => 1   the mapping has one
my @attacks = (
	long_error => [ {%at_fake}, '^connection.*FATAL:  x' ],
	gss => [ { %at_fake, host => 'db.hangs', hostaddr => '127.0.0.1' }, 'GSS' ],
	root_certificate => [ { %at_encrypting, sslrootcert => $fifo }, 'encrypted' ],
	verified => [ { %at_encrypting, sslmode => 'verify-full', sslrootcert => $fifo }, 'encrypted' ],
	allowed => [ { %at_encrypting, sslmode => 'require', sslcrl => $fifo }, 'encrypted' ],
	certificate => [ { %at_encrypting, sslcert => $fifo, sslkey => $fifo }, 'encrypted' ],
	password_file => [ { %at_fake, passfile => $fifo }, 'password file' ],
	endless_password_file => [ { %at_fake, passfile => '/proc/self/pagemap' }, 'password file' ],
	service => [ { service => 'nowhere' }, 'service' ],
	many_paths => [ { host => join(',', map { "/$_" } 1 .. 64) }, 'No such file' ],
	many_names => [ { host => $many }, 'timed out looking up host name' ],
	mute => [ { host => '127.0.0.1', port => $mute->sockport, connect_timeout => '5min' }, '.',
		copies => 40 ]);

# one that is preloaded hangs for any name that ends like that, be it valid or not
@attacks = map { $attacks[$_] } grep { $attacks[ $_ & ~1 ] ne 'gss' } 0 .. $#attacks
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
$client->hang_up;

is(join("\n", slurp_file($local->logfile) =~ /^.*(?:TRAP:|PANIC:|was terminated by signal).*$/mg),
	'', 'no process crashed');

done_testing();
