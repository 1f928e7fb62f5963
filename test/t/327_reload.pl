# Settings that are changed in the configuration take effect on a reload: on
# pools whose servers do not say otherwise, without anybody using them.
use strict;
use warnings;

use ConpoolTest;
use Test::More;
use WireClient;

my $remote = new_remote('remote');
my $local = new_local('local', conf => 'conpool.validate_interval = 0');
setup_local($local, $remote);

# "plain" has no option of its own; "own" has all of them; one pool is that of
# a connection string
create_server($local, $remote, 'plain');
create_server($local, $remote, 'own',
	user => 'regress_remote_two',
	options => q{min_size '1', max_size '4', idle_timeout '1h', max_lifetime '1h',
		validate_interval '1h', leak_threshold '1h'});
$local->safe_psql('postgres',
	sprintf q{SELECT conpool.exec('%s', 'SELECT 1')}, conninfo($remote, 'regress_remote_admin'));
my $ad_hoc =
  q{(SELECT server FROM conpool.pools WHERE server NOT IN ('plain', 'own', 'remote', 'remote_admin'))};

sub change
{
	my (%setting) = @_;
	$local->safe_psql('postgres', "ALTER SYSTEM SET conpool.$_ = '$setting{$_}'")
	  foreach sort keys %setting;
	$local->reload;
	return;
}

sub column
{
	my ($server, $column, $view) = @_;
	$view //= 'pools';
	return $local->safe_psql('postgres',
		"SELECT $column FROM conpool.$view WHERE server = '$server'");
}

# "remote" of setup_local() logs in as the same role as "plain"
$local->safe_psql('postgres', 'DROP SERVER remote CASCADE; DROP SERVER remote_admin CASCADE');
count_remote($remote, 1, 'min_size: one for "own"', 'regress_remote_two');

# --- min_size, max_size

change(min_size => 2);
count_remote($remote, 2, 'min_size: a pool is made, and filled', 'regress_remote');
wait_for_pool($local, 'plain', 'min_size = 2 AND idle = 2');
is(column('own', 'min_size'), 1, 'min_size: a server says otherwise');
count_remote($remote, 1, 'min_size: and it has so many', 'regress_remote_two');

change(min_size => 0, max_size => 1);
count_remote($remote, 1, 'max_size: what is too much goes', 'regress_remote');
wait_for_pool($local, 'plain', 'max_size = 1 AND size = 1');
is(column('own', 'max_size, size'), '4|1', 'max_size: a server says otherwise');

# --- validate_interval

my $checked = column('own', 'validations', 'stat_pools');
change(validate_interval => '300 ms');
wait_for($local, q{SELECT validations > 1 FROM conpool.stat_pools WHERE server = 'plain'},
	'validate_interval: connections are checked');
wait_for($local,
	qq{SELECT validations > 1 FROM conpool.stat_pools WHERE server = $ad_hoc},
	'validate_interval: that of a connection string, too');
is(column('own', 'validations', 'stat_pools'), $checked,
	'validate_interval: a server says otherwise');

# --- leak_threshold

my $session = WireClient->new($local);
$session->query(qq{SELECT conpool.checkout('$_', 'session')}) for qw(plain own);
change(leak_threshold => '200 ms');
wait_for($local, q{SELECT count(*) = 1 FROM conpool.leaks WHERE server = 'plain'},
	'leak_threshold: a lease that was there before is a leak');
is(column('own', 'count(*)', 'leaks'), '0', 'leak_threshold: a server says otherwise');
$session->hang_up;
wait_for_pool($local, 'plain', 'size = idle');

# --- max_lifetime, idle_timeout

change(max_lifetime => '1 s', min_size => 1);
wait_for($local, q{SELECT expired > 1 FROM conpool.stat_pools WHERE server = 'plain'},
	'max_lifetime: connections are replaced');
is(column('own', 'expired', 'stat_pools'), 0, 'max_lifetime: a server says otherwise');

change(max_lifetime => '1 h', min_size => 0, idle_timeout => '200 ms');
count_remote($remote, 0, 'idle_timeout: what nobody uses goes', 'regress_remote');
count_remote($remote, 0, 'idle_timeout: that of a connection string, too', 'regress_remote_admin');
count_remote($remote, 1, 'idle_timeout: a server says otherwise', 'regress_remote_two');

# --- back again

change(min_size => 3, max_size => 10, idle_timeout => '10 min');
count_remote($remote, 3, 'and all is well again', 'regress_remote');

done_testing();
