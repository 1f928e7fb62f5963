# Requests that are outstanding when something happens: the session ends, is cancelled
# or rolls back, the remote dies or fails. Nothing goes on running remotely, no
# connection is lost, and what is not concerned goes on. Who waits, sleeps.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(message row_header hang);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

plan skip_all => 'needs /proc' unless -d '/proc/self/fd';

my $soon = 15;    # seconds for whatever is to be over soon; conpool's own limit is 2

my $remote = new_remote('remote', conf => 'max_connections = 60');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'many', options => q{max_size '10'});
create_server($local, $remote, 'other', options => q{max_size '10'});
create_server($local, $remote, 'bound', options => q{max_size '4', pool_mode 'transaction'});

# Half of a row, and then nothing more.
my $fake = FakeServer->new({
	half => {
		answer => sub { $_[0]->send(row_header() . 'D' . pack('NnN', 15, 1, 5) . '12'); hang(@_) }
	}
});
my $fake_port = $fake->port;
$local->safe_psql('postgres', qq{
	CREATE SERVER half FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '$fake_port', dbname 'half');
	CREATE USER MAPPING FOR CURRENT_USER SERVER half
		OPTIONS (user 'postgres', password_required 'false');

	-- sends it that many times, with its number; what could not be sent is in errors
	CREATE FUNCTION test.send_many(server text, statement text, n int,
								   OUT ids bigint[], OUT errors text[])
	LANGUAGE plpgsql AS \$\$
	BEGIN
		ids := '{}';
		errors := '{}';
		FOR i IN 1 .. n LOOP
			BEGIN
				ids := ids || conpool.send(server, statement, i);
			EXCEPTION WHEN OTHERS THEN
				errors := errors || (sqlstate || ': ' || sqlerrm);
			END;
		END LOOP;
	END \$\$;
	-- the result of a request with one column, or what it failed with
	CREATE FUNCTION test.result_of(request bigint) RETURNS text LANGUAGE plpgsql AS \$\$
	DECLARE
		context text;
	BEGIN
		RETURN (SELECT string_agg(a, ' ') FROM conpool.result(request) AS t(a text));
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
		RETURN sqlstate || ': ' || sqlerrm || e'\\n' || context;
	END \$\$;
});
$remote->safe_psql('conpool_remote', 'CREATE TABLE written (n int); GRANT ALL ON written TO regress_remote');

my $watcher = WireClient->new($local);
my $remote_watcher = WireClient->new($remote);
my $client = WireClient->new($local);

# Closed gates: statements that a request has to pass.
my %gate;

sub close_gates
{
	foreach my $n (@_)
	{
		$gate{$n} = WireClient->new($remote, dbname => 'conpool_remote');
		$gate{$n}->query("SELECT pg_advisory_lock($n)");
	}
	return;
}

sub open_gates
{
	foreach my $n (@_)
	{
		$gate{$n}->query("SELECT pg_advisory_unlock($n)");
		delete($gate{$n})->hang_up;
	}
	return;
}

sub behind_gate
{
	my ($n) = @_;
	return "SELECT $n FROM pg_advisory_xact_lock($n)";
}

sub value
{
	my ($sql, $session) = @_;
	my $result = ($session // $client)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return $result->{rows}[0][0];
}

sub send_on
{
	my ($to, $statement, $session) = @_;
	$to = "'$to'" unless $to =~ /^\d+$/;
	return value("SELECT conpool.send($to, \$sql\$$statement\$sql\$)", $session);
}

sub result_of { return value("SELECT test.result_of($_[0])", $_[1]) }
sub wait_any { return value('SELECT conpool.wait_any(ARRAY[' . join(',', @_) . ']::bigint[])') }

# What runs remotely, on any pool.
sub running
{
	return value(q{SELECT count(*) FROM pg_stat_activity
		WHERE usename = 'regress_remote' AND state <> 'idle'}, $remote_watcher);
}

# Nothing runs remotely, and all pools are at rest, with as many connections as the
# remote has.
sub is_over
{
	my ($what, $begun) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until(sub { running() == 0 }, "$what: nothing runs remotely any more");
	if ($begun)
	{
		my $took = time - $begun;
		cmp_ok($took, '<', $soon, "$what: soon");
		note sprintf 'figure: %s, until nothing runs remotely = %.2f s', $what, $took;
	}
	wait_until(
		sub {
			value(q{SELECT coalesce(sum(leased + connecting + resetting + closing + waiting), 0)
				FROM conpool.pools WHERE server IN ('many', 'other', 'bound')}, $watcher) == 0;
		}, "$what: all pools are at rest");
	return wait_until(
		sub {
			remote_backends($remote, 'regress_remote') == value(q{SELECT coalesce(sum(size), 0)
				FROM conpool.pools WHERE server IN ('many', 'other', 'bound')}, $watcher);
		}, "$what: no connection is left over");
}

sub waits_in
{
	my ($session, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($local, "SELECT state = 'active' AND wait_event_type = 'Extension'
		FROM pg_stat_activity WHERE pid = $session->{pid}", $what);
}

# --- the session ends --------------------------------------------------------------

my $endless = q{SELECT generate_series(1, 1000000000), repeat('x', 100)};
my @outstanding = (
	'SELECT pg_sleep(600)',
	$endless,
	'SELECT count(*) FROM generate_series(1, 100000000000)',
	'SELECT 1');

# Requests of every kind, in three pools: of the present transaction, and one that was
# sent before it. Seven go on for ever.
sub send_all
{
	my ($session) = @_;
	my $lease = value(q{SELECT conpool.checkout('other', 'session')}, $session);
	my $older = value(q{SELECT conpool.checkout('other', 'session')}, $session);
	my $request = send_on($older, 'SELECT pg_sleep(600)', $session);
	$session->query('BEGIN');
	my $in_transaction = value(q{SELECT conpool.checkout('other', 'transaction')}, $session);
	my @ids = map { send_on('many', $_, $session) } @outstanding;
	push @ids, send_on($in_transaction, 'INSERT INTO written SELECT 1 FROM pg_sleep(600)', $session);
	push @ids, send_on($lease, 'INSERT INTO written SELECT 2 FROM pg_sleep(600)', $session);
	push @ids, send_on('bound', 'INSERT INTO written SELECT 3 FROM pg_sleep(600)', $session);
	return (@ids, $request);
}

my %end = (
	'it says goodbye' => sub { syswrite $_[0]{socket}, "X\0\0\0\4" },
	'its client is gone' => sub { $_[0]->hang_up },
	'it is terminated' => sub { value("SELECT pg_terminate_backend($_[0]{pid})", $watcher) });
my %during = (
	'in a transaction' => sub { },
	'in wait_any()' => sub {
		my ($session, @ids) = @_;
		$session->query(q{SET client_connection_check_interval = '50ms'});
		$session->send("SELECT conpool.wait_any(ARRAY[$ids[0], $ids[4], $ids[5]])");
		waits_in($session, 'a session is in wait_any()');
	},
	'in result()' => sub {
		my ($session, @ids) = @_;
		$session->query(q{SET client_connection_check_interval = '50ms'});
		$session->send("SELECT * FROM conpool.result($ids[0]) AS t(a text)");
		waits_in($session, 'a session is in result()');
	},
	'in COMMIT' => sub {
		my ($session, @ids) = @_;
		# the others are stopped first
		$session->query("SELECT conpool.cancel($_)") for @ids[ 0 .. 3, 5 .. 7 ];
		$session->send('COMMIT');
		waits_in($session, 'a session is in COMMIT');
	});

foreach my $how (sort keys %end)
{
	foreach my $when (sort keys %during)
	{
		# who is busy does not hear a goodbye, nor in COMMIT that the client has gone
		next if $when ne 'in a transaction' && $how eq 'it says goodbye';
		next if $when eq 'in COMMIT' && $how eq 'its client is gone';
		my $what = "a session ends: $how, $when";
		my $session = WireClient->new($local);
		my @ids = send_all($session);
		wait_until(sub { running() == 7 }, "$what: seven requests run");
		$during{$when}->($session, @ids);
		my $begun = time;
		$end{$how}->($session);
		is_over($what, $begun);
		wait_for($local, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $session->{pid}",
			"$what: it has gone");
	}
}
is($remote->safe_psql('conpool_remote', 'SELECT count(*) FROM written'), 0, 'nothing was written');
is($local->safe_psql('postgres', 'SELECT count(*) FROM conpool.leases'), 0, 'no lease is held');

# --- who waits, sleeps ------------------------------------------------------------------

# CPU time of a process in seconds, and how often it went to sleep.
sub usage
{
	my ($session) = @_;
	my @stat = split ' ', slurp_file("/proc/$session->{pid}/stat") =~ s/.*\) //sr;
	my ($slept) = slurp_file("/proc/$session->{pid}/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
	return (($stat[11] + $stat[12]) / 100, $slept);
}

close_gates(1);
my @sleepers = map { WireClient->new($local) } 1 .. 3;
my %asleep = (
	'for seven requests' => sub { map { send_on($_ > 4 ? 'many' : 'other', behind_gate(1), $_[0]) } 1 .. 7 },
	'beside answers that nobody has asked for' => sub {
		send_on('many', $_, $_[0]) for 'SELECT 1', $endless;
		return send_on('other', behind_gate(1), $_[0]);
	},
	'for the rest of a row' => sub { send_on('half', 'SELECT 1', $_[0]) });
my @names = sort keys %asleep;
my @before;
foreach my $n (0 .. $#names)
{
	my $session = $sleepers[$n];
	$session->query('BEGIN');
	my @ids = $asleep{ $names[$n] }->($session);
	$session->send('SELECT conpool.wait_any(ARRAY[' . join(',', @ids) . q{]::bigint[], '3 s')});
	waits_in($session, "wait_any() $names[$n]");
}
@before = map { [ usage($_) ] } @sleepers;
my @timed_out = map { $_->result->{rows}[0][0] } @sleepers;
is(scalar(grep { defined } @timed_out), 0, 'wait_any() returns NULL after its timeout');
foreach my $n (0 .. $#names)
{
	my ($cpu, $slept) = usage($sleepers[$n]);
	$cpu -= $before[$n][0];
	$slept -= $before[$n][1];
	note sprintf 'figure: wait_any() %s, in 3 s: CPU time = %.2f s, woken up = %d times', $names[$n], $cpu, $slept;
	cmp_ok($cpu, '<', 0.2, "wait_any() $names[$n]: sleeps");
	cmp_ok($slept, '<', 50, "wait_any() $names[$n]: at one go");
}
$_->query('ROLLBACK') for @sleepers;
$_->hang_up for @sleepers;
open_gates(1);
is_over('requests that were waited for');

# --- in order of readiness, and the timeout -----------------------------------------------

my @order = (3, 1, 4, 2);
close_gates(@order);
$client->query('BEGIN');
my %id = map { $_ => send_on($_ % 2 ? 'many' : 'other', behind_gate($_)) } 1 .. 4;
foreach my $limit (0, 0.3)
{
	my $begun = time;
	is(value('SELECT conpool.wait_any(ARRAY[' . join(',', values %id) . "], '$limit s')"), undef,
		"wait_any() with a timeout of $limit s");
	cmp_ok(time - $begun, '>=', $limit, 'takes no less');
	cmp_ok(time - $begun, '<', $limit + 5, 'nor much more');
}
foreach my $n (@order)
{
	is(value("SELECT conpool.is_ready($id{$n})"), 'f', "request $n is not ready");
	$client->send('SELECT conpool.wait_any(ARRAY[' . join(',', map { $id{$_} } sort keys %id) . '])');
	waits_in($client, 'a session waits for all of them');
	open_gates($n);
	is($client->result->{rows}[0][0], $id{$n}, "number $n is the next that is ready");
	is(value("SELECT conpool.is_ready($id{$n})"), 't', 'as is_ready() says');
	is(result_of(delete $id{$n}), $n, 'it has its own result');
}
$client->query('COMMIT');

# in any order, of all sizes
$client->query('BEGIN');
my @sizes = (1, 50_000, 0, 7, 200_000, 3);
my @ids = map { send_on('many', "SELECT i FROM generate_series(1, $_) AS i") } @sizes;
foreach my $n (3, 1, 5, 0, 4, 2)
{
	is(value("SELECT count(*) || ' ' || coalesce(sum(i), 0) FROM conpool.result($ids[$n]) AS t(i bigint)"),
		$sizes[$n] . ' ' . $sizes[$n] * ($sizes[$n] + 1) / 2, "a result of $sizes[$n] rows");
}
is($client->query('COMMIT')->{notices}[0], undef, 'there is nothing to warn of');
is_over('results in any order');

# --- more than there are connections --------------------------------------------------------

my $begun = time;
my $sent;
$client->query('BEGIN');
($sent) = $client->query(q{SELECT array_to_string(ids, ' '), array_to_string(errors, e'\n')
	FROM test.send_many('many', 'SELECT $1::int * 7', 50)})->{rows}[0];
@ids = split ' ', $sent->[0];
my %errors;
$errors{$_}++ for split /\n/, $sent->[1];
is(scalar @ids, 10, 'of 50 requests on 10 connections ten are sent');
is(join(' ', values %errors), 40, 'the others have an error, all the same one');
like(join('', keys %errors), qr/^(40P01|53300): .*"many"/, 'which names the pool');
note 'the error: ', keys %errors;
cmp_ok(time - $begun, '<', $soon, 'at once');
is(join(' ', map { result_of($_) } reverse @ids), join(' ', map { $_ * 7 } reverse 1 .. 10),
	'those that were sent have their answers');
is($client->query('COMMIT')->{error}, undef, 'and the transaction commits');
is_over('50 requests at once');

# who reads one when there is no room gets all 50 through
my $all = q{DO $$ DECLARE
		ids bigint[] := '{}';
		answers int[] := '{}';
		answer int;
	BEGIN
		FOR i IN 1 .. 50 LOOP
			IF cardinality(ids) = 10 THEN
				SELECT a INTO answer FROM conpool.result(ids[1]) AS t(a int);
				answers := answers || answer;
				ids := ids[2:];
			END IF;
			ids := ids || conpool.send('many', 'SELECT $1::int', i);
		END LOOP;
		FOREACH answer IN ARRAY ids LOOP
			answers := answers || (SELECT a FROM conpool.result(answer) AS t(a int));
		END LOOP;
		IF answers IS DISTINCT FROM ARRAY(SELECT generate_series(1, 50)) THEN
			RAISE 'answers are %', answers;
		END IF;
	END $$};
is($client->query($all)->{message}, undef, '50 requests, ten at a time');
is_over('50 requests in turn');

# --- errors ----------------------------------------------------------------------------------

$client->query('BEGIN');
@ids = map { send_on('many', $_) } 'SELECT 1', 'SELECT 1/0',
  'SELECT 10 / (5 - i) FROM generate_series(1, 10) AS i', 'SELECT nothing', 'SELECT 2';
like(result_of($ids[1]), qr/^22012: division by zero\n.*pool "many"/s, 'an error comes out of result(), with the pool');
like(result_of($ids[2]), qr/^22012: /, 'so does one after some rows');
like(result_of($ids[3]), qr/^42703: /, 'and one before anything');
like(result_of($ids[1]), qr/^08003: /, 'that ends the request');
is(result_of($ids[4]) . result_of($ids[0]), '21', 'the others go on');
$client->query('COMMIT');
is_over('an error in some requests');

# --- cancelled here ---------------------------------------------------------------------------

# By a function: a cancel request may be two signals, of which the block catches one.
sub cancel
{
	value("SELECT pg_cancel_backend($client->{pid})", $watcher);
	return;
}

# In wait_any(): nothing happens to what was sent outside.
close_gates(1, 2);
$client->query('BEGIN');
my ($one, $two) = map { send_on('many', behind_gate($_)) } 1, 2;
$client->send("DO \$\$ BEGIN PERFORM conpool.wait_any(ARRAY[$one, $two]); RAISE 'not cancelled';
	EXCEPTION WHEN query_canceled THEN NULL; END \$\$");
waits_in($client, 'a session is in wait_any()');
cancel();
is($client->result->{message}, undef, 'wait_any() is cancelled in a block');
wait_until(sub { running() == 2 }, 'the requests go on');

# In result(): that one is stopped.
$client->send("DO \$\$ BEGIN PERFORM * FROM conpool.result($one) AS t(a int); RAISE 'not cancelled';
	EXCEPTION WHEN query_canceled THEN NULL; END \$\$");
waits_in($client, 'a session is in result()');
$begun = time;
cancel();
is($client->result->{message}, undef, 'result() is cancelled in a block');
cmp_ok(time - $begun, '<', $soon, 'soon');
wait_until(sub { running() == 1 }, 'its request has stopped');
like(result_of($one), qr/^08003: /, 'and is no more');
open_gates(1, 2);
is(result_of($two), 2, 'the other one has its answer');
$client->query('COMMIT');
is_over('a cancel in a block');

# Out of any block: all are stopped, in both.
foreach my $where ('wait_any(ARRAY[%d])', 'result(%d) AS t(a text)')
{
	foreach my $how ('cancel', 'statement_timeout')
	{
		my $what = "$how in " . $where =~ s/\(.*//r;
		my $session = WireClient->new($local);
		@ids = send_all($session);
		wait_until(sub { running() == 7 }, "$what: seven requests run");
		$session->query(q{SET statement_timeout = '300ms'}) if $how eq 'statement_timeout';
		$session->send(sprintf "SELECT * FROM conpool.$where", $ids[0]);
		waits_in($session, "$what: a session waits") if $how eq 'cancel';
		$begun = time;
		$session->cancel if $how eq 'cancel';
		is($session->result->{error}, '57014', "$what: it is told");
		cmp_ok(time - $begun, '<', $soon, "$what: soon");
		$session->query('ROLLBACK');
		wait_until(sub { running() == 1 }, "$what: what was sent before the transaction goes on");
		$session->query("SELECT conpool.cancel($ids[-1])");
		$session->query('SELECT count(conpool.checkin(lease)) FROM conpool.leases WHERE pid = pg_backend_pid()');
		is_over($what, $begun);
		$session->hang_up;
	}
}

# --- subtransactions -----------------------------------------------------------------------------

close_gates(1, 2, 3, 4);
$client->query('BEGIN');
my $outer = send_on('many', behind_gate(1));
$client->query('SAVEPOINT s');
my $kept = send_on('many', behind_gate(2));
$client->query('SAVEPOINT t');
my $deeper = send_on('many', behind_gate(3));
$client->query('RELEASE t');
$client->query('SAVEPOINT u');
my $undone = send_on('many', behind_gate(4));
wait_until(sub { running() == 4 }, 'four requests on three levels');
is($client->query('ROLLBACK TO u')->{notices}[0], undef, 'one level is rolled back, without a warning');
wait_until(sub { running() == 3 }, 'its request has stopped');
like($client->query("SELECT conpool.is_ready($undone)")->{message}, qr/^request $undone is not outstanding/,
	'and is unknown');
$client->query('ROLLBACK TO u');
open_gates(1);
is(result_of($outer), 1, 'one of an outer level is read further in');
$client->query('RELEASE s');
open_gates(2);
is(result_of($kept), 2, 'one whose level has ended well goes on');
$client->query('SAVEPOINT s');
open_gates(3);
is(result_of($deeper), 3, 'one is read on a level');
$client->query('ROLLBACK TO s');
like(result_of($deeper), qr/^08003: /, 'that rolls back, which does not bring it back');
is($client->query('COMMIT')->{notices}[0], undef, 'there is nothing to warn of');
open_gates(4);
is_over('requests over subtransactions');

# --- the end of the transaction --------------------------------------------------------------------

$client->query('BEGIN');
my $unread = send_on('many', 'SELECT pg_sleep(600)');
send_on('many', 'SELECT 1');
wait_until(sub { running() == 1 }, 'COMMIT: a request runs');
$begun = time;
my $result = $client->query('COMMIT');
is($result->{error}, undef, 'COMMIT: does not wait for requests');
is(scalar(grep { /^WARNING: request \d+ on pool "many" was stopped/ } @{ $result->{notices} }), 2,
	'COMMIT: but warns of each');
is_over('COMMIT', $begun);
like($client->query("SELECT conpool.is_ready($unread)")->{message}, qr/is not outstanding/, 'COMMIT: it is unknown');

$client->query('BEGIN');
send_on('many', $_) for 'SELECT pg_sleep(600)', $endless;
wait_until(sub { running() == 2 }, 'ROLLBACK: two requests run');
$begun = time;
is($client->query('ROLLBACK')->{notices}[0], undef, 'ROLLBACK: warns of nothing');
is_over('ROLLBACK', $begun);

# in a remote transaction they are a part of it
foreach my $case ([ 'is read', 'SELECT 1' ], [ 'fails', 'SELECT 1/0' ], [ 'is cancelled', undef ])
{
	my ($what, $statement) = @$case;
	close_gates(1);
	$client->query('BEGIN');
	my $lease = value(q{SELECT conpool.checkout('other', 'transaction')});
	value("SELECT conpool.exec($lease, 'INSERT INTO written VALUES (7)')");
	send_on($lease, behind_gate(1) . ($statement ? "; $statement" : ''));
	$client->send('COMMIT');
	waits_in($client, "a request that $what: COMMIT waits for it");
	$statement ? open_gates(1) : $client->cancel;
	is($client->result->{error}, { 'fails' => '22012', 'is cancelled' => '57014' }->{$what},
		"a request that $what: COMMIT says so");
	open_gates(1) unless $statement;
	is_over("a request that $what at COMMIT");
}
is($remote->safe_psql('conpool_remote', 'SELECT n FROM written'), 7, 'only the first one has committed');

# --- on a lease of the session -------------------------------------------------------------------------

my $lease = value(q{SELECT conpool.checkout('other', 'session')});
close_gates(1);
$client->query('BEGIN');
my $long = send_on($lease, behind_gate(1));
is($client->query('COMMIT')->{notices}[0], undef, 'a lease of the session: its request goes on over COMMIT');
is(value("SELECT conpool.is_ready($long)"), 'f', 'and is outstanding outside of it');
$client->query('BEGIN');
is($client->query("SELECT conpool.exec($lease, 'SELECT 1')")->{error}, '55006', 'the lease is busy');
$client->query('ROLLBACK');
wait_until(sub { running() == 1 }, 'the end of another transaction is not its business');
open_gates(1);
$client->query('BEGIN');
is(result_of($long), 1, 'it is read in a third one');
$client->query('COMMIT');
$client->query('BEGIN');
send_on($lease, 'SELECT pg_sleep(600)');
wait_until(sub { running() == 1 }, 'one more runs');
$client->query('ROLLBACK');
wait_until(sub { running() == 0 }, 'and stops with the transaction that sent it');
is(value("SELECT a FROM conpool.query($lease, 'SELECT 1') AS t(a int)"), 1, 'the lease goes on');

# DISCARD ALL, as a pooler in front of us says it
$long = send_on($lease, 'SELECT pg_sleep(600)');
send_on(value(q{SELECT conpool.checkout('many', 'session')}), $endless);
wait_until(sub { running() == 2 }, 'DISCARD ALL: two requests run');
$begun = time;
is($client->query('DISCARD ALL')->{error}, undef, 'DISCARD ALL: while requests are outstanding');
is_over('DISCARD ALL', $begun);
is($client->query("SELECT conpool.is_ready($long)")->{error}, '08003', 'DISCARD ALL: the request is unknown');
is($client->query("SELECT conpool.checkin($lease)")->{error}, '08003', 'DISCARD ALL: so is the lease');

# --- a remote that dies ------------------------------------------------------------------------------------

sub kill_behind_gate
{
	my ($n) = @_;
	return value("SELECT pg_terminate_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND objid = $n AND NOT granted", $remote_watcher);
}

foreach my $when ('before wait_any()', 'in wait_any()', 'in result()')
{
	close_gates(1, 2, 3);
	$client->query('BEGIN');
	my %of = map { $_ => send_on($_ == 2 ? 'other' : 'many', behind_gate($_)) } 1 .. 3;
	wait_for($remote, q{SELECT count(*) = 3 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted},
		"a remote session dies $when: three requests");
	my $wait = 'SELECT conpool.wait_any(ARRAY[' . join(',', map { $of{$_} } 1 .. 3) . '])';
	kill_behind_gate(2) if $when eq 'before wait_any()';
	$client->send($when eq 'in result()' ? "SELECT test.result_of($of{2})" : $wait);
	if ($when ne 'before wait_any()')
	{
		waits_in($client, "a remote session dies $when: somebody waits");
		kill_behind_gate(2);
	}
	my $found = $client->result->{rows}[0][0];
	if ($when ne 'in result()')
	{
		is($found, $of{2}, "a remote session dies $when: that request is ready");
		$found = result_of($of{2});
	}
	like($found, qr/^08006: .*"other"/, "a remote session dies $when: its result says so");
	open_gates(1, 2, 3);
	is(result_of($of{3}) . result_of($of{1}), '31', "a remote session dies $when: the others go on");
	is($client->query('COMMIT')->{error}, undef, "a remote session dies $when: so does the transaction");
	is_over("a remote session dies $when");
}

is(join("\n", slurp_file($local->logfile) =~ /^.*(?:TRAP:|PANIC:|was terminated by signal).*$/mg), '',
	'no process crashed');

done_testing();
