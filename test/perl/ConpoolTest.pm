# Servers for conpool's TAP tests. Run them with
#
#     make check SUITES=tap TESTS=001_name
#
# A test looks like this:
#
#     use strict;
#     use warnings;
#     use ConpoolTest;
#     use Test::More;
#
#     my $remote = new_remote('remote');
#     my $local = new_local('local', conf => 'conpool.max_connections = 50');
#     setup_local($local, $remote);           # in database "postgres"
#     create_server($local, $remote, 'one', options => q{max_size '1'});
#     is($local->safe_psql('postgres',
#         q{SELECT * FROM conpool.query('one', 'SELECT 1') AS t(a int)}), '1');
#     wait_for($local, q{SELECT idle = 1 FROM conpool.pools
#                        WHERE server = 'one'}, 'connection is back');
#     is(remote_backends($remote), 1);
#     done_testing();
#
# Nodes are PostgreSQL::Test::Cluster objects, so everything of that class
# works on them: stop, restart, background_psql, wait_for_log ... The superuser
# is "postgres". Nodes end with the test.
package ConpoolTest;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(new_local new_remote setup_local create_server conninfo
  wait_for wait_until wait_for_pool remote_backends count_remote broker_pid
  as_other_user);

# The remote's roles, as in test/setup/remote.sql.
our %password = (
	regress_remote => 'remote-secret',
	regress_remote_two => 'two-secret',
	regress_remote_admin => 'admin-secret');
our $remote_db = 'conpool_remote';

my $setup = $ENV{CONPOOL_SETUP} // 'test/setup';

$ENV{PGUSER} = 'postgres';

# A started node with conpool preloaded.
#   conf => text        more lines for postgresql.conf
#   preload => 0        without conpool in shared_preload_libraries
#   start => 0          do not start it
#   init => {...}       arguments of PostgreSQL::Test::Cluster's init
sub new_local
{
	my ($name, %opt) = @_;
	my $node = _new_node($name, %opt);
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'conpool'")
	  if $opt{preload} // 1;
	$node->append_conf('postgresql.conf', $opt{conf}) if defined $opt{conf};
	$node->start if $opt{start} // 1;
	return $node;
}

# A started node that asks for SCRAM passwords on 127.0.0.1, with the roles and
# the database that test/setup/remote.sql makes. Takes conf and init as above.
#   tls => certificates    of Certificates.pm: it insists on TLS there, and the
#                          functions below ask for it, see use_tls()
sub new_remote
{
	my ($name, %opt) = @_;
	my $node = _new_node($name, %opt);
	$node->append_conf('postgresql.conf', $opt{conf}) if defined $opt{conf};
	$node->start;
	_run_setup($node, 'remote.sql', 'postgres');
	if ($opt{tls})
	{
		Certificates::offer_tls($node, $opt{tls});
		use_tls($node, $opt{tls});
	}
	return $node;
}

# What test/setup/local.sql makes, for this remote: the extension, the servers
# "remote" and "remote_admin" with mappings for "postgres", the schema "test".
sub setup_local
{
	my ($local, $remote, $dbname) = @_;
	my %tls = tls_options($remote);
	_run_setup(
		$local, 'local.sql', $dbname // 'postgres',
		'-v' => 'remote_host=127.0.0.1',
		'-v' => 'remote_port=' . $remote->port,
		map { ('-v' => "remote_$_=$tls{$_}") } sort keys %tls);
	return;
}

# One more server, after CREATE EXTENSION.
#   options => text     more server options, e.g. q{max_size '4'}; those of
#                       use_tls() are left out where this has an sslmode
#   user => name        remote role, regress_remote unless given
#   for => name         local role, CURRENT_USER unless given
#   dbname => name      local database, postgres unless given
#   host => name        127.0.0.1 unless given
sub create_server
{
	my ($local, $remote, $name, %opt) = @_;
	my $user = $opt{user} // 'regress_remote';
	my $for = $opt{for} // 'CURRENT_USER';
	my $host = $opt{host} // '127.0.0.1';
	my $port = $remote->port;
	my $more = $opt{options} ? ", $opt{options}" : '';
	my %tls = $more =~ /\bsslmode\b/ ? () : tls_options($remote);
	$more .= ", $_ '$tls{$_}'" for sort keys %tls;
	$local->safe_psql(
		$opt{dbname} // 'postgres', qq{
		CREATE SERVER $name FOREIGN DATA WRAPPER conpool OPTIONS
			(host '$host', port '$port', dbname '$remote_db' $more);
		CREATE USER MAPPING FOR $for SERVER $name OPTIONS
			(user '$user', password '$password{$user}');
	});
	return;
}

# A connection string for the remote, with password.
sub conninfo
{
	my ($remote, $user) = @_;
	$user //= 'regress_remote';
	my %tls = tls_options($remote);
	return join ' ', 'host=127.0.0.1', 'port=' . $remote->port, "dbname=$remote_db",
	  "user=$user", "password=$password{$user}", map { "$_=$tls{$_}" } sort keys %tls;
}

# Waits until a query on a node returns true; passes or fails as a test. The
# limit is PG_TEST_TIMEOUT_DEFAULT seconds.
sub wait_for
{
	my ($node, $query, $test_name, $dbname) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until($dbname // 'postgres', $query),
		$test_name // "wait for: $query");
}

# Waits until a function returns true; passes or fails as a test.
sub wait_until
{
	my ($condition, $test_name, $limit) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $deadline =
	  time + ($limit // $PostgreSQL::Test::Utils::timeout_default);
	my $reached;
	until ($reached = $condition->())
	{
		last if time > $deadline;
		usleep(20_000);
	}
	return ok($reached, $test_name);
}

# Waits until something is true of a server's pool, in terms of the view
# conpool.pools; passes or fails as a test.
sub wait_for_pool
{
	my ($node, $server, $condition, $test_name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for(
		$node,
		"SELECT $condition FROM conpool.pools WHERE server = '$server'",
		$test_name // "pool $server: $condition");
}

# Process ID of the broker, empty if there is none.
sub broker_pid
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'conpool broker'}
	);
}

# How many backends the remote has for a role, or for all three of ours.
sub remote_backends
{
	my ($remote, $user) = @_;
	my $roles = join ',', map { "'$_'" } $user // keys %password;
	return $remote->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE usename IN ($roles)");
}

# Waits until it has that many; passes or fails as a test.
sub count_remote
{
	my ($remote, $expected, $test_name, $user) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $roles = join ',', map { "'$_'" } $user // keys %password;
	return wait_for(
		$remote,
		"SELECT count(*) = $expected FROM pg_stat_activity
		 WHERE usename IN ($roles)",
		$test_name // "the remote has $expected backends");
}

# Runs code in a child process under another uid, "nobody" unless given, and
# returns its exit status. The caller skips its test unless
# $ENV{CONPOOL_CAN_SETUID} is true: that needs "make check" to run as root.
sub as_other_user
{
	my ($code, $uid) = @_;
	$uid //= getpwnam('nobody') // 65534;
	my $pid = fork() // croak "fork: $!";
	if ($pid == 0)
	{
		require POSIX;
		($<, $>) = ($uid, $uid);
		POSIX::_exit(99) unless $< == $uid && $> == $uid;
		my $status = eval { $code->() } // 98;
		warn $@ if $@;
		POSIX::_exit($status);
	}
	waitpid($pid, 0);
	return $? >> 8;
}

sub _new_node
{
	my ($name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my %init = %{ $opt{init} // {} };
	push @{ $init{extra} }, '-U', 'postgres', '-E', 'UTF8', '--no-locale';
	$node->init(%init);
	$node->append_conf(
		'postgresql.conf', q{
listen_addresses = '127.0.0.1'
password_encryption = 'scram-sha-256'
max_connections = 100
});
	my $hba = $node->data_dir . '/pg_hba.conf';
	unlink $hba;
	append_to_file($hba, <<'HBA');
local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
HBA
	return $node;
}

# By psql itself: the files have variables and meta-commands in them.
sub _run_setup
{
	my ($node, $file, $dbname, @args) = @_;
	run_log(
		[
			'psql', '-Xq', @args,
			'-d' => $node->connstr($dbname),
			'-f' => "$setup/$file"
		]) or BAIL_OUT("$file failed on node " . $node->name);
	return;
}

# --- what runs beside the test ------------------------------------------------

push @EXPORT, qw(start_worker stop_workers);

my %stop;    # per worker: the pipe whose end tells it to stop

# Runs code in a child process until stop_workers() or the end of the test. It
# is given a function that says whether to go on, and returns name => number; if
# it dies that counts as "died: why".
sub start_worker
{
	my ($code) = @_;
	pipe(my $from, my $to) or croak "pipe: $!";
	pipe(my $stopped, my $stop) or croak "pipe: $!";
	my $pid = fork() // croak "fork: $!";
	if ($pid == 0)
	{
		require IO::Select;
		require POSIX;
		close $_ for $stop, map { $_->{stop} } values %stop;
		my $select = IO::Select->new($stopped);
		my %report = eval {
			$code->(sub { !$select->can_read(0) });
		};
		$report{ 'died: ' . $@ =~ s/\s+/ /gr } = 1 if $@;
		print $to map { "$_\t$report{$_}\n" } keys %report;
		close $to;
		POSIX::_exit(0);
	}
	close $to;
	close $stopped;
	my $worker = { pid => $pid, from => $from, stop => $stop };
	$stop{$pid} = $worker;
	return $worker;
}

# Has workers stop; the sum of what they returned, name => number.
sub stop_workers
{
	my (@workers) = @_;
	my %sum;
	close(delete($stop{ $_->{pid} })->{stop}) for @workers;
	foreach my $worker (@workers)
	{
		my $from = $worker->{from};
		while (my $line = <$from>)
		{
			$sum{$1} += $2 if $line =~ /^(.*)\t(-?[\d.]+)$/;
		}
		waitpid $worker->{pid}, 0;
	}
	return \%sum;
}

# --- loops: load that costs no process of ours ---------------------------------

push @EXPORT, qw(create_loop start_loop stop_loop finish_loop);

# Loops: sessions each of which has a statement executed remotely, again and
# again.
#
#     create_loop($local);              # once, after setup_local
#     my @loops = start_loop($local, 'one', sessions => 4, seconds => 3);
#     my $result = finish_loop(@loops);  # or stop_loop($local) before
#     $result->{done}      how often the statement succeeded
#     $result->{longest}   the longest time that one took, in seconds
#     $result->{errors}    what went wrong, one line each
sub create_loop
{
	my ($node, $dbname) = @_;
	$node->safe_psql(
		$dbname // 'postgres', q{
		CREATE TABLE test.loop_stop (at timestamptz);
		GRANT SELECT ON test.loop_stop TO PUBLIC;
		CREATE FUNCTION test.loop(server text, statement text, seconds float8,
								  OUT done int, OUT longest float8, OUT errors text)
		LANGUAGE plpgsql AS $$
		DECLARE
			begun constant timestamptz := clock_timestamp();
			last timestamptz := begun;
		BEGIN
			done := 0;
			longest := 0;
			errors := '';
			WHILE last < begun + seconds * interval '1 s' AND
				NOT EXISTS (SELECT FROM test.loop_stop WHERE at > begun)
			LOOP
				BEGIN
					PERFORM conpool.exec(server, statement);
					done := done + 1;
				EXCEPTION WHEN OTHERS THEN
					errors := left(errors || sqlstate || ': ' || sqlerrm || e'\n', 10000);
				END;
				longest := greatest(longest, extract(epoch FROM clock_timestamp() - last));
				last := clock_timestamp();
			END LOOP;
		END $$;
	});
	return;
}

# Starts it; returns one client per session.
#   sessions => number   1 unless given
#   seconds => number    60 unless given
#   statement => text    a sleep of 2 ms unless given
#   user => name         local role, postgres unless given
sub start_loop
{
	my ($node, $server, %opt) = @_;
	require WireClient;
	my $statement = $opt{statement} // 'SELECT 1 FROM pg_sleep(0.002)';
	my $seconds = $opt{seconds} // 60;
	my @clients =
	  map { WireClient->new($node, user => $opt{user} // 'postgres') }
	  1 .. $opt{sessions} // 1;
	$_->send("SELECT * FROM test.loop('$server', \$loop\$$statement\$loop\$, $seconds)")
	  for @clients;
	return @clients;
}

# Has the loops that run on a node end with the statement they are at.
sub stop_loop
{
	my ($node, $dbname) = @_;
	$node->safe_psql($dbname // 'postgres',
		'INSERT INTO test.loop_stop VALUES (clock_timestamp())');
	return;
}

# Waits for the end of the clients' loops, and sums up.
sub finish_loop
{
	my %sum = (done => 0, longest => 0, errors => '');
	foreach my $client (@_)
	{
		my $result = $client->result;
		my ($done, $longest, $errors) =
		  @{ $result->{rows}[0] // [ 0, 0, "$result->{error}: $result->{message}\n" ] };
		$sum{done} += $done;
		$sum{longest} = $longest if $longest > $sum{longest};
		$sum{errors} .= $errors;
		$client->hang_up;
	}
	return \%sum;
}

# --- processes and load ---------------------------------------------------------

push @EXPORT, qw(server_processes start_load);

# Process IDs of a server's processes with that title, e.g. "conpool dialer",
# which is in no view. Needs /proc.
sub server_processes
{
	my ($node, $title) = @_;
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @found;
	foreach my $dir (glob '/proc/[0-9]*')
	{
		# any of them may be gone meanwhile
		my ($parent) = (eval { slurp_file("$dir/stat") } // '') =~ /.*\) \S (\d+)/s;
		next unless ($parent // 0) == $postmaster;
		push @found, $dir =~ /(\d+)$/
		  if (eval { slurp_file("$dir/cmdline") } // '') =~ /\b\Q$title\E\b/;
	}
	return @found;
}

# Sessions, each a worker of its own, that repeat a query on a pool until
# stop_workers(). These are counted:
#   right, wrong        answers
#   lost                sessions that ended, and were begun anew
#   SQLSTATE: message   errors
# Options: dbname; fresh => 1 for a new session with every query.
sub start_load
{
	my ($node, $sessions, $server, %opt) = @_;
	require WireClient;
	return map
	{
		my $first = $_ * 1_000_000;
		start_worker(sub { _load($node, $server, $first, \%opt, @_) });
	} 1 .. $sessions;
}

sub _load
{
	my ($node, $server, $n, $opt, $goes_on) = @_;
	my %count;
	my $client;
	while ($goes_on->())
	{
		usleep(5_000);
		$client = undef if $opt->{fresh};
		$client //= eval { WireClient->new($node, dbname => $opt->{dbname} // 'postgres') };
		next unless $client;    # the server restarts
		$n++;
		my $result = $client->query(
			"SELECT * FROM conpool.query('$server', 'SELECT \$1::int', $n) AS t(a int)");
		if ($result->{lost})
		{
			$count{lost}++;
			$client = undef;
		}
		elsif ($result->{error})
		{
			$count{"$result->{error}: $result->{message}"}++;
		}
		else
		{
			$count{ ($result->{rows}[0][0] // '') eq $n ? 'right' : 'wrong' }++;
		}
	}
	return %count;
}

# --- TLS ------------------------------------------------------------------------

push @EXPORT, qw(use_tls tls_options process_memory);

my %tls;    # per node

# From now on create_server(), conninfo() and setup_local() ask for TLS and a
# certificate of that authority, when they are about this remote.
sub use_tls
{
	my ($remote, $certificates) = @_;
	require Certificates;
	$tls{ $remote->name } =
	  { sslmode => 'verify-full', sslrootcert => $certificates->path('root.crt') };
	return;
}

# The options by which they do that, name => value.
sub tls_options
{
	my ($remote) = @_;
	return %{ $tls{ $remote->name } // {} };
}

# Of a process, in kB: memory of its own (own), its share of all that it has
# mapped (share), and all of that (all). Needs /proc.
sub process_memory
{
	my ($pid) = @_;
	my %kb;
	my $status = slurp_file("/proc/$pid/status");
	($kb{own}) = $status =~ /^RssAnon:\s+(\d+)/m;
	($kb{all}) = $status =~ /^VmRSS:\s+(\d+)/m;
	($kb{share}) = slurp_file("/proc/$pid/smaps_rollup") =~ /^Pss:\s+(\d+)/m;
	return \%kb;
}

1;
