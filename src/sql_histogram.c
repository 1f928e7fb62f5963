/*
 * sql_histogram.c
 *		Looks at the arguments of the function histogram(), which itself is SQL.
 *
 * Runs in client backends.  Throws if there is no such distribution; must not
 * say anything about pools that the views do not show anyway.
 */
#include "postgres.h"

#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "args.h"
#include "pool.h"
#include "shmem.h"
#include "view_rows.h"

PG_FUNCTION_INFO_V1(conpool_check_histogram);

/* as the view stat_latency has them */
static const char *const kinds[] = {"wait", "checkout", "connect", "remote"};

static void
require_kind(const char *kind)
{
	for (int i = 0; i < lengthof(kinds); i++)
	{
		if (strcmp(kind, kinds[i]) == 0)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid kind of distribution: \"%s\"", kind),
			 errhint("Available values: %s.", "wait, checkout, connect, remote")));
}

/* That of a connection string is no server, but what the views show of it. */
static bool
is_pool_of_conninfo(const char *name)
{
	CpViewer viewer;

	cp_viewer_begin(&viewer);
	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		CpPoolInfo pool;

		if (cp_pool_read(i, &pool) && pool.key.kind == CP_POOL_CONNINFO &&
			pool.key.database == MyDatabaseId && strcmp(pool.name, name) == 0 &&
			cp_viewer_sees_pool(&viewer, &pool.key))
			return true;
	}
	return false;
}

static void
require_server(const char *name)
{
	if (OidIsValid(get_foreign_server_oid(name, true)) || is_pool_of_conninfo(name))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("server \"%s\" does not exist", name),
			 errhint("Give the name of a foreign server, or of a pool as conpool.pools shows "
					 "it.")));
}

/* check_histogram(server text, kind text) RETURNS void */
Datum
conpool_check_histogram(PG_FUNCTION_ARGS)
{
	cp_shmem_require();
	cp_args_require(fcinfo, 0, "server");
	cp_args_require(fcinfo, 1, "kind");
	require_kind(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	require_server(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_VOID();
}
