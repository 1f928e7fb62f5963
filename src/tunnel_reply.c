/*
 * tunnel_reply.c
 *		What a tunnel answers to an order, and cancels that go through it.
 *
 * Reading runs in client backends and the dialer, called by remote.c; writing in
 * the tunnel.  Must never block without a deadline, nor take a descriptor and
 * lose it.
 *
 * A reply is a header, then the part of a CpGreeting that is in use, then an error,
 * as many bytes as the header says; the descriptor comes with the first byte.  All
 * of it fits the kernel's buffer, so it is sent by one call or not at all.
 */
#include "postgres.h"

#include "tunnel_reply.h"

#include <unistd.h>

#include "net.h"
#include "pgstat.h"

#define REPLY_MAGIC 0x43505431 /* CPT1 */

/* how long the rest of a reply may take once it has begun, milliseconds */
#define REPLY_LIMIT 1000

void
cp_tunnel_path(int tunnel, char *path, size_t size)
{
	snprintf(path, size, "%s/conpool.tunnel.%d", PG_STAT_TMP_DIR, tunnel);
}

/* ---- reading ---- */

static bool
header_is_sound(const CpTunnelReply *reply)
{
	return reply->magic == REPLY_MAGIC &&
		reply->status <= CP_TUNNEL_ELSEWHERE &&
		reply->greeting_size <= sizeof(CpGreeting) &&
		(reply->greeting_size > 0) == (reply->status == CP_TUNNEL_OK) &&
		reply->error_size <= CP_TUNNEL_ERROR_MAX;
}

/* What follows the header; a reply comes as a whole, so it is waited for. */
static bool
read_rest(int sock, const CpTunnelReply *reply, int *fd, CpGreeting *greeting, char *error)
{
	CpTime deadline = cp_deadline(cp_now(), REPLY_LIMIT);

	if (!cp_net_receive_all(sock, greeting, reply->greeting_size, fd, deadline) ||
		!cp_net_receive_all(sock, error, reply->error_size, fd, deadline))
		return false;
	error[reply->error_size > 0 ? reply->error_size - 1 : 0] = '\0';
	return reply->status != CP_TUNNEL_OK ||
		(*fd >= 0 && cp_greeting_is_valid(greeting, reply->greeting_size));
}

CpTunnelRead
cp_tunnel_read_reply(int sock, CpTunnelReply *reply, int *fd, CpGreeting *greeting, char *error)
{
	ssize_t n;

	*fd = -1;
	error[0] = '\0';
	n = cp_net_receive(sock, reply, sizeof(*reply), fd);
	if (n == CP_NET_NOTHING)
		return CP_TUNNEL_READ_MORE;
	if (n == sizeof(*reply) && header_is_sound(reply) &&
		read_rest(sock, reply, fd, greeting, error) &&
		(*fd >= 0) == (reply->status == CP_TUNNEL_OK))
		return CP_TUNNEL_READ_DONE;
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	return CP_TUNNEL_READ_LOST;
}

/* ---- cancelling ---- */

static bool
send_cancel(int sock, const CpGreeting *greeting, CpTime deadline)
{
	CpTunnelCancel cancel = {
		.magic = CP_TUNNEL_CANCEL_MAGIC,
		.pid = greeting->pid,
		.id = greeting->passage.id,
		.key_len = greeting->key_len,
		.timeout = (uint32) Max(cp_timeout_ms(deadline), 0),
	};
	bool sent;

	memcpy(cancel.key, greeting->key, greeting->key_len);
	sent = cp_net_send_message(sock, &cancel, sizeof(cancel), NULL, 0, -1);
	explicit_bzero(&cancel, sizeof(cancel));
	return sent;
}

int
cp_tunnel_begin_cancel(const CpGreeting *greeting, CpTime deadline)
{
	char path[MAXPGPATH];
	int sock;

	cp_tunnel_path(greeting->passage.tunnel, path, sizeof(path));
	sock = cp_net_connect_path(path);
	if (sock < 0 ||
		(cp_net_peer_is_ours(sock, NULL) && send_cancel(sock, greeting, deadline)))
		return sock;
	close(sock);
	errno = ECONNREFUSED;
	return -1;
}

/* ---- writing ---- */

bool
cp_tunnel_send_reply(int sock, const CpTunnelReply *reply, const CpGreeting *greeting,
					 const char *error, int fd)
{
	CpTunnelReply header = *reply;
	char rest[sizeof(CpGreeting) + CP_TUNNEL_ERROR_MAX];
	bool sent;

	header.magic = REPLY_MAGIC;
	header.greeting_size = greeting != NULL ? cp_greeting_size(greeting) : 0;
	header.error_size = error != NULL ? Min(strlen(error) + 1, CP_TUNNEL_ERROR_MAX) : 0;
	if (greeting != NULL)
		memcpy(rest, greeting, header.greeting_size);
	if (error != NULL)
		strlcpy(rest + header.greeting_size, error, header.error_size);
	sent = cp_net_send_message(sock, &header, sizeof(header), rest,
							   header.greeting_size + header.error_size, fd);
	/* the cancel key is in it */
	explicit_bzero(rest, header.greeting_size);
	return sent;
}
