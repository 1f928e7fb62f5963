# Why a pool does not have the connections of min_size can be read in the view
# "pools"; and when the cause has been removed, it gets them by itself, and the
# reason goes away.
use strict;
use warnings;

use ConpoolTest;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $remote = new_remote('remote');
my $other = new_remote('other');
my $local = new_local('local', conf => 'max_worker_processes = 8');
setup_local($local, $remote);
my $client = WireClient->new($local);

sub run
{
	my ($sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $result = $client->query($sql);
	is($result->{error}, undef, $sql =~ s/\s+/ /gr) or diag $result->{message};
	return $result->{rows}[0][0];
}

# A pool has less than it should, for that reason.
sub fails
{
	my ($server, $sqlstate, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$sqlstate = $sqlstate ? "= '$sqlstate'" : 'IS NULL';
	wait_for_pool(
		$local,
		$server,
		"size - connecting < 2 AND upkeep_error_sqlstate $sqlstate AND upkeep_error ~ '$message'",
		"$server: $message");
	return wait_for_pool(
		$local,
		$server,
		q{upkeep_error_at BETWEEN clock_timestamp() - interval '1 min' AND clock_timestamp()
		  AND coalesce(upkeep_next_try, upkeep_error_at)
			  BETWEEN upkeep_error_at - interval '1 s' AND upkeep_error_at + interval '31 s'},
		"$server: since when, and when it is tried again");
}

# It has all connections, and no reason is left.
sub full
{
	my ($server, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for_pool(
		$local,
		$server,
		'idle = 2 AND size = 2 AND upkeep_error_at IS NULL AND upkeep_error IS NULL
		 AND upkeep_error_sqlstate IS NULL AND upkeep_next_try IS NULL',
		"$server: " . ($what // 'all connections are there'));
}

# The same again, now that the cause has been removed.
sub recovers
{
	my ($server, $figure) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	full($server, 'recovers by itself');
	note sprintf 'figure: min_size_after_%s = %.2f s', $figure // $server, time - $start;
	return;
}

my %two = (options => q{min_size '2'});

# --- rights and logins ------------------------------------------------------------

run(q{CREATE ROLE app});
create_server($local, $remote, 'login_refused', %two);
run(q{ALTER USER MAPPING FOR postgres SERVER login_refused OPTIONS (SET password 'wrong')});
create_server($local, $remote, 'unknown_there', %two);
run(q{ALTER USER MAPPING FOR postgres SERVER unknown_there OPTIONS (SET user 'regress_late')});
create_server($local, $remote, 'no_room', user => 'regress_remote_two', %two);
$remote->safe_psql('postgres', 'ALTER ROLE regress_remote_two CONNECTION LIMIT 0');
create_server($local, $remote, 'no_usage', for => 'app', %two);
create_server($local, $remote, 'no_password', for => 'app', %two);
run(q{GRANT USAGE ON FOREIGN SERVER no_password TO app});
run(q{ALTER USER MAPPING FOR app SERVER no_password OPTIONS (DROP password)});
create_server($local, $remote, 'password_not_used', for => 'app', %two);
run(q{GRANT USAGE ON FOREIGN SERVER password_not_used TO app});
run(sprintf q{ALTER SERVER password_not_used OPTIONS (SET host '%s')}, $remote->host);

fails('login_refused', '28P01', 'password authentication failed for user "regress_remote"');
fails('unknown_there', '28P01', 'password authentication failed for user "regress_late"');
fails('no_room', '53300', 'too many connections for role');
fails('no_usage', '42501', 'permission denied for foreign server no_usage');
fails('no_password', '2F003', 'password is required.*user mapping');
fails('password_not_used', '2F003', 'password is required.*did not ask');

run(q{ALTER USER MAPPING FOR postgres SERVER login_refused OPTIONS (SET password 'remote-secret')});
recovers('login_refused');
$remote->safe_psql('postgres', q{CREATE ROLE regress_late LOGIN PASSWORD 'remote-secret'});
recovers('unknown_there');
$remote->safe_psql('postgres', 'ALTER ROLE regress_remote_two CONNECTION LIMIT -1');
recovers('no_room');

# With each look the delay grows; but a definition that is changed counts at once.
my $next;
wait_until(
	sub {
		$client->query(q{ALTER SERVER no_usage OPTIONS (SET min_size '2')});
		$next = $client->query(q{SELECT upkeep_next_try FROM conpool.pools WHERE server = 'no_usage'
			AND upkeep_next_try > clock_timestamp() + interval '5 s'})->{rows}[0][0];
	},
	'no_usage: tried less and less');
run(q{GRANT USAGE ON FOREIGN SERVER no_usage TO app});
recovers('no_usage');
is(run(qq{SELECT bool_and(opened_at < '$next') FROM conpool.connections
	WHERE server = 'no_usage'}), 't', 'before the time of the next try');
run(q{ALTER USER MAPPING FOR app SERVER no_password OPTIONS (ADD password 'remote-secret')});
recovers('no_password');
run(q{ALTER USER MAPPING FOR app SERVER password_not_used OPTIONS (ADD password_required 'false')});
recovers('password_not_used');

# --- the remote ---------------------------------------------------------------------

create_server($local, $other, 'remote_down', %two);
full('remote_down');
$other->stop('immediate');
fails('remote_down', '', 'Connection refused');
$other->start;
recovers('remote_down');

# A host that never answers is no failure yet; but when the definition changes,
# nobody waits for it any longer.
my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 10);
create_server($local, $remote, 'silent', options => q{min_size '2', connect_timeout '100'});
run(sprintf q{ALTER SERVER silent OPTIONS (SET port '%d')}, $silent->sockport);
wait_for_pool($local, 'silent', 'connecting = 1 AND size = 1', 'silent: is waited for');
my $start = time;
run(sprintf q{ALTER SERVER silent OPTIONS (SET port '%d')}, $remote->port);
recovers('silent');
cmp_ok(time - $start, '<', 30, 'silent: long before connect_timeout');

my $dir = $other->data_dir;
SKIP:
{
	my $made = eval {
		run_log(
			[
				'openssl', 'req', '-new', '-x509', '-days', '2', '-nodes',
				'-newkey', 'rsa:2048', '-subj', '/CN=remote',
				'-keyout', "$dir/server.key", '-out', "$dir/server.crt"
			]);
	};
	skip 'needs openssl', 2 unless $made;
	chmod 0600, "$dir/server.key";
	$other->append_conf('postgresql.conf', 'ssl = on');
	$other->reload;
	# where nothing can be done with them
	my $without = new_local('without', conf => 'conpool.tunnel_workers = 0');
	setup_local($without, $remote);
	create_server($without, $other, 'encrypted', %two);
	wait_for_pool($without, 'encrypted',
		q{size = 0 AND upkeep_error ~ 'connections are encrypted.*conpool.tunnel_workers is 0'},
		'encrypted: says why');
	$other->append_conf('postgresql.conf', 'ssl = off');
	$other->reload;
	wait_for_pool($without, 'encrypted', 'idle = 2 AND upkeep_error IS NULL', 'encrypted: no more');
	$without->stop;
}

# --- the database ---------------------------------------------------------------------

$local->safe_psql('postgres', 'CREATE DATABASE closed');
setup_local($local, $remote, 'closed');
create_server($local, $remote, 'in_closed', dbname => 'closed', %two);
full('in_closed');
run(q{ALTER DATABASE closed ALLOW_CONNECTIONS false});
my $lost = $local->safe_psql('postgres',
	q{SELECT string_agg(remote_pid::text, ',') FROM conpool.connections WHERE server = 'in_closed'});
$remote->safe_psql('postgres',
	"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ($lost)");
fails('in_closed', '', 'database does not accept connections');
run(q{ALTER DATABASE closed ALLOW_CONNECTIONS true});
recovers('in_closed');

# --- background workers ------------------------------------------------------------------

# A session that takes a worker, if there is one, until it is cancelled.
sub take_worker
{
	my $taker = WireClient->new($local);
	$taker->query(q{SELECT set_config(name, 'on', false) FROM pg_settings
		WHERE name IN ('force_parallel_mode', 'debug_parallel_query')});
	$taker->send('SELECT pg_sleep(1000)');
	return $taker;
}

# The first slots are those of broker and tunnel, and of PostgreSQL's own launcher.
$local->append_conf('postgresql.conf', 'max_worker_processes = 5');
$local->restart;
$client = WireClient->new($local);
create_server($local, $remote, 'no_worker', options => q{min_size '2', max_size '2'});
full('no_worker');
my @takers = map { take_worker() } 1 .. 4;
wait_for(
	$local,
	q{SELECT count(*) FILTER (WHERE wait_event = 'PgSleep') >= 4
		AND count(*) FILTER (WHERE backend_type = 'parallel worker') >= 1
	  FROM pg_stat_activity},
	'no worker is left');
$local->safe_psql('postgres', q{SELECT conpool.close_idle('no_worker')});
fails('no_worker', '', 'no free slot \(max_worker_processes\)');
is(run(q{SELECT * FROM conpool.query('no_worker', 'SELECT 1') AS t(a int)}),
	1, 'sessions have connections all the same');
$_->cancel for @takers;
recovers('no_worker');

$local->append_conf('postgresql.conf', 'max_worker_processes = 3');
$local->restart;
$client = WireClient->new($local);
run(q{SELECT * FROM conpool.query('no_worker', 'SELECT 1') AS t(a int)});
wait_for_pool($local, 'no_worker', 'idle = 1');
fails('no_worker', '', 'no free slot \(max_worker_processes\)');
is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.pools WHERE size > 0}),
	1, 'no other pool has any: nobody has used it, and nobody can read its definition');
$local->append_conf('postgresql.conf', 'max_worker_processes = 8');
$local->restart;
recovers('no_worker', 'too_few_worker_processes');

done_testing();
