/*
 * deadlock.c
 *		Finds out whether a wait for a connection can never end.
 *
 * Runs in a client backend that waits in a pool's queue; borrow.c calls it each
 * time that deadlock_timeout has passed.  Takes one pool's lock at a time, in
 * shared mode, and changes nothing; never waits for anything else.
 *
 * A waiter is content with any connection of a set: those of its pool, of its
 * server or of all, depending on which limit holds it up.  It is stuck if all
 * of them are held by waiters that are stuck themselves.  One that is not leaves
 * nobody stuck who waits for it, directly or not; so this backend is stuck if,
 * going from waiters to the holders of what they wait for, nothing but waiters
 * is met.  One that gives leases back while it waits (map.c) is none of them until
 * the last of those is back.
 *
 * Since no two pools are locked at a time, what was read may never have been
 * true at once.  Therefore all is read twice.  A lease that has ended never
 * comes back with its number, and no wait ends well before one of those leases
 * does; so what is the same in both readings was so in between, all of it at
 * the same time.
 */
#include "postgres.h"

#include "pool.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/memutils.h"

#include "pool_internal.h"

/* what an error's detail names at most */
#define MAX_LINES 50
#define MAX_HOLDERS_NAMED 10

/* Any connection of which set would do? */
typedef enum Awaited
{
	AWAITS_POOL,   /* its pool's: it is as large as it may be */
	AWAITS_SERVER, /* its server's: all places are taken */
	AWAITS_ANY,	   /* whatever: there is no free slot */
	AWAITS_NOTHING /* it will go on without that */
} Awaited;

/* A waiter.  Compared as bytes: has no holes. */
typedef struct Waiting
{
	int proc;
	int pid;
	int pool;
	int server;
	uint64 awaits; /* Awaited */
	CpTime since;
	uint64 lease; /* the one it waits for */
} Waiting;

/* A connection.  Compared as bytes: has no holes. */
typedef struct Holding
{
	int slot;
	int pool; /* CP_NONE: has not been read */
	int server;
	int state;
	int holder_proc;
	int holder_pid;
	uint64 generation;
	uint64 beyond; /* max_size: nobody waits for it to come back to its pool */
	uint64 lease;
} Holding;

typedef struct Reading
{
	/* what lay where at the beginning, seen without locks */
	int *first_slot; /* of each pool */
	int *next_slot;	 /* of the same pool */

	/* what was read, by number of the pool and slot */
	bool *pool_is_read;
	int *pool_size;
	Holding *slots;

	/* what has been gone through */
	bool *pool_done;
	bool *server_done;
	bool all_done;
	bool *slot_listed;
	bool *proc_listed;

	/* the outcome: who waits, this backend first, and what they wait for */
	int nwaiting;
	Waiting *waiting;
	int nholdings;
	Holding *holdings;
	bool is_circular; /* somebody waits for this backend */
} Reading;

/* ---- reading ---------------------------------------------------------------- */

static Reading *
begin_reading(void)
{
	Reading *r = palloc0(sizeof(Reading));

	r->first_slot = palloc(cp_shared->max_pools * sizeof(int));
	r->next_slot = palloc(cp_shared->max_slots * sizeof(int));
	r->pool_is_read = palloc0(cp_shared->max_pools * sizeof(bool));
	r->pool_size = palloc0(cp_shared->max_pools * sizeof(int));
	r->slots = palloc0(cp_shared->max_slots * sizeof(Holding));
	r->pool_done = palloc0(cp_shared->max_pools * sizeof(bool));
	r->server_done = palloc0(cp_shared->max_servers * sizeof(bool));
	r->slot_listed = palloc0(cp_shared->max_slots * sizeof(bool));
	r->proc_listed = palloc0(cp_shared->max_waiters * sizeof(bool));
	r->waiting = palloc0(cp_shared->max_waiters * sizeof(Waiting));
	r->holdings = palloc0(cp_shared->max_slots * sizeof(Holding));
	return r;
}

/*
 * Which slots to look at under a pool's lock.  What moves meanwhile is missed;
 * the pool's size will tell.
 */
static void
index_slots(Reading *r)
{
	for (int p = 0; p < cp_shared->max_pools; p++)
		r->first_slot[p] = CP_NONE;
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		int p = ((volatile CpSharedSlot *) &cp_slots[i])->pool;

		r->slots[i].pool = CP_NONE;
		if (p == CP_NONE)
			continue;
		r->next_slot[i] = r->first_slot[p];
		r->first_slot[p] = i;
	}
}

static void
read_pool(Reading *r, int p)
{
	if (r->pool_is_read[p])
		return;
	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	r->pool_size[p] = cp_pool_counted(&cp_pools[p]);
	for (int i = r->first_slot[p]; i != CP_NONE; i = r->next_slot[i])
	{
		const CpSharedSlot *slot = &cp_slots[i];
		Holding *h = &r->slots[i];

		if (slot->pool != p || slot->state == CP_SLOT_FREE)
			continue;
		h->slot = i;
		h->pool = p;
		h->server = slot->server;
		h->state = slot->state;
		h->holder_proc = slot->holder_proc;
		h->holder_pid = slot->holder_pid;
		h->generation = slot->generation;
		h->beyond = slot->beyond;
		h->lease = slot->lease;
	}
	LWLockRelease(cp_shmem_pool_lock(p));
	r->pool_is_read[p] = true;
}

static bool
has_free_slot(void)
{
	bool result;

	SpinLockAcquire(&cp_shared->free_mutex);
	result = cp_shared->free_count > 0;
	SpinLockRelease(&cp_shared->free_mutex);
	return result;
}

/* What would serve the waiters of a pool?  Its lock is held. */
static Awaited
awaited_by(const CpSharedPool *pool, CpTime now)
{
	/* somebody will resume it; the remote may come back, or have room again */
	if (pool->paused || pool->breaker.state != CP_BREAKER_CLOSED ||
		now < pool->ceiling_until)
		return AWAITS_NOTHING;
	if (cp_pool_counted(pool) >= pool->options.max_size)
		return AWAITS_POOL;
	if (cp_server_is_full(pool->server))
		return AWAITS_SERVER;
	if (!has_free_slot())
		return AWAITS_ANY;
	return AWAITS_NOTHING;
}

/* ---- from waiters to holders, and on ------------------------------------------ */

/* Puts a backend on the list of waiters; false if it will go on by itself. */
static bool
add_waiting(Reading *r, int proc, int pid)
{
	const volatile CpSharedWaiter *w = &cp_waiters[proc];
	Waiting *waiting = &r->waiting[r->nwaiting];
	int p = w->pool;

	if (r->proc_listed[proc])
		return true;
	if (w->state != CP_WAITER_QUEUED)
		return false;

	waiting->awaits = AWAITS_NOTHING;
	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	if (w->state == CP_WAITER_QUEUED && w->pool == p && w->pid == pid && !w->serves)
	{
		waiting->proc = proc;
		waiting->pid = pid;
		waiting->pool = p;
		waiting->server = cp_pools[p].server;
		waiting->awaits = awaited_by(&cp_pools[p], cp_now());
		waiting->since = w->since;
		waiting->lease = w->lease;
	}
	LWLockRelease(cp_shmem_pool_lock(p));
	if (waiting->awaits == AWAITS_NOTHING)
		return false;

	r->proc_listed[proc] = true;
	r->nwaiting++;
	return true;
}

/* Puts a connection on the list; false if it will come free by itself. */
static bool
add_holding(Reading *r, const Holding *h)
{
	if (r->slot_listed[h->slot])
		return true;
	if (!cp_slot_has_holder((CpSlotState) h->state))
		return false;
	memcpy(&r->holdings[r->nholdings++], h, sizeof(Holding));
	r->slot_listed[h->slot] = true;
	if (h->holder_proc == cp_shmem_my_proc())
		r->is_circular = true;
	return add_waiting(r, h->holder_proc, h->holder_pid);
}

/* Is it one of those that the waiter waits for? */
static bool
is_awaited(const Waiting *w, const Holding *h)
{
	if (h->pool == CP_NONE)
		return false;
	switch ((Awaited) w->awaits)
	{
		case AWAITS_POOL:
			return h->pool == w->pool && !h->beyond;
		case AWAITS_SERVER:
			return h->server == w->server;
		case AWAITS_ANY:
			return true;
		case AWAITS_NOTHING:
			break;
	}
	return false;
}

/* The mark that says whether the waiter's set has been gone through. */
static bool *
done_mark(Reading *r, const Waiting *w)
{
	if (w->awaits == AWAITS_POOL)
		return &r->pool_done[w->pool];
	if (w->awaits == AWAITS_SERVER)
		return &r->server_done[w->server];
	return &r->all_done;
}

/* Reads the connections that a waiter waits for; how many there must be. */
static int
read_awaited(Reading *r, const Waiting *w)
{
	if (w->awaits == AWAITS_POOL)
	{
		read_pool(r, w->pool);
		return r->pool_size[w->pool];
	}
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		if (r->first_slot[p] != CP_NONE)
			read_pool(r, p);
	}
	return w->awaits == AWAITS_SERVER ? cp_server_count(w->server) : cp_shared->max_slots;
}

/*
 * Goes on from a waiter to the holders of what it waits for.  False if it gets
 * something without help.
 */
static bool
add_holders(Reading *r, const Waiting *w)
{
	bool *done = done_mark(r, w);
	int expected;
	int found = 0;

	if (*done)
		return true;
	*done = true;
	expected = read_awaited(r, w);
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		if (!is_awaited(w, &r->slots[i]))
			continue;
		if (!add_holding(r, &r->slots[i]))
			return false;
		found++;
	}
	/* one that was not seen has just come or gone */
	return found > 0 && found == expected;
}

/* Reads all that this backend depends on; NULL if that is no deadlock. */
static Reading *
read_dependencies(void)
{
	Reading *r = begin_reading();

	index_slots(r);
	if (!add_waiting(r, cp_shmem_my_proc(), MyProcPid))
		return NULL;
	for (int i = 0; i < r->nwaiting; i++)
	{
		if (!add_holders(r, &r->waiting[i]))
			return NULL;
	}
	/* else the deadlock is one of others, who will see to it */
	return r->is_circular ? r : NULL;
}

/* ---- judging ---------------------------------------------------------------- */

/* Is this backend the one that has waited for the shortest time? */
static bool
is_youngest(const Reading *r)
{
	const Waiting *me = &r->waiting[0];

	for (int i = 1; i < r->nwaiting; i++)
	{
		const Waiting *w = &r->waiting[i];

		if (w->since > me->since || (w->since == me->since && w->proc > me->proc))
			return false;
	}
	return true;
}

static bool
same_readings(const Reading *a, const Reading *b)
{
	return a->nwaiting == b->nwaiting && a->nholdings == b->nholdings &&
		memcmp(a->waiting, b->waiting, a->nwaiting * sizeof(Waiting)) == 0 &&
		memcmp(a->holdings, b->holdings, a->nholdings * sizeof(Holding)) == 0;
}

/* ---- telling ---------------------------------------------------------------- */

/* Process IDs of those who hold what w waits for; *connections: how many that are. */
static char *
name_holders(const Reading *r, const Waiting *w, int *connections)
{
	StringInfoData buf;
	bool *named = palloc0(cp_shared->max_waiters * sizeof(bool));
	int n = 0;

	initStringInfo(&buf);
	*connections = 0;
	for (int i = 0; i < r->nholdings; i++)
	{
		const Holding *h = &r->holdings[i];

		if (!is_awaited(w, h))
			continue;
		(*connections)++;
		if (named[h->holder_proc])
			continue;
		named[h->holder_proc] = true;
		if (++n <= MAX_HOLDERS_NAMED)
			appendStringInfo(&buf, n == 1 ? "%d" : ", %d", h->holder_pid);
	}
	if (n > MAX_HOLDERS_NAMED)
		appendStringInfoString(&buf, ", ...");
	return buf.data;
}

/* Names of connection strings tell hosts and users: not for every eye. */
static char *
visible_name(int p)
{
	CpPoolKey key;
	char name[CP_POOL_NAME_LEN];

	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	key = cp_pools[p].key;
	strlcpy(name, cp_pools[p].name, sizeof(name));
	LWLockRelease(cp_shmem_pool_lock(p));
	if (key.kind == CP_POOL_CONNINFO && !has_privs_of_role(GetUserId(), key.role))
		return pstrdup("?");
	return pstrdup(name);
}

static void
describe_waiting(StringInfo buf, const Reading *r, const Waiting *w)
{
	char *name;
	int n;
	char *holders = name_holders(r, w, &n);

	name = visible_name(w->pool);

	if (w->awaits == AWAITS_SERVER)
		appendStringInfo(buf, _("Process %d waits for a connection of pool \"%s\"; all that "
								"max_server_size allows (%d) are held by %s."),
						 w->pid, name, n, holders);
	else if (w->awaits == AWAITS_ANY)
		appendStringInfo(buf, _("Process %d waits for a connection of pool \"%s\"; all that "
								"conpool.max_connections allows (%d) are held by %s."),
						 w->pid, name, n, holders);
	else if (n == 1)
		appendStringInfo(buf, _("Process %d waits for the only connection of pool \"%s\", "
								"which is held by %s."),
						 w->pid, name, holders);
	else
		appendStringInfo(buf, _("Process %d waits for a connection of pool \"%s\", "
								"all %d of which are held by %s."),
						 w->pid, name, n, holders);
}

static void
describe(StringInfo buf, const Reading *r)
{
	for (int i = 0; i < r->nwaiting && i < MAX_LINES; i++)
	{
		if (i > 0)
			appendStringInfoChar(buf, '\n');
		describe_waiting(buf, r, &r->waiting[i]);
	}
	if (r->nwaiting > MAX_LINES)
		appendStringInfoString(buf, "\n...");
}

bool
cp_deadlock_found(char **detail)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "conpool deadlock",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(scratch);
	Reading *first = read_dependencies();
	Reading *second = NULL;
	bool found;

	if (first != NULL && is_youngest(first))
		second = read_dependencies();
	found = second != NULL && same_readings(first, second);
	if (found)
	{
		StringInfoData buf;

		initStringInfo(&buf);
		describe(&buf, second);
		*detail = MemoryContextStrdup(caller, buf.data);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	return found;
}
