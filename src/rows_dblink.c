/*
 * rows_dblink.c
 *		Rows of a remote result as those of a function of dblink's, with its checks and
 *		error texts.
 *
 * Runs in client backends, called row by row while the statement runs.  Columns go by
 * position to those that the caller has declared; what these are is looked at when the
 * first result set has come, not before.  Never reads from the connection itself.
 */
#include "postgres.h"

#include "rows_dblink.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "tcop/dest.h"
#include "utils/memutils.h"

#include "convert.h"
#include "rows.h"

typedef struct DblinkRows
{
	CpDblinkRows rows; /* first, so that the one leads to the other */
	FunctionCallInfo fcinfo;
	AttInMetadata *input; /* of the result set */
	char **values;
	MemoryContext row_context;		  /* reset after each row */
	int nest_level;					  /* of settings, see convert.h */
	char tag[COMPLETION_TAG_BUFSIZE]; /* of the statement that ended last */
} DblinkRows;

static ReturnSetInfo *
result_of(const DblinkRows *rows)
{
	return (ReturnSetInfo *) rows->fcinfo->resultinfo;
}

/* Has the function return rows of that kind, of which there are none yet. */
static void
begin_store(DblinkRows *rows, TupleDesc desc)
{
	ReturnSetInfo *info = result_of(rows);
	MemoryContext old;

	cp_dblink_rows_clear(&rows->rows);
	old = MemoryContextSwitchTo(info->econtext->ecxt_per_query_memory);
	info->setDesc = CreateTupleDescCopy(desc);
	info->setResult = tuplestore_begin_heap(true, false, work_mem);
	rows->input = TupleDescGetAttInMetadata(info->setDesc);
	MemoryContextSwitchTo(old);
}

/* What the caller wants the rows to be. */
static TupleDesc
declared(const DblinkRows *rows)
{
	TupleDesc desc;

	switch (get_call_result_type(rows->fcinfo, NULL, &desc))
	{
		case TYPEFUNC_COMPOSITE:
			return desc;
		case TYPEFUNC_RECORD:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("function returning record called in context "
							"that cannot accept type record")));
			break;
		default:
			elog(ERROR, "return type must be a row type");
			break;
	}
	return NULL; /* not reached */
}

static void
begin_set(CpSink *sink, PGconn *conn, PGresult *fields)
{
	DblinkRows *rows = (DblinkRows *) sink;
	TupleDesc desc = declared(rows);
	int needs = 0;

	if (PQnfields(fields) != desc->natts)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("remote query result rowtype does not match "
						"the specified FROM clause rowtype")));
	begin_store(rows, desc);
	rows->values = palloc(Max(desc->natts, 1) * sizeof(char *));
	for (int i = 0; i < desc->natts; i++)
		needs |= cp_convert_needs(TupleDescAttr(desc, i)->atttypid);

	/* an earlier statement of the same text may have changed the remote's */
	cp_convert_end(rows->nest_level);
	rows->nest_level = -1;
	rows->nest_level = cp_convert_begin_input(needs, conn);
}

/* The values of a row go into the store. */
static void
put_values(DblinkRows *rows)
{
	tuplestore_puttuple(result_of(rows)->setResult,
						BuildTupleFromCStrings(rows->input, rows->values));
}

static void
put_row(CpSink *sink, PGresult *result, int row)
{
	DblinkRows *rows = (DblinkRows *) sink;
	MemoryContext old = MemoryContextSwitchTo(rows->row_context);

	for (int i = 0; i < PQnfields(result); i++)
		rows->values[i] = cp_rows_value(result, row, i);
	put_values(rows);
	MemoryContextSwitchTo(old);
	MemoryContextReset(rows->row_context);
}

static void
end_statement(CpSink *sink, const char *tag, bool had_columns)
{
	DblinkRows *rows = (DblinkRows *) sink;

	rows->rows.had_columns = had_columns;
	strlcpy(rows->tag, tag, sizeof(rows->tag));
}

void
cp_dblink_rows_status(CpDblinkRows *rows)
{
	DblinkRows *all = (DblinkRows *) rows;
	char *status = all->tag;

	if (rows->had_columns)
		return;
	begin_store(all, cp_rows_scalar_desc("status", TEXTOID));
	all->values = &status;
	put_values(all);
	all->values = NULL;
}

CpDblinkRows *
cp_dblink_rows(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	DblinkRows *rows = palloc0(sizeof(DblinkRows));

	cp_rows_require_set(fcinfo);
	info->returnMode = SFRM_Materialize;
	info->setResult = NULL;
	info->setDesc = NULL;

	rows->rows.sink.begin = begin_set;
	rows->rows.sink.row = put_row;
	rows->rows.sink.end = end_statement;
	rows->fcinfo = fcinfo;
	rows->nest_level = -1;
	rows->row_context = AllocSetContextCreate(CurrentMemoryContext, "conpool row",
											  ALLOCSET_DEFAULT_SIZES);
	return &rows->rows;
}

void
cp_dblink_rows_clear(CpDblinkRows *rows)
{
	ReturnSetInfo *info = result_of((DblinkRows *) rows);

	if (info->setResult != NULL)
		tuplestore_end(info->setResult);
	info->setResult = NULL;
	info->setDesc = NULL;
}

void
cp_dblink_rows_end(CpDblinkRows *rows)
{
	DblinkRows *all = (DblinkRows *) rows;

	cp_convert_end(all->nest_level);
	all->nest_level = -1;
	MemoryContextDelete(all->row_context);
}
