# The broker learns how many connections a remote allows, in place of a check of an
# idle connection: exactly what it says if that makes sense, else nothing, and a
# connection that answers properly lives on whatever the answer is.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(message ready row_header);
use PostgreSQL::Test::Utils;
use Test::More;

# A row of text columns; undef is NULL.
sub row
{
	return message('D', pack('n', scalar @_) . join '',
		map { defined $_ ? pack('N', length $_) . $_ : pack('N', 0xffffffff) } @_);
}

# What the question is answered with, and what is known then; '' is nothing.
my $end = message('C', "SELECT 1\0") . ready();
my %answer = (
	proper => [ row_header() . row(100, 3) . $end, 97 ],
	noticed => [ message('N', "SNOTICE\0Mhello\0\0") . row_header() . row(100, 3) . $end, 97 ],
	nothing => [ ready(), '' ],
	refusal => [ message('E', "SERROR\0C42883\0Mno such function\0\0") . ready(), '' ],
	afterwards => [ row_header() . row(100, 3) . message('E', "SERROR\0C57014\0Mno\0\0") . ready(), '' ],
	one_column => [ row_header() . row(100) . $end, '' ],
	three_columns => [ row_header() . row(100, 3, 5) . $end, '' ],
	no_rows => [ row_header() . $end, '' ],
	two_rows => [ row_header() . row(100, 3) x 2 . $end, '' ],
	nulls => [ row_header() . row(undef, undef) . $end, '' ],
	empty => [ row_header() . row('', '') . $end, '' ],
	words => [ row_header() . row('many', 'few') . $end, '' ],
	negative => [ row_header() . row('-100', '3') . $end, '' ],
	too_many => [ row_header() . row('99999999999999999999', '3') . $end, '' ],
	all_reserved => [ row_header() . row(3, 100) . $end, '' ],
	short => [ row_header() . message('D', pack('nN', 2, 100) . '1') . $end, '' ],
	bare => [ row_header() . message('D', '') . $end, '' ],
	long => [ row_header() . row('1' x 60_000, '3') . $end, '' ],
	talkative => [ message('N', "SNOTICE\0Mhello\0\0") x 3000 . row_header() . row(100, 3) . $end, 97 ]);
# ... and those after which nobody would want the connection.
my %bad = (
	in_transaction => row_header() . row(100, 3) . message('C', "SELECT 1\0") . message('Z', 'T'),
	parameter => row_header() . row(100, 3) . message('S', "TimeZone\0Mars\0") . $end,
	copy => message('G', pack('CnN', 0, 0, 0)),
	no_protocol => 'HTTP/1.1 400 Bad Request',
	too_long => row_header() . row('1' x 20_000_000, '3') . $end,
	too_talkative => message('N', "SNOTICE\0Mhello\0\0") x 5000 . row_header() . row(100, 3) . $end,
	more => row_header() . row(100, 3) . $end . ready());

# The broker's question is told from other queries.
sub answer
{
	my ($text, $peer, $sql) = @_;
	return $peer->send(FakeServer::one_row() . ready()) unless $sql =~ /max_connections/;
	while (length $text)
	{
		my $sent = syswrite $peer, $text;
		return 0 unless $sent;
		substr $text, 0, $sent, '';
	}
	return 1;
}

my %text = ((map { $_ => $answer{$_}[0] } keys %answer), %bad);
my $fake = FakeServer->new({
	map { my $text = $text{$_}; $_ => { answer => sub { answer($text, @_) } } } keys %text });
my $remote = new_remote('remote', conf => "max_connections = 40\nsuperuser_reserved_connections = 5");
my $local = new_local('local', conf => 'conpool.validate_interval = 200ms');
setup_local($local, $remote);

sub value
{
	my ($sql) = @_;
	return $local->safe_psql('postgres', $sql);
}

# --- a remote as it should be --------------------------------------------------------

value(q{SELECT conpool.exec('remote', 'SELECT 1')});
is(value(q{SELECT count(*) FROM conpool.pools WHERE remote_max_connections IS NOT NULL}),
	'0', 'at first it is not known');
wait_for_pool($local, 'remote', 'remote_max_connections = 35', 'the broker asks');
my $questions = () = slurp_file($remote->logfile) =~ /statement: SELECT .*max_connections/g;
is($questions, 1, 'once');
my $checks = value(q{SELECT validations FROM conpool.stat_pools WHERE server = 'remote'});
wait_for($local, qq{SELECT validations > $checks + 3 FROM conpool.stat_pools WHERE server = 'remote'},
	'it is checked again and again');
$questions = () = slurp_file($remote->logfile) =~ /statement: SELECT .*max_connections/g;
is($questions, 1, 'but not asked');
is(value(q{SELECT connects, discarded, validation_failures FROM conpool.stat_pools
		   WHERE server = 'remote'}), '1|0|0', 'the connection lives');

# --- and others ----------------------------------------------------------------------

foreach my $name (keys %text)
{
	my $port = $fake->port;
	value(qq{CREATE SERVER $name FOREIGN DATA WRAPPER conpool
				OPTIONS (host '127.0.0.1', port '$port', dbname '$name');
			 CREATE USER MAPPING FOR postgres SERVER $name OPTIONS (user 'x', password 'x')});
}
my $before = memory();
value(join ';', map { "SELECT conpool.exec('$_', 'SELECT 1')" } keys %text);
# each has been asked, and checked by a usual round trip since
my $good = join ',', map { "'$_'" } keys %answer;
wait_for($local, qq{SELECT bool_and(validations >= 3) FROM conpool.stat_pools
	WHERE server IN ($good)}, 'all were asked');
wait_for($local, qq{SELECT bool_and(idle = 1) FROM conpool.pools WHERE server IN ($good)});
foreach my $name (sort keys %answer)
{
	is(value(qq{SELECT remote_max_connections, connects, discarded, validation_failures
				FROM conpool.pools JOIN conpool.stat_pools USING (server, database, role)
				WHERE server = '$name'}),
		"$answer{$name}[1]|1|0|0", "what is known after the answer \"$name\"");
}
foreach my $name (sort keys %bad)
{
	wait_for($local, qq{SELECT validation_failures = 1 FROM conpool.stat_pools
		WHERE server = '$name'}, "the answer \"$name\" ends the connection");
	is(value(qq{SELECT remote_max_connections FROM conpool.pools WHERE server = '$name'}),
		'', 'and nothing is known');
	is(value(qq{SELECT conpool.exec('$name', 'SELECT 1')}), 'SELECT 1', 'the next one works');
}
my $grown = memory() - $before;
note "figure: broker_memory_after_hostile_answers = $grown kB";
cmp_ok($grown, '<', 8192, 'the broker keeps nothing of it');
my $next = join ',', map { "'$_'" } keys %bad;
wait_for($local, qq{SELECT bool_and(validations >= 3 AND validation_failures = 1)
	FROM conpool.stat_pools WHERE server IN ($next)}, 'and is not asked so soon');

# Of the broker, in kilobytes.
sub memory
{
	return slurp_file('/proc/' . broker_pid($local) . '/status') =~ /^VmRSS:\s+(\d+)/m ? $1 : 0;
}

done_testing();
