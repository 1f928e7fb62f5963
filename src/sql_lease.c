/*
 * sql_lease.c
 *		checkout() and checkin(): explicit leases, as SQL calls them.
 *
 * Runs in client backends.  Checks the arguments and passes them down; what a
 * lease is, and who may use it, is lease.c's.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "args.h"
#include "error.h"
#include "lease.h"
#include "options.h"
#include "shmem.h"

/* a longer timeout than that, in milliseconds, is as good as none */
#define LONGEST_TIMEOUT ((double) PG_INT32_MAX * 1000)

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

/* Milliseconds, rounded up, as cp_lease_checkout wants them: 0 = no limit. */
static int64
timeout_from_interval(const Interval *interval)
{
	/* months count 30 days, as in comparisons of intervals */
	double days = (double) interval->month * DAYS_PER_MONTH + interval->day;
	double ms = ceil((days * USECS_PER_DAY + (double) interval->time) / 1000);

	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	return ms > LONGEST_TIMEOUT ? 0 : (int64) ms;
}

Datum
conpool_checkout(PG_FUNCTION_ARGS)
{
	CpScope scope;
	int64 timeout = -1;
	CpLease *lease;

	cp_shmem_require();
	cp_args_require(fcinfo, 0, "server");
	cp_args_require(fcinfo, 1, "scope");
	scope = parse_scope(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (!PG_ARGISNULL(2))
		timeout = timeout_from_interval(PG_GETARG_INTERVAL_P(2));

	lease = cp_lease_checkout(text_to_cstring(PG_GETARG_TEXT_PP(0)), scope, true, timeout);
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
