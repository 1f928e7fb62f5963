# A client of PostgreSQL that does what psql will not: hangs up in the middle
# of a statement, cancels at a chosen moment, and costs no process.
#
#     my $client = WireClient->new($node, user => 'postgres');
#     my $result = $client->query('SELECT 1');      # simple protocol
#     $result->{rows}      [[1]]: of all statements in the string
#     $result->{error}     SQLSTATE of the error, undef if there was none
#     $result->{message}   its message, as detail and hint
#     $result->{notices}   ['WARNING: text']
#     $result->{lost}      the server has closed the connection
#     $client->send('SELECT pg_sleep(10)');
#     $client->cancel;                              # returns at its end of file
#     $result = $client->result;
#     $client->hang_up;                             # without Terminate
#
# Over the Unix socket of a node that trusts it. Dies where a reply takes
# longer than the limit.
package WireClient;

use strict;
use warnings;

use Carp;
use IO::Select;
use IO::Socket::UNIX;
use Time::HiRes qw(time);

my $limit = 60;    # seconds for any reply

sub new
{
	my ($class, $node, %opt) = @_;
	my $self = bless {
		path => $node->host . '/.s.PGSQL.' . $node->port,
		input => ''
	}, $class;
	$self->{socket} = $self->_connect;
	my $packet = pack('N', 196608) . join '',
	  map { "$_\0" } user => $opt{user} // 'postgres',
	  database => $opt{dbname} // 'postgres', '';
	$self->_put(pack('N', 4 + length $packet) . $packet);
	my $result = $self->result;
	croak "cannot connect: $result->{message}" if $result->{error};
	return $self;
}

sub query
{
	my ($self, $sql) = @_;
	$self->send($sql);
	return $self->result;
}

sub send
{
	my ($self, $sql) = @_;
	$self->_put('Q' . pack('N', 5 + length $sql) . "$sql\0");
	return;
}

# What comes back, up to ReadyForQuery or the end of the connection.
sub result
{
	my ($self) = @_;
	my %result = (rows => [], notices => []);
	while (1)
	{
		my ($type, $body) = $self->_message or do
		{
			$result{lost} = 1;
			last;
		};
		last if $type eq 'Z';
		push @{ $result{rows} }, _row($body) if $type eq 'D';
		if ($type eq 'K')
		{
			$self->{key} = $body;
			$self->{pid} = unpack 'N', $body;
		}
		next unless $type eq 'E' || $type eq 'N';
		my %field = map { substr($_, 0, 1) => substr $_, 1 } split /\0/, $body;
		@result{qw(error message detail hint)} = @field{qw(C M D H)}
		  if $type eq 'E';
		push @{ $result{notices} }, "$field{S}: $field{M}" if $type eq 'N';
	}
	return \%result;
}

sub cancel
{
	my ($self) = @_;
	my $socket = $self->_connect;
	syswrite $socket, pack('NN', 16, 80877102) . $self->{key};
	IO::Select->new($socket)->can_read($limit);
	return;
}

sub hang_up
{
	my ($self) = @_;
	close $self->{socket};
	return;
}

sub _connect
{
	my ($self) = @_;
	return IO::Socket::UNIX->new(Peer => $self->{path})
	  // croak "cannot connect to $self->{path}: $!";
}

sub _put
{
	my ($self, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';
	syswrite $self->{socket}, $bytes;    # the reply tells if it got there
	return;
}

# Type and body of the next message; nothing at the end of the connection.
sub _message
{
	my ($self) = @_;
	my $head = $self->_get(5) // return;
	my ($type, $length) = unpack 'aN', $head;
	return ($type, $self->_get($length - 4) // return);
}

sub _get
{
	my ($self, $size) = @_;
	while (length $self->{input} < $size)
	{
		IO::Select->new($self->{socket})->can_read($limit)
		  or croak "no reply within $limit s";
		sysread($self->{socket}, $self->{input}, 65536, length $self->{input})
		  or return;
	}
	return substr $self->{input}, 0, $size, '';
}

sub _row
{
	my ($body) = @_;
	my @row;
	my $count = unpack 'n', substr $body, 0, 2, '';
	while ($count--)
	{
		my $length = unpack 'N', substr $body, 0, 4, '';
		push @row, $length == 0xffffffff ? undef : substr $body, 0, $length, '';
	}
	return \@row;
}

1;
