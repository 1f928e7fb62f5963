/*
 * args.h
 *		The arguments of SQL functions as what the modules below want: a lease, a
 *		remote statement with its parameters, a timeout.
 *
 * Runs in client backends, called by the sql_* files.  Throws.
 */
#ifndef CP_ARGS_H
#define CP_ARGS_H

#include "fmgr.h"

#include "query.h"

/*
 * Fills params with the arguments from number `first` on, which were declared
 * VARIADIC "any"; without any, params->count is -1 (simple protocol).  Lives
 * in the current memory context; what is known of the types is kept in
 * fcinfo->flinfo->fn_extra.
 */
extern void cp_args_collect(FunctionCallInfo fcinfo, int first, CpParams *params);

/* How the caller says which connection to use. */
typedef enum CpBy
{
	CP_BY_SERVER,
	CP_BY_LEASE
} CpBy;

/*
 * The statement that the arguments from number `first` on describe: a server or a
 * lease, the SQL, and its parameters, which go to *params.  Returns the SQL, palloc'd.
 * The first is only required not to be NULL: it is for cp_args_lease(), since a
 * connection should be held for the statement and no longer.
 */
extern char *cp_args_statement(FunctionCallInfo fcinfo, int first, CpBy by, CpParams *params);

/* The lease that argument i asks for, or names.  *release: give it back afterwards. */
extern CpLease *cp_args_lease(FunctionCallInfo fcinfo, int i, CpBy by, bool *release);

/* more milliseconds than anybody waits */
#define CP_TIMEOUT_MAX ((int64) PG_INT32_MAX * 1000)

/*
 * Argument i, an interval, in milliseconds, rounded up; -1 if it is NULL.  At most
 * CP_TIMEOUT_MAX; raises 22023 if it is negative.
 */
extern int64 cp_args_timeout(FunctionCallInfo fcinfo, int i);

/* Raises 22004 if argument i, of that name, is NULL: none of our functions is STRICT. */
extern void cp_args_require(FunctionCallInfo fcinfo, int i, const char *name);

#endif /* CP_ARGS_H */
