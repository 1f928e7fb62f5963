# What a remote says comes out of a tunnel as it does of a direct connection, whatever is
# in it: errors while connecting and of statements, with control characters, in wrong
# encodings, or endless; and the log cannot be forged by it.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use FakeServer qw(message hang auth_ok parameter);
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $certificates = Certificates->new;
my $remote = new_remote('remote', init => { extra => [] });
offer_tls($remote, $certificates, hba => 'host all all 127.0.0.1/32 scram-sha-256');
my $local = new_local('local');
setup_local($local, $remote);
my $client = WireClient->new($local);
my $forged = 'LOG:  forged line';

sub run
{
	my ($sql) = @_;
	my $result = $client->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return $result->{rows};
}

sub literal
{
	return q{'} . $_[0] =~ s/'/''/gr . q{'};
}

my $servers = 0;

# Two servers that differ in the way only.
#   options    of the servers, name => value
sub create_two
{
	my ($through, %options) = @_;
	my %default = (host => '127.0.0.1', port => $remote->port, dbname => 'conpool_remote', %options);
	my %server;
	$servers++;
	foreach my $way (['direct', 'disable'], ['tunnel', $through])
	{
		my ($name, $mode) = ("$way->[0]_$servers", $way->[1]);
		run("CREATE SERVER $name FOREIGN DATA WRAPPER conpool OPTIONS ("
			  . join(', ', map { "$_ " . literal($default{$_}) } sort keys %default)
			  . ", sslmode '$mode')");
		run("CREATE USER MAPPING FOR postgres SERVER $name
			OPTIONS (user 'regress_remote', password '$ConpoolTest::password{regress_remote}')");
		$server{ $way->[0] } = $name;
	}
	return %server;
}

# Everything that a session is told, for both.
sub told
{
	my ($name, $sql) = @_;
	my $result = $client->query("SELECT conpool.exec('$name', " . literal($sql) . ')');
	my %told = map { $_ => $result->{$_} } qw(error message detail hint notices);
	# their names apart
	s/\Q$name\E/NAME/g for grep { defined } @told{qw(message detail hint)}, @{ $told{notices} };
	return \%told;
}

# --- statements --------------------------------------------------------------------------

# A database that lets any bytes through.
my $admin = WireClient->new($remote);
$admin->query(q{CREATE DATABASE any_bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'});
$admin->query('GRANT ALL ON DATABASE any_bytes TO PUBLIC');
my %two = create_two('require', dbname => 'any_bytes');
is(told($_, 'SELECT 1')->{error}, undef, "$_ serves") for sort values %two;
is_deeply(run(qq{SELECT server, tunnelled FROM conpool.pools WHERE server IN ('$two{direct}', '$two{tunnel}') ORDER BY 1}),
	[ [ $two{direct}, 0 ], [ $two{tunnel}, 1 ] ], 'one of them through a tunnel');

# As bytes that PL/pgSQL has to make, since nothing but valid text may come from here.
my %texts = (
	'control characters' => join('', map { chr } 1 .. 31, 127),
	'an escape sequence' => "\e[2J\e]0;title\a",
	'lines' => "one\ntwo\r\nthree\n2020-01-01 $forged",
	'no UTF-8' => "\xff\xfe\xc3\x28 \xed\xa0\x80 \xc0\x80",
	'half a character' => "caf\xc3",
	'UTF-8' => "caf\xc3\xa9 \xf0\x9f\x98\x80",
	'another encoding' => "caf\xe9",
	'formats' => '%s%n%d%m %1$s',
	'nothing' => '',
	'much' => 'much ' x 20_000);
my %invalid = map { $_ => 1 } 'no UTF-8', 'half a character', 'another encoding';
foreach my $what (sort keys %texts)
{
	my $hex = unpack 'H*', $texts{$what};
	my $text = "convert_from('\\x$hex', 'SQL_ASCII')";
	my $sql = qq{DO \$do\$ BEGIN
		RAISE NOTICE USING MESSAGE = 'notice: ' || $text;
		RAISE EXCEPTION USING ERRCODE = 'ZX123', MESSAGE = 'error: ' || $text,
			DETAIL = 'detail: ' || $text, HINT = 'hint: ' || $text;
		END \$do\$};
	my %told = map { $_ => told($two{$_}, $sql) } keys %two;
	if ($invalid{$what})
	{
		# of the remote, which cannot say it
		is($told{direct}{error}, '22021', "$what: an error");
	}
	else
	{
		is($told{direct}{error}, 'ZX123', "$what: an error");
		like($told{direct}{message}, qr/^error: /, "$what: with its message");
		is(scalar(@{ $told{direct}{notices} }), 1, "$what: and a notice");
	}
	is_deeply($told{tunnel}, $told{direct}, "$what: the same through a tunnel");
}

# Rows in a wrong encoding are errors, and no loss.
my $before = run(qq{SELECT sum(connects) FROM conpool.stat_pools WHERE server IN ('$two{direct}', '$two{tunnel}')});
foreach my $what ('no UTF-8', 'half a character', 'UTF-8')
{
	my $hex = unpack 'H*', $texts{$what};
	my %got;
	foreach my $way (keys %two)
	{
		my $result = $client->query(qq{SELECT t FROM conpool.query('$two{$way}',
			\$\$SELECT convert_from('\\x$hex', 'SQL_ASCII')\$\$) AS r(t text)});
		$got{$way} = $result->{error} // $result->{rows}[0][0];
	}
	is($got{tunnel}, $got{direct}, "$what in a row: the same through a tunnel: "
		  . ($got{direct} =~ /^\w{5}$/ ? $got{direct} : 'a value'));
}
is_deeply(
	run(qq{SELECT sum(connects) FROM conpool.stat_pools WHERE server IN ('$two{direct}', '$two{tunnel}')}),
	$before, 'on the same connections');

# --- connecting, encrypted -------------------------------------------------------------------

my %databases = (
	'control characters' => "a\x01b\e[31mc",
	'lines' => "a\n2020-01-01 $forged",
	'UTF-8' => "caf\xc3\xa9",
	'formats' => '%s%n%m');
foreach my $what (sort keys %databases)
{
	my %of = create_two('require', dbname => $databases{$what});
	my %told = map { $_ => told($of{$_}, 'SELECT 1') } keys %of;
	is($told{direct}{error}, '08001', "no database \"$what\": an error");
	like($told{direct}{detail}, qr/does not exist/, "no database \"$what\": that says so");
	is_deeply($told{tunnel}, $told{direct}, "no database \"$what\": the same through a tunnel");
}

# --- connecting, to somebody who says anything --------------------------------------------------

# He has no TLS, so the tunnel connects in the clear; what it says comes by its reply.
sub error
{
	my (%fields) = @_;
	return message('E', join('', map { "$_$fields{$_}\0" } sort keys %fields) . "\0");
}

my %says = (
	%texts,
	'very much' => 'very much ' x 100_000,
	'a reply' => "1TPC\0" x 100);
my %behaviours = map {
	my $text = $says{$_} =~ s/\0/ /gr;
	s/\W/_/gr => {
		greeting => sub {
			$_[0]->send(error(S => 'FATAL', V => 'FATAL', C => '28000', M => "said: $text", D => $text, H => $text));
			return 0;
		}
	}
} keys %says;
$behaviours{notices} = {
	greeting => sub {
		my ($peer) = @_;
		$peer->send(auth_ok() . parameter(server_version => "15.0\n$forged"));
		$peer->send(message('N', "SNOTICE\0VNOTICE\0C00000\0Msaid: $texts{lines}\0\0")) for 1 .. 100;
		$peer->send(message('Z', 'I'));
		return 1;
	}
};
my $fake = FakeServer->new(\%behaviours);
foreach my $name (sort keys %behaviours)
{
	my %of = create_two('prefer', port => $fake->port, dbname => $name);
	my %told = map { $_ => told($of{$_}, 'SELECT 1') } keys %of;
	if ($name eq 'notices')
	{
		is($told{direct}{error}, undef, 'notices while connecting: no error');
	}
	else
	{
		like($told{direct}{error} // '', qr/^(?:28000|08001)$/, "somebody says $name: an error");
	}
	is_deeply($told{tunnel}, $told{direct}, "somebody says $name: the same through a tunnel");
}

# --- what is left ----------------------------------------------------------------------------------

is($client->query('SELECT test.at_rest()')->{rows}[0][0], 't', 'all pools are at rest');
is(run('SELECT count(*) FROM conpool.tunnels WHERE failed > 0 AND pid IS NOT NULL')->[0][0], 1, 'the tunnel was asked');

# Of a line that begins like one of the log's, each further one begins with a tab.
my $log = slurp_file($local->logfile);
like($log, qr/\Q$forged\E/, 'the log has it');
unlike($log, qr/^(?:2020-01-01 )?\Q$forged\E/m, 'but not as a line of its own');
is(join(', ', $log =~ /^.*(?:TRAP:|PANIC:|terminated by signal).*$/mg), '', 'nothing has crashed');

done_testing();
