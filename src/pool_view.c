/*
 * pool_view.c
 *		Copies of what is in the pools, for views and messages.
 *
 * Runs in every process.  Takes locks in shared mode and changes nothing but
 * counters on request.
 */
#include "postgres.h"

#include "pool.h"

#include "lib/qunique.h"
#include "lib/stringinfo.h"

#include "events.h"
#include "leak.h"
#include "pool_internal.h"

/* holders named in an error's detail */
#define MAX_HOLDERS_NAMED 3

/* How it is doing, rather than what it has. */
static void
copy_condition(const CpSharedPool *pool, CpPoolInfo *info)
{
	CpTime now = cp_now();

	info->effective_max_size = cp_pool_ceiling(pool, now);
	info->ceiling_until =
		info->effective_max_size < pool->options.max_size ? pool->ceiling_until : 0;
	info->server_size = cp_server_count(pool->server);
	info->paused = pool->paused;
	info->dropped = pool->dropped;
	info->breaker = pool->breaker;
	info->breaker_time = cp_pool_breaker_time(pool, now);
	info->remote_max_connections = pool->remote_max_connections;
	info->problem = pool->problem;
	info->upkeep_problem = pool->upkeep_problem;
	info->upkeep_at = pool->upkeep_at;
}

bool
cp_pool_read(int p, CpPoolInfo *info)
{
	CpSharedPool *pool = &cp_pools[p];
	bool in_use;

	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	in_use = pool->in_use;
	if (in_use)
	{
		info->key = pool->key;
		info->generation = pool->generation;
		strlcpy(info->name, pool->name, CP_POOL_NAME_LEN);
		info->options = pool->options;
		memcpy(info->counts, pool->counts, sizeof(info->counts));
		info->unshared = pool->unshared;
		info->tunnelled = pool->tunnelled;
		info->waiting = pool->waiting;
		info->stats = pool->stats.counters;
		copy_condition(pool, info);
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
	info->tunnel = slot->tunnel;
	strlcpy(info->tls_version, slot->tls_version, CP_SLOT_TLS_LEN);
	strlcpy(info->tls_cipher, slot->tls_cipher, CP_SLOT_TLS_LEN);
	info->remote_pid = slot->remote_pid;
	strlcpy(info->remote_address, slot->remote_address, CP_ADDRESS_LEN);
	info->opened_at = slot->opened_at;
	info->idle_since = slot->idle_since;
	info->checked_at = slot->checked_at;
	info->expires_at = slot->opened_at != 0 ? cp_slot_expires_at(pool, slot) : 0;
	if (info->expires_at == CP_FOREVER)
		info->expires_at = 0;
	info->ahead = slot->ahead;
	info->uses = slot->uses;
	info->holder_pid = slot->holder_pid;
	info->lease = slot->lease;
	info->scope = slot->scope;
	info->lease_role = slot->lease_role;
	info->leased_at = slot->leased_at;
	info->running_since = cp_slot_running_since(slot);
	pg_read_barrier();
	info->ran_at = (CpTime) pg_atomic_read_u64(&slot->ran_at);
	info->leak_action = pool->options.leak_action;
	info->leak = slot->leak;
	info->leak_acted = slot->leak_acted;
	info->holder_proc = slot->holder_proc;
	SpinLockAcquire(&slot->mutex);
	memcpy(info->sql, slot->sql, CP_SQL_LEN);
	info->query_id = slot->query_id;
	info->session_role = slot->session_role;
	info->is_explicit = slot->is_explicit;
	memcpy(info->stack, slot->stack, CP_STACK_LEN);
	SpinLockRelease(&slot->mutex);
}

bool
cp_slot_read(int i, CpSlotInfo *info)
{
	CpSharedSlot *slot = &cp_slots[i];
	int p = ((volatile CpSharedSlot *) slot)->pool;
	bool there;

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
	int room = pool->waiting;
	int n = 0;

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
	int pid;
	CpTime since;
} Holder;

/* Puts a holder among the longest ones seen so far, which are sorted. */
static int
note_holder(Holder *holders, int n, const CpSharedSlot *slot)
{
	int at = n;

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
	CpPoolInfo info;
	Holder holders[MAX_HOLDERS_NAMED];
	int n = 0;
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
	if (info.options.max_server_size > 0)
		appendStringInfo(&buf, _(" max_server_size is %d: %d taken by all pools of the server."),
						 info.options.max_server_size, info.server_size);
	for (int i = 0; i < n; i++)
	{
		double seconds = (cp_now() - holders[i].since) / 1e6;

		appendStringInfoString(&buf, i == 0 ? _(" Longest held by ") : ", ");
		appendStringInfo(&buf, _("pid %d (%.1f s)"), holders[i].pid, seconds);
	}
	if (n > 0)
		appendStringInfoChar(&buf, '.');
	return buf.data;
}

void
cp_pool_reset_stats(int p)
{
	CpSharedPool *pool = &cp_pools[p];

	cp_pool_lock(p);
	if (pool->in_use)
	{
		cp_stats_reset(&pool->stats);
		cp_stats_leased(&pool->stats, pool->counts[CP_SLOT_LEASED]);
		cp_stats_waiting(&pool->stats, pool->waiting);
	}
	LWLockRelease(cp_shmem_pool_lock(p));
}

void
cp_pool_count_transaction(int slot, uint64 generation, CpOutcome outcome)
{
	int p = cp_pool_lock_of(slot, generation);

	if (p == CP_NONE)
		return;
	cp_stats_transaction(&cp_pools[p].stats, outcome);
	LWLockRelease(cp_shmem_pool_lock(p));
}

bool
cp_pool_read_latency(int p, uint64 generation, CpLatency kind, CpHistogram *histogram)
{
	CpSharedPool *pool = &cp_pools[p];
	bool is_it;

	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	is_it = pool->in_use && pool->generation == generation;
	if (is_it)
		*histogram = pool->stats.latency[kind];
	LWLockRelease(cp_shmem_pool_lock(p));
	return is_it;
}

bool
cp_pool_take_interval(int p, CpPoolInterval *interval)
{
	CpSharedPool *pool = &cp_pools[p];
	bool in_use;

	cp_pool_lock(p);
	in_use = pool->in_use;
	if (in_use)
	{
		CpStats *stats = &pool->stats;

		interval->generation = pool->generation;
		interval->counters = stats->counters;
		interval->extremes = stats->extremes;
		interval->breaker_time = cp_pool_breaker_time(pool, cp_now());
		interval->wait = stats->latency[CP_LATENCY_WAIT];
		interval->checkout = stats->latency[CP_LATENCY_CHECKOUT];
		memset(&stats->extremes, 0, sizeof(stats->extremes));
		stats->extremes.peak_leased = pool->counts[CP_SLOT_LEASED];
		stats->extremes.peak_waiting = pool->waiting;
	}
	LWLockRelease(cp_shmem_pool_lock(p));
	return in_use;
}

void
cp_pool_set_remote_limit(int p, uint64 generation, int max_connections)
{
	cp_pool_lock(p);
	if (cp_pools[p].in_use && cp_pools[p].generation == generation)
		cp_pools[p].remote_max_connections = Max(max_connections, 0);
	LWLockRelease(cp_shmem_pool_lock(p));
}

bool
cp_pool_holder_runs(int pid)
{
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		volatile CpSharedSlot *slot = &cp_slots[i];

		if (slot->holder_pid == pid && cp_slot_running_since(&cp_slots[i]) != 0)
			return true;
	}
	return false;
}

static bool
is_unused(CpSharedSlot *slot, CpTime ran_at)
{
	return cp_slot_running_since(slot) == 0 &&
		(CpTime) pg_atomic_read_u64(&slot->ran_at) == ran_at;
}

bool
cp_slot_report_leak(int i, uint64 lease, CpLeakClass class, CpTime ran_at, bool *first)
{
	CpSharedSlot *slot = &cp_slots[i];
	int p = cp_pool_lock_of(i, cp_pool_generation(i));
	CpPoolStats *stats;
	bool is_it;

	*first = false;
	if (p == CP_NONE)
		return false;
	stats = &cp_pools[p].stats.counters;
	is_it = slot->state == CP_SLOT_LEASED && slot->lease == lease && !slot->ending &&
		(class == CP_LEAK_ABANDONED || is_unused(slot, ran_at));
	*first = is_it && slot->leak == CP_LEAK_NONE;
	if (*first)
	{
		stats->leaks++;
		cp_event_add(CP_EVENT_LEAK_FOUND, &cp_pools[p], i, cp_leak_class_name(class));
	}
	/* as what it was found first; but a session's end settles it */
	if (*first || (is_it && class == CP_LEAK_ABANDONED && slot->leak != class))
	{
		stats->leaked[class]++;
		slot->leak = class;
	}
	LWLockRelease(cp_shmem_pool_lock(p));
	return is_it;
}

static bool
waits(const CpSharedPool *pool, int pid)
{
	for (int i = pool->queue_head; i != CP_NONE; i = cp_waiters[i].next)
	{
		if (cp_waiters[i].pid == pid)
			return true;
	}
	return false;
}

static int
compare_pids(const void *a, const void *b)
{
	int one = *(const int *) a;
	int other = *(const int *) b;

	return (one > other) - (one < other);
}

int
cp_pool_blockers(int p, int pid, int **pids)
{
	int n = 0;

	*pids = palloc(cp_shared->max_slots * sizeof(int));
	LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
	if (cp_pools[p].in_use && waits(&cp_pools[p], pid))
	{
		for (int i = 0; i < cp_shared->max_slots; i++)
		{
			const CpSharedSlot *slot = &cp_slots[i];

			if (slot->pool == p &&
				(slot->state == CP_SLOT_LEASED || slot->state == CP_SLOT_CONNECTING))
				(*pids)[n++] = slot->holder_pid;
		}
	}
	LWLockRelease(cp_shmem_pool_lock(p));
	qsort(*pids, n, sizeof(int), compare_pids);
	return (int) qunique(*pids, n, sizeof(int), compare_pids);
}
