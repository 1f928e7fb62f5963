/*
 * args.h
 *		The arguments of a query function as parameters of a remote statement.
 *
 * Runs in client backends, called by sql_query.c.  Throws.
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

/* Raises 22004 if argument i, of that name, is NULL: none of our functions is STRICT. */
extern void cp_args_require(FunctionCallInfo fcinfo, int i, const char *name);

#endif /* CP_ARGS_H */
