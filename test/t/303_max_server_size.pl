# The pools of one server together never have more connections than
# max_server_size, and share them fairly; so do all pools with
# conpool.max_connections.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'max_connections = 80');
setup_local($local, $remote);
create_loop($local);

my @roles = map { "regress_pool_$_" } 1 .. 4;
$local->safe_psql('postgres', join ';', map { "CREATE ROLE $_ LOGIN" } @roles);

# A server with a pool for each of the first roles, and on the remote a role of
# its own, which gets no session too much: a backend counts until it has gone.
sub server
{
	my ($server, $pools, $limit, $options) = @_;
	my $port = $remote->port;
	$remote->safe_psql('postgres',
		"CREATE ROLE regress_$server LOGIN PASSWORD 'secret' CONNECTION LIMIT $limit");
	$local->safe_psql('postgres', join ';',
		"CREATE SERVER $server FOREIGN DATA WRAPPER conpool OPTIONS (host '127.0.0.1',
			port '$port', dbname 'conpool_remote', checkout_timeout '20s', $options)",
		map { "CREATE USER MAPPING FOR $_ SERVER $server OPTIONS
				(user 'regress_$server', password 'secret');
			GRANT USAGE ON FOREIGN SERVER $server TO $_" } @roles[ 0 .. $pools - 1 ]);
	return;
}

sub value
{
	my ($sql) = @_;
	return $local->safe_psql('postgres', $sql);
}

sub alter
{
	my ($server, $size) = @_;
	$local->safe_psql('postgres', "ALTER SERVER $server OPTIONS (SET max_server_size '$size')");
	return;
}

# Idle connections of the pool of a role, as many.
sub open_idle
{
	my ($server, $role, $count) = @_;
	my $client = WireClient->new($local, user => $role);
	$client->query("BEGIN; SELECT conpool.checkout('$server') FROM generate_series(1, $count)");
	my $result = $client->query('COMMIT');
	$client->hang_up;
	return wait_for($local, qq{SELECT idle = $count FROM conpool.pools
		WHERE server = '$server' AND role = '$role'});
}

# --- never too many --------------------------------------------------------------

# Loops that have connections reset and closed, some of them slowly.
$local->safe_psql('postgres', q{
	CREATE FUNCTION test.mixed(server text, OUT done int, OUT longest float8, OUT errors text)
	LANGUAGE plpgsql AS $$
	DECLARE
		begun constant timestamptz := clock_timestamp();
		last timestamptz := begun;
		dice float8;
		lease bigint;
	BEGIN
		done := 0;
		longest := 0;
		errors := '';
		WHILE NOT EXISTS (SELECT FROM test.loop_stop WHERE at > begun) LOOP
			dice := random();
			BEGIN
				IF dice < 0.5 THEN
					PERFORM conpool.exec(server, 'SELECT 1 FROM pg_sleep(0.002)');
				ELSIF dice < 0.8 THEN
					PERFORM conpool.exec(server, 'SET test.tag = 1');
				ELSE
					lease := conpool.checkout(server, 'session');
					IF dice < 0.9 THEN
						PERFORM conpool.exec(lease, $x$DO 'BEGIN FOR i IN 1 .. 50 LOOP
							EXECUTE ''CREATE TEMP TABLE t'' || i || ''()'';
							END LOOP; END'$x$);
					END IF;
					PERFORM conpool.exec(lease, 'LISTEN test');
					PERFORM conpool.checkin(lease);
				END IF;
				done := done + 1;
			EXCEPTION WHEN OTHERS THEN
				errors := left(errors || sqlstate || ': ' || sqlerrm || e'\n', 10000);
			END;
			longest := greatest(longest, extract(epoch FROM clock_timestamp() - last));
			last := clock_timestamp();
		END LOOP;
	END $$;
});

# The most sessions that the remote has for a role at a time, by the phase of
# the test, in many samples. The test sets the phase; 0 is the end.
$remote->safe_psql('conpool_remote', q{
	CREATE TABLE now_in (phase int);
	INSERT INTO now_in VALUES (1);
	CREATE FUNCTION sessions(name text) RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_stat_clear_snapshot();
		RETURN (SELECT count(*) FROM pg_stat_activity WHERE usename = name);
	END $$;
	CREATE FUNCTION watch(name text) RETURNS TABLE (most int, samples int)
	LANGUAGE plpgsql AS $$
	DECLARE
		m int[] := '{0, 0, 0, 0}';
		n int[] := m;
		p int;
	BEGIN
		LOOP
			SELECT phase INTO p FROM now_in;
			EXIT WHEN p = 0;
			m[p] := greatest(m[p], sessions(name));
			n[p] := n[p] + 1;
			PERFORM pg_sleep(0.002);
		END LOOP;
		RETURN QUERY SELECT unnest(m), unnest(n);
	END $$;
});

my $admin = WireClient->new($remote, dbname => 'conpool_remote');

sub phase
{
	my ($number) = @_;
	$admin->query("UPDATE now_in SET phase = $number");
	return;
}

sub sessions { return $admin->query("SELECT sessions('regress_busy')")->{rows}[0][0]; }

server('busy', 3, 4, q{max_server_size '4'});
my $sampler = WireClient->new($remote, dbname => 'conpool_remote');
$sampler->send(q{SELECT * FROM watch('regress_busy')});
my @loops = map { WireClient->new($local, user => $_) } (@roles[ 0 .. 2 ]) x 4;
$_->send(q{SELECT * FROM test.mixed('busy')}) for @loops;
sleep 1.5;

phase(4);
my $begun = time;
alter('busy', 2);
wait_for($local, q{SELECT bool_and(max_server_size = 2 AND server_size <= 2)
	FROM conpool.pools WHERE server = 'busy'}, 'a lower limit takes effect');
note sprintf 'figure: server_lowered_4_to_2 = %.2f s', time - $begun;
$remote->safe_psql('postgres', 'ALTER ROLE regress_busy CONNECTION LIMIT 2');
phase(2);
sleep 1;

$remote->safe_psql('postgres', 'ALTER ROLE regress_busy CONNECTION LIMIT 6');
phase(3);
$begun = time;
alter('busy', 6);
wait_until(sub { sessions() == 6 }, 'so does a higher one', 20);
note sprintf 'figure: server_raised_2_to_6 = %.2f s', time - $begun;
sleep 1;

stop_loop($local);
my $result = finish_loop(@loops);
phase(0);
my @watched = @{ $sampler->result->{rows} };
is($result->{errors}, '', 'no caller sees an error');
note sprintf 'figure: longest_wait_12_sessions_2_to_6_places = %.2f s', $result->{longest};
cmp_ok($result->{longest}, '<', 8, 'or waits for long');
cmp_ok($result->{done}, '>', 100, 'much was done');
my %limit = (1 => 4, 2 => 2, 3 => 6);
foreach my $phase (1 .. 3)
{
	my ($most, $samples) = @{ $watched[ $phase - 1 ] };
	is($most, $limit{$phase}, "the remote had $limit{$phase} sessions at most");
	cmp_ok($samples, '>', 50, 'in many samples');
	note "figure: samples_with_limit_$limit{$phase} = $samples samples";
}
wait_for($local, q{SELECT bool_and(size = idle) FROM conpool.pools WHERE server = 'busy'},
	'all is quiet');
is(value(q{SELECT server_size = sum(size) FROM conpool.pools WHERE server = 'busy'
	GROUP BY server_size}), 't', 'places and connections are the same number');

# what nobody uses goes, too
server('calm', 2, 4, q{max_server_size '4'});
open_idle('calm', $roles[$_], 2) for 0, 1;
alter('calm', 1);
wait_for($local, q{SELECT sum(size) = 1 FROM conpool.pools WHERE server = 'calm'},
	'a lower limit closes what is idle');

# --- a place for who needs it -------------------------------------------------------

server('gives', 2, 2, q{max_server_size '2'});
my $longest = 0;
foreach my $round (1 .. 6)
{
	my ($has, $wants) = @roles[ $round % 2, 1 - $round % 2 ];
	open_idle('gives', $has, 2);
	my $client = WireClient->new($local, user => $wants);
	$begun = time;
	is($client->query(q{SELECT conpool.exec('gives', 'SELECT 1')})->{error}, undef,
		'an idle connection of another pool gives way');
	my $took = time - $begun;
	$longest = $took if $took > $longest;
	$client->hang_up;
	wait_for($local, q{SELECT sum(size) = 2 AND sum(idle) = 2 FROM conpool.pools
		WHERE server = 'gives'});
}
note sprintf 'figure: idle_place_given = %.0f ms', 1000 * $longest;
cmp_ok($longest, '<', 2, 'soon');

# --- fair shares -----------------------------------------------------------------------

# Starts the loops of a pool for each server or role; the first has a start.
sub contest
{
	my ($sessions, @pools) = @_;
	my @contest;
	foreach my $pool (@pools)
	{
		my ($server, $role) = @$pool;
		push @contest, [ start_loop($local, $server, user => $role, sessions => $sessions) ];
		sleep 0.1 if @contest == 1;
	}
	return \@contest;
}

# All must have got what they asked for, the ones about as often as the others.
sub judge
{
	my ($name, $contest, $limit) = @_;
	my @results = map { finish_loop(@$_) } @$contest;
	my ($least, @more) = sort { $a <=> $b } map { $_->{done} } @results;
	my ($longest) = sort { $b <=> $a } map { $_->{longest} } @results;
	my $ratio = $least / ($more[-1] || 1);
	(my $figure = $name) =~ tr/ ,/_/d;
	note sprintf 'figure: smallest_to_largest_share_%s = %.2f', $figure, $ratio;
	note sprintf 'figure: longest_wait_%s = %.2f s', $figure, $longest;
	note 'statements: ', join ' ', map { $_->{done} } @results;
	is(join('', map { $_->{errors} } @results), '', "$name: no caller sees an error");
	cmp_ok($ratio, '>=', 0.4, "$name: each gets its share");
	cmp_ok($longest, '<', $limit, "$name: nobody waits for long");
	return;
}

sub pools_of
{
	my ($server, $count) = @_;
	return map { [ $server, $_ ] } @roles[ 0 .. $count - 1 ];
}

server('two', 2, 4, q{max_server_size '4', max_size '4'});
server('four', 4, 8, q{max_server_size '8', max_size '8'});
server('one_for_two', 2, 1, q{max_server_size '1'});
my $two = contest(6, pools_of('two', 2));
my $four = contest(4, pools_of('four', 4));
my $one_for_two = contest(2, pools_of('one_for_two', 2));
server('shrinks', 2, 4, q{max_server_size '4'});
my $shrinks = [ map { [ start_loop($local, 'shrinks', user => $_, sessions => 3,
		statement => 'SELECT 1 FROM pg_sleep(0.05)') ] } @roles[ 0, 1 ] ];
sleep 3;
alter('shrinks', 2);
$begun = time;
wait_for($local, q{SELECT bool_and(server_size <= 2) FROM conpool.pools WHERE server = 'shrinks'},
	'with a lower limit connections are closed that are used all the time');
note sprintf 'figure: server_lowered_4_to_2_no_resets = %.2f s', time - $begun;
stop_loop($local);
judge('2 pools, 4 places', $two, 3);
judge('4 pools, 8 places', $four, 3);
judge('2 pools, 1 place', $one_for_two, 4);
judge('2 pools, 4 and then 2 places', $shrinks, 4);

server('one_for_three', 3, 1, q{max_server_size '1'});
my $one_for_three = contest(1, pools_of('one_for_three', 3));
sleep 3;
stop_loop($local);
judge('3 pools, 1 place', $one_for_three, 4);
my $rounds = value(
	q{SELECT sum(connects) FROM conpool.stat_pools WHERE server = 'one_for_three'});
note "figure: one_place_changes_its_pool_in_3_s = $rounds times";
cmp_ok($rounds, '>', 15, 'it goes round several times a second');

# --- slots of this server ------------------------------------------------------------------

$local->append_conf('postgresql.conf', "conpool.max_connections = 4\nconpool.max_pools = 3");
$local->restart;
server('server_left', 1, 4, q{max_size '4'});
server('server_right', 1, 4, q{max_size '4'});
my $slots = contest(6, [ 'server_left', $roles[0] ], [ 'server_right', $roles[0] ]);
sleep 2.5;
is(value(q{SELECT sum(size) <= 4 FROM conpool.pools}),
	't', 'no more connections than slots');
stop_loop($local);
judge('2 pools, 4 slots', $slots, 3);

# --- no place for another pool ---------------------------------------------------------------

my @holders = map { WireClient->new($local, user => $_->[0]) }
  [ $roles[0] ], [ $roles[0] ], ['postgres'];
foreach my $server (qw(server_left server_right remote))
{
	my $result = $holders[0]->query("SELECT conpool.checkout('$server', 'session')");
	is($result->{error}, undef, 'a lease');
	push @holders, shift @holders;
}
is(value(q{SELECT count(*) FROM conpool.pools}), '3', 'all places for pools are taken');
my $client = WireClient->new($local, user => $roles[0]);
my $refused = $client->query(q{SELECT conpool.exec('two', 'SELECT 1')});
is($refused->{error}, '53300', 'a pool that finds none does not exceed a max_server_size');
like($refused->{message}, qr/no place for pool "two"/, 'and says why');

my @refusals = slurp_file($remote->logfile) =~ /.*too many connections.*/g;
is(join("\n", @refusals), '', 'the remote never had to refuse a connection');

done_testing();
