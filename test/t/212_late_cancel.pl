# A cancel that is late must not hit a later statement. A proxy between the two
# servers holds cancel requests back; for as long as one may still be on its
# way, statement after statement runs on the same pool.
use strict;
use warnings;

use ConpoolTest;
use LateCancel;
use Test::More;

my $remote = new_remote('remote');
my $local = new_local('local');
setup_local($local, $remote);

# The cancel stops the statement.
cancel_late($local, $remote, 20, 1, 'kept');
# It comes when the statement has ended by itself.
cancel_late($local, $remote, 0.7, 1, 'kept');
# It comes when nobody waits for it any more.
cancel_late($local, $remote, 20, 3, 'closed');
cancel_late($local, $remote, 0.7, 3, 'closed');

done_testing();
