/*
 * ping.h
 *		A round trip with a remote server on a bare socket: is it there, and is
 *		its session as it was?
 *
 * The protocol is idle, and nobody else talks on the socket meanwhile.  What
 * goes out is one Sync message; the only answer that will do is ReadyForQuery
 * with status idle.  Anything else, a ParameterStatus or notice before it
 * as well, means that the connection is not as it was and is to be closed.
 * libpq, if it has this socket, does not notice.  Nothing here blocks or throws.
 */
#ifndef CP_PING_H
#define CP_PING_H

typedef enum CpPingStatus
{
	CP_PING_WAIT, /* not all of the answer is there: wait for readable */
	CP_PING_ALIVE,
	CP_PING_DEAD /* end of file, error, or another answer */
} CpPingStatus;

/* Bytes of the answer that have come; begins zeroed. */
typedef struct CpPing
{
	int have;
} CpPing;

/* Sends the question; false if that fails, or the socket's buffer is full. */
extern bool cp_ping_send(int fd);

/* Reads what is there. */
extern CpPingStatus cp_ping_read(CpPing *ping, int fd);

#endif /* CP_PING_H */
