/*
 * probe.h
 *		Can a remote's hosts be reached?  Looks their names up, and connects to
 *		them without a word.
 *
 * Runs in client backends, called by borrow.c and diagnose.c.  Knows libpq's lists of hosts
 * (hosts.h), no pool and no password.  Serves interrupts while it waits, and then
 * leaves neither a lookup that is waited for nor a socket behind.  No function
 * throws because of a remote or a name server.
 */
#ifndef CP_PROBE_H
#define CP_PROBE_H

#include "hosts.h"
#include "resolver.h"

/* A host whose name is to be looked up; palloc'd results. */
typedef struct CpProbedName
{
	/* in */
	const char *name;

	/* out */
	char **addresses; /* numeric */
	int count;		  /* of them; 0: see error */
	const char *error;
	bool is_stuck; /* whoever looks it up without a limit would wait */
	CpTime taken;  /* microseconds */

	/* probe.c's own */
	CpLookup *lookup;
	bool is_done;
} CpProbedName;

/*
 * Looks them all up at the same time.  What is not done by the deadline has failed, and
 * so it has if `patience` has passed and another one has been found.
 */
extern void cp_probe_names(CpProbedName *names, int n, CpTime patience, CpTime deadline);

/* Those of n hosts that are names, in their order, palloc'd; *count of them. */
extern CpProbedName *cp_probe_list(const CpHost *hosts, int n, int *count);

/* The n hosts again, with what was found for those that are names. */
extern CpFoundHost *cp_probe_found(const CpHost *hosts, int n, const CpProbedName *names);

/*
 * For whoever has others connect, who are not to be held up by a name server: new
 * arrays of the options (strings shared) in which every host that is a name has its
 * addresses beside it (cp_hosts_resolve), or the same arrays if there is nothing to
 * look up or all is to be left to libpq.  A host without an address is left out
 * unless none has any; one of several that has none in its share of the time is, too.
 * Returns NULL, or why no host has an address, in libpq's words, palloc'd.
 */
extern char *cp_probe_resolve(const char *const *keywords, const char *const *values,
							  CpTime deadline,
							  const char *const **new_keywords,
							  const char *const **new_values);

/*
 * Connects to a host that needs no looking up: an address, or the directory of a
 * Unix socket.  NULL: it can be connected to, which took *taken microseconds;
 * else why not, as a palloc'd text.
 */
extern const char *cp_probe_connect(const CpHost *host, CpTime deadline, CpTime *taken);

/* What is connected to, for people, palloc'd: "10.0.0.1:5432", or a socket's path. */
extern char *cp_probe_describe(const CpHost *host);

#endif /* CP_PROBE_H */
