/*
 * query.h
 *		Runs statements on leases and brings their rows home: one at a time and
 *		waiting for it, or many at once.
 *
 * Runs in client backends, called by the sql_* files, map.c and cursor.c.  Throws.
 */
#ifndef CP_QUERY_H
#define CP_QUERY_H

#include "compat.h"
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
 * there.  end, unless it is NULL, when a statement of the text has ended well.  All
 * may throw, and leave the memory context as they found it.
 */
typedef struct CpSink
{
	void (*begin)(struct CpSink *sink, PGconn *conn, PGresult *fields);
	void (*row)(struct CpSink *sink, PGresult *result, int row);
	void (*end)(struct CpSink *sink, const char *tag, bool had_columns);
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

/* ---- the same in steps ---- */

/*
 * A statement (or several in one text) on its way.  It belongs to its lease, and
 * goes with it: whoever keeps a pointer over anything that may end leases finds it
 * again by lease->run.
 */
typedef struct CpRun CpRun;

#define CP_RUN_WHOLE 0x01	   /* libpq collects each result: not row by row */
#define CP_RUN_NO_NOTICES 0x02 /* notices of the remote are dropped */
#define CP_RUN_NO_CONTEXT 0x04 /* errors say nothing of a remote query on a pool */
#define CP_RUN_STEPWISE 0x08   /* cp_run_read() returns after each statement's end, GOING */

/*
 * Sends sql.  The run is lease->run until it is freed, and the lease is busy until
 * the run has ended.  With scope "transaction" the remote transaction is begun
 * before, or brought to the present nesting level, which waits.  Throws; after that
 * there is no run, and what was sent is for the abort callbacks to stop.
 */
extern CpRun *cp_run_start(CpLease *lease, const char *sql, const CpParams *params, int flags);

typedef enum CpRunStatus
{
	CP_RUN_GOING,  /* there is more to come */
	CP_RUN_DONE,   /* has ended well, the connection is at rest, and it was counted */
	CP_RUN_FAILED, /* has ended with the remote's error; the connection is at rest */
	CP_RUN_LOST	   /* the connection is gone, and the lease a husk or gone, too */
} CpRunStatus;

/*
 * Takes what has come, or if `wait` all that will come, serving interrupts.  FAILED
 * and LOST: call cp_run_throw() or cp_run_failure(), once, which count the failure.
 * If it throws (a sink, an interrupt), that was counted, and the run is for the abort
 * callbacks, which free it; its busy level is the present one from the first call on.
 */
extern CpRunStatus cp_run_read(CpRun *run, CpSink *sink, bool wait);

/* Throws 55006 while cp_run_read() is at work on it: it must not be freed under it. */
extern void cp_run_refuse_if_read(const CpRun *run);

/* Would cp_run_read() take something without waiting?  Reads from the socket. */
extern bool cp_run_is_ready(CpRun *run);

/* Throws the error with its fields and a context. */
pg_noreturn extern void cp_run_throw(CpRun *run);

/* The error as SQLSTATE and message, palloc'd. */
extern void cp_run_failure(CpRun *run, int *sqlstate, char **message);

/* What the server said, FAILED; NULL if it was libpq, or we. */
extern const PGresult *cp_run_error(const CpRun *run);

/* Command tag of the last statement that ended well; "" if none did. */
extern const char *cp_run_tag(const CpRun *run);

/* Frees it, in whatever state; lease->run is NULL then.  Does not throw. */
extern void cp_run_free(CpRun *run);

/*
 * For abort: the run is not to be read any more, since its connection was brought to
 * rest, or is about to go.  Counts it as ended, and frees it.  Does not throw.
 */
extern void cp_run_abandon(CpRun *run);

/*
 * Waits until one of the runs is ready, our latch is set, or the deadline is there;
 * serves interrupts.  Returns the index of the first that is ready, or -1.  wakes: return
 * -1 as soon as the latch was set, too.
 */
extern int cp_run_wait_any(CpRun *const *runs, int n, CpTime deadline, bool wakes);

#endif /* CP_QUERY_H */
