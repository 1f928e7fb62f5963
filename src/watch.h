/*
 * watch.h
 *		Many sockets watched at a time, for whoever passes bytes between them.
 *
 * Runs in the tunnel.  A wait event set of the server's cannot take a socket out, and
 * changing what is waited for costs a system call each; here a socket is entered
 * once, and what becomes possible on it is noted in flags, which stay set until
 * whoever tries clears them (EAGAIN).
 */
#ifndef CP_WATCH_H
#define CP_WATCH_H

#include "lib/ilist.h"

#include "clock.h"

/* One watched socket; part of its owner's own struct. */
typedef struct CpWatched
{
	int fd; /* -1: not watched */
	/*
	 * Set by the watch, true at first.  The owner clears `readable` when it got
	 * EAGAIN, `writable` by cp_watch_await_room().
	 */
	bool readable;
	bool writable;
	/*
	 * The peer writes no more, or all is lost.  Then only EAGAIN says that nothing is
	 * left; before that, reading less than one has asked for says so, too.
	 */
	bool ended;
	/* what the owner could make use of; only where there is no epoll does it count */
	bool wants_read;
	bool wants_write;
	void *owner;
	dlist_node node; /* watch.c's */
} CpWatched;

/*
 * Once for a process; false with errno; may throw.  `fixed` are watched besides, at
 * all times, for something to read (level-triggered): they must never be closed.
 */
extern bool cp_watch_init(const int *fixed, int fixed_count);

/* Begins to watch; false with errno: no memory or descriptor in the kernel. */
extern bool cp_watch_add(CpWatched *watched, int fd, void *owner);

/* Ends it; before the descriptor is closed.  Nothing if it is not watched. */
extern void cp_watch_remove(CpWatched *watched);

/*
 * The owner got EAGAIN when it wrote: clears `writable`, and has room noticed.  (Unless
 * asked to, the watch does not look for it: a Unix socket says so each time its peer has
 * read something.)
 */
extern void cp_watch_await_room(CpWatched *watched);

/*
 * Waits for the latch, one of the fixed ones, or a change of a watched socket, until
 * the deadline; now and then it returns for nothing.  Returns how many watched sockets
 * have changed, at most CP_WATCH_EVENTS of them in `changed`, each once; since two may
 * have the same owner, look at all of them before any owner goes.  *others_ready: a
 * fixed one or the latch has something.  The latch is reset.  Serves no interrupts;
 * exits on postmaster death.
 */
#define CP_WATCH_EVENTS 64
extern int cp_watch_wait(CpTime deadline, CpWatched **changed, bool *others_ready);

#endif /* CP_WATCH_H */
