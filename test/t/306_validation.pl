# Idle connections are checked: by a round trip every validate_interval, which
# finds those that hang, all of a pool as soon as one of them was found dead, and
# on borrow if need be. Nobody else is held up meanwhile.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_loop($local);

# A round trip is awaited for 5 s, the end of a closed connection for 2 s.
my $margin = 4;

my $watcher = WireClient->new($local);
my @stopped;
END { kill 'CONT', @stopped if @stopped; }

# The first column of a query's rows, or of the only one.
sub value
{
	my ($sql) = @_;
	my @values = map { $_->[0] } @{ $watcher->query($sql)->{rows} };
	return wantarray ? @values : $values[0];
}

sub counter
{
	my ($server, $column) = @_;
	return value("SELECT $column FROM conpool.stat_pools WHERE server = '$server'");
}

# Remote backends of a pool, the last one used first.
sub backends
{
	my ($server) = @_;
	return value(qq{SELECT remote_pid FROM conpool.connections
		WHERE server = '$server' ORDER BY idle_since DESC});
}

# The remote backends stand still.
sub halt
{
	push @stopped, @_;
	kill 'STOP', @_;
	return;
}

# A pool with so many idle connections.
sub pool
{
	my ($server, $count, $options) = @_;
	create_server($local, $remote, $server, options => "max_size '$count', $options");
	my @sessions = map { WireClient->new($local) } 1 .. $count;
	my @leases = map {
		$_->query("SELECT conpool.checkout('$server', 'session')")->{rows}[0][0]
	} @sessions;
	$sessions[$_]->query("SELECT conpool.checkin($leases[$_])") for 0 .. $count - 1;
	$_->hang_up for @sessions;
	return wait_for_pool($local, $server, "idle + validating = $count");
}

my $ask = 'SELECT pg_backend_pid()';

# --- the round trip ---------------------------------------------------------------

pool('checked', 2, q{validate_interval '1s'});
pool('unchecked', 2, q{validate_interval '0'});
pool('dead', 4, q{validate_interval '0'});
pool('hangs', 3, q{validate_interval '1s'});
pool('single', 1, q{validate_interval '1s'});
create_server($local, $remote, 'other', options => q{max_size '2'});

# what nobody uses is checked again and again, and that is no use
my $when = q{SELECT extract(epoch FROM min(checked_at)), extract(epoch FROM max(idle_since))
	FROM conpool.connections WHERE server = 'checked'};
my @first = @{ $watcher->query($when)->{rows}[0] };
my $unchecked = q{SELECT extract(epoch FROM max(checked_at)) FROM conpool.connections
	WHERE server = 'unchecked'};
my $at_first = value($unchecked);

# one that hangs, seldom used; those beside it are in use all the time
my @hangs = backends('hangs');
my @loops = map { [ start_loop($local, $_, statement => 'SELECT 1 FROM pg_sleep(0.01)') ] }
  qw(hangs other);
wait_for_pool($local, 'hangs', 'leased = 1');
my $halted = time;
halt($hangs[-1]);
# and one that is the only one of its pool
halt(backends('single'));
wait_for_pool($local, 'single', 'validating = 1', 'a connection that hangs is checked');
my $waiter = WireClient->new($local);
$waiter->send(qq{SELECT * FROM conpool.query('single', '$ask') AS t(pid int)});

# --- found dead: a suspicion for the others ------------------------------------------

# One is terminated, two hang, one lives. Nothing but the first can be noticed
# from outside.
my ($hang1, $hang2, $lives, $dies) = backends('dead');
halt($hang1, $hang2);
my $terminated = time;
$remote->safe_psql('postgres', "SELECT pg_terminate_backend($dies)");
wait_until(sub { counter('dead', 'validation_failures') == 1 }, 'an end is noticed');
my $noticed = time - $terminated;
note sprintf 'figure: terminated_noticed = %.2f s', $noticed;
cmp_ok($noticed, '<', 1 + $margin, 'within a tick');
my @callers = map { WireClient->new($local) } 1 .. 6;
$_->query(q{SET statement_timeout = '30s'}) for @callers;
my $begun = time;
$_->send(qq{SELECT * FROM conpool.query('dead', '$ask') AS t(pid int)}) for @callers;
my @results = map { $_->result } @callers;
my $served = time - $begun;
my %got = map { ($_->{rows}[0][0] // 'none') => 1 } @results;
note sprintf 'figure: 6_callers_served_2_of_4_hanging = %.2f s', $served;
is(join(', ', grep { $_ } map { $_->{error} } @results), '', 'who comes then sees no error');
ok(!grep({ $got{$_} } $hang1, $hang2), 'gets none that hangs');
cmp_ok($served, '<', $margin, 'and does not wait for long');
ok($got{$lives}, 'the one that lives is used');
# --- what becomes of those that hang ---------------------------------------------------

wait_until(sub { counter('hangs', 'validation_failures') == 1 },
	'one that does not answer is found', 20);
my $found = time - $halted;
note sprintf 'figure: hanging_found_validate_interval_1s = %.1f s', $found;
cmp_ok($found, '>', 4.9, 'it has its time to answer');
cmp_ok($found, '<', 1 + 1 + 5 + $margin, 'and no more');
wait_until(sub { !grep { $_ == $hangs[-1] } backends('hangs') }, 'it is closed');
cmp_ok(time - $halted, '<', 1 + 1 + 5 + 2 + $margin, 'soon');
is(counter('hangs', 'discarded'), 1, 'and counted as dead');
is($waiter->result->{error}, undef,
	'who waits for the only connection of a pool gets the next one');
cmp_ok(time - $halted, '<', 1 + 1 + 5 + 2 + $margin, 'soon, too');

stop_loop($local);
foreach my $which (0, 1)
{
	my $result = finish_loop(@{ $loops[$which] });
	my $what = $which == 0 ? 'the same pool' : 'another pool';
	(my $figure = $what) =~ tr/ /_/;
	note sprintf 'figure: longest_statement_of_10_ms_%s = %.0f ms', $figure,
	  1000 * $result->{longest};
	is($result->{errors}, '', "$what goes on");
	cmp_ok($result->{longest}, '<', 1.5, 'nobody is held up');
}

my @last = @{ $watcher->query($when)->{rows}[0] };
cmp_ok($last[0] - $first[0], '>', 3, 'checked_at moves on');
cmp_ok($last[1] - $first[1], '<', 0.5, 'idle_since does not');
is(counter('checked', 'validation_failures'), 0, 'none of them fails');
cmp_ok(counter('checked', 'validations'), '>=', 6, 'each is counted');
cmp_ok(counter('checked', 'validations'), '<=', 2 * (time - $^T), 'and there are not too many');
is(counter('unchecked', 'validations'), 0, 'with 0 there are none');
cmp_ok(value($unchecked) - $at_first, '<', 0.5, 'and checked_at stands still');

wait_until(sub { counter('dead', 'validation_failures') == 3 }, 'those that hang are found', 20);
ok(grep({ $_ == $lives } backends('dead')), 'the one that lives is kept');

# --- what ends is replaced, if min_size wants it -----------------------------------------

create_server($local, $remote, 'refilled',
	options => q{min_size '2', max_size '2', validate_interval '1s'});
wait_for_pool($local, 'refilled', 'idle = 2', 'min_size is there');
my ($ends) = backends('refilled');
my $gone = time;
$remote->safe_psql('postgres', "SELECT pg_terminate_backend($ends)");
wait_until(sub { !grep { $_ == $ends } backends('refilled') },
	'what is terminated leaves its pool');
cmp_ok(time - $gone, '<', 1 + $margin, 'within a tick');
wait_for_pool($local, 'refilled', 'idle + validating = 2', 'and is replaced');
note sprintf 'figure: min_size_restored_after_an_end = %.1f s', time - $gone;

# --- a setting that the remote reports changed ----------------------------------------------

my @before = backends('refilled');
my $failures = counter('refilled', 'validation_failures');
$remote->safe_psql('postgres', 'ALTER SYSTEM SET default_transaction_read_only = on');
$remote->reload;
wait_until(sub {
		my %now = map { $_ => 1 } backends('refilled');
		return keys %now == 2 && !grep { $now{$_} } @before;
	}, 'connections from before the change of a setting are replaced');
is(counter('refilled', 'validation_failures'), $failures + 2, 'as ones that failed');

# --- a suspect on borrow ---------------------------------------------------------------------

# With the broker standing still, only the borrower can look. It knows all three
# connections of the pool.
create_server($local, $remote, 'borrowed', options => q{max_size '3', validate_interval '0'});
my $query = qq{SELECT * FROM conpool.query('borrowed', '$ask') AS t(pid int)};
my $borrower = WireClient->new($local);
my @holders = map { WireClient->new($local) } 1 .. 3;
my $take = q{SELECT conpool.checkout('borrowed', 'session')};
my @lease = map { $_->query($take)->{rows}[0][0] } @holders;
my @known;
foreach my $i (0 .. 2)
{
	$holders[$i]->query("SELECT conpool.checkin($lease[$i])");
	push @known, $borrower->query($query)->{rows}[0][0];
	# the next one is another, for this one is not free
	$lease[$i] = $holders[$i]->query($take)->{rows}[0][0] if $i < 2;
}
# the one that will hang comes back last, and so is the next to be taken
foreach my $i (0, 1)
{
	$holders[$i]->query("SELECT conpool.checkin($lease[$i])");
	wait_for_pool($local, 'borrowed', 'idle = ' . ($i + 2));
}
my ($alive, $stuck, $dead) = @known;
is(scalar(keys %{ { map { $_ => 1 } @known } }), 3, 'a session that has used three connections');
$borrower->query(q{SET statement_timeout = '30s'});

halt(broker_pid($local));
halt($stuck);
$remote->safe_psql('postgres', "SELECT pg_terminate_backend($dead)");
wait_for($remote, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $dead");
$begun = time;
my $result = $borrower->query($query);
my $took = time - $begun;
note sprintf 'figure: borrower_found_one_dead_one_hanging = %.2f s', $took;
is($result->{rows}[0][0], $alive, 'one found dead on borrow has the others checked');
cmp_ok($took, '>', 4.9, 'the one that hangs was given its time');
cmp_ok($took, '<', 5 + $margin, 'but no more');
kill 'CONT', splice @stopped;
is(counter('borrowed', 'query_errors'), 0, 'nothing failed');
is(counter('borrowed', 'discarded'), 2, 'two were dead');
wait_for_pool($local, 'borrowed', 'size = 1', 'and are closed');
is($borrower->query($query)->{rows}[0][0], $alive, 'the other one goes on');

done_testing();
