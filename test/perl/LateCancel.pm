# Cancel requests that are late: a proxy in front of a remote holds them back, and
# statement after statement runs on the same pool for as long as one may be under way.
#
#     use LateCancel;
#     cancel_late($local, $remote, 20, 1, 'kept');
#     my $port = start_proxy($remote->port, 0, $file);    # each cancel request is a byte there
#
# It knows them by their first bytes, so not those that come encrypted, which libpq
# sends from 17 on.
package LateCancel;

use strict;
use warnings;

use ConpoolTest;
use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use Socket qw(MSG_PEEK);
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use WireClient;

our @EXPORT = qw(start_proxy cancel_late encrypts_cancels);

# Does libpq encrypt what cancels a statement of an encrypted connection?
sub encrypts_cancels
{
	chomp(my $directory = `$ENV{PG_CONFIG} --includedir`);
	return slurp_file("$directory/libpq-fe.h") =~ /LIBPQ_HAS_ASYNC_CANCEL/;
}

# Passes bytes on in both directions, ends too; a cancel request only after
# $delay seconds.
sub _run_proxy
{
	my ($listener, $port, $delay, $file) = @_;
	my $all = IO::Select->new($listener);
	my (%peer, %first, %due);

	my $pass = sub {
		my ($from, $to) = @_;
		my $n = sysread $from, my $data, 65536;
		return syswrite $to, $data if $n;
		shutdown $to, 1;
		$all->remove($from);
		# both ends are through
		if (!$all->exists($to))
		{
			delete @peer{ $from, $to };
			close $_ for $from, $to;
		}
	};
	while (1)
	{
		foreach my $client (grep { $due{$_}[0] <= time } keys %due)
		{
			my (undef, $from) = @{ delete $due{$client} };
			$all->add($from);
			$pass->($from, $peer{$from});
		}
		foreach my $socket ($all->can_read(0.05))
		{
			if ($socket == $listener)
			{
				my $client = $listener->accept or next;
				$peer{$client} = IO::Socket::INET->new(
					PeerAddr => '127.0.0.1', PeerPort => $port) or next;
				$peer{ $peer{$client} } = $client;
				$first{$client} = 1;
				$all->add($client, $peer{$client});
			}
			elsif (delete $first{$socket})
			{
				recv $socket, my $head, 8, MSG_PEEK;
				if (length $head == 8 && (unpack 'NN', $head)[1] == 80877102)
				{
					append_to_file($file, 'x') if defined $file;
					$all->remove($socket);
					$due{$socket} = [ time + $delay, $socket ];
				}
				else
				{
					$pass->($socket, $peer{$socket});
				}
			}
			elsif ($peer{$socket})
			{
				$pass->($socket, $peer{$socket});
			}
		}
	}
}

my @proxies;
END { kill 'KILL', @proxies if @proxies; }

# Starts one; returns its port.
sub start_proxy
{
	my ($port, $delay, $file) = @_;
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1', Listen => 50, ReuseAddr => 1) or die "listen: $!";
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		local $SIG{PIPE} = 'IGNORE';
		_run_proxy($listener, $port, $delay, $file);
		POSIX::_exit(1);
	}
	push @proxies, $pid;
	return $listener->sockport;
}

# Cancels a statement that takes some seconds if nothing stops it, with cancel
# requests that are late by others; shows what becomes of its connection: it is
# "kept" or "closed".
sub cancel_late
{
	my ($local, $remote, $seconds, $delay, $expected) = @_;
	my $name = "$seconds s, late by $delay s";
	my $server = sprintf 'late_%s_%s', $seconds * 1000, $delay * 1000;
	create_server($local, $remote, $server, options => q{max_size '2'});
	$local->safe_psql('postgres', "ALTER SERVER $server OPTIONS (SET port '"
		  . start_proxy($remote->port, $delay) . "')");
	my $query =
	  "SELECT * FROM conpool.query('$server', 'SELECT pg_backend_pid()') AS t(pid int)";

	my ($cancelled, $other) = map { WireClient->new($local) } 1 .. 2;
	my $pid = $cancelled->query($query)->{rows}[0][0];
	ok($pid, "$name: a query through the proxy");
	$cancelled->query(q{SET statement_timeout = '100ms'});
	my $start = time;
	is( $cancelled->query("SELECT conpool.exec('$server', 'SELECT pg_sleep($seconds)')")
		  ->{error},
		'57014',
		"$name: a statement is cancelled");
	cmp_ok(time - $start, '<', 10, "$name: in good time");
	$cancelled->query('RESET statement_timeout');

	# of both sessions, so that both connections are in use most of the time
	my $statement = "SELECT conpool.exec('$server', 'SELECT pg_sleep(0.01)')";
	my ($done, %errors) = 0;
	until (time > $start + $delay + 1 && ($done > 20 || time > $start + 30))
	{
		$_->send($statement) foreach $cancelled, $other;
		foreach my $result (map { $_->result } $cancelled, $other)
		{
			$errors{"$result->{error}: $result->{message}"}++ if $result->{error};
			$done++;
		}
	}
	is_deeply(\%errors, {}, "$name: no later statement is hit");
	cmp_ok($done, '>', 20, "$name: of which there were many");
	is( $local->safe_psql('postgres',
			"SELECT count(*) FROM conpool.connections WHERE remote_pid = $pid"),
		$expected eq 'kept' ? 1 : 0,
		"$name: the connection is $expected");
	wait_for_pool($local, $server, 'size = idle');
	return;
}

1;
