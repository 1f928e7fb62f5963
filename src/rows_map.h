/*
 * rows_map.h
 *		Sinks for results of many servers that are read in turn: their rows are those
 *		of one set-returning function, each beside its server's name.
 *
 * Runs in client backends, called by sql_map.c.  Throws.
 */
#ifndef CP_ROWS_MAP_H
#define CP_ROWS_MAP_H

#include "fmgr.h"

#include "query.h"

typedef struct CpMapRows CpMapRows;

typedef enum CpMapForm
{
	CP_MAP_JSON, /* a row becomes a jsonb object */
	CP_MAP_TYPED /* it becomes a value of the type that is declared */
} CpMapForm;

/*
 * For a function returning TABLE(server text, data ...[, sqlstate text, error text]).  Its
 * result is ready, empty, on return; cp_map_rows_end when all rows are in it.  Raises
 * 0A000 unless the caller accepts a set in a tuplestore.
 */
extern CpMapRows *cp_map_rows(FunctionCallInfo fcinfo, CpMapForm form);

/* Where the rows of a statement on that server go: those of all its result sets. */
extern CpSink *cp_map_rows_sink(CpMapRows *rows, const char *server);

/* Another of the sinks may be used next. */
extern void cp_map_rows_pause(CpSink *sink);

/* Puts in an error instead of a row. */
extern void cp_map_rows_failed(CpSink *sink, int sqlstate, const char *message);

extern void cp_map_rows_end(CpMapRows *rows);

#endif /* CP_ROWS_MAP_H */
