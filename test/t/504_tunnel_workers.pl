# conpool.tunnel_workers: several tunnels share the connections, and each that ends
# takes only its own along; with none, by the setting or for lack of OpenSSL when
# conpool was built, encrypted connections are unshared, and whoever asks learns why.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

plan skip_all => 'there is no /proc' unless -d '/proc/self/fd';
plan skip_all => 'needs openssl' if system('openssl version >/dev/null 2>&1') != 0;

my $certificates = Certificates->new;
my $remote = new_remote('remote', tls => $certificates);
my $local = new_local('local', conf => 'conpool.tunnel_workers = 3');
setup_local($local, $remote);
# one after the other, so that it is known how they are spread
create_server($local, $remote, 'spread',
	options => q{min_size '9', max_size '9', connect_concurrency '1'});

my $query = q{SELECT * FROM conpool.query(%s,
	'SELECT pid, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()') AS t(pid int, ssl bool)};
my $spread = q{SELECT string_agg(tunnel || ':' || n, ' ' ORDER BY tunnel) FROM
	(SELECT tunnel, count(*) AS n FROM conpool.connections WHERE server = 'spread' GROUP BY tunnel) AS t};

sub run
{
	my ($sql, $node) = @_;
	return ($node // $local)->safe_psql('postgres', $sql);
}

# --- three ------------------------------------------------------------------------------

wait_for_pool($local, 'spread', 'idle = 9 AND tunnelled = 9', 'three: the pool is filled');
is(run($spread), '1:3 2:3 3:3', 'three: the connections are spread evenly');
is( run(q{SELECT string_agg(concat_ws(' ', tunnel, connections, opened, failed), ', ' ORDER BY tunnel)
		FROM conpool.tunnels}),
	'1 3 3 0, 2 3 3 0, 3 3 3 0', 'three: the view has them');
is( run(q{SELECT count(DISTINCT pid) || ' ' || bool_and(started_at <= now()) FROM conpool.tunnels}),
	'3 true', 'three: each is a process');
foreach my $number (1 .. 3)
{
	is(join(' ', server_processes($local, "conpool tunnel $number")),
		run("SELECT pid FROM conpool.tunnels WHERE tunnel = $number"), "three: number $number is that process");
}

# all of them work
my $session = WireClient->new($local);
my @leases = map { $session->query(q{SELECT conpool.checkout('spread', 'session')})->{rows}[0][0] } 1 .. 9;
my $bytes = run(q{SELECT array_agg(bytes_received ORDER BY tunnel) FROM conpool.tunnels});
my %pid = map { $_ => $session->query(sprintf $query, $_)->{rows}[0][0] } @leases;
wait_for($local, qq{SELECT bool_and(bytes_received > ('$bytes'::bigint[])[tunnel] AND bytes_sent > 0 AND cpu_time > 0)
	FROM conpool.tunnels}, 'three: each passes bytes, and counts them');

# --- one of them ends --------------------------------------------------------------------

# and does not come back for a while
my $socket = $local->data_dir . '/pg_stat_tmp/conpool.tunnel.2';
rename $socket, "$socket.old" or die "rename: $!";
mkdir $socket or die "mkdir: $!";
my %tunnel = split /[|\n]/, run('SELECT tunnel, pid FROM conpool.tunnels');
my %lost = map { $_ => 1 } split /\n/, run(q{SELECT remote_pid FROM conpool.connections
	WHERE server = 'spread' AND tunnel = 2});
is(scalar keys %lost, 3, 'one ends: it has three connections');
kill 'TERM', $tunnel{2};
wait_for($local, q{SELECT string_agg(concat_ws(' ', tunnel, connections, pid), ', ' ORDER BY tunnel) =
	'1 3 }. $tunnel{1} . q{, 2 0, 3 3 } . $tunnel{3} . q{' FROM conpool.tunnels}, 'one ends: the view tells');
foreach my $lease (@leases)
{
	my $result = $session->query(sprintf $query, $lease);
	my $pid = $pid{$lease};
	is($result->{error} // $result->{rows}[0][0], $lost{$pid} ? '08006' : $pid,
		'one ends: ' . ($lost{$pid} ? 'its own are lost' : 'the others go on'));
	$session->query("SELECT conpool.checkin($lease)");
}
my $other = WireClient->new($local);
my @got = map { $other->query(sprintf $query, q{'spread'}) } 1 .. 2;
is_deeply([ map { @{ $_->{notices} } } @got ], [], 'one ends: nobody is warned');
wait_for_pool($local, 'spread', 'idle = 9 AND tunnelled = 9', 'one ends: the pool is filled');
like(run($spread), qr/^1:[45] 3:[45]$/, 'one ends: through the others');

rmdir $socket or die "rmdir: $!";
unlink "$socket.old";
wait_for($local, 'SELECT count(pid) = 3 FROM conpool.tunnels', 'one ends: it comes back');
is(run('SELECT pid FROM conpool.tunnels WHERE tunnel <> 2 ORDER BY tunnel'), "$tunnel{1}\n$tunnel{3}",
	'one ends: the others have gone on');
run(q{ALTER SERVER spread OPTIONS (SET min_size '12', SET max_size '12')});
wait_for_pool($local, 'spread', 'idle = 12 AND tunnelled = 12', 'one ends: more connections');
like(run($spread), qr/\b2:3\b/, 'one ends: go through it');

# --- what fails is counted -----------------------------------------------------------------

create_server($local, $remote, 'failing', options => q{sslmode 'verify-ca', sslrootcert '/nonexistent'});
like($session->query(q{SELECT conpool.exec('failing', 'SELECT 1')})->{detail}, qr/nonexistent/,
	'a connection fails');
is(run('SELECT sum(failed) FROM conpool.tunnels'), '1', 'that is counted');
is(run('SELECT sum(opened) FROM conpool.tunnels'), '15', 'as a failure only');

# --- none --------------------------------------------------------------------------------

# Encrypted connections are unshared on a server, for that reason.
sub check_unshared
{
	my ($node, $reason, $when) = @_;
	wait_for_pool($node, 'spread', qq{size = 0 AND tunnelled = 0 AND breaker = 'closed'
		AND upkeep_error LIKE '%$reason'}, "$when: min_size is not reached, and why");
	my $client = WireClient->new($node);
	my @got = map { $client->query(sprintf $query, q{'spread'}) } 1 .. 2;
	is($_->{rows}[0][1], 't', "$when: callers are served, encrypted") for @got;
	isnt($got[0]{rows}[0][0], $got[1]{rows}[0][0], "$when: on connections of their own");
	is_deeply([ map { @{ $_->{notices} } } @got ], [], "$when: as it is meant to be: no warning");
	my $lease = $client->query(q{SELECT conpool.checkout('spread', 'session')})->{rows}[0][0];
	is( run(q{SELECT concat_ws(' ', encrypted, tls_version ~ '^TLSv1', tls_cipher <> '', tunnel IS NULL)
			FROM conpool.connections WHERE server = 'spread'}, $node),
		't t t t', "$when: what the view says of them");
	is(run(q{SELECT size || ' ' || unshared FROM conpool.pools WHERE server = 'spread'}, $node),
		'1 1', "$when: it counts in its pool");
	$client->query("SELECT conpool.checkin($lease)");
	like(run(q{SELECT detail FROM conpool.diagnose('spread') WHERE step = 'encryption'}, $node),
		qr/encrypted by TLSv.*not shared.*$reason/s, "$when: diagnose() tells why");
	is(run('SELECT count(pid) FROM conpool.tunnels', $node), '0', "$when: the view has no tunnel");
	is(scalar(server_processes($node, 'conpool tunnel')), 0, "$when: there is none");
	wait_for_pool($node, 'spread', 'size = 0', "$when: no connection is kept");
	return;
}

$local->append_conf('postgresql.conf', 'conpool.tunnel_workers = 0');
$local->restart;
check_unshared($local, 'conpool.tunnel_workers is 0', 'none');

# --- built without OpenSSL -----------------------------------------------------------------

SKIP:
{
	my $top = "$ENV{CONPOOL_SETUP}/../..";
	my $stage_conf = slurp_file($ENV{TEMP_CONFIG});
	my $libdir = `'$ENV{PG_CONFIG}' --pkglibdir` =~ s/\n//r;
	my ($stage) = $stage_conf =~ /^dynamic_library_path = '(.+)\Q$libdir\E:/m;
	skip 'there are no sources, or no stage', 1 unless -e "$top/Makefile" && $stage;

	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $build = "PG_CONFIG='$ENV{PG_CONFIG}' TLS=no COPT='-DUSE_ASSERT_CHECKING -Wall -Wextra"
	  . " -Wno-unused-parameter -Wno-sign-compare'";
	# with what was compiled already, where that is the same
	system(qq{tar -C '$top' -cf - --exclude='*.so' Makefile conpool.control conpool_dblink.control src sql |
		tar -C '$dir' -xf -}) == 0 or die 'could not copy the sources';
	system(qq{cd '$dir' && touch `grep -l CP_USE_OPENSSL src/*.[ch]`}) == 0 or die 'nothing to build anew';
	my $output = `make -s -C '$dir' $build all 2>&1`;
	is($?, 0, 'without OpenSSL: it is built');
	is($output, '', 'without OpenSSL: without a warning');
	is(system("make -s -C '$dir' $build install DESTDIR='$dir/stage' >'$dir/install.log' 2>&1"), 0,
		'without OpenSSL: it is installed');
	unlike(`nm -D --undefined-only '$dir/conpool.so'`, qr/\bSSL_/, 'without OpenSSL: it calls none of it');

	my $bare = new_local('bare', start => 0, conf => $stage_conf =~ s/\Q$stage\E/$dir\/stage/gr);
	$bare->start;
	setup_local($bare, $remote);
	create_server($bare, $remote, 'spread', options => q{min_size '2'});
	check_unshared($bare, 'conpool was built without OpenSSL', 'without OpenSSL');
}

done_testing();
