# The view stat_statements says what each local statement did with a pool, by the
# query ID that pg_stat_statements has, too: what it cost, for whom, and that of
# the busiest ones if there are more than conpool.max_statements.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', conf => q{
shared_preload_libraries = 'pg_stat_statements, conpool'
pg_stat_statements.track = 'top'
compute_query_id = on
log_statement = 'none'
});
plan skip_all => 'there is no pg_stat_statements'
  if $local->psql('postgres', 'CREATE EXTENSION pg_stat_statements') != 0;
setup_local($local, $remote);
$local->safe_psql('postgres', q{
	CREATE ROLE regress_alice LOGIN;
	CREATE ROLE regress_bob LOGIN;
	CREATE ROLE regress_watcher LOGIN IN ROLE pg_read_all_stats;
});
create_server($local, $remote, $_, options => q{max_size '1', reset 'never', checkout_timeout '100ms'})
  for qw(one other);
create_server($local, $remote, 'busy', options => q{max_size '4'});
$local->safe_psql('postgres', q{
	CREATE SERVER shared FOREIGN DATA WRAPPER conpool
		OPTIONS (server 'one', max_size '4');
	CREATE USER MAPPING FOR PUBLIC SERVER one OPTIONS (user 'regress_remote', password 'remote-secret');
	GRANT USAGE ON FOREIGN SERVER one, shared, busy TO PUBLIC;
});

my ($watch, $client, $holder);

sub connect_all
{
	($watch, $client, $holder) = map { WireClient->new($local) } 1 .. 3;
	return;
}

sub values_of
{
	my ($sql, $by) = @_;
	my $result = ($by // $watch)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return map { join '|', map { $_ // '' } @$_ } @{ $result->{rows} };
}

sub value { return join ',', values_of(@_) }

# Columns of the rows whose text has this name in it.
sub statement
{
	my ($name, $columns, $more) = @_;
	return value("SELECT $columns FROM conpool.stat_statements WHERE query ~ '\\m$name\\M' " . ($more // ''));
}

# A call that has a name in its text, and a form, by which query IDs differ, that
# is its own: a number of columns.
my %form;

sub call
{
	my ($name, $server, $sql) = @_;
	$form{$name} //= 1 + keys %form;
	return "SELECT conpool.exec('$server', '$sql') AS $name" . ', true' x $form{$name};
}

connect_all();

# --- what it cost ------------------------------------------------------------------

value(call('plain', 'one', 'SELECT generate_series(1, 7)'), $client) for 1 .. 5;
is(statement('plain', 'server, database, role, caller, calls, rows, errors'),
	'one|postgres|postgres|postgres|5|35|0', 'calls and rows');

$client->query(q{SELECT conpool.exec('one', 'SELECT 1 / ' || n) AS divided FROM unnest(ARRAY[1, 0]) AS n}) for 1 .. 3;
is(statement('divided', 'calls, rows, errors'), '6|3|3', 'errors are calls');
value(q{SELECT count(conpool.exec('one', 'SELECT ' || n)) AS many FROM generate_series(1, 20) AS n}, $client);
is(statement('many', 'calls, rows'), '20|20', 'one local statement may send many');
value(q{SELECT conpool.exec('one', 'CREATE TABLE t(a int)')}, $client);
value(call('inserts', 'one', 'INSERT INTO t SELECT generate_series(1, 4)'), $client);
is(statement('inserts', 'calls, rows'), '1|4', 'rows that a command has affected count');

# remote time, seen from outside
my $least = 0;
my $most = 0;
foreach my $ms (20, 60, 120)
{
	my $start = time;
	value(call('slow', 'one', 'SELECT pg_sleep(' . $ms / 1000 . ')'), $client);
	$least += $ms;
	$most += 1000 * (time - $start);
}
my ($total, $max) = split /\|/, statement('slow', 'total_remote_time, max_remote_time');
note "figure: remote time of three statements of $least ms = $total ms, at most $most ms";
ok($total >= $least - 0.1 && $total <= $most, 'remote time') or diag($total);
ok($max >= 119.9 && $max <= $most - 80, 'the longest') or diag($max);

# what it waited for
my $lease = value(q{SELECT conpool.checkout('one', 'session') AS taken}, $holder);
$client->query(q{SET conpool.checkout_timeout = '20s'});
$local->safe_psql('postgres', q{ALTER SERVER one OPTIONS (DROP checkout_timeout)});
my $start = time;
$client->send(call('waiter', 'one', 'SELECT 1'));
wait_until(sub { value(q{SELECT waiting FROM conpool.pools WHERE server = 'one' AND role = 'postgres'}) eq '1' }, 'one waits');
my $waits = time;
sleep 0.2;
$least = 1000 * (time - $waits);
value("SELECT conpool.checkin($lease) AS returned", $holder);
$client->result;
$most = 1000 * (time - $start);
($total, my $calls) = split /\|/, statement('waiter', 'total_wait_time, calls');
is($calls, '1', 'one that had to wait');
ok($total >= $least - 0.1 && $total <= $most, 'and for how long') or diag("$total, not $least to $most");

# what got nothing, waited as well
$lease = value(q{SELECT conpool.checkout('one', 'session') AS taken}, $holder);
$client->query(q{SET conpool.checkout_timeout = '150ms'});
$start = time;
is($client->query(call('loser', 'one', 'SELECT 1'))->{error}, '53300', 'one that waits in vain');
$most = 1000 * (time - $start);
my ($sent, $errors, $wait, $taken) = split /\|/, statement('loser', 'calls, errors, total_wait_time, total_remote_time');
is("$sent|$errors|$taken", '0|1|0', 'is an error, and no call');
ok($wait >= 149.9 && $wait <= $most, 'that waited so long') or diag("$wait, not 150 to $most");
value("SELECT conpool.checkin($lease) AS returned", $holder);

# the wait of a checkout belongs to the first statement on the lease
is(statement('taken', 'count(*)'), '0', 'a checkout sends nothing');

# --- joined with pg_stat_statements ---------------------------------------------------

$watch->query('SELECT pg_stat_statements_reset()');
value(q{SELECT conpool.reset_stats()});
foreach my $n (1 .. 4)
{
	value(call('once', 'one', 'SELECT 1'), $client);
	value(call('once', 'one', "SELECT $n"), $client);
	value(call('once', 'other', "SELECT $n"), $client);
}
my $joined = q{FROM conpool.stat_statements AS c JOIN pg_stat_statements AS p ON p.queryid = c.query_id
	JOIN pg_roles AS r ON r.oid = p.userid AND r.rolname = c.caller
	JOIN pg_database AS d ON d.oid = p.dbid AND d.datname = c.database};
is( value("SELECT c.server, c.calls, p.calls, p.query ~ 'once',
		total_remote_time > 0 AND total_remote_time <= p.total_exec_time $joined WHERE c.query ~ 'once' ORDER BY 1"),
	'one|8|12|t|t,other|4|12|t|t',
	'each joins with its statement there; constants make no difference, but the server does');
is( value(q{SELECT count(*) FROM conpool.stat_statements WHERE query ~ 'once' AND query_id IS NULL}),
	'0', 'none is without a query ID');

# --- of whom ------------------------------------------------------------------------------

my %by = map { $_ => WireClient->new($local, user => "regress_$_") } qw(alice bob watcher);
foreach my $name (qw(alice alice bob))
{
	is($by{$name}->query(call('theirs', 'one', 'SELECT 1'))->{error}, undef, "$name asks a pool of PUBLIC");
}
value(call('theirs', 'one', 'SELECT 1'), $client);
my $theirs = q{SELECT caller, calls, query_id IS NOT NULL, query FROM conpool.stat_statements
	WHERE server = 'one' AND calls IN (1, 2) AND role = 'public' ORDER BY caller};
my $text = call('theirs', 'one', 'SELECT 1');
my $hidden = '<insufficient privilege>';
is(value($theirs, $by{watcher}), "regress_alice|2|t|$text,regress_bob|1|t|$text", 'one row for each caller');
is(value($theirs, $by{alice}), "regress_alice|2|t|$text,regress_bob|1|f|$hidden", 'whose text only he sees');
is(value($theirs, $by{bob}), "regress_alice|2|f|$hidden,regress_bob|1|t|$text", 'and who sees all');
is(value(q{SELECT count(*) FROM conpool.stat_statements WHERE role = 'postgres'}, $by{alice}),
	'0', 'of pools of others nothing is shown');
is( value(q{SELECT count(DISTINCT query_id) FROM conpool.stat_statements WHERE query ~ 'theirs'}),
	'1', 'it is the same query ID');

# a function of somebody else's rights is a caller of its own
$local->safe_psql('postgres', q{
	CREATE FUNCTION test.definer() RETURNS text LANGUAGE sql SECURITY DEFINER
		AS $$ SELECT conpool.exec('one', 'SELECT 1') $$});
is($by{alice}->query('SELECT test.definer() AS lent')->{error}, undef, 'a function with its owner\'s rights');
is(statement('lent', 'caller, role, calls'), 'postgres|postgres|1', 'its calls are its owner\'s');

# passwords
is($client->query(call('hides', 'one', q{SELECT ''password=hunter2''}))->{error},
	undef, 'a statement with a password in it');
is(value(q{SELECT count(*) FROM conpool.stat_statements AS s WHERE s::text ~ 'hunter2'}), '0', 'is not shown');
is(value(q{SELECT count(*) FROM conpool.stat_statements WHERE query ~ 'hidden: it may hold a password'}), '1', 'but counted');

# --- many at a time ---------------------------------------------------------------------------

my @crowd = map { WireClient->new($local) } 1 .. 6;
foreach my $round (1 .. 10)
{
	$_->send(q{SELECT count(conpool.exec('busy', 'SELECT generate_series(1, 2)')) AS crowd FROM generate_series(1, 10)}) for @crowd;
	$_->result for @crowd;
}
is(statement('crowd', 'calls, rows, errors'), '600|1200|0', 'of what many do at a time, nothing is lost');
is(value(q{SELECT queries, rows FROM conpool.stat_pools WHERE server = 'busy'}), '600|1200', 'as the pool counts it');

# --- resets ------------------------------------------------------------------------------------

value(q{SELECT conpool.reset_stats('other')});
is(value(q{SELECT count(*) FILTER (WHERE server = 'other'), count(*) FILTER (WHERE server = 'busy')
		FROM conpool.stat_statements}),
	'0|1', 'a reset of one server\'s statistics');
value(q{SELECT conpool.reset_stats()});
is(value(q{SELECT count(*) FROM conpool.stat_statements}), '0', 'and of all');
is(value(q{SELECT conpool.stat_statements_evictions()}), '0', 'nothing had to make room');

# --- more of them than there is room ---------------------------------------------------------------

$local->append_conf('postgresql.conf', 'conpool.max_statements = 40');
$local->restart;
connect_all();
%form = ();
foreach my $n (1 .. 5)
{
	value(call("busiest$n", 'busy', 'SELECT 1'), $client) for 1 .. 10;
}
foreach my $n (6 .. 150)
{
	value(call("seldom$n", 'busy', 'SELECT 1'), $client);
	value(call('busiest' . (1 + $n / 10 % 5), 'busy', 'SELECT 1'), $client) if $n % 10 == 0;
}
is( value(q{SELECT string_agg(substring(query FROM 'busiest\d'), ' ' ORDER BY query), sum(calls)
		FROM conpool.stat_statements WHERE query ~ 'busiest'}),
	'busiest1 busiest2 busiest3 busiest4 busiest5|65',
	'the busiest stay, with all that they did');
my ($rows, $seldom) = split /\|/,
  value(q{SELECT count(*), count(*) FILTER (WHERE query ~ 'seldom') FROM conpool.stat_statements});
cmp_ok($rows, '<=', 40, 'not more than conpool.max_statements');
cmp_ok($rows, '>=', 30, 'the room is used');
is($seldom, $rows - 5, 'for those that came last');
my $evictions = value(q{SELECT conpool.stat_statements_evictions()});
note "figure: room for 40 statements, 150 statements = $evictions times some were given up, $rows are there";
cmp_ok($evictions, '>=', (150 - 40) / 40, 'evictions are counted');
cmp_ok($evictions, '<=', 150, 'each once');
is($client->query(call('seldom150', 'busy', 'SELECT 1'))->{error}, undef, 'the last one once more');
is(value(q{SELECT max(calls) FROM conpool.stat_statements WHERE query ~ 'seldom'}), '2', 'was there yet');

# --- none ---------------------------------------------------------------------------------------------

$local->append_conf('postgresql.conf', 'conpool.max_statements = 0');
$local->restart;
connect_all();
is(value(q{SELECT conpool.exec('busy', 'SELECT 1')}, $client), 'SELECT 1', 'without room');
is($client->query(q{SELECT conpool.exec('busy', 'SELECT 1 / 0')})->{error}, '22012', 'and with an error');
is(value(q{SELECT count(*) FROM conpool.stat_statements}), '0', 'there are no statements');
is(value(q{SELECT conpool.stat_statements_evictions()}), '0', 'nor evictions');
is($watch->query(q{SELECT conpool.reset_stats()})->{error}, undef, 'nothing to reset, which is no error');
is(value(q{SELECT queries FROM conpool.stat_pools WHERE server = 'busy'}), '0', 'the rest is');

done_testing();
