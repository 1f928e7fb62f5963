# A thousand sessions with a thousand pooled connections.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $count = 1000;
my $conf = "max_connections = 1100\nshared_buffers = 16MB";

my $remote = new_remote('remote', conf => $conf);
my $local = new_local('local', conf => "$conf\nconpool.max_connections = $count");
setup_local($local, $remote);
create_server($local, $remote, 'many',
	options => qq{max_size '$count', connect_concurrency '8', checkout_timeout '2min', connect_timeout '60'});

# In all sessions at once; how many had a row.
sub in_all
{
	my ($clients, $sql) = @_;
	my $rows = 0;
	my %error;
	$_->send($sql) foreach @$clients;
	foreach my $client (@$clients)
	{
		my $result = $client->result;
		$rows += @{ $result->{rows} };
		$error{"$result->{error}: $result->{message}"}++ if $result->{error};
	}
	diag("$error{$_} times $_") foreach sort keys %error;
	return $rows;
}

my @clients = map { WireClient->new($local) } 1 .. $count;

is(in_all(\@clients, q{SELECT conpool.checkout('many', 'session')}),
	$count, "$count sessions have a connection each");
wait_for_pool($local, 'many', "size = $count AND leased = $count");
count_remote($remote, $count, 'so has the remote', 'regress_remote');
is( in_all(
		\@clients,
		q{SELECT t.* FROM conpool.leases l,
			LATERAL conpool.query(l.lease, 'SELECT 1') AS t(a int)
		  WHERE l.pid = pg_backend_pid()}),
	$count,
	'all of them answer');

# more than there is room for waits, and gets what comes free
my $waiter = WireClient->new($local);
$waiter->send(q{SELECT * FROM conpool.query('many', 'SELECT 1') AS t(a int)});
wait_for_pool($local, 'many', 'waiting = 1');

is(in_all(\@clients, q{SELECT conpool.checkin(lease) FROM conpool.leases WHERE pid = pg_backend_pid()}),
	$count, 'all are given back');
my $result = $waiter->result;
# on a busy machine the broker may need more than 2 s for so many resets, and is told
# to be late; then that session asks once more
$result = $waiter->query(q{SELECT * FROM conpool.query('many', 'SELECT 1') AS t(a int)})
  if ($result->{error} // '') eq '53300';
is($result->{rows}[0][0], '1', 'one more session got one of them');
wait_for_pool($local, 'many', "size = $count AND idle = $count", 'all are idle');

is(in_all(\@clients, q{SELECT * FROM conpool.query('many', 'SELECT 1') AS t(a int)}),
	$count, 'a query in each session, on whichever connection');
wait_for_pool($local, 'many', "size = $count AND idle = $count");
is( $local->safe_psql('postgres',
		q{SELECT connects, connect_failures, discarded FROM conpool.stat_pools WHERE server = 'many'}),
	"$count|0|0",
	'none was lost on the way');

$local->stop('fast');
count_remote($remote, 0, 'all end with the server', 'regress_remote');

done_testing();
