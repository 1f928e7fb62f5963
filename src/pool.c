/*
 * pool.c
 *		Who gets which connection.
 *
 * Runs in client backends and in the broker.  All state of pools, slots and
 * waiters changes under the lock of the one pool concerned; what has to be
 * done about it (opening, resetting, closing) is done by others, outside.
 *
 * The duty is spread over a few files behind one header, pool.h:
 *
 *	pool.c			the queue, checkout, opening and checkin
 *	pool_slot.c		states of slots
 *	pool_registry.c	which pools there are
 *	pool_broker.c	what the broker reports and asks
 *	pool_view.c		copies for people to read
 *
 * cp_pool_dispatch() alone decides who gets what; cp_pool_leave_queue() is the
 * one way out of the queue for somebody who got nothing.
 */
#include "postgres.h"

#include "pool.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "pool_internal.h"

/* how far into the idle list we look for a connection adopted before */
#define ADOPTED_SEARCH_DEPTH 64

/* ---- the queue ------------------------------------------------------------ */

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

/* The invariants of a pool; its lock is held. */
static void
check_pool(int p)
{
#ifdef USE_ASSERT_CHECKING
	CpSharedPool *pool = &cp_pools[p];
	int listed = 0;
	int queued = 0;
	int prev = CP_NONE;

	for (int i = pool->idle_head; i != CP_NONE; prev = i, i = cp_slots[i].next)
	{
		Assert(cp_slot_is_listed(cp_slots[i].state));
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

/* Releases a pool's lock, and only then does what has to follow. */
void
cp_pool_unlock(int p, CpAftermath *after)
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
		cp_pool_lock(p);
		cp_pool_dispatch(p, after, NULL);
		LWLockRelease(cp_shmem_pool_lock(p));
	}
	if (after->wake_broker)
		cp_shmem_wake_broker();
}

/* ---- who gets what ------------------------------------------------------ */

static bool
same_fingerprint(const CpFingerprint *a, const CpFingerprint *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static void
set_starved(CpSharedPool *pool, bool starved, CpAftermath *after)
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
	int found = CP_NONE;
	int depth = 0;

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
	slot->changes = 0;
	slot->mid_protocol = false;
}

/* The first waiter gets a slot; it reads what without the lock. */
static void
grant(int p, int i, CpWaiterState what, CpTime now)
{
	CpSharedPool *pool = &cp_pools[p];
	int procno = pool->queue_head;
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
	CpTime now;

	cp_slot_set_state(i, CP_SLOT_LEASED);
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

	Assert(cp_pool_size(pool) < pool->options.max_size);
	cp_slots[i].fingerprint = cp_waiters[pool->queue_head].fingerprint;
	cp_slot_set_state(i, CP_SLOT_CONNECTING);
	grant(p, i, CP_WAITER_GRANTED_PERMIT, cp_slots[i].state_since);
}

static bool
may_open(const CpSharedPool *pool)
{
	return cp_pool_size(pool) < pool->options.max_size &&
		pool->counts[CP_SLOT_CONNECTING] < pool->options.connect_concurrency;
}

/*
 * The pool is full, and what is idle is of no use to the first waiter: closes
 * the longest idle one, whose place it will get.  Not more than one for each
 * waiter.
 */
static void
make_room(int p, CpAftermath *after)
{
	CpSharedPool *pool = &cp_pools[p];

	if (cp_pool_size(pool) < pool->options.max_size ||
		pool->counts[CP_SLOT_CLOSING] >= pool->waiting)
		return;
	for (int i = pool->idle_tail; i != CP_NONE; i = cp_slots[i].prev)
	{
		if (cp_slots[i].state != CP_SLOT_IDLE)
			continue;
		cp_slot_close(i, after);
		return;
	}
}

/*
 * Decides who gets what, after anything has changed in a pool whose lock is
 * held: first come, first served.  `own` is the request of this process if it
 * has one; it needs no waking and may prefer what it has adopted.
 */
void
cp_pool_dispatch(int p, CpAftermath *after, const CpCheckout *own)
{
	CpSharedPool *pool = &cp_pools[p];
	bool starved = false;

	while (pool->queue_head != CP_NONE)
	{
		int procno = pool->queue_head;
		CpSharedWaiter *w = &cp_waiters[procno];
		bool is_own = own != NULL && procno == cp_shmem_my_proc();
		int i = CP_NONE;

		if (!is_own && after->nwakes == CP_MAX_WAKES)
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
			i = cp_slot_allocate(p);
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

/* ---- checkout ----------------------------------------------------------- */

static void
enqueue(CpCheckout *c)
{
	int me = cp_shmem_my_proc();
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
	return c->held > 0 && c->held >= cp_pool_size(pool) &&
		cp_pool_size(pool) >= pool->options.max_size;
}

/* Not served at once: may the caller stay in the queue? */
static CpGrant
stay_in_queue(CpCheckout *c)
{
	CpSharedPool *pool = &cp_pools[c->pool];
	CpGrant result = CP_GRANT_QUEUED;

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

/* Whoever checks out brings the options in force; a pool made smaller shrinks. */
static void
set_options(CpSharedPool *pool, const CpPoolOptions *options, CpAftermath *after)
{
	bool smaller = options->max_size < pool->options.max_size;

	pool->options = *options;
	if (!smaller)
		return;
	for (int i = pool->idle_tail, prev; i != CP_NONE; i = prev)
	{
		prev = cp_slots[i].prev;
		if (!cp_pool_is_oversized(pool))
			break;
		if (cp_slots[i].state == CP_SLOT_IDLE)
			cp_slot_close(i, after);
	}
}

CpGrant
cp_pool_checkout(CpCheckout *c)
{
	CpSharedPool *pool = &cp_pools[c->pool];
	CpAftermath after = {0};
	CpGrant result;

	cp_pool_lock(c->pool);
	if (!pool->in_use || pool->generation != c->pool_generation)
	{
		LWLockRelease(cp_shmem_pool_lock(c->pool));
		return CP_GRANT_POOL_GONE;
	}
	/* options that may be rolled back, and those of the overflow's callers, stay theirs */
	if (!c->wants_permit)
		set_options(pool, c->options, &after);
	pool->last_used = c->since;
	enqueue(c);
	cp_pool_dispatch(c->pool, &after, c);
	result = take_grant(c);
	if (result == CP_GRANT_QUEUED)
	{
		result = stay_in_queue(c);
		if (result != CP_GRANT_QUEUED)
			cp_pool_dispatch(c->pool, &after, NULL);
	}
	cp_pool_unlock(c->pool, &after);
	return result;
}

CpGrant
cp_pool_granted(CpCheckout *c)
{
	return take_grant(c);
}

/* A connection was granted and not used.  The broker may have ended meanwhile. */
static void
take_back(int p, int i, CpTime wait, CpAftermath *after)
{
	cp_stats_undo_checkout(&cp_pools[p].stats, wait);
	cp_slots[i].uses--;
	if (cp_slot_is_donated(&cp_slots[i]))
		cp_slot_set_state(i, CP_SLOT_IDLE);
	else
		cp_slot_free(i, after);
}

void
cp_pool_leave_queue(CpLeave why)
{
	int me = cp_shmem_my_proc();
	CpSharedWaiter *w = &cp_waiters[me];
	CpSharedPool *pool;
	CpAftermath after = {0};
	int p = w->pool;

	if (((volatile CpSharedWaiter *) w)->state == CP_WAITER_NONE)
		return;

	cp_pool_lock(p);
	pool = &cp_pools[p];
	if (w->state == CP_WAITER_QUEUED)
		queue_unlink(pool, me);
	else if (w->state == CP_WAITER_GRANTED_PERMIT)
		cp_slot_free(w->slot, &after);
	else
		take_back(p, w->slot, w->wait, &after);
	w->state = CP_WAITER_NONE;
	if (why == CP_LEAVE_TIMEOUT)
		cp_stats_timeout(&pool->stats, cp_now() - w->since);
	else
		cp_stats_cancel(&pool->stats, cp_now() - w->since);
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
}

/* ---- opening ------------------------------------------------------------ */

uint64
cp_pool_connected(CpCheckout *c, const CpConnected *info)
{
	CpSharedSlot *slot = &cp_slots[c->slot];
	CpSharedPool *pool = &cp_pools[c->pool];
	CpAftermath after = {0};
	CpTime now;

	cp_pool_lock(c->pool);
	Assert(slot->pool == c->pool && slot->generation == c->generation);
	cp_slot_set_state(c->slot, CP_SLOT_LEASED);
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
	cp_pool_dispatch(c->pool, &after, NULL);
	cp_pool_unlock(c->pool, &after);
	return c->generation;
}

void
cp_pool_count_failure(int slot, uint64 generation, CpFailure what, CpTime since)
{
	int p = cp_pool_lock_of(slot, generation);
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
	CpAftermath after = {0};
	int p = cp_pool_lock_of(slot, generation);

	if (p == CP_NONE)
		return;
	Assert(cp_slots[slot].state == CP_SLOT_CONNECTING);
	Assert(cp_slots[slot].holder_proc == cp_shmem_my_proc());
	cp_slot_free(slot, &after);
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
}

/* Out of service: the broker ends what it has, else there is nothing left. */
static void
retire_slot(int i, CpAftermath *after)
{
	if (cp_slot_is_donated(&cp_slots[i]))
		cp_slot_close(i, after);
	else
		cp_slot_free(i, after);
}

void
cp_pool_discard(CpCheckout *c)
{
	CpSharedPool *pool = &cp_pools[c->pool];
	CpAftermath after = {0};

	if (cp_pool_lock_of(c->slot, c->generation) == CP_NONE)
		return;
	cp_stats_undo_checkout(&pool->stats, c->wait);
	c->wait = 0;
	pool->stats.discarded++;
	retire_slot(c->slot, &after);
	cp_pool_dispatch(c->pool, &after, NULL);
	cp_pool_unlock(c->pool, &after);
}

void
cp_pool_give_up(CpCheckout *c)
{
	CpAftermath after = {0};
	int p = cp_pool_lock_of(c->slot, c->generation);

	if (p == CP_NONE)
		return;
	take_back(p, c->slot, c->wait, &after);
	cp_stats_timeout(&cp_pools[p].stats, cp_now() - c->since);
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
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
dispose(CpCheckin *c, CpSharedPool *pool, CpAftermath *after)
{
	CpSharedSlot *slot = &cp_slots[c->slot];

	slot->in_transaction = c->in_transaction;
	slot->changes = c->changes;
	slot->mid_protocol = c->mid_protocol;
	switch (c->disposition)
	{
		case CP_CHECKIN_CLEAN:
			/* the pool may have been made smaller meanwhile */
			if (cp_pool_is_oversized(pool))
				cp_slot_close(c->slot, after);
			else
			{
				cp_slot_set_state(c->slot, CP_SLOT_IDLE);
				slot->idle_since = slot->state_since;
			}
			break;
		case CP_CHECKIN_RESET:
			pool->stats.resets++;
			cp_slot_set_state(c->slot, CP_SLOT_RESETTING);
			cp_slot_push_task(c->slot, after);
			break;
		case CP_CHECKIN_CLOSE:
			cp_slot_close(c->slot, after);
			break;
		case CP_CHECKIN_ENDED:
			cp_slot_free(c->slot, after);
			break;
	}
}

bool
cp_pool_checkin(CpCheckin *c)
{
	CpSharedSlot *slot = &cp_slots[c->slot];
	CpSharedPool *pool;
	CpAftermath after = {0};
	int p = cp_pool_lock_of(c->slot, c->generation);

	if (p == CP_NONE)
	{
		/* the broker was late with its answer, but awaits the end after all */
		Assert(c->disposition == CP_CHECKIN_ENDED);
		return true;
	}
	Assert(slot->state == CP_SLOT_LEASED);
	Assert(slot->holder_proc == cp_shmem_my_proc());
	pool = &cp_pools[p];
	if (c->disposition != CP_CHECKIN_ENDED && !cp_slot_is_donated(slot))
	{
		LWLockRelease(cp_shmem_pool_lock(p));
		return false;
	}
	c->was_leak = slot->leak_reported;
	add_usage(&pool->stats, &c->usage);
	cp_stats_checkin(&pool->stats, cp_now() - slot->leased_at);
	dispose(c, pool, &after);
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
	return true;
}

bool
cp_pool_add_usage(int slot, uint64 generation, const CpUsage *usage)
{
	int p = cp_pool_lock_of(slot, generation);
	bool was_leak;

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
	int len = sql ? (int) strnlen(sql, CP_SQL_LEN) : 0;

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
	int p = cp_pool_lock_of(slot, generation);
	bool result;

	if (p == CP_NONE)
		return false;
	result = cp_slot_is_donated(&cp_slots[slot]);
	LWLockRelease(cp_shmem_pool_lock(p));
	return result;
}
