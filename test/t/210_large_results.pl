# Results that are larger than memory should be: a session's memory does not
# grow with the number of rows, and it does not keep the buffer of a huge value.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

plan skip_all => 'needs /proc' unless -e '/proc/self/clear_refs';

my $rows = 10_000_000;
my $bytes = 200_000_000;
my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'one', options => q{max_size '1'});

# Memory of a session, in MB: VmRSS, what it is now; VmHWM, its peak since
# forget_peak().
sub memory
{
	my ($client, $what) = @_;
	my ($kb) = slurp_file("/proc/$client->{pid}/status") =~ /^$what:\s+(\d+) kB/m;
	return $kb / 1024;
}

sub forget_peak
{
	my ($client) = @_;
	open my $file, '>', "/proc/$client->{pid}/clear_refs" or die "clear_refs: $!";
	print $file '5';
	close $file;
	return;
}

my $client = WireClient->new($local);
$client->query(q{SET work_mem = '1MB'});

# --- many rows

sub count_rows
{
	my ($n) = @_;
	return $client->query(
		"SELECT count(*), sum(i), max(length(t)) FROM conpool.query('one',
			'SELECT i, repeat(''x'', 20) FROM generate_series(1, \$1) AS i', $n)
			AS r(i bigint, t text)")->{rows}[0];
}

count_rows(1000);
forget_peak($client);
my $before = memory($client, 'VmRSS');
is_deeply(count_rows($rows), [ $rows, $rows / 2 * ($rows + 1), 20 ],
	"$rows rows arrive");
my $grown = memory($client, 'VmHWM') - $before;
ok($grown < 20, 'memory does not grow with them') or diag("by $grown MB");

# --- a huge value

sub huge_value
{
	return $client->query(
		"SELECT length(t) FROM conpool.query('one', 'SELECT repeat(''x'', $bytes)') AS r(t text)"
	)->{rows}[0][0];
}

forget_peak($client);
is(huge_value(), $bytes, "a value of $bytes bytes");
my $peak = memory($client, 'VmHWM') - $before;
ok($peak > $bytes / 1024 / 1024, 'it takes memory while it is there')
  or diag("$peak MB");
is(count_rows(1000)->[0], '1000', 'the next query');
$grown = memory($client, 'VmRSS') - $before;
ok($grown < 20, 'its memory is given back') or diag("$grown MB");

# also where the lease goes on
my $lease = $client->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0];
is( $client->query(
		"SELECT length(t) FROM conpool.query($lease, 'SELECT repeat(''x'', $bytes)') AS r(t text)"
	)->{rows}[0][0],
	$bytes, 'a huge value on a lease');
$client->query("SELECT conpool.checkin($lease)");
is(count_rows(1000)->[0], '1000', 'the next query');
$grown = memory($client, 'VmRSS') - $before;
ok($grown < 20, 'its memory is given back with the lease') or diag("$grown MB");

# and as an argument
is( $client->query(
		"SELECT n FROM conpool.query('one', 'SELECT length(\$1)', repeat('x', $bytes)) AS r(n int)"
	)->{rows}[0][0],
	$bytes, 'a huge argument');
is(count_rows(1000)->[0], '1000', 'the next query');
$grown = memory($client, 'VmRSS') - $before;
ok($grown < 20, 'its memory is given back') or diag("$grown MB");

# nor does the broker have any of it
my $broker = { pid => broker_pid($local) };
my $size = memory($broker, 'VmHWM');
ok($size < 100, 'the broker saw nothing of it') or diag("$size MB");

done_testing();
