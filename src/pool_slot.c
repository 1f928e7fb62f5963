/*
 * pool_slot.c
 *		The states of slots, and the lists that slots are in.
 *
 * Runs in client backends and in the broker, called by the files of pool
 * alone.  cp_slot_set_state() is the only function that assigns a slot's state; the
 * table says which changes are legal.  Nothing here decides anything.
 *
 * A slot that is not FREE belongs to one pool and does not change it; whoever
 * holds that pool's lock may rely on all of the slot's fields.  A slot's pool
 * can therefore be read without a lock, and is checked again under it.
 */
#include "postgres.h"

#include "pool_internal.h"

#include "common/pg_prng.h"

#include "events.h"

#define TO(state) (1 << CP_SLOT_##state)

/* Where each state may lead; src/README says when and by whom. */
static const int legal_changes[CP_SLOT_STATES] PG_USED_FOR_ASSERTS_ONLY = {
	[CP_SLOT_FREE] = TO(CONNECTING),
	[CP_SLOT_CONNECTING] = TO(LEASED) | TO(IDLE) | TO(CLOSING) | TO(FREE),
	[CP_SLOT_IDLE] = TO(LEASED) | TO(VALIDATING) | TO(CLOSING) | TO(FREE),
	[CP_SLOT_LEASED] = TO(IDLE) | TO(RESETTING) | TO(CLOSING) | TO(FREE),
	[CP_SLOT_RESETTING] = TO(IDLE) | TO(CLOSING) | TO(FREE),
	[CP_SLOT_VALIDATING] = TO(IDLE) | TO(CLOSING) | TO(FREE),
	[CP_SLOT_CLOSING] = TO(FREE),
};

/* ---- asking -------------------------------------------------------------- */

bool
cp_slot_is_listed(CpSlotState state)
{
	return state == CP_SLOT_IDLE || state == CP_SLOT_VALIDATING;
}

bool
cp_slot_has_holder(CpSlotState state)
{
	return state == CP_SLOT_LEASED || state == CP_SLOT_CONNECTING;
}

int
cp_pool_size(const CpSharedPool *pool)
{
	int size = 0;

	for (int s = CP_SLOT_FREE + 1; s < CP_SLOT_STATES; s++)
		size += pool->counts[s];
	return size;
}

int
cp_pool_counted(const CpSharedPool *pool)
{
	int counted = 0;

	for (int s = CP_SLOT_FREE + 1; s < CP_SLOT_STATES; s++)
		counted += cp_pool_counted_in(pool, s);
	return counted;
}

bool
cp_pool_is_busy(const CpSharedPool *pool)
{
	return pool->counts[CP_SLOT_LEASED] + pool->counts[CP_SLOT_CONNECTING] +
		pool->counts[CP_SLOT_RESETTING] >
		0;
}

bool
cp_pool_is_oversized(const CpSharedPool *pool)
{
	return cp_pool_counted(pool) - cp_pool_counted_in(pool, CP_SLOT_CLOSING) >
		pool->options.max_size;
}

int
cp_pool_live(const CpSharedPool *pool)
{
	return cp_pool_size(pool) - pool->counts[CP_SLOT_CONNECTING] -
		pool->counts[CP_SLOT_CLOSING];
}

int
cp_pool_ceiling(const CpSharedPool *pool, CpTime now)
{
	if (now < pool->ceiling_until)
		return Min(pool->ceiling, pool->options.max_size);
	return pool->options.max_size;
}

/*
 * Each connection misses a tenth of max_lifetime, at most, by a part of its
 * own: what was opened together does not end together.
 */
CpTime
cp_slot_expires_at(const CpSharedPool *pool, const CpSharedSlot *slot)
{
	CpTime lifetime = (CpTime) pool->options.max_lifetime * 1000;

	if (lifetime == 0)
		return CP_FOREVER;
	return slot->opened_at + lifetime -
		(CpTime) (lifetime / 10.0 * slot->jitter / PG_UINT32_MAX);
}

bool
cp_slot_is_outdated(const CpSharedPool *pool, const CpSharedSlot *slot)
{
	return pool->dropped || slot->begun_at < pool->reconnect_before ||
		(pool->defined && slot->begun_at < pool->defined_at &&
		 memcmp(&slot->fingerprint, &pool->definition, sizeof(pool->definition)) != 0);
}

/* Does the broker that runs now have this slot's socket? */
bool
cp_slot_is_donated(const CpSharedSlot *slot)
{
	return slot->vault_epoch != 0 && slot->vault_epoch == cp_shmem_broker_epoch();
}

/* ---- locking ------------------------------------------------------------ */

void
cp_pool_lock(int p)
{
	LWLockAcquire(cp_shmem_pool_lock(p), LW_EXCLUSIVE);
}

/*
 * Locks the pool that a slot is in, provided that the slot still has this
 * generation.  Returns the pool, or CP_NONE with nothing locked.
 */
int
cp_pool_lock_of(int i, uint64 generation)
{
	CpSharedSlot *slot = &cp_slots[i];
	volatile int *in_pool = &slot->pool;
	int p = *in_pool;

	if (p == CP_NONE)
		return CP_NONE;
	cp_pool_lock(p);
	if (slot->pool == p && slot->state != CP_SLOT_FREE && slot->generation == generation)
		return p;
	LWLockRelease(cp_shmem_pool_lock(p));
	return CP_NONE;
}

/* ---- the idle list ------------------------------------------------------- */

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

/* ---- the broker's worklist ------------------------------------------------ */

/* Adds a slot to the broker's worklist, if it is not there. */
void
cp_slot_push_task(int i, CpAftermath *after)
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

int
cp_slot_pop_task(void)
{
	int i;

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

/* ---- states --------------------------------------------------------------- */

/* Is it a connection that can be used, now or before long? */
static bool
lives(CpSlotState state)
{
	return state != CP_SLOT_FREE && state != CP_SLOT_CONNECTING && state != CP_SLOT_CLOSING;
}

static const char *
reason_text(CpCloseReason reason)
{
	switch (reason)
	{
		case CP_CLOSE_UNKNOWN:
			return NULL;
		case CP_CLOSE_IDLE:
			return "idle_timeout";
		case CP_CLOSE_LIFETIME:
			return "max_lifetime";
		case CP_CLOSE_OUTDATED:
			return "outdated: options have changed, or reconnect()";
		case CP_CLOSE_DROPPED:
			return "its server, user mapping, role or database is gone";
		case CP_CLOSE_OVERSIZED:
			return "more than max_size or max_server_size";
		case CP_CLOSE_GIVEN:
			return "its place was needed elsewhere";
		case CP_CLOSE_ORDERED:
			return "close_idle() or reconnect()";
		case CP_CLOSE_STOPPING:
			return "the server or the broker stops";
		case CP_CLOSE_DEAD:
			return "found dead";
		case CP_CLOSE_LOST:
			return "lost, or in doubt, at checkin";
		case CP_CLOSE_UNFIT:
			return "not fit for others: it listens, or is no primary any more";
		case CP_CLOSE_RESET:
			return "its reset failed";
		case CP_CLOSE_RECLAIMED:
			return "its lease was reclaimed";
		case CP_CLOSE_BROKER_LOST:
			return "the broker that had it has ended";
	}
	return NULL;
}

/*
 * What there is to tell of a change of state.  Unshared connections come and go
 * with each lease: they would fill the ring.
 */
static void
tell(int i, CpSlotState from, CpSlotState to)
{
	const CpSharedSlot *slot = &cp_slots[i];
	const CpSharedPool *pool = &cp_pools[slot->pool];

	if (slot->unshared)
		return;
	if (from == CP_SLOT_CONNECTING && lives(to))
		cp_event_add(CP_EVENT_OPENED, pool, i, slot->dialed ? "ahead of demand" : NULL);
	else if (lives(from) && !lives(to))
		cp_event_add(CP_EVENT_CLOSED, pool, i, reason_text(slot->leaving));
}

/* Fewer connections than min_size: the broker is to look, when it next turns. */
void
cp_pool_look_after(const CpSharedPool *pool)
{
	if (pool->options.min_size > 0)
		pg_atomic_write_u32(&cp_shared->upkeep_wanted, 1);
}

static void
count(int i, CpSlotState state, int change)
{
	CpSharedPool *pool = &cp_pools[cp_slots[i].pool];

	pool->counts[state] += change;
	if (cp_slots[i].beyond)
		pool->beyond[state] += change;
}

/*
 * The one place that changes a slot's state.  Keeps the pool's counts, the
 * idle list and the generation in step with it.
 */
void
cp_slot_set_state(int i, CpSlotState to)
{
	CpSharedSlot *slot = &cp_slots[i];
	CpSharedPool *pool = &cp_pools[slot->pool];
	CpSlotState from = slot->state;

	Assert(LWLockHeldByMeInMode(cp_shmem_pool_lock(slot->pool), LW_EXCLUSIVE));
	Assert(legal_changes[from] & (1 << to));

	if (cp_slot_is_listed(from) && !cp_slot_is_listed(to))
		idle_unlink(pool, i);
	if (from != CP_SLOT_FREE)
		count(i, from, -1);
	if (to != CP_SLOT_FREE)
		count(i, to, 1);
	slot->state = to;
	slot->state_since = cp_now();
	if (cp_slot_is_listed(to) && !cp_slot_is_listed(from))
		idle_push(pool, i);
	if (from == CP_SLOT_FREE || from == CP_SLOT_CONNECTING ||
		to == CP_SLOT_CLOSING || to == CP_SLOT_FREE)
		slot->generation++;
	if (to == CP_SLOT_LEASED)
	{
		pg_atomic_write_u64(&slot->ran_at, 0);
		pg_atomic_write_u64(&slot->running, cp_running_word(slot->generation, 0));
	}
	if (!cp_slot_has_holder(to))
	{
		slot->holder_proc = CP_NONE;
		slot->holder_pid = 0;
	}
	if ((from == CP_SLOT_CLOSING) != (to == CP_SLOT_CLOSING))
		cp_server_note_closing(slot->server, to == CP_SLOT_CLOSING ? 1 : -1);
	if (from == CP_SLOT_CONNECTING && pool->prober == i)
	{
		pool->prober = CP_NONE;
		cp_breaker_undecided(&pool->breaker, slot->state_since);
	}
	if (to == CP_SLOT_LEASED)
		cp_stats_leased(&pool->stats, pool->counts[CP_SLOT_LEASED]);
	tell(i, from, to);
	if (lives(from) && !lives(to))
		cp_pool_look_after(pool);
}

void
cp_slot_reserve(int p)
{
	SpinLockAcquire(&cp_shared->free_mutex);
	cp_shared->free_reserved_for = p;
	SpinLockRelease(&cp_shared->free_mutex);
}

void
cp_slot_unreserve(int p)
{
	SpinLockAcquire(&cp_shared->free_mutex);
	if (cp_shared->free_reserved_for == p)
		cp_shared->free_reserved_for = CP_NONE;
	SpinLockRelease(&cp_shared->free_mutex);
}

/* A slot of the free list; the last one may be reserved for another pool. */
static int
take_free(int p)
{
	int i;

	SpinLockAcquire(&cp_shared->free_mutex);
	i = cp_shared->free_head;
	if (cp_shared->free_count == 1 && cp_shared->free_reserved_for != CP_NONE &&
		cp_shared->free_reserved_for != p)
		i = CP_NONE;
	if (i != CP_NONE)
	{
		cp_shared->free_head = cp_slots[i].next;
		cp_shared->free_count--;
		if (cp_shared->free_reserved_for == p)
			cp_shared->free_reserved_for = CP_NONE;
	}
	SpinLockRelease(&cp_shared->free_mutex);
	return i;
}

/*
 * Takes a slot from the free list into the pool, and a place of its server;
 * CP_NONE if there is none.
 */
int
cp_slot_allocate(int p)
{
	int server = cp_pools[p].server;
	int i;
	CpSharedSlot *slot;

	if (!cp_server_take_place(server, p))
		return CP_NONE;
	i = take_free(p);
	if (i == CP_NONE)
	{
		cp_server_give_place(server);
		return CP_NONE;
	}

	slot = &cp_slots[i];
	slot->pool = p;
	slot->server = server;
	slot->prev = slot->next = CP_NONE;
	slot->vault_epoch = 0;
	slot->own_options = false;
	slot->unshared = false;
	slot->beyond = false;
	slot->encrypted = false;
	slot->tunnel = 0;
	slot->tls_version[0] = slot->tls_cipher[0] = '\0';
	slot->in_transaction = false;
	slot->changes = 0;
	slot->mid_protocol = false;
	slot->leak = CP_LEAK_NONE;
	slot->leak_acted = slot->ending = false;
	slot->leaving = CP_CLOSE_UNKNOWN;
	slot->remote_pid = 0;
	slot->remote_address[0] = '\0';
	slot->uses = 0;
	slot->opened_at = slot->checked_at = 0;
	slot->jitter = pg_prng_uint32(&pg_global_prng_state);
	slot->ahead = false;
	slot->dialed = false;
	return i;
}

/* Any state -> FREE, and back on the free list. */
void
cp_slot_free(int i, CpAftermath *after)
{
	CpSharedSlot *slot = &cp_slots[i];

	if (slot->unshared)
		cp_pools[slot->pool].unshared--;
	if (slot->tunnel > 0)
		cp_pools[slot->pool].tunnelled--;
	/* its place may be what min_size waits for */
	if (slot->state == CP_SLOT_CLOSING)
		cp_pool_look_after(&cp_pools[slot->pool]);
	cp_slot_set_state(i, CP_SLOT_FREE);
	cp_server_give_place(slot->server);
	slot->server = CP_NONE;
	slot->pool = CP_NONE;
	slot->vault_epoch = 0;

	SpinLockAcquire(&cp_shared->free_mutex);
	slot->next = cp_shared->free_head;
	cp_shared->free_head = i;
	cp_shared->free_count++;
	SpinLockRelease(&cp_shared->free_mutex);

	/* the broker gives it to a pool that had none to open, or misses it */
	if (pg_atomic_read_u32(&cp_shared->starved_pools) > 0 ||
		pg_atomic_read_u32(&cp_shared->upkeep_wanted) > 0)
		after->wake_broker = true;
}

/* Any state with a socket in the vault -> CLOSING, for the broker to do. */
void
cp_slot_close(int i, CpCloseReason reason, CpAftermath *after)
{
	cp_slots[i].leaving = reason;
	cp_slot_set_state(i, CP_SLOT_CLOSING);
	cp_slot_push_task(i, after);
}
