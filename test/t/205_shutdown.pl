# A pool of connections to the server itself keeps it from nothing: neither
# from a smart shutdown nor from dropping a database.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);

# Ends a server in the background; returns what to wait for.
sub begin_stop
{
	my ($mode) = @_;
	my $pid = fork() // die "fork: $!";
	exec 'pg_ctl', '-s', '-D', $local->data_dir, '-m', $mode, '-t', '60', 'stop'
	  if $pid == 0;
	return $pid;
}

sub stopped_well
{
	my ($pid, $name) = @_;
	waitpid $pid, 0;
	is($?, 0, $name);
	$local->_update_pid(0);
	return;
}

my $loopback = $local->connstr('postgres') . ' user=postgres';
my $query = "SELECT * FROM conpool.query(\$s\$$loopback\$s\$, 'SELECT 1') AS t(a int)";

# --- a smart shutdown

is($local->safe_psql('postgres', $query), '1', 'a query to the server itself');
stopped_well(begin_stop('smart'), 'a smart shutdown with an idle connection');

$local->start;
my $client = WireClient->new($local);
my $lease =
  $client->query("SELECT conpool.checkout(\$s\$$loopback\$s\$, 'session')")
  ->{rows}[0][0];
ok($lease, 'a lease of the server itself');
my $stop = begin_stop('smart');
wait_until(sub {
	open my $file, '<', $local->data_dir . '/postmaster.pid' or return 0;
	return grep { /^stopping/ } <$file>;
}, 'the server is stopping');
is($client->query("SELECT conpool.exec($lease, 'SELECT 1')")->{rows}[0][0],
	'SELECT 1', 'the lease goes on');
$client->query("SELECT conpool.checkin($lease)");
is(kill(0, $stop), 1, 'the server waits for the session');
$client->hang_up;
stopped_well($stop, 'a smart shutdown ends with the last session');

# --- the other ways

foreach my $mode (qw(fast immediate))
{
	$local->start;
	$client = WireClient->new($local);
	$client->query(q{SELECT conpool.checkout('remote', 'session')});
	is($local->safe_psql('postgres',
			q{SELECT * FROM conpool.query('remote', 'SELECT 1') AS t(a int)}),
		'1', "$mode: a query");
	count_remote($remote, 2, "$mode: one connection leased, one idle");
	$local->stop($mode);
	count_remote($remote, 0, "$mode: the remote sees them go");
}

# --- dropping a database, or its extension, with pools

$local->start;
$local->safe_psql('postgres', 'CREATE DATABASE other');
setup_local($local, $remote, 'other');
is($local->safe_psql('other',
		q{SELECT * FROM conpool.query('remote', 'SELECT 1') AS t(a int)}),
	'1', 'a query in another database');
is($local->psql('postgres', q{SET statement_timeout = '20s'; DROP DATABASE other}),
	0, 'that database can be dropped');
is($local->safe_psql('postgres', q{SELECT count(*) >= 1 FROM conpool.pools}),
	't', 'the views do not mind');
is( $local->psql('postgres',
		q{BEGIN; DROP EXTENSION conpool CASCADE; CREATE EXTENSION conpool; COMMIT;
		  SELECT count(*) FROM conpool.pools}),
	0,
	'the extension can be dropped and made again');

done_testing();
