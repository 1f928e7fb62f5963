# report() makes a page that a browser shows as it is meant: charts that have a
# size, no script, nothing that is fetched, whatever names and statements hold;
# readable in light and dark, on a phone, and the same from any database.
use strict;
use warnings;

use utf8;

use ConpoolTest;
use Encode qw(decode encode);
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use WireClient;

# In CI a browser that is missing is a failure, not a reason to skip.
my ($chromium) = grep { -x } map { ("$_/chromium", "$_/chromium-browser") }
  split /:/, $ENV{PATH};
plan skip_all => 'needs chromium' unless $chromium || $ENV{CI};
ok($chromium, 'there is a browser') or BAIL_OUT('chromium is missing');

my $dir = PostgreSQL::Test::Utils::tempdir();

# ---- the browser ---------------------------------------------------------------

sub write_file
{
	my ($name, $html) = @_;
	open my $file, '>', "$dir/$name" or die "$dir/$name: $!";
	print $file $html;
	close $file;
	return "$dir/$name";
}

# What the browser makes of a file: the document, and what it has to complain of.
sub browse
{
	my ($file, @options) = @_;
	my @command = (
		'timeout', '--kill-after=5', '60', $chromium,
		'--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
		'--disable-extensions', '--disable-background-networking', '--no-first-run',
		'--enable-logging=stderr', '--window-size=1240,1000',
		"--user-data-dir=$dir/profile", @options, '--dump-dom', "file://$file");
	my ($out, $err) = ('', '');
	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err)
	  or diag("the browser failed: $err");
	return (decode('UTF-8', $out), join "\n", grep { /CONSOLE/ } split /\n/, $err);
}

# Looks at a page from outside, in a frame of that width: it has no script.
my $examine = <<'JS';
function rgb(text) {
	const n = text.match(/[\d.]+/g).map(Number);
	return n.length < 4 ? [...n, 1] : n;
}
function luminance(c) {
	const l = c.slice(0, 3).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
	return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2];
}
function ground(view, e) {
	for (; e; e = e.parentElement) {
		const c = rgb(view.getComputedStyle(e).backgroundColor);
		if (c[3] > 0)
			return c;
	}
	return [255, 255, 255, 1];
}
function contrast(view, e) {
	const a = luminance(rgb(view.getComputedStyle(e).color));
	const b = luminance(ground(view, e));
	return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}
function examine(frame) {
	const doc = frame.contentDocument, view = frame.contentWindow;
	const all = [...doc.querySelectorAll('*')];
	const size = e => { const r = e.getBoundingClientRect(); return r.width > 20 && r.height > 4; };
	const shown = e => e.getClientRects().length > 0;
	const texts = all.filter(e => !e.closest('svg, head') && shown(e) &&
		[...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()));
	const poorest = texts.map(e => [contrast(view, e), e.outerHTML.slice(0, 80)])
		.sort((a, b) => a[0] - b[0])[0];
	const ids = all.map(e => e.id).filter(id => id);
	const drawn = selector => [...doc.querySelectorAll(selector)].filter(e => size(e.ownerSVGElement || e))
		.filter(e => !e.getTotalLength || e.getTotalLength() > 0).length;
	return {
		suspects: all.filter(e => /^(script|iframe|object|embed|img|base|form|input)$/i.test(e.localName) ||
			[...e.attributes].some(a => /^on/i.test(a.name) ||
				/^(src|href|xlink:href|srcset|action)$/.test(a.name) && !/^(#|data:)/.test(a.value)))
			.map(e => e.outerHTML.slice(0, 200)),
		text: doc.body.textContent,
		wide: doc.documentElement.scrollWidth - frame.clientWidth,
		charts: drawn('.plot svg'),
		named: [...doc.querySelectorAll('svg')].every(s => s.querySelector('title')),
		waits: drawn('path.line.wait'), checkouts: drawn('path.area.rate'),
		leased: drawn('path.area.leased'), bars: drawn('.bars rect'), gauges: drawn('svg.gauge'),
		told: doc.querySelectorAll('.hover title').length,
		twice: ids.filter((id, i) => ids.indexOf(id) != i),
		dead: [...doc.querySelectorAll('a[href^="#"]')].map(a => a.hash.slice(1))
			.filter(id => !doc.getElementById(id)),
		names: [...doc.querySelectorAll('bdi')].map(e => e.textContent),
		titles: [...doc.querySelectorAll('bdi[title]')].map(e => e.title),
		codes: [...doc.querySelectorAll('code, pre')].map(e => e.textContent),
		ground: view.getComputedStyle(doc.body).backgroundColor,
		contrast: poorest ? poorest[0] : 0, poorest: poorest ? poorest[1] : ''
	};
}
onload = () => {
	const found = JSON.stringify(examine(document.getElementById('page')));
	document.body.replaceChildren(found);
};
JS

# What there is to be seen of a page; complaints is empty if all is well.
sub look_at
{
	my ($page, $width, $dark) = @_;
	my $source = $page =~ s/&/&amp;/gr =~ s/"/&quot;/gr;
	my $file = write_file('look.html',
		    qq{<!DOCTYPE html><meta charset="utf-8"><script>$examine</script>}
		  . qq{<iframe id="page" style="width:${width}px;height:900px;border:0" srcdoc="$source"></iframe>});
	my ($dom, $complaints) =
	  browse($file, '--blink-settings=preferredColorScheme=' . ($dark ? 0 : 1));
	my ($json) = $dom =~ m{<body>(.*)</body>}s;
	$json =~ s/&lt;/</g;
	$json =~ s/&gt;/>/g;
	$json =~ s/&nbsp;/\xA0/g;
	$json =~ s/&amp;/&/g;
	my $seen = eval { JSON::PP->new->decode($json) } // {};
	diag("nothing was seen: $@") unless %$seen;
	$seen->{complaints} = $complaints;
	return $seen;
}

sub contains
{
	my ($list, $text, $test_name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(scalar(grep { index($_, $text) >= 0 } @{ $list // [] }), $test_name);
}

# a report, as the README says
sub report
{
	my ($node, $dbname, $user) = @_;
	my ($status, $out, $err) = $node->psql($dbname // 'postgres', 'SELECT conpool.report()',
		extra_params => [ '-U', $user // 'postgres' ]);
	is("$status$err", '0', 'a report') or return '';
	return $out;
}

# ---- the browser tells when something is wrong -----------------------------------

my (undef, $complaints) = browse(write_file('wrong.html', '<script>no.such.thing</script>'));
like($complaints, qr/no is not defined/, 'an error of a script would be seen');
(undef, $complaints) = browse(
	write_file('barred.html',
		q{<meta http-equiv="Content-Security-Policy" content="default-src 'none'">}
		  . '<img src="http://127.0.0.1:9/x.png">'));
like($complaints, qr/Content Security Policy/, 'and so would be one that fetches something');

# ---- nothing has happened ---------------------------------------------------------

my $remote = new_remote('remote');
my $primary = new_local('primary', init => { allows_streaming => 1 },
	conf => 'conpool.history_interval = 1');
setup_local($primary, $remote);

my $seen = look_at(report($primary), 1240);
is($seen->{complaints}, '', 'the page of an empty server: no complaints');
is($seen->{charts}, 0, 'no charts');
like($seen->{text}, qr/\Q$_\E/, "it says: $_")
  for 'No pools', 'Nobody waits.', 'No leaks.', 'No errors.', 'No statements.', 'primary';

# ---- hostile names, texts and SQL ---------------------------------------------------

my $script = q{<script>alert("x")</script>&'};
my $image = q{<img src=x onerror=alert(1)>};
my $arabic = 'محاسبة المبيعات';
my $reordered = "exe.\x{202E}gpj";
my $long = 'n' x 60;
my %server = (
	script => $script,
	arabic => $arabic,
	reordered => $reordered,
	long => $long);

foreach my $name (values %server)
{
	create_server($primary, $remote, encode('UTF-8', '"' . $name =~ s/"/""/gr . '"'),
		options => q{leak_threshold '300ms'});
}
$primary->safe_psql(
	'postgres', qq{
	CREATE ROLE "$image" LOGIN;
	GRANT USAGE ON FOREIGN SERVER "remote" TO "$image";
	CREATE USER MAPPING FOR "$image" SERVER remote
		OPTIONS (user 'regress_remote', password 'remote-secret');});

sub literal
{
	my ($name) = @_;
	return encode('UTF-8', "'" . $name =~ s/'/''/gr . "'");
}

my $ten_kb = 'x' x 10_000;
my $ends_markup = '</code></pre></details></title></svg>' . $script;
foreach my $name (values %server)
{
	$primary->safe_psql('postgres',
		"SELECT conpool.exec(" . literal($name) . ", 'SELECT 1'), '$ten_kb'");
}
my ($status) = $primary->psql('postgres',
	'SELECT conpool.exec(' . literal($script) . ', ' .
	  literal("DO \$do\$ BEGIN RAISE EXCEPTION '%', \$text\$$ends_markup\$text\$; END \$do\$") . ')');
isnt($status, 0, 'an error with markup in it');
WireClient->new($primary, user => $image)
  ->query(q{SELECT conpool.exec('remote', 'SELECT 1')});

# one holds a connection, says who it is, and forgets it
my $leaker = WireClient->new($primary);
$leaker->query("SET application_name = " . literal($image));
$leaker->query("SELECT conpool.checkout(" . literal($script) . ", 'session') /* $ends_markup */");
wait_for($primary, q{SELECT count(*) = 1 FROM conpool.leaks WHERE outcome IS NULL},
	'there is a leak');
wait_for($primary,
	q{SELECT count(DISTINCT until) > 2 FROM conpool.stat_history WHERE checkouts > 0
		OR peak_leased > 0}, 'there is a history');

my $page = report($primary);
unlike($page, qr/[^\x00-\x7F]/, 'the page is ASCII, whatever the encodings are');
cmp_ok(length $page, '<', 300_000, 'it is of moderate size');

my ($dom, $direct) = browse(write_file('report.html', $page));
is($direct, '', 'opened as a file: no complaints');
unlike($dom, qr/<script/i, 'no script in the document');
like($dom, qr{<svg[^>]*viewBox[^>]*>.*</svg>}s, 'but drawings');

foreach my $look ([ 1240, 0 ], [ 1240, 1 ], [ 400, 0 ])
{
	my ($width, $dark) = @$look;
	my $how = ($dark ? 'dark' : 'light') . ", $width pixels wide";
	$seen = look_at($page, $width, $dark);
	is($seen->{complaints}, '', "$how: no complaints");
	is_deeply($seen->{suspects}, [], "$how: nothing that runs, and nothing that is fetched");
	cmp_ok($seen->{wide} // 1, '<=', 0, "$how: it fits");
	cmp_ok($seen->{contrast} // 0, '>=', 4.5, "$how: texts stand out")
	  or diag("$seen->{contrast}: $seen->{poorest}");
	cmp_ok($seen->{waits} // 0, '>=', 4, "$how: waits are drawn");
	cmp_ok($seen->{bars} // 0, '>=', 8, "$how: distributions are drawn");
	like($seen->{ground} // '', $dark ? qr/rgb\(13, 17, 23\)/ : qr/rgb\(243, 245, 248\)/,
		"$how: it is that");
}
cmp_ok($seen->{checkouts}, '>=', 4, 'numbers of checkouts are drawn');
cmp_ok($seen->{leased}, '>=', 4, 'so are leases');
cmp_ok($seen->{gauges}, '>=', 5, 'and how full the pools are');
cmp_ok($seen->{told}, '>', 4, 'points tell their values');
ok($seen->{named}, 'each drawing has a title');
is_deeply($seen->{twice}, [], 'identifiers are used once');
is_deeply($seen->{dead}, [], 'links have an end');

contains($seen->{names}, $script, 'markup in a name is shown as text');
contains($seen->{names}, $image, 'in the name of a role and an application, too');
contains($seen->{names}, $arabic, 'a name is shown that is written from right to left');
contains($seen->{names}, 'exe.[U+202E]gpj', 'what would reorder a name is shown');
contains($seen->{names}, ('n' x 48) . '…', 'a long name is cut');
contains($seen->{titles}, $long, 'and to be had in full');
contains($seen->{codes}, $ends_markup, 'markup in SQL is shown as text');
like($seen->{text}, qr/\Q$ends_markup\E/, 'so is that in an error');
contains($seen->{codes}, 'xxxxxxxx', 'a long statement is shown');
unlike($seen->{text}, qr/x{2000}/, 'not at full length');
like($seen->{text}, qr/idle.*still held/s, 'the leak is there');

# ---- who, where ----------------------------------------------------------------------

$primary->safe_psql('postgres', 'CREATE ROLE regress_nobody LOGIN');
$seen = look_at(report($primary, 'postgres', 'regress_nobody'), 1240);
is($seen->{complaints}, '', 'for a role without rights: no complaints');
unlike($seen->{text}, qr/\Q$script\E|$arabic/, 'it sees nothing of others');
like($seen->{text}, qr/pg_read_all_stats/, 'and is told so');

# names of other databases' pools come in their encodings
foreach my $encoding (qw(LATIN1 EUC_JP SQL_ASCII))
{
	my $db = lc $encoding;
	$primary->safe_psql('postgres',
		"CREATE DATABASE $db ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
	$primary->safe_psql($db, 'CREATE EXTENSION conpool');
	my $other = report($primary, $db);
	unlike($other, qr/[^\x00-\x7F]/, "$encoding: the page is ASCII");
	$seen = look_at($other, 1240);
	is($seen->{complaints}, '', "$encoding: no complaints");
	contains($seen->{names}, $script, "$encoding: the names are there");
}
create_server($primary, $remote, '"caf' . "\xE9" . '"', dbname => 'latin1');
$primary->safe_psql('latin1', qq{SELECT conpool.exec('caf\xE9', 'SELECT 1')});
$seen = look_at(report($primary, 'latin1'), 1240);
contains($seen->{names}, 'café', 'a name that is not ASCII, from a database in LATIN1');

# ---- a standby ------------------------------------------------------------------------

$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup('standby');
$standby->safe_psql('postgres', q{SELECT conpool.exec('remote', 'SELECT 1')});
$seen = look_at(report($standby), 1240);
is($seen->{complaints}, '', 'a standby: no complaints');
like($seen->{text}, qr/standby.*remote/s, 'its pools are shown');

$leaker->hang_up;
done_testing();
