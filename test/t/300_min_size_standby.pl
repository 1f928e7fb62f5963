# A hot standby opens the connections of min_size too: when it starts, when
# definitions change on the primary, and after its promotion.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);

my $remote = new_remote('remote');
my $primary = new_local('primary', init => { allows_streaming => 1 });
setup_local($primary, $remote);
create_server($primary, $remote, 'one', options => q{min_size '2'});
create_server($primary, $remote, 'dropped', options => q{min_size '1'});
$primary->safe_psql('postgres', 'CREATE DATABASE gone');
setup_local($primary, $remote, 'gone');
create_server($primary, $remote, 'in_gone', dbname => 'gone', options => q{min_size '1'});
wait_for_pool($primary, $_, 'size = min_size AND idle = min_size') for qw(one dropped in_gone);

$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'conpool.refresh_interval = 1s');

sub filled
{
	my ($server, $size, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	wait_for_pool($standby, $server, "size = $size AND idle = $size", $what);
	(my $figure = $what) =~ tr/ /_/;
	note sprintf 'figure: standby_%s = %.2f s', $figure, time - $start;
	return;
}

# --- at its start: only the remote is asked -----------------------------------

$standby->start;
count_remote($remote, 8, 'at its start it has as many connections as the primary');
is($standby->safe_psql('postgres',
		q{SELECT sum(idle) || ' ' || sum(dials) || ' ' || sum(checkouts)
		  FROM conpool.pools JOIN conpool.stat_pools USING (server, database, role)}),
	'4 4 0', 'of its own, and no session has asked for them');

# --- definitions change on the primary ------------------------------------------

create_server($primary, $remote, 'two', options => q{min_size '2'});
$primary->safe_psql('postgres', q{
	ALTER SERVER one OPTIONS (SET min_size '3');
	DROP SERVER dropped CASCADE;
});
my $start = time;
$primary->safe_psql('postgres', 'DROP DATABASE gone');
$primary->wait_for_catchup('standby');
cmp_ok(time - $start, '<', 20, 'a database that has pools there can be dropped');
filled('two', 2, 'created');
filled('one', 3, 'altered');
wait_for(
	$standby,
	q{SELECT count(*) = 0 FROM conpool.pools WHERE server IN ('dropped', 'in_gone')},
	'what is dropped goes');

# --- a promotion -------------------------------------------------------------------

# What arrives just before it is seen all the same, even if nobody looks; that
# the new setting has been read is seen by what it does to the others.
$standby->append_conf('postgresql.conf', "conpool.refresh_interval = 1h\nconpool.min_size = 1");
$standby->reload;
filled($_, 1, 'a setting') for qw(remote remote_admin);
create_server($primary, $remote, 'late', options => q{min_size '2'});
$primary->wait_for_catchup('standby');
my $pids = q{SELECT array_agg(remote_pid ORDER BY remote_pid) FROM conpool.connections
	WHERE server IN ('one', 'two')};
my $before = $standby->safe_psql('postgres', $pids);

$standby->promote;
filled('late', 2, 'promoted');
create_server($standby, $remote, 'new', options => q{min_size '2'});
filled('new', 2, 'created after promotion');
is($standby->safe_psql('postgres', $pids), $before, 'all others stay as they are');

my $lost = $standby->safe_psql('postgres',
	q{SELECT string_agg(remote_pid::text, ',') FROM conpool.connections WHERE server = 'one'});
$remote->safe_psql('postgres',
	"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ($lost)");
wait_for($standby,
	"SELECT count(*) = 3 FROM conpool.connections WHERE server = 'one' AND state = 'idle'
	 AND remote_pid NOT IN ($lost)",
	'losses are replaced');

done_testing();
