/*
 * breaker.c
 *		A circuit breaker: whether it makes sense to try to connect.
 *
 * Runs in any process, called by the files of pool with the pool's lock held.
 * The first failure opens it.  When the next attempt is due, whoever asks first
 * becomes the prober and everybody else is turned away until it is known how
 * that went.
 */
#include "postgres.h"

#include "breaker.h"

#include <math.h>

#include "common/pg_prng.h"

#define MIN_BACKOFF (100 * INT64CONST(1000))
#define MAX_BACKOFF (30 * USECS_PER_SEC)
/*
 * With 2, the usual choice, a remote that was gone for 10 s is found 5.3 s after
 * its return (median of a simulation), with 1.5 after 2.6 s.
 */
#define GROWTH 1.5

CpTime
cp_breaker_backoff(int n)
{
	double longest = Min(MIN_BACKOFF * pow(GROWTH, Max(n, 1) - 1), MAX_BACKOFF);

	return Max((CpTime) (longest * pg_prng_double(&pg_global_prng_state)), 1000);
}

bool
cp_breaker_allows(const CpBreaker *breaker, CpTime now)
{
	return breaker->state == CP_BREAKER_CLOSED || now >= breaker->next_attempt;
}

bool
cp_breaker_begins(CpBreaker *breaker, CpTime now)
{
	Assert(cp_breaker_allows(breaker, now));
	if (breaker->state == CP_BREAKER_CLOSED)
		return false;
	breaker->state = CP_BREAKER_PROBING;
	/* one without any time limit must not be the last one */
	breaker->next_attempt = now + MAX_BACKOFF;
	return true;
}

bool
cp_breaker_failed(CpBreaker *breaker, CpTime begun, CpTime now)
{
	/* it tells what was known when the breaker opened, or has been disproved since */
	if (begun < breaker->since)
		return false;
	if (breaker->state == CP_BREAKER_CLOSED)
		breaker->since = now;
	breaker->state = CP_BREAKER_OPEN;
	breaker->failures++;
	breaker->next_attempt = now + cp_breaker_backoff(breaker->failures);
	return true;
}

void
cp_breaker_answered(CpBreaker *breaker, CpTime now)
{
	if (breaker->state != CP_BREAKER_CLOSED)
		breaker->since = now;
	breaker->state = CP_BREAKER_CLOSED;
	breaker->failures = 0;
	breaker->next_attempt = 0;
}

void
cp_breaker_undecided(CpBreaker *breaker, CpTime now)
{
	if (breaker->state != CP_BREAKER_PROBING)
		return;
	breaker->state = CP_BREAKER_OPEN;
	breaker->next_attempt = now;
}
