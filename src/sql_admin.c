/*
 * sql_admin.c
 *		Functions for whoever runs the server: reset_stats() and
 *		recommended_size().
 *
 * Runs in client backends.  Who may call what is said by GRANT and REVOKE in
 * the extension's script.
 */
#include "postgres.h"

#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "pool.h"
#include "shmem.h"
#include "target.h"

PG_FUNCTION_INFO_V1(conpool_reset_stats);
PG_FUNCTION_INFO_V1(conpool_recommended_size);

/* ---- reset_stats ----------------------------------------------------------- */

/* Is it a pool of this database, of that server or under that name? */
static bool
is_pool_of(const CpPoolInfo *pool, Oid server, const char *name)
{
	if (pool->key.database != MyDatabaseId)
		return false;
	if (pool->key.kind == CP_POOL_SERVER)
		return pool->key.server == server;
	return strcmp(pool->name, name) == 0;
}

static void
reset_all(void)
{
	for (int i = 0; i < cp_shared->max_pools; i++)
		cp_pool_reset_stats(i);
}

/* All pools of that server, or under that name; false if there is neither. */
static bool
reset_pools(const char *name)
{
	bool is_server = !cp_target_is_conninfo(name);
	Oid server = is_server ? get_foreign_server_oid(name, true) : InvalidOid;
	bool found = OidIsValid(server);
	CpPoolInfo pool;

	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		if (!cp_pool_read(i, &pool) || !is_pool_of(&pool, server, name))
			continue;
		cp_pool_reset_stats(i);
		found = true;
	}
	return found;
}

/*
 * A server, or a connection string, for which the name that the views show may
 * stand as well: that one lacks what it takes to connect.  A server that has
 * no pool yet has nothing to reset, which is no error.
 */
static void
reset_of(const char *server)
{
	const char *name = server;

	if (reset_pools(name))
		return;
	if (cp_target_is_conninfo(server))
	{
		name = cp_target_resolve(server)->name;
		if (reset_pools(name))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("server \"%s\" does not exist", name)));
}

Datum
conpool_reset_stats(PG_FUNCTION_ARGS)
{
	cp_shmem_require();
	if (PG_ARGISNULL(0))
		reset_all();
	else
		reset_of(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_VOID();
}

/* ---- recommended_size ------------------------------------------------------ */

static void
refuse_below(int least, int value, const char *name)
{
	if (value < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be at least %d", name, least)));
}

/*
 * connections = cores * 2 + effective spindles, shared by the clients: from
 * the PostgreSQL wiki, "Number of Database Connections", which HikariCP's
 * "About Pool Sizing" made popular.  Data that is in memory has no spindle.
 */
Datum
conpool_recommended_size(PG_FUNCTION_ARGS)
{
	int cores = PG_GETARG_INT32(0);
	int spindles = PG_GETARG_INT32(1);
	int clients = PG_GETARG_INT32(2);
	int64 size;

	cp_shmem_require();
	refuse_below(1, cores, "cores");
	refuse_below(0, spindles, "effective_spindles");
	refuse_below(1, clients, "clients");
	size = ((int64) cores * 2 + spindles) / clients;
	if (size > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("integer out of range")));
	PG_RETURN_INT32((int32) Max(size, 1));
}
