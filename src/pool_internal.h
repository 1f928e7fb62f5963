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
} CpAftermath;

/* ---- pool_slot.c ---- */

/* Takes a pool's lock; nothing is held. */
extern void cp_pool_lock(int p);

/*
 * Locks the pool that a slot is in, provided that the slot still has this
 * generation.  Returns the pool, or CP_NONE with nothing locked.
 */
extern int cp_pool_lock_of(int i, uint64 generation);

extern bool cp_slot_has_holder(CpSlotState state);
extern int cp_pool_size(const CpSharedPool *pool);

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

/* Any state -> FREE. */
extern void cp_slot_free(int i, CpAftermath *after);

/* Any state with a socket in the vault -> CLOSING, for the broker to do. */
extern void cp_slot_close(int i, CpAftermath *after);

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

/* ---- pool_broker.c ---- */

/* Closes all idle connections of one pool; nothing is locked. */
extern void cp_pool_close_idle(int p);

#endif /* CP_POOL_INTERNAL_H */
