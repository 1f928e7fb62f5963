/*
 * pump.h
 *		One encrypted connection: bytes passed between its TLS session and a local
 *		socket.
 *
 * Runs in the tunnel.  Knows OpenSSL, by way of libpq's public functions
 * (PQsslStruct), and no shared memory; without OpenSSL's headers it is empty, and
 * cp_pump_is_built() says so.  Never blocks, never throws.  Holds at most two buffers
 * of CP_PUMP_BUFFER bytes for a connection, and none while nothing is held up: who
 * does not read is not read for.
 */
#ifndef CP_PUMP_H
#define CP_PUMP_H

#include "libpq-fe.h"

#include "clock.h"
#include "watch.h"

#define CP_PUMP_BUFFER (16 * 1024)

typedef struct CpPump CpPump;

extern bool cp_pump_is_built(void);

/* Is the PGconn's TLS by a library that the pump can use? */
extern bool cp_pump_can(PGconn *conn);

/*
 * Takes over a PGconn that is connected, encrypted and idle in protocol, and `local`,
 * its end of a socket pair (non-blocking, close-on-exec), in any case.  NULL with
 * *error, a constant message, when it cannot.  `owner` is for cp_watch_wait().  It is
 * to be run at once: the TLS library may hold something already.
 */
extern CpPump *cp_pump_open(PGconn *conn, int local, void *owner, const char **error);

typedef enum CpPumpState
{
	CP_PUMP_WAITS,	  /* for its sockets: cp_watch_wait() */
	CP_PUMP_HAS_MORE, /* it was interrupted so that others get their turn: call it again */
	CP_PUMP_OVER	  /* both sides have ended, or one was lost: close it */
} CpPumpState;

/* Passes what can be passed, in both directions, no more than is fair in one go. */
extern CpPumpState cp_pump_run(CpPump *pump, CpTime now);

/*
 * When it wants to be run even if nothing happens (one side has ended, the other does
 * not follow), or CP_FOREVER.
 */
extern CpTime cp_pump_deadline(const CpPump *pump);

/*
 * Why it is over: NULL if one side ended it in good order, else what went wrong with
 * TLS or the network, for the log.  Valid until it is closed.
 */
extern const char *cp_pump_error(const CpPump *pump);

/* Bytes of the remote protocol passed since the last call, each way. */
extern void cp_pump_take_counts(CpPump *pump, uint64 *sent, uint64 *received);

/* Its PGconn, for a cancel. */
extern PGconn *cp_pump_conn(const CpPump *pump);

/*
 * Ends both sides, if they have not ended, without waiting: close_notify, then the
 * sockets.  (PQfinish must not say Terminate: the connection's user says it, or not.)
 */
extern void cp_pump_close(CpPump *pump);

#endif /* CP_PUMP_H */
