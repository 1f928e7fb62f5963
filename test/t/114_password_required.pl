# Where a remote asks for no password it trusts this server, not its users: a
# non-superuser gets no such connection, neither a new one nor another's.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);

# The remote trusts one of its roles.
my $hba = $remote->data_dir . '/pg_hba.conf';
my $rules = slurp_file($hba);
open my $file, '>', $hba or die "$hba: $!";
print $file "host all regress_remote_two 127.0.0.1/32 trust\n$rules";
close $file;
$remote->reload;

my $role = 'regress_user';
$local->safe_psql('postgres', "CREATE ROLE $role LOGIN");
create_server($local, $remote, 'trusting', user => 'regress_remote_two', for => 'PUBLIC');
create_server($local, $remote, 'asking', for => $role);
$local->safe_psql('postgres', "GRANT USAGE ON FOREIGN SERVER trusting, asking TO PUBLIC");

# What a statement says, or its error with SQLSTATE.
sub result_of
{
	my ($as, $sql) = @_;
	my ($status, $out, $err) = $local->psql('postgres',
		"\\set VERBOSITY verbose\n$sql", extra_params => [ '-U', $as ]);
	return $err =~ /ERROR:  (\w+): (.*)/ ? "$1: $2" : $out;
}

my $refused = '2F003: password is required';
my $query = q{SELECT conpool.exec('trusting', 'SELECT 1')};
my $string = sprintf q{SELECT conpool.exec('%s', 'SELECT 1')},
  conninfo($remote, 'regress_remote_two');

is(result_of($role, $query), $refused, 'a mapping with a password that is not asked for');
is(result_of($role, $string), $refused, 'a connection string with one');
count_remote($remote, 0, 'no such connection is kept', 'regress_remote_two');
is($local->safe_psql('postgres', 'SELECT sum(size), sum(connects), sum(connect_failures)
	FROM conpool.pools JOIN conpool.stat_pools USING (server, database, role)
	WHERE role IN (\'public\', \'regress_user\')'), '0|0|2', 'both count as failed');

is(result_of('postgres', $query), 'SELECT 1', 'a superuser may use it');
count_remote($remote, 1, 'and that connection is kept', 'regress_remote_two');
is(result_of($role, $query), $refused, 'but not for others');
is(result_of('postgres', "SET ROLE $role; $query"), $refused, 'nor as one of them');

# --- no password at all -----------------------------------------------------

my $port = $remote->port;
$local->safe_psql('postgres', qq{
	ALTER USER MAPPING FOR PUBLIC SERVER trusting OPTIONS (DROP password);
	GRANT USAGE ON FOREIGN DATA WRAPPER conpool TO $role});
is(result_of($role, $query), $refused, 'a mapping without a password');
is(result_of($role, $string =~ s/ password=[^']+//r), $refused, 'a string without one');

# --- unless a superuser says so ---------------------------------------------

my $set = q{USER MAPPING FOR %s SERVER %s OPTIONS (%s password_required 'false')};
$local->safe_psql('postgres', "ALTER SERVER trusting OWNER TO $role");
like(result_of($role, 'ALTER ' . sprintf $set, 'PUBLIC', 'trusting', 'ADD'),
	qr/^42501:/, 'the owner of a server may not waive it');
like(result_of($role, 'CREATE ' . sprintf($set, $role, 'trusting', "user 'regress_remote_two',")),
	qr/^42501:/, 'nor with a new mapping');
$local->safe_psql('postgres', 'ALTER ' . sprintf $set, 'PUBLIC', 'trusting', 'ADD');
is(result_of($role, $query), 'SELECT 1', 'a superuser may');
$local->safe_psql('postgres', 'ALTER USER MAPPING FOR PUBLIC SERVER trusting OPTIONS
	(SET password_required \'true\')');
is(result_of($role, $query), $refused, 'and may take that back');

# --- the server's own password ----------------------------------------------

# .pgpass and the environment are the server's, not its users'.
is(result_of($role, q{SELECT conpool.exec('asking', 'SELECT 1')}), 'SELECT 1', 'an own password will do');
$local->safe_psql('postgres', "ALTER USER MAPPING FOR $role SERVER asking OPTIONS (DROP password)");
my $passfile = $local->basedir . '/passfile';
append_to_file($passfile, "*:*:*:regress_remote:remote-secret\n");
chmod 0600, $passfile;
{
	local $ENV{PGPASSFILE} = $passfile;
	local $ENV{PGPASSWORD} = 'remote-secret';
	$local->restart;
}
is(result_of($role, q{SELECT conpool.exec('asking', 'SELECT 1')}), $refused,
	'a password file of the server will not');
$local->safe_psql('postgres', qq{
	CREATE USER MAPPING FOR postgres SERVER asking OPTIONS (user 'regress_remote')});
is(result_of('postgres', q{SELECT conpool.exec('asking', 'SELECT 1')}), 'SELECT 1',
	'except for superusers');

done_testing();
