/*
 * report_html.c
 *		Writes data into the HTML page of report() so that it is text there,
 *		whatever it holds, and numbers with units.
 *
 * Runs in client backends, called by the other report_* files.  The page is
 * ASCII: a function's result is text in the encoding of the database and is
 * converted once more to that of the client, while the page has to name one
 * encoding for good.  So everything else is written as a reference (&#8230;),
 * which means the same in all of them.  Must never write anything that came
 * from data without cp_html_text(), and never fail because of what it holds:
 * text may come from a database of another encoding.
 */
#include "postgres.h"

#include "report_html.h"

#include <math.h>

#include "catalog/namespace.h"
#include "common/string.h"
#include "mb/pg_wchar.h"
#include "pgtime.h"
#include "utils/datetime.h"

#define REPLACEMENT 0xFFFD
#define ELLIPSIS "&#8230;"
/* bytes of the page that one text takes at most, as references can be long */
#define TITLE_BYTES 400
#define UNFOLDED_BYTES 1400

/* ---- characters ------------------------------------------------------------ */

/* Marks that reorder what follows them: SQL could look like other SQL. */
static bool
is_reordering(pg_wchar c)
{
	return (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

/* Not a character, or one that HTML would take for another. */
static bool
is_unusable(pg_wchar c)
{
	return (c >= 0x80 && c <= 0x9F) || (c >= 0xD800 && c <= 0xDFFF) ||
		(c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE || c > 0x10FFFF;
}

static void
add_character(StringInfo page, pg_wchar c)
{
	if (c == '&')
		appendStringInfoString(page, "&amp;");
	else if (c == '<')
		appendStringInfoString(page, "&lt;");
	else if (c == '>')
		appendStringInfoString(page, "&gt;");
	else if (c == '"')
		appendStringInfoString(page, "&quot;");
	else if (c == '\'')
		appendStringInfoString(page, "&#39;");
	else if (c >= ' ' && c <= '~')
		appendStringInfoChar(page, (char) c);
	else if (c == '\n' || c == '\t')
		appendStringInfo(page, "&#%u;", c);
	else if (c < ' ')
		appendStringInfo(page, "&#%u;", 0x2400 + c); /* its picture */
	else if (c == 0x7F)
		appendStringInfoString(page, "&#9249;");
	else if (is_reordering(c))
		appendStringInfo(page, "[U+%04X]", c);
	else
		appendStringInfo(page, "&#%u;", is_unusable(c) ? REPLACEMENT : c);
}

/* The character at *text, which is moved on; what is no UTF-8 goes bytewise. */
static pg_wchar
next_character(const unsigned char **text)
{
	const unsigned char *start = *text;
	int length = pg_utf_mblen(start);

	if (memchr(start, '\0', length) != NULL || !pg_utf8_islegal(start, length))
	{
		*text += 1;
		return REPLACEMENT;
	}
	*text += length;
	return utf8_to_unicode(start);
}

/* ---- encodings -------------------------------------------------------------- */

/* Converts piece by piece; a character that UTF-8 has not is replaced. */
static char *
convert(const char *text, Oid proc)
{
	int encoding = GetDatabaseEncoding();
	StringInfoData result;
	int left = strlen(text);
	int room = left * MAX_CONVERSION_GROWTH + 1;
	unsigned char *buffer = palloc(room);
	unsigned char *from = (unsigned char *) pstrdup(text);

	initStringInfo(&result);
	while (left > 0)
	{
		int done = pg_do_encoding_conversion_buf(proc, encoding, PG_UTF8, from, left,
												 buffer, room, true);

		appendStringInfoString(&result, (char *) buffer);
		from += done;
		left -= done;
		if (left > 0)
		{
			int bad = Min(pg_encoding_mblen(encoding, (char *) from), left);

			appendStringInfoString(&result, "\357\277\275");
			from += bad;
			left -= bad;
		}
	}
	return result.data;
}

/* Text in the database's encoding as UTF-8, if that is possible. */
static const char *
as_utf8(const char *text)
{
	int encoding = GetDatabaseEncoding();
	Oid proc;

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII || pg_is_ascii(text))
		return text;
	proc = FindDefaultConversionProc(encoding, PG_UTF8);
	return OidIsValid(proc) ? convert(text, proc) : text;
}

/* ---- text -------------------------------------------------------------------- */

/* Cut after that many characters, or about that many bytes of the page. */
static bool
add_text(StringInfo page, const char *text, int max, int max_bytes)
{
	const unsigned char *next = (const unsigned char *) as_utf8(text);
	int end = page->len + max_bytes;

	for (int n = 0; *next != '\0'; n++)
	{
		if (n >= max || page->len >= end)
		{
			appendStringInfoString(page, ELLIPSIS);
			return true;
		}
		add_character(page, next_character(&next));
	}
	return false;
}

bool
cp_html_text(StringInfo page, const char *text, int max)
{
	return add_text(page, text, max, max * 12);
}

static bool
is_longer(const char *text, int max)
{
	const unsigned char *next = (const unsigned char *) as_utf8(text);
	int n;

	for (n = 0; n <= max && *next != '\0'; n++)
		(void) next_character(&next);
	return n > max;
}

void
cp_html_name(StringInfo page, const char *name)
{
	appendStringInfoString(page, "<bdi");
	if (is_longer(name, CP_HTML_NAME_MAX))
	{
		appendStringInfoString(page, " title=\"");
		add_text(page, name, TITLE_BYTES, TITLE_BYTES);
		appendStringInfoChar(page, '"');
	}
	appendStringInfoChar(page, '>');
	cp_html_text(page, name, CP_HTML_NAME_MAX);
	appendStringInfoString(page, "</bdi>");
}

static void
add_unfolded(StringInfo page, const char *tag, const char *text)
{
	appendStringInfo(page, "<%s dir=\"auto\">", tag);
	add_text(page, text, UNFOLDED_BYTES, UNFOLDED_BYTES);
	appendStringInfo(page, "</%s>", tag);
}

void
cp_html_prose(StringInfo page, const char *text)
{
	bool is_long = is_longer(text, CP_HTML_PROSE_MAX);

	appendStringInfo(page, "%s<span dir=\"auto\">", is_long ? "<details><summary>" : "");
	cp_html_text(page, text, CP_HTML_PROSE_MAX);
	appendStringInfoString(page, "</span>");
	if (is_long)
	{
		appendStringInfoString(page, "</summary>");
		add_unfolded(page, "p", text);
		appendStringInfoString(page, "</details>");
	}
}

void
cp_html_sql(StringInfo page, const char *sql, const char *stack, const char *id)
{
	bool is_long = is_longer(sql, CP_HTML_SQL_MAX) || strchr(sql, '\n') != NULL;
	bool unfolds = is_long || stack != NULL || id != NULL;

	appendStringInfo(page, "%s<code dir=\"auto\">", unfolds ? "<details><summary>" : "");
	cp_html_text(page, sql, CP_HTML_SQL_MAX);
	appendStringInfoString(page, "</code>");
	if (!unfolds)
		return;
	appendStringInfoString(page, "</summary>");
	add_unfolded(page, "pre", sql);
	if (stack != NULL)
	{
		appendStringInfoString(page, "<p class=\"label\">Call stack</p>");
		add_unfolded(page, "pre", stack);
	}
	if (id != NULL)
	{
		appendStringInfoString(page, "<p class=\"label\">Query ID <span class=\"number\">");
		cp_html_text(page, id, CP_HTML_NAME_MAX);
		appendStringInfoString(page, "</span></p>");
	}
	appendStringInfoString(page, "</details>");
}

/* ---- words -------------------------------------------------------------------- */

typedef struct Tone
{
	const char *word;
	const char *class;
} Tone;

/* words of the views; what is not here is neither good nor bad */
static const Tone tones[] = {
	{"open", "bad"},
	{"breaker opened", "bad"},
	{"breaker open", "bad"},
	{"broker ended", "bad"},
	{"broker not running", "bad"},
	{"leak found", "bad"},
	{"idle", "bad"},
	{"idle in transaction", "bad"},
	{"busy elsewhere", "bad"},
	{"abandoned", "bad"},
	{"still held", "bad"},
	{"reclaimed", "warn"},
	{"probing", "warn"},
	{"paused", "warn"},
	{"reconnect", "warn"},
	{"dropped", "warn"},
	{"settings changed", "note"},
	{"opened", "note"},
	{"working", "good"},
	{"breaker closed", "good"},
	{"broker started", "good"},
	{"broker running", "good"},
	{"leak over", "good"},
	{"resumed", "good"},
	{"checked in", "good"}};

void
cp_html_badge(StringInfo page, const char *word)
{
	const char *class = "plain";

	for (int i = 0; i < lengthof(tones); i++)
		if (strcmp(tones[i].word, word) == 0)
			class = tones[i].class;
	appendStringInfo(page, "<span class=\"badge %s\">", class);
	cp_html_text(page, word, CP_HTML_NAME_MAX);
	appendStringInfoString(page, "</span>");
}

/* ---- numbers ------------------------------------------------------------------- */

void
cp_html_count(StringInfo page, double n)
{
	char *digits = psprintf("%.0f", fabs(n));
	int length = strlen(digits);

	if (n < 0)
		appendStringInfoString(page, "&#8722;");
	for (int i = 0; i < length; i++)
	{
		if (i > 0 && (length - i) % 3 == 0)
			appendStringInfoChar(page, ',');
		appendStringInfoChar(page, digits[i]);
	}
}

/* Three digits of it: 1.23, 12.3, 123. */
static char *
three_digits(double value, const char *unit)
{
	int decimals = 0;

	if (value < 9.995)
		decimals = 2;
	else if (value < 99.95)
		decimals = 1;
	return psprintf("%.*f&#160;%s", decimals, value, unit);
}

/* Two units: 2 min 05 s; the second one is left out if there is nothing of it. */
static char *
two_units(double value, int size, const char *large, const char *small)
{
	double whole = rint(value);
	int rest = (int) fmod(whole, size);
	char *text = psprintf("%.0f&#160;%s", (whole - rest) / size, large);

	return rest == 0 ? text : psprintf("%s %d&#160;%s", text, rest, small);
}

char *
cp_html_duration_text(double ms)
{
	double s = ms / 1000;

	if (isnan(ms))
		return "none";
	if (ms < 0.9995)
		return psprintf("%.0f&#160;&#181;s", ms * 1000);
	if (ms < 999.5)
		return three_digits(ms, "ms");
	if (s < 59.95)
		return three_digits(s, "s");
	if (s < 3599.5)
		return two_units(s, 60, "min", "s");
	if (s < 2 * 86400 - 30)
		return two_units(s / 60, 60, "h", "min");
	return two_units(s / 3600, 24, "d", "h");
}

void
cp_html_duration(StringInfo page, double ms)
{
	appendStringInfoString(page, cp_html_duration_text(ms));
}

void
cp_html_tick(StringInfo page, double ms)
{
	if (ms < 0.9995)
		appendStringInfo(page, "%g&#160;&#181;s", rint(ms * 1000));
	else if (ms < 999.5)
		appendStringInfo(page, "%g&#160;ms", ms);
	else
		appendStringInfo(page, "%g&#160;s", ms / 1000);
}

/* ---- times ---------------------------------------------------------------------- */

/* False for what is no time of a calendar. */
static bool
local_time(TimestampTz t, struct pg_tm *tm)
{
	fsec_t fsec;
	int tz;

	return !TIMESTAMP_NOT_FINITE(t) && timestamp2tm(t, &tz, tm, &fsec, NULL, NULL) == 0;
}

void
cp_html_time(StringInfo page, TimestampTz t)
{
	struct pg_tm tm;

	if (!local_time(t, &tm))
		appendStringInfoString(page, "&#8211;");
	else
		appendStringInfo(page, "<span class=\"time\">%04d-%02d-%02d %02d:%02d:%02d</span>",
						 tm.tm_year, tm.tm_mon, tm.tm_mday,
						 tm.tm_hour, tm.tm_min, tm.tm_sec);
}

void
cp_html_clock(StringInfo page, TimestampTz t)
{
	struct pg_tm tm;

	if (local_time(t, &tm))
		appendStringInfo(page, "%02d:%02d", tm.tm_hour, tm.tm_min);
}
