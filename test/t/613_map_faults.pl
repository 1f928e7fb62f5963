# Statements on many servers at once, some of which are down, silent, slow, crowded or
# refuse: it takes as long as the slowest, each has its rows or its error, and after an
# error or a cancel nothing goes on running anywhere.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(hang);
use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $soon = 15;       # seconds for whatever is to be over soon; conpool's own limit is 2
my $connect = 2;     # connect_timeout in seconds
my $servers = 4;     # that are well: m1, m2 ...
my @well = map { "m$_" } 1 .. $servers;

my $remote = new_remote('remote', conf => 'max_connections = 60');
my $local = new_local('local', conf => 'deadlock_timeout = 20ms');
setup_local($local, $remote);
create_server($local, $remote, $_) for @well;

my $watcher = WireClient->new($local);
my $remote_watcher = WireClient->new($remote);
my $client = WireClient->new($local);

sub value
{
	my ($sql, $session) = @_;
	my $result = ($session // $client)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return $result->{rows}[0][0];
}

sub text_array { return 'ARRAY[' . join(', ', map { "\$sql\$$_\$sql\$" } @_) . ']' }

# A map over servers; the statements are one for all, or one for each.
sub map_of
{
	my ($function, $servers, @statements) = @_;
	my $sql = @statements == 1 ? "\$sql\$$statements[0]\$sql\$" : text_array(@statements);
	return "SELECT * FROM conpool.$function(" . text_array(@$servers) . ", $sql)";
}

# What runs remotely, on any pool.
sub running
{
	return value(q{SELECT count(*) FROM pg_stat_activity
		WHERE usename = 'regress_remote' AND state <> 'idle'}, $remote_watcher);
}

sub is_over
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until(sub { running() == 0 }, "$what: nothing runs remotely any more");
	return wait_until(
		sub {
			value(q{SELECT sum(leased + connecting + resetting + closing + waiting) FROM conpool.pools},
				$watcher) == 0;
		}, "$what: all pools are at rest");
}

sub waits
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($local, "SELECT state = 'active' AND wait_event_type = 'Extension'
		FROM pg_stat_activity WHERE pid = $client->{pid}", $what);
}

# --- at the same time -----------------------------------------------------------------

my $sleep = map_of('map', \@well, 'SELECT 1 FROM pg_sleep(0.5)');
$client->query($sleep);
my @took;
foreach my $n (1 .. 5)
{
	my $begun = time;
	my $result = $client->query($sleep);
	push @took, time - $begun;
	is(scalar @{ $result->{rows} }, $servers, "all servers answer, $n");
}
@took = sort { $a <=> $b } @took;
note sprintf 'figure: map over %d servers that sleep 0.5 s, median of %d = %.3f s, fastest = %.3f s',
  $servers, scalar @took, $took[ @took / 2 ], $took[0];
cmp_ok($took[0], '<', 0.7, 'servers sleep at the same time');
cmp_ok($took[ @took / 2 ], '<', 0.5 * ($servers - 0.5), 'as a rule');

# in order of arrival, and who has answered is free
my @order = (3, 1, 4, 2);
my %gate;
foreach my $n (@order)
{
	$gate{$n} = WireClient->new($remote, dbname => 'conpool_remote');
	$gate{$n}->query("SELECT pg_advisory_lock($n)");
}
$client->send(map_of('map', \@well, map { "SELECT $_ AS n FROM pg_advisory_xact_lock($_)" } 1 .. $servers));
wait_until(sub { running() == $servers }, 'all are at it');
foreach my $n (@order)
{
	$gate{$n}->query("SELECT pg_advisory_unlock($n)");
	wait_for_pool($local, "m$n", 'leased = 0', "server $n has answered, its connection is free");
}
is(join(' ', map { "$_->[0] $_->[1]" } @{ $client->result->{rows} }),
	join(' ', map { "m$_ {\"n\": $_}" } @order), 'rows come in order of arrival');
is_over('in order of arrival');

# --- all that may be wrong, at once ----------------------------------------------------

# A port on which nobody listens.
sub closed_port
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) // die "listen: $!";
	return $socket->sockport;
}

# A port whose system answers nothing: nobody accepts, and there is no room to wait for
# that. Undefined where it does answer.
my @full;

sub black_hole
{
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) // die "listen: $!";
	push @full, $listener;
	foreach (1 .. 20)
	{
		my $socket = IO::Socket::INET->new(
			PeerAddr => '127.0.0.1', PeerPort => $listener->sockport, Blocking => 0) // return;
		push @full, $socket;
		return $listener->sockport unless IO::Select->new($socket)->can_write(1);
	}
	return;
}

my $fake = FakeServer->new({ silent => { greeting => \&hang } });
$remote->safe_psql('postgres', q{
	CREATE ROLE regress_crowd LOGIN CONNECTION LIMIT 0 PASSWORD 'crowd-secret'});
my $timeout = "connect_timeout '${connect}s'";
create_server($local, $remote, $_, options => $timeout) for qw(slow wrong dies down hole refusing crowded);
create_server($local, $remote, 'held', options => q{max_size '1', checkout_timeout '1s'});
$local->safe_psql('postgres', q{ALTER SERVER down OPTIONS (SET port '} . closed_port() . q{')});
$local->safe_psql('postgres', q{ALTER USER MAPPING FOR CURRENT_USER SERVER refusing
	OPTIONS (SET password 'not it')});
$local->safe_psql('postgres', q{ALTER USER MAPPING FOR CURRENT_USER SERVER crowded
	OPTIONS (SET user 'regress_crowd', SET password 'crowd-secret')});
my $hole = black_hole();
$local->safe_psql('postgres', "ALTER SERVER hole OPTIONS (SET port '$hole')") if $hole;
my @silent = map { "silent$_" } 1 .. 4;
my $fake_port = $fake->port;
$local->safe_psql('postgres', qq{
	CREATE SERVER $_ FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '$fake_port', dbname 'silent', $timeout);
	CREATE USER MAPPING FOR CURRENT_USER SERVER $_
		OPTIONS (user 'postgres', password_required 'false')}) for @silent;

# One that another session holds all of.
my $holder = WireClient->new($local);
value(q{SELECT conpool.checkout('held', 'session')}, $holder);

# server => [ statement, what it is to come to ]
my %case = (
	(map { $_ => [ 'SELECT 1 AS a', '{"a": 1}' ] } @well),
	slow => [ 'SELECT 1 AS a FROM pg_sleep(1)', '{"a": 1}' ],
	wrong => [ 'SELECT 1/0', '22012' ],
	dies => [ 'SELECT pg_sleep(60) FROM pg_terminate_backend(pg_backend_pid())', '08006' ],
	down => [ 'SELECT 1', '08001' ],
	refusing => [ 'SELECT 1', '28P01' ],
	crowded => [ 'SELECT 1', '08001' ],
	held => [ 'SELECT 1', '53300' ],
	($hole ? (hole => [ 'SELECT 1', '08001' ]) : ()),
	(map { $_ => [ 'SELECT 1', '08001' ] } @silent));
my @all = sort keys %case;

# What became of each: data, or the SQLSTATE.
sub outcomes
{
	my ($result) = @_;
	return join "\n", sort map { "$_->[0]: " . ($_->[1] // $_->[2]) } @{ $result->{rows} };
}

my $begun = time;
my $result = $client->query(map_of('try_map', \@all, map { $case{$_}[0] } @all));
my $took = time - $begun;
my $slow = grep { /silent|hole/ } @all;
note sprintf 'figure: try_map over %d servers, %d of them silent for %d s = %.2f s', scalar @all, $slow, $connect, $took;
is($result->{message}, undef, 'try_map raises none of it');
is(outcomes($result), join("\n", map { "$_: $case{$_}[1]" } @all), 'each has its row');
is(scalar(grep { defined $_->[2] && (defined $_->[1] || !$_->[3]) } @{ $result->{rows} }), 0,
	'with either data or an error and its text');
foreach my $row (grep { $_->[0] =~ /^(down|hole|silent\d|crowded|held|refusing|dies)$/ } @{ $result->{rows} })
{
	like($row->[3], qr/"$row->[0]"/, "the error of $row->[0] names it");
}
cmp_ok($took, '>', $connect * 0.9, 'it takes as long as the slowest');
cmp_ok($took, '<', $connect * ($slow - 1), 'and not as long as all of them');
$begun = time;
$result = $client->query(map_of('try_map', \@all, map { $case{$_}[0] } @all));
is(outcomes($result), join("\n", map { "$_: $case{$_}[1]" } @all), 'the same once more');
note sprintf 'figure: the same once more = %.2f s', time - $begun;
value(q{SELECT conpool.checkin(lease) FROM conpool.leases WHERE server = 'held'}, $holder);
is_over('try_map');

# --- map: the first error is raised, and stops the others -----------------------------------

foreach my $bad (qw(wrong dies down refusing), $silent[0])
{
	my @with = ('m1', 'm2', $bad, 'm3');
	my $long = 'SELECT pg_sleep(600)';
	# by now nobody tries to connect to what is down
	$local->safe_psql('postgres', "SELECT conpool.reconnect('$bad')") if $case{$bad}[1] eq '08001';
	$begun = time;
	$result = $client->query(map_of('map', \@with, $long, $long, $case{$bad}[0], $long));
	is($result->{error}, $case{$bad}[1], "map with $bad: raises its error");
	my $said = join ' ', map { $_ // '' } @$result{qw(message detail hint)};
	like($said, qr/"$bad"/, "map with $bad: which names it") unless $bad eq 'wrong';
	cmp_ok(time - $begun, '<', $soon, "map with $bad: soon");
	is_over("map with $bad");
}

# the error of a statement names it by its context
is( value(q{DO $$ DECLARE c text; BEGIN
		PERFORM conpool.map(ARRAY['m1', 'm2'], ARRAY['SELECT 1', 'SELECT 1/0']);
	EXCEPTION WHEN division_by_zero THEN
		GET STACKED DIAGNOSTICS c = PG_EXCEPTION_CONTEXT;
		PERFORM set_config('test.context', c, false);
	END $$; SELECT current_setting('test.context') LIKE '%"m2"%'}), 't',
	'the error of a statement names the server in its context');
is_over('map with an error');

# --- cancelled --------------------------------------------------------------------------------

foreach my $function ('map', 'try_map')
{
	my $long = map_of($function, \@well, 'SELECT 1 AS a', ('SELECT pg_sleep(600)') x ($servers - 1));
	foreach my $how ('a cancel', 'statement_timeout', 'pg_terminate_backend()')
	{
		my $what = "$function, $how";
		$client->query(q{SET statement_timeout = '300ms'}) if $how eq 'statement_timeout';
		$client->send($long);
		if ($how ne 'statement_timeout')
		{
			wait_until(sub { running() == $servers - 1 }, "$what: the others run");
			waits("$what: it waits");
		}
		$begun = time;
		$client->cancel if $how eq 'a cancel';
		value("SELECT pg_terminate_backend($client->{pid})", $watcher) if $how =~ /^pg_/;
		is($client->result->{error}, $how =~ /^pg_/ ? '57P01' : '57014', "$what: is told");
		cmp_ok(time - $begun, '<', $soon, "$what: soon");
		is_over($what);
		$client = WireClient->new($local) if $how =~ /^pg_/;
		$client->query('RESET statement_timeout');
	}
}

# while some are being connected to, and while it queues
$local->safe_psql('postgres', 'SELECT ' . join ', ', map { "conpool.reconnect('$_')" } @silent);
value(q{SELECT conpool.checkout('held', 'session')}, $holder);
$local->safe_psql('postgres', q{ALTER SERVER held OPTIONS (SET checkout_timeout '60s');
	ALTER SERVER silent4 OPTIONS (SET connect_timeout '60s')});
$client->send(map_of('try_map', [ 'm1', 'silent4', 'held' ], 'SELECT pg_sleep(600)'));
wait_for_pool($local, 'held', 'waiting = 1', 'a map queues at one server');
wait_for_pool($local, 'silent4', 'connecting = 1', 'and connects to another one');
wait_until(sub { running() == 1 }, 'while a statement runs at a third');
$begun = time;
$client->cancel;
is($client->result->{error}, '57014', 'it is cancelled');
cmp_ok(time - $begun, '<', $soon, 'soon');
value(q{SELECT conpool.checkin(lease) FROM conpool.leases WHERE server = 'held'}, $holder);
is_over('a map that connects and queues');

# --- results without end, and large ones --------------------------------------------------------

$client->query(q{SET work_mem = '1MB'});
$client->send(map_of('map', \@well,
	q{SELECT generate_series(1, 1000000000) AS i, repeat('x', 200) AS t}, ('SELECT 1 AS a') x ($servers - 1)));
wait_until(sub { running() == 1 }, 'a result without end');
wait_for_pool($local, $_, 'leased = 0 AND idle = 1', "beside it $_ has answered") for @well[ 1 .. $#well ];
wait_for($local, 'SELECT count(*) > 0 FROM pg_ls_tmpdir()', 'it fills a temporary file');
$begun = time;
$client->cancel;
is($client->result->{error}, '57014', 'it is cancelled');
cmp_ok(time - $begun, '<', $soon, 'soon');
is_over('a result without end');
is(value('SELECT count(*) FROM pg_ls_tmpdir()'), 0, 'its file is gone');

SKIP:
{
	skip 'needs /proc', 2 unless -e '/proc/self/clear_refs';
	my $rows = 300_000;
	my $memory = sub {
		my ($what) = @_;
		my ($kb) = slurp_file("/proc/$client->{pid}/status") =~ /^$what:\s+(\d+) kB/m;
		return $kb / 1024;
	};
	my $large = sub {
		my ($n) = @_;
		return value(map_of('map', [ 'm1', 'm2' ],
				"SELECT i, repeat('x', 200) AS t FROM generate_series(1, $n) AS i")
			=~ s/SELECT \*/SELECT count(*)/r);
	};
	$large->(1000);
	append_to_file("/proc/$client->{pid}/clear_refs", '5');
	my $before = $memory->('VmRSS');
	is($large->($rows), 2 * $rows, 'two large results arrive');
	my $grown = $memory->('VmHWM') - $before;
	note sprintf 'figure: memory for two results of %d MB = %.1f MB', $rows * 230 / 1e6, $grown;
	cmp_ok($grown, '<', 30, 'memory does not grow with them');
}

# --- little room ----------------------------------------------------------------------------------

create_server($local, $remote, 'small', options => q{max_size '3'});
my $pids = value(qq{SELECT count(*) || ' ' || count(DISTINCT data->>'pid')
	FROM conpool.map(array_fill('small'::text, ARRAY[30]),
					 'SELECT pg_backend_pid() AS pid FROM pg_sleep(0.02)')});
is($pids, '30 3', 'thirty times the same server, on its three connections');
is(value(q{SELECT count(*) FROM conpool.try_map(array_fill('small'::text, ARRAY[30]), 'SELECT 1')
	WHERE sqlstate IS NULL}), 30, 'so does try_map');
is(value(q{SELECT count(*) FROM conpool.try_map(array_fill('small'::text, ARRAY[30]), 'SELECT 1/0')
	WHERE sqlstate = '22012'}), 30, 'even if all fail');
is_over('thirty times the same server');

# Sessions that want the same in other orders, and there is only one of each.
my @narrow = qw(x y z);
create_server($local, $remote, $_, options => q{max_size '1', checkout_timeout '20s'}) for @narrow;

sub map_again
{
	my ($order, $goes_on) = @_;
	my $session = WireClient->new($local);
	my %count = (done => 0);
	while ($goes_on->())
	{
		my $function = rand() < 0.5 ? 'map' : 'try_map';
		my $result = $session->query(map_of($function, $order, 'SELECT 1 AS a FROM pg_sleep(0.002)'));
		my @failed = map { $_->[2] // () } @{ $result->{rows} };
		$count{"$function: $result->{error} $result->{message}"}++ if $result->{error};
		$count{"a row of $function: $_"}++ for @failed;
		$count{"$function: rows are missing"}++ unless $result->{error} || @{ $result->{rows} } == @$order;
		$count{done}++ unless $result->{error} || @failed;
	}
	return %count;
}

my @workers;
foreach my $order ([@narrow], [ reverse @narrow ], [ @narrow, @narrow ], [qw(y z x y)])
{
	push @workers, start_worker(sub { map_again($order, @_) });
}
my $until = time + 5;    # that is how long it lasts
select undef, undef, undef, 0.1 while time < $until;
my $count = stop_workers(@workers);
note "figure: maps over the same servers in other orders in 5 s = $count->{done}";
cmp_ok(delete $count->{done}, '>', 20, 'sessions map over the same servers in other orders');
is(join("\n", %$count), '', 'none waits for ever, none has an error');
is_over('maps in other orders');

# --- pools of one remote transaction ------------------------------------------------------------------

create_server($local, $remote, $_, options => q{pool_mode 'transaction'}) for qw(t1 t2);
$remote->safe_psql('conpool_remote', 'CREATE TABLE written (n int PRIMARY KEY); GRANT ALL ON written TO regress_remote');
$client->query('BEGIN');
value(q{SELECT conpool.exec('t2', 'INSERT INTO written VALUES (2)')});
$result = $client->query(map_of('try_map', [qw(t1 t2)], 'INSERT INTO written VALUES (1) RETURNING n',
	'INSERT INTO written VALUES (2)'));
is(outcomes($result), qq(t1: {"n": 1}\nt2: 23505), 'an error in a remote transaction is a row');
value(q{SELECT conpool.exec('t2', 'INSERT INTO written VALUES (3)')});
is($client->query('COMMIT')->{error}, undef, 'the transaction goes on, and commits');
is($remote->safe_psql('conpool_remote', 'SELECT string_agg(n::text, \' \' ORDER BY n) FROM written'),
	'1 2 3', 'everything but that');
is_over('in remote transactions');

# A cancel is no row, even where one server alone is waited for: until its remote
# transaction has begun.
my $stopped = value(q{SELECT pid FROM conpool.query('t1', 'SELECT pg_backend_pid()') AS t(pid int)});
END { kill 'CONT', $stopped if $stopped; }
kill 'STOP', $stopped;
$client->send(map_of('try_map', [qw(m1 t1)], 'SELECT 1 AS a'));
waits('a remote session that stands still: its transaction does not begin');
$begun = time;
value("SELECT pg_cancel_backend($client->{pid})", $watcher);    # which is one signal, and no more
is($client->result->{error}, '57014', 'a remote session that stands still: a cancel is no row');
cmp_ok(time - $begun, '<', $soon, 'a remote session that stands still: soon');
kill 'CONT', $stopped;
undef $stopped;
is_over('a remote session that stands still');

is(join("\n", slurp_file($local->logfile) =~ /^.*(?:TRAP:|PANIC:|was terminated by signal).*$/mg), '',
	'no process crashed');

done_testing();
