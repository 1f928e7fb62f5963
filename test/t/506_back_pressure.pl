# Whoever does not read is not read for: half a gigabyte streams through a tunnel whose
# memory stays as it is, and a side that stands still, in either direction or in both,
# neither grows the tunnel nor stalls other connections; no byte is lost.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use IO::Select;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

plan skip_all => 'needs /proc' unless -e '/proc/self/clear_refs';
plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $rows = 64 * 1024;        # of 8 kB each
my $gated_rows = 12 * 1024;
my $sent_length = 100_000_000;
my $grows_by = 2048;         # kB, at most: less than is held up
my $stall = 2;               # seconds that nobody may have to wait

my $certificates = Certificates->new;
# who writes a hundred megabytes to the log keeps others from it
my $remote = new_remote('remote', tls => $certificates, conf => 'log_statement = none');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, $_, options => qq{max_size '1', application_name '$_'})
  for qw(rows text others);
# whose parse trees are sent to it before it has sent the rest
create_server($local, $remote, 'duplex', user => 'regress_remote_two', options => q{max_size '1',
	application_name 'duplex', options '-c client_min_messages=log -c debug_print_parse=on -c debug_print_rewritten=on'});
$remote->safe_psql('conpool_remote', q{
	ALTER ROLE regress_remote_two SET log_min_messages = panic;
	CREATE TABLE gate AS SELECT 1 AS a;
	GRANT SELECT ON gate TO PUBLIC});
$local->safe_psql('postgres', q{CREATE TABLE test.text AS
	SELECT string_agg(md5(i::text), '') AS t FROM generate_series(1, 31250) AS i});

my ($reader, $sender, $other) = map { WireClient->new($local) } 1 .. 3;
my $watcher = WireClient->new($local);
my $remote_watcher = WireClient->new($remote);
my $gate = WireClient->new($remote, dbname => 'conpool_remote');

my %stopped;
END { kill 'CONT', keys %stopped if %stopped; }

sub value
{
	my ($sql, $session) = @_;
	my $result = ($session // $watcher)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return $result->{rows}[0][0];
}

# --- processes ------------------------------------------------------------------------

# Has it stand still; the caller sees to it that it has nothing that others need.
sub halt
{
	my ($pid) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$stopped{$pid} = 1;
	kill 'STOP', $pid;
	return wait_until(sub { slurp_file("/proc/$pid/stat") =~ /.*\) T/s }, 'a process stands still');
}

sub go_on
{
	my ($pid) = @_;
	kill 'CONT', $pid;
	delete $stopped{$pid};
	return;
}

# A session waits for its remote.
sub wait_for_remote
{
	my ($session, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($local, "SELECT state = 'active' AND wait_event_type = 'Extension'
		FROM pg_stat_activity WHERE pid = $session->{pid}", $what);
}

# The remote backend of a pool waits for that.
sub remote_waits
{
	my ($server, $event) = @_;
	return value("SELECT count(*) FROM pg_stat_activity
		WHERE application_name = '$server' AND $event", $remote_watcher) == 1;
}

sub wait_for_event
{
	my ($server, $event, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until(sub { remote_waits($server, $event) }, $what);
}

my $blocked = q{wait_event = 'ClientWrite'};

# --- what the tunnel uses -----------------------------------------------------------------

my $tunnel = $local->safe_psql('postgres', 'SELECT pid FROM conpool.tunnels');

# Its peak from now on.
sub forget_peak
{
	append_to_file("/proc/$tunnel/clear_refs", '5');
	return process_memory($tunnel);
}

sub check_memory
{
	my ($before, $when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $after = process_memory($tunnel);
	my ($peak) = slurp_file("/proc/$tunnel/status") =~ /^VmHWM:\s+(\d+)/m;
	note sprintf 'figure: memory of the tunnel, %s: own = %d kB (%d before), share = %d kB (%d before), peak = +%d kB',
	  $when, $after->{own}, $before->{own}, $after->{share}, $before->{share}, $peak - $before->{all};
	cmp_ok($after->{own} - $before->{own}, '<', $grows_by, "$when: the tunnel has not grown");
	cmp_ok($peak - $before->{all}, '<', $grows_by, "$when: at no time");
	return;
}

# Nobody wants anything from it that can be done.
sub check_idle
{
	my ($when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $used = sub {
		my ($user, $system) = slurp_file("/proc/$tunnel/stat") =~ /.*\)(?: \S+){11} (\d+) (\d+)/s;
		return $user + $system;
	};
	my $before = $used->();
	usleep(1_000_000);
	my $ticks = $used->() - $before;
	note "figure: processor time of the tunnel in a second, $when = $ticks ticks of 10 ms";
	cmp_ok($ticks, '<', 15, "$when: the tunnel waits without being busy");
	return;
}

# How long others take, a number of times or while a condition holds.
sub check_others
{
	my ($when, $goes_on) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @took;
	my %answers;
	$goes_on //= sub { @took < 200 };
	while ($goes_on->())
	{
		my $start = time;
		my $result = $other->query(q{SELECT a FROM conpool.query('others', 'SELECT 1') AS t(a int)});
		push @took, time - $start;
		$answers{ $result->{error} // $result->{rows}[0][0] }++;
		usleep(2_000);
	}
	my @sorted = sort { $a <=> $b } @took;
	note sprintf 'figure: select 1 on another connection, %s: median = %.2f ms, p99 = %.2f ms, max = %.2f ms, %d times',
	  $when, map({ 1000 * $_ } @sorted[ $#sorted / 2, 0.99 * $#sorted, -1 ]), scalar @sorted;
	is_deeply(\%answers, { 1 => scalar @took }, "$when: others are served");
	cmp_ok($sorted[-1], '<', $stall, "$when: and do not have to wait");
	return;
}

sub is_answered
{
	my ($session) = @_;
	return IO::Select->new($session->{socket})->can_read(0);
}

# --- what passes ------------------------------------------------------------------------------

# Rows, and what tells that each is there, once and as it was.
my $checksum = q{count(*), sum(octet_length(t)), sum(hashtextextended(t, i))};

sub rows_from
{
	my ($from, $to) = @_;
	return "SELECT i, repeat(md5(i::text), 256) FROM generate_series($from, $to) AS i";
}

sub fetch
{
	my ($sql) = @_;
	return "SELECT $checksum FROM conpool.query('rows', \$\$$sql\$\$) AS r(i bigint, t text)";
}

sub expected
{
	my ($sql) = @_;
	return $remote_watcher->query("SELECT $checksum FROM ($sql) AS r(i, t)")->{rows}[0];
}

my $send = "SELECT concat_ws(' ', a, b) FROM conpool.query('text', 'SELECT length(\$1), md5(\$1)',
	(SELECT repeat(t, $sent_length / 1000000) FROM test.text)) AS r(a int, b text)";
my $text_expected = value("SELECT concat_ws(' ', length(t), md5(t))
	FROM (SELECT repeat(t, $sent_length / 1000000) FROM test.text) AS r(t)");

# Once each, so that all is in memory that ever will be.
$reader->query(fetch(rows_from(1, 2000)));
$sender->query("SELECT * FROM conpool.query('$_', 'SELECT length(\$1)', repeat('x', 1000000)) AS r(a int)")
  for qw(text duplex);
check_others('at first');

# --- half a gigabyte ------------------------------------------------------------------------------

my $before = forget_peak();
my $start = time;
my $sql = rows_from(1, $rows);
$reader->send(fetch($sql));
check_others('while half a gigabyte comes', sub { !is_answered($reader) });
is_deeply($reader->result->{rows}[0], expected($sql), 'half a gigabyte has come as it was sent');
note sprintf 'figure: half a gigabyte of rows = %.1f s', time - $start;
check_memory($before, 'half a gigabyte has passed');

# --- the session stands still ------------------------------------------------------------------------

# The first rows come; for the others the remote waits until it is let.
$before = forget_peak();
$gate->query('SELECT pg_advisory_lock(4711)');
my ($first, $rest) = (rows_from(1, 100), rows_from(101, $gated_rows));
$reader->send(fetch("$first UNION ALL SELECT 0, pg_advisory_xact_lock(4711)::text UNION ALL $rest"));
wait_for_event('rows', q{wait_event_type = 'Lock'}, 'a result has come in part');
wait_for_remote($reader, 'its session waits for the rest');
halt($reader->{pid});
$gate->query('SELECT pg_advisory_unlock(4711)');
wait_for_event('rows', $blocked, 'its session stands still: so does the remote');
check_others('a session stands still');
check_idle('a session stands still');
ok(remote_waits('rows', $blocked), 'the remote still does');
check_memory($before, 'a session stands still');

# --- the remote stands still, too: another connection's -----------------------------------------------

my $remote_pid = value(q{SELECT remote_pid FROM conpool.connections WHERE server = 'text'});
my $sent = value('SELECT bytes_sent FROM conpool.tunnels');
halt($remote_pid);
$sender->send($send);
wait_for($local, "SELECT bytes_sent > $sent + 50000 FROM conpool.tunnels", 'a long text is sent');
wait_for_remote($sender, 'its remote stands still: so does its session');
check_others('a remote stands still');
check_idle('a remote stands still');
check_memory($before, 'a remote stands still');

# Both go on at once.
$start = time;
go_on($_) for $remote_pid, $reader->{pid};
check_others('both go on', sub { !is_answered($reader) || !is_answered($sender) });
my $expected = expected("$first UNION ALL SELECT 0, '' UNION ALL $rest");
is_deeply($reader->result->{rows}[0], $expected, 'the whole result has come as it was sent');
is($sender->result->{rows}[0][0], $text_expected, 'the long text has come as it was sent');
note sprintf 'figure: %d MB of text there, %d MB of rows back = %.1f s', $sent_length / 1e6,
  $gated_rows / 128, time - $start;
check_memory($before, 'both have gone on');

# --- one connection, both directions ---------------------------------------------------------------------

# The remote has got the text of the statement, and has a lot to say about it as soon as
# it may look at the table; the argument is still on its way.
$before = forget_peak();
my ($literal, $argument) = (3_000_000, 30_000_000);
$gate->query('BEGIN; LOCK TABLE gate IN ACCESS EXCLUSIVE MODE');
$sent = value('SELECT bytes_sent FROM conpool.tunnels');
$sender->send("SELECT concat_ws(' ', a, b, c) FROM conpool.query('duplex',
	'SELECT length(\$1), md5(\$1), length(''' || repeat('x', $literal) || ''') FROM gate',
	(SELECT repeat(t, $argument / 1000000) FROM test.text)) AS r(a int, b text, c int)");
wait_for_event('duplex', q{wait_event_type = 'Lock'}, 'the remote has a statement in part');
wait_for($local, "SELECT bytes_sent > $sent + $literal + 50000 FROM conpool.tunnels",
	'its argument is sent');
wait_for_remote($sender, 'its session waits for room');
halt($sender->{pid});
$gate->query('COMMIT');
wait_for_event('duplex', $blocked, 'so does the remote');
check_others('both directions are full');
check_idle('both directions are full');
ok(remote_waits('duplex', $blocked), 'the remote still waits');
check_memory($before, 'both directions are full');
go_on($sender->{pid});
my $result = $sender->result;
is( $result->{rows}[0][0],
	value("SELECT concat_ws(' ', length(t), md5(t), $literal)
		FROM (SELECT repeat(t, $argument / 1000000) FROM test.text) AS r(t)"),
	'the statement has arrived as it was sent, and was answered');
like("@{ $result->{notices} }", qr/remote server/, 'what the remote had to say has come, too');
check_memory($before, 'both directions have gone on');

# --- what is left ---------------------------------------------------------------------------------------

is(value('SELECT pid FROM conpool.tunnels'), $tunnel, 'it is the same tunnel');
is( value(q{SELECT string_agg(connects || ' ' || discarded, ', ') FROM conpool.stat_pools
		WHERE server IN ('rows', 'text', 'others', 'duplex')}),
	join(', ', ('1 0') x 4), 'and the same connections');
is(value('SELECT test.at_rest()'), 't', 'all pools are at rest');

done_testing();
