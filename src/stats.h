/*
 * stats.h
 *		The counters and distributions of a pool, and how they are bumped.
 *
 * The caller holds the pool's lock, in whatever process it runs.  Counting is
 * all this does: it decides nothing and never throws.  With conpool.track off
 * events are counted, but not how long they took.
 */
#ifndef CP_STATS_H
#define CP_STATS_H

#include "histogram.h"

typedef enum CpLatency
{
	CP_LATENCY_WAIT,	 /* checkouts; timeouts and cancels too */
	CP_LATENCY_CHECKOUT, /* leases that have ended: from grant to checkin */
	CP_LATENCY_CONNECT,	 /* connects that succeeded */
	CP_LATENCY_REMOTE	 /* statements, from the first byte sent to the last read */
} CpLatency;

#define CP_LATENCIES (CP_LATENCY_REMOTE + 1)

/* What a lease was found to be that is held for too long. */
typedef enum CpLeakClass
{
	CP_LEAK_NONE,				 /* not held for long, or never examined */
	CP_LEAK_WORKING,			 /* a remote statement runs: no leak */
	CP_LEAK_IDLE,				 /* its holder is idle, outside a transaction */
	CP_LEAK_IDLE_IN_TRANSACTION, /* ... in one */
	CP_LEAK_BUSY,				 /* its holder does something else */
	CP_LEAK_ABANDONED			 /* its session has ended */
} CpLeakClass;

#define CP_LEAK_CLASSES (CP_LEAK_ABANDONED + 1)

/* Counters of one pool, since stats_reset.  Times in microseconds. */
typedef struct CpPoolStats
{
	int64 checkouts;
	int64 checkout_timeouts; /* refusals for a full queue included */
	int64 checkout_cancels;
	int64 checkout_failures;	  /* no connection could be opened; refusals of the breaker too */
	int64 refused;				  /* of these, by the breaker, without a try */
	int64 waited;				  /* how many had to queue */
	int64 total_wait_time;		  /* of checkouts, timeouts, cancels and failures */
	int64 total_failed_wait_time; /* of these, of failures */
	int64 max_wait_time;
	int64 total_checkout_time;
	int64 max_checkout_time;
	int64 connects;
	int64 connect_failures;
	int64 total_connect_time; /* of connects that succeeded */
	int64 queries;
	int64 query_errors;
	int64 total_remote_time; /* of all queries */
	int64 rows;
	int64 discarded; /* ended because dead or in doubt */
	int64 resets;
	int64 leaks;				   /* leases, each once */
	int64 leaked[CP_LEAK_CLASSES]; /* how often found to be that; leaks only */
	int64 auto_returned;		   /* explicit leases that the end of a transaction gave back */
	int64 dials;				   /* of connects, those ahead of demand */
	int64 validations;			   /* background round trips */
	int64 validation_failures;	   /* of these, unanswered; also idle ones found dead */
	int64 idle_closed;			   /* idle_timeout */
	int64 expired;				   /* max_lifetime */
	int64 breaker_opened;		   /* how often */
	int64 total_breaker_time;	   /* not closed, until it closed */
	int64 peak_leased;			   /* most at a time */
	int64 peak_waiting;
	int64 overflowed;			  /* of connects, those beyond max_size */
	int64 remote_commits;		  /* remote transactions, in scope transaction */
	int64 remote_rollbacks;		  /* without those lost with their connection */
	int64 remote_commits_unknown; /* nobody could tell how they ended */
	TimestampTz stats_reset;
	CpTime reset_at; /* the same; what was counted before is not there any more */
} CpPoolStats;

/* Extremes since the broker last took them, for the history. */
typedef struct CpExtremes
{
	CpTime max_wait;
	CpTime max_checkout;
	int peak_leased;
	int peak_waiting;
} CpExtremes;

/* All that is counted of a pool; views copy the histograms only when asked for. */
typedef struct CpStats
{
	CpPoolStats counters;
	CpExtremes extremes;
	CpHistogram latency[CP_LATENCIES];
} CpStats;

/* a checkout that got its connection after `wait` microseconds; was that tracked? */
extern bool cp_stats_checkout(CpStats *stats, CpTime wait);

/* takes such a checkout, of that instant, back: what it got was of no use */
extern void cp_stats_undo_checkout(CpStats *stats, CpTime wait, CpTime at, bool tracked);

/* `extra` more wait of a checkout of that instant, tracked with `wait` before */
extern void cp_stats_extra_wait(CpStats *stats, CpTime wait, CpTime extra, CpTime at);

/* a checkout that ended without a connection after `wait` microseconds */
extern void cp_stats_timeout(CpStats *stats, CpTime wait);
extern void cp_stats_cancel(CpStats *stats, CpTime wait);

/* a checkout for which no connection could be had; refused: without a try */
extern void cp_stats_failure(CpStats *stats, CpTime wait, bool refused);

/* a lease that ended after `held` microseconds */
extern void cp_stats_checkin(CpStats *stats, CpTime held);

/* a connect that succeeded after `taken` microseconds */
extern void cp_stats_connect(CpStats *stats, CpTime taken);

/* a remote statement that ended, well or not, after `taken` microseconds */
extern void cp_stats_remote(CpStats *stats, CpTime taken);

/* How a remote transaction of a lease has ended. */
typedef enum CpOutcome
{
	CP_OUTCOME_COMMITTED,
	CP_OUTCOME_ROLLED_BACK,
	CP_OUTCOME_UNKNOWN /* COMMIT was sent, and its answer never came */
} CpOutcome;

extern void cp_stats_transaction(CpStats *stats, CpOutcome outcome);

/* so many are leased, or wait, now */
extern void cp_stats_leased(CpStats *stats, int leased);
extern void cp_stats_waiting(CpStats *stats, int waiting);

/* all to zero, stats_reset to now */
extern void cp_stats_reset(CpStats *stats);

#endif /* CP_STATS_H */
