# What 330_soak.pl does, over TLS and with tunnels that end, for a shorter time.
use strict;
use warnings;

use ConpoolTest;    # which must be loaded before the program runs
use Cwd qw(abs_path);
use File::Basename qw(dirname);

$ENV{CONPOOL_TLS} = 1;
$ENV{CONPOOL_SOAK} ||= 30;
require(abs_path(dirname(__FILE__)) . '/330_soak.pl');
