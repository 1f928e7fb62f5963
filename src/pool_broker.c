/*
 * pool_broker.c
 *		What the broker tells the pools, and what it asks them.
 *
 * Runs in the broker, but for the closing of idle connections, which anybody
 * may ask for.
 */
#include "postgres.h"

#include "pool.h"

#include "miscadmin.h"

#include "events.h"
#include "pool_internal.h"

int
cp_pool_close_idle_of(int p, CpCloseReason reason)
{
	CpSharedPool *pool = &cp_pools[p];
	CpAftermath after = {0};
	int closed = 0;

	cp_pool_lock(p);
	for (int i = pool->idle_head; i != CP_NONE;)
	{
		int next = cp_slots[i].next;

		if (cp_slots[i].state == CP_SLOT_IDLE)
		{
			cp_slot_close(i, reason, &after);
			closed++;
		}
		i = next;
	}
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
	return closed;
}

/* Locks the pool of a slot that is not free, whatever generation it gets to. */
static int
lock_pool_of(int i)
{
	for (;;)
	{
		uint64 generation = cp_pool_generation(i);
		int p = cp_pool_lock_of(i, generation);

		if (p != CP_NONE || cp_pool_generation(i) == generation)
			return p;
	}
}

/* Frees whatever only a broker could still bring to an end. */
static void
sweep(void)
{
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		CpSharedSlot *slot = &cp_slots[i];
		CpAftermath after = {0};
		int p = lock_pool_of(i);

		if (p == CP_NONE)
			continue;
		if (!cp_slot_has_holder(slot->state))
		{
			slot->leaving = CP_CLOSE_BROKER_LOST;
			cp_slot_free(i, &after);
			cp_pool_dispatch(p, &after, NULL);
		}
		cp_pool_unlock(p, &after);
	}
}

uint64
cp_pool_broker_begins(void)
{
	uint64 epoch = ++cp_shared->last_epoch;

	sweep();
	pg_atomic_write_u32(&cp_shared->broker_proc, (uint32) cp_shmem_my_proc());
	pg_atomic_write_u32(&cp_shared->broker_pid, (uint32) MyProcPid);
	pg_write_barrier();
	pg_atomic_write_u64(&cp_shared->broker_epoch, epoch);
	cp_event_add(CP_EVENT_BROKER_STARTED, NULL, CP_NONE, NULL);
	return epoch;
}

void
cp_pool_broker_ends(void)
{
	/* who has a pool's lock next sees it, so nothing is left behind */
	pg_atomic_write_u64(&cp_shared->broker_epoch, 0);
	pg_atomic_write_u32(&cp_shared->broker_pid, 0);
	pg_memory_barrier();
	cp_event_add(CP_EVENT_BROKER_ENDED, NULL, CP_NONE, NULL);
	sweep();
}

/* Is the slot, of that generation, in that state by the hand of pid? */
static bool
is_in_state_by(int slot, uint64 generation, CpSlotState state, int pid)
{
	int p = cp_pool_lock_of(slot, generation);
	bool result;

	if (p == CP_NONE)
		return false;
	result = cp_slots[slot].state == state && cp_slots[slot].holder_pid == pid;
	LWLockRelease(cp_shmem_pool_lock(p));
	return result;
}

bool
cp_pool_is_held_by(int slot, uint64 generation, int pid)
{
	return is_in_state_by(slot, generation, CP_SLOT_LEASED, pid);
}

bool
cp_pool_is_opened_by(int slot, uint64 generation, int pid)
{
	return is_in_state_by(slot, generation, CP_SLOT_CONNECTING, pid);
}

/*
 * What the dialer has opened comes here from CONNECTING, and is for whoever
 * waits, or idle.
 */
static void
take_dialed(int p, int slot, CpAftermath *after)
{
	CpSharedPool *pool = &cp_pools[p];
	CpSharedSlot *s = &cp_slots[slot];
	CpCloseReason reason;

	cp_slot_set_state(slot, CP_SLOT_IDLE);
	s->idle_since = s->state_since;
	s->ahead = s->dialed = false;
	pool->stats.counters.dials++;
	pool->upkeep_failures = 0;
	reason = cp_slot_must_go(pool, s, s->state_since);
	if (reason != CP_CLOSE_UNKNOWN)
		cp_slot_close(slot, reason, after);
	cp_pool_dispatch(p, after, NULL);
}

uint64
cp_pool_donated(int slot, uint64 generation, int pid, uint64 epoch)
{
	CpSharedSlot *s = &cp_slots[slot];
	int p = cp_pool_lock_of(slot, generation);
	CpAftermath after = {0};
	uint64 result = 0;

	if (p == CP_NONE)
		return 0;
	if (s->holder_pid == pid && !s->unshared &&
		(s->state == CP_SLOT_LEASED || (s->state == CP_SLOT_CONNECTING && s->dialed)))
	{
		s->vault_epoch = epoch;
		if (s->state == CP_SLOT_CONNECTING)
			take_dialed(p, slot, &after);
		result = s->generation;
	}
	cp_pool_unlock(p, &after);
	return result;
}

uint64
cp_pool_ending(int slot, uint64 generation, int pid)
{
	CpSharedSlot *s = &cp_slots[slot];
	CpAftermath after = {0};
	uint64 result = 0;
	int p = cp_pool_lock_of(slot, generation);

	if (p == CP_NONE)
		return 0;
	if (cp_slot_has_holder(s->state) && s->holder_pid == pid)
	{
		if (s->state == CP_SLOT_LEASED)
			cp_stats_checkin(&cp_pools[p].stats, cp_now() - s->leased_at);
		s->leaving = CP_CLOSE_LOST;
		cp_slot_set_state(slot, CP_SLOT_CLOSING);
		result = s->generation;
		cp_pool_dispatch(p, &after, NULL);
	}
	cp_pool_unlock(p, &after);
	return result;
}

bool
cp_pool_next_task(CpTask *task)
{
	int i;

	while ((i = cp_slot_pop_task()) != CP_NONE)
	{
		CpSharedSlot *slot = &cp_slots[i];
		int p = cp_pool_lock_of(i, cp_pool_generation(i));
		bool wanted;

		if (p == CP_NONE)
			continue;
		task->slot = i;
		task->generation = slot->generation;
		task->state = slot->state;
		task->in_transaction = slot->in_transaction;
		task->changes = slot->changes;
		task->mid_protocol = slot->mid_protocol;
		wanted = slot->state == CP_SLOT_RESETTING || slot->state == CP_SLOT_VALIDATING ||
			slot->state == CP_SLOT_CLOSING;
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
	CpAftermath after = {0};
	int p = cp_pool_lock_of(slot, generation);
	CpCloseReason reason;

	if (p == CP_NONE)
		return;
	reason = ok ? cp_slot_must_go(&cp_pools[p], s, cp_now()) : CP_CLOSE_RESET;
	if (reason == CP_CLOSE_UNKNOWN)
	{
		s->checked_at = cp_now();
		cp_slot_set_state(slot, CP_SLOT_IDLE);
		s->idle_since = s->state_since;
	}
	else
	{
		if (!ok)
		{
			/* nobody knows where in the protocol it stopped */
			s->mid_protocol = true;
			cp_pools[p].stats.counters.discarded++;
			cp_pool_suspect(&cp_pools[p], cp_now(), &after);
		}
		cp_slot_close(slot, reason, &after);
	}
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
}

bool
cp_pool_validate(int slot, uint64 *generation)
{
	uint64 g = cp_pool_generation(slot);
	CpAftermath after = {0};
	int p = cp_pool_lock_of(slot, g);
	bool idle;

	if (p == CP_NONE)
		return false;
	idle = cp_slots[slot].state == CP_SLOT_IDLE;
	if (idle)
		cp_slot_set_state(slot, CP_SLOT_VALIDATING);
	cp_pool_unlock(p, &after);
	*generation = g;
	return idle;
}

void
cp_pool_validated(int slot, uint64 generation, bool alive)
{
	CpAftermath after = {0};
	int p = cp_pool_lock_of(slot, generation);
	CpTime now = cp_now();
	CpSharedPool *pool;
	CpCloseReason reason;

	if (p == CP_NONE)
		return;
	pool = &cp_pools[p];
	reason = alive ? cp_slot_must_go(pool, &cp_slots[slot], now) : CP_CLOSE_DEAD;
	if (!alive)
	{
		/* whether a ping is still to be answered is not known */
		cp_slots[slot].mid_protocol = true;
		pool->stats.counters.discarded++;
		pool->stats.counters.validation_failures++;
		cp_pool_suspect(pool, now, &after);
	}
	if (reason != CP_CLOSE_UNKNOWN)
		cp_slot_close(slot, reason, &after);
	else
	{
		cp_slots[slot].checked_at = now;
		cp_slot_set_state(slot, CP_SLOT_IDLE);
	}
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
}

void
cp_pool_closed(int slot, uint64 generation)
{
	CpAftermath after = {0};
	int p = cp_pool_lock_of(slot, generation);

	if (p == CP_NONE)
		return;
	Assert(cp_slots[slot].state == CP_SLOT_CLOSING);
	cp_slot_free(slot, &after);
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
}

void
cp_pool_close_all_idle(void)
{
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		if (cp_pools[p].in_use)
			(void) cp_pool_close_idle_of(p, CP_CLOSE_STOPPING);
	}
}
