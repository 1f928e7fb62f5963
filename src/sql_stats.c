/*
 * sql_stats.c
 *		The functions behind the views of what was counted: stat_pools,
 *		stat_latency, stat_history, stat_statements, stat_errors and events.
 *
 * Runs in client backends.  Shared memory is copied entry by entry, each
 * consistent in itself; names are looked up afterwards, without any lock.  Must
 * never show anybody what he may not see, of which view_rows.h tells; what a
 * function adds to a row keeps its place for ever, see there, too.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/float.h"

#include "error_stats.h"
#include "events.h"
#include "history.h"
#include "pool.h"
#include "shmem.h"
#include "statement_stats.h"
#include "view_rows.h"

PG_FUNCTION_INFO_V1(conpool_get_stat_pools);
PG_FUNCTION_INFO_V1(conpool_get_stat_latency);
PG_FUNCTION_INFO_V1(conpool_get_stat_history);
PG_FUNCTION_INFO_V1(conpool_get_stat_statements);
PG_FUNCTION_INFO_V1(conpool_stat_statements_evictions);
PG_FUNCTION_INFO_V1(conpool_get_stat_errors);
PG_FUNCTION_INFO_V1(conpool_get_events);

/* ---- counters ---------------------------------------------------------------- */

static void
add_counters(CpViewRows *rows, const CpPoolStats *stats)
{
	cp_view_add_count(rows, stats->checkouts);
	cp_view_add_count(rows, stats->checkout_timeouts);
	cp_view_add_count(rows, stats->checkout_cancels);
	cp_view_add_count(rows, stats->waited);
	cp_view_add_ms(rows, stats->total_wait_time);
	cp_view_add_ms(rows, stats->max_wait_time);
	cp_view_add_ms(rows, stats->total_checkout_time);
	cp_view_add_ms(rows, stats->max_checkout_time);
	cp_view_add_count(rows, stats->connects);
	cp_view_add_count(rows, stats->connect_failures);
	cp_view_add_ms(rows, stats->total_connect_time);
	cp_view_add_count(rows, stats->queries);
	cp_view_add_count(rows, stats->query_errors);
	cp_view_add_count(rows, stats->rows);
	cp_view_add_count(rows, stats->discarded);
	cp_view_add_count(rows, stats->resets);
	cp_view_add_count(rows, stats->leaks);
	cp_view_add_timestamp(rows, stats->stats_reset);
	/* since version 1.1 of the extension */
	cp_view_add_count(rows, stats->checkout_failures);
	cp_view_add_count(rows, stats->refused);
	cp_view_add_count(rows, stats->dials);
	cp_view_add_count(rows, stats->validations);
	cp_view_add_count(rows, stats->validation_failures);
	cp_view_add_count(rows, stats->idle_closed);
	cp_view_add_count(rows, stats->expired);
	cp_view_add_count(rows, stats->breaker_opened);
}

/* What came with version 1.2 of the extension. */
static void
add_more_counters(CpViewRows *rows, const CpPoolInfo *pool)
{
	const CpPoolStats *stats = &pool->stats;

	cp_view_add_ms(rows, stats->total_remote_time);
	cp_view_add_count(rows, stats->auto_returned);
	cp_view_add_count(rows, stats->leaked[CP_LEAK_IDLE]);
	cp_view_add_count(rows, stats->leaked[CP_LEAK_IDLE_IN_TRANSACTION]);
	cp_view_add_count(rows, stats->leaked[CP_LEAK_BUSY]);
	cp_view_add_count(rows, stats->leaked[CP_LEAK_ABANDONED]);
	cp_view_add_ms(rows, pool->breaker_time);
	cp_view_add_ms(rows, stats->total_failed_wait_time);
	cp_view_add_count(rows, stats->peak_leased);
	cp_view_add_count(rows, stats->peak_waiting);
}

/* What came with version 1.4 of the extension. */
static void
add_transaction_counters(CpViewRows *rows, const CpPoolStats *stats)
{
	cp_view_add_count(rows, stats->overflowed);
	cp_view_add_count(rows, stats->remote_commits);
	cp_view_add_count(rows, stats->remote_rollbacks);
	cp_view_add_count(rows, stats->remote_commits_unknown);
}

/* p50, p90, p95, p99 and the maximum, of durations that were measured */
static void
add_percentiles(CpViewRows *rows, int i, const CpPoolInfo *pool, CpLatency kind)
{
	static const double shares[] = {0.5, 0.9, 0.95, 0.99};
	CpHistogram histogram;
	bool is_known = cp_pool_read_latency(i, pool->generation, kind, &histogram) &&
		histogram.count > 0;

	for (int share = 0; share < lengthof(shares); share++)
	{
		if (is_known)
			cp_view_add_ms(rows, cp_histogram_percentile(&histogram, shares[share]));
		else
			cp_view_add_null(rows);
	}
	if (is_known)
		cp_view_add_ms(rows, histogram.max);
	else
		cp_view_add_null(rows);
}

Datum
conpool_get_stat_pools(PG_FUNCTION_ARGS)
{
	CpViewRows rows;
	CpPoolInfo pool;

	cp_view_begin(&rows, fcinfo);
	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		if (!cp_view_read_pool(&rows, i, &pool))
			continue;
		cp_view_add_pool(&rows, &pool.key, pool.name);
		add_counters(&rows, &pool.stats);
		add_more_counters(&rows, &pool);
		for (int kind = 0; kind < CP_LATENCIES; kind++)
			add_percentiles(&rows, i, &pool, kind);
		add_transaction_counters(&rows, &pool.stats);
		cp_view_end_row(&rows);
	}
	return (Datum) 0;
}

/* ---- distributions and history ------------------------------------------------- */

static const char *
latency_name(CpLatency kind)
{
	switch (kind)
	{
		case CP_LATENCY_WAIT:
			return "wait";
		case CP_LATENCY_CHECKOUT:
			return "checkout";
		case CP_LATENCY_CONNECT:
			return "connect";
		case CP_LATENCY_REMOTE:
			return "remote";
	}
	return NULL;
}

/* The buckets that are not empty, shortest durations first. */
static void
add_distribution(CpViewRows *rows, const CpPoolInfo *pool, CpLatency kind,
				 const CpHistogram *histogram)
{
	int64 cumulative = 0;

	for (int bucket = 0; bucket < CP_BUCKETS; bucket++)
	{
		CpTime bound = cp_histogram_bound(bucket);

		if (histogram->buckets[bucket] == 0)
			continue;
		cumulative += histogram->buckets[bucket];
		cp_view_add_pool(rows, &pool->key, pool->name);
		cp_view_add_text(rows, latency_name(kind));
		if (bound == CP_FOREVER)
			cp_view_add(rows, Float8GetDatum(get_float8_infinity()));
		else
			cp_view_add_ms(rows, bound);
		cp_view_add_count(rows, histogram->buckets[bucket]);
		cp_view_add_count(rows, cumulative);
		cp_view_end_row(rows);
	}
}

Datum
conpool_get_stat_latency(PG_FUNCTION_ARGS)
{
	CpViewRows rows;
	CpPoolInfo pool;
	CpHistogram histogram;

	cp_view_begin(&rows, fcinfo);
	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		if (!cp_view_read_pool(&rows, i, &pool))
			continue;
		for (int kind = 0; kind < CP_LATENCIES; kind++)
		{
			if (cp_pool_read_latency(i, pool.generation, kind, &histogram))
				add_distribution(&rows, &pool, kind, &histogram);
		}
	}
	return (Datum) 0;
}

/* A median, a p99 and a maximum; NULL where nothing was measured. */
static void
add_summary(CpViewRows *rows, bool is_known, uint32 p50, uint32 p99, uint32 max)
{
	const uint32 durations[] = {p50, p99, max};

	for (int i = 0; i < lengthof(durations); i++)
	{
		if (is_known)
			cp_view_add_ms(rows, durations[i]);
		else
			cp_view_add_null(rows);
	}
}

static void
add_history_row(CpViewRows *rows, const CpPoolInfo *pool, const CpHistoryRow *row)
{
	cp_view_add_pool(rows, &pool->key, pool->name);
	cp_view_add_timestamp(rows, row->until);
	cp_view_add_int(rows, (int) row->seconds);
	cp_view_add_count(rows, row->checkouts);
	cp_view_add_count(rows, row->timeouts);
	cp_view_add_count(rows, row->errors);
	add_summary(rows, row->waits > 0, row->wait_p50, row->wait_p99, row->wait_max);
	add_summary(rows, row->leases > 0, row->checkout_p50, row->checkout_p99,
				row->checkout_max);
	cp_view_add_int(rows, (int) row->peak_leased);
	cp_view_add_int(rows, (int) row->peak_waiting);
	cp_view_add(rows, Float8GetDatum(row->breaker_ms / 1000.0));
	cp_view_end_row(rows);
}

Datum
conpool_get_stat_history(PG_FUNCTION_ARGS)
{
	CpViewRows rows;
	CpPoolInfo pool;

	cp_view_begin(&rows, fcinfo);
	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		CpHistoryRow *history = NULL;
		int n;

		if (!cp_view_read_pool(&rows, i, &pool))
			continue;
		n = cp_history_read(i, pool.generation, &history);
		for (int row = 0; row < n; row++)
			add_history_row(&rows, &pool, &history[row]);
		if (history != NULL)
			pfree(history);
	}
	return (Datum) 0;
}

/* ---- statements, errors and events ------------------------------------------------ */

Datum
conpool_get_stat_statements(PG_FUNCTION_ARGS)
{
	CpViewRows rows;
	CpStatement *statements;
	int n;

	cp_view_begin(&rows, fcinfo);
	n = cp_statement_stats_read(&statements);
	for (int i = 0; i < n; i++)
	{
		const CpStatement *statement = &statements[i];
		const CpStatementKey *key = &statement->key;
		const CpStatementCounters *counters = &statement->counters;

		if (!cp_viewer_sees_pool(&rows.viewer, &key->pool))
			continue;
		cp_view_add_pool(&rows, &key->pool, statement->pool);
		cp_view_add_role(&rows, key->role);
		cp_view_add_query_id(&rows, key->role, key->role, key->query_id);
		cp_view_add_count(&rows, counters->calls);
		cp_view_add_count(&rows, counters->rows);
		cp_view_add_count(&rows, counters->errors);
		cp_view_add_ms(&rows, counters->wait_time);
		cp_view_add_ms(&rows, counters->remote_time);
		cp_view_add_ms(&rows, counters->max_remote_time);
		cp_view_add_timestamp(&rows, statement->since);
		cp_view_add_sql(&rows, key->role, statement->session_role, statement->sql);
		cp_view_end_row(&rows);
	}
	return (Datum) 0;
}

Datum
conpool_stat_statements_evictions(PG_FUNCTION_ARGS)
{
	cp_shmem_require();
	PG_RETURN_INT64(cp_statement_stats_evictions());
}

/* What nobody in particular was told says why a remote is out of reach. */
static bool
sees_message(const CpViewer *viewer, const CpErrorStat *error)
{
	if (OidIsValid(error->role))
		return cp_viewer_sees_session(viewer, error->role, error->session_role);
	return cp_viewer_sees_problems(viewer, &error->key);
}

Datum
conpool_get_stat_errors(PG_FUNCTION_ARGS)
{
	CpViewRows rows;
	CpErrorStat *errors;
	int n;

	cp_view_begin(&rows, fcinfo);
	n = cp_error_stats_read(&errors);
	for (int i = 0; i < n; i++)
	{
		const CpErrorStat *error = &errors[i];

		if (!cp_viewer_sees_pool(&rows.viewer, &error->key))
			continue;
		cp_view_add_pool(&rows, &error->key, error->pool);
		cp_view_add_sqlstate(&rows, error->sqlstate);
		cp_view_add_count(&rows, error->count);
		cp_view_add_timestamp(&rows, error->first_seen);
		cp_view_add_timestamp(&rows, error->last_seen);
		cp_view_add_visible(&rows, sees_message(&rows.viewer, error), error->message);
		cp_view_add_role(&rows, error->role);
		cp_view_add_query_id(&rows, error->role, error->session_role, error->query_id);
		cp_view_end_row(&rows);
	}
	return (Datum) 0;
}

/* Those of no pool have a key of zeros, which must not pass for a PUBLIC pool's. */
static bool
is_of_pool(const CpEvent *event)
{
	return OidIsValid(event->key.database) || event->key.kind == CP_POOL_OVERFLOW;
}

static bool
sees_event(const CpViewer *viewer, const CpEvent *event)
{
	return is_of_pool(event) ? cp_viewer_sees_pool(viewer, &event->key) : viewer->sees_all;
}

static void
add_event_pool(CpViewRows *rows, const CpEvent *event)
{
	if (is_of_pool(event))
	{
		cp_view_add_pool(rows, &event->key, event->pool);
		return;
	}
	for (int column = 0; column < 3; column++)
		cp_view_add_null(rows);
}

Datum
conpool_get_events(PG_FUNCTION_ARGS)
{
	CpViewRows rows;
	CpEvent *events;
	int n;

	cp_view_begin(&rows, fcinfo);
	n = cp_events_read(&events);
	for (int i = 0; i < n; i++)
	{
		const CpEvent *event = &events[i];

		if (!sees_event(&rows.viewer, event))
			continue;
		cp_view_add_count(&rows, (int64) event->number);
		cp_view_add_timestamp(&rows, event->at);
		cp_view_add_text(&rows, cp_event_name(event->kind));
		add_event_pool(&rows, event);
		if (event->slot == CP_NONE)
			cp_view_add_null(&rows);
		else
			cp_view_add_int(&rows, event->slot);
		cp_view_add_pid(&rows, event->pid);
		cp_view_add_text(&rows, event->detail);
		cp_view_end_row(&rows);
	}
	return (Datum) 0;
}
