# The vault gives a socket only to the backend that holds the connection, and
# takes nothing from another: pid, slot, generation and epoch must all be right.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($donate, $fetch, $end) = (1, 2, 3);

# The probe speaks to the vault from a backend: test/c/vault_probe.c.
my $library = PostgreSQL::Test::Utils::tempdir . '/vault_probe.so';
my ($cc, @include) = map { my $line = `$ENV{PG_CONFIG} $_`; chomp $line; $line }
  qw(--cc --includedir-server --includedir);
my $test = ($ENV{CONPOOL_SETUP} // 'test/setup') . '/..';
system(split(' ', $cc), '-shared', '-fPIC', '-o', $library,
	(map { "-I$_" } "$test/../src", @include), "$test/c/vault_probe.c") == 0
  or plan skip_all => 'the probe could not be built';

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'one', options => q{max_size '1'});
$local->safe_psql('postgres', qq{CREATE FUNCTION probe(op int, slot int, generation bigint,
	epoch bigint, descriptors int DEFAULT 0) RETURNS text LANGUAGE c AS '$library'});

my $holder = $local->background_psql('postgres');
my $other = $local->background_psql('postgres');

sub probe_from
{
	my ($session, @arguments) = @_;
	return $session->query_safe('SELECT probe(' . join(', ', @arguments) . ')');
}

# The connection comes from the vault, and goes there before the statement ends.
$local->safe_psql('postgres', q{SELECT conpool.exec('one', 'SELECT 1')});
my $lease = $holder->query_safe(q{SELECT conpool.checkout('one', 'session')});
my $slot = $local->safe_psql('postgres', q{SELECT slot FROM conpool.connections
	WHERE server = 'one' AND state = 'leased'});

# The secrets that are none: the holder finds the one pair that is right.
my ($generation, $epoch, $matches) = split /\|/, $holder->query_safe(
	qq{SELECT min(g), min(e), count(*)
	   FROM generate_series(0, 20) AS g, generate_series(0, 5) AS e
	   WHERE probe($fetch, $slot, g, e) = 'ok'});
is($matches, 1, 'a fetch succeeds with one generation and epoch only');

is(probe_from($other, $fetch, $slot, $generation, $epoch),
	'refused', 'a fetch by another pid is refused');
is(probe_from($other, $donate, $slot, $generation, $epoch, 1),
	'refused', 'a donation by another pid is refused');
is(probe_from($other, $end, $slot, $generation, $epoch, 1),
	'refused', 'nor can another pid end the connection');

foreach my $op ([ fetch => $fetch, 0 ], [ donation => $donate, 1 ], [ end => $end, 1 ])
{
	my ($name, $number, $descriptors) = @$op;
	foreach my $wrong (
		[ 'an earlier generation' => $slot, $generation - 1, $epoch ],
		[ 'a later generation' => $slot, $generation + 1, $epoch ],
		[ 'the next epoch' => $slot, $generation, $epoch + 1 ],
		[ 'no epoch' => $slot, $generation, 0 ],
		[ 'another slot' => $slot + 1, $generation, $epoch ],
		[ 'a slot beyond the last' => 1_000_000, $generation, $epoch ],
		[ 'a negative slot' => -1, $generation, $epoch ])
	{
		my ($what, @arguments) = @$wrong;
		is(probe_from($holder, $number, @arguments, $descriptors),
			'refused', "$name: $what is refused");
	}
	is(probe_from($holder, $number, $slot, $generation, $epoch, 1 - $descriptors),
		'closed', "$name: " . ($descriptors ? 'without a' : 'with a') . ' descriptor, bad');
	is(probe_from($holder, $number, $slot, $generation, $epoch, $_),
		'closed', "$name: $_ descriptors are too many")
	  for 2, 4, 8;
}
is(probe_from($holder, 4, $slot, $generation, $epoch), 'closed', 'there is no fourth request');

# Not one descriptor of all these has stayed with the broker.
my $broker = $local->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'conpool broker'});
SKIP:
{
	skip 'there is no /proc', 1 unless -d "/proc/$broker/fd";
	my $stderr = readlink "/proc/$broker/fd/2";
	is(scalar(grep { (readlink($_) // '') eq $stderr } glob "/proc/$broker/fd/*"),
		scalar(grep { (readlink("/proc/$broker/fd/$_") // '') eq $stderr } 0 .. 2),
		'the broker has kept no descriptor');
}

is($holder->query_safe(qq{SELECT conpool.exec($lease, 'SELECT 1')}),
	'SELECT 1', 'the lease is none the worse');
$holder->query_safe("SELECT conpool.checkin($lease)");
is(probe_from($holder, $fetch, $slot, $generation, $epoch),
	'refused', 'nothing is given out without the lease');
is($other->query_safe(q{SELECT conpool.exec('one', 'SELECT 1')}),
	'SELECT 1', 'another session gets the connection by leasing it');
count_remote($remote, 1, 'and it was the same all along');

$_->quit for $holder, $other;
done_testing();
