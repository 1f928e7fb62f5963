/*
 * report_rows.c
 *		Rows of conpool's views for report(), read column by column.
 *
 * Runs in client backends, between SPI_connect and SPI_finish, called by the
 * report_* files that show what is in the views, and sql_report.c.  Queries are
 * read-only and run as the caller of report().  What is read belongs to SPI, and
 * lives until SPI_finish.
 */
#include "postgres.h"

#include "report_rows.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"

static uint64
take_result(int status, const SPITupleTable **result)
{
	if (status != SPI_OK_SELECT)
		elog(ERROR, "could not read a view: %s", SPI_result_code_string(status));
	*result = SPI_tuptable;
	return SPI_processed;
}

uint64
cp_rows_select(const char *sql, const SPITupleTable **result)
{
	return take_result(SPI_execute(sql, true, 0), result);
}

uint64
cp_rows_select_of(const char *sql, ArrayType *keys, const SPITupleTable **result)
{
	Oid types[1] = {TEXTARRAYOID};
	Datum values[1] = {PointerGetDatum(keys)};

	return take_result(SPI_execute_with_args(sql, 1, types, values, NULL, true, 0), result);
}

CpCursor
cp_rows_at(const SPITupleTable *result, uint64 row)
{
	CpCursor cursor = {result, row, 1};

	return cursor;
}

char *
cp_rows_text(CpCursor *cursor)
{
	return SPI_getvalue(cursor->result->vals[cursor->row], cursor->result->tupdesc,
						cursor->column++);
}

static Datum
next_datum(CpCursor *cursor, Oid type, bool *is_null)
{
	if (SPI_gettypeid(cursor->result->tupdesc, cursor->column) != type)
		elog(ERROR, "column %d of a view has an unexpected type", cursor->column);
	return SPI_getbinval(cursor->result->vals[cursor->row], cursor->result->tupdesc,
						 cursor->column++, is_null);
}

double
cp_rows_number(CpCursor *cursor)
{
	bool is_null;
	Datum value = next_datum(cursor, FLOAT8OID, &is_null);

	return is_null ? NAN : DatumGetFloat8(value);
}

double
cp_rows_total(CpCursor *cursor)
{
	double n = cp_rows_number(cursor);

	return isnan(n) ? 0 : n;
}

bool
cp_rows_bool(CpCursor *cursor)
{
	bool is_null;
	Datum value = next_datum(cursor, BOOLOID, &is_null);

	return !is_null && DatumGetBool(value);
}

TimestampTz
cp_rows_time(CpCursor *cursor)
{
	bool is_null;
	Datum value = next_datum(cursor, TIMESTAMPTZOID, &is_null);

	return is_null ? DT_NOBEGIN : DatumGetTimestampTz(value);
}
