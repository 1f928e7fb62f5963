# A remote that has no room for one more connection (53300) is not one that is
# down: for a while the pool does with what it has, and grows again by itself.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

# seven places, one more for ourselves, and three that superusers alone may have
my $remote = new_remote('remote', conf => "max_connections = 11\n");
my $local = new_local('local');
setup_local($local, $remote);
my $watch = WireClient->new($local);
my $far = WireClient->new($remote);

sub pool
{
	my ($name, $columns, $view) = @_;
	$view //= 'pools';
	my $result =
	  $watch->query("SELECT $columns FROM conpool.$view WHERE server = '$name'");
	die "$columns: $result->{message}" if $result->{error};
	return join '|', map { $_ // '' } @{ $result->{rows}[0] };
}

sub counted { my ($name, $columns) = @_; return pool($name, $columns, 'stat_pools') }

sub call
{
	my ($name, $sql) = @_;
	$sql //= 'SELECT 1';
	return "SELECT conpool.exec('$name', '$sql')";
}

sub errors { return join ' ', map { $_->{error} // 'none' } @_ }

# How many connections a remote role may have, -1 = any.
sub limit
{
	my ($role, $n) = @_;
	my $result = $far->query("ALTER ROLE $role CONNECTION LIMIT $n");
	die $result->{message} if $result->{error};
	return;
}

my @callers = map { WireClient->new($local) } 1 .. 8;

# --- callers wait for the connections that there are --------------------------------

# others have five of the seven places
my @others =
  map { WireClient->new($remote, user => 'regress_remote_two') } 1 .. 5;
create_server($local, $remote, 'room', options => q{max_size '5', connect_concurrency '1'});

$_->send(call('room', 'SELECT pg_sleep(0.2)')) for @callers;
wait_until(
	sub { pool('room', 'effective_max_size < max_size') eq 't' },
	'no more fit');
is( pool('room', q{max_size, effective_max_size, breaker, failures, last_error_sqlstate,
		effective_max_size_until BETWEEN clock_timestamp() AND clock_timestamp() + '31 s'}),
	'5|2|closed|0|53300|t', 'the ceiling is lowered to what there is, for a while');
like(pool('room', 'last_error'), qr/remaining connection slots are reserved/, 'the reason is shown');
my $most = 0;
wait_until(
	sub {
		my ($size, $idle) = split /\|/, pool('room', 'size, leased + connecting + waiting');
		$most = $size if $size > $most;
		return $idle == 0;
	},
	'all callers are served');
is(errors(map { $_->result } @callers), join(' ', ('none') x 8), 'none sees an error');
cmp_ok($most, '<=', 3, 'by the two connections, with one more tried');
is(counted('room', 'checkouts, checkout_failures, checkout_timeouts, breaker_opened, refused'),
	'8|0|0|0|0', 'no failure of a caller is counted');
is(counted('room', 'connect_failures BETWEEN 1 AND 5'), 't', 'the remote is not asked all the time');

# --- it grows again by itself ------------------------------------------------------------

# both are held, and one more is wanted
my @leases = map {
	$callers[$_]->query(q{SELECT conpool.checkout('room', 'session')})->{rows}[0][0]
} 0 .. 1;
$callers[2]->send(call('room'));
wait_until(sub { pool('room', 'leased, waiting') eq '2|1' }, 'a caller waits');
my $failed = counted('room', 'connect_failures');
wait_until(sub { counted('room', 'connect_failures') > $failed + 1 },
	'the remote is asked again, after a while');
wait_until(sub { pool('room', 'effective_max_size, breaker, waiting') eq '2|closed|1' },
	'it still has no room');
$_->hang_up for @others;
my $begun = time;
is($callers[2]->result->{rows}[0][0], 'SELECT 1', 'the caller is served when it has');
note sprintf 'figure: from room on the remote to its use = %.1f s', time - $begun;
is(pool('room', 'leased'), '2', 'though nobody gave anything back');
is(pool('room', q{effective_max_size, effective_max_size_until}), '5|', 'the ceiling is the old one');
$callers[$_]->query("SELECT conpool.checkin($leases[$_])") for 0 .. 1;
$_->send(call('room', 'SELECT pg_sleep(0.5)')) for @callers;
is(errors(map { $_->result } @callers), join(' ', ('none') x 8), 'all are served');
is(pool('room', 'size, breaker'), '5|closed', 'by a full pool');
is(counted('room', 'breaker_opened, checkout_failures'), '0|0', 'nothing ever failed');

# --- no connection at all --------------------------------------------------------------------

$watch->query(q{SELECT conpool.close_idle('room')});
wait_for_pool($local, 'room', 'size = 0');
limit('regress_remote', 0);
foreach my $again (1 .. 3)
{
	$begun = time;
	my $result = $callers[0]->query(call('room'));
	is($result->{error}, '08001', 'without any connection a caller fails');
	like($result->{detail}, qr/too many connections for role.*SQLSTATE 53300/s, 'and is told why');
	cmp_ok(time - $begun, '<', 2, 'at once');
}
is(pool('room', 'effective_max_size, breaker, failures'), '1|closed|0', 'the breaker stays closed');
is(counted('room', 'checkout_failures, refused, breaker_opened'), '3|0|0', 'and everybody may try');
$_->send(call('room')) for @callers;
is(errors(map { $_->result } @callers), join(' ', ('08001') x 8), 'many at a time');
limit('regress_remote', -1);
is($callers[0]->query(call('room'))->{rows}[0][0], 'SELECT 1',
	'the first one finds that there is room again');

# a remote that is down after all is one that is down
$remote->stop;
is($callers[0]->query(call('room'))->{error}, '08001', 'a remote that is gone');
is(pool('room', 'breaker, failures'), 'open|1', 'opens the breaker');
$remote->start;
$watch->query(q{SELECT conpool.warm('room')});
is($callers[0]->query(call('room'))->{rows}[0][0], 'SELECT 1', 'and it is back');
$far = WireClient->new($remote);

# --- min_size ------------------------------------------------------------------------------------

limit('regress_remote_two', 2);
create_server($local, $remote, 'kept',
	user => 'regress_remote_two', options => q{min_size '4', max_size '6'});
wait_for_pool($local, 'kept', 'idle = 2 AND upkeep_error IS NOT NULL', 'min_size as far as there is room');
is(pool('kept', q{upkeep_error_sqlstate, breaker, size, upkeep_next_try > clock_timestamp() - interval '1 s'}),
	'53300|closed|2|t', 'the reason is shown');
like(pool('kept', 'upkeep_error'), qr/too many connections for role "regress_remote_two"/, 'in words');
$failed = counted('kept', 'connect_failures');
wait_until(sub { counted('kept', 'connect_failures') > $failed }, 'it is tried again');
my ($seconds, $failures) = split /\|/, counted('kept',
	'extract(epoch FROM clock_timestamp() - stats_reset), connect_failures');
note sprintf 'figure: connects for min_size without room = %d in %.1f s', $failures, $seconds;
cmp_ok($failures, '<=', 4 + 2 * $seconds, 'now and then');
$_->send(call('kept', 'SELECT pg_sleep(0.1)')) for @callers;
is(errors(map { $_->result } @callers), join(' ', ('none') x 8),
	'callers share the two that there are');
limit('regress_remote_two', -1);
$begun = time;
wait_for_pool($local, 'kept', 'idle >= 4 AND upkeep_error IS NULL AND upkeep_next_try IS NULL',
	'with room again it is reached, without anybody asking');
note sprintf 'figure: from room on the remote to min_size = %.1f s', time - $begun;
is(pool('kept', 'effective_max_size, effective_max_size_until, breaker'), '6||closed', 'all is as before');
is(counted('kept', 'breaker_opened, checkout_failures'), '0|0', 'nothing ever failed');

done_testing();
