# A broker that does not answer for a while costs patience, and nothing else:
# no idle connection, no slot, no session that would not end.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'four', options => q{max_size '4', pool_mode 'transaction'});
my $broker = $local->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'conpool broker'});

# Four idle connections, each adopted by a session of its own.
my $statement = q{SELECT conpool.exec('four', 'SELECT 1')};
my @first = map { WireClient->new($local) } 1 .. 4;
$_->query("BEGIN; $statement") for @first;
$_->query('COMMIT') for @first;
wait_for($local, q{SELECT idle = 4 FROM conpool.pools WHERE server = 'four'}, 'four are idle');

END { kill CONT => $broker if $broker }
kill STOP => $broker;

# --- fetching ---------------------------------------------------------------

my $session = WireClient->new($local);
is($session->query(q{SELECT conpool.checkout('four', 'session', '100 ms')})->{error},
	'53300', 'a session runs out of time while it fetches a connection');
is($local->safe_psql('postgres', q{SELECT idle FROM conpool.pools WHERE server = 'four'}),
	4, 'and none is closed for that');
is( $local->safe_psql('postgres', q{SELECT checkouts, checkout_timeouts, discarded
		FROM conpool.stat_pools WHERE server = 'four'}),
	'4|1|0', 'it counts as a timeout');
my $result = $session->query(q{SELECT conpool.checkout('four', 'session')});
like($result->{message}, qr/could not get a connection of pool "four" from conpool's broker/,
	'with time left it does not try one connection after the other');
is($local->safe_psql('postgres', q{SELECT idle FROM conpool.pools WHERE server = 'four'}),
	4, 'and again none is closed');
is($first[0]->query($statement)->{rows}[0][0],
	'SELECT 1', 'who has adopted one needs no broker');

# --- giving back ------------------------------------------------------------

is($session->query(q{SELECT conpool.exec('remote', 'SELECT 1')})->{rows}[0][0],
	'SELECT 1', 'one can be opened');
is($session->query(q{SELECT conpool.checkout('remote', 'session')})->{error},
	undef, 'another one is leased');
my $start = time;
$local->safe_psql('postgres', "SELECT pg_terminate_backend($session->{pid})");
wait_for($local, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $session->{pid}",
	'the session ends');
cmp_ok(time - $start, '<', 4, 'before long');
count_remote($remote, 4, 'nor do its connections stay');
is($local->safe_psql('postgres', q{SELECT size FROM conpool.pools WHERE server = 'remote'}),
	0, 'or their slots');

# --- when it goes on --------------------------------------------------------

kill CONT => $broker;
is(WireClient->new($local)->query($statement)->{error}, undef, 'fetching works again');
wait_for($local, q{SELECT idle = 4 AND size = 4 FROM conpool.pools WHERE server = 'four'},
	'on the four connections');
is($local->safe_psql('postgres', q{SELECT connects FROM conpool.stat_pools WHERE server = 'four'}),
	4, 'that there were all the time');
count_remote($remote, 4, 'the remote has them, and no others');

done_testing();
