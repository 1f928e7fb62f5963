# No password of a connection string that is malformed, as one written by hand may be, is
# shown or logged by the functions of dblink; nor by map(), which repeats what it was
# given as the name of a server.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
# The statements that bring passwords are not to be logged by PostgreSQL itself.
my $local = new_local('local', conf => q{
log_min_messages = debug5
log_error_verbosity = verbose
log_statement = none
log_min_error_statement = panic
});
setup_local($local, $remote);
$local->safe_psql('postgres', 'CREATE EXTENSION conpool_dblink; CREATE ROLE regress_some LOGIN');

my $secret = 's3cret';
my $port = $remote->port;
my $rest = "dbname=$ConpoolTest::remote_db user=regress_remote";
my %string = (
	'a word too many' => "host=127.0.0.1 port=$port $rest password=$secret word",
	'a password of two words' => "host=127.0.0.1 password=my $secret",
	'a password in front of a quote' => "password=$secret host='127.0.0.1",
	'a quote that does not end' => "host=127.0.0.1 password='$secret",
	'an equals sign apart' => "host=127.0.0.1 password = $secret word",
	'capitals' => "host=127.0.0.1 PASSWORD=$secret",
	'an option that is none' => "host=127.0.0.1 passwort=$secret password=$secret",
	'a password only' => "password=$secret word",
	'a URI with percent signs' => "postgresql://regress_remote:$secret%@127.0.0.1:$port/x",
	'a URI with a wrong code' => "postgresql://regress_remote:$secret%zz\@127.0.0.1:$port/x",
	'a URI with a zero' => "postgres://regress_remote:$secret%00\@127.0.0.1:$port/x",
	'a URI with a broken host' => "postgresql://regress_remote:$secret\@[127.0.0.1:$port/x",
	'a URI with something behind the host' => "postgresql://regress_remote:$secret\@[::1]x:$port/x",
	'a URI with an unknown option' => "postgresql://127.0.0.1:$port/x?bogus=$secret",
	'a URI with an option twice broken' => "postgresql://127.0.0.1:$port/x?password=$secret&a=b=c",
	'a URI with a password of an at sign' => "postgresql://regress_remote:my\@$secret\@127.0.0.1:$port/x",
	'another scheme' => "postgre://regress_remote:$secret\@127.0.0.1:$port/x");

# What dblink does with a string: called with parameters, so that the statements have none.
my %call = (
	dblink => 'SELECT * FROM dblink($1, $$SELECT 1$$) AS t(a int)',
	dblink_exec => 'SELECT dblink_exec($1, $$SELECT 1$$)',
	dblink_connect => 'SELECT dblink_connect($1)',
	'dblink_connect with a name' => 'SELECT dblink_connect($$c$$, $1)');
my %client = map { $_ => WireClient->new($local, user => $_) } qw(postgres regress_some);

# All that a client is told.
sub told
{
	my ($result) = @_;
	return join "\n", @{ $result->{notices} }, map { $_ // '' } @$result{qw(message detail hint)},
	  map { @$_ } @{ $result->{rows} };
}

foreach my $user (sort keys %client)
{
	my $client = $client{$user};
	$client->query("PREPARE \"$_\" (text) AS $call{$_}") for sort keys %call;
	foreach my $what (sort keys %string)
	{
		my ($failed, $told) = (0, '');
		foreach my $call (sort keys %call)
		{
			my $literal = $string{$what} =~ s/'/''/gr;
			my $result = $client->query("EXECUTE \"$call\" ('$literal')");
			$failed++ if $result->{error};
			$told .= told($result) . "\n";
		}
		is($failed, scalar keys %call, "$user, $what: is refused");
		is(join("\n", $told =~ /^.*(?:$secret|my\@).*$/mg), '', "$user, $what: is not shown");
	}
}

# --- map ------------------------------------------------------------------------

my $client = $client{postgres};
my $string = conninfo($remote);
my $uri = "postgresql://regress_remote:remote-secret\@127.0.0.1:$port/$ConpoolTest::remote_db";
foreach my $of (
	[ 'map', "conpool.map(ARRAY['$string', '$uri', 'remote'], 'SELECT 1')" ],
	[ 'map_as', "conpool.map_as(NULL::int, ARRAY['$string', '$uri', 'remote'], 'SELECT 1')" ],
	[ 'try_map', "conpool.try_map(ARRAY['$string', '$uri', 'remote'], 'SELECT 1')" ],
	[ 'try_map, errors', "conpool.try_map(ARRAY['$string', '$uri', 'remote'], 'SELECT 1/0')" ])
{
	my ($what, $call) = @$of;
	my $result = $client->query("SELECT * FROM $call");
	is(scalar @{ $result->{rows} }, 3, "$what: there is a row for each");
	is(scalar(grep { $_->[0] eq 'remote' } @{ $result->{rows} }), 1, "$what: with a server's name");
	unlike(told($result), qr/remote-secret/, "$what: and without a password");
}
my $broken = $string{'a word too many'};
my $result = $client->query("SELECT * FROM conpool.try_map(ARRAY['$broken', 'remote'], 'SELECT 1')");
is(scalar @{ $result->{rows} }, 2, 'try_map, a malformed string: there is a row for each');
unlike(told($result), qr/$secret/, 'try_map, a malformed string: without a password');

# --- the log --------------------------------------------------------------------

$local->stop;
my $log = slurp_file($local->logfile);
like($log, qr/DEBUG: /, 'the log says a lot');
is(join("\n", $log =~ /^.*(?:$secret|remote-secret).*$/mg), '', 'but no password');

done_testing();
