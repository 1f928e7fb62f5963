# A program started by COPY ... TO PROGRAM inherits no socket, whatever this
# session has done with the pool before: remote sessions are logged in.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'there is no /proc' unless -d '/proc/self/fd';

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'two', options => q{max_size '2'});

my $session = $local->background_psql('postgres');
my $list = PostgreSQL::Test::Utils::tempdir . '/list';
my $pid = $session->query_safe('SELECT pg_backend_pid()');
my $broker = $local->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'conpool broker'});

sub sockets_of
{
	my ($pid) = @_;
	return grep { (readlink("/proc/$pid/fd/$_") // '') =~ /^socket:/ }
	  map { m{(\d+)$} } glob "/proc/$pid/fd/*";
}

# Is close-on-exec set on all of them?
sub unprotected
{
	my ($pid) = @_;
	return join ', ', grep {
		my ($flags) = slurp_file("/proc/$pid/fdinfo/$_") =~ /^flags:\s+(\d+)/m;
		!(oct($flags) & oct('02000000'));
	} sockets_of($pid);
}

# The sockets that a program gets from this session.
sub inherited
{
	$session->query_safe("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; ls -l /proc/self/fd >$list'");
	my $listed = slurp_file($list);
	die "no list of descriptors: $listed" unless $listed =~ / 0 -> /;
	return join ' ', $listed =~ /(socket:\S+)/g;
}

# PostgreSQL itself lends out the one of the session's client.
my $inherited = inherited();
my $unprotected = unprotected($pid);
my $at_first = () = sockets_of($pid);

# $more: pooled sockets that the session has now
sub check
{
	my ($when, $more) = @_;
	is(inherited(), $inherited, "$when: a program gets no socket of the pool");
	cmp_ok(scalar(sockets_of($pid)), '>=', $at_first + $more, 'though its parent has them');
	is(unprotected($pid), $unprotected, 'all closed on exec');
	return;
}

$session->query_safe(q{SELECT conpool.exec('two', 'SELECT 1')});
check('after connecting and giving back', 1);
my $lease = $session->query_safe(q{SELECT conpool.checkout('two', 'session')});
check('with a lease', 1);

# The other connection of the pool is opened elsewhere and adopted here.
my $other = $local->background_psql('postgres');
my $first = $other->query_safe(q{SELECT conpool.checkout('two', 'session')});
$other->query_safe("SELECT conpool.checkin($first)");
wait_for($local, q{SELECT idle = 1 AND leased = 1 FROM conpool.pools WHERE server = 'two'},
	'two connections are open');
my $adopted = $session->query_safe(q{SELECT conpool.checkout('two', 'session')});
is($local->safe_psql('postgres', q{SELECT connects FROM conpool.stat_pools WHERE server = 'two'}),
	2, 'one is leased from elsewhere');
check('with an adopted connection', 2);
$session->query_safe("SELECT conpool.checkin($adopted), conpool.checkin($lease)");
check('after giving all back', 1);

# One that ends badly, and one by a connection string.
$session->query_safe(q{DO $$ BEGIN
	PERFORM conpool.exec('two', 'SELECT pg_terminate_backend(pg_backend_pid())');
	EXCEPTION WHEN connection_failure THEN NULL; END $$});
check('after losing one', 0);
my $conninfo = conninfo($remote);
$session->query_safe("SELECT conpool.exec('$conninfo', 'SELECT 1')");
check('after a connection string', 1);

cmp_ok(scalar(sockets_of($broker)), '>', 1, 'the broker has sockets');
is(unprotected($broker), '', 'all closed on exec');

$_->quit for $session, $other;
done_testing();
