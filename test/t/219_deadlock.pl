# Twelve sessions take connections of two pools in both orders. With room to
# spare there is no deadlock, so none is found, however often one looks. Without
# room there are plenty: each costs one session an error, all the others go on,
# nobody waits until checkout_timeout. The same over the places of one server.
use strict;
use warnings;

use ConpoolTest;
use POSIX ();
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $sessions = 12;
my $seconds = 3;    # for each load

my $remote = new_remote('remote');
my $local = new_local('local', conf => "deadlock_timeout = 1ms\n");
setup_local($local, $remote);

# --- the load ---------------------------------------------------------------

# One session: two leases at a time, until the time is over. What it counted.
sub session
{
	my ($end, $first, $second) = @_;
	my $client = WireClient->new($local);
	my %count = (done => 0, taken => 0, refused => 0);
	my $take = sub {
		my ($server, $role) = split ' ', shift;
		$client->query("SET LOCAL ROLE $role") if $role;
		my $result = $client->query("SELECT conpool.checkout('$server', 'transaction')");
		my $error = $result->{error} // '';
		$count{taken}++ if $error eq '';
		$count{refused}++ if $error eq '40P01';
		$count{"$error $result->{message}"}++ unless $error eq '' || $error eq '40P01';
		$count{"not told why: $result->{detail}"}++
		  if $error eq '40P01' && ($result->{detail} // '') !~ /^Process $client->{pid} waits for a connection/;
		return $error eq '' && $result->{rows}[0][0];
	};
	while (time < $end)
	{
		$client->query('BEGIN');
		my $lease = $take->($first) && $take->($second);
		if ($lease)
		{
			my $result = $client->query("SELECT conpool.exec($lease, 'SELECT pg_sleep(0.005)')");
			$count{"exec: $result->{message}"}++ if $result->{error};
			$count{done}++;
		}
		$client->query($lease ? 'COMMIT' : 'ROLLBACK');
	}
	return %count;
}

# All sessions, half of them in the other order; one hash of counts for each.
sub load
{
	my (@order) = @_;
	my $end = time + $seconds;
	my @from;
	foreach my $number (1 .. $sessions)
	{
		pipe(my $from, my $to) or die "pipe: $!";
		my $pid = fork() // die "fork: $!";
		if ($pid == 0)
		{
			my %count = eval { session($end, $number % 2 ? @order : reverse @order) };
			$count{"died: $@"} = 1 if $@;
			print $to map { s/\s+/ /gr . "\t$count{$_}\n" } keys %count;
			close $to;
			POSIX::_exit(0);
		}
		close $to;
		push @from, $from;
	}
	my @counts;
	foreach my $from (@from)
	{
		push @counts, { map { /^(.*)\t(\d+)$/ ? ($1 => $2) : () } <$from> };
	}
	wait() for @from;
	return @counts;
}

sub total
{
	my ($name, @counts) = @_;
	my $sum = 0;
	$sum += $_->{$name} // 0 for @counts;
	return $sum;
}

# --- what must be true after it ---------------------------------------------

sub check_load
{
	my ($what, $expect_deadlocks, $servers, @counts) = @_;
	my $in = join ',', map { "'$_'" } @$servers;
	my %others = map { %$_ } @counts;
	delete @others{qw(done taken refused)};
	is(join("\n", sort keys %others), '', "$what: there is no other error");
	is(scalar(grep { !$_->{done} } @counts), 0, "$what: every session gets on");

	wait_for($local, "SELECT sum(leased + connecting + resetting + waiting) = 0
		FROM conpool.pools WHERE server IN ($in)", "$what: all pools come to rest");
	my ($checkouts, $failed, $waited, $longest) = split /\|/, $local->safe_psql('postgres', "
		SELECT sum(checkouts), sum(checkout_timeouts + checkout_cancels + checkout_failures),
			sum(waited), max(max_wait_time)
		FROM conpool.stat_pools WHERE server IN ($in)");
	my ($done, $taken, $refused) = map { total($_, @counts) } qw(done taken refused);
	note "$what: $done done, $taken taken, $refused refused, "
	  . "$waited waited, at most for $longest ms";
	is($checkouts, $taken, "$what: every checkout is counted once");
	is($failed, $refused, "$what: and so is every deadlock");
	if ($expect_deadlocks)
	{
		cmp_ok($refused, '>', 0, "$what: there are deadlocks");
	}
	else
	{
		is($refused, 0, "$what: there is no deadlock");
		cmp_ok($waited, '>', $sessions, "$what: though many waited");
		cmp_ok($longest, '>', 5, "$what: for longer than deadlock_timeout");
	}
	return;
}

# --- two pools ----------------------------------------------------------------

# For a deadlock all connections of both must be held, each by another session.
foreach my $case ([ 'with room', 0, 7 ], [ 'without room', 1, 2 ])
{
	my ($what, $expect_deadlocks, $size) = @$case;
	my @servers = map { $_ . $size } qw(a b);
	create_server($local, $remote, $_, options => "max_size '$size', checkout_timeout '10s'")
	  for @servers;
	check_load($what, $expect_deadlocks, \@servers, load(@servers));
}

# --- two pools of a server --------------------------------------------------------

$local->safe_psql('postgres', 'CREATE ROLE one; CREATE ROLE two');
foreach my $case ([ 'server with room', 0, 13 ], [ 'server without room', 1, 4 ])
{
	my ($what, $expect_deadlocks, $size) = @$case;
	my $server = "shared$size";
	create_server($local, $remote, $server, for => 'one',
		options => "max_size '12', max_server_size '$size', checkout_timeout '10s'");
	$local->safe_psql('postgres', qq{
		GRANT USAGE ON FOREIGN SERVER $server TO one, two;
		CREATE USER MAPPING FOR two SERVER $server
			OPTIONS (user 'regress_remote', password 'remote-secret')});
	check_load($what, $expect_deadlocks, [$server], load("$server one", "$server two"));
}

done_testing();
