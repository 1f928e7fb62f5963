/*
 * rows.c
 *		Rows of a remote result into a tuplestore, as the types they are
 *		declared to have here.
 *
 * Runs in client backends.  cp_query_run calls the sinks row by row while
 * the statement runs, so the whole result is only ever in the tuplestore,
 * which spills to disk.  Never reads from the connection itself.
 */
#include "postgres.h"

#include "rows.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "convert.h"
#include "message.h"

typedef enum Matching
{
	MATCH_POSITION, /* a column definition list */
	MATCH_NAME,		/* a composite type */
	MATCH_SINGLE	/* a scalar type */
} Matching;

/* A column of the rows we make. */
typedef struct Column
{
	bool dropped;
	int source; /* column of the remote result */
	FmgrInfo input;
	Oid ioparam;
	int32 typmod;

	/* for error messages; made before they are needed, see column_context */
	const char *name;
	const char *declared;
	const char *remote;
} Column;

/* Rows as they are declared. */
typedef struct TypedForm
{
	CpForm form;
	Matching matching;
	Oid type;	/* declared, for MATCH_NAME and MATCH_SINGLE */
	Oid domain; /* over a composite: to be checked, or InvalidOid */
	void *domain_cache;
	TupleDesc desc;
	int count;
	Column *columns;
	Datum *values;
	bool *nulls;
	Column *current; /* being converted */
} TypedForm;

typedef struct TypedRows
{
	CpRows rows;
	TypedForm *form;
} TypedRows;

/* ---- all kinds ---- */

void
cp_rows_require_set(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;

	if (info == NULL || !IsA(info, ReturnSetInfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	if (!(info->allowedModes & SFRM_Materialize))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("materialize mode required, but it is not allowed in this context")));
}

void
cp_rows_init(CpRows *rows, FunctionCallInfo fcinfo, TupleDesc desc)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	bool random = (info->allowedModes & SFRM_Materialize_Random) != 0;
	MemoryContext old;

	rows->row_context = AllocSetContextCreate(CurrentMemoryContext, "conpool row",
											  ALLOCSET_DEFAULT_SIZES);
	rows->nest_level = -1;

	old = MemoryContextSwitchTo(info->econtext->ecxt_per_query_memory);
	rows->desc = CreateTupleDescCopy(desc);
	rows->store = tuplestore_begin_heap(random, false, work_mem);
	MemoryContextSwitchTo(old);

	info->returnMode = SFRM_Materialize;
	info->setResult = rows->store;
	info->setDesc = rows->desc;
}

void
cp_rows_begin_set(CpRows *rows, PGconn *conn, int needs)
{
	tuplestore_clear(rows->store);

	/* an earlier statement of the same text may have changed the remote's */
	cp_convert_end(rows->nest_level);
	rows->nest_level = -1;
	rows->nest_level = cp_convert_begin_input(needs, conn);
}

void
cp_rows_end(CpRows *rows)
{
	cp_convert_end(rows->nest_level);
	rows->nest_level = -1;
	MemoryContextDelete(rows->row_context);
}

TupleDesc
cp_rows_scalar_desc(const char *name, Oid type)
{
	TupleDesc desc = CreateTemplateTupleDesc(1);

	TupleDescInitEntry(desc, 1, name, type, -1, 0);
	return desc;
}

char *
cp_rows_value(PGresult *result, int row, int column)
{
	char *value;

	if (PQgetisnull(result, row, column))
		return NULL;
	value = PQgetvalue(result, row, column);
	cp_convert_verify(value, PQgetlength(result, row, column));
	return value;
}

/* ---- typed rows: what is declared ---- */

static void
prepare_column(TypedForm *typed, int i)
{
	Form_pg_attribute attribute = TupleDescAttr(typed->desc, i);
	Column *column = &typed->columns[i];
	Oid input;

	column->dropped = attribute->attisdropped;
	if (column->dropped)
	{
		typed->nulls[i] = true;
		return;
	}
	getTypeInputInfo(attribute->atttypid, &input, &column->ioparam);
	fmgr_info(input, &column->input);
	column->typmod = attribute->atttypmod;
	column->name = NameStr(attribute->attname);
	column->declared = format_type_with_typemod(attribute->atttypid, attribute->atttypmod);
	typed->form.needs |= cp_convert_needs(attribute->atttypid);
}

static void
prepare_columns(TypedForm *typed, TupleDesc desc)
{
	typed->desc = desc;
	typed->count = desc->natts;
	typed->columns = palloc0(typed->count * sizeof(Column));
	typed->values = palloc0(typed->count * sizeof(Datum));
	typed->nulls = palloc(typed->count * sizeof(bool));
	for (int i = 0; i < typed->count; i++)
		prepare_column(typed, i);
}

/* What the function shall return here, by its call. */
static TupleDesc
declared_result(FunctionCallInfo fcinfo, TypedForm *typed)
{
	TupleDesc desc;

	switch (get_call_result_type(fcinfo, &typed->type, &desc))
	{
		case TYPEFUNC_COMPOSITE:
			typed->matching = typed->type == RECORDOID ? MATCH_POSITION : MATCH_NAME;
			return desc;
		case TYPEFUNC_COMPOSITE_DOMAIN:
			typed->matching = MATCH_NAME;
			typed->domain = typed->type;
			return desc;
		case TYPEFUNC_SCALAR:
			typed->matching = MATCH_SINGLE;
			return cp_rows_scalar_desc("value", typed->type);
		default:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("function returning record called in context that cannot "
							"accept type record"),
					 errhint("Call it in FROM, with a column definition list such as "
							 "AS t(id integer, name text).")));
	}
	return NULL; /* not reached */
}

/* What values of a type consist of. */
static TupleDesc
columns_of(Oid type, TypedForm *typed)
{
	Oid base = getBaseType(type);

	typed->type = type;
	if (base == RECORDOID)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("columns cannot go by name to a value of type record"),
				 errhint("Give a value of a composite type that has a name, such as "
						 "NULL::orders.")));
	if (!type_is_rowtype(base))
	{
		typed->matching = MATCH_SINGLE;
		return cp_rows_scalar_desc("value", type);
	}
	typed->matching = MATCH_NAME;
	if (base != type)
		typed->domain = type;
	return lookup_rowtype_tupdesc_copy(base, -1);
}

/* ---- typed rows: from the columns of the result to ours ---- */

/*
 * A type of the remote by name.  Only the OIDs of built-in types mean the
 * same here.
 */
static const char *
remote_type_name(Oid type)
{
	if (type < FirstGenbkiObjectId)
	{
		char *name = format_type_extended(type, -1, FORMAT_TYPE_ALLOW_INVALID);

		if (strcmp(name, "???") != 0)
			return name;
	}
	return psprintf("oid %u", type);
}

static void
set_source(Column *column, PGresult *fields, int source)
{
	column->source = source;
	column->remote = remote_type_name(PQftype(fields, source));
}

/* Raises that there are too few or too many columns, naming the first. */
static void
throw_count(TypedForm *typed, PGresult *fields)
{
	int found = PQnfields(fields);

	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("wrong number of columns in the remote result: %d instead of %d",
					found, typed->count),
			 found < typed->count ?
				 errdetail("Column \"%s\", declared as %s, is not in the remote result.",
						   typed->columns[found].name, typed->columns[found].declared) :
				 errdetail("Column \"%s\" of the remote result, of type %s, is not declared.",
						   cp_message_valid_text(PQfname(fields, typed->count)),
						   remote_type_name(PQftype(fields, typed->count)))));
}

static void
match_by_position(TypedForm *typed, PGresult *fields)
{
	if (PQnfields(fields) != typed->count)
		throw_count(typed, fields);
	for (int i = 0; i < typed->count; i++)
		set_source(&typed->columns[i], fields, i);
}

/* The column of that name, which must be there once; others do not matter. */
static int
find_column(TypedForm *typed, PGresult *fields, Column *column)
{
	int found = -1;

	for (int i = 0; i < PQnfields(fields); i++)
	{
		if (strcmp(PQfname(fields, i), column->name) != 0)
			continue;
		if (found >= 0)
			ereport(ERROR,
					(errcode(ERRCODE_AMBIGUOUS_COLUMN),
					 errmsg("remote result has several columns \"%s\"", column->name),
					 errdetail("Type %s wants one, declared as %s.",
							   format_type_be(typed->type), column->declared)));
		found = i;
	}
	if (found < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("remote result has no column \"%s\"", column->name),
				 errdetail("Type %s wants it, declared as %s.",
						   format_type_be(typed->type), column->declared)));
	return found;
}

static void
match_by_name(TypedForm *typed, PGresult *fields)
{
	for (int i = 0; i < typed->count; i++)
	{
		Column *column = &typed->columns[i];

		if (!column->dropped)
			set_source(column, fields, find_column(typed, fields, column));
	}
}

static void
match_columns(CpForm *form, PGresult *fields)
{
	TypedForm *typed = (TypedForm *) form;
	/* what errors say of a column is needed as long as the form */
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(typed));

	if (typed->matching == MATCH_NAME)
		match_by_name(typed, fields);
	else
		match_by_position(typed, fields);
	MemoryContextSwitchTo(old);
}

/* ---- typed rows: values ---- */

/*
 * Says which column a value did not fit.  All names were looked up before: no
 * catalog may be read while an error is on its way.
 */
static void
column_context(void *arg)
{
	Column *column = ((TypedForm *) arg)->current;

	if (column != NULL)
		errcontext("column \"%s\" of the result, declared as %s, remote type %s",
				   column->name, column->declared, column->remote);
}

static void
convert_columns(TypedForm *typed, PGresult *result, int row)
{
	for (int i = 0; i < typed->count; i++)
	{
		Column *column = &typed->columns[i];
		char *value;

		if (column->dropped)
			continue;
		typed->current = column;
		value = cp_rows_value(result, row, column->source);
		/* a NULL too: the input function of a domain may refuse it */
		typed->values[i] = InputFunctionCall(&column->input, value,
											 column->ioparam, column->typmod);
		typed->nulls[i] = value == NULL;
	}
	typed->current = NULL;
}

static void
convert_row(TypedForm *typed, PGresult *result, int row)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = column_context,
		.arg = typed,
	};

	error_context_stack = &context;
	convert_columns(typed, result, row);
	error_context_stack = context.previous;
}

/* The row as a value of the composite type; of a domain over that, if it fits. */
static Datum
composite_value(TypedForm *typed)
{
	HeapTuple tuple = heap_form_tuple(typed->desc, typed->values, typed->nulls);
	Datum value = HeapTupleGetDatum(tuple);

	if (OidIsValid(typed->domain))
		domain_check(value, false, typed->domain, &typed->domain_cache,
					 GetMemoryChunkContext(typed));
	return value;
}

static Datum
make_typed(CpForm *form, PGresult *result, int row, bool *is_null)
{
	TypedForm *typed = (TypedForm *) form;

	convert_row(typed, result, row);
	*is_null = typed->matching == MATCH_SINGLE && typed->nulls[0];
	return typed->matching == MATCH_SINGLE ? typed->values[0] : composite_value(typed);
}

static TypedForm *
new_form(void)
{
	TypedForm *typed = palloc0(sizeof(TypedForm));

	typed->form.begin = match_columns;
	typed->form.make = make_typed;
	return typed;
}

CpForm *
cp_form_typed(Oid type)
{
	TypedForm *typed = new_form();

	prepare_columns(typed, columns_of(type, typed));
	return &typed->form;
}

/* ---- typed rows: the sink ---- */

static void
begin_typed(CpSink *sink, PGconn *conn, PGresult *fields)
{
	TypedRows *rows = (TypedRows *) sink;

	match_columns(&rows->form->form, fields);
	cp_rows_begin_set(&rows->rows, conn, rows->form->form.needs);
}

static void
put_typed(CpSink *sink, PGresult *result, int row)
{
	TypedRows *rows = (TypedRows *) sink;
	TypedForm *typed = rows->form;
	MemoryContext old = MemoryContextSwitchTo(rows->rows.row_context);

	convert_row(typed, result, row);
	/* for the sake of the check */
	if (OidIsValid(typed->domain))
		(void) composite_value(typed);
	tuplestore_putvalues(rows->rows.store, rows->rows.desc, typed->values, typed->nulls);

	MemoryContextSwitchTo(old);
	MemoryContextReset(rows->rows.row_context);
}

CpRows *
cp_rows_typed(FunctionCallInfo fcinfo)
{
	TypedRows *rows = palloc0(sizeof(TypedRows));

	cp_rows_require_set(fcinfo);
	rows->form = new_form();
	cp_rows_init(&rows->rows, fcinfo, declared_result(fcinfo, rows->form));
	prepare_columns(rows->form, rows->rows.desc);
	rows->rows.sink.begin = begin_typed;
	rows->rows.sink.row = put_typed;
	return &rows->rows;
}
