/*
 * leak.c
 *		What is a leak, telling of it once when it begins and once when it ends,
 *		and what is done about it.
 *
 * The scan runs in the broker, the rest in client backends, where leases end, at
 * a session's exit as well.  Looks at copies of slots and of what the server says
 * of its sessions; the marking itself is pool.c's, under the pool's lock.  Must
 * never throw where it tells of a lease of this very session.
 */
#include "postgres.h"

#include "leak.h"

#include <netdb.h>
#include <sys/socket.h>

#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"

#include "compat.h"
#include "events.h"

/* a lease whose last remote statement ended so recently works (microseconds) */
#define WORKS_FOR 1000000
/* a role with so many leaks in the ring replaces its own */
#define LEAKS_OF_ROLE (CP_LEAK_RING / 4)

/* of this session, which is ending: what it has left behind; 0 = nothing yet */
static uint64 just_found = 0;

/* ---- sessions ---- */

/*
 * From the copies of all sessions' states that this process has for now: a client
 * until its transaction ends, as with pg_stat_activity, the broker for one scan.
 * One's own session needs no copy, so that nothing fails while it ends.
 */
static const PgBackendStatus *
find_session(int pid)
{
	int n;

	if (pid == MyProcPid)
		return MyBEEntry;
	n = pgstat_fetch_stat_numbackends();
	for (int i = 1; i <= n; i++)
	{
		const LocalPgBackendStatus *copy = cp_local_beentry(i);

		if (copy != NULL && copy->backendStatus.st_procpid == pid)
			return &copy->backendStatus;
	}
	return NULL;
}

static bool
has_process(int pid, int procno)
{
	return procno >= 0 && procno < (int) ProcGlobal->allProcCount &&
		((volatile PGPROC *) &ProcGlobal->allProcs[procno])->pid == pid;
}

/*
 * What a session does that does not say so (track_activities).  A transaction that
 * has failed cannot be seen here.
 */
static CpLeakClass
class_by_process(int pid, int procno)
{
	const volatile PGPROC *proc;

	if (!has_process(pid, procno))
		return CP_LEAK_BUSY;
	proc = &ProcGlobal->allProcs[procno];
	if (proc->wait_event_info != WAIT_EVENT_CLIENT_READ)
		return CP_LEAK_BUSY;
	return cp_proc_in_transaction(proc) ? CP_LEAK_IDLE_IN_TRANSACTION : CP_LEAK_IDLE;
}

static CpLeakClass
class_of_session(const PgBackendStatus *session, int procno)
{
	switch (session->st_state)
	{
		case STATE_IDLE:
			return CP_LEAK_IDLE;
		case STATE_IDLEINTRANSACTION:
		case STATE_IDLEINTRANSACTION_ABORTED:
			return CP_LEAK_IDLE_IN_TRANSACTION;
		case STATE_UNDEFINED:
		case STATE_DISABLED:
			return class_by_process(session->st_procpid, procno);
		default:
			return CP_LEAK_BUSY;
	}
}

/* As client_addr of pg_stat_activity shows it; empty for a local client, or none. */
static void
copy_client(const PgBackendStatus *session, char *to)
{
	const struct sockaddr_storage *addr = &session->st_clientaddr.addr;

	to[0] = '\0';
	if (addr->ss_family != AF_INET && addr->ss_family != AF_INET6)
		return;
	if (getnameinfo((const struct sockaddr *) addr, session->st_clientaddr.salen, to,
					CP_CLIENT_LEN, NULL, 0, NI_NUMERICHOST) == 0)
		clean_ipv6_addr(addr->ss_family, to);
	else
		to[0] = '\0';
}

bool
cp_leak_holder(int pid, int procno, CpHolderInfo *info)
{
	const PgBackendStatus *session = find_session(pid);

	info->application[0] = info->client[0] = '\0';
	if (session == NULL)
	{
		/* younger than the copy, or gone */
		info->class = class_by_process(pid, procno);
		return has_process(pid, procno);
	}
	info->class = class_of_session(session, procno);
	strlcpy(info->application, session->st_appname, CP_APPLICATION_LEN);
	copy_client(session, info->client);
	return true;
}

/* ---- classes ---- */

static bool
is_working(const CpSlotInfo *slot, CpTime now)
{
	CpTime threshold = (CpTime) slot->leak_threshold * 1000;

	return slot->running_since != 0 ||
		(slot->ran_at != 0 && now - slot->ran_at < Min(threshold, WORKS_FOR));
}

CpLeakClass
cp_leak_classify(const CpSlotInfo *slot, CpTime now)
{
	CpHolderInfo holder;

	if (slot->state != CP_SLOT_LEASED || slot->leak_threshold <= 0 ||
		now - slot->leased_at < (CpTime) slot->leak_threshold * 1000)
		return CP_LEAK_NONE;
	if (is_working(slot, now))
		return CP_LEAK_WORKING;
	/* it has just gone: its end will tell what becomes of the lease */
	if (!cp_leak_holder(slot->holder_pid, slot->holder_proc, &holder))
		return CP_LEAK_NONE;
	/* on another lease, perhaps */
	if (holder.class == CP_LEAK_BUSY && cp_pool_holder_runs(slot->holder_pid))
		return CP_LEAK_WORKING;
	return holder.class;
}

const char *
cp_leak_class_name(CpLeakClass class)
{
	switch (class)
	{
		case CP_LEAK_NONE:
			return NULL;
		case CP_LEAK_WORKING:
			return "working";
		case CP_LEAK_IDLE:
			return "idle";
		case CP_LEAK_IDLE_IN_TRANSACTION:
			return "idle in transaction";
		case CP_LEAK_BUSY:
			return "busy elsewhere";
		case CP_LEAK_ABANDONED:
			return "abandoned";
	}
	return NULL;
}

const char *
cp_leak_end_name(CpLeakEnd end)
{
	switch (end)
	{
		case CP_LEAK_CHECKED_IN:
			return "checked in";
		case CP_LEAK_TRANSACTION_ENDED:
			return "transaction ended";
		case CP_LEAK_SESSION_ENDED:
			return "session ended";
		case CP_LEAK_RECLAIMED:
			return "reclaimed";
		case CP_LEAK_LOST:
			return "connection lost";
	}
	return NULL;
}

/* ---- one begins ---- */

static double
seconds_held(const CpSlotInfo *slot)
{
	return (cp_now() - slot->leased_at) / 1e6;
}

/*
 * The texts are bytes of the holder's database; the broker, which has none, passes
 * them on as the holder's own messages would be written.
 */
static void
warn(const CpSlotInfo *slot, CpLeakClass class)
{
	ereport(WARNING,
			(errmsg("connection of pool \"%s\" leaked: held by pid %d for %.1f s (%s)",
					slot->name, slot->holder_pid, seconds_held(slot),
					cp_leak_class_name(class)),
			 slot->stack[0] == '\0' ?
				 errdetail("Lease " UINT64_FORMAT " was taken by: %s", slot->lease, slot->sql) :
				 errdetail("Lease " UINT64_FORMAT " was taken by: %s\nCall stack: %s",
						   slot->lease, slot->sql, slot->stack),
			 slot->is_explicit ?
				 errhint("The session should give it back with conpool.checkin(); see view "
						 "conpool.leaks and the options leak_threshold and leak_action.") :
				 errhint("It ends with the session or transaction, as pool_mode says; see view "
						 "conpool.leaks and the options leak_threshold and leak_action."),
			 errhidestmt(true),
			 errhidecontext(true)));
}

/* Marks it, and tells if that is new; false if it is not held like that any more. */
static bool
report(const CpSlotInfo *slot, CpLeakClass class, bool *first)
{
	if (!cp_slot_report_leak(slot->slot, slot->lease, class, slot->ran_at, first))
		return false;
	if (*first)
		warn(slot, class);
	return true;
}

/* ---- leak_action ---- */

static void
cancel(const CpSlotInfo *slot)
{
	if (slot->leak_acted ||
		!cp_pool_cancel_holder(slot->slot, slot->generation, slot->lease, slot->ran_at))
		return;
	ereport(LOG,
			(errmsg("canceled the statement of pid %d, which holds a leaked connection of "
					"pool \"%s\"",
					slot->holder_pid, slot->name),
			 errdetail("Lease " UINT64_FORMAT " has been held for %.1f s (leak_action is "
					   "\"cancel\").",
					   slot->lease, seconds_held(slot))));
}

static void
say_not_reclaimed(const CpSlotInfo *slot)
{
	ereport(LOG,
			(errmsg("cannot reclaim a leaked connection of pool \"%s\" from pid %d",
					slot->name, slot->holder_pid),
			 errdetail("Lease " UINT64_FORMAT " has a connection that is not shared: only its "
					   "session can end it.",
					   slot->lease)));
}

static void
say_reclaimed(const CpSlotInfo *slot, const char *why)
{
	ereport(LOG,
			(errmsg("reclaimed a leaked connection of pool \"%s\" from pid %d",
					slot->name, slot->holder_pid),
			 errdetail("Lease " UINT64_FORMAT " was %s.", slot->lease, why)));
}

/* first: it was not known for a leak before. */
static void
reclaim(const CpSlotInfo *slot, CpLeakClass class, bool first)
{
	CpLeakRecord record;
	char why[CP_EVENT_DETAIL_LEN];

	snprintf(why, sizeof(why), "held for %.1f s, %s (leak_action is \"reclaim\")",
			 seconds_held(slot), cp_leak_class_name(class));
	switch (cp_pool_reclaim(slot->slot, slot->generation, slot->lease, InvalidOid, why,
							slot->ran_at, &record))
	{
		case CP_RECLAIM_OK:
			say_reclaimed(slot, why);
			cp_leak_over(&record, CP_LEAK_RECLAIMED);
			break;
		case CP_RECLAIM_UNSHARED:
			if (first)
				say_not_reclaimed(slot);
			break;
		case CP_RECLAIM_NO_LEASE:
		case CP_RECLAIM_WORKING:
			/* it is over, or none any more */
			break;
	}
}

static void
act(const CpSlotInfo *slot, CpLeakClass class, bool first)
{
	if (slot->leak_action == CP_LEAK_RECLAIM)
		reclaim(slot, class, first);
	else if (slot->leak_action == CP_LEAK_CANCEL && class == CP_LEAK_BUSY)
		cancel(slot);
}

static void
examine(const CpSlotInfo *slot)
{
	CpLeakClass class = cp_leak_classify(slot, cp_now());
	bool first = false;

	if (class == CP_LEAK_NONE || class == CP_LEAK_WORKING)
		return;
	if (slot->leak == CP_LEAK_NONE && !report(slot, class, &first))
		return;
	act(slot, class, first);
}

void
cp_leak_scan(void)
{
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		CpSlotInfo slot;

		if (((volatile CpSharedSlot *) &cp_slots[i])->state == CP_SLOT_LEASED &&
			cp_slot_read(i, &slot))
			examine(&slot);
	}
	/* cheap if nobody was looked at */
	pgstat_clear_backend_activity_snapshot();
}

void
cp_leak_abandoned(int i, uint64 lease)
{
	CpSlotInfo slot;
	bool first;

	if (cp_slot_read(i, &slot) && slot.lease == lease &&
		report(&slot, CP_LEAK_ABANDONED, &first) && first)
		just_found = lease;
}

/* ---- one is over ---- */

static void
say_over(const CpLeakRecord *record)
{
	double held = Max(record->ended_at - record->since, 0) / 1e6;
	bool given_back = record->end == CP_LEAK_CHECKED_IN ||
		record->end == CP_LEAK_TRANSACTION_ENDED;

	ereport(LOG_SERVER_ONLY,
			(given_back ?
				 errmsg("not a leak after all: lease " UINT64_FORMAT " of pool \"%s\" was given "
						"back after %.1f s",
						record->lease, record->pool, held) :
				 errmsg("leak is over: lease " UINT64_FORMAT " of pool \"%s\" ended after "
						"%.1f s (%s)",
						record->lease, record->pool, held, cp_leak_end_name(record->end)),
			 errdetail("It was found \"%s\", and was taken by: %s",
					   cp_leak_class_name(record->class), record->sql),
			 errhidestmt(true),
			 errhidecontext(true)));
}

/* Under the registry lock; NULL if the pool is gone. */
static const CpSharedPool *
find_pool(const CpPoolKey *key)
{
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		if (cp_pools[p].in_use && memcmp(&cp_pools[p].key, key, sizeof(*key)) == 0)
			return &cp_pools[p];
	}
	return NULL;
}

/*
 * The place of the oldest one; of a role that has many, its own oldest: whoever
 * leaks on and on shall not push out what others want to see.
 */
static CpLeakRecord *
place_in_ring(Oid role)
{
	CpLeakRecord *ring = cp_shared->leak_ring;
	CpLeakRecord *oldest = &ring[0];
	CpLeakRecord *oldest_own = NULL;
	int own = 0;

	if (cp_shared->leak_count < CP_LEAK_RING)
		return &ring[cp_shared->leak_count];
	for (int i = 0; i < CP_LEAK_RING; i++)
	{
		if (ring[i].number < oldest->number)
			oldest = &ring[i];
		if (ring[i].role != role)
			continue;
		own++;
		if (oldest_own == NULL || ring[i].number < oldest_own->number)
			oldest_own = &ring[i];
	}
	return own >= LEAKS_OF_ROLE ? oldest_own : oldest;
}

static void
put_into_ring(const CpLeakRecord *record)
{
	CpLeakRecord *place = place_in_ring(record->role);

	*place = *record;
	place->number = ++cp_shared->leak_count;
}

static void
add_holder(CpLeakRecord *record)
{
	const PgBackendStatus *session = find_session(record->pid);

	record->application[0] = record->client[0] = '\0';
	if (session == NULL)
		return;
	strlcpy(record->application, session->st_appname, CP_APPLICATION_LEN);
	copy_client(session, record->client);
}

void
cp_leak_over(CpLeakRecord *record, CpLeakEnd end)
{
	add_holder(record);
	record->end = end;
	record->ended_at = GetCurrentTimestamp();

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	put_into_ring(record);
	cp_event_add(CP_EVENT_LEAK_OVER, find_pool(&record->key), record->slot,
				 cp_leak_end_name(end));
	LWLockRelease(cp_shmem_registry_lock());

	/* else that it was found, and why it ends, has just been told */
	if (record->lease != just_found)
		say_over(record);
}

/* ---- the ring ---- */

static int
compare_newest_first(const void *a, const void *b)
{
	uint64 one = ((const CpLeakRecord *) a)->number;
	uint64 other = ((const CpLeakRecord *) b)->number;

	return one < other ? 1 : one > other ? -1 :
										   0;
}

int
cp_leak_recent(CpLeakRecord **records)
{
	int n;

	*records = palloc(CP_LEAK_RING * sizeof(CpLeakRecord));
	LWLockAcquire(cp_shmem_registry_lock(), LW_SHARED);
	n = (int) Min(cp_shared->leak_count, CP_LEAK_RING);
	memcpy(*records, cp_shared->leak_ring, n * sizeof(CpLeakRecord));
	LWLockRelease(cp_shmem_registry_lock());
	qsort(*records, n, sizeof(CpLeakRecord), compare_newest_first);
	return n;
}

void
cp_leak_restore(const CpLeakRecord *record)
{
	put_into_ring(record);
}
