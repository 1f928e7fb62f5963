/*
 * view_rows.c
 *		Rows of a view, built column by column, and who may see what in them.
 *
 * Runs in client backends, called by sql_views.c and sql_stats.c.  Must never
 * look up a name under a lock, nor show anybody what he may not see.
 */
#include "postgres.h"

#include "view_rows.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "message.h"
#include "options.h"
#include "shmem.h"

/* what pg_stat_activity says in place of others' SQL */
#define HIDDEN "<insufficient privilege>"

/* ---- who sees what -------------------------------------------------------- */

void
cp_viewer_begin(CpViewer *viewer)
{
	cp_shmem_require();
	viewer->role = GetUserId();
	viewer->sees_all = has_privs_of_role(viewer->role, ROLE_PG_READ_ALL_STATS);
}

bool
cp_viewer_sees_role(const CpViewer *viewer, Oid role)
{
	return viewer->sees_all ||
		(OidIsValid(role) && has_privs_of_role(viewer->role, role));
}

bool
cp_viewer_sees_session(const CpViewer *viewer, Oid role, Oid session_role)
{
	return cp_viewer_sees_role(viewer, role) && cp_viewer_sees_role(viewer, session_role);
}

static bool
is_public(const CpPoolKey *key)
{
	return key->kind == CP_POOL_SERVER && !OidIsValid(key->role);
}

bool
cp_viewer_sees_pool(const CpViewer *viewer, const CpPoolKey *key)
{
	return is_public(key) || cp_viewer_sees_role(viewer, key->role);
}

bool
cp_viewer_sees_lease(const CpViewer *viewer, const CpPoolKey *key, Oid role)
{
	return is_public(key) || cp_viewer_sees_role(viewer, role);
}

bool
cp_viewer_sees_problems(const CpViewer *viewer, const CpPoolKey *key)
{
	if (cp_viewer_sees_role(viewer, key->role))
		return true;
	return is_public(key) && key->database == MyDatabaseId &&
		SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(key->server)) &&
		cp_server_aclcheck(key->server, viewer->role, ACL_USAGE) == ACLCHECK_OK;
}

/* ---- rows ------------------------------------------------------------------ */

void
cp_view_begin(CpViewRows *rows, FunctionCallInfo fcinfo)
{
	memset(rows, 0, sizeof(*rows));
	cp_viewer_begin(&rows->viewer);
	InitMaterializedSRF(fcinfo, 0);
	rows->result = (ReturnSetInfo *) fcinfo->resultinfo;
	rows->now = cp_now();
	rows->wall_clock = cp_wall_clock(rows->now);
	rows->context = AllocSetContextCreate(CurrentMemoryContext, "conpool view row",
										  ALLOCSET_SMALL_SIZES);
}

void
cp_view_end_row(CpViewRows *rows)
{
	Assert(rows->ncolumns >= rows->result->setDesc->natts);
	tuplestore_putvalues(rows->result->setResult, rows->result->setDesc,
						 rows->values, rows->nulls);
	MemoryContextReset(rows->context);
	rows->ncolumns = 0;
}

void
cp_view_add(CpViewRows *rows, Datum value)
{
	Assert(rows->ncolumns < CP_VIEW_COLUMNS);
	rows->nulls[rows->ncolumns] = false;
	rows->values[rows->ncolumns++] = value;
}

void
cp_view_add_null(CpViewRows *rows)
{
	Assert(rows->ncolumns < CP_VIEW_COLUMNS);
	rows->nulls[rows->ncolumns++] = true;
}

void
cp_view_add_int(CpViewRows *rows, int value)
{
	cp_view_add(rows, Int32GetDatum(value));
}

void
cp_view_add_count(CpViewRows *rows, int64 value)
{
	cp_view_add(rows, Int64GetDatum(value));
}

void
cp_view_add_bool(CpViewRows *rows, bool value)
{
	cp_view_add(rows, BoolGetDatum(value));
}

void
cp_view_add_text(CpViewRows *rows, const char *value)
{
	MemoryContext caller = MemoryContextSwitchTo(rows->context);

	if (value == NULL || value[0] == '\0')
		cp_view_add_null(rows);
	else
		cp_view_add(rows, CStringGetTextDatum(cp_message_valid_text(value)));
	MemoryContextSwitchTo(caller);
}

void
cp_view_add_sqlstate(CpViewRows *rows, int sqlstate)
{
	cp_view_add_text(rows, sqlstate == 0 ? NULL : unpack_sql_state(sqlstate));
}

void
cp_view_add_pid(CpViewRows *rows, int pid)
{
	if (pid == 0)
		cp_view_add_null(rows);
	else
		cp_view_add_int(rows, pid);
}

void
cp_view_add_instant(CpViewRows *rows, CpTime t)
{
	if (t == 0 || t == CP_FOREVER)
		cp_view_add_null(rows);
	else
		cp_view_add_timestamp(rows, rows->wall_clock - (rows->now - t));
}

void
cp_view_add_timestamp(CpViewRows *rows, TimestampTz t)
{
	cp_view_add(rows, TimestampTzGetDatum(t));
}

void
cp_view_add_interval(CpViewRows *rows, CpTime us)
{
	Interval *interval = MemoryContextAllocZero(rows->context, sizeof(Interval));

	interval->time = us;
	cp_view_add(rows, IntervalPGetDatum(interval));
}

void
cp_view_add_ms(CpViewRows *rows, CpTime us)
{
	cp_view_add(rows, Float8GetDatum(us / 1000.0));
}

void
cp_view_add_choice(CpViewRows *rows, const char *option, int value)
{
	const struct config_enum_entry *choice = cp_option_find(option)->choices;

	while (choice->name && choice->val != value)
		choice++;
	cp_view_add_text(rows, choice->name);
}

static const char *
role_name(Oid role)
{
	const char *name = GetUserNameFromId(role, true);

	return name != NULL ? name : psprintf("%u", role);
}

void
cp_view_add_role(CpViewRows *rows, Oid role)
{
	MemoryContext caller = MemoryContextSwitchTo(rows->context);

	cp_view_add_text(rows, OidIsValid(role) ? role_name(role) : NULL);
	MemoryContextSwitchTo(caller);
}

void
cp_view_add_pool(CpViewRows *rows, const CpPoolKey *key, const char *name)
{
	MemoryContext caller = MemoryContextSwitchTo(rows->context);
	char *database = NULL;

	if (OidIsValid(key->database))
	{
		database = get_database_name(key->database);
		if (database == NULL)
			database = psprintf("%u", key->database);
	}
	cp_view_add_text(rows, name);
	cp_view_add_text(rows, database);
	if (is_public(key))
		cp_view_add_text(rows, "public");
	else
		cp_view_add_role(rows, key->role);
	MemoryContextSwitchTo(caller);
}

void
cp_view_add_visible(CpViewRows *rows, bool is_visible, const char *value)
{
	cp_view_add_text(rows, is_visible ? value : HIDDEN);
}

void
cp_view_add_sql(CpViewRows *rows, Oid role, Oid session_role, const char *sql)
{
	cp_view_add_visible(rows, cp_viewer_sees_session(&rows->viewer, role, session_role), sql);
}

void
cp_view_add_query_id(CpViewRows *rows, Oid role, Oid session_role, uint64 query_id)
{
	if (query_id == 0 || !cp_viewer_sees_session(&rows->viewer, role, session_role))
		cp_view_add_null(rows);
	else
		cp_view_add_count(rows, (int64) query_id);
}

void
cp_view_add_problem(CpViewRows *rows, const CpPoolKey *key, const CpProblem *problem)
{
	bool is_one = problem->at != 0;
	bool is_visible = cp_viewer_sees_problems(&rows->viewer, key);

	cp_view_add_instant(rows, problem->at);
	cp_view_add_sqlstate(rows, is_one ? problem->sqlstate : 0);
	if (is_one)
		cp_view_add_visible(rows, is_visible, problem->message);
	else
		cp_view_add_null(rows);
}

/* ---- pools ------------------------------------------------------------------ */

int
cp_view_pool_size(const CpPoolInfo *pool)
{
	int size = 0;

	for (int state = CP_SLOT_FREE + 1; state < CP_SLOT_STATES; state++)
		size += pool->counts[state];
	return size;
}

bool
cp_view_read_pool(const CpViewRows *rows, int i, CpPoolInfo *pool)
{
	return cp_pool_read(i, pool) && cp_viewer_sees_pool(&rows->viewer, &pool->key) &&
		(i != CP_OVERFLOW_POOL || cp_view_pool_size(pool) > 0 || pool->stats.checkouts > 0);
}
