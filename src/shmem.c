/*
 * shmem.c
 *		Lays out the shared memory of conpool.
 *
 * Runs in the postmaster at start; its small helpers (locks, latches) run in
 * every process.  Knows what lies where, not what it means: that is pool.c's.
 */
#include "postgres.h"

#include "shmem.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "compat.h"
#include "error.h"
#include "error_stats.h"
#include "events.h"
#include "guc.h"
#include "history.h"
#include "statement_stats.h"

#define TRANCHE "conpool"

CpShared *cp_shared = NULL;
CpSharedPool *cp_pools = NULL;
CpSharedSlot *cp_slots = NULL;
CpSharedWaiter *cp_waiters = NULL;
CpSharedServer *cp_servers = NULL;

/* the registry's lock, one for each table beside the pools, one for each pool */
static LWLockPadded *locks = NULL;

static void (*begin_hook)(void) = NULL;

/* Tables that are their own modules' business. */
static const struct Table
{
	const char *name;
	Size (*size)(void);
	void (*attach)(void *place, bool is_new);
} tables[] = {
	{"conpool events", cp_events_size, cp_events_attach},
	{"conpool history", cp_history_size, cp_history_attach},
	{"conpool statements", cp_statement_stats_size, cp_statement_stats_attach},
	{"conpool errors", cp_error_stats_size, cp_error_stats_attach},
};

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static Size
pools_size(void)
{
	return mul_size(cp_guc_max_pools + 1, sizeof(CpSharedPool));
}

/* pools of so many different servers, and some that have none at the time */
static int
server_count(void)
{
	return cp_guc_max_pools + CP_SPARE_SERVERS;
}

static Size
servers_size(void)
{
	return mul_size(server_count(), sizeof(CpSharedServer));
}

static Size
slots_size(void)
{
	return mul_size(cp_guc_max_connections, sizeof(CpSharedSlot));
}

/* any process with a PGPROC may wait, whatever kind it is */
static int
waiter_count(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

static Size
waiters_size(void)
{
	return mul_size(waiter_count(), sizeof(CpSharedWaiter));
}

static void
request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(MAXALIGN(sizeof(CpShared)));
	RequestAddinShmemSpace(MAXALIGN(pools_size()));
	RequestAddinShmemSpace(MAXALIGN(slots_size()));
	RequestAddinShmemSpace(MAXALIGN(waiters_size()));
	RequestAddinShmemSpace(MAXALIGN(servers_size()));
	for (int i = 0; i < lengthof(tables); i++)
		RequestAddinShmemSpace(MAXALIGN(tables[i].size()));
	RequestNamedLWLockTranche(TRANCHE, 1 + CP_TABLE_LOCKS + cp_guc_max_pools + 1);
}

static void
init_tunnels(void)
{
	Assert(cp_guc_tunnel_workers <= CP_TUNNELS);
	for (int i = 0; i < CP_TUNNELS; i++)
	{
		CpSharedTunnel *tunnel = &cp_shared->tunnels[i];

		pg_atomic_init_u32(&tunnel->pid, 0);
		pg_atomic_init_u32(&tunnel->connections, 0);
		pg_atomic_init_u64(&tunnel->started_at, 0);
		pg_atomic_init_u64(&tunnel->opened, 0);
		pg_atomic_init_u64(&tunnel->failed, 0);
		pg_atomic_init_u64(&tunnel->bytes_sent, 0);
		pg_atomic_init_u64(&tunnel->bytes_received, 0);
		pg_atomic_init_u64(&tunnel->cpu_time, 0);
	}
}

static void
init_header(void)
{
	memset(cp_shared, 0, sizeof(*cp_shared));
	cp_shared->max_slots = cp_guc_max_connections;
	cp_shared->max_pools = cp_guc_max_pools + 1; /* and the overflow pool */
	cp_shared->max_waiters = waiter_count();
	cp_shared->max_servers = server_count();
	if (!pg_strong_random(cp_shared->secret, sizeof(cp_shared->secret)))
		ereport(FATAL,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate conpool's secret")));
	pg_atomic_init_u64(&cp_shared->next_lease, 1);
	pg_atomic_init_u64(&cp_shared->broker_epoch, 0);
	pg_atomic_init_u32(&cp_shared->broker_proc, 0);
	pg_atomic_init_u32(&cp_shared->broker_pid, 0);
	pg_atomic_init_u32(&cp_shared->starved_pools, 0);
	pg_atomic_init_u32(&cp_shared->upkeep_wanted, 0);
	pg_atomic_init_u32(&cp_shared->dialer_pid, 0);
	pg_atomic_init_u32(&cp_shared->reader_pid, 0);
	pg_atomic_init_u32(&cp_shared->last_read, InvalidOid);
	pg_atomic_init_u32(&cp_shared->last_bare, InvalidOid);
	init_tunnels();
	ConditionVariableInit(&cp_shared->drained);
	SpinLockInit(&cp_shared->free_mutex);
	SpinLockInit(&cp_shared->task_mutex);
	SpinLockInit(&cp_shared->mark_mutex);
	SpinLockInit(&cp_shared->reclaim_mutex);
	cp_shared->task_head = cp_shared->task_tail = CP_NONE;
	cp_shared->free_reserved_for = CP_NONE;
}

static void
init_slots(void)
{
	memset(cp_slots, 0, slots_size());
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		CpSharedSlot *slot = &cp_slots[i];

		slot->state = CP_SLOT_FREE;
		slot->pool = CP_NONE;
		slot->server = CP_NONE;
		slot->prev = CP_NONE;
		slot->next = i + 1 < cp_shared->max_slots ? i + 1 : CP_NONE;
		slot->holder_proc = CP_NONE;
		slot->next_task = CP_NONE;
		pg_atomic_init_u64(&slot->running, 0);
		pg_atomic_init_u64(&slot->ran_at, 0);
		SpinLockInit(&slot->mutex);
	}
	cp_shared->free_head = 0;
	cp_shared->free_count = cp_shared->max_slots;
}

static void
init_servers(void)
{
	memset(cp_servers, 0, servers_size());
	for (int i = 0; i < cp_shared->max_servers; i++)
	{
		SpinLockInit(&cp_servers[i].mutex);
		cp_servers[i].reserved_for = CP_NONE;
	}
}

static void
init_pools(void)
{
	CpSharedPool *overflow = &cp_pools[CP_OVERFLOW_POOL];

	memset(cp_pools, 0, pools_size());
	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		cp_pools[i].idle_head = cp_pools[i].idle_tail = CP_NONE;
		cp_pools[i].queue_head = cp_pools[i].queue_tail = CP_NONE;
		cp_pools[i].server = cp_pools[i].prober = CP_NONE;
	}

	overflow->in_use = true;
	overflow->generation = ++cp_shared->last_pool_generation;
	overflow->key.kind = CP_POOL_OVERFLOW;
	strlcpy(overflow->name, "(unpooled)", sizeof(overflow->name));
	overflow->options.max_size = cp_shared->max_slots;
	overflow->options.max_waiters = -1;
	overflow->options.connect_concurrency = cp_shared->max_slots;
	overflow->options.leak_threshold = cp_guc_pool_options.leak_threshold;
	cp_stats_reset(&overflow->stats);
}

static void
attach_tables(void)
{
	for (int i = 0; i < lengthof(tables); i++)
	{
		bool found;
		void *place = ShmemInitStruct(tables[i].name, tables[i].size(), &found);

		tables[i].attach(place, !found);
	}
}

static void
startup(void)
{
	bool is_new;
	bool found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	cp_shared = ShmemInitStruct("conpool", sizeof(CpShared), &found);
	is_new = !found;
	if (is_new)
		init_header();
	cp_pools = ShmemInitStruct("conpool pools", pools_size(), &found);
	if (!found)
		init_pools();
	cp_slots = ShmemInitStruct("conpool slots", slots_size(), &found);
	if (!found)
		init_slots();
	cp_waiters = ShmemInitStruct("conpool waiters", waiters_size(), &found);
	if (!found)
		memset(cp_waiters, 0, waiters_size());
	cp_servers = ShmemInitStruct("conpool servers", servers_size(), &found);
	if (!found)
		init_servers();
	attach_tables();
	locks = GetNamedLWLockTranche(TRANCHE);
	LWLockRelease(AddinShmemInitLock);
	if (is_new && begin_hook)
		begin_hook();
}

void
cp_shmem_request_at_start(void (*begin)(void))
{
	begin_hook = begin;
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
}

void
cp_shmem_require(void)
{
	if (likely(cp_shared != NULL))
		return;
	ereport(ERROR,
			(errcode(CP_ERRCODE_NOT_PRELOADED),
			 errmsg("conpool must be loaded via shared_preload_libraries"),
			 errhint("Add \"conpool\" to shared_preload_libraries in postgresql.conf "
					 "and restart the server.")));
}

LWLock *
cp_shmem_registry_lock(void)
{
	return &locks[0].lock;
}

LWLock *
cp_shmem_table_lock(CpTableLock which)
{
	return &locks[1 + which].lock;
}

LWLock *
cp_shmem_pool_lock(int pool)
{
	Assert(pool >= 0 && pool < cp_shared->max_pools);
	return &locks[1 + CP_TABLE_LOCKS + pool].lock;
}

int
cp_shmem_my_proc(void)
{
	return CP_MY_PROC_NUMBER;
}

void
cp_shmem_wake(int procno)
{
	SetLatch(&ProcGlobal->allProcs[procno].procLatch);
}

void
cp_shmem_wake_broker(void)
{
	if (cp_shmem_broker_epoch() != 0)
		cp_shmem_wake((int) pg_atomic_read_u32(&cp_shared->broker_proc));
}
