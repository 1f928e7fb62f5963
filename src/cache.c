/*
 * cache.c
 *		Keeps the connections that this backend has adopted and given back.
 *
 * Runs in client backends, called by borrow.c.  Never ends a connection: those
 * in here belong to the pool.
 */
#include "postgres.h"

#include "cache.h"

#include "lib/ilist.h"
#include "utils/memutils.h"

#include "pool.h"

/* each costs two descriptors (socket, wait set) and libpq's buffers, 50 kB */
#define MAX_ADOPTED 64

typedef struct Adopted
{
	dlist_node node;
	int slot;
	CpRemote *remote;
} Adopted;

/* most recently used first */
static dlist_head adopted = DLIST_STATIC_INIT(adopted);
static int adopted_count = 0;
static int last_slot = CP_NONE;

/* by slot */
static Adopted **by_slot = NULL;
static uint64 *generations = NULL;

/* an entry between two uses, so that a statement need not allocate one */
static Adopted *spare = NULL;

static void
init(void)
{
	if (generations != NULL)
		return;
	by_slot = MemoryContextAllocZero(TopMemoryContext,
									 cp_shared->max_slots * sizeof(Adopted *));
	generations = MemoryContextAllocZero(TopMemoryContext,
										 cp_shared->max_slots * sizeof(uint64));
}

/* Removes an entry and returns its connection, which the caller owns. */
static CpRemote *
take_out(Adopted *entry)
{
	CpRemote *remote = entry->remote;

	dlist_delete(&entry->node);
	adopted_count--;
	by_slot[entry->slot] = NULL;
	generations[entry->slot] = 0;
	if (spare == NULL)
		spare = entry;
	else
		pfree(entry);
	return remote;
}

static Adopted *
new_entry(void)
{
	Adopted *entry = spare;

	spare = NULL;
	if (entry == NULL)
		entry = MemoryContextAllocExtended(TopMemoryContext, sizeof(Adopted),
										   MCXT_ALLOC_NO_OOM);
	return entry;
}

CpRemote *
cp_cache_take(int slot, uint64 generation)
{
	bool current;
	CpRemote *remote;

	init();
	if (by_slot[slot] == NULL)
		return NULL;
	current = generations[slot] == generation;
	remote = take_out(by_slot[slot]);
	if (current)
		return remote;
	cp_remote_let_go(remote);
	return NULL;
}

void
cp_cache_keep(int slot, uint64 generation, CpRemote *remote)
{
	Adopted *entry;

	Assert(generations != NULL);
	if (by_slot[slot] != NULL)
		cp_remote_let_go(take_out(by_slot[slot]));
	else if (adopted_count >= MAX_ADOPTED)
		cp_remote_let_go(take_out(dlist_tail_element(Adopted, node, &adopted)));
	entry = new_entry();
	if (entry == NULL)
	{
		cp_remote_let_go(remote);
		return;
	}
	entry->slot = slot;
	entry->remote = remote;
	dlist_push_head(&adopted, &entry->node);
	adopted_count++;
	by_slot[slot] = entry;
	generations[slot] = generation;
	last_slot = slot;
}

static void
drop(bool stale_only)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &adopted)
	{
		Adopted *entry = dlist_container(Adopted, node, iter.cur);

		if (!stale_only || cp_pool_generation(entry->slot) != generations[entry->slot])
			cp_remote_let_go(take_out(entry));
	}
}

void
cp_cache_drop_stale(void)
{
	drop(true);
}

void
cp_cache_drop_all(void)
{
	drop(false);
}

uint64 *
cp_cache_generations(void)
{
	init();
	return generations;
}

int
cp_cache_last(void)
{
	return last_slot;
}
