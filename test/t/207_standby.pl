# A hot standby has pools as the primary has.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $remote = new_remote('remote');
my $primary = new_local('primary', init => { allows_streaming => 1 });
setup_local($primary, $remote);

# the vault's socket, for one, has no place in it
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup('standby');

my $remote_pid =
  q{SELECT * FROM conpool.query('remote', 'SELECT pg_backend_pid()') AS t(pid int)};
my $on_primary = $primary->safe_psql('postgres', $remote_pid);

is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'),
	't', 'a standby');
my $pid = $standby->safe_psql('postgres', $remote_pid);
isnt($pid, $on_primary, 'it has connections of its own');
is($standby->safe_psql('postgres', $remote_pid),
	$pid, 'which its sessions share');
is( $standby->safe_psql(
		'postgres', q{
		SELECT conpool.checkout('remote', 'session') AS lease \gset
		SELECT conpool.exec(:lease, 'CREATE TABLE made_by_standby ()');
		SELECT conpool.checkin(:lease)}),
	"CREATE TABLE\n",
	'leases work, and the remote can be written to');
wait_for_pool($standby, 'remote', 'size = 1 AND idle = 1');

$standby->promote;
is($standby->safe_psql('postgres', $remote_pid),
	$pid, 'the pool does not notice a promotion');

done_testing();
