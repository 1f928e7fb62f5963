# What is in monitoring/, with the real programs: prometheus-postgres-exporter and
# prometheus watch a live pool. Every metric that rules and dashboard name is
# there, the histograms tell the truth, and each alert is raised by what it is for
# (but for a busy tunnel, which would take a machine of its own).
# Users can neither multiply the series nor have the queries call what is theirs.
use strict;
use warnings;

use ConpoolTest;
use HTTP::Tiny;
use JSON::PP;
use List::Util qw(uniq);
use POSIX;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

my $top = ($ENV{CONPOOL_SETUP} // 'test/setup') . '/../..';
my $dir = "$top/monitoring";
my $work = PostgreSQL::Test::Utils::tempdir('monitoring');
my $limit = 30;    # seconds to wait for anything
delete @ENV{ grep { /_proxy$/i } keys %ENV };

# --- programs beside the test ---------------------------------------------------

my %started;       # name => pid

# Starts a program, which ends with the test whatever becomes of it.
sub start_program
{
	my ($name, @command) = @_;
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', "$PostgreSQL::Test::Utils::log_path/404_monitoring_$name.log";
		open STDERR, '>&', \*STDOUT;
		exec 'setpriv', '--pdeathsig', 'KILL', @command or POSIX::_exit(127);
	}
	$started{$name} = $pid;
	return;
}

sub stop_program
{
	my ($name) = @_;
	my $pid = delete $started{$name};
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return;
}

END
{
	my $status = $?;
	stop_program($_) for keys %started;
	$? = $status;
}

my $http = HTTP::Tiny->new(timeout => 10);
my ($exporter_port, $prometheus_port) =
  map { PostgreSQL::Test::Cluster::get_free_port() } 1 .. 2;

# The answer of Prometheus' API, undef and a note if it is an error.
sub api
{
	my ($path, %parameters) = @_;
	my $answer = $http->get("http://127.0.0.1:$prometheus_port/api/v1/$path?"
		  . $http->www_form_urlencode(\%parameters));
	return decode_json($answer->{content})->{data} if $answer->{success};
	note "$path: $answer->{status} $answer->{content}";
	return;
}

# The series that an expression has now.
sub series
{
	my ($expression) = @_;
	my $answer = api('query', query => $expression) or return;
	return @{ $answer->{result} };
}

# The value of its first series.
sub value
{
	my ($first) = series(@_);
	return $first ? $first->{value}[1] : undef;
}

# Is that alert being raised? labels: name => value.
sub is_firing
{
	my ($name, %labels) = @_;
	my $answer = api('alerts') or return 0;
	foreach my $alert (@{ $answer->{alerts} })
	{
		next unless $alert->{state} eq 'firing';
		my $has = $alert->{labels};
		next unless $has->{alertname} eq $name;
		return 1 unless grep { ($has->{$_} // '') ne $labels{$_} } keys %labels;
	}
	return 0;
}

sub fires
{
	my ($name, %labels) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until(sub { is_firing($name, %labels) },
		"$name is raised" . join('', map { ", $_ $labels{$_}" } sort keys %labels), $limit);
}

# --- the rules by themselves ---------------------------------------------------

command_ok([ 'promtool', 'check', 'rules', "$dir/conpool-alerts.yml" ],
	'promtool finds nothing wrong with the rules');
command_ok([ 'promtool', 'test', 'rules', "$dir/conpool-alerts.test.yml" ],
	'their unit tests pass');

# The same rules for impatient people: all durations shorter, thresholds as they are.
my $rules = slurp_file("$dir/conpool-alerts.yml");
$rules =~ s/^(\s+for:) \d+[smhd]$/$1 1s/mg;
$rules =~ s/\[\d+[mh](:?)\]/[10s$1]/g;
$rules =~ s/\[\d+d\]/[1m]/g;
append_to_file("$work/alerts.yml", $rules);

# --- a live pool, watched by a role that is no superuser --------------------------

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'conpool.max_size = 1');
setup_local($local, $remote);
create_server($local, $remote, 'known', options => q{max_size '2'});
create_server($local, $remote, 'leaky', options => q{max_size '3', leak_threshold '500ms'});
create_server($local, $remote, 'small', options => q{max_size '1'});
create_server($local, $remote, 'room', options => q{max_size '3'}, user => 'regress_remote_two');
$remote->safe_psql('postgres', 'ALTER ROLE regress_remote_two CONNECTION LIMIT 1');
my $closed_port = PostgreSQL::Test::Cluster::get_free_port();
$local->safe_psql('postgres', qq{
	CREATE ROLE monitor LOGIN;
	GRANT pg_monitor TO monitor;
	ALTER ROLE monitor SET search_path = pg_catalog, pg_temp;
	CREATE SERVER gone FOREIGN DATA WRAPPER conpool
		OPTIONS (host '127.0.0.1', port '$closed_port', dbname 'nowhere', min_size '1');
	CREATE USER MAPPING FOR postgres SERVER gone OPTIONS (user 'nobody', password 'x');
	SELECT conpool.exec(name, 'SELECT 1') FROM unnest(ARRAY['known', 'leaky', 'small', 'room']) AS name;
});

append_to_file("$work/prometheus.yml", <<"YAML");
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ['$work/alerts.yml']
scrape_configs:
  - job_name: conpool
    static_configs: [{targets: ['127.0.0.1:$exporter_port']}]
YAML
{
	local $ENV{DATA_SOURCE_NAME} = sprintf 'host=%s port=%d user=monitor dbname=postgres sslmode=disable',
	  $local->host, $local->port;
	start_program(
		'exporter', 'prometheus-postgres-exporter',
		"--extend.query-path=$dir/conpool-queries.yml",
		"--web.listen-address=127.0.0.1:$exporter_port");
}
start_program(
	'prometheus', 'prometheus',
	"--config.file=$work/prometheus.yml", "--storage.tsdb.path=$work/data",
	"--web.listen-address=127.0.0.1:$prometheus_port", '--log.level=warn');

# What becomes of the requests until both are there is of no interest.
wait_until(
	sub {
		$http->get("http://127.0.0.1:$prometheus_port/-/ready")->{success}
		  && (value('count(conpool_connects_total)') // 0) >= 4;
	},
	'metrics arrive',
	$limit);
is(value('conpool_broker_up'), 1, 'the broker is up');
is(value('conpool_tunnel_up{tunnel="1"}'), 1, 'so is the tunnel');
is(value('pg_exporter_last_scrape_error'), 0, 'no query failed');
is(value('pg_exporter_user_queries_load_error'), 0, 'the queries were understood');

my @pools = map { $_->{metric} } series('conpool_pool_size');
is( join(' ', sort map { "$_->{foreign_server}/$_->{database}/$_->{role}" } @pools),
	join(' ', map { "$_/postgres/postgres" } qw(gone known leaky room small)),
	"a member of pg_monitor sees others' pools, each once");

my $text = join '', map { "$_\n" } grep { /^(# (HELP|TYPE) )?conpool/ }
  split /\n/, $http->get("http://127.0.0.1:$exporter_port/metrics")->{content};
append_to_file("$work/metrics", $text);
is(system("promtool check metrics <$work/metrics"), 0,
	'promtool finds nothing wrong with the metrics');

# --- known durations ------------------------------------------------------------

# 50 % take no longer than 40 ms, 90 % 150 ms, 99 % 600 ms
$local->safe_psql('postgres', q{
	SELECT conpool.exec('known', format('SELECT pg_sleep(%s)', s))
	FROM unnest(array_fill(0.04, ARRAY[15]) || ARRAY[0.15, 0.15, 0.15, 0.6]) AS s});
wait_for_pool($local, 'known', 'leased = 0', 'they are over');
wait_until(sub { (value(q{conpool_checkout_seconds_count{foreign_server="known"}}) // 0) == 20 },
	'their metrics arrive', $limit);
is(value(q{conpool_checkouts_total{foreign_server="known"}}), 20, 'counters have them, too');

my %total = (wait => '(total_wait_time - total_failed_wait_time)', checkout => 'total_checkout_time',
	connect => 'total_connect_time', remote => 'total_remote_time');
foreach my $kind (sort keys %total)
{
	like($text, qr/^# TYPE conpool_${kind}_seconds histogram$/m, "$kind: is a histogram");
	my $of = q({foreign_server="known"});
	my %bucket = map { $_->{metric}{le} => $_->{value}[1] }
	  series("conpool_${kind}_seconds_bucket$of");
	my $infinite = delete $bucket{'+Inf'};
	my @bounds = sort { $a <=> $b } keys %bucket;
	is(scalar @bounds, 26, "$kind: has buckets");

	my ($largest, $bad) = (0, 0);
	foreach my $le (@bounds)
	{
		$bad++ if $bucket{$le} < $largest;
		$largest = $bucket{$le};
		# conpool's bounds: up to 64 steps of a power of two, less one
		my $after = sprintf '%.0f', $le * 1e6 + 1;
		$after /= 2 while $after > 64;
		$bad++ if $after != int $after;
	}
	is($bad, 0, "$kind: they are cumulative, their bounds are conpool's");

	my $sql = join ',', map { "coalesce(max(cumulative) FILTER (WHERE le_ms < $_ * 1000 + 0.0005), 0)" }
	  @bounds;
	my $where = "WHERE server = 'known' AND kind = '$kind'";
	is(join('|', map { $bucket{$_} } @bounds),
		$local->safe_psql('postgres', "SELECT $sql FROM conpool.stat_latency $where"),
		"$kind: the counts are exact");
	is($infinite, $local->safe_psql('postgres', "SELECT sum(count) FROM conpool.stat_latency $where"),
		"$kind: +Inf has all");
	is(value("conpool_${kind}_seconds_count$of"), $infinite, "$kind: so has the count");
	my $sum = $local->safe_psql('postgres',
		"SELECT $total{$kind} / 1000 FROM conpool.stat_pools WHERE server = 'known'");
	cmp_ok(abs(value("conpool_${kind}_seconds_sum$of") - $sum), '<', 1e-6, "$kind: the sum is right");
}
is(value(q{conpool_wait_seconds_count{foreign_server="known"}}), 20, 'every wait is counted');
my $mean = value(q{sum(conpool_remote_seconds_sum{foreign_server="known"})
	/ sum(conpool_remote_seconds_count{foreign_server="known"})});
cmp_ok($mean, '>=', (15 * 0.04 + 3 * 0.15 + 0.6) / 20, 'the mean is at least what was slept');
cmp_ok($mean, '<', 0.5, 'and not much more');

my $count = 'conpool_remote_seconds_bucket{foreign_server="known"}';
foreach my $from ($count, "rate($count\[1m])")
{
	foreach my $p (50, 90, 99)
	{
		my $is = value("histogram_quantile(0.$p, $from)") // 'nothing';
		my $ms = $local->safe_psql('postgres',
			"SELECT remote_p$p FROM conpool.stat_pools WHERE server = 'known'");
		# both in the same bucket, whose bounds are a factor of two apart
		my $bound = 64e-6;
		$bound *= 2 while $bound < $ms / 1000;
		note "p$p: $is s by Prometheus, $ms ms by conpool";
		ok($is ne 'nothing' && $is > $bound / 2 - 2e-6 && $is <= $bound,
			"p$p of $from is conpool's, as near as the buckets allow");
	}
}

# --- waits of callers for whom none can be opened ----------------------------------

create_server($local, $remote, 'mended');
my $port = $remote->port;
my $caller = WireClient->new($local);
$caller->query("ALTER SERVER mended OPTIONS (SET port '$closed_port')");
is($caller->query(q{SELECT conpool.exec('mended', 'SELECT 1')})->{error}, '08001',
	'no connection can be opened');
$caller->query("ALTER SERVER mended OPTIONS (SET port '$port')");
is($caller->query(q{SELECT conpool.exec('mended', 'SELECT 1')})->{error}, undef, 'then one can');
is( $local->safe_psql('postgres', q{SELECT total_failed_wait_time > 0 FROM conpool.stat_pools
									WHERE server = 'mended'}),
	't', 'both have waited');
wait_until(sub { (value(q{conpool_wait_seconds_count{foreign_server="mended"}}) // 0) == 1 },
	'one wait arrives', $limit);
my $only = $local->safe_psql('postgres',
	q{SELECT wait_max / 1000 FROM conpool.stat_pools WHERE server = 'mended'});
cmp_ok(abs(value(q{conpool_wait_seconds_sum{foreign_server="mended"}}) - $only), '<', 1e-9,
	'the sum is that wait, and nothing else');

# --- labels that users could choose ------------------------------------------------

my @strings = (
	conninfo($remote),
	conninfo($remote) =~ s/^host=/hostaddr=/r,
	"postgresql://127.0.0.1:$port/$ConpoolTest::remote_db?user=regress_remote&password=remote-secret");
foreach my $string (@strings)
{
	is($caller->query("SELECT conpool.exec('$string', 'SELECT 1')")->{error}, undef,
		'a connection string is used');
}
my $ad_hoc = q{server LIKE 'host%=%'};
is( $local->safe_psql('postgres',
		"SELECT count(*), count(DISTINCT server), sum(size) FROM conpool.pools WHERE $ad_hoc"),
	'3|2|3', 'each has a pool, two have one name');
my $folded = q({foreign_server="(connection string)", database="postgres", role="postgres"});
wait_until(sub { (value("conpool_checkouts_total$folded") // 0) == 3 },
	'they are one, and all is summed up', $limit);
is(value("conpool_pool_size$folded"), 3, 'so are gauges');
is(value("conpool_remote_seconds_count$folded"), 3, 'and histograms');
my $sum = $local->safe_psql('postgres',
	"SELECT sum(total_remote_time) / 1000 FROM conpool.stat_pools WHERE $ad_hoc");
cmp_ok(abs(value("conpool_remote_seconds_sum$folded") - $sum), '<', 1e-6, 'and their sums');

my %raised = (23505 => 2, P0ABC => 1, P0ABD => 2, ZZ001 => 1, QQ002 => 1, QQ003 => 1);
foreach my $code (sort keys %raised)
{
	my $do = "DO \$do\$BEGIN RAISE 'none' USING ERRCODE = '$code'; END\$do\$";
	is($caller->query("SELECT conpool.exec('known', \$sql\$$do\$sql\$)")->{error}, $code, "$code is raised")
	  for 1 .. $raised{$code};
}
wait_until(sub { (value(q{sum(conpool_errors_total{foreign_server="known"})}) // 0) == 8 },
	'all errors are counted', $limit);
is( join(' ', sort map { "$_->{metric}{sqlstate}=$_->{value}[1]" }
		  series(q{conpool_errors_total{foreign_server="known"}})),
	'23505=2 P0xxx=3 other=3', 'rare ones by class, classes that do not exist as one');
is( join(' ', uniq map { $_->{metric}{foreign_server} } series(q({foreign_server=~".*=.*"}))),
	'', 'no connection string is a label');

# --- what is raised by what -------------------------------------------------------

# the remote of this one is out of reach since the start, and somebody needs it
wait_until(
	sub {
		$caller->query(q{SELECT conpool.exec('gone', 'SELECT 1')});
		is_firing('ConpoolCallersFail', foreign_server => 'gone');
	},
	'ConpoolCallersFail is raised',
	$limit);
fires('ConpoolBreakerOpen', foreign_server => 'gone');
fires('ConpoolMinSizeNotReached', foreign_server => 'gone');

my ($leaks, $leaves, $holds, $waits) = map { WireClient->new($local) } 1 .. 4;
$leaks->query(q{SELECT conpool.checkout('leaky', 'session')});
$leaves->query(q{SELECT conpool.checkout('leaky', 'session')});
$leaves->hang_up;
my $lease = $holds->query(q{SELECT conpool.checkout('small', 'session')})->{rows}[0][0];
$waits->send(q{SELECT conpool.exec('small', 'SELECT 1')});
fires('ConpoolLeaseAbandoned', foreign_server => 'leaky', class => 'abandoned');
fires('ConpoolLeak', foreign_server => 'leaky', class => 'idle');
fires('ConpoolPoolExhausted', foreign_server => 'small');

my @idlers = map { WireClient->new($local) } 1 .. 2;
$idlers[0]->query("SELECT conpool.checkout('$strings[0]', 'session')");
$idlers[1]->send("SELECT conpool.checkout('$strings[0]', 'session')");
fires('ConpoolPoolExhausted', foreign_server => '(connection string)');
is(value("conpool_pool_leased$folded"), 1, 'for one of them, which is full');
is(value("conpool_pool_effective_max_size$folded"), 3, 'though the others are not');

$local->safe_psql('postgres', 'CREATE ROLE other LOGIN');
create_server($local, $remote, 'shared', options => q{max_size '2', max_server_size '1'});
$local->safe_psql('postgres', q{
	CREATE USER MAPPING FOR other SERVER shared
		OPTIONS (user 'regress_remote', password 'remote-secret');
	GRANT USAGE ON FOREIGN SERVER shared TO other});
my $other = WireClient->new($local, user => 'other');
$other->query(q{SELECT conpool.checkout('shared', 'session')});
$idlers[2] = WireClient->new($local);
$idlers[2]->send(q{SELECT conpool.checkout('shared', 'session')});
fires('ConpoolPoolExhausted', foreign_server => 'shared', role => 'postgres');

cmp_ok(value(q{conpool_pool_longest_wait_seconds{foreign_server="small"}}), '>', 0.5,
	'the longest wait goes on');
cmp_ok(value(q{conpool_pool_longest_lease_seconds{foreign_server="small"}}), '>', 0.5,
	'so does the longest lease');

is($caller->query(q{SELECT conpool.checkout('small', 'statement', '100ms')})->{error},
	'53300', 'a caller gives up');
fires('ConpoolTimeouts', foreign_server => 'small');
wait_for($local, q{SELECT waited_for > '2.5s' FROM conpool.waiters WHERE server = 'small'},
	'the other one waits for long');
$holds->query("SELECT conpool.checkin($lease)");
is($waits->result->{error}, undef, 'and gets its connection');
fires('ConpoolWaitsLong', foreign_server => 'small');

$holds->query(q{SELECT conpool.checkout('room', 'session')});
$caller->query(q{SELECT conpool.checkout('room', 'session', '500ms')});
fires('ConpoolRemoteFull', foreign_server => 'room');

$local->safe_psql('postgres', q{SELECT conpool.pause('known', wait => false)});
fires('ConpoolPaused', foreign_server => 'known');

my $alerts = api('alerts')->{alerts};
is( join(' ', uniq sort map { $_->{labels}{foreign_server} }
		  grep { $_->{labels}{alertname} eq 'ConpoolLeak' } @$alerts),
	'leaky', 'a leak is raised for the pool that leaks only');
is( join(' ', grep { is_firing($_) }
		  map { "Conpool$_" } qw(BrokerDown MetricsMissing TunnelBusy TunnelDown)),
	'', 'nothing is raised without a reason');

# --- what rules and dashboard name ------------------------------------------------

my @rules = map { @{ $_->{rules} } } @{ api('rules')->{groups} };
is(scalar @rules, scalar(() = $rules =~ /- alert:/g), 'Prometheus has all rules');
is(join(' ', map { $_->{name} } grep { $_->{health} ne 'ok' } @rules), '', 'and can evaluate them');

my $dashboard = decode_json(slurp_file("$dir/conpool-dashboard.json"));
my @panels = grep { $_->{type} ne 'row' } @{ $dashboard->{panels} };
my @expressions = map { $_->{expr} } map { @{ $_->{targets} } } @panels;
my @definitions = map { $_->{definition} // () } @{ $dashboard->{templating}{list} };
cmp_ok(scalar @expressions, '>', 50, 'the dashboard has panels');

my @names = uniq sort map { /\b(conpool_\w+|pg_\w+)/g } @expressions, @definitions,
  map { $_->{query} } @rules;
cmp_ok(scalar @names, '>', 50, 'they name metrics');
is(join(' ', grep { !series($_) } @names), '', 'all of which there are');

foreach my $expression (@expressions)
{
	# as Grafana does, with all that there is chosen
	my $filled = $expression =~ s/\$__rate_interval/1m/gr;
	$filled =~ s/\$\w+/.*/g;
	my $found = () = series($filled);
	ok($found || $filled =~ / > 0$/, "the dashboard's $expression has values");
}
ok(scalar(series($dashboard->{annotations}{list}[1]{expr})), 'alerts are shown on it');
is(scalar(uniq map { $_->{id} } @{ $dashboard->{panels} }), scalar @{ $dashboard->{panels} },
	'its panels have numbers of their own');
is( join(' ', grep { $_ ne '${datasource}' } map { $_->{datasource}{uid} } @panels,
		map { @{ $_->{targets} } } @panels),
	'', 'none is bound to a data source');
ok((grep { $_->{type} eq 'heatmap' } @panels), 'one shows the waits as a heat map');

# --- where the alerts lead to -----------------------------------------------------

my ($chapter) = slurp_file("$top/README.md") =~ /^## What to do when\n(.*?)^## /ms;
my %anchor = map { lc($_) =~ s/[^\w\- ]//gr =~ tr/ /-/r => 1 } $chapter =~ /^### (.*)$/mg;
my $unit_tests = slurp_file("$dir/conpool-alerts.test.yml");
foreach my $rule (@rules)
{
	my ($section) = ($rule->{annotations}{runbook_url} // '') =~ /^README\.md#(.*)$/;
	ok($section && $anchor{$section}, "$rule->{name}: the README says what to do");
	ok($rule->{annotations}{summary} && $rule->{annotations}{description}, '... and it what is wrong');
	like($unit_tests, qr/alertname: $rule->{name}\b/, '... and is tested');
}

# --- what others may have put into the way of the queries ------------------------------

my @queries = slurp_file("$dir/conpool-queries.yml") =~ /^  query: \|\n((?: {4}.*\n)+)/mg;
my %called = map { $_ => 1 } map { /\b(\w+)\(/g } @queries;
is(scalar @queries, 7, 'there are queries');
ok($called{sum} && $called{width_bucket}, 'which call functions');

# Whatever name they use, for all pairs of types, in a schema where everybody may
# create: the trap has the types of the expression, so it is preferred wherever
# pg_catalog has none with just these.
$local->safe_psql('postgres', q{
	CREATE DATABASE trapped;
	CREATE ROLE hostile LOGIN;
	CREATE ROLE careless LOGIN;
	GRANT pg_monitor TO careless});
$local->safe_psql('trapped', q{
	CREATE EXTENSION conpool;
	GRANT CREATE ON SCHEMA public TO hostile;
	CREATE TABLE public.sprung (by text);
	GRANT INSERT ON public.sprung TO PUBLIC});
my $names = join ',', map { "'$_'" } sort keys %called;
$local->safe_psql('trapped', qq{
	DO \$do\$
	DECLARE
		types constant text[] := '{int4, int8, float8, numeric, text, bool, interval, float8[], text[]}';
		record constant text := 'LANGUAGE plpgsql AS \$\$BEGIN
			INSERT INTO public.sprung VALUES (%L); RETURN %s; END\$\$';
		l text;
		r text;
		name text;
	BEGIN
		FOREACH l IN ARRAY types LOOP
			FOREACH name IN ARRAY ARRAY[$names] LOOP
				EXECUTE format('CREATE FUNCTION public.%I(a %s) RETURNS %s ' || record,
							   name, l, l, name, 'a');
			END LOOP;
			FOREACH r IN ARRAY types LOOP
				FOREACH name IN ARRAY ARRAY[$names] LOOP
					EXECUTE format('CREATE FUNCTION public.%I(a %s, b %s) RETURNS %s ' || record,
								   name, l, r, l, name, 'a');
				END LOOP;
				EXECUTE format('CREATE FUNCTION public.trap(a %s, b %s) RETURNS %s ' || record,
							   l, r, l, l || ' op ' || r, 'a');
				EXECUTE format('CREATE FUNCTION public.trap_if(a %s, b %s) RETURNS bool ' || record,
							   l, r, l || ' cmp ' || r, 'true');
				FOREACH name IN ARRAY '{^,*,/,%,+,-,||}'::text[] LOOP
					EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.trap,
								   LEFTARG = %s, RIGHTARG = %s)', name, l, r);
				END LOOP;
				FOREACH name IN ARRAY '{=,<>,<,<=,>,>=,~~,!~~,~,!~}'::text[] LOOP
					EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.trap_if,
								   LEFTARG = %s, RIGHTARG = %s)', name, l, r);
				END LOOP;
			END LOOP;
		END LOOP;
	END \$do\$}, extra_params => [ '-U', 'hostile' ]);

# What a statement gives, to a role that has pg_monitor and nothing else.
sub as_careless
{
	my ($sql) = @_;
	my ($status, $out, $err) =
	  $local->psql('trapped', $sql, extra_params => [ '-U', 'careless' ], on_error_stop => 1);
	note $err if $err ne '';
	return $status == 0 ? $out : "error: $err";
}

as_careless($_)
  foreach 'SELECT 2 ^ 6', 'SELECT 1::float8 / 1000', 'SELECT count(1)',
  q{SELECT width_bucket(1::float8, '{1}'::float8[])};
my $sprung = q{SELECT string_agg(by, ', ' ORDER BY by COLLATE "C") FROM public.sprung};
is($local->safe_psql('trapped', $sprung),
	'count, float8 op int4, int4 op int4, width_bucket', 'the traps work');
$local->safe_psql('trapped', 'TRUNCATE public.sprung');

foreach my $query (@queries)
{
	my ($first) = $query =~ /^ *(.*)$/m;
	like(as_careless($query), qr/^(?!error)/, "$first: runs");
	# also what no row led to: a view depends on what is not PostgreSQL's own
	is( as_careless(qq{
			CREATE TEMP VIEW query AS $query;
			SET search_path = pg_catalog, pg_temp;
			SELECT pg_describe_object(refclassid, refobjid, 0)
			FROM pg_depend JOIN pg_rewrite ON objid = pg_rewrite.oid
			WHERE classid = 'pg_rewrite'::regclass AND ev_class = 'query'::regclass
			  AND refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)}),
		'', '... come from nothing but PostgreSQL and the views');
}
is($local->safe_psql('trapped', $sprung), '', 'no trap was called');

# --- the end of those who tell ------------------------------------------------------

wait_until(
	sub {
		$caller->query(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
						 WHERE backend_type = 'conpool broker'});
		is_firing('ConpoolBrokerDown');
	},
	'ConpoolBrokerDown is raised',
	$limit);
wait_until(
	sub {
		my $pid = $caller->query('SELECT pid FROM conpool.tunnels')->{rows}[0][0];
		kill 'TERM', $pid if $pid;
		is_firing('ConpoolTunnelDown', tunnel => 1);
	},
	'ConpoolTunnelDown is raised',
	$limit);
stop_program('exporter');
fires('ConpoolMetricsMissing', instance => "127.0.0.1:$exporter_port");

done_testing();
