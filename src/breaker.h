/*
 * breaker.h
 *		A circuit breaker: whether it makes sense to try to connect.
 *
 * Runs in any process, under the lock of the pool whose breaker it is.  Knows
 * nothing but its own fields; never throws, never waits.
 */
#ifndef CP_BREAKER_H
#define CP_BREAKER_H

#include "clock.h"

typedef enum CpBreakerState
{
	CP_BREAKER_CLOSED, /* connects are tried as they are needed */
	CP_BREAKER_OPEN,   /* none before next_attempt */
	CP_BREAKER_PROBING /* one is under way, none beside it before next_attempt */
} CpBreakerState;

typedef struct CpBreaker
{
	CpBreakerState state;
	CpTime since; /* in CLOSED or not; 0 = from the beginning */
	int failures; /* in a row */
	CpTime next_attempt;
} CpBreaker;

/* May a connect begin now? */
extern bool cp_breaker_allows(const CpBreaker *breaker, CpTime now);

/* A connect begins.  True: it is the probe. */
extern bool cp_breaker_begins(CpBreaker *breaker, CpTime now);

/*
 * A connect that began at `begun` has failed, through the fault of the remote
 * or the network.  False, and nothing has changed: it began before the breaker
 * last opened or closed, and so tells nothing new.
 */
extern bool cp_breaker_failed(CpBreaker *breaker, CpTime begun, CpTime now);

/* The remote has answered: it is there, whatever it said. */
extern void cp_breaker_answered(CpBreaker *breaker, CpTime now);

/* The probe is over; if nothing was learned from it, somebody else may try. */
extern void cp_breaker_undecided(CpBreaker *breaker, CpTime now);

/*
 * The n-th delay in a row, n from 1, in microseconds: at random up to 100 ms *
 * 1.5^(n-1), at most 30 s ("full jitter", M. Brooker, "Exponential Backoff And
 * Jitter", AWS Architecture Blog, 2015), and at least 1 ms.
 */
extern CpTime cp_breaker_backoff(int n);

#endif /* CP_BREAKER_H */
