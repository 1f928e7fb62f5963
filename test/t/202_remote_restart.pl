# The remote server goes away under those who use it, and comes back.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'one',
	options => q{max_size '4', connect_timeout '5'});

my ($runs, $holds, $transacts, $other) = map { WireClient->new($local) } 1 .. 4;
my $query = q{SELECT * FROM conpool.query('one', 'SELECT 1') AS t(a int)};

foreach my $mode (qw(immediate fast))
{
	# one runs a statement, one holds a lease, one is idle
	my $lease =
	  $holds->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0];
	$runs->send(
		q{SELECT * FROM conpool.query('one', 'SELECT 1 FROM pg_sleep(100)') AS t(a int)}
	);
	wait_for($remote,
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		"$mode: a statement runs");
	is($other->query($query)->{rows}[0][0], '1', "$mode: another is done");
	wait_for_pool($local, 'one', 'leased = 2 AND idle = 1');

	$remote->stop($mode);
	my $result = $runs->result;
	is($result->{error}, '08006', "$mode: the statement is lost");
	like($result->{message}, qr/"one"/, "$mode: its error names the pool");
	like(
		$result->{detail},
		$mode eq 'fast'
		? qr/terminating connection due to administrator command.*57P01/s
		: qr/terminating connection|closed the connection/,
		"$mode: and says in its detail how it came");

	$result = $holds->query("SELECT conpool.exec($lease, 'SELECT 1')");
	is($result->{error}, '08006', "$mode: a lease is lost");
	$result = $holds->query("SELECT conpool.exec($lease, 'SELECT 1')");
	is($result->{error}, '08006', "$mode: and stays so");
	is($holds->query("SELECT conpool.checkin($lease)")->{error},
		undef, "$mode: until it is given back");

	$result = $other->query($query);
	is($result->{error}, '08001', "$mode: there is no connection to be had");
	like(
		$result->{detail},
		qr/Connection refused/,
		"$mode: for a reason that is given");
	wait_for_pool($local, 'one', 'size = 0', "$mode: no connection is left");

	$remote->start;
	is($_->query($query)->{rows}[0][0], '1', "$mode: service again")
	  for $runs, $holds, $other;
	wait_for_pool($local, 'one', 'size = idle', "$mode: all is well");
}

# A restart that nobody was looking at: what is idle is found dead when it is
# borrowed, and nobody notices.
my $before = $local->safe_psql('postgres', q{
	SELECT connect_failures, query_errors FROM conpool.stat_pools WHERE server = 'one'});
$remote->restart;
is($_->query($query)->{rows}[0][0], '1', 'a query after an idle restart')
  for $runs, $holds, $other;
is($local->safe_psql('postgres', q{
	SELECT connect_failures, query_errors FROM conpool.stat_pools WHERE server = 'one'}),
	$before, 'no error was seen');

# One backend is terminated under a statement.
$runs->send(
	q{SELECT * FROM conpool.query('one', 'SELECT 1 FROM pg_sleep(100)') AS t(a int)});
wait_for($remote,
	q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
$remote->safe_psql('postgres',
	q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}
);
my $result = $runs->result;
is($result->{error}, '08006', 'a remote backend is terminated');
like($result->{detail}, qr/57P01/, 'the SQLSTATE is in the detail');
ok(!$result->{lost}, 'the local session is well');
is($runs->query($query)->{rows}[0][0], '1', 'and has its next connection');

done_testing();
