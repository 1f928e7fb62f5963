/*
 * sql_cursor.c
 *		cursor_open(), cursor_fetch() and cursor_close(): large results in pieces, as
 *		SQL calls them.
 *
 * Runs in client backends.  Checks the arguments, takes the lease and passes them
 * down; what a cursor is, and when it ends, is cursor.c's.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "args.h"
#include "cursor.h"
#include "rows.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(conpool_cursor_open);
PG_FUNCTION_INFO_V1(conpool_cursor_open_lease);
PG_FUNCTION_INFO_V1(conpool_cursor_fetch);
PG_FUNCTION_INFO_V1(conpool_cursor_close);

/* cursor_open(server text, sql text [, VARIADIC args "any"]) returns bigint */
Datum
conpool_cursor_open(PG_FUNCTION_ARGS)
{
	CpParams params;
	char *sql;
	CpLease *lease;
	bool own;

	cp_shmem_require();
	sql = cp_args_statement(fcinfo, 0, CP_BY_SERVER, &params);
	lease = cp_lease_for_cursor(text_to_cstring(PG_GETARG_TEXT_PP(0)), &own);
	PG_RETURN_INT64((int64) cp_cursor_open(lease, own, sql, &params)->id);
}

/*
 * cursor_open(lease bigint, sql text [, VARIADIC args "any"]) returns bigint.  One of
 * scope "statement" has no transaction for it, as the remote will say.
 */
Datum
conpool_cursor_open_lease(PG_FUNCTION_ARGS)
{
	CpParams params;
	char *sql;
	CpLease *lease;

	cp_shmem_require();
	sql = cp_args_statement(fcinfo, 0, CP_BY_LEASE, &params);
	lease = cp_lease_get(PG_GETARG_INT64(0), true, NULL);
	PG_RETURN_INT64((int64) cp_cursor_open(lease, false, sql, &params)->id);
}

/* cursor_fetch(cursor bigint, n int) returns SETOF record */
Datum
conpool_cursor_fetch(PG_FUNCTION_ARGS)
{
	CpRows *rows;

	cp_shmem_require();
	cp_args_require(fcinfo, 0, "cursor");
	cp_args_require(fcinfo, 1, "n");
	if (PG_GETARG_INT32(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of rows to fetch must be greater than zero")));
	rows = cp_rows_typed(fcinfo);
	cp_cursor_fetch(cp_cursor_get(PG_GETARG_INT64(0)), PG_GETARG_INT32(1), &rows->sink);
	cp_rows_end(rows);
	return (Datum) 0;
}

/* cursor_close(cursor bigint) returns void */
Datum
conpool_cursor_close(PG_FUNCTION_ARGS)
{
	cp_shmem_require();
	cp_args_require(fcinfo, 0, "cursor");
	cp_cursor_close(cp_cursor_get(PG_GETARG_INT64(0)));
	PG_RETURN_VOID();
}
