/*
 * threads.h
 *		Calls of libpq that may take their time, made in threads.
 *
 * Runs in the tunnel.  Connecting may block or compute for as long as a remote or a
 * user likes: files that never end, ticket servers, a million rounds of SCRAM.  What
 * goes on meanwhile must not: all connections of the tunnel.  A call touches nothing
 * of PostgreSQL's: no palloc, no ereport, no latch.  Threads have all signals
 * blocked.
 */
#ifndef CP_THREADS_H
#define CP_THREADS_H

typedef struct CpCall CpCall;

/*
 * Once for a process, which from here on ends by _exit() if there are threads at its
 * end, when all its callbacks have run.  Returns a descriptor that becomes readable
 * when a call is over, or -1 with errno.
 */
extern int cp_threads_init(void);

/* Makes that descriptor unreadable again: before looking which calls are over. */
extern void cp_threads_drain(void);

/* Who wants a call, by which threads are shared out: nobody gets all of them. */
typedef struct CpCaller
{
	int owner;	 /* any number: a pool */
	Oid party;	 /* role that answers for it, for several pools; InvalidOid: a superuser */
	bool proven; /* may have those, too, that are kept for calls that are likely to end */
} CpCaller;

/*
 * Has function(arg) called in a thread as soon as one is free, in the order in which
 * they are wanted, but for those whose caller has his share.  NULL: out of memory.
 */
extern CpCall *cp_threads_call(void (*function)(void *), void *arg, const CpCaller *caller);

/* Is it over?  Then forget it, it is freed. */
extern bool cp_threads_is_done(CpCall *call);

/*
 * Takes back a call that has not begun, for lack of a thread: true, and it is freed.
 * One that has begun goes on: nothing can be done but wait for its end.
 */
extern bool cp_threads_withdraw(CpCall *call);

/*
 * Nobody waits for its result any more, and it may never end: it gets what computing
 * time others leave, where the system allows that.  To be asked after all the same.
 */
extern void cp_threads_put_last(CpCall *call);

/* Has it not begun because other calls of its owner take up his share of threads? */
extern bool cp_threads_waits_for_own(CpCall *call);

#endif /* CP_THREADS_H */
