/*
 * tunnel_internal.h
 *		What the files of the tunnel share.
 *
 * tunnel.c has the worker's life and its loop, which serves chores;
 * tunnel_connect.c makes connections of orders; tunnel_line.c has the encrypted
 * ones, tunnel_cancel.c the cancels that go through them.
 *
 * Nothing here may wait, nor take long: all connections do, meanwhile.
 */
#ifndef CP_TUNNEL_INTERNAL_H
#define CP_TUNNEL_INTERNAL_H

#include "lib/ilist.h"
#include "libpq-fe.h"

#include "clock.h"
#include "remote.h"
#include "shmem.h"
#include "threads.h"
#include "tunnel_order.h"
#include "watch.h"

/* this tunnel's, fixed after start */
extern int cp_tunnel_number;
extern CpSharedTunnel *cp_tunnel_shared;
extern MemoryContext cp_tunnel_context;

/* Are there descriptors enough, with so many attempts to connect? */
extern bool cp_tunnel_has_descriptors(int attempts);

/* ---- chores (tunnel.c) ---- */

/*
 * Something that is gone on with now and then: the first member of the struct of
 * whoever does that, and the owner of what he has watched.
 */
typedef struct CpChore
{
	/* goes on; may end the chore and free what it is part of */
	void (*serve)(struct CpChore *chore, CpTime now);
	CpTime called_at; /* when the call in hand was wanted */
	CpCall *call;	  /* in a thread; NULL: none, or it is over */

	/* tunnel.c's */
	uint64 round; /* it is served in; 0 = it is not to be */
	CpTime deadline;
	dlist_node ready_node;
	dlist_node timed_node;
	dlist_node call_node;
} CpChore;

extern void cp_chore_begin(CpChore *chore, void (*serve)(CpChore *, CpTime));

/* Is to be served, after all others that are to be by now. */
extern void cp_chore_ready(CpChore *chore);

/* Is to be served then, once; CP_FOREVER: no more. */
extern void cp_chore_set_deadline(CpChore *chore, CpTime deadline);

/*
 * Has function(arg) called in a thread; the chore is served when it is over.  False:
 * no memory.
 */
extern bool cp_chore_call(CpChore *chore, void (*function)(void *), void *arg,
						  const CpCaller *caller);

/* Takes the call back, if it has not begun. */
extern bool cp_chore_withdraw_call(CpChore *chore);

/* No more is done; a call must not be under way. */
extern void cp_chore_end(CpChore *chore);

/*
 * Has a socket watched, in place of the one before, until something happened of what
 * is wanted: cp_chore_happened().  False with errno.
 */
extern bool cp_chore_watch(CpChore *chore, CpWatched *watched, int sock, bool reading,
						   bool writing);
extern bool cp_chore_happened(const CpWatched *watched);

/* Has the peer, who has nothing to say, gone? */
extern bool cp_chore_peer_has_gone(CpWatched *watched);

/* ---- orders (tunnel_connect.c) ---- */

extern void cp_attempt_init(void);

/* Goes about a client's order; takes the client over. */
extern void cp_attempt_begin(CpTunnelClient *client);

/* ---- lines: encrypted connections (tunnel_line.c) ---- */

typedef struct CpLine CpLine;

extern void cp_line_init(void);

/*
 * Makes a line of a connection, of whose greeting *greeting is filled.  Takes the
 * CpRemote over in any case.  Returns the line, with *other, the other end of its
 * socket pair, or NULL.
 */
extern CpLine *cp_line_open(CpRemote *remote, const CpTunnelOrder *order,
							CpGreeting *greeting, int *other);

/* Nobody has taken its other end: ends it, then closes `sock`. */
extern void cp_line_was_refused(CpLine *line, int other, int sock);

/* The connection that is to be cancelled, with its pool; NULL: none, or the key is wrong. */
extern PGconn *cp_line_find(const CpTunnelCancel *cancel, int *pool);

/*
 * Adds up what has passed, and tells what is still to be told; to be called again if
 * true.
 */
extern bool cp_line_tick(CpTime now);

/* Closes all of them, without waiting. */
extern void cp_line_close_all(void);

/* ---- cancels (tunnel_cancel.c) ---- */

/* Goes about a client's cancel; takes the client over. */
extern void cp_cancel_begin(CpTunnelClient *client);

#endif /* CP_TUNNEL_INTERNAL_H */
