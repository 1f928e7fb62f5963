# A failover under load: the primary dies, its standby takes over, the old one
# comes back as a standby, and takes over again when the other becomes read-only.
# The pool follows by itself; no statement runs twice, none that was acknowledged
# is lost.
use strict;
use warnings;

use ConpoolTest;
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

my $sessions = 8;
my $size = 4;

# --- two servers ------------------------------------------------------------------

# pg_rewind wants to find what was written since the last checkpoint
my $one = new_remote('one', init => { allows_streaming => 1 }, conf => 'wal_keep_size = 64MB');
$one->safe_psql($ConpoolTest::remote_db, q{
	-- nothing in it that would refuse a row that comes twice
	CREATE TABLE inserted (key text);
	ALTER TABLE inserted OWNER TO regress_remote});
$one->backup('copy');
my $two = PostgreSQL::Test::Cluster->new('two');
$two->init_from_backup($one, 'copy', has_streaming => 1);
$two->start;
# what is acknowledged is on both
$one->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'two'});
$one->reload;
wait_for($one, q{SELECT sync_state = 'sync' FROM pg_stat_replication}, 'the standby is synchronous');

my $local = new_local('local');
setup_local($local, $one);
my $ports = $one->port . ',' . $two->port;
my %name = ('127.0.0.1:' . $one->port => 'one', '127.0.0.1:' . $two->port => 'two');

# "load" is used; of "spare" nobody takes a connection; "reads" prefers a standby
my %pools = (
	load => [ 'regress_remote', 'read-write', "max_size '$size'" ],
	spare => [ 'regress_remote', 'read-write', q{min_size '2', validate_interval '500ms'} ],
	reads => [ 'regress_remote_two', 'prefer-standby', q{max_size '2'} ]);
foreach my $name (sort keys %pools)
{
	my ($user, $target, $options) = @{ $pools{$name} };
	create_server($local, $one, $name, user => $user, options =>
		  "$options, connect_timeout '5', checkout_timeout '10s', target_session_attrs '$target'");
	$local->safe_psql('postgres',
		"ALTER SERVER $name OPTIONS (SET host '127.0.0.1,127.0.0.1', SET port '$ports')");
}

# Where the connections of a pool are: "one one two".
sub places
{
	my ($pool) = @_;
	return join ' ', sort map { $name{$_} // $_ } split /\n/, $local->safe_psql('postgres',
		"SELECT remote_address FROM conpool.connections WHERE server = '$pool' AND state <> 'connecting'");
}

# --- the load ---------------------------------------------------------------------

# Every session writes down what became of each of its rows: time, key and
# SQLSTATE, or "done".
my $dir = PostgreSQL::Test::Utils::tempdir;

sub insert_rows
{
	my ($number, $phase, $goes_on) = @_;
	my $client = WireClient->new($local);
	my $n = 0;
	open my $to, '>', "$dir/$phase.$number" or die "open: $!";
	$to->autoflush(1);
	while ($goes_on->())
	{
		my $key = "$phase-$number-" . ++$n;
		my $result = $client->query(
			"SELECT conpool.exec('load', 'INSERT INTO inserted VALUES (\$1)', '$key'::text)");
		die 'the session is lost' if $result->{lost};
		my $outcome = $result->{error} // 'done';
		printf $to "%.6f %s %s\n", time, $key, $outcome;
		usleep($outcome eq 'done' ? 2_000 : 20_000);
	}
	return ();
}

sub start_inserting
{
	my ($phase) = @_;
	return map { my $number = $_; start_worker(sub { insert_rows($number, $phase, @_) }) }
	  1 .. $sessions;
}

# What was written down, in the order of time.
sub outcomes
{
	my ($phase) = @_;
	my @outcomes;
	foreach my $number (1 .. $sessions)
	{
		next unless -e "$dir/$phase.$number";
		foreach my $line (grep { /\n\z/ } split /(?<=\n)/, slurp_file("$dir/$phase.$number"))
		{
			my ($time, $key, $outcome) = split ' ', $line;
			push @outcomes, { time => $time, key => $key, outcome => $outcome };
		}
	}
	return sort { $a->{time} <=> $b->{time} } @outcomes;
}

sub wait_for_rows
{
	my ($phase, $count, $test_name) = @_;
	my $since = time;
	return wait_until(
		sub { $count < grep { $_->{outcome} eq 'done' && $_->{time} > $since } outcomes($phase) },
		$test_name);
}

sub by_outcome
{
	my %keys;
	push @{ $keys{ $_->{outcome} } }, $_->{key} for @_;
	return \%keys;
}

# key => how often
sub rows_on
{
	my ($node) = @_;
	return map { split /\|/ } split /\n/, $node->safe_psql($ConpoolTest::remote_db,
		'SELECT key, count(*) FROM inserted GROUP BY key');
}

sub report_errors
{
	my ($what, $keys) = @_;
	note "figure: $what, " . ($_ eq 'done' ? 'rows inserted' : "errors $_") . ' = ' . @{ $keys->{$_} }
	  for sort keys %$keys;
	return;
}

# --- the primary dies ---------------------------------------------------------------

wait_for_pool($local, 'spare', 'idle = 2');
my @readers = start_load($local, 2, 'reads');
my @load = start_inserting('failover');
wait_for_rows('failover', 400, 'the load runs');
is(places('load'), join(' ', ('one') x $size), 'on the primary');
is(places('spare'), 'one one', 'where the spare ones are, too');
wait_until(sub { places('reads') =~ /^two( two)?$/ }, 'but who only reads is on the standby');

# a statement that has run, and whose answer will be lost
my $in_doubt = 'failover-in-doubt';
my $client = WireClient->new($local);
$client->send(qq{SELECT conpool.exec('load', \$\$
	BEGIN; INSERT INTO inserted VALUES ('$in_doubt'); COMMIT; SELECT pg_sleep(100) \$\$)});
wait_for($two, "SELECT count(*) = 1 FROM inserted WHERE key = '$in_doubt'",
	'a statement has done its work', $ConpoolTest::remote_db);

my $killed = time;
$one->stop('immediate');
is($client->result->{error}, '08006', 'but its answer is lost');
wait_until(sub { 100 < grep { $_->{outcome} eq '08001' } outcomes('failover') },
	'there is no service for a while');
$two->promote;
my $promoted = time;
wait_for_rows('failover', 400, 'service comes back by itself');
my $report = stop_workers(@load);
is(join(' ', keys %$report), '', 'no session ended');

my @outcomes = (outcomes('failover'), { time => time, key => $in_doubt, outcome => '08006' });
my $keys = by_outcome(@outcomes);
my %row = rows_on($two);
report_errors('failover', $keys);
my ($last) = map { $_->{time} } grep { $_->{outcome} eq 'done' && $_->{time} < $killed } reverse @outcomes;
my ($first) = map { $_->{time} } grep { $_->{outcome} eq 'done' && $_->{time} > $promoted } @outcomes;
note sprintf 'figure: failover, without service = %.2f s, after the promotion = %.2f s',
  $first - $last, $first - $promoted;

is(join(' ', grep { !/^(done|08006|08001)$/ } keys %$keys), '', 'there is no other error');
is(scalar(grep { !$row{$_} } @{ $keys->{done} }), 0, 'every row that was acknowledged is there');
is(scalar(grep { $_ > 1 } values %row), 0, 'no row is there twice');
is(scalar(grep { $row{$_} } @{ $keys->{'08001'} }), 0, 'what found no connection did not run');
my $lost = grep { $row{$_} } @{ $keys->{'08006'} };
note "figure: failover, rows whose answer was lost = $lost";
is(scalar keys %row, @{ $keys->{done} } + $lost, 'and there are no other rows');
cmp_ok(scalar @{ $keys->{'08006'} // [] }, '<=', $size, 'a connection loses one answer at most');
cmp_ok($first - $promoted, '<', 10, 'service is back soon after the promotion');
like(places('load'), qr/^two( two)*$/, 'on the new primary');
wait_until(sub { places('spare') eq 'two two' }, 'where the spare ones are again, too');

# --- the old primary comes back as a standby ------------------------------------------

$two->safe_psql('postgres', 'CHECKPOINT');
my $conf = $one->data_dir . '/postgresql.conf';
copy($conf, "$dir/conf") or die "copy: $!";
command_ok(
	[
		'pg_rewind', '--no-sync',
		'--target-pgdata' => $one->data_dir,
		'--source-server' => $two->connstr('postgres')
	],
	'the old primary is wound back');
copy("$dir/conf", $conf) or die "copy: $!";
$one->enable_streaming($two);
my $log_offset = -s $one->logfile;
$one->start;
$two->wait_for_catchup($one);

@load = start_inserting('standby');
wait_for_rows('standby', 100, 'the load runs');
my $before = $local->safe_psql('postgres', 'SELECT clock_timestamp()');
$local->safe_psql('postgres', 'SELECT conpool.reconnect()');
wait_for($local, "SELECT count(*) FILTER (WHERE opened_at < '$before') = 0
			AND count(*) FILTER (WHERE server = 'spare' AND state = 'idle') = 2
			AND count(*) FILTER (WHERE server = 'load' AND state IN ('idle', 'leased')) > 0
		FROM conpool.connections", 'all connections are new');
like(places('load'), qr/^two( two)*$/, 'none of them is to a standby');
is(places('spare'), 'two two', 'whether used or not');
wait_until(sub { places('reads') =~ /^one( one)?$/ }, 'but for those that prefer one');
$report = stop_workers(@load);
is(join(' ', keys %$report), '', 'no session ended');
is(join(' ', keys %{ by_outcome(outcomes('standby')) }), 'done', 'nobody saw an error');
wait_for($one, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'regress_remote'},
	'who asked the standby what it is has left');
unlike(substr(slurp_file($one->logfile), $log_offset), qr/INSERT INTO inserted/,
	'nothing went there');

# --- the new primary becomes read-only --------------------------------------------------

%row = rows_on($two);
@load = start_inserting('switch');
wait_for_rows('switch', 200, 'the load runs');
wait_until(sub { places('load') eq join ' ', ('two') x $size }, 'on all connections');
$one->promote;
is(places('load'), join(' ', ('two') x $size), 'it stays where it is when there are two primaries');
my $switched = time;
$two->safe_psql('postgres', 'ALTER SYSTEM SET default_transaction_read_only = on');
$two->reload;
wait_for($one, q{SELECT count(*) > 200 FROM inserted WHERE key LIKE 'switch-%'},
	'rows arrive at the other one', $ConpoolTest::remote_db);
wait_until(sub { places('load') =~ /^one( one)*$/ }, 'all connections have moved');
wait_until(sub { places('spare') eq 'one one' }, 'those that nobody uses as well');
$report = stop_workers(@load);
is(join(' ', keys %$report), '', 'no session ended');

@outcomes = outcomes('switch');
$keys = by_outcome(@outcomes);
report_errors('read-only primary', $keys);
is(join(' ', grep { !/^(done|25006)$/ } keys %$keys), '', 'there is no other error');
cmp_ok(scalar @{ $keys->{25006} // [] }, '<=', $size, 'a connection brings one error at most');
cmp_ok(scalar @{ $keys->{25006} // [] }, '>', 0, 'and it did become read-only under the load');
my ($last_error) = map { $_->{time} } grep { $_->{outcome} ne 'done' } reverse @outcomes;
note sprintf 'figure: read-only primary, last error after = %.2f s', $last_error - $switched;

my %there = rows_on($two);
my %here = rows_on($one);
is(scalar(grep { $_ > 1 } values %here, values %there), 0, 'no row is there twice');
is(scalar(grep { !$here{$_} && !$there{$_} } @{ $keys->{done} }), 0,
	'every row that was acknowledged is there');
is(scalar(grep { $here{$_} || $there{$_} } @{ $keys->{25006} }), 0,
	'none that was refused is there');
$row{$_} = 1 for @{ $keys->{done} };
is(scalar(grep { !$row{$_} } keys %here, keys %there), 0, 'and there are no other rows');

# Neither the death of the primary nor what its standby became was of interest.
$report = stop_workers(@readers);
note "figure: statements of those who only read = $report->{right}";
is(join(' ', keys %$report), 'right', 'who only read has seen nothing of all that');

# --- what is left -------------------------------------------------------------------------

is($local->safe_psql('postgres', 'SELECT test.at_rest()'), 't', 'all pools are at rest');
is($local->safe_psql('postgres', q{SELECT DISTINCT breaker FROM conpool.pools
		WHERE server IN ('load', 'spare')}), 'closed', 'and open for more');

done_testing();
