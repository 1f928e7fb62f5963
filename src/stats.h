/*
 * stats.h
 *		The counters of a pool, and how they are bumped.
 *
 * The caller holds the pool's lock, in whatever process it runs.  Counting is
 * all this does: it decides nothing and never throws.
 */
#ifndef CP_STATS_H
#define CP_STATS_H

#include "clock.h"

/* Counters of one pool, since stats_reset.  Times in microseconds. */
typedef struct CpPoolStats
{
	int64 checkouts;
	int64 checkout_timeouts; /* refusals for a full queue included */
	int64 checkout_cancels;
	int64 checkout_failures; /* no connection could be opened; refusals of the breaker too */
	int64 refused;			 /* of these, by the breaker, without a try */
	int64 waited;			 /* how many had to queue */
	int64 total_wait_time;	 /* of checkouts, timeouts and cancels */
	int64 max_wait_time;
	int64 total_checkout_time;
	int64 max_checkout_time;
	int64 connects;
	int64 connect_failures;
	int64 total_connect_time; /* of connects that succeeded */
	int64 queries;
	int64 query_errors;
	int64 rows;
	int64 discarded; /* ended because dead or in doubt */
	int64 resets;
	int64 leaks;
	int64 dials;			   /* of connects, those ahead of demand */
	int64 validations;		   /* background round trips */
	int64 validation_failures; /* of these, unanswered; also idle ones found dead */
	int64 idle_closed;		   /* idle_timeout */
	int64 expired;			   /* max_lifetime */
	int64 breaker_opened;	   /* how often */
	TimestampTz stats_reset;
} CpPoolStats;

/* a checkout that got its connection after `wait` microseconds */
extern void cp_stats_checkout(CpPoolStats *stats, CpTime wait);

/* takes such a checkout back: what it got was of no use */
extern void cp_stats_undo_checkout(CpPoolStats *stats, CpTime wait);

/* a checkout that ended without a connection after `wait` microseconds */
extern void cp_stats_timeout(CpPoolStats *stats, CpTime wait);
extern void cp_stats_cancel(CpPoolStats *stats, CpTime wait);

/* a checkout for which no connection could be had; refused: without a try */
extern void cp_stats_failure(CpPoolStats *stats, CpTime wait, bool refused);

/* more wait of a checkout that is counted already */
extern void cp_stats_extra_wait(CpPoolStats *stats, CpTime wait);

/* a lease that ended after `held` microseconds */
extern void cp_stats_checkin(CpPoolStats *stats, CpTime held);

/* a connect that succeeded after `taken` microseconds */
extern void cp_stats_connect(CpPoolStats *stats, CpTime taken);

/* all counters to zero, stats_reset to now */
extern void cp_stats_reset(CpPoolStats *stats);

#endif /* CP_STATS_H */
