/*
 * sql_diagnose.c
 *		The SQL function diagnose().
 *
 * Runs in client backends, also where the library was not preloaded: that is then
 * what it says.  Everybody may call it; diagnose.c sees to it that nobody is told
 * what he could not find out anyway.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "args.h"
#include "diagnose.h"

PG_FUNCTION_INFO_V1(conpool_diagnose);

static void
put_row(const ReturnSetInfo *result, const CpFinding *finding)
{
	Datum values[4] = {
		CStringGetTextDatum(finding->step),
		BoolGetDatum(finding->is_ok),
		CStringGetTextDatum(finding->detail),
	};
	bool nulls[4] = {
		[1] = !finding->is_tried,
		[3] = finding->hint == NULL,
	};

	if (finding->hint != NULL)
		values[3] = CStringGetTextDatum(finding->hint);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* diagnose(server text) returns TABLE(step text, ok boolean, detail text, hint text) */
Datum
conpool_diagnose(PG_FUNCTION_ARGS)
{
	CpFinding findings[CP_DIAGNOSE_STEPS];

	cp_args_require(fcinfo, 0, "server");
	InitMaterializedSRF(fcinfo, 0);
	cp_diagnose(text_to_cstring(PG_GETARG_TEXT_PP(0)), findings);
	for (int i = 0; i < CP_DIAGNOSE_STEPS; i++)
		put_row((ReturnSetInfo *) fcinfo->resultinfo, &findings[i]);
	return (Datum) 0;
}
