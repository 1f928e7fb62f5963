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
 *	pool_server.c	what the pools of one server share
 *	pool_broker.c	what the broker reports and asks
 *	pool_share.c	who gives way when there is not enough for all
 *	pool_upkeep.c	what goes without anybody asking, and what is opened ahead
 *	pool_admin.c	what people decree: pause, reconnect, reclaim ...
 *	pool_view.c		copies for people to read
 *	deadlock.c		waits that cannot end
 *
 * cp_pool_dispatch() alone decides who gets what; cp_pool_leave_queue() is the
 * one way out of the queue for somebody who got nothing.
 */
#include "postgres.h"

#include "pool.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "events.h"
#include "pool_internal.h"
#include "secret.h"

/* how far into the idle list we look for a connection adopted before */
#define ADOPTED_SEARCH_DEPTH 64
/* a remote silent for so long (microseconds) has failed, whoever gave up on it */
#define SILENCE (5 * USECS_PER_SEC)
/* callers with so much time may try the remote before those in a hurry do */
#define PRECEDENCE (1 * USECS_PER_SEC)
/* for how long a ceiling stays lowered, at least (microseconds) */
#define MIN_CEILING_TIME (1 * USECS_PER_SEC)
/* by so many doublings its backoff begins later than that of a breaker */
#define CEILING_BACKOFF_STEPS 3
/* one in so many slots is not for connections beyond max_size */
#define RESERVED_SHARE 4

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
	pool->exceeding += w->may_exceed;
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
	pool->exceeding -= w->may_exceed;
}

#ifdef USE_ASSERT_CHECKING

/* Slots of the pool that go through a tunnel: a slot comes and goes under its lock. */
static int
count_tunnelled(int p)
{
	int n = 0;

	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		if (cp_slots[i].pool != p || cp_slots[i].tunnel == 0)
			continue;
		Assert(cp_slots[i].encrypted);
		Assert(cp_slots[i].tunnel > 0 && cp_slots[i].tunnel <= CP_TUNNELS);
		n++;
	}
	return n;
}

#endif

/* The invariants of a pool; its lock is held. */
static void
check_pool(int p)
{
#ifdef USE_ASSERT_CHECKING
	CpSharedPool *pool = &cp_pools[p];
	int listed = 0;
	int queued = 0;
	int exceeding = 0;
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
		exceeding += cp_waiters[i].may_exceed;
	}
	Assert(prev == pool->queue_tail);
	Assert(queued == pool->waiting);
	Assert(exceeding == pool->exceeding);
	for (int s = 0; s < CP_SLOT_STATES; s++)
		Assert(pool->beyond[s] >= 0 && pool->counts[s] >= pool->beyond[s]);
	Assert(pool->counts[CP_SLOT_FREE] == 0);
	Assert(pool->tunnelled == count_tunnelled(p));
#endif
}

/* Releases a pool's lock, and only then does what has to follow. */
void
cp_pool_unlock(int p, CpAftermath *after)
{
	bool drained = cp_pools[p].paused && !cp_pool_is_busy(&cp_pools[p]);

	check_pool(p);
	LWLockRelease(cp_shmem_pool_lock(p));
	if (drained)
		ConditionVariableBroadcast(&cp_shared->drained);

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
set_holder(CpSharedSlot *slot, int procno, const CpSharedWaiter *w, CpTime now)
{
	slot->holder_proc = procno;
	slot->holder_pid = w->pid;
	slot->lease = w->lease;
	slot->scope = w->scope;
	slot->lease_role = w->role;
	slot->leased_at = now;
	slot->leak = CP_LEAK_NONE;
	slot->leak_acted = slot->ending = false;
	slot->in_transaction = false;
	slot->changes = 0;
	slot->mid_protocol = false;
	SpinLockAcquire(&slot->mutex);
	slot->sql[0] = slot->stack[0] = '\0';
	slot->query_id = 0;
	slot->session_role = InvalidOid;
	slot->is_explicit = slot->spared = false;
	SpinLockRelease(&slot->mutex);
}

/* A waiter gets a slot; it reads what without the lock. */
static void
grant(int p, int procno, int i, CpWaiterState what, CpTime now)
{
	CpSharedWaiter *w = &cp_waiters[procno];

	queue_unlink(&cp_pools[p], procno);
	set_holder(&cp_slots[i], procno, w, now);
	w->slot = i;
	w->generation = cp_slots[i].generation;
	pg_write_barrier();
	w->state = what;
}

/* IDLE -> LEASED, for one who has waited since w->since; returns the time. */
static CpTime
lease_out(int p, int i, CpSharedWaiter *w)
{
	CpSharedPool *pool = &cp_pools[p];
	CpTime now;

	cp_slot_set_state(i, CP_SLOT_LEASED);
	now = cp_slots[i].state_since;
	cp_slots[i].uses++;
	w->suspect = cp_slots[i].checked_at < pool->suspect_before;
	w->wait = now - w->since;
	cp_slots[i].wait = w->wait;
	cp_slots[i].wait_tracked = cp_stats_checkout(&pool->stats, w->wait);
	return now;
}

static void
grant_lease(int p, int i)
{
	int procno = cp_pools[p].queue_head;
	CpTime now = lease_out(p, i, &cp_waiters[procno]);

	grant(p, procno, i, CP_WAITER_GRANTED_LEASE, now);
}

static void
grant_permit(int p, int procno, int i)
{
	CpSharedWaiter *w = &cp_waiters[procno];

	cp_slots[i].fingerprint = w->fingerprint;
	cp_slots[i].own_options = w->wants_permit;
	cp_pool_begin_connect(p, i);
	grant(p, procno, i, CP_WAITER_GRANTED_PERMIT, cp_slots[i].state_since);
}

/* The breaker learns who is its prober, or that there is one more attempt. */
void
cp_pool_begin_connect(int p, int i)
{
	CpSharedPool *pool = &cp_pools[p];

	Assert(cp_slots[i].beyond || cp_pool_counted(pool) < pool->options.max_size);
	cp_slot_set_state(i, CP_SLOT_CONNECTING);
	cp_slots[i].begun_at = cp_slots[i].state_since;
	if (!cp_slots[i].own_options &&
		cp_breaker_begins(&pool->breaker, cp_slots[i].state_since))
		pool->prober = i;
}

/* Is there room to open one more, by the pool's own limits? */
static bool
has_room(const CpSharedPool *pool, CpTime now)
{
	return cp_pool_counted(pool) < cp_pool_ceiling(pool, now) &&
		pool->counts[CP_SLOT_CONNECTING] < pool->options.connect_concurrency;
}

bool
cp_pool_may_open(const CpSharedPool *pool, CpTime now)
{
	return has_room(pool, now) && cp_breaker_allows(&pool->breaker, now);
}

/* How long a remote may take to answer before that tells something about it. */
static CpTime
patience(const CpSharedPool *pool)
{
	CpTime limit = (CpTime) pool->options.connect_timeout * 1000;

	return limit > 0 ? Min(limit, SILENCE) : SILENCE;
}

/*
 * Does the breaker let a waiter connect?  It knows nothing of the remote
 * of one who comes with options of his own.  One who has no time to wait for the
 * outcome becomes its prober only if nobody better comes for a while.
 */
static bool
breaker_lets(const CpSharedPool *pool, const CpSharedWaiter *w, CpTime now)
{
	if (w->wants_permit || pool->breaker.state == CP_BREAKER_CLOSED)
		return true;
	return cp_breaker_allows(&pool->breaker, now) &&
		(w->deadline - now >= patience(pool) ||
		 now - pool->breaker.next_attempt >= PRECEDENCE);
}

static bool
breaker_lets_first(const CpSharedPool *pool, CpTime now)
{
	return breaker_lets(pool, &cp_waiters[pool->queue_head], now);
}

/*
 * Is there a connection with this fingerprint in other hands than those of
 * process `procno`, so that it is worth waiting for?
 */
static bool
lives_elsewhere(int p, const CpFingerprint *fingerprint, int procno)
{
	if (cp_pool_live(&cp_pools[p]) == 0)
		return false;
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		CpSharedSlot *slot = &cp_slots[i];

		if (slot->pool == p && slot->state != CP_SLOT_FREE &&
			slot->state != CP_SLOT_CONNECTING && slot->state != CP_SLOT_CLOSING &&
			!slot->unshared && slot->holder_proc != procno &&
			same_fingerprint(&slot->fingerprint, fingerprint))
			return true;
	}
	return false;
}

/*
 * Must the first waiter be turned away?  Nothing may be opened for it, for the
 * remote does not answer, and no connection will come free for it.
 */
static bool
is_to_refuse(int p, CpTime now)
{
	CpSharedPool *pool = &cp_pools[p];
	CpSharedWaiter *w = &cp_waiters[pool->queue_head];

	return !breaker_lets_first(pool, now) &&
		!lives_elsewhere(p, &w->fingerprint, pool->queue_head);
}

static void
refuse(int p, CpTime now)
{
	CpSharedPool *pool = &cp_pools[p];
	int procno = pool->queue_head;
	CpSharedWaiter *w = &cp_waiters[procno];

	cp_stats_failure(&pool->stats, now - w->since, true);
	queue_unlink(pool, procno);
	w->slot = CP_NONE;
	pg_write_barrier();
	w->state = CP_WAITER_REFUSED;
}

/*
 * The pool is full, and what is idle is of no use to the first waiter: closes
 * the longest idle one, whose place it will get.  Not more than one for each
 * waiter.
 */
static void
make_room(int p, CpTime now, CpAftermath *after)
{
	CpSharedPool *pool = &cp_pools[p];

	if (cp_pool_counted(pool) < cp_pool_ceiling(pool, now) ||
		pool->counts[CP_SLOT_CLOSING] >= pool->waiting || !breaker_lets_first(pool, now))
		return;
	for (int i = pool->idle_tail; i != CP_NONE; i = cp_slots[i].prev)
	{
		if (cp_slots[i].state != CP_SLOT_IDLE)
			continue;
		cp_slot_close(i, CP_CLOSE_GIVEN, after);
		return;
	}
}

/*
 * Is max_size all that keeps this waiter from opening a connection?  Not if the
 * remote has no room for more.
 */
static bool
exceeds(const CpSharedPool *pool, const CpSharedWaiter *w, CpTime now)
{
	return w->may_exceed && !pool->paused &&
		cp_pool_counted(pool) >= pool->options.max_size &&
		cp_pool_ceiling(pool, now) == pool->options.max_size &&
		pool->counts[CP_SLOT_CONNECTING] < pool->options.connect_concurrency &&
		breaker_lets(pool, w, now);
}

/*
 * What goes beyond max_size must leave slots for other pools, or any role could take
 * them all.
 */
static bool
has_spare_slots(void)
{
	bool result;

	SpinLockAcquire(&cp_shared->free_mutex);
	result = cp_shared->free_count > cp_shared->max_slots / RESERVED_SHARE;
	SpinLockRelease(&cp_shared->free_mutex);
	return result;
}

/*
 * Permits beyond max_size, for whom in the queue they will do: they take nothing
 * from those before them.  False if no slot, or place of the server, was free.
 */
static bool
dispatch_beyond(int p, CpAftermath *after, CpTime now)
{
	CpSharedPool *pool = &cp_pools[p];
	int next;

	for (int procno = pool->queue_head; procno != CP_NONE && pool->exceeding > 0; procno = next)
	{
		bool is_own = procno == cp_shmem_my_proc();
		int i;

		next = cp_waiters[procno].next;
		if (!exceeds(pool, &cp_waiters[procno], now))
			continue;
		if (!has_spare_slots())
			break;
		if (!is_own && after->nwakes == CP_MAX_WAKES)
		{
			after->dispatch_again = true;
			break;
		}
		i = cp_slot_allocate(p);
		if (i == CP_NONE)
			return false;
		cp_slots[i].beyond = true;
		grant_permit(p, procno, i);
		if (!is_own)
			after->wakes[after->nwakes++] = procno;
	}
	return true;
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
	CpTime now = pool->queue_head != CP_NONE ? cp_now() : 0;

	while (pool->queue_head != CP_NONE && !pool->paused)
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
		else if (is_to_refuse(p, now))
			refuse(p, now);
		else
		{
			if (!has_room(pool, now) || !breaker_lets_first(pool, now))
			{
				make_room(p, now, after);
				break;
			}
			i = cp_slot_allocate(p);
			if (i == CP_NONE)
			{
				starved = true;
				break;
			}
			grant_permit(p, procno, i);
		}
		if (!is_own)
			after->wakes[after->nwakes++] = procno;
	}
	if (pool->exceeding > 0 && !starved)
		starved = !dispatch_beyond(p, after, now);
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
	w->deadline = c->deadline;
	w->wait = 0;
	w->suspect = false;
	w->wants_permit = c->wants_permit;
	w->may_exceed = c->may_exceed && c->scope == CP_SCOPE_SESSION;
	w->serves = c->serves;
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
	c->suspect = w->suspect;
	c->beyond = state == CP_WAITER_GRANTED_PERMIT && cp_slots[w->slot].beyond;
	w->state = CP_WAITER_NONE;
	if (state == CP_WAITER_REFUSED)
		return CP_GRANT_REFUSED;
	return state == CP_WAITER_GRANTED_LEASE ? CP_GRANT_LEASE : CP_GRANT_PERMIT;
}

/* Are all connections that count in this process's hands? */
static bool
holds_all_counted(int p)
{
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		if (cp_slots[i].pool == p && !cp_slots[i].beyond &&
			cp_slots[i].holder_proc != cp_shmem_my_proc())
			return false;
	}
	return true;
}

/*
 * Waiting would never end: every connection is held by the caller itself.
 * Those that are being opened by others, cleaned or closed come free by
 * themselves, so all must be its own.
 */
static bool
waits_for_itself(const CpCheckout *c)
{
	const CpSharedPool *pool = &cp_pools[c->pool];
	int counted = cp_pool_counted(pool);

	return c->held > 0 && c->held >= counted && counted >= pool->options.max_size &&
		holds_all_counted(c->pool);
}

/* What nothing else can help: a permit beyond max_size; true if it is granted. */
static bool
get_beyond(const CpCheckout *c, CpAftermath *after)
{
	CpSharedPool *pool = &cp_pools[c->pool];
	CpSharedWaiter *w = &cp_waiters[cp_shmem_my_proc()];

	if (!c->may_exceed || w->may_exceed)
		return false;
	w->may_exceed = true;
	pool->exceeding++;
	(void) dispatch_beyond(c->pool, after, cp_now());
	return w->state != CP_WAITER_QUEUED;
}

/* Not served at once: may the caller stay in the queue? */
static CpGrant
stay_in_queue(CpCheckout *c, CpAftermath *after)
{
	CpSharedPool *pool = &cp_pools[c->pool];
	CpGrant result = CP_GRANT_QUEUED;

	if (c->patience != CP_PATIENCE_QUEUE)
		result = CP_GRANT_NONE;
	else if (waits_for_itself(c))
	{
		if (get_beyond(c, after))
			return take_grant(c);
		/* others' connects will be over, and then it is this one's turn */
		if (!c->may_exceed ||
			pool->counts[CP_SLOT_CONNECTING] < pool->options.connect_concurrency)
			result = CP_GRANT_SELF_DEADLOCK;
	}
	else if (!c->again && pool->options.max_waiters >= 0 &&
			 pool->waiting > pool->options.max_waiters)
	{
		cp_stats_timeout(&pool->stats, cp_now() - c->since);
		result = CP_GRANT_QUEUE_FULL;
	}
	else if (!c->again)
	{
		pool->stats.counters.waited++;
		cp_stats_waiting(&pool->stats, pool->waiting);
	}

	if (result != CP_GRANT_QUEUED)
	{
		queue_unlink(pool, cp_shmem_my_proc());
		cp_waiters[cp_shmem_my_proc()].state = CP_WAITER_NONE;
	}
	return result;
}

/*
 * An idle connection, if there is one and nobody has to wait for one; without this
 * backend's place in the queue, which may be of another pool now.
 */
static CpGrant
take_idle(CpCheckout *c)
{
	CpSharedPool *pool = &cp_pools[c->pool];
	CpSharedWaiter me = {
		.pid = MyProcPid,
		.since = c->since,
		.lease = c->lease,
		.scope = c->scope,
		.role = c->role,
	};
	CpTime now;
	int i;

	if (c->wants_permit || pool->paused || pool->queue_head != CP_NONE)
		return CP_GRANT_NONE;
	i = find_idle(c->pool, &c->fingerprint, c);
	if (i == CP_NONE)
		return CP_GRANT_NONE;
	now = lease_out(c->pool, i, &me);
	set_holder(&cp_slots[i], cp_shmem_my_proc(), &me, now);
	c->slot = i;
	c->generation = cp_slots[i].generation;
	c->wait = me.wait;
	c->suspect = me.suspect;
	return CP_GRANT_LEASE;
}

/* Closes what is idle above max_size. */
static void
shrink(CpSharedPool *pool, CpAftermath *after)
{
	for (int i = pool->idle_tail, prev; i != CP_NONE; i = prev)
	{
		prev = cp_slots[i].prev;
		if (!cp_pool_is_oversized(pool))
			break;
		if (cp_slots[i].state == CP_SLOT_IDLE)
			cp_slot_close(i, CP_CLOSE_OVERSIZED, after);
	}
}

/*
 * Tells which options have become different; but not those that each session may
 * set for itself.
 */
static void
tell_changes(const CpSharedPool *pool, CpPoolOptions old, CpPoolOptions new)
{
	char detail[CP_EVENT_DETAIL_LEN] = "";

	for (const CpOption *option = cp_options; option->name; option++)
	{
		if (option->context == PGC_USERSET ||
			*cp_option_field(option, &old) == *cp_option_field(option, &new))
			continue;
		if (detail[0] != '\0')
			strlcat(detail, ", ", sizeof(detail));
		strlcat(detail, option->name, sizeof(detail));
	}
	if (detail[0] != '\0')
		cp_event_add(CP_EVENT_SETTINGS_CHANGED, pool, CP_NONE, detail);
}

void
cp_pool_set_options(int p, const CpPoolOptions *options, CpAftermath *after)
{
	CpSharedPool *pool = &cp_pools[p];
	CpPoolOptions old = pool->options;

	if (memcmp(&old, options, sizeof(old)) == 0)
		return;
	pool->options = *options;
	tell_changes(pool, old, *options);
	if (options->max_size < old.max_size)
		shrink(pool, after);
	if (options->max_server_size != old.max_server_size)
	{
		cp_server_set_limit(pool->server, options->max_server_size);
		/* there may be more idle ones than that, in any pool */
		pg_atomic_write_u32(&cp_shared->upkeep_wanted, 1);
		after->wake_broker = true;
	}
	if (options->min_size > old.min_size)
	{
		cp_pool_look_after(pool);
		after->wake_broker = true;
	}
}

void
cp_pool_answered(CpSharedPool *pool, CpTime now)
{
	if (pool->breaker.state != CP_BREAKER_CLOSED)
	{
		pool->stats.counters.total_breaker_time = cp_pool_breaker_time(pool, now);
		cp_event_add(CP_EVENT_BREAKER_CLOSED, pool, CP_NONE, NULL);
	}
	cp_breaker_answered(&pool->breaker, now);
}

CpTime
cp_pool_breaker_time(const CpSharedPool *pool, CpTime now)
{
	CpTime total = pool->stats.counters.total_breaker_time;

	if (pool->breaker.state == CP_BREAKER_CLOSED)
		return total;
	return total + Max(now - Max(pool->breaker.since, pool->stats.counters.reset_at), 0);
}

/* With other options it is another remote: what the breaker knows is of no use. */
void
cp_pool_forget_failures(CpSharedPool *pool, const CpFingerprint *fingerprint)
{
	if (pool->breaker.state != CP_BREAKER_CLOSED &&
		memcmp(&pool->failed, fingerprint, sizeof(*fingerprint)) != 0)
		cp_pool_answered(pool, cp_now());
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
	/*
	 * Whoever checks out brings the options in force; but those that may be
	 * rolled back, and of the overflow's callers, stay theirs.
	 */
	if (!c->wants_permit)
	{
		cp_pool_set_options(c->pool, c->options, &after);
		cp_pool_forget_failures(pool, &c->fingerprint);
	}
	pool->last_used = c->since;
	if (c->patience == CP_PATIENCE_NONE)
	{
		result = take_idle(c);
		cp_pool_unlock(c->pool, &after);
		return result;
	}
	enqueue(c);
	cp_pool_dispatch(c->pool, &after, c);
	result = take_grant(c);
	if (result == CP_GRANT_QUEUED)
	{
		result = stay_in_queue(c, &after);
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

void
cp_pool_serves(bool serves)
{
	CpSharedWaiter *w = &cp_waiters[cp_shmem_my_proc()];
	int p = w->pool;

	if (((volatile CpSharedWaiter *) w)->state == CP_WAITER_NONE || w->serves == serves)
		return;
	cp_pool_lock(p);
	w->serves = serves;
	LWLockRelease(cp_shmem_pool_lock(p));
}

uint64
cp_pool_awaited(void)
{
	const volatile CpSharedWaiter *w = &cp_waiters[cp_shmem_my_proc()];

	return w->state == CP_WAITER_NONE ? 0 : w->lease;
}

bool
cp_pool_was_served(void)
{
	CpWaiterState state = ((volatile CpSharedWaiter *) &cp_waiters[cp_shmem_my_proc()])->state;

	return state != CP_WAITER_NONE && state != CP_WAITER_QUEUED;
}

static void
undo_checkout(CpSharedPool *pool, const CpSharedSlot *slot, CpTime wait)
{
	cp_stats_undo_checkout(&pool->stats, wait, slot->leased_at, slot->wait_tracked);
}

/* A connection was granted and not used.  The broker may have ended meanwhile. */
static void
take_back(int p, int i, CpTime wait, CpAftermath *after)
{
	undo_checkout(&cp_pools[p], &cp_slots[i], wait);
	cp_slots[i].uses--;
	cp_slots[i].leaving = CP_CLOSE_BROKER_LOST;
	if (cp_slot_is_donated(&cp_slots[i]))
		cp_slot_set_state(i, CP_SLOT_IDLE);
	else
		cp_slot_free(i, after);
}

/* Is what a waiter was granted still its own?  Somebody may have reclaimed it. */
static bool
has_grant(int p, int procno)
{
	CpSharedWaiter *w = &cp_waiters[procno];
	CpSharedSlot *slot = &cp_slots[w->slot];

	return slot->pool == p && slot->generation == w->generation &&
		slot->holder_proc == procno &&
		slot->state == (w->state == CP_WAITER_GRANTED_LEASE ? CP_SLOT_LEASED : CP_SLOT_CONNECTING);
}

void
cp_pool_leave_queue(CpLeave why)
{
	int me = cp_shmem_my_proc();
	CpSharedWaiter *w = &cp_waiters[me];
	CpSharedPool *pool;
	CpAftermath after = {0};
	int p = w->pool;
	bool counted = false;

	if (((volatile CpSharedWaiter *) w)->state == CP_WAITER_NONE)
		return;

	cp_pool_lock(p);
	pool = &cp_pools[p];
	if (w->state == CP_WAITER_QUEUED)
		queue_unlink(pool, me);
	else if (w->state == CP_WAITER_REFUSED || !has_grant(p, me))
		counted = true;
	else if (w->state == CP_WAITER_GRANTED_PERMIT)
		cp_slot_free(w->slot, &after);
	else
		take_back(p, w->slot, w->wait, &after);
	w->state = CP_WAITER_NONE;
	if (counted)
		;
	else if (why == CP_LEAVE_TIMEOUT)
		cp_stats_timeout(&pool->stats, cp_now() - w->since);
	else
		cp_stats_cancel(&pool->stats, cp_now() - w->since);
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
}

/* ---- opening ------------------------------------------------------------ */

static void
set_tls_text(char *to, const char *text)
{
	strlcpy(to, text != NULL ? text : "", CP_SLOT_TLS_LEN);
}

/* What is known of a connection once it is open. */
void
cp_pool_set_connection(int i, const CpConnected *info, CpTime now)
{
	CpSharedSlot *slot = &cp_slots[i];
	CpSharedPool *pool = &cp_pools[slot->pool];

	slot->remote_pid = info->remote_pid;
	strlcpy(slot->remote_address, info->remote_address, CP_ADDRESS_LEN);
	slot->encrypted = info->encrypted;
	slot->unshared = info->unshared;
	slot->tunnel = info->tunnel;
	set_tls_text(slot->tls_version, info->tls_version);
	set_tls_text(slot->tls_cipher, info->tls_cipher);
	if (info->unshared)
		pool->unshared++;
	if (info->tunnel > 0)
		pool->tunnelled++;
	slot->opened_at = slot->checked_at = now;
	cp_stats_connect(&pool->stats, info->connect_time);
	if (slot->own_options)
		return;
	cp_pool_answered(pool, now);
	if (now >= pool->ceiling_until)
		pool->ceiling_failures = 0;
}

uint64
cp_pool_connected(CpCheckout *c, const CpConnected *info)
{
	CpSharedSlot *slot = &cp_slots[c->slot];
	CpSharedPool *pool = &cp_pools[c->pool];
	CpAftermath after = {0};
	CpTime now = cp_now();

	cp_pool_lock(c->pool);
	Assert(slot->pool == c->pool && slot->generation == c->generation);
	cp_pool_set_connection(c->slot, info, now);
	cp_slot_set_state(c->slot, CP_SLOT_LEASED);
	slot->leased_at = now;
	slot->uses = 1;
	pool->stats.counters.overflowed += slot->beyond;
	c->wait = slot->wait = now - c->since;
	slot->wait_tracked = cp_stats_checkout(&pool->stats, c->wait);
	c->generation = slot->generation;
	cp_pool_dispatch(c->pool, &after, NULL);
	cp_pool_unlock(c->pool, &after);
	return c->generation;
}

void
cp_problem_note(CpProblem *problem, int sqlstate, const char *message, CpTime now)
{
	bool cut;
	int len;

	message = message ? cp_secret_mask(message) : "";
	len = (int) strlen(message);

	cut = len >= CP_MESSAGE_LEN;
	if (cut)
		len = pg_mbcliplen(message, len, CP_MESSAGE_LEN - 1);
	/* the dialer, without a database, knows no encoding but cuts no character */
	while (cut && GetDatabaseEncoding() == PG_SQL_ASCII && len > 0 &&
		   (message[len] & 0xC0) == 0x80)
		len--;
	problem->at = now;
	problem->sqlstate = sqlstate;
	memcpy(problem->message, message, len);
	problem->message[len] = '\0';
}

/* The remote does not take more than live now: not asked again for a while. */
static void
lower_ceiling(CpSharedPool *pool, CpTime now)
{
	int live = Max(cp_pool_counted(pool) - cp_pool_counted_in(pool, CP_SLOT_CONNECTING) -
					   cp_pool_counted_in(pool, CP_SLOT_CLOSING),
				   1);
	int steps = ++pool->ceiling_failures + CEILING_BACKOFF_STEPS;

	pool->ceiling = now < pool->ceiling_until ? Min(pool->ceiling, live) : live;
	pool->ceiling_until = now + Max(cp_breaker_backoff(steps), MIN_CEILING_TIME);
}

static void
trip_breaker(CpSharedPool *pool, const CpSharedSlot *slot, CpTime now)
{
	bool was_closed = pool->breaker.state == CP_BREAKER_CLOSED;

	if (!cp_breaker_failed(&pool->breaker, slot->state_since, now))
		return;
	if (was_closed)
	{
		pool->stats.counters.breaker_opened++;
		cp_event_add(CP_EVENT_BREAKER_OPENED, pool, CP_NONE, NULL);
	}
	pool->failed = slot->fingerprint;
	/* the dialer tries as soon as the breaker lets it */
	cp_pool_look_after(pool);
}

/*
 * Somebody lost patience with the remote before it had answered, or was made to.
 * That tells something only if it lasted.
 */
static void
learn_from_silence(CpSharedPool *pool, const CpSharedSlot *slot, CpTime now)
{
	if (now - slot->state_since < patience(pool))
		return;
	cp_problem_note(&pool->problem, 0, "the remote server did not answer in time", now);
	trip_breaker(pool, slot, now);
}

/* What the pool learns from a connect that failed. */
static void
learn_from_failure(CpSharedPool *pool, const CpSharedSlot *slot, CpFailure what,
				   bool others_live, CpTime now)
{
	switch (what)
	{
		case CP_FAILURE_UNREACHABLE:
			trip_breaker(pool, slot, now);
			break;
		case CP_FAILURE_ROOM:
			cp_pool_answered(pool, now);
			lower_ceiling(pool, now);
			break;
		case CP_FAILURE_LOGIN:
			cp_pool_answered(pool, now);
			if (others_live)
				lower_ceiling(pool, now);
			break;
		case CP_FAILURE_REFUSED:
			cp_pool_answered(pool, now);
			break;
		case CP_FAILURE_TIMEOUT:
		case CP_FAILURE_CANCEL:
			learn_from_silence(pool, slot, now);
			break;
		case CP_FAILURE_LOCAL:
		case CP_FAILURE_OUTDATED:
			break;
	}
}

/* What becomes of the caller; the dialer is none. */
static void
count_failure(CpStats *stats, CpFailure what, CpTime wait)
{
	if (what == CP_FAILURE_TIMEOUT)
		cp_stats_timeout(stats, wait);
	else if (what == CP_FAILURE_CANCEL)
		cp_stats_cancel(stats, wait);
	else
		cp_stats_failure(stats, wait, false);
}

bool
cp_pool_connect_failed(int slot, uint64 generation, CpFailure what, int sqlstate,
					   const char *message, CpTime since)
{
	CpSharedSlot *s = &cp_slots[slot];
	int p = cp_pool_lock_of(slot, generation);
	bool is_remotes = (what == CP_FAILURE_UNREACHABLE || what == CP_FAILURE_ROOM ||
					   what == CP_FAILURE_LOGIN) &&
		!s->own_options;
	CpTime now = cp_now();
	CpAftermath after = {0};
	CpSharedPool *pool;
	bool others_live;
	bool may_wait;

	if (p == CP_NONE)
		return false;
	Assert(s->state == CP_SLOT_CONNECTING);
	pool = &cp_pools[p];
	others_live = is_remotes &&
		lives_elsewhere(p, &s->fingerprint, cp_shmem_my_proc());
	may_wait = others_live || what == CP_FAILURE_OUTDATED;
	if (what != CP_FAILURE_CANCEL)
		pool->stats.counters.connect_failures++;
	if (is_remotes)
		cp_problem_note(&pool->problem, sqlstate, message, now);
	if (!s->own_options)
		learn_from_failure(pool, s, what, others_live, now);
	if (!may_wait && !s->ahead)
		count_failure(&pool->stats, what, now - since);
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
	return may_wait;
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
retire_slot(int i, CpCloseReason reason, CpAftermath *after)
{
	if (cp_slot_is_donated(&cp_slots[i]))
		cp_slot_close(i, reason, after);
	else
	{
		cp_slots[i].leaving = reason;
		cp_slot_free(i, after);
	}
}

void
cp_pool_discard(CpCheckout *c, bool is_dead)
{
	CpSharedPool *pool = &cp_pools[c->pool];
	CpAftermath after = {0};

	if (cp_pool_lock_of(c->slot, c->generation) == CP_NONE)
		return;
	undo_checkout(pool, &cp_slots[c->slot], c->wait);
	c->wait = 0;
	pool->stats.counters.discarded++;
	if (is_dead)
		cp_pool_suspect(pool, cp_now(), &after);
	retire_slot(c->slot, CP_CLOSE_DEAD, &after);
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
add_usage(CpStats *stats, CpSharedSlot *slot, const CpUsage *usage)
{
	stats->counters.queries += usage->queries;
	stats->counters.query_errors += usage->query_errors;
	stats->counters.rows += usage->rows;
	stats->counters.discarded += usage->discarded;
	stats->counters.auto_returned += usage->auto_returned;
	Assert(usage->timed <= 1);
	if (usage->timed > 0)
		cp_stats_remote(stats, usage->remote_time);
	if (usage->extra_wait > 0 && slot->wait_tracked)
	{
		cp_stats_extra_wait(stats, slot->wait, usage->extra_wait, slot->leased_at);
		slot->wait += usage->extra_wait;
	}
}

/*
 * Is the connection to be closed though nothing is wrong with it?  The pool or
 * its server may have been made smaller, another pool may need the place more, or
 * it is to be replaced.
 */
CpCloseReason
cp_slot_must_go(CpSharedPool *pool, const CpSharedSlot *slot, CpTime now)
{
	if (pool->must_give > 0)
	{
		pool->must_give--;
		return CP_CLOSE_GIVEN;
	}
	if (cp_pool_is_oversized(pool) || cp_server_is_oversized(pool->server))
		return CP_CLOSE_OVERSIZED;
	if (cp_slot_is_outdated(pool, slot))
		return pool->dropped ? CP_CLOSE_DROPPED : CP_CLOSE_OUTDATED;
	return cp_slot_expires(pool, slot, now) ? CP_CLOSE_LIFETIME : CP_CLOSE_UNKNOWN;
}

void
cp_slot_copy_leak(int i, CpLeakRecord *leak)
{
	CpSharedSlot *slot = &cp_slots[i];
	const CpSharedPool *pool = &cp_pools[slot->pool];

	memset(leak, 0, sizeof(*leak));
	leak->class = slot->leak;
	strlcpy(leak->pool, pool->name, CP_POOL_NAME_LEN);
	leak->key = pool->key;
	leak->lease = slot->lease;
	leak->slot = i;
	leak->pid = slot->holder_pid;
	leak->role = slot->lease_role;
	leak->since = cp_wall_clock(slot->leased_at);
	SpinLockAcquire(&slot->mutex);
	memcpy(leak->sql, slot->sql, CP_SQL_LEN);
	leak->query_id = slot->query_id;
	leak->session_role = slot->session_role;
	memcpy(leak->stack, slot->stack, CP_STACK_LEN);
	SpinLockRelease(&slot->mutex);
}

/* True, and told, if the lease had been reported as a leak; it is too late for that now. */
static bool
note_leak(int i, CpLeakRecord *leak)
{
	if (leak != NULL)
		cp_slots[i].ending = true;
	if (cp_slots[i].leak == CP_LEAK_NONE)
		return false;
	if (leak != NULL)
		cp_slot_copy_leak(i, leak);
	return true;
}

/* What the pool learns from how a lease ended. */
static void
learn_from_usage(CpSharedPool *pool, CpSharedSlot *slot, const CpCheckin *c, CpTime now,
				 CpAftermath *after)
{
	if (c->broken)
		cp_pool_suspect(pool, now, after);
	else if (c->usage.queries > 0)
		slot->checked_at = now;
}

/* LEASED -> what its holder left it in. */
static void
dispose(CpCheckin *c, CpSharedPool *pool, CpTime now, CpAftermath *after)
{
	CpSharedSlot *slot = &cp_slots[c->slot];
	bool may_stay = c->disposition == CP_CHECKIN_CLEAN ||
		(c->disposition == CP_CHECKIN_RESET && !c->in_transaction);
	CpDisposition disposition = c->disposition;
	CpCloseReason reason = may_stay ? cp_slot_must_go(pool, slot, now) : CP_CLOSE_UNKNOWN;

	if (reason != CP_CLOSE_UNKNOWN)
		disposition = CP_CHECKIN_CLOSE;
	else
		reason = c->unfit ? CP_CLOSE_UNFIT : CP_CLOSE_LOST;
	slot->in_transaction = c->in_transaction;
	slot->changes = c->changes;
	slot->mid_protocol = c->mid_protocol;
	switch (disposition)
	{
		case CP_CHECKIN_CLEAN:
			cp_slot_set_state(c->slot, CP_SLOT_IDLE);
			slot->idle_since = slot->state_since;
			break;
		case CP_CHECKIN_RESET:
			pool->stats.counters.resets++;
			cp_slot_set_state(c->slot, CP_SLOT_RESETTING);
			cp_slot_push_task(c->slot, after);
			break;
		case CP_CHECKIN_CLOSE:
			cp_slot_close(c->slot, reason, after);
			break;
		case CP_CHECKIN_ENDED:
			slot->leaving = reason;
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
	CpTime now;

	if (p == CP_NONE)
	{
		/*
		 * Reclaimed; or, if its holder has ended it, the broker was late with
		 * its answer, but awaits the end after all.
		 */
		c->reclaimed = c->disposition != CP_CHECKIN_ENDED;
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
	c->was_leak = note_leak(c->slot, c->leak);
	now = cp_now();
	add_usage(&pool->stats, slot, &c->usage);
	learn_from_usage(pool, slot, c, now, &after);
	cp_stats_checkin(&pool->stats, now - slot->leased_at);
	dispose(c, pool, now, &after);
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
	return true;
}

bool
cp_pool_add_usage(int slot, uint64 generation, const CpUsage *usage, CpLeakRecord *leak)
{
	int p = cp_pool_lock_of(slot, generation);
	bool was_leak;

	if (p == CP_NONE)
		return false;
	add_usage(&cp_pools[p].stats, &cp_slots[slot], usage);
	was_leak = note_leak(slot, leak);
	LWLockRelease(cp_shmem_pool_lock(p));
	return was_leak;
}

/*
 * The exchange fails only if somebody takes the lease away, or thinks of it
 * (pool_admin.c).  He does it under the pool's lock: with that, it is clear.
 */
bool
cp_pool_statement_begins(int slot, uint64 generation)
{
	uint64 expected = cp_running_word(generation, 0);
	int p;

	if (pg_atomic_compare_exchange_u64(&cp_slots[slot].running, &expected,
									   cp_running_word(generation, (uint64) cp_now())))
		return true;
	p = cp_pool_lock_of(slot, generation);
	if (p == CP_NONE)
		return false;
	pg_atomic_write_u64(&cp_slots[slot].running,
						cp_running_word(generation, (uint64) cp_now()));
	LWLockRelease(cp_shmem_pool_lock(p));
	return true;
}

CpTime
cp_pool_statement_ends(int slot, uint64 generation)
{
	CpSharedSlot *s = &cp_slots[slot];
	uint64 word = pg_atomic_read_u64(&s->running);
	uint64 since = word & CP_RUNNING_MASK;
	CpTime now = cp_now();

	if (since == 0 || since == CP_CLAIMED || word != cp_running_word(generation, since))
		return 0;
	/* in this order: whoever sees that none runs sees when the last one did */
	pg_atomic_write_u64(&s->ran_at, (uint64) now);
	(void) pg_atomic_compare_exchange_u64(&s->running, &word, cp_running_word(generation, 0));
	return Max(now - (CpTime) since, 0);
}

/* How much of a text fits in so many bytes, the terminator included. */
static int
fitting(const char *text, int size)
{
	int len = text ? (int) strnlen(text, size) : 0;

	return len < size ? len : pg_mbcliplen(text, len, size - 1);
}

static void
store_text(char *place, const char *text, int len)
{
	if (len > 0)
		memcpy(place, text, len);
	place[len] = '\0';
}

void
cp_pool_set_origin(int slot, uint64 generation, const CpOrigin *origin)
{
	CpSharedSlot *s = &cp_slots[slot];
	int sql_len = fitting(origin->sql, CP_SQL_LEN);
	int stack_len = fitting(origin->stack, CP_STACK_LEN);

	SpinLockAcquire(&s->mutex);
	/* reclaimed, it is another's, who clears the text before he stores his own */
	if (cp_pool_generation(slot) == generation)
	{
		store_text(s->sql, origin->sql, sql_len);
		store_text(s->stack, origin->stack, stack_len);
		s->query_id = origin->query_id;
		s->session_role = origin->session_role;
		s->is_explicit = origin->is_explicit;
		s->spared = origin->spared;
	}
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
