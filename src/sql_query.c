/*
 * sql_query.c
 *		The SQL functions query, query_as, query_json and exec, each on a
 *		server and on a lease.
 *
 * Runs in client backends.  Checks and converts the arguments, and finds out
 * what is to be returned, before a connection is borrowed: it is held for the
 * statement only.  On an error the lease comes back by the abort callbacks.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "args.h"
#include "lease.h"
#include "query.h"
#include "rows.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(conpool_query);
PG_FUNCTION_INFO_V1(conpool_query_lease);
PG_FUNCTION_INFO_V1(conpool_query_as);
PG_FUNCTION_INFO_V1(conpool_query_as_lease);
PG_FUNCTION_INFO_V1(conpool_query_json);
PG_FUNCTION_INFO_V1(conpool_query_json_lease);
PG_FUNCTION_INFO_V1(conpool_exec);
PG_FUNCTION_INFO_V1(conpool_exec_lease);

/*
 * Runs the statement that the arguments from number `first` on describe: a
 * server or a lease, the SQL, its parameters.  Returns the command tag.
 */
static char *
run(FunctionCallInfo fcinfo, int first, CpBy by, CpSink *sink)
{
	CpParams params;
	char *sql = cp_args_statement(fcinfo, first, by, &params);
	bool give_back;
	CpLease *lease = cp_args_lease(fcinfo, first, by, &give_back);
	char *tag = cp_query_run(lease, sql, &params, sink);

	if (give_back)
		cp_lease_checkin(lease);
	return tag;
}

/* query and query_as: rows as the types they are declared to have */
static Datum
run_typed(FunctionCallInfo fcinfo, int first, CpBy by)
{
	CpRows *rows;

	cp_shmem_require();
	rows = cp_rows_typed(fcinfo);
	(void) run(fcinfo, first, by, &rows->sink);
	cp_rows_end(rows);
	return (Datum) 0;
}

static Datum
run_json(FunctionCallInfo fcinfo, CpBy by)
{
	CpRows *rows;

	cp_shmem_require();
	rows = cp_rows_json(fcinfo);
	(void) run(fcinfo, 0, by, &rows->sink);
	cp_rows_end(rows);
	return (Datum) 0;
}

static Datum
run_exec(FunctionCallInfo fcinfo, CpBy by)
{
	cp_shmem_require();
	return CStringGetTextDatum(run(fcinfo, 0, by, NULL));
}

/* query(server text, sql text [, VARIADIC args "any"]) returns SETOF record */
Datum
conpool_query(PG_FUNCTION_ARGS)
{
	return run_typed(fcinfo, 0, CP_BY_SERVER);
}

/* query(lease bigint, sql text [, VARIADIC args "any"]) returns SETOF record */
Datum
conpool_query_lease(PG_FUNCTION_ARGS)
{
	return run_typed(fcinfo, 0, CP_BY_LEASE);
}

/*
 * query_as(anyelement, server text, sql text [, VARIADIC args "any"]) returns
 * SETOF anyelement; only the type of the first argument matters
 */
Datum
conpool_query_as(PG_FUNCTION_ARGS)
{
	return run_typed(fcinfo, 1, CP_BY_SERVER);
}

/* query_as(anyelement, lease bigint, sql text [, VARIADIC args "any"]) */
Datum
conpool_query_as_lease(PG_FUNCTION_ARGS)
{
	return run_typed(fcinfo, 1, CP_BY_LEASE);
}

/* query_json(server text, sql text [, VARIADIC args "any"]) returns SETOF jsonb */
Datum
conpool_query_json(PG_FUNCTION_ARGS)
{
	return run_json(fcinfo, CP_BY_SERVER);
}

/* query_json(lease bigint, sql text [, VARIADIC args "any"]) returns SETOF jsonb */
Datum
conpool_query_json_lease(PG_FUNCTION_ARGS)
{
	return run_json(fcinfo, CP_BY_LEASE);
}

/* exec(server text, sql text [, VARIADIC args "any"]) returns text */
Datum
conpool_exec(PG_FUNCTION_ARGS)
{
	return run_exec(fcinfo, CP_BY_SERVER);
}

/* exec(lease bigint, sql text [, VARIADIC args "any"]) returns text */
Datum
conpool_exec_lease(PG_FUNCTION_ARGS)
{
	return run_exec(fcinfo, CP_BY_LEASE);
}
