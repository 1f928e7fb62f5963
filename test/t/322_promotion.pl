# A hot standby that uses pools is promoted: leases, waiters and connections are
# what they were, upkeep goes on, and what has changed in the catalogs is seen.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $remote = new_remote('remote');
my $primary = new_local('primary', init => { allows_streaming => 1 });
setup_local($primary, $remote);
create_server($primary, $remote, 'kept', options => q{min_size '2'});
create_server($primary, $remote, 'loaded',
	user => 'regress_remote_two',
	options => q{max_size '2'});
create_server($primary, $remote, 'tight', options => q{max_size '1', checkout_timeout '1min'});

# It looks for itself at what has changed, but not while this test runs.
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'conpool.refresh_interval = 3600');
$standby->start;
$primary->wait_for_catchup('standby');
wait_for_pool($standby, 'kept', 'idle = 2', 'the standby has filled its pool');

my $query = q{SELECT * FROM conpool.query(%s, 'SELECT pg_backend_pid()') AS t(pid int)};

sub value
{
	my ($client, $sql) = @_;
	my $result = $client->query($sql);
	diag("$result->{error}: $result->{message}") if $result->{error};
	return $result->{rows}[0][0];
}

sub connections
{
	my ($server) = @_;
	return $standby->safe_psql('postgres',
		"SELECT string_agg(remote_pid::text, ',' ORDER BY remote_pid)
		 FROM conpool.connections WHERE server = '$server'");
}

# --- before: a lease of the session, one of a transaction, waiters, load

my ($holder, $reader, $waiter) = map { WireClient->new($standby) } 1 .. 3;
my $lease = value($holder, q{SELECT conpool.checkout('tight', 'session')});
my $pid = value($holder, sprintf $query, $lease);
$holder->query(qq{SELECT conpool.exec($lease, 'CREATE TEMP TABLE mine AS SELECT 1 AS a')});
$waiter->send(sprintf $query, q{'tight'});
wait_for_pool($standby, 'tight', 'waiting = 1');

$reader->query('BEGIN');
my $read_lease = value($reader, q{SELECT conpool.checkout('kept', 'transaction')});
my $read_pid = value($reader, sprintf $query, $read_lease);

my @load = (start_load($standby, 3, 'loaded'), start_load($standby, 1, 'loaded', fresh => 1));
wait_for($standby, q{SELECT checkouts > 20 FROM conpool.stat_pools WHERE server = 'loaded'},
	'the load runs');

# --- the primary goes, not without a last change

create_server($primary, $remote, 'late',
	user => 'regress_remote_admin',
	options => q{min_size '3'});
$primary->safe_psql('postgres', q{ALTER SERVER tight OPTIONS (SET max_size '2')});
$primary->wait_for_catchup('standby');
$primary->stop('immediate');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM conpool.pools WHERE server = 'late'}),
	'0', 'the standby has not looked yet');
my $kept = connections('kept');
my $broker = broker_pid($standby);
my $stats = $standby->safe_psql('postgres',
	q{SELECT connects, discarded FROM conpool.stat_pools WHERE server = 'loaded'});

my $start = time;
$standby->promote;
note sprintf 'figure: promotion = %.1f s', time - $start;

# --- after: all is as it was

is(value($holder, qq{SELECT * FROM conpool.query($lease, 'SELECT a FROM mine') AS t(a int)}),
	'1', 'a lease of the session goes on');
is(value($reader, sprintf $query, $read_lease), $read_pid, 'a lease of the transaction goes on');
is($reader->query('COMMIT')->{error}, undef, 'the transaction ends well');
is(broker_pid($standby), $broker, 'the broker is the same');
wait_for_pool($standby, 'kept', 'idle = 2');
is(connections('kept'), $kept, 'the connections are the same');

# --- what the standby had not seen yet

wait_for_pool($standby, 'late', 'idle = 3', 'a server made before the promotion is seen');
wait_for_pool($standby, 'tight', 'max_size = 2', 'a server altered before it, too');
my $got = $waiter->result->{rows}[0][0];
ok($got && $got != $pid, 'the waiter has a connection of its own');
is(value($holder, "SELECT conpool.checkin($lease)"), '', 'the lease is given back');
wait_for_pool($standby, 'tight', 'size = idle AND waiting = 0');

# --- load has not heard of it

my $seen = stop_workers(@load);
cmp_ok(delete $seen->{right}, '>', 0, 'the load goes on');
is_deeply($seen, {}, 'and had no error');
is( $standby->safe_psql('postgres',
		q{SELECT connects, discarded FROM conpool.stat_pools WHERE server = 'loaded'}),
	$stats,
	'nor was any connection replaced');

# --- upkeep goes on

$remote->safe_psql('postgres', "SELECT pg_terminate_backend(pid, 10000) FROM unnest('{$kept}'::int[]) pid");
wait_for($standby, qq{SELECT count(*) = 2 FROM conpool.connections
	WHERE server = 'kept' AND state = 'idle' AND remote_pid NOT IN ($kept)},
	'lost connections are replaced');

# --- and the new primary's own changes are seen

$standby->safe_psql('postgres', q{ALTER SERVER kept OPTIONS (SET min_size '4')});
wait_for_pool($standby, 'kept', 'idle = 4', 'an altered server');
create_server($standby, $remote, 'made', options => q{min_size '2'});
wait_for_pool($standby, 'made', 'idle = 2', 'a new server');
$standby->safe_psql('postgres', 'DROP SERVER late CASCADE');
count_remote($remote, 0, 'a dropped server', 'regress_remote_admin');
$standby->safe_psql('postgres', 'CREATE DATABASE other');
setup_local($standby, $remote, 'other');
create_server($standby, $remote, 'there', dbname => 'other', options => q{min_size '2'},
	user => 'regress_remote_admin');
count_remote($remote, 2, 'a server in a new database', 'regress_remote_admin');

done_testing();
