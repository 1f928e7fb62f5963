/*
 * report_timeline.c
 *		Draws the last hours of a pool, as SVG.
 *
 * Runs in client backends, called by sql_report.c.  Three panels in one
 * drawing share a time axis: how long callers waited and kept connections, how
 * many there were, and how much of the pool they took.  Every value is a step
 * as wide as its interval: nothing is drawn between values, or where none is
 * known.  The drawing is stretched to the width there is; whatever must not be
 * (text) is HTML that lies over it.  Must not write text that comes from data.
 */
#include "postgres.h"

#include "report_timeline.h"

#include <math.h>

#include "utils/datetime.h"

#include "report_html.h"

/* units of the drawing: a point's width; down, one is a pixel */
#define STEP 10
#define TITLE_HEIGHT 26
#define LEAST_AREA 3 /* what is not zero can be seen */
#define HEIGHT (PANEL_USE_TOP + PANEL_USE_HEIGHT)
#define PANEL_TIME_TOP TITLE_HEIGHT
#define PANEL_TIME_HEIGHT 120
#define PANEL_RATE_TOP (PANEL_TIME_TOP + PANEL_TIME_HEIGHT + TITLE_HEIGHT)
#define PANEL_RATE_HEIGHT 76
#define PANEL_USE_TOP (PANEL_RATE_TOP + PANEL_RATE_HEIGHT + TITLE_HEIGHT)
#define PANEL_USE_HEIGHT 76

/* A drawing, half done. */
typedef struct Drawing
{
	StringInfo page;
	const CpTimeAxis *axis;
	const CpTimePoint *points;
} Drawing;

/* One panel's way from values to heights. */
typedef struct Scale
{
	int top;
	int height;
	bool is_log;
	double low;
	double high;
} Scale;

/* A value of a point; NaN: there is none. */
typedef double (*Series)(const CpTimePoint *point);

/* ---- the axis ---------------------------------------------------------------- */

/* Spans and the points in them, in seconds: an interval mostly is a minute. */
static const struct
{
	double span;
	double point;
} spans[] = {{3600, 60}, {3 * 3600, 120}, {6 * 3600, 180}, {12 * 3600, 300}, {24 * 3600, 600}};

void
cp_timeline_axis(CpTimeAxis *axis, TimestampTz now, TimestampTz oldest, double interval)
{
	double age = (now - oldest) / (double) USECS_PER_SEC;
	int i = 0;

	while (i < lengthof(spans) - 1 && spans[i].span < age)
		i++;
	axis->width = (int64) (Max(spans[i].point, ceil(interval)) * USECS_PER_SEC);
	axis->npoints = (int) (spans[i].span * USECS_PER_SEC / axis->width);
	axis->npoints = Max(Min(axis->npoints, CP_TIMELINE_POINTS), 1);
	/* intervals end at multiples of their length, so points do */
	axis->start = (now + axis->width - 1) / axis->width * axis->width -
		axis->npoints * axis->width;
}

static double
larger(double a, double b)
{
	if (isnan(a) || b > a)
		return b;
	return a;
}

void
cp_timeline_add(const CpTimeAxis *axis, CpTimePoint *points, TimestampTz until,
				const CpTimePoint *interval)
{
	TimestampTz middle = until - (int64) (interval->seconds * USECS_PER_SEC / 2);
	CpTimePoint *point;
	bool is_first;

	if (middle < axis->start || middle >= axis->start + axis->npoints * axis->width ||
		interval->seconds <= 0)
		return;
	point = &points[(middle - axis->start) / axis->width];
	is_first = point->seconds == 0;
	point->seconds += interval->seconds;
	point->checkouts += interval->checkouts;
	point->timeouts += interval->timeouts;
	point->errors += interval->errors;
	point->breaker_seconds += interval->breaker_seconds;
	point->most_checkouts = larger(point->most_checkouts,
								   interval->checkouts * 60 / interval->seconds);
	point->wait_p99 = larger(is_first ? NAN : point->wait_p99, interval->wait_p99);
	point->wait_max = larger(is_first ? NAN : point->wait_max, interval->wait_max);
	point->checkout_p99 = larger(is_first ? NAN : point->checkout_p99, interval->checkout_p99);
	point->checkout_max = larger(is_first ? NAN : point->checkout_max, interval->checkout_max);
	point->peak_leased = larger(point->peak_leased, interval->peak_leased);
	point->peak_waiting = larger(point->peak_waiting, interval->peak_waiting);
}

/* ---- series -------------------------------------------------------------------- */

static double
wait_p99(const CpTimePoint *point)
{
	return point->wait_p99;
}

static double
checkout_p99(const CpTimePoint *point)
{
	return point->checkout_p99;
}

static double
checkouts_per_minute(const CpTimePoint *point)
{
	return point->checkouts * 60 / point->seconds;
}

static double
most_checkouts(const CpTimePoint *point)
{
	return point->most_checkouts;
}

static double
peak_leased(const CpTimePoint *point)
{
	return point->peak_leased;
}

static double
peak_waiting(const CpTimePoint *point)
{
	return point->peak_waiting > 0 ? point->peak_waiting : NAN;
}

/* callers who got no connection, or an error, in a minute */
static double
failures_per_minute(const CpTimePoint *point)
{
	double failures = point->timeouts + point->errors;

	return failures > 0 ? failures * 60 / point->seconds : NAN;
}

/* share of the time that the breaker was not closed */
static double
breaker_share(const CpTimePoint *point)
{
	return point->breaker_seconds > 0 ? Min(point->breaker_seconds / point->seconds, 1) : NAN;
}

static double
value_at(const Drawing *drawing, Series series, int i)
{
	return drawing->points[i].seconds > 0 ? series(&drawing->points[i]) : NAN;
}

static double
most_of(const Drawing *drawing, Series series)
{
	double most = NAN;

	for (int i = 0; i < drawing->axis->npoints; i++)
		most = larger(most, value_at(drawing, series, i));
	return most;
}

static double
least_of(const Drawing *drawing, Series series)
{
	double least = NAN;

	for (int i = 0; i < drawing->axis->npoints; i++)
	{
		double value = value_at(drawing, series, i);

		if (value > 0 && (isnan(least) || value < least))
			least = value;
	}
	return least;
}

/* ---- lines --------------------------------------------------------------------- */

static double
height_of(const Scale *scale, double value)
{
	double share;

	if (scale->is_log)
		share = (log10(Max(value, scale->low)) - log10(scale->low)) /
			(log10(scale->high) - log10(scale->low));
	else
		share = (value - scale->low) / (scale->high - scale->low);
	return scale->top + scale->height * (1 - Min(share, 1));
}

/* The steps of a series; filled: down to the panel's foot. */
static void
draw_steps(const Drawing *drawing, const Scale *scale, Series series, bool is_filled,
		   const char *class)
{
	StringInfo page = drawing->page;
	int foot = scale->top + scale->height;
	bool is_drawing = false;

	appendStringInfo(page, "<path class=\"%s\" d=\"", class);
	for (int i = 0; i <= drawing->axis->npoints; i++)
	{
		double value = i < drawing->axis->npoints ? value_at(drawing, series, i) : NAN;

		if (!isnan(value))
		{
			double y = height_of(scale, value);

			if (is_drawing)
				appendStringInfo(page, "V%.1f", y);
			else if (is_filled)
				appendStringInfo(page, "M%d %dV%.1f", i * STEP, foot, Min(y, foot - LEAST_AREA));
			else
				appendStringInfo(page, "M%d %.1f", i * STEP, y);
			appendStringInfo(page, "H%d", (i + 1) * STEP);
		}
		else if (is_drawing && is_filled)
			appendStringInfo(page, "V%dZ", foot);
		is_drawing = !isnan(value);
	}
	appendStringInfoString(page, "\"/>");
}

static void
draw_level(const Drawing *drawing, const Scale *scale, double value, const char *class)
{
	appendStringInfo(drawing->page, "<path class=\"%s\" d=\"M0 %.1fH%d\"/>", class,
					 height_of(scale, value), drawing->axis->npoints * STEP);
}

/* Bands over all panels; from first, where it was open, to where it was not. */
static void
draw_breaker(const Drawing *drawing)
{
	int first = -1;

	for (int i = 0; i <= drawing->axis->npoints; i++)
	{
		bool is_open = i < drawing->axis->npoints && !isnan(value_at(drawing, breaker_share, i));

		if (is_open && first < 0)
			first = i;
		if (is_open || first < 0)
			continue;
		appendStringInfo(drawing->page,
						 "<rect class=\"breaker\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>",
						 first * STEP, TITLE_HEIGHT, (i - first) * STEP, HEIGHT - TITLE_HEIGHT);
		first = -1;
	}
}

/* ---- text over the drawing -------------------------------------------------------- */

static void
write_key(StringInfo page, const char *class, const char *word)
{
	appendStringInfo(page, "<span class=\"key %s\">%s</span>", class, word);
}

static void
begin_title(StringInfo page, int panel_top, const char *words)
{
	appendStringInfo(page, "<p class=\"panel\" style=\"top:%dpx\"><b>%s</b>",
					 panel_top - TITLE_HEIGHT, words);
}

static void
begin_mark(const Drawing *drawing, const Scale *scale, double value)
{
	appendStringInfo(drawing->page, "<span class=\"y\" style=\"top:%.1fpx\">",
					 height_of(scale, value));
}

static void
write_number_mark(const Drawing *drawing, const Scale *scale, double value)
{
	begin_mark(drawing, scale, value);
	cp_html_count(drawing->page, value);
	appendStringInfoString(drawing->page, "</span>");
}

/* Local times that are a multiple of some minutes, about a dozen at most. */
static void
write_hours(const Drawing *drawing)
{
	const CpTimeAxis *axis = drawing->axis;
	int64 span = axis->npoints * axis->width;
	int64 quarter = 15 * USECS_PER_MINUTE;
	int step = 15;
	int n = 0;

	if (span > 4 * USECS_PER_HOUR)
		step = span > 13 * USECS_PER_HOUR ? 180 : 60;
	appendStringInfoString(drawing->page, "<div class=\"hours\">");
	for (TimestampTz t = (axis->start / quarter + 1) * quarter; t < axis->start + span;
		 t += quarter)
	{
		struct pg_tm tm;
		fsec_t fsec;
		int tz;

		if (timestamp2tm(t, &tz, &tm, &fsec, NULL, NULL) != 0 ||
			(tm.tm_hour * 60 + tm.tm_min) % step != 0)
			continue;
		appendStringInfo(drawing->page, "<span%s style=\"left:%.2f%%\">",
						 n++ % 2 == 1 ? " class=\"odd\"" : "",
						 100.0 * (t - axis->start) / span);
		cp_html_clock(drawing->page, t);
		appendStringInfoString(drawing->page, "</span>");
	}
	appendStringInfoString(drawing->page, "</div>");
}

/* ---- panels --------------------------------------------------------------------------- */

/* Whole decades that hold what both series have; false if they have nothing. */
static bool
scale_times(const Drawing *drawing, Scale *scale)
{
	double most = larger(most_of(drawing, wait_p99), most_of(drawing, checkout_p99));
	double wait = least_of(drawing, wait_p99);
	double checkout = least_of(drawing, checkout_p99);
	double least = isnan(wait) || checkout < wait ? checkout : wait;

	*scale = (Scale){PANEL_TIME_TOP, PANEL_TIME_HEIGHT, true, 0.001, 1};
	if (isnan(most))
		return false;
	scale->high = Max(pow(10, ceil(log10(Max(most, 0.001)) - 1e-9)), 0.01);
	if (!isnan(least))
		scale->low = Max(pow(10, floor(log10(least) + 1e-9)), 0.001);
	scale->low = Min(scale->low, scale->high / 10);
	return true;
}

static int
decades_of(const Scale *scale)
{
	return (int) rint(log10(scale->high / scale->low));
}

static void
draw_times(const Drawing *drawing, const Scale *scale)
{
	for (int i = 0; i <= decades_of(scale); i++)
		draw_level(drawing, scale, scale->low * pow(10, i), "grid");
	draw_steps(drawing, scale, checkout_p99, false, "line checkout");
	draw_steps(drawing, scale, wait_p99, false, "line wait");
}

static void
write_times(const Drawing *drawing, const Scale *scale, bool has_values)
{
	StringInfo page = drawing->page;
	int every = decades_of(scale) > 4 ? 2 : 1;

	begin_title(page, scale->top, "p99 times");
	write_key(page, "wait", "wait");
	write_key(page, "checkout", "checkout");
	if (!isnan(most_of(drawing, breaker_share)))
		write_key(page, "open", "breaker not closed");
	appendStringInfoString(page, has_values ? "</p>" : "<i>no checkouts</i></p>");
	for (int i = 0; has_values && i <= decades_of(scale); i += every)
	{
		double tick = scale->low * pow(10, i);

		begin_mark(drawing, scale, tick);
		cp_html_tick(page, tick);
		appendStringInfoString(page, "</span>");
	}
}

/* The next number at or above it that is easy to read. */
static double
round_up(double value)
{
	static const double steps[] = {1, 1.5, 2, 3, 4, 5, 6, 8, 10};
	double power = pow(10, floor(log10(Max(value, 1))));
	int i = 0;

	while (i < lengthof(steps) - 1 && steps[i] * power < value)
		i++;
	return Max(steps[i] * power, 4);
}

static void
scale_rates(const Drawing *drawing, Scale *scale)
{
	double most = larger(most_of(drawing, most_checkouts),
						 most_of(drawing, failures_per_minute));

	*scale = (Scale){PANEL_RATE_TOP, PANEL_RATE_HEIGHT, false, 0, 0};
	scale->high = round_up(isnan(most) ? 0 : most);
}

static void
draw_rates(const Drawing *drawing, const Scale *scale)
{
	draw_level(drawing, scale, scale->high, "grid");
	draw_level(drawing, scale, scale->high / 2, "grid");
	draw_steps(drawing, scale, checkouts_per_minute, true, "area rate");
	draw_steps(drawing, scale, most_checkouts, false, "line rate");
	draw_steps(drawing, scale, failures_per_minute, true, "area failure");
	draw_level(drawing, scale, 0, "foot");
}

static void
write_rates(const Drawing *drawing, const Scale *scale)
{
	begin_title(drawing->page, scale->top, "Per minute");
	write_key(drawing->page, "rate", "checkouts");
	write_key(drawing->page, "failure", "timeouts and errors");
	appendStringInfoString(drawing->page, "</p>");
	write_number_mark(drawing, scale, 0);
	write_number_mark(drawing, scale, scale->high);
}

static void
scale_use(const Drawing *drawing, Scale *scale, double max_size)
{
	double peak = larger(most_of(drawing, peak_leased), most_of(drawing, peak_waiting));

	*scale = (Scale){PANEL_USE_TOP, PANEL_USE_HEIGHT, false, 0, 0};
	/* room above the line */
	scale->high = Max(larger(max_size, peak) * 1.1, 1);
}

static void
draw_use(const Drawing *drawing, const Scale *scale, double max_size)
{
	draw_steps(drawing, scale, peak_leased, true, "area leased");
	draw_steps(drawing, scale, peak_leased, false, "line leased");
	draw_steps(drawing, scale, peak_waiting, false, "line waiting");
	draw_level(drawing, scale, max_size, "limit");
	draw_level(drawing, scale, 0, "foot");
}

static void
write_use(const Drawing *drawing, const Scale *scale, double max_size)
{
	double peak = larger(most_of(drawing, peak_leased), most_of(drawing, peak_waiting));

	begin_title(drawing->page, scale->top, "Peaks");
	write_key(drawing->page, "leased", "leased");
	write_key(drawing->page, "waiting", "waiting");
	write_key(drawing->page, "limit", "max_size");
	appendStringInfoString(drawing->page, "</p>");
	write_number_mark(drawing, scale, 0);
	if (max_size > scale->high / 4)
		write_number_mark(drawing, scale, max_size);
	if (peak > max_size * 1.3)
		write_number_mark(drawing, scale, peak);
}

/* ---- what pointing at it tells ---------------------------------------------------------- */

static void
tell_point(const Drawing *drawing, int i)
{
	const CpTimePoint *point = &drawing->points[i];
	StringInfo page = drawing->page;
	TimestampTz from = drawing->axis->start + i * drawing->axis->width;

	appendStringInfo(page, "<rect x=\"%d\" width=\"%d\" height=\"%d\"><title>",
					 i * STEP, STEP, HEIGHT);
	cp_html_clock(page, from);
	appendStringInfoString(page, " to ");
	cp_html_clock(page, from + drawing->axis->width);
	if (!isnan(point->wait_p99))
		appendStringInfo(page, "&#10;wait p99 %s, max %s",
						 cp_html_duration_text(point->wait_p99),
						 cp_html_duration_text(point->wait_max));
	if (!isnan(point->checkout_p99))
		appendStringInfo(page, "&#10;checkout p99 %s, max %s",
						 cp_html_duration_text(point->checkout_p99),
						 cp_html_duration_text(point->checkout_max));
	appendStringInfoString(page, "&#10;checkouts ");
	cp_html_count(page, point->checkouts);
	if (point->timeouts + point->errors > 0)
		appendStringInfo(page, ", timeouts %.0f, errors %.0f", point->timeouts, point->errors);
	appendStringInfo(page, "&#10;peak leased %.0f, waiting %.0f", point->peak_leased,
					 point->peak_waiting);
	if (point->breaker_seconds > 0)
		appendStringInfo(page, "&#10;breaker not closed for %s",
						 cp_html_duration_text(point->breaker_seconds * 1000));
	appendStringInfoString(page, "</title></rect>");
}

static void
tell_points(const Drawing *drawing)
{
	appendStringInfoString(drawing->page, "<g class=\"hover\">");
	for (int i = 0; i < drawing->axis->npoints; i++)
		if (drawing->points[i].seconds > 0)
			tell_point(drawing, i);
	appendStringInfoString(drawing->page, "</g>");
}

/* For those who do not see the drawing. */
static void
describe(const Drawing *drawing, int number, double max_size)
{
	int64 span = drawing->axis->npoints * drawing->axis->width;
	double checkouts = 0;
	double failures = 0;
	double breaker = 0;

	for (int i = 0; i < drawing->axis->npoints; i++)
	{
		checkouts += drawing->points[i].checkouts;
		failures += drawing->points[i].timeouts + drawing->points[i].errors;
		breaker += drawing->points[i].breaker_seconds;
	}
	appendStringInfo(drawing->page, "<title id=\"t%d\">The last %s</title>"
									"<desc id=\"d%d\">Highest p99 of wait %s, of checkout %s. ",
					 number, cp_html_duration_text(span / 1000.0), number,
					 cp_html_duration_text(most_of(drawing, wait_p99)),
					 cp_html_duration_text(most_of(drawing, checkout_p99)));
	appendStringInfo(drawing->page, "Checkouts: %.0f; timeouts and errors: %.0f. "
									"At most %.0f of %.0f connections leased. "
									"Breaker not closed for %.0f seconds.</desc>",
					 checkouts, failures, larger(0, most_of(drawing, peak_leased)), max_size,
					 breaker);
}

void
cp_timeline_draw(StringInfo page, int number, const CpTimeAxis *axis,
				 const CpTimePoint *points, double max_size)
{
	Drawing drawing = {page, axis, points};
	Scale times;
	Scale rates;
	Scale use;
	bool has_times = scale_times(&drawing, &times);

	scale_rates(&drawing, &rates);
	scale_use(&drawing, &use, max_size);
	appendStringInfo(page, "<div class=\"plot\" style=\"height:%dpx\">"
						   "<svg role=\"img\" aria-labelledby=\"t%d d%d\" viewBox=\"0 0 %d %d\" "
						   "preserveAspectRatio=\"none\">",
					 HEIGHT, number, number, axis->npoints * STEP, HEIGHT);
	describe(&drawing, number, max_size);
	draw_breaker(&drawing);
	if (has_times)
		draw_times(&drawing, &times);
	draw_rates(&drawing, &rates);
	draw_use(&drawing, &use, max_size);
	tell_points(&drawing);
	appendStringInfoString(page, "</svg>");
	write_times(&drawing, &times, has_times);
	write_rates(&drawing, &rates);
	write_use(&drawing, &use, max_size);
	write_hours(&drawing);
	appendStringInfoString(page, "</div>");
}
