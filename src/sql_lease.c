/*
 * sql_lease.c
 *		checkout() and checkin(): explicit leases, as SQL calls them.
 *
 * Runs in client backends.  Checks the arguments and passes them down; what a
 * lease is, and who may use it, is lease.c's.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "args.h"
#include "error.h"
#include "lease.h"
#include "options.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(conpool_checkout);
PG_FUNCTION_INFO_V1(conpool_checkin);

static CpScope
parse_scope(const char *text)
{
	const struct config_enum_entry *scope;

	for (scope = cp_option_find("pool_mode")->choices; scope->name; scope++)
	{
		if (strcmp(scope->name, text) == 0)
			return (CpScope) scope->val;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid scope \"%s\"", text),
			 errhint("Scopes are \"statement\", \"transaction\" and \"session\".")));
}

Datum
conpool_checkout(PG_FUNCTION_ARGS)
{
	CpScope scope;
	CpLease *lease;

	cp_shmem_require();
	cp_args_require(fcinfo, 0, "server");
	cp_args_require(fcinfo, 1, "scope");
	scope = parse_scope(text_to_cstring(PG_GETARG_TEXT_PP(1)));

	lease = cp_lease_checkout(text_to_cstring(PG_GETARG_TEXT_PP(0)), scope, true,
							  cp_args_timeout(fcinfo, 2));
	PG_RETURN_INT64((int64) lease->id);
}

Datum
conpool_checkin(PG_FUNCTION_ARGS)
{
	cp_shmem_require();
	cp_args_require(fcinfo, 0, "lease");
	cp_lease_checkin(cp_lease_get(PG_GETARG_INT64(0), false, NULL));
	PG_RETURN_VOID();
}
