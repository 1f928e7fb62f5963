/*
 * report_rows.h
 *		Rows of conpool's views for report(), read column by column.
 */
#ifndef CP_REPORT_ROWS_H
#define CP_REPORT_ROWS_H

#include "executor/spi.h"
#include "utils/array.h"
#include "utils/timestamp.h"

/* A row of a result, and the column to be read next. */
typedef struct CpCursor
{
	const SPITupleTable *result;
	uint64 row;
	int column; /* from 1 */
} CpCursor;

/* Runs a query, the caller being connected to SPI; returns how many rows it has. */
extern uint64 cp_rows_select(const char *sql, const SPITupleTable **result);

/* The same with a text[] as $1. */
extern uint64 cp_rows_select_of(const char *sql, ArrayType *keys, const SPITupleTable **result);

extern CpCursor cp_rows_at(const SPITupleTable *result, uint64 row);

/* the next column, whatever its type; NULL for null */
extern char *cp_rows_text(CpCursor *cursor);

/* the next column, a float8; NaN for null, or 0 */
extern double cp_rows_number(CpCursor *cursor);
extern double cp_rows_total(CpCursor *cursor);

/* the next column, a boolean; false for null */
extern bool cp_rows_bool(CpCursor *cursor);

/* the next column, a timestamptz; DT_NOBEGIN for null */
extern TimestampTz cp_rows_time(CpCursor *cursor);

#endif /* CP_REPORT_ROWS_H */
