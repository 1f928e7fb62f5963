# A remote that resets the connection in the middle of a result costs the
# statement, and nothing else: no lease, no slot, nobody else's statement.
use strict;
use warnings;

use ConpoolTest;
use FakeServer
  qw(message ready row_header one_row greet reset_connection);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(stat time);
use WireClient;

my $limit = 5;    # seconds for any answer: all of them come at once

# --- the remote ---------------------------------------------------------------

my $row = message('D', pack('nNa', 1, 1, '1'));
my $error = message('E', "SERROR\0C22012\0Mdivision by zero\0\0");

# What comes before the reset.
my @kinds = (
	at_once => '',
	in_type => substr(row_header(), 0, 1),
	in_row_description => substr(row_header(), 0, 12),
	after_row_description => row_header(),
	in_length_of_row => row_header() . substr($row, 0, 3),
	after_half_a_row => row_header() . substr($row, 0, 10),
	after_a_row => row_header() . $row,
	after_many_rows => row_header() . $row x 20_000 . substr($row, 0, 6),
	before_ready => one_row(),
	in_ready => one_row() . substr(ready(), 0, 4),
	after_an_error => $error);
my %before = @kinds;
@kinds = grep { exists $before{$_} } @kinds[ map { 2 * $_ } 0 .. $#kinds / 2 ];

# Each backend notes what it is asked, in the order of things; those that are
# older than the file "end" reset whoever talks to them.
my $dir = PostgreSQL::Test::Utils::tempdir;
my ($log, $end) = ("$dir/log", "$dir/end");
my $born;
my $poisoned;

sub note_down
{
	my ($what) = @_;
	append_to_file($log, "$$ $what\n" =~ s/\0//r);
	my @end = stat $end;
	return !@end || $born > $end[9];
}

sub answer
{
	my ($peer, $sql) = @_;
	note_down("query $sql") or return reset_connection($peer);
	if ($sql =~ /^reset (\w+)/)
	{
		$peer->send($before{$1});
		return reset_connection($peer);
	}
	if ($sql =~ /^all/)
	{
		append_to_file($end, '');
		return reset_connection($peer);
	}
	$poisoned = $sql =~ /^poison/;
	my $n = $sql =~ /^SELECT (\d+)/ ? $1 : '0';
	$peer->send(row_header()
		  . message('D', pack('nN/a', 1, $n))
		  . message('C', "SELECT 1\0")
		  . ready());
	return $sql !~ /^leave/ || reset_connection($peer);
}

my $server = FakeServer->new({
	resets => {
		greeting => sub { $born = time; note_down('begins'); greet(@_) },
		answer => \&answer,
		sync => sub {
			note_down('check') ? $_[0]->send(ready()) : reset_connection(@_);
		},
		discard => sub {
			$poisoned
			  ? reset_connection(@_)
			  : $_[0]->send(message('C', "DISCARD ALL\0") . ready());
		}
	},
	# three attempts fail
	map {
		my $attempts = "$dir/$_";
		$_ => {
			greeting => sub {
				append_to_file($attempts, '.');
				return greet(@_) if -s $attempts > 3;
				$_[0]->send(message('R', pack 'N', 0));
				return reset_connection(@_);
			}
		}
	} qw(greets ahead)});
my $port = $server->port;
append_to_file($log, '');

# What backends of the pool were asked after a moment in the log: pid => [...].
sub asked_since
{
	my ($offset) = @_;
	my %asked;
	foreach my $line (split /\n/, substr slurp_file($log), $offset)
	{
		my ($pid, $what) = split ' ', $line, 2;
		push @{ $asked{$pid} }, $what;
	}
	return \%asked;
}

# --- the pools ------------------------------------------------------------------

my $local = new_local('local');
$local->safe_psql('postgres', 'CREATE EXTENSION conpool');
foreach my $case ([ one => 'resets', 3 ], [ crowd => 'resets', 4 ], [ greets => 'greets', 3 ],
	[ ahead => 'ahead', q{2', min_size '2} ])
{
	my ($name, $dbname, $size) = @$case;
	$local->safe_psql('postgres', qq{
		CREATE SERVER $name FOREIGN DATA WRAPPER conpool OPTIONS (host '127.0.0.1',
			port '$port', dbname '$dbname', max_size '$size', validate_interval '0');
		CREATE USER MAPPING FOR postgres SERVER $name OPTIONS (user 'nobody')});
}
my $broker = broker_pid($local);
my $client = WireClient->new($local);

sub query_of
{
	my ($on, $sql) = @_;
	return "SELECT * FROM conpool.query($on, '$sql') AS t(n int)";
}

# Runs a statement that is answered at once, whatever happens to it.
sub run
{
	my ($sql, $name) = @_;
	my $start = time;
	my $result = $client->query($sql);
	cmp_ok(time - $start, '<', $limit, "$name: nobody is kept waiting");
	return $result;
}

# Fills the pool; the session knows all of its connections then.
sub fill
{
	my ($pool, $size) = @_;
	my @leases = map {
		$client->query("SELECT conpool.checkout('$pool', 'session')")->{rows}[0][0]
	} 1 .. $size;
	$client->query("SELECT conpool.checkin($_)") for @leases;
	wait_for_pool($local, $pool, "idle = $size AND size = $size");
	return;
}

sub backends
{
	my ($pool) = @_;
	return split /\n/, $local->safe_psql('postgres',
		"SELECT remote_pid FROM conpool.connections WHERE server = '$pool'");
}

sub counters
{
	return $local->safe_psql('postgres', q{
		SELECT checkouts, queries, query_errors, discarded, connect_failures
		FROM conpool.stat_pools WHERE server = 'one'});
}

# --- one statement ------------------------------------------------------------

my $serial = 0;
foreach my $kind (@kinds)
{
	fill('one', 3);
	$local->safe_psql('postgres', q{SELECT conpool.reset_stats('one')});
	my $offset = -s $log;
	my %alive = map { $_ => 1 } backends('one');

	my $result = run(query_of(q{'one'}, "reset $kind"), $kind);
	is($result->{error}, '08006', "$kind: the statement is lost");
	like($result->{message}, qr/connection of pool "one" was lost/,
		"$kind: the error names the pool");
	is(scalar @{ $result->{rows} }, 0, "$kind: there are no rows");
	like($result->{detail}, qr/22012/, "$kind: and what the remote has said")
	  if $kind eq 'after_an_error';

	my $n = ++$serial;
	is(run(query_of(q{'one'}, "SELECT $n"), $kind)->{rows}[0][0],
		$n, "$kind: the next statement is well");
	is(counters(), '2|2|1|1|0', "$kind: all is counted");

	# The others have to show that they live before they serve anybody.
	my $asked = asked_since($offset);
	delete @alive{ grep { $asked->{$_}[0] =~ /^query reset/ } keys %$asked };
	wait_until(sub { 2 == grep { asked_since($offset)->{$_} } keys %alive },
		"$kind: the two other connections are asked", 10);
	$asked = asked_since($offset);
	is(join(' ', map { $asked->{$_}[0] // 'nothing' } keys %alive),
		'check check', "$kind: whether they live, at first");
	# while they are asked there may be a new one
	wait_for_pool($local, 'one', 'size = idle AND idle BETWEEN 2 AND 3',
		"$kind: the pool is at rest");
}

# --- when the others are dead, too ----------------------------------------------

fill('one', 3);
my %dead = map { $_ => 1 } backends('one');
is(run(query_of(q{'one'}, 'all'), 'all')->{error}, '08006', 'all: a statement is lost');
is(run(query_of(q{'one'}, 'SELECT 5'), 'all')->{rows}[0][0],
	'5', 'all: the next one has a connection that lives');
wait_for_pool($local, 'one', 'size = 1 AND idle = 1', 'all: the others are gone');
is(join(' ', grep { $dead{$_} } backends('one')), '', 'all: it is a new one');

# --- leases ---------------------------------------------------------------------

my $lease = $client->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0];
is(run(query_of($lease, 'reset after_half_a_row'), 'lease')->{error},
	'08006', 'a lease is lost');
is(run(query_of($lease, 'SELECT 1'), 'lease')->{error}, '08006', 'and stays so');
is($client->query("SELECT conpool.checkin($lease)")->{error},
	undef, 'until it is given back');

# One transaction, many leases; it catches all errors, none of them remains.
my $script = join "\n", map { qq{
	BEGIN
		PERFORM * FROM conpool.query('one', 'reset $_') AS t(n int);
	EXCEPTION WHEN connection_failure THEN
		caught := caught + 1;
	END;} } (@kinds) x 2;
my $result = run(qq{
	DO \$\$ DECLARE caught int := 0; BEGIN $script
		RAISE WARNING '%', caught || ' ' || (SELECT count(*) FROM conpool.leases);
	END \$\$}, 'transaction');
is("@{ $result->{notices} }", 'WARNING: ' . 2 * @kinds . ' 0',
	'a transaction goes on after each, and has no lease left');

# --- without a statement --------------------------------------------------------

$lease = $client->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0];
is($client->query(query_of($lease, 'poison'))->{error}, undef, 'reset in a reset:');
is(run("SELECT conpool.checkin($lease)", 'reset')->{error}, undef, 'checkin is well');
is(run(query_of(q{'one'}, 'SELECT 6'), 'reset')->{rows}[0][0], '6', 'and what follows');

$client->query("SELECT conpool.close_idle('one')");
wait_for_pool($local, 'one', 'size = 0');
is(run(query_of(q{'one'}, 'leave'), 'idle')->{rows}[0][0], '0', 'reset while idle:');
wait_for_pool($local, 'one', 'size = 0', 'it is noticed though nobody asks');

is(run(query_of(q{'greets'}, 'SELECT 1'), 'greets')->{error},
	'08001', 'reset in the greeting');
wait_until(
	sub { !$client->query(query_of(q{'greets'}, 'SELECT 1'))->{error} },
	'it is tried again, and works');
is($local->safe_psql('postgres', q{SELECT connects, connect_failures
		FROM conpool.stat_pools WHERE server = 'greets'}),
	'1|3', 'at the first attempt that could');
wait_for_pool($local, 'ahead', 'idle = 2', 'ahead of demand as well');
is($local->safe_psql('postgres', q{SELECT connects, dials, connect_failures
		FROM conpool.stat_pools WHERE server = 'ahead'}),
	'2|2|3', 'after as many attempts');

# --- many at once ---------------------------------------------------------------

# Eight sessions, four connections; of eight statements three lose theirs.
my @crowd = map { WireClient->new($local) } 1 .. 8;
my %count = (good => 0, lost => 0);
srand 315;
my $longest = 0;
foreach my $round (1 .. 25)
{
	my @sent = map { $_ % 8 < 3 ? 'reset ' . $kinds[ rand @kinds ] : "SELECT $_" }
	  map { $round * 8 + $_ } 1 .. 8;
	@sent = @sent[ map { ($_ + $round) % 8 } 0 .. 7 ];
	my $start = time;
	$crowd[$_]->send(query_of(q{'crowd'}, $sent[$_])) for 0 .. $#crowd;
	foreach my $i (0 .. $#crowd)
	{
		my $got = $crowd[$i]->result;
		my $what = $got->{error} // $got->{rows}[0][0];
		my $good = $sent[$i] eq "SELECT $what";
		my $lost = $sent[$i] =~ /^reset/ && $what eq '08006';
		$count{ $good ? 'good' : $lost ? 'lost' : "$sent[$i]: $what" }++;
	}
	$longest = time - $start if time - $start > $longest;
}
is_deeply(\%count, { good => 25 * 5, lost => 25 * 3 },
	'each loses its own statement, and nobody else does');
cmp_ok($longest, '<', $limit, 'nobody is kept waiting');
note sprintf 'figure: longest answer with 3 of 8 statements reset = %.0f ms', $longest * 1000;

# --- what is left ---------------------------------------------------------------

wait_for($local, q{SELECT count(*) = 0 FROM conpool.connections WHERE state <> 'idle'},
	'nothing is held, opened, reset or closed');
is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.pools
		WHERE size <> idle OR size > max_size OR waiting > 0 OR breaker <> 'closed'}),
	0, 'the pools add up');
is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.leases}),
	0, 'no lease is left');
is(broker_pid($local), $broker, 'the broker has gone through it all');
is(join("\n", slurp_file($local->logfile) =~
		/^.*(?:TRAP:|PANIC:|was terminated by signal).*$/mg), '', 'no process crashed');

done_testing();
