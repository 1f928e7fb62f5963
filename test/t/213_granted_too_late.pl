# What a session is granted while it is already on its way out of the queue,
# goes to the next. The session is stopped when its turn comes, and cancelled
# or terminated before it goes on.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'one',
	options => q{max_size '1', reset 'never', checkout_timeout '20s'});

my @stopped;
END { kill 'CONT', @stopped if @stopped; }

my ($holder, $next) = map { WireClient->new($local) } 1 .. 2;
my $checkout = q{SELECT conpool.checkout('one', 'session')};

# clean: a lease is granted; listened: the connection has to be closed, so it
# is the permit to open the next one
my %leave = (clean => 'SELECT 1', listened => 'LISTEN something');

foreach my $what (sort keys %leave)
{
	foreach my $how (qw(INT TERM))
	{
		my $granted = WireClient->new($local);
		my $lease = $holder->query($checkout)->{rows}[0][0];
		$holder->query("SELECT conpool.exec($lease, '$leave{$what}')");
		$granted->send($checkout);
		wait_for_pool($local, 'one', 'waiting = 1');
		$next->send($checkout);
		wait_for_pool($local, 'one', 'waiting = 2');

		@stopped = $granted->{pid};
		kill 'STOP', @stopped;
		$holder->query("SELECT conpool.checkin($lease)");
		wait_for(
			$local,
			"SELECT count(*) = 1 FROM conpool.connections WHERE pid = $granted->{pid}",
			"$what: granted to a session that does not know yet");
		kill $how, @stopped;
		kill 'CONT', @stopped;

		is($granted->result->{error}, $how eq 'INT' ? '57014' : '57P01',
			"$what: which is ended by SIG$how");
		$lease = $next->result->{rows}[0][0];
		ok($lease, "$what: the next in the queue gets it");
		wait_for_pool($local, 'one', 'size = 1 AND leased = 1 AND waiting = 0');
		$next->query("SELECT conpool.checkin($lease)");
	}
}
wait_for_pool($local, 'one', 'size = 1 AND idle = 1', 'nothing is left behind');
is( $local->safe_psql('postgres',
		q{SELECT checkouts, checkout_cancels, checkout_timeouts, waited FROM conpool.stat_pools WHERE server = 'one'}),
	'8|4|0|8',
	'and all is counted');

done_testing();
