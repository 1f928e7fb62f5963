/*
 * sql_views.c
 *		The functions behind the views of what is going on: pools, connections,
 *		tunnels, leases, waiters and leaks; and blocking_pids().
 *
 * Runs in client backends.  Shared memory is copied entry by entry, each
 * consistent in itself; names are looked up afterwards, without any lock.  Must
 * never show anybody what he may not see, of which view_rows.h tells; what a
 * function adds to a row keeps its place for ever, see there, too.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"

#include "guc.h"
#include "leak.h"
#include "pool.h"
#include "pump.h"
#include "shmem.h"
#include "view_rows.h"

PG_FUNCTION_INFO_V1(conpool_get_pools);
PG_FUNCTION_INFO_V1(conpool_get_connections);
PG_FUNCTION_INFO_V1(conpool_get_tunnels);
PG_FUNCTION_INFO_V1(conpool_get_leases);
PG_FUNCTION_INFO_V1(conpool_get_waiters);
PG_FUNCTION_INFO_V1(conpool_get_leaks);
PG_FUNCTION_INFO_V1(conpool_blocking_pids);

/* ---- pools ---------------------------------------------------------------- */

static void
add_pool_options(CpViewRows *rows, const CpPoolOptions *options)
{
	cp_view_add_int(rows, options->max_size);
	cp_view_add_choice(rows, "pool_mode", options->pool_mode);
	cp_view_add_interval(rows, (CpTime) options->checkout_timeout * 1000);
	cp_view_add_int(rows, options->max_waiters);
	cp_view_add_interval(rows, (CpTime) options->connect_timeout * 1000);
	cp_view_add_int(rows, options->connect_concurrency);
	cp_view_add_choice(rows, "reset", options->reset);
	cp_view_add_interval(rows, (CpTime) options->leak_threshold * 1000);
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
add_upkeep_problem(CpViewRows *rows, const CpPoolInfo *pool)
{
	int live = cp_view_pool_size(pool) - pool->counts[CP_SLOT_CONNECTING] -
		pool->counts[CP_SLOT_CLOSING];
	CpProblem problem = {0};
	CpTime next_try = 0;

	if (live < pool->options.min_size && pool->upkeep_problem.at != 0)
	{
		problem = pool->upkeep_problem;
		next_try = pool->upkeep_at;
		if (pool->breaker.state == CP_BREAKER_OPEN)
			next_try = Max(next_try, pool->breaker.next_attempt);
	}
	cp_view_add_problem(rows, &pool->key, &problem);
	cp_view_add_instant(rows, next_try);
}

/* since version 1.1 of the extension: upkeep, and what its remote does */
static void
add_pool_state(CpViewRows *rows, const CpPoolInfo *pool)
{
	const CpPoolOptions *options = &pool->options;
	const CpBreaker *breaker = &pool->breaker;
	bool is_closed = breaker->state == CP_BREAKER_CLOSED;

	cp_view_add_int(rows, options->min_size);
	cp_view_add_int(rows, options->max_server_size);
	cp_view_add_interval(rows, (CpTime) options->idle_timeout * 1000);
	cp_view_add_interval(rows, (CpTime) options->max_lifetime * 1000);
	cp_view_add_interval(rows, (CpTime) options->validate_interval * 1000);
	cp_view_add_int(rows, pool->effective_max_size);
	cp_view_add_instant(rows, pool->ceiling_until);
	if (pool->server_size < 0)
		cp_view_add_null(rows);
	else
		cp_view_add_int(rows, pool->server_size);
	cp_view_add_bool(rows, pool->paused);
	cp_view_add_bool(rows, pool->dropped);
	cp_view_add_text(rows, breaker_name(breaker->state));
	cp_view_add_instant(rows, breaker->since);
	cp_view_add_int(rows, breaker->failures);
	cp_view_add_instant(rows, is_closed ? 0 : breaker->next_attempt);
	cp_view_add_problem(rows, &pool->key, &pool->problem);
	add_upkeep_problem(rows, pool);
}

Datum
conpool_get_pools(PG_FUNCTION_ARGS)
{
	CpViewRows rows;
	CpPoolInfo pool;

	cp_view_begin(&rows, fcinfo);
	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		if (!cp_view_read_pool(&rows, i, &pool))
			continue;
		cp_view_add_pool(&rows, &pool.key, pool.name);
		add_pool_options(&rows, &pool.options);
		cp_view_add_int(&rows, cp_view_pool_size(&pool));
		cp_view_add_int(&rows, pool.counts[CP_SLOT_IDLE]);
		cp_view_add_int(&rows, pool.counts[CP_SLOT_LEASED]);
		cp_view_add_int(&rows, pool.counts[CP_SLOT_CONNECTING]);
		cp_view_add_int(&rows, pool.counts[CP_SLOT_RESETTING]);
		cp_view_add_int(&rows, pool.counts[CP_SLOT_VALIDATING]);
		cp_view_add_int(&rows, pool.counts[CP_SLOT_CLOSING]);
		cp_view_add_int(&rows, pool.waiting);
		cp_view_add_int(&rows, pool.unshared);
		cp_view_add_text(&rows, cp_shmem_broker_epoch() != 0 ? "running" : "not running");
		add_pool_state(&rows, &pool);
		/* since version 1.2 of the extension */
		cp_view_add_choice(&rows, "leak_action", pool.options.leak_action);
		if (pool.remote_max_connections > 0)
			cp_view_add_int(&rows, pool.remote_max_connections);
		else
			cp_view_add_null(&rows);
		/* since version 1.3 of the extension */
		cp_view_add_int(&rows, pool.tunnelled);
		cp_view_end_row(&rows);
	}
	return (Datum) 0;
}

/* ---- connections ------------------------------------------------------------ */

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

static void
add_tunnel(CpViewRows *rows, int tunnel)
{
	if (tunnel > 0)
		cp_view_add_int(rows, tunnel);
	else
		cp_view_add_null(rows);
}

Datum
conpool_get_connections(PG_FUNCTION_ARGS)
{
	CpViewRows rows;
	CpSlotInfo slot;

	cp_view_begin(&rows, fcinfo);
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		bool held;
		bool is_open;
		bool shows_address;
		Oid role;

		if (!cp_slot_read(i, &slot) || !cp_viewer_sees_pool(&rows.viewer, &slot.key))
			continue;
		held = slot.state == CP_SLOT_LEASED || slot.state == CP_SLOT_CONNECTING;
		is_open = slot.state != CP_SLOT_CONNECTING;
		role = slot.state == CP_SLOT_LEASED ? slot.lease_role : slot.key.role;
		shows_address = cp_viewer_sees_role(&rows.viewer, role);
		cp_view_add_int(&rows, i);
		cp_view_add_pool(&rows, &slot.key, slot.name);
		cp_view_add_text(&rows, state_name(slot.state));
		cp_view_add_text(&rows, shows_address ? slot.remote_address : NULL);
		cp_view_add_pid(&rows, slot.remote_pid);
		cp_view_add_instant(&rows, is_open ? slot.opened_at : 0);
		cp_view_add_instant(&rows, slot.state == CP_SLOT_IDLE ? slot.idle_since : 0);
		cp_view_add_count(&rows, (int64) slot.uses);
		cp_view_add_bool(&rows, slot.encrypted);
		cp_view_add_pid(&rows, held ? slot.holder_pid : 0);
		/* since version 1.1 of the extension */
		cp_view_add_instant(&rows, is_open ? slot.checked_at : 0);
		cp_view_add_instant(&rows, is_open ? slot.expires_at : 0);
		/* since version 1.3 of the extension */
		cp_view_add_text(&rows, slot.tls_version);
		cp_view_add_text(&rows, slot.tls_cipher);
		add_tunnel(&rows, slot.tunnel);
		cp_view_end_row(&rows);
	}
	return (Datum) 0;
}

/* ---- tunnels ---------------------------------------------------------------- */

static void
add_counter(CpViewRows *rows, pg_atomic_uint64 *counter)
{
	cp_view_add_count(rows, (int64) pg_atomic_read_u64(counter));
}

/* For everybody: whose connections these are is told elsewhere. */
Datum
conpool_get_tunnels(PG_FUNCTION_ARGS)
{
	CpViewRows rows;

	cp_view_begin(&rows, fcinfo);
	/* without OpenSSL there are none, whatever the setting says */
	for (int i = 0; i < cp_guc_tunnel_workers && cp_pump_is_built(); i++)
	{
		CpSharedTunnel *tunnel = &cp_shared->tunnels[i];
		int pid = (int) pg_atomic_read_u32(&tunnel->pid);
		bool runs = pid != 0;

		cp_view_add_int(&rows, i + 1);
		cp_view_add_pid(&rows, pid);
		cp_view_add_instant(&rows, runs ? (CpTime) pg_atomic_read_u64(&tunnel->started_at) : 0);
		cp_view_add_int(&rows, runs ? (int) pg_atomic_read_u32(&tunnel->connections) : 0);
		add_counter(&rows, &tunnel->opened);
		add_counter(&rows, &tunnel->failed);
		add_counter(&rows, &tunnel->bytes_sent);
		add_counter(&rows, &tunnel->bytes_received);
		cp_view_add_ms(&rows, (CpTime) pg_atomic_read_u64(&tunnel->cpu_time));
		cp_view_end_row(&rows);
	}
	return (Datum) 0;
}

/* ---- leases ----------------------------------------------------------------- */

/* Copies a slot if it is leased and the viewer may know. */
static bool
read_lease(const CpViewRows *rows, int i, CpSlotInfo *slot)
{
	return cp_slot_read(i, slot) && slot->state == CP_SLOT_LEASED &&
		cp_viewer_sees_lease(&rows->viewer, &slot->key, slot->lease_role);
}

/*
 * The columns application and client_addr.  As in pg_stat_activity the first is
 * for everybody, the second is not.
 */
static void
add_holder(CpViewRows *rows, Oid role, Oid session_role, const char *application,
		   const char *client)
{
	bool is_visible = cp_viewer_sees_session(&rows->viewer, role, session_role);

	cp_view_add_text(rows, application);
	cp_view_add_text(rows, is_visible ? client : NULL);
}

/* The same of whoever holds a slot now; NULL if the session has just ended. */
static void
add_current_holder(CpViewRows *rows, const CpSlotInfo *slot)
{
	CpHolderInfo holder;

	if (cp_leak_holder(slot->holder_pid, slot->holder_proc, &holder))
		add_holder(rows, slot->lease_role, slot->session_role, holder.application, holder.client);
	else
		add_holder(rows, slot->lease_role, slot->session_role, NULL, NULL);
}

Datum
conpool_get_leases(PG_FUNCTION_ARGS)
{
	CpViewRows rows;
	CpSlotInfo slot;

	cp_view_begin(&rows, fcinfo);
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		if (!read_lease(&rows, i, &slot))
			continue;
		cp_view_add_count(&rows, (int64) slot.lease);
		cp_view_add_pool(&rows, &slot.key, slot.name);
		cp_view_add_pid(&rows, slot.holder_pid);
		cp_view_add_choice(&rows, "pool_mode", slot.scope);
		cp_view_add_instant(&rows, slot.leased_at);
		cp_view_add_interval(&rows, Max(rows.now - slot.leased_at, 0));
		cp_view_add_pid(&rows, slot.remote_pid);
		cp_view_add_sql(&rows, slot.lease_role, slot.session_role, slot.sql);
		/* since version 1.2 of the extension */
		cp_view_add_instant(&rows, slot.running_since);
		cp_view_add_instant(&rows, slot.ran_at);
		cp_view_add_text(&rows, cp_leak_class_name(cp_leak_classify(&slot, rows.now)));
		cp_view_add_query_id(&rows, slot.lease_role, slot.session_role, slot.query_id);
		cp_view_add_sql(&rows, slot.lease_role, slot.session_role, slot.stack);
		add_current_holder(&rows, &slot);
		cp_view_end_row(&rows);
	}
	return (Datum) 0;
}

Datum
conpool_get_waiters(PG_FUNCTION_ARGS)
{
	CpViewRows rows;

	cp_view_begin(&rows, fcinfo);
	for (int pool = 0; pool < cp_shared->max_pools; pool++)
	{
		CpWaiterInfo *waiters;
		int n = cp_pool_waiters(pool, &waiters);

		for (int i = 0; i < n; i++)
		{
			const CpWaiterInfo *waiter = &waiters[i];

			if (!cp_viewer_sees_lease(&rows.viewer, &waiter->key, waiter->role))
				continue;
			cp_view_add_pid(&rows, waiter->pid);
			cp_view_add_pool(&rows, &waiter->key, waiter->name);
			cp_view_add_instant(&rows, waiter->since);
			cp_view_add_interval(&rows, Max(rows.now - waiter->since, 0));
			cp_view_add_int(&rows, waiter->position);
			cp_view_end_row(&rows);
		}
		pfree(waiters);
	}
	return (Datum) 0;
}

/*
 * Who is in the way of a session that waits.  The wait is found as the view
 * waiters shows it, so nobody learns of one that he may not see.
 */
Datum
conpool_blocking_pids(PG_FUNCTION_ARGS)
{
	int pid = PG_GETARG_INT32(0);
	CpViewer viewer;
	Datum *elements;
	int *pids;
	int n = 0;

	cp_viewer_begin(&viewer);
	for (int pool = 0; pool < cp_shared->max_pools && n == 0; pool++)
	{
		CpWaiterInfo *waiters;
		int nwaiters = cp_pool_waiters(pool, &waiters);

		for (int i = 0; i < nwaiters && n == 0; i++)
		{
			if (waiters[i].pid == pid &&
				cp_viewer_sees_lease(&viewer, &waiters[i].key, waiters[i].role))
				n = cp_pool_blockers(pool, pid, &pids);
		}
		pfree(waiters);
	}

	elements = palloc(Max(n, 1) * sizeof(Datum));
	for (int i = 0; i < n; i++)
		elements[i] = Int32GetDatum(pids[i]);
	PG_RETURN_ARRAYTYPE_P(construct_array(elements, n, INT4OID, sizeof(int32), true,
										  TYPALIGN_INT));
}

/* ---- leaks ------------------------------------------------------------------ */

static void
add_held_leaks(CpViewRows *rows)
{
	CpSlotInfo slot;

	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		CpLeakClass class;

		if (!read_lease(rows, i, &slot))
			continue;
		class = cp_leak_classify(&slot, rows->now);
		if (class == CP_LEAK_NONE || class == CP_LEAK_WORKING)
			continue;
		cp_view_add_pool(rows, &slot.key, slot.name);
		cp_view_add_count(rows, (int64) slot.lease);
		cp_view_add_pid(rows, slot.holder_pid);
		cp_view_add_role(rows, slot.lease_role);
		cp_view_add_instant(rows, slot.leased_at);
		cp_view_add_interval(rows, rows->now - slot.leased_at);
		cp_view_add_sql(rows, slot.lease_role, slot.session_role, slot.sql);
		cp_view_add_text(rows, cp_leak_class_name(class));
		/* since version 1.2 of the extension */
		add_current_holder(rows, &slot);
		cp_view_add_null(rows); /* outcome */
		cp_view_add_null(rows); /* ended_at */
		cp_view_add_query_id(rows, slot.lease_role, slot.session_role, slot.query_id);
		cp_view_add_sql(rows, slot.lease_role, slot.session_role, slot.stack);
		cp_view_end_row(rows);
	}
}

/* columns that get_leaks() declares in versions 1.0 and 1.1 of the extension */
#define COLUMNS_BEFORE_1_2 10

static void
add_recent_leaks(CpViewRows *rows)
{
	CpLeakRecord *records;
	int n = cp_leak_recent(&records);

	for (int i = 0; i < n; i++)
	{
		const CpLeakRecord *record = &records[i];

		if (!cp_viewer_sees_lease(&rows->viewer, &record->key, record->role))
			continue;
		/* up to version 1.1 of the extension nothing says that others are over */
		if (rows->result->setDesc->natts <= COLUMNS_BEFORE_1_2 &&
			record->class != CP_LEAK_ABANDONED)
			continue;
		cp_view_add_pool(rows, &record->key, record->pool);
		cp_view_add_count(rows, (int64) record->lease);
		cp_view_add_pid(rows, record->pid);
		cp_view_add_role(rows, record->role);
		cp_view_add_timestamp(rows, record->since);
		cp_view_add_interval(rows, record->ended_at - record->since);
		cp_view_add_sql(rows, record->role, record->session_role, record->sql);
		cp_view_add_text(rows, cp_leak_class_name(record->class));
		/* since version 1.2 of the extension */
		add_holder(rows, record->role, record->session_role, record->application, record->client);
		cp_view_add_text(rows, cp_leak_end_name(record->end));
		cp_view_add_timestamp(rows, record->ended_at);
		cp_view_add_query_id(rows, record->role, record->session_role, record->query_id);
		cp_view_add_sql(rows, record->role, record->session_role, record->stack);
		cp_view_end_row(rows);
	}
}

Datum
conpool_get_leaks(PG_FUNCTION_ARGS)
{
	CpViewRows rows;

	cp_view_begin(&rows, fcinfo);
	add_held_leaks(&rows);
	add_recent_leaks(&rows);
	return (Datum) 0;
}
