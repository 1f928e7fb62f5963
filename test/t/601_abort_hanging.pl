# A transaction on several remotes, one of which does not react any more, is rolled back
# within a few seconds, whatever ends it; the others are rolled back at once, and only
# the connection that hangs is lost.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(hang message one_row);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

# The product gives itself 2 s, and 1 s at the end of a session.
my $soon = 6;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
$local->safe_psql('postgres',
	q{SELECT conpool.exec('remote', 'CREATE TABLE done (what text)')});
my @servers = qw(a b c);
create_server($local, $remote, $_, options => q{pool_mode 'transaction', max_size '20'})
  foreach @servers;

# Says that it is in a transaction, and then is silent: at a statement, or at its end.
sub answer
{
	my ($peer, $sql) = @_;
	return hang($peer) if $sql =~ /^(SELECT silence|ROLLBACK|COMMIT)/;
	my $in_transaction = message('Z', 'T');
	return $peer->send(message('C', "START TRANSACTION\0") . $in_transaction)
	  if $sql =~ /^START/;
	return $peer->send(one_row() . $in_transaction);
}
my $fake = FakeServer->new({ fake => { answer => \&answer } });
$local->safe_psql(
	'postgres', q{
	CREATE SERVER fake FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '} . $fake->port . q{', dbname 'fake', sslmode 'disable',
				 pool_mode 'transaction');
	CREATE USER MAPPING FOR CURRENT_USER SERVER fake OPTIONS (user 'fake', password 'fake')});

my @stopped;
END { kill 'CONT', @stopped if @stopped; }

# Sessions in a transaction on all servers, and which one is to hang.
my %case;
sub begin
{
	my ($what, $hanging) = @_;
	my $client = WireClient->new($local);
	my %pid;
	$client->query('BEGIN');
	foreach my $server (@servers)
	{
		$client->query("SELECT conpool.exec('$server', 'INSERT INTO done VALUES (''$what'')')");
		$pid{$server} =
		  $client->query("SELECT * FROM conpool.query('$server', 'SELECT pg_backend_pid()') AS t(pid int)")
		  ->{rows}[0][0];
	}
	$client->query("SELECT conpool.exec('fake', 'SELECT 1')") if $hanging eq 'fake';
	$case{$what} = { client => $client, hanging => $hanging, pid => \%pid };
	return $client;
}

# What it waits for when it is interrupted, or runs into.
my %statement = (
	timeout => 'b',
	cancel => 'a',
	terminate => 'c',
	savepoint => 'b',
	block => 'a',
	'fake statement' => 'fake');
my %idle = (
	rollback => 'b',
	error => 'c',
	exit => 'a',
	'fake rollback' => 'fake');
begin($_, $statement{$_}) foreach sort keys %statement;
begin($_, $idle{$_}) foreach sort keys %idle;
is($local->safe_psql('postgres',
		q{SELECT count(*) FROM conpool.leases WHERE server IN ('a', 'b', 'c')}),
	30, 'transactions are open on three servers');

# one hangs in its subtransaction, the other as it begins one
$case{savepoint}{client}->query(q{SAVEPOINT s; SELECT conpool.exec('b', 'SELECT 1')});

foreach my $case (values %case)
{
	next if $case->{hanging} eq 'fake';
	push @stopped, $case->{pid}{ $case->{hanging} };
	kill 'STOP', $stopped[-1];
}

# All at once, to save time. What has to be done first:
$case{timeout}{client}->query(q{SET LOCAL statement_timeout = '300ms'});
$case{savepoint}{client}->query(q{SET LOCAL statement_timeout = '300ms'});
$case{block}{client}->query(q{SET LOCAL statement_timeout = '300ms'});
$case{'fake statement'}{client}->query(q{SET LOCAL statement_timeout = '300ms'});
$case{$_}{client}->send("SELECT conpool.exec('$statement{$_}', 'SELECT 1')")
  foreach qw(cancel terminate);
foreach my $what (qw(cancel terminate))
{
	wait_for($local, "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $case{$what}{client}{pid}",
		"$what: a statement runs");
}

my $start = time;
$local->safe_psql(
	'postgres', "
	SELECT pg_cancel_backend($case{cancel}{client}{pid});
	SELECT pg_terminate_backend($case{terminate}{client}{pid})");
$case{exit}{client}->hang_up;
$case{$_}{client}->send("SELECT conpool.exec('$statement{$_}', 'SELECT 1')")
  foreach qw(timeout savepoint);
$case{'fake statement'}{client}->send(q{SELECT conpool.exec('fake', 'SELECT silence')});
$case{block}{client}->send(
	q{DO $$
	BEGIN
		BEGIN
			PERFORM conpool.exec('a', 'SELECT 1');
		EXCEPTION WHEN query_canceled THEN
			RAISE NOTICE 'cancelled';
		END;
		SET LOCAL statement_timeout = 0;
		BEGIN
			PERFORM conpool.exec('a', 'SELECT 1');
		EXCEPTION WHEN connection_failure THEN
			RAISE NOTICE 'lost';
		END;
		PERFORM conpool.exec('b', 'SELECT 1');
	END $$});
$case{error}{client}->send('SELECT 1 / 0');
$case{$_}{client}->send('ROLLBACK') foreach 'rollback', 'fake rollback';

my %expected = (
	rollback => undef,
	'fake rollback' => undef,
	timeout => '57014',
	cancel => '57014',
	terminate => '57P01',
	savepoint => '57014',
	block => undef,
	'fake statement' => '57014',
	error => '22012');
my %result;
# the one whose time is looked at below comes first
foreach my $what ('rollback', grep { $_ ne 'rollback' } sort keys %expected)
{
	my $result = $result{$what} = $case{$what}{client}->result;
	$result->{at} = time;
	is($result->{error}, $expected{$what}, "$what: the session is told");
	cmp_ok($result->{at} - $start, '<', $soon, "$what: soon");
}
ok($result{terminate}{lost}, 'terminate: the session ends');
wait_until(
	sub {
		$local->safe_psql('postgres',
			"SELECT count(*) FROM pg_stat_activity WHERE pid = $case{exit}{client}{pid}") == 0;
	},
	'exit: the session ends');
cmp_ok(time - $start, '<', $soon, 'exit: soon');

# The others did not wait for the one that hangs, not even for as long as it was given.
my $others = join '|', map { $case{rollback}{pid}{$_} } qw(a c);
my @rolled_back = map { "('$_'::timestamptz)" } slurp_file($remote->logfile) =~
  /^(\S+ \S+ \S+) .*?\[(?:$others)\] .*statement: ROLLBACK$/mg;
is(scalar @rolled_back, 2, 'the others are rolled back');
my $at = $remote->safe_psql('postgres',
	'SELECT extract(epoch FROM max(t)) FROM (VALUES ' . join(',', @rolled_back) . ') AS v(t)');
note sprintf 'figure: abort with a hanging remote = %.2f s', $result{rollback}{at} - $start;
note sprintf 'figure: until the other remotes were told to roll back = %.2f s', $at - $start;
cmp_ok($result{rollback}{at} - $at, '>', 0.7, 'at once');

# A subtransaction that was rolled back like this has cost the transaction its remote one.
is_deeply(
	$result{block}{notices},
	[ 'NOTICE: cancelled', 'NOTICE: lost' ],
	'block: the next use says so');
my $client = $case{savepoint}{client};
is($client->query('ROLLBACK TO s')->{error}, undef, 'savepoint: is rolled back to');
is($client->query(q{SELECT conpool.exec('b', 'SELECT 1')})->{error},
	'08006', 'savepoint: the next use says so');
$client->query('ROLLBACK TO s');
is($client->query(q{SELECT conpool.exec('c', 'SELECT 1')})->{error},
	undef, 'savepoint: other servers can be used');
foreach my $what (qw(savepoint block))
{
	my $result = $case{$what}{client}->query('COMMIT');
	is($result->{error}, '08006', "$what: it cannot be committed");
	like($result->{message}, qr/"$case{$what}{hanging}"/, "$what: since that one is lost");
}
$case{$_}{client}->query('ROLLBACK') foreach qw(timeout cancel error), 'fake statement';

# All leases come back, and with them all connections but those that hang.
wait_for($local, 'SELECT count(*) = 0 FROM conpool.leases', 'no lease is left');
my @lost = @stopped;
my @kept = grep { my $pid = $_; !grep { $_ == $pid } @lost }
  map { values %{ $_->{pid} } } values %case;
sub known
{
	my $pids = join ',', @_;
	return $local->safe_psql('postgres',
		"SELECT count(*) FROM conpool.connections WHERE server IN ('a', 'b', 'c') AND remote_pid IN ($pids)");
}
is(scalar @kept, 22, 'connections that do not hang');
is(known(@kept), 22, 'are kept');
wait_for_pool($local, $_, 'leased + resetting + closing + waiting = 0 AND size = idle', "pool $_ is at rest")
  foreach @servers, 'fake';
is(known(@lost), 0, 'those that hang are not');
is($local->safe_psql('postgres',
		q{SELECT sum(size) FROM conpool.pools WHERE server IN ('a', 'b', 'c')}),
	22, 'and their places are free');
is( $local->safe_psql('postgres',
		q{SELECT bool_and(remote_commits = 0 AND remote_commits_unknown = 0) FROM conpool.stat_pools
		  WHERE server IN ('a', 'b', 'c')}),
	't',
	'nothing is counted as committed');

kill 'CONT', splice @stopped;
count_remote($remote, 23, 'the remote has seen them go', 'regress_remote');
is($local->safe_psql('postgres',
		q{SELECT n FROM conpool.query('remote', 'SELECT count(*) FROM done') AS t(n int)}),
	0, 'nothing was committed');
foreach my $what (grep { $_ !~ /terminate|exit/ } sort keys %case)
{
	is( $case{$what}{client}->query(
			q{SELECT sum(a) FROM unnest('{a,b,c}'::text[]) s, conpool.query(s, 'SELECT 1') AS t(a int)})
		  ->{rows}[0][0],
		'3',
		"$what: the session goes on");
}

done_testing();
