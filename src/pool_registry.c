/*
 * pool_registry.c
 *		Which pools there are, and which one goes when there is no place left.
 *
 * Runs in client backends, in the reader and in the broker.  The registry's lock
 * is taken before a pool's.
 */
#include "postgres.h"

#include "pool.h"

#include "error_stats.h"
#include "events.h"
#include "pool_internal.h"
#include "statement_stats.h"

/* a server's pool gives way only when unused for so long, in microseconds */
#define DISUSE_TIME (10 * USECS_PER_SEC)

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

/*
 * Nobody uses, opens, cleans or waits for any of its connections.  A pause
 * protects it, but not an empty pool of a connection string: anybody could fill
 * the registry with those.
 */
static bool
is_quiet(const CpSharedPool *pool)
{
	bool is_kept = pool->paused &&
		!(pool->key.kind == CP_POOL_CONNINFO && cp_pool_size(pool) == 0);

	return pool->waiting == 0 && !is_kept &&
		cp_pool_size(pool) == pool->counts[CP_SLOT_IDLE] + pool->counts[CP_SLOT_CLOSING];
}

/*
 * Looks for a pool that may be given up, with the registry locked: the one
 * unused for longest, and at least since `unused_since`, that is quiet and, if
 * asked, empty.
 */
static int
find_victim(CpPoolKind kind, bool empty, CpTime unused_since)
{
	int victim = CP_NONE;
	CpTime oldest = unused_since;

	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		CpSharedPool *pool = &cp_pools[p];

		cp_pool_lock(p);
		if (pool->in_use && pool->key.kind == kind && is_quiet(pool) &&
			(!empty || cp_pool_size(pool) == 0) && pool->last_used < oldest)
		{
			oldest = pool->last_used;
			victim = p;
		}
		LWLockRelease(cp_shmem_pool_lock(p));
	}
	return victim;
}

/* Gives a pool's place up if it is empty and, still, quiet or dropped. */
static bool
remove_pool(int p, bool dropped)
{
	CpSharedPool *pool = &cp_pools[p];
	bool removed;

	cp_pool_lock(p);
	removed = pool->in_use && cp_pool_size(pool) == 0 &&
		(dropped ? pool->dropped && pool->waiting == 0 : is_quiet(pool));
	if (removed)
		pool->in_use = false;
	LWLockRelease(cp_shmem_pool_lock(p));
	if (!removed)
		return false;
	/* it may have left the queue of those who starve unnoticed */
	cp_server_unreserve(pool->server, p);
	cp_slot_unreserve(p);
	cp_server_unref(pool->server);
	pool->server = CP_NONE;
	return true;
}

void
cp_pool_remove(int p)
{
	CpPoolKey key;
	bool removed;

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	key = cp_pools[p].key;
	removed = remove_pool(p, true);
	LWLockRelease(cp_shmem_registry_lock());
	/* nothing will ever have that key again, and nobody could reset it */
	if (removed)
	{
		cp_statement_stats_reset(&key);
		cp_error_stats_reset(&key);
	}
	/* whoever waits for it to be drained learns that it is gone */
	ConditionVariableBroadcast(&cp_shared->drained);
}

/*
 * Makes room in the registry, which is locked.  Ad-hoc pools go first: an empty
 * one at once; else *closing is set to an idle one, whose connections the
 * caller is to close for those who come later.  Then pools of servers, in the
 * same way, but idle ones only when not used for a while: their server may have
 * been dropped.  CP_NONE: there is no place now.
 */
static int
evict_pool(int *closing)
{
	CpTime now = cp_now();
	int victim = find_victim(CP_POOL_CONNINFO, true, CP_FOREVER);

	if (victim == CP_NONE)
	{
		*closing = find_victim(CP_POOL_CONNINFO, false, CP_FOREVER);
		if (*closing != CP_NONE)
			return CP_NONE;
		victim = find_victim(CP_POOL_SERVER, true, CP_FOREVER);
	}
	if (victim != CP_NONE && remove_pool(victim, false))
		return victim;
	*closing = find_victim(CP_POOL_SERVER, false, now - DISUSE_TIME);
	return CP_NONE;
}

/* A place that nobody has. */
static int
vacant_place(void)
{
	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		if (!cp_pools[p].in_use)
			return p;
	}
	return CP_NONE;
}

static int
unused_pool(int *closing)
{
	int p = vacant_place();

	return p != CP_NONE ? p : evict_pool(closing);
}

static void
clear_pool(CpSharedPool *pool)
{
	memset(pool, 0, sizeof(*pool));
	pool->idle_head = pool->idle_tail = CP_NONE;
	pool->queue_head = pool->queue_tail = CP_NONE;
	pool->prober = CP_NONE;
}

/* Makes the pool in an entry that is not in use; false if its server has no place. */
static bool
init_pool(int p, const CpPoolKey *key, const CpPoolOptions *options, bool uncommitted)
{
	CpSharedPool *pool = &cp_pools[p];
	int server = CP_NONE;
	bool paused = cp_shared->all_paused;

	if (key->kind == CP_POOL_SERVER)
		server = cp_server_find(key->database, key->server, true);
	if (server != CP_NONE)
		paused = cp_servers[server].paused;
	else if (key->kind == CP_POOL_SERVER)
		return false;
	cp_server_ref(server);
	/* what may be rolled back must not be in force for the others of its server */
	if (!uncommitted)
		cp_server_set_limit(server, options->max_server_size);

	cp_pool_lock(p);
	clear_pool(pool);
	pool->key = *key;
	pool->server = server;
	pool->paused = paused;
	pool->options = *options;
	pool->last_used = cp_now();
	pool->generation = ++cp_shared->last_pool_generation;
	cp_stats_reset(&pool->stats);
	pool->in_use = true;
	cp_pool_look_after(pool);
	LWLockRelease(cp_shmem_pool_lock(p));
	return true;
}

/* Somebody has just found it in the catalogs; a server may have been renamed since. */
static void
set_found(int p, const char *name)
{
	cp_pool_lock(p);
	strlcpy(cp_pools[p].name, name, CP_POOL_NAME_LEN);
	cp_pools[p].dropped = false;
	LWLockRelease(cp_shmem_pool_lock(p));
}

int
cp_pool_find(const CpPoolKey *key, const char *name, bool uncommitted,
			 const CpPoolOptions *options, uint64 *generation)
{
	int closing = CP_NONE;
	bool is_known = true;
	int p;

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	p = find_pool(key);
	if (p == CP_NONE)
	{
		is_known = false;
		p = unused_pool(&closing);
		if (p != CP_NONE && !init_pool(p, key, options, uncommitted))
			p = CP_NONE;
	}
	if (p == CP_NONE)
		p = CP_OVERFLOW_POOL;
	else if (!is_known || !uncommitted)
		set_found(p, name);
	*generation = cp_pools[p].generation;
	LWLockRelease(cp_shmem_registry_lock());
	if (closing != CP_NONE)
		(void) cp_pool_close_idle_of(closing, CP_CLOSE_GIVEN);
	return p;
}

/* Connections of another definition than this are replaced. */
static void
set_definition(CpSharedPool *pool, const CpFingerprint *fingerprint, CpAftermath *after)
{
	pool->defined_at = cp_now();
	if (pool->defined && memcmp(&pool->definition, fingerprint, sizeof(*fingerprint)) == 0)
		return;
	if (pool->defined)
		cp_event_add(CP_EVENT_SETTINGS_CHANGED, pool, CP_NONE, "connection options");
	pool->defined = true;
	pool->definition = *fingerprint;
	pool->remote_max_connections = 0;
	/* what failed before may go well now */
	pool->upkeep_failures = 0;
	pool->upkeep_at = 0;
	/* an order that runs is for the old one */
	pool->order_until = 0;
	pool->ceiling_until = 0;
	cp_pool_forget_failures(pool, fingerprint);
	pg_atomic_write_u32(&cp_shared->upkeep_wanted, 1);
	after->wake_broker = true;
}

/* Options that were read, and a definition unless that is NULL. */
static void
update_pool(int p, uint64 generation, const CpPoolOptions *options,
			const CpFingerprint *fingerprint)
{
	CpSharedPool *pool = &cp_pools[p];
	CpPoolOptions in_force = *options;
	CpAftermath after = {0};

	cp_pool_lock(p);
	if (!pool->in_use || pool->generation != generation)
	{
		LWLockRelease(cp_shmem_pool_lock(p));
		return;
	}
	/* these two may be a session's own */
	in_force.pool_mode = pool->options.pool_mode;
	in_force.checkout_timeout = pool->options.checkout_timeout;
	cp_pool_set_options(p, &in_force, &after);
	if (fingerprint != NULL)
		set_definition(pool, fingerprint, &after);
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
}

int
cp_pool_define(const CpPoolKey *key, const char *name, const CpPoolOptions *options,
			   const CpFingerprint *fingerprint, bool create, uint64 *generation)
{
	int p;

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	p = find_pool(key);
	if (p == CP_NONE && create)
	{
		/* nobody else's is given up for one that nobody has asked for */
		p = vacant_place();
		if (p != CP_NONE && !init_pool(p, key, options, false))
			p = CP_NONE;
	}
	if (p != CP_NONE)
	{
		set_found(p, name);
		*generation = cp_pools[p].generation;
	}
	LWLockRelease(cp_shmem_registry_lock());
	if (p != CP_NONE)
		update_pool(p, *generation, options, fingerprint);
	return p;
}

void
cp_pool_set_defaults(int pool, uint64 generation, const CpPoolOptions *options)
{
	update_pool(pool, generation, options, NULL);
}

/* ---- over a restart ---------------------------------------------------------- */

/*
 * Pools of connection strings are not kept: their keys are digests with a secret
 * that each start draws anew.
 */
bool
cp_pool_save(int p, CpPoolRecord *record)
{
	const CpSharedPool *pool = &cp_pools[p];

	if (!pool->in_use || pool->key.kind != CP_POOL_SERVER || pool->dropped)
		return false;
	record->key = pool->key;
	memcpy(record->name, pool->name, CP_POOL_NAME_LEN);
	record->options = pool->options;
	record->stats = pool->stats;
	record->stats.counters.total_breaker_time = cp_pool_breaker_time(pool, cp_now());
	return true;
}

/* The options in the record are those last in force; who comes brings his own. */
int
cp_pool_restore(const CpPoolRecord *record, uint64 *generation)
{
	int p = CP_NONE;

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	if (find_pool(&record->key) == CP_NONE)
		p = vacant_place();
	if (p != CP_NONE && !init_pool(p, &record->key, &record->options, false))
		p = CP_NONE;
	if (p != CP_NONE)
	{
		CpSharedPool *pool = &cp_pools[p];

		memcpy(pool->name, record->name, CP_POOL_NAME_LEN);
		pool->stats = record->stats;
		/* instants of the clock that ran before mean nothing now */
		pool->stats.counters.reset_at = 0;
		memset(&pool->stats.extremes, 0, sizeof(pool->stats.extremes));
		*generation = pool->generation;
	}
	LWLockRelease(cp_shmem_registry_lock());
	return p;
}
