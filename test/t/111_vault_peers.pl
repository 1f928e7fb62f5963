# Whoever connects with the vault and does not speak its language gets nothing,
# and costs nobody else anything: strangers, silent and talkative peers.
use strict;
use warnings;

use ConpoolTest;
use Cwd;
use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Socket qw(SHUT_WR);
use Test::More;
use Time::HiRes qw(time);

my $magic = 0x43505231;
my $fetch = 2;
my $limit = 20;    # seconds; the broker's own for a silent peer is 5

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
my $broker = $local->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'conpool broker'});

# By a relative path: socket paths are short.
my $directory = $local->data_dir . '/pg_stat_tmp';
my $before = getcwd;
chdir $directory or BAIL_OUT("chdir: $!");

sub peer
{
	return IO::Socket::UNIX->new(Peer => 'conpool.vault') // die "vault: $!";
}

sub request
{
	my (%of) = @_;
	return pack 'LLllQQ', $of{magic} // $magic, $of{op} // $fetch, $of{slot} // 0,
	  $of{greeting_size} // 0, $of{generation} // 0, $of{epoch} // 1;
}

# What the broker answers: "refused", "closed", or "silent" for too long.
sub answer
{
	my ($peer) = @_;
	my $reply = '';
	while (IO::Select->new($peer)->can_read($limit))
	{
		sysread $peer, $reply, 100, length $reply or last;
	}
	return 'silent' if IO::Select->new($peer)->can_read(0) == 0;
	return $reply eq '' ? 'closed' : (unpack 'LL', $reply)[1] == 1 ? 'refused' : 'ok';
}

sub say_to_vault
{
	my ($bytes, %how) = @_;
	local $SIG{PIPE} = 'IGNORE';
	my $peer = peer();
	syswrite $peer, $bytes;
	shutdown $peer, SHUT_WR if $how{end};
	return answer($peer);
}

# --- what they may say ------------------------------------------------------

is(say_to_vault(request()), 'refused', 'a sound request of somebody without a lease is refused');
is(say_to_vault(request(magic => $magic + 1)), 'closed', 'wrong magic');
is(say_to_vault(request(op => 99)), 'closed', 'unknown request');
is(say_to_vault('GET / HTTP/1.1' . "\r\n" x 20), 'closed', 'another protocol');
is(say_to_vault(substr(request(), 0, 31), end => 1), 'closed', 'short by one byte');
is(say_to_vault('', end => 1), 'closed', 'nothing at all');
is(say_to_vault(request() . 'x'), 'closed', 'long by one byte');
is(say_to_vault(request(greeting_size => 4)), 'closed', 'a greeting where none belongs');
foreach my $size (-1, -2147483648, 0, 1_000_000, 2147483647)
{
	is(say_to_vault(request(op => 1, greeting_size => $size) . 'x' x 10_000),
		'closed', "a greeting of $size bytes");
}
is(say_to_vault(request(op => 1, greeting_size => 300) . 'x' x 300),
	'closed', 'a greeting that is none');

# --- strangers --------------------------------------------------------------

SKIP:
{
	skip 'this needs a root who may pass on the right to change the uid', 3
	  unless $ENV{CONPOOL_CAN_SETUID};
	is((stat 'conpool.vault')[2] & 0777, 0700, 'the socket is for its owner only');

	# open what protects it, to see that the broker looks by itself
	chmod 0711, '.';
	chmod 0777, 'conpool.vault';
	my @answers = ('refused', 'closed', 'silent', 'ok');
	my $status = as_other_user(
		sub {
			my $got = say_to_vault(request());
			return (grep { $answers[$_] eq $got } 0 .. 3)[0];
		});
	is($answers[$status] // "exit status $status", 'closed', 'another uid gets no answer');
	chmod 0700, '.', 'conpool.vault';
	is(say_to_vault(request()), 'refused', 'while the right one does');
}

# --- the silent -------------------------------------------------------------

# More of them than the broker has places for.
my @silent = map { peer() } 1 .. 300;
syswrite $_, substr request(), 0, 7 for @silent[ 100 .. 299 ];

my $query = q{SELECT conpool.exec('remote', 'SELECT 1')};
my $start = time;
is($local->safe_psql('postgres', $query), 'SELECT 1', 'a connection is donated beside silent peers');
is($local->safe_psql('postgres', $query), 'SELECT 1', 'and fetched');
is($local->safe_psql('postgres', q{SELECT connects FROM conpool.stat_pools
	WHERE server = 'remote'}), 1, 'it was the same one');

is(join(', ', grep { $_ ne 'closed' } map { answer($_) } @silent),
	'', 'all silent peers are dropped in the end');
cmp_ok(time - $start, '<', $limit, 'within a few seconds');

# --- the broker -------------------------------------------------------------

is($local->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'conpool broker'}),
	$broker, 'the broker has gone through it all');
is($local->safe_psql('postgres', $query), 'SELECT 1', 'and serves');
chdir $before;
done_testing();
