# A tunnel keeps nothing of connections that are over, whether they came about or
# not, nor of what has passed through them.
use strict;
use warnings;

use Certificates;
use ConpoolTest;
use Test::More;
use WireClient;

plan skip_all => 'there is no /proc' unless -d "/proc/$$/fd";

my $size = 8;    # connections at a time

my $remote = new_remote('remote', tls => Certificates->new);
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'good',
	options => "max_size '$size', connect_concurrency '$size'");
create_server($local, $remote, 'refused');
$local->safe_psql('postgres',
	q{ALTER USER MAPPING FOR CURRENT_USER SERVER refused OPTIONS (SET password 'wrong')});
my $client = WireClient->new($local);
my $tunnel = $local->safe_psql('postgres', 'SELECT pid FROM conpool.tunnels');

# Runs a statement, which must succeed.
sub run
{
	my ($sql) = @_;
	my $result = $client->query($sql);
	die "$sql: $result->{message}" if $result->{error};
	return $result->{rows}[0][0];
}

# All at once, and each has something to do; then none is left.
sub open_and_close
{
	my ($times) = @_;
	foreach (1 .. $times)
	{
		run(qq{SELECT count(conpool.exec(lease, 'SELECT repeat(''x'', 1000)')) FROM (
			SELECT conpool.checkout('good') AS lease FROM generate_series(1, $size) OFFSET 0) AS l});
		run(q{SELECT conpool.reconnect('good')});
		run(q{SELECT test.wait_until($$(SELECT size = 0 FROM conpool.pools WHERE server = 'good')$$)});
	}
	return;
}

sub be_refused
{
	my ($times) = @_;
	foreach (1 .. $times)
	{
		my $error = $client->query(q{SELECT conpool.exec('refused', 'SELECT 1')})->{error} // '';
		die "not refused: $error" unless $error eq '28P01';
	}
	return;
}

sub pass_through
{
	my ($megabytes) = @_;
	foreach (1 .. $megabytes / 20)
	{
		run(q{SELECT conpool.exec('good', 'SELECT repeat(''x'', 20000000)')});
		run(q{SELECT conpool.exec('good', 'SELECT length($1)', repeat('x', 20000000))});
	}
	run(q{SELECT conpool.reconnect('good')});
	return wait_for_pool($local, 'good', 'size = 0');
}

# What it has of its own, in kB, once it has no connections.
sub measure
{
	my ($when) = @_;
	wait_for($local, 'SELECT connections = 0 FROM conpool.tunnels', "$when: it has no connections");
	my $memory = process_memory($tunnel);
	my $files = () = glob "/proc/$tunnel/fd/*";
	diag("figure: tunnel, memory $when = $memory->{all} kB (of its own $memory->{own} kB, share $memory->{share} kB)");
	return ($memory->{own}, $files);
}

# The first ones fill what is kept for the next.
my ($new) = measure('new');
open_and_close(10);
be_refused(20);
pass_through(40);
my ($before, $files) = measure('after 80 connections');
cmp_ok($before - $new, '<', 4096, 'they took little');

open_and_close(25);
my ($after) = measure('after 200 more');
cmp_ok($after - $before, '<', 512, '... which took nothing');
be_refused(100);
($after) = measure('after 100 that were refused');
cmp_ok($after - $before, '<', 512, '... which took nothing');
pass_through(100);
($after, my $files_after) = measure('after 100 MB each way');
cmp_ok($after - $before, '<', 512, '... which took nothing');

cmp_ok($files_after, '<=', $files, 'no more files are open');
is($local->safe_psql('postgres', 'SELECT pid FROM conpool.tunnels'), $tunnel, 'it was the same all the time');
cmp_ok($local->safe_psql('postgres', 'SELECT opened FROM conpool.tunnels'), '>=', 280, 'all went through it');
cmp_ok($local->safe_psql('postgres', 'SELECT failed FROM conpool.tunnels'), '>=', 120, '... or did not');

done_testing();
