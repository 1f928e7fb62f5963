# A name server that gets every question and answers none. To be used before
# anything else, since the test begins anew:
#
#     use SilentNameServer;
#     ...
#     local $ENV{LD_PRELOAD} = silent_names();     # where a server is started
#     # the name "db.hangs" is looked up for minutes
#
# It runs in namespaces of its own then, which ordinary users can have on most
# machines: with an empty network in which a socket on port 53 is not read from,
# and with the resolver's configuration to match. Where that is not possible,
# silent_names() is a library, test/c/hanging_names.c, that does the same to
# names in ".hangs".
package SilentNameServer;

use strict;
use warnings;

use Exporter;
use File::Temp;
use IO::Socket::INET;
use Socket qw(AF_INET SOCK_DGRAM);

our @EXPORT = qw(silent_names);

my $stage = 'CONPOOL_NAMESPACE';    # unset, "inside", "ready" or "impossible"
my $name_server;

sub import
{
	# not while the syntax is checked
	_enter() unless $ENV{$stage} || $^C;
	goto &Exporter::import;
}

# Begins the test again, in namespaces if possible, and ends with it.
sub _enter
{
	my @perl = ($^X, map { "-I$_" } @INC);
	my @unshare = qw(unshare --user --map-current-user --keep-caps --mount --net);
	local $ENV{$stage} = 'inside';
	if (system("@unshare @perl -MSilentNameServer -e SilentNameServer::configure >/dev/null 2>&1") == 0)
	{
		exec @unshare, @perl, qw(-MSilentNameServer -e), 'SilentNameServer::run(@ARGV)', $0;
	}
	$ENV{$stage} = 'impossible';
	exec @perl, $0;
}

# Runs the test, without the capabilities that configure() needs.
sub run
{
	my ($test) = @_;
	configure();
	$ENV{$stage} = 'ready';
	my $status = system qw(setpriv --ambient-caps=-all --inh-caps=-all), $^X,
	  (map { "-I$_" } @INC), $test;
	exit($status >> 8 || $status & 127);
}

sub configure
{
	my %content = (
		'resolv.conf' => "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n",
		'nsswitch.conf' => "hosts: files dns\n");
	foreach my $name (keys %content)
	{
		my $file = File::Temp->new;
		print $file $content{$name};
		close $file;
		system('mount', '--bind', $file->filename, "/etc/$name") == 0
		  or die "cannot mount /etc/$name";
	}

	# SIOCSIFFLAGS, IFF_UP
	socket(my $any, AF_INET, SOCK_DGRAM, 0) or die "socket: $!";
	my $request = pack 'a16 s x22', 'lo', 1;
	ioctl($any, 0x8914, $request) or die "cannot configure lo: $!";
	$name_server = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1', LocalPort => 53)
	  or die "no name server: $!";
	return;
}

# What to preload into a server, if anything.
sub silent_names
{
	return $ENV{LD_PRELOAD} // '' if $ENV{$stage} eq 'ready';
	require PostgreSQL::Test::Utils;
	my $library = PostgreSQL::Test::Utils::tempdir() . '/hanging_names.so';
	chomp(my $cc = `$ENV{PG_CONFIG} --cc`);
	my $source = ($ENV{CONPOOL_SETUP} // 'test/setup') . '/../c/hanging_names.c';
	system(split(' ', $cc), '-shared', '-fPIC', '-o', $library, $source, '-ldl') == 0
	  or die 'cannot build hanging_names.c';
	return $library;
}

1;
