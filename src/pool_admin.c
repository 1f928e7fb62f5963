/*
 * pool_admin.c
 *		What people decree about pools: pause, resume, reconnect, warm, close
 *		what is idle, take a lease away.
 *
 * Runs in client backends, called by sql_admin.c, which has checked the rights.
 * Takes one pool's lock at a time, so what concerns several pools does not happen
 * at one instant.  Must never touch a socket: the broker carries it out.
 */
#include "postgres.h"

#include "pool.h"

#include "miscadmin.h"

#include "compat.h"
#include "pool_internal.h"

/* ---- which pools ------------------------------------------------------------ */

static bool
is_in(const CpPoolSet *set, int p)
{
	const CpSharedPool *pool = &cp_pools[p];

	if (!pool->in_use)
		return false;
	if (set->all)
		return true;
	if (OidIsValid(set->server))
		return pool->key.kind == CP_POOL_SERVER && pool->key.server == set->server &&
			pool->key.database == set->database;
	return p == set->pool && pool->generation == set->generation;
}

/* Locks the next pool of the set from *p on, and leaves *p there; false: no more. */
static bool
lock_next(const CpPoolSet *set, int *p)
{
	for (; *p < cp_shared->max_pools; (*p)++)
	{
		cp_pool_lock(*p);
		if (is_in(set, *p))
			return true;
		LWLockRelease(cp_shmem_pool_lock(*p));
	}
	return false;
}

/* ---- pause ------------------------------------------------------------------ */

/* Registry lock: of servers, for pools to come; false if nothing has changed. */
static bool
set_servers_paused(const CpPoolSet *set, bool paused)
{
	bool changed = false;

	if (set->all)
	{
		changed = cp_shared->all_paused != paused;
		cp_shared->all_paused = paused;
	}
	for (int s = 0; s < cp_shared->max_servers; s++)
	{
		CpSharedServer *server = &cp_servers[s];

		if (!server->in_use ||
			!(set->all || (server->server == set->server && server->database == set->database)))
			continue;
		changed |= server->paused != paused;
		server->paused = paused;
	}
	return changed;
}

/* A server without pools needs an entry in which its pause is remembered. */
static void
make_server_entry(const CpPoolSet *set)
{
	if (!OidIsValid(set->server) || cp_server_find(set->database, set->server, true) != CP_NONE)
		return;
	LWLockRelease(cp_shmem_registry_lock());
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("too many servers are paused"),
			 errhint("Resume some of them, or raise conpool.max_pools.")));
}

static bool
set_paused(const CpPoolSet *set, bool paused)
{
	bool changed;

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	if (paused)
		make_server_entry(set);
	changed = set_servers_paused(set, paused);
	for (int p = 0; lock_next(set, &p); p++)
	{
		changed |= cp_pools[p].paused != paused;
		cp_pools[p].paused = paused;
		LWLockRelease(cp_shmem_pool_lock(p));
	}
	LWLockRelease(cp_shmem_registry_lock());
	return changed;
}

bool
cp_pool_pause(const CpPoolSet *set)
{
	return set_paused(set, true);
}

void
cp_pool_resume(const CpPoolSet *set)
{
	(void) set_paused(set, false);
	for (int p = 0; lock_next(set, &p); p++)
	{
		CpAftermath after = {0};

		cp_pool_dispatch(p, &after, NULL);
		cp_pool_look_after(&cp_pools[p]);
		after.wake_broker = true;
		cp_pool_unlock(p, &after);
	}
	ConditionVariableBroadcast(&cp_shared->drained);
}

/* Has this pool of the set leases yet, and is it still paused? */
static bool
is_draining(const CpPoolSet *set, int p)
{
	bool result;

	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	result = is_in(set, p) && cp_pools[p].paused && cp_pool_is_busy(&cp_pools[p]);
	LWLockRelease(cp_shmem_pool_lock(p));
	return result;
}

bool
cp_pool_is_drained(const CpPoolSet *set)
{
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		if (is_draining(set, p))
			return false;
	}
	return true;
}

/* Or has somebody resumed one of them? */
static bool
are_paused(const CpPoolSet *set)
{
	bool result = true;

	for (int p = 0; p < cp_shared->max_pools && result; p++)
	{
		LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
		result = cp_pools[p].paused || !is_in(set, p);
		LWLockRelease(cp_shmem_pool_lock(p));
	}
	return result;
}

bool
cp_pool_await_drained(const CpPoolSet *set)
{
	ConditionVariablePrepareToSleep(&cp_shared->drained);
	while (!cp_pool_is_drained(set))
		ConditionVariableSleep(&cp_shared->drained, CP_WAIT_EVENT);
	ConditionVariableCancelSleep();
	return are_paused(set);
}

/* ---- renewing ----------------------------------------------------------------- */

void
cp_pool_reconnect(const CpPoolSet *set)
{
	for (int p = 0; lock_next(set, &p); p++)
	{
		cp_pools[p].reconnect_before = cp_now();
		LWLockRelease(cp_shmem_pool_lock(p));
		(void) cp_pool_close_idle_of(p);
	}
}

int
cp_pool_close_idle(const CpPoolSet *set)
{
	int closed = 0;

	for (int p = 0; lock_next(set, &p); p++)
	{
		LWLockRelease(cp_shmem_pool_lock(p));
		closed += cp_pool_close_idle_of(p);
	}
	return closed;
}

void
cp_pool_warm(const CpPoolSet *set)
{
	for (int p = 0; lock_next(set, &p); p++)
	{
		CpSharedPool *pool = &cp_pools[p];
		CpAftermath after = {0};

		pool->upkeep_at = 0;
		pool->upkeep_failures = 0;
		pool->ceiling_until = 0;
		if (pool->breaker.state == CP_BREAKER_OPEN)
			pool->breaker.next_attempt = cp_now();
		pg_atomic_write_u32(&cp_shared->upkeep_wanted, 1);
		after.wake_broker = true;
		cp_pool_dispatch(p, &after, NULL);
		cp_pool_unlock(p, &after);
	}
}

/* ---- reclaiming ----------------------------------------------------------------- */

static void
record_reclaim(uint64 lease, int holder_pid, Oid by)
{
	CpReclaimRecord record = {
		.lease = lease,
		.holder_pid = holder_pid,
		.pid = MyProcPid,
		.role = by,
		.at = cp_now(),
	};

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	cp_shared->reclaim_ring[cp_shared->reclaim_count % CP_RECLAIM_RING] = record;
	cp_shared->reclaim_count++;
	LWLockRelease(cp_shmem_registry_lock());
}

CpReclaim
cp_pool_reclaim(int slot, uint64 generation, uint64 lease, Oid by)
{
	CpSharedSlot *s = &cp_slots[slot];
	CpAftermath after = {0};
	CpReclaim result = CP_RECLAIM_NO_LEASE;
	int p = cp_pool_lock_of(slot, generation);
	int holder_pid = 0;

	if (p == CP_NONE)
		return CP_RECLAIM_NO_LEASE;
	if (s->state == CP_SLOT_LEASED && s->lease == lease)
		result = !s->unshared && cp_slot_is_donated(s) ? CP_RECLAIM_OK : CP_RECLAIM_UNSHARED;
	if (result == CP_RECLAIM_OK)
	{
		holder_pid = s->holder_pid;
		cp_stats_checkin(&cp_pools[p].stats, cp_now() - s->leased_at);
		/* its holder may be in the middle of a message */
		s->mid_protocol = true;
		cp_slot_close(slot, &after);
		cp_pool_dispatch(p, &after, NULL);
	}
	cp_pool_unlock(p, &after);
	if (result == CP_RECLAIM_OK)
		record_reclaim(lease, holder_pid, by);
	return result;
}

bool
cp_pool_was_reclaimed(uint64 lease, CpReclaimRecord *record)
{
	bool found = false;
	uint64 n;

	LWLockAcquire(cp_shmem_registry_lock(), LW_SHARED);
	n = Min(cp_shared->reclaim_count, CP_RECLAIM_RING);
	for (uint64 i = 0; i < n && !found; i++)
	{
		found = cp_shared->reclaim_ring[i].lease == lease;
		if (found)
			*record = cp_shared->reclaim_ring[i];
	}
	LWLockRelease(cp_shmem_registry_lock());
	return found;
}
