# A lease that outlives the call that took it remembers through which PL
# functions, and which of their lines, it was taken, and shows no password.
use strict;
use warnings;

use ConpoolTest;
use Encode;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'log_statement = none');
setup_local($local, $remote);
create_server($local, $remote, 'one',
	options => q{max_size '20', leak_threshold '1ms', reset 'never'});
create_server($local, $remote, 'calm', options => q{leak_threshold '1h', reset 'never'});
my ($watch, $session) = map { WireClient->new($local) } 1 .. 2;

sub value
{
	my ($sql, $client) = @_;
	my $result = ($client // $watch)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return join '|', map { $_ // '' } @{ ($result->{rows} // [])->[0] // [] };
}

# Of the lease that the session has taken last.
sub stack
{
	return value("SELECT stack FROM conpool.leases WHERE pid = $session->{pid}
				  ORDER BY lease DESC LIMIT 1");
}

# --- where it was taken ------------------------------------------------------------

# line 1 is the one with the $$
value(<<'SQL');
	CREATE TABLE jobs (id int);

	CREATE FUNCTION take(server text, scope text) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		lease bigint;
	BEGIN
		-- a comment
		lease := conpool.checkout(server,
								  scope);
		RETURN lease;
	END $$;

	CREATE FUNCTION use(server text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		RETURN

			conpool.exec(server, 'SELECT 1');
	END $$;

	CREATE FUNCTION nested(server text, scope text) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		lease bigint := 0;
	BEGIN
		FOR i IN 1 .. 3 LOOP
			IF i = 3 THEN
				SELECT take(server, scope)
					INTO lease;
			END IF;
		END LOOP;
		RETURN lease;
	END $$;

	-- of two statements, so that it is not made part of the caller's query
	CREATE FUNCTION in_sql(server text, scope text) RETURNS bigint LANGUAGE sql AS $$
		INSERT INTO jobs VALUES (1) RETURNING id;
		SELECT nested(server, scope);
	$$;

	CREATE FUNCTION caught(server text, scope text) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		BEGIN
			PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN
			RETURN take(server, scope);
		END;
	END $$;

	CREATE FUNCTION tried(server text, scope text) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		lease bigint;
	BEGIN
		BEGIN
			lease := take(server, scope);
		EXCEPTION WHEN division_by_zero THEN
			RETURN 0;
		END;
		RETURN lease;
	END $$;

	CREATE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF new.id > 1 THEN
			PERFORM
				take('one', 'session');
		END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER takes AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION on_insert();

	CREATE PROCEDURE in_procedure() LANGUAGE plpgsql AS $$
	DECLARE
		ignored bigint;
	BEGIN
		COMMIT;
		ignored := take('one', 'session');
	END $$;
SQL

my $take = 'PL/pgSQL function take(text,text) line 6 at assignment';
my $nested = "$take\nSQL statement \"SELECT take(server, scope)\"\n"
  . 'PL/pgSQL function nested(text,text) line 7 at SQL statement';
my $use = 'PL/pgSQL function use(text) line 3 at RETURN';

# what is run, and the stack of the lease that it leaves; a leading BEGIN or SET
# is a statement by itself
my @cases = (
	[ 'a function', q{SELECT take('one', 'session')}, $take ],
	[ 'nested ones', q{SELECT nested('one', 'session')}, $nested ],
	[
		'an SQL function',
		q{SELECT in_sql('one', 'session')},
		"$nested\nSQL function \"in_sql\" statement 2"
	],
	[
		'an EXCEPTION block', q{SELECT tried('one', 'session')},
		"$take\nPL/pgSQL function tried(text,text) line 6 at assignment"
	],
	[
		'an exception handler', q{SELECT caught('one', 'session')},
		"$take\nPL/pgSQL function caught(text,text) line 6 at RETURN"
	],
	[
		'a trigger',
		q{INSERT INTO jobs VALUES (2)},
		join("\n", $take,
			qq{SQL statement "SELECT\n\t\t\t\ttake('one', 'session')"},
			'PL/pgSQL function on_insert() line 4 at PERFORM')
	],
	[
		'a DO block',
		"DO \$\$\nBEGIN\n\tPERFORM nested('one', 'session');\nEND \$\$",
		join("\n", $nested,
			q{SQL statement "SELECT nested('one', 'session')"},
			'PL/pgSQL function inline_code_block line 3 at PERFORM')
	],
	[
		'a procedure', 'CALL in_procedure()',
		"$take\nPL/pgSQL function in_procedure() line 6 at assignment"
	],
	[
		'the checkout itself', q{DO $$ BEGIN PERFORM conpool.checkout('one', 'session'); END $$},
		qq{SQL statement "SELECT conpool.checkout('one', 'session')"\n}
		  . 'PL/pgSQL function inline_code_block line 1 at PERFORM'
	],
	[ 'no function', q{SELECT conpool.checkout('one', 'session')}, '' ],
	[ 'scope transaction', q{BEGIN; SELECT take('one', 'transaction')}, $take ],
	[ 'scope statement, before its statement', q{BEGIN; SELECT take('one', 'statement')}, $take ],
	[ 'pool_mode transaction', q{SET conpool.pool_mode = 'transaction'; BEGIN; SELECT use('one')}, $use ],
	[ 'pool_mode session', q{SET conpool.pool_mode = 'session'; SELECT use('one')}, $use ]);
foreach my $case (@cases)
{
	my ($name, $sql, $stack) = @$case;
	my $client = $session = WireClient->new($local);
	while ($sql =~ s/^((?:BEGIN|SET [^;]*)); //)
	{
		value($1, $client);
	}
	value($sql, $client);
	is(stack(), $stack, "$name: the stack");
	is(value("SELECT sql FROM conpool.leases WHERE pid = $client->{pid}"),
		$sql, "$name: and the statement");
	$client->query('ROLLBACK');
	$client->hang_up;
}

# --- in the log and in leaks, held and over -------------------------------------------

$session = WireClient->new($local);
my $lease = value(q{SELECT nested('one', 'session')}, $session);
wait_until(
	sub {
		slurp_file($local->logfile) =~
		  /DETAIL:  Lease $lease was taken by: SELECT nested\('one', 'session'\)\n\tCall stack: (.*(\n\t.*)*)/;
	},
	'the log has it');
slurp_file($local->logfile) =~ /DETAIL:  Lease $lease was taken by: .*\n\tCall stack: (.*(?:\n\t.*)*)/;
is(($1 // '') =~ s/\n\t/\n/gr, $nested, 'as it is');
is(value("SELECT stack FROM conpool.leaks WHERE lease = $lease"), $nested, 'leaks has it');
value("SELECT conpool.checkin($lease)", $session);
is(value("SELECT outcome, stack FROM conpool.leaks WHERE lease = $lease"),
	"checked in|$nested", 'also when it is over');

# the connection is not, and forgets
value(q{SELECT conpool.checkout('one', 'session')}, $session);
is(stack(), '', 'the next lease has none');
$session->hang_up;

# --- what does not outlive the call -----------------------------------------------------

$session = WireClient->new($local);
$session->send(
	q{DO $$ BEGIN
		PERFORM conpool.exec('calm', 'SELECT pg_sleep(1000)');
	END $$});
wait_until(
	sub { value("SELECT running_since IS NOT NULL FROM conpool.leases WHERE pid = $session->{pid}") eq 't' },
	'a query in a function');
is(value("SELECT scope, stack FROM conpool.leases WHERE pid = $session->{pid}"),
	'statement|', 'has no stack');
$session->cancel;
is($session->result->{error}, '57014', 'it is cancelled');
$session->hang_up;

# --- passwords ----------------------------------------------------------------------------

$session = WireClient->new($local);
my $conninfo = conninfo($remote);
my $hidden = '<hidden: it may hold a password>';
my $uri = sprintf 'postgresql://regress_remote:remote-secret@127.0.0.1:%d/conpool_remote',
  $remote->port;
foreach my $string ($conninfo, $uri)
{
	# in the statement of a function, and as an argument of one
	foreach my $sql ("DO \$\$ BEGIN PERFORM conpool.checkout('$string', 'session'); END \$\$",
		"SELECT nested('$string', 'session')")
	{
		value($sql, $session);
		is( value(
				"SELECT sql, stack FROM conpool.leases WHERE pid = $session->{pid} ORDER BY lease DESC LIMIT 1"
			),
			"$hidden|" . ($sql =~ /DO/ ? $hidden : $nested),
			'a password is hidden');
	}
}

# in a statement on the way, far from the first line
value(
	qq{CREATE FUNCTION hides() RETURNS bigint LANGUAGE plpgsql AS \$\$
	DECLARE
		l bigint;
	BEGIN
		SELECT nested('one', 'session') INTO l WHERE '$conninfo' <> '';
		RETURN l;
	END \$\$});
$lease = value('SELECT hides()', $session);
is(stack(), $hidden, 'in whatever statement it is');
wait_until(
	sub {
		slurp_file($local->logfile) =~
		  /DETAIL:  Lease $lease was taken by: SELECT hides\(\)\n\tCall stack: \Q$hidden\E\n/;
	},
	'in the log, too');
value("SELECT conpool.checkin($lease)", $session);
is(value("SELECT stack FROM conpool.leaks WHERE lease = $lease"), $hidden, 'and in leaks');
$session->hang_up;
ok(slurp_file($local->logfile) !~ /remote-secret/, 'no password is in the log');

# --- long ones, in whatever characters -----------------------------------------------------

my $limit = 1023;    # bytes
$session = WireClient->new($local);
value(
	q{CREATE FUNCTION deepest() RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		context text;
	BEGIN
		GET DIAGNOSTICS context = PG_CONTEXT;
		PERFORM set_config('test.context', context, false);
		RETURN conpool.checkout('one', 'session');
	END $$});

# Calls a function by that name so many levels deep, the last one by another name;
# returns the stack as PL/pgSQL knows it, and as conpool has stored it.
sub descend
{
	my ($name, $last, $levels) = @_;
	value(
		qq{CREATE FUNCTION "$last"() RETURNS bigint LANGUAGE plpgsql AS \$\$
			BEGIN RETURN deepest(); END \$\$;
		CREATE FUNCTION "$name"(levels int) RETURNS bigint LANGUAGE plpgsql AS \$\$
		BEGIN
			IF levels = 0 THEN RETURN "$last"(); END IF;
			RETURN "$name"(levels - 1);
		END \$\$});
	my $lease = value("SELECT \"$name\"($levels)", $session);
	my $all = value(q{SELECT current_setting('test.context')}, $session);
	$all =~ s/deepest\(\) line 5 at GET DIAGNOSTICS/deepest() line 7 at RETURN/;
	my $stored = stack();
	value("SELECT conpool.checkin($lease)", $session);
	value(qq{DROP FUNCTION "$last"(); DROP FUNCTION "$name"(int)});
	return ($all, $stored);
}

my ($all, $stored) = descend('deep', 'last', 200);
cmp_ok(scalar(() = $all =~ /deep\(integer\)/g), '>=', 200, 'a deep stack');
is($stored, substr($all, 0, $limit), 'the innermost ones are kept');

# the cut comes at another byte of a character each time
my $cut = 0;
foreach my $character ("\x{e9}", "\x{20ac}", "\x{1f418}")
{
	my $width = length encode('UTF-8', $character);
	foreach my $shift (0 .. $width - 1)
	{
		($all, $stored) =
		  descend(encode('UTF-8', $character x int(60 / $width)), 'x' x (1 + $shift), 30);
		my $expected = substr $all, 0, $limit;
		my $fits = 1;
		until (eval { decode('UTF-8', my $copy = $expected, Encode::FB_CROAK); 1 })
		{
			chop $expected;
			$fits = 0;
		}
		$cut++ unless $fits;
		is($stored, $expected, "a character of $width bytes, $shift further");
	}
}
cmp_ok($cut, '>', 0, 'some have a character that did not fit');

$session->hang_up;
is(value('SELECT test.at_rest()'), 't', 'the pools come to rest');

done_testing();
