# What 100_stress.pl does, over TLS, for a shorter time.
use strict;
use warnings;

use ConpoolTest;    # which must be loaded before the program runs
use Cwd qw(abs_path);
use File::Basename qw(dirname);

$ENV{CONPOOL_TLS} = 1;
$ENV{CONPOOL_STRESS} ||= 15;
require(abs_path(dirname(__FILE__)) . '/100_stress.pl');
