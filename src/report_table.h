/*
 * report_table.h
 *		Tables on the page of report(): a query, and how its columns are shown.
 */
#ifndef CP_REPORT_TABLE_H
#define CP_REPORT_TABLE_H

#include "lib/stringinfo.h"
#include "utils/timestamp.h"

/*
 * What a column of a table shows.  It takes one column of the query, of any type
 * for texts, float8 for numbers and timestamptz for times, unless noted.
 */
typedef enum CpCellKind
{
	CP_CELL_END,
	CP_CELL_POOL,	 /* server, database, role */
	CP_CELL_SESSION, /* process ID, application, client address */
	CP_CELL_NAME,
	CP_CELL_PROSE,
	CP_CELL_SQL, /* statement, call stack, query ID */
	CP_CELL_BADGE,
	CP_CELL_ID,		  /* a number that is a name */
	CP_CELL_COUNT,	  /* number */
	CP_CELL_ALARM,	  /* number of things that should not have happened */
	CP_CELL_DURATION, /* number, milliseconds */
	CP_CELL_SHARE,	  /* number, of 1 */
	CP_CELL_TIME
} CpCellKind;

typedef struct CpTableColumn
{
	const char *heading;
	CpCellKind kind;
} CpTableColumn;

/* A section of the page that is one table. */
typedef struct CpTable
{
	const char *id;
	const char *heading;
	const char *about;
	const char *empty; /* what is said when there are no rows */
	const char *sql;   /* its first column says how many rows there are in all */
	const CpTableColumn *columns;
} CpTable;

extern void cp_table_write(StringInfo page, const CpTable *table);

/* parts of it, for tables with cells of their own */
extern void cp_table_begin(StringInfo page, const char *heading, const CpTableColumn *columns);
extern void cp_table_end(StringInfo page, double shown, double total);
extern void cp_table_number(StringInfo page, CpCellKind kind, double n);
extern void cp_table_time(StringInfo page, TimestampTz t);

/* the names of a pool, any of which may be NULL */
extern void cp_table_pool(StringInfo page, const char *server, const char *database,
						  const char *role);

#endif /* CP_REPORT_TABLE_H */
