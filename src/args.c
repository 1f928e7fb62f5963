/*
 * args.c
 *		The arguments of SQL functions as what the modules below want: a lease, a
 *		remote statement with its parameters, a timeout.
 *
 * Runs in client backends, called by the sql_* files.  Parameters travel as text,
 * with the type they have here where it is built in and so means the same
 * there; else without, and the remote finds out by itself.
 */
#include "postgres.h"

#include "args.h"

#include <math.h>

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "convert.h"

/* the protocol counts parameters in 16 bits */
#define CP_PARAMS_MAX 65535

/* ---- parameters ---- */

/* How values of one type travel. */
typedef struct ArgType
{
	Oid type;  /* as declared here; InvalidOid = not known yet */
	Oid sent;  /* what the remote is told, 0 = nothing */
	int needs; /* CP_CONVERT_* */
	FmgrInfo output;
} ArgType;

/* in fn_extra: one per argument, or one for the elements of a VARIADIC array */
typedef struct ArgTypes
{
	int count;
	ArgType types[FLEXIBLE_ARRAY_MEMBER];
} ArgTypes;

/*
 * The type to announce.  Only scalar, array and range types with a fixed OID
 * are the same everywhere; unknown literals are for the remote to understand.
 */
static Oid
sent_type(Oid type)
{
	Oid base = getBaseType(type);

	if (base == UNKNOWNOID || base >= FirstGenbkiObjectId)
		return InvalidOid;
	switch (get_typtype(base))
	{
		case TYPTYPE_BASE:
		case TYPTYPE_RANGE:
		case TYPTYPE_MULTIRANGE:
			return base;
		default:
			return InvalidOid;
	}
}

static void
look_up(ArgType *arg, Oid type, MemoryContext context)
{
	Oid output;
	bool is_varlena;

	if (arg->type == type)
		return;
	if (!OidIsValid(type))
		ereport(ERROR,
				(errcode(ERRCODE_INDETERMINATE_DATATYPE),
				 errmsg("could not determine the data type of an argument")));

	arg->type = InvalidOid; /* in case of an error */
	arg->sent = sent_type(type);
	arg->needs = cp_convert_needs(type);
	getTypeOutputInfo(type, &output, &is_varlena);
	fmgr_info_cxt(output, &arg->output, context);
	arg->type = type;
}

/* The cache in fn_extra, with room for that many types. */
static ArgTypes *
arg_types(FmgrInfo *flinfo, int count)
{
	ArgTypes *cache = flinfo->fn_extra;

	if (cache == NULL || cache->count < count)
	{
		cache = MemoryContextAllocZero(flinfo->fn_mcxt,
									   offsetof(ArgTypes, types) + count * sizeof(ArgType));
		cache->count = count;
		flinfo->fn_extra = cache;
	}
	return cache;
}

static void
allocate(CpParams *params, int count)
{
	if (count > CP_PARAMS_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_ARGUMENTS),
				 errmsg("a statement can have at most %d arguments", CP_PARAMS_MAX)));
	params->count = count;
	params->types = palloc(count * sizeof(Oid));
	params->values = palloc(count * sizeof(char *));
}

static void
set_param(CpParams *params, int i, ArgType *arg, Datum value, bool is_null)
{
	params->types[i] = arg->sent;
	params->values[i] = is_null ? NULL : OutputFunctionCall(&arg->output, value);
}

/* An array behind the keyword VARIADIC: each element is a parameter. */
static void
expand_variadic(FmgrInfo *flinfo, ArrayType *array, CpParams *params)
{
	Oid type = ARR_ELEMTYPE(array);
	ArgType *arg = arg_types(flinfo, 1)->types;
	Datum *values;
	bool *nulls;
	int count;
	int nest_level;
	int16 typlen;
	bool typbyval;
	char typalign;

	get_typlenbyvalalign(type, &typlen, &typbyval, &typalign);
	deconstruct_array(array, type, typlen, typbyval, typalign, &values, &nulls, &count);
	allocate(params, count);
	look_up(arg, type, flinfo->fn_mcxt);

	nest_level = cp_convert_begin_output(arg->needs);
	for (int i = 0; i < count; i++)
		set_param(params, i, arg, values[i], nulls[i]);
	cp_convert_end(nest_level);
}

/* One parameter for each argument. */
static void
take_each(FunctionCallInfo fcinfo, int first, CpParams *params)
{
	int count = PG_NARGS() - first;
	ArgType *types = arg_types(fcinfo->flinfo, count)->types;
	int needs = 0;
	int nest_level;

	allocate(params, count);
	for (int i = 0; i < count; i++)
	{
		look_up(&types[i], get_fn_expr_argtype(fcinfo->flinfo, first + i),
				fcinfo->flinfo->fn_mcxt);
		needs |= types[i].needs;
	}

	nest_level = cp_convert_begin_output(needs);
	for (int i = 0; i < count; i++)
		set_param(params, i, &types[i], PG_GETARG_DATUM(first + i),
				  PG_ARGISNULL(first + i));
	cp_convert_end(nest_level);
}

void
cp_args_collect(FunctionCallInfo fcinfo, int first, CpParams *params)
{
	if (PG_NARGS() <= first)
		params->count = -1;
	else if (!get_fn_expr_variadic(fcinfo->flinfo))
		take_each(fcinfo, first, params);
	else if (PG_ARGISNULL(first))
		allocate(params, 0); /* no array, no arguments, as format() has it */
	else
		expand_variadic(fcinfo->flinfo, PG_GETARG_ARRAYTYPE_P(first), params);
}

/* ---- the others ---- */

void
cp_args_require(FunctionCallInfo fcinfo, int i, const char *name)
{
	if (PG_ARGISNULL(i))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

char *
cp_args_statement(FunctionCallInfo fcinfo, int first, CpBy by, CpParams *params)
{
	char *sql;

	cp_args_require(fcinfo, first, by == CP_BY_SERVER ? "server" : "lease");
	cp_args_require(fcinfo, first + 1, "sql");
	sql = text_to_cstring(PG_GETARG_TEXT_PP(first + 1));
	cp_args_collect(fcinfo, first + 2, params);
	return sql;
}

CpLease *
cp_args_lease(FunctionCallInfo fcinfo, int i, CpBy by, bool *release)
{
	if (by == CP_BY_SERVER)
		return cp_lease_for_server(text_to_cstring(PG_GETARG_TEXT_PP(i)), release);
	return cp_lease_get(PG_GETARG_INT64(i), true, release);
}

int64
cp_args_timeout(FunctionCallInfo fcinfo, int i)
{
	const Interval *interval;
	double days;
	double ms;

	if (PG_ARGISNULL(i))
		return -1;
	interval = PG_GETARG_INTERVAL_P(i);
	/* months count 30 days, as in comparisons of intervals */
	days = (double) interval->month * DAYS_PER_MONTH + interval->day;
	ms = ceil((days * USECS_PER_DAY + (double) interval->time) / 1000);
	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	return (int64) Min(ms, (double) CP_TIMEOUT_MAX);
}
