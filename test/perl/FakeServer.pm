# A remote server that misbehaves: speaks just enough of PostgreSQL's protocol
# to get libpq to wherever it is to be hurt.
#
#     my $server = FakeServer->new({
#         name => {
#             greeting => sub { my ($peer) = @_; ... },
#             answer => sub { my ($peer, $sql) = @_; ... },
#             discard => sub { my ($peer) = @_; ... },     # DISCARD ALL
#             sync => sub { my ($peer) = @_; ... },        # an empty round trip
#         }, ...});
#     $server->port
#
# Which behaviour a client gets, it says by the name of the database. Each
# part may be left out: then the server is a good one, and answers everything
# with one row and one column of 1. Each gets the socket and may send what it likes;
# message() and the constants below help. A false return value closes the
# connection. Cancel requests are ignored, and their connection is held open.
package FakeServer;

use strict;
use warnings;

use Exporter 'import';
use IO::Socket::INET;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER);

our @EXPORT_OK = qw(message parameter key_data auth_ok ready row_header
  one_row greet hang reset_connection);

sub message
{
	my ($type, $body) = @_;
	return $type . pack('N', 4 + length $body) . $body;
}

sub parameter
{
	my ($name, $value) = @_;
	return message('S', "$name\0$value\0");
}

sub auth_ok { return message('R', pack 'N', 0) }
sub ready { return message('Z', 'I') }
sub key_data { return message('K', pack 'NN', $$, 4711) }

# One column "a" of type integer.
sub row_header
{
	return message('T', pack('n', 1) . "a\0" . pack 'NnNnNn', 0, 0, 23, 4, 0xffffffff, 0);
}

sub one_row
{
	return row_header() . message('D', pack('nN', 1, 1) . '1')
	  . message('C', "SELECT 1\0");
}

# What a server says until it is ready for the first query.
sub greet
{
	my ($peer, @more) = @_;
	return $peer->send(join '', auth_ok(), parameter(server_version => '15.0'),
		parameter(client_encoding => 'UTF8'), @more, key_data(), ready());
}

# Says nothing more, but stays until the client has gone.
sub hang
{
	my ($peer) = @_;
	while (sysread $peer, my $ignored, 8192) { }
	return 0;
}

# Ends the connection as a crashed machine or a firewall does, by a TCP reset.
# What was sent before is given time to arrive.
sub reset_connection
{
	my ($peer) = @_;
	select undef, undef, undef, 0.02;
	setsockopt $peer, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
	return 0;
}

sub new
{
	my ($class, $behaviours) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100)
	  or die "cannot listen: $!";
	my $self = bless { port => $listener->sockport, owner => $$ }, $class;

	$self->{pid} = fork() // die "fork: $!";
	return $self if $self->{pid};
	$SIG{CHLD} = 'IGNORE';
	$SIG{TERM} = sub { $SIG{TERM} = 'IGNORE'; kill TERM => -$$; POSIX::_exit(0) };
	POSIX::setpgid(0, 0);
	while (1)
	{
		my $peer = $listener->accept or next;
		my $pid = fork();
		next if $pid;
		$SIG{TERM} = 'DEFAULT';
		close $listener;
		eval { _serve($peer, $behaviours) };
		close $peer;
		POSIX::_exit(0);
	}
}

sub port { return $_[0]{port} }

sub DESTROY
{
	my ($self) = @_;
	return unless $$ == $self->{owner};
	local $?;
	kill TERM => $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

sub _read
{
	my ($peer, $size) = @_;
	my $data = '';
	while (length $data < $size)
	{
		sysread $peer, $data, $size - length $data, length $data or return;
	}
	return $data;
}

sub _serve
{
	my ($peer, $behaviours) = @_;
	my $name;
	until (defined $name)
	{
		my $size = unpack 'N', _read($peer, 4) // return;
		my $packet = _read($peer, $size - 4) // return;
		my $code = unpack 'N', substr $packet, 0, 4, '';
		if ($code == 196608)
		{
			my %option = split /\0/, $packet;
			$name = $option{database};
		}
		elsif ($code == 80877102)
		{
			return hang($peer);
		}
		else
		{
			$peer->send('N');    # no encryption
		}
	}
	my $behaviour = $behaviours->{$name} // {};
	($behaviour->{greeting} // \&greet)->($peer) or return;
	while (defined(my $type = _read($peer, 1)))
	{
		my $size = unpack 'N', _read($peer, 4) // return;
		my $body = _read($peer, $size - 4) // return;
		return if $type eq 'X';
		if ($type eq 'S')
		{
			($behaviour->{sync} // sub { $peer->send(ready()) })->($peer) or return;
		}
		next unless $type eq 'Q';
		my $answer = $behaviour->{answer};
		if ($body eq "\0")
		{
			$peer->send(message('I', '') . ready());
		}
		elsif ($body =~ /^DISCARD ALL/)
		{
			my $discard = $behaviour->{discard};
			$discard ? $discard->($peer) || return
			  : $peer->send(message('C', "DISCARD ALL\0") . ready());
		}
		elsif ($answer)
		{
			$answer->($peer, $body) or return;
		}
		else
		{
			$peer->send(one_row() . ready());
		}
	}
	return;
}

1;
