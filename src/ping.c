/*
 * ping.c
 *		A round trip with a remote server on a bare socket.
 *
 * Runs in client backends (before a connection that may be dead is used) and in
 * the broker (on idle connections); called by remote.c and keep.c.  Must never
 * block or throw.
 */
#include "postgres.h"

#include "ping.h"

#include <sys/socket.h>

/* where it is missing the server ignores SIGPIPE anyhow */
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static const char sync_message[] = {'S', 0, 0, 0, 4};
static const char ready_idle[] = {'Z', 0, 0, 0, 5, 'I'};

bool
cp_ping_send(int fd)
{
	ssize_t sent;

	do
		sent = send(fd, sync_message, sizeof(sync_message), MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent == sizeof(sync_message);
}

/* Reads until nothing is left: what comes behind the answer counts, too. */
CpPingStatus
cp_ping_read(CpPing *ping, int fd)
{
	for (;;)
	{
		char buffer[sizeof(ready_idle)];
		ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return ping->have == sizeof(ready_idle) ? CP_PING_ALIVE : CP_PING_WAIT;
		if (n <= 0 || n > (ssize_t) sizeof(ready_idle) - ping->have ||
			memcmp(buffer, ready_idle + ping->have, n) != 0)
			return CP_PING_DEAD;
		ping->have += n;
	}
}
