# Reader and dialer can be cancelled, ended, killed and stopped: the pools get
# their connections all the same, and nothing is lost.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(greet);
use Test::More;
use Time::HiRes qw(sleep);
use WireClient;

plan skip_all => 'there is no /proc' unless -d '/proc/self/fd';

# A remote that takes its time, so that the dialer is in the middle of it.
my $slow = FakeServer->new(
	{ slow => { greeting => sub { my ($peer) = @_; sleep 1.5; greet($peer) } } });
my $remote = new_remote('remote');
my $local = new_local('local', conf => 'restart_after_crash = on');
setup_local($local, $remote);

my $size = 1;    # what min_size of server "kept" is
create_server($local, $remote, 'kept', options => q{min_size '1', max_size '20'});
count_remote($remote, $size, 'the pool is filled', 'regress_remote');

my ($stopped, $locker);
END { kill 'CONT', $stopped if $stopped; }

sub dialer
{
	return join ',', server_processes($local, 'conpool dialer');
}

# One more connection is wanted ahead of demand.
sub want_more
{
	$size++;
	$local->safe_psql('postgres', "ALTER SERVER kept OPTIONS (SET min_size '$size')");
	return;
}

sub gets_them
{
	my ($when) = @_;
	count_remote($remote, $size, "$when: the pool gets its connections", 'regress_remote');
	wait_for_pool($local, 'kept', "size = $size AND idle = $size AND upkeep_error IS NULL",
		"$when: and is at rest");
	return;
}

# --- the reader: a lock on a catalog keeps it for long enough

# Makes a reader that waits for that lock; returns its process ID.
sub catch_reader
{
	my ($when) = @_;
	$locker = WireClient->new($local);
	$locker->query('BEGIN; LOCK TABLE pg_user_mapping IN ACCESS EXCLUSIVE MODE');
	want_more();
	my $pid;
	wait_until(
		sub {
			$pid = $local->safe_psql('postgres',
				q{SELECT pid FROM pg_stat_activity
				  WHERE backend_type = 'conpool reader' AND wait_event_type = 'Lock'});
		},
		"$when: the reader waits");
	return $pid;
}

foreach my $how (qw(pg_cancel_backend pg_terminate_backend))
{
	my $reader = catch_reader($how);
	is($local->safe_psql('postgres', "SELECT $how($reader)"), 't', "$how of the reader");
	wait_for($local, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $reader",
		"$how: it ends");
	$locker->hang_up;
	gets_them($how);
}

# the broker goes, too, and its successor finds a reader that is not its own
my $reader = catch_reader('the broker ends');
my $broker = broker_pid($local);
kill 'TERM', $broker;
wait_for(
	$local,
	qq{SELECT count(*) = 1 FROM pg_stat_activity
	   WHERE backend_type = 'conpool broker' AND pid <> $broker},
	'the broker ends: there is another one');
$locker->hang_up;
gets_them('the broker ends');

$reader = catch_reader('SIGKILL');
kill 'KILL', $reader;
ok($locker->result->{lost}, 'SIGKILL of the reader: the server restarts all');
gets_them('SIGKILL of the reader');

# --- the dialer: the slow remote

my $slow_size = 0;

# Makes a dialer that is in the middle of a connect; returns its process ID.
sub catch_dialer
{
	my ($when) = @_;
	$slow_size++;
	$local->safe_psql('postgres',
		$slow_size == 1
		? qq{CREATE SERVER slow FOREIGN DATA WRAPPER conpool
				OPTIONS (host '127.0.0.1', port '@{[ $slow->port ]}', dbname 'slow', min_size '1');
			 CREATE USER MAPPING FOR CURRENT_USER SERVER slow OPTIONS (user 'u', password 'p')}
		: qq{ALTER SERVER slow OPTIONS (SET min_size '$slow_size')});
	wait_for_pool($local, 'slow', 'connecting > 0', "$when: the dialer connects");
	return dialer();
}

sub slow_is_filled
{
	my ($when) = @_;
	wait_for_pool($local, 'slow',
		"size = $slow_size AND idle = $slow_size AND upkeep_error IS NULL",
		"$when: the pool of the slow remote is filled");
	return;
}

my $dialer = catch_dialer('cancel');
like($dialer, qr/^\d+$/, 'there is one dialer');
is( $local->safe_psql(
		'postgres', "SELECT pg_cancel_backend($dialer), pg_terminate_backend($dialer)"),
	'f|f',
	'to PostgreSQL it is no backend');
kill $_, $dialer for qw(INT HUP);
slow_is_filled('cancel');
is(dialer(), $dialer, 'cancel: by the same dialer');

$dialer = catch_dialer('SIGTERM');
kill 'TERM', $dialer;
wait_until(sub { dialer() ne $dialer }, 'SIGTERM: the dialer ends');
want_more();
gets_them('SIGTERM');
slow_is_filled('SIGTERM');
isnt(dialer(), $dialer, 'SIGTERM: by another dialer');

$dialer = catch_dialer('SIGSTOP');
$stopped = $dialer;
kill 'STOP', $dialer;
want_more();
wait_for_pool($local, 'kept', q{upkeep_error LIKE '%dialer does not answer%'},
	'SIGSTOP: the view tells that the dialer does not answer');
is( $local->safe_psql(
		'postgres', q{SELECT * FROM conpool.query('kept', 'SELECT 1') AS t(a int)}),
	'1',
	'SIGSTOP: sessions do without');
kill 'CONT', $dialer;
undef $stopped;
gets_them('SIGCONT');
slow_is_filled('SIGCONT');

$dialer = catch_dialer('SIGKILL');
my $session = WireClient->new($local);
kill 'KILL', $dialer;
ok($session->result->{lost}, 'SIGKILL of the dialer: the server restarts all');
gets_them('SIGKILL of the dialer');
slow_is_filled('SIGKILL of the dialer');

# --- at the end

is( $local->safe_psql(
		'postgres',
		q{SELECT count(*) FROM conpool.connections WHERE state <> 'idle'}),
	'0',
	'no connection is in between');
my @workers = ('conpool dialer', 'conpool reader', 'conpool broker');
my @left = map { server_processes($local, $_) } @workers;
$local->stop('fast');
is(scalar(grep { -d "/proc/$_" } @left), 0, 'none of the workers outlives the server');
count_remote($remote, 0, 'nor do their connections', 'regress_remote');

done_testing();
