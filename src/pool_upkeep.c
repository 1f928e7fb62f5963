/*
 * pool_upkeep.c
 *		What happens to connections without anybody asking: which are closed,
 *		checked, or opened ahead of demand.
 *
 * The first half runs in the broker, on its tick; the second tells reader and
 * dialer how many connections a pool lacks, and books what they do.  Decides
 * from shared memory alone; the closing, checking and opening is done by others.
 * Never throws, never waits.
 */
#include "postgres.h"

#include "pool.h"

#include "miscadmin.h"

#include "error_stats.h"
#include "events.h"
#include "pool_internal.h"

/* an order is given to the dialer again after this time, in microseconds */
#define ORDER_TIME (1 * USECS_PER_SEC)
/* suspects are checked at once, by the broker, once in this time, in microseconds */
#define SUSPICION_TIME (1 * USECS_PER_SEC)
/* a validation that takes so long, in microseconds, is no usual one */
#define HANGING (1 * USECS_PER_SEC)
/* a quarter of a pool, at most, is closed for its age within a second */
#define EXPIRY_SHARE 4
#define EXPIRY_TIME (1 * USECS_PER_SEC)

/* ---- what goes ------------------------------------------------------------- */

/* May it go for having been idle, above min_size? */
static bool
is_idle_too_long(const CpSharedPool *pool, const CpSharedSlot *slot, CpTime now)
{
	CpTime limit = (CpTime) pool->options.idle_timeout * 1000;

	return limit > 0 && now - slot->idle_since >= limit &&
		cp_pool_live(pool) > pool->options.min_size;
}

/* They go by and by, or a setting made shorter would end all at once. */
bool
cp_slot_expires(CpSharedPool *pool, const CpSharedSlot *slot, CpTime now)
{
	if (now < cp_slot_expires_at(pool, slot))
		return false;
	if (now >= pool->expiries_until)
	{
		pool->expiries = Max(cp_pool_live(pool) / EXPIRY_SHARE, 1);
		pool->expiries_until = now + EXPIRY_TIME;
	}
	if (pool->expiries == 0)
		return false;
	pool->expiries--;
	pool->stats.counters.expired++;
	return true;
}

/* Closes an idle connection that has had its time. */
static void
close_if_over(CpSharedPool *pool, int i, CpTime now, CpAftermath *after)
{
	CpSharedSlot *slot = &cp_slots[i];
	CpCloseReason reason;

	if (is_idle_too_long(pool, slot, now))
	{
		pool->stats.counters.idle_closed++;
		reason = CP_CLOSE_IDLE;
	}
	else if (cp_slot_is_outdated(pool, slot))
		reason = pool->dropped ? CP_CLOSE_DROPPED : CP_CLOSE_OUTDATED;
	else if (cp_server_is_oversized(pool->server))
		reason = CP_CLOSE_OVERSIZED;
	else if (cp_slot_expires(pool, slot, now))
		reason = CP_CLOSE_LIFETIME;
	else
		return;
	cp_slot_close(i, reason, after);
}

/* ---- what is checked --------------------------------------------------------- */

static void
begin_validation(CpSharedPool *pool, int i, CpAftermath *after)
{
	pool->stats.counters.validations++;
	cp_slot_set_state(i, CP_SLOT_VALIDATING);
	cp_slot_push_task(i, after);
}

/*
 * How many are out of reach for being checked?  Those that hang are not counted:
 * they must not keep the others from their turn.
 */
static int
count_checking(const CpSharedPool *pool, CpTime now)
{
	int n = 0;

	for (int i = pool->idle_head; i != CP_NONE; i = cp_slots[i].next)
	{
		if (cp_slots[i].state == CP_SLOT_VALIDATING && now - cp_slots[i].state_since < HANGING)
			n++;
	}
	return n;
}

/* The idle connection that has gone unchecked for longest, if that is too long. */
static int
find_unchecked(const CpSharedPool *pool, CpTime checked_before)
{
	int found = CP_NONE;

	for (int i = pool->idle_head; i != CP_NONE; i = cp_slots[i].next)
	{
		if (cp_slots[i].state == CP_SLOT_IDLE && cp_slots[i].checked_at <= checked_before &&
			cp_slot_is_donated(&cp_slots[i]))
		{
			checked_before = cp_slots[i].checked_at;
			found = i;
		}
	}
	return found;
}

static void
validate_suspects(CpSharedPool *pool, CpAftermath *after)
{
	/* the slot keeps its place in the list */
	for (int i = pool->idle_head; i != CP_NONE; i = cp_slots[i].next)
	{
		if (cp_slots[i].state == CP_SLOT_IDLE &&
			cp_slots[i].checked_at < pool->suspect_before &&
			cp_slot_is_donated(&cp_slots[i]))
			begin_validation(pool, i, after);
	}
}

/*
 * Never more than half of the idle ones at a time, or who comes would find none;
 * but suspects at once, all of them.
 */
static void
validate_idle(CpSharedPool *pool, CpTime now, CpAftermath *after)
{
	CpTime interval = (CpTime) pool->options.validate_interval * 1000;
	int checking = count_checking(pool, now);
	int limit = Max((pool->counts[CP_SLOT_IDLE] + checking) / 2, 1);
	int i;

	validate_suspects(pool, after);
	while (interval > 0 && checking < limit &&
		   (i = find_unchecked(pool, now - interval)) != CP_NONE)
	{
		begin_validation(pool, i, after);
		checking++;
	}
}

void
cp_pool_suspect(CpSharedPool *pool, CpTime now, CpAftermath *after)
{
	bool again = now - pool->suspect_before < SUSPICION_TIME;

	/* who is granted one before the broker comes to it checks it himself */
	pool->suspect_before = now;
	/* one after the other, on purpose, would keep all of them busy being checked */
	if (again)
		return;
	pg_atomic_write_u32(&cp_shared->upkeep_wanted, 1);
	after->wake_broker = true;
}

static void
look_at_idle(CpSharedPool *pool, CpTime now, CpAftermath *after)
{
	for (int i = pool->idle_tail, prev; i != CP_NONE; i = prev)
	{
		prev = cp_slots[i].prev;
		if (cp_slots[i].state == CP_SLOT_IDLE)
			close_if_over(pool, i, now, after);
	}
	validate_idle(pool, now, after);
}

/* ---- what is lacking ----------------------------------------------------------- */

/* How many connections are to be opened ahead of demand, if the time has come. */
static int
lacking(const CpSharedPool *pool, CpTime now)
{
	int size = cp_pool_counted(pool);
	int ceiling = cp_pool_ceiling(pool, now);
	int wanted;

	if (!pool->in_use || pool->key.kind != CP_POOL_SERVER || pool->paused ||
		pool->dropped || pool->starved)
		return 0;
	wanted = Min(pool->options.min_size, ceiling);
	if (cp_server_is_full(pool->server))
		return 0;
	/* those that are closing are no use, but in the way */
	return Max(Min(wanted - (size - cp_pool_counted_in(pool, CP_SLOT_CLOSING)), ceiling - size), 0);
}

/* The first moment at which what is lacking may be opened. */
static CpTime
due_at(const CpSharedPool *pool)
{
	CpTime next = Max(pool->upkeep_at, pool->order_until);

	if (pool->breaker.state != CP_BREAKER_CLOSED)
		next = Max(next, pool->breaker.next_attempt);
	return next;
}

/* When something will be different in this pool only because time has passed. */
static CpTime
next_change(const CpSharedPool *pool, CpTime now)
{
	CpTime next = CP_FOREVER;

	if (lacking(pool, now) > 0)
		next = cp_earlier(next, due_at(pool));
	if (pool->waiting > 0 && now < pool->ceiling_until)
		next = cp_earlier(next, pool->ceiling_until);
	if (pool->waiting > 0 && pool->breaker.state != CP_BREAKER_CLOSED)
		next = cp_earlier(next, pool->breaker.next_attempt);
	/* what is due by now is dealt with by the caller, or in its own time */
	return next > now ? next : CP_FOREVER;
}

/* ---- the tick -------------------------------------------------------------------- */

static CpTime
maintain(int p, CpTime now)
{
	CpSharedPool *pool = &cp_pools[p];
	CpAftermath after = {0};
	CpTime next;
	bool is_over;

	cp_pool_lock(p);
	if (!pool->in_use)
	{
		LWLockRelease(cp_shmem_pool_lock(p));
		return CP_FOREVER;
	}
	look_at_idle(pool, now, &after);
	cp_pool_dispatch(p, &after, NULL);
	if (cp_pool_live(pool) >= pool->options.min_size)
	{
		pool->upkeep_problem.at = 0;
		pool->upkeep_failures = 0;
		pool->upkeep_at = 0;
	}
	is_over = pool->dropped && pool->waiting == 0 && cp_pool_size(pool) == 0;
	next = next_change(pool, now);
	cp_pool_unlock(p, &after);
	if (is_over)
		cp_pool_remove(p);
	return next;
}

CpTime
cp_pool_maintain(CpTime now)
{
	CpTime next = CP_FOREVER;

	/* before the look, so that what comes later is seen later */
	pg_atomic_write_u32(&cp_shared->upkeep_wanted, 0);
	pg_memory_barrier();
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		if (((volatile CpSharedPool *) &cp_pools[p])->in_use)
			next = cp_earlier(next, maintain(p, now));
	}
	return next;
}

bool
cp_pool_next_lacking(int *next, CpTime now, CpPoolKey *key)
{
	while (*next < cp_shared->max_pools)
	{
		int p = (*next)++;
		CpSharedPool *pool = &cp_pools[p];
		bool found;

		LWLockAcquire(cp_shmem_pool_lock(p), LW_SHARED);
		found = lacking(pool, now) > 0 && due_at(pool) <= now;
		if (found)
			*key = pool->key;
		LWLockRelease(cp_shmem_pool_lock(p));
		if (found)
			return true;
	}
	return false;
}

/* ---- what cannot be done ------------------------------------------------------------ */

static void
note_upkeep_problem(CpSharedPool *pool, int sqlstate, const char *message)
{
	CpTime now = cp_now();

	cp_problem_note(&pool->upkeep_problem, sqlstate, message, now);
	pool->upkeep_refused = false;
	pool->upkeep_failures++;
	/* the breaker has its own delays */
	if (pool->breaker.state == CP_BREAKER_CLOSED || pool->breaker.next_attempt <= now)
		pool->upkeep_at = now + Max(cp_breaker_backoff(pool->upkeep_failures), ORDER_TIME);
	else
		pool->upkeep_at = 0;
	pg_atomic_write_u32(&cp_shared->upkeep_wanted, 1);
}

void
cp_pool_cannot_upkeep(Oid database, const char *message)
{
	CpTime now = cp_now();

	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		CpSharedPool *pool = &cp_pools[p];

		cp_pool_lock(p);
		if (pool->in_use && pool->key.database == database && lacking(pool, now) > 0 &&
			due_at(pool) <= now)
			note_upkeep_problem(pool, 0, message);
		LWLockRelease(cp_shmem_pool_lock(p));
	}
}

/* Takes the lock of a pool that is still the same one; false with nothing locked. */
static bool
lock_same(int p, uint64 generation)
{
	cp_pool_lock(p);
	if (cp_pools[p].in_use && cp_pools[p].generation == generation)
		return true;
	LWLockRelease(cp_shmem_pool_lock(p));
	return false;
}

/* For the view of the pool, and among the errors: as nobody's. */
static void
tell_upkeep_problem(int p, uint64 generation, int sqlstate, const char *message, bool refused)
{
	CpPoolKey key;
	char name[CP_POOL_NAME_LEN];

	if (!lock_same(p, generation))
		return;
	note_upkeep_problem(&cp_pools[p], sqlstate, message);
	if (refused)
		cp_pools[p].upkeep_refused = true;
	key = cp_pools[p].key;
	memcpy(name, cp_pools[p].name, sizeof(name));
	LWLockRelease(cp_shmem_pool_lock(p));
	cp_error_stats_add(&key, name, sqlstate, message, InvalidOid, InvalidOid, 0);
	cp_shmem_wake_broker();
}

void
cp_pool_upkeep_failed(int pool, uint64 generation, int sqlstate, const char *message)
{
	tell_upkeep_problem(pool, generation, sqlstate, message, false);
}

void
cp_pool_upkeep_refused(int pool, uint64 generation, int sqlstate, const char *message)
{
	tell_upkeep_problem(pool, generation, sqlstate, message, true);
}

void
cp_pool_upkeep_allowed(int pool, uint64 generation)
{
	if (!lock_same(pool, generation))
		return;
	if (cp_pools[pool].upkeep_refused)
	{
		cp_pools[pool].upkeep_refused = false;
		cp_pools[pool].upkeep_problem.at = 0;
		cp_pools[pool].upkeep_failures = 0;
		cp_pools[pool].upkeep_at = 0;
	}
	LWLockRelease(cp_shmem_pool_lock(pool));
}

/* ---- pools whose time is over ---------------------------------------------------------- */

static void
drop(CpSharedPool *pool)
{
	if (!pool->dropped)
		cp_event_add(CP_EVENT_DROPPED, pool, CP_NONE, NULL);
	pool->dropped = true;
	pg_atomic_write_u32(&cp_shared->upkeep_wanted, 1);
}

void
cp_pool_drop(int pool, uint64 generation)
{
	if (!lock_same(pool, generation))
		return;
	drop(&cp_pools[pool]);
	LWLockRelease(cp_shmem_pool_lock(pool));
	cp_shmem_wake_broker();
}

void
cp_pool_drop_database(Oid database)
{
	cp_server_forget_database(database);
	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		cp_pool_lock(p);
		if (cp_pools[p].in_use && cp_pools[p].key.database == database)
			drop(&cp_pools[p]);
		LWLockRelease(cp_shmem_pool_lock(p));
	}
}

/* ---- reader and dialer ------------------------------------------------------------------- */

int
cp_pool_lacks(int pool, uint64 generation)
{
	CpTime now = cp_now();
	int n;

	if (!lock_same(pool, generation))
		return 0;
	n = due_at(&cp_pools[pool]) <= now ? lacking(&cp_pools[pool], now) : 0;
	/* the caller sees to it: not again at once, should that come to nothing */
	if (n > 0 && pg_atomic_read_u32(&cp_shared->dialer_pid) != 0)
		cp_pools[pool].upkeep_at = now + ORDER_TIME;
	LWLockRelease(cp_shmem_pool_lock(pool));
	return n;
}

void
cp_pool_order_runs(int pool, uint64 generation, CpTime until)
{
	if (!lock_same(pool, generation))
		return;
	cp_pools[pool].order_until = until;
	/* the order itself is what was to be waited for */
	if (cp_pools[pool].upkeep_failures == 0)
		cp_pools[pool].upkeep_at = 0;
	LWLockRelease(cp_shmem_pool_lock(pool));
	if (until != 0)
		return;
	pg_atomic_write_u32(&cp_shared->upkeep_wanted, 1);
	cp_shmem_wake_broker();
}

/* CONNECTING, held by this process though nobody has asked for it. */
static void
take_for_dialer(int p, int i, const CpFingerprint *fingerprint)
{
	CpSharedSlot *slot = &cp_slots[i];

	slot->fingerprint = *fingerprint;
	slot->ahead = true;
	cp_pool_begin_connect(p, i);
	slot->holder_proc = cp_shmem_my_proc();
	slot->holder_pid = MyProcPid;
	slot->lease = 0;
	slot->scope = CP_SCOPE_STATEMENT;
	slot->lease_role = InvalidOid;
	slot->leased_at = slot->state_since;
}

static bool
is_in_force(const CpSharedPool *pool, const CpFingerprint *fingerprint)
{
	return !pool->defined ||
		memcmp(&pool->definition, fingerprint, sizeof(*fingerprint)) == 0;
}

static const char *
what_is_full(const CpSharedPool *pool)
{
	return cp_server_is_full(pool->server) ? "max_server_size is reached" :
											 "conpool.max_connections is reached";
}

CpDial
cp_pool_dial(int p, uint64 generation, const CpFingerprint *fingerprint,
			 int *slot, uint64 *slot_generation)
{
	CpSharedPool *pool = &cp_pools[p];
	CpTime now = cp_now();
	CpAftermath after = {0};
	CpDial result = CP_DIAL_NEEDLESS;
	int i = CP_NONE;

	if (!lock_same(p, generation))
		return CP_DIAL_NEEDLESS;
	if (lacking(pool, now) > 0 && is_in_force(pool, fingerprint))
	{
		if (pool->counts[CP_SLOT_CONNECTING] >= pool->options.connect_concurrency)
			result = CP_DIAL_LATER;
		else if (cp_pool_may_open(pool, now))
		{
			i = cp_slot_allocate(p);
			if (i == CP_NONE)
				note_upkeep_problem(pool, 0, what_is_full(pool));
		}
	}
	if (i != CP_NONE)
	{
		take_for_dialer(p, i, fingerprint);
		*slot = i;
		*slot_generation = cp_slots[i].generation;
		result = CP_DIAL_OK;
	}
	cp_pool_unlock(p, &after);
	return result;
}

bool
cp_pool_order_holds(int p, uint64 generation, const CpFingerprint *fingerprint)
{
	const CpSharedPool *pool = &cp_pools[p];
	bool result;

	if (!lock_same(p, generation))
		return false;
	result = !pool->dropped && !pool->paused && is_in_force(pool, fingerprint);
	LWLockRelease(cp_shmem_pool_lock(p));
	return result;
}

void
cp_pool_dialed(int slot, uint64 generation, const CpConnected *info)
{
	CpAftermath after = {0};
	int p = cp_pool_lock_of(slot, generation);

	if (p == CP_NONE)
		return;
	Assert(cp_slots[slot].state == CP_SLOT_CONNECTING);
	cp_pool_set_connection(slot, info, cp_now());
	cp_slots[slot].dialed = true;
	cp_pool_dispatch(p, &after, NULL);
	cp_pool_unlock(p, &after);
}

bool
cp_pool_withdraw(int slot, uint64 generation)
{
	int p = cp_pool_lock_of(slot, generation);

	if (p == CP_NONE)
		return false;
	Assert(cp_slots[slot].state == CP_SLOT_CONNECTING);
	cp_slots[slot].dialed = false;
	LWLockRelease(cp_shmem_pool_lock(p));
	return true;
}

/* ---- marks ---------------------------------------------------------------------------------- */

static bool
is_marked(Oid database)
{
	for (int i = 0; i < cp_shared->mark_count; i++)
	{
		if (cp_shared->marks[i] == database)
			return true;
	}
	return false;
}

void
cp_pool_mark_database(Oid database)
{
	SpinLockAcquire(&cp_shared->mark_mutex);
	if (!OidIsValid(database) || cp_shared->mark_count == CP_MAX_MARKS)
		cp_shared->all_marked = true;
	else if (!is_marked(database))
		cp_shared->marks[cp_shared->mark_count++] = database;
	SpinLockRelease(&cp_shared->mark_mutex);
	cp_shmem_wake_broker();
}

int
cp_pool_take_marks(Oid *databases, bool *all)
{
	int n;

	SpinLockAcquire(&cp_shared->mark_mutex);
	n = cp_shared->mark_count;
	memcpy(databases, cp_shared->marks, n * sizeof(Oid));
	*all = cp_shared->all_marked;
	cp_shared->mark_count = 0;
	cp_shared->all_marked = false;
	SpinLockRelease(&cp_shared->mark_mutex);
	return n;
}
