# The extension loads, and a query goes over a connection that is kept.
use strict;
use warnings;

use ConpoolTest;
use Test::More;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);

my $query =
  q{SELECT * FROM conpool.query('remote', 'SELECT 1') AS t(a int)};
is($local->safe_psql('postgres', $query), '1', 'a pooled query');
is($local->safe_psql('postgres', $query), '1', 'and one by another session');
count_remote($remote, 1, 'both used the same connection');

$local->stop;
count_remote($remote, 0, 'which ends with the server');

done_testing();
