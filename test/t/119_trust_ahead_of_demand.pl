# Nobody asks for a connection that is opened ahead of demand. So it is not the
# role's rights alone that count, but of all who could have written what is
# followed: who owns a server is not lent the rights of those for whom he writes
# mappings, nor the mappings of servers that are none of his business; and what
# others may do in a database keeps nobody's connections from being opened.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(message);
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', conf => "autovacuum = off\nmax_worker_processes = 12");
my $port = $remote->port;
my $socket_dir = $local->host;
my $own_port = $local->port;

# A password file of the server's, and a remote that asks for what is in it.
my $passfile = $local->basedir . '/passfile';
append_to_file($passfile, "db1.internal:*:*:*:secret-of-the-server\n");
chmod 0600, $passfile;
{
	local $ENV{PGPASSFILE} = $passfile;
	$local->restart;
}
my $stolen = $local->basedir . '/stolen';
my $hostile = FakeServer->new(
	{
		evil => {
			greeting => sub {
				my ($peer) = @_;
				append_to_file($stolen, "connected\n");
				$peer->send(message('R', pack 'N', 3));
				sysread $peer, my $password, 1000;
				append_to_file($stolen, $password // '');
				return 0;
			}
		}
	});
my $evil_port = $hostile->port;

sub stolen { return -e $stolen ? slurp_file($stolen) : '' }

setup_local($local, $remote);
$local->safe_psql('postgres', q{
	CREATE ROLE mallory LOGIN;
	CREATE ROLE app LOGIN;
	GRANT USAGE ON FOREIGN DATA WRAPPER conpool TO mallory});

my $since;    # when something was last changed

sub now { return $local->safe_psql('postgres', 'SELECT clock_timestamp()') }

sub as_mallory
{
	my ($sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$since = now();
	my ($status, $out, $err) = $local->psql('postgres', $sql, extra_params => [ '-U', 'mallory' ]);
	unlike($err, qr/ERROR/, 'mallory: ' . ($sql =~ s/\s+/ /gr));
	return;
}

sub as_superuser
{
	my ($sql) = @_;
	$since = now();
	return $local->safe_psql('postgres', $sql);
}

# What a pool lacks it does not get, for that reason.
sub refused
{
	my ($server, $sqlstate, $message, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_for_pool($local, $server,
		"size = 0 AND upkeep_error_sqlstate = '$sqlstate' AND upkeep_error ~ '$message'
		 AND upkeep_error_at > '$since'",
		"$server: $what");
	return;
}

sub filled
{
	my ($server, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_for_pool($local, $server, 'idle = 2 AND upkeep_error IS NULL', "$server: $what");
	return;
}

sub no_own_sessions
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_for(
		$local,
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'conpool %'},
		$what);
	return;
}

my $not_superuser = 'the owner of server "%s" is not a superuser';

# --- a mapping for a superuser, by somebody else --------------------------------

as_mallory(qq{
	CREATE SERVER passfile FOREIGN DATA WRAPPER conpool OPTIONS (host 'db1.internal',
		hostaddr '127.0.0.1', port '$evil_port', dbname 'evil', min_size '2');
	CREATE USER MAPPING FOR postgres SERVER passfile OPTIONS (user 'postgres')});
refused('passfile', '2F003', sprintf($not_superuser, 'passfile'), 'no password file for it');
is(stolen(), '', 'the hostile server was not even connected to');

as_mallory(q{ALTER USER MAPPING FOR postgres SERVER passfile OPTIONS (ADD password '')});
refused('passfile', '2F003', sprintf($not_superuser, 'passfile'), 'an empty password is none');
is(stolen(), '', 'still nothing was sent');

as_mallory(q{ALTER USER MAPPING FOR postgres SERVER passfile OPTIONS (SET password 'given')});
wait_until(sub { stolen() =~ /given/ }, 'with a password in the mapping it is tried');
unlike(stolen(), qr/secret-of-the-server/, 'and that one is sent');
as_mallory('DROP SERVER passfile CASCADE');

as_mallory(qq{
	CREATE SERVER peer FOREIGN DATA WRAPPER conpool OPTIONS (host '$socket_dir',
		port '$own_port', dbname 'postgres', min_size '2');
	CREATE USER MAPPING FOR postgres SERVER peer OPTIONS (user 'postgres')});
refused('peer', '2F003', sprintf($not_superuser, 'peer'), 'no sessions by trust');
no_own_sessions('peer: none was opened');
as_mallory(q{ALTER USER MAPPING FOR postgres SERVER peer OPTIONS (ADD password 'given')});
refused('peer', '2F003', 'did not ask', 'not with a password that is not asked for');
no_own_sessions('peer: none is kept');
is(as_superuser(q{SELECT conpool.exec('peer', 'SELECT 1')}), 'SELECT 1',
	'a superuser uses it on demand as before');
as_superuser('SELECT conpool.close_idle(\'peer\')');

# --- by a superuser ---------------------------------------------------------------

as_superuser(q{
	ALTER USER MAPPING FOR postgres SERVER peer OPTIONS (DROP password);
	ALTER SERVER peer OWNER TO postgres});
filled('peer', 'if a superuser owns it, by trust');
as_mallory(q{CREATE SERVER alias FOREIGN DATA WRAPPER conpool
	OPTIONS (server 'peer', min_size '2')});
as_superuser('GRANT USAGE ON FOREIGN SERVER peer TO mallory');
refused('alias', '2F003', sprintf($not_superuser, 'alias'), 'but not by another name');
as_superuser('ALTER SERVER alias OWNER TO postgres');
filled('alias', 'unless that is a superuser\'s, too');
as_superuser('ALTER SERVER peer OWNER TO mallory');
as_superuser("SELECT conpool.close_idle('$_')") for qw(peer alias);
refused('peer', '2F003', sprintf($not_superuser, 'peer'), 'no more when it is not');
refused('alias', '2F003', sprintf($not_superuser, 'peer'), 'nor what refers to it');
as_superuser('DROP SERVER peer CASCADE; DROP SERVER alias');

unlink $stolen;
as_superuser(qq{
	CREATE SERVER control FOREIGN DATA WRAPPER conpool OPTIONS (host 'db1.internal',
		hostaddr '127.0.0.1', port '$evil_port', dbname 'evil', min_size '1');
	CREATE USER MAPPING FOR postgres SERVER control OPTIONS (user 'postgres')});
wait_until(sub { stolen() =~ /secret-of-the-server/ }, 'a superuser may have the file used');
as_superuser('DROP SERVER control CASCADE');

# --- a password that a superuser has waived ------------------------------------------

as_superuser(qq{
	CREATE SERVER waived FOREIGN DATA WRAPPER conpool OPTIONS (host '$socket_dir',
		port '$own_port', dbname 'postgres', min_size '2');
	GRANT USAGE ON FOREIGN SERVER waived TO app;
	CREATE USER MAPPING FOR app SERVER waived OPTIONS (user 'app', password_required 'false')});
filled('waived', 'of a superuser\'s server');
as_superuser(q{ALTER SERVER waived OWNER TO mallory;
	GRANT USAGE ON FOREIGN SERVER waived TO app});
as_superuser(q{SELECT conpool.close_idle('waived')});
refused('waived', '2F003', sprintf($not_superuser, 'waived'), 'not of one that others change');
as_superuser('DROP SERVER waived CASCADE');

# --- other servers' mappings ------------------------------------------------------------

create_server($local, $remote, 'books', for => 'app');
as_superuser('GRANT USAGE ON FOREIGN SERVER books TO app');
as_mallory(q{
	CREATE SERVER many FOREIGN DATA WRAPPER conpool OPTIONS (server 'books', min_size '2');
	GRANT USAGE ON FOREIGN SERVER many TO PUBLIC});
refused('many', '42501', 'permission denied for foreign server books.*"mallory"',
	'its owner may not use what it refers to');
count_remote($remote, 0, 'no connection with others\' credentials');
as_superuser('GRANT USAGE ON FOREIGN SERVER books TO mallory');
filled('many', 'its owner may');
as_mallory('DROP SERVER many');

# --- a database's settings are its owner's -------------------------------------------------

as_superuser('CREATE DATABASE theirs OWNER mallory');
setup_local($local, $remote, 'theirs');
my $serializable = WireClient->new($local, dbname => 'postgres', user => 'mallory');
$serializable->query('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM pg_class');
foreach (
	q{default_transaction_isolation = 'serializable'},
	'default_transaction_deferrable = on',
	'default_transaction_read_only = on',
	'statement_timeout = 1',
	'search_path = nowhere')
{
	$local->psql('postgres', "ALTER DATABASE theirs SET $_", extra_params => [ '-U', 'mallory' ]);
}
$local->psql('theirs', qq{
	BEGIN READ WRITE ISOLATION LEVEL READ COMMITTED;
	SET LOCAL statement_timeout = 0;
	CREATE SERVER in_theirs FOREIGN DATA WRAPPER conpool OPTIONS (host '127.0.0.1',
		port '$port', dbname 'conpool_remote', min_size '2');
	CREATE USER MAPPING FOR postgres SERVER in_theirs
		OPTIONS (user 'regress_remote', password 'remote-secret');
	COMMIT}, on_error_die => 1);
filled('in_theirs', 'a reader waits for nobody\'s transaction');
is($serializable->query('COMMIT')->{error}, undef, 'which was open all the time');

# --- what anybody may do costs no reading of all databases ------------------------------------

my @bare = map { "bare_$_" } 1 .. 3;
as_superuser("CREATE DATABASE $_") for @bare;
as_superuser('CREATE ROLE crowd');

# How many transactions databases have seen: a reader is one.
sub reads
{
	my $names = join ',', map { "'$_'" } @_;
	return $local->safe_psql('postgres',
		"SELECT sum(xact_commit) FROM pg_stat_database WHERE datname IN ($names)");
}

# A round through the queue: what was in it by now has been read afterwards.
my $round = 0;

sub pass_queue
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$round++;
	create_server($local, $remote, "round_$round", options => q{min_size '2'});
	filled("round_$round", 'the queue has come round');
	return;
}

wait_until(sub { reads($bare[-1]) > 0 }, 'a new database is read once');
pass_queue();
my $seen = reads('theirs');
as_superuser('GRANT crowd TO app');
wait_until(sub { reads('theirs') > $seen }, 'databases are read when rights are granted');
pass_queue();
my $idle = reads(@bare);
$seen = reads('theirs');
$local->psql('postgres', "ALTER ROLE mallory PASSWORD 'p$_' VALID UNTIL 'infinity'")
  for 1 .. 5;
$local->psql('postgres', q{BEGIN; REVOKE crowd FROM app; ROLLBACK});
pass_queue();
is(reads('theirs'), $seen, 'not for a password, nor for what was rolled back');
as_superuser('REVOKE crowd FROM app');
wait_until(sub { reads('theirs') > $seen }, 'but again for rights');
pass_queue();
is(reads(@bare), $idle, 'those without the extension are not read again');

$local->safe_psql($bare[0], 'CREATE EXTENSION conpool');
create_server($local, $remote, 'in_bare', dbname => $bare[0], options => q{min_size '2'});
filled('in_bare', 'until they have it');

done_testing();
