/*
 * view_rows.h
 *		Rows of a view, built column by column, and who may see what in them.
 *
 * Runs in client backends, called by the functions behind the views.  Names of
 * roles and databases are looked up, so never under a lock.  Must never show
 * anybody what he may not see: members of pg_read_all_stats see everything,
 * others the rows of roles whose privileges they have, and of pools that a
 * PUBLIC mapping opens to everybody.
 */
#ifndef CP_VIEW_ROWS_H
#define CP_VIEW_ROWS_H

#include "fmgr.h"
#include "funcapi.h"

#include "pool.h"

#define CP_VIEW_COLUMNS 64

/* Whose eyes these are. */
typedef struct CpViewer
{
	Oid role;
	bool sees_all;
} CpViewer;

typedef struct CpViewRows
{
	ReturnSetInfo *result;
	MemoryContext context; /* of one row */
	CpViewer viewer;
	CpTime now;				/* one instant for all rows, ... */
	TimestampTz wall_clock; /* ... and what the wall clock says then */
	int ncolumns;			/* of the row that is being built */
	Datum values[CP_VIEW_COLUMNS];
	bool nulls[CP_VIEW_COLUMNS];
} CpViewRows;

/* ---- who sees what ---- */

/* throws if the library was not preloaded */
extern void cp_viewer_begin(CpViewer *viewer);

/* InvalidOid is nobody's: for those who see all */
extern bool cp_viewer_sees_role(const CpViewer *viewer, Oid role);

/*
 * What a session does and from where: for who has the privileges of its role, and
 * of the one that it acts as (a function with SECURITY DEFINER lends out the
 * owner's rights, not the caller's statement).
 */
extern bool cp_viewer_sees_session(const CpViewer *viewer, Oid role, Oid session_role);

extern bool cp_viewer_sees_pool(const CpViewer *viewer, const CpPoolKey *key);

/*
 * A lease, or a wait for one: of a PUBLIC pool it concerns everybody who waits
 * for it; its SQL does not.
 */
extern bool cp_viewer_sees_lease(const CpViewer *viewer, const CpPoolKey *key, Oid role);

/*
 * Why a remote cannot be reached names hosts: for those whose pool it is, and
 * for those who may use the server anyway.
 */
extern bool cp_viewer_sees_problems(const CpViewer *viewer, const CpPoolKey *key);

/* ---- rows ---- */

/* throws if the library was not preloaded, or the caller wants no set */
extern void cp_view_begin(CpViewRows *rows, FunctionCallInfo fcinfo);

/*
 * A database whose extension is of an older version declares fewer columns:
 * new ones come last, and are left out for it.
 */
extern void cp_view_end_row(CpViewRows *rows);

extern void cp_view_add(CpViewRows *rows, Datum value);
extern void cp_view_add_null(CpViewRows *rows);
extern void cp_view_add_int(CpViewRows *rows, int value);
extern void cp_view_add_count(CpViewRows *rows, int64 value);
extern void cp_view_add_bool(CpViewRows *rows, bool value);

/*
 * NULL and the empty string are both NULL.  The text may come from a database
 * with another encoding.
 */
extern void cp_view_add_text(CpViewRows *rows, const char *value);

/* 0 is NULL: nothing happened, or no code was given */
extern void cp_view_add_sqlstate(CpViewRows *rows, int sqlstate);

/* 0 is NULL: no process, or none that is known */
extern void cp_view_add_pid(CpViewRows *rows, int pid);

/* past or future; 0 and for ever are NULL */
extern void cp_view_add_instant(CpViewRows *rows, CpTime t);

extern void cp_view_add_timestamp(CpViewRows *rows, TimestampTz t);

/* microseconds, as an interval */
extern void cp_view_add_interval(CpViewRows *rows, CpTime us);

/* microseconds, as the milliseconds of a statistics view */
extern void cp_view_add_ms(CpViewRows *rows, CpTime us);

/* the name of a pool option's value */
extern void cp_view_add_choice(CpViewRows *rows, const char *option, int value);

/* a role's name; one that has been dropped is its number, InvalidOid NULL */
extern void cp_view_add_role(CpViewRows *rows, Oid role);

/* the columns server, database and role: those of the pool, not of a lease */
extern void cp_view_add_pool(CpViewRows *rows, const CpPoolKey *key, const char *name);

/* a text, or what pg_stat_activity says in its place */
extern void cp_view_add_visible(CpViewRows *rows, bool is_visible, const char *value);

/* SQL and the like of a role, only for those who have its privileges */
extern void cp_view_add_sql(CpViewRows *rows, Oid role, Oid session_role, const char *sql);

/* a role's query ID; 0, and what may not be seen, is NULL */
extern void cp_view_add_query_id(CpViewRows *rows, Oid role, Oid session_role, uint64 query_id);

/* the columns ..._at, ..._sqlstate and the text of what went wrong */
extern void cp_view_add_problem(CpViewRows *rows, const CpPoolKey *key,
								const CpProblem *problem);

/* ---- pools ---- */

extern int cp_view_pool_size(const CpPoolInfo *pool);

/* Copies a pool if there is one to be shown: the overflow only when in use. */
extern bool cp_view_read_pool(const CpViewRows *rows, int i, CpPoolInfo *pool);

#endif /* CP_VIEW_ROWS_H */
