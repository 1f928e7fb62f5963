/*
 * net.h
 *		Sockets as conpool wants them: non-blocking and closed on exec, so
 *		that no program started by COPY ... PROGRAM inherits one.
 *
 * Runs in every process that touches sockets; called by remote, adopt and
 * vault.  Never throws, never serves interrupts; restarts after signals.
 */
#ifndef CP_NET_H
#define CP_NET_H

#include <poll.h>
#include <sys/socket.h>

#include "clock.h"

/* A new stream socket; -1 with errno. */
extern int cp_net_socket(int family);

/* The next connection to a listening socket; -1 with errno. */
extern int cp_net_accept(int listener);

/* A duplicate; -1 with errno. */
extern int cp_net_dup(int sock);

/* Makes descriptor `to` another name of what `from` is; closes what it was. */
extern bool cp_net_put_over(int from, int to);

/*
 * Listens on a Unix socket that only this user can connect to, taking the
 * place of an old one; -1 with errno.
 */
extern int cp_net_listen(const char *path, int backlog);

/*
 * Connects to a Unix socket by its path, in one attempt.  -1 with errno; EAGAIN: the
 * backlog is full.
 */
extern int cp_net_connect_path(const char *path);

/*
 * Does the peer of a Unix socket run as this user?  *pid (may be NULL) is its
 * process where the kernel tells, else -1.
 */
extern bool cp_net_peer_is_ours(int sock, int *pid);

/*
 * poll() until the deadline (0: just looks).  Returns what happened, errors
 * and hang-up included, or 0 when the deadline passed.
 */
extern int cp_net_poll(int sock, int events, CpTime deadline);

/*
 * Lets this process have so many descriptors beyond those that the server counts
 * with, as far as the hard limit goes.  False with errno.
 */
extern bool cp_net_raise_descriptor_limit(int more);

/* ---- messages that a descriptor may go along with ---- */

/*
 * Sends two parts (the second may be empty) as one, with a descriptor unless it is
 * -1; does not block.  All of it, or false.
 */
extern bool cp_net_send_message(int sock, const void *first, size_t first_size,
								const void *second, size_t second_size, int fd);

/* results of the next function besides a number of bytes */
#define CP_NET_EOF 0
#define CP_NET_NOTHING (-1)
#define CP_NET_BAD (-2)

/*
 * Receives up to `room` bytes, and a descriptor into *fd (which may hold one, else
 * -1), without blocking.  BAD: an error, or more descriptors than one; whatever is
 * in *fd is the caller's to close all the same.
 */
extern ssize_t cp_net_receive(int sock, void *to, size_t room, int *fd);

/* Exactly `size` bytes by the deadline. */
extern bool cp_net_receive_all(int sock, void *to, size_t size, int *fd, CpTime deadline);

#endif /* CP_NET_H */
