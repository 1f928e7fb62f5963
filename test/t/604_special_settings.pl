# What was once wrong where prepared transactions are on, where conpool has few slots, and
# where a remote says things that it rarely says: a request outlives PREPARE TRANSACTION,
# dblink_connect() leaves slots for other pools, try_map() has a row for everything that a
# remote refuses.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(message ready);
use Test::More;
use WireClient;

my $slots = 20;
my $remote = new_remote('remote');
my $local = new_local('local', conf => qq{
max_prepared_transactions = 5
conpool.max_connections = $slots
});
setup_local($local, $remote);
create_server($local, $remote, $_, options => q{pool_mode 'transaction'}) for qw(a b);
create_server($local, $remote, 'narrow', options => q{max_size '2', checkout_timeout '500ms'});
create_server($local, $remote, 'other', options => q{max_size '5', checkout_timeout '500ms'});
$local->safe_psql('postgres', 'CREATE EXTENSION conpool_dblink');

my $client = WireClient->new($local);

# The first value that a statement returns, or its error.
sub value
{
	my ($sql) = @_;
	my $result = $client->query($sql);
	return $result->{error} ? "$result->{error}: $result->{message}" : $result->{rows}[0][0];
}

# --- requests and PREPARE TRANSACTION -------------------------------------------

my $lease = value(q{SELECT conpool.checkout('other', 'session')});
$client->query('BEGIN');
my $request = value("SELECT conpool.send($lease, 'SELECT 42 AS a')");
is($client->query(q{PREPARE TRANSACTION 'kept'})->{error}, undef,
	'a transaction that has sent a request on a lease of the session is prepared');
$client->query('BEGIN');
is($client->query('SELECT 1/0')->{error}, '22012', 'a later one fails');
$client->query('ROLLBACK');
is(value("SELECT * FROM conpool.result($request) AS t(a int)"), '42', 'the request goes on');

# the same with what happens in a subtransaction
$client->query('BEGIN; SAVEPOINT s');
$request = value("SELECT conpool.send($lease, 'SELECT 43 AS a')");
$client->query(q{RELEASE s; PREPARE TRANSACTION 'too'});
$client->query('BEGIN; SAVEPOINT s; SAVEPOINT t; SELECT 1/0');
$client->query('ROLLBACK TO s');
$client->query('ROLLBACK');
is(value("SELECT * FROM conpool.result($request) AS t(a int)"), '43', 'so does another');
is($client->query($_)->{error}, undef, $_) for q{COMMIT PREPARED 'kept'}, q{ROLLBACK PREPARED 'too'};
is(value("SELECT conpool.checkin($lease)"), '', 'the lease is given back');

# --- connections beyond max_size ------------------------------------------------

wait_for($local, q{SELECT sum(leased + resetting + closing) = 0 FROM conpool.pools},
	'all is at rest');
my $refused;
my $connected = 0;
while ($connected < $slots && !$refused)
{
	my $result = $client->query("SELECT dblink_connect('c$connected', 'narrow')");
	$refused = $result if $result->{error};
	$connected++ unless $refused;
}
note "figure: connections of one session, of $slots = $connected";
cmp_ok($connected, '>', 2, 'one session takes more than max_size by dblink_connect()');
cmp_ok($connected, '<=', $slots * 3 / 4, 'but not the last quarter of all slots');
like($refused->{message}, qr/"narrow"/, 'what is beyond is refused');
is(WireClient->new($local)->query(q{SELECT dblink_connect('c', 'narrow')})->{error},
	'53300', 'to another session as well, which has waited');
is(value(q{SELECT count(*) FROM conpool.map('{other, other, other}', 'SELECT 1')}), '3',
	'the session has connections of other pools');
is(WireClient->new($local)->query(
		q{SELECT a FROM conpool.checkout('other', 'session'), conpool.query('other', 'SELECT 1') AS t(a int)})
	  ->{rows}[0][0], '1', 'so have others');
my $overflowed = $connected - 2;
is($local->safe_psql('postgres', q{SELECT overflowed FROM conpool.stat_pools WHERE server = 'narrow'}),
	$overflowed, 'they are counted');
is(value('SELECT count(dblink_disconnect(name)) FROM unnest(dblink_get_connections()) AS name'),
	$connected, 'all are given back');
wait_for_pool($local, 'narrow', 'size <= 2 AND leased = 0', 'those beyond max_size are closed');

# --- a remote that cancels what nobody asked it to ------------------------------

# A query_canceled that is the remote's, and no cancel of this session.
sub refuse
{
	my ($peer, $sql) = @_;
	return $peer->send(
		message('E', join "\0", 'SERROR', 'VERROR', 'C57014', 'Mnot this one', '', '') . ready());
}
my $fake = FakeServer->new({ fake => { answer => \&refuse } });
my $port = $fake->port;
$local->safe_psql(
	'postgres', qq{
	CREATE SERVER fake FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '$port', dbname 'fake', sslmode 'disable');
	CREATE USER MAPPING FOR CURRENT_USER SERVER fake OPTIONS (user 'fake', password 'fake')});

# the statement's answer, and that of START TRANSACTION
foreach my $mode (qw(statement transaction))
{
	$client->query("SET conpool.pool_mode = '$mode'");
	my $result =
	  $client->query(q{SELECT * FROM conpool.try_map('{a, fake, b}', 'SELECT 1 AS a') ORDER BY 1});
	is($result->{error}, undef, "pool_mode $mode: try_map() does not fail");
	is_deeply(
		$result->{rows},
		[
			[ 'a', '{"a": 1}', undef, undef ],
			[ 'b', '{"a": 1}', undef, undef ],
			[ 'fake', undef, '57014', 'not this one' ]
		],
		"pool_mode $mode: each server has its row");
	$result =
	  $client->query(q{SELECT * FROM conpool.map('{a, fake, b}', 'SELECT 1 AS a')});
	is($result->{error}, '57014', "pool_mode $mode: map() does");
}
wait_for($local, q{SELECT sum(leased) = 0 FROM conpool.pools}, 'no lease is left');

done_testing();
