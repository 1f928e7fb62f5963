# The broker keeps a descriptor for each connection: the server does not start
# where the system does not allow that many, and takes what it allows.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $local =
  new_local('local', start => 0, conf => 'conpool.max_connections = 1000');

sub start_with
{
	my ($limits) = @_;
	return system('sh', '-c', "$limits && exec \"\$@\"", 'sh', 'pg_ctl', '-s', '-w',
		'-D', $local->data_dir, '-l', $local->logfile, 'start');
}

isnt(start_with('ulimit -n 600'), 0, 'a limit that is too small');
like(
	slurp_file($local->logfile),
	qr/FATAL:  too few file descriptors for conpool\.max_connections = 1000.*
.*DETAIL:  .* needs \d+ file descriptors, the hard limit .* 600\..*
.*HINT:  .*ulimit/,
	'the log says so, and what to do');

is(start_with('ulimit -Sn 600'), 0, 'a soft limit that is too small');
$local->_update_pid(1);
my $broker;
wait_until(sub { $broker = broker_pid($local) }, 'the broker is there');
wait_until(sub {
	my ($soft) = slurp_file("/proc/$broker/limits") =~ /^Max open files +(\d+)/m;
	return $soft > 1000;
}, 'it has raised its own limit');

done_testing();
