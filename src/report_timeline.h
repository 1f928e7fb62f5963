/*
 * report_timeline.h
 *		Draws the last hours of a pool, as SVG.
 */
#ifndef CP_REPORT_TIMELINE_H
#define CP_REPORT_TIMELINE_H

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

#define CP_TIMELINE_POINTS 144

/* Where the points lie; common to all pools of a page. */
typedef struct CpTimeAxis
{
	TimestampTz start;
	int64 width; /* of a point, in microseconds */
	int npoints;
} CpTimeAxis;

/*
 * What a pool did in an interval of its history, or in several that make one
 * point: then the longest times and the highest peaks.  Times in milliseconds,
 * NaN when there was nothing to be measured.
 */
typedef struct CpTimePoint
{
	double seconds; /* 0: nothing is known */
	double checkouts;
	double timeouts;
	double errors;
	double most_checkouts; /* in a minute of the busiest interval */
	double wait_p99;
	double wait_max;
	double checkout_p99;
	double checkout_max;
	double peak_leased;
	double peak_waiting;
	double breaker_seconds;
} CpTimePoint;

/*
 * The axis that ends now, has room for what is `oldest`, but for 24 hours at
 * most, and none of whose points is shorter than `interval` seconds.
 */
extern void cp_timeline_axis(CpTimeAxis *axis, TimestampTz now, TimestampTz oldest,
							 double interval);

/* adds the interval that ends then to the point it lies in, if there is one */
extern void cp_timeline_add(const CpTimeAxis *axis, CpTimePoint *points, TimestampTz until,
							const CpTimePoint *interval);

/* number: makes the identifiers of this drawing its own */
extern void cp_timeline_draw(StringInfo page, int number, const CpTimeAxis *axis,
							 const CpTimePoint *points, double max_size);

#endif /* CP_REPORT_TIMELINE_H */
