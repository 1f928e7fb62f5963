/*
 * clock.h
 *		The one clock that intervals and deadlines are measured with.
 *
 * Monotonic, in microseconds: a wall clock that jumps neither ends a wait nor
 * ages a connection.  Views turn instants into wall-clock times when they are
 * read.  Used everywhere, in every process; never throws.
 */
#ifndef CP_CLOCK_H
#define CP_CLOCK_H

#include <limits.h>
#include <time.h>

#include "datatype/timestamp.h"
#include "utils/timestamp.h"

/* an instant of the monotonic clock, in microseconds */
typedef int64 CpTime;

/* a deadline that never comes */
#define CP_FOREVER PG_INT64_MAX

static inline CpTime
cp_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (CpTime) t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* The deadline `ms` milliseconds after `from`; 0 or less means none. */
static inline CpTime
cp_deadline(CpTime from, int64 ms)
{
	return ms <= 0 ? CP_FOREVER : from + ms * 1000;
}

static inline CpTime
cp_earlier(CpTime a, CpTime b)
{
	return a < b ? a : b;
}

/*
 * Milliseconds to sleep until the deadline, rounded up, for WaitLatch and
 * poll: 0 when it has passed, -1 when there is none.
 */
static inline long
cp_timeout_ms(CpTime deadline)
{
	CpTime left;

	if (deadline == CP_FOREVER)
		return -1;
	left = deadline - cp_now();
	if (left <= 0)
		return 0;
	return (long) Min((left + 999) / 1000, INT_MAX);
}

/* The wall-clock time of an instant, past or to come, for views. */
static inline TimestampTz
cp_wall_clock(CpTime t)
{
	return GetCurrentTimestamp() - (cp_now() - t);
}

#endif /* CP_CLOCK_H */
