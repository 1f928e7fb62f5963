# Every error that a caller gets is in stat_errors as he got it, those of conpool
# itself included, and everything that happens to a pool or a connection is in
# events, with the reason; who may not see it does not, and passwords nobody.
use strict;
use warnings;

use ConpoolTest;
use FakeServer;
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep);
use WireClient;

# Bound, but nobody listens there.
my $nobody = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp') or die "bind: $!";
my $dead_port = $nobody->sockport;
my $fake = FakeServer->new({ unclean => { discard => sub { 0 } } });

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'compute_query_id = on');
setup_local($local, $remote);

sub server_on
{
	my ($name, $port, $dbname, $options) = @_;
	$options = $options ? ", $options" : '';
	$local->safe_psql('postgres', qq{
		CREATE SERVER $name FOREIGN DATA WRAPPER conpool
			OPTIONS (host '127.0.0.1', port '$port', dbname '$dbname' $options);
		CREATE USER MAPPING FOR CURRENT_USER SERVER $name
			OPTIONS (user 'regress_remote', password 'remote-secret')});
	return;
}

my ($watch, $client, $holder);

sub connect_all
{
	($watch, $client, $holder) = map { WireClient->new($local) } 1 .. 3;
	return;
}

sub values_of
{
	my ($sql, $by) = @_;
	my $result = ($by // $watch)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return map { join '|', map { $_ // '' } @$_ } @{ $result->{rows} };
}

sub value { return join ',', values_of(@_) }

sub wait_for_value
{
	my ($sql, $name) = @_;
	return wait_until(sub { value($sql) eq 't' }, $name // $sql);
}

sub wait_for_state
{
	my ($server, $condition) = @_;
	return wait_for_value("SELECT bool_and($condition) FROM conpool.pools WHERE server = '$server'",
		"pool $server: $condition");
}

sub exec_on
{
	my ($server, $sql) = @_;
	$sql //= 'SELECT 1';
	return "SELECT conpool.exec('$server', \$s\$$sql\$s\$)";
}

sub checkout
{
	my ($server, $by) = @_;
	return value("SELECT conpool.checkout('$server', 'session')", $by // $holder);
}

connect_all();

# --- errors ---------------------------------------------------------------------------

create_server($local, $remote, 'errors', options => q{max_size '1', checkout_timeout '30s'});
create_server($local, $remote, 'crowded', options => q{max_size '1', max_waiters '0'});
create_server($local, $remote, 'short', options => q{max_size '1', checkout_timeout '50ms'});
create_server($local, $remote, 'stopped', options => q{checkout_timeout '50ms'});
create_server($local, $remote, 'password');
$local->safe_psql('postgres',
	q{ALTER USER MAPPING FOR CURRENT_USER SERVER password OPTIONS (SET password 'hunter2')});
server_on('dead', $dead_port, 'nowhere');

# What a statement must fail with, and what there is in stat_errors then: one more,
# as the caller got it, with the query ID of his statement.
my %seen;    # per server and SQLSTATE: how many

sub fails
{
	my ($server, $sqlstate, $message, $statement, $meanwhile) = @_;
	my $name = "$server: $message";
	my $began = value('SELECT clock_timestamp()');
	my $first = value("SELECT first_seen FROM conpool.stat_errors WHERE server = '$server' AND sqlstate = '$sqlstate'");
	$client->send($statement);
	$meanwhile->() if $meanwhile;
	my $result = $client->result;
	is($result->{error}, $sqlstate, "$name: SQLSTATE");
	like($result->{message}, qr/^$message/, "$name: message");
	my $count = ++$seen{"$server $sqlstate"};
	is( value(qq{SELECT count, last_message, last_caller,
			last_query_id = (SELECT query_id FROM pg_stat_activity WHERE pid = $client->{pid}),
			last_seen BETWEEN '$began' AND clock_timestamp(),
			CASE WHEN count = 1 THEN first_seen = last_seen ELSE first_seen = nullif('$first', '')::timestamptz END
			FROM conpool.stat_errors WHERE server = '$server' AND role = 'postgres' AND sqlstate = '$sqlstate'}),
		"$count|$result->{message}|postgres|t|t|t",
		"$name: in stat_errors");
	return $result->{message};
}

my $runs = q{SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = 'regress_remote' AND wait_event = 'PgSleep'};
# the remote's own
fails('errors', '22012', 'division by zero', exec_on('errors', 'SELECT 1 / 0')) for 1 .. 2;
fails('errors', '42P01', 'relation "nothing" does not exist', exec_on('errors', 'TABLE nothing'));
fails('errors', 'P0001', 'so be it', exec_on('errors', q{DO $$ BEGIN RAISE 'so be it'; END $$}));
fails('errors', 'KM123', 'of my own', exec_on('errors', q{DO $$ BEGIN RAISE 'of my own' USING errcode = 'KM123'; END $$}));
# the local session's
fails('errors', '57014', 'canceling statement due to user request',
	exec_on('errors', 'SELECT pg_sleep(60)'),
	sub { wait_for($remote, $runs, 'a statement runs'); $client->cancel });
wait_for_state('errors', 'size = idle');
value(q{SET statement_timeout = '500ms'}, $client);
fails('errors', '57014', 'canceling statement due to statement timeout', exec_on('errors', 'SELECT pg_sleep(60)'));
value('RESET statement_timeout', $client);
# conpool's
fails('errors', '0A000', 'COPY to or from the client', exec_on('errors', 'COPY (SELECT 1) TO STDOUT'));
fails('errors', '08006', 'connection of pool "errors" (?:was )?lost', exec_on('errors', 'SELECT pg_terminate_backend(pg_backend_pid())'));
my $lease = checkout('short');
fails('short', '53300', 'timed out waiting for a connection', exec_on('short'));
value("SELECT conpool.checkin($lease)", $holder);
$lease = checkout('crowded');
fails('crowded', '53300', 'too many sessions wait', exec_on('crowded'));
value("SELECT conpool.checkin($lease)", $holder);
wait_for_state('crowded', 'size = idle');
$lease = checkout('crowded', $client);
fails('crowded', '40P01', 'this session holds every connection', exec_on('crowded'));
value("SELECT conpool.checkin($lease)", $client);
value(q{SELECT conpool.pause('stopped')});
fails('stopped', '55P03', 'pool "stopped" is paused', exec_on('stopped'));
value(q{SELECT conpool.resume('stopped')});
fails('password', '28P01', 'could not log in', exec_on('password')) for 1 .. 2;
fails('dead', '08001', 'could not connect for pool "dead"', exec_on('dead'));
# the first attempts that follow may come before that
my $refused = '';
for (1 .. 50)
{
	$refused = fails('dead', '08001', 'could not connect for pool "dead"', exec_on('dead'));
	last if $refused =~ /not tried again yet/;
}
like($refused, qr/not tried again yet/, 'dead: what the breaker says is an error, too');

is( value(q{SELECT (SELECT sum(count) FROM conpool.stat_errors WHERE server = 'errors'),
		(SELECT query_errors FROM conpool.stat_pools WHERE server = 'errors')}),
	'9|9',
	'as many as stat_pools has');

# a message that is long, of characters of two bytes
my $long = $client->query(exec_on('errors', q{DO $$ BEGIN RAISE '%', 'x' || repeat('ä', 300) USING errcode = 'LONG0'; END $$}));
my $kept = value(q{SELECT last_message FROM conpool.stat_errors WHERE sqlstate = 'LONG0'});
is(index($long->{message}, $kept), 0, 'the beginning of a long message');
ok(length $kept > 200 && length $kept < 256, 'as much as there is room for, no character cut') or diag(length $kept);
is(value(q{SELECT last_message ~ '^xä+$' FROM conpool.stat_errors WHERE sqlstate = 'LONG0'}), 't', 'is text');

# what nobody has asked for
server_on('ahead', $dead_port, 'nowhere', q{min_size '1'});
wait_for_value(
	q{SELECT count(*) = 1 FROM conpool.stat_errors WHERE server = 'ahead' AND count > 0
	  AND last_message ~ 'Connection refused' AND last_caller IS NULL AND last_query_id IS NULL},
	'an error that nobody got, ahead of demand');

# one server's, and all
value(q{SELECT conpool.reset_stats('dead')});
is(value(q{SELECT count(*) FILTER (WHERE server = 'dead'), count(*) FILTER (WHERE server = 'errors') > 5
		FROM conpool.stat_errors}),
	'0|t', 'a reset of one server\'s errors');

# --- why connections are closed ----------------------------------------------------------

# What happened to the pools of a server since this was asked last, oldest first.
my $last = value('SELECT max(number) FROM conpool.events');

sub happened
{
	my ($server) = @_;
	return value(qq{SELECT coalesce(string_agg(event || coalesce(' (' || detail || ')', ''), '; ' ORDER BY number), '')
		FROM conpool.events WHERE server = '$server' AND number > $last});
}

sub happens
{
	my ($server, $expected, $name) = @_;
	my $got = '';
	wait_until(sub { $got = happened($server); length $got >= length $expected }, "$name: it happens", 20);
	is($got, $expected, $name)
	  or diag(join "\n", values_of("SELECT * FROM conpool.events WHERE number > $last ORDER BY number"));
	$last = value('SELECT max(number) FROM conpool.events');
	return;
}

my $terminate = sub {
	my ($server) = @_;
	my $pid = value("SELECT remote_pid FROM conpool.connections WHERE server = '$server'");
	$remote->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 60000)");
};

create_server($local, $remote, 'brief', options => q{idle_timeout '300ms'});
value(exec_on('brief'));
happens('brief', 'opened; closed (idle_timeout)', 'nobody uses it');

create_server($local, $remote, 'old', options => q{max_lifetime '500ms', max_size '1'});
$lease = checkout('old');
sleep 0.6;
value("SELECT conpool.exec($lease, 'SELECT 1')", $holder);
value("SELECT conpool.checkin($lease)", $holder);
happens('old', 'opened; closed (max_lifetime)', 'it is old');

create_server($local, $remote, 'one', options => q{max_size '2'});
value(exec_on('one'));
wait_for_state('one', 'idle = 1');
value(q{SELECT conpool.close_idle('one')});
happens('one', 'opened; closed (close_idle() or reconnect())', 'somebody wants it closed');
wait_for_state('one', 'size = 0');

$lease = checkout('one');
value(q{SELECT conpool.reconnect('one')});
value("SELECT conpool.checkin($lease)", $holder);
happens('one', 'opened; reconnect; closed (outdated: options have changed, or reconnect())', 'somebody wants it replaced');
wait_for_state('one', 'size = 0');

value(exec_on('one'));
wait_for_state('one', 'idle = 1');
$terminate->('one');
happens('one', 'opened; closed (found dead)', 'it is dead');
wait_for_state('one', 'size = 0');

is($client->query(exec_on('one', 'SELECT pg_terminate_backend(pg_backend_pid())'))->{error}, '08006', 'a connection is lost');
happens('one', 'opened; closed (lost, or in doubt, at checkin)', 'it is lost');
wait_for_state('one', 'size = 0');

value(exec_on('one', 'LISTEN channel'));
happens('one', 'opened; closed (not fit for others: it listens, or is no primary any more)', 'it listens');
wait_for_state('one', 'size = 0');

my @two = map { checkout('one', $_) } ($holder, $client);
value(q{ALTER SERVER one OPTIONS (SET max_size '1')});
wait_for_value(q{SELECT max_size = 1 FROM conpool.pools WHERE server = 'one'});
value("SELECT conpool.checkin($two[0])", $holder);
happens('one', 'opened; opened; settings changed (max_size); closed (more than max_size or max_server_size)', 'it is one too many');
value("SELECT conpool.checkin($two[1])", $client);
wait_for_state('one', 'size = idle');

value('BEGIN', $client);
value(q{ALTER SERVER one OPTIONS (SET max_size '2', ADD application_name 'mine')}, $client);
value(exec_on('one'), $client);
value('ROLLBACK', $client);
wait_for_state('one', 'size = 0');
happens('one', 'closed (its place was needed elsewhere)',
	'of a connection that serves one lease only nothing is told, but of the one that made room');
value(exec_on('one'));
wait_for_state('one', 'idle = 1');

value(q{ALTER SERVER one OPTIONS (ADD application_name 'other', ADD idle_timeout '1h', SET max_size '2')});
wait_for_state('one', 'size = 0');
happens('one',
	'opened; settings changed (max_size, idle_timeout); settings changed (connection options); closed (outdated: options have changed, or reconnect())',
	'its options have changed');

value(exec_on('one'));
wait_for_state('one', 'idle = 1');
$lease = checkout('one');
value("SELECT conpool.reclaim($lease)");
happens('one', 'opened; reclaimed; closed (its lease was reclaimed)', 'its lease is reclaimed');
like($holder->query("SELECT conpool.exec($lease, 'SELECT 1')")->{message}, qr/was reclaimed/, 'its holder learns of it');

value(q{SELECT conpool.pause('one')});
value(q{SELECT conpool.resume('one')});
value(q{SELECT conpool.reset_stats('one')});
happens('one', 'paused; resumed; stats reset', 'what people decree');

server_on('unclean', $fake->port, 'unclean', q{reset 'always'});
value(exec_on('unclean'));
happens('unclean', 'opened; closed (its reset failed)', 'it cannot be cleaned');

# one place for all pools of a server
create_server($local, $remote, 'tight', options => q{max_server_size '1'});
$local->safe_psql('postgres', q{
	CREATE ROLE regress_alice LOGIN;
	CREATE ROLE regress_bob LOGIN;
	CREATE ROLE regress_watcher LOGIN IN ROLE pg_read_all_stats;
	GRANT USAGE ON FOREIGN SERVER tight TO regress_alice;
	CREATE USER MAPPING FOR regress_alice SERVER tight OPTIONS (user 'regress_remote', password 'remote-secret')});
my %by = map { $_ => WireClient->new($local, user => "regress_$_") } qw(alice bob watcher);
value(exec_on('tight'));
wait_for_state('tight', 'idle = 1');
value(exec_on('tight'), $by{alice});
happens('tight', 'opened; closed (its place was needed elsewhere); opened', 'another pool needs its place');

# --- breaker and leaks -----------------------------------------------------------------------

# a minute, or whatever has been to do ahead of it: until somebody may try
value(q{SELECT conpool.warm('dead')});
$client->query(exec_on('dead'));
my $breaker = sub { return value(qq{SELECT string_agg(event, ', ' ORDER BY number) FROM conpool.events WHERE server = 'dead' AND event ~ 'breaker'}) };
is($breaker->(), 'breaker opened', 'the breaker is opened once, however often it is tried');
value('ALTER SERVER dead OPTIONS (SET port \'' . $remote->port . q{', SET dbname 'conpool_remote')});
value(exec_on('dead'));
is($breaker->(), 'breaker opened, breaker closed', 'and closed');

create_server($local, $remote, 'leaky', options => q{leak_threshold '300ms'});
$last = value('SELECT max(number) FROM conpool.events');
$lease = checkout('leaky');
wait_for_value(q{SELECT leaks = 1 FROM conpool.stat_pools WHERE server = 'leaky'});
value("SELECT conpool.checkin($lease)", $holder);
happens('leaky', 'opened; leak found (idle); leak over (checked in)', 'a leak');

# --- the broker ----------------------------------------------------------------------------------

my @stopped;
END { kill 'CONT', @stopped if @stopped; }

# One session that has just been granted a connection, and cannot go on, while
# the broker ends; and a connection that is idle.
create_server($local, $remote, 'granted', options => q{max_size '1', reset 'never'});
my $granted = WireClient->new($local);
$lease = checkout('granted');
$granted->send(exec_on('granted'));
wait_for_state('granted', 'waiting = 1');
@stopped = $granted->{pid};
kill 'STOP', @stopped;
value("SELECT conpool.checkin($lease)", $holder);
wait_for_value("SELECT count(*) = 1 FROM conpool.leases WHERE server = 'granted' AND pid = $granted->{pid}");
wait_for_state('leaky', 'idle = 1');
$last = value('SELECT max(number) FROM conpool.events');
my $broker = broker_pid($local);
kill 'TERM', $broker;
wait_for_value(qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'conpool broker' AND pid <> $broker});
wait_for_value(qq{SELECT count(*) = 2 FROM conpool.events WHERE number > $last AND event ~ 'broker'});
kill 'INT', @stopped;
kill 'CONT', @stopped;
@stopped = ();
is($granted->result->{error}, '57014', 'who cannot have it any more gives up');
is( value(qq{SELECT event, pid = $broker, server IS NULL AND database IS NULL AND role IS NULL AND slot IS NULL
		FROM conpool.events WHERE number > $last AND event ~ 'broker' ORDER BY number}),
	'broker ended|t|t,broker started|f|t',
	'a broker has ended, another one begun');
is(happened('leaky'), 'closed (the server or the broker stops)', 'what it had is closed');
is(happened('granted'), 'closed (the broker that had it has ended)', 'what nobody could fetch any more, too');

$last = value('SELECT max(number) FROM conpool.events');
value(exec_on('one'));
wait_for_state('one', 'idle = 1');
value(q{DROP SERVER one CASCADE});
happens('one', 'opened; dropped; closed (its server, user mapping, role or database is gone)', 'its server is gone');

# --- what is told of each --------------------------------------------------------------------------

create_server($local, $remote, 'told');
value(exec_on('told'), $client);
wait_for_state('told', 'idle = 1');
is( value(qq{SELECT event, server, database, role, slot = (SELECT slot FROM conpool.connections WHERE server = 'told'),
		pid = $client->{pid}, detail, at BETWEEN clock_timestamp() - interval '1 min' AND clock_timestamp()
		FROM conpool.events WHERE server = 'told'}),
	'opened|told|postgres|postgres|t|t||t',
	'pool, slot, process and time');
is(value('SELECT max(number) = count(*) AND min(number) = 1 FROM conpool.events'), 't', 'numbers count from 1, without a gap');
is( value('SELECT count(*) FROM (SELECT number, at, lag(number) OVER () AS newer FROM conpool.events) AS e WHERE number <> newer - 1'),
	'0', 'newest first');

# --- passwords ----------------------------------------------------------------------------------------

my $secret = 'hunter2';
$client->query(exec_on('told', "DO \$\$ BEGIN RAISE 'password=$secret'; END \$\$"));
$client->query(exec_on("host=127.0.0.1 port=$dead_port user=u password=$secret dbname=d"));
$client->query(exec_on("postgresql://u:$secret\@127.0.0.1:" . $remote->port . '/nowhere'));
server_on('mistake', $remote->port, "postgresql://u:$secret\@h/d");
$client->query(exec_on('mistake'));
is(value(q{SELECT count(*) FROM conpool.stat_errors WHERE server = 'mistake'}), '1', 'an error with a password in it');
is( value(q{SELECT count(*) FROM conpool.stat_errors WHERE server = 'told' AND last_message ~ 'may hold a password'}),
	'1', 'another one');
# but not what this very session says
foreach my $view (values_of(q{SELECT viewname FROM pg_views WHERE schemaname = 'conpool' ORDER BY 1}))
{
	is(value("SELECT count(*) FROM conpool.$view AS v WHERE v::text ~ '$secret|remote-secret'", $by{watcher}),
		'0', "no password in $view");
}

# --- who sees what ------------------------------------------------------------------------------------

$local->safe_psql('postgres', qq{
	CREATE SERVER everybodys FOREIGN DATA WRAPPER conpool OPTIONS (host '127.0.0.1', port '} . $remote->port . q{', dbname 'conpool_remote');
	CREATE USER MAPPING FOR PUBLIC SERVER everybodys OPTIONS (user 'regress_remote', password 'remote-secret');
	GRANT USAGE ON FOREIGN SERVER everybodys TO regress_alice});
$by{alice}->query(exec_on($_, 'SELECT alices')) for qw(tight everybodys);
my %sees = (
	alice => 'everybodys public, tight regress_alice',
	bob => 'everybodys public',
	watcher => 'everybodys public, tight postgres, tight regress_alice');
my $pools = q{SELECT string_agg(DISTINCT server || ' ' || role, ', ') FROM conpool.%s WHERE server IN ('tight', 'everybodys')};
foreach my $name (sort keys %by)
{
	is(value(sprintf($pools, 'events'), $by{$name}), $sees{$name}, "events: $name");
	is( value(q{SELECT string_agg(DISTINCT server || ' ' || role, ', ') FROM conpool.stat_errors WHERE server IN ('tight', 'everybodys')}, $by{$name}),
		$sees{$name} =~ s/, tight postgres//r,
		"errors: $name");
	is( value(q{SELECT last_message ~ 'alices', last_query_id IS NOT NULL FROM conpool.stat_errors WHERE server = 'everybodys'}, $by{$name}),
		$name eq 'bob' ? 'f|f' : 't|t',
		"message and query ID: $name");
	is(value(q{SELECT count(*) > 0 FROM conpool.events WHERE server IS NULL}, $by{$name}),
		$name eq 'watcher' ? 't' : 'f', "events of no pool: $name");
}

# --- how many -------------------------------------------------------------------------------------------

my $before = value('SELECT count(*) FROM conpool.events');
cmp_ok($before, '>', 40, 'many events');
$local->append_conf('postgresql.conf', 'conpool.max_events = 12');
$local->restart;
connect_all();
is(value('SELECT count(*) FROM conpool.events'), '12', 'of old ones that are more, no more are kept');
my $start = value('SELECT max(number) FROM conpool.events');
value(q{SELECT conpool.pause('told')}), value(q{SELECT conpool.resume('told')}) for 1 .. 20;
is(value("SELECT count(*), max(number) - $start >= 40, max(number) - min(number) FROM conpool.events"),
	'12|t|11', 'no more than conpool.max_events, the latest');
is(value(q{SELECT DISTINCT event FROM conpool.events WHERE server = 'told' ORDER BY 1}), 'paused,resumed', 'the old ones have made room');

done_testing();
