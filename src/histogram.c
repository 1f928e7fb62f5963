/*
 * histogram.c
 *		How many durations were how long.
 *
 * Runs in any process, under whatever lock protects the histogram.
 */
#include "postgres.h"

#include "histogram.h"

#include <math.h>

#include "port/pg_bitutils.h"

#define LINEAR (1 << CP_BUCKET_BITS)

int
cp_histogram_bucket(CpTime us)
{
	uint64 value = (uint64) Max(us, 0);
	int octave;

	if (value < LINEAR)
		return (int) value;
	octave = pg_leftmost_one_pos64(value);
	if (octave >= CP_BUCKET_OCTAVES)
		return CP_BUCKETS - 1;
	return ((octave - CP_BUCKET_BITS + 1) << CP_BUCKET_BITS) +
		(int) ((value >> (octave - CP_BUCKET_BITS)) & (LINEAR - 1));
}

CpTime
cp_histogram_bound(int bucket)
{
	int octave = (bucket >> CP_BUCKET_BITS) - 1;
	int64 step = bucket & (LINEAR - 1);

	if (bucket >= CP_BUCKETS - 1)
		return CP_FOREVER;
	if (octave < 0)
		return bucket;
	return ((LINEAR + step + 1) << octave) - 1;
}

void
cp_histogram_add(CpHistogram *histogram, CpTime us)
{
	histogram->count++;
	histogram->sum += us;
	histogram->max = Max(histogram->max, us);
	histogram->buckets[cp_histogram_bucket(us)]++;
}

void
cp_histogram_remove(CpHistogram *histogram, CpTime us)
{
	histogram->count--;
	histogram->sum -= us;
	histogram->buckets[cp_histogram_bucket(us)]--;
}

void
cp_histogram_difference(const CpHistogram *later, const CpHistogram *earlier,
						CpHistogram *difference)
{
	difference->count = later->count - earlier->count;
	difference->sum = later->sum - earlier->sum;
	difference->max = later->max;
	for (int i = 0; i < CP_BUCKETS; i++)
		difference->buckets[i] = later->buckets[i] - earlier->buckets[i];
}

CpTime
cp_histogram_percentile(const CpHistogram *histogram, double share)
{
	int64 rank = Max((int64) ceil(share * histogram->count), 1);
	int64 seen = 0;

	if (histogram->count <= 0)
		return 0;
	for (int i = 0; i < CP_BUCKETS; i++)
	{
		seen += histogram->buckets[i];
		if (seen >= rank)
			return Min(cp_histogram_bound(i), histogram->max);
	}
	return histogram->max;
}
