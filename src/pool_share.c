/*
 * pool_share.c
 *		Who gives way when there is not enough for all pools: slots
 *		(conpool.max_connections) or places of a server (max_server_size).
 *
 * Runs in the broker only, on every turn in which a pool is starved: it has a
 * waiter and room by its own ceilings, but no slot or no place was free.  Never
 * waits.
 *
 * What becomes free is given to the pool whose first waiter has waited for
 * longest.  Until something becomes free, the longest idle connection of a pool
 * that has no waiters is closed.  Where none is idle, a pool that keeps passing
 * its connections from one of its own waiters to the next has to give one up
 * at a checkin: if it has more than its neighbour by two, or if the neighbour has
 * none at all and has waited for a while.  So pools of one server that are all
 * under load come to equal shares and stay there, and where there are fewer
 * places than pools these go round.
 */
#include "postgres.h"

#include "pool.h"

#include "pool_internal.h"

/* a pool without any connection waits for so long before another gives way */
#define PATIENCE (100 * INT64CONST(1000))

/* A pool that starves, and how badly. */
typedef struct Needy
{
	int pool;
	int server; /* CP_NONE: it lacks a slot, not a place */
	int size;
	CpTime since; /* its first waiter's */
} Needy;

/* ---- who starves ----------------------------------------------------------- */

/* Does the pool starve?  For a slot, if none is free, else for a place. */
static bool
is_needy(int p, Needy *needy)
{
	CpSharedPool *pool = &cp_pools[p];
	bool starved;

	if (!((volatile CpSharedPool *) pool)->starved)
		return false;
	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	starved = pool->in_use && pool->starved && pool->queue_head != CP_NONE;
	if (starved)
	{
		needy->pool = p;
		needy->server = ((volatile CpShared *) cp_shared)->free_count > 0 ? pool->server : CP_NONE;
		needy->size = cp_pool_size(pool);
		needy->since = cp_waiters[pool->queue_head].since;
	}
	LWLockRelease(cp_shmem_pool_lock(p));
	return starved;
}

static int
compare_waits(const void *a, const void *b)
{
	const Needy *x = a;
	const Needy *y = b;

	return x->since < y->since ? -1 : x->since > y->since;
}

/* Those that starve, the longest waiting first. */
static int
find_needy(Needy *needy)
{
	int n = 0;

	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		if (is_needy(p, &needy[n]))
			n++;
	}
	qsort(needy, n, sizeof(Needy), compare_waits);
	return n;
}

/* Serves a pool if that is possible by now; true if it starves still. */
static bool
still_starves(int p)
{
	CpAftermath after = {0};
	bool starved;

	cp_pool_lock(p);
	cp_pool_dispatch(p, &after, NULL);
	starved = cp_pools[p].starved;
	cp_pool_unlock(p, &after);
	return starved;
}

/* Is no other one before it that starves for want of the same thing? */
static bool
is_first_of_its_kind(const Needy *needy, int i)
{
	for (int j = 0; j < i; j++)
	{
		if (needy[j].server == needy[i].server)
			return false;
	}
	return true;
}

/* ---- who gives way ---------------------------------------------------------- */

/* May this slot's end help? */
static bool
helps(const volatile CpSharedSlot *slot, const Needy *needy)
{
	return slot->pool != CP_NONE && slot->state != CP_SLOT_FREE &&
		(needy->server == CP_NONE || slot->server == needy->server);
}

/*
 * Does nobody wait for what is idle in that pool?  What is idle in the needy one
 * does not fit its first waiter.
 */
static bool
is_useless(int p, const Needy *needy)
{
	return cp_pools[p].waiting == 0 || p == needy->pool;
}

/*
 * The longest idle connection of a pool without waiters; a guess, unlocked.
 * *closing: something that helps is on its way already.
 */
static int
find_longest_idle(const Needy *needy, bool *closing)
{
	int found = CP_NONE;
	CpTime oldest = CP_FOREVER;

	*closing = false;
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		volatile CpSharedSlot *slot = &cp_slots[i];
		int p = slot->pool;

		if (!helps(slot, needy))
			continue;
		if (slot->state == CP_SLOT_CLOSING)
			*closing = true;
		if (slot->state == CP_SLOT_IDLE && p != CP_NONE && is_useless(p, needy) &&
			slot->idle_since < oldest)
		{
			oldest = slot->idle_since;
			found = i;
		}
	}
	return found;
}

static void
close_if_idle(int i, const Needy *needy)
{
	CpAftermath after = {0};
	int p = cp_pool_lock_of(i, cp_pool_generation(i));

	if (p == CP_NONE)
		return;
	if (cp_slots[i].state == CP_SLOT_IDLE && is_useless(p, needy) &&
		(p != needy->pool || cp_pools[p].starved))
		cp_slot_close(i, CP_CLOSE_GIVEN, &after);
	cp_pool_unlock(p, &after);
}

/*
 * The largest other pool that could give something up; a guess, unlocked.  Not one
 * that was asked before: its leases may not come back for long.
 */
static int
find_largest(const Needy *needy, int *size)
{
	int found = CP_NONE;

	*size = 0;
	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		CpSharedPool *pool = &cp_pools[p];
		bool may_give = pool->in_use && p != needy->pool && pool->must_give == 0;
		int its = may_give ? cp_pool_live(pool) : 0;

		if (its > *size && (needy->server == CP_NONE || pool->server == needy->server))
		{
			*size = its;
			found = p;
		}
	}
	return found;
}

/* Has a pool that has more close one at its next checkin, if that is fair. */
static void
demand_one(const Needy *needy, CpTime now)
{
	int size;
	int p = find_largest(needy, &size);
	bool is_fair = size > needy->size + 1 ||
		(needy->size == 0 && size > 0 && now - needy->since >= PATIENCE);

	if (p == CP_NONE || !is_fair)
		return;
	cp_pool_lock(p);
	cp_pools[p].must_give = 1;
	LWLockRelease(cp_shmem_pool_lock(p));
}

static void
help(const Needy *needy, CpTime now)
{
	bool closing;
	int i = find_longest_idle(needy, &closing);

	/* what comes free is for this pool, not for who comes first */
	if (needy->server != CP_NONE)
		cp_server_reserve(needy->server, needy->pool);
	else
		cp_slot_reserve(needy->pool);
	/* something may have come free between the look and the reservation */
	if (closing || !still_starves(needy->pool))
		return;
	if (i != CP_NONE)
		close_if_idle(i, needy);
	else
		demand_one(needy, now);
}

/* ---- what the broker calls --------------------------------------------------- */

/* Does pool p starve for want of a place of that server (CP_NONE: of a slot)? */
static bool
is_wanted(int server, int p, const Needy *needy, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (needy[i].server == server && needy[i].pool == p)
			return true;
	}
	return false;
}

/* Nobody has to give anything up who has not done so yet. */
static void
forget_demands(void)
{
	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		if (((volatile CpSharedPool *) &cp_pools[p])->must_give == 0)
			continue;
		cp_pool_lock(p);
		cp_pools[p].must_give = 0;
		LWLockRelease(cp_shmem_pool_lock(p));
	}
}

/* Whom a place is reserved for that starves no more, does not need it. */
static void
forget_reservations(const Needy *needy, int n)
{
	int p = ((volatile CpShared *) cp_shared)->free_reserved_for;

	if (p != CP_NONE && !is_wanted(CP_NONE, p, needy, n))
		cp_slot_unreserve(p);
	for (int s = 0; s < cp_shared->max_servers; s++)
	{
		p = ((volatile CpSharedServer *) &cp_servers[s])->reserved_for;
		if (cp_servers[s].in_use && p != CP_NONE && !is_wanted(s, p, needy, n))
			cp_server_unreserve(s, p);
	}
	if (n == 0)
		forget_demands();
}

CpTime
cp_pool_relieve(void)
{
	/* the last broker may have left something reserved */
	static bool reserved = true;
	CpTime now = cp_now();
	Needy *needy;
	int n;

	if (pg_atomic_read_u32(&cp_shared->starved_pools) == 0 && !reserved)
		return CP_FOREVER;
	needy = palloc(cp_shared->max_pools * sizeof(Needy));
	n = find_needy(needy);
	forget_reservations(needy, n);
	for (int i = 0; i < n; i++)
	{
		if (still_starves(needy[i].pool) && is_first_of_its_kind(needy, i))
			help(&needy[i], now);
	}
	pfree(needy);
	reserved = n > 0;
	return n > 0 ? now + PATIENCE : CP_FOREVER;
}
