/*
 * stats.c
 *		Bumps the counters of a pool.
 *
 * Runs wherever pool.c does, under the lock of the pool that is counted.
 */
#include "postgres.h"

#include "stats.h"

static void
add_wait(CpPoolStats *stats, CpTime wait)
{
	stats->total_wait_time += wait;
	stats->max_wait_time = Max(stats->max_wait_time, wait);
}

void
cp_stats_checkout(CpPoolStats *stats, CpTime wait)
{
	stats->checkouts++;
	add_wait(stats, wait);
}

/* The maximum stays: the same caller goes on waiting and will exceed it. */
void
cp_stats_undo_checkout(CpPoolStats *stats, CpTime wait)
{
	stats->checkouts--;
	stats->total_wait_time -= wait;
}

void
cp_stats_timeout(CpPoolStats *stats, CpTime wait)
{
	stats->checkout_timeouts++;
	add_wait(stats, wait);
}

void
cp_stats_cancel(CpPoolStats *stats, CpTime wait)
{
	stats->checkout_cancels++;
	add_wait(stats, wait);
}

void
cp_stats_failure(CpPoolStats *stats, CpTime wait, bool refused)
{
	stats->checkout_failures++;
	if (refused)
		stats->refused++;
	add_wait(stats, wait);
}

void
cp_stats_extra_wait(CpPoolStats *stats, CpTime wait)
{
	add_wait(stats, wait);
}

void
cp_stats_checkin(CpPoolStats *stats, CpTime held)
{
	stats->total_checkout_time += held;
	stats->max_checkout_time = Max(stats->max_checkout_time, held);
}

void
cp_stats_connect(CpPoolStats *stats, CpTime taken)
{
	stats->connects++;
	stats->total_connect_time += taken;
}

void
cp_stats_reset(CpPoolStats *stats)
{
	memset(stats, 0, sizeof(*stats));
	stats->stats_reset = GetCurrentTimestamp();
}
