/*
 * keep.h
 *		The sockets that the broker keeps, one for each slot: resetting their
 *		sessions, looking whether they live, and ending them.
 */
#ifndef CP_KEEP_H
#define CP_KEEP_H

#include "pool.h"
#include "remote.h"

/* resets under way at once; the others wait for their turn */
#define CP_KEEP_MAX_RESETS 64
/* adoptions that outlive a reset, for the next one of the same connection */
#define CP_KEEP_MAX_RETAINED 32

/* Makes room for the sockets of `slots` slots, in the current context. */
extern void cp_keep_init(int slots);

/*
 * Keeps a socket (taken over) and a copy of its greeting for the connection
 * of that generation; a socket kept for the slot before is dropped.
 */
extern void cp_keep_socket(int slot, uint64 generation, int fd,
						   const CpGreeting *greeting);

/*
 * The socket of that connection, still owned by this module, and its greeting
 * (unless NULL); -1 if it is not here, or is being reset, checked or closed.
 */
extern int cp_keep_find(int slot, uint64 generation, const CpGreeting **greeting);

/* Begins to reset, check or close a connection; the pool is told when it is done. */
extern void cp_keep_begin(const CpTask *task);

/*
 * Keeps a socket (taken over) whose owner has said Terminate, or gave it up,
 * only to await the peer's end of file.  generation: the slot's in CLOSING.
 */
extern void cp_keep_await_end(int slot, uint64 generation, int fd);

/*
 * How many sockets are to be waited for, at most.  *changes counts up when
 * their set, or what is awaited on one of them, becomes different.
 */
extern int cp_keep_watched(uint64 *changes);

/* What to wait for on the slot's socket; 0 and no socket if nothing. */
extern uint32 cp_keep_events(int slot, pgsocket *fd);

/* Something happened on the slot's socket. */
extern void cp_keep_ready(int slot);

/* Ends what is past its deadline; returns the next deadline. */
extern CpTime cp_keep_expire(CpTime now);

/* Looks at all sockets that nobody uses; ends the connections that are dead. */
extern void cp_keep_look(void);

/* Ends a connection without waiting for anything; the pool is not told. */
extern void cp_keep_end_now(int slot, bool terminate);

/* The same for all but those that a backend leases: they go on. */
extern void cp_keep_end_unleased(void);

#endif /* CP_KEEP_H */
