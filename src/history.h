/*
 * history.h
 *		What each pool did in each interval of the last hours.
 *
 * A ring of conpool.history_size rows for each pool, in shared memory, written
 * by the broker alone (historian.c) every conpool.history_interval.  Read by
 * anybody.  Its lock is taken with no other lock held.
 */
#ifndef CP_HISTORY_H
#define CP_HISTORY_H

#include "shmem.h"

/* One pool, one interval; times in microseconds, those over an hour cut. */
typedef struct CpHistoryRow
{
	TimestampTz until; /* the interval's end, ... */
	uint32 seconds;	   /* ... and length; less than usual around a restart */
	uint32 checkouts;
	uint32 timeouts; /* checkouts that timed out */
	uint32 errors;	 /* of queries, and checkouts that failed */
	uint32 waits;	 /* that were measured: none with conpool.track off; ... */
	uint32 leases;	 /* ... and leases that ended */
	uint32 wait_p50;
	uint32 wait_p99;
	uint32 wait_max;
	uint32 checkout_p50;
	uint32 checkout_p99;
	uint32 checkout_max;
	uint32 peak_leased;
	uint32 peak_waiting;
	uint32 breaker_ms; /* for so long its breaker was not closed */
} CpHistoryRow;

extern Size cp_history_size(void);
extern void cp_history_attach(void *place, bool is_new);

/* historian: adds a row; rows of another generation are another pool's, and go */
extern void cp_history_write(int pool, uint64 generation, const CpHistoryRow *row);

/*
 * Copies of a pool's rows, newest first, palloc'd; returns how many.  None if
 * the place has been another pool's meanwhile (generation).
 */
extern int cp_history_read(int pool, uint64 generation, CpHistoryRow **rows);

/* after a restart: puts one back, oldest first; nobody else is at work */
extern void cp_history_restore(int pool, uint64 generation, const CpHistoryRow *row);

#endif /* CP_HISTORY_H */
