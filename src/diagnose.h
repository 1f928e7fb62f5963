/*
 * diagnose.h
 *		What works and what does not on the way from a session to a remote
 *		server, step by step.
 *
 * Runs in client backends, called by sql_diagnose.c.
 */
#ifndef CP_DIAGNOSE_H
#define CP_DIAGNOSE_H

#define CP_DIAGNOSE_STEPS 15

/* What was found at one step; texts are palloc'd. */
typedef struct CpFinding
{
	const char *step;
	bool is_tried; /* else something it depends on has failed */
	bool is_ok;
	const char *detail;
	const char *hint; /* a setting or command, NULL = none */
} CpFinding;

/*
 * Takes all steps for what the caller names, a foreign server or a connection
 * string, as its effective role.  Throws for nothing but what concerns the local
 * session (a cancel, a timeout, termination).  Leaves no lease and no connection.
 */
extern void cp_diagnose(const char *server, CpFinding findings[CP_DIAGNOSE_STEPS]);

#endif /* CP_DIAGNOSE_H */
