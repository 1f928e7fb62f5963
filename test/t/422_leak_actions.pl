# leak_action: what is done about a leak. "cancel" ends the statement of a holder
# that is busy elsewhere, once; "reclaim" takes the connection away, closes it, and
# tells its holder; neither touches a lease that works.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
my $watch = WireClient->new($local);

sub value
{
	my ($sql, $client) = @_;
	my $result = ($client // $watch)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return join '|', map { $_ // '' } @{ $result->{rows}[0] // ['no row'] };
}

sub wait_for_value
{
	my ($sql, $expected, $name) = @_;
	my $value;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until(sub { ($value = value($sql)) eq $expected }, $name)
	  || diag("$sql: $value");
}

sub create
{
	my ($server, $options) = @_;
	return value("SELECT test.server('$server', \$\$$options\$\$)");
}

sub error_of
{
	my ($sql) = @_;
	my $result = $watch->query($sql);
	return join '|', map { $_ // '' } @{$result}{qw(error message hint)};
}

sub lease
{
	my ($client, $server, $scope) = @_;
	$scope //= 'session';
	return value("SELECT conpool.checkout('$server', '$scope')", $client);
}

sub remote_pid
{
	my ($lease) = @_;
	return value("SELECT remote_pid FROM conpool.leases WHERE lease = $lease");
}

sub leaks
{
	my ($lease, $columns) = @_;
	return value("SELECT $columns FROM conpool.leaks WHERE lease = $lease");
}

# How often the log has something; these are parts of messages.
sub logged
{
	my ($text) = @_;
	return scalar(() = slurp_file($local->logfile) =~ /$text/g);
}
my $seconds = qr/for [\d.]+ s/;

# More than three of the broker's rounds, each of which looks at all leases.
sub wait_for_rounds
{
	my $now = value('SELECT clock_timestamp()');
	return wait_for_value("SELECT clock_timestamp() > '$now'::timestamptz + interval '3.5 s'",
		't', 'time goes by');
}

# --- what it is set to -------------------------------------------------------------

foreach my $value ('kill', 'reclaim ', '')
{
	like(error_of("CREATE SERVER bad FOREIGN DATA WRAPPER conpool OPTIONS (leak_action '$value')"),
		qr/^22023\|invalid value for option "leak_action": "$value"\|Available values: log, cancel, reclaim\.$/,
		"not '$value'");
}
is( error_of(q{CREATE SERVER bad FOREIGN DATA WRAPPER conpool OPTIONS (leak_actoin 'log')}),
	'HV00D|invalid option "leak_actoin"|Perhaps you meant the option "leak_action".',
	'not misspelled');
is( error_of(q{CREATE USER MAPPING FOR PUBLIC SERVER remote OPTIONS (leak_action 'log')}),
	'HV00D|invalid option "leak_action"|Option "leak_action" belongs in a server.',
	'not of a mapping');
is(error_of(q{ALTER SYSTEM SET conpool.leak_action = 'kill'}),
	'22023|invalid value for parameter "conpool.leak_action": "kill"|Available values: log, cancel, reclaim.',
	'nor by the setting');

create('by_default', q{leak_threshold '500ms'});
create('by_option', q{leak_threshold '500ms', leak_action 'LOG'});
sub actions
{
	return value(q{SELECT string_agg(leak_action, ' ' ORDER BY server) FROM conpool.pools
				   WHERE server IN ('by_default', 'by_option')});
}
value("SELECT conpool.exec('$_', 'SELECT 1')") for qw(by_default by_option);
is(actions(), 'log log', 'nothing is done by default');
my %quiet = map { $_ => WireClient->new($local) } qw(by_default by_option);
my %quiet_lease = map { $_ => lease($quiet{$_}, $_) } keys %quiet;
$quiet{by_option}->send('SELECT pg_sleep(1000)');

# --- what is to be reclaimed begins now, and is looked at further down --------------

value('SELECT pg_advisory_lock(1)');

# there is time enough to look at them before
my $reclaim = q{max_size '1', leak_threshold '1500ms', leak_action 'reclaim'};
my %holder = (
	idle => sub { lease($_[0], $_[1]) },
	open => sub { value('BEGIN', $_[0]); lease($_[0], $_[1], 'transaction') },
	busy => sub { my $lease = lease($_[0], $_[1]); $_[0]->send('SELECT 42 FROM pg_advisory_lock_shared(1)'); $lease },
	implicit => sub {
		value(q{SET conpool.pool_mode = 'session'}, $_[0]);
		value("SELECT conpool.exec('$_[1]', 'SELECT 1')", $_[0]);
		return value("SELECT lease FROM conpool.leases WHERE server = '$_[1]'");
	});
my %class = (
	idle => 'idle',
	open => 'idle in transaction',
	busy => 'busy elsewhere',
	implicit => 'idle');
my %client = map { $_ => WireClient->new($local) } keys %holder;
my (%lease, %pid, %waiter);
create("take_$_", $reclaim) for sort keys %holder;
create('take_working', $reclaim);
my $keeps = WireClient->new($local);
$keeps->send(q{SELECT conpool.exec('take_working', 'SELECT pg_sleep(6)')});
foreach my $how (sort keys %holder)
{
	$lease{$how} = $holder{$how}->($client{$how}, "take_$how");
	$pid{$how} = remote_pid($lease{$how});
	$waiter{$how} = WireClient->new($local);
	$waiter{$how}->send(
		"SELECT * FROM conpool.query('take_$how', 'SELECT pg_backend_pid()') AS t(pid int)");
}
create('take_checkin', $reclaim =~ s/'1'/'2'/r);
my ($one, $two, $alone) = map { WireClient->new($local) } 1 .. 3;
my $first = lease($one, 'take_checkin');
value('BEGIN', $two);
my $second = lease($two, 'take_checkin', 'transaction');

# a change that is not committed yet makes one that is not shared
create('unshared', $reclaim);
value(q{BEGIN;
	ALTER SERVER unshared OPTIONS (ADD application_name 'changed');
	SELECT conpool.checkout('unshared', 'session');
	COMMIT}, $alone);
my $unshared = value(q{SELECT lease FROM conpool.leases WHERE server = 'unshared'});
is(value(q{SELECT unshared FROM conpool.pools WHERE server = 'unshared'}), 1, 'an unshared one');

# --- cancel ------------------------------------------------------------------------

my $cancel = q{leak_threshold '500ms', leak_action 'cancel'};
create($_, $cancel) for qw(busy idle works);
my ($busy, $idle, $works) = map { WireClient->new($local) } 1 .. 3;
my $busy_lease = lease($busy, 'busy');
my $idle_lease = lease($idle, 'idle');
$busy->send('SELECT pg_sleep(1000)');
$works->send(q{SELECT conpool.exec('works', 'SELECT pg_sleep(4)')});

# the owner of a server is not to cancel what a superuser does
value('SELECT pg_advisory_lock(2)');
create('owned', $cancel);
value(q{CREATE ROLE regress_owner LOGIN;
	GRANT USAGE ON FOREIGN DATA WRAPPER conpool TO regress_owner;
	ALTER SERVER owned OWNER TO regress_owner;
	CREATE USER MAPPING FOR regress_owner SERVER owned
		OPTIONS (user 'regress_remote', password 'remote-secret')});
my ($superuser, $owner) = map { WireClient->new($local, user => $_) } qw(postgres regress_owner);
lease($superuser, 'owned');
lease($owner, 'owned');
$superuser->send('SELECT 42 FROM pg_advisory_lock_shared(2)');
$owner->send('SELECT pg_sleep(1000)');

is($busy->result->{error}, '57014', 'a holder that is busy elsewhere is cancelled');
my $canceled =
  qr/LOG:  canceled the statement of pid $busy->{pid}, which holds a leaked connection of pool "busy"\n/;
my $why = qr/.*DETAIL:  Lease $busy_lease has been held $seconds \(leak_action is "cancel"\)/;
wait_until(sub { logged(qr/$canceled$why/) }, 'that is logged');
is(leaks($busy_lease, 'class, outcome'), 'idle|', 'it holds its lease');
is(value("SELECT conpool.exec($busy_lease, 'SELECT 1')", $busy), 'SELECT 1', 'and may use it');

# once is enough; the sleep is longer than some rounds
$busy->send('SELECT 42 FROM pg_sleep(3.5)');
wait_until(sub { logged(qr/connection of pool "idle" leaked: held by pid $idle->{pid} .*\(idle\)/) },
	'an idle holder is told of');
is($busy->result->{rows}[0][0], 42, 'a holder is cancelled once only');
is(logged(qr/canceled the statement of pid $busy->{pid}/), 1, 'and that is logged once');

is(value("SELECT state FROM pg_stat_activity WHERE pid = $idle->{pid}"),
	'idle', 'an idle holder is there yet');
is(leaks($idle_lease, 'class, outcome'), 'idle|', 'with its lease');
is(logged(qr/canceled the statement of pid $idle->{pid}/), 0, 'there was nothing to cancel');
$idle->send('SELECT pg_sleep(1000)');
is($idle->result->{error}, '57014', 'until it runs a statement');
is($idle->query("SELECT conpool.checkin($idle_lease)")->{error}, undef, 'then it gives it back');
is(leaks($idle_lease, 'class, outcome'), 'idle|checked in', 'that is its end');
is($works->result->{error}, undef, 'one that works is left alone');
is(logged(qr/pool "works"/), 0, 'and not told of');
is( value(q{SELECT count(*) FROM conpool.events
			WHERE event = 'reclaimed' AND server IN ('busy', 'idle', 'works')}),
	0, 'nothing is taken away');

is($owner->result->{error}, '57014', 'the owner of a server is canceled');
wait_until(sub { logged(qr/connection of pool "owned" leaked: held by pid $superuser->{pid} /) },
	'a superuser is told of');
value('SELECT pg_advisory_unlock(2)');
is($superuser->result->{rows}[0][0], 42, 'but not canceled');

# a new lease is another one
is($busy->query("SELECT conpool.checkin($busy_lease)")->{error}, undef, 'it is given back');
$busy_lease = lease($busy, 'busy');
$busy->send('SELECT pg_sleep(1000)');
is($busy->result->{error}, '57014', 'and the next lease leaks like the first');

# "log" is none of these
is(leaks($quiet_lease{by_default}, 'class, outcome'), 'idle|', 'log: it is told');
is(leaks($quiet_lease{by_option}, 'class, outcome'), 'busy elsewhere|', 'log: whatever it is');

# --- reclaim -----------------------------------------------------------------------

foreach my $how (sort keys %holder)
{
	my $result = $waiter{$how}->result;
	is($result->{error}, undef, "$how: a waiter gets the place");
	isnt($result->{rows}[0][0], $pid{$how}, "$how: with another connection");
	wait_for($remote, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid{$how}",
		"$how: the old one has ended");
	is( leaks($lease{$how}, 'class, pid, outcome, ended_at = since + held_for, held_for < interval \'20 s\''),
		"$class{$how}|$client{$how}{pid}|reclaimed|t|t", "$how: it was a leak");
	is(value("SELECT count(*) FROM conpool.leases WHERE lease = $lease{$how}"), 0, "$how: and is over");
	my $reclaimed =
	  qr/LOG:  reclaimed a leaked connection of pool "take_$how" from pid $client{$how}{pid}\n/;
	$why = qr/.*DETAIL:  Lease $lease{$how} was held $seconds, $class{$how} \(leak_action is "reclaim"\)/;
	is(logged(qr/$reclaimed$why/), 1, "$how: that is logged");
	is(logged(qr/not a leak after all: lease $lease{$how} /), 0, "$how: it was none in vain");
	is( value("SELECT string_agg(event, ', ' ORDER BY number) FROM conpool.events
			   WHERE server = 'take_$how' AND event <> 'opened' AND event <> 'settings changed'"),
		'leak found, reclaimed, closed, leak over',
		"$how: what happened");
	is(value("SELECT leaks FROM conpool.stat_pools WHERE server = 'take_$how'"), 1, "$how: counted once");
}
is($keeps->result->{error}, undef, 'a statement that runs is not taken away');
is(value(q{SELECT leaks FROM conpool.stat_pools WHERE server = 'take_working'}), 0, 'nor counted');

# its holder learns of it when it wants to use it
value('SELECT pg_advisory_unlock(1)');
is($client{busy}->result->{rows}[0][0], 42, 'what else the holder does goes on');
my $time = qr/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S+/;
foreach my $how (sort keys %holder)
{
	my $use = $how eq 'implicit' ? "'take_implicit'" : $lease{$how};
	my $result = $client{$how}->query("SELECT conpool.exec($use, 'SELECT 1')");
	is($result->{error}, '08003', "$how: its holder's next use fails");
	is($result->{message}, "lease $lease{$how} of pool \"take_$how\" was reclaimed", "$how: it says so");
	like($result->{detail},
		qr/^conpool's broker took it away at ($time): held for [\d.]+ s, $class{$how} \(leak_action is "reclaim"\); its connection was closed\.$/,
		"$how: who, when and why");
	my ($when) = $result->{detail} =~ / at ($time):/;
	is(leaks($lease{$how}, "abs(extract(epoch FROM ended_at - '$when')) < 0.1"), 't', "$how: the right time");
	$client{$how}->query('ROLLBACK') if $how eq 'open';
	if ($how ne 'implicit')
	{
		my $again = $client{$how}->query("SELECT conpool.checkin($lease{$how})");
		is($again->{error}, '08003', "$how: so does giving it back");
		is($again->{message}, "lease $lease{$how} was reclaimed", "$how: it is not forgotten");
	}
	is($client{$how}->query("SELECT conpool.exec('take_$how', 'SELECT 1')")->{error},
		undef, "$how: but the next connection is there");
}

# checkin is a use as well, and so is the end of a transaction: but that has no need of it
wait_for_value(
	qq{SELECT count(*) FROM conpool.leaks WHERE lease IN ($first, $second) AND outcome = 'reclaimed'},
	2, 'both are reclaimed');
is($one->query("SELECT conpool.checkin($first)")->{error}, '08003', 'one cannot be given back');
my $result = $two->query('COMMIT');
is($result->{error}, undef, 'a transaction ends without what was reclaimed');
is("@{$result->{notices}}", '', 'and without a warning');
is(value(q{SELECT auto_returned FROM conpool.stat_pools WHERE server = 'take_checkin'}),
	0, 'nothing was given back by it');
$one->hang_up;
wait_for_value("SELECT count(*) FROM pg_stat_activity WHERE pid = $one->{pid}", 0, 'a session ends');
is(value(q{SELECT leaks, leaks_abandoned FROM conpool.stat_pools WHERE server = 'take_checkin'}),
	'2|0', 'what was reclaimed is not abandoned');

# --- by people -------------------------------------------------------------------

is(value(q{SELECT outcome IS NULL FROM conpool.leaks WHERE lease = } . $quiet_lease{by_default}),
	't', 'a leak that is only told of');
value("SELECT conpool.reclaim($quiet_lease{by_default})");
is(leaks($quiet_lease{by_default}, 'class, outcome'), 'idle|reclaimed', 'may be reclaimed by people');
$result = $quiet{by_default}->query("SELECT conpool.exec($quiet_lease{by_default}, 'SELECT 1')");
is($result->{error}, '08003', 'its holder is told');
like($result->{detail},
	qr/^Process $watch->{pid}, role "postgres", took it away with conpool\.reclaim\(\) at $time; its connection was closed\.$/,
	'who it was, and when');

# --- connections that are not shared ------------------------------------------------

# only their session can end them: it is told of, and left alone
my $cannot =
  qr/LOG:  cannot reclaim a leaked connection of pool "unshared" from pid $alone->{pid}\n/;
wait_until(sub { logged(qr/$cannot.*DETAIL:  Lease $unshared /) },
	'that it cannot be reclaimed is logged');

# --- the setting ---------------------------------------------------------------------

value(q{ALTER SYSTEM SET conpool.leak_action = 'reclaim'});
value('SELECT pg_reload_conf()');
wait_for_value('SHOW conpool.leak_action', 'reclaim', 'the setting is changed');
$two = WireClient->new($local);
$second = lease($two, 'by_default');
is(actions(), 'reclaim log', 'it holds where no option says anything else');
wait_for_value("SELECT outcome FROM conpool.leaks WHERE lease = $second", 'reclaimed', 'and works');
is($two->query("SELECT conpool.checkin($second)")->{error}, '08003', 'like the option');

# the rest has been told of for long, and is as it was
wait_for_rounds();
is(leaks($quiet_lease{by_option}, 'class, outcome'), 'busy elsewhere|', 'log: nothing is done');
$quiet{by_option}->cancel;
is($quiet{by_option}->result->{error}, '57014', 'a statement goes on until it is cancelled');
is(value("SELECT conpool.exec($quiet_lease{by_option}, 'SELECT 1')", $quiet{by_option}),
	'SELECT 1', 'its connection is there');
is(logged(qr/cannot reclaim/), 1, 'an unshared one is told of once');
is(value("SELECT conpool.exec($unshared, 'SELECT 1')", $alone), 'SELECT 1', 'and can be used');
value("SELECT conpool.checkin($unshared)", $alone);
is(leaks($unshared, 'class, outcome'), 'idle|checked in', 'until its session gives it back');

# --- nothing is lost -------------------------------------------------------------------

value("SELECT pg_terminate_backend($_->{pid})")
  for $busy, $idle, $superuser, $owner, values %client, values %quiet;
is(value('SELECT test.at_rest()'), 't', 'the pools come to rest');
wait_until(sub { remote_backends($remote) == value('SELECT sum(size) FROM conpool.pools') },
	'the remote has as many connections');

done_testing();
