/*
 * resolver.h
 *		Looks host names up without blocking: getaddrinfo() in threads.
 *
 * Runs in the dialer and in client backends.  getaddrinfo() knows no
 * time limit and cannot be interrupted; one name server that does not answer would
 * hold up all pools, and the end of the server with them, or a session that nobody
 * could cancel.  A thread touches nothing of PostgreSQL: it has its own memory from
 * malloc, all signals blocked, and writes a byte into a pipe when it is done.
 */
#ifndef CP_RESOLVER_H
#define CP_RESOLVER_H

typedef struct CpLookup CpLookup;

/*
 * Makes the pipe; its reading end becomes readable when a lookup is done. -1 = failed.
 * Once for a process, which from here on ends by _exit() if there are threads at its
 * end, when all its callbacks have run.
 */
extern int cp_resolver_init(void);

/* Empties the pipe. */
extern void cp_resolver_drain(void);

/*
 * Begins to look a name up, or joins a lookup of it that is under way; NULL if
 * no thread or memory is to be had.  Each start has a done or an abandon.
 * `owner` is any number of whoever wants it (a pool): nobody gets more than a few
 * threads, those that were abandoned but still hang included.  `proven`: it may
 * have those, too, that are kept for names that are likely to be found.
 */
extern CpLookup *cp_resolver_start(const char *name, int owner, bool proven);

/*
 * Is it done?  Then *addresses (palloc'd array of palloc'd numeric addresses, in
 * the resolver's order) and their number, or 0 and *error; forget the lookup.
 */
extern bool cp_resolver_done(CpLookup *lookup, char ***addresses, int *n,
							 const char **error);

/* The caller waits for it no longer; a thread that hangs is left to itself. */
extern void cp_resolver_abandon(CpLookup *lookup);

#endif /* CP_RESOLVER_H */
