/*
 * rows.h
 *		Sinks that turn the rows of a remote result into those of a
 *		set-returning function.
 *
 * Runs in client backends, called by sql_query.c.  Throws.
 */
#ifndef CP_ROWS_H
#define CP_ROWS_H

#include "access/tupdesc.h"
#include "fmgr.h"
#include "utils/tuplestore.h"

#include "query.h"

/* What all such sinks begin with. */
typedef struct CpRows
{
	CpSink sink;
	TupleDesc desc; /* of the rows that are stored */
	Tuplestorestate *store;
	MemoryContext row_context; /* reset after each row */
	int nest_level;			   /* of settings, see convert.h */
} CpRows;

/* Raises 0A000 unless the caller accepts a set in a tuplestore. */
extern void cp_rows_require_set(FunctionCallInfo fcinfo);

/*
 * A sink for a function returning SETOF record or SETOF anyelement: columns
 * go by position to a column definition list, by name to the attributes of a
 * composite type, and a single one to a scalar.  The function's result is
 * ready, empty, on return; cp_rows_end when all rows are in it.
 */
extern CpRows *cp_rows_typed(FunctionCallInfo fcinfo);

/* The same for SETOF jsonb, one object for each row (rows_json.c). */
extern CpRows *cp_rows_json(FunctionCallInfo fcinfo);

extern void cp_rows_end(CpRows *rows);

/* ---- for the kinds of sinks ---- */

/*
 * What a row of a remote result becomes.  Wants the settings in force that convert.h has
 * for `needs`.  begin takes note of the columns of a result set.  make returns a row as
 * one value, in the current memory context.  Results that are read in turn want one each.
 */
typedef struct CpForm
{
	int needs; /* CP_CONVERT_* */
	void (*begin)(struct CpForm *form, PGresult *fields);
	Datum (*make)(struct CpForm *form, PGresult *result, int row, bool *is_null);
} CpForm;

/* A value of that type: columns go to a composite by name, a single one to a scalar. */
extern CpForm *cp_form_typed(Oid type);

/* A jsonb object (rows_json.c). */
extern CpForm *cp_form_json(void);

/*
 * Fills rows but for its sink, and makes its store the function's result.
 * desc, and what it needs, must live in the caller's memory context.
 */
extern void cp_rows_init(CpRows *rows, FunctionCallInfo fcinfo, TupleDesc desc);

/* Starts a result set: voids former rows, puts settings in force. */
extern void cp_rows_begin_set(CpRows *rows, PGconn *conn, int needs);

/* A descriptor of one column, for functions that return no rows but values. */
extern TupleDesc cp_rows_scalar_desc(const char *name, Oid type);

/* The value of a column of a row, NULL = SQL NULL; valid in our encoding. */
extern char *cp_rows_value(PGresult *result, int row, int column);

#endif /* CP_ROWS_H */
