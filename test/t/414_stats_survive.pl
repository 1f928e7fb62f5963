# Statistics outlive a clean restart of the server, all of them; after a crash or
# an immediate shutdown, or when their file is damaged, they begin anew. A reset
# of one server's leaves the others' alone.
use strict;
use warnings;

use ConpoolTest;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

# Bound, but nobody listens there.
my $nobody = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp') or die "bind: $!";
my $dead_port = $nobody->sockport;

my $remote = new_remote('remote');
my $local = new_local('local', init => { allows_streaming => 1 }, conf => q{
conpool.history_interval = '1s'
conpool.validate_interval = 0
compute_query_id = on
restart_after_crash = on
});
setup_local($local, $remote);
$local->safe_psql('postgres', 'CREATE DATABASE second');
setup_local($local, $remote, 'second');
create_server($local, $remote, 'one',
	options => q{max_size '1', max_waiters '0', leak_threshold '200ms'}, dbname => $_)
  for qw(postgres second);
create_server($local, $remote, 'other');
$local->safe_psql('postgres', qq{
	CREATE SERVER dead FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '$dead_port', dbname 'conpool_remote');
	CREATE USER MAPPING FOR CURRENT_USER SERVER dead
		OPTIONS (user 'regress_remote', password 'remote-secret')});

my $file = $local->data_dir . '/pg_stat/conpool.stat';
my ($watch, $client, $holder, $second);

sub connect_all
{
	($watch, $client, $holder) = map { WireClient->new($local) } 1 .. 3;
	$second = WireClient->new($local, dbname => 'second');
	return;
}

sub hang_up_all { $_->hang_up for $watch, $client, $holder, $second; return }

sub value
{
	my ($sql, $by) = @_;
	my $result = ($by // $watch)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return join "\n", map { join '|', map { $_ // '' } @$_ } @{ $result->{rows} };
}

sub wait_for_value
{
	my ($sql, $name) = @_;
	return wait_until(sub { value($sql) eq 't' }, $name // $sql);
}

my $ours = q{server IN ('one', 'other', 'dead')};
my @kept = qw(stat_pools stat_latency stat_statements stat_errors stat_history leaks events);

# Something of everything in each pool, and then rest.
sub populate
{
	value(q{SELECT conpool.exec('one', 'SELECT generate_series(1, 3)')}, $_) for $client, $second;
	value(q{SELECT conpool.exec('other', 'SELECT 1')}, $client);
	foreach my $end (qw(COMMIT ROLLBACK))
	{
		$client->query(q{BEGIN; SET LOCAL conpool.pool_mode = 'transaction'});
		value(q{SELECT conpool.exec('other', 'SELECT 1')}, $client);
		$client->query($end);
	}
	foreach my $server (qw(one other))
	{
		is($client->query("SELECT conpool.exec('$server', 'SELECT 1 / 0')")->{error}, '22012', 'an error');
	}
	is($client->query(q{SELECT conpool.exec('dead', 'SELECT 1')})->{error}, '08001', 'an outage');
	my $leaks = value(q{SELECT leaks FROM conpool.stat_pools WHERE server = 'one' AND database = 'postgres'});
	my $lease = value(q{SELECT conpool.checkout('one', 'session')}, $holder);
	is($client->query(q{SELECT conpool.exec('one', 'SELECT 1')})->{error}, '53300', 'a full queue');
	wait_for_value("SELECT leaks = $leaks + 1 FROM conpool.stat_pools WHERE server = 'one' AND database = 'postgres'", 'a leak');
	value("SELECT conpool.checkin($lease)", $holder);
	wait_for_value("SELECT sum(size) = 3 AND sum(idle) = 3 FROM conpool.pools WHERE $ours", 'all is at rest');
	my $now = value('SELECT clock_timestamp()');
	wait_for_value("SELECT count(*) = 4 FROM (SELECT max(until) AS until FROM conpool.stat_history
		WHERE $ours GROUP BY server, database) AS h WHERE until > '$now'", 'all of it is in the history');
	return;
}

# The views as they are now, without what goes on by itself: of history and events
# what was there at an instant.
sub snapshot
{
	my ($instant) = @_;
	my %condition = (
		stat_pools => q{server <> 'dead'},
		leaks => 'outcome IS NOT NULL',
		stat_history => "until <= '$instant'",
		events => "at <= '$instant'");
	my %shown;
	foreach my $view (@kept)
	{
		my $and = $condition{$view} // 'true';
		$shown{$view} = value(qq{SELECT v::text FROM conpool.$view AS v
			WHERE ($ours OR server IS NULL) AND $and ORDER BY v::text COLLATE "C"});
	}
	return \%shown;
}

sub is_as_before
{
	my ($name, $before, $instant) = @_;
	my $after = snapshot($instant);
	foreach my $view (@kept)
	{
		is($after->{$view}, $before->{$view}, "$name: $view as before");
	}
	return;
}

# What counts what has happened, or tells of it; but not what happens at a start.
sub is_empty
{
	my ($name) = @_;
	my $counts = join ', ', map { "(SELECT count(*) FROM conpool.$_ WHERE $ours)" } grep { $_ ne 'stat_pools' } @kept;
	is(value("SELECT $counts, (SELECT coalesce(sum(checkouts + connects + queries + leaks), 0) FROM conpool.stat_pools)"),
		'0|0|0|0|0|0|0', "$name: all begins anew");
	return;
}

sub wait_for_broker
{
	return wait_for_value(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'conpool broker'},
		'there is a broker');
}

connect_all();
populate();

# --- a clean restart -------------------------------------------------------------------

my ($instant, $count);
foreach my $mode (qw(fast smart))
{
	$instant = value('SELECT clock_timestamp()');
	my $before = snapshot($instant);
	my $open = value(q{SELECT total_breaker_time FROM conpool.stat_pools WHERE server = 'dead'});
	$_ eq 'stat_pools' || ok(length $before->{$_}, "$mode: there is something in $_") for @kept;
	hang_up_all();
	$local->stop($mode);
	ok(-e $file, "$mode: there is a file");
	is((stat $file)[2] & 077, 0, "$mode: which nobody else can read");
	unlike(slurp_file($file), qr/secret/, "$mode: and has no password in it");
	$local->start;
	connect_all();
	ok(!-e $file && !-e "$file.tmp", "$mode: it is gone when the server runs");
	is_as_before($mode, $before, $instant);
	my $kept = value(q{SELECT total_breaker_time FROM conpool.stat_pools WHERE server = 'dead'});
	cmp_ok($kept, '>=', $open, "$mode: the time that a breaker was open");
	is(value(q{SELECT total_breaker_time FROM conpool.stat_pools WHERE server = 'dead'}), $kept, "$mode: which it is not now");
	is( value("SELECT event FROM conpool.events WHERE at > '$instant' AND event ~ 'broker' ORDER BY number"),
		"broker ended\nbroker started",
		"$mode: events go on");

	# counting goes on
	$count = q{SELECT checkouts, queries, (SELECT sum(count) FROM conpool.stat_latency WHERE server = s.server AND kind = 'wait'),
		(SELECT sum(calls) FROM conpool.stat_statements WHERE server = s.server) FROM conpool.stat_pools AS s WHERE server = 'other'};
	my @old = split /\|/, value($count);
	value(q{SELECT conpool.exec('other', 'SELECT 1')}, $client);
	is(value($count), join('|', map { $_ + 1 } @old), "$mode: counting goes on");
	is(value(q{SELECT count(*) FROM conpool.stat_pools WHERE server = 'other'}), '1', "$mode: in the same pool");
	value(q{SELECT conpool.exec('one', 'SELECT 1')}, $_) for $client, $second;
	wait_for_value("SELECT sum(size) = 3 AND sum(idle) = 3 FROM conpool.pools WHERE $ours", "$mode: at rest");
}
is( value(q{SELECT count(*) FROM conpool.stat_history WHERE checkouts > 1000 OR timeouts > 1000 OR errors > 1000 OR seconds > 100}),
	'0', 'no row of the history is huge');

# --- one server's statistics are reset ---------------------------------------------------

$instant = value('SELECT clock_timestamp()');
my $not_one = q{NOT (server = 'one' AND database = 'postgres')};
my $others = sub {
	return join "\n", map { value(qq{SELECT v::text FROM conpool.$_ AS v WHERE server IN ('one', 'other') AND $not_one ORDER BY v::text COLLATE "C"}) }
	  qw(stat_pools stat_latency stat_statements stat_errors);
};
my $before = $others->();
my $told = q{SELECT v::text FROM conpool.%s AS v WHERE server = 'one' AND database = 'postgres' AND %s ORDER BY 1};
my @told = ([ 'leaks', 'outcome IS NOT NULL' ], [ 'events', "at <= '$instant'" ], [ 'stat_history', "until <= '$instant'" ]);
my $one = join "\n", map { value(sprintf $told, @$_) } @told;
value(q{SELECT conpool.reset_stats('one')});
is($others->(), $before, 'a reset leaves other servers alone, and one of that name in another database');
is( value(q{SELECT (SELECT checkouts + queries + connects + leaks FROM conpool.stat_pools AS s WHERE s.server = 'one' AND s.database = 'postgres'),
		(SELECT count(*) FROM conpool.stat_latency AS l WHERE l.server = 'one' AND l.database = 'postgres'),
		(SELECT count(*) FROM conpool.stat_statements AS t WHERE t.server = 'one' AND t.database = 'postgres'),
		(SELECT count(*) FROM conpool.stat_errors AS e WHERE e.server = 'one' AND e.database = 'postgres')}),
	'0|0|0|0', 'and nothing of its own');
is(join("\n", map { value(sprintf $told, @$_) } @told), $one, 'but history, events and leaks');

# --- a crash --------------------------------------------------------------------------------

my $victim = WireClient->new($local);
my $broker = broker_pid($local);
kill 'KILL', $victim->{pid};
ok($watch->query('SELECT pg_sleep(60)')->{lost}, 'a session is killed: all end');
$local->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'conpool broker' AND pid <> $broker");
connect_all();
wait_for_broker();
is_empty('after a crash');
is(value('SELECT count(*) FROM conpool.events WHERE number = 1'), '1', 'events as well');
ok(!-e $file, 'there was no file of old ones');

# and none of them comes with the next clean restart
value(q{SELECT conpool.exec('other', 'SELECT 1')}, $client);
wait_for_value(q{SELECT idle = 1 FROM conpool.pools WHERE server = 'other'});
$local->restart;
connect_all();
is(value(q{SELECT string_agg(server || ' ' || checkouts, ',') FROM conpool.stat_pools WHERE checkouts > 0}), 'other 1',
	'a clean restart brings only what was counted since');

# --- an immediate shutdown ----------------------------------------------------------------------

populate();
$local->stop('immediate');
ok(!-e $file, 'an immediate shutdown leaves no file');
$local->start;
connect_all();
wait_for_broker();
is_empty('after an immediate shutdown');

# --- a damaged file -------------------------------------------------------------------------------

populate();
$instant = value('SELECT clock_timestamp()');
$before = snapshot($instant);
hang_up_all();
$local->stop('fast');
my $good = slurp_file($file);
my $size = length $good;
note "figure: size of the file of 4 pools = $size bytes";

sub write_file
{
	my ($contents) = @_;
	open my $out, '>:raw', $file or die "$file: $!";
	print $out $contents;
	close $out;
	return;
}

my %damaged = (
	'one bit' => sub { my $copy = $good; substr($copy, $size / 2, 1) ^= "\x10"; return $copy },
	'its end is lost' => sub { return substr $good, 0, $size - 3 },
	'there is more of it' => sub { return $good . "\0" },
	'it is empty' => sub { return '' });
foreach my $how (sort keys %damaged)
{
	write_file($damaged{$how}->());
	my $log = -s $local->logfile;
	$local->start;
	connect_all();
	wait_for_broker();
	my @lines = slurp_file($local->logfile, $log) =~ /^.*conpool\.stat.*$/mg;
	is(scalar(@lines), 1, "$how: one line in the log") or diag(@lines);
	like($lines[0], qr/LOG:  ignoring file "pg_stat\/conpool.stat": it is damaged/, "$how: which says so");
	is_empty($how);
	ok(!-e $file, "$how: the file is gone");
	hang_up_all();
	$local->stop('fast');
}
write_file($good);
$local->start;
connect_all();
is_as_before('the file as it was', $before, $instant);

# --- a standby's own -----------------------------------------------------------------------------------

$local->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($local, 'copy', has_streaming => 1);
$standby->start;
$client = WireClient->new($standby);
$count = q{SELECT server, checkouts, queries, connects FROM conpool.stat_pools WHERE checkouts > 0};
is(value($count, $client), '', 'a standby has nothing of the primary\'s statistics');
value(q{SELECT conpool.exec('other', 'SELECT 1')}, $client) for 1 .. 3;
is(value($count, $client), 'other|3|3|1', 'but its own');
$client->hang_up;
$standby->restart;
is(value($count, WireClient->new($standby)), 'other|3|3|1', 'which outlive its restart');

done_testing();
