# leak_action and the holder of a leak at the same moment: whoever has given the
# lease back is not cancelled, whoever has begun a remote statement keeps it.
use strict;
use warnings;

use ConpoolTest;
use IO::Select;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

# WireClient that counts the statements that have come to their end.
package CountingClient
{
	our @ISA = ('WireClient');

	sub _message
	{
		my ($self) = @_;
		my @message = $self->SUPER::_message;
		$self->{ended}++ if @message && $message[0] eq 'C';
		return @message;
	}
}

my $remote = new_remote('remote');
# so many slots that looking through them takes time, see hold_lock()
my $local = new_local('local', conf => "conpool.max_connections = 1000\nlog_statement = none");
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

sub logged { my ($text) = @_; return scalar(() = slurp_file($local->logfile) =~ /$text/g) }

# --- the lock of a pool, held for as long as the test likes ----------------------------

# blocking_pids() looks through all slots with the lock of a pool in shared mode, if
# somebody waits there. The session that does is stopped now and then, until another
# one finds that it has to wait for that lock.
my ($looker, $tester) = map { WireClient->new($local) } 1 .. 2;
my $broker = broker_pid($local);
END { kill CONT => $_ for grep { $_ } $broker, $looker && $looker->{pid} }

sub waits_for
{
	my ($pid) = @_;
	return value("SELECT coalesce(wait_event_type || ' ' || wait_event, '')
				  FROM pg_stat_activity WHERE pid = $pid");
}

sub wait_for_lock
{
	my ($pid, $name) = @_;
	return wait_until(sub { waits_for($pid) eq 'LWLock conpool' }, $name);
}

sub start_looking
{
	my ($waiter) = @_;
	$looker->send(
		"DO \$\$ BEGIN LOOP PERFORM conpool.blocking_pids($waiter->{pid}); END LOOP; END \$\$");
	return;
}

sub hold_lock
{
	my ($server) = @_;
	foreach (1 .. 1000)
	{
		kill STOP => $looker->{pid};
		$tester->send("SELECT conpool.reset_stats('$server')");
		return if !IO::Select->new($tester->{socket})->can_read(0.05)
		  && waits_for($tester->{pid}) eq 'LWLock conpool';
		kill CONT => $looker->{pid};
		$tester->result;
		usleep(1_000);
	}
	die 'cannot hold the lock';
}

# Those who wait for it get it in their order.
sub release_lock
{
	kill INT => $looker->{pid};
	kill CONT => $looker->{pid};
	$looker->result;
	$tester->result;
	return;
}

# --- the broker, stopped where it waits for something to do -----------------------------

# It looks at all leases once a second. If it is late that is what it does first.
my $due;

sub stop_broker
{
	foreach (1 .. 1000)
	{
		kill STOP => $broker;
		$due = time + 1.2;
		return if waits_for($broker) =~ /^Extension /;
		kill CONT => $broker;
		usleep(1_000);
	}
	die 'the broker is always busy';
}

# Returns when it waits for the lock that is held, of a pool whose lease is a leak.
sub let_broker_look
{
	my ($lease, $class) = @_;
	wait_for_value("SELECT leak FROM conpool.leases WHERE lease = $lease", $class,
		"the holder is $class");
	usleep(20_000) while time < $due;
	kill CONT => $broker;
	return wait_for_lock($broker, 'the broker wants to do something about it');
}

# --- cancel, and the holder gives the lease back ------------------------------------------

# A pool of one connection, its holder, and a session that waits for it.
sub create
{
	my ($server, $options) = @_;
	value("SELECT test.server('$server', \$\$max_size '1', checkout_timeout '0', $options\$\$)");
	return (CountingClient->new($local), WireClient->new($local));
}

sub wait_in_queue
{
	my ($server, $waiter) = @_;
	$waiter->send("SELECT conpool.exec('$server', 'SELECT 1')");
	return wait_for_value("SELECT count(*) FROM conpool.waiters WHERE server = '$server'", 1,
		'another session waits for it');
}

# what => how the lease is taken, how it is given back, and who is first
my $cancel = q{leak_threshold '300ms', leak_action 'cancel', reset 'never'};
my $session = q{SELECT conpool.checkout('%s', 'session')};
my %race = (
	block => [
		$session,
		q{DO $$ DECLARE
			nothing text;
		BEGIN
			BEGIN
				nothing := conpool.checkin(%s);
			EXCEPTION WHEN query_canceled THEN
			END;
		END $$},
		'broker'
	],
	commit => [ q{BEGIN; SELECT conpool.checkout('%s')}, 'COMMIT', 'broker' ],
	late => [ $session, 'SELECT conpool.checkin(%s)', 'holder' ]);

# A session with a lease, and another one that waits for it.
sub begin_race
{
	my ($what, $server) = @_;
	my ($holder, $waiter) = create($server, $cancel);
	my $lease = value(sprintf($race{$what}[0], $server), $holder);
	wait_in_queue($server, $waiter);
	return { server => $server, holder => $holder, waiter => $waiter, lease => $lease };
}

# Returns whether the holder was cancelled: who has waited for the lock for another
# reason may be overtaken.
sub end_race
{
	my ($what, $race) = @_;
	my ($server, $holder, $lease) = @{$race}{qw(server holder lease)};
	my (undef, $give, $first) = @{ $race{$what} };
	wait_for_value(
		"SELECT count(*) FROM conpool.events WHERE event = 'leak found' AND server = '$server'",
		1, "$what: an idle holder is found");

	# the holder does something else, until the test lets it go on
	stop_broker();
	value('SELECT pg_advisory_lock(1)') if $first eq 'broker';
	start_looking($race->{waiter});
	hold_lock($server);
	$holder->{ended} = 0;
	$holder->send('SELECT pg_advisory_xact_lock_shared(1); '
		  . sprintf($give, $lease)
		  . '; SELECT pg_sleep(0.3)');
	wait_for_lock($holder->{pid}, "$what: the holder gives it back") if $first eq 'holder';
	let_broker_look($lease, 'busy elsewhere');
	if ($first eq 'broker')
	{
		value('SELECT pg_advisory_unlock(1)');
		wait_for_lock($holder->{pid}, "$what: the holder gives it back");
	}
	release_lock();

	# it may be the statement that gives it back, but none after that
	my $error = $holder->result->{error};
	my $canceled = logged(qr/canceled the statement of pid $holder->{pid}, /);
	ok( $error ? $canceled && $error eq '57014' && $holder->{ended} == 1 : $holder->{ended} == 3,
		"$what: no statement after that is canceled"
	) or diag(($error // 'no error') . " after $holder->{ended} statements");
	is($race->{waiter}->result->{error}, undef, "$what: the waiter gets it");
	is(value("SELECT count(*) FROM conpool.leases WHERE server = '$server'"), 0, "$what: it is over");
	$holder->query('ROLLBACK');
	is($holder->query("SELECT conpool.exec($lease, 'SELECT 1')")->{error},
		'08003', "$what: its holder knows");
	$holder->hang_up;
	return $canceled;
}

my %begun = map { $_ => begin_race($_, $_) } sort keys %race;
foreach my $what (sort keys %race)
{
	my $canceled = end_race($what, $begun{$what});
	my $wanted = $race{$what}[2] eq 'broker' ? 1 : 0;
	foreach my $try (2 .. 10)
	{
		last if $canceled == $wanted;
		$canceled = end_race($what, begin_race($what, "${what}_$try"));
	}
	is($canceled, $wanted, "$what: the $race{$what}[2] was first");
}

# --- reclaim, and the holder begins a remote statement --------------------------------------

# The broker has found that the lease is not used, and is about to report it; or, if it
# has been reported before, for another leak_action, to reclaim it.
foreach my $known (0, 1)
{
	my $server = $known ? 'known' : 'unknown';
	my $found =
	  "SELECT count(*) FROM conpool.events WHERE event = 'leak found' AND server = '$server'";
	my ($holder, $waiter) = create($server,
		q{leak_threshold '1s', leak_action '} . ($known ? 'log' : 'reclaim') . q{'});
	my $lease = value(sprintf($session, $server), $holder);
	stop_broker() unless $known;
	wait_in_queue($server, $waiter);
	if ($known)
	{
		wait_for_value($found, 1, 'a leak is reported');
		$holder->send("SELECT conpool.exec($lease, 'SELECT pg_sleep(1000)')");
		wait_for_value("SELECT leak FROM conpool.leases WHERE lease = $lease",
			'working', 'it works again');
		value("ALTER SERVER $server OPTIONS (SET leak_action 'reclaim')");
		wait_for_value("SELECT leak_action FROM conpool.pools WHERE server = '$server'",
			'reclaim', 'it is to be reclaimed now');
		stop_broker();
		$holder->cancel;
		is($holder->result->{error}, '57014', 'it works no more');
	}
	start_looking($waiter);
	hold_lock($server);
	let_broker_look($lease, 'idle');
	my $statement = "SELECT 42 FROM pg_sleep(0.3)";
	$holder->send("SELECT * FROM conpool.query($lease, '$statement') AS t(a int);
		SELECT conpool.checkin($lease)");
	my $begins = "SELECT running_since IS NOT NULL FROM conpool.leases WHERE lease = $lease";
	wait_for_value($begins, 't', 'the holder begins a remote statement');
	release_lock();
	my $result = $holder->result;
	is($result->{error}, undef, 'it is not disturbed, nor is the lease');
	is($result->{rows}[0][0], 42, 'it comes to its end');
	is(value($found), $known, 'it is not reported');
	is($waiter->result->{error}, undef, 'the next one gets the connection');
}
is(value('SELECT test.at_rest()'), 't', 'the pools are at rest');

done_testing();
