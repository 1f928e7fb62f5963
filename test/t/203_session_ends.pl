# A session is cancelled, or ends, in the middle of a remote statement: the
# statement is cancelled within a second, and the connection is in the pool
# again.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'one', options => q{max_size '1'});

my $watcher = WireClient->new($remote);
my $query = q{SELECT * FROM conpool.query('one', 'SELECT 1') AS t(a int)};

# Remote statements that run.
sub running
{
	return $watcher->query(
		q{SELECT count(*) FROM pg_stat_activity
		  WHERE usename = 'regress_remote' AND state = 'active'}
	)->{rows}[0][0];
}

my %statement = (
	'a statement that waits' => 'SELECT 1 FROM pg_sleep(100)',
	'a statement that computes' =>
	  'SELECT count(*)::int FROM generate_series(1, 1000000000) AS i',
	'a statement that returns rows' =>
	  'SELECT i FROM generate_series(1, 1000000000) AS i',
	'a block of code' => 'DO $$ BEGIN PERFORM pg_sleep(100); END $$'
);
my %end = (
	'pg_cancel_backend' => sub {
		$local->safe_psql('postgres', "SELECT pg_cancel_backend($_[0]->{pid})");
	},
	'a cancel request' => sub { $_[0]->cancel },
	'statement_timeout' => sub { },
	'pg_terminate_backend' => sub {
		$local->safe_psql('postgres', "SELECT pg_terminate_backend($_[0]->{pid})");
	},
	'SIGTERM' => sub { kill 'TERM', $_[0]->{pid} });

foreach my $what (sort keys %statement)
{
	foreach my $how (sort keys %end)
	{
		my $client = WireClient->new($local);
		$client->query(q{SET statement_timeout = '500ms'})
		  if $how eq 'statement_timeout';
		$client->send(
			"SELECT count(*) FROM conpool.query('one', \$sql\$$statement{$what}\$sql\$) AS t(a int)"
		);
		wait_until(sub { running() == 1 }, "$how: $what runs")
		  if $how ne 'statement_timeout';
		$end{$how}->($client);
		my $start = time;
		my $result = $client->result;
		$start = time if $how eq 'statement_timeout';
		sleep 0.01 while running() > 0 && time < $start + 20;
		my $took = time - $start;
		ok($took < 1, "$how: it ends within a second") or diag("$took s");
		is($result->{error}, $how =~ /TERM|term/ ? '57P01' : '57014',
			"$how: the session is told");
		is($client->query($query)->{rows}[0][0], '1', "$how: and goes on")
		  if $result->{error} eq '57014';
		wait_for_pool($local, 'one', 'idle = size AND waiting = 0',
			"$how: nothing is left behind");
	}
}

# The connection is not given up lightly.
my $client = WireClient->new($local);
my $remote_pid = q{SELECT * FROM conpool.query('one', 'SELECT pg_backend_pid()') AS t(pid int)};
my $pid = $client->query($remote_pid)->{rows}[0][0];
foreach my $n (1 .. 3)
{
	$client->query(
		q{SET statement_timeout = '50ms';
		  SELECT * FROM conpool.query('one', 'SELECT 1 FROM pg_sleep(100)') AS t(a int)}
	);
	$client->query('RESET statement_timeout');
	is($client->query($remote_pid)->{rows}[0][0],
		$pid, "the same connection after cancel $n");
}

# A lease stays with its holder over a cancel.
my $lease = $client->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0];
$client->query("SELECT conpool.exec($lease, 'SET application_name = kept')");
is($client->query(
		"SET statement_timeout = '50ms';
		 SELECT conpool.exec($lease, 'SELECT pg_sleep(100)')")->{error},
	'57014', 'a cancel on a lease');
$client->query('RESET statement_timeout');
is( $client->query(
		"SELECT * FROM conpool.query($lease, 'SHOW application_name') AS t(name text)")
	  ->{rows}[0][0],
	'kept',
	'its session is as it was');

# A client that hangs up with a lease in hand.
$client->hang_up;
wait_for_pool($local, 'one', 'idle = 1 AND size = 1', 'a lease comes back');

done_testing();
