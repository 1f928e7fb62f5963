# A lease that is held for long without running a statement is a leak: it is
# shown and logged, once when it begins and once when it is over.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'one',
	options => q{max_size '3', leak_threshold '500ms'});

sub logged
{
	my ($text) = @_;
	my @lines = slurp_file($local->logfile) =~ /$text/g;
	return scalar @lines;
}

# Of those that are held, or that have ended as $outcome says.
sub leaks
{
	my ($what, $outcome) = @_;
	my $state = $outcome ? "outcome = '$outcome'" : 'outcome IS NULL';
	return $local->safe_psql('postgres',
		"SELECT $what FROM conpool.leaks WHERE server = 'one' AND $state");
}

my ($leaks, $works) = map { WireClient->new($local) } 1 .. 2;
my $checkout = q{SELECT conpool.checkout('one', 'session') /* who took it */};
my $begins = qr/WARNING:  connection of pool "one" leaked: held by pid $leaks->{pid} /;
my $ends = qr/LOG:  not a leak after all: lease \d+ of pool "one" was given back after /;

# one that works all the time is none
$works->send(q{SELECT conpool.exec('one', 'SELECT pg_sleep(100)')});
my $lease = $leaks->query($checkout)->{rows}[0][0];
wait_for($local, q{SELECT count(*) = 1 FROM conpool.leaks WHERE server = 'one'},
	'a leak is shown');
is( leaks(q{class, lease, pid, role, held_for > '500ms', sql}),
	"idle|$lease|$leaks->{pid}|postgres|t|$checkout",
	'with all there is to know');
wait_until(sub { logged($begins) == 1 }, 'it is logged');
wait_for($local,
	qq{SELECT held_for > '3s' FROM conpool.leaks WHERE server = 'one'},
	'time goes by');
is(logged($begins), 1, 'it is logged once');
is(logged(qr/ leaked: /), 1, 'and nothing else is');
is( $local->safe_psql('postgres',
		q{SELECT leaks FROM conpool.stat_pools WHERE server = 'one'}),
	'1', 'it is counted once');

is(logged($ends), 0, 'it is not over');
$leaks->query("SELECT conpool.checkin($lease)");
wait_until(sub { logged($ends) == 1 }, 'its end is logged');
is(leaks('count(*)'), '0', 'it is not held any more');
is(leaks('class, lease', 'checked in'), "idle|$lease", 'but still shown, and how it ended');

# a lease that its session has left behind
$lease = $leaks->query($checkout)->{rows}[0][0];
my $pid = $leaks->{pid};
$leaks->hang_up;
wait_for($local,
	q{SELECT count(*) = 1 FROM conpool.leaks WHERE server = 'one' AND class = 'abandoned'},
	'a lease that a session did not give back is shown');
is(leaks('lease, pid, sql', 'session ended'), "$lease|$pid|$checkout", 'with all there is to know');
is(logged($begins), 2, 'and logged at once');
is(logged($ends), 1, '... but once');
is( $local->safe_psql('postgres',
		q{SELECT leaks FROM conpool.stat_pools WHERE server = 'one'}),
	'2', 'and counted');

# but what ends with its scope is none
$local->safe_psql('postgres',
	q{BEGIN; SELECT conpool.checkout('one'); COMMIT;});
is($local->safe_psql('postgres', 'SELECT count(*) FROM conpool.leaks'),
	'2', 'a lease of a transaction is not');

done_testing();
