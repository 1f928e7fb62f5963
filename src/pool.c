/*
 * pool.c
 *		Who gets which connection.
 *
 * Runs in client backends and in the broker.  All state of pools, slots and
 * waiters changes here, under the lock of the one pool concerned; what has to
 * be done about it (opening, resetting, closing) is done by others, outside.
 *
 * Three functions carry the rest: set_state() alone assigns a slot's state,
 * dispatch() alone decides who gets what, cp_pool_leave_queue() alone takes
 * somebody out of the queue who got nothing.
 *
 * A slot that is not FREE belongs to one pool and does not change it; whoever
 * holds that pool's lock may rely on all of the slot's fields.  A slot's pool
 * can therefore be read without a lock, and is checked again under it.
 */
#include "postgres.h"

#include "pool.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"

/* how far into the idle list we look for a connection adopted before */
#define ADOPTED_SEARCH_DEPTH 64
/* processes to wake after one section under a pool's lock */
#define MAX_WAKES 32
/* holders named in an error's detail */
#define MAX_HOLDERS_NAMED 3

/* What is to be done once the pool's lock is released. */
typedef struct Aftermath
{
	int			nwakes;
	int			wakes[MAX_WAKES];	/* numbers of PGPROCs */
	bool		wake_broker;
	bool		dispatch_again; /* no room for more wakes */
} Aftermath;

/* legal_change[from][to]; src/README says what each one means */
static const bool legal_change[CP_SLOT_STATES][CP_SLOT_STATES] PG_USED_FOR_ASSERTS_ONLY = {
	[CP_SLOT_FREE] = {[CP_SLOT_CONNECTING] = true},
	[CP_SLOT_CONNECTING] = {[CP_SLOT_LEASED] = true,[CP_SLOT_CLOSING] = true,
	[CP_SLOT_FREE] = true},
	[CP_SLOT_IDLE] = {[CP_SLOT_LEASED] = true,[CP_SLOT_VALIDATING] = true,
	[CP_SLOT_CLOSING] = true,[CP_SLOT_FREE] = true},
	[CP_SLOT_LEASED] = {[CP_SLOT_IDLE] = true,[CP_SLOT_RESETTING] = true,
	[CP_SLOT_CLOSING] = true,[CP_SLOT_FREE] = true},
	[CP_SLOT_RESETTING] = {[CP_SLOT_IDLE] = true,[CP_SLOT_CLOSING] = true,
	[CP_SLOT_FREE] = true},
	[CP_SLOT_VALIDATING] = {[CP_SLOT_IDLE] = true,[CP_SLOT_CLOSING] = true,
	[CP_SLOT_FREE] = true},
	[CP_SLOT_CLOSING] = {[CP_SLOT_FREE] = true},
};

static void dispatch(int p, Aftermath *after, const CpCheckout *own);

/* ---- small things ------------------------------------------------------- */

static bool
is_listed(CpSlotState state)
{
	return state == CP_SLOT_IDLE || state == CP_SLOT_VALIDATING;
}

static bool
has_holder(CpSlotState state)
{
	return state == CP_SLOT_LEASED || state == CP_SLOT_CONNECTING;
}

static int
pool_size(const CpSharedPool *pool)
{
	int			size = 0;

	for (int s = CP_SLOT_FREE + 1; s < CP_SLOT_STATES; s++)
		size += pool->counts[s];
	return size;
}

static bool
same_fingerprint(const CpFingerprint *a, const CpFingerprint *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

/* Does the broker that runs now have this slot's socket? */
static bool
is_donated(const CpSharedSlot *slot)
{
	return slot->vault_epoch != 0 && slot->vault_epoch == cp_shmem_broker_epoch();
}

/* The invariants of a pool; its lock is held. */
static void
check_pool(int p)
{
#ifdef USE_ASSERT_CHECKING
	CpSharedPool *pool = &cp_pools[p];
	int			listed = 0;
	int			queued = 0;
	int			prev = CP_NONE;

	for (int i = pool->idle_head; i != CP_NONE; prev = i, i = cp_slots[i].next)
	{
		Assert(is_listed(cp_slots[i].state));
		Assert(cp_slots[i].pool == p);
		Assert(cp_slots[i].prev == prev);
		Assert(cp_slots[i].holder_proc == CP_NONE);
		Assert(!cp_slots[i].unshared);
		listed++;
	}
	Assert(prev == pool->idle_tail);
	Assert(listed == pool->counts[CP_SLOT_IDLE] + pool->counts[CP_SLOT_VALIDATING]);

	prev = CP_NONE;
	for (int i = pool->queue_head; i != CP_NONE; prev = i, i = cp_waiters[i].next)
	{
		Assert(cp_waiters[i].state == CP_WAITER_QUEUED);
		Assert(cp_waiters[i].pool == p);
		Assert(cp_waiters[i].prev == prev);
		queued++;
	}
	Assert(prev == pool->queue_tail);
	Assert(queued == pool->waiting);
	for (int s = 0; s < CP_SLOT_STATES; s++)
		Assert(pool->counts[s] >= 0);
	Assert(pool->counts[CP_SLOT_FREE] == 0);
#endif
}

/* ---- lists -------------------------------------------------------------- */

static void
idle_push(CpSharedPool *pool, int i)
{
	cp_slots[i].prev = CP_NONE;
	cp_slots[i].next = pool->idle_head;
	if (pool->idle_head != CP_NONE)
		cp_slots[pool->idle_head].prev = i;
	else
		pool->idle_tail = i;
	pool->idle_head = i;
}

static void
idle_unlink(CpSharedPool *pool, int i)
{
	CpSharedSlot *slot = &cp_slots[i];

	if (slot->prev != CP_NONE)
		cp_slots[slot->prev].next = slot->next;
	else
		pool->idle_head = slot->next;
	if (slot->next != CP_NONE)
		cp_slots[slot->next].prev = slot->prev;
	else
		pool->idle_tail = slot->prev;
	slot->prev = slot->next = CP_NONE;
}

static void
queue_push(CpSharedPool *pool, int i, bool at_head)
{
	CpSharedWaiter *w = &cp_waiters[i];

	w->prev = at_head ? CP_NONE : pool->queue_tail;
	w->next = at_head ? pool->queue_head : CP_NONE;
	if (w->prev != CP_NONE)
		cp_waiters[w->prev].next = i;
	else
		pool->queue_head = i;
	if (w->next != CP_NONE)
		cp_waiters[w->next].prev = i;
	else
		pool->queue_tail = i;
	w->state = CP_WAITER_QUEUED;
	pool->waiting++;
}

static void
queue_unlink(CpSharedPool *pool, int i)
{
	CpSharedWaiter *w = &cp_waiters[i];

	if (w->prev != CP_NONE)
		cp_waiters[w->prev].next = w->next;
	else
		pool->queue_head = w->next;
	if (w->next != CP_NONE)
		cp_waiters[w->next].prev = w->prev;
	else
		pool->queue_tail = w->prev;
	w->prev = w->next = CP_NONE;
	pool->waiting--;
}

/* Adds a slot to the broker's worklist, if it is not there. */
static void
task_push(int i, Aftermath *after)
{
	CpSharedSlot *slot = &cp_slots[i];

	SpinLockAcquire(&cp_shared->task_mutex);
	if (!slot->queued_task)
	{
		slot->queued_task = true;
		slot->next_task = CP_NONE;
		if (cp_shared->task_tail != CP_NONE)
			cp_slots[cp_shared->task_tail].next_task = i;
		else
			cp_shared->task_head = i;
		cp_shared->task_tail = i;
	}
	SpinLockRelease(&cp_shared->task_mutex);
	after->wake_broker = true;
}

static int
task_pop(void)
{
	int			i;

	SpinLockAcquire(&cp_shared->task_mutex);
	i = cp_shared->task_head;
	if (i != CP_NONE)
	{
		cp_shared->task_head = cp_slots[i].next_task;
		if (cp_shared->task_head == CP_NONE)
			cp_shared->task_tail = CP_NONE;
		cp_slots[i].queued_task = false;
		cp_slots[i].next_task = CP_NONE;
	}
	SpinLockRelease(&cp_shared->task_mutex);
	return i;
}

/* ---- locking ------------------------------------------------------------ */

static void
lock_pool(int p)
{
	LWLockAcquire(cp_shmem_pool_lock(p), LW_EXCLUSIVE);
}

/* Releases a pool's lock, and only then does what has to follow. */
static void
unlock_pool(int p, Aftermath *after)
{
	check_pool(p);
	LWLockRelease(cp_shmem_pool_lock(p));

	for (;;)
	{
		for (int i = 0; i < after->nwakes; i++)
			cp_shmem_wake(after->wakes[i]);
		after->nwakes = 0;
		if (!after->dispatch_again)
			break;
		after->dispatch_again = false;
		lock_pool(p);
		dispatch(p, after, NULL);
		LWLockRelease(cp_shmem_pool_lock(p));
	}
	if (after->wake_broker)
		cp_shmem_wake_broker();
}

/*
 * Locks the pool that a slot is in, provided that the slot still has this
 * generation.  Returns the pool, or CP_NONE with nothing locked.
 */
static int
lock_pool_of(int i, uint64 generation)
{
	CpSharedSlot *slot = &cp_slots[i];
	volatile int *in_pool = &slot->pool;
	int			p = *in_pool;

	if (p == CP_NONE)
		return CP_NONE;
	lock_pool(p);
	if (slot->pool == p && slot->state != CP_SLOT_FREE && slot->generation == generation)
		return p;
	LWLockRelease(cp_shmem_pool_lock(p));
	return CP_NONE;
}

/* ---- states ------------------------------------------------------------- */

/*
 * The one place that changes a slot's state.  Keeps the pool's counts, the
 * idle list and the generation in step with it.
 */
static void
set_state(int i, CpSlotState to)
{
	CpSharedSlot *slot = &cp_slots[i];
	CpSharedPool *pool = &cp_pools[slot->pool];
	CpSlotState from = slot->state;

	Assert(LWLockHeldByMeInMode(cp_shmem_pool_lock(slot->pool), LW_EXCLUSIVE));
	Assert(legal_change[from][to]);

	if (is_listed(from) && !is_listed(to))
		idle_unlink(pool, i);
	if (from != CP_SLOT_FREE)
		pool->counts[from]--;
	if (to != CP_SLOT_FREE)
		pool->counts[to]++;
	slot->state = to;
	slot->state_since = cp_now();
	if (is_listed(to) && !is_listed(from))
		idle_push(pool, i);
	if (from == CP_SLOT_FREE || from == CP_SLOT_CONNECTING ||
		to == CP_SLOT_CLOSING || to == CP_SLOT_FREE)
		slot->generation++;
	if (!has_holder(to))
	{
		slot->holder_proc = CP_NONE;
		slot->holder_pid = 0;
		pg_atomic_write_u64(&slot->running_since, 0);
	}
}

/* Takes a slot from the free list into the pool; CP_NONE if there is none. */
static int
allocate_slot(int p)
{
	int			i;
	CpSharedSlot *slot;

	SpinLockAcquire(&cp_shared->free_mutex);
	i = cp_shared->free_head;
	if (i != CP_NONE)
	{
		cp_shared->free_head = cp_slots[i].next;
		cp_shared->free_count--;
	}
	SpinLockRelease(&cp_shared->free_mutex);
	if (i == CP_NONE)
		return CP_NONE;

	slot = &cp_slots[i];
	slot->pool = p;
	slot->prev = slot->next = CP_NONE;
	slot->vault_epoch = 0;
	slot->unshared = false;
	slot->encrypted = false;
	slot->in_transaction = false;
	slot->mid_protocol = false;
	slot->leak_reported = false;
	slot->remote_pid = 0;
	slot->remote_address[0] = '\0';
	slot->uses = 0;
	return i;
}

/* Any state -> FREE, and back on the free list. */
static void
free_slot(int i, Aftermath *after)
{
	CpSharedSlot *slot = &cp_slots[i];

	if (slot->unshared)
		cp_pools[slot->pool].unshared--;
	set_state(i, CP_SLOT_FREE);
	slot->pool = CP_NONE;
	slot->vault_epoch = 0;

	SpinLockAcquire(&cp_shared->free_mutex);
	slot->next = cp_shared->free_head;
	cp_shared->free_head = i;
	cp_shared->free_count++;
	SpinLockRelease(&cp_shared->free_mutex);

	/* the broker gives it to a pool that had none to open */
	if (pg_atomic_read_u32(&cp_shared->starved_pools) > 0)
		after->wake_broker = true;
}

/* Any state with a socket in the vault -> CLOSING, for the broker to do. */
static void
close_slot(int i, Aftermath *after)
{
	set_state(i, CP_SLOT_CLOSING);
	task_push(i, after);
}

static void
set_starved(CpSharedPool *pool, bool starved, Aftermath *after)
{
	if (pool->starved == starved)
		return;
	pool->starved = starved;
	if (starved)
	{
		pg_atomic_fetch_add_u32(&cp_shared->starved_pools, 1);
		after->wake_broker = true;
	}
	else
		pg_atomic_fetch_sub_u32(&cp_shared->starved_pools, 1);
}

/* ---- who gets what ------------------------------------------------------ */

static bool
may_take(int p, int i, const CpFingerprint *fingerprint)
{
	CpSharedSlot *slot = &cp_slots[i];

	return slot->pool == p && slot->state == CP_SLOT_IDLE &&
		same_fingerprint(&slot->fingerprint, fingerprint);
}

static bool
is_adopted(const CpCheckout *own, int i)
{
	return own->adopted[i] != 0 && own->adopted[i] == cp_slots[i].generation;
}

/*
 * An idle connection for this fingerprint: best one that the caller itself
 * has adopted before, else the most recently used.  `own` is NULL when a
 * connection is sought for somebody else.
 */
static int
find_idle(int p, const CpFingerprint *fingerprint, const CpCheckout *own)
{
	int			found = CP_NONE;
	int			depth = 0;

	if (own && own->adopted && own->last_slot != CP_NONE &&
		may_take(p, own->last_slot, fingerprint) && is_adopted(own, own->last_slot))
		return own->last_slot;

	for (int i = cp_pools[p].idle_head; i != CP_NONE; i = cp_slots[i].next)
	{
		if (!may_take(p, i, fingerprint))
			continue;
		if (own == NULL || own->adopted == NULL || is_adopted(own, i))
			return i;
		if (found == CP_NONE)
			found = i;
		if (++depth >= ADOPTED_SEARCH_DEPTH)
			break;
	}
	return found;
}

static void
set_holder(CpSharedSlot *slot, int procno, CpTime now)
{
	CpSharedWaiter *w = &cp_waiters[procno];

	slot->holder_proc = procno;
	slot->holder_pid = w->pid;
	slot->lease = w->lease;
	slot->scope = w->scope;
	slot->lease_role = w->role;
	slot->leased_at = now;
	slot->leak_reported = false;
	slot->in_transaction = false;
	slot->mid_protocol = false;
}

/* The first waiter gets a slot; it reads what without the lock. */
static void
grant(int p, int i, CpWaiterState what, CpTime now)
{
	CpSharedPool *pool = &cp_pools[p];
	int			procno = pool->queue_head;
	CpSharedWaiter *w = &cp_waiters[procno];

	queue_unlink(pool, procno);
	set_holder(&cp_slots[i], procno, now);
	w->slot = i;
	w->generation = cp_slots[i].generation;
	pg_write_barrier();
	w->state = what;
}

static void
grant_lease(int p, int i)
{
	CpSharedPool *pool = &cp_pools[p];
	CpSharedWaiter *w = &cp_waiters[pool->queue_head];
	CpTime		now;

	set_state(i, CP_SLOT_LEASED);
	now = cp_slots[i].state_since;
	cp_slots[i].uses++;
	w->wait = now - w->since;
	cp_stats_checkout(&pool->stats, w->wait);
	grant(p, i, CP_WAITER_GRANTED_LEASE, now);
}

static void
grant_permit(int p, int i)
{
	CpSharedPool *pool = &cp_pools[p];

	Assert(pool_size(pool) < pool->options.max_size);
	cp_slots[i].fingerprint = cp_waiters[pool->queue_head].fingerprint;
	set_state(i, CP_SLOT_CONNECTING);
	grant(p, i, CP_WAITER_GRANTED_PERMIT, cp_slots[i].state_since);
}

static bool
may_open(const CpSharedPool *pool)
{
	return pool_size(pool) < pool->options.max_size &&
		pool->counts[CP_SLOT_CONNECTING] < pool->options.connect_concurrency;
}

/*
 * The pool is full, and what is idle is of no use to the first waiter: closes
 * the longest idle one, whose place it will get.  Not more than one for each
 * waiter.
 */
static void
make_room(int p, Aftermath *after)
{
	CpSharedPool *pool = &cp_pools[p];

	if (pool_size(pool) < pool->options.max_size ||
		pool->counts[CP_SLOT_CLOSING] >= pool->waiting)
		return;
	for (int i = pool->idle_tail; i != CP_NONE; i = cp_slots[i].prev)
	{
		if (cp_slots[i].state != CP_SLOT_IDLE)
			continue;
		close_slot(i, after);
		return;
	}
}

/*
 * Decides who gets what, after anything has changed in a pool whose lock is
 * held: first come, first served.  `own` is the request of this process if it
 * has one; it needs no waking and may prefer what it has adopted.
 */
static void
dispatch(int p, Aftermath *after, const CpCheckout *own)
{
	CpSharedPool *pool = &cp_pools[p];
	bool		starved = false;

	while (pool->queue_head != CP_NONE)
	{
		int			procno = pool->queue_head;
		CpSharedWaiter *w = &cp_waiters[procno];
		bool		is_own = own != NULL && procno == cp_shmem_my_proc();
		int			i = CP_NONE;

		if (!is_own && after->nwakes == MAX_WAKES)
		{
			after->dispatch_again = true;
			break;
		}
		if (!w->wants_permit)
			i = find_idle(p, &w->fingerprint, is_own ? own : NULL);
		if (i != CP_NONE)
			grant_lease(p, i);
		else
		{
			if (!may_open(pool))
			{
				make_room(p, after);
				break;
			}
			i = allocate_slot(p);
			if (i == CP_NONE)
			{
				starved = true;
				break;
			}
			grant_permit(p, i);
		}
		if (!is_own)
			after->wakes[after->nwakes++] = procno;
	}
	set_starved(pool, starved, after);
}

/* ---- finding pools ------------------------------------------------------ */

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
		pool_size(pool) == pool->counts[CP_SLOT_IDLE] + pool->counts[CP_SLOT_CLOSING];
}

/*
 * Looks for a pool that may be given up, with the registry locked: the one
 * unused for longest that is quiet and, if asked, empty.
 */
static int
find_victim(CpPoolKind kind, bool empty)
{
	int			victim = CP_NONE;
	CpTime		oldest = CP_FOREVER;

	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		CpSharedPool *pool = &cp_pools[p];

		lock_pool(p);
		if (pool->in_use && pool->key.kind == kind && is_quiet(pool) &&
			(!empty || pool_size(pool) == 0) && pool->last_used < oldest)
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
	bool		removed;

	lock_pool(p);
	removed = is_quiet(pool) && pool_size(pool) == 0;
	if (removed)
		pool->in_use = false;
	LWLockRelease(cp_shmem_pool_lock(p));
	return removed;
}

static void
close_idle_of(int p)
{
	CpSharedPool *pool = &cp_pools[p];
	Aftermath	after = {0};

	lock_pool(p);
	for (int i = pool->idle_head; i != CP_NONE;)
	{
		int			next = cp_slots[i].next;

		if (cp_slots[i].state == CP_SLOT_IDLE)
			close_slot(i, &after);
		i = next;
	}
	unlock_pool(p, &after);
}

/*
 * Makes room in the registry, which is locked: an empty ad-hoc pool goes
 * first; else an idle one begins to close, for those who come later; else an
 * empty pool of a server.  CP_NONE: there is no place now.
 */
static int
evict_pool(void)
{
	int			victim = find_victim(CP_POOL_CONNINFO, true);

	if (victim != CP_NONE)
		return remove_pool(victim) ? victim : CP_NONE;
	victim = find_victim(CP_POOL_CONNINFO, false);
	if (victim != CP_NONE)
	{
		close_idle_of(victim);
		return CP_NONE;
	}
	victim = find_victim(CP_POOL_SERVER, true);
	if (victim != CP_NONE && remove_pool(victim))
		return victim;
	return CP_NONE;
}

static int
unused_pool(void)
{
	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		if (!cp_pools[p].in_use)
			return p;
	}
	return evict_pool();
}

static void
init_pool(int p, const CpPoolKey *key, const CpPoolOptions *options)
{
	CpSharedPool *pool = &cp_pools[p];

	lock_pool(p);
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
	lock_pool(p);
	strlcpy(cp_pools[p].name, name, CP_POOL_NAME_LEN);
	LWLockRelease(cp_shmem_pool_lock(p));
}

int
cp_pool_find(const CpPoolKey *key, const char *name, const CpPoolOptions *options,
			 uint64 *generation)
{
	int			p;

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	p = find_pool(key);
	if (p == CP_NONE)
	{
		p = unused_pool();
		if (p != CP_NONE)
			init_pool(p, key, options);
	}
	if (p != CP_NONE)
		set_name(p, name);
	else
		p = CP_OVERFLOW_POOL;
	*generation = cp_pools[p].generation;
	LWLockRelease(cp_shmem_registry_lock());
	return p;
}

/* ---- checkout ----------------------------------------------------------- */

static void
enqueue(CpCheckout *c)
{
	int			me = cp_shmem_my_proc();
	CpSharedWaiter *w = &cp_waiters[me];

	Assert(w->state == CP_WAITER_NONE);
	w->pool = c->pool;
	w->pid = MyProcPid;
	w->since = c->since;
	w->wait = 0;
	w->wants_permit = c->wants_permit;
	w->fingerprint = c->fingerprint;
	w->lease = c->lease;
	w->scope = c->scope;
	w->role = c->role;
	queue_push(&cp_pools[c->pool], me, c->again);
}

/* Takes over what this backend was granted, if it was. */
static CpGrant
take_grant(CpCheckout *c)
{
	CpSharedWaiter *w = &cp_waiters[cp_shmem_my_proc()];
	CpWaiterState state = ((volatile CpSharedWaiter *) w)->state;

	Assert(state != CP_WAITER_NONE);
	if (state == CP_WAITER_QUEUED)
		return CP_GRANT_QUEUED;
	pg_read_barrier();
	c->slot = w->slot;
	c->generation = w->generation;
	c->wait = w->wait;
	w->state = CP_WAITER_NONE;
	return state == CP_WAITER_GRANTED_LEASE ? CP_GRANT_LEASE : CP_GRANT_PERMIT;
}

/*
 * Waiting would never end: every connection is held by the caller itself.
 * Those that are being opened by others, cleaned or closed come free by
 * themselves, so all must be its own.
 */
static bool
waits_for_itself(const CpSharedPool *pool, const CpCheckout *c)
{
	return c->held > 0 && c->held >= pool_size(pool) &&
		pool_size(pool) >= pool->options.max_size;
}

/* Not served at once: may the caller stay in the queue? */
static CpGrant
stay_in_queue(CpCheckout *c)
{
	CpSharedPool *pool = &cp_pools[c->pool];
	CpGrant		result = CP_GRANT_QUEUED;

	if (waits_for_itself(pool, c))
		result = CP_GRANT_SELF_DEADLOCK;
	else if (!c->again && pool->options.max_waiters >= 0 &&
			 pool->waiting > pool->options.max_waiters)
	{
		cp_stats_timeout(&pool->stats, cp_now() - c->since);
		result = CP_GRANT_QUEUE_FULL;
	}
	else if (!c->again)
		pool->stats.waited++;

	if (result != CP_GRANT_QUEUED)
	{
		queue_unlink(pool, cp_shmem_my_proc());
		cp_waiters[cp_shmem_my_proc()].state = CP_WAITER_NONE;
	}
	return result;
}

CpGrant
cp_pool_checkout(CpCheckout *c)
{
	CpSharedPool *pool = &cp_pools[c->pool];
	Aftermath	after = {0};
	CpGrant		result;

	lock_pool(c->pool);
	if (!pool->in_use || pool->generation != c->pool_generation)
	{
		LWLockRelease(cp_shmem_pool_lock(c->pool));
		return CP_GRANT_POOL_GONE;
	}
	if (c->pool != CP_OVERFLOW_POOL)
		pool->options = *c->options;
	pool->last_used = c->since;
	enqueue(c);
	dispatch(c->pool, &after, c);
	result = take_grant(c);
	if (result == CP_GRANT_QUEUED)
	{
		result = stay_in_queue(c);
		if (result != CP_GRANT_QUEUED)
			dispatch(c->pool, &after, NULL);
	}
	unlock_pool(c->pool, &after);
	return result;
}

CpGrant
cp_pool_granted(CpCheckout *c)
{
	return take_grant(c);
}

void
cp_pool_leave_queue(CpLeave why)
{
	int			me = cp_shmem_my_proc();
	CpSharedWaiter *w = &cp_waiters[me];
	CpSharedPool *pool;
	Aftermath	after = {0};
	int			p = w->pool;

	if (((volatile CpSharedWaiter *) w)->state == CP_WAITER_NONE)
		return;

	lock_pool(p);
	pool = &cp_pools[p];
	if (w->state == CP_WAITER_QUEUED)
		queue_unlink(pool, me);
	else if (w->state == CP_WAITER_GRANTED_PERMIT)
		free_slot(w->slot, &after);
	else
	{
		cp_stats_undo_checkout(&pool->stats, w->wait);
		cp_slots[w->slot].uses--;
		set_state(w->slot, CP_SLOT_IDLE);
	}
	w->state = CP_WAITER_NONE;
	if (why == CP_LEAVE_TIMEOUT)
		cp_stats_timeout(&pool->stats, cp_now() - w->since);
	else
		cp_stats_cancel(&pool->stats, cp_now() - w->since);
	dispatch(p, &after, NULL);
	unlock_pool(p, &after);
}

/* ---- opening ------------------------------------------------------------ */

uint64
cp_pool_connected(CpCheckout *c, const CpConnected *info)
{
	CpSharedSlot *slot = &cp_slots[c->slot];
	CpSharedPool *pool = &cp_pools[c->pool];
	Aftermath	after = {0};
	CpTime		now;

	lock_pool(c->pool);
	Assert(slot->pool == c->pool && slot->generation == c->generation);
	set_state(c->slot, CP_SLOT_LEASED);
	now = slot->state_since;
	slot->remote_pid = info->remote_pid;
	strlcpy(slot->remote_address, info->remote_address, CP_ADDRESS_LEN);
	slot->encrypted = info->encrypted;
	slot->unshared = info->unshared;
	if (info->unshared)
		pool->unshared++;
	slot->opened_at = slot->leased_at = now;
	slot->uses = 1;
	cp_stats_connect(&pool->stats, info->connect_time);
	c->wait = now - c->since;
	cp_stats_checkout(&pool->stats, c->wait);
	c->generation = slot->generation;
	dispatch(c->pool, &after, NULL);
	unlock_pool(c->pool, &after);
	return c->generation;
}

void
cp_pool_count_failure(int slot, uint64 generation, CpFailure what, CpTime since)
{
	int			p = lock_pool_of(slot, generation);
	CpPoolStats *stats;

	if (p == CP_NONE)
		return;
	stats = &cp_pools[p].stats;
	if (what == CP_FAILURE_CONNECT)
		stats->connect_failures++;
	else if (what == CP_FAILURE_TIMEOUT)
		cp_stats_timeout(stats, cp_now() - since);
	else
		cp_stats_cancel(stats, cp_now() - since);
	LWLockRelease(cp_shmem_pool_lock(p));
}

void
cp_pool_connect_ended(int slot, uint64 generation)
{
	Aftermath	after = {0};
	int			p = lock_pool_of(slot, generation);

	if (p == CP_NONE)
		return;
	Assert(cp_slots[slot].state == CP_SLOT_CONNECTING);
	Assert(cp_slots[slot].holder_proc == cp_shmem_my_proc());
	free_slot(slot, &after);
	dispatch(p, &after, NULL);
	unlock_pool(p, &after);
}

/* Out of service: the broker ends what it has, else there is nothing left. */
static void
retire_slot(int i, Aftermath *after)
{
	if (is_donated(&cp_slots[i]))
		close_slot(i, after);
	else
		free_slot(i, after);
}

void
cp_pool_discard(CpCheckout *c)
{
	CpSharedPool *pool = &cp_pools[c->pool];
	Aftermath	after = {0};

	if (lock_pool_of(c->slot, c->generation) == CP_NONE)
		return;
	cp_stats_undo_checkout(&pool->stats, c->wait);
	c->wait = 0;
	pool->stats.discarded++;
	retire_slot(c->slot, &after);
	dispatch(c->pool, &after, NULL);
	unlock_pool(c->pool, &after);
}

/* ---- checkin ------------------------------------------------------------ */

static void
add_usage(CpPoolStats *stats, const CpUsage *usage)
{
	stats->queries += usage->queries;
	stats->query_errors += usage->query_errors;
	stats->rows += usage->rows;
	stats->discarded += usage->discarded;
	if (usage->extra_wait > 0)
		cp_stats_extra_wait(stats, usage->extra_wait);
}

/* LEASED -> what its holder left it in. */
static void
dispose(CpCheckin *c, CpSharedPool *pool, Aftermath *after)
{
	CpSharedSlot *slot = &cp_slots[c->slot];

	slot->in_transaction = c->in_transaction;
	slot->mid_protocol = c->mid_protocol;
	switch (c->disposition)
	{
		case CP_CHECKIN_CLEAN:
			/* the pool may have been made smaller meanwhile */
			if (pool_size(pool) > pool->options.max_size)
				close_slot(c->slot, after);
			else
			{
				set_state(c->slot, CP_SLOT_IDLE);
				slot->idle_since = slot->state_since;
			}
			break;
		case CP_CHECKIN_RESET:
			pool->stats.resets++;
			set_state(c->slot, CP_SLOT_RESETTING);
			task_push(c->slot, after);
			break;
		case CP_CHECKIN_CLOSE:
			close_slot(c->slot, after);
			break;
		case CP_CHECKIN_ENDED:
			free_slot(c->slot, after);
			break;
	}
}

bool
cp_pool_checkin(CpCheckin *c)
{
	CpSharedSlot *slot = &cp_slots[c->slot];
	int			p = slot->pool;
	CpSharedPool *pool = &cp_pools[p];
	Aftermath	after = {0};

	lock_pool(p);
	Assert(slot->state == CP_SLOT_LEASED && slot->generation == c->generation);
	Assert(slot->holder_proc == cp_shmem_my_proc());
	if (c->disposition != CP_CHECKIN_ENDED && !is_donated(slot))
	{
		LWLockRelease(cp_shmem_pool_lock(p));
		return false;
	}
	c->was_leak = slot->leak_reported;
	add_usage(&pool->stats, &c->usage);
	cp_stats_checkin(&pool->stats, cp_now() - slot->leased_at);
	dispose(c, pool, &after);
	dispatch(p, &after, NULL);
	unlock_pool(p, &after);
	return true;
}

bool
cp_pool_add_usage(int slot, uint64 generation, const CpUsage *usage)
{
	int			p = lock_pool_of(slot, generation);
	bool		was_leak;

	if (p == CP_NONE)
		return false;
	add_usage(&cp_pools[p].stats, usage);
	was_leak = cp_slots[slot].leak_reported;
	LWLockRelease(cp_shmem_pool_lock(p));
	return was_leak;
}

void
cp_pool_statement_begins(int slot)
{
	pg_atomic_write_u64(&cp_slots[slot].running_since, (uint64) cp_now());
}

void
cp_pool_statement_ends(int slot)
{
	pg_atomic_write_u64(&cp_slots[slot].running_since, 0);
}

void
cp_pool_set_sql(int slot, const char *sql)
{
	CpSharedSlot *s = &cp_slots[slot];
	int			len = sql ? (int) strnlen(sql, CP_SQL_LEN) : 0;

	if (len >= CP_SQL_LEN)
		len = pg_mbcliplen(sql, len, CP_SQL_LEN - 1);
	SpinLockAcquire(&s->mutex);
	if (len > 0)
		memcpy(s->sql, sql, len);
	s->sql[len] = '\0';
	SpinLockRelease(&s->mutex);
}

uint64
cp_pool_generation(int slot)
{
	return ((volatile CpSharedSlot *) &cp_slots[slot])->generation;
}

bool
cp_pool_is_donated(int slot, uint64 generation)
{
	int			p = lock_pool_of(slot, generation);
	bool		result;

	if (p == CP_NONE)
		return false;
	result = is_donated(&cp_slots[slot]);
	LWLockRelease(cp_shmem_pool_lock(p));
	return result;
}

/* ---- the broker's side -------------------------------------------------- */

/* Frees whatever only a broker could still bring to an end. */
static void
sweep(void)
{
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		CpSharedSlot *slot = &cp_slots[i];
		Aftermath	after = {0};
		int			p = lock_pool_of(i, cp_pool_generation(i));

		if (p == CP_NONE)
			continue;
		if (!has_holder(slot->state))
		{
			free_slot(i, &after);
			dispatch(p, &after, NULL);
		}
		unlock_pool(p, &after);
	}
}

uint64
cp_pool_broker_begins(void)
{
	uint64		epoch = ++cp_shared->last_epoch;

	sweep();
	pg_atomic_write_u32(&cp_shared->broker_proc, (uint32) cp_shmem_my_proc());
	pg_atomic_write_u32(&cp_shared->broker_pid, (uint32) MyProcPid);
	pg_write_barrier();
	pg_atomic_write_u64(&cp_shared->broker_epoch, epoch);
	return epoch;
}

void
cp_pool_broker_ends(void)
{
	/* who has a pool's lock next sees it, so nothing is left behind */
	pg_atomic_write_u64(&cp_shared->broker_epoch, 0);
	pg_atomic_write_u32(&cp_shared->broker_pid, 0);
	pg_memory_barrier();
	sweep();
}

bool
cp_pool_is_held_by(int slot, uint64 generation, int pid)
{
	int			p = lock_pool_of(slot, generation);
	bool		result;

	if (p == CP_NONE)
		return false;
	result = cp_slots[slot].state == CP_SLOT_LEASED && cp_slots[slot].holder_pid == pid;
	LWLockRelease(cp_shmem_pool_lock(p));
	return result;
}

bool
cp_pool_donated(int slot, uint64 generation, int pid, uint64 epoch)
{
	CpSharedSlot *s = &cp_slots[slot];
	int			p = lock_pool_of(slot, generation);
	bool		result;

	if (p == CP_NONE)
		return false;
	result = s->state == CP_SLOT_LEASED && s->holder_pid == pid && !s->unshared;
	if (result)
		s->vault_epoch = epoch;
	LWLockRelease(cp_shmem_pool_lock(p));
	return result;
}

uint64
cp_pool_ending(int slot, uint64 generation, int pid)
{
	CpSharedSlot *s = &cp_slots[slot];
	Aftermath	after = {0};
	uint64		result = 0;
	int			p = lock_pool_of(slot, generation);

	if (p == CP_NONE)
		return 0;
	if (has_holder(s->state) && s->holder_pid == pid)
	{
		if (s->state == CP_SLOT_LEASED)
			cp_stats_checkin(&cp_pools[p].stats, cp_now() - s->leased_at);
		set_state(slot, CP_SLOT_CLOSING);
		result = s->generation;
		dispatch(p, &after, NULL);
	}
	unlock_pool(p, &after);
	return result;
}

bool
cp_pool_next_task(CpTask *task)
{
	int			i;

	while ((i = task_pop()) != CP_NONE)
	{
		CpSharedSlot *slot = &cp_slots[i];
		int			p = lock_pool_of(i, cp_pool_generation(i));
		bool		wanted;

		if (p == CP_NONE)
			continue;
		task->slot = i;
		task->generation = slot->generation;
		task->state = slot->state;
		task->in_transaction = slot->in_transaction;
		task->mid_protocol = slot->mid_protocol;
		wanted = slot->state == CP_SLOT_RESETTING || slot->state == CP_SLOT_CLOSING;
		LWLockRelease(cp_shmem_pool_lock(p));
		if (wanted)
			return true;
	}
	return false;
}

void
cp_pool_reset_done(int slot, uint64 generation, bool ok)
{
	CpSharedSlot *s = &cp_slots[slot];
	Aftermath	after = {0};
	int			p = lock_pool_of(slot, generation);

	if (p == CP_NONE)
		return;
	if (ok && pool_size(&cp_pools[p]) <= cp_pools[p].options.max_size)
	{
		set_state(slot, CP_SLOT_IDLE);
		s->idle_since = s->state_since;
	}
	else
	{
		if (!ok)
		{
			/* nobody knows where in the protocol it stopped */
			s->mid_protocol = true;
			cp_pools[p].stats.discarded++;
		}
		close_slot(slot, &after);
	}
	dispatch(p, &after, NULL);
	unlock_pool(p, &after);
}

bool
cp_pool_validate(int slot, uint64 *generation)
{
	uint64		g = cp_pool_generation(slot);
	Aftermath	after = {0};
	int			p = lock_pool_of(slot, g);
	bool		idle;

	if (p == CP_NONE)
		return false;
	idle = cp_slots[slot].state == CP_SLOT_IDLE;
	if (idle)
		set_state(slot, CP_SLOT_VALIDATING);
	unlock_pool(p, &after);
	*generation = g;
	return idle;
}

void
cp_pool_validated(int slot, uint64 generation, bool alive)
{
	Aftermath	after = {0};
	int			p = lock_pool_of(slot, generation);

	if (p == CP_NONE)
		return;
	if (alive)
		set_state(slot, CP_SLOT_IDLE);
	else
	{
		cp_pools[p].stats.discarded++;
		close_slot(slot, &after);
	}
	dispatch(p, &after, NULL);
	unlock_pool(p, &after);
}

void
cp_pool_closed(int slot, uint64 generation)
{
	Aftermath	after = {0};
	int			p = lock_pool_of(slot, generation);

	if (p == CP_NONE)
		return;
	Assert(cp_slots[slot].state == CP_SLOT_CLOSING);
	free_slot(slot, &after);
	dispatch(p, &after, NULL);
	unlock_pool(p, &after);
}

void
cp_pool_close_all_idle(void)
{
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		if (cp_pools[p].in_use)
			close_idle_of(p);
	}
}

/* The longest idle connection of any pool without waiters; a guess, unlocked. */
static int
find_longest_idle(bool *closing)
{
	int			found = CP_NONE;
	CpTime		oldest = CP_FOREVER;

	*closing = false;
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		volatile CpSharedSlot *slot = &cp_slots[i];
		CpSlotState state = slot->state;
		int			p = slot->pool;

		if (state == CP_SLOT_CLOSING)
			*closing = true;
		if (state == CP_SLOT_IDLE && p != CP_NONE && cp_pools[p].waiting == 0 &&
			slot->idle_since < oldest)
		{
			oldest = slot->idle_since;
			found = i;
		}
	}
	return found;
}

/* Closes one idle connection somewhere; its slot comes free before long. */
static void
close_longest_idle(void)
{
	bool		closing;
	int			i = find_longest_idle(&closing);
	Aftermath	after = {0};
	int			p;

	if (i == CP_NONE || closing)
		return;
	p = lock_pool_of(i, cp_pool_generation(i));
	if (p == CP_NONE)
		return;
	if (cp_slots[i].state == CP_SLOT_IDLE && cp_pools[p].waiting == 0)
		close_slot(i, &after);
	unlock_pool(p, &after);
}

void
cp_pool_relieve(void)
{
	bool		still_starved = false;

	if (pg_atomic_read_u32(&cp_shared->starved_pools) == 0)
		return;
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		Aftermath	after = {0};

		if (!((volatile CpSharedPool *) &cp_pools[p])->starved)
			continue;
		lock_pool(p);
		dispatch(p, &after, NULL);
		still_starved |= cp_pools[p].starved;
		after.wake_broker = false;	/* that is us, at it already */
		unlock_pool(p, &after);
	}
	if (still_starved)
		close_longest_idle();
}

/* ---- reading ------------------------------------------------------------ */

bool
cp_pool_read(int p, CpPoolInfo *info)
{
	CpSharedPool *pool = &cp_pools[p];
	bool		in_use;

	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	in_use = pool->in_use;
	if (in_use)
	{
		info->key = pool->key;
		strlcpy(info->name, pool->name, CP_POOL_NAME_LEN);
		info->options = pool->options;
		memcpy(info->counts, pool->counts, sizeof(info->counts));
		info->unshared = pool->unshared;
		info->waiting = pool->waiting;
		info->stats = pool->stats;
	}
	LWLockRelease(cp_shmem_pool_lock(p));
	return in_use;
}

static void
copy_slot(int i, CpSharedSlot *slot, CpSharedPool *pool, CpSlotInfo *info)
{
	info->slot = i;
	info->pool = slot->pool;
	info->key = pool->key;
	strlcpy(info->name, pool->name, CP_POOL_NAME_LEN);
	info->leak_threshold = pool->options.leak_threshold;
	info->state = slot->state;
	info->generation = slot->generation;
	info->state_since = slot->state_since;
	info->unshared = slot->unshared;
	info->encrypted = slot->encrypted;
	info->remote_pid = slot->remote_pid;
	strlcpy(info->remote_address, slot->remote_address, CP_ADDRESS_LEN);
	info->opened_at = slot->opened_at;
	info->idle_since = slot->idle_since;
	info->uses = slot->uses;
	info->holder_pid = slot->holder_pid;
	info->lease = slot->lease;
	info->scope = slot->scope;
	info->lease_role = slot->lease_role;
	info->leased_at = slot->leased_at;
	info->running_since = (CpTime) pg_atomic_read_u64(&slot->running_since);
	info->leak_reported = slot->leak_reported;
	SpinLockAcquire(&slot->mutex);
	memcpy(info->sql, slot->sql, CP_SQL_LEN);
	SpinLockRelease(&slot->mutex);
}

bool
cp_slot_read(int i, CpSlotInfo *info)
{
	CpSharedSlot *slot = &cp_slots[i];
	int			p = ((volatile CpSharedSlot *) slot)->pool;
	bool		there;

	if (p == CP_NONE)
		return false;
	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	there = slot->pool == p && slot->state != CP_SLOT_FREE;
	if (there)
		copy_slot(i, slot, &cp_pools[p], info);
	LWLockRelease(cp_shmem_pool_lock(p));
	return there;
}

int
cp_pool_waiters(int p, CpWaiterInfo **waiters)
{
	CpSharedPool *pool = &cp_pools[p];
	int			room = pool->waiting;
	int			n = 0;

	*waiters = palloc(Max(room, 1) * sizeof(CpWaiterInfo));
	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	for (int i = pool->queue_head; i != CP_NONE && n < room; i = cp_waiters[i].next)
	{
		CpWaiterInfo *info = &(*waiters)[n++];
		CpSharedWaiter *w = &cp_waiters[i];

		info->pool = p;
		info->key = pool->key;
		strlcpy(info->name, pool->name, CP_POOL_NAME_LEN);
		info->pid = w->pid;
		info->role = w->role;
		info->since = w->since;
		info->position = n;
	}
	LWLockRelease(cp_shmem_pool_lock(p));
	return n;
}

typedef struct Holder
{
	int			pid;
	CpTime		since;
} Holder;

/* Puts a holder among the longest ones seen so far, which are sorted. */
static int
note_holder(Holder *holders, int n, const CpSharedSlot *slot)
{
	int			at = n;

	while (at > 0 && holders[at - 1].since > slot->leased_at)
		at--;
	if (at == MAX_HOLDERS_NAMED)
		return n;
	if (n < MAX_HOLDERS_NAMED)
		n++;
	memmove(&holders[at + 1], &holders[at], (n - 1 - at) * sizeof(Holder));
	holders[at].pid = slot->holder_pid;
	holders[at].since = slot->leased_at;
	return n;
}

char *
cp_pool_describe(int p)
{
	CpPoolInfo	info;
	Holder		holders[MAX_HOLDERS_NAMED];
	int			n = 0;
	StringInfoData buf;

	if (!cp_pool_read(p, &info))
		return pstrdup("");
	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		if (cp_slots[i].pool == p && cp_slots[i].state == CP_SLOT_LEASED)
			n = note_holder(holders, n, &cp_slots[i]);
	}
	LWLockRelease(cp_shmem_pool_lock(p));

	initStringInfo(&buf);
	appendStringInfo(&buf, _("max_size is %d: %d leased, %d idle, %d connecting, "
							 "%d resetting, %d closing; %d waiting."),
					 info.options.max_size, info.counts[CP_SLOT_LEASED],
					 info.counts[CP_SLOT_IDLE] + info.counts[CP_SLOT_VALIDATING],
					 info.counts[CP_SLOT_CONNECTING], info.counts[CP_SLOT_RESETTING],
					 info.counts[CP_SLOT_CLOSING], info.waiting);
	for (int i = 0; i < n; i++)
		appendStringInfo(&buf, i == 0 ? _(" Longest held by pid %d (%.1f s)") :
						 _(", pid %d (%.1f s)"),
						 holders[i].pid, (cp_now() - holders[i].since) / 1e6);
	if (n > 0)
		appendStringInfoChar(&buf, '.');
	return buf.data;
}

void
cp_pool_reset_stats(int p)
{
	lock_pool(p);
	if (cp_pools[p].in_use)
		cp_stats_reset(&cp_pools[p].stats);
	LWLockRelease(cp_shmem_pool_lock(p));
}

bool
cp_slot_report_leak(int i, uint64 lease)
{
	CpSharedSlot *slot = &cp_slots[i];
	int			p = lock_pool_of(i, cp_pool_generation(i));
	bool		marked;

	if (p == CP_NONE)
		return false;
	marked = slot->state == CP_SLOT_LEASED && slot->lease == lease && !slot->leak_reported;
	if (marked)
	{
		slot->leak_reported = true;
		cp_pools[p].stats.leaks++;
	}
	LWLockRelease(cp_shmem_pool_lock(p));
	return marked;
}
