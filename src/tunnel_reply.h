/*
 * tunnel_reply.h
 *		What a tunnel answers to an order (tunnel_order.h), and how a statement on
 *		a connection that goes through it is cancelled.
 *
 * Reading runs in client backends and the dialer, called by remote.c; writing in
 * the tunnel.  Knows no shared memory.  Never throws, never blocks unless a
 * deadline says so.
 */
#ifndef CP_TUNNEL_REPLY_H
#define CP_TUNNEL_REPLY_H

#include "clock.h"
#include "greeting.h"

/* tunnels that there may be; they are numbered from 1 on */
#define CP_MAX_TUNNELS 16

/* bytes of an error in a reply, terminator included */
#define CP_TUNNEL_ERROR_MAX (16 * 1024)

typedef enum CpTunnelStatus
{
	CP_TUNNEL_OK,	   /* connected: a descriptor and a greeting come along */
	CP_TUNNEL_FAILED,  /* the error says why, in libpq's verbose form */
	CP_TUNNEL_TIMEOUT, /* the same; the order's time was over */
	/* the tunnel cannot do it, but whoever asks may: GSS, or there was no thread */
	CP_TUNNEL_ELSEWHERE
} CpTunnelStatus;

/* What goes over the socket; greeting and error follow, as many bytes as it says. */
typedef struct CpTunnelReply
{
	uint32 magic;
	uint32 status;		   /* CpTunnelStatus */
	uint32 used_password;  /* PQconnectionUsedPassword() */
	uint32 needs_password; /* PQconnectionNeedsPassword(), of one that failed */
	uint32 greeting_size;
	uint32 error_size; /* terminator included, or 0 */
} CpTunnelReply;

/* The path of a tunnel's socket, relative to the data directory. */
extern void cp_tunnel_path(int tunnel, char *path, size_t size);

/* ---- reading ---- */

typedef enum CpTunnelRead
{
	CP_TUNNEL_READ_MORE, /* nothing there yet */
	CP_TUNNEL_READ_DONE,
	CP_TUNNEL_READ_LOST /* the tunnel has gone, or has said something strange */
} CpTunnelRead;

/*
 * Reads the reply on the socket of an order, which stays open.  DONE: *reply is
 * filled; *fd, greeting and error (of CP_TUNNEL_ERROR_MAX bytes) as it says, fd -1
 * and error "" otherwise.
 */
extern CpTunnelRead cp_tunnel_read_reply(int sock, CpTunnelReply *reply, int *fd,
										 CpGreeting *greeting, char *error);

/*
 * Has the tunnel cancel what runs on the connection of that greeting: libpq's
 * cancel, as encrypted as the connection is.  Returns a socket, which is the caller's,
 * or -1 with errno (EAGAIN: the tunnel is busy).  One byte on it says that the remote has
 * dealt with it; its end of file that it has not by the deadline, or the tunnel cannot.
 */
extern int cp_tunnel_begin_cancel(const CpGreeting *greeting, CpTime deadline);

/* ---- writing ---- */

/* All of it in one message, which fits the socket's buffer, or false; fd may be -1. */
extern bool cp_tunnel_send_reply(int sock, const CpTunnelReply *reply,
								 const CpGreeting *greeting, const char *error, int fd);

/* What a backend asks of a tunnel on a connection of its own, before anything else. */
#define CP_TUNNEL_CANCEL_MAGIC 0x43504331 /* CPC1 */

/*
 * A cancel: whoever knows the key may.  Answered by one byte when the remote has
 * dealt with it; by the end of file if not.
 */
typedef struct CpTunnelCancel
{
	uint32 magic; /* CP_TUNNEL_CANCEL_MAGIC */
	int32 pid;	  /* of the remote backend */
	uint64 id;	  /* CpPassage.id */
	int32 key_len;
	uint32 timeout; /* milliseconds */
	uint8 key[CP_CANCEL_KEY_MAX];
} CpTunnelCancel;

#endif /* CP_TUNNEL_REPLY_H */
