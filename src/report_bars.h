/*
 * report_bars.h
 *		Draws how durations are distributed, and how full a pool is, as SVG.
 */
#ifndef CP_REPORT_BARS_H
#define CP_REPORT_BARS_H

#include "lib/stringinfo.h"

#include "histogram.h"

#define CP_BARS_MAX 100

/* How many durations fell into each bar. */
typedef struct CpBars
{
	double counts[CP_BARS_MAX];
	double total;
} CpBars;

/* adds a bucket of a histogram, by its inclusive upper bound */
extern void cp_bars_add(CpBars *bars, CpTime bound, double count);

/*
 * Draws them; p50 and p99, in milliseconds, are marked.  `words` tells what it
 * is; number makes the identifiers of this drawing its own.
 */
extern void cp_bars_draw(StringInfo page, int number, const char *words, const CpBars *bars,
						 double p50, double p99);

/* a line that shows the connections of a pool out of what it may have */
extern void cp_bars_pool(StringInfo page, double leased, double idle, double other,
						 double max_size);

#endif /* CP_REPORT_BARS_H */
