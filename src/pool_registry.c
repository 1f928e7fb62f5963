/*
 * pool_registry.c
 *		Which pools there are, and which one goes when there is no place left.
 *
 * Runs in client backends.  The registry's lock is taken before a pool's.
 */
#include "postgres.h"

#include "pool.h"

#include "pool_internal.h"

/* a server's pool gives way only when unused for so long, in microseconds */
#define DISUSE_TIME (10 * USECS_PER_SEC)

static int
find_pool(const CpPoolKey *key)
{
	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		if (cp_pools[p].in_use && memcmp(&cp_pools[p].key, key, sizeof(*key)) == 0)
			return p;
	}
	return CP_NONE;
}

/* Nobody uses, opens, cleans or waits for any of its connections. */
static bool
is_quiet(const CpSharedPool *pool)
{
	return pool->waiting == 0 &&
		cp_pool_size(pool) == pool->counts[CP_SLOT_IDLE] + pool->counts[CP_SLOT_CLOSING];
}

/*
 * Looks for a pool that may be given up, with the registry locked: the one
 * unused for longest, and at least since `unused_since`, that is quiet and, if
 * asked, empty.
 */
static int
find_victim(CpPoolKind kind, bool empty, CpTime unused_since)
{
	int victim = CP_NONE;
	CpTime oldest = unused_since;

	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		CpSharedPool *pool = &cp_pools[p];

		cp_pool_lock(p);
		if (pool->in_use && pool->key.kind == kind && is_quiet(pool) &&
			(!empty || cp_pool_size(pool) == 0) && pool->last_used < oldest)
		{
			oldest = pool->last_used;
			victim = p;
		}
		LWLockRelease(cp_shmem_pool_lock(p));
	}
	return victim;
}

/* Gives a pool's place up if it is still quiet and empty. */
static bool
remove_pool(int p)
{
	CpSharedPool *pool = &cp_pools[p];
	bool removed;

	cp_pool_lock(p);
	removed = is_quiet(pool) && cp_pool_size(pool) == 0;
	if (removed)
		pool->in_use = false;
	LWLockRelease(cp_shmem_pool_lock(p));
	return removed;
}

/*
 * Makes room in the registry, which is locked.  Ad-hoc pools go first: an empty
 * one at once; else *closing is set to an idle one, whose connections the
 * caller is to close for those who come later.  Then pools of servers, in the
 * same way, but idle ones only when not used for a while: their server may have
 * been dropped.  CP_NONE: there is no place now.
 */
static int
evict_pool(int *closing)
{
	CpTime now = cp_now();
	int victim = find_victim(CP_POOL_CONNINFO, true, CP_FOREVER);

	if (victim == CP_NONE)
	{
		*closing = find_victim(CP_POOL_CONNINFO, false, CP_FOREVER);
		if (*closing != CP_NONE)
			return CP_NONE;
		victim = find_victim(CP_POOL_SERVER, true, CP_FOREVER);
	}
	if (victim != CP_NONE && remove_pool(victim))
		return victim;
	*closing = find_victim(CP_POOL_SERVER, false, now - DISUSE_TIME);
	return CP_NONE;
}

static int
unused_pool(int *closing)
{
	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		if (!cp_pools[p].in_use)
			return p;
	}
	return evict_pool(closing);
}

static void
init_pool(int p, const CpPoolKey *key, const CpPoolOptions *options)
{
	CpSharedPool *pool = &cp_pools[p];

	cp_pool_lock(p);
	memset(pool, 0, sizeof(*pool));
	pool->idle_head = pool->idle_tail = CP_NONE;
	pool->queue_head = pool->queue_tail = CP_NONE;
	pool->key = *key;
	pool->options = *options;
	pool->last_used = cp_now();
	pool->generation = ++cp_shared->last_pool_generation;
	cp_stats_reset(&pool->stats);
	pool->in_use = true;
	LWLockRelease(cp_shmem_pool_lock(p));
}

/* A server may have been renamed since. */
static void
set_name(int p, const char *name)
{
	cp_pool_lock(p);
	strlcpy(cp_pools[p].name, name, CP_POOL_NAME_LEN);
	LWLockRelease(cp_shmem_pool_lock(p));
}

int
cp_pool_find(const CpPoolKey *key, const char *name, const CpPoolOptions *options,
			 uint64 *generation)
{
	int closing = CP_NONE;
	int p;

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	p = find_pool(key);
	if (p == CP_NONE)
	{
		p = unused_pool(&closing);
		if (p != CP_NONE)
			init_pool(p, key, options);
	}
	if (p != CP_NONE)
		set_name(p, name);
	else
		p = CP_OVERFLOW_POOL;
	*generation = cp_pools[p].generation;
	LWLockRelease(cp_shmem_registry_lock());
	if (closing != CP_NONE)
		cp_pool_close_idle(closing);
	return p;
}
