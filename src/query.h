/*
 * query.h
 *		Runs one statement on a lease and brings its rows home.
 *
 * Runs in client backends, called by sql_query.c.  Throws.
 */
#ifndef CP_QUERY_H
#define CP_QUERY_H

#include "lease.h"

/* Parameters of a statement; text, NULL = SQL NULL.  count < 0: simple protocol */
typedef struct CpParams
{
	int count;
	Oid *types; /* 0 = untyped */
	const char **values;
} CpParams;

/*
 * Where rows go.  begin is called at the start of every result set, with its
 * columns, even when it is empty: it voids the rows of the one before (the
 * last one counts).  row is called for every row of `result`, with its number
 * there.  Both may throw, and leave the memory context as they found it.
 */
typedef struct CpSink
{
	void (*begin)(struct CpSink *sink, PGconn *conn, PGresult *fields);
	void (*row)(struct CpSink *sink, PGresult *result, int row);
} CpSink;

/*
 * Runs sql on the lease, feeding sink (NULL = rows are dropped).  Returns the
 * command tag of the last statement, palloc'd.
 *
 * A remote error is thrown with its fields after the connection has been
 * brought to rest.  After errors of ours (a sink's, a cancel) the statement
 * has not ended: the lease's abort callbacks see to that.  When the
 * connection is lost or COPY was tried the lease is gone on return, unless it
 * is explicit.
 */
extern char *cp_query_run(CpLease *lease, const char *sql, const CpParams *params,
						  CpSink *sink);

#endif /* CP_QUERY_H */
