/*
 * tunnel_order.h
 *		How whoever holds a permit asks a tunnel to open the connection: the
 *		options, passwords included, over a private Unix socket in pg_stat_tmp.
 *
 * Sending runs in client backends and the dialer, receiving in the tunnel.  The
 * kernel says who the peer is: another uid, or a process that does not hold the
 * permit that the order names, is turned away.  What was sent lives in memory that
 * is wiped when it is freed; the tunnel frees it as soon as it has connected.
 *
 * The socket stays open until the reply has come (tunnel_reply.h).  If the sender
 * shuts it down before, or is gone, the attempt is given up, and the tunnel closes
 * its end when nothing is left of it.
 */
#ifndef CP_TUNNEL_ORDER_H
#define CP_TUNNEL_ORDER_H

#include "clock.h"
#include "shmem.h"
#include "tunnel_reply.h"

typedef struct CpTunnelOrder
{
	/* the permit */
	int slot;
	uint64 generation;
	int pool;
	uint64 pool_generation;
	Oid party;						  /* role that answers for the options, see target.h */
	char pool_name[CP_POOL_NAME_LEN]; /* for the log */
	int timeout;					  /* milliseconds until it is to have connected */
	/* for PQconnectStartParams, NULL-terminated; names of hosts looked up already */
	const char *const *keywords;
	const char *const *values;
} CpTunnelOrder;

/* ---- whoever holds the permit ---- */

/*
 * Can such a connection come out encrypted, so that it is to be opened by a tunnel?
 * By the options and the environment, as libpq goes by them.  False also if what they
 * want is encryption by GSSAPI, which no tunnel does, or a service file, in which
 * anything might stand, or a password file that has no end.
 */
extern bool cp_tunnel_is_wanted(const char *const *keywords, const char *const *values);

/* Does any tunnel listen? */
extern bool cp_tunnel_is_there(void);

/*
 * Why an encrypted connection is not shared if no tunnel is there, a constant text:
 * built without OpenSSL, conpool.tunnel_workers is 0, or none runs at the moment.
 */
extern const char *cp_tunnel_why_none(void);

/*
 * Sends the order to the tunnel with the fewest connections.  Returns the socket on
 * which the reply comes, close-on-exec and non-blocking, or -1: none is there, none
 * took it in time, it is too long, or asks for GSSAPI.  Waits until the deadline at
 * most, and a second at most; serves interrupts if `interruptible`.
 */
extern int cp_tunnel_send_order(const CpTunnelOrder *order, CpTime deadline,
								bool interruptible);

/* ---- tunnel ---- */

/* Creates the listening socket (unlinks an old one first); -1 = failed, errno. */
extern int cp_tunnel_listen(int tunnel);
extern void cp_tunnel_unlink(int tunnel);

/* A peer whose message is not yet there as a whole. */
typedef struct CpTunnelClient
{
	int sock;
	int pid; /* by the kernel's word */
	CpTime deadline;
	MemoryContext context; /* wiped when it is deleted */
	size_t have;		   /* bytes read */

	/* once done, one of them: */
	CpTunnelOrder *order; /* in context */
	CpTunnelCancel *cancel;

	struct CpTunnelInput *input; /* tunnel_order.c's */
} CpTunnelClient;

/*
 * Accepts one peer; NULL if there is none, or it was turned away at once.  In a
 * context of its own below the current one.
 */
extern CpTunnelClient *cp_tunnel_accept(int listener);

/*
 * Reads on, without blocking.  DONE: order or cancel is set, and checked: the peer
 * holds the permit.  LOST: it has gone, or is no good: drop it.
 */
extern CpTunnelRead cp_tunnel_read_client(CpTunnelClient *client);

/* Frees the client, its order wiped; closes its socket unless that is -1 by now. */
extern void cp_tunnel_drop_client(CpTunnelClient *client);

#endif /* CP_TUNNEL_ORDER_H */
