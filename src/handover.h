/*
 * handover.h
 *		How the reader hands the dialer what it needs to open connections of a
 *		pool, passwords included: a private Unix socket in pg_stat_tmp.
 *
 * The client functions run in the reader, the server functions in the dialer.
 * The kernel says who the peer is: another uid, or a process that shared memory
 * does not name as the reader, is turned away.  What was handed over lives in
 * memory that is wiped when it is freed.
 */
#ifndef CP_HANDOVER_H
#define CP_HANDOVER_H

#include "clock.h"
#include "shmem.h"

/* A pool that lacks connections, and how to open them. */
typedef struct CpOrder
{
	int pool;
	uint64 pool_generation;
	int count; /* connections lacking when it was written */
	CpFingerprint fingerprint;
	bool password_required; /* the remote must have asked for one */
	Oid party;				/* role that answers for the options, see target.h */
	int connect_timeout;	/* milliseconds, 0 = none */
	/* for PQconnectStartParams, NULL-terminated */
	const char *const *keywords;
	const char *const *values;
} CpOrder;

/* ---- reader ---- */

/* Are its keywords and values too long, all together, to be handed over? */
extern bool cp_handover_is_too_long(const CpOrder *order);

/*
 * Connects with the dialer, sends the order, reads its receipt; true if it was
 * taken.  Never longer than the deadline; serves interrupts.  One that is too long
 * is never taken.
 */
extern bool cp_handover_send(const CpOrder *order, CpTime deadline);

/* ---- dialer ---- */

/* Creates the listening socket (unlinks an old one first); -1 = failed, errno. */
extern int cp_handover_listen(void);
extern void cp_handover_unlink(void);

/*
 * Accepts one peer and reads its order.  A reader sends all at once, so this
 * waits for no longer than a second.  NULL: there was none, or it was no good.
 * palloc'd in a context of its own below the current one.
 */
extern CpOrder *cp_handover_accept(int listener);

/* Wipes and frees an order. */
extern void cp_handover_free(CpOrder *order);

#endif /* CP_HANDOVER_H */
