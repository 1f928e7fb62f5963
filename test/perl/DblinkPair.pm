# dblink and conpool_dblink side by side: two databases of one server, two alike of
# one remote; what is called in the one is called in the other, and must bring the same.
#
#     my $pair = DblinkPair->new($local, $remote);
#     $pair->known({ call => qr/.../, dblink => qr/.../, companion => qr/.../,
#         reason => '...', optional => 1 }, ...);    # wanted differences
#     $pair->begin('cursors', user => 'regress_plain');   # a session in each
#     $pair->call(q{SELECT dblink_connect('one', '{conninfo}')});    # a test
#     $pair->call_until(q{SELECT dblink_is_busy('one')}, '0');
#     $pair->quietly(q{SELECT dblink_disconnect('one')});          # no test
#     $pair->on_remote('ALTER DATABASE {remote} SET ...');
#     $pair->wait_for_sleep;                 # until both remotes run pg_sleep()
#     $pair->terminate;                      # all backends of both remote databases
#     $pair->end;
#     $pair->finish;                         # tests that each known difference was seen;
#                                            # not_all => 1: it does not
#
# What a call brings, as DblinkPair::Client reads it off the wire: rows with the types
# of their columns, command tags, notices and errors with all of their fields but those
# that say where in the source.
#
# In the texts of calls stand {conninfo} and {admin}, connection strings with password for
# an ordinary role and a superuser of the remote, {socket}, by which it asks for none,
# {remote}, the remote database, and {port}. Servers of dblink_fdw: "srv", for everybody;
# "other", which only a superuser may use; "bare", without mappings.
package DblinkPair;

use strict;
use warnings;

use Carp;
use ConpoolTest;
use Test::More;
use Time::HiRes qw(time usleep);
use WireClient;

sub new
{
	my ($class, $local, $remote) = @_;
	my $self = bless {
		local => $local,
		remote => $remote,
		known => [],
		calls => 0,
		sides => [
			{ name => 'dblink', db => 'side_a', remote => 'remote_a', extension => 'dblink' },
			{
				name => 'companion',
				db => 'side_b',
				remote => 'remote_b',
				extension => $ENV{DBLINK} || 'conpool_dblink'
			}
		]
	}, $class;
	$local->safe_psql('postgres', 'CREATE ROLE regress_plain LOGIN');
	foreach my $side (@{ $self->{sides} })
	{
		$remote->safe_psql('postgres', "CREATE DATABASE $side->{remote} OWNER regress_remote");
		$local->safe_psql('postgres', "CREATE DATABASE $side->{db}");
		$self->create_side($side, $side->{db});
	}
	return $self;
}

# The extension and servers, in a database that is there.
sub create_side
{
	my ($self, $side, $db) = @_;
	my $port = $self->{remote}->port;
	my $mapping =
	  qq{(user 'regress_remote', password '$ConpoolTest::password{regress_remote}')};
	$self->{local}->safe_psql($db, qq{
		CREATE EXTENSION $side->{extension};
		GRANT ALL ON SCHEMA public TO PUBLIC;
		CREATE SERVER srv FOREIGN DATA WRAPPER dblink_fdw
			OPTIONS (host '127.0.0.1', port '$port', dbname '$side->{remote}');
		CREATE SERVER other FOREIGN DATA WRAPPER dblink_fdw
			OPTIONS (host '127.0.0.1', port '$port', dbname '$side->{remote}');
		CREATE SERVER bare FOREIGN DATA WRAPPER dblink_fdw
			OPTIONS (host '127.0.0.1', port '$port', dbname '$side->{remote}');
		CREATE USER MAPPING FOR PUBLIC SERVER srv OPTIONS $mapping;
		CREATE USER MAPPING FOR PUBLIC SERVER other OPTIONS $mapping;
		GRANT USAGE ON FOREIGN SERVER srv, bare TO regress_plain});
	return;
}

sub known
{
	my ($self, @known) = @_;
	push @{ $self->{known} }, @known;
	return;
}

# Options: user, postgres unless given; db, appended to the name of the local database.
sub begin
{
	my ($self, $name, %opt) = @_;
	$self->end;
	$self->{name} = $name;
	foreach my $side (@{ $self->{sides} })
	{
		$side->{client} = DblinkPair::Client->new(
			$self->{local},
			user => $opt{user} // 'postgres',
			dbname => $side->{db} . ($opt{db} // ''));
	}
	return;
}

sub end
{
	my ($self) = @_;
	foreach my $side (@{ $self->{sides} })
	{
		my $client = delete $side->{client} // next;
		$client->terminate;
	}
	return;
}

sub _expand
{
	my ($self, $side, $text) = @_;
	my $where = 'host=%s port=' . $self->{remote}->port . " dbname=$side->{remote}";
	my %value = (
		remote => $side->{remote},
		port => $self->{remote}->port,
		socket => sprintf("$where user=regress_remote", $self->{remote}->host),
		map
		{
			my ($key, $role) = @$_;
			$key => sprintf "$where user=$role password=$ConpoolTest::password{$role}", '127.0.0.1'
		} [ conninfo => 'regress_remote' ], [ admin => 'regress_remote_admin' ]);
	return $text =~ s/\{(\w+)\}/$value{$1} \/\/ "{$1}"/ger;
}

# One line per fact, without what says nothing.
sub _describe
{
	my ($result) = @_;
	my @facts = @{ $result->{facts} };
	foreach my $fact (@facts)
	{
		$fact =~ s/\b(remote|side)_[ab]\b/$1/g;
		$fact =~ s/\b(process|PID) \d+/$1 N/g;
		# libpq collects errors, from one refusal to the next
		$fact =~ s/^(\w+: (?:could not send query: )?).*(another command is already in progress).*/$1$2/s;
		# what it says of a lost connection depends on when it found out, and on its version
		$fact =~ s/^(\w+:\ (?:\w+\ error:\ |could\ not\ send\ query:\ )?)
			.*(?:server\ closed\ the\ connection\ unexpectedly|no\ connection\ to\ the\ server|
			terminating\ connection\ due\ to).*/$1connection lost/sx;
	}
	return join '', map { "$_\n" } @facts;
}

# What both bring, [dblink's, the companion's].
sub _run
{
	my ($self, $sql) = @_;
	return map { _describe($_->{client}->query($self->_expand($_, $sql))) } @{ $self->{sides} };
}

sub _short
{
	my ($self, $sql) = @_;
	my $text = "$self->{name}: " . $sql =~ s/\s+/ /gr;
	return length $text > 150 ? substr($text, 0, 150) . ' ...' : $text;
}

sub _compare
{
	my ($self, $sql, $dblink, $companion) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 2;
	$self->{calls}++;
	if ($dblink ne $companion)
	{
		foreach my $known (@{ $self->{known} })
		{
			next unless $sql =~ $known->{call} && $dblink =~ $known->{dblink} &&
			  $companion =~ $known->{companion};
			$known->{seen}++;
			return pass($self->_short($sql) . " (differs: $known->{reason})");
		}
	}
	return is($companion, $dblink, $self->_short($sql));
}

sub call
{
	my ($self, @sql) = @_;
	$self->_compare($_, $self->_run($_)) for @sql;
	return;
}

# Something that both do, and nobody looks at.
sub quietly
{
	my ($self, @sql) = @_;
	foreach my $sql (@sql)
	{
		$_->{client}->query($self->_expand($_, $sql)) for @{ $self->{sides} };
	}
	return;
}

# Repeats a call on each side until it brings one row with that value.
sub call_until
{
	my ($self, $sql, $value) = @_;
	my @last;
	foreach my $side (@{ $self->{sides} })
	{
		my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
		my $result;
		while (1)
		{
			$result = $side->{client}->query($self->_expand($side, $sql));
			last
			  if ($result->{rows}[0][0] // '') eq $value || $result->{error} ||
			  time > $deadline;
			usleep(5_000);
		}
		push @last, _describe($result);
	}
	$self->_compare("$sql -- until $value", @last);
	return;
}

# Something done on the remote for both, by its superuser.
sub on_remote
{
	my ($self, $sql, $db) = @_;
	foreach my $side (@{ $self->{sides} })
	{
		$self->{remote}->safe_psql($db // $side->{remote}, $self->_expand($side, $sql));
	}
	return;
}

# Something done in both local databases.
sub on_local
{
	my ($self, $sql) = @_;
	$self->{local}->safe_psql($_->{db}, $self->_expand($_, $sql)) for @{ $self->{sides} };
	return;
}

# A superuser's session on the remote.
sub _admin
{
	my ($self) = @_;
	return $self->{admin} //= WireClient->new($self->{remote});
}

# Waits until a query on the remote brings that value.
sub _wait
{
	my ($self, $sql, $value) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	until ($self->_admin->query($sql)->{rows}[0][0] == $value)
	{
		croak "not $value: $sql" if time > $deadline;
		usleep(2_000);
	}
	return;
}

# Waits until a session in each of the remote databases is in pg_sleep().
sub wait_for_sleep
{
	my ($self) = @_;
	$self->_wait(q{SELECT count(DISTINCT datname) FROM pg_stat_activity
		WHERE wait_event = 'PgSleep'}, 2);
	return;
}

# Ends all backends of both remote databases, and waits until they have gone.
sub terminate
{
	my ($self) = @_;
	my $those = q{FROM pg_stat_activity
		WHERE datname LIKE 'remote\__' AND backend_type = 'client backend'};
	$self->_admin->query("SELECT pg_terminate_backend(pid) $those");
	$self->_wait("SELECT count(*) $those", 0);
	return;
}

# Passes if each of the known differences was seen, but for those that need not be.
sub finish
{
	my ($self, %opt) = @_;
	$self->end;
	note("figure: compared calls = $self->{calls}");
	foreach my $known (@{ $self->{known} })
	{
		next if $known->{optional} || $opt{not_all};
		ok($known->{seen}, "known difference is seen: $known->{reason}");
	}
	return;
}

# A client that notes all that it is told.
package DblinkPair::Client;

use strict;
use warnings;

use parent -norequire, 'WireClient';

use WireClient;

# severity, SQLSTATE, message, detail, hint, context, position ... but not file, line,
# routine, nor severity once more
my %label = (
	S => 'severity',
	C => 'sqlstate',
	M => 'message',
	D => 'detail',
	H => 'hint',
	W => 'context',
	P => 'position',
	p => 'internal position',
	q => 'internal query',
	s => 'schema',
	t => 'table',
	c => 'column',
	d => 'type',
	n => 'constraint');

sub result
{
	my ($self) = @_;
	my %result = (rows => [], notices => [], facts => []);
	my $facts = $result{facts};
	while (1)
	{
		my ($type, $body) = $self->_message or do
		{
			$result{lost} = 1;
			push @$facts, 'connection lost';
			last;
		};
		last if $type eq 'Z';
		if ($type eq 'T')
		{
			push @$facts, 'columns: ' . join ', ', _columns($body);
		}
		elsif ($type eq 'D')
		{
			my $row = WireClient::_row($body);
			push @{ $result{rows} }, $row;
			push @$facts, 'row: ' . join ' | ', map { $_ // '(null)' } @$row;
		}
		elsif ($type eq 'C')
		{
			push @$facts, 'tag: ' . unpack 'Z*', $body;
		}
		elsif ($type eq 'K')
		{
			$self->{key} = $body;
			$self->{pid} = unpack 'N', $body;
		}
		elsif ($type eq 'E' || $type eq 'N')
		{
			my %field = map { substr($_, 0, 1) => substr $_, 1 } split /\0/, $body;
			@result{qw(error message)} = @field{qw(C M)} if $type eq 'E';
			push @$facts,
			  map { "$label{$_}: $field{$_}" } grep { exists $field{$_} } sort keys %label;
		}
		elsif ($type eq 'S')
		{
			push @$facts, 'setting: ' . join ' = ', split /\0/, $body;
		}
		else
		{
			push @$facts, "message $type";
		}
	}
	return \%result;
}

# As psql does, so that the server knows at once.
sub terminate
{
	my ($self) = @_;
	$self->_put('X' . pack 'N', 4);
	1 while sysread $self->{socket}, my $rest, 65536;
	$self->hang_up;
	return;
}

# Name and type of each.
sub _columns
{
	my ($body) = @_;
	my $count = unpack 'n', substr $body, 0, 2, '';
	my @columns;
	while ($count--)
	{
		my ($name, $oid, $modifier) = unpack 'Z* x[N] x[n] N x[n] l>', $body;
		$oid = 'own' if $oid >= 16384;    # of each side
		push @columns, "$name $oid($modifier)";
		substr $body, 0, length($name) + 1 + 18, '';
	}
	return @columns;
}

1;
