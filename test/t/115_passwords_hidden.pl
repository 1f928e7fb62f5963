# No password shows up anywhere: not in views, errors, titles of processes, nor
# in the log, even at DEBUG5.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $remote = new_remote('remote');
# The statements that bring passwords are not to be logged by PostgreSQL itself.
my $local = new_local('local', conf => q{
log_min_messages = debug5
log_error_verbosity = verbose
log_statement = none
log_min_error_statement = panic
conpool.leak_threshold = '1s'
});
setup_local($local, $remote);
create_server($local, $remote, 'wrong');
create_server($local, $remote, 'one', options => q{max_size '1'});
$local->safe_psql('postgres', q{ALTER USER MAPPING FOR postgres SERVER wrong OPTIONS
	(SET password 'mistyped-secret')});

my $string = conninfo($remote);
my $port = $remote->port;
my $uri = "postgresql://regress_remote:remote-secret\@127.0.0.1:$port/$ConpoolTest::remote_db";
my $seen = '';

# Runs it, whether it fails or not, and collects what it says.
sub say_all
{
	my ($session, $sql) = @_;
	my $out = $session->query("\\set VERBOSITY verbose\n$sql");
	my $said = "$out\n$session->{stderr}\n";
	$session->{stderr} = '';
	$seen .= $said;
	return $said;
}

my $session = $local->background_psql('postgres', on_error_stop => 0);
my $other = $local->background_psql('postgres', on_error_stop => 0);

# --- what works -------------------------------------------------------------

like(say_all($session, q{SELECT conpool.exec('remote', 'SELECT 1');}), qr/SELECT 1/, 'a server');
like(say_all($session, "SELECT conpool.exec('$string', 'SELECT 1');"), qr/SELECT 1/, 'a string');
like(say_all($session, "SELECT conpool.exec('$uri', 'SELECT 1');"), qr/SELECT 1/, 'a URI');

# --- what fails -------------------------------------------------------------

like(say_all($session, q{SELECT conpool.exec('wrong', 'SELECT 1');}),
	qr/ERROR:  28P01/, 'a wrong password');
like(say_all($session, "SELECT conpool.exec('$string', 'SELECT 1/0');"),
	qr/ERROR:  22012/, 'a remote error');
like(say_all($session, "SELECT conpool.exec('$_->[0]', 'SELECT 1');"), qr/ERROR:  $_->[1]/, $_->[2])
  for ([ "$string bogus=1", '22023', 'an unknown option' ],
	[ "$string bogus", '22023', 'a malformed string' ],
	[ $string =~ s/port=\d+/port=1/r, '08001', 'nobody there' ],
	[ $string =~ s/dbname=\w+/dbname=nowhere/r, '08001', 'no such database' ],
	[ "$uri?bogus=1", '22023', 'an unknown option in a URI' ],
	[ $uri =~ s/:\d+\//:x\//r, '22023|08001', 'a malformed URI' ],
	[ $uri =~ s/^postgresql/postgre/r, '22023', 'another scheme' ],
	[ "host=x dbname=''$string''", '.....', 'a string within a string' ]);

# --- leases, waiters and leaks ----------------------------------------------

my ($lease) = say_all($session, "SELECT conpool.checkout('$string', 'session');") =~ /(\d+)/;
say_all($session, q{SELECT conpool.checkout('one', 'session');});
like(say_all($other, q{SELECT conpool.checkout('one', 'session', '1ms');}),
	qr/ERROR:  53300/, 'a timeout');
wait_for($local, 'SELECT count(*) = 2 FROM conpool.leaks', 'the leases leak');
# the log tells of the end only of what it has told of
$local->wait_for_log(qr/connection of pool "$_.*" leaked/) for qw(host= one);
foreach my $view (qw(pools connections leases waiters leaks stat_pools))
{
	unlike(say_all($other, "SELECT * FROM conpool.$view;"), qr/ERROR/, "view $view");
}
say_all($other, q{SELECT backend_type, query FROM pg_stat_activity
	WHERE backend_type LIKE 'conpool%';});
$seen .= slurp_file($_) for grep { -r } map { "/proc/$_/cmdline" }
  split /\n/, $local->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity');
say_all($session, "SELECT conpool.checkin($lease);");
$session->quit;
$local->wait_for_log(qr/was given back/);
say_all($other, 'SELECT * FROM conpool.leaks;');
$other->quit;

# --- is it anywhere? --------------------------------------------------------

$local->stop;
my $log = slurp_file($local->logfile);
ok($log =~ /DEBUG:  /, 'the log says a lot');
ok($log =~ /leaked/, 'of leaks as well');
foreach my $password (values %ConpoolTest::password, 'mistyped-secret')
{
	is(join("\n", $seen =~ /^.*\Q$password\E.*$/mg), '', "\"$password\" was not shown");
	is(join("\n", $log =~ /^.*\Q$password\E.*$/mg), '', 'nor logged');
}

done_testing();
