# A server that leads back to this database, with pool_mode "statement", has autonomous
# transactions: an audit row stays though the local transaction rolls back. What such a
# server needs, and how it goes without.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

my $lock_timeout = 0.3;    # seconds
my $soon = 20;             # seconds for whatever must not take for ever

my $local = new_local('local');
$local->safe_psql('postgres', q{
	CREATE EXTENSION conpool;
	CREATE ROLE regress_clerk LOGIN;
	CREATE ROLE regress_auditor LOGIN PASSWORD 'audit-secret';
	CREATE TABLE accounts (id int PRIMARY KEY, balance int CHECK (balance >= 0));
	INSERT INTO accounts VALUES (1, 100), (2, 100);
	CREATE TABLE audit (id int GENERATED ALWAYS AS IDENTITY, who text, what text UNIQUE);
	GRANT ALL ON accounts TO regress_clerk, regress_auditor;
	GRANT INSERT, SELECT ON audit TO regress_auditor;
	GRANT SELECT ON audit TO regress_clerk;
});

# Servers that lead back here.
sub create
{
	my ($name, $options) = @_;
	my $port = $local->port;
	$local->safe_psql('postgres', qq{
		CREATE SERVER $name FOREIGN DATA WRAPPER conpool
			OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres', $options);
		CREATE USER MAPPING FOR regress_clerk SERVER $name
			OPTIONS (user 'regress_auditor', password 'audit-secret');
		GRANT USAGE ON FOREIGN SERVER $name TO regress_clerk;
	});
	return;
}

my $mode = q{pool_mode 'statement'};
my $locks = sprintf q{options '-c lock_timeout=%dms'}, $lock_timeout * 1000;
create('audit', "$mode, max_size '4', $locks");
create('careless', "$mode, max_size '2'");
create('single', "$mode, max_size '1', checkout_timeout '300ms', $locks");
create('bound', "pool_mode 'transaction', max_size '2', $locks");

my $clerk = WireClient->new($local, user => 'regress_clerk');
my $watcher = WireClient->new($local);

sub value
{
	my ($sql, $session) = @_;
	my $result = ($session // $watcher)->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return $result->{rows}[0][0];
}

# What is in the audit log of that.
sub audited
{
	my ($what) = @_;
	return value("SELECT count(*) FROM audit WHERE what = '$what'");
}

sub log_on
{
	my ($server, $what) = @_;
	return "conpool.exec('$server', 'INSERT INTO audit (who, what) VALUES (\$1, \$2)', session_user, '$what')";
}

# --- what is audited stays ----------------------------------------------------------------

$clerk->query('BEGIN');
$clerk->query('UPDATE accounts SET balance = 0 WHERE id = 1');
is(value('SELECT ' . log_on('audit', 'takes all'), $clerk), 'INSERT 0 1', 'a row is written');
is(audited('takes all'), 1, 'others see it at once');
is(value(q{SELECT count(*) FROM audit WHERE what = 'takes all'}, $clerk), 1, 'so does who wrote it');
$clerk->query('ROLLBACK');
is(audited('takes all'), 1, 'it stays after ROLLBACK');
is(value('SELECT balance FROM accounts WHERE id = 1'), 100, 'unlike what was done here');

# in a block that fails, and in the transaction that goes on
is($clerk->query('DO $$ BEGIN
		UPDATE accounts SET balance = balance - 10 WHERE id = 1;
		BEGIN
			PERFORM ' . log_on('audit', 'overdraws') . ';
			UPDATE accounts SET balance = balance - 1000 WHERE id = 1;
		EXCEPTION WHEN check_violation THEN
			PERFORM ' . log_on('audit', 'was refused') . ';
		END;
	END $$')->{error}, undef, 'a block whose inner block fails');
is(audited('overdraws') . audited('was refused'), '11', 'both rows are there');
is(value('SELECT balance FROM accounts WHERE id = 1'), 90, 'and the outer block has committed');

# from a trigger, for all that is tried
$local->safe_psql('postgres', q{
	CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM conpool.exec('audit', 'INSERT INTO audit (who, what) VALUES ($1, $2)',
			session_user, format('account %s: %s to %s', old.id, old.balance, new.balance));
		RETURN new;
	END $$;
	CREATE TRIGGER audit BEFORE UPDATE ON accounts FOR EACH ROW
		WHEN (session_user <> 'regress_auditor') EXECUTE FUNCTION audit();
});
is($clerk->query('UPDATE accounts SET balance = balance - 500 WHERE id = 2')->{error}, '23514',
	'an update that is refused');
is(audited('account 2: 100 to -400'), 1, 'was audited by a trigger');
$local->safe_psql('postgres', 'DROP TRIGGER audit ON accounts');

# an error over there does no harm to what was audited before, nor here if it is caught
$clerk->query('BEGIN');
value('SELECT ' . log_on('audit', 'once'), $clerk);
$clerk->query('SAVEPOINT s');
my $result = $clerk->query('SELECT ' . log_on('audit', 'once'));
is($result->{error}, '23505', 'an audit row that cannot be written is an error here');
like($result->{message}, qr/unique/, 'which says why');
$clerk->query('ROLLBACK TO s');
value('SELECT ' . log_on('audit', 'twice'), $clerk);
$clerk->query('ROLLBACK');
is(audited('once') . audited('twice'), '11', 'what was written around it stays');

# at the end of a session that dies of it
my $victim = WireClient->new($local, user => 'regress_clerk');
$victim->query('BEGIN');
value('SELECT ' . log_on('audit', 'last words'), $victim);
$victim->hang_up;
wait_for($local, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $victim->{pid}", 'a session has gone');
is(audited('last words'), 1, 'its last words have not');

# --- for contrast: pool_mode "transaction" ----------------------------------------------------

$clerk->query('BEGIN');
value('SELECT ' . log_on('bound', 'bound'), $clerk);
is(audited('bound'), 0, 'with pool_mode "transaction" nobody sees it before COMMIT');
$clerk->query('ROLLBACK');
is(audited('bound'), 0, 'nor after ROLLBACK');

# --- who waits for himself ------------------------------------------------------------------------

my $waits = q{'UPDATE accounts SET balance = 0 WHERE id = 1'};
$clerk->query('BEGIN');
$clerk->query('UPDATE accounts SET balance = 80 WHERE id = 1');
$clerk->query('SAVEPOINT s');
my $begun = time;
$result = $clerk->query("SELECT conpool.exec('audit', $waits)");
my $took = time - $begun;
is($result->{error}, '55P03', 'a statement that waits for a lock of its own session ends by lock_timeout');
like($result->{message}, qr/lock timeout/, 'as the other side says');
cmp_ok($took, '>=', $lock_timeout * 0.9, 'not before');
cmp_ok($took, '<', $soon, 'nor much later');
note sprintf 'figure: a statement waited for its own session for %.3f s with lock_timeout %.1f s', $took, $lock_timeout;
$clerk->query('ROLLBACK TO s');
value('SELECT ' . log_on('audit', 'waited in vain'), $clerk);
is($clerk->query('COMMIT')->{error}, undef, 'the local transaction goes on');
is(value('SELECT balance FROM accounts WHERE id = 1') . audited('waited in vain'), '801', 'and commits');

# Without lock_timeout it waits until somebody intervenes here.
my %intervene = (
	'statement_timeout' => sub { },
	'pg_cancel_backend()' => sub { value("SELECT pg_cancel_backend($clerk->{pid})") });
foreach my $how (sort keys %intervene)
{
	$clerk->query('BEGIN');
	$clerk->query('UPDATE accounts SET balance = 70 WHERE id = 1');
	value(q{SELECT set_config('statement_timeout', '300ms', true)}, $clerk) if $how eq 'statement_timeout';
	$begun = time;
	$clerk->send("SELECT conpool.exec('careless', $waits)");
	wait_for($local, q{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE usename = 'regress_auditor' AND wait_event_type = 'Lock'}, "$how: without lock_timeout it waits")
	  unless $how eq 'statement_timeout';
	$intervene{$how}->();
	is($clerk->result->{error}, '57014', "$how: ends it");
	cmp_ok(time - $begun, '<', $soon, "$how: soon");
	$clerk->query('ROLLBACK');
	wait_for($local, q{SELECT count(*) = 0 FROM pg_stat_activity
		WHERE usename = 'regress_auditor' AND state <> 'idle'}, "$how: on the other side, too");
}
is(value('SELECT balance FROM accounts WHERE id = 1'), 80, 'neither side has changed anything');

# --- the size of its pool -----------------------------------------------------------------------------

# An autonomous transaction within an autonomous transaction is a second connection.
$local->safe_psql('postgres', q{
	CREATE FUNCTION audit_twice(server text, what text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		IF session_user = 'regress_auditor' THEN
			RETURN conpool.exec(server, 'INSERT INTO audit (who, what) VALUES ($1, $2)', session_user, what);
		END IF;
		RETURN (SELECT done FROM conpool.query(server, 'SELECT audit_twice($1, $2)', server, what) AS t(done text));
	END $$;
	CREATE USER MAPPING FOR regress_auditor SERVER audit
		OPTIONS (user 'regress_auditor', password 'audit-secret');
	GRANT USAGE ON FOREIGN SERVER audit TO regress_auditor;
	CREATE USER MAPPING FOR PUBLIC SERVER single
		OPTIONS (user 'regress_auditor', password 'audit-secret');
	DROP USER MAPPING FOR regress_clerk SERVER single;
	GRANT USAGE ON FOREIGN SERVER single TO regress_auditor;
});
is(value(q{SELECT audit_twice('audit', 'nested')}, $clerk), 'INSERT 0 1', 'nested autonomous transactions');
is(audited('nested'), 1, 'write their row');
$begun = time;
$result = $clerk->query(q{SELECT audit_twice('single', 'too deep')});
is($result->{error}, '53300', 'with one connection the inner one waits for what the outer one has');
like($result->{message}, qr/single/, 'which names the pool');
cmp_ok(time - $begun, '<', $soon, 'until checkout_timeout');
is(audited('too deep'), 0, 'and nothing is written');
value('SELECT ' . log_on('single', 'one deep'), $clerk);
is(audited('one deep'), 1, 'one of them is enough for one');

# More sessions than connections wait for each other, and all get there.
my @many = map { WireClient->new($local, user => 'regress_clerk') } 1 .. 12;
foreach my $n (0 .. $#many)
{
	$many[$n]->query('BEGIN');
	$many[$n]->send('SELECT ' . log_on('audit', "one of many: $n"));
}
is(join(' ', grep { defined } map { $_->result->{error} } @many), '', 'many sessions share few connections');
$_->query('ROLLBACK') for @many;
is(value(q{SELECT count(*) FROM audit WHERE what LIKE 'one of many%'}), scalar @many, 'all their rows stay');

# --- its mapping ------------------------------------------------------------------------------------------

$local->safe_psql('postgres', q{
	ALTER USER MAPPING FOR regress_clerk SERVER careless OPTIONS (DROP password);
});
$result = $clerk->query('SELECT ' . log_on('careless', 'no password'));
is($result->{error}, '2F003', 'a mapping without a password is refused');
$local->safe_psql('postgres', 'DROP USER MAPPING FOR regress_clerk SERVER careless');
$result = $clerk->query('SELECT ' . log_on('careless', 'no mapping'));
is($result->{error}, '42704', 'so is to have none');
is(audited('no password') . audited('no mapping'), '00', 'nothing was written that way');

wait_for($local, q{SELECT sum(leased + waiting + connecting) = 0 FROM conpool.pools}, 'all pools are at rest');

done_testing();
