/*
 * rows_dblink.h
 *		A sink whose rows are those of a function of dblink's.
 *
 * Runs in client backends, called by the sql_dblink files.  Throws.
 */
#ifndef CP_ROWS_DBLINK_H
#define CP_ROWS_DBLINK_H

#include "fmgr.h"

#include "query.h"

typedef struct CpDblinkRows
{
	CpSink sink;
	bool had_columns; /* the statement that ended last */
} CpDblinkRows;

/*
 * The last result set is what the function returns, by position.  What it returns is empty
 * at first.  Raises 0A000 unless the caller accepts a set in a tuplestore.
 */
extern CpDblinkRows *cp_dblink_rows(FunctionCallInfo fcinfo);

/*
 * All has ended well: if the last statement was a command without a result set, its tag is
 * what the function returns, a row with column "status".
 */
extern void cp_dblink_rows_status(CpDblinkRows *rows);

/* Voids them: what the function returns is empty again. */
extern void cp_dblink_rows_clear(CpDblinkRows *rows);

extern void cp_dblink_rows_end(CpDblinkRows *rows);

#endif /* CP_ROWS_DBLINK_H */
