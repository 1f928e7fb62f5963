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

#include <signal.h>

#include "miscadmin.h"

#include "compat.h"
#include "events.h"
#include "pool_internal.h"
#include "wait_events.h"

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
		if (cp_pools[p].paused != paused)
		{
			changed = true;
			cp_event_add(paused ? CP_EVENT_PAUSED : CP_EVENT_RESUMED, &cp_pools[p], CP_NONE, NULL);
		}
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
		ConditionVariableSleep(&cp_shared->drained, cp_wait_event(CP_WAIT_DRAIN));
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
		cp_event_add(CP_EVENT_RECONNECTED, &cp_pools[p], CP_NONE, NULL);
		LWLockRelease(cp_shmem_pool_lock(p));
		(void) cp_pool_close_idle_of(p, CP_CLOSE_ORDERED);
	}
}

int
cp_pool_close_idle(const CpPoolSet *set)
{
	int closed = 0;

	for (int p = 0; lock_next(set, &p); p++)
	{
		LWLockRelease(cp_shmem_pool_lock(p));
		closed += cp_pool_close_idle_of(p, CP_CLOSE_ORDERED);
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
record_reclaim(uint64 lease, int holder_pid, Oid by, const char *why)
{
	CpReclaimRecord record = {
		.lease = lease,
		.holder_pid = holder_pid,
		.pid = MyProcPid,
		.role = by,
		.at = cp_now(),
	};

	if (why != NULL)
		strlcpy(record.why, why, sizeof(record.why));
	SpinLockAcquire(&cp_shared->reclaim_mutex);
	cp_shared->reclaim_ring[cp_shared->reclaim_count % CP_RECLAIM_RING] = record;
	cp_shared->reclaim_count++;
	SpinLockRelease(&cp_shared->reclaim_mutex);
}

/*
 * Sees to it that no statement begins on a lease any more, if none runs and none
 * has ended since `ran_at`.
 */
static bool
claim_if_unused(CpSharedSlot *slot, CpTime ran_at)
{
	uint64 unused = cp_running_word(slot->generation, 0);
	uint64 expected = unused;
	uint64 claimed = cp_running_word(slot->generation, CP_CLAIMED);

	if (!pg_atomic_compare_exchange_u64(&slot->running, &expected, claimed))
		return false;
	if ((CpTime) pg_atomic_read_u64(&slot->ran_at) == ran_at)
		return true;
	/* a holder who has met the claim waits for the pool's lock */
	pg_atomic_write_u64(&slot->running, unused);
	return false;
}

/* Can the lease be taken away at all?  Its pool is locked. */
static CpReclaim
may_reclaim(CpSharedSlot *slot, uint64 lease, CpTime ran_at, bool from_working)
{
	if (slot->state != CP_SLOT_LEASED || slot->lease != lease)
		return CP_RECLAIM_NO_LEASE;
	if (slot->unshared || !cp_slot_is_donated(slot))
		return CP_RECLAIM_UNSHARED;
	if (!from_working)
		return claim_if_unused(slot, ran_at) ? CP_RECLAIM_OK : CP_RECLAIM_WORKING;
	pg_atomic_write_u64(&slot->running, cp_running_word(slot->generation, CP_CLAIMED));
	return CP_RECLAIM_OK;
}

CpReclaim
cp_pool_reclaim(int slot, uint64 generation, uint64 lease, Oid by, const char *why,
				CpTime ran_at, CpLeakRecord *leak)
{
	CpSharedSlot *s = &cp_slots[slot];
	CpAftermath after = {0};
	CpReclaim result;
	int p = cp_pool_lock_of(slot, generation);

	leak->class = CP_LEAK_NONE;
	if (p == CP_NONE)
		return CP_RECLAIM_NO_LEASE;
	result = may_reclaim(s, lease, ran_at, OidIsValid(by));
	if (result == CP_RECLAIM_OK)
	{
		/* before the holder can see that it is gone */
		record_reclaim(lease, s->holder_pid, by, why);
		if (s->leak != CP_LEAK_NONE)
			cp_slot_copy_leak(slot, leak);
		cp_stats_checkin(&cp_pools[p].stats, cp_now() - s->leased_at);
		/* its holder may be in the middle of a message */
		s->mid_protocol = true;
		cp_event_add(CP_EVENT_RECLAIMED, &cp_pools[p], slot, why);
		cp_slot_close(slot, CP_CLOSE_RECLAIMED, &after);
		cp_pool_dispatch(p, &after, NULL);
	}
	cp_pool_unlock(p, &after);
	return result;
}

/* A program that it runs (COPY FROM PROGRAM) is to end, too. */
static bool
interrupt(int pid)
{
#ifdef HAVE_SETSID
	return kill(-pid, SIGINT) == 0;
#else
	return kill(pid, SIGINT) == 0;
#endif
}

/*
 * The signal is sent with the pool locked: until then the holder cannot have
 * given the lease back, and so gets it in the statement that holds it.
 */
bool
cp_pool_cancel_holder(int slot, uint64 generation, uint64 lease, CpTime ran_at)
{
	CpSharedSlot *s = &cp_slots[slot];
	int p = cp_pool_lock_of(slot, generation);
	bool done;

	if (p == CP_NONE)
		return false;
	done = s->state == CP_SLOT_LEASED && s->lease == lease && !s->leak_acted && !s->spared &&
		cp_slot_running_since(s) == 0 && (CpTime) pg_atomic_read_u64(&s->ran_at) == ran_at &&
		!cp_pool_holder_runs(s->holder_pid) && interrupt(s->holder_pid);
	if (done)
		s->leak_acted = true;
	LWLockRelease(cp_shmem_pool_lock(p));
	return done;
}

bool
cp_pool_was_reclaimed(uint64 lease, CpReclaimRecord *record)
{
	bool found = false;
	uint64 n;

	SpinLockAcquire(&cp_shared->reclaim_mutex);
	n = Min(cp_shared->reclaim_count, CP_RECLAIM_RING);
	for (uint64 i = 0; i < n && !found; i++)
	{
		found = cp_shared->reclaim_ring[i].lease == lease;
		if (found)
			*record = cp_shared->reclaim_ring[i];
	}
	SpinLockRelease(&cp_shared->reclaim_mutex);
	return found;
}
