# The history has one row for each pool and interval; together they say what the
# counters say, whatever becomes of statistics, broker and remote, and there are
# no more of them than conpool.history_size.
use strict;
use warnings;

use ConpoolTest;
use IO::Socket::INET;
use POSIX qw(ceil);
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

# Bound, but nobody listens there.
my $nobody = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp') or die "bind: $!";
my $dead_port = $nobody->sockport;

my $remote = new_remote('remote');
my $local = new_local('local', conf => "conpool.history_interval = '1s'\nconpool.history_size = 200");
setup_local($local, $remote);
create_server($local, $remote, $_, options => q{max_size '3', max_waiters '4', reset 'never'})
  for qw(steady burst gap);
$local->safe_psql(
	'postgres', qq{
	CREATE SERVER dead FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '$dead_port', dbname 'conpool_remote');
	CREATE USER MAPPING FOR CURRENT_USER SERVER dead
		OPTIONS (user 'regress_remote', password 'remote-secret');

	-- leases held for so many seconds each, and how many milliseconds that took
	CREATE FUNCTION test.hold(server text, VARIADIC seconds float8[]) RETURNS SETOF float8
	LANGUAGE plpgsql AS \$\$
	DECLARE
		began timestamptz;
		time float8;
		lease bigint;
	BEGIN
		FOREACH time IN ARRAY seconds LOOP
			began := clock_timestamp();
			lease := conpool.checkout(server, 'session');
			PERFORM pg_sleep(time);
			PERFORM conpool.checkin(lease);
			RETURN NEXT extract(epoch FROM clock_timestamp() - began) * 1000;
		END LOOP;
	END \$\$;
});

my $watch;
my @clients;

sub connect_all
{
	$watch = WireClient->new($local);
	@clients = map { WireClient->new($local) } 1 .. 8;
	return;
}

sub values_of
{
	my ($sql, $client) = @_;
	my $result = ($client // $watch)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return map { join '|', map { $_ // '' } @$_ } @{ $result->{rows} };
}

sub value { return (values_of(@_))[0] // '' }
sub now { return value('SELECT clock_timestamp()') }

sub wait_for_value
{
	my ($sql, $name) = @_;
	return wait_until(sub { value($sql) eq 't' }, $name // $sql);
}

# Rows of a pool, with when the one before was written, at the earliest.
my $rows = q{(SELECT *, lag(until) OVER (PARTITION BY server, role ORDER BY until) AS since
	FROM conpool.stat_history) AS h};

# Waits until intervals that began after an instant are over.
sub wait_for_interval
{
	my ($server, $instant, $count) = @_;
	$count //= 1;
	return wait_for_value(
		"SELECT count(*) >= $count FROM $rows WHERE server = '$server' AND since >= '$instant'",
		"$server: an interval is over");
}

my $sums = 'coalesce(sum(checkouts), 0), coalesce(sum(timeouts), 0), coalesce(sum(errors), 0)';
my $counters = 'checkouts, checkout_timeouts, query_errors + checkout_failures';

# At rest: waits until the rows have it all.
sub sums_are
{
	my ($server, $expected, $name) = @_;
	my $got = '';
	return wait_until(
		sub {
			$got = value("SELECT $sums FROM conpool.stat_history WHERE server = '$server'");
			return $got eq $expected;
		},
		$name,
		10) || diag("$got, not $expected");
}

# Nothing has come on top of that, in pools whose statistics were never reset.
sub nothing_is_twice
{
	my ($name) = @_;
	is( join(',', values_of("SELECT server FROM (SELECT server, role, $sums FROM conpool.stat_history
			GROUP BY server, role) AS h(server, role, c, t, e) JOIN conpool.stat_pools AS s USING (server, role)
			WHERE (c, t, e) = ($counters) AND server <> 'gap' ORDER BY server")),
		'burst,dead,steady',
		$name);
	return;
}

connect_all();

# --- sums are differences of the counters ---------------------------------------

value(q{SELECT conpool.exec('steady', 'SELECT 1')});
my @load = start_load($local, 4, 'steady');
$clients[0]->query(q{SELECT conpool.exec('steady', 'SELECT 1 / 0')}) for 1 .. 5;
$clients[0]->query(q{SELECT conpool.exec('dead', 'SELECT 1')}) for 1 .. 3;
wait_for_interval('steady', now());
my $seen = stop_workers(@load);
cmp_ok($seen->{right}, '>', 20, 'load over some intervals');
sums_are('steady', value("SELECT $counters FROM conpool.stat_pools WHERE server = 'steady'"),
	'checkouts, timeouts and errors of all rows are what is counted');
sums_are('dead', '0|0|3', 'a checkout that failed is an error');
cmp_ok(
	value(q{SELECT count(*) FROM conpool.stat_history WHERE server = 'steady' AND checkouts > 0}),
	'>', 1, 'in several rows');
is( value(q{SELECT max(h.wait_max) = max(s.max_wait_time) AND max(h.checkout_max) = max(s.max_checkout_time)
		AND max(h.peak_leased) = max(s.peak_leased)
		FROM conpool.stat_history AS h, conpool.stat_pools AS s WHERE h.server = 'steady' AND s.server = 'steady'}),
	't',
	'so are maxima and peak');

# --- peaks, and an outage ------------------------------------------------------------------------

# three leases that are held over several intervals, and four who wait for one
my @leases = map { value(q{SELECT conpool.checkout('steady', 'session')}, $_) } @clients[ 0 .. 2 ];
$_->send(q{SELECT * FROM test.hold('steady', 0)}) for @clients[ 3 .. 6 ];
wait_for_value(q{SELECT waiting = 4 FROM conpool.pools WHERE server = 'steady'});
is($clients[7]->query(q{SELECT conpool.exec('steady', 'SELECT 1')})->{error}, '53300', 'a queue that is full');
my $held = now();
wait_for_interval('steady', $held);
is( join(',', values_of("SELECT DISTINCT peak_leased, peak_waiting, checkouts, wait_max IS NULL, checkout_max IS NULL
		FROM $rows WHERE server = 'steady' AND since >= '$held'")),
	'3|4|0|t|t',
	'what is held and waited for over an interval is its peak, and nothing else');

# meanwhile there is an outage, since somebody asked in vain, above
cmp_ok(value("SELECT min(breaker_seconds) FROM $rows WHERE server = 'dead' AND since >= '$held'"),
	'>', 0, 'while the breaker is open, each row says so');

$local->safe_psql('postgres', q{ALTER SERVER dead OPTIONS (SET port '} . $remote->port . q{')});
value(q{SELECT conpool.exec('dead', 'SELECT 1')});
value("SELECT conpool.checkin($leases[$_])", $clients[$_]) for 0 .. 2;
$_->result for @clients[ 3 .. 6 ];
my $released = now();
wait_for_interval('steady', $released);
is( join(',', values_of("SELECT DISTINCT peak_leased, peak_waiting FROM $rows
		WHERE server = 'steady' AND since >= '$released'")),
	'0|0',
	'when all is given back there is none');
is( value("SELECT sum(timeouts) FROM conpool.stat_history WHERE server = 'steady'"),
	'1', 'who found the queue full is counted');

my ($shown, $counted, $longest) = split /\|/, value(
	q{SELECT sum(breaker_seconds), max(total_breaker_time) / 1000, max(breaker_seconds - seconds)
	  FROM conpool.stat_history JOIN conpool.stat_pools USING (server, role) WHERE server = 'dead'});
note "figure: breaker open for $counted s = $shown s in the history";
ok(abs($shown - $counted) <= 0.05 * $counted + 0.1, 'how long the breaker was open')
  or diag("$shown s, not $counted");
cmp_ok($longest, '<=', 0.5, 'in none for longer than it is');
is(value("SELECT sum(breaker_seconds) FROM $rows WHERE server = 'dead' AND since >= '$released'"),
	'0', 'when it is closed there is nothing to say');

# --- percentiles of one interval ----------------------------------------------------

# All within one interval: if it ends meanwhile, or the machine is slow, once more.
my @holds = ((0.002) x 10, (0.01) x 8, (0.05) x 2);
my ($row, @most);
$local->safe_psql('postgres', q{ALTER SERVER burst OPTIONS (ADD max_lifetime '0')});
value(q{SELECT conpool.exec('burst', 'SELECT 1')});
for (1 .. 10)
{
	sleep 1.02 - (time - int time);
	my $start = now();
	@most = sort { $a <=> $b } values_of(q{SELECT * FROM test.hold('burst', } . join(',', @holds) . ')');
	my $end = now();
	wait_for_value("SELECT max(until) > '$end' FROM conpool.stat_history WHERE server = 'burst'");
	$row = value("SELECT checkout_p50, checkout_p99, checkout_max, wait_p50 <= wait_p99 AND wait_p99 <= wait_max
		FROM conpool.stat_history WHERE server = 'burst' AND until > '$start' AND checkouts = " . @holds);
	last if $row;
}
my ($p50, $p99, $max, $waits) = split /\|/, $row;
my @least = map { $_ * 1000 } sort { $a <=> $b } @holds;
foreach my $case ([ 'median', $p50, 0.5 ], [ 'p99', $p99, 0.99 ], [ 'maximum', $max, 1 ])
{
	my ($name, $got, $share) = @$case;
	my $n = ceil($share * @least) - 1;
	ok($got >= 0.999 * $least[$n] - 0.01 && $got <= 1.05 * $most[$n] + 0.01,
		"the $name of one interval is that of the leases of that interval")
	  or diag("$got ms, not between $least[$n] and $most[$n]");
}
is($waits, 't', 'so are those of waits, in their order');
note "figure: p50, p99 and maximum of 20 leases in a row of the history = $p50, $p99, $max ms";

# --- one row for each pool and interval -----------------------------------------------

nothing_is_twice('all is in some row, and in one only');
is( value(q{SELECT count(*) FROM (SELECT server, role, until FROM conpool.stat_history
		GROUP BY server, role, until HAVING count(*) > 1) AS d}),
	'0',
	'no interval twice');
is( value(q{SELECT count(*) FROM conpool.stat_history WHERE extract(microseconds FROM until)::bigint % 1000000 <> 0}),
	'0',
	'intervals end at full seconds');
# each pool has a row wherever the one that is there for longest has one
is( value(q{WITH all_rows AS (SELECT * FROM conpool.stat_history),
		firsts AS (SELECT server, role, min(until) AS first, max(until) AS last FROM all_rows GROUP BY server, role)
		SELECT count(*) FROM firsts AS f, all_rows AS r
		WHERE r.server = 'steady' AND r.until BETWEEN f.first AND f.last
		AND NOT EXISTS (SELECT FROM all_rows AS o WHERE (o.server, o.role, o.until) = (f.server, f.role, r.until))}),
	'0',
	'all pools have the same intervals');
my ($count, $span) = split /\|/, value(
	q{SELECT count(*), extract(epoch FROM max(until) - min(until)) FROM conpool.stat_history WHERE server = 'steady'});
note "figure: intervals of 1 s in $span s = $count rows";
cmp_ok($count, '<=', $span + 1, 'not more rows than intervals');
cmp_ok($count, '>=', $span / 2, 'nor many less');
is( value(q{SELECT bool_and(until <= at) FROM (SELECT until, lag(until) OVER () AS at
		FROM conpool.stat_history WHERE server = 'steady') AS h}),
	't',
	'newest first');

# --- statistics are reset in between ---------------------------------------------------

value(q{SELECT conpool.exec('gap', 'SELECT 1')}) for 1 .. 5;
sums_are('gap', '5|0|0', 'before a reset');
value(q{SELECT conpool.reset_stats('gap')});
value(q{SELECT conpool.exec('gap', 'SELECT 1')}) for 1 .. 7;
sums_are('gap', '12|0|0', 'after it rows go on with what is new, and nothing is subtracted');
is(value(q{SELECT checkouts FROM conpool.stat_pools WHERE server = 'gap'}), '7', 'the counters have that alone');

# --- a broker is killed in between -------------------------------------------------------

# what counts while there is none, belongs to no interval
my $stopped;
END { kill 'CONT', $stopped if $stopped; }
value(q{SELECT conpool.exec('gap', 'SELECT 1')}) for 1 .. 3;
my $broker = broker_pid($local);
$stopped = $local->{_pid};
kill 'STOP', $stopped;
kill 'TERM', $broker;
wait_for_value(q{SELECT broker = 'not running' FROM conpool.pools WHERE server = 'gap'}, 'there is no broker');
my $gone = now();
is(value(q{SELECT sum(checkouts) FROM conpool.stat_history WHERE server = 'gap'}), '15',
	'a broker that ends writes down what there is');
value(q{SELECT conpool.exec('gap', 'SELECT 1')}) for 1 .. 40;
sleep 1.2;
my $back = now();
kill 'CONT', $stopped;
undef $stopped;
wait_for_value(q{SELECT broker = 'running' FROM conpool.pools WHERE server = 'gap'}, 'there is a new one');
value(q{SELECT conpool.exec('gap', 'SELECT 1')}) for 1 .. 2;
sums_are('gap', '17|0|0', 'what was done without a broker is in no row');
is(value(q{SELECT checkouts FROM conpool.stat_pools WHERE server = 'gap'}), '52', 'but counted');
is(value("SELECT count(*) FROM conpool.stat_history WHERE until > '$gone' AND until <= '$back'"),
	'0', 'there is a gap');
is( value(qq{SELECT count(*) FROM conpool.stat_history WHERE until > '$back'
		AND until - seconds * interval '1 s' < '$gone'::timestamptz - interval '1 s'}),
	'0', 'and no row reaches over it');
is( value(q{SELECT count(*) FROM conpool.stat_history AS h
		WHERE checkouts > 20000 OR timeouts > 100 OR errors > 100 OR seconds > 60 OR peak_leased > 3 OR peak_waiting > 5}),
	'0',
	'no row is huge');

# --- how many ------------------------------------------------------------------------------

nothing_is_twice('nothing has come to that');
$count = value(q{SELECT count(*) FROM conpool.stat_history WHERE server = 'steady'});
cmp_ok($count, '>', 4, 'a history');
my $newest = value(q{SELECT max(until) FROM conpool.stat_history WHERE server = 'steady'});
$local->append_conf('postgresql.conf', "conpool.history_size = 3\nconpool.history_interval = '1d'");
$local->restart;
connect_all();
is(value(q{SELECT max(n) FROM (SELECT count(*) AS n FROM conpool.stat_history GROUP BY server, role) AS h}),
	'3', 'of an old history that is longer than that, no more is kept');
cmp_ok(value("SELECT count(*) FROM conpool.stat_history WHERE server = 'steady' AND until >= '$newest'"),
	'>=', 1, 'the newest');
$newest = value(q{SELECT max(until) FROM conpool.stat_history});
value(q{SELECT conpool.exec('steady', 'SELECT 1')});
sleep 1.3;
is(value(q{SELECT max(until) FROM conpool.stat_history}), $newest, 'an interval of a day does not end yet');

# another length holds at once
$local->append_conf('postgresql.conf', "conpool.history_interval = '1s'");
$local->reload;
wait_for_value("SELECT min(until) > '$newest' FROM conpool.stat_history", 'the old ones make room');
is( join(',', values_of(q{SELECT DISTINCT count(*) FROM conpool.stat_history GROUP BY server, role})),
	'3', 'each pool has as many rows as conpool.history_size');

$local->append_conf('postgresql.conf', 'conpool.history_size = 0');
$local->restart;
connect_all();
value(q{SELECT conpool.exec('steady', 'SELECT 1')});
sleep 1.3;
is(value(q{SELECT count(*) FROM conpool.stat_history}), '0', 'without room there is no history');
is(value(q{SELECT conpool.exec('steady', 'SELECT 1')}), 'SELECT 1', 'and all goes on');

done_testing();
