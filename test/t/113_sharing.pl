# Who shares a connection with whom: never two roles with mappings of their own,
# never a superuser with others, nor a lease with another effective role.
use strict;
use warnings;

use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
my @roles = qw(regress_one regress_two);

# Both roles map to the same remote role, with the same password.
$local->safe_psql('postgres', join ';', map { "CREATE ROLE $_ LOGIN" } @roles);
create_server($local, $remote, 'own', for => $roles[0]);
my ($mapping) = q{SERVER own OPTIONS (user 'regress_remote', password 'remote-secret')};
$local->safe_psql('postgres', qq{
	CREATE USER MAPPING FOR $roles[1] $mapping;
	CREATE USER MAPPING FOR postgres $mapping;
	GRANT USAGE ON FOREIGN SERVER own TO PUBLIC});
create_server($local, $remote, 'public', for => 'PUBLIC');
$local->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER public TO PUBLIC');

my $pid = q{SELECT a FROM conpool.query('%s', 'SELECT pg_backend_pid()') AS t(a int)};

sub remote_pid
{
	my ($role, $server) = @_;
	return $local->safe_psql('postgres', sprintf($pid, $server), extra_params => [ '-U', $role ]);
}

# What fails, as SQLSTATE.
sub error_of
{
	my ($role, $sql) = @_;
	my ($status, $out, $err) = $local->psql('postgres', "\\set VERBOSITY sqlstate\n$sql",
		extra_params => [ '-U', $role ]);
	return $err =~ /ERROR:  (\w+)/ ? $1 : "no error: $out";
}

# --- mappings ---------------------------------------------------------------

my %pid = map { $_ => remote_pid($_, 'own') } @roles, 'postgres';
isnt($pid{ $roles[0] }, $pid{ $roles[1] }, 'two roles, two connections');
isnt($pid{$_}, $pid{postgres}, "nor does $_ share with a superuser") for @roles;
is(remote_pid($_, 'own'), $pid{$_}, "$_ finds its own again") for @roles;

my $shared = remote_pid($roles[0], 'public');
is(remote_pid($roles[1], 'public'), $shared, 'a PUBLIC mapping is one pool for all roles');
my $trusted = remote_pid('postgres', 'public');
isnt($trusted, $shared, 'but not for superusers');
isnt(remote_pid($roles[0], 'public'), $trusted, 'and theirs is for nobody else');
is($local->safe_psql('postgres', q{SELECT string_agg(role || ' ' || size, ', ')
	FROM conpool.pools WHERE server = 'public'}), 'public 1, public 1',
	'they are two pools');

# The moment a role becomes superuser, and when it no longer is.
$local->safe_psql('postgres', "ALTER ROLE $roles[0] SUPERUSER");
is(remote_pid($roles[0], 'public'), $trusted, 'a new superuser is one');
$local->safe_psql('postgres', "ALTER ROLE $roles[0] NOSUPERUSER");
is(remote_pid($roles[0], 'public'), $shared, 'a former one is not');

# --- leases -----------------------------------------------------------------

$local->safe_psql('postgres', qq{
	GRANT $roles[1] TO $roles[0];
	CREATE SCHEMA definer;
	GRANT USAGE ON SCHEMA definer TO PUBLIC;
	CREATE FUNCTION definer.pid_on(lease bigint) RETURNS int LANGUAGE sql SECURITY DEFINER AS
		\$\$ SELECT a FROM conpool.query(lease, 'SELECT pg_backend_pid()') AS t(a int) \$\$;
	CREATE FUNCTION definer.pid() RETURNS int LANGUAGE sql SECURITY DEFINER AS
		\$\$ SELECT a FROM conpool.query('own', 'SELECT pg_backend_pid()') AS t(a int) \$\$;
	CREATE FUNCTION definer.lease() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
		\$\$ SELECT conpool.checkout('own', 'session') \$\$;
	ALTER FUNCTION definer.pid_on(bigint) OWNER TO $roles[1];
	ALTER FUNCTION definer.pid() OWNER TO $roles[1];
	ALTER FUNCTION definer.lease() OWNER TO $roles[1]});

my $take = q{SELECT conpool.checkout('own', 'session') AS lease \\gset
};
my $use = q{SELECT conpool.exec(:lease, 'SELECT 1');};
is(error_of($roles[0], $take . $use), "no error: SELECT 1", 'a lease serves who took it');
is(error_of($roles[0], "${take}SET ROLE $roles[1];\n$use"), '42501', 'but no other role after SET ROLE');
is(error_of($roles[0], "${take}SET ROLE $roles[1];\nSELECT conpool.checkin(:lease);"),
	'42501', 'which cannot give it back either');
is(error_of($roles[0], "${take}SET ROLE $roles[1];\nRESET ROLE;\n$use"),
	'no error: SELECT 1', 'nor is it lost');
is(error_of($roles[0], "${take}SELECT definer.pid_on(:lease);"),
	'42501', "a SECURITY DEFINER function cannot use its caller's lease");
is(error_of($roles[0], "SELECT definer.lease() AS lease \\gset\n$use"),
	'42501', 'nor does it lend out its own');
is(error_of('postgres', "SET ROLE $roles[0];\n${take}RESET ROLE;\n$use"),
	'42501', 'a superuser is another role, too');
is($local->safe_psql('postgres', 'SELECT definer.pid()', extra_params => [ '-U', $roles[0] ]),
	$pid{ $roles[1] }, "within the function it is the definer's mapping");

wait_for($local, 'SELECT count(*) = 0 FROM conpool.leases', 'all leases are over');
done_testing();
