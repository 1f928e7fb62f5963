# A remote backend that does not react: whoever waits for it gets away, and its
# connection is closed, which takes a while, counts until then, and ends.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);

# The broker waits 2 s for the end of a connection that is closed, and 10 s for
# a reset; a cancel may take 2 s, the end of a session 1 s.
my $margin = 2;

my @stopped;
END { kill 'CONT', @stopped if @stopped; }

# A session with a connection whose remote backend stands still, and the lease
# or the statement that is on it.
sub stop_remote
{
	my ($server, $statement) = @_;
	create_server($local, $remote, $server, options => q{max_size '1'});
	my $client = WireClient->new($local);
	my $lease =
	  $client->query("SELECT conpool.checkout('$server', 'session')")->{rows}[0][0];
	my $pid = $local->safe_psql('postgres',
		"SELECT remote_pid FROM conpool.leases WHERE server = '$server'");
	if ($statement)
	{
		$client->query("SET statement_timeout = '500ms'") if $statement =~ /timeout/;
		$client->send("SELECT conpool.exec($lease, '$statement')");
		wait_for($remote,
			"SELECT state = 'active' FROM pg_stat_activity WHERE pid = $pid");
	}
	push @stopped, $pid;
	kill 'STOP', $pid;
	return ($client, $lease);
}

my ($cancelled) = stop_remote('cancelled', 'SELECT pg_sleep(100) /* timeout */');
my ($ended) = stop_remote('ended', 'SELECT pg_sleep(100)');
my ($resets, $lease) = stop_remote('resets');
my $other = WireClient->new($local);

# all at once, to save time
my $start = time;
kill 'TERM', $ended->{pid};
$resets->query("SELECT conpool.checkin($lease)");
$other->send(q{SELECT * FROM conpool.query('cancelled', 'SELECT 1') AS t(a int)});

is($ended->result->{error}, '57P01', 'a session that is terminated');
$ended->result;
cmp_ok(time - $start, '<', 1 + $margin, 'ends soon');
is($cancelled->result->{error}, '57014', 'a statement that is cancelled');
cmp_ok(time - $start, '<', 2.5 + $margin, 'ends soon');
is($local->safe_psql('postgres',
		q{SELECT closing + connecting + idle + leased, size FROM conpool.pools WHERE server = 'cancelled'}),
	'1|1', 'never more connections than max_size');
is($other->result->{rows}[0][0], '1', 'a waiter gets the place of that connection');
cmp_ok(time - $start, '<', 4.5 + $margin, 'soon');
cmp_ok(time - $start, '>', 2, 'but not while it may still be there');
wait_for_pool($local, 'ended', 'size = 0', 'the place of the ended session is free');

is($local->safe_psql('postgres',
		q{SELECT resetting FROM conpool.pools WHERE server = 'resets'}),
	'1', 'a reset takes its time');
wait_for_pool($local, 'resets', 'size = 0', 'and is given up');
cmp_ok(time - $start, '<', 12 + 2 * $margin, 'soon');

# What hangs when it is borrowed, is found out by those who use it.
$other->query(q{SET statement_timeout = '500ms'});
push @stopped, $local->safe_psql('postgres',
	q{SELECT remote_pid FROM conpool.connections WHERE server = 'cancelled'});
kill 'STOP', $stopped[-1];
is($other->query(q{SELECT * FROM conpool.query('cancelled', 'SELECT 1') AS t(a int)})->{error},
	'57014', 'a query on a connection that hangs can be cancelled');
$other->query(q{RESET statement_timeout});
is($other->query(q{SELECT * FROM conpool.query('cancelled', 'SELECT 1') AS t(a int)})->{rows}[0][0],
	'1', 'the next one has another');

kill 'CONT', splice @stopped;
count_remote($remote, 1, 'the remote has seen the others go', 'regress_remote');

done_testing();
