# A remote that is stopped under load: nobody waits long for his error, few
# connects are tried meanwhile, and when it is back so is the service, by itself
# and in full. With CONPOOL_LONG in the environment it is away for 10 s, not 4.
use strict;
use warnings;

use ConpoolTest;
use IO::Select;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

my $outage = $ENV{CONPOOL_LONG} ? 10 : 4;    # seconds
my $sessions = 32;
my $pause = 0.02;     # seconds between a reply and the next call
my $window = 0.5;     # seconds over which a rate is taken

# the time at which it is ready is in its log, in seconds since the epoch
my $remote = new_remote('remote', conf => q{log_line_prefix = '%n '});
my $local = new_local('local', conf => 'log_min_messages = log');
setup_local($local, $remote);
create_server($local, $remote, 'one', options => q{min_size '2', max_size '8'});

# --- the load: one process, whose sessions take turns ------------------------------

# Every call becomes a name in the report: "begun ended SQLSTATE message".
sub run_sessions
{
	my ($goes_on) = @_;
	my $sql = q{SELECT conpool.exec('one', 'SELECT pg_sleep(0.004)')};
	my $replies = IO::Select->new;
	my (%calls, %under_way);
	my @idle = map { { client => WireClient->new($local), due => time + rand $pause } } 1 .. $sessions;
	while ($goes_on->() || $replies->count)
	{
		while (@idle && $idle[0]{due} <= time && $goes_on->())
		{
			my $session = shift @idle;
			my $socket = $session->{client}{socket};
			$session->{begun} = time;
			$session->{client}->send($sql);
			$under_way{$socket} = $session;
			$replies->add($socket);
		}
		sleep 0.001 unless $replies->count;
		foreach my $socket ($replies->can_read(0.001))
		{
			my $session = delete $under_way{$socket};
			my $result = $session->{client}->result;
			die "session lost: $result->{message}" if $result->{lost};
			$replies->remove($socket);
			$session->{due} = time + $pause;
			push @idle, $session;
			$calls{ sprintf '%.6f %.6f %s %s', $session->{begun}, time,
				$result->{error} // 'none', $result->{message} // '' }++;
		}
	}
	return %calls;
}

# --- the outage -------------------------------------------------------------------------

my $watch = WireClient->new($local);

sub row
{
	my ($sql) = @_;
	my $result = $watch->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return @{ $result->{rows}[0] };
}

sub connect_attempts
{
	return (row(q{SELECT connects + connect_failures FROM conpool.stat_pools WHERE server = 'one'}))[0];
}

my $worker = start_worker(\&run_sessions);
wait_for($local, q{SELECT checkouts > 1000 FROM conpool.stat_pools WHERE server = 'one'},
	'the load runs');
my $measured_from = time;
sleep 2;

my $stopped_at = time;
my $attempts = connect_attempts();
$remote->stop('fast');
my $down_at = time;
sleep $outage / 2;
my ($breaker, $sqlstate, $live) = row(q{
	SELECT breaker, last_error_sqlstate, size - connecting - closing FROM conpool.pools WHERE server = 'one'});
isnt($breaker, 'closed', 'the breaker is open');
is($live, 0, 'no connection is left');
sleep $outage / 2;
$attempts = connect_attempts() - $attempts;
$remote->start;
my ($back_at) = reverse slurp_file($remote->logfile) =~
  /^(\d+\.\d+) LOG:  database system is ready to accept connections/mg;
# it may have been tried once more while it started
my ($next_at) = row(q{SELECT extract(epoch FROM max(next_attempt))
	FROM conpool.pools WHERE server = 'one'});

wait_for_pool($local, 'one', q{breaker = 'closed'}, 'the breaker closes');
sleep 3;
my $report = stop_workers($worker);

# --- what the callers saw --------------------------------------------------------------

my @calls = map { [ split / /, $_, 4 ] } keys %$report;
my (%errors, %odd);
my ($longest_error, $first_success) = (0);
foreach my $call (@calls)
{
	my ($begun, $ended, $error, $message) = @$call;
	$errors{$error}++;
	if ($error eq 'none')
	{
		$first_success = $ended
		  if $begun > $back_at && (!defined $first_success || $ended < $first_success);
		next;
	}
	$longest_error = $ended - $begun if $ended - $begun > $longest_error;
	$odd{"$error at " . ($ended - $stopped_at)}++
	  if $ended < $stopped_at || $error ne '08001' && $error ne '08006';
}

# Successful calls per second in the window that begins then.
my @successes = sort { $a <=> $b } map { $_->[1] } grep { $_->[2] eq 'none' } @calls;

sub rate
{
	my ($from, $to) = @_;
	return grep({ $_ >= $from && $_ < $to } @successes) / ($to - $from);
}

# How long after it was back the rate was that part of what it had been.
my $rate = rate($measured_from, $stopped_at);

sub time_to_reach
{
	my ($part) = @_;
	for (my $from = $first_success; $from + $window < $successes[-1]; $from += 0.05)
	{
		return $from - $back_at if rate($from, $from + $window) >= $part * $rate;
	}
	return;
}

my $to_first = $first_success - $back_at;
my ($to_half, $to_full) = map { time_to_reach($_) } 0.5, 0.9;
my $due = $next_at && $next_at > $back_at ? $next_at - $back_at : 0;
note sprintf 'figure: rate before = %.0f calls per second', $rate;
note sprintf 'figure: the outage = %.1f s', $back_at - $down_at;
note sprintf 'figure: longest time until an error = %.0f ms', 1000 * $longest_error;
note sprintf 'figure: connects tried meanwhile = %d', $attempts;
note sprintf 'figure: from its return to when the next attempt was due = %.2f s', $due;
note sprintf 'figure: from its return to the first success = %.2f s', $to_first;
note sprintf 'figure: from its return to 90 %% of the rate = %s s',
  defined $to_full ? sprintf '%.2f', $to_full : 'more than 3';
note 'figure: calls = ', join ', ', map { "$_: $errors{$_}" } sort keys %errors;

is(join("\n", keys %odd), '', 'all errors are of the outage');
cmp_ok($errors{'08001'} // 0, '>', 100, 'many callers came meanwhile');
cmp_ok($errors{'08006'} // 0, '<=', 8 * 2, 'only who held a connection lost it');
cmp_ok($longest_error, '<', 1, 'nobody waited long for an error');
cmp_ok($attempts, '<', 40, 'few connects were tried');
# after 0.1, 0.2, 0.4, 0.8 and 1.6 s at the latest
cmp_ok($attempts, '>=', 5, 'but some, as soon as they were due');
cmp_ok($to_first, '<', $due + 2, 'service is back when the next attempt is due');
ok(defined $to_half && $to_half - $to_first < 2, 'and soon as before');

# --- what was counted -----------------------------------------------------------------------

wait_for_pool($local, 'one', 'leased + connecting + resetting + closing + waiting = 0 AND size = idle AND idle >= min_size',
	'the pool comes to rest');
is( join('|', row(q{SELECT size = idle + leased + connecting + resetting + validating + closing,
			size = (SELECT count(*) FROM conpool.connections WHERE server = 'one'),
			failures FROM conpool.pools WHERE server = 'one'})),
	't|t|0', 'states add up');
my %count;
my @counters = qw(checkouts checkout_timeouts checkout_cancels checkout_failures query_errors);
@count{@counters} = row('SELECT ' . join(', ', @counters) . q{ FROM conpool.stat_pools WHERE server = 'one'});
is($count{checkouts} + $count{checkout_timeouts} + $count{checkout_cancels} + $count{checkout_failures},
	scalar @calls, 'every call is counted once');
is($count{checkout_failures}, $errors{'08001'}, 'as failed if it got no connection');
is($count{checkouts}, $errors{none} + ($errors{'08006'} // 0), 'as a checkout if it had one');
is(remote_backends($remote, 'regress_remote'),
	(row(q{SELECT size FROM conpool.pools WHERE server = 'one'}))[0],
	'and the remote has as many sessions as the pool');

done_testing();
