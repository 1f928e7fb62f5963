/*
 * report_bars.c
 *		Draws how durations are distributed, and how full a pool is, as SVG.
 *
 * Runs in client backends, called by sql_report.c.  The buckets of a histogram
 * are too fine to be drawn: ten of these bars make a decade, where whole
 * microseconds allow it.  The x-axis is logarithmic, the y-axis is not, but the
 * smallest number can be seen.  As in report_timeline.c a drawing is stretched
 * to the width there is, and text is HTML that lies over it.  Must not write
 * text that comes from data.
 */
#include "postgres.h"

#include "report_bars.h"

#include <math.h>

#include "report_html.h"

#define WIDTH 1000
#define HEIGHT 96
/* bars from 0 (drawn from half a microsecond on) to 10 us, and of each further decade */
#define FIRST_BARS 8
#define DECADE_BARS 10

static const double first_starts[FIRST_BARS] = {0.5, 1, 2, 3, 4, 5, 6, 8};
static const double decade_starts[DECADE_BARS] = {10, 13, 16, 20, 25, 32, 40, 50, 63, 79};

/* where a bar begins, in microseconds; it ends where the next one does */
static double
start_of(int bar)
{
	int decade = (bar - FIRST_BARS) / DECADE_BARS;

	if (bar < FIRST_BARS)
		return first_starts[Max(bar, 0)];
	return decade_starts[(bar - FIRST_BARS) % DECADE_BARS] * pow(10, decade);
}

void
cp_bars_add(CpBars *bars, CpTime bound, double count)
{
	int bucket = cp_histogram_bucket(bound);
	double from = bucket > 0 ? cp_histogram_bound(bucket - 1) + 1.0 : 0;
	int bar = 0;

	while (bar < CP_BARS_MAX - 1 && start_of(bar + 1) <= from)
		bar++;
	bars->counts[bar] += count;
	bars->total += count;
}

/* ---- drawing ------------------------------------------------------------------- */

/* The decades that are drawn, in microseconds. */
typedef struct Range
{
	double low;
	double high;
} Range;

static Range
range_of(const CpBars *bars)
{
	Range range = {0, 0};
	int first = 0;
	int last = CP_BARS_MAX - 1;

	while (first < last && bars->counts[first] == 0)
		first++;
	while (last > first && bars->counts[last] == 0)
		last--;
	range.low = first == 0 ? 0.5 : pow(10, floor(log10(start_of(first)) + 1e-9));
	range.high = pow(10, ceil(log10(start_of(last + 1)) - 1e-9));
	/* two decades at least, or a few bars would fill it */
	if (range.high < range.low * 99 && range.low >= 10)
		range.low /= 10;
	range.high = Max(range.high, range.low * 100);
	return range;
}

static double
share_of(const Range *range, double us)
{
	return (log10(us) - log10(range->low)) / (log10(range->high) - log10(range->low));
}

static void
draw_bar(StringInfo page, const Range *range, int bar, double count, double most)
{
	double x = WIDTH * share_of(range, start_of(bar));
	double end = WIDTH * share_of(range, start_of(bar + 1));
	double height = Max(HEIGHT * count / most, 2);

	appendStringInfo(page, "<rect x=\"%.0f\" y=\"%.1f\" width=\"%.0f\" height=\"%.1f\"><title>",
					 x, HEIGHT - height, Max(end - x - 2, 2), height);
	cp_html_tick(page, bar == 0 ? 0 : start_of(bar) / 1000);
	appendStringInfoString(page, " to ");
	cp_html_tick(page, start_of(bar + 1) / 1000);
	appendStringInfoString(page, ": ");
	cp_html_count(page, count);
	appendStringInfoString(page, "</title></rect>");
}

static void
draw_bars(StringInfo page, const Range *range, const CpBars *bars)
{
	double most = 0;

	for (int i = 0; i < CP_BARS_MAX; i++)
		most = Max(most, bars->counts[i]);
	appendStringInfoString(page, "<g class=\"bars\">");
	for (int i = 0; i < CP_BARS_MAX; i++)
		if (bars->counts[i] > 0)
			draw_bar(page, range, i, bars->counts[i], most);
	appendStringInfoString(page, "</g>");
}

static void
draw_mark(StringInfo page, const Range *range, double ms)
{
	if (ms > 0)
		appendStringInfo(page, "<path class=\"mark\" d=\"M%.0f 0V%d\"/>",
						 WIDTH * Max(Min(share_of(range, ms * 1000), 1), 0), HEIGHT);
}

static void
write_ticks(StringInfo page, const Range *range)
{
	int decades = (int) (log10(range->high / Max(range->low, 1)) + 0.01);
	int every = decades > 3 ? 2 : 1;
	/* the lowest one is no decade if there are durations below 1 us */
	double first = Max(range->low, 1);

	appendStringInfoString(page, "<div class=\"ticks\">");
	for (int n = 0; n <= decades; n += every)
	{
		double tick = first * pow(10, n);

		appendStringInfo(page, "<span style=\"left:%.1f%%\">", 100 * share_of(range, tick));
		cp_html_tick(page, tick / 1000);
		appendStringInfoString(page, "</span>");
	}
	appendStringInfoString(page, "</div>");
}

void
cp_bars_draw(StringInfo page, int number, const char *words, const CpBars *bars,
			 double p50, double p99)
{
	Range range = range_of(bars);

	appendStringInfo(page, "<div class=\"plot dist\" style=\"height:%dpx\">"
						   "<svg role=\"img\" aria-labelledby=\"t%d d%d\" viewBox=\"0 0 %d %d\" "
						   "preserveAspectRatio=\"none\"><title id=\"t%d\">%s</title>"
						   "<desc id=\"d%d\">",
					 HEIGHT, number, number, WIDTH, HEIGHT, number, words, number);
	cp_html_count(page, bars->total);
	appendStringInfo(page, " measured; half took %s at most, 99 %% took %s at most.</desc>",
					 cp_html_duration_text(p50), cp_html_duration_text(p99));
	draw_bars(page, &range, bars);
	draw_mark(page, &range, p50);
	draw_mark(page, &range, p99);
	appendStringInfo(page, "<path class=\"foot\" d=\"M0 %dH%d\"/></svg>", HEIGHT, WIDTH);
	write_ticks(page, &range);
	appendStringInfoString(page, "</div>");
}

void
cp_bars_pool(StringInfo page, double leased, double idle, double other, double max_size)
{
	double all = Max(Max(max_size, leased + idle + other), 1);
	double x = 0;
	const struct
	{
		const char *class;
		double count;
	} parts[] = {{"leased", leased}, {"idle", idle}, {"other", other}};

	appendStringInfo(page, "<svg class=\"gauge\" role=\"img\" viewBox=\"0 0 100 10\" "
						   "preserveAspectRatio=\"none\"><title>%.0f leased, %.0f idle, "
						   "%.0f in between, at most %.0f</title>"
						   "<rect class=\"free\" width=\"100\" height=\"10\"/>",
					 leased, idle, other, max_size);
	for (int i = 0; i < lengthof(parts); i++)
	{
		double width = 100 * parts[i].count / all;

		if (width > 0)
			appendStringInfo(page, "<rect class=\"%s\" x=\"%.1f\" width=\"%.1f\" height=\"10\"/>",
							 parts[i].class, x, width);
		x += width;
	}
	appendStringInfoString(page, "</svg>");
}
