# A reset does not bring back what the server itself has changed: connections
# from before are closed, and those from after are kept.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);
create_server($local, $remote, 'one', options => q{max_size '1'});

my $client = WireClient->new($local);
my $show =
  q{SELECT * FROM conpool.query('one', 'SELECT pg_backend_pid(), current_setting(''standard_conforming_strings'')') AS t(pid int, value text)};

my $before = $client->query($show)->{rows}[0];
is($before->[1], 'on', 'a setting that the server reports');
is($client->query($show)->{rows}[0][0], $before->[0], 'the connection is shared');

# a connection takes note of it with the next statement
$remote->safe_psql('postgres', 'ALTER SYSTEM SET standard_conforming_strings = off');
$remote->reload;
wait_until(sub { $client->query($show)->{rows}[0][1] eq 'off' },
	'the server changes it');
wait_for_pool($local, 'one', 'size = idle');
my $after = $client->query($show)->{rows}[0];
isnt($after->[0], $before->[0], 'the connection is not used again');
is($client->query($show)->{rows}[0][0], $after->[0], 'the new one is');

# what a session changes is reset, and the connection kept
my $lease = $client->query(q{SELECT conpool.checkout('one', 'session')})->{rows}[0][0];
$client->query("SELECT conpool.exec($lease, 'SET standard_conforming_strings = on')");
$client->query("SELECT conpool.checkin($lease)");
is_deeply($client->query($show)->{rows}[0], [ $after->[0], 'off' ],
	'what a session has changed is reset');

done_testing();
