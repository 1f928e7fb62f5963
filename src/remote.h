/*
 * remote.h
 *		A connection with a remote server, as this process sees it: opened
 *		here or by a tunnel, or adopted from a socket that another process opened.
 *
 * Runs in client backends, dialer and tunnel, and in the broker (which only
 * adopts).  Knows libpq and nothing of pools, slots or shared memory.
 *
 * No function here throws because of the remote.  Those that say they serve
 * interrupts may throw from CHECK_FOR_INTERRUPTS(); whoever calls them keeps
 * the CpRemote where its abort callback finds it.
 */
#ifndef CP_REMOTE_H
#define CP_REMOTE_H

#include <sys/socket.h>

#include "libpq-fe.h"
#include "storage/latch.h"

#include "clock.h"
#include "greeting.h"
#include "hosts.h"

typedef enum CpConnectStatus
{
	CP_CONNECT_OK,
	CP_CONNECT_FAILED, /* cp_remote_connect_error() says why */
	CP_CONNECT_TIMEOUT,
	CP_CONNECT_GOING, /* cp_remote_connect_step() only */
	/* connected, but what the server said cannot be passed on: usable unshared */
	CP_CONNECT_NO_GREETING,
	CP_CONNECT_ENCRYPTED, /* would be, see cp_remote_only_in_clear() */
	CP_CONNECT_ELSEWHERE  /* the tunnel cannot do it: start anew, without one */
} CpConnectStatus;

/* A call of libpq's that is due while connecting. */
typedef enum CpRemoteCall
{
	CP_CALL_NONE,
	CP_CALL_START, /* PQconnectStartParams() */
	CP_CALL_POLL   /* PQconnectPoll() */
} CpRemoteCall;

typedef struct CpRemote
{
	PGconn *conn; /* NULL until a tunnel has connected, and before START */
	/* latch, postmaster death, socket; made on first wait */
	WaitEventSet *wait_set;
	pgsocket wait_socket; /* the one that wait_set was made for */
	/* while connecting, else NULL */
	CpRecorder *recorder;
	CpHostTurns *turns;				   /* NULL as well unless there are several hosts */
	PostgresPollingStatusType polling; /* what libpq waits for */
	char *errors;					   /* of hosts that failed, one after the other */
	bool calls_elsewhere;			   /* see cp_remote_prepare() */
	CpRemoteCall call;				   /* that is due there, ... */
	bool called;					   /* ... and was made */
	const char *const *keywords;	   /* for START */
	const char *const *values;
	int64 received;		 /* bytes that were there to read, about, before it was ready */
	bool needs_password; /* it failed for lack of one: PQconnectionNeedsPassword */
	bool wanted_gss;	 /* it failed, and GSSAPI or SSPI had something to do with it */
	/* the order's socket until a tunnel has connected, else -1 */
	int tunnel_sock;
	/* others may have a duplicate: never say Terminate for them */
	bool shared;
	bool only_in_clear; /* encryption is not gone through with */
	bool encrypted;		/* by this process, TLS or GSS: the socket cannot be passed */
	bool used_password; /* PQconnectionUsedPassword, own ones only */
	/* for a cancel, which may be wanted when libpq has closed the socket */
	struct sockaddr_storage peer;
	socklen_t peer_len; /* 0 = unknown */
	CpGreeting greeting;
} CpRemote;

/*
 * Begins to connect.  keywords and values as for PQconnectStartParams (not
 * expanding dbname), NULL-terminated; not used any more afterwards.  Returns NULL,
 * with *error set to a constant message, when no descriptor or memory is to be
 * had, or there are too many hosts.  The CpRemote lives in TopMemoryContext and
 * counts one external descriptor.
 *
 * The hosts of a list are tried one by one, each for its share of the time that is
 * left.  As in libpq there is no next host after one that has refused us.
 */
extern CpRemote *cp_remote_start(const char *const *keywords,
								 const char *const *values,
								 const char **error);

/*
 * The same by a tunnel, to which the order has been sent (tunnel_order.h): takes its
 * socket over in any case.  What comes of it, errors included, is as if this process
 * had connected, but for status ELSEWHERE; an encrypted connection is one that can be
 * passed (encrypted is false, greeting.passage says how).  Ended before it is
 * connected, or because it failed, what cp_remote_end() returns is the order's socket
 * (or the connection's, if that had come unseen): its end of file comes when nothing is
 * left of the tunnel's attempt.
 */
extern CpRemote *cp_remote_start_by_tunnel(int sock, const char **error);

/*
 * The same as cp_remote_start(), but no call that may block is made here: when
 * cp_remote_connect_step() returns GOING and remote->call is not NONE, *events is 0
 * and *until FOREVER; then cp_remote_call() is to be called, in whatever thread, and
 * after it the next step.  Meanwhile nobody else may touch the CpRemote, but read
 * `errors`.  Keywords and values are to stay until it is connected or ended.  The
 * status is ELSEWHERE if the server wants to encrypt by GSSAPI, or sends a lot before
 * it is ready.
 */
extern CpRemote *cp_remote_prepare(const char *const *keywords,
								   const char *const *values,
								   const char **error);

/* Makes the call that is due.  Touches nothing of PostgreSQL's. */
extern void cp_remote_call(CpRemote *remote);

/*
 * Goes on until connected, failed or past the deadline; serves interrupts.
 * On success the greeting is recorded and what libpq traced is wiped.
 */
extern CpConnectStatus cp_remote_finish_connect(CpRemote *remote, CpTime deadline);

/*
 * The same without waiting, for whoever waits for many: takes the next step if
 * it can.  GOING: call it again when one of *events happens on
 * cp_remote_socket(), or at *until, whichever is first; too early does no harm.
 * *events is 0, and *until has come, if it is to be called again at once: it never
 * goes through more than one host, so that the caller gets to see to other things.
 * (The conn is another one when the next host of a list is tried, and libpq may
 * change its socket at any step.)  Blocks in name resolution unless hostaddr is
 * given.
 */
extern CpConnectStatus cp_remote_connect_step(CpRemote *remote, CpTime deadline,
											  int *events, CpTime *until);

/*
 * For whoever has no use for an encrypted connection and must not wait in libpq:
 * where the server agrees to encrypt, the status is ENCRYPTED before libpq has read
 * a file of keys, asked a ticket server, or begun a handshake.  What the options
 * demand is not lowered.  To be called right after cp_remote_start().
 */
extern void cp_remote_only_in_clear(CpRemote *remote);

/* bytes, at most, of what the next function returns; the last hosts' have precedence */
#define CP_CONNECT_ERROR_MAX (16 * 1024)

/*
 * Why it could not connect, FAILED or TIMEOUT: what libpq says of the hosts that
 * were tried, in its verbose form, cut to what is reasonable: the remote may have
 * said as much as it likes.  Valid as long as the CpRemote is.
 */
extern const char *cp_remote_connect_error(CpRemote *remote);

/*
 * A round trip before use, for a connection that may be dead (ping.h); serves
 * interrupts.  False: dead, or no answer by the deadline.  When this is false
 * or throws the connection must be closed: libpq knows nothing of an answer that
 * is still to come.  Not for an encrypted connection.
 */
extern bool cp_remote_check(CpRemote *remote, CpTime deadline);

/*
 * Makes a PGconn of a socket that came from the broker.  Takes `fd` over in
 * any case.  Blocks on nothing but this process itself.  Returns NULL with
 * *error set when it cannot.  changes: parameters that count as changed until
 * the server reports their values, see cp_remote_changes().
 */
extern CpRemote *cp_remote_adopt(int fd, const CpGreeting *greeting, uint64 changes,
								 const char **error);

/*
 * Lets go of a connection without anybody else noticing: others keep their
 * duplicates of the socket.  Frees the CpRemote.  NULL is allowed.
 */
extern void cp_remote_let_go(CpRemote *remote);

/*
 * Takes the PGconn of a connection out, for whoever goes on with it by himself, and
 * frees the CpRemote.
 */
extern PGconn *cp_remote_take_conn(CpRemote *remote);

/*
 * The socket to wait on, or PGINVALID_SOCKET: libpq's, or the order's while a tunnel
 * connects.
 */
extern pgsocket cp_remote_socket(const CpRemote *remote);

/*
 * Ends a connection, or an attempt to connect: says Terminate unless it is
 * lost, closes TLS, and frees the CpRemote.  For a connection that only this
 * process has, and for its holder when there is no broker: others may have
 * duplicates of the socket, and they are dead then.  Returns a duplicate of
 * the socket, shut down for writing, on which the peer's end of file can be
 * awaited, or -1.  Waits for nothing.  NULL is allowed.
 */
extern int cp_remote_end(CpRemote *remote);

/*
 * Waits up to the deadline for the peer's end of file on fd (-1 is allowed),
 * then shuts it down and closes it.  Does not serve interrupts.
 */
extern void cp_remote_await_eof(int fd, CpTime deadline);

/* Has notices ignored, as they are at first; libpq would write them to stderr. */
extern void cp_remote_ignore_notices(CpRemote *remote);

/* The look on borrow: anything to read, error or hang-up?  Reads nothing. */
extern bool cp_remote_is_readable(CpRemote *remote);

/*
 * Sends a statement: by the simple protocol when nparams < 0, else extended
 * with text parameters (types 0 = untyped).  Single-row mode is set.  False:
 * connection lost or refused by libpq, see PQerrorMessage.  Serves interrupts
 * while a long text is pushed out (the connection is non-blocking).
 */
extern bool cp_remote_send(CpRemote *remote, const char *sql, int nparams,
						   const Oid *types, const char *const *values);

/* The same without single-row mode: each result is collected by libpq. */
extern bool cp_remote_send_whole(CpRemote *remote, const char *sql, int nparams,
								 const Oid *types, const char *const *values);

/*
 * Is the next result of what was sent there, or its end, or the end of the connection?
 * Reads from the socket, waits for nothing.
 */
extern bool cp_remote_has_result(CpRemote *remote);

/*
 * Waits until one of the sockets can be read (or, of one that is being opened, what it
 * waits for has come), the latch is set, or the deadline is there.  Returns events of a
 * socket, WL_LATCH_SET (not yet reset), or WL_TIMEOUT; exits on postmaster death.  Any of
 * them may be at an end without a word: look at them all, with cp_remote_has_result(),
 * before and after.
 */
extern int cp_remote_wait_any(CpRemote *const *remotes, int n, CpTime deadline);

/*
 * The next result of what was sent, or NULL at its end; serves interrupts.
 * The caller clears it.  COPY results are returned as they are: the caller
 * must end the connection then, there is no way to get past them safely.
 */
extern PGresult *cp_remote_next_result(CpRemote *remote);

/*
 * Sends a CancelRequest and waits for the end of file of its socket.  False
 * if there is no key or the deadline passed.  Does not throw.  Works also when
 * the connection has been lost.  Through a tunnel it is as encrypted as libpq can.
 * (What becomes of the connection then: settle.h.)
 */
extern bool cp_remote_cancel(CpRemote *remote, CpTime deadline);

/* A cancel on its way, for whoever waits for many. */
typedef struct CpCancel
{
	int sock;	/* -1: none now */
	bool asked; /* the request was sent, and the answer is awaited */
} CpCancel;

#define CP_NO_CANCEL ((CpCancel){.sock = -1})

typedef enum CpCancelStatus
{
	CP_CANCEL_GOING,
	CP_CANCEL_DONE,	 /* the server has dealt with it */
	CP_CANCEL_FAILED /* there is no key, or nobody whom to send it to */
} CpCancelStatus;

/*
 * The same in steps that wait for nothing, from CP_NO_CANCEL on.  GOING: call it again
 * when cancel->sock can be read (asked) or written (not yet), or, if that is -1, some
 * milliseconds later: there was no room for it.  Else there is nothing left of it.
 */
extern CpCancelStatus cp_remote_cancel_step(CpRemote *remote, CpCancel *cancel,
											CpTime deadline);

/* Gives up a cancel, if one is on its way. */
extern void cp_remote_cancel_drop(CpCancel *cancel);

/*
 * Which parameters have other values than in the greeting?  (Reads libpq's
 * memory, no round trip.)  A set as cp_greeting_changes() makes it, 0 = none.
 */
extern uint64 cp_remote_changes(CpRemote *remote);

/*
 * Waits for the socket (WL_SOCKET_READABLE and/or WL_SOCKET_WRITEABLE), the
 * latch, or the deadline, with the kept wait event set.  Returns the events
 * as WaitLatchOrSocket does (WL_LATCH_SET not yet reset, WL_TIMEOUT).  Exits
 * on postmaster death.  The first wait may throw: no descriptor for the set.
 * A connection that libpq has given up is always "ready".
 */
extern int cp_remote_wait(CpRemote *remote, int events, CpTime deadline);

/* "host:port" or a socket path of the remote server; buf is filled */
extern void cp_remote_address(CpRemote *remote, char *buf, size_t size);

#endif /* CP_REMOTE_H */
