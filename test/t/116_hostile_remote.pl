# A remote that breaks the protocol gets an error for its statement, or a
# connection that is used once; no session and no slot is lost to it.
use strict;
use warnings;

use ConpoolTest;
use FakeServer qw(message parameter key_data auth_ok ready row_header one_row greet hang);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

sub error_with
{
	my ($state, $message) = @_;
	return message('E', "SERROR\0C$state\0M$message\0\0");
}

# name => [ what the server does, what the statement is to say, more ]
#   unshared => 1    the connection cannot be kept
#   timeout => 1     with a statement_timeout
#   limit => time    with that connect_timeout
#   options => text  more server options
my @cases = (
	# --- until it is ready
	good => [ {}, 'SELECT 1' ],
	garbage => [ { greeting => sub { $_[0]->send('?!' x 500) } }, '08001' ],
	closes => [ { greeting => sub { 0 } }, '08001' ],
	silent => [ { greeting => \&hang }, '08001', limit => '300ms' ],
	closes_in_greeting => [
		{ greeting => sub { $_[0]->send(auth_ok() . 'S' . pack('N', 20) . 'server'); 0 } }, '08001'
	],
	silent_in_greeting => [
		{ greeting => sub { $_[0]->send(auth_ok() . parameter(a => 'b')); hang(@_) } }, '08001',
		limit => '300ms'
	],
	never_ready => [
		{ greeting => sub { 1 while $_[0]->send(parameter(a => 'b' x 1000)) } }, '08001',
		limit => '300ms'
	],
	gigabyte_in_greeting => [
		{ greeting => sub { $_[0]->send(auth_ok() . 'S' . pack('N', 1 << 30) . 'a'); hang(@_) } },
		'08001', limit => '300ms'
	],
	negative_length => [
		{ greeting => sub { $_[0]->send(auth_ok() . 'S' . pack('N', -5 & 0xffffffff)); hang(@_) } },
		'08001', limit => '300ms'
	],
	odd_refusal => [ { greeting => sub { $_[0]->send(message('E', "CAB\0\0")); 0 } }, '08001' ],
	successful_refusal => [
		{ greeting => sub { $_[0]->send(error_with('00000', 'welcome')); 0 } }, '08001'
	],
	huge_parameter => [
		{ greeting => sub { greet(@_, parameter(a => 'b' x 100_000)) } }, '08001'
	],
	large_parameter => [
		{ greeting => sub { greet(@_, parameter(a => 'b' x 20_000)) } }, 'SELECT 1', unshared => 1
	],
	many_parameters => [
		{ greeting => sub { greet(@_, map { parameter("a$_" => 'b') } 1 .. 3000) } },
		'SELECT 1', unshared => 1
	],
	control_characters => [
		{ greeting => sub { greet(@_, parameter(a => "b\nB\t12\tBackendKeyData\t 1 2\n")) } },
		'SELECT 1', unshared => 1
	],
	name_of_control => [
		{ greeting => sub { greet(@_, parameter("a\nB\t12\tAuthentication\t 0\n" => 'b')) } },
		'SELECT 1', unshared => 1
	],
	nameless_parameter => [
		{ greeting => sub { greet(@_, parameter('' => 'b')) } }, 'SELECT 1', unshared => 1
	],
	two_keys => [ { greeting => sub { greet(@_, key_data()) } }, 'SELECT 1', unshared => 1 ],
	no_key => [
		{ greeting => sub { $_[0]->send(auth_ok() . parameter(client_encoding => 'UTF8') . ready()) } },
		'SELECT 1'
	],

	# --- when asked
	garbage_for_answer => [ { answer => sub { $_[0]->send('?!' x 500) } }, '08006' ],
	closes_in_row => [ { answer => sub { $_[0]->send(substr one_row(), 0, 36); 0 } }, '08006' ],
	too_many_fields => [
		{ answer => sub { $_[0]->send(row_header() . message('D', pack('nNaNa', 2, 1, '1', 1, '2'))
				. message('C', "SELECT 1\0") . ready()) } }, '08006'
	],
	long_field => [
		{ answer => sub { $_[0]->send(row_header() . message('D', pack('nN', 1, 0x7fffffff) . '1')
				. message('C', "SELECT 1\0") . ready()) } }, '08006'
	],
	row_of_nothing => [
		{ answer => sub { $_[0]->send(message('D', pack('nNa', 1, 1, '1'))
				. message('C', "SELECT 1\0") . ready()) } }, '08006'
	],
	copy_in => [ { answer => sub { $_[0]->send(message('G', pack 'Cn', 0, 0)); hang(@_) } }, '0A000' ],
	error_of_success => [ { answer => sub { $_[0]->send(error_with('00000', 'fine') . ready()) } }, '08006' ],
	error_of_warning => [ { answer => sub { $_[0]->send(error_with('01000', 'hm') . ready()) } }, '01000' ],
	error_of_nonsense => [ { answer => sub { $_[0]->send(error_with("\x01;--", 'x') . ready()) } }, '08006' ],
	error_in_no_encoding => [
		{ answer => sub { $_[0]->send(error_with('22012', "\xff\xfe") . ready()) } }, '22012'
	],
	error_without_fields => [ { answer => sub { $_[0]->send(message('E', "\0") . ready()) } }, '08006' ],
	open_transaction => [
		{ answer => sub { $_[0]->send(one_row() . message('Z', 'T')) } }, 'SELECT 1', unshared => 1
	],
	odd_transaction => [
		{ answer => sub { $_[0]->send(one_row() . message('Z', '?')) } }, 'SELECT 1', unshared => 1
	],
	hangs => [ { answer => \&hang }, '57014', timeout => 1 ],
	endless_rows => [
		{ answer => sub { my $row = message('D', pack('nNa', 1, 1, '1')) x 1000;
				$_[0]->send(row_header()); 1 while $_[0]->send($row) } }, '57014', timeout => 1
	],
	endless_notices => [
		{ answer => sub { my $notice = message('N', "SNOTICE\0C00000\0Mno\0\0") x 1000;
				1 while $_[0]->send($notice) } }, '57014', timeout => 1
	],

	# --- when left alone
	notice_while_idle => [
		{ answer => sub { $_[0]->send(one_row() . ready()); sleep 0.1;
				$_[0]->send(message('N', "SNOTICE\0C00000\0Mboo\0\0")) } }, 'SELECT 1', unshared => 1
	],
	parameter_while_idle => [
		{ answer => sub { $_[0]->send(one_row() . ready()); sleep 0.1;
				$_[0]->send(parameter(a => 'b')) } }, 'SELECT 1', unshared => 1
	],
	closes_while_idle => [
		{ answer => sub { $_[0]->send(one_row() . ready()); 0 } }, 'SELECT 1', unshared => 1
	],
	stuck_reset => [ { discard => \&hang }, 'SELECT 1', options => q{reset 'always'}, unshared => 1 ],
	failing_reset => [
		{ discard => sub { $_[0]->send(error_with('42501', 'no') . ready()) } },
		'SELECT 1', options => q{reset 'always'}, unshared => 1
	],
	altering_reset => [
		{ discard => sub { $_[0]->send(parameter(client_encoding => 'LATIN1')
				. message('C', "DISCARD ALL\0") . ready()) } },
		'SELECT 1', options => q{reset 'always'}, unshared => 1
	],
	good_reset => [ {}, 'SELECT 1', options => q{reset 'always'} ]);

my %case = @cases;
my @names = grep { !ref } @cases;
my $server = FakeServer->new({ map { $_ => $case{$_}[0] } @names });
my $port = $server->port;

my $local = new_local('local');
$local->safe_psql('postgres', 'CREATE EXTENSION conpool');
foreach my $name (@names)
{
	my (undef, undef, %of) = @{ $case{$name} };
	my $more = $of{options} ? ", $of{options}" : '';
	my $limit = $of{limit} // '10s';
	$local->safe_psql('postgres', qq{
		CREATE SERVER $name FOREIGN DATA WRAPPER conpool OPTIONS (host '127.0.0.1',
			port '$port', dbname '$name', connect_timeout '$limit' $more);
		CREATE USER MAPPING FOR postgres SERVER $name OPTIONS (user 'nobody')});
}
my $broker = $local->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'conpool broker'});

# One session goes through it all.
my $session = $local->background_psql('postgres', on_error_stop => 0);
$session->query('\set VERBOSITY sqlstate');
my $pid = $session->query('SELECT pg_backend_pid()');

sub say_to
{
	my ($name, %of) = @_;
	my $limit = $of{timeout} ? 300 : 0;
	$session->{stderr} = '';
	my $out = $session->query(
		"SET statement_timeout = $limit; SELECT conpool.exec('$name', 'SELECT 1'); RESET statement_timeout");
	return $session->{stderr} =~ /ERROR:  (\S+)/ ? $1 : $out;
}

foreach my $name (@names)
{
	my (undef, $expected, %of) = @{ $case{$name} };
	like(say_to($name, %of), qr/^$expected$/, "$name: $expected");
}
is($session->query('SELECT pg_backend_pid()'), $pid, 'it is still the same session');
$session->quit;

# --- what is left -----------------------------------------------------------

wait_for($local, q{SELECT count(*) = 0 FROM conpool.connections WHERE state <> 'idle'},
	'nothing is held, opened, reset or closed');
my $kept = join ', ', grep {
	my (undef, $expected, %of) = @{ $case{$_} };
	$expected !~ /^(08|0A|57)/ && !$of{unshared}
} @names;
is($local->safe_psql('postgres', qq{SELECT string_agg(server, ', ' ORDER BY array_position(
	string_to_array('$kept', ', '), server)) FROM conpool.connections}), $kept,
	'only what is above suspicion is kept');
is($local->safe_psql('postgres', q{SELECT count(*) FROM conpool.pools
	WHERE size <> idle OR waiting > 0}), 0, 'the pools add up');
is($local->safe_psql('postgres', q{SELECT conpool.exec('good', 'SELECT 1')}), 'SELECT 1',
	'the good one still serves');
is($local->safe_psql('postgres', q{SELECT connects FROM conpool.stat_pools
	WHERE server = 'good'}), 1, 'on the same connection');
is($local->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'conpool broker'}),
	$broker, 'the broker has gone through it all');
my @crashes = slurp_file($local->logfile) =~
  /^.*(?:TRAP:|PANIC:|was terminated by signal).*$/mg;
is(join("\n", @crashes), '', 'no process crashed');

done_testing();
