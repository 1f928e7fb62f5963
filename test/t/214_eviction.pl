# Places are few: pools of connection strings give way first, and without a
# place connections are not shared; a pool that finds no free slot gets that of
# the connection which has been idle for longest elsewhere.
use strict;
use warnings;

use ConpoolTest;
use Test::More;

my $remote = new_remote('remote');
my $local = new_local('local',
	conf => "conpool.max_pools = 3\nconpool.max_connections = 3");
$local->safe_psql('postgres', 'CREATE EXTENSION conpool');
create_server($local, $remote, 'one');

# the remote backend that answers, and what else was said
sub backend
{
	my ($server) = @_;
	my ($status, $out, $err) = $local->psql('postgres',
		"SELECT * FROM conpool.query('$server', 'SELECT pg_backend_pid()') AS t(pid int)");
	is($status, 0, 'a query') or diag $err;
	return ($out, $err);
}

sub adhoc { return conninfo($remote) . " application_name=$_[0]"; }


my ($first) = backend('one');
my ($adhoc) = backend(adhoc('a'));
is((backend(adhoc('a')))[0], $adhoc, 'an ad-hoc pool is shared');
backend(adhoc('b'));
is($local->safe_psql('postgres', 'SELECT count(*) FROM conpool.pools'), '3', 'no place is left');
count_remote($remote, 3);

# no place, but the ad-hoc pool unused for longest begins to close
my (undef, $warning) = backend(adhoc('c'));
like($warning, qr/WARNING:  conpool has no place for another pool/, 'not shared, and it says so');
wait_for($local, q{SELECT sum(size) = 2 FROM conpool.pools}, 'one connection was closed');
is((backend('one'))[0], $first, 'it was not that of the server');

# now there is a place
my ($pid, $said) = backend(adhoc('c'));
is($said, '', 'a place without a warning');
is((backend(adhoc('c')))[0], $pid, 'and shared');
count_remote($remote, 3);
is((backend('one'))[0], $first, 'the pool of the server is what it was');

# no slot is free: the longest idle connection of another pool gives way
create_server($local, $remote, 'two', options => q{checkout_timeout '10s'});
$local->safe_psql('postgres', q{
	BEGIN;
	SELECT conpool.checkout('one'), conpool.checkout('one'), conpool.checkout('one');
	COMMIT});
wait_for_pool($local, 'one', 'idle = 3');
count_remote($remote, 3, 'all slots are taken by one pool');
backend('two');
is($local->safe_psql('postgres', q{SELECT sum(size) FROM conpool.pools}), '3',
	'and never more than there are slots');
wait_for_pool($local, 'two', 'idle = 1');
wait_for_pool($local, 'one', 'idle = 2');
count_remote($remote, 3);

# with all slots leased, callers wait as they do for a full pool
my ($status, undef, $error) = $local->psql('postgres', q{
	SET conpool.checkout_timeout = '200ms';
	BEGIN;
	SELECT conpool.checkout('one'), conpool.checkout('one'), conpool.checkout('two');
	SELECT conpool.checkout('one')});
like($error, qr/timed out waiting for a connection of pool "one"/, 'no slot, no connection');
wait_for($local, 'SELECT count(*) = 0 FROM conpool.leases', 'all leases came back');
is((backend('one'))[0] ne '', 1, 'service goes on');

done_testing();
