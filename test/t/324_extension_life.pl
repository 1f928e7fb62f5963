# The extension is updated, dropped and made again while its pools are in use:
# leases end when their time has come, and nothing is lost.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $slots = 12;
my $remote = new_remote('remote');
my $local = new_local('local', conf => "conpool.max_connections = $slots");
setup_local($local, $remote);    # in "postgres", which watches database "app"

sub make_servers
{
	create_server($local, $remote, 'kept', dbname => 'app', options => q{min_size '2'});
	create_server($local, $remote, 'loaded',
		dbname => 'app',
		user => 'regress_remote_two',
		options => q{max_size '2'});
	create_server($local, $remote, 'tight',
		dbname => 'app',
		user => 'regress_remote_admin',
		options => q{max_size '1', checkout_timeout '1min'});
	return;
}

$local->safe_psql('postgres', 'CREATE DATABASE app');
$local->safe_psql('app', q{CREATE EXTENSION conpool VERSION '1.0'});
make_servers();

sub session { return WireClient->new($local, dbname => 'app') }

sub value
{
	my ($client, $sql) = @_;
	my $result = $client->query($sql);
	diag("$result->{error}: $result->{message}") if $result->{error};
	return $result->{rows}[0][0];
}

my $query = q{SELECT * FROM conpool.query(%s, 'SELECT pg_backend_pid()') AS t(pid int)};

# What another database sees of the pools of this one.
sub wait_for_app
{
	my ($condition, $name) = @_;
	return wait_for($local,
		"SELECT $condition FROM conpool.pools WHERE database = 'app'", $name);
}

sub connections
{
	my ($server) = @_;
	return $local->safe_psql('postgres',
		"SELECT string_agg(remote_pid::text, ',' ORDER BY remote_pid)
		 FROM conpool.connections WHERE server = '$server'");
}

# --- an update, with leases, a waiter and load

count_remote($remote, 2, 'with version 1.0 a pool is filled, too', 'regress_remote');
my ($holder, $reader, $waiter, $admin) = map { session() } 1 .. 4;
my $lease = value($holder, q{SELECT conpool.checkout('tight', 'session')});
my $pid = value($holder, sprintf $query, $lease);
$waiter->send(sprintf $query, q{'tight'});
wait_for_app(q{bool_or(waiting = 1 AND server = 'tight')}, 'a session waits');
$reader->query('BEGIN');
my $read_lease = value($reader, q{SELECT conpool.checkout('kept')});
my $read_pid = value($reader, sprintf $query, $read_lease);
my @load = start_load($local, 3, 'loaded', dbname => 'app');
wait_for($local, q{SELECT checkouts > 20 FROM conpool.stat_pools WHERE server = 'loaded'},
	'the load runs');
my %before = map { $_ => connections($_) } qw(kept loaded tight);

$admin->query('BEGIN; ALTER EXTENSION conpool UPDATE');
$admin->query('ROLLBACK');
is(value($admin, q{SELECT size FROM conpool.pools WHERE server = 'tight'}),
	'1', 'an update that is rolled back: the old views work');
is($admin->query('SELECT breaker FROM conpool.pools')->{error},
	'42703', 'as they were');
is($admin->query('ALTER EXTENSION conpool UPDATE')->{error}, undef, 'an update');
is(value($admin, q{SELECT breaker FROM conpool.pools WHERE server = 'tight'}),
	'closed', 'the new views work');
is(value($holder, sprintf $query, $lease), $pid, 'a lease of a session goes on');
is(value($reader, sprintf $query, $read_lease), $read_pid, 'a lease of a transaction, too');
is(value($reader, q{SELECT waiting FROM conpool.pools WHERE server = 'tight'}),
	'1', 'in the transaction the new views are there, too');
$reader->query('COMMIT');
value($holder, "SELECT conpool.checkin($lease)");
is($waiter->result->{rows}[0][0], $pid, 'the waiter gets the connection');
my $seen = stop_workers(@load);
cmp_ok(delete $seen->{right}, '>', 20, 'the load goes on');
is_deeply($seen, {}, 'without an error');
wait_for_app('sum(size) = sum(idle)', 'all is at rest');
is(connections($_), $before{$_}, "no connection of $_ was replaced") for qw(kept loaded tight);

# --- dropped, and that rolled back

$lease = value($holder, q{SELECT conpool.checkout('tight', 'session')});
$admin->query('BEGIN; DROP EXTENSION conpool CASCADE');
is(value($holder, sprintf $query, $lease), $pid, 'dropped, not committed: a lease goes on');
is(value($waiter, sprintf $query, q{'kept'}) =~ /^\d+$/, 1, 'and others can use the pools');
$admin->query('ROLLBACK');
wait_for_app('count(*) = 3 AND NOT bool_or(dropped)', 'rolled back: the pools are there');
is(connections($_), $before{$_}, "rolled back: no connection of $_ was replaced")
  for qw(kept loaded tight);

# --- dropped, with leases here and elsewhere, a waiter, a statement that runs

$reader->query('BEGIN');
value($reader, q{SELECT conpool.checkout('kept')});
$waiter->send(sprintf $query, q{'tight'});
wait_for_app(q{bool_or(waiting = 1 AND server = 'tight')}, 'a session waits again');
my $runs = session();
$runs->send(q{SELECT * FROM conpool.query('kept', 'SELECT 1 FROM pg_sleep(2)') AS t(a int)});
wait_for($remote,
	q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, 'a statement runs');
@load = start_load($local, 2, 'loaded', dbname => 'app');
wait_for($local,
	q{SELECT count(*) > 0 FROM conpool.leases WHERE server = 'loaded'}, 'the load runs');

$admin->query('BEGIN');
my $own = value($admin, q{SELECT conpool.checkout('kept', 'session')});
value($admin, q{SELECT conpool.checkout('kept')});
my $result = $admin->query('DROP EXTENSION conpool CASCADE; COMMIT');
is($result->{error}, undef, 'dropped in a session that has leases');
is($admin->query(sprintf $query, $own)->{error}, '42883', 'there are no functions any more');
is($runs->result->{rows}[0][0], '1', 'a statement that ran ends well');
$seen = stop_workers(@load);
is_deeply([ grep { !/^(right$|3F000|42704|42883)/ } keys %$seen ],
	[], 'the load hears of nothing but that');
wait_for($local,
	q{SELECT count(*) = 3 FROM conpool.leases WHERE database = 'app'},
	'leases go on: two of sessions, one of an open transaction');
count_remote($remote, 3, 'all other connections are closed');
wait_for_app('bool_and(dropped)', 'the pools will go');
is($reader->query('COMMIT')->{error}, undef, 'the transaction ends');
wait_for($local,
	q{SELECT count(*) = 2 FROM conpool.leases WHERE database = 'app'}, 'with its lease');
count_remote($remote, 1, 'and its connection', 'regress_remote');
is($holder->query('DISCARD ALL')->{error}, undef, 'DISCARD ALL ends the lease of a session');
$result = $waiter->result;
ok($result->{rows}[0][0] || $result->{error}, 'the waiter waits no longer');
note $result->{error} ? "it got: $result->{message}" : 'it got a connection';
count_remote($remote, 0, 'the connection is closed', 'regress_remote_admin');

# --- made again, while one lease is still there

$local->safe_psql('app', 'CREATE EXTENSION conpool');
make_servers();
count_remote($remote, 3, 'made again: the pool is filled', 'regress_remote');
is(value($holder, sprintf $query, q{'tight'}) =~ /^\d+$/,
	1, 'made again: sessions that knew the old one use the new one');
is($admin->query(sprintf $query, $own)->{error}, undef, 'made again: the old lease can be used');
is($admin->query("SELECT conpool.checkin($own)")->{error}, undef, 'and given back');
count_remote($remote, 2, 'its connection is closed', 'regress_remote');
wait_for_app('count(*) = 2 AND NOT bool_or(dropped)', 'only the new pools are there');

# --- no slot is lost

$local->safe_psql('app', q{SELECT conpool.close_idle(s) FROM unnest('{loaded,tight}'::text[]) s});
$local->safe_psql('app', qq{ALTER SERVER kept OPTIONS (SET min_size '$slots', ADD max_size '$slots')});
wait_for_app("bool_or(idle = $slots AND server = 'kept')", 'no slot is lost');
$local->safe_psql('app', q{DROP EXTENSION conpool CASCADE});
count_remote($remote, 0, 'dropped without leases: all connections are closed');
wait_for_app('count(*) = 0', 'and the pools are gone');

done_testing();
