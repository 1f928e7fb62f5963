# A process of the server dies without a word, so the postmaster restarts all:
# nothing is left behind on the remote, and the pools work again.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'restart_after_crash = on');
setup_local($local, $remote);
create_server($local, $remote, 'one', options => q{max_size '3'});

my $query = q{SELECT * FROM conpool.query('one', 'SELECT 1') AS t(a int)};

foreach my $victim ('a session', 'the broker')
{
	my ($holder, $runs, $other) = map { WireClient->new($local) } 1 .. 3;
	my $broker = broker_pid($local);

	ok( $holder->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0],
		"$victim: a lease");
	is($other->query($query)->{rows}[0][0], '1', "$victim: a query");
	$runs->send(q{SELECT conpool.exec('one', 'SELECT pg_sleep(100)')});
	wait_for($remote,
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'},
		"$victim: a statement runs");

	kill 'KILL', $victim eq 'the broker' ? $broker : $holder->{pid};
	ok($runs->result->{lost}, "$victim is killed: all sessions end");
	wait_for(
		$local,
		qq{SELECT count(*) = 1 FROM pg_stat_activity
		   WHERE backend_type = 'conpool broker' AND pid <> $broker},
		"$victim: the server comes back");
	is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.connections}),
		'0', "$victim: without connections");
	# what runs on the remote does not look at its socket until it is done
	$remote->safe_psql('postgres',
		q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
	count_remote($remote, 0, "$victim: the remote has none either");
	is($local->safe_psql('postgres', $query), '1', "$victim: service again");
	wait_for_pool($local, 'one', 'size = 1 AND idle = 1');
}

done_testing();
