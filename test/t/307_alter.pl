# ALTER and DROP of a server or a user mapping count from the next checkout
# after the commit, for one's own transaction before it, after a rollback never;
# a password is rotated under load without one query lost, and a change of sizes
# or timeouts reconnects nothing.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

my $remote = new_remote('remote', conf => "log_connections = on\n");
my $local = new_local('local', conf => "max_prepared_transactions = 5\n");
setup_local($local, $remote);

# Who changes things, who only uses them, and who holds what nobody else gets.
my ($writer, $other, $holder) = map { WireClient->new($local) } 1 .. 3;

# --- asking -------------------------------------------------------------------

# All columns of the first row, nothing of a statement that fails.
sub row
{
	my ($client, $sql) = @_;
	my $result = $client->query($sql);
	diag("$result->{error}: $result->{message}, in: $sql") if $result->{error};
	return @{ $result->{rows}[0] // [] };
}

sub value
{
	my ($client, $sql) = @_;
	return (row($client, $sql))[0] // '';
}

sub run
{
	my ($client, @statements) = @_;
	row($client, $_) for @statements;
	return;
}

# Who a query of that session is on the remote: application_name, role and
# process ID.
sub who
{
	my ($client, $on) = @_;
	return row($client, "SELECT * FROM conpool.query($on, 'SELECT
		current_setting(''application_name''), current_user, pg_backend_pid()')
		AS t(name text, role name, pid int)");
}

# Process IDs of a pool's connections on the remote.
sub pids
{
	my ($server) = @_;
	return split /\n/, $local->safe_psql('postgres',
		"SELECT remote_pid FROM conpool.connections
		 WHERE server = '$server' AND state <> 'closing' ORDER BY 1");
}

sub pool
{
	my ($server, $columns) = @_;
	return $local->safe_psql('postgres',
		"SELECT $columns FROM conpool.pools WHERE server = '$server'");
}

# Has a pool open so many connections, which are idle then.
sub open_connections
{
	my ($server, $count) = @_;
	my @leases = map { value($holder, "SELECT conpool.checkout('$server', 'session')") } 1 .. $count;
	run($holder, map { "SELECT conpool.checkin($_)" } @leases);
	wait_for_pool($local, $server, "idle = $count AND size = $count");
	return pids($server);
}

# How many of the first are among the second.
sub common
{
	my ($these, $those) = @_;
	my %those = map { $_ => 1 } @$those;
	return scalar grep { $those{$_} } @$these;
}

my @counters = qw(checkouts checkout_timeouts checkout_failures waited connects
  connect_failures queries query_errors rows total_wait_time total_checkout_time);

# Those of a pool; the start of counting comes first.
sub counters
{
	my ($client, $server) = @_;
	return row($client, "SELECT extract(epoch FROM stats_reset), @{[join ', ', @counters]}
		FROM conpool.stat_pools WHERE server = '$server'");
}

# Which of them have fallen since; or that counting has begun anew.
sub fallen
{
	my ($before, $now) = @_;
	my @names = ('stats_reset', @counters);
	return join ', ', grep {
		defined
	} map { ($_ == 0 ? $now->[0] != $before->[0] : $now->[$_] < $before->[$_]) ? $names[$_] : undef }
	  0 .. $#names;
}

# --- uncommitted, and rolled back ----------------------------------------------

# Each with what the writer's own query then sees of it, and what others do not.
my %mapping_of_two = (role => 'regress_remote_two');
create_server($local, $remote, 'one', options => q{max_size '5'});
my @old = open_connections('one', 3);
foreach my $case (
	[ "ALTER SERVER one OPTIONS (ADD application_name 'changed')", 'changed', 'regress_remote' ],
	[
		"ALTER USER MAPPING FOR postgres SERVER one
			OPTIONS (SET user 'regress_remote_two', SET password 'two-secret')",
		'conpool postgres/one', 'regress_remote_two'
	])
{
	my ($statement, $name, $role) = @$case;
	my ($what) = $statement =~ /^(ALTER (?:SERVER|USER MAPPING))/;
	my @before = counters($other, 'one');

	run($writer, 'BEGIN', $statement);
	my @first = who($writer, q{'one'});
	is("@first[0, 1]", "$name $role", "$what, uncommitted: its own session has it");
	is(common([ $first[2] ], \@old), 0, '... on a connection of its own');
	my $lease = value($writer, q{SELECT conpool.checkout('one')});
	my @second = who($writer, $lease);
	is("@second[0, 1]", "$name $role", '... on a lease, too');
	isnt($second[2], $first[2], '... which is not the one it had before');
	is(pool('one', 'unshared, leased, idle'), '1|1|3', '... and not shared');
	my @others = who($other, q{'one'});
	is("@others[0, 1]", 'conpool postgres/one regress_remote', '... others see nothing of it');
	is(common([ $others[2] ], \@old), 1, '... and have their connections');

	run($writer, 'ROLLBACK');
	wait_for_pool($local, 'one', 'size = 3 AND idle = 3', "$what, rolled back: it is gone");
	is("@{[pids('one')]}", "@old", '... and the connections are the old ones');
	my @own = who($writer, q{'one'});
	is("@own[0, 1]", 'conpool postgres/one regress_remote', '... for the session that wrote it, too');
	is(common([ $own[2] ], \@old), 1, '... on an old connection');
	is(fallen(\@before, [ counters($other, 'one') ]), '', '... and the counters go on');
}

# A size that is not committed is nobody else's.
run($writer, 'BEGIN', q{ALTER SERVER one OPTIONS (SET max_size '1', ADD checkout_timeout '15s')});
run($writer, q{SELECT conpool.exec('one', 'SELECT 1')});
is(pool('one', 'max_size, checkout_timeout'), '5|00:00:30', 'sizes, uncommitted: others keep theirs');
is(scalar(open_connections('one', 3)), 3, '... and can use them');
run($writer, 'ROLLBACK');

# Only in a savepoint that is gone: what follows in the transaction is as before.
@old = pids('one');
run($writer, 'BEGIN', 'SAVEPOINT s', q{ALTER SERVER one OPTIONS (ADD application_name 'changed')});
is((who($writer, q{'one'}))[0], 'changed', 'ALTER in a savepoint');
run($writer, 'ROLLBACK TO s');
my @who = who($writer, q{'one'});
is($who[0], 'conpool postgres/one', '... which is rolled back');
is(common([ $who[2] ], \@old), 1, '... an old connection again');
run($writer, 'COMMIT');

# A new name.
run($writer, 'BEGIN', 'ALTER SERVER one RENAME TO changed');
is((who($writer, q{'changed'}))[1], 'regress_remote', 'RENAME, uncommitted: its own session has it');
is($other->query(q{SELECT conpool.exec('changed', 'SELECT 1')})->{error}, '42704', '... others do not');
is((who($other, q{'one'}))[1], 'regress_remote', '... and have the old name');
is(pool('one', 'count(*)'), 1, '... and see it');
run($writer, 'ROLLBACK');
is(pool('one', 'count(*)'), 1, '... after the rollback, too');

# Gone, for oneself.
foreach my $statement ('DROP USER MAPPING FOR postgres SERVER one', 'DROP SERVER one CASCADE')
{
	my ($what) = $statement =~ /^(DROP (?:SERVER|USER MAPPING))/;
	@old = pids('one');
	run($writer, 'BEGIN', $statement, 'SAVEPOINT s');
	is($writer->query(q{SELECT conpool.exec('one', 'SELECT 1')})->{error},
		'42704', "$what, uncommitted: it is gone");
	run($writer, 'ROLLBACK TO s');
	is(common([ (who($other, q{'one'}))[2] ], \@old), 1, '... not for others');
	run($writer, 'ROLLBACK');
	is(common([ (who($writer, q{'one'}))[2] ], \@old), 1, "$what, rolled back: nothing has changed");
	is("@{[pids('one')]}", "@old", '... nor have the connections');
	is(pool('one', 'dropped'), 'f', '... nor the pool');
}

# --- committed -----------------------------------------------------------------

# In the end all connections are new ones; the pool and its counters go on.
foreach my $case (
	[ 'in another session', "ALTER SERVER one OPTIONS (ADD application_name 'new')" ],
	[ 'by a function', q{DO $$ BEGIN ALTER SERVER one OPTIONS (SET application_name 'newer'); END $$} ],
	[
		'prepared', 'BEGIN', "ALTER SERVER one OPTIONS (SET application_name 'newest')",
		"PREPARE TRANSACTION 'one'"
	])
{
	my ($how, @statements) = @$case;
	my ($expected) = "@statements" =~ /application_name '(\w+)'/;
	my ($present) = who($other, q{'one'});
	@old = open_connections('one', 4);
	my $lease = value($holder, q{SELECT conpool.checkout('one', 'session')});
	my @held = who($holder, $lease);
	my @before = counters($other, 'one');

	run($writer, @statements);
	if ($how eq 'prepared')
	{
		is((who($writer, q{'one'}))[0], $present, 'PREPARE TRANSACTION: nothing yet');
		run($writer, "COMMIT PREPARED 'one'");
	}
	@who = who($other, q{'one'});
	is($who[0], $expected, "committed $how: counts for the next checkout");
	is(common([ $who[2] ], \@old), 0, '... on a new connection');
	is("@{[who($holder, $lease)]}", "@held", '... a lease goes on as it was');
	wait_for_pool($local, 'one', 'size = 2 AND idle = 1',
		'... what is idle is replaced without anybody asking');
	run($holder, "SELECT conpool.checkin($lease)");
	wait_for_pool($local, 'one', 'size = 1 AND idle = 1', '... and the lease when it is back');
	is("@{[pids('one')]}", $who[2], '... one connection is left, the new one');
	is(fallen(\@before, [ counters($other, 'one') ]), '', '... the counters go on');
}

# Also for a statement that goes on and on.
$other->send(q{DO $$
	DECLARE
		limit_at constant timestamptz := clock_timestamp() + '30 s';
		name text;
	BEGIN
		WHILE name IS DISTINCT FROM 'seen' LOOP
			SELECT * INTO name FROM conpool.query('one',
				'SELECT current_setting(''application_name'')') AS t(name text);
			IF clock_timestamp() > limit_at THEN
				RAISE 'it is not seen';
			END IF;
		END LOOP;
	END $$});
wait_for($local, "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $other->{pid}");
run($writer, "ALTER SERVER one OPTIONS (SET application_name 'seen')");
my $result = $other->result;
is($result->{error}, undef, 'a loop within one statement sees the change')
  or diag($result->{message});

# What is being opened meanwhile serves the one who began before, and then goes.
$local->safe_psql('postgres', q{SELECT conpool.close_idle('one')});
wait_for_pool($local, 'one', 'size = 0');
my ($postmaster) = slurp_file($remote->data_dir . '/postmaster.pid') =~ /^(\d+)/;
kill 'STOP', $postmaster;
$other->send(q{SELECT * FROM conpool.query('one',
	'SELECT current_setting(''application_name'')') AS t(name text)});
wait_for_pool($local, 'one', 'connecting = 1', 'a connection is being opened');
run($writer, q{ALTER SERVER one OPTIONS (SET application_name 'late', SET max_size '6')});
wait_for_pool($local, 'one', 'max_size = 6', '... while the server is altered');
kill 'CONT', $postmaster;
is($other->result->{rows}[0][0], 'seen', '... it serves who began before');
wait_for_pool($local, 'one', 'size = 0', '... and nobody else');

# min_size is there again without anybody asking, by the new definition.
run($writer, q{ALTER SERVER one OPTIONS (ADD min_size '3')});
wait_for_pool($local, 'one', 'idle = 3 AND size = 3', 'min_size is reached');
@old = pids('one');
run($writer, q{ALTER SERVER one OPTIONS (SET application_name 'ahead')});
wait_for($remote, q{SELECT count(*) = 3 FROM pg_stat_activity
	WHERE application_name = 'ahead' AND usename = 'regress_remote'},
	'... of the new definition, too, without anybody asking');
wait_for_pool($local, 'one', 'idle = 3 AND size = 3');
is(common(\@old, [ pids('one') ]), 0, '... all of them new');

# --- sizes and timeouts ----------------------------------------------------------

create_server($local, $remote, 'sizes', options => q{max_size '5'});
@old = open_connections('sizes', 5);

# They are in force without anybody asking, and reconnect nothing.
sub changes_nothing
{
	my ($what, $statement, $condition) = @_;
	my @before = counters($other, 'sizes');
	run($writer, $statement);
	wait_for_pool($local, 'sizes', $condition, "$what: in force without anybody asking");
	is("@{[pids('sizes')]}", "@old", "$what: the connections are the same");
	is("@{[counters($other, 'sizes')]}", "@before", "$what: so are the counters");
	return;
}
changes_nothing('timeouts', q{ALTER SERVER sizes OPTIONS (ADD checkout_timeout '7s',
		ADD connect_timeout '8', ADD idle_timeout '9min', ADD max_lifetime '2h',
		ADD validate_interval '11min', ADD leak_threshold '12min')},
	q{connect_timeout = '8s' AND idle_timeout = '9min' AND max_lifetime = '2h' AND
	  validate_interval = '11min' AND leak_threshold = '12min'});
changes_nothing('policies', q{ALTER SERVER sizes OPTIONS (ADD max_waiters '13',
		ADD connect_concurrency '3', ADD reset 'always', ADD pool_mode 'transaction')},
	q{max_waiters = 13 AND connect_concurrency = 3 AND reset = 'always'});
changes_nothing('max_size up', q{ALTER SERVER sizes OPTIONS (SET max_size '9')}, 'max_size = 9');
changes_nothing('max_size of the mapping',
	q{ALTER USER MAPPING FOR postgres SERVER sizes OPTIONS (ADD max_size '6')}, 'max_size = 6');
changes_nothing('min_size up', q{ALTER SERVER sizes OPTIONS (ADD min_size '5')}, 'min_size = 5');
changes_nothing('max_server_size', q{ALTER SERVER sizes OPTIONS (ADD max_server_size '7')},
	'max_server_size = 7');
run($other, q{SELECT conpool.exec('sizes', 'SELECT 1')});
is(pool('sizes', 'checkout_timeout, pool_mode'), '00:00:07|transaction',
	'what a session may set for itself is in force with the next checkout');
is("@{[pids('sizes')]}", "@old", '... on the same connections');
run($writer, q{ALTER SERVER sizes OPTIONS (DROP pool_mode, DROP reset, DROP max_server_size)});

run($writer, q{ALTER SERVER sizes OPTIONS (SET min_size '6')});
wait_for_pool($local, 'sizes', 'idle = 6 AND size = 6', 'min_size further up: one is opened');
is(common(\@old, [ pids('sizes') ]), 5, '... the others stay');

# Leased ones above it go when they are given back, not before.
@old = pids('sizes');
my @leases = map { value($holder, q{SELECT conpool.checkout('sizes', 'session')}) } 1 .. 4;
my @leased = sort { $a <=> $b } map { (who($holder, $_))[2] } @leases;
run($writer, q{ALTER USER MAPPING FOR postgres SERVER sizes OPTIONS (SET max_size '3', ADD min_size '0')});
wait_for_pool($local, 'sizes', 'max_size = 3 AND size = 4 AND leased = 4',
	'max_size down: what is idle above it goes without anybody asking');
is(common(\@leased, [ map { (who($holder, $_))[2] } @leases ]), 4, '... leases go on');
run($holder, map { "SELECT conpool.checkin($_)" } @leases);
wait_for_pool($local, 'sizes', 'size = 3 AND idle = 3', '... until they are given back');
is(common([ pids('sizes') ], \@leased), 3, '... what remains was there before');

# Who waits has the new size, too.
run($writer, q{ALTER USER MAPPING FOR postgres SERVER sizes OPTIONS (SET max_size '1')});
my $lease = value($holder, q{SELECT conpool.checkout('sizes', 'session')});
$other->send(q{SELECT conpool.checkout('sizes', 'session')});
wait_for_pool($local, 'sizes', 'waiting = 1 AND size = 1');
run($writer, q{ALTER USER MAPPING FOR postgres SERVER sizes OPTIONS (SET max_size '2')});
my $begin = time;
$result = $other->result;
ok(!$result->{error}, 'max_size up: a session that waits gets its connection');
cmp_ok(time - $begin, '<', 4, '... and not only after checkout_timeout');
run($other, "SELECT conpool.checkin($result->{rows}[0][0])");
run($holder, "SELECT conpool.checkin($lease)");

# A timeout that is over by the new value.
wait_for_pool($local, 'sizes', 'idle = 2 AND size = 2');
run($writer, q{ALTER SERVER sizes OPTIONS (SET idle_timeout '1ms')});
wait_for_pool($local, 'sizes', 'size = 0', 'idle_timeout down: what is idle goes');

# --- DROP of what is in use ----------------------------------------------------------

foreach my $statement ('DROP USER MAPPING FOR postgres SERVER gone', 'DROP SERVER gone CASCADE')
{
	my ($what) = $statement =~ /^(DROP (?:SERVER|USER MAPPING))/;
	create_server($local, $remote, 'gone', user => 'regress_remote_two', options => q{max_size '2'});
	@old = open_connections('gone', 2);
	@leases = map { value($holder, q{SELECT conpool.checkout('gone', 'session')}) } 1 .. 2;
	$other->send(q{SELECT * FROM conpool.query('gone', 'SELECT pg_backend_pid()') AS t(pid int)});
	wait_for_pool($local, 'gone', 'waiting = 1 AND leased = 2');

	run($writer, $statement);
	is($writer->query(q{SELECT conpool.exec('gone', 'SELECT 1')})->{error},
		'42704', "$what: nobody finds it any more");
	wait_for($local, q{SELECT count(*) = 1 FROM conpool.pools WHERE dropped},
		'... which its pool knows without anybody asking');
	is((who($holder, $leases[0]))[1], 'regress_remote_two', '... a lease goes on');
	run($holder, "SELECT conpool.checkin($leases[0])");
	is($other->result->{error}, '42704', '... a session that waited opens none any more');
	is((who($holder, $leases[1]))[1], 'regress_remote_two', '... another lease goes on');
	is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.pools WHERE dropped}),
		1, '... which is what keeps the pool');
	run($holder, "SELECT conpool.checkin($leases[1])");
	wait_for($local, q{SELECT count(*) = 0 FROM conpool.pools WHERE dropped}, '... then it is gone');
	count_remote($remote, 0, '... and so are its connections', 'regress_remote_two');
	run($writer, 'DROP SERVER gone') if $what eq 'DROP USER MAPPING';
}

# Without anybody using it; and what stays is not touched.
create_server($local, $remote, 'gone', user => 'regress_remote_two', options => q{max_size '2'});
run($writer, q{CREATE USER MAPPING FOR PUBLIC SERVER gone
	OPTIONS (user 'regress_remote_admin', password 'admin-secret')});
@old = open_connections('gone', 2);
run($writer, 'DROP USER MAPPING FOR postgres SERVER gone');
count_remote($remote, 0, 'a mapping is dropped: its connections go without anybody asking',
	'regress_remote_two');
is((who($other, q{'gone'}))[1], 'regress_remote_admin', '... who is left is in the pool of PUBLIC');
wait_for($local, q{SELECT string_agg(role, ',') = 'public' FROM conpool.pools WHERE server = 'gone'},
	'... which is the only one');
run($writer, 'DROP SERVER gone CASCADE');
count_remote($remote, 0, '... until its server is dropped', 'regress_remote_admin');
wait_for($local, q{SELECT count(*) = 0 FROM conpool.pools WHERE server = 'gone' OR dropped},
	'... and no pool is left');

# --- a password is changed under load ---------------------------------------------------

# What the sessions of a load do until they are told to stop: queries, and a
# lease now and then. Every error counts.
sub load
{
	my ($go_on, $server) = @_;
	my $client = WireClient->new($local);
	my %count = (done => 0, longest => 0);
	my $ask = sub {
		my ($sql) = @_;
		my $begun = time;
		my $answer = $client->query($sql);
		$count{done}++;
		my $took = int(1000 * (time - $begun));
		$count{longest} = $took if $took > $count{longest};
		$count{"error $answer->{error}: $answer->{message}: " . ($answer->{detail} // '')}++
		  if $answer->{error};
		return $answer->{error} ? undef : $answer->{rows}[0][0];
	};
	while ($go_on->())
	{
		$ask->("SELECT conpool.exec('$server', 'SELECT pg_sleep(0.02)')") for 1 .. 5;
		my $lease = $ask->("SELECT conpool.checkout('$server', 'session')") // next;
		$ask->("SELECT conpool.exec($lease, 'SELECT 1')");
		$ask->("SELECT conpool.checkin($lease)");
	}
	$client->hang_up;
	return %count;
}

# Closes a connection of the pool again and again, as its end of life would: one
# that has listened is not given to anybody else.
sub closer
{
	my ($go_on, $server, $pause) = @_;
	my $client = WireClient->new($local);
	my %count = (closed => 0);
	while ($go_on->())
	{
		foreach my $sql ("SELECT conpool.checkout('$server', 'session')",
			"SELECT conpool.exec(%s, 'LISTEN x')", 'SELECT conpool.checkin(%s)')
		{
			my $answer = $client->query(sprintf $sql, $count{lease} // 0);
			$count{"error of the closer $answer->{error}: $answer->{message}"}++ if $answer->{error};
			$count{lease} = $answer->{rows}[0][0] if $sql =~ /checkout/ && !$answer->{error};
		}
		$count{closed}++;
		sleep $pause;
	}
	delete $count{lease};
	return %count;
}

# Looks at the counters all the time; counts what should not have happened.
sub watcher
{
	my ($go_on, $server) = @_;
	my $client = WireClient->new($local);
	my @last = counters($client, $server);
	my %count = (looks => 0);
	while ($go_on->())
	{
		my @now = counters($client, $server);
		my $fallen = fallen(\@last, \@now);
		$count{"fallen: $fallen"}++ if $fallen ne '';
		my @size = row($client, "SELECT size > max_size, paused FROM conpool.pools
			WHERE server = '$server'");
		$count{'too large'}++ if $size[0] ne 'f';
		@last = @now;
		$count{looks}++;
		sleep 0.02;
	}
	return %count;
}

# The name of the case, sizes, seconds between the remote's change and the local
# one, and between two closings (0 = nothing is closed).
my $sessions = 8;
my $secret = 0;
foreach my $case (
	[ 'at once, with a queue', q{max_size '3'}, 0, 0 ],
	[ 'at once, kept ahead', q{max_size '8', min_size '8'}, 0, 0.2 ],
	[ 'with time between', q{max_size '10'}, 3, 0.6 ],
	[ 'with a queue and time between', q{max_size '6', min_size '2', max_lifetime '20s'}, 2, 0.8 ])
{
	my ($what, $options, $gap, $pause) = @$case;
	my $server = 'rotated' . ++$secret;
	create_server($local, $remote, $server, options => $options);
	$remote->safe_psql('postgres', q{ALTER ROLE regress_remote PASSWORD 'remote-secret'});
	my @workers = map { start_worker(sub { load($_[0], $server) }) } 1 .. $sessions;
	# it has its connections now
	wait_for($local, "SELECT checkouts > 50 FROM conpool.stat_pools WHERE server = '$server'");
	push @workers, start_worker(sub { watcher($_[0], $server) });
	push @workers, start_worker(sub { closer($_[0], $server, $pause) }) if $pause;
	sleep 0.5;

	@old = pids($server);
	my ($failures) = $local->safe_psql('postgres',
		"SELECT connect_failures FROM conpool.stat_pools WHERE server = '$server'");
	is($failures, 0, "$what: all is well before");
	my $begun = time;
	my $password = "secret-$secret";
	$remote->safe_psql('postgres', "ALTER ROLE regress_remote PASSWORD '$password'");
	sleep $gap;
	my $changed = time;
	run($writer, "ALTER USER MAPPING FOR postgres SERVER $server OPTIONS (SET password '$password')");
	wait_until(sub { common(\@old, [ pids($server) ]) == 0 }, "$what: all connections are replaced", 20);
	wait_until(sub { pool($server, 'effective_max_size = max_size') eq 't' },
		"$what: nothing lowers the ceiling any more", 0.5);
	note sprintf 'figure: rotation %s, all replaced after = %.2f s', $what, time - $changed;
	sleep 0.5;
	my $count = stop_workers(@workers);

	is(join("\n", grep { /^(error|died|fallen|too large)/ } sort keys %$count),
		'', "$what: no query is lost, no counter falls, the pool is never too large");
	cmp_ok($count->{done}, '>', 100, "$what: there was a load");
	my ($failed) = $local->safe_psql('postgres',
		"SELECT connect_failures FROM conpool.stat_pools WHERE server = '$server'");
	cmp_ok($failed, '>', 0, "$what: logins were refused meanwhile") if $gap;
	note "figure: rotation $what, queries = $count->{done}";
	note "figure: rotation $what, refused logins = $failed";
	note "figure: rotation $what, connections closed meanwhile = " . ($count->{closed} // 0);
	wait_for_pool($local, $server, 'waiting = 0 AND leased = 0 AND connecting = 0');
	$local->safe_psql('postgres', "DROP SERVER $server CASCADE");
}

unlike(slurp_file($local->logfile), qr/TRAP:|PANIC:|was terminated by signal/,
	'no process crashed');

done_testing();
