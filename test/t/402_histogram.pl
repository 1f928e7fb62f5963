# The function "histogram" draws what the view "stat_latency" has: all of it, in
# lines of the same scale that fit into 80 columns, with characters that everybody
# can read.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
$local->safe_psql('postgres', q{SELECT test.server('drawn', $$max_size '1'$$)});

# Remote statements of some tens of microseconds, of 40 ms and of 300 ms.
my $client = WireClient->new($local);
$client->query(q{SELECT conpool.exec('drawn', 'SELECT 1') FROM generate_series(1, 200)});
$client->query(q{SELECT conpool.exec('drawn', 'SELECT pg_sleep(0.04)') FROM generate_series(1, 20)});
$client->query(q{SELECT conpool.exec('drawn', 'SELECT pg_sleep(0.3)')});

# Rows as [le, count, bar].
sub histogram
{
	my ($arguments) = @_;
	my $result = $client->query("SELECT * FROM conpool.histogram($arguments)");
	is($result->{error}, undef, "histogram($arguments)");
	return @{ $result->{rows} };
}

# In microseconds.
sub duration
{
	my ($le) = @_;
	my %unit = (us => 1, ms => 1e3, s => 1e6, min => 60e6);
	return $le =~ /^ *([\d.]+) (us|ms|s|min)$/ ? $1 * $unit{$2} : -1;
}

$client->query(q{SET client_encoding = 'UTF8'});
foreach my $kind (qw(wait checkout connect remote))
{
	my @rows = histogram("'drawn', '$kind'");
	my $all = $client->query(qq{SELECT sum(count) FROM conpool.stat_latency
		WHERE server = 'drawn' AND kind = '$kind'})->{rows}[0][0];
	my $sum = 0;
	$sum += $_->[1] for @rows;
	is($sum, $all, "$kind: all are counted");
	cmp_ok(scalar @rows, '<=', 25, "$kind: fits on a screen");
	my @durations = map { duration($_->[0]) } @rows;
	is("@durations", join(' ', sort { $a <=> $b } @durations), "$kind: shortest first");
	cmp_ok($durations[0], '>', 0, "$kind: durations have units");
	is(scalar(grep { ($_->[1] > 0) != ($_->[2] ne '') } @rows), 0,
		"$kind: what there is has a bar, what is not has none");
}

my @rows = histogram(q{'drawn', 'remote'});
my %count;
foreach my $row (@rows)
{
	my $us = duration($row->[0]);
	$count{ $us < 25_000 ? 'short' : $us < 200_000 ? 'middle' : 'long' } += $row->[1];
}
is($count{long}, 1, 'where they belong');
is($count{middle}, 20, 'where they belong');
is($count{short}, 200, 'where they belong');
cmp_ok(scalar(grep { $_->[1] == 0 } @rows), '>=', 2, 'what lies between is shown empty');
is($rows[-1][0] =~ / 524 ms| 393 ms/, 1, 'the last row is the longest');
my ($longest) = sort { length $b->[2] <=> length $a->[2] } @rows;
is($longest->[2], "\xe2\x96\x88" x 40, 'the longest bar has 40 blocks');
is($rows[-1][2], "\xe2\x96\x88", 'the shortest one');

is_deeply([ histogram(q{'drawn'}) ], [ histogram(q{'drawn', 'wait'}) ], 'wait is the default');
is_deeply([ histogram(q{'remote'}) ], [], 'nothing is drawn of nothing');

# as psql prints it
my (undef, $printed) = $local->psql('postgres', q{SELECT * FROM conpool.histogram('drawn', 'remote')},
	extra_params => [ '-P', 'format=aligned', '-P', 'tuples_only=off' ]);
utf8::decode($printed);
my ($widest) = sort { $b <=> $a } map { length } split /\n/, $printed;
cmp_ok($widest, '<=', 80, 'it fits into 80 columns');

# roles of a server are merged
$local->safe_psql('postgres', q{
	CREATE ROLE regress_second;
	GRANT USAGE ON FOREIGN SERVER drawn TO regress_second;
	CREATE USER MAPPING FOR regress_second SERVER drawn
		OPTIONS (user 'regress_remote_two', password 'two-secret');
	SET ROLE regress_second;
	SELECT conpool.exec('drawn', 'SELECT pg_sleep(0.3)')});
@rows = histogram(q{'drawn', 'remote'});
is($rows[-1][1], '2', 'roles of a server are merged');
my $other = WireClient->new($local);
$other->query('SET ROLE regress_second');
is(scalar(grep { $_->[1] > 0 } @{ $other->query(
	q{SELECT * FROM conpool.histogram('drawn', 'remote')})->{rows} }),
	1, 'but nobody sees more than the view shows him');

# --- where block characters are not known -------------------------------------------

$client->query(q{SET client_encoding = 'LATIN1'});
@rows = histogram(q{'drawn', 'remote'});
is($rows[-1][2], '#', 'a client of another encoding gets others');
$local->safe_psql('postgres',
	q{CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1'});
setup_local($local, $remote, 'latin');
is($local->safe_psql('latin', q{
	SELECT conpool.exec('remote', 'SELECT 1');
	SELECT sum(count), max(bar) FROM conpool.histogram('remote', 'connect')}),
	"SELECT 1\n1|" . '#' x 40, 'and so does a database');
is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.histogram('remote')}),
	'0', 'a server of the same name in another database is another one');

# --- errors -----------------------------------------------------------------------------

sub error_of
{
	my ($arguments) = @_;
	my $result = $client->query("SELECT * FROM conpool.histogram($arguments)");
	return join '|', map { $_ // '' } @$result{qw(error message hint)};
}
$client->query(q{SET client_encoding = 'UTF8'});
is(error_of('NULL'), '22004|argument "server" must not be null|', 'no server');
is(error_of(q{'drawn', NULL}), '22004|argument "kind" must not be null|', 'no kind');
is(error_of(q{'drawn', 'waits'}),
	'22023|invalid kind of distribution: "waits"|Available values: wait, checkout, connect, remote.',
	'another kind');
is(error_of(q{'nowhere'}),
	'42704|server "nowhere" does not exist|'
	  . 'Give the name of a foreign server, or of a pool as conpool.pools shows it.',
	'another server');

# a connection string's is called as the views call it
$client->query(q{SELECT conpool.exec(test.conninfo(), 'SELECT 1')});
my $name = $client->query(q{SELECT server FROM conpool.pools
	WHERE server LIKE 'host=%' AND database = 'postgres'})->{rows}[0][0];
is(scalar(histogram("'$name', 'connect'")), 1, 'a connection string has one, too');

done_testing();
