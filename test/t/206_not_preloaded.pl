# Without the library in shared_preload_libraries the extension can be created
# and servers be defined, and every function says what is missing.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', preload => 0);
setup_local($local, $remote);
pass('extension, servers and mappings are there');

my %call = (
	query => [
		q{SELECT * FROM conpool.query('remote', 'SELECT 1') AS t(a int)},
		q{SELECT * FROM conpool.query('remote', 'SELECT $1', 1) AS t(a int)},
		q{SELECT * FROM conpool.query(1, 'SELECT 1') AS t(a int)},
		q{SELECT * FROM conpool.query(1, 'SELECT $1', 1) AS t(a int)}
	],
	query_as => [
		q{SELECT conpool.query_as(NULL::int, 'remote', 'SELECT 1')},
		q{SELECT conpool.query_as(NULL::int, 'remote', 'SELECT $1', 1)},
		q{SELECT conpool.query_as(NULL::int, 1, 'SELECT 1')},
		q{SELECT conpool.query_as(NULL::int, 1, 'SELECT $1', 1)}
	],
	query_json => [
		q{SELECT conpool.query_json('remote', 'SELECT 1')},
		q{SELECT conpool.query_json('remote', 'SELECT $1', 1)},
		q{SELECT conpool.query_json(1, 'SELECT 1')},
		q{SELECT conpool.query_json(1, 'SELECT $1', 1)}
	],
	exec => [
		q{SELECT conpool.exec('remote', 'SELECT 1')},
		q{SELECT conpool.exec('remote', 'SELECT $1', 1)},
		q{SELECT conpool.exec(1, 'SELECT 1')},
		q{SELECT conpool.exec(1, 'SELECT $1', 1)}
	],
	checkout => [q{SELECT conpool.checkout('remote')}],
	checkin => [q{SELECT conpool.checkin(1)}],
	send => [
		q{SELECT conpool.send('remote', 'SELECT 1')},
		q{SELECT conpool.send('remote', 'SELECT $1', 1)},
		q{SELECT conpool.send(1, 'SELECT 1')},
		q{SELECT conpool.send(1, 'SELECT $1', 1)}
	],
	is_ready => [q{SELECT conpool.is_ready(1)}],
	wait_any => [q{SELECT conpool.wait_any('{1}')}],
	result => [q{SELECT * FROM conpool.result(1) AS t(a int)}],
	cancel => [q{SELECT conpool.cancel(1)}],
	notifications => [q{SELECT conpool.notifications(1)}],
	cursor_open => [
		q{SELECT conpool.cursor_open('remote', 'SELECT 1')},
		q{SELECT conpool.cursor_open('remote', 'SELECT $1', 1)},
		q{SELECT conpool.cursor_open(1, 'SELECT 1')},
		q{SELECT conpool.cursor_open(1, 'SELECT $1', 1)}
	],
	cursor_fetch => [q{SELECT * FROM conpool.cursor_fetch(1, 1) AS t(a int)}],
	cursor_close => [q{SELECT conpool.cursor_close(1)}],
	map => [
		q{SELECT conpool.map('{remote}', 'SELECT 1')},
		q{SELECT conpool.map('{remote}', 'SELECT $1', 1)},
		q{SELECT conpool.map('{remote}', '{SELECT 1}'::text[])},
		q{SELECT conpool.map('{remote}', '{SELECT $1}'::text[], 1)}
	],
	map_as => [
		q{SELECT conpool.map_as(NULL::int, '{remote}', 'SELECT 1')},
		q{SELECT conpool.map_as(NULL::int, '{remote}', 'SELECT $1', 1)},
		q{SELECT conpool.map_as(NULL::int, '{remote}', '{SELECT 1}'::text[])},
		q{SELECT conpool.map_as(NULL::int, '{remote}', '{SELECT $1}'::text[], 1)}
	],
	try_map => [
		q{SELECT conpool.try_map('{remote}', 'SELECT 1')},
		q{SELECT conpool.try_map('{remote}', 'SELECT $1', 1)},
		q{SELECT conpool.try_map('{remote}', '{SELECT 1}'::text[])},
		q{SELECT conpool.try_map('{remote}', '{SELECT $1}'::text[], 1)}
	],
	reset_stats => [q{SELECT conpool.reset_stats()}],
	reclaim => [q{SELECT conpool.reclaim(1)}],
	recommended_size => [q{SELECT conpool.recommended_size(4)}],
	blocking_pids => [q{SELECT conpool.blocking_pids(1)}],
	histogram => [q{SELECT conpool.histogram('remote')}],
	check_histogram => [q{SELECT conpool.check_histogram('remote', 'wait')}],
	report => [q{SELECT conpool.report()}],
	stat_statements_evictions => [q{SELECT conpool.stat_statements_evictions()}]);
$call{"get_$_"} = ["SELECT * FROM conpool.$_"]
  foreach qw(pools connections leases waiters leaks stat_pools stat_latency
  stat_history stat_statements stat_errors events tunnels);
$call{$_} = ["SELECT conpool.$_('remote')"]
  foreach qw(pause resume reconnect warm close_idle);

# Each in a session of its own: the first call loads the library.
my $functions = WireClient->new($local)->query(
	q{SELECT proname, count(*) FROM pg_proc
	  WHERE pronamespace = 'conpool'::regnamespace GROUP BY 1 ORDER BY 1})->{rows};
foreach my $row (@$functions)
{
	my ($name, $count) = @$row;
	# they have nothing to complain of; what diagnose() says is tested elsewhere
	next if $name eq 'fdw_validator' || $name eq 'diagnose';
	is(scalar @{ $call{$name} // [] }, $count, "$name: each form is tried");
	foreach my $sql (@{ $call{$name} // [] })
	{
		my $result = WireClient->new($local)->query($sql);
		is($result->{error}, '55000', $sql);
		like(
			"$result->{message} $result->{hint}",
			qr/conpool.*shared_preload_libraries.*postgresql\.conf/s,
			'it says what to add to which file');
	}
}

my $result = WireClient->new($local)->query(
	q{CREATE SERVER wrong FOREIGN DATA WRAPPER conpool OPTIONS (max_sise '1')});
is($result->{error}, 'HV00D', 'options are checked');

$local->append_conf('postgresql.conf', q{shared_preload_libraries = 'conpool'});
$local->restart;
is($local->safe_psql('postgres',
		q{SELECT * FROM conpool.query('remote', 'SELECT 1') AS t(a int)}),
	'1', 'with the library, all works');

done_testing();
