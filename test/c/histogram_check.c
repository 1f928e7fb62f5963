/*
 * histogram_check.c
 *		Checks src/histogram.c by itself: every bucket, and percentiles of known
 *		durations.
 *
 * Built and run by test/t/410_latency.pl alone.  Prints what is wrong, one line
 * each, and exits with 1 if anything is.
 */
#include "postgres.h"

#include "../../src/histogram.c"

/* libpgport is not linked */
#undef printf

static int	failures = 0;

static void
check(bool right, const char *what, CpTime us)
{
	if (right || ++failures > 20)
		return;
	printf("%s: %lld\n", what, (long long) us);
}

/* Buckets follow each other without gap, and none is too wide. */
static void
check_buckets(void)
{
	CpTime		lower = 0;

	for (int i = 0; i < CP_BUCKETS - 1; i++)
	{
		CpTime		upper = cp_histogram_bound(i);

		check(upper >= lower, "bounds do not rise", upper);
		check(cp_histogram_bucket(lower) == i, "first of its bucket", lower);
		check(cp_histogram_bucket(upper) == i, "last of its bucket", upper);
		check((upper - lower) * 20 <= lower, "more than 5 % wide", lower);
		lower = upper + 1;
	}
	check(lower > INT64CONST(3600000000), "an hour is beyond the last bound", lower);
	check(cp_histogram_bound(CP_BUCKETS - 1) == CP_FOREVER, "the last has no bound", 0);
	check(cp_histogram_bucket(CP_FOREVER) == CP_BUCKETS - 1, "the longest", CP_FOREVER);
	check(cp_histogram_bucket(-5) == 0, "less than nothing", -5);
}

/* Of 1 to n: the share s is at s * n, or at most 5 % above. */
static void
check_percentiles(CpTime n)
{
	static const double shares[] = {0.5, 0.9, 0.95, 0.99, 1};
	static CpHistogram histogram;

	memset(&histogram, 0, sizeof(histogram));
	check(cp_histogram_percentile(&histogram, 0.5) == 0, "of nothing", n);
	for (CpTime us = 1; us <= n; us++)
		cp_histogram_add(&histogram, us);
	for (int i = 0; i < lengthof(shares); i++)
	{
		double		exact = ceil(shares[i] * n);
		CpTime		got = cp_histogram_percentile(&histogram, shares[i]);

		check(got >= exact && got <= exact * 1.05, "percentile", got);
	}
	check(histogram.count == n && histogram.sum == n * (n + 1) / 2 && histogram.max == n,
		  "count, sum, maximum", n);
}

/* Adding up what came before and what came after is the whole. */
static void
check_difference(void)
{
	static CpHistogram early, late, between;

	for (CpTime us = 1; us < 100000; us *= 2)
	{
		cp_histogram_add(&early, us);
		cp_histogram_add(&late, us);
	}
	cp_histogram_add(&late, 777);
	cp_histogram_add(&late, 100);
	cp_histogram_remove(&late, 100);
	cp_histogram_difference(&late, &early, &between);
	check(between.count == 1 && between.sum == 777, "what came between", between.sum);
	check(between.buckets[cp_histogram_bucket(777)] == 1, "its bucket", 777);
}

int
main(void)
{
	check_buckets();
	check_percentiles(1);
	check_percentiles(1000);
	check_percentiles(1000003);
	check_difference();
	return failures > 0;
}
