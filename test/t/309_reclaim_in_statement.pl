# A lease is reclaimed while a statement runs on it, and used again from within
# that statement.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'one', options => q{max_size '2'});

# the function that checks each row of the result has the statement's own lease
# taken away, by another session of this server, and runs a statement on it
my $loopback = sprintf 'host=%s port=%s dbname=postgres user=postgres', $local->host,
  $local->port;
$local->safe_psql(
	'postgres', qq{
	CREATE FUNCTION public.disturb(value int) RETURNS boolean
	LANGUAGE plpgsql AS \$\$
	DECLARE
		lease bigint := current_setting('test.lease')::bigint;
	BEGIN
		IF value = 2 THEN
			PERFORM conpool.exec('$loopback', format('SELECT conpool.reclaim(%s)', lease));
		END IF;
		BEGIN
			PERFORM conpool.exec(lease, 'SELECT 1');
		EXCEPTION WHEN OTHERS THEN
			PERFORM set_config('test.seen', current_setting('test.seen') || SQLSTATE || ' ', false);
		END;
		RETURN true;
	END \$\$;
	CREATE DOMAIN public.disturbed AS int CHECK (public.disturb(VALUE));
});

my $client = WireClient->new($local);
my $pid = $client->query('SELECT pg_backend_pid()')->{rows}[0][0];

sub disturb
{
	my $lease = shift;
	my $seen;

	$client->query("SELECT set_config('test.lease', '$lease', false), set_config('test.seen', '', false)");
	my $result = $client->query(
		"SELECT count(*) FROM conpool.query($lease, 'SELECT generate_series(1, 3)') AS t(a public.disturbed)"
	);
	$seen = $client->query(q{SELECT current_setting('test.seen')})->{rows}[0][0];
	return ($result, $seen);
}

my $lease = $client->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0];
my ($result, $seen) = disturb($lease);
like($seen, qr/^(55006 ){3}$/, 'the lease is busy, reclaimed or not');
is($client->query("SELECT conpool.exec($lease, 'SELECT 1')")->{error},
	'08003', 'the next use says that it was reclaimed');
is($client->query('SELECT pg_backend_pid()')->{rows}[0][0], $pid, 'the session lives');

# the same with the lease that the session's query functions share
$client->query(q{SET conpool.pool_mode = 'session'});
is($client->query(q{SELECT conpool.exec('one', 'SELECT 1')})->{error}, undef, 'a shared lease');
$lease = $client->query(
	qq{SELECT lease FROM conpool.leases WHERE pid = $pid AND server = 'one'})->{rows}[0][0];
$local->safe_psql(
	'postgres', q{
	CREATE OR REPLACE FUNCTION public.disturb_shared(value int) RETURNS boolean
	LANGUAGE plpgsql AS $$
	BEGIN
		IF value = 2 THEN
			PERFORM conpool.exec('} . $loopback . q{',
				format('SELECT conpool.reclaim(%s)', current_setting('test.lease')));
		END IF;
		BEGIN
			PERFORM conpool.exec('one', 'SELECT 1');
		EXCEPTION WHEN OTHERS THEN
			PERFORM set_config('test.seen', current_setting('test.seen') || SQLSTATE || ' ', false);
		END;
		RETURN true;
	END $$;
	CREATE DOMAIN public.disturbed_shared AS int CHECK (public.disturb_shared(VALUE));
});
$client->query("SELECT set_config('test.lease', '$lease', false), set_config('test.seen', '', false)");
$client->query(
	q{SELECT count(*) FROM conpool.query('one', 'SELECT generate_series(1, 3)') AS t(a public.disturbed_shared)}
);
like($client->query(q{SELECT current_setting('test.seen')})->{rows}[0][0],
	qr/^(55006 ){3}$/, 'it is busy as well');
is($client->query('SELECT pg_backend_pid()')->{rows}[0][0], $pid, 'the session lives on');
$client->query(q{SELECT conpool.exec('one', 'SELECT 1')});
is($client->query(q{SELECT conpool.exec('one', 'SELECT 1')})->{error},
	undef, 'and gets another connection');
$client->hang_up;
wait_for_pool($local, 'one', 'leased = 0 AND size = idle', 'nothing is lost');

done_testing();
