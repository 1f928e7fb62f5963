/*
 * stats.c
 *		Bumps the counters and distributions of a pool.
 *
 * Runs wherever pool.c does, under the lock of the pool that is counted.
 */
#include "postgres.h"

#include "stats.h"

#include "guc.h"

/* ... with those that did not get what they waited for. */
static void
add_wait(CpStats *stats, CpTime wait)
{
	if (!cp_guc_track)
		return;
	stats->counters.total_wait_time += wait;
	stats->counters.max_wait_time = Max(stats->counters.max_wait_time, wait);
	stats->extremes.max_wait = Max(stats->extremes.max_wait, wait);
}

static void
add_latency(CpStats *stats, CpLatency kind, CpTime us)
{
	if (cp_guc_track)
		cp_histogram_add(&stats->latency[kind], us);
}

static void
remove_wait(CpStats *stats, CpTime wait)
{
	cp_histogram_remove(&stats->latency[CP_LATENCY_WAIT], wait);
	stats->counters.total_wait_time -= wait;
}

bool
cp_stats_checkout(CpStats *stats, CpTime wait)
{
	stats->counters.checkouts++;
	add_wait(stats, wait);
	add_latency(stats, CP_LATENCY_WAIT, wait);
	return cp_guc_track;
}

/* The maximum stays: the same caller goes on waiting and will exceed it. */
void
cp_stats_undo_checkout(CpStats *stats, CpTime wait, CpTime at, bool tracked)
{
	if (at <= stats->counters.reset_at)
		return;
	stats->counters.checkouts--;
	if (tracked)
		remove_wait(stats, wait);
}

void
cp_stats_extra_wait(CpStats *stats, CpTime wait, CpTime extra, CpTime at)
{
	/* with tracking off by now it stays as it was */
	if (at <= stats->counters.reset_at || !cp_guc_track)
		return;
	remove_wait(stats, wait);
	add_wait(stats, wait + extra);
	add_latency(stats, CP_LATENCY_WAIT, wait + extra);
}

void
cp_stats_timeout(CpStats *stats, CpTime wait)
{
	stats->counters.checkout_timeouts++;
	add_wait(stats, wait);
	add_latency(stats, CP_LATENCY_WAIT, wait);
}

void
cp_stats_cancel(CpStats *stats, CpTime wait)
{
	stats->counters.checkout_cancels++;
	add_wait(stats, wait);
	add_latency(stats, CP_LATENCY_WAIT, wait);
}

void
cp_stats_failure(CpStats *stats, CpTime wait, bool refused)
{
	stats->counters.checkout_failures++;
	if (refused)
		stats->counters.refused++;
	if (cp_guc_track)
		stats->counters.total_failed_wait_time += wait;
	add_wait(stats, wait);
}

void
cp_stats_checkin(CpStats *stats, CpTime held)
{
	if (!cp_guc_track)
		return;
	stats->counters.total_checkout_time += held;
	stats->counters.max_checkout_time = Max(stats->counters.max_checkout_time, held);
	stats->extremes.max_checkout = Max(stats->extremes.max_checkout, held);
	add_latency(stats, CP_LATENCY_CHECKOUT, held);
}

void
cp_stats_connect(CpStats *stats, CpTime taken)
{
	stats->counters.connects++;
	if (cp_guc_track)
		stats->counters.total_connect_time += taken;
	add_latency(stats, CP_LATENCY_CONNECT, taken);
}

void
cp_stats_remote(CpStats *stats, CpTime taken)
{
	if (!cp_guc_track)
		return;
	stats->counters.total_remote_time += taken;
	add_latency(stats, CP_LATENCY_REMOTE, taken);
}

void
cp_stats_transaction(CpStats *stats, CpOutcome outcome)
{
	switch (outcome)
	{
		case CP_OUTCOME_COMMITTED:
			stats->counters.remote_commits++;
			break;
		case CP_OUTCOME_ROLLED_BACK:
			stats->counters.remote_rollbacks++;
			break;
		case CP_OUTCOME_UNKNOWN:
			stats->counters.remote_commits_unknown++;
			break;
	}
}

void
cp_stats_leased(CpStats *stats, int leased)
{
	stats->counters.peak_leased = Max(stats->counters.peak_leased, leased);
	stats->extremes.peak_leased = Max(stats->extremes.peak_leased, leased);
}

void
cp_stats_waiting(CpStats *stats, int waiting)
{
	stats->counters.peak_waiting = Max(stats->counters.peak_waiting, waiting);
	stats->extremes.peak_waiting = Max(stats->extremes.peak_waiting, waiting);
}

void
cp_stats_reset(CpStats *stats)
{
	memset(stats, 0, sizeof(*stats));
	stats->counters.stats_reset = GetCurrentTimestamp();
	stats->counters.reset_at = cp_now();
}
