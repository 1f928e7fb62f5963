/*
 * histogram.h
 *		How many durations were how long.
 *
 * Log-linear buckets, as in HdrHistogram (G. Tene): exact below 32 µs, above
 * that 32 of equal width for each power of two, so that a bucket is at most
 * 1/32 (3.2 %) wide of what is in it.  All histograms have the same buckets and
 * are merged by adding them up.  Runs in any process, under whatever lock
 * protects the histogram; never throws.
 */
#ifndef CP_HISTOGRAM_H
#define CP_HISTOGRAM_H

#include "clock.h"

#define CP_BUCKET_BITS 5
/* up to 2^32 µs, 71 minutes; what is longer is counted in the last one */
#define CP_BUCKET_OCTAVES 32
#define CP_BUCKETS ((CP_BUCKET_OCTAVES - CP_BUCKET_BITS + 1) << CP_BUCKET_BITS)

typedef struct CpHistogram
{
	int64 count; /* of all buckets */
	CpTime sum;	 /* microseconds */
	CpTime max;	 /* microseconds */
	int64 buckets[CP_BUCKETS];
} CpHistogram;

/* the bucket that so many microseconds belong in */
extern int cp_histogram_bucket(CpTime us);

/* the longest duration that belongs in it; CP_FOREVER for the last one */
extern CpTime cp_histogram_bound(int bucket);

extern void cp_histogram_add(CpHistogram *histogram, CpTime us);

/* takes back what was added; the maximum stays */
extern void cp_histogram_remove(CpHistogram *histogram, CpTime us);

/* what is in `later` and was not in `earlier` yet; the maximum is later's */
extern void cp_histogram_difference(const CpHistogram *later, const CpHistogram *earlier,
									CpHistogram *difference);

/*
 * The duration, in microseconds, that a share of them (0 to 1) did not exceed:
 * the upper bound of its bucket, or the maximum if that is less.  0 when empty.
 */
extern CpTime cp_histogram_percentile(const CpHistogram *histogram, double share);

#endif /* CP_HISTOGRAM_H */
