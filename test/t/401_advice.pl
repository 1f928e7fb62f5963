# The view "advice" finds what is to be found: each finding is provoked by traffic
# for which it is right, its statement can be run as it is, and helps; and of pools
# that do well it says nothing.
use strict;
use warnings;

use ConpoolTest;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

# Time goes by only where a day is needed: test/c/clock_shift.c.
my $library = PostgreSQL::Test::Utils::tempdir . '/clock_shift.so';
my $shift = PostgreSQL::Test::Utils::tempdir . '/shift';
my $source = ($ENV{CONPOOL_SETUP} // 'test/setup') . '/../c/clock_shift.c';
chomp(my $cc = `$ENV{PG_CONFIG} --cc`);
my $has_clock =
  system(split(' ', $cc), '-shared', '-fPIC', '-o', $library, $source) == 0;

sub set_clock
{
	my ($ahead) = @_;
	open my $file, -e $shift ? '+<' : '>', $shift or die "$shift: $!";
	syswrite $file, pack('q', $ahead);
	close $file;
	return;
}

set_clock(0);
my $remote = new_remote('remote', conf => 'max_connections = 500');
my $narrow = new_remote('narrow', conf => 'max_connections = 30');
my $local = new_local('local', start => 0, conf => <<'CONF');
conpool.history_interval = 1s
conpool.validate_interval = 0
CONF
{
	local %ENV = (%ENV, $has_clock ? (LD_PRELOAD => $library, CLOCK_SHIFT => $shift) : ());
	$local->start;
}
setup_local($local, $remote);
create_loop($local);

sub value
{
	my ($sql) = @_;
	return $local->safe_psql('postgres', $sql);
}

# What is found about a server, with its suggestion.
sub findings
{
	my ($server) = @_;
	return value("SELECT finding, suggestion FROM conpool.advice WHERE server = '$server'");
}

sub evidence
{
	my ($server) = @_;
	return value("SELECT evidence FROM conpool.advice WHERE server = '$server'");
}

# The statement of the finding, which is run.
sub follow
{
	my ($server, $finding) = @_;
	my $sql = value(qq{SELECT sql FROM conpool.advice
		WHERE server = '$server' AND finding = '$finding'});
	is($local->psql('postgres', $sql), 0, "its statement can be run: $sql");
	return $sql;
}

# Leases of a session, given back at once; so many connections are idle then.
sub open_idle
{
	my ($server, $count, $user) = @_;
	my $client = WireClient->new($local, user => $user // 'postgres');
	my $result = $client->query(
		"BEGIN; SELECT conpool.checkout('$server') FROM generate_series(1, $count); COMMIT");
	is($result->{error}, undef, "$count connections of $server");
	$client->hang_up;
	return;
}

sub run_queries
{
	my ($server, $count, $user) = @_;
	my $client = WireClient->new($local, user => $user // 'postgres');
	my $result = $client->query(
		"SELECT count(conpool.exec('$server', 'SELECT 1')) FROM generate_series(1, $count)");
	is($result->{error}, undef, "$count queries on $server");
	$client->hang_up;
	return;
}

is(value('SELECT count(*) FROM conpool.advice'), '0', 'nothing is said about nothing');

# --- what takes traffic, all of it at a time --------------------------------------

create_server($local, $remote, 'small', options => q{max_size '2'});
create_server($local, $remote, '"mapped S"');
value(q{ALTER USER MAPPING FOR postgres SERVER "mapped S" OPTIONS (ADD max_size '2')});
create_server($local, $remote, 'limited', options => q{max_server_size '2'});
create_server($local, $remote, 'enough', options => q{max_size '8'});
create_server($local, $remote, 'mixed', options => q{max_size '1'});
create_server($local, $remote, 'resets', options => q{reset 'always'});
create_server($local, $remote, 'large', options => q{max_size '40'});
create_server($local, $remote, 'leaking', options => q{leak_threshold '500ms'});

my @leaking = map { WireClient->new($local) } 1 .. 2;
$_->query(q{SELECT conpool.checkout('leaking', 'session')}) for @leaking;

my $work = 'SELECT pg_sleep(0.02)';
my @loops = map { start_loop($local, $_, sessions => 6, statement => $work) }
  qw(small limited enough), 'mapped S';
push @loops, start_loop($local, 'mixed', statement => 'SELECT pg_sleep(0.3)');
push @loops, start_loop($local, 'mixed', sessions => 12, statement => 'SELECT 1');
run_queries('resets', 120);
run_queries('large', 1200);

# --- connections that hardly live ---------------------------------------------------

# so short for the time that it takes to provoke this
value('CREATE ROLE regress_other LOGIN');
create_server($local, $remote, 'idles', options => q{idle_timeout '500ms'});
create_server($local, $remote, 'idles_public',
	for => 'PUBLIC', options => q{idle_timeout '500ms'});
create_server($local, $remote, 'ages',
	options => q{max_size '40', max_lifetime '1s', connect_concurrency '8'});
value('GRANT USAGE ON FOREIGN SERVER idles_public TO regress_other');
foreach my $round (1 .. 3)
{
	open_idle('idles', 10);
	open_idle('idles_public', 10, 'regress_other');
	open_idle('ages', 24) if $round == 1;
	wait_for($local, qq{SELECT count(*) = 2 AND min(idle_closed) = 10 * $round
		FROM conpool.stat_pools WHERE server IN ('idles', 'idles_public')}, 'are closed');
}
wait_for($local, q{SELECT expired = 24 FROM conpool.stat_pools WHERE server = 'ages'},
	'others are too old');
run_queries('idles', 80);
run_queries('idles_public', 80, 'regress_other');
run_queries('ages', 80);

# --- a remote that comes and goes ----------------------------------------------------

my $nobody = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp') or die "bind: $!";
create_server($local, $remote, 'flaps');
foreach my $round (1 .. 3)
{
	value(sprintf q{ALTER SERVER flaps OPTIONS (SET port '%d')}, $nobody->sockport);
	$local->psql('postgres', q{SELECT conpool.exec('flaps', 'SELECT 1')});
	value(sprintf q{ALTER SERVER flaps OPTIONS (SET port '%d')}, $remote->port);
	value(q{SELECT conpool.warm('flaps')});
	value(q{SELECT conpool.exec('flaps', 'SELECT 1')});
	is(findings('flaps'), '', 'which is no matter if it is rare') if $round < 3;
}

# --- what is found ----------------------------------------------------------------------

wait_for($local, q{SELECT sum(checkouts) > 150 FROM conpool.stat_pools WHERE server = 'mixed'},
	'there has been traffic');
stop_loop($local);
finish_loop(@loops);

is(findings('enough'), '', 'nothing is said about a pool that does well');
is(findings('remote'), '', 'nor about one that nobody has used');
is(value('SELECT count(*) FROM conpool.advice WHERE evidence IS NULL OR suggestion IS NULL'),
	'0', 'evidence and suggestion are always there');

like(findings('small'), qr/^pool too small\|raise max_size to [3-8]$/, 'too small');
like(evidence('small'), qr/^all 2 connections were in use, 1 % of callers waited for \d/,
	'as can be seen');
like(follow('small', 'pool too small'),
	qr/^ALTER SERVER small OPTIONS \(SET max_size '[3-8]'\);$/, 'max_size is set');
like(findings('mapped S'), qr/^pool too small\|raise max_size to [3-8]$/, 'too small');
like(follow('mapped S', 'pool too small'),
	qr/^ALTER USER MAPPING FOR postgres SERVER "mapped S" OPTIONS \(SET max_size '\d'\);$/,
	'max_size is set where it was');
like(follow('limited', 'pool too small'),
	qr/^ALTER SERVER limited OPTIONS \(SET max_server_size '[3-8]'\);$/,
	'what is too small is the server');

like(findings('mixed'), qr/^long jobs\|give the long jobs a server of their own/, 'long jobs');
like(evidence('mixed'), qr/^\d+ of \d+ leases .* took \d\d % .*; \d+ of \d+ callers waited/,
	'as can be seen');
is(follow('mixed', 'long jobs'),
	q{CREATE SERVER mixed_jobs FOREIGN DATA WRAPPER conpool OPTIONS (server 'mixed', max_size '1');},
	'another server takes connection options and mappings from the first');
is(value(q{SELECT conpool.exec('mixed_jobs', 'SELECT 1')}), 'SELECT 1', 'it works');
like(findings('mixed'), qr/; mixed_jobs is there already$/, 'which is known then');
is(value(q{SELECT sql IS NULL FROM conpool.advice WHERE server = 'mixed'}), 't',
	'and not created again');

like(findings('resets'), qr/^reset always\|set reset to auto/, 'resets');
like(evidence('resets'), qr/^120 of 120 leases/, 'as can be seen');
is(follow('resets', 'reset always'), q{ALTER SERVER resets OPTIONS (SET reset 'auto');},
	'reset is set');
run_queries('resets', 1);
is(findings('resets'), '', 'that helps');

like(findings('idles'), qr/^idle_timeout too short\|raise idle_timeout to 10min
min_size too low\|raise min_size to \d+$/, 'needed again');
like(value(q{SELECT evidence FROM conpool.advice WHERE finding = 'min_size too low'}),
	qr/^3\d connections, .* ms each, were opened for 110 checkouts, with min_size 0; idle_timeout closed 3/,
	'as can be seen');
like(follow('idles', 'min_size too low'),
	qr/^ALTER SERVER idles OPTIONS \(ADD min_size '\d+'\);$/, 'min_size is added');
is(follow('idles', 'idle_timeout too short'),
	q{ALTER SERVER idles OPTIONS (SET idle_timeout '10min');}, 'idle_timeout is set');
is(findings('idles_public'), 'idle_timeout too short|raise idle_timeout to 10min',
	'min_size is nothing for a PUBLIC mapping');
is(findings('ages'), 'max_lifetime too short|raise max_lifetime to 30min', 'too old too soon');
is(follow('ages', 'max_lifetime too short'),
	q{ALTER SERVER ages OPTIONS (SET max_lifetime '30min');}, 'max_lifetime is set');

wait_for($local, q{SELECT count(*) = 2 FROM conpool.leaks WHERE server = 'leaking'});
like(findings('leaking'), qr/^leaks\|have the sessions call checkin\(\)/, 'leaks');
like(evidence('leaking'),
	qr/^2 leaks since counting began: 2 found idle, .*; 2 held now, the longest for \S+ by pid $leaking[0]{pid}, idle$/,
	'as can be seen');
like(value(follow('leaking', 'leaks')), qr/^idle\|$leaking[0]{pid}\|/m, 'it shows more');
$_->hang_up for @leaking;
wait_for($local, q{SELECT leased = 0 FROM conpool.pools WHERE server = 'leaking'});
is(findings('leaking'), '', 'two that are over are forgotten');

like(findings('flaps'), qr/^breaker flaps\|find out/, 'comes and goes');
like(evidence('flaps'), qr/^the remote was found out of reach 3 times within an hour, /,
	'as can be seen');
follow('flaps', 'breaker flaps');

# --- who sees it, and from where ---------------------------------------------------------

my $other = WireClient->new($local, user => 'regress_other');
is(join(',', map { $_->[0] }
		  @{ $other->query('SELECT server FROM conpool.advice')->{rows} }),
	'idles_public', 'others see what is theirs');

value('CREATE DATABASE elsewhere');
setup_local($local, $remote, 'elsewhere');
create_server($local, $remote, 'resets',
	dbname => 'elsewhere', options => q{reset 'always'});
$local->safe_psql('elsewhere',
	q{SELECT conpool.exec('resets', 'SELECT 1') FROM generate_series(1, 100)});
is(value(q{SELECT database, suggestion ~ ', in database elsewhere$', sql IS NULL
		   FROM conpool.advice WHERE server = 'resets'}),
	'elsewhere|t|t', 'what is to be run in another database is not told here');
is($local->safe_psql('elsewhere',
		q{SELECT sql FROM conpool.advice WHERE server = 'resets'}),
	q{ALTER SERVER resets OPTIONS (SET reset 'auto');}, 'but there');

# --- more than the remote has -------------------------------------------------------------

create_server($local, $narrow, 'wide', options => q{max_size '20', validate_interval '200ms'});
create_server($local, $narrow, 'wider', options => q{max_size '80', max_server_size '70'});
run_queries($_, 1) for 'wide', 'wider';
wait_for_pool($local, 'wide', 'remote_max_connections = 27', 'the remote was asked');
my $limits = q{SELECT sql FROM conpool.advice WHERE finding = 'remote too small' ORDER BY server};
is(value($limits),
	"ALTER SERVER wide OPTIONS (ADD max_server_size '5');\n"
	  . "ALTER SERVER wider OPTIONS (SET max_server_size '18');",
	'every server gets a share of what the remote has');
like(evidence('wide'),
	qr/^wide, wider may open 90 connections to 127\.0\.0\.1:\d+, which allows ordinary users 27$/,
	'as can be seen');
is(value(q{SELECT count(*) FROM conpool.advice WHERE finding = 'remote too small'
		   AND role IS NOT NULL}), '0', 'it is not about a role');
value(value($limits));
run_queries($_, 1) for 'wide', 'wider';
is(value($limits), '', 'which helps');

# --- a day goes by ----------------------------------------------------------------------------

SKIP:
{
	skip 'test/c/clock_shift.c could not be built', 4 unless $has_clock;
	create_server($local, $remote, 'idle_giant', options => q{max_size '40'});
	run_queries('idle_giant', 1000);
	is(findings('idle_giant'), '', 'too large is what was so for a day');
	set_clock(25 * 3600);
	is(findings('idle_giant'), 'pool too large|lower max_size to 2', 'and so it is');
	like(evidence('idle_giant'),
		qr/^never more than 1 of 40 connections were in use at a time, in 1 day .* 1000 checkouts$/,
		'as can be seen');
	is(follow('idle_giant', 'pool too large'),
		q{ALTER SERVER idle_giant OPTIONS (SET max_size '2');}, 'max_size is set');
}

done_testing();
