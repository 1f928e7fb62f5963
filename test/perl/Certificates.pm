# Certificates for tests, and servers that show them.
#
#     use Certificates;
#     my $certificates = Certificates->new;     # an authority, and what it signed
#     my $remote = new_remote('remote', tls => $certificates);
#     my $local = new_local('local');
#     setup_local($local, $remote);             # from here on with verify-full
#     create_server($local, $remote, 'lax', options => q{sslmode 'require'});
#
#     $certificates->path('root.crt')           # a file
#     $certificates->make('server', 'two', 'two.example', '127.0.0.2');
#     show_certificate($remote, $certificates, 'expired');
#
# What there is, with the names of the files, says test/setup/certificates.sh;
# make() takes its commands. The directory is gone with the test.
package Certificates;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use PostgreSQL::Test::Utils;

our @EXPORT = qw(offer_tls show_certificate);

my $script = ($ENV{CONPOOL_SETUP} // 'test/setup') . '/certificates.sh';

sub new
{
	my ($class) = @_;
	my $self = bless { dir => PostgreSQL::Test::Utils::tempdir() }, $class;
	$self->make;
	return $self;
}

sub path
{
	my ($self, $name) = @_;
	my $path = "$self->{dir}/$name";
	croak "there is no $path" unless -e $path;
	return $path;
}

sub make
{
	my ($self, @command) = @_;
	system($script, $self->{dir}, @command) == 0 or croak "$script @command failed";
	return;
}

# Has a running node offer TLS on TCP.
#   certificate => name   "good" unless given
#   hba => text           who may come over TCP, by pg_hba.conf; unless given all who have
#                         TLS and a password, and nobody without TLS
#   conf => text          more lines for postgresql.conf
sub offer_tls
{
	my ($node, $certificates, %opt) = @_;
	my $hba = $opt{hba} // 'hostssl all all 127.0.0.1/32 scram-sha-256';
	my $file = $node->data_dir . '/pg_hba.conf';
	unlink $file;
	PostgreSQL::Test::Utils::append_to_file($file, <<"HBA");
local all all trust
local replication all trust
$hba
HBA
	$node->append_conf('postgresql.conf', join "\n", 'ssl = on',
		"ssl_ca_file = '" . $certificates->path('root.crt') . q{'},
		"ssl_crl_file = '" . $certificates->path('root.crl') . q{'},
		$opt{conf} // '', '');
	show_certificate($node, $certificates, $opt{certificate} // 'good');
	return;
}

# Has it show another certificate to whoever connects from now on.
sub show_certificate
{
	my ($node, $certificates, $name) = @_;
	my ($crt, $key) = map { $certificates->path("$name.$_") } qw(crt key);
	my $log_start = -s $node->logfile;
	$node->append_conf('postgresql.conf', "ssl_cert_file = '$crt'\nssl_key_file = '$key'");
	$node->reload;
	$node->poll_query_until('postgres', "SELECT current_setting('ssl') = 'on' AND
		current_setting('ssl_cert_file') = '$crt' AND current_setting('ssl_key_file') = '$key'")
	  or croak "node " . $node->name . " does not take $crt";
	croak "node " . $node->name . " cannot use $crt"
	  if PostgreSQL::Test::Utils::slurp_file($node->logfile, $log_start) =~
	  /SSL configuration was not reloaded/;
	return;
}

1;
