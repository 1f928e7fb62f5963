/*
 * sql_report.c
 *		The function report(): all there is to be told, as one HTML page.
 *
 * Runs in client backends.  Reads conpool's views through SPI, as its caller,
 * who so sees what he sees in the views; their names are qualified, and the
 * function is declared with a search_path of its own.  Must write nothing to the
 * database: it works on a standby as well.  How large the page gets is bounded:
 * tables show their first rows only, and texts are cut.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "report_html.h"
#include "report_page.h"
#include "report_pools.h"
#include "report_rows.h"
#include "report_table.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(conpool_report);

/* ---- what is now ------------------------------------------------------------- */

static const char holders_sql[] =
	"SELECT count(*) OVER ()::float8, server, database, role,"
	"       (1000 * extract(epoch FROM held_for))::float8, leak, sql, stack, query_id::text,"
	"       (1000 * extract(epoch FROM clock_timestamp() - running_since))::float8,"
	"       pid::text, application_name, client_addr, scope"
	"  FROM conpool.leases ORDER BY held_for DESC NULLS LAST, lease LIMIT 50";

static const CpTableColumn holders_columns[] = {
	{"Pool", CP_CELL_POOL},
	{"Held for", CP_CELL_DURATION},
	{"Past threshold", CP_CELL_BADGE},
	{"Statement that took it", CP_CELL_SQL},
	{"Remote statement runs", CP_CELL_DURATION},
	{"Session", CP_CELL_SESSION},
	{"Scope", CP_CELL_NAME},
	{NULL, CP_CELL_END},
};

static const CpTable holders = {
	.id = "holders",
	.heading = "Holders",
	.about = "Who uses a connection now, the longest first.",
	.empty = "Nobody uses a connection.",
	.sql = holders_sql,
	.columns = holders_columns,
};

static const char waiters_sql[] =
	"SELECT total::float8, server, database, role, pid::text, position::text,"
	"       (1000 * extract(epoch FROM waited_for))::float8, since,"
	"       array_to_string(conpool.blocking_pids(pid), ', ')"
	"  FROM (SELECT *, count(*) OVER () AS total FROM conpool.waiters"
	"         ORDER BY waited_for DESC NULLS LAST, pid LIMIT 50) AS waiters";

static const CpTableColumn waiters_columns[] = {
	{"Pool", CP_CELL_POOL},
	{"PID", CP_CELL_ID},
	{"Place in the queue", CP_CELL_ID},
	{"Waits for", CP_CELL_DURATION},
	{"Since", CP_CELL_TIME},
	{"PIDs that have what it waits for", CP_CELL_PROSE},
	{NULL, CP_CELL_END},
};

static const CpTable waiters = {
	.id = "waiters",
	.heading = "Waiters",
	.about = "Who waits for a connection now, the longest first.",
	.empty = "Nobody waits.",
	.sql = waiters_sql,
	.columns = waiters_columns,
};

static const char leaks_sql[] =
	"SELECT count(*) OVER ()::float8, class, server, database, role,"
	"       (1000 * extract(epoch FROM held_for))::float8, coalesce(outcome, 'still held'),"
	"       sql, stack, query_id::text, pid::text, application_name, client_addr, holder,"
	"       since, ended_at"
	"  FROM conpool.leaks"
	" ORDER BY outcome IS NOT NULL, ended_at DESC, held_for DESC, lease LIMIT 30";

static const CpTableColumn leaks_columns[] = {
	{"Class", CP_CELL_BADGE},
	{"Pool", CP_CELL_POOL},
	{"Held for", CP_CELL_DURATION},
	{"Outcome", CP_CELL_BADGE},
	{"Statement that took it", CP_CELL_SQL},
	{"Session", CP_CELL_SESSION},
	{"Role", CP_CELL_NAME},
	{"Since", CP_CELL_TIME},
	{"Ended", CP_CELL_TIME},
	{NULL, CP_CELL_END},
};

static const CpTable leaks = {
	.id = "leaks",
	.heading = "Leaks",
	.about = "Connections that were not given back in time: those that are held now, then the "
			 "latest that are over.",
	.empty = "No leaks.",
	.sql = leaks_sql,
	.columns = leaks_columns,
};

/* ---- what was counted ---------------------------------------------------------- */

static const char errors_sql[] =
	"SELECT count(*) OVER ()::float8, server, database, role, sqlstate, count::float8,"
	"       first_seen, last_seen, last_message, last_caller, last_query_id::text"
	"  FROM conpool.stat_errors ORDER BY last_seen DESC NULLS LAST LIMIT 50";

static const CpTableColumn errors_columns[] = {
	{"Pool", CP_CELL_POOL},
	{"SQLSTATE", CP_CELL_NAME},
	{"Count", CP_CELL_COUNT},
	{"First", CP_CELL_TIME},
	{"Last", CP_CELL_TIME},
	{"Last message", CP_CELL_PROSE},
	{"Last caller", CP_CELL_NAME},
	{"Last query ID", CP_CELL_ID},
	{NULL, CP_CELL_END},
};

static const CpTable errors = {
	.id = "errors",
	.heading = "Errors",
	.about = "What callers got, by SQLSTATE, the latest first.",
	.empty = "No errors.",
	.sql = errors_sql,
	.columns = errors_columns,
};

static const char statements_sql[] =
	"SELECT count(*) OVER ()::float8, server, database, role, caller, total_remote_time,"
	"       total_remote_time / nullif(sum(total_remote_time) OVER (), 0),"
	"       calls::float8, total_remote_time / nullif(calls, 0), max_remote_time,"
	"       total_wait_time, rows::float8, errors::float8, query, NULL, query_id::text"
	"  FROM conpool.stat_statements"
	" ORDER BY total_remote_time DESC NULLS LAST, query_id LIMIT 20";

static const CpTableColumn statements_columns[] = {
	{"Pool", CP_CELL_POOL},
	{"Caller", CP_CELL_NAME},
	{"Remote time", CP_CELL_DURATION},
	{"Share", CP_CELL_SHARE},
	{"Calls", CP_CELL_COUNT},
	{"Mean", CP_CELL_DURATION},
	{"Longest", CP_CELL_DURATION},
	{"Waited", CP_CELL_DURATION},
	{"Rows", CP_CELL_COUNT},
	{"Errors", CP_CELL_ALARM},
	{"Statement", CP_CELL_SQL},
	{NULL, CP_CELL_END},
};

static const CpTable statements = {
	.id = "statements",
	.heading = "Statements",
	.about = "Local statements that use pools, by the remote time they took.",
	.empty = "No statements.",
	.sql = statements_sql,
	.columns = statements_columns,
};

static const char events_sql[] =
	"SELECT count(*) OVER ()::float8, at, event, server, database, role, slot::text,"
	"       pid::text, detail"
	"  FROM conpool.events ORDER BY number DESC LIMIT 50";

static const CpTableColumn events_columns[] = {
	{"Time", CP_CELL_TIME},
	{"Event", CP_CELL_BADGE},
	{"Pool", CP_CELL_POOL},
	{"Slot", CP_CELL_ID},
	{"PID", CP_CELL_ID},
	{"Detail", CP_CELL_PROSE},
	{NULL, CP_CELL_END},
};

static const CpTable events = {
	.id = "events",
	.heading = "Events",
	.about = "What happened, the latest first.",
	.empty = "No events.",
	.sql = events_sql,
	.columns = events_columns,
};

/* ---- advice -------------------------------------------------------------------- */

static void
write_paragraph(StringInfo page, const char *class, const char *text)
{
	if (text == NULL)
		return;
	appendStringInfo(page, "<div class=\"%s\">", class);
	cp_html_prose(page, text);
	appendStringInfoString(page, "</div>");
}

static void
write_one_advice(StringInfo page, CpCursor *cursor)
{
	char *server = cp_rows_text(cursor);
	char *database = cp_rows_text(cursor);
	char *role = cp_rows_text(cursor);
	char *sql;

	appendStringInfoString(page, "<li>");
	write_paragraph(page, "finding", cp_rows_text(cursor));
	if (server != NULL)
	{
		appendStringInfoString(page, "<p class=\"where\">");
		cp_table_pool(page, server, database, role);
		appendStringInfoString(page, "</p>");
	}
	write_paragraph(page, "about", cp_rows_text(cursor));
	write_paragraph(page, "suggestion", cp_rows_text(cursor));
	sql = cp_rows_text(cursor);
	if (sql != NULL)
	{
		appendStringInfoString(page, "<div class=\"run\">");
		cp_html_sql(page, sql, NULL, NULL);
		appendStringInfoString(page, "</div>");
	}
	appendStringInfoString(page, "</li>\n");
}

static void
write_advice(StringInfo page)
{
	const SPITupleTable *result;
	uint64 rows = cp_rows_select("SELECT server, database, role, finding, evidence, suggestion,"
								 "       sql FROM conpool.advice LIMIT 30",
								 &result);

	cp_page_begin_section(page, "advice", "Advice", rows, NULL);
	if (rows == 0)
		appendStringInfoString(page, "<p class=\"empty\">No advice: nothing stands out.</p>\n");
	else
	{
		appendStringInfoString(page, "<ul class=\"advice\">\n");
		for (uint64 row = 0; row < rows; row++)
		{
			CpCursor cursor = cp_rows_at(result, row);

			write_one_advice(page, &cursor);
		}
		appendStringInfoString(page, "</ul>\n");
	}
	cp_page_end_section(page);
}

/* ---- the top of the page --------------------------------------------------------- */

static const char header_sql[] =
	"SELECT pg_has_role('pg_read_all_stats', 'USAGE'), pg_is_in_recovery(),"
	"       clock_timestamp(), pg_postmaster_start_time(), current_setting('TimeZone'),"
	"       coalesce(nullif(current_setting('cluster_name'), ''),"
	"                'PostgreSQL on port ' || current_setting('port')),"
	"       current_setting('server_version'), current_database(),"
	"       (SELECT extversion FROM pg_extension WHERE extname = 'conpool'), current_user";

static void
write_fact(StringInfo page, const char *word, const char *value)
{
	appendStringInfo(page, "<span>%s <b>", word);
	cp_html_name(page, value == NULL ? "" : value);
	appendStringInfoString(page, "</b></span>");
}

static void
write_instant(StringInfo page, const char *word, TimestampTz t, const char *zone)
{
	appendStringInfo(page, "<span>%s <b>", word);
	cp_html_time(page, t);
	appendStringInfoString(page, "</b> ");
	if (zone != NULL)
		cp_html_name(page, zone);
	appendStringInfoString(page, "</span>");
}

static void
write_header(StringInfo page)
{
	const SPITupleTable *result;
	CpCursor cursor;
	bool sees_all;
	bool is_standby;
	TimestampTz now;
	TimestampTz started;
	char *zone;

	(void) cp_rows_select(header_sql, &result);
	cursor = cp_rows_at(result, 0);
	sees_all = cp_rows_bool(&cursor);
	is_standby = cp_rows_bool(&cursor);
	now = cp_rows_time(&cursor);
	started = cp_rows_time(&cursor);
	zone = cp_rows_text(&cursor);
	appendStringInfoString(page, "<header><p class=\"brand\">conpool report</p><h1>");
	cp_html_name(page, cp_rows_text(&cursor));
	appendStringInfoString(page, "</h1><div class=\"facts\">");
	cp_html_badge(page, cp_shmem_broker_epoch() != 0 ? "broker running" : "broker not running");
	if (is_standby)
		cp_html_badge(page, "standby");
	write_fact(page, "PostgreSQL", cp_rows_text(&cursor));
	write_fact(page, "database", cp_rows_text(&cursor));
	write_fact(page, "conpool", cp_rows_text(&cursor));
	write_instant(page, "at", now, zone);
	write_instant(page, "server runs since", started, NULL);
	write_fact(page, "as seen by", cp_rows_text(&cursor));
	appendStringInfoString(page, "</div>");
	if (!sees_all)
		appendStringInfoString(page, "<p class=\"about\">This role sees only what concerns itself "
									 "and the roles whose privileges it has; members of "
									 "pg_read_all_stats see everything.</p>");
	appendStringInfoString(page, "</header>\n");
}

static const char tiles_sql[] =
	"SELECT sum(leased)::float8, sum(max_size)::float8, sum(size)::float8,"
	"       sum(waiting)::float8, (count(*) FILTER (WHERE breaker <> 'closed'))::float8,"
	"       count(*)::float8,"
	"       (SELECT count(*) FROM conpool.leaks WHERE outcome IS NULL)::float8"
	"  FROM conpool.pools";

/* all < 0: there is no more to it than n */
static void
write_tile(StringInfo page, const char *words, double n, double all, bool is_alarming)
{
	appendStringInfo(page, "<div class=\"tile%s\"><small>%s</small><b>",
					 is_alarming ? " alarm" : "", words);
	cp_html_count(page, n);
	if (all >= 0)
	{
		appendStringInfoString(page, " <span class=\"unit\">of ");
		cp_html_count(page, all);
		appendStringInfoString(page, "</span>");
	}
	appendStringInfoString(page, "</b></div>\n");
}

static void
write_tiles(StringInfo page)
{
	const SPITupleTable *result;
	CpCursor cursor;
	double leased;
	double max_size;
	double open;
	double waiting;
	double breakers;
	double pools;
	double held;

	(void) cp_rows_select(tiles_sql, &result);
	cursor = cp_rows_at(result, 0);
	leased = cp_rows_total(&cursor);
	max_size = cp_rows_total(&cursor);
	open = cp_rows_total(&cursor);
	waiting = cp_rows_total(&cursor);
	breakers = cp_rows_total(&cursor);
	pools = cp_rows_total(&cursor);
	held = cp_rows_total(&cursor);
	appendStringInfoString(page, "<div class=\"tiles\">\n");
	write_tile(page, "Connections in use", leased, max_size, false);
	write_tile(page, "Connections open", open, max_size, false);
	write_tile(page, "Sessions waiting", waiting, -1, waiting > 0);
	write_tile(page, "Leaks held now", held, -1, held > 0);
	write_tile(page, "Breakers not closed", breakers, pools, breakers > 0);
	appendStringInfoString(page, "</div>\n");
}

static void
write_navigation(StringInfo page)
{
	appendStringInfoString(page, "<nav aria-label=\"Sections\">"
								 "<a href=\"#advice\">Advice</a>"
								 "<a href=\"#pools\">Pools</a>"
								 "<a href=\"#holders\">Holders</a>"
								 "<a href=\"#waiters\">Waiters</a>"
								 "<a href=\"#leaks\">Leaks</a>"
								 "<a href=\"#details\">Pool by pool</a>"
								 "<a href=\"#errors\">Errors</a>"
								 "<a href=\"#statements\">Statements</a>"
								 "<a href=\"#events\">Events</a></nav>\n");
}

/* ---- the page ---------------------------------------------------------------------- */

static void
write_page(StringInfo page)
{
	CpReportPools *pools = cp_report_pools_read();

	cp_page_begin(page, "conpool report");
	write_header(page);
	write_tiles(page);
	write_navigation(page);
	appendStringInfoString(page, "<main>\n");
	write_advice(page);
	cp_report_pools_write(page, pools);
	cp_table_write(page, &holders);
	cp_table_write(page, &waiters);
	cp_table_write(page, &leaks);
	cp_report_pools_write_details(page, pools);
	cp_table_write(page, &errors);
	cp_table_write(page, &statements);
	cp_table_write(page, &events);
	appendStringInfoString(page, "</main>\n<footer>Made by conpool.report(). Times of day are "
								 "those of the time zone at the top.</footer>\n");
	cp_page_end(page);
}

Datum
conpool_report(PG_FUNCTION_ARGS)
{
	StringInfoData page;

	cp_shmem_require();
	initStringInfo(&page);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	write_page(&page);
	SPI_finish();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(page.data, page.len));
}
