/*
 * regress_dblink.c
 *		The two functions that dblink's regression test wants of a library "regress",
 *		which no package ships.
 *
 * Built and used by test/check-dblink.sh.
 */
#include "postgres.h"

#include <signal.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#define POLL_INTERVAL 20000 /* us */

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(regress_setenv);
PG_FUNCTION_INFO_V1(wait_pid);

static void
require_superuser(void)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser")));
}

/* setenv(name text, value text) RETURNS void: in this backend */
Datum
regress_setenv(PG_FUNCTION_ARGS)
{
	require_superuser();
	if (setenv(text_to_cstring(PG_GETARG_TEXT_PP(0)),
			   text_to_cstring(PG_GETARG_TEXT_PP(1)), 1) != 0)
		elog(ERROR, "could not set environment variable: %m");
	PG_RETURN_VOID();
}

/* wait_pid(pid int) RETURNS void: returns when there is no such process */
Datum
wait_pid(PG_FUNCTION_ARGS)
{
	int pid = PG_GETARG_INT32(0);

	require_superuser();
	while (kill(pid, 0) == 0)
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(POLL_INTERVAL);
	}
	if (errno != ESRCH)
		elog(ERROR, "could not look for process %d: %m", pid);
	PG_RETURN_VOID();
}
