# leak_action and many sessions that hold leases for about leak_threshold: nobody is
# cancelled who has given the lease back, no statement is lost to a reclaim.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

my $seconds = 6;
my $remote = new_remote('remote');
my $local = new_local('local', conf => 'log_statement = none');
setup_local($local, $remote);
create_server($local, $remote, 'cancels',
	options => q{max_size '12', leak_threshold '5ms', leak_action 'cancel', reset 'never'});
create_server($local, $remote, 'reclaims',
	options => q{max_size '12', leak_threshold '20ms', leak_action 'reclaim', reset 'never'});
$remote->safe_psql($ConpoolTest::remote_db,
	'SET ROLE regress_remote; CREATE TABLE inserted (session int, n int)');
$local->safe_psql(
	'postgres', q{
	CREATE SEQUENCE numbers;
	CREATE TABLE taken (number bigint, lease bigint, remote_pid int, reclaimed boolean);

	-- leases held for about the threshold, and a statement after each
	CREATE FUNCTION hold(seconds float8, OUT held int, OUT canceled int, OUT wrong text)
	LANGUAGE plpgsql AS $$
	DECLARE
		until constant timestamptz := clock_timestamp() + seconds * interval '1 s';
		lease bigint;
	BEGIN
		held := 0;
		canceled := 0;
		wrong := '';
		WHILE clock_timestamp() < until LOOP
			BEGIN
				lease := conpool.checkout('cancels', 'session');
				held := held + 1;
				PERFORM pg_sleep(random() * 0.03);
				PERFORM conpool.checkin(lease);
			EXCEPTION WHEN query_canceled THEN
				canceled := canceled + 1;
				-- if it has not been given back
				PERFORM conpool.checkin(l.lease) FROM conpool.leases AS l
					WHERE l.pid = pg_backend_pid();
			END;
			BEGIN
				PERFORM pg_sleep(0.01);
			EXCEPTION WHEN query_canceled THEN
				wrong := wrong || format('canceled after lease %s; ', lease);
			END;
		END LOOP;
	END $$;

	-- leases with pauses of about the threshold between their statements
	CREATE FUNCTION work(session int, seconds float8, OUT done int, OUT reclaimed int, OUT wrong text)
	LANGUAGE plpgsql AS $$
	DECLARE
		until constant timestamptz := clock_timestamp() + seconds * interval '1 s';
		lease bigint;
		number bigint;
		remote_pid int;
	BEGIN
		done := 0;
		reclaimed := 0;
		wrong := '';
		WHILE clock_timestamp() < until LOOP
			lease := conpool.checkout('reclaims', 'session');
			number := nextval('numbers');
			BEGIN
				remote_pid := NULL;
				SELECT * INTO remote_pid FROM conpool.query(lease, 'SELECT pg_backend_pid()') AS t(pid int);
				WHILE clock_timestamp() < until LOOP
					PERFORM conpool.exec(lease, format(
						'INSERT INTO inserted SELECT %s, %s FROM pg_sleep(%s)',
						session, done + 1, random() * 0.02));
					done := done + 1;
					PERFORM pg_sleep(random() * 0.1);
				END LOOP;
				PERFORM conpool.checkin(lease);
				INSERT INTO taken VALUES (number, lease, remote_pid, false);
			EXCEPTION
				WHEN connection_does_not_exist THEN
					reclaimed := reclaimed + 1;
					INSERT INTO taken VALUES (number, lease, remote_pid, true);
				WHEN OTHERS THEN
					wrong := wrong || format('%s: %s; ', SQLSTATE, SQLERRM);
			END;
		END LOOP;
	END $$});
my @holders = map { WireClient->new($local) } 1 .. 10;
my @workers = map { WireClient->new($local) } 1 .. 10;
$_->send("SELECT * FROM hold($seconds)") for @holders;
$workers[$_]->send("SELECT * FROM work($_, $seconds)") for 0 .. $#workers;

sub add_up
{
	my @sum = (0, 0, '');
	foreach my $client (@_)
	{
		my $result = $client->result;
		my $row = $result->{rows}[0] // [ 0, 0, "$result->{error}: $result->{message}" ];
		$sum[$_] += $row->[$_] for 0, 1;
		$sum[2] .= $row->[2];
	}
	return @sum;
}

my ($held, $canceled, $wrong) = add_up(@holders);
is($wrong, '', 'nobody is canceled but with a lease');
cmp_ok($held, '>', 100, 'many were held');
cmp_ok($canceled, '>', 3, 'some were canceled');
wait_until(
	sub {
		my @lines = slurp_file($local->logfile) =~ /canceled the statement of pid .* pool "cancels"/g;
		return @lines >= $canceled;
	},
	'which is logged');

my ($done, $reclaimed);
($done, $reclaimed, $wrong) = add_up(@workers);
is($wrong, '', 'no statement is disturbed');
cmp_ok($done, '>', 100, 'many ran');
cmp_ok($reclaimed, '>', 3, 'some leases were reclaimed');
is($remote->safe_psql($ConpoolTest::remote_db, 'SELECT count(*), count(DISTINCT (session, n)) FROM inserted'),
	"$done|$done", 'what was refused was not run, what was not refused was');
is( $local->safe_psql('postgres', q{SELECT count(*) FROM taken AS a JOIN taken AS b USING (remote_pid)
			WHERE a.reclaimed AND b.number > a.number}),
	0, 'what was reclaimed was never handed on');
note "figure: statements canceled = $canceled of $held leases";
note "figure: leases reclaimed = $reclaimed beside $done statements";

is($local->safe_psql('postgres', 'SELECT test.at_rest()'), 't', 'the pools are at rest');

done_testing();
