/*
 * report_pools.c
 *		The pools on the page of report(): a table of all, drawings of some.
 *
 * Runs in client backends, between SPI_connect and SPI_finish, called by
 * sql_report.c.  Drawings are what makes a page large, so only the pools that are
 * used most have them.
 */
#include "postgres.h"

#include "report_pools.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "histogram.h"
#include "report_bars.h"
#include "report_html.h"
#include "report_page.h"
#include "report_rows.h"
#include "report_table.h"
#include "report_timeline.h"
#include "stats.h"

/* pools with drawings */
#define MAX_DETAILED 10

/* ---- pools ---------------------------------------------------------------------------- */

/* Percentiles of one kind of duration, in milliseconds; NaN: none was measured. */
typedef struct Percentiles
{
	double p50;
	double p90;
	double p99;
	double max;
} Percentiles;

/* kinds of stat_latency, in the order of CpLatency */
static const struct
{
	const char *name;
	const char *words;
} kinds[CP_LATENCIES] = {
	{"wait", "Wait for a connection"},
	{"checkout", "Checkout"},
	{"connect", "Connect"},
	{"remote", "Remote statement"},
};

/* A pool; those of the same name are shown as one. */
typedef struct Pool
{
	char *key; /* the names as a row's text */
	char *server;
	char *database;
	char *role;
	char *breaker;
	char *last_error;
	TimestampTz last_error_at;
	TimestampTz stats_reset;
	bool paused;
	bool dropped;
	double leased;
	double idle;
	double size;
	double max_size;
	double effective_max_size;
	double waiting;
	double checkouts;
	double timeouts;
	double failures;
	double queries;
	double query_errors;
	double connects;
	double leaks;
	double peak_leased;
	double peak_waiting;
	Percentiles latency[CP_LATENCIES];
	/* of a pool with drawings */
	CpTimePoint *points;
	CpBars bars[CP_LATENCIES];
} Pool;

struct CpReportPools
{
	Pool *pools;
	int npools;
	double total; /* more than npools if there are very many */
};

static const char pools_sql[] =
	"SELECT count(*) OVER ()::float8, key, server, database, role, breaker, last_error,"
	"       last_error_at, stats_reset, paused, dropped, leased, idle, size, max_size,"
	"       effective_max_size, waiting, counts.*"
	"  FROM (SELECT ROW(server, database, role)::text AS key, server, database, role,"
	"               max(breaker) AS breaker,"
	"               (array_agg(last_error ORDER BY last_error_at DESC NULLS LAST))[1]"
	"                   AS last_error,"
	"               max(last_error_at) AS last_error_at, bool_or(paused) AS paused,"
	"               bool_or(dropped) AS dropped, sum(leased)::float8 AS leased,"
	"               sum(idle)::float8 AS idle, sum(size)::float8 AS size,"
	"               sum(max_size)::float8 AS max_size,"
	"               sum(effective_max_size)::float8 AS effective_max_size,"
	"               sum(waiting)::float8 AS waiting"
	"          FROM conpool.pools GROUP BY server, database, role) AS pools"
	"       LEFT JOIN"
	"       (SELECT ROW(server, database, role)::text AS key, min(stats_reset) AS stats_reset,"
	"               sum(checkouts)::float8 AS checkouts,"
	"               sum(checkout_timeouts)::float8 AS timeouts,"
	"               sum(checkout_failures)::float8 AS failures, sum(queries)::float8,"
	"               sum(query_errors)::float8, sum(connects)::float8, sum(leaks)::float8,"
	"               max(peak_leased)::float8, max(peak_waiting)::float8,"
	"               max(wait_p50), max(wait_p90), max(wait_p99), max(wait_max),"
	"               max(checkout_p50), max(checkout_p90), max(checkout_p99), max(checkout_max),"
	"               max(connect_p50), max(connect_p90), max(connect_p99), max(connect_max),"
	"               max(remote_p50), max(remote_p90), max(remote_p99), max(remote_max)"
	"          FROM conpool.stat_pools GROUP BY server, database, role) AS counts"
	"       USING (key)"
	" ORDER BY waiting DESC, checkouts + timeouts + failures DESC NULLS LAST, server, database,"
	"          role LIMIT 200";

static void
read_pool(CpCursor *cursor, Pool *pool)
{
	pool->key = cp_rows_text(cursor);
	pool->server = cp_rows_text(cursor);
	pool->database = cp_rows_text(cursor);
	pool->role = cp_rows_text(cursor);
	pool->breaker = cp_rows_text(cursor);
	pool->last_error = cp_rows_text(cursor);
	pool->last_error_at = cp_rows_time(cursor);
	pool->stats_reset = cp_rows_time(cursor);
	pool->paused = cp_rows_bool(cursor);
	pool->dropped = cp_rows_bool(cursor);
	pool->leased = cp_rows_total(cursor);
	pool->idle = cp_rows_total(cursor);
	pool->size = cp_rows_total(cursor);
	pool->max_size = cp_rows_total(cursor);
	pool->effective_max_size = cp_rows_total(cursor);
	pool->waiting = cp_rows_total(cursor);
	cursor->column += 2; /* key and stats_reset once more */
	pool->checkouts = cp_rows_total(cursor);
	pool->timeouts = cp_rows_total(cursor);
	pool->failures = cp_rows_total(cursor);
	pool->queries = cp_rows_total(cursor);
	pool->query_errors = cp_rows_total(cursor);
	pool->connects = cp_rows_total(cursor);
	pool->leaks = cp_rows_total(cursor);
	pool->peak_leased = cp_rows_total(cursor);
	pool->peak_waiting = cp_rows_total(cursor);
	for (int kind = 0; kind < CP_LATENCIES; kind++)
	{
		pool->latency[kind].p50 = cp_rows_number(cursor);
		pool->latency[kind].p90 = cp_rows_number(cursor);
		pool->latency[kind].p99 = cp_rows_number(cursor);
		pool->latency[kind].max = cp_rows_number(cursor);
	}
}

CpReportPools *
cp_report_pools_read(void)
{
	CpReportPools *pools = palloc0(sizeof(CpReportPools));
	const SPITupleTable *result;
	uint64 rows = cp_rows_select(pools_sql, &result);

	pools->npools = (int) rows;
	pools->pools = palloc0(Max(rows, 1) * sizeof(Pool));
	for (uint64 row = 0; row < rows; row++)
	{
		CpCursor cursor = cp_rows_at(result, row);

		pools->total = cp_rows_total(&cursor);
		read_pool(&cursor, &pools->pools[row]);
	}
	return pools;
}

/* ---- the table of pools ------------------------------------------------------------------ */

static const CpTableColumn pool_columns[] = {
	{"Pool", CP_CELL_POOL},
	{"Connections", CP_CELL_NAME},
	{"Waiting", CP_CELL_ALARM},
	{"Breaker", CP_CELL_BADGE},
	{"Checkouts", CP_CELL_COUNT},
	{"Wait p50", CP_CELL_DURATION},
	{"Wait p99", CP_CELL_DURATION},
	{"Timeouts", CP_CELL_ALARM},
	{"Failures", CP_CELL_ALARM},
	{"Errors", CP_CELL_ALARM},
	{"Leaks", CP_CELL_ALARM},
	{NULL, CP_CELL_END},
};

static void
write_fill(StringInfo page, const Pool *pool)
{
	appendStringInfoString(page, "<td class=\"fill\">");
	cp_bars_pool(page, pool->leased, pool->idle,
				 Max(pool->size - pool->leased - pool->idle, 0), pool->max_size);
	appendStringInfo(page, "<small>%.0f leased, %.0f idle of %.0f", pool->leased, pool->idle,
					 pool->max_size);
	if (pool->effective_max_size < pool->max_size)
		appendStringInfo(page, " (now %.0f)", pool->effective_max_size);
	appendStringInfoString(page, "</small></td>");
}

static void
write_states(StringInfo page, const Pool *pool)
{
	if (pool->breaker != NULL && strcmp(pool->breaker, "closed") != 0)
		cp_html_badge(page, strcmp(pool->breaker, "open") == 0 ? "breaker open" : pool->breaker);
	if (pool->paused)
		cp_html_badge(page, "paused");
	if (pool->dropped)
		cp_html_badge(page, "dropped");
}

static void
write_pool_row(StringInfo page, const Pool *pool, int number)
{
	bool is_closed = pool->breaker == NULL || strcmp(pool->breaker, "closed") == 0;

	appendStringInfoString(page, "<tr><td class=\"pool\">");
	if (number < MAX_DETAILED)
		appendStringInfo(page, "<a href=\"#pool%d\">", number + 1);
	cp_table_pool(page, pool->server, pool->database, pool->role);
	appendStringInfo(page, "%s</td>", number < MAX_DETAILED ? "</a>" : "");
	write_fill(page, pool);
	cp_table_number(page, CP_CELL_ALARM, pool->waiting);
	appendStringInfoString(page, "<td>");
	write_states(page, pool);
	if (is_closed && !pool->paused && !pool->dropped)
		appendStringInfoString(page, "closed");
	appendStringInfoString(page, "</td>");
	cp_table_number(page, CP_CELL_COUNT, pool->checkouts);
	cp_table_number(page, CP_CELL_DURATION, pool->latency[CP_LATENCY_WAIT].p50);
	cp_table_number(page, CP_CELL_DURATION, pool->latency[CP_LATENCY_WAIT].p99);
	cp_table_number(page, CP_CELL_ALARM, pool->timeouts);
	cp_table_number(page, CP_CELL_ALARM, pool->failures);
	cp_table_number(page, CP_CELL_ALARM, pool->query_errors);
	cp_table_number(page, CP_CELL_ALARM, pool->leaks);
	appendStringInfoString(page, "</tr>\n");
}

void
cp_report_pools_write(StringInfo page, const CpReportPools *pools)
{
	cp_page_begin_section(page, "pools", "Pools", pools->total, NULL);
	if (pools->npools == 0)
		appendStringInfoString(page, "<p class=\"empty\">No pools: nobody has used one, "
									 "or none may be seen.</p>\n");
	else
	{
		appendStringInfoString(page, "<p class=\"about keys\">"
									 "<span class=\"key leased\">leased</span> "
									 "<span class=\"key idle\">idle</span> "
									 "<span class=\"key other\">being opened, checked or "
									 "closed</span></p>\n");
		cp_table_begin(page, "Pools", pool_columns);
		for (int i = 0; i < pools->npools; i++)
			write_pool_row(page, &pools->pools[i], i);
		cp_table_end(page, pools->npools, pools->total);
	}
	cp_page_end_section(page);
}

/* ---- pools in detail -------------------------------------------------------------------- */

static ArrayType *
keys_of(const Pool *pools, int npools)
{
	Datum *keys = palloc(npools * sizeof(Datum));

	for (int i = 0; i < npools; i++)
		keys[i] = CStringGetTextDatum(pools[i].key);
	return construct_array(keys, npools, TEXTOID, -1, false, TYPALIGN_INT);
}

static void
read_interval(CpCursor *cursor, CpTimePoint *interval)
{
	interval->seconds = cp_rows_total(cursor);
	interval->checkouts = cp_rows_total(cursor);
	interval->timeouts = cp_rows_total(cursor);
	interval->errors = cp_rows_total(cursor);
	interval->wait_p99 = cp_rows_number(cursor);
	interval->wait_max = cp_rows_number(cursor);
	interval->checkout_p99 = cp_rows_number(cursor);
	interval->checkout_max = cp_rows_number(cursor);
	interval->peak_leased = cp_rows_total(cursor);
	interval->peak_waiting = cp_rows_total(cursor);
	interval->breaker_seconds = cp_rows_total(cursor);
}

static const char history_sql[] =
	"SELECT until, max(seconds)::float8, sum(checkouts)::float8,"
	"       sum(timeouts)::float8, sum(errors)::float8, max(wait_p99), max(wait_max),"
	"       max(checkout_p99), max(checkout_max), sum(peak_leased)::float8,"
	"       sum(peak_waiting)::float8, max(breaker_seconds), top.n::float8"
	"  FROM conpool.stat_history AS h"
	"       JOIN unnest($1) WITH ORDINALITY AS top(key, n)"
	"       ON top.key = ROW(h.server, h.database, h.role)::text"
	" WHERE until > clock_timestamp() - interval '1 day'"
	" GROUP BY top.n, until";

/* The last hours of the first pools; false if there is nothing. */
static bool
read_history(Pool *pools, int npools, CpTimeAxis *axis)
{
	const SPITupleTable *result;
	uint64 rows = cp_rows_select_of(history_sql, keys_of(pools, npools), &result);
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz oldest = now;
	double longest = 0;

	for (uint64 row = 0; row < rows; row++)
	{
		CpCursor cursor = cp_rows_at(result, row);
		TimestampTz until = cp_rows_time(&cursor);
		double seconds = cp_rows_total(&cursor);

		oldest = Min(oldest, until - (TimestampTz) (seconds * USECS_PER_SEC));
		longest = Max(longest, seconds);
	}
	cp_timeline_axis(axis, now, oldest, longest);
	for (int i = 0; i < npools; i++)
		pools[i].points = palloc0(axis->npoints * sizeof(CpTimePoint));
	for (uint64 row = 0; row < rows; row++)
	{
		CpCursor cursor = cp_rows_at(result, row);
		TimestampTz until = cp_rows_time(&cursor);
		CpTimePoint interval = {0};

		read_interval(&cursor, &interval);
		cp_timeline_add(axis, pools[(int) cp_rows_number(&cursor) - 1].points, until, &interval);
	}
	return rows > 0;
}

static const char latency_sql[] =
	"SELECT top.n::float8, kind, le_ms, count::float8"
	"  FROM conpool.stat_latency AS l"
	"       JOIN unnest($1) WITH ORDINALITY AS top(key, n)"
	"       ON top.key = ROW(l.server, l.database, l.role)::text";

static void
read_latency(Pool *pools, int npools)
{
	const SPITupleTable *result;
	uint64 rows = cp_rows_select_of(latency_sql, keys_of(pools, npools), &result);

	for (uint64 row = 0; row < rows; row++)
	{
		CpCursor cursor = cp_rows_at(result, row);
		Pool *pool = &pools[(int) cp_rows_number(&cursor) - 1];
		char *kind = cp_rows_text(&cursor);
		double ms = cp_rows_total(&cursor);
		double count = cp_rows_total(&cursor);
		CpTime bound = ms >= 1e10 ? CP_FOREVER : (CpTime) rint(ms * 1000);

		for (int i = 0; i < CP_LATENCIES; i++)
			if (kind != NULL && strcmp(kinds[i].name, kind) == 0)
				cp_bars_add(&pool->bars[i], bound, count);
	}
}

static void
write_figure(StringInfo page, const char *word, double n)
{
	appendStringInfo(page, "<div><dt>%s</dt><dd>", word);
	cp_html_count(page, n);
	appendStringInfoString(page, "</dd></div>");
}

static void
write_percentile(StringInfo page, const char *word, double ms)
{
	appendStringInfo(page, "<div><dt>%s</dt><dd>", word);
	cp_html_duration(page, ms);
	appendStringInfoString(page, "</dd></div>");
}

static void
write_distribution(StringInfo page, const Pool *pool, int kind, int number)
{
	const CpBars *bars = &pool->bars[kind];
	const Percentiles *latency = &pool->latency[kind];

	appendStringInfo(page, "<figure class=\"kind-%s\"><figcaption>%s ", kinds[kind].name,
					 kinds[kind].words);
	if (bars->total > 0 && !isnan(latency->p50))
	{
		appendStringInfoString(page, "<small>");
		cp_html_count(page, bars->total);
		appendStringInfoString(page, "</small></figcaption>");
		cp_bars_draw(page, number, kinds[kind].words, bars, latency->p50, latency->p99);
		appendStringInfoString(page, "<dl>");
		write_percentile(page, "p50", latency->p50);
		write_percentile(page, "p90", latency->p90);
		write_percentile(page, "p99", latency->p99);
		write_percentile(page, "max", latency->max);
		appendStringInfoString(page, "</dl></figure>\n");
	}
	else
		appendStringInfoString(page, "</figcaption><p class=\"empty\">Nothing was measured.</p>"
									 "</figure>\n");
}

static void
write_figures(StringInfo page, const Pool *pool)
{
	appendStringInfoString(page, "<dl>");
	write_figure(page, "checkouts", pool->checkouts);
	write_figure(page, "queries", pool->queries);
	write_figure(page, "errors", pool->query_errors);
	write_figure(page, "timeouts", pool->timeouts);
	write_figure(page, "failures", pool->failures);
	write_figure(page, "connects", pool->connects);
	write_figure(page, "most leased", pool->peak_leased);
	write_figure(page, "most waiting", pool->peak_waiting);
	appendStringInfoString(page, "<div><dt>since</dt><dd>");
	cp_table_time(page, pool->stats_reset);
	appendStringInfoString(page, "</dd></div></dl>");
	if (pool->last_error == NULL)
		return;
	appendStringInfoString(page, "<p class=\"about\">Last failure to connect: ");
	cp_table_time(page, pool->last_error_at);
	appendStringInfoString(page, " ");
	cp_html_prose(page, pool->last_error);
	appendStringInfoString(page, "</p>");
}

static void
write_detail(StringInfo page, const Pool *pool, int number, const CpTimeAxis *axis,
			 bool has_history)
{
	int first_id = number * (1 + CP_LATENCIES);

	appendStringInfo(page, "<article id=\"pool%d\"><header><h3>", number + 1);
	cp_table_pool(page, pool->server, pool->database, pool->role);
	appendStringInfoString(page, "</h3>");
	write_states(page, pool);
	appendStringInfoString(page, "</header>\n");
	write_figures(page, pool);
	appendStringInfo(page, "<h4>The last %s</h4>\n",
					 cp_html_duration_text(axis->npoints * axis->width / 1000.0));
	if (has_history)
		cp_timeline_draw(page, first_id, axis, pool->points, pool->max_size);
	else
		appendStringInfoString(page, "<p class=\"empty\">Nothing is recorded yet.</p>");
	appendStringInfoString(page, "<h4>Distributions</h4>\n<div class=\"kinds\">\n");
	for (int kind = 0; kind < CP_LATENCIES; kind++)
		write_distribution(page, pool, kind, first_id + 1 + kind);
	appendStringInfoString(page, "</div></article>\n");
}

void
cp_report_pools_write_details(StringInfo page, CpReportPools *pools)
{
	int shown = Min(pools->npools, MAX_DETAILED);
	CpTimeAxis axis;
	bool has_history;

	if (shown == 0)
		return;
	has_history = read_history(pools->pools, shown, &axis);
	read_latency(pools->pools, shown);
	cp_page_begin_section(page, "details", "Pool by pool", -1, NULL);
	appendStringInfoString(page, "<p class=\"about\">");
	if (shown < pools->total)
		appendStringInfo(page, "The %d of %.0f pools that are used most. ", shown, pools->total);
	appendStringInfo(page, "A step is %s wide and as high as the worst in it; for checkouts the "
						   "area is the mean, the line the busiest interval. Distributions count "
						   "from the last reset of the statistics on; dashed: p50, p99.</p>\n",
					 cp_html_duration_text(axis.width / 1000.0));
	for (int i = 0; i < shown; i++)
		write_detail(page, &pools->pools[i], i, &axis, has_history);
	cp_page_end_section(page);
}
