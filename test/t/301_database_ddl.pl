# Databases can be dropped, renamed and copied, and the server be shut down, as
# fast as ever while connections of their pools are opened: when those are lost
# all the time, and when the dialer hangs on hosts and on a name server that do
# not answer. Other pools get their connections meanwhile.
use strict;
use warnings;

use SilentNameServer;
use ConpoolTest;
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

my $limit = 5;    # seconds for a statement, or for a shutdown
my $hang = 100;    # how long the dialer would wait for a host
my $patience = 30;    # how long we do

my $remote = new_remote('remote');
my $local;
{
	local $ENV{LD_PRELOAD} = silent_names();
	note $ENV{LD_PRELOAD} ? 'names: by a preloaded library' : 'names: by a silent name server';
	$local = new_local('local');
}
setup_local($local, $remote);
my $client = WireClient->new($local);

my %longest;

# A statement succeeds, and soon.
sub soon
{
	my ($while, $what, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	my $result = $client->query($sql);
	my $took = time - $start;
	is($result->{error}, undef, "$while: $sql") or diag $result->{message};
	cmp_ok($took, '<', $limit, "$while: it takes a moment");
	my $figure = "${what}_while_$while";
	$longest{$figure} = $took if $took > ($longest{$figure} // 0);
	return;
}

sub dials
{
	my ($database) = @_;
	return $client->query("SELECT coalesce(sum(dials), 0) FROM conpool.stat_pools
		WHERE database = '$database'")->{rows}[0][0];
}

# --- connections are lost all the time --------------------------------------------

$client->query('CREATE DATABASE busy');
setup_local($local, $remote, 'busy');
create_server($local, $remote, "busy$_", dbname => 'busy', options => q{min_size '5'}) for 1 .. 3;

my $killer = start_worker(
	sub {
		my ($goes_on) = @_;
		my $there = WireClient->new($remote);
		my %count;
		while ($goes_on->())
		{
			my $result = $there->query(q{SELECT count(pg_terminate_backend(pid))
				FROM pg_stat_activity WHERE usename = 'regress_remote'});
			$count{killed} += $result->{rows}[0][0];
			usleep(20_000);
		}
		return %count;
	});
wait_until(sub { dials('busy') > 15 }, 'connections are opened again and again');

foreach my $copy (map { "copy$_" } 1 .. 3)
{
	my $before = dials('busy');
	soon('busy', 'create', "CREATE DATABASE $copy TEMPLATE busy");
	wait_until(sub { dials($copy) > 0 }, "$copy: connections of its own are opened");
	soon('busy', 'rename', "ALTER DATABASE $copy RENAME TO ${copy}_new");
	wait_until(sub { dials("${copy}_new") > 15 }, "$copy: again and again");
	soon('busy', 'drop', "DROP DATABASE ${copy}_new");
	wait_until(sub { dials('busy') > $before }, 'and those of its model');
}
my $killed = stop_workers($killer)->{killed};
cmp_ok($killed, '>', 15, 'connections were lost all the time');
note "figure: connections_killed_meanwhile = $killed";
wait_for(
	$local,
	q{SELECT count(*) = 3 AND min(idle) = 5 AND max(size) = 5 FROM conpool.pools
	  WHERE database = 'busy' AND server ~ 'busy'},
	'the pools have all their connections again');
wait_for(
	$local,
	q{SELECT count(*) = 0 FROM conpool.pools
	  WHERE server ~ 'busy' AND database IS DISTINCT FROM 'busy'},
	'nothing is left of the copies');

# --- the dialer hangs -----------------------------------------------------------------

# One that accepts and never says a word, and one whose queue is full.
my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 20);
my $full = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1);
my @queue = map {
	IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $full->sockport, Blocking => 0)
} 1 .. 4;

sub create_dark_database
{
	my ($name) = @_;
	my %host = (
		silent => [ '127.0.0.1', $silent->sockport ],
		full => [ '127.0.0.1', $full->sockport ],
		nameless => [ 'db.hangs', 5432 ]);
	$client->query("CREATE DATABASE $name");
	setup_local($local, $remote, $name);
	foreach my $server (sort keys %host)
	{
		my ($host, $port) = @{ $host{$server} };
		$local->safe_psql(
			$name, qq{
			CREATE SERVER ${name}_$server FOREIGN DATA WRAPPER conpool OPTIONS
				(host '$host', port '$port', min_size '2', connect_timeout '$hang');
			CREATE USER MAPPING FOR CURRENT_USER SERVER ${name}_$server OPTIONS
				(user 'nobody', password 'secret');
		});
	}
	return;
}

# The dialer has begun, and has not got any further.
sub hangs
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for(
		$local,
		qq{SELECT count(*) = 3 AND sum(connecting) = 2 AND count(last_error) = 0
			AND count(upkeep_error) = 0
		   FROM conpool.pools WHERE database = '$name' AND min_size = 2},
		"$name: the dialer waits for the hosts")
	  || diag $local->safe_psql('postgres', 'TABLE conpool.pools');
}

sub looks_up_name
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until(
		sub {
			my ($dialer) = server_processes($local, 'conpool dialer');
			my @threads = $dialer ? glob "/proc/$dialer/task/*" : ();
			return @threads > 1;
		},
		$what);
}

create_dark_database('dark');
hangs('dark');
looks_up_name('dark: the dialer looks up a name');
soon('hanging', 'create', 'CREATE DATABASE darker TEMPLATE dark');
soon('hanging', 'rename', 'ALTER DATABASE dark RENAME TO darkest');
hangs('darkest');
soon('hanging', 'drop', 'DROP DATABASE darker');

my $start = time;
create_server($local, $remote, 'good', dbname => 'darkest', options => q{min_size '3'});
wait_for_pool($local, 'good', 'idle = 3', 'another pool of that database gets its connections');
note sprintf 'figure: other_pool_filled_while_hanging = %.2f s', time - $start;
hangs('darkest');
looks_up_name('darkest: the dialer still looks up a name');

$start = time;
$local->safe_psql('darkest', sprintf q{ALTER SERVER dark_nameless OPTIONS
	(SET host '127.0.0.1', SET port '%d', ADD dbname 'conpool_remote');
	ALTER USER MAPPING FOR CURRENT_USER SERVER dark_nameless OPTIONS
	(SET user 'regress_remote', SET password 'remote-secret')}, $remote->port);
wait_for($local,
	q{SELECT idle = 2 FROM conpool.pools WHERE database = 'darkest' AND server = 'dark_nameless'},
	'a definition that is changed counts while the old name is looked up');
cmp_ok(time - $start, '<', $patience, 'soon');

$start = time;
soon('hanging', 'drop', 'DROP DATABASE darkest');
wait_for($local, q{SELECT count(*) = 0 FROM conpool.pools WHERE server ~ 'dark' OR server = 'good'},
	'the pools of databases that are gone go, too');
cmp_ok(time - $start, '<', $patience, 'soon');
note sprintf 'figure: hanging_pools_gone = %.2f s', time - $start;

# --- and the server is shut down ---------------------------------------------------------

create_dark_database('dark');
hangs('dark');
looks_up_name('dark: the dialer looks up a name');
$start = time;
$local->stop('fast');
my $took = time - $start;
cmp_ok($took, '<', $limit, 'a fast shutdown while the dialer hangs');
note sprintf 'figure: fast_shutdown_while_hanging = %.2f s', $took;
note sprintf 'figure: %s = %.2f s', $_, $longest{$_} for sort keys %longest;

done_testing();
