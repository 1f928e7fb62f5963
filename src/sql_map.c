/*
 * sql_map.c
 *		The SQL functions map, map_as and try_map: one statement for many servers, or
 *		one for each.
 *
 * Runs in client backends.  Checks and converts all arguments before anything is
 * started.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "args.h"
#include "map.h"
#include "rows_map.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(conpool_map);
PG_FUNCTION_INFO_V1(conpool_map_as);
PG_FUNCTION_INFO_V1(conpool_try_map);

/* The elements of argument i, a text[] of that name, none of which may be NULL. */
static char **
text_elements(FunctionCallInfo fcinfo, int i, const char *name, int *count)
{
	Datum *values;
	bool *nulls;
	char **elements;

	cp_args_require(fcinfo, i, name);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(i), TEXTOID, -1, false, TYPALIGN_INT, &values,
					  &nulls, count);
	elements = palloc(*count * sizeof(char *));
	for (int n = 0; n < *count; n++)
	{
		if (nulls[n])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" must not have null elements", name)));
		elements[n] = TextDatumGetCString(values[n]);
	}
	return elements;
}

/* The statement for each of the servers: argument i is text, or text[]. */
static char **
statements(FunctionCallInfo fcinfo, int i, int servers)
{
	char **sqls;
	int count;

	if (get_fn_expr_argtype(fcinfo->flinfo, i) == TEXTARRAYOID)
	{
		sqls = text_elements(fcinfo, i, "sqls", &count);
		if (count != servers)
			ereport(ERROR,
					(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					 errmsg("arguments \"servers\" and \"sqls\" must have the same number of "
							"elements"),
					 errdetail("They have %d and %d.", servers, count)));
		return sqls;
	}
	cp_args_require(fcinfo, i, "sql");
	sqls = palloc(servers * sizeof(char *));
	for (int n = 0; n < servers; n++)
		sqls[n] = n == 0 ? text_to_cstring(PG_GETARG_TEXT_PP(i)) : sqls[0];
	return sqls;
}

/* The arguments from number `first` on: servers, SQL, parameters of all statements. */
static Datum
run_map(FunctionCallInfo fcinfo, int first, CpMapForm form, bool errors_are_rows)
{
	CpMap map = {.pause = cp_map_rows_pause};
	CpMapRows *rows;
	CpParams params;
	char **servers;
	char **sqls;

	cp_shmem_require();
	rows = cp_map_rows(fcinfo, form);
	servers = text_elements(fcinfo, first, "servers", &map.count);
	sqls = statements(fcinfo, first + 1, map.count);
	cp_args_collect(fcinfo, first + 2, &params);

	map.params = &params;
	if (errors_are_rows)
		map.failed = cp_map_rows_failed;
	map.flights = palloc0(map.count * sizeof(CpFlight));
	for (int i = 0; i < map.count; i++)
	{
		map.flights[i].server = servers[i];
		map.flights[i].sql = sqls[i];
		map.flights[i].sink = cp_map_rows_sink(rows, servers[i]);
	}
	cp_map_run(&map);
	cp_map_rows_end(rows);
	return (Datum) 0;
}

/* map(servers text[], sql text | sqls text[] [, VARIADIC args "any"]) */
Datum
conpool_map(PG_FUNCTION_ARGS)
{
	return run_map(fcinfo, 0, CP_MAP_JSON, false);
}

/*
 * map_as(result anyelement, servers text[], sql text | sqls text[] [, VARIADIC args
 * "any"]); only the type of the first argument matters
 */
Datum
conpool_map_as(PG_FUNCTION_ARGS)
{
	return run_map(fcinfo, 1, CP_MAP_TYPED, false);
}

/* try_map(servers text[], sql text | sqls text[] [, VARIADIC args "any"]) */
Datum
conpool_try_map(PG_FUNCTION_ARGS)
{
	return run_map(fcinfo, 0, CP_MAP_JSON, true);
}
