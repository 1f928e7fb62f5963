/*
 * report_table.c
 *		Tables on the page of report(): a query, and how its columns are shown.
 *
 * Runs in client backends, between SPI_connect and SPI_finish, called by
 * sql_report.c and report_pools.c.  Text goes through report_html.c.
 */
#include "postgres.h"

#include "report_table.h"

#include <math.h>

#include "report_html.h"
#include "report_page.h"
#include "report_rows.h"

#define DASH "<span class=\"none\">&#8211;</span>"

static const char *
class_of(CpCellKind kind)
{
	switch (kind)
	{
		case CP_CELL_POOL:
			return "pool";
		case CP_CELL_NAME:
		case CP_CELL_SESSION:
			return "name";
		case CP_CELL_PROSE:
		case CP_CELL_SQL:
			return "long";
		case CP_CELL_ID:
		case CP_CELL_COUNT:
		case CP_CELL_ALARM:
		case CP_CELL_DURATION:
			return "n";
		case CP_CELL_BADGE:
		case CP_CELL_SHARE:
		case CP_CELL_TIME:
		case CP_CELL_END:
			break;
	}
	return "nowrap";
}

/* ---- cells -------------------------------------------------------------------- */

void
cp_table_pool(StringInfo page, const char *server, const char *database, const char *role)
{
	if (server == NULL)
	{
		appendStringInfoString(page, DASH);
		return;
	}
	appendStringInfoString(page, "<b>");
	cp_html_name(page, server);
	appendStringInfoString(page, "</b>");
	if (database == NULL && role == NULL)
		return;
	appendStringInfoString(page, "<small>");
	if (database != NULL)
		cp_html_name(page, database);
	if (database != NULL && role != NULL)
		appendStringInfoString(page, " &#183; ");
	if (role != NULL)
		cp_html_name(page, role);
	appendStringInfoString(page, "</small>");
}

static void
write_session(StringInfo page, CpCursor *cursor)
{
	char *pid = cp_rows_text(cursor);
	char *application = cp_rows_text(cursor);
	char *client = cp_rows_text(cursor);

	cp_html_name(page, pid == NULL ? "" : pid);
	appendStringInfoString(page, "<small>");
	if (application != NULL)
		cp_html_name(page, application);
	if (application != NULL && client != NULL)
		appendStringInfoString(page, "<br>");
	if (client != NULL)
		cp_html_name(page, client);
	appendStringInfoString(page, "</small>");
}

static void
write_pool(StringInfo page, CpCursor *cursor)
{
	char *server = cp_rows_text(cursor);
	char *database = cp_rows_text(cursor);
	char *role = cp_rows_text(cursor);

	cp_table_pool(page, server, database, role);
}

static void
write_sql(StringInfo page, CpCursor *cursor)
{
	char *sql = cp_rows_text(cursor);
	char *stack = cp_rows_text(cursor);
	char *id = cp_rows_text(cursor);

	if (sql == NULL && stack == NULL)
		appendStringInfoString(page, DASH);
	else
		cp_html_sql(page, sql == NULL ? "" : sql, stack, id);
}

static void
write_text(StringInfo page, CpCellKind kind, const char *text)
{
	if (text == NULL || text[0] == '\0')
		appendStringInfoString(page, DASH);
	else if (kind == CP_CELL_PROSE)
		cp_html_prose(page, text);
	else if (kind == CP_CELL_BADGE)
		cp_html_badge(page, text);
	else
		cp_html_name(page, text);
}

static void
write_share(StringInfo page, double share)
{
	int percent = (int) rint(100 * share);

	appendStringInfo(page, "<span class=\"share\"><i style=\"width:%d%%\"></i></span> %d&#160;%%",
					 percent, percent);
}

static void
write_alarm(StringInfo page, double n)
{
	appendStringInfo(page, "<span class=\"%s\">", n > 0 ? "alarm" : "zero");
	cp_html_count(page, n);
	appendStringInfoString(page, "</span>");
}

void
cp_table_number(StringInfo page, CpCellKind kind, double n)
{
	appendStringInfo(page, "<td class=\"%s\">", class_of(kind));
	if (isnan(n))
		appendStringInfoString(page, DASH);
	else if (kind == CP_CELL_DURATION)
		cp_html_duration(page, n);
	else if (kind == CP_CELL_SHARE)
		write_share(page, n);
	else if (kind == CP_CELL_ALARM)
		write_alarm(page, n);
	else
		cp_html_count(page, n);
	appendStringInfoString(page, "</td>");
}

void
cp_table_time(StringInfo page, TimestampTz t)
{
	if (TIMESTAMP_NOT_FINITE(t))
		appendStringInfoString(page, DASH);
	else
		cp_html_time(page, t);
}

static void
write_cell(StringInfo page, CpCellKind kind, CpCursor *cursor)
{
	if (kind == CP_CELL_COUNT || kind == CP_CELL_ALARM || kind == CP_CELL_DURATION ||
		kind == CP_CELL_SHARE)
	{
		cp_table_number(page, kind, cp_rows_number(cursor));
		return;
	}
	appendStringInfo(page, "<td class=\"%s\">", class_of(kind));
	if (kind == CP_CELL_POOL)
		write_pool(page, cursor);
	else if (kind == CP_CELL_SESSION)
		write_session(page, cursor);
	else if (kind == CP_CELL_SQL)
		write_sql(page, cursor);
	else if (kind == CP_CELL_TIME)
		cp_table_time(page, cp_rows_time(cursor));
	else
		write_text(page, kind, cp_rows_text(cursor));
	appendStringInfoString(page, "</td>");
}

/* ---- tables -------------------------------------------------------------------- */

/* The box scrolls when there is no room, also by the keyboard. */
void
cp_table_begin(StringInfo page, const char *heading, const CpTableColumn *columns)
{
	appendStringInfo(page, "<div class=\"box\" role=\"region\" aria-label=\"%s\" tabindex=\"0\">"
						   "<table><thead><tr>",
					 heading);
	for (int i = 0; columns[i].kind != CP_CELL_END; i++)
		appendStringInfo(page, "<th scope=\"col\" class=\"%s\">%s</th>",
						 class_of(columns[i].kind), columns[i].heading);
	appendStringInfoString(page, "</tr></thead>\n<tbody>\n");
}

void
cp_table_end(StringInfo page, double shown, double total)
{
	appendStringInfoString(page, "</tbody></table></div>\n");
	if (shown >= total)
		return;
	appendStringInfo(page, "<p class=\"about\">The first %.0f of ", shown);
	cp_html_count(page, total);
	appendStringInfoString(page, " are shown.</p>\n");
}

void
cp_table_write(StringInfo page, const CpTable *table)
{
	const SPITupleTable *result;
	uint64 rows = cp_rows_select(table->sql, &result);
	double total = 0;

	if (rows > 0)
	{
		CpCursor first = cp_rows_at(result, 0);

		total = cp_rows_total(&first);
	}
	cp_page_begin_section(page, table->id, table->heading, total, rows > 0 ? table->about : NULL);
	if (rows == 0)
		appendStringInfo(page, "<p class=\"empty\">%s</p>\n", table->empty);
	else
		cp_table_begin(page, table->heading, table->columns);
	for (uint64 row = 0; row < rows; row++)
	{
		CpCursor cursor = cp_rows_at(result, row);

		cp_rows_total(&cursor);
		appendStringInfoString(page, "<tr>");
		for (int i = 0; table->columns[i].kind != CP_CELL_END; i++)
			write_cell(page, table->columns[i].kind, &cursor);
		appendStringInfoString(page, "</tr>\n");
	}
	if (rows > 0)
		cp_table_end(page, rows, total);
	cp_page_end_section(page);
}
