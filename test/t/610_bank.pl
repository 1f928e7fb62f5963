# A bank: sixteen sessions move money between accounts here and in two remote
# databases, while statements fail, are cancelled, and remote sessions die before,
# during and between commits. Every transfer is on all sides or on none, unless its
# session was told otherwise by the error of its COMMIT.
#
# CONPOOL_BANK is for how many seconds, 15 unless given:
#
#     CONPOOL_BANK=60 make check SUITES=tap TESTS=610_bank
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use WireClient;

my $seconds = $ENV{CONPOOL_BANK} || 15;
my $sessions = 16;
my $accounts = 100;    # on each side
my $balance = 1000;    # of each account in the beginning
my $size = 10;         # connections of a pool; two pools for one session never deadlock
my $role = 'regress_teller';
my @sides = qw(local a b);
my %database = (a => 'bank_a', b => 'bank_b');

my $remote = new_remote('remote', conf => 'max_connections = 60');
my $local = new_local('local');
setup_local($local, $remote);

# --- the accounts ---------------------------------------------------------------------

# A deferred trigger makes some commits fail and others take long: by the purpose.
my $bank = qq{
	CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
	INSERT INTO accounts SELECT i, $balance FROM generate_series(1, $accounts) AS i;
	CREATE TABLE journal (transfer bigint PRIMARY KEY, purpose text, amount bigint NOT NULL);
	CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		IF new.purpose = 'refused' THEN
			RAISE EXCEPTION 'transfer %% is refused at commit', new.transfer USING ERRCODE = '23Z01';
		ELSIF new.purpose = 'slow' THEN
			PERFORM pg_sleep(0.2);
		END IF;
		RETURN NULL;
	END \$\$;
	CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON journal
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit();
	GRANT ALL ON accounts, journal TO %s;
};
my $write = 'WITH written AS (INSERT INTO journal VALUES ($1, $2, $4))
	UPDATE accounts SET balance = balance + $4 WHERE id = $3';

$local->safe_psql('postgres', "CREATE ROLE $role LOGIN;" . sprintf $bank, $role);
$local->safe_psql('postgres', qq{
	CREATE FUNCTION book(side text, transfer bigint, purpose text, account int, amount bigint)
	RETURNS void LANGUAGE plpgsql AS \$\$
	BEGIN
		IF side = 'local' THEN
			EXECUTE \$sql\$ $write \$sql\$ USING transfer, purpose, account, amount;
		ELSE
			PERFORM conpool.exec(side, \$sql\$ $write \$sql\$, transfer, purpose, account, amount);
		END IF;
	END \$\$;
	ALTER ROLE $role SET lock_timeout = '300ms';
});
foreach my $side (sort keys %database)
{
	$remote->safe_psql('postgres', "CREATE DATABASE $database{$side}");
	$remote->safe_psql($database{$side}, sprintf $bank, 'regress_remote');
	create_server($local, $remote, $side, for => $role,
		options => "max_size '$size', pool_mode 'transaction', options '-c lock_timeout=300ms'");
	$local->safe_psql('postgres', qq{
		ALTER SERVER $side OPTIONS (SET dbname '$database{$side}');
		GRANT USAGE ON FOREIGN SERVER $side TO $role});
}

# --- one session -----------------------------------------------------------------------

my $end;
my $client;
my $watcher;    # a superuser of the remote
my $serial;     # of transfers
my %count;      # what happened, and "transfer N sides fate"
my %open;       # transfers of the present transaction: number => its sides
my $failed;     # the first error of the present transaction

sub count_error
{
	my ($result, $during) = @_;
	my $text = "$result->{message}";
	$text =~ s/\d+/N/g;
	$text =~ s/\s+/ /g;
	$count{"error $result->{error} in $during: $text"}++;
	return;
}

# A statement of the transaction, unless that has failed already; true if all is well.
sub run
{
	my ($sql, $during) = @_;
	return 0 if $failed;
	my $result = $client->query($sql);
	die "the session was lost: $sql" if $result->{lost};
	return 1 unless $result->{error};
	$failed = $result;
	count_error($result, $during // 'a statement');
	return 0;
}

sub begin
{
	%open = ();
	$failed = undef;
	return run('BEGIN', 'BEGIN');
}

sub account { return 1 + int rand $accounts }
sub amount { return 1 + int rand 20 }

# Who gives and who takes: two sides, or all three.
sub parties
{
	my @order = sort { $a->[1] <=> $b->[1] } map { [ $_, rand ] } @sides;
	my @parties = map { $_->[0] } @order;
	pop @parties if rand() < 0.5;
	return @parties;
}

# The statements of a transfer; the first one gives what the others get.
sub entries
{
	my ($transfer, $purpose, @parties) = @_;
	my $amount = amount();
	my @amounts = (-$amount * $#parties, ($amount) x $#parties);
	$open{$transfer} = join ',', sort @parties;
	return map { sprintf q{book('%s', %d, '%s', %d, %d)},
		  $parties[$_], $transfer, $purpose, account(), $amounts[$_] } 0 .. $#parties;
}

sub transfer
{
	my (%of) = @_;
	my $transfer = ++$serial;
	my @parties = @{ $of{parties} // [ parties() ] };
	run("SELECT $_") || last for entries($transfer, $of{purpose} // 'plain', @parties);
	return $transfer;
}

# What happened to the open transfers, but for those that were undone.
sub record
{
	my ($fate) = @_;
	$count{"transfer $_ $open{$_} $fate"} = 1 for keys %open;
	%open = ();
	return;
}

sub undone
{
	my (@transfers) = @_;
	$count{"transfer $_ $open{$_} undone"} = 1 for @transfers;
	delete @open{@transfers};
	return;
}

# What the error of a COMMIT says of the sides, e.g. "Committed=a;Outcome unknown=b";
# empty if it says that nothing has been committed.
sub told
{
	my ($result) = @_;
	my $detail = $result->{detail} // '';
	my @told = map { join '=', $_, $detail =~ /^\Q$_\E: (.*)\.$/m ? $1 =~ tr/" //dr : '' }
	  'Committed', 'Not committed', 'Outcome unknown';
	return $result->{error} eq '08007' || $detail =~ /^Committed: /m ? join ';', @told : '';
}

# Until the session is in no transaction, whoever cancels it meanwhile.
sub roll_back
{
	my $result;
	do
	{
		$result = $client->query('ROLLBACK');
		die 'the session was lost: ROLLBACK' if $result->{lost};
		count_error($result, 'ROLLBACK') if $result->{error};
	} while ($result->{error});
	return;
}

# Ends the transaction; what came of it: done, failed or reported.
sub finish
{
	my ($meanwhile) = @_;
	if ($failed)
	{
		roll_back();
		record('failed');
		return 'failed';
	}
	$client->send('COMMIT');
	$meanwhile->() if $meanwhile;
	my $result = $client->result;
	die 'the session was lost: COMMIT' if $result->{lost};
	if (!$result->{error})
	{
		$count{commits}++;
		record('done');
		return 'done';
	}
	$failed = $result;
	count_error($result, 'COMMIT');
	roll_back();
	my $told = told($result);
	$count{'commits of which nobody knows all'}++ if $result->{error} eq '08007';
	$count{'commits on a part of the sides'}++ if $told && $result->{error} ne '08007';
	record($told ? "reported $told" : 'failed');
	return $told ? 'reported' : 'failed';
}

# The remote session that the transaction has at a side.
sub remote_pid
{
	my ($side) = @_;
	return if $failed;
	my $result = $client->query(
		"SELECT pid FROM conpool.query('$side', 'SELECT pg_backend_pid()') AS t(pid int)");
	return $result->{rows}[0][0] unless $result->{error};
	$failed = $result;
	count_error($result, 'a statement');
	return;
}

# Ends a remote session, and waits until that has begun to go: it has said so by then.
sub kill_remote
{
	my ($pid) = @_;
	my $limit = time + 30;
	$watcher->query("SELECT pg_terminate_backend($pid)");
	while (@{ $watcher->query("SELECT FROM pg_stat_activity WHERE pid = $pid")->{rows} })
	{
		die "remote session $pid does not end" if time > $limit;
		sleep 0.002;
	}
	return;
}

# What a session does, and how often.
my %actions = (
	plain => [
		40, sub {
			begin();
			transfer() for 1 .. 1 + int rand 3;
			finish();
		}
	],
	rollback => [
		5, sub {
			begin();
			transfer();
			undone(keys %open);
			roll_back();
		}
	],
	# one side has had its entry when the other one fails
	remote_error => [
		6, sub {
			begin();
			my @parties = parties();
			run("SELECT $_") for (entries(++$serial, 'plain', @parties))[0];
			run(qq{SELECT conpool.exec('b', 'SELECT 1/0')}, 'a statement that divides by zero');
			finish();
		}
	],
	savepoint => [
		10, sub {
			begin();
			transfer() if rand() < 0.5;
			run('SAVEPOINT outside');
			my @undone = transfer();
			if (rand() < 0.5)
			{
				run('SAVEPOINT inside');
				my $inner = transfer();
				if (rand() < 0.5)
				{
					run('ROLLBACK TO inside');
					undone($inner) unless $failed;
				}
				else
				{
					push @undone, $inner;
				}
			}
			if (rand() < 0.5)
			{
				run('ROLLBACK TO outside');
				undone(@undone) unless $failed;
			}
			else
			{
				run('RELEASE outside');
			}
			transfer() if rand() < 0.5;
			finish();
		}
	],
	# inner blocks that fail, remotely or here, in one that is kept
	exception_block => [
		10, sub {
			begin();
			my ($outer, $first, $second, $last) = map { $serial + $_ } 1 .. 4;
			$serial += 4;
			my %do = map { $_ => join ' ', map { "PERFORM $_;" } entries($_, 'plain', parties()) }
			  $outer, $first, $second, $last;
			my ($half) = $do{$second} =~ /^(PERFORM .*?;)/;
			my $error = rand() < 0.5 ? q{PERFORM conpool.exec('a', 'SELECT 1/0');} : 'PERFORM 1/0;';
			run(qq{DO \$\$ BEGIN
				$do{$outer}
				BEGIN
					$do{$first}
					BEGIN
						$half
						$error
					EXCEPTION WHEN division_by_zero THEN NULL;
					END;
					PERFORM 1/0;
				EXCEPTION WHEN division_by_zero THEN NULL;
				END;
				BEGIN
					$do{$last}
				EXCEPTION WHEN division_by_zero THEN NULL;
				END;
			END \$\$}, 'a block');
			undone($first, $second) unless $failed;
			finish();
		}
	],
	# on leases of their own, one by a request that nobody reads
	leases => [
		5, sub {
			begin();
			my $transfer = ++$serial;
			my %do = map { $_ => "$transfer, 'plain', " . account() } qw(a b);
			$open{$transfer} = 'a,b';
			run(qq{DO \$\$ DECLARE
				one constant bigint := conpool.checkout('a', 'transaction');
				other constant bigint := conpool.checkout('b', 'transaction');
			BEGIN
				PERFORM conpool.send(one, \$sql\$ $write \$sql\$, $do{a}, -5);
				PERFORM conpool.exec(other, \$sql\$ $write \$sql\$, $do{b}, 5);
				PERFORM conpool.checkin(other);
			END \$\$}, 'a block');
			finish();
		}
	],
	cancelled => [
		5, sub {
			begin();
			transfer();
			run(q{SELECT set_config('statement_timeout', '30', true)});
			run(q{SELECT conpool.exec('a', 'SELECT pg_sleep(10)')}, 'a statement that takes too long');
			finish();
		}
	],
	commit_cancelled => [
		5, sub {
			begin();
			transfer(purpose => rand() < 0.5 ? 'slow' : 'plain');
			finish(sub { sleep rand 0.02; $client->cancel });
		}
	],
	# that is noticed before anything is committed
	killed_before_commit => [
		4, sub {
			begin();
			transfer(parties => [@sides]);
			my $pid = remote_pid(rand() < 0.5 ? 'a' : 'b') // return finish();
			kill_remote($pid);
			my $fate = finish();
			$count{'killed before COMMIT'}++;
			$count{"killed before COMMIT, and $fate: " . told($failed // {})}++ unless $fate eq 'failed';
		}
	],
	killed_in_commit => [
		3, sub {
			begin();
			transfer(purpose => 'slow', parties => [ rand() < 0.5 ? qw(a b) : @sides ]);
			my $pid = remote_pid(rand() < 0.5 ? 'a' : 'b') // return finish();
			my $fate = finish(sub {
				my $limit = time + 5;
				my $runs = "SELECT FROM pg_stat_activity
					WHERE pid = $pid AND state = 'active' AND query = 'COMMIT'";
				sleep 0.002 until @{ $watcher->query($runs)->{rows} } || time > $limit;
				$watcher->query("SELECT pg_terminate_backend($pid)");
			});
			$count{"killed in COMMIT: $fate"}++;
		}
	],
	refused => [
		3, sub {
			begin();
			my $transfer = ++$serial;
			my ($good, $bad) = rand() < 0.5 ? qw(a b) : qw(b a);
			my ($first, $second) = entries($transfer, 'plain', $good, $bad);
			$second =~ s/'plain'/'refused'/;
			run("SELECT $_") for $first, $second;
			finish();
		}
	]);
my @choices = map { ($_) x $actions{$_}[0] } sort keys %actions;

sub session
{
	my ($number, $goes_on) = @_;
	srand $number;
	$serial = $number * 1_000_000;
	$client = WireClient->new($local, user => $role);
	$watcher = WireClient->new($remote);
	while ($goes_on->())
	{
		my $action = $choices[ rand @choices ];
		$actions{$action}[1]->();
		$count{"did $action"}++;
	}
	return %count;
}

# --- those who disturb --------------------------------------------------------------------

# Does one thing to one of the sessions, again and again.
sub disturb
{
	my ($node, $condition, $function, $pause, $goes_on) = @_;
	my $admin = WireClient->new($node);
	my $done = 0;
	while ($goes_on->())
	{
		my $result = $admin->query("SELECT $function(pid) FROM pg_stat_activity
			WHERE $condition ORDER BY random() LIMIT 1");
		$done += @{ $result->{rows} };
		sleep $pause;
	}
	return ("disturbed by $function" => $done);
}

my @others = (
	start_worker(sub { disturb($remote, "usename = 'regress_remote'", 'pg_terminate_backend', 0.25, @_) }),
	start_worker(sub {
		disturb($local, "usename = '$role' AND state = 'active'", 'pg_cancel_backend', 0.05, @_) }));
my @sessions = map { my $n = $_; start_worker(sub { session($n, @_) }) } 1 .. $sessions;
sleep $seconds;    # that is how long it lasts
my $did = stop_workers(@sessions);
my $disturbed = stop_workers(@others);

# --- what they did --------------------------------------------------------------------------

my @transfers = map { /^transfer (\d+) (\S+) (\S+) ?(.*)$/
	  ? { number => $1, sides => $2, fate => $3, told => $4 } : () } keys %$did;
my %fate;
$fate{ $_->{fate} }++ for @transfers;

note 'figure: ', join ', ', map { "transfers $_ = $fate{$_}" } sort keys %fate;
note 'figure: ', join ', ', map { "$_ = $disturbed->{$_}" } sort keys %$disturbed;
note "figure: $_ = $did->{$_}" for sort grep { /^(commits|did|killed)/ } keys %$did;
note "figure: $_ = $did->{$_}" for sort grep { /^error/ } keys %$did;
note 'reported: ', join ' ', %$_{qw(number sides told)}
  for sort { $a->{number} <=> $b->{number} } grep { $_->{fate} eq 'reported' } @transfers;

is(join("\n", grep { /^died/ } sort keys %$did, keys %$disturbed), '', 'all sessions lived');
is($did->{"did $_"} ? 1 : 0, 1, "this was done: $_") for sort keys %actions;
cmp_ok($fate{$_} // 0, '>', 0, "transfers were $_") for qw(done failed undone reported);
cmp_ok($did->{'commits of which nobody knows all'} // 0, '>', 0, 'some commits came to nobody knows what');
cmp_ok($did->{'commits on a part of the sides'} // 0, '>', 0, 'some on a part of the sides');
is(join("\n", grep { /^killed before COMMIT, and / } sort keys %$did), '',
	'where a remote session was dead before COMMIT, nothing was committed');

# What may happen to anybody here.
my %expected = map { $_ => 1 } qw(
  08006 08007 08001 22012 23Z01 25P02 40001 40P01 53300 55P03 57014);
is(join("\n", grep { /^error (\S+)/ && !$expected{$1} } sort keys %$did), '', 'no error is unexpected');

# --- the books ---------------------------------------------------------------------------------

sub on_side
{
	my ($side, $sql) = @_;
	return $side eq 'local'
	  ? $local->safe_psql('postgres', $sql) : $remote->safe_psql($database{$side}, $sql);
}

# A remote session may still be at a COMMIT of which nobody waits to hear.
wait_for($remote, q{SELECT count(*) = 0 FROM pg_stat_activity
	WHERE usename = 'regress_remote' AND state <> 'idle'}, 'no remote session is in a transaction');

my %amount;    # side => transfer => amount
foreach my $side (@sides)
{
	$amount{$side} = { map { split /\|/ } split /\n/, on_side($side, 'SELECT transfer, amount FROM journal') };
}
my %known = map { $_->{number} => 1 } @transfers;
is(join(' ', grep { !$known{$_} } map { keys %$_ } values %amount), '', 'no transfer came from nowhere');

# Where it is, and where it should be.
sub wrong
{
	my ($transfer) = @_;
	my %is = map { $_ => exists $amount{$_}{ $transfer->{number} } } @sides;
	my %should = map { $_ => $transfer->{fate} eq 'done' } split /,/, $transfer->{sides};
	if ($transfer->{fate} eq 'reported')
	{
		my %told = map { split /=/, $_, 2 } split /;/, $transfer->{told};
		my %on = map { my $what = $_; map { $_ => $what } split /,/, $told{$what} } keys %told;
		foreach my $side (keys %should)
		{
			my $what = $on{$side} // 'Not committed';    # here
			$should{$side} = $what eq 'Outcome unknown' ? $is{$side} : $what eq 'Committed';
		}
	}
	my @wrong = grep { $is{$_} xor $should{$_} } @sides;
	return @wrong ? "$transfer->{number}: $transfer->{fate} $transfer->{told}, wrong on @wrong" : ();
}
is(join("\n", map { wrong($_) } @transfers), '', 'every transfer is where its session was told');

my ($total, $excused) = (0, 0);
foreach my $side (@sides)
{
	my ($sum, $booked) = split /\|/, on_side($side,
		'SELECT sum(balance), (SELECT coalesce(sum(amount), 0) FROM journal) FROM accounts');
	is($sum, $accounts * $balance + $booked, "$side: the accounts are as the journal says");
	$total += $sum;
}
foreach my $transfer (grep { $_->{fate} eq 'reported' } @transfers)
{
	$excused += $amount{$_}{ $transfer->{number} } // 0 for @sides;
}
note "figure: the total over three sides has changed by $excused through reported commits";
is($total, @sides * $accounts * $balance + $excused,
	'the total has not changed but through commits that were reported');

# --- what is left --------------------------------------------------------------------------------

wait_for($local, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = '$role'", 'all sessions end');
wait_for_pool($local, $_, 'idle = size AND waiting = 0', "pool $_ is at rest") for sort keys %database;
is($local->safe_psql('postgres', 'SELECT count(*) FROM conpool.leases'), 0, 'no lease is held');
wait_until(
	sub {
		remote_backends($remote, 'regress_remote') ==
		  $local->safe_psql('postgres', q{SELECT sum(size) FROM conpool.pools WHERE server IN ('a', 'b')});
	}, 'the remote has no other connections than the pools');

# Nothing keeps a place that nobody has.
$client = WireClient->new($local, user => $role);
foreach my $side (sort keys %database)
{
	$client->query('BEGIN');
	my $result = $client->query("SELECT count(conpool.checkout('$side', 'transaction')) FROM generate_series(1, $size)");
	is($result->{rows}[0][0] // $result->{message}, $size, "pool $side has all its connections");
	$client->query('ROLLBACK');
}

my ($committed, $unknown) = split /\|/, $local->safe_psql('postgres', q{
	SELECT sum(remote_commits), sum(remote_commits_unknown) FROM conpool.stat_pools WHERE server IN ('a', 'b')});
note "figure: remote commits = $committed, unknown = $unknown";
cmp_ok($committed, '>', $did->{commits} / 2, 'remote commits are counted');
cmp_ok($unknown, '>=', $did->{'commits of which nobody knows all'}, 'those of unknown outcome, too');

is(join("\n", slurp_file($local->logfile) =~ /^.*(?:TRAP:|PANIC:|was terminated by signal).*$/mg), '',
	'no process crashed');

done_testing();
