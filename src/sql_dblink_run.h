/*
 * sql_dblink_run.h
 *		Runs a statement for a function of dblink's, and reports its failure as dblink
 *		does.
 *
 * Runs in client backends, called by the other sql_dblink files.  Throws.
 */
#ifndef CP_SQL_DBLINK_RUN_H
#define CP_SQL_DBLINK_RUN_H

#include "dblink.h"
#include "query.h"

/* The call of a function. */
typedef struct CpDblinkCall
{
	const char *name;	  /* of the connection; NULL: it has none */
	CpDblink *connection; /* NULL: borrowed for the call */
	CpLease *lease;
	bool fail;		   /* a failure is an error, not a notice */
	const char *doing; /* what fails then, such as "executing query" */
} CpDblinkCall;

/* Has the call use the connection of that name; throws 08003 if there is none. */
extern void cp_dblink_use(CpDblinkCall *call, const char *name);

/* The same, if there is one. */
extern bool cp_dblink_may_use(CpDblinkCall *call, const char *name);

/*
 * Throws 55006 if a function that uses the connection at this moment, for whatever
 * purpose, has led to the present one.
 */
extern void cp_dblink_refuse_if_reading(const CpDblinkCall *call);

/* Why libpq would not send anything on it; NULL: it would. */
extern const char *cp_dblink_why_not(const CpDblinkCall *call);

/* Begins a statement, as cp_run_start() does. */
extern CpRun *cp_dblink_start(CpLease *lease, const char *sql, int flags);

/*
 * Runs a statement to its end, and gives the lease back if it was borrowed.  False: it
 * has failed, and a notice was given.
 */
extern bool cp_dblink_run(CpDblinkCall *call, const char *sql, CpSink *sink);

/* The same for a statement of our own; if it fails the error begins with that text. */
extern void cp_dblink_run_own(CpDblinkCall *call, const char *sql, const char *error);

/* Reads the results of the request on the call's lease, if there is one, for nobody. */
extern void cp_dblink_discard_request(CpDblinkCall *call);

/*
 * libpq has looked at what came meanwhile.  Where that is the end of a request whose
 * results were all read, the connection is free: nobody has to read that it is the end.
 */
extern void cp_dblink_note_end(CpDblinkCall *call);

/*
 * The run of a request on the call's lease has failed, been lost, or ended a statement
 * that was none (GOING): ends the request, unless more is to come, and reports that.
 */
extern void cp_dblink_fail_request(CpDblinkCall *call, uint64 request, CpRun *run,
								   CpRunStatus status);

#endif /* CP_SQL_DBLINK_RUN_H */
