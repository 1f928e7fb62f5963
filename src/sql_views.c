/*
 * sql_views.c
 *		The functions behind the views: pools, connections, leases, waiters,
 *		leaks and stat_pools.
 *
 * Runs in client backends.  Shared memory is copied entry by entry, each
 * consistent in itself; names of roles and databases are looked up afterwards,
 * without any lock.  Must never show anybody what he may not see: members of
 * pg_read_all_stats see everything, others the rows of roles whose privileges
 * they have, and of pools that a PUBLIC mapping opens to everybody.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "leak.h"
#include "message.h"
#include "options.h"
#include "pool.h"
#include "shmem.h"

#define MAX_COLUMNS 64
/* what pg_stat_activity says in place of others' SQL */
#define HIDDEN "<insufficient privilege>"

PG_FUNCTION_INFO_V1(conpool_get_pools);
PG_FUNCTION_INFO_V1(conpool_get_connections);
PG_FUNCTION_INFO_V1(conpool_get_leases);
PG_FUNCTION_INFO_V1(conpool_get_waiters);
PG_FUNCTION_INFO_V1(conpool_get_leaks);
PG_FUNCTION_INFO_V1(conpool_get_stat_pools);

/* ---- rows, built column by column ---------------------------------------- */

typedef struct Rows
{
	ReturnSetInfo *result;
	Oid viewer;
	bool sees_all;
	CpTime now;				/* one instant for all rows, ... */
	TimestampTz wall_clock; /* ... and what the wall clock says then */
	int ncolumns;			/* of the row that is being built */
	Datum values[MAX_COLUMNS];
	bool nulls[MAX_COLUMNS];
} Rows;

static void
begin_rows(Rows *rows, FunctionCallInfo fcinfo)
{
	cp_shmem_require();
	InitMaterializedSRF(fcinfo, 0);
	memset(rows, 0, sizeof(*rows));
	rows->result = (ReturnSetInfo *) fcinfo->resultinfo;
	rows->viewer = GetUserId();
	rows->sees_all = has_privs_of_role(rows->viewer, ROLE_PG_READ_ALL_STATS);
	rows->now = cp_now();
	rows->wall_clock = cp_wall_clock(rows->now);
}

/*
 * A database whose extension is of an older version declares fewer columns:
 * new ones come last, and are left out for it.
 */
static void
end_row(Rows *rows)
{
	Assert(rows->ncolumns >= rows->result->setDesc->natts);
	tuplestore_putvalues(rows->result->setResult, rows->result->setDesc,
						 rows->values, rows->nulls);
	rows->ncolumns = 0;
}

static void
add(Rows *rows, Datum value)
{
	Assert(rows->ncolumns < MAX_COLUMNS);
	rows->nulls[rows->ncolumns] = false;
	rows->values[rows->ncolumns++] = value;
}

static void
add_null(Rows *rows)
{
	Assert(rows->ncolumns < MAX_COLUMNS);
	rows->nulls[rows->ncolumns++] = true;
}

/*
 * NULL and the empty string are both NULL.  The text may come from a database
 * with another encoding.
 */
static void
add_text(Rows *rows, const char *value)
{
	if (value == NULL || value[0] == '\0')
		add_null(rows);
	else
		add(rows, CStringGetTextDatum(cp_message_valid_text(value)));
}

/* 0 is NULL: nothing happened, or no code was given */
static void
add_sqlstate(Rows *rows, int sqlstate)
{
	add_text(rows, sqlstate == 0 ? NULL : unpack_sql_state(sqlstate));
}

/* 0 is NULL: no process, or none that is known */
static void
add_pid(Rows *rows, int pid)
{
	if (pid == 0)
		add_null(rows);
	else
		add(rows, Int32GetDatum(pid));
}

/* past or future; 0 and for ever are NULL */
static void
add_instant(Rows *rows, CpTime t)
{
	if (t == 0 || t == CP_FOREVER)
		add_null(rows);
	else
		add(rows, TimestampTzGetDatum(rows->wall_clock - (rows->now - t)));
}

/* microseconds, as an interval */
static void
add_interval(Rows *rows, CpTime us)
{
	Interval *interval = palloc0(sizeof(Interval));

	interval->time = us;
	add(rows, IntervalPGetDatum(interval));
}

/* microseconds, as the milliseconds of a statistics view */
static void
add_ms(Rows *rows, CpTime us)
{
	add(rows, Float8GetDatum(us / 1000.0));
}

static void
add_choice(Rows *rows, const char *option, int value)
{
	const struct config_enum_entry *choice = cp_option_find(option)->choices;

	while (choice->name && choice->val != value)
		choice++;
	add_text(rows, choice->name);
}

/* a role's name; one that has been dropped is its number */
static char *
role_name(Oid role)
{
	char *name = GetUserNameFromId(role, true);

	return name != NULL ? name : psprintf("%u", role);
}

/* The columns server, database and role: those of the pool, not of a lease. */
static void
add_pool(Rows *rows, const CpPoolKey *key, const char *name)
{
	char *database = NULL;
	char *role = NULL;

	if (OidIsValid(key->database))
	{
		database = get_database_name(key->database);
		if (database == NULL)
			database = psprintf("%u", key->database);
	}
	if (OidIsValid(key->role))
		role = role_name(key->role);
	else if (key->kind == CP_POOL_SERVER)
		role = "public";
	add_text(rows, name);
	add_text(rows, database);
	add_text(rows, role);
}

/* ---- who sees what -------------------------------------------------------- */

static bool
sees_role(const Rows *rows, Oid role)
{
	return rows->sees_all ||
		(OidIsValid(role) && has_privs_of_role(rows->viewer, role));
}

static bool
is_public(const CpPoolKey *key)
{
	return key->kind == CP_POOL_SERVER && !OidIsValid(key->role);
}

static bool
sees_pool(const Rows *rows, const CpPoolKey *key)
{
	return is_public(key) || sees_role(rows, key->role);
}

/* A lease on a PUBLIC pool concerns everybody who waits for it; its SQL not. */
static bool
sees_lease(const Rows *rows, const CpPoolKey *key, Oid role)
{
	return is_public(key) || sees_role(rows, role);
}

static void
add_sql(Rows *rows, Oid role, const char *sql)
{
	add_text(rows, sees_role(rows, role) ? sql : HIDDEN);
}

/*
 * Why a remote cannot be reached names hosts: for those whose pool it is, and
 * for those who may use the server anyway.
 */
static bool
sees_problems(const Rows *rows, const CpPoolKey *key)
{
	if (sees_role(rows, key->role))
		return true;
	return is_public(key) && key->database == MyDatabaseId &&
		SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(key->server)) &&
		cp_server_aclcheck(key->server, rows->viewer, ACL_USAGE) == ACLCHECK_OK;
}

/* The columns ..._at, ..._sqlstate and the text of what went wrong. */
static void
add_problem(Rows *rows, const CpPoolKey *key, const CpProblem *problem)
{
	bool is_one = problem->at != 0;
	const char *message = sees_problems(rows, key) ? problem->message : HIDDEN;

	add_instant(rows, problem->at);
	add_sqlstate(rows, is_one ? problem->sqlstate : 0);
	add_text(rows, is_one ? message : NULL);
}

/* ---- pools ---------------------------------------------------------------- */

static int
size_of(const CpPoolInfo *pool)
{
	int size = 0;

	for (int state = CP_SLOT_FREE + 1; state < CP_SLOT_STATES; state++)
		size += pool->counts[state];
	return size;
}

/* Copies a pool if there is one to be shown: the overflow only when in use. */
static bool
read_pool(const Rows *rows, int i, CpPoolInfo *pool)
{
	return cp_pool_read(i, pool) && sees_pool(rows, &pool->key) &&
		(i != CP_OVERFLOW_POOL || size_of(pool) > 0 || pool->stats.checkouts > 0);
}

static void
add_pool_options(Rows *rows, const CpPoolOptions *options)
{
	add(rows, Int32GetDatum(options->max_size));
	add_choice(rows, "pool_mode", options->pool_mode);
	add_interval(rows, (CpTime) options->checkout_timeout * 1000);
	add(rows, Int32GetDatum(options->max_waiters));
	add_interval(rows, (CpTime) options->connect_timeout * 1000);
	add(rows, Int32GetDatum(options->connect_concurrency));
	add_choice(rows, "reset", options->reset);
	add_interval(rows, (CpTime) options->leak_threshold * 1000);
}

static const char *
breaker_name(CpBreakerState state)
{
	switch (state)
	{
		case CP_BREAKER_CLOSED:
			return "closed";
		case CP_BREAKER_OPEN:
			return "open";
		case CP_BREAKER_PROBING:
			return "probing";
	}
	return NULL;
}

/* What keeps the pool from min_size; the broker forgets it at its next turn. */
static void
add_upkeep_problem(Rows *rows, const CpPoolInfo *pool)
{
	int live = size_of(pool) - pool->counts[CP_SLOT_CONNECTING] - pool->counts[CP_SLOT_CLOSING];
	CpProblem problem = {0};
	CpTime next_try = 0;

	if (live < pool->options.min_size && pool->upkeep_problem.at != 0)
	{
		problem = pool->upkeep_problem;
		next_try = pool->upkeep_at;
		if (pool->breaker.state == CP_BREAKER_OPEN)
			next_try = Max(next_try, pool->breaker.next_attempt);
	}
	add_problem(rows, &pool->key, &problem);
	add_instant(rows, next_try);
}

/* since version 1.1 of the extension: upkeep, and what its remote does */
static void
add_pool_state(Rows *rows, const CpPoolInfo *pool)
{
	const CpPoolOptions *options = &pool->options;
	const CpBreaker *breaker = &pool->breaker;
	bool is_closed = breaker->state == CP_BREAKER_CLOSED;

	add(rows, Int32GetDatum(options->min_size));
	add(rows, Int32GetDatum(options->max_server_size));
	add_interval(rows, (CpTime) options->idle_timeout * 1000);
	add_interval(rows, (CpTime) options->max_lifetime * 1000);
	add_interval(rows, (CpTime) options->validate_interval * 1000);
	add(rows, Int32GetDatum(pool->effective_max_size));
	add_instant(rows, pool->ceiling_until);
	if (pool->server_size < 0)
		add_null(rows);
	else
		add(rows, Int32GetDatum(pool->server_size));
	add(rows, BoolGetDatum(pool->paused));
	add(rows, BoolGetDatum(pool->dropped));
	add_text(rows, breaker_name(breaker->state));
	add_instant(rows, breaker->since);
	add(rows, Int32GetDatum(breaker->failures));
	add_instant(rows, is_closed ? 0 : breaker->next_attempt);
	add_problem(rows, &pool->key, &pool->problem);
	add_upkeep_problem(rows, pool);
}

Datum
conpool_get_pools(PG_FUNCTION_ARGS)
{
	Rows rows;
	CpPoolInfo pool;

	begin_rows(&rows, fcinfo);
	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		if (!read_pool(&rows, i, &pool))
			continue;
		add_pool(&rows, &pool.key, pool.name);
		add_pool_options(&rows, &pool.options);
		add(&rows, Int32GetDatum(size_of(&pool)));
		add(&rows, Int32GetDatum(pool.counts[CP_SLOT_IDLE]));
		add(&rows, Int32GetDatum(pool.counts[CP_SLOT_LEASED]));
		add(&rows, Int32GetDatum(pool.counts[CP_SLOT_CONNECTING]));
		add(&rows, Int32GetDatum(pool.counts[CP_SLOT_RESETTING]));
		add(&rows, Int32GetDatum(pool.counts[CP_SLOT_VALIDATING]));
		add(&rows, Int32GetDatum(pool.counts[CP_SLOT_CLOSING]));
		add(&rows, Int32GetDatum(pool.waiting));
		add(&rows, Int32GetDatum(pool.unshared));
		add_text(&rows, cp_shmem_broker_epoch() != 0 ? "running" : "not running");
		add_pool_state(&rows, &pool);
		end_row(&rows);
	}
	return (Datum) 0;
}

Datum
conpool_get_stat_pools(PG_FUNCTION_ARGS)
{
	Rows rows;
	CpPoolInfo pool;

	begin_rows(&rows, fcinfo);
	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		const CpPoolStats *stats = &pool.stats;

		if (!read_pool(&rows, i, &pool))
			continue;
		add_pool(&rows, &pool.key, pool.name);
		add(&rows, Int64GetDatum(stats->checkouts));
		add(&rows, Int64GetDatum(stats->checkout_timeouts));
		add(&rows, Int64GetDatum(stats->checkout_cancels));
		add(&rows, Int64GetDatum(stats->waited));
		add_ms(&rows, stats->total_wait_time);
		add_ms(&rows, stats->max_wait_time);
		add_ms(&rows, stats->total_checkout_time);
		add_ms(&rows, stats->max_checkout_time);
		add(&rows, Int64GetDatum(stats->connects));
		add(&rows, Int64GetDatum(stats->connect_failures));
		add_ms(&rows, stats->total_connect_time);
		add(&rows, Int64GetDatum(stats->queries));
		add(&rows, Int64GetDatum(stats->query_errors));
		add(&rows, Int64GetDatum(stats->rows));
		add(&rows, Int64GetDatum(stats->discarded));
		add(&rows, Int64GetDatum(stats->resets));
		add(&rows, Int64GetDatum(stats->leaks));
		add(&rows, TimestampTzGetDatum(stats->stats_reset));
		/* since version 1.1 of the extension */
		add(&rows, Int64GetDatum(stats->checkout_failures));
		add(&rows, Int64GetDatum(stats->refused));
		add(&rows, Int64GetDatum(stats->dials));
		add(&rows, Int64GetDatum(stats->validations));
		add(&rows, Int64GetDatum(stats->validation_failures));
		add(&rows, Int64GetDatum(stats->idle_closed));
		add(&rows, Int64GetDatum(stats->expired));
		add(&rows, Int64GetDatum(stats->breaker_opened));
		end_row(&rows);
	}
	return (Datum) 0;
}

/* ---- connections and leases ------------------------------------------------ */

static const char *
state_name(CpSlotState state)
{
	switch (state)
	{
		case CP_SLOT_FREE:
			return "free";
		case CP_SLOT_CONNECTING:
			return "connecting";
		case CP_SLOT_IDLE:
			return "idle";
		case CP_SLOT_LEASED:
			return "leased";
		case CP_SLOT_RESETTING:
			return "resetting";
		case CP_SLOT_VALIDATING:
			return "validating";
		case CP_SLOT_CLOSING:
			return "closing";
	}
	return NULL;
}

Datum
conpool_get_connections(PG_FUNCTION_ARGS)
{
	Rows rows;
	CpSlotInfo slot;

	begin_rows(&rows, fcinfo);
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		bool held;
		bool is_open;
		Oid role;

		if (!cp_slot_read(i, &slot) || !sees_pool(&rows, &slot.key))
			continue;
		held = slot.state == CP_SLOT_LEASED || slot.state == CP_SLOT_CONNECTING;
		is_open = slot.state != CP_SLOT_CONNECTING;
		role = slot.state == CP_SLOT_LEASED ? slot.lease_role : slot.key.role;
		add(&rows, Int32GetDatum(i));
		add_pool(&rows, &slot.key, slot.name);
		add_text(&rows, state_name(slot.state));
		add_text(&rows, sees_role(&rows, role) ? slot.remote_address : NULL);
		add_pid(&rows, slot.remote_pid);
		add_instant(&rows, is_open ? slot.opened_at : 0);
		add_instant(&rows, slot.state == CP_SLOT_IDLE ? slot.idle_since : 0);
		add(&rows, Int64GetDatum((int64) slot.uses));
		add(&rows, BoolGetDatum(slot.encrypted));
		add_pid(&rows, held ? slot.holder_pid : 0);
		/* since version 1.1 of the extension */
		add_instant(&rows, is_open ? slot.checked_at : 0);
		add_instant(&rows, is_open ? slot.expires_at : 0);
		end_row(&rows);
	}
	return (Datum) 0;
}

/* Copies a slot if it is leased and the viewer may know. */
static bool
read_lease(const Rows *rows, int i, CpSlotInfo *slot)
{
	return cp_slot_read(i, slot) && slot->state == CP_SLOT_LEASED &&
		sees_lease(rows, &slot->key, slot->lease_role);
}

Datum
conpool_get_leases(PG_FUNCTION_ARGS)
{
	Rows rows;
	CpSlotInfo slot;

	begin_rows(&rows, fcinfo);
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		if (!read_lease(&rows, i, &slot))
			continue;
		add(&rows, Int64GetDatum((int64) slot.lease));
		add_pool(&rows, &slot.key, slot.name);
		add_pid(&rows, slot.holder_pid);
		add_choice(&rows, "pool_mode", slot.scope);
		add_instant(&rows, slot.leased_at);
		add_interval(&rows, Max(rows.now - slot.leased_at, 0));
		add_pid(&rows, slot.remote_pid);
		add_sql(&rows, slot.lease_role, slot.sql);
		end_row(&rows);
	}
	return (Datum) 0;
}

Datum
conpool_get_waiters(PG_FUNCTION_ARGS)
{
	Rows rows;

	begin_rows(&rows, fcinfo);
	for (int pool = 0; pool < cp_shared->max_pools; pool++)
	{
		CpWaiterInfo *waiters;
		int n = cp_pool_waiters(pool, &waiters);

		for (int i = 0; i < n; i++)
		{
			const CpWaiterInfo *waiter = &waiters[i];

			if (!sees_lease(&rows, &waiter->key, waiter->role))
				continue;
			add_pid(&rows, waiter->pid);
			add_pool(&rows, &waiter->key, waiter->name);
			add_instant(&rows, waiter->since);
			add_interval(&rows, Max(rows.now - waiter->since, 0));
			add(&rows, Int32GetDatum(waiter->position));
			end_row(&rows);
		}
		pfree(waiters);
	}
	return (Datum) 0;
}

/* ---- leaks ------------------------------------------------------------------ */

static void
add_held_leaks(Rows *rows)
{
	CpSlotInfo slot;

	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		if (!read_lease(rows, i, &slot) || !cp_leak_is_one(&slot, rows->now))
			continue;
		add_pool(rows, &slot.key, slot.name);
		add(rows, Int64GetDatum((int64) slot.lease));
		add_pid(rows, slot.holder_pid);
		add_text(rows, role_name(slot.lease_role));
		add_instant(rows, slot.leased_at);
		add_interval(rows, rows->now - slot.leased_at);
		add_sql(rows, slot.lease_role, slot.sql);
		add_text(rows, "held");
		end_row(rows);
	}
}

static void
add_abandoned_leaks(Rows *rows)
{
	CpLeakRecord *records;
	int n = cp_leak_recent(&records);

	for (int i = 0; i < n; i++)
	{
		const CpLeakRecord *record = &records[i];

		if (!sees_lease(rows, &record->key, record->role))
			continue;
		add_pool(rows, &record->key, record->pool);
		add(rows, Int64GetDatum((int64) record->lease));
		add_pid(rows, record->pid);
		add_text(rows, role_name(record->role));
		add_instant(rows, record->since);
		add_interval(rows, record->held_for);
		add_sql(rows, record->role, record->sql);
		add_text(rows, "abandoned");
		end_row(rows);
	}
}

Datum
conpool_get_leaks(PG_FUNCTION_ARGS)
{
	Rows rows;

	begin_rows(&rows, fcinfo);
	add_held_leaks(&rows);
	add_abandoned_leaks(&rows);
	return (Datum) 0;
}
