# A load of 12 sessions on three servers while everything around it fails at
# random: remote backends die and freeze, the remote restarts, broker and dialer
# end, servers are altered, passwords change, pools are paused, leases taken
# away. When that is over all is as if nothing had been: pools at rest with their
# min_size, every slot to be had, counters that add up, processes that have not
# grown.
#
# CONPOOL_SOAK in the environment is the time for which things fail, in seconds
# (60), CONPOOL_SEED a number that chooses what fails when. With CONPOOL_TLS all
# connections go through tunnels, and these end, too.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

my $seconds = $ENV{CONPOOL_SOAK} || 60;
my $seed = $ENV{CONPOOL_SEED} || int rand 1_000_000;
my $sessions = 12;
my $steady = 4;     # of these, sessions that last from the beginning to the end
my $slots = 40;

plan skip_all => 'there is no /proc' unless -d "/proc/$$/fd";
diag("figure: seed = $seed");
diag("figure: duration = $seconds s");
srand $seed;

# --- servers, pools and roles -----------------------------------------------------

my $tls = $ENV{CONPOOL_TLS} ? Certificates->new : undef;
my $remote = new_remote('remote',
	conf => "max_connections = 80\nlog_connections = on\n", tls => $tls);
my $local = new_local('local', conf => qq{
conpool.max_connections = $slots
log_line_prefix = '%m [%p] %b %q%a '
});
setup_local($local, $remote);
$remote->safe_psql('conpool_remote', q{
	CREATE ROLE regress_remote_three LOGIN PASSWORD 'three-secret';
	CREATE TABLE inserted (id bigint PRIMARY KEY);
	GRANT ALL ON inserted TO PUBLIC});

# A server has one pool for each of its local roles. Its sizes are altered all the
# time, and brought back to these in the end.
my %server = (
	statement => {
		roles => [qw(soak_a soak_b)],
		remote_role => 'regress_remote',
		password => 'remote-secret',
		sizes => { min_size => 2, max_size => 5 },
		fixed => q{max_server_size '9', max_lifetime '6s'},
	},
	transaction => {
		roles => [qw(soak_a soak_b)],
		remote_role => 'regress_remote_two',
		password => 'two-secret',
		sizes => { min_size => 2, max_size => 4 },
		fixed => q{pool_mode 'transaction', reset 'always', max_lifetime '9s'},
	},
	session => {
		roles => ['soak_a', 'soak_b'],
		remote_role => 'regress_remote_three',
		password => 'three-secret',
		sizes => { min_size => 1, max_size => 4 },
		fixed => q{pool_mode 'session', max_server_size '7'},
	});
my @servers = sort keys %server;
my $in = join ',', map { "'$_'" } @servers;

$local->safe_psql('postgres', 'CREATE ROLE soak_a LOGIN; CREATE ROLE soak_b LOGIN');
foreach my $name (@servers)
{
	my $s = $server{$name};
	my $sizes = join ', ', map { "$_ '$s->{sizes}{$_}'" } sort keys %{ $s->{sizes} };
	my $port = $remote->port;
	my %tls_options = tls_options($remote);
	my $fixed = join ', ', $s->{fixed}, map { "$_ '$tls_options{$_}'" } sort keys %tls_options;
	$local->safe_psql('postgres', qq{
		CREATE SERVER $name FOREIGN DATA WRAPPER conpool OPTIONS (host '127.0.0.1', port '$port',
			dbname 'conpool_remote', checkout_timeout '3s', connect_timeout '3s',
			idle_timeout '4s', validate_interval '1s', $sizes, $fixed);
		} . join ';', map { qq{
		CREATE USER MAPPING FOR $_ SERVER $name
			OPTIONS (user '$s->{remote_role}', password '$s->{password}');
		GRANT USAGE ON FOREIGN SERVER $name TO $_} } @{ $s->{roles} });
}

# --- the load --------------------------------------------------------------------

# Sessions write their process IDs to files here. While the file "hold" is there
# they rest between two actions: they let go of what they can, and when "probe"
# comes they use each server once; both are answered by files of their own.
my $dir = PostgreSQL::Test::Utils::tempdir;

sub touch
{
	my ($name, $content) = @_;
	open my $file, '>', "$dir/$name" or die "$dir/$name: $!";
	print $file $content // '';
	close $file;
	return;
}

my $number;    # of this session
my $client;    # its connection with the local server
my %count;     # what it knows of what it did
my $serial;    # makes every parameter unique
my $failure;   # what the last statement said that failed

sub connect_local
{
	my $deadline = time + 60;
	my $role = (qw(soak_a soak_b))[ $number % 2 ];
	until ($client = eval { WireClient->new($local, user => $role) })
	{
		die $@ if time > $deadline;
		sleep 0.05;
	}
	touch("pid.$number", $client->{pid});
	return;
}

# What may happen to any statement here.
my %expected = map { $_ => 1 } qw(
  08001 08003 08006 08007 22012 25P01 25P02 28000 28P01 3B001 40P01 53300 55P03 57014 57P01);

# Counts the outcome of a statement. What it `takes` is 1 for a lease, for which
# some errors say that it was had, some that it was not; 0.5 if it may need none;
# 0 for none.
sub account
{
	my ($result, $takes) = @_;
	my $error = $result->{lost} ? 'lost' : $result->{error} // '';
	$count{statements}++;
	$error = 'lost' if $error eq '57P01';
	$count{"error $error"}++ if $error ne '';
	$failure = join ' ', $error, $result->{message} // '', $result->{detail} // '' if $error ne '';
	$count{"unexpected: $error $result->{message}"}++
	  unless $error eq '' || $error eq 'lost' || $expected{$error};
	if ($takes)
	{
		my $what =
		    $takes < 1 ? 'maybe'
		  : $error =~ /^(|22012|08006|08007)$/ ? 'taken'
		  : $error =~ /^(53300|55P03)$/ ? 'timeouts'
		  : $error =~ /^(08001|28P01|28000)$/ ? 'failures'
		  : 'maybe';
		$count{$what}++;
	}
	connect_local() if $result->{lost};
	return $error eq '';
}

sub run
{
	my ($sql, $takes) = @_;
	return account(ask($sql), $takes);
}

# The longest that one took is kept, too, in milliseconds.
sub ask
{
	my ($sql) = @_;
	my $begun = time;
	my $result = $client->query($sql);
	my $took = int(1000 * (time - $begun));
	$count{"longest $number"} = $took if $took > ($count{"longest $number"} // 0);
	return $result;
}

# Must answer with its own parameter, and from a session in which nobody else has
# left a trace.
sub lookup
{
	my ($on, $tag, $takes) = @_;
	my $n = ++$serial;
	my $result = ask("SELECT * FROM conpool.query($on,
		'SELECT \$1 * 7, coalesce(current_setting(''soak.tag'', true), '''')', ${n}::bigint)
		AS t(n bigint, tag text)");
	my $ok = account($result, $takes);
	my $answer = join ' ', @{ $result->{rows}[0] // [] };
	$count{right}++ if $ok;
	$count{"mixed up: $answer"}++ if $ok && $answer ne $n * 7 . " $tag";
	return $ok;
}

# Of a query function; in the two other modes there may be a lease already.
sub lookup_by_name
{
	my $name = $servers[ rand @servers ];
	return lookup("'$name'", '', $name eq 'statement' ? 1 : 0.5);
}

sub checkout
{
	my ($timeout) = @_;
	my $name = $servers[ rand @servers ];
	my $scope = rand() < 0.7 ? 'session' : 'transaction';
	my $result = ask("SELECT conpool.checkout('$name', '$scope', $timeout)");
	return account($result, 1) ? $result->{rows}[0][0] : undef;
}

my $sleep = q{SELECT conpool.exec('statement', 'SELECT pg_sleep(0.2)')};

# What a session does, and how often.
my %actions = (
	lookup => [ 60, sub { lookup_by_name() } ],
	think => [ 15, sub { sleep rand 0.05 } ],
	insert => [
		10, sub {
			my $done = run(q{SELECT conpool.exec('statement',
				'INSERT INTO inserted VALUES ($1)', } . ++$serial . ')', 1);
			$count{ $done ? 'inserted' : 'inserted_maybe' }++;
		}
	],
	rows => [
		4, sub {
			run(q{SELECT sum(length(a)) FROM conpool.query('statement',
				'SELECT repeat(''x'', 100) FROM generate_series(1, 5000)') AS t(a text)}, 1);
		}
	],
	error => [ 5, sub { run(q{SELECT conpool.exec('statement', 'SELECT 1/0')}, 1) } ],
	setting => [
		4, sub {
			my $name = (qw(statement transaction))[ rand 2 ];
			run("SELECT conpool.exec('$name', 'SET soak.tag = 1')", $name eq 'statement' ? 1 : 0.5);
		}
	],
	timeout => [
		4, sub {
			run('SET statement_timeout = 20');
			run($sleep, 1);
			run('SET statement_timeout = 0');
		}
	],
	cancel => [
		3, sub {
			$client->send($sleep);
			sleep rand 0.03;
			$client->cancel;
			account($client->result, 1);
		}
	],
	transaction => [
		10, sub {
			run('BEGIN');
			lookup("'transaction'", '', 0.5) for 1 .. 3;
			run('SAVEPOINT s');
			run(q{SELECT conpool.exec('transaction', 'SELECT 1/0')}, 0.5);
			run('ROLLBACK TO s');
			lookup_by_name();
			run(rand() < 0.5 ? 'COMMIT' : 'ROLLBACK');
		}
	],
	caught_error => [
		4, sub {
			run(q{DO $$ BEGIN
					PERFORM conpool.exec('transaction', 'SELECT 1/0');
				EXCEPTION WHEN division_by_zero THEN NULL;
				END $$}, 0.5);
		}
	],
	lease => [
		10, sub {
			run('BEGIN') if rand() < 0.5;
			my $lease = checkout('NULL');
			if (defined $lease)
			{
				my $tag = ++$serial;
				my $set = run("SELECT conpool.exec($lease, 'SET soak.tag = $tag')");
				run("SELECT conpool.exec($lease, 'BEGIN')") if rand() < 0.3;
				lookup($lease, $tag, 0) if $set;
				sleep rand 0.05;
				run("SELECT conpool.checkin($lease)") if rand() < 0.8;
			}
			run('COMMIT');
		}
	],
	impatient => [ 3, sub { checkout(q{'5 ms'}) } ],
	# gives back what is left of all this
	discard => [ 12, sub { run('DISCARD ALL') } ],
	hang_up => [
		2, sub {
			return if $number <= $steady;
			$client->send($sleep);
			sleep rand 0.03;
			$client->hang_up;
			account({ lost => 1 }, 1);
		}
	],);
my @choices = map { ($_) x $actions{$_}[0] } sort keys %actions;

# While the load is held.
sub rest
{
	my ($go_on) = @_;
	my $probed = 0;
	run('ROLLBACK');
	run('DISCARD ALL');
	touch("held.$number");
	while (-e "$dir/hold" && $go_on->())
	{
		if (!$probed && -e "$dir/probe")
		{
			$probed = 1;
			my $good = 1;
			$good &&= lookup("'$_'", '', $_ eq 'statement' ? 1 : 0.5) for @servers;
			run('DISCARD ALL');
			touch("probed.$number", $good ? 'good' : "session $number: $failure");
		}
		sleep 0.02;
	}
	unlink "$dir/held.$number", "$dir/probed.$number";
	return;
}

sub session
{
	my ($go_on) = @_;
	srand $seed * 100 + $number;
	$serial = $number * 1_000_000_000;
	connect_local();
	while ($go_on->())
	{
		if (-e "$dir/hold")
		{
			rest($go_on);
			next;
		}
		$actions{ $choices[ rand @choices ] }[1]->();
		# what an action that failed has left open
		run('ROLLBACK') if rand() < 0.1;
	}
	$client->hang_up;
	return %count;
}

# --- what fails --------------------------------------------------------------------

my $on_local = WireClient->new($local);
my $on_remote;       # a session there, if there is one now
my @later;           # [time, code]: what is to be done then
my %frozen;          # processes of the remote that are stopped
my %did;             # faults, how often
my $brokers = 0;     # that were ended
my $tunnels = 0;     # likewise
my $passwords = 0;

# Asks as superuser; undef where that fails.
sub ask_local
{
	my ($sql) = @_;
	my $result = $on_local->query($sql);
	return $result->{error} ? undef : [ map { $_->[0] } @{ $result->{rows} } ];
}

sub ask_remote
{
	my ($sql) = @_;
	# nobody would answer
	return if !$on_remote && $frozen{ remote_postmaster() };
	$on_remote //= eval { WireClient->new($remote) } // return;
	my $result = $on_remote->query($sql);
	undef $on_remote if $result->{lost};
	return $result->{error} || $result->{lost} ? undef : [ map { $_->[0] } @{ $result->{rows} } ];
}

sub in_a_while
{
	my ($longest, $code) = @_;
	push @later, [ time + rand $longest, $code ];
	return;
}

sub do_what_is_due
{
	my ($now) = @_;
	my @due = grep { $_->[0] <= $now } @later;
	@later = grep { $_->[0] > $now } @later;
	$_->[1]->() for sort { $a->[0] <=> $b->[0] } @due;
	return;
}

sub freeze_process
{
	my ($pid, $longest) = @_;
	kill('STOP', $pid) or return;
	$frozen{$pid} = 1;
	in_a_while($longest, sub { thaw_process($pid) });
	return;
}

sub thaw_process
{
	my ($pid) = @_;
	kill 'CONT', $pid if delete $frozen{$pid};
	return;
}

sub remote_postmaster
{
	my ($pid) = slurp_file($remote->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	return $pid;
}

sub remote_pids
{
	my ($how_many) = @_;
	return @{ ask_remote("SELECT pid FROM pg_stat_activity WHERE usename ~ '^regress_remote'
		ORDER BY random() LIMIT $how_many") // [] };
}

sub any_server { return $servers[ rand @servers ] }

my %faults = (
	'backends terminated' => [
		10, sub {
			kill 'TERM', remote_pids(rand() < 0.2 ? 100 : 1 + rand 3);
		}
	],
	'backends frozen' => [ 8, sub { freeze_process($_, 3) for remote_pids(1 + rand 2) } ],
	'remote frozen' => [ 2, sub { freeze_process(remote_postmaster(), 2) } ],
	'remote restarted' => [
		2, sub {
			thaw_process($_) for keys %frozen;
			undef $on_remote;
			$remote->stop(rand() < 0.5 ? 'fast' : 'immediate');
			sleep rand 1.5;
			$remote->start;
		}
	],
	'broker ended' => [
		3, sub {
			my $pids = ask_local(q{SELECT pid FROM pg_stat_activity
				WHERE backend_type = 'conpool broker'}) // [];
			$brokers += kill 'TERM', @$pids;
		}
	],
	'dialer ended' => [ 3, sub { kill 'TERM', server_processes($local, 'conpool dialer') } ],
	'tunnel ended' => [
		3, sub {
			my $pids = ask_local('SELECT pid FROM conpool.tunnels WHERE pid IS NOT NULL') // [];
			$tunnels += kill 'TERM', @$pids;
		}
	],
	'sizes altered' => [
		6, sub {
			my $max = 2 + int rand 6;
			my $min = int rand($max + 1);
			ask_local(sprintf q{ALTER SERVER %s OPTIONS (SET max_size '%d', SET min_size '%d')},
				any_server(), $max, $min);
		}
	],
	# the remote's, and a bit later the local one
	'passwords changed' => [
		3, sub {
			my $name = any_server();
			my $s = $server{$name};
			return if $s->{changing};
			my $password = 'password-' . ++$passwords;
			ask_remote("ALTER ROLE $s->{remote_role} PASSWORD '$password'") or return;
			$s->{changing} = 1;
			$s->{password} = $password;
			in_a_while(1.5, sub { set_local_passwords($name) });
		}
	],
	'pools paused' => [
		4, sub {
			my $which = rand() < 0.3 ? 'NULL' : sprintf q{'%s'}, any_server();
			ask_local('SET statement_timeout = 500');
			ask_local("SELECT conpool.pause($which, " . (rand() < 0.5 ? 'true' : 'false') . ')');
			ask_local('SET statement_timeout = 0');
			in_a_while(1.5, sub { ask_local("SELECT conpool.resume($which)") });
		}
	],
	'leases reclaimed' => [
		8, sub {
			ask_local("SELECT conpool.reclaim(lease) FROM conpool.leases WHERE server IN ($in)
				ORDER BY random() LIMIT 1");
		}
	],
	'pools reconnected' => [
		4, sub {
			my $call = (qw(reconnect close_idle warm))[ rand 3 ];
			ask_local(sprintf "SELECT conpool.$call(%s)",
				rand() < 0.3 ? 'NULL' : sprintf q{'%s'}, any_server());
		}
	],
	'sessions terminated' => [
		4, sub {
			my $stay = join ',', map { slurp_file("$dir/pid.$_") } 1 .. $steady;
			ask_local("SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE usename ~ '^soak_' AND pid NOT IN ($stay) ORDER BY random() LIMIT 1");
		}
	]);

delete $faults{'tunnel ended'} unless $tls;

sub set_local_passwords
{
	my ($name) = @_;
	my $s = $server{$name};
	ask_local("ALTER USER MAPPING FOR $_ SERVER $name OPTIONS (SET password '$s->{password}')")
	  for @{ $s->{roles} };
	$s->{changing} = 0;
	return;
}

# What is true at any moment; else its name is noted.
my %broken;

sub look
{
	my $wrong = ask_local("SELECT DISTINCT what FROM conpool.pools, LATERAL (VALUES
			('max_server_size exceeded', server_size > max_server_size AND max_server_size > 0),
			('states do not add up', size <>
				idle + leased + connecting + resetting + validating + closing),
			('more unshared than there are', unshared > size)) AS v(what, is_so)
		WHERE is_so AND server IN ($in)
		UNION ALL SELECT 'more slots than there are' FROM conpool.pools HAVING sum(size) > $slots");
	$broken{ $_ // 'failed' }++ for @{ $wrong // [undef] };
	return;
}

# Lets things fail until then: each in its turn, then at random; but some do not.
sub fail_until
{
	my ($end, @but) = @_;
	my %but = map { $_ => 1 } @but;
	my @names = grep { !$but{$_} } sort keys %faults;
	my @faults = map { ($_) x $faults{$_}[0] } @names;
	my @first = sort { $a->[0] <=> $b->[0] } map { [ rand, $_ ] } @names;
	while (time < $end)
	{
		my $fault = @first ? (shift @first)->[1] : $faults[ rand @faults ];
		$did{$fault}++;
		$faults{$fault}[1]->();
		my $pause = time + rand 0.5;
		while (time < $pause)
		{
			do_what_is_due(time);
			look();
			sleep 0.05;
		}
	}
	return;
}

# Everything is as it should be, from outside.
sub stop_failing
{
	$_->[1]->() for sort { $a->[0] <=> $b->[0] } @later;
	@later = ();
	thaw_process($_) for keys %frozen;
	ask_local('SELECT conpool.resume()');
	foreach my $name (@servers)
	{
		my $s = $server{$name};
		set_local_passwords($name);
		ask_local("ALTER SERVER $name OPTIONS ("
			  . join(', ', map { "SET $_ '$s->{sizes}{$_}'" } sort keys %{ $s->{sizes} }) . ')');
	}
	return;
}

# --- what is left --------------------------------------------------------------------

my $pools = 0;
$pools += @{ $_->{roles} } for values %server;
my $is_at_rest = "count(*) = $pools AND bool_and(size = idle AND waiting = 0 AND
	size BETWEEN min_size AND max_size AND NOT paused AND upkeep_error IS NULL)";
# As long as nobody needs one connection more the last failure stands.
my $is_well = "$is_at_rest AND bool_and(breaker = 'closed' AND effective_max_size = max_size)";

# Waits until that is true of all pools; shows them if it is not.
sub wait_for_pools
{
	my ($condition, $test_name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_for($local, "SELECT $condition FROM conpool.pools WHERE server IN ($in)", $test_name)
	  or diag($local->safe_psql('postgres', 'SELECT * FROM conpool.pools', extra_params => ['-x']));
	return;
}

# Has the load rest, and all that is kept for it made anew, so that what is measured
# is what cannot be given up.
sub hold_load
{
	my ($when) = @_;
	touch('hold');
	wait_until(sub { scalar(() = glob "$dir/held.*") == $sessions }, "$when: the load rests", 60);
	wait_for_pools($is_at_rest, "$when: all pools are at rest, with their min_size");
	ask_local('SELECT conpool.close_idle()');
	wait_for_pools($is_well, "$when: ... and again, with new connections");
	touch('probe');
	wait_until(sub { scalar(() = glob "$dir/probed.*") == $sessions }, "$when: the load has asked", 60);
	is(join("\n", grep { $_ ne 'good' } map { slurp_file("$dir/probed.$_") } 1 .. $sessions),
		'', "$when: every session is served by every server");
	wait_for_pools($is_well, "$when: all pools are at rest");
	return;
}

# Of a process: memory, in kB, and open files.
sub measure
{
	my ($pid) = @_;
	my $files = () = glob "/proc/$pid/fd/*";
	return { pid => $pid, files => $files, %{ process_memory($pid) } };
}

# Of the broker, the dialer, the tunnel and the steady sessions. What a pool may have
# open is not the doing of the broker, nor of the tunnel, which has two ends of each.
sub measure_all
{
	my %process = (
		broker => broker_pid($local),
		dialer => (server_processes($local, 'conpool dialer'))[0],
		map { ("session $_" => slurp_file("$dir/pid.$_")) } 1 .. $steady);
	$process{tunnel} = $local->safe_psql('postgres', 'SELECT pid FROM conpool.tunnels') if $tls;
	my %figures = map { $_ => measure($process{$_}) } keys %process;
	my ($size, $tunnelled) = split /\|/,
	  $local->safe_psql('postgres', 'SELECT sum(size), sum(tunnelled) FROM conpool.pools');
	$figures{broker}{files} -= $size;
	$figures{tunnel}{files} -= 2 * $tunnelled if $tls;
	return \%figures;
}

# --- the run ---------------------------------------------------------------------------

my @workers;
foreach my $n (1 .. $sessions)
{
	push @workers, start_worker(sub { $number = $n; session(@_) });
}
wait_until(sub { scalar(() = glob "$dir/pid.*") == $sessions }, 'there are sessions');

# Broker and tunnel are new when they were ended: the measuring begins after the first third.
my $begun = time;
fail_until($begun + $seconds / 3);
stop_failing();
hold_load('after a third');
my $before = measure_all();
unlink "$dir/probe", "$dir/hold";
my $ended = "$brokers $tunnels";
fail_until($begun + $seconds, 'broker ended', 'dialer ended', 'tunnel ended');
stop_failing();
hold_load('in the end');
my $after = measure_all();
my $all = stop_workers(@workers);

is("$brokers $tunnels", $ended, 'no broker or tunnel was ended after the first third');
diag("figure: faults, $_ = $did{$_}") for sort keys %did;
diag("figure: load, $_ = $all->{$_}") for grep { /^(statements|right|inserted|error)/ } sort keys %$all;
is(join("\n", grep { /^(unexpected|mixed up|died)/ } sort keys %$all),
	'', 'no answer was mixed up, no error was unexpected');
is(join(', ', map { "$_: $broken{$_}" } sort keys %broken), '', 'at no moment there was too much');
my ($longest) = sort { $b <=> $a } map { $all->{$_} } grep { /^longest/ } keys %$all;
diag("figure: longest statement of the load = $longest ms");
cmp_ok($longest, '<', 30_000, 'nobody waited for long');
cmp_ok($all->{$_} // 0, '>', 0, "$_ happened")
  for 'right', 'inserted', 'error 08006', 'error 57014', 'error 22012';
is(join(', ', grep { !$did{$_} } sort keys %faults), '', 'all faults happened');

# --- nothing is lost ---------------------------------------------------------------------

is($local->safe_psql('postgres', "SELECT count(*) FROM conpool.leases WHERE server IN ($in)"),
	0, 'no lease is held');
is($local->safe_psql('postgres', 'SELECT count(*) FROM conpool.waiters'), 0, 'nobody waits');
wait_until(
	sub {
		remote_backends($remote, 'regress_remote') +
		  remote_backends($remote, 'regress_remote_two') +
		  remote_backends($remote, 'regress_remote_three') ==
		  $local->safe_psql('postgres', "SELECT sum(size) FROM conpool.pools WHERE server IN ($in)");
	}, 'the remote has as many sessions as the pools have');

# From what the load knows up to what it cannot know. A checkout whose session was
# interrupted, or whose lease was taken away, may have been or not.
sub between
{
	my ($value, $known, $unknown, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($known <= $value && $value <= $known + $unknown, "$name add up")
	  or diag("$value is not between $known and $known + $unknown");
	return;
}
my %known = map { $_ => $all->{$_} // 0 } qw(taken timeouts failures maybe inserted inserted_maybe);
my %stat;
my @columns = qw(checkouts checkout_timeouts checkout_failures checkout_cancels refused
  connects connect_failures dials discarded validation_failures expired idle_closed resets leaks);
@stat{@columns} = split /\|/, $local->safe_psql('postgres',
	'SELECT ' . join(',', map { "sum($_)" } @columns) . " FROM conpool.stat_pools WHERE server IN ($in)");
diag("figure: pools, $_ = $stat{$_}") for @columns;
between($stat{checkouts}, $known{taken}, $known{maybe}, 'checkouts');
between($stat{checkout_timeouts}, $known{timeouts}, $known{maybe}, 'checkout_timeouts');
between($stat{checkout_failures}, $known{failures}, $known{maybe}, 'checkout_failures');
between($stat{checkouts} + $stat{checkout_timeouts} + $stat{checkout_failures} + $stat{checkout_cancels},
	$known{taken} + $known{timeouts} + $known{failures}, $known{maybe}, 'all of these');
between($remote->safe_psql('conpool_remote', 'SELECT count(*) FROM inserted'),
	$known{inserted}, $known{inserted_maybe}, 'rows');
my ($logins, $in_clear) = (0, 0);
open my $remote_log, '<', $remote->logfile or die $remote->logfile . ": $!";
while (my $line = <$remote_log>)
{
	next unless $line =~ /connection authorized: user=regress_remote(_two|_three)? database/;
	$logins++;
	$in_clear++ if $line !~ / SSL enabled /;
}
close $remote_log;
# What a tunnel was opening when it ended was opened again.
between($logins, $stat{connects},
	$stat{connect_failures} + $stat{checkout_cancels} + $slots * $tunnels, 'logins');
if ($tls)
{
	is($in_clear, 0, 'nobody has logged in without TLS');
	is($local->safe_psql('postgres',
			"SELECT sum(size - tunnelled) FROM conpool.pools WHERE server IN ($in)"),
		0, 'all connections go through a tunnel');
}

# All slots are to be had, which costs the pools what they have.
create_server($local, $remote, 'everything', user => 'regress_remote_admin',
	options => "max_size '$slots', checkout_timeout '30s'");
my $leases = $on_local->query("SELECT count(conpool.checkout('everything', 'session'))
	FROM generate_series(1, $slots)");
is($leases->{rows}[0][0], $slots, 'all slots can be leased')
  or diag("$leases->{error}: $leases->{message}");
is(ask_local('SELECT sum(size) FROM conpool.pools')->[0], $slots, '... there are no more');
$on_local->query('DISCARD ALL');
$local->safe_psql('postgres', 'DROP SERVER everything CASCADE');
wait_for_pools($is_at_rest, '... and the pools have theirs again');

# --- the processes ----------------------------------------------------------------------

# Memory of its own, in kB, that a process may gain: what is gained in every round of
# faults would be more, sooner or later. The tunnel was new in the end of the first
# third: its free memory grows with the most that it had in hand at once (to 9 MB in
# 7 minutes, when that was 30 connections).
my %bound = (broker => 1536, dialer => 1024, tunnel => 6144);
foreach my $name (sort keys %$before)
{
	my ($was, $is) = ($before->{$name}, $after->{$name});
	foreach my $figure (['before', $was], ['after', $is])
	{
		my ($when, $of) = @$figure;
		diag("figure: $name, memory $when = $of->{all} kB (of its own $of->{own} kB, share $of->{share} kB)");
		diag("figure: $name, open files $when = $of->{files}");
	}
	is($is->{pid}, $was->{pid}, "the $name lived");
	cmp_ok($is->{own} - $was->{own}, '<', $bound{$name} // 2048, '... and has not grown');
	cmp_ok($is->{files} - $was->{files}, '<=', 4, '... nor left files open');
}

# The log is too long to be taken as one.
my %said = map { $_ => [] } qw(crash end tunnel_end failure complaint);
open my $log, '<', $local->logfile or die $local->logfile . ": $!";
while (my $line = <$log>)
{
	my ($what) =
	    $line =~ /TRAP:|PANIC:|was terminated by signal/ ? 'crash'
	  : $line =~ /"conpool broker" \(PID \d+\) exited with exit code 1$/ ? 'end'
	  : $line =~ /"conpool tunnel(?: \d+)?" \(PID \d+\) exited with exit code 1$/ ? 'tunnel_end'
	  : $line =~ /exited with exit code/ ? 'failure'
	  : $line =~ /\] conpool (?:broker|dialer|reader|tunnel.*?) (?:ERROR|FATAL|WARNING):/ ? 'complaint'
	  : next;
	push @{ $said{$what} }, $line;
}
close $log;
is(join('', @{ $said{crash} }), '', 'no process crashed');
is(scalar(@{ $said{end} }), $brokers, 'the broker ended when it was told to, and never else');
is(scalar(@{ $said{tunnel_end} }), $tunnels, 'so did the tunnel');
is(join('', @{ $said{failure} }), '', 'no other process failed');
is(join('', @{ $said{complaint} }), '', 'none of the workers complained of an error');

done_testing();
