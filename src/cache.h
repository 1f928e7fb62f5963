/*
 * cache.h
 *		This backend's cache of adopted connections: sockets it does not lease
 *		now but need not fetch again while their slots keep their generation.
 *
 * Runs in client backends.  Never throws.  What is in the cache is of no
 * consequence to anybody else: it is let go of, never ended.
 */
#ifndef CP_CACHE_H
#define CP_CACHE_H

#include "remote.h"

/* The cached connection of that slot and generation, taken out; or NULL. */
extern CpRemote *cp_cache_take(int slot, uint64 generation);

/* Puts one in, after its last use; takes it over. */
extern void cp_cache_keep(int slot, uint64 generation, CpRemote *remote);

/* Lets go of those whose slots have moved on, or of all. */
extern void cp_cache_drop_stale(void);
extern void cp_cache_drop_all(void);

/* For cp_pool_checkout: generations by slot, 0 = none; the slot used last. */
extern uint64 *cp_cache_generations(void);
extern int cp_cache_last(void);

#endif /* CP_CACHE_H */
