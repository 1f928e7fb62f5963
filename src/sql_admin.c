/*
 * sql_admin.c
 *		Functions for whoever runs the server: pause(), resume(), reconnect(),
 *		warm(), close_idle(), reclaim(), reset_stats() and recommended_size().
 *
 * Runs in client backends.  Finds out which pools are meant and whether the
 * caller may; what is done to them is the business of pool.  All pools are for
 * superusers, those of a server for its owner, that of a connection string for
 * the role whose pool it is.  Who may call reset_stats() is said by GRANT and
 * REVOKE in the extension's script.
 */
#include "postgres.h"

#include "catalog/objectaddress.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "args.h"
#include "compat.h"
#include "conninfo.h"
#include "error.h"
#include "error_stats.h"
#include "events.h"
#include "leak.h"
#include "lease.h"
#include "pool.h"
#include "shmem.h"
#include "statement_stats.h"

PG_FUNCTION_INFO_V1(conpool_pause);
PG_FUNCTION_INFO_V1(conpool_resume);
PG_FUNCTION_INFO_V1(conpool_reconnect);
PG_FUNCTION_INFO_V1(conpool_warm);
PG_FUNCTION_INFO_V1(conpool_close_idle);
PG_FUNCTION_INFO_V1(conpool_reclaim);
PG_FUNCTION_INFO_V1(conpool_reset_stats);
PG_FUNCTION_INFO_V1(conpool_recommended_size);

/* ---- which pools, and who may ---------------------------------------------- */

typedef enum Rights
{
	RIGHTS_OWNER,	/* the caller must own what it names */
	RIGHTS_GRANTED, /* to be allowed to call the function is enough */
} Rights;

static CpPoolSet *
new_set(void)
{
	CpPoolSet *set = palloc0(sizeof(CpPoolSet));

	set->pool = CP_NONE;
	return set;
}

static List *
all_pools(Rights rights)
{
	CpPoolSet *set = new_set();

	if (rights == RIGHTS_OWNER && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to do this to all pools"),
				 errhint("Give the name of a foreign server that you own.")));
	set->all = true;
	return list_make1(set);
}

/* Also when there is no pool of that server yet. */
static List *
pools_of_server(Oid server, const char *name, Rights rights)
{
	CpPoolSet *set = new_set();

	if (rights == RIGHTS_OWNER && !cp_server_ownercheck(server, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FOREIGN_SERVER, name);
	set->database = MyDatabaseId;
	set->server = server;
	return list_make1(set);
}

/* Those of connection strings that the views show under that name. */
static List *
pools_by_name(const char *name, Rights rights)
{
	bool anybodys = rights == RIGHTS_GRANTED || superuser();
	List *sets = NIL;

	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		CpPoolInfo pool;
		CpPoolSet *set;

		if (!cp_pool_read(i, &pool) || pool.key.kind != CP_POOL_CONNINFO ||
			pool.key.database != MyDatabaseId || strcmp(pool.name, name) != 0 ||
			(!anybodys && pool.key.role != GetUserId()))
			continue;
		set = new_set();
		set->pool = i;
		set->generation = pool.generation;
		sets = lappend(sets, set);
	}
	return sets;
}

/* What the views show of a connection string. */
static char *
name_of_conninfo(const char *conninfo)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "conpool connection string",
												  ALLOCSET_SMALL_SIZES);
	char *name = palloc(CP_POOL_NAME_LEN);
	CpConninfo *info = cp_conninfo_create(context);

	cp_conninfo_parse(info, conninfo);
	cp_conninfo_display(info, name, CP_POOL_NAME_LEN);
	MemoryContextDelete(context);
	return name;
}

static void
nothing_named(const char *name, bool is_conninfo)
{
	if (is_conninfo)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pool \"%s\" does not exist", name)));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("server \"%s\" does not exist", name)));
}

/*
 * The pools of a foreign server, or of a connection string, for which the name
 * that the views show may stand as well: that one lacks what it takes to
 * connect.
 */
static List *
named_pools(const char *server, Rights rights)
{
	bool is_conninfo = cp_conninfo_is_one(server);
	Oid oid = is_conninfo ? InvalidOid : get_foreign_server_oid(server, true);
	const char *name = server;
	List *sets;

	if (OidIsValid(oid))
		return pools_of_server(oid, server, rights);
	sets = pools_by_name(name, rights);
	if (sets == NIL && is_conninfo)
	{
		name = name_of_conninfo(server);
		sets = pools_by_name(name, rights);
	}
	if (sets == NIL)
		nothing_named(name, is_conninfo);
	return sets;
}

/*
 * What the first argument of the caller, `server`, is about: a list of
 * CpPoolSet.  NULL is all pools.  Throws if there are none, or not for the
 * caller.
 */
static List *
pools_in_argument(FunctionCallInfo fcinfo, Rights rights)
{
	cp_shmem_require();
	if (PG_ARGISNULL(0))
		return all_pools(rights);
	return named_pools(text_to_cstring(PG_GETARG_TEXT_PP(0)), rights);
}

static bool
contains(const CpPoolSet *set, int i)
{
	CpPoolInfo pool;

	if (!cp_pool_read(i, &pool))
		return false;
	if (set->all)
		return true;
	if (OidIsValid(set->server))
		return pool.key.kind == CP_POOL_SERVER && pool.key.server == set->server &&
			pool.key.database == set->database;
	return set->pool == i && set->generation == pool.generation;
}

/* ---- pause and resume ------------------------------------------------------ */

/* It would wait for itself. */
static void
refuse_own_leases(List *sets)
{
	ListCell *cell;

	foreach(cell, sets)
	{
		for (int i = 0; i < cp_shared->max_pools; i++)
		{
			if (cp_lease_count_in_pool(i) == 0 || !contains(lfirst(cell), i))
				continue;
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("cannot wait for leases that this session holds itself"),
					 errhint("Give them back first, or call pause() with \"wait\" set to "
							 "false.")));
		}
	}
}

static void
resume_all(List *sets)
{
	ListCell *cell;

	foreach(cell, sets)
		cp_pool_resume(lfirst(cell));
}

static void
undo_pause(int code, Datum sets)
{
	resume_all((List *) DatumGetPointer(sets));
}

/*
 * If this session is cancelled or ended meanwhile, what it paused goes on; so it
 * does if somebody else resumes some of it.
 */
static void
await_drained(List *sets, List *paused)
{
	PG_ENSURE_ERROR_CLEANUP(undo_pause, PointerGetDatum(paused));
	{
		ListCell *cell;

		foreach(cell, sets)
		{
			if (!cp_pool_await_drained(lfirst(cell)))
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("pools were resumed while their leases were waited for"),
						 errdetail("Somebody called resume(), or interrupted a pause() before "
								   "this one.")));
		}
	}
	PG_END_ENSURE_ERROR_CLEANUP(undo_pause, PointerGetDatum(paused));
}

Datum
conpool_pause(PG_FUNCTION_ARGS)
{
	List *sets = pools_in_argument(fcinfo, RIGHTS_OWNER);
	bool wait = PG_ARGISNULL(1) || PG_GETARG_BOOL(1);
	List *paused = NIL;
	ListCell *cell;

	if (wait)
		refuse_own_leases(sets);
	foreach(cell, sets)
	{
		if (cp_pool_pause(lfirst(cell)))
			paused = lappend(paused, lfirst(cell));
	}
	if (wait)
		await_drained(sets, paused);
	PG_RETURN_VOID();
}

Datum
conpool_resume(PG_FUNCTION_ARGS)
{
	resume_all(pools_in_argument(fcinfo, RIGHTS_OWNER));
	PG_RETURN_VOID();
}

/* ---- reconnect, warm and close_idle ---------------------------------------- */

Datum
conpool_reconnect(PG_FUNCTION_ARGS)
{
	List *sets = pools_in_argument(fcinfo, RIGHTS_OWNER);
	ListCell *cell;

	foreach(cell, sets)
		cp_pool_reconnect(lfirst(cell));
	PG_RETURN_VOID();
}

/* A pool that is lacking need not exist yet: definitions are read again. */
Datum
conpool_warm(PG_FUNCTION_ARGS)
{
	List *sets = pools_in_argument(fcinfo, RIGHTS_OWNER);
	ListCell *cell;

	foreach(cell, sets)
	{
		const CpPoolSet *set = lfirst(cell);

		cp_pool_warm(set);
		cp_pool_mark_database(set->all ? InvalidOid : MyDatabaseId);
	}
	PG_RETURN_VOID();
}

Datum
conpool_close_idle(PG_FUNCTION_ARGS)
{
	List *sets = pools_in_argument(fcinfo, RIGHTS_OWNER);
	int closed = 0;
	ListCell *cell;

	foreach(cell, sets)
		closed += cp_pool_close_idle(lfirst(cell));
	PG_RETURN_INT32(closed);
}

/* ---- reclaim --------------------------------------------------------------- */

static void
lease_not_held(int64 lease)
{
	ereport(ERROR,
			(errcode(CP_ERRCODE_NOT_YOUR_LEASE),
			 errmsg("lease %lld is not held by any session", (long long) lease)));
}

static void
find_lease(int64 lease, CpSlotInfo *slot)
{
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		if (cp_slot_read(i, slot) && slot->state == CP_SLOT_LEASED &&
			slot->lease == (uint64) lease)
			return;
	}
	lease_not_held(lease);
}

/*
 * Who may signal the session may take its leases away; what a superuser's
 * function took in it is a superuser's, too.  As in signalfuncs.c, a session
 * that names no role may be as important as a superuser's.
 */
static void
check_may_reclaim(const CpSlotInfo *slot)
{
	PGPROC *holder = BackendPidGetProc(slot->holder_pid);
	Oid session_role;

	if (holder == NULL)
		lease_not_held((int64) slot->lease);
	session_role = holder->roleId;
	if (superuser())
		return;
	if (!OidIsValid(session_role) || superuser_arg(session_role) ||
		superuser_arg(slot->lease_role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to reclaim lease %lld", (long long) slot->lease),
				 errdetail("Only superusers may take a lease away from a superuser.")));
	if (!has_privs_of_role(GetUserId(), session_role) &&
		!has_privs_of_role(GetUserId(), ROLE_PG_SIGNAL_BACKEND))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to reclaim lease %lld", (long long) slot->lease),
				 errdetail("Only roles with privileges of the role whose session holds the lease "
						   "or of the role \"%s\" may take it away.",
						   "pg_signal_backend")));
}

Datum
conpool_reclaim(PG_FUNCTION_ARGS)
{
	int64 lease;
	CpSlotInfo slot;
	CpLeakRecord leak;

	cp_shmem_require();
	cp_args_require(fcinfo, 0, "lease");
	lease = PG_GETARG_INT64(0);
	find_lease(lease, &slot);
	if (slot.holder_pid == MyProcPid)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease %lld is held by this session itself", (long long) lease),
				 errhint("Give it back with checkin().")));
	check_may_reclaim(&slot);

	switch (cp_pool_reclaim(slot.slot, slot.generation, slot.lease, GetUserId(), NULL, 0, &leak))
	{
		case CP_RECLAIM_OK:
			if (leak.class != CP_LEAK_NONE)
				cp_leak_over(&leak, CP_LEAK_RECLAIMED);
			break;
		case CP_RECLAIM_WORKING: /* not for people */
		case CP_RECLAIM_NO_LEASE:
			lease_not_held(lease);
			break;
		case CP_RECLAIM_UNSHARED:
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the connection of lease %lld is not shared: only its session "
							"can end it",
							(long long) lease),
					 errhint("End the session with pg_terminate_backend(%d).",
							 slot.holder_pid)));
	}
	PG_RETURN_VOID();
}

/* ---- reset_stats ----------------------------------------------------------- */

/* Under the pool's lock: nobody else's name gets into the event. */
static void
tell_of_reset(int i, const CpPoolInfo *pool)
{
	LWLockAcquire(cp_shmem_pool_lock(i), LW_SHARED);
	if (cp_pools[i].in_use && cp_pools[i].generation == pool->generation)
		cp_event_add(CP_EVENT_STATS_RESET, &cp_pools[i], CP_NONE, NULL);
	LWLockRelease(cp_shmem_pool_lock(i));
}

/* A server that has no pool yet has nothing to reset, which is no error. */
static void
reset_stats_of(const CpPoolSet *set)
{
	/* also what is kept of pools that are not there any more */
	if (set->all)
	{
		cp_statement_stats_reset(NULL);
		cp_error_stats_reset(NULL);
	}
	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		CpPoolInfo pool;

		if (!contains(set, i) || !cp_pool_read(i, &pool))
			continue;
		cp_pool_reset_stats(i);
		if (!set->all)
		{
			cp_statement_stats_reset(&pool.key);
			cp_error_stats_reset(&pool.key);
		}
		tell_of_reset(i, &pool);
	}
}

Datum
conpool_reset_stats(PG_FUNCTION_ARGS)
{
	List *sets = pools_in_argument(fcinfo, RIGHTS_GRANTED);
	ListCell *cell;

	foreach(cell, sets)
		reset_stats_of(lfirst(cell));
	PG_RETURN_VOID();
}

/* ---- recommended_size ------------------------------------------------------ */

static void
refuse_below(int least, int value, const char *name)
{
	if (value < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be at least %d", name, least)));
}

/*
 * connections = cores * 2 + effective spindles, shared by the clients: from
 * the PostgreSQL wiki, "Number of Database Connections", which HikariCP's
 * "About Pool Sizing" made popular.  Data that is in memory has no spindle.
 */
Datum
conpool_recommended_size(PG_FUNCTION_ARGS)
{
	int cores = PG_GETARG_INT32(0);
	int spindles = PG_GETARG_INT32(1);
	int clients = PG_GETARG_INT32(2);
	int64 size;

	cp_shmem_require();
	refuse_below(1, cores, "cores");
	refuse_below(0, spindles, "effective_spindles");
	refuse_below(1, clients, "clients");
	size = ((int64) cores * 2 + spindles) / clients;
	if (size > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("integer out of range")));
	PG_RETURN_INT32((int32) Max(size, 1));
}
