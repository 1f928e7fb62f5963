/*
 * historian.c
 *		Writes down what each pool did in each interval.
 *
 * Runs in the broker, on each turn of its loop, with no lock held.  A row is the
 * difference between what a pool has counted now and what it had counted at the
 * end of the interval before, of which there are copies in the broker's memory
 * only: a new broker begins with what it finds.  The wall clock says when an
 * interval ends, the monotonic one how long it was, so that a wall clock that
 * jumps makes one interval longer or shorter, and no more.
 */
#include "postgres.h"

#include "historian.h"

#include "guc.h"
#include "history.h"
#include "pool.h"

/* the longest duration in a row, in microseconds */
#define LONGEST_TIME (SECS_PER_HOUR * USECS_PER_SEC)

/* as each pool was when the present interval began; NULL: it was not there */
static CpPoolInterval **previous = NULL;
/* as the pool is now that a row is made of */
static CpPoolInterval *present = NULL;

static CpTime begun;	   /* the present interval, ... */
static TimestampTz end;	   /* ... which ends then, ... */
static TimestampTz length; /* ... and the usual one, in microseconds */

/* ---- one row -------------------------------------------------------------- */

/* A checkout may be taken back in the interval after the one that counted it. */
static uint32
increase(int64 later, int64 earlier)
{
	return (uint32) Min(Max(later - earlier, 0), (int64) PG_UINT32_MAX);
}

static uint32
cut(CpTime us)
{
	return (uint32) Min(Max(us, 0), LONGEST_TIME);
}

/* What was added since, nothing of which took longer than `longest`. */
static void
subtract(const CpHistogram *later, const CpHistogram *earlier, CpTime longest,
		 CpHistogram *difference)
{
	cp_histogram_difference(later, earlier, difference);
	difference->max = longest;
	difference->count = 0;
	for (int i = 0; i < CP_BUCKETS; i++)
	{
		difference->buckets[i] = Max(difference->buckets[i], 0);
		difference->count += difference->buckets[i];
	}
}

/* The row of an interval of `taken` microseconds. */
static CpHistoryRow
make_row(const CpPoolInterval *before, const CpPoolInterval *after, TimestampTz until,
		 CpTime taken)
{
	const CpPoolStats *was = &before->counters;
	const CpPoolStats *is = &after->counters;
	CpHistogram difference;
	CpHistoryRow row = {.until = until};

	row.seconds = Max((taken + USECS_PER_SEC / 2) / USECS_PER_SEC, 1);
	row.checkouts = increase(is->checkouts, was->checkouts);
	row.timeouts = increase(is->checkout_timeouts, was->checkout_timeouts);
	row.errors = increase(is->query_errors + is->checkout_failures,
						  was->query_errors + was->checkout_failures);
	row.peak_leased = after->extremes.peak_leased;
	row.peak_waiting = after->extremes.peak_waiting;
	row.breaker_ms = increase(Min(after->breaker_time - before->breaker_time, taken) / 1000, 0);

	subtract(&after->wait, &before->wait, after->extremes.max_wait, &difference);
	row.waits = increase(difference.count, 0);
	row.wait_p50 = cut(cp_histogram_percentile(&difference, 0.5));
	row.wait_p99 = cut(cp_histogram_percentile(&difference, 0.99));
	row.wait_max = cut(after->extremes.max_wait);

	subtract(&after->checkout, &before->checkout, after->extremes.max_checkout, &difference);
	row.leases = increase(difference.count, 0);
	row.checkout_p50 = cut(cp_histogram_percentile(&difference, 0.5));
	row.checkout_p99 = cut(cp_histogram_percentile(&difference, 0.99));
	row.checkout_max = cut(after->extremes.max_checkout);
	return row;
}

/* ---- all pools ------------------------------------------------------------ */

/*
 * How the pool in `present` was when the interval began.  One that is new, or
 * whose statistics have been reset since, began with nothing.
 */
static const CpPoolInterval *
beginning_of(int pool)
{
	CpPoolInterval *before = previous[pool];

	if (before == NULL)
		before = previous[pool] = palloc0(sizeof(CpPoolInterval));
	if (before->generation != present->generation ||
		before->counters.reset_at != present->counters.reset_at ||
		before->counters.stats_reset != present->counters.stats_reset)
		memset(before, 0, sizeof(*before));
	return before;
}

static void
write_rows(CpTime now, TimestampTz until)
{
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		CpHistoryRow row;

		if (cp_pool_take_interval(p, present))
		{
			row = make_row(beginning_of(p), present, until, now - begun);
			cp_history_write(p, present->generation, &row);
			*previous[p] = *present;
		}
		else if (previous[p])
		{
			pfree(previous[p]);
			previous[p] = NULL;
		}
	}
	begun = now;
}

/* What was counted before there was anybody to watch belongs to no interval. */
static void
begin(CpTime now)
{
	CpPoolInterval **found = palloc0(cp_shared->max_pools * sizeof(CpPoolInterval *));

	present = palloc(sizeof(CpPoolInterval));
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		if (!cp_pool_take_interval(p, present))
			continue;
		found[p] = palloc(sizeof(CpPoolInterval));
		*found[p] = *present;
	}
	previous = found;
	begun = now;
}

/* ---- when ------------------------------------------------------------------ */

/* The last full multiple of the length, by the wall clock. */
static TimestampTz
full_multiple(TimestampTz wall)
{
	return wall - wall % length;
}

static void
plan(TimestampTz wall)
{
	length = cp_guc_history_interval * USECS_PER_SEC;
	end = full_multiple(wall) + length;
}

CpTime
cp_historian_turn(CpTime now)
{
	TimestampTz wall;

	if (cp_guc_history_size == 0)
		return CP_FOREVER;
	wall = GetCurrentTimestamp();
	if (previous == NULL)
	{
		begin(now);
		plan(wall);
	}
	else if (wall >= end)
	{
		write_rows(now, full_multiple(wall));
		plan(wall);
	}
	/*
	 * Another length holds at once.  A clock that was set back must not make the
	 * interval long; but if that was little, the end that was passed is not one
	 * again.
	 */
	else if (length != cp_guc_history_interval * USECS_PER_SEC || wall < end - 2 * length)
		plan(wall);
	return cp_now() + (end - wall);
}

void
cp_historian_end(CpTime now)
{
	if (previous != NULL)
		write_rows(now, GetCurrentTimestamp());
}
