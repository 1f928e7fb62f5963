/*
 * settle.h
 *		Brings connections to rest, many at a time: ends what runs on them, and rolls
 *		back.
 *
 * Runs in client backends, called by lease.c and map.c, mostly in abort.  Knows libpq
 * and no shared memory.  Does not throw, does not serve interrupts, does not allocate,
 * and is never longer about it than the deadline.
 */
#ifndef CP_SETTLE_H
#define CP_SETTLE_H

#include "lib/ilist.h"

#include "remote.h"

typedef struct CpSettling
{
	dlist_node node; /* in the list that is settled */
	/* in */
	CpRemote *remote;
	bool running;	  /* a statement was sent, and its end has not been read */
	const char *then; /* one simple query to run once that has ended, such as "ROLLBACK";
					   * NULL: none */
	/* out */
	bool at_rest; /* idle in protocol, and `then` has ended well */

	/* settle.c's */
	int stage;
	CpCancel cancel;
	CpTime patience; /* until when it may end by itself, or by the last cancel */
} CpSettling;

/*
 * Settles all of them at the same time, so that one which hangs costs the others
 * nothing.  For each: reads what is left if that is little; else cancels the statement,
 * reads the end of file of the cancel's socket, reads up to ReadyForQuery, and one more
 * empty round trip (a 57014 in it is swallowed); then runs `then`.  at_rest is false
 * if that was not possible by the deadline: the connection is to be closed.  Transaction
 * status is the caller's to look at.  More than a few dozen are settled in turn.
 */
extern void cp_settle(dlist_head *settlings, CpTime deadline);

#endif /* CP_SETTLE_H */
