# A commit that fails on some remotes, or of which nobody can tell, says which have
# committed and which have not, and that is so; it never keeps its session waiting for
# longer than that session likes, and all remotes commit at the same time.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

# The product waits for 1 s once it is interrupted.
my $soon = 6;

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'max_prepared_transactions = 2');
setup_local($local, $remote);
my @servers = qw(a b c);
create_server($local, $remote, $_, options => q{pool_mode 'transaction', max_size '20'})
  foreach @servers;

# A row says what is to happen when its transaction commits. Whoever waits, does so
# until $gate unlocks.
$remote->safe_psql(
	'conpool_remote', q{
	CREATE TABLE work (what text, server text, act text);
	CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		CASE NEW.act
			WHEN 'fail' THEN RAISE check_violation USING MESSAGE = 'not today';
			WHEN 'sleep' THEN PERFORM pg_sleep(0.5);
			WHEN 'wait' THEN PERFORM pg_advisory_xact_lock_shared(602);
			ELSE NULL;
		END CASE;
		RETURN NEW;
	END $$;
	CREATE CONSTRAINT TRIGGER act AFTER INSERT ON work DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION act();
	GRANT ALL ON work TO regress_remote;

	-- asked to stop, it takes half a second for that
	CREATE FUNCTION slow_to_stop() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		until timestamptz := '9999-01-01';
	BEGIN
		WHILE clock_timestamp() < until LOOP
			BEGIN
				PERFORM pg_sleep(least(extract(epoch FROM until - clock_timestamp()), 60));
			EXCEPTION WHEN query_canceled THEN
				until := least(until, clock_timestamp() + interval '0.5 s');
			END;
		END LOOP;
		RAISE query_canceled;
	END $$;
});
$local->safe_psql('postgres', 'CREATE TABLE done (what text)');
my $gate = WireClient->new($remote, dbname => 'conpool_remote');
$gate->query('SELECT pg_advisory_lock(602)');
my $client = WireClient->new($local);

# Begins a transaction that has written on these servers (name => act), and locally.
# Returns the remote process IDs.
sub begin
{
	my ($session, $what, %act) = @_;
	my %pid;
	$session->query($_)
	  foreach 'BEGIN ISOLATION LEVEL READ COMMITTED', "INSERT INTO done VALUES ('$what')";
	foreach my $server (sort keys %act)
	{
		my $result = $session->query(
			"SELECT * FROM conpool.query('$server',
				'INSERT INTO work VALUES (''$what'', ''$server'', ''$act{$server}'')
				 RETURNING pg_backend_pid()') AS t(pid int)");
		$pid{$server} = $result->{rows}[0][0] // die "$what: $result->{message}";
	}
	return %pid;
}

# Waits until all remotes that are to wait do so, and the others have answered.
sub all_are_under_way
{
	my ($what, $waiting, $committed) = @_;
	wait_for(
		$remote, "
		SELECT (SELECT count(*) = $waiting FROM pg_locks
				WHERE locktype = 'advisory' AND objid = 602 AND NOT granted) AND
			   (SELECT count(*) = $committed FROM work WHERE what = '$what') AND
			   NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'regress_remote' AND state <> 'idle'
						   AND (state <> 'active' OR wait_event_type IS DISTINCT FROM 'Lock'))",
		"$what: the remotes commit", 'conpool_remote');
	return;
}

sub gone
{
	my ($what, @pids) = @_;
	my $pids = join ',', @pids;
	$remote->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM unnest(ARRAY[$pids]) pid");
	wait_for($remote, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ($pids)",
		"$what: remote backends are gone");
	return;
}

# Where it was committed, as the remote and the local server know it.
sub truth
{
	my ($what) = @_;
	my $there = $remote->safe_psql('conpool_remote',
		"SELECT string_agg(server, ' ' ORDER BY server) FROM work WHERE what = '$what'");
	my $here = $local->safe_psql('postgres', "SELECT count(*) FROM done WHERE what = '$what'");
	return ($there, $here);
}

# What an error says of that: lines of its detail as { label => 'servers' }.
sub said
{
	my ($detail) = @_;
	my %said;
	while ($detail =~ /^(Committed|Not committed|Outcome unknown): (.*)\.$/mg)
	{
		my ($label, $pools) = ($1, $2);
		$said{$label} = join ' ', sort $pools =~ /"(.*?)"/g;
	}
	return \%said;
}

# A commit that failed like this, and in truth.
sub failed
{
	my ($what, $result, $error, %expected) = @_;
	my ($there, $here) = truth($what);
	is($result->{error}, $error, "$what: $error") or diag explain $result;
	is_deeply(said($result->{detail} // ''), \%expected, "$what: says what has come of it")
	  or diag explain $result;
	is($there, $expected{Committed} // '', "$what: and that is so");
	is($here, 0, "$what: the local transaction is rolled back");
	return;
}

# --- what goes well -------------------------------------------------------------

foreach my $n (1 .. 3)
{
	my $what = "well on $n";
	begin($client, $what, map { $_ => 'ok' } @servers[ 0 .. $n - 1 ]);
	is($client->query('COMMIT')->{error}, undef, $what);
	is_deeply([ truth($what) ], [ join(' ', @servers[ 0 .. $n - 1 ]), 1 ], "$what: and in truth");
}

# --- what the remotes refuse ----------------------------------------------------

begin($client, 'refused', a => 'fail');
my $result = $client->query('COMMIT');
failed('refused', $result, '23514', 'Not committed' => 'a');
like($result->{message}, qr/\bpool "a"/, 'refused: the message names the pool');
like($result->{detail}, qr/"a": not today$/m, 'refused: the detail says why');
begin($client, 'refused by one of two', a => 'ok', b => 'fail');
failed('refused by one of two', $client->query('COMMIT'), '23514',
	'Committed' => 'a', 'Not committed' => 'b');
begin($client, 'refused by one of three', a => 'ok', b => 'fail', c => 'ok');
failed('refused by one of three', $client->query('COMMIT'), '23514',
	'Committed' => 'a c', 'Not committed' => 'b');
begin($client, 'refused by all', map { $_ => 'fail' } @servers);
failed('refused by all', $client->query('COMMIT'), '23514', 'Not committed' => 'a b c');

# Two that have read what the other one has written: only one can have been first. The
# local server, where they did not meet, would let both.
my $other = WireClient->new($local);
foreach ([ $client, 'first' ], [ $other, 'second' ])
{
	my ($session, $what) = @$_;
	$session->query('BEGIN ISOLATION LEVEL SERIALIZABLE');
	$session->query("SELECT * FROM conpool.query('a', 'SELECT count(*) FROM work') AS t(n int)");
}
foreach ([ $client, 'first' ], [ $other, 'second' ])
{
	my ($session, $what) = @$_;
	$session->query("SELECT conpool.exec('a', 'INSERT INTO work VALUES (''$what'', ''a'')')");
}
is($client->query('COMMIT')->{error}, undef, 'first of two that cannot be serialized');
failed('second', $other->query('COMMIT'), '40001', 'Not committed' => 'a');

# --- remote backends that are gone before ---------------------------------------

foreach (
	[ 'lost before', [qw(a)], [qw(a)] ],
	[ 'one of three lost before', [qw(a b c)], [qw(b)] ],
	[ 'all lost before', [qw(a b)], [qw(a b)] ])
{
	my ($what, $on, $lost) = @$_;
	my %pid = begin($client, $what, map { $_ => 'ok' } @$on);
	gone($what, @pid{@$lost});
	# nothing has been sent, so there is nothing to be said
	my $before = $client->query('COMMIT');
	failed($what, $before, '08006');
	like($before->{message}, qr/pool "[@$lost]"/, "$what: the message names the pool");
}

# --- remote backends that die while they commit ---------------------------------

foreach (
	[ 'killed', { a => 'wait' }, 0 ],
	[ 'one of two killed', { a => 'ok', b => 'wait' }, 1 ],
	[ 'one of three killed', { a => 'ok', b => 'fail', c => 'wait' }, 1 ],
	[ 'two of three killed', { a => 'wait', b => 'ok', c => 'wait' }, 1 ],
	[ 'all killed', { a => 'wait', b => 'wait', c => 'wait' }, 0 ])
{
	my ($what, $act, $committed) = @$_;
	my %of = (ok => [], fail => [], wait => []);
	push @{ $of{ $act->{$_} } }, $_ foreach sort keys %$act;
	my %pid = begin($client, $what, %$act);
	$client->send('COMMIT');
	all_are_under_way($what, scalar @{ $of{wait} }, $committed);
	gone($what, @pid{ @{ $of{wait} } });
	my $killed = $client->result;
	failed(
		$what, $killed, '08007',
		@{ $of{ok} } ? ('Committed' => "@{$of{ok}}") : (),
		@{ $of{fail} } ? ('Not committed' => "@{$of{fail}}") : (),
		'Outcome unknown' => "@{$of{wait}}");
	like($killed->{message}, qr/pool "[@{$of{wait}}]"/, "$what: the message names the pool");
}

# One that is cancelled over there has told us.
my %pid = begin($client, 'cancelled there', a => 'wait', b => 'ok');
$client->send('COMMIT');
all_are_under_way('cancelled there', 1, 1);
$remote->safe_psql('postgres', "SELECT pg_cancel_backend($pid{a})");
failed('cancelled there', $client->result, '57014', 'Committed' => 'b', 'Not committed' => 'a');

# --- remotes that hang while they commit ----------------------------------------

# A cancel, and the end of the session: at the same time, to save some.
my $ended = WireClient->new($local);
my $log_offset = -s $local->logfile;
begin($client, 'hanging, cancelled', a => 'wait', b => 'ok', c => 'fail');
begin($ended, 'hanging, terminated', a => 'ok', b => 'wait', c => 'wait');
$_->send('COMMIT') foreach $client, $ended;
all_are_under_way('hanging, cancelled', 3, 1);
all_are_under_way('hanging, terminated', 3, 1);
my $start = time;
$local->safe_psql('postgres',
	"SELECT pg_cancel_backend($client->{pid}), pg_terminate_backend($ended->{pid})");
my $cancelled = $client->result;
cmp_ok(time - $start, '<', $soon, 'hanging, cancelled: soon');
note sprintf 'figure: cancel of a COMMIT that hangs = %.2f s', time - $start;
failed('hanging, cancelled', $cancelled, '08007',
	'Committed' => 'b', 'Not committed' => 'c', 'Outcome unknown' => 'a');
ok($ended->result->{lost} || $ended->result->{lost}, 'hanging, terminated: the session ends');
cmp_ok(time - $start, '<', $soon, 'hanging, terminated: soon');
$local->wait_for_log(qr/ERROR:  the outcome of the remote transaction on pool "[bc]" is not known/,
	$log_offset);
my ($detail) = substr(slurp_file($local->logfile), $log_offset) =~
  /\[$ended->{pid}\].* DETAIL:  (.*(?:\n\t.*)*)/;
is_deeply(
	said($detail =~ s/^\t//mgr // ''),
	{ 'Committed' => 'a', 'Outcome unknown' => 'b c' },
	'hanging, terminated: the log says what has come of it')
  or diag $detail;
is_deeply([ truth('hanging, terminated') ], [ 'a', 0 ], 'hanging, terminated: and that is so');
is($client->query(q{SELECT * FROM conpool.query('a', 'SELECT 1') AS t(a int)})->{rows}[0][0],
	'1', 'hanging, cancelled: the session goes on');

# What hung may commit yet: that is why nobody knows.
$gate->query('SELECT pg_advisory_unlock(602)');
wait_for($remote, q{SELECT count(*) = 3 FROM work WHERE what LIKE 'hanging, %' AND act = 'wait'},
	'what was unknown was committed', 'conpool_remote');
$gate->query('SELECT pg_advisory_lock(602)');

# A cancel that comes when the answers are on their way, or a little before: whatever
# comes of it, both sides have it the same.
begin($client, 'late', a => 'wait', b => 'ok');
$client->send('COMMIT');
all_are_under_way('late', 1, 1);
$client->cancel;
$gate->query('SELECT pg_advisory_unlock(602)');
my $late = $client->result;
wait_for($remote, q{SELECT count(*) = 2 FROM work WHERE what = 'late'},
	'late: the remotes have committed', 'conpool_remote');
is((truth('late'))[1], $late->{error} ? 0 : 1, 'late: the local transaction agrees');
is($late->{error} // '08007', '08007', 'late: if it fails, then for not knowing');

# --- what is counted ------------------------------------------------------------

my $unknown = $local->safe_psql(
	'postgres', q{
	SELECT string_agg(server || ' ' || remote_commits_unknown, ', ' ORDER BY server)
	FROM conpool.stat_pools WHERE server IN ('a', 'b', 'c')});
my $late_unknown = $late->{error} ? 1 : 0;
is($unknown, 'a ' . (4 + $late_unknown) . ', b 3, c 4', 'unknown outcomes are counted');
is( $local->safe_psql(
		'postgres', q{
	SELECT string_agg(server || ' ' || sqlstate || ' ' || count, ', ' ORDER BY server, sqlstate)
	FROM conpool.stat_errors WHERE server IN ('a', 'b', 'c') AND sqlstate <> '08006'}),
	'a 08007 ' . (4 + $late_unknown) . ', a 23514 2, a 40001 1, a 57014 1, '
	  . 'b 08007 3, b 23514 4, c 08007 4, c 23514 2',
	'what went wrong is counted as errors of the pools');
my $committed = $local->safe_psql('postgres',
	q{SELECT sum(remote_commits) FROM conpool.stat_pools WHERE server IN ('a', 'b', 'c')});
$local->safe_psql('postgres',
	q{SELECT conpool.exec('a', 'SELECT 1'), conpool.exec('b', 'SELECT 1')});
is( $local->safe_psql('postgres',
		q{SELECT sum(remote_commits) FROM conpool.stat_pools WHERE server IN ('a', 'b', 'c')}),
	$committed + 2,
	'as are commits');

# --- at the same time -----------------------------------------------------------

# One after the other they would take 1.5 s. The machine may be busy: three tries.
sub quickest
{
	my ($try) = @_;
	my $best;
	foreach (1 .. 3)
	{
		my $took = $try->();
		$best = $took if !defined $best || $took < $best;
		last if $best < 1.2;
	}
	return $best;
}
my $took = quickest(
	sub {
		begin($client, 'slowly', map { $_ => 'sleep' } @servers);
		my $begun = time;
		is($client->query('COMMIT')->{error}, undef, 'three slow ones commit');
		return time - $begun;
	});
note sprintf 'figure: COMMIT on three servers that take 0.5 s each = %.2f s', $took;
cmp_ok($took, '>=', 0.5, 'they are waited for');
cmp_ok($took, '<', 1.2, 'at the same time');

$took = quickest(
	sub {
		begin($client, 'undone', map { $_ => 'ok' } @servers);
		$client->query("SELECT conpool.send('$_', 'SELECT slow_to_stop()')") foreach @servers;
		wait_for($remote,
			q{SELECT count(*) = 3 FROM pg_stat_activity WHERE query LIKE '%slow_to_stop%' AND wait_event = 'PgSleep'},
			'three statements run');
		my $begun = time;
		is($client->query('ROLLBACK')->{error},
			undef, 'three that are slow to stop are rolled back');
		return time - $begun;
	});
note sprintf 'figure: ROLLBACK on three servers that take 0.5 s each = %.2f s', $took;
cmp_ok($took, '>=', 0.5, 'they are waited for');
cmp_ok($took, '<', 1.2, 'at the same time');
is_deeply([ truth('undone') ], [ '', 0 ], 'nothing is left of it');

# --- PREPARE TRANSACTION --------------------------------------------------------

# Not with anything remote, which could not be prepared.
begin($client, 'prepared', a => 'ok');
is($client->query(q{PREPARE TRANSACTION 'one'})->{error},
	'0A000', 'a transaction with remote work cannot be prepared');
is_deeply([ truth('prepared') ], [ '', 0 ], 'it is rolled back');
# a lease that goes on over transactions is no matter, nor what was autocommitted
$client->query('BEGIN');
$client->query($_)
  foreach q{INSERT INTO done VALUES ('prepared')},
  q{SELECT conpool.exec(conpool.checkout('a', 'session'), 'SET work_mem = ''1MB''')},
  q{SELECT conpool.exec('remote', 'INSERT INTO work VALUES (''prepared'', ''a'')')};
is($client->query(q{PREPARE TRANSACTION 'one'})->{error}, undef, 'one without can');
is($client->query(q{COMMIT PREPARED 'one'})->{error}, undef, 'and be committed');
is_deeply([ truth('prepared') ], [ 'a', 1 ], 'in truth');
is( $client->query(
		q{SELECT x FROM conpool.leases l, conpool.query(l.lease, 'SHOW work_mem') AS t(x text)
		  WHERE l.pid = pg_backend_pid()})->{rows}[0][0],
	'1MB',
	'the lease is as it was');
$client->query(q{SELECT conpool.checkin(lease) FROM conpool.leases WHERE pid = pg_backend_pid()});

# --- all come back --------------------------------------------------------------

wait_for($local, 'SELECT count(*) = 0 FROM conpool.leases', 'no lease is left');
wait_for_pool($local, $_, 'size = idle AND waiting = 0', "pool $_ is at rest") foreach @servers;
is($remote->safe_psql('postgres',
		q{SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'}),
	0, 'no remote transaction is left open');

done_testing();
