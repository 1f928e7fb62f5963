/*
 * report_page.c
 *		The frame of the page that report() makes: its head, style and sections.
 *
 * Runs in client backends, called by sql_report.c.  The page needs nothing but
 * itself: no network, no script, no font.  Its policy tells the browser so,
 * as a second barrier: were a text from data ever taken for markup, it still
 * could run nothing, and reach nobody.  Must not write text that comes from
 * data.
 */
#include "postgres.h"

#include "report_page.h"

#include "report_html.h"

static const char head[] =
	"<!DOCTYPE html>\n"
	"<html lang=\"en\">\n"
	"<head>\n"
	"<meta charset=\"utf-8\">\n"
	"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
	"style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">\n"
	"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
	"<meta name=\"color-scheme\" content=\"light dark\">\n"
	"<meta name=\"referrer\" content=\"no-referrer\">\n"
	"<meta name=\"robots\" content=\"noindex\">\n"
	"<link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' "
	"viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' fill='%231f6feb'/%3E"
	"%3Cpath d='M4 12V8M8 12V4M12 12V6' stroke='%23fff' stroke-width='2'/%3E%3C/svg%3E\">\n";

/* Everything that differs between light and dark; print is light. */
static const char colours[] =
	":root{color-scheme:light dark;"
	"--ground:#f3f5f8;--card:#fff;--ink:#17202b;--soft:#566171;--line:#dde3ea;--track:#e6ebf1;"
	"--link:#0b5cd6;--wait:#1f6feb;--checkout:#b65500;--rate:#0d7f76;--fail:#d0232e;"
	"--leased:#5a55d2;--waiting:#c01f63;--idle:#a9b0ee;--other:#8a94a3;"
	"--shade:rgba(20,32,48,.16);"
	"--bad:#a30f1b;--bad-ground:#fde7e8;--warn:#7a4a00;--warn-ground:#fff0d1;"
	"--good:#0b6132;--good-ground:#ddf5e6;--note:#0b4a9e;--note-ground:#e2edfd}\n"
	"@media screen and (prefers-color-scheme:dark){:root{"
	"--ground:#0d1117;--card:#161c24;--ink:#e7edf4;--soft:#9eabb9;--line:#2a333e;--track:#28313c;"
	"--link:#79b4ff;--wait:#5aa7ff;--checkout:#f3934c;--rate:#35c9bb;--fail:#ff6b70;"
	"--leased:#9a96ff;--waiting:#ff85b5;--idle:#4d4a94;--other:#6d7a89;"
	"--shade:rgba(0,0,0,.55);"
	"--bad:#ffb3b5;--bad-ground:#4a1a20;--warn:#ffd58a;--warn-ground:#453006;"
	"--good:#9be8b8;--good-ground:#123a24;--note:#a9ceff;--note-ground:#152f52}}\n";

static const char layout[] =
	"*{box-sizing:border-box}\n"
	"html{-webkit-text-size-adjust:100%;scroll-padding-top:1rem}\n"
	"body{margin:0;background:var(--ground);color:var(--ink);"
	"font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',"
	"'Noto Sans','Liberation Sans',sans-serif;"
	"font-variant-numeric:tabular-nums}\n"
	".frame{max-width:1320px;margin:0 auto;padding:1.5rem 1.25rem 3rem}\n"
	"h1{font-size:1.6rem;line-height:1.2;margin:.1rem 0 .4rem;letter-spacing:-.01em;"
	"overflow-wrap:anywhere}\n"
	"h2{font-size:1.12rem;line-height:1.3;margin:0;letter-spacing:-.005em}\n"
	"h3{font-size:1.02rem;margin:0;overflow-wrap:anywhere}\n"
	"h4{font-size:.8rem;margin:1.6rem 0 .3rem;font-weight:600;color:var(--soft);"
	"text-transform:uppercase;letter-spacing:.05em}\n"
	"p{margin:.3rem 0}small,.about,.label{font-size:.85rem;color:var(--soft)}\n"
	"a{color:var(--link)}\n"
	".brand{font-size:.8rem;font-weight:600;color:var(--soft);text-transform:uppercase;"
	"letter-spacing:.08em}\n"
	".facts{display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;font-size:.88rem;color:var(--soft);"
	"align-items:center}\n"
	".facts b{font-weight:600;color:var(--ink)}\n"
	"nav{display:flex;flex-wrap:wrap;gap:.4rem;margin:1rem 0}\n"
	"nav a{display:inline-block;padding:.32rem .75rem;border:1px solid var(--line);"
	"border-radius:99px;background:var(--card);color:var(--ink);font-size:.86rem;"
	"text-decoration:none}\n"
	"nav a:hover,nav a:focus-visible{border-color:var(--link);color:var(--link)}\n"
	"nav a span,h2 .total{color:var(--soft);font-weight:400;margin-left:.35rem}\n"
	"section,.tile{background:var(--card);border:1px solid var(--line);border-radius:12px}\n"
	"section{padding:1.1rem 1.25rem;margin:1rem 0}\n"
	".empty{color:var(--soft);margin:.5rem 0 0}\n"
	".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.2rem,1fr));gap:.75rem;"
	"margin:1rem 0}\n"
	".tile{padding:.7rem .95rem}.tile b{display:block;font-size:1.55rem;line-height:1.25;"
	"font-weight:650;letter-spacing:-.02em}.tile .unit{font-size:.9rem;font-weight:400;"
	"letter-spacing:0;color:var(--soft)}\n"
	".tile.alarm{border-color:var(--fail);box-shadow:inset 3px 0 0 var(--fail)}"
	".tile.alarm b{color:var(--fail)}\n"
	".badge{display:inline-block;padding:.05rem .5rem;border-radius:99px;font-size:.78rem;"
	"font-weight:600;white-space:nowrap;background:var(--track);color:var(--ink)}\n"
	".badge.bad{background:var(--bad-ground);color:var(--bad)}"
	".badge.warn{background:var(--warn-ground);color:var(--warn)}"
	".badge.good{background:var(--good-ground);color:var(--good)}"
	".badge.note{background:var(--note-ground);color:var(--note)}\n"
	".time,.nowrap{white-space:nowrap}\n";

static const char tables[] =
	/* a shade at a side says that there is more in that direction */
	".box{overflow-x:auto;margin:.7rem -1.25rem -.3rem;padding:0 1.25rem;"
	"background:linear-gradient(90deg,var(--card) 30%,transparent) 0 0/3rem 100% no-repeat local,"
	"linear-gradient(270deg,var(--card) 30%,transparent) 100% 0/3rem 100% no-repeat local,"
	"linear-gradient(90deg,var(--shade),transparent) 0 0/1rem 100% no-repeat scroll,"
	"linear-gradient(270deg,var(--shade),transparent) 100% 0/1rem 100% no-repeat scroll}\n"
	".box:focus-visible{outline:2px solid var(--link);outline-offset:-2px}\n"
	"table{border-collapse:collapse;width:100%;font-size:.87rem}\n"
	"th{font-size:.74rem;font-weight:600;color:var(--soft);text-align:left;white-space:nowrap;"
	"letter-spacing:.02em;vertical-align:bottom}\n"
	"th,td{padding:.42rem .8rem .42rem 0;border-bottom:1px solid var(--line)}\n"
	"td{vertical-align:top}tbody tr:last-child td{border-bottom:0}\n"
	"tbody tr:hover td{background:var(--ground)}\n"
	"th:last-child,td:last-child{padding-right:0}\n"
	".n{text-align:right;white-space:nowrap}\n"
	".none,.zero{color:var(--soft)}.alarm.n,td .alarm{color:var(--fail);font-weight:600}\n"
	".pool{min-width:10.5rem;max-width:17rem;overflow-wrap:anywhere}\n"
	"td.pool a,td.pool a b{color:var(--link);text-decoration:none}"
	"td.pool a:hover b{text-decoration:underline}td.pool a small{color:var(--soft)}\n"
	".pool b{font-weight:600;display:block}.pool small{display:block}\n"
	".long{min-width:15rem;max-width:34rem;overflow-wrap:anywhere}\n"
	".name{min-width:7.6rem;max-width:14rem;overflow-wrap:anywhere}\n"
	".name small{display:block;overflow-wrap:anywhere}\n"
	".fill{min-width:9rem}.fill small{display:block;white-space:nowrap}\n"
	".share{display:inline-block;width:4.5rem;height:.5rem;border-radius:99px;"
	"background:var(--track);overflow:hidden;vertical-align:middle}\n"
	".share i{display:block;height:100%;background:var(--checkout)}\n"
	"code,pre{font:.82rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',"
	"monospace;white-space:pre-wrap;overflow-wrap:anywhere}\n"
	"code,summary span{unicode-bidi:isolate}\n"
	"summary code{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:3;"
	"overflow:hidden}details[open] summary>*{display:none}\n"
	"details[open] summary::after{content:'less'}"
	"details summary::after{font-size:.78rem;color:var(--link)}\n"
	"summary{cursor:pointer;list-style:none}summary::-webkit-details-marker{display:none}\n"
	"summary:focus-visible{outline:2px solid var(--link);outline-offset:2px}\n"
	"details:not([open]) summary::after{content:'more'}\n"
	"pre,details>p{margin:.4rem 0;max-height:24rem;overflow:auto}\n"
	"pre{padding:.6rem .75rem;border-radius:8px;background:var(--ground)}\n"
	".advice{list-style:none;margin:.8rem 0 .2rem;padding:0;display:grid;gap:1rem}\n"
	".advice li{border-left:3px solid var(--checkout);padding:0 0 0 .95rem;"
	"overflow-wrap:anywhere}\n"
	".finding{font-weight:600}.where b{font-weight:600}.where{margin:0;font-size:.87rem}"
	".where small,h3 small{margin-left:.6rem;font-weight:400}\n"
	".run{margin:.5rem 0 .1rem;padding:.5rem .75rem;border-radius:8px;background:var(--ground)}\n";

static const char charts[] =
	"article{border-top:1px solid var(--line);margin-top:1.2rem;padding-top:1.1rem}\n"
	"article header{display:flex;flex-wrap:wrap;gap:.2rem .7rem;align-items:baseline}\n"
	"dl{display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;margin:.5rem 0;font-size:.87rem}\n"
	"dl div{display:flex;gap:.4rem}dt{color:var(--soft)}dd{margin:0;font-weight:600}\n"
	"svg{display:block}\n"
	".gauge{width:9rem;height:.62rem;border-radius:99px;overflow:hidden;margin:.4rem 0 .1rem}\n"
	".gauge .free{fill:var(--track)}.gauge .leased{fill:var(--leased)}"
	".gauge .idle{fill:var(--idle)}.gauge .other{fill:var(--other)}\n"
	".plot{position:relative;margin:.2rem .2rem 1.9rem 3.7rem;font-size:.75rem}\n"
	".plot.dist{margin:.2rem 1.3rem 1.7rem 1.1rem}\n"
	".plot svg{position:absolute;left:0;top:0;width:100%;height:100%}\n"
	".plot path{fill:none;stroke-width:1.6;vector-effect:non-scaling-stroke;"
	"stroke-linejoin:round}\n"
	".plot path.grid,.plot path.foot{stroke:var(--line);stroke-width:1}\n"
	".plot path.foot{stroke:var(--other)}\n"
	".plot path.limit{stroke:var(--soft);stroke-width:1.4;stroke-dasharray:5 4}\n"
	".plot .line.wait{stroke:var(--wait)}.plot .line.checkout{stroke:var(--checkout)}"
	".plot .line.rate{stroke:var(--rate);stroke-width:1}.plot .line.leased{stroke:var(--leased)}"
	".plot .line.waiting{stroke:var(--waiting)}\n"
	".plot .area{stroke:none;fill-opacity:.28}.plot .area.rate{fill:var(--rate)}"
	".plot .area.leased{fill:var(--leased)}"
	".plot .area.failure{fill:var(--fail);fill-opacity:.9}\n"
	".breaker{fill:var(--fail);fill-opacity:.16}\n"
	".bars rect{fill:var(--wait)}.kind-checkout .bars rect{fill:var(--checkout)}"
	".kind-connect .bars rect{fill:var(--rate)}.kind-remote .bars rect{fill:var(--leased)}\n"
	".bars rect:hover{fill-opacity:.7}\n"
	".plot path.mark{stroke:var(--ink);stroke-width:1;stroke-dasharray:2 3}\n"
	".hover rect{fill:transparent}.hover rect:hover{fill:var(--ink);fill-opacity:.09}\n"
	".panel{position:absolute;left:0;right:0;height:26px;margin:0;display:flex;gap:0 .9rem;"
	"align-items:center;white-space:nowrap;overflow:hidden}\n"
	".panel b{font-weight:600}.panel i{color:var(--soft)}\n"
	".key{color:var(--soft)}.key::before{content:'';display:inline-block;width:.85rem;"
	"height:.22rem;border-radius:2px;margin-right:.35rem;vertical-align:middle;"
	"background:var(--soft)}\n"
	".key.wait::before{background:var(--wait)}.key.checkout::before{background:var(--checkout)}"
	".key.rate::before{background:var(--rate)}.key.failure::before{background:var(--fail)}"
	".key.leased::before{background:var(--leased)}"
	".key.waiting::before{background:var(--waiting)}"
	".key.idle::before{background:var(--idle)}.key.other::before{background:var(--other)}"
	".key.open::before{background:var(--fail);opacity:.3;height:.7rem}"
	".key.limit::before{height:0;background:none;border-top:2px dashed var(--soft)}\n"
	".y{position:absolute;right:100%;margin-right:.5rem;transform:translateY(-50%);"
	"white-space:nowrap;color:var(--soft)}\n"
	".hours,.ticks{position:absolute;top:100%;left:0;right:0;height:1.4rem;color:var(--soft)}\n"
	".hours span,.ticks span{position:absolute;top:.25rem;transform:translateX(-50%);"
	"white-space:nowrap}\n"
	".hours span::before{content:'';position:absolute;left:50%;top:-.25rem;height:.25rem;"
	"border-left:1px solid var(--other)}\n"
	".kinds{display:grid;grid-template-columns:repeat(auto-fit,minmax(15.5rem,1fr));"
	"gap:.6rem 1.6rem}\n"
	".kinds figure{margin:0;min-width:0}.kinds figcaption{font-size:.87rem;margin-bottom:.4rem}\n"
	".kinds dl{margin:.1rem 0 0;gap:.1rem .9rem;font-size:.8rem}.kinds dl div{gap:.3rem}\n"
	"footer{color:var(--soft);font-size:.85rem;margin-top:1.5rem}\n";

static const char media[] =
	"@media (max-width:640px){body{font-size:14px}.frame{padding:1rem .7rem 2rem}"
	"section{padding:.9rem .85rem;border-radius:10px}.box{margin:.6rem -.85rem -.2rem;"
	"padding:0 .85rem}.tiles{grid-template-columns:1fr 1fr;gap:.5rem}h1{font-size:1.3rem}"
	".plot{margin-left:3.1rem}.plot,.key{font-size:.7rem}.panel{gap:0 .55rem}"
	".key::before{width:.55rem;margin-right:.25rem}.hours .odd{display:none}"
	".pool{max-width:11rem}}\n"
	"@page{margin:12mm}@media print{html{font-size:10.5px}"
	"body{font-size:1rem;background:#fff}.frame{max-width:none;padding:0}"
	"nav,details summary::after{display:none!important}section,.tile{break-inside:auto;"
	"box-shadow:none}article,figure,tr,.advice li{break-inside:avoid}h2,h3{break-after:avoid}"
	".box{overflow:visible;background:none}th,td{padding:.25rem .6rem .25rem 0}"
	"th,.time{white-space:normal}.pool{min-width:8rem}.long{min-width:12rem}"
	".name{min-width:5rem}pre{max-height:none}.kinds{grid-template-columns:repeat(4,1fr)}"
	"*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}\n";

void
cp_page_begin(StringInfo page, const char *title)
{
	appendStringInfo(page, "%s<title>%s</title>\n<style>\n", head, title);
	appendStringInfoString(page, colours);
	appendStringInfoString(page, layout);
	appendStringInfoString(page, tables);
	appendStringInfoString(page, charts);
	appendStringInfoString(page, media);
	appendStringInfoString(page, "</style>\n</head>\n<body>\n<div class=\"frame\">\n");
}

void
cp_page_end(StringInfo page)
{
	appendStringInfoString(page, "</div>\n</body>\n</html>");
}

void
cp_page_begin_section(StringInfo page, const char *id, const char *heading, double total,
					  const char *about)
{
	appendStringInfo(page, "<section id=\"%s\"><h2>%s", id, heading);
	if (total >= 0)
	{
		appendStringInfoString(page, "<span class=\"total\">");
		cp_html_count(page, total);
		appendStringInfoString(page, "</span>");
	}
	appendStringInfoString(page, "</h2>");
	if (about != NULL)
		appendStringInfo(page, "<p class=\"about\">%s</p>", about);
	appendStringInfoChar(page, '\n');
}

void
cp_page_end_section(StringInfo page)
{
	appendStringInfoString(page, "</section>\n");
}
