/*
 * pool_broker.c
 *		What the broker tells the pools, and what it asks them.
 *
 * Runs in the broker only.
 */
#include "postgres.h"

#include "pool.h"

#include "miscadmin.h"

#include "pool_internal.h"

void
cp_pool_close_idle(int p)
{
	CpSharedPool *pool = &cp_pools[p];
	CpAftermath after = {0};

	cp_pool_lock(p);
	for (int i = pool->idle_head; i != CP_NONE;)
	{
		int next = cp_slots[i].next;

		if (cp_slots[i].state == CP_SLOT_IDLE)
			cp_slot_close(i, &after);
		i = next;
	}
	cp_pool_unlock(p, &after);
}

/* Frees whatever only a broker could still bring to an end. */
static void
sweep(void)
{
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		CpSharedSlot *slot = &cp_slots[i];
		CpAftermath after = {0};
		int p = cp_pool_lock_of(i, cp_pool_generation(i));

		if (p == CP_NONE)
			continue;
		if (!cp_slot_has_holder(slot->state))
		{
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
	int p = cp_pool_lock_of(slot, generation);
	bool result;

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
	int p = cp_pool_lock_of(slot, generation);
	bool result;

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
	CpAftermath after = {0};
	uint64 result = 0;
	int p = cp_pool_lock_of(slot, generation);

	if (p == CP_NONE)
		return 0;
	if (cp_slot_has_holder(s->state) && s->holder_pid == pid)
	{
		if (s->state == CP_SLOT_LEASED)
			cp_stats_checkin(&cp_pools[p].stats, cp_now() - s->leased_at);
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
	CpAftermath after = {0};
	int p = cp_pool_lock_of(slot, generation);

	if (p == CP_NONE)
		return;
	if (ok && !cp_pool_is_oversized(&cp_pools[p]))
	{
		cp_slot_set_state(slot, CP_SLOT_IDLE);
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
		cp_slot_close(slot, &after);
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

	if (p == CP_NONE)
		return;
	if (alive)
		cp_slot_set_state(slot, CP_SLOT_IDLE);
	else
	{
		cp_pools[p].stats.discarded++;
		cp_slot_close(slot, &after);
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
			cp_pool_close_idle(p);
	}
}

/* The longest idle connection of any pool without waiters; a guess, unlocked. */
static int
find_longest_idle(bool *closing)
{
	int found = CP_NONE;
	CpTime oldest = CP_FOREVER;

	*closing = false;
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		volatile CpSharedSlot *slot = &cp_slots[i];
		CpSlotState state = slot->state;
		int p = slot->pool;

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
	bool closing;
	int i = find_longest_idle(&closing);
	CpAftermath after = {0};
	int p;

	if (i == CP_NONE || closing)
		return;
	p = cp_pool_lock_of(i, cp_pool_generation(i));
	if (p == CP_NONE)
		return;
	if (cp_slots[i].state == CP_SLOT_IDLE && cp_pools[p].waiting == 0)
		cp_slot_close(i, &after);
	cp_pool_unlock(p, &after);
}

void
cp_pool_relieve(void)
{
	bool still_starved = false;

	if (pg_atomic_read_u32(&cp_shared->starved_pools) == 0)
		return;
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		CpAftermath after = {0};

		if (!((volatile CpSharedPool *) &cp_pools[p])->starved)
			continue;
		cp_pool_lock(p);
		cp_pool_dispatch(p, &after, NULL);
		still_starved |= cp_pools[p].starved;
		after.wake_broker = false; /* that is us, at it already */
		cp_pool_unlock(p, &after);
	}
	if (still_starved)
		close_longest_idle();
}
