# Pools go with what they are made of: database, server, user mapping, role,
# extension. Their connections are closed, leased ones when they come back. A
# DROP that is rolled back changes nothing; with a new name the pool goes on.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'max_prepared_transactions = 2');
setup_local($local, $remote);
my $client = WireClient->new($local);
my $other = WireClient->new($local);

sub run
{
	my ($sql, $by) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $result = ($by // $client)->query($sql);
	is($result->{error}, undef, $sql =~ s/\s+/ /gr =~ s/password=\S+//r) or diag $result->{message};
	return $result->{rows}[0][0];
}

# The pool of a server, or of a role: its connections there, as a list of PIDs,
# and the same with its counters.
sub pids
{
	my ($where) = @_;
	return $other->query("SELECT coalesce(string_agg(remote_pid::text, ',' ORDER BY remote_pid), '')
		FROM conpool.connections WHERE $where AND state <> 'closing'")->{rows}[0][0];
}

sub pool
{
	my ($where) = @_;
	my $counters = $other->query("SELECT string_agg(format('%s checkouts, %s connects since %s',
			checkouts, connects, stats_reset), '; ')
		FROM conpool.stat_pools WHERE $where")->{rows}[0][0] // 'no pool';
	return pids($where) . ": $counters";
}

# No trace of it, on either side.
sub gone
{
	my ($where, $pids, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	isnt($pids, '', "$what: there were connections");
	wait_for($local, "SELECT count(*) = 0 FROM conpool.pools WHERE $where", "$what: the pool goes");
	return wait_for($remote,
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ($pids)",
		"$what: the remote has seen its connections go");
}

# The definitions have been read since: a server that is made now has its pool.
my $probes = 0;

sub everything_is_read
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $name = 'probe' . ++$probes;
	create_server($local, $remote, $name, options => q{min_size '1'});
	wait_for_pool($local, $name, 'idle = 1', 'definitions are read');
	$local->safe_psql('postgres', "DROP SERVER $name CASCADE");
	return wait_for($local, "SELECT count(*) = 0 FROM conpool.pools WHERE server = '$name'",
		'and again');
}

# Each with two connections, one of which this session has adopted.
sub create_pool
{
	my ($name, %opt) = @_;
	create_server($local, $remote, $name, options => q{min_size '2'}, %opt);
	my $dbname = $opt{dbname} // 'postgres';
	wait_for($local, "SELECT idle = 2 FROM conpool.pools
		WHERE server = '$name' AND database = '$dbname'", "$name: is there");
	$client->query("SELECT conpool.exec('$name', 'SELECT 1')") unless $opt{dbname};
	return;
}

# --- what is dropped, by those who do not use it -----------------------------------

create_pool($_) for qw(dropped kept unmapped replaced prepared);
my %pids = map { $_ => pids("server = '$_'") } qw(dropped kept unmapped replaced prepared);
my $kept = pool(q{server = 'kept'});

run(q{BEGIN; DROP SERVER prepared CASCADE; PREPARE TRANSACTION 'drop'}, $other);
run(q{DROP SERVER dropped CASCADE}, $other);
run(q{DROP USER MAPPING FOR postgres SERVER unmapped}, $other);
run(q{BEGIN; DROP USER MAPPING FOR postgres SERVER replaced;
	CREATE USER MAPPING FOR postgres SERVER replaced OPTIONS
		(user 'regress_remote_two', password 'two-secret'); COMMIT}, $other);
my $start = time;
gone(q{server = 'dropped'}, $pids{dropped}, 'a server');
note sprintf 'figure: dropped_server_gone = %.2f s', time - $start;
gone(q{server = 'unmapped'}, $pids{unmapped}, 'a mapping');
wait_for($remote, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ($pids{replaced})",
	'a mapping that is replaced: the connections go');
wait_for(
	$local,
	q{SELECT count(*) = 1 AND min(idle) = 2 AND min(checkouts) = 0 AND min(connects) = 2
	  FROM conpool.pools JOIN conpool.stat_pools USING (server, database, role)
	  WHERE server = 'replaced'},
	'a mapping that is replaced: there is a pool of its own for the new one');
count_remote($remote, 2, 'with its connections', 'regress_remote_two');
is(pids(q{server = 'prepared'}), $pids{prepared}, 'a DROP that is prepared is none yet');
run(q{COMMIT PREPARED 'drop'}, $other);
gone(q{server = 'prepared'}, $pids{prepared}, 'a server, by a transaction that was prepared');

# --- roles ------------------------------------------------------------------------------

run('CREATE ROLE app LOGIN; CREATE ROLE owner; GRANT USAGE ON FOREIGN DATA WRAPPER conpool TO owner');
create_server($local, $remote, 'of_app', for => 'app', options => q{min_size '2'});
run(q{GRANT USAGE ON FOREIGN SERVER of_app TO app});
wait_for_pool($local, 'of_app', 'idle = 2');
my $app = WireClient->new($local, user => 'app');
my $conninfo = conninfo($remote);
run("SELECT conpool.exec('$conninfo', 'SELECT 1')", $app);
run("SELECT conpool.exec('of_app', 'SELECT 1')", $app);
$app->hang_up;
my $string = run(q{SELECT server FROM conpool.pools WHERE role = 'app' AND server <> 'of_app'});
my $ad_hoc = pids("server = '$string'");
my $mapped = pids(q{server = 'of_app'});
is($other->query('DROP ROLE app')->{error}, '2BP01', 'a role that has a mapping cannot be dropped');
run('DROP OWNED BY app', $other);
gone(q{server = 'of_app'}, $mapped, 'what a role owns');
is(pids("server = '$string'"), $ad_hoc, 'its connection string is not among it');
run('DROP ROLE app', $other);
gone("server = '$string' OR role = 'app'", $ad_hoc, 'a role with a connection string');

create_pool('owned');
my $owned = pids(q{server = 'owned'});
run('ALTER SERVER owned OWNER TO owner', $other);
run('DROP OWNED BY owner CASCADE', $other);
gone(q{server = 'owned'}, $owned, 'servers of an owner');

# --- leased ones -----------------------------------------------------------------------------

create_pool('leased');
create_pool('leased_mapping');
foreach my $server (qw(leased leased_mapping))
{
	my $before = pids("server = '$server'");
	my $lease = run("SELECT conpool.checkout('$server', 'session')");
	my $pid = run("SELECT * FROM conpool.query($lease, 'SELECT pg_backend_pid()') AS t(pid int)");
	run($server eq 'leased' ? 'DROP SERVER leased CASCADE' :
		  'DROP USER MAPPING FOR postgres SERVER leased_mapping', $other);
	wait_for_pool($local, $server, 'dropped AND size = 1 AND leased = 1',
		"$server: only what is leased remains");
	wait_for($remote,
		"SELECT array_agg(pid) = '{$pid}' FROM pg_stat_activity WHERE pid IN ($before)",
		"$server: there as well");
	is(run("SELECT * FROM conpool.query($lease, 'SELECT pg_backend_pid()') AS t(pid int)"),
		$pid, "$server: the lease goes on");
	run("SELECT conpool.checkin($lease)");
	gone("server = '$server'", $before, $server);
}

# --- databases and the extension ------------------------------------------------------------------

foreach my $database (qw(gone forced bare))
{
	run("CREATE DATABASE $database");
	setup_local($local, $remote, $database);
	create_pool("in_$database", dbname => $database);
	$pids{$database} = pids("database = '$database'");
}
my %holder = map { $_ => WireClient->new($local, dbname => $_) } qw(forced bare);
foreach my $database (sort keys %holder)
{
	run("SELECT conpool.checkout('in_$database', 'session')", $holder{$database});
}

run('DROP DATABASE gone', $other);
gone(q{server = 'in_gone'}, $pids{gone}, 'a database');
is($other->query('DROP DATABASE forced')->{error}, '55006', 'a database that has sessions');
run('DROP DATABASE forced WITH (FORCE)', $other);
gone(q{server = 'in_forced'}, $pids{forced}, 'a database with a lease');

$local->safe_psql('bare', 'DROP EXTENSION conpool CASCADE');
wait_for_pool($local, 'in_bare', 'dropped AND size = 1 AND leased = 1',
	'the extension: only what is leased remains');
$holder{bare}->hang_up;
gone(q{server = 'in_bare'}, $pids{bare}, 'the extension');
is($local->safe_psql('bare', 'SELECT 1'), '1', 'its database is well');

# --- what is not dropped ----------------------------------------------------------------------------

is(pool(q{server = 'kept'}), $kept, 'another pool has not noticed any of this');

run(q{BEGIN; DROP SERVER kept CASCADE}, $other);
everything_is_read();
is(run(q{SELECT conpool.exec('kept', 'SELECT 1')}), 'SELECT 1',
	'while a DROP is not committed all others use the pool');
run('ROLLBACK', $other);
run(q{BEGIN; DROP USER MAPPING FOR postgres SERVER kept; ROLLBACK}, $other);
run(q{BEGIN; SAVEPOINT a; DROP EXTENSION conpool CASCADE; ROLLBACK TO a; COMMIT}, $other);
run(q{BEGIN; DROP SERVER kept CASCADE; PREPARE TRANSACTION 'no'}, $other);
run(q{ROLLBACK PREPARED 'no'}, $other);
everything_is_read();
is(pids(q{server = 'kept'}), $pids{kept}, 'a DROP that is rolled back closes nothing');
$kept = pool(q{server = 'kept'});
like($kept, qr/ 2 checkouts, 2 connects/, 'and forgets nothing');

# Its name is in what the remote sees of the connections, so they are replaced.
my ($since) = $kept =~ /(since .*)/;
run(q{ALTER SERVER kept RENAME TO renamed}, $other);
wait_for($remote, q{SELECT array_agg(DISTINCT application_name::text) = '{conpool postgres/renamed}'
	AND count(*) = 2 FROM pg_stat_activity WHERE application_name ~ '^conpool postgres/(kept|renamed)$'},
	'a server with a new name has connections of that name');
wait_for_pool($local, 'renamed', 'idle = 2 AND size = 2 AND NOT dropped');
like(pool(q{server = 'renamed'}), qr/: 2 checkouts, 4 connects \Q$since\E$/, 'and its counters');
is(pool(q{server = 'kept'}), ': no pool', 'its old name is forgotten');
my $renamed = pids(q{server = 'renamed'});
run(q{SELECT conpool.exec('renamed', 'SELECT 1')});
like(pool(q{server = 'renamed'}), qr/^$renamed: 3 checkouts, 4 connects/, 'and goes on with both');

done_testing();
