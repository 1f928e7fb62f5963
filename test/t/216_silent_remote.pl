# A remote that accepts connections and says nothing: whoever tries to connect
# waits for no longer than allowed, can be interrupted, and holds up only those
# who want the same.
use strict;
use warnings;

use ConpoolTest;
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);

# the kernel accepts, nobody else does
my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 50) or die "listen: $!";

sub silent_server
{
	my ($name, $options) = @_;
	create_server($local, $remote, $name, options => $options);
	$local->safe_psql('postgres',
		"ALTER SERVER $name OPTIONS (SET port '" . $silent->sockport . "')");
	return;
}
silent_server('connects', q{max_size '1', connect_timeout '1'});
silent_server('waits', q{max_size '1', checkout_timeout '1s'});
silent_server('stands', q{max_size '1', checkout_timeout '0', connect_timeout '0'});

my $client = WireClient->new($local);

sub error_of
{
	my ($sql) = @_;
	my $start = time;
	my $result = $client->query($sql);
	cmp_ok(time - $start, '<', 3, 'it takes a second');
	return $result->{error};
}

is(error_of(q{SELECT conpool.exec('connects', 'SELECT 1')}),
	'08001', 'connect_timeout');
is(error_of(q{SELECT conpool.exec('waits', 'SELECT 1')}),
	'53300', 'checkout_timeout covers connecting');
is($local->safe_psql('postgres', q{
		SELECT server, checkouts, checkout_timeouts, connects, connect_failures
		FROM conpool.stat_pools WHERE server IN ('connects', 'waits') ORDER BY 1}),
	"connects|0|0|0|1\nwaits|0|1|0|1", 'both are counted');

# one at a time may try, the other waits for it; both can be interrupted
my ($first, $second) = map { WireClient->new($local) } 1 .. 2;
my $exec = q{SELECT conpool.exec('stands', 'SELECT 1')};
$first->send($exec);
wait_for_pool($local, 'stands', 'connecting = 1');
$second->send($exec);
wait_for_pool($local, 'stands', 'connecting = 1 AND waiting = 1');
is( $client->query(q{SELECT * FROM conpool.query('remote', 'SELECT 1') AS t(a int)})
	  ->{rows}[0][0],
	'1',
	'other pools work meanwhile');

my $start = time;
$first->cancel;
is($first->result->{error}, '57014', 'who connects can be cancelled');
cmp_ok(time - $start, '<', 1, 'at once');
wait_for($local,
	"SELECT pid = $second->{pid} FROM conpool.connections WHERE server = 'stands' AND state = 'connecting'",
	'the next in the queue tries');
$start = time;
kill 'TERM', $second->{pid};
is($second->result->{error}, '57P01', 'who connects can be terminated');
$second->result;
cmp_ok(time - $start, '<', 1, 'at once');
wait_for_pool($local, 'stands', 'size = 0 AND waiting = 0', 'nothing is left behind');

done_testing();
