/*
 * map.h
 *		Runs statements on many servers at the same time.
 *
 * Runs in client backends, called by sql_map.c.  Throws.
 */
#ifndef CP_MAP_H
#define CP_MAP_H

#include "query.h"

typedef enum CpFlightState
{
	CP_FLIGHT_PENDING,	/* holds nothing yet */
	CP_FLIGHT_BOARDING, /* its connection is queued for, or being opened */
	CP_FLIGHT_FLYING,	/* its statement runs */
	CP_FLIGHT_OVER
} CpFlightState;

/* One statement on its way to one server and back. */
typedef struct CpFlight
{
	/* in */
	const char *server;
	const char *sql;
	CpSink *sink;

	/* map.c's */
	CpFlightState state;
	CpPoolKey key;
	struct CpFlight *leader; /* first flight of the same pool, which has: */
	int on_way;				 /* BOARDING or FLYING ones, ... */
	bool shares;			 /* ... which share a lease */
	bool stuck;				 /* one could not start just now, so others cannot either */
	CpBorrowStatus boarding;
	CpBorrowing borrowing;
	CpLease *lease;
	uint64 lease_id; /* 0: it has none */
	bool release;	 /* the lease is its own, and given back at its end */
	bool in_try;	 /* there is a savepoint to return to, see transaction.h */
	CpRun *run;
} CpFlight;

typedef struct CpMap
{
	int count;
	CpFlight *flights;		/* zeroed but for what they take in */
	const CpParams *params; /* of all statements */
	/* a flight's sink is not used for a while, others may be: settings are to be undone */
	void (*pause)(CpSink *sink);
	/* a flight has failed, instead of an error that is thrown; or NULL */
	void (*failed)(CpSink *sink, int sqlstate, const char *message);
} CpMap;

/*
 * Flies all flights, feeding their sinks as results come.  They start at once as far as
 * their pools have room; the others as soon as flights of the same pool have come to
 * their end, or after a wait in the pool's queue, which is not longer than its
 * checkout_timeout.  Meanwhile what comes for the others is taken, and what they do not
 * need any more is given back.
 *
 * Without `failed` the first error is thrown, and the abort callbacks stop the others.
 * With it only errors of a sink's, and interrupts, are.
 */
extern void cp_map_run(CpMap *map);

#endif /* CP_MAP_H */
