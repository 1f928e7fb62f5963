# The connections of min_size are opened without any session asking: when the
# server starts, in every database that has the extension, after losses, after
# warm(), and when servers, mappings, rights or settings change.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'max_prepared_transactions = 2');

# A pool has its connections, and more are not opened.
sub filled
{
	my ($server, $size, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for_pool($local, $server,
		"count(*) = 1 AND min(size) = $size AND min(idle) = $size AND min(min_size) = $size",
		"$what: $size connections");
}

sub has_no_pool
{
	my ($server, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($local->safe_psql('postgres',
			"SELECT count(*) FROM conpool.pools WHERE server = '$server'"), 0, $what);
}

# All that was committed up to now has been read, and nothing more will be.
my $probes = 0;
sub everything_is_read
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $name = 'probe' . ++$probes;
	create_server($local, $remote, $name, options => q{min_size '1'});
	filled($name, 1, 'the next server');
	$local->safe_psql('postgres', "DROP SERVER $name CASCADE");
	return wait_for($local, "SELECT count(*) = 0 FROM conpool.pools WHERE server = '$name'",
		'the next server goes');
}

# What creates a server, in one statement string.
sub definition
{
	my ($name, $min_size) = @_;
	my $port = $remote->port;
	return "CREATE SERVER $name FOREIGN DATA WRAPPER conpool OPTIONS
			(host '127.0.0.1', port '$port', dbname 'conpool_remote', min_size '$min_size');
		CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS
			(user 'regress_remote', password 'remote-secret')";
}

# --- at the server's start, and after losses --------------------------------

# Each database has a remote role of its own: only the remote is asked, for a
# session here could have opened them.
$local->safe_psql('postgres', "CREATE DATABASE $_") for qw(second without);
setup_local($local, $remote, $_) for qw(postgres second);
$local->stop;
$local->start;
my $start = time;
is(remote_backends($remote), 0, 'no server with min_size: no connection');

create_server($local, $remote, 'first', options => q{min_size '2'});
create_server($local, $remote, 'second', dbname => 'second', user => 'regress_remote_two',
	options => q{min_size '3'});
$local->restart;
$start = time;
count_remote($remote, 2, 'after a restart: one database', 'regress_remote');
count_remote($remote, 3, 'after a restart: another database', 'regress_remote_two');
note sprintf 'figure: min_size_after_start = %.2f s', time - $start;

my $ours = q{usename IN ('regress_remote', 'regress_remote_two')};
my $lost = $remote->safe_psql('postgres',
	"SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE $ours");
$start = time;
is($remote->safe_psql('postgres',
		"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE $ours"),
	5, 'all are lost');
wait_for(
	$remote,
	"SELECT count(*) FILTER (WHERE usename = 'regress_remote') = 2
		AND count(*) FILTER (WHERE usename = 'regress_remote_two') = 3
	 FROM pg_stat_activity WHERE pid NOT IN ($lost)",
	'and are replaced');
note sprintf 'figure: min_size_after_loss = %.2f s', time - $start;

is($local->safe_psql('postgres',
		q{SELECT sum(checkouts) || ' ' || sum(dials) || ' ' || sum(connects) FROM conpool.stat_pools}),
	'0 10 10', 'no session has asked for any of them');

# --- a remote that does not know the role yet; to be continued at the end -----

# In the other database, since with each retry the definitions are read again.
$local->safe_psql('second', definition('warmed', 2));
$local->safe_psql('second', q{ALTER USER MAPPING FOR CURRENT_USER SERVER warmed
	OPTIONS (SET user 'regress_remote_late')});

# --- definitions change: each transaction counts when it commits ---------------

my ($a, $b) = map { WireClient->new($local) } 1 .. 2;

$local->safe_psql('postgres', definition('created', 2));
filled('created', 2, 'a server that is created');

$a->query('BEGIN; ' . definition('uncommitted', 2));
$b->query('BEGIN; ' . definition('rolled_back', 2));
$b->query('ROLLBACK');
$b->query('BEGIN; ' . definition('prepared', 2) . q{; PREPARE TRANSACTION 'one'});
$b->query('BEGIN; ' . definition('undone', 2) . q{; PREPARE TRANSACTION 'two'});
$b->query(join '; ', 'BEGIN', 'SAVEPOINT a', definition('released', 2), 'RELEASE a',
	'SAVEPOINT b', definition('rolled_back_to', 2), 'ROLLBACK TO b', 'COMMIT');
$b->query(q{DO $$ BEGIN EXECUTE $x$} . definition('from_a_block', 2)
	  . q{$x$; BEGIN RAISE 'error'; EXCEPTION WHEN OTHERS THEN NULL; END; END $$});
filled('released', 2, 'a savepoint that is released');
filled('from_a_block', 2, 'a statement within a block');
everything_is_read();
has_no_pool($_, "$_: there is nothing")
  for qw(uncommitted rolled_back prepared undone rolled_back_to);

$a->query('COMMIT');
filled('uncommitted', 2, 'a transaction that commits late');
everything_is_read();
$a->query(q{COMMIT PREPARED 'one'});
filled('prepared', 2, 'a transaction that had been prepared');
$a->query(q{ROLLBACK PREPARED 'two'});

# --- servers and mappings are altered --------------------------------------------

$a->query(q{ALTER SERVER created OPTIONS (SET min_size '4')});
filled('created', 4, 'a size that grows');
my $pids = q{SELECT array_agg(remote_pid) FROM conpool.connections WHERE server = 'created'};
my $before = $local->safe_psql('postgres', $pids);
$a->query(q{ALTER SERVER created OPTIONS (SET min_size '5')});
filled('created', 5, 'and grows');
is($local->safe_psql('postgres', "SELECT '$before' <@ ($pids)"),
	't', 'nothing is reconnected for it');

$a->query(q{ALTER USER MAPPING FOR CURRENT_USER SERVER released OPTIONS (ADD min_size '3')});
filled('released', 3, "a size on the mapping beats the server's");

create_server($local, $remote, 'too_much', options => q{max_size '2'});
$a->query(q{ALTER USER MAPPING FOR CURRENT_USER SERVER too_much OPTIONS (ADD min_size '9')});
filled('too_much', 2, 'min_size above max_size');

# --- which mappings ----------------------------------------------------------------

$a->query(q{CREATE ROLE app; CREATE ROLE grp; GRANT grp TO app});
$a->query(q{CREATE USER MAPPING FOR app SERVER first OPTIONS
	(user 'regress_remote', password 'remote-secret')});
$a->query(q{CREATE USER MAPPING FOR PUBLIC SERVER first OPTIONS
	(user 'regress_remote', password 'remote-secret', min_size '1')});
$a->query(q{GRANT USAGE ON FOREIGN SERVER first TO grp});
wait_for(
	$local,
	q{SELECT string_agg(role || ' ' || idle, ', ' ORDER BY role) = 'app 2, postgres 2'
	  FROM conpool.pools WHERE server = 'first'},
	'one pool for each role with a mapping and USAGE, none for PUBLIC');

$a->query(q{CREATE SERVER refers FOREIGN DATA WRAPPER conpool
	OPTIONS (server 'remote', min_size '2')});
filled('refers', 2, q{mappings of the server that option "server" names});
has_no_pool('remote', 'that one has no min_size');

everything_is_read();
is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.pools WHERE role = 'public'}),
	0, 'still no pool for PUBLIC');
is($local->safe_psql('without', q{SELECT count(*) FROM pg_extension WHERE extname = 'conpool'}),
	0, 'a database without the extension troubles nobody');

# --- settings ------------------------------------------------------------------------

create_server($local, $remote, 'plain');
everything_is_read();
has_no_pool('plain', 'a server without min_size');
$local->append_conf('postgresql.conf', 'conpool.min_size = 1');
$local->reload;
filled('plain', 1, 'conpool.min_size');

# --- warm() forgets failures -----------------------------------------------------------

wait_for_pool(
	$local,
	'warmed',
	q{upkeep_error_sqlstate = '28P01' AND upkeep_next_try > clock_timestamp() + interval '3 s'},
	'what fails for long is tried less and less');
my $next = $local->safe_psql('postgres',
	q{SELECT upkeep_next_try FROM conpool.pools WHERE server = 'warmed'});
$remote->safe_psql('postgres', q{CREATE ROLE regress_remote_late LOGIN PASSWORD 'remote-secret'});
$local->safe_psql('second', q{SELECT conpool.warm('warmed')});
filled('warmed', 2, 'after warm()');
is($local->safe_psql('postgres',
		qq{SELECT bool_and(opened_at < '$next') FROM conpool.connections WHERE server = 'warmed'}),
	't', 'warm() does not wait for the next try');
wait_for_pool($local, 'warmed', 'upkeep_error IS NULL AND upkeep_error_sqlstate IS NULL
	AND upkeep_error_at IS NULL AND upkeep_next_try IS NULL', 'no reason is left');

done_testing();
