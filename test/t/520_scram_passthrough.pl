# SCRAM pass-through: a session logs in at the remote with the keys by which its
# client has logged in here. A connection serves nobody with other keys, and the
# keys show up nowhere.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $remote = new_remote('remote');
if ($remote->pg_version < 18)
{
	plan skip_all => 'SCRAM pass-through needs PostgreSQL 18';
}
my $local = new_local('local', conf => q{
log_min_messages = debug5
log_error_verbosity = verbose
log_statement = none
log_min_error_statement = panic
});
setup_local($local, $remote);

my $port = $local->port;
my %password = map { $_ => "$_-secret" } qw(alice bob carol);

# The remote gets the very secrets that the local server has.
sub copy_secrets
{
	foreach my $role (@_)
	{
		my $secret = $local->safe_psql('postgres',
			"SELECT rolpassword FROM pg_authid WHERE rolname = '$role'");
		$remote->safe_psql('postgres', "ALTER ROLE $role PASSWORD '$secret'");
	}
	return;
}

foreach my $role (sort keys %password)
{
	$_->safe_psql('postgres', "CREATE ROLE $role LOGIN PASSWORD '$password{$role}'")
	  for $local, $remote;
}
copy_secrets(keys %password);
$local->safe_psql('postgres', 'GRANT alice TO bob');

# A server that passes keys through; options of the mapping for a role.
sub passing_server
{
	my ($name, $for, $mapping, $options) = @_;
	$options = $options ? ", $options" : '';
	$local->safe_psql('postgres', sprintf q{
		CREATE SERVER %1$s FOREIGN DATA WRAPPER conpool OPTIONS
			(host '127.0.0.1', port '%2$s', dbname 'postgres', use_scram_passthrough 'true' %5$s);
		GRANT USAGE ON FOREIGN SERVER %1$s TO PUBLIC;
		CREATE USER MAPPING FOR %3$s SERVER %1$s OPTIONS (%4$s);
	}, $name, $remote->port, $for, $mapping, $options);
	return;
}

# Where a role logs in by SCRAM, or, with 'trust', without a password.
sub conninfo_of
{
	my ($role, $how) = @_;
	return ($how // 'scram') eq 'trust' ?
	  sprintf("host=%s port=$port dbname=postgres user=$role", $local->host) :
	  "host=127.0.0.1 port=$port dbname=postgres user=$role password=$password{$role}";
}

my $seen = '';

# What a statement in a new session says, or its error with SQLSTATE.
sub result_of
{
	my ($role, $sql, $how) = @_;
	my ($status, $out, $err) = $local->psql('postgres', "\\set VERBOSITY verbose\n$sql",
		connstr => conninfo_of($role, $how));
	$seen .= "$out\n$err\n";
	return $err =~ /ERROR:  (\w+): (.*(?:\n(?:DETAIL|HINT):.*)*)/ ? "$1: $2" : $out;
}

# A session that stays.
sub session_of
{
	my ($role, $how) = @_;
	return $local->background_psql('postgres', on_error_stop => 0,
		extra_params => [ '-d', conninfo_of($role, $how) ]);
}

my $who = q{SELECT * FROM conpool.query('%s', 'SELECT current_user') AS t(a text)};
my $pid = q{SELECT * FROM conpool.query('%s', 'SELECT pg_backend_pid()') AS t(a int)};

# --- with keys, and without ---------------------------------------------------------

passing_server('own', 'alice', q{user 'alice'});
is(result_of('alice', sprintf $who, 'own'), 'alice', 'logged in with the keys of the session');
my $first = result_of('alice', sprintf $pid, 'own');
is(result_of('alice', sprintf $pid, 'own'), $first, 'the next session uses the same connection');
is($local->safe_psql('postgres', q{SELECT role, size, idle FROM conpool.pools WHERE server = 'own'}),
	'alice|1|1', 'from the pool of the role');

my $keyless = result_of('alice', sprintf($who, 'own'), 'trust');
like($keyless, qr/^2F003: password is required/, 'no password and no keys');
like($keyless, qr/DETAIL: .*pass-through is not possible.*did not log in by SCRAM/, 'it is said why');
like($keyless, qr/HINT: .*Log in by SCRAM, or add option "password"/, 'and what to do');

$local->safe_psql('postgres',
	q{ALTER USER MAPPING FOR alice SERVER own OPTIONS (ADD password 'alice-secret')});
my $by_password = result_of('alice', sprintf($pid, 'own'), 'trust');
like($by_password, qr/^\d+$/, 'the password of the mapping is for those who have no keys');
isnt($by_password, $first, 'by a connection that was opened with it');
is(result_of('alice', sprintf $pid, 'own'), $first, 'not for those who have');
$local->safe_psql('postgres',
	q{ALTER USER MAPPING FOR alice SERVER own OPTIONS (SET password 'wrong')});
is(result_of('alice', sprintf $pid, 'own'), $first, 'for whom it may be a wrong one');
$local->safe_psql('postgres',
	q{ALTER USER MAPPING FOR alice SERVER own OPTIONS (DROP password)});

# --- other keys -----------------------------------------------------------------------

like(result_of('bob', 'SET ROLE alice; ' . sprintf $who, 'own'),
	qr/^2F003.*\n.*runs with the rights of another role/,
	'a member of the role does not send hers the keys of his own');
like(result_of('bob', 'SET ROLE alice; ' . sprintf($who, 'own'), 'trust'), qr/^2F003/,
	'or none');
is(result_of('alice', sprintf $pid, 'own'), $first, 'her connection was not his');

my $old = session_of('alice');
is($old->query_safe(sprintf $pid, 'own'), $first, 'a session');
$password{alice} = 'alice-other-secret';
$local->safe_psql('postgres', "ALTER ROLE alice PASSWORD '$password{alice}'");
like(result_of('alice', sprintf $who, 'own'), qr/^28P01/,
	'a new password: the old connection is not for the new keys');
copy_secrets('alice');
my $second = result_of('alice', sprintf $pid, 'own');
like($second, qr/^\d+$/, 'once the remote has that secret');
isnt($second, $first, 'a new connection');
is($old->query_safe(sprintf $pid, 'own'), $first, 'the old keys still have theirs');
$old->quit;

# --- the mapping for PUBLIC ------------------------------------------------------------

passing_server('everybody', 'PUBLIC', q{user 'alice'});
my $alices = result_of('alice', sprintf $pid, 'everybody');
like($alices, qr/^\d+$/, 'by the mapping for PUBLIC');
like(result_of('bob', sprintf $pid, 'everybody'), qr/^28P01/, 'others lack the keys for that user');
is(result_of('alice', sprintf $pid, 'everybody'), $alices, 'and do not disturb');
is($local->safe_psql('postgres', q{SELECT role, size FROM conpool.pools
	WHERE server = 'everybody' ORDER BY role}), "alice|1\nbob|0", 'each role has a pool of its own');

# The reader has no keys; it still brings the options, and closes nothing.
$local->safe_psql('postgres', q{ALTER SERVER everybody OPTIONS (ADD max_size '7')});
wait_for($local, q{SELECT count(*) = 2 AND min(max_size) = 7 AND max(max_size) = 7
	FROM conpool.pools WHERE server = 'everybody'}, 'pools get new options');
is(result_of('alice', sprintf $pid, 'everybody'), $alices, 'connections stay');
$local->safe_psql('postgres', q{ALTER SERVER own OPTIONS (ADD max_size '7')});
wait_for_pool($local, 'own', 'max_size = 7');
is(result_of('alice', sprintf $pid, 'own'), $second, 'those of a mapping of its own, too');

$local->safe_psql('postgres', q{ALTER USER MAPPING FOR PUBLIC SERVER everybody OPTIONS
	(ADD use_scram_passthrough 'false', ADD password 'alice-other-secret')});
wait_for($local, q{SELECT count(*) = 0 FROM conpool.pools WHERE server = 'everybody'},
	'the mapping decides before the server: the pools of roles go');
is(result_of($_, sprintf $who, 'everybody'), 'alice', "all use one, $_ too") for qw(alice bob);
is($local->safe_psql('postgres', q{SELECT role FROM conpool.pools WHERE server = 'everybody'}),
	'public', 'which is that for PUBLIC');
$local->safe_psql('postgres', q{ALTER USER MAPPING FOR PUBLIC SERVER everybody OPTIONS
	(SET use_scram_passthrough 'true')});
is(result_of('alice', sprintf $who, 'everybody'), 'alice', 'and back');
wait_for($local, q{SELECT string_agg(role, ' ') = 'alice' FROM conpool.pools
	WHERE server = 'everybody'}, 'the pool for PUBLIC goes');
$local->safe_psql('postgres', 'CREATE ROLE dave LOGIN; GRANT alice TO dave');
like(result_of('dave', sprintf($who, 'everybody'), 'trust'), qr/^alice$/, 'a role without keys');
$local->safe_psql('postgres', 'DROP ROLE dave');
wait_for($local, q{SELECT string_agg(role, ' ') = 'alice' FROM conpool.pools
	WHERE server = 'everybody'}, 'a dropped role has no pool');

# --- rights of others ---------------------------------------------------------------------

# Whoever owns a function could send the keys of its callers to a remote of his own.
$local->safe_psql('postgres', q{
	CREATE FUNCTION trap() RETURNS text SECURITY DEFINER LANGUAGE sql AS
		$$SELECT * FROM conpool.query('trapping', 'SELECT current_user') AS t(a text)$$;
	ALTER FUNCTION trap() OWNER TO bob;
});
passing_server('trapping', 'bob', q{user 'alice'});
my $trapped = result_of('alice', 'SELECT trap()');
like($trapped, qr/^2F003/, 'a function with the rights of its owner does not get the keys');
like($trapped, qr/DETAIL: .*runs with the rights of another role/, 'it is said why');
$local->safe_psql('postgres', q{ALTER USER MAPPING FOR bob SERVER trapping OPTIONS (SET user 'bob')});
is(result_of('bob', 'SELECT trap()'), 'bob', 'but when it is its owner who calls it');
is(result_of('bob', 'SELECT ' . join ', ', ('trap()') x 2), 'bob|bob', 'again and again');
my $both = session_of('bob');
is($both->query_safe(sprintf $who, 'trapping'), 'bob', 'the owner of the keys');
$both->query_safe(q{SET ROLE alice});
like($both->query(q{SELECT trap()}) . $both->{stderr}, qr/password is required/,
	'what he has opened in this session is not for such a function');
$both->quit;

# Nor does whoever owns a server get what would let him in elsewhere.
$local->safe_psql('postgres', q{
	GRANT USAGE ON FOREIGN DATA WRAPPER conpool TO bob;
	ALTER SERVER trapping OWNER TO bob;
	CREATE USER MAPPING FOR alice SERVER trapping OPTIONS (user 'alice');
	ALTER SERVER trapping OPTIONS (ADD channel_binding 'disable');
});
like(result_of('alice', sprintf $who, 'trapping'), qr/channel binding required/,
	'keys go to a server of somebody else with channel binding only');
$local->safe_psql('postgres', q{ALTER SERVER trapping OPTIONS (DROP channel_binding)});
is(result_of('bob', sprintf $who, 'trapping'), 'bob', 'he himself does without');

# --- remotes that do not ask for SCRAM ------------------------------------------------------

my $hba = $remote->data_dir . '/pg_hba.conf';
my $rules = slurp_file($hba);
foreach my $method (qw(trust password md5))
{
	unlink $hba;
	append_to_file($hba, "host all carol 127.0.0.1/32 $method\n$rules");
	$remote->reload;
	passing_server("remote_$method", 'carol', q{user 'carol'});
	# a secret for SCRAM makes SCRAM of md5
	my $expected = $method eq 'md5' ? qr/^carol$/ : qr/authentication method requirement "scram-sha-256" failed/;
	like(result_of('carol', sprintf $who, "remote_$method"), $expected, "a remote that wants $method");
	$local->safe_psql('postgres', qq{CREATE USER MAPPING FOR alice SERVER remote_$method
		OPTIONS (user 'carol', password_required 'false')});
	like(result_of('alice', sprintf $who, "remote_$method"), $method eq 'md5' ? qr/^28P01/ : $expected,
		'also where no password is required');
}
unlink $hba;
append_to_file($hba, $rules);
$remote->reload;

# --- ahead of demand -------------------------------------------------------------------------

passing_server('ahead', 'carol', q{user 'carol'}, q{min_size '2'});
wait_for_pool($local, 'ahead', q{upkeep_error_sqlstate = '0A000' AND
	upkeep_error ~ 'no connections are opened ahead of demand with SCRAM pass-through.*session.*min_size'});
is(result_of('carol', sprintf $who, 'ahead'), 'carol', 'those who ask get theirs');
like(result_of('carol', q{SELECT string_agg(step || ': ' || detail, E'\n')
	FROM conpool.diagnose('ahead') WHERE NOT ok}),
	qr/^pool: [^\n]*min_size is not reached [^\n]* SCRAM pass-through[^\n]*$/, 'diagnose says so, and no more');

# --- servers of other wrappers ----------------------------------------------------------------

foreach my $wrapper (qw(postgres_fdw dblink))
{
	my $name = $wrapper eq 'dblink' ? 'dblink_fdw' : $wrapper;
	$local->safe_psql('postgres', sprintf q{
		CREATE EXTENSION %1$s;
		CREATE SERVER of_%2$s FOREIGN DATA WRAPPER %2$s OPTIONS
			(host '127.0.0.1', port '%3$s', dbname 'postgres', use_scram_passthrough 'true');
		CREATE SERVER refers_to_%2$s FOREIGN DATA WRAPPER conpool OPTIONS (server 'of_%2$s');
		GRANT USAGE ON FOREIGN SERVER of_%2$s, refers_to_%2$s TO PUBLIC;
		CREATE USER MAPPING FOR carol SERVER of_%2$s OPTIONS (user 'carol');
	}, $wrapper, $name, $remote->port);
	is(result_of('carol', sprintf $who, $_), 'carol', $_) for "of_$name", "refers_to_$name";
	like(result_of('carol', sprintf($who, $_), 'trust'), qr/^2F003.*\n.*did not log in by SCRAM/,
		"$_ without keys")
	  for "of_$name", "refers_to_$name";
}

# --- through a tunnel ---------------------------------------------------------------------------

my $secure = new_remote('secure', tls => Certificates->new);
$secure->safe_psql('postgres', sprintf q{CREATE ROLE carol LOGIN PASSWORD '%s'},
	$local->safe_psql('postgres', q{SELECT rolpassword FROM pg_authid WHERE rolname = 'carol'}));
my %tls = tls_options($secure);
passing_server('encrypted', 'carol', q{user 'carol'}, join ', ', q{channel_binding 'require'},
	map { "$_ '$tls{$_}'" } sort keys %tls);
$local->safe_psql('postgres', sprintf q{ALTER SERVER encrypted OPTIONS (SET port '%s')},
	$secure->port);
my $carols = result_of('carol', sprintf $pid, 'encrypted');
like($carols, qr/^\d+$/, 'encrypted');
is(result_of('carol', sprintf $pid, 'encrypted'), $carols, 'and shared');
is(result_of('carol', q{SELECT tls_version IS NOT NULL AND tunnel IS NOT NULL
	FROM conpool.connections WHERE server = 'encrypted'}), 't', 'through a tunnel');
like(result_of('carol', sprintf($who, 'encrypted'), 'trust'), qr/^2F003/, 'not without keys');
$local->safe_psql('postgres', 'GRANT carol TO bob');
like(result_of('bob', 'SET ROLE carol; ' . sprintf $who, 'encrypted'), qr/^2F003/, 'nor with others');

# --- nobody's own options -----------------------------------------------------------------------

foreach my $option (qw(scram_client_key scram_server_key sslkeylogfile))
{
	like(result_of('postgres', "ALTER SERVER own OPTIONS (ADD $option '/tmp/x')", 'trust'),
		qr/^HV00D/, "$option on a server");
	like(result_of('postgres', "ALTER USER MAPPING FOR alice SERVER own OPTIONS (ADD $option '/tmp/x')",
		'trust'), qr/^HV00D/, 'on a mapping');
	like(result_of('postgres', "SELECT conpool.exec('host=127.0.0.1 $option=x', 'SELECT 1')", 'trust'),
		qr/^22023: option "$option" is not allowed in a connection string/, 'in a connection string');
}

# --- where keys must not be -----------------------------------------------------------------------

$seen .= result_of('postgres', "SELECT * FROM conpool.$_", 'trust')
  for qw(pools connections leases stat_pools stat_errors events);
my %key = map { $_ => $local->safe_psql('postgres',
	"SELECT split_part(rolpassword, ':', 3) FROM pg_authid WHERE rolname = '$_'") } keys %password;
$local->stop;
my $log = slurp_file($local->logfile);
ok($log =~ /DEBUG:  /, 'the log says a lot');
foreach my $role (sort keys %key)
{
	is(length $key{$role}, 44, "the key of $role");
	is(join("\n", $seen =~ /^.*\Q$key{$role}\E.*$/mg), '', 'was not shown');
	is(join("\n", $log =~ /^.*\Q$key{$role}\E.*$/mg), '', 'nor logged');
}

done_testing();
