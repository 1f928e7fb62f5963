/*
 * report_html.h
 *		Writes data into the HTML page of report() so that it is text there,
 *		whatever it holds, and numbers with units.
 */
#ifndef CP_REPORT_HTML_H
#define CP_REPORT_HTML_H

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

/* characters of a name, of a sentence, and of SQL that are shown at once */
#define CP_HTML_NAME_MAX 48
#define CP_HTML_PROSE_MAX 300
#define CP_HTML_SQL_MAX 160

/*
 * Text in the database's encoding, for content and for attributes in double
 * quotes, cut after `max` characters; true if it was.
 */
extern bool cp_html_text(StringInfo page, const char *text, int max);

/* a name, isolated from the direction of the text around it */
extern void cp_html_name(StringInfo page, const char *name);

/* a longer text; the rest can be unfolded */
extern void cp_html_prose(StringInfo page, const char *text);

/* SQL, and what can be unfolded with it; stack and id may be NULL */
extern void cp_html_sql(StringInfo page, const char *sql, const char *stack, const char *id);

/* a short word in a coloured frame: the colour says whether that is good or bad */
extern void cp_html_badge(StringInfo page, const char *word);

/* a number of things, digits in groups */
extern void cp_html_count(StringInfo page, double n);

/* milliseconds, in the unit that suits them; three digits count */
extern void cp_html_duration(StringInfo page, double ms);

/* the same without markup, for the text of an SVG's title */
extern char *cp_html_duration_text(double ms);

/* the same for the ticks of an axis: no more digits than it takes */
extern void cp_html_tick(StringInfo page, double ms);

/* local date and time, or the local time of day only */
extern void cp_html_time(StringInfo page, TimestampTz t);
extern void cp_html_clock(StringInfo page, TimestampTz t);

#endif /* CP_REPORT_HTML_H */
