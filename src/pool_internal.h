/*
 * pool_internal.h
 *		What the files of pool have among themselves; nobody else includes it.
 *
 * Unless said otherwise the caller holds the lock of the pool concerned,
 * exclusively.
 */
#ifndef CP_POOL_INTERNAL_H
#define CP_POOL_INTERNAL_H

#include "pool.h"

/* processes to wake after one section under a pool's lock */
#define CP_MAX_WAKES 32

/* What is to be done once the pool's lock is released; begins zeroed. */
typedef struct CpAftermath
{
	int nwakes;
	int wakes[CP_MAX_WAKES]; /* numbers of PGPROCs */
	bool wake_broker;
	bool dispatch_again; /* no room for more wakes */
	bool drained;		 /* a paused pool has no lease left */
} CpAftermath;

/* ---- pool_slot.c ---- */

/* Since when a remote statement runs on it, 0 = none does; needs no lock. */
static inline CpTime
cp_slot_running_since(CpSharedSlot *slot)
{
	uint64 word = pg_atomic_read_u64(&slot->running);
	uint64 since = word & CP_RUNNING_MASK;

	if (since == CP_CLAIMED || word != cp_running_word(slot->generation, since))
		return 0;
	return (CpTime) since;
}

/* Takes a pool's lock; nothing is held. */
extern void cp_pool_lock(int p);

/*
 * Locks the pool that a slot is in, provided that the slot still has this
 * generation.  Returns the pool, or CP_NONE with nothing locked.
 */
extern int cp_pool_lock_of(int i, uint64 generation);

extern bool cp_slot_has_holder(CpSlotState state);
extern int cp_pool_size(const CpSharedPool *pool);

/* Those of its connections that max_size is about; and in one state. */
extern int cp_pool_counted(const CpSharedPool *pool);

static inline int
cp_pool_counted_in(const CpSharedPool *pool, CpSlotState state)
{
	return pool->counts[state] - pool->beyond[state];
}

/* Has it more connections than it may, without those that are closing? */
extern bool cp_pool_is_oversized(const CpSharedPool *pool);

/* Is it on the idle list: IDLE or VALIDATING? */
extern bool cp_slot_is_listed(CpSlotState state);

/* Does the broker that runs now have this slot's socket? */
extern bool cp_slot_is_donated(const CpSharedSlot *slot);

/* The one function that assigns a state. */
extern void cp_slot_set_state(int i, CpSlotState to);

/* A slot from the free list, still FREE, for the pool; CP_NONE if there is none. */
extern int cp_slot_allocate(int p);

/* The last free slot is for pool p; CP_NONE: for anybody. */
extern void cp_slot_reserve(int p);
extern void cp_slot_unreserve(int p);

/* Any state -> FREE; of a connection that lives, `leaving` says why. */
extern void cp_slot_free(int i, CpAftermath *after);

/* Any state with a socket in the vault -> CLOSING, for the broker to do. */
extern void cp_slot_close(int i, CpCloseReason reason, CpAftermath *after);

/* The worklist of the broker: slots that are RESETTING or CLOSING. */
extern void cp_slot_push_task(int i, CpAftermath *after);
extern int cp_slot_pop_task(void);

/* ---- pool.c ---- */

/*
 * Decides who gets what, after anything has changed in a pool.  `own` is the
 * request of this process, or NULL.
 */
extern void cp_pool_dispatch(int p, CpAftermath *after, const CpCheckout *own);

/* Releases a pool's lock, and only then wakes whom it concerns. */
extern void cp_pool_unlock(int p, CpAftermath *after);

/* Notes why something does not work; message NULL: nothing was said. */
extern void cp_problem_note(CpProblem *problem, int sqlstate, const char *message,
							CpTime now);

/* The breaker forgets what it knows of connection options other than these. */
extern void cp_pool_forget_failures(CpSharedPool *pool, const CpFingerprint *fingerprint);

/* May a connection be opened now, by the pool's own limits and its breaker? */
extern bool cp_pool_may_open(const CpSharedPool *pool, CpTime now);

/* FREE -> CONNECTING, for whoever is then made its holder. */
extern void cp_pool_begin_connect(int p, int i);

/* The remote has answered: the breaker closes, if it was not closed. */
extern void cp_pool_answered(CpSharedPool *pool, CpTime now);

/* For so long the breaker was not closed, until now. */
extern CpTime cp_pool_breaker_time(const CpSharedPool *pool, CpTime now);

/* A lease that had been reported as a leak ends: copies what there is to tell. */
extern void cp_slot_copy_leak(int i, CpLeakRecord *leak);

/* CONNECTING: what is known of a connection that is open now. */
extern void cp_pool_set_connection(int i, const CpConnected *info, CpTime now);

/*
 * Is the connection to be closed though nothing is wrong with it, and why?
 * UNKNOWN: it stays.  Asked once.
 */
extern CpCloseReason cp_slot_must_go(CpSharedPool *pool, const CpSharedSlot *slot, CpTime now);

/* Is any connection leased, being opened or reset? */
extern bool cp_pool_is_busy(const CpSharedPool *pool);

/* What the pool may have open now: max_size, or less for a while. */
extern int cp_pool_ceiling(const CpSharedPool *pool, CpTime now);

/* Something was found dead: what was not checked since is suspect. */
extern void cp_pool_suspect(CpSharedPool *pool, CpTime now, CpAftermath *after);

/* Options in force; a pool made smaller shrinks. */
extern void cp_pool_set_options(int p, const CpPoolOptions *options, CpAftermath *after);

/* ---- pool_slot.c, again: when a connection has to go ---- */

/* When its max_lifetime ends; CP_FOREVER = never. */
extern CpTime cp_slot_expires_at(const CpSharedPool *pool, const CpSharedSlot *slot);

/* Is it to be replaced, or was its pool dropped? */
extern bool cp_slot_is_outdated(const CpSharedPool *pool, const CpSharedSlot *slot);

/* Something has ended that min_size may want back. */
extern void cp_pool_look_after(const CpSharedPool *pool);

/* Connections that live: neither CONNECTING nor CLOSING. */
extern int cp_pool_live(const CpSharedPool *pool);

/* ---- pool_server.c ---- */

/* Registry lock: the entry of a server, made if it is not there; CP_NONE = no place. */
extern int cp_server_find(Oid database, Oid server, bool create);

/* Registry lock: one more pool refers to it, one less. */
extern void cp_server_ref(int s);
extern void cp_server_unref(int s);

/* Takes a place for a connection of pool p; false if max_server_size is reached. */
extern bool cp_server_take_place(int s, int p);
extern void cp_server_give_place(int s);
extern void cp_server_set_limit(int s, int limit);

/* So many more of its connections are closing. */
extern void cp_server_note_closing(int s, int change);

/* Has it more connections than it may, without those that are closing? */
extern bool cp_server_is_oversized(int s);

/* The next place is for pool p; CP_NONE: for anybody. */
extern void cp_server_reserve(int s, int p);
extern void cp_server_unreserve(int s, int p);

/* A database is gone, and so are the servers that are remembered as paused. */
extern void cp_server_forget_database(Oid database);
extern bool cp_server_is_full(int s);
extern int cp_server_count(int s);

/* ---- pool_upkeep.c ---- */

/* Is it to be closed for its age, now?  If so the caller does it: it is counted. */
extern bool cp_slot_expires(CpSharedPool *pool, const CpSharedSlot *slot, CpTime now);

/* ---- pool_registry.c ---- */

/* Gives up the place of a pool that was dropped, if it is empty; nothing is locked. */
extern void cp_pool_remove(int p);

/* ---- pool_broker.c ---- */

/* Closes all idle connections of one pool; nothing is locked; how many. */
extern int cp_pool_close_idle_of(int p, CpCloseReason reason);

#endif /* CP_POOL_INTERNAL_H */
