/*
 * net.c
 *		Sockets as conpool wants them: non-blocking and closed on exec.
 *
 * Runs in every process that touches sockets; called by remote, adopt and
 * vault.  Must never throw or serve interrupts.
 *
 * SOCK_CLOEXEC, accept4 and dup3 are not everywhere.  A backend has one
 * thread and starts no program between two of these calls, so setting the
 * flag by a call of its own is as good.
 */
#include "postgres.h"

#include "net.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "miscadmin.h"

/* between two attempts while a backlog is full, milliseconds */
#define BACKLOG_PAUSE 5

/* close() that leaves errno alone; returns -1 for the caller to return */
static int
give_up(int sock)
{
	int save_errno = errno;

	close(sock);
	errno = save_errno;
	return -1;
}

/* Sets both flags of a new socket; it or -1 with errno. */
static int
prepare(int sock)
{
	if (sock < 0)
		return -1;
	if (fcntl(sock, F_SETFD, FD_CLOEXEC) < 0 || !pg_set_noblock(sock))
		return give_up(sock);
	return sock;
}

int
cp_net_socket(int family)
{
	return prepare(socket(family, SOCK_STREAM, 0));
}

int
cp_net_accept(int listener)
{
	int sock;

	do
		sock = accept(listener, NULL, NULL);
	while (sock < 0 && errno == EINTR);
	return prepare(sock);
}

int
cp_net_dup(int sock)
{
	return fcntl(sock, F_DUPFD_CLOEXEC, 0);
}

bool
cp_net_put_over(int from, int to)
{
	int rc;

	do
	{
#ifdef __linux__
		rc = dup3(from, to, O_CLOEXEC);
#else
		rc = dup2(from, to);
#endif
	} while (rc < 0 && errno == EINTR);
#ifndef __linux__
	(void) fcntl(to, F_SETFD, FD_CLOEXEC);
#endif
	return rc >= 0;
}

/* False with errno when the path does not fit. */
static bool
make_address(const char *path, struct sockaddr_un *addr)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	if (strlcpy(addr->sun_path, path, sizeof(addr->sun_path)) < sizeof(addr->sun_path))
		return true;
	errno = ENAMETOOLONG;
	return false;
}

int
cp_net_listen(const char *path, int backlog)
{
	struct sockaddr_un addr;
	mode_t old_mask;
	int sock;
	int rc;

	if (!make_address(path, &addr))
		return -1;
	sock = cp_net_socket(AF_UNIX);
	if (sock < 0)
		return -1;

	unlink(path);
	old_mask = umask(S_IRWXG | S_IRWXO);
	rc = bind(sock, (struct sockaddr *) &addr, sizeof(addr));
	umask(old_mask);
	if (rc < 0 || listen(sock, backlog) < 0)
		return give_up(sock);
	return sock;
}

/* One attempt; waits until the deadline for a connect that is under way. */
static int
connect_once(const struct sockaddr *addr, socklen_t len, CpTime deadline)
{
	int sock = cp_net_socket(addr->sa_family);
	int error = 0;
	socklen_t error_len = sizeof(error);

	if (sock < 0)
		return -1;
	if (connect(sock, addr, len) == 0)
		return sock;
	if (errno != EINPROGRESS && errno != EINTR)
		return give_up(sock);

	if (cp_net_poll(sock, POLLOUT, deadline) == 0)
		errno = ETIMEDOUT;
	else if (getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &error_len) == 0)
	{
		if (error == 0)
			return sock;
		errno = error;
	}
	return give_up(sock);
}

int
cp_net_connect(const struct sockaddr *addr, socklen_t len, CpTime deadline)
{
	for (;;)
	{
		int sock = connect_once(addr, len, deadline);

		if (sock >= 0 || errno != EAGAIN || cp_now() >= deadline)
			return sock;
		pg_usleep(BACKLOG_PAUSE * 1000L);
	}
}

int
cp_net_connect_path(const char *path)
{
	struct sockaddr_un addr;

	if (!make_address(path, &addr))
		return -1;
	return cp_net_connect((struct sockaddr *) &addr, sizeof(addr), 0);
}

bool
cp_net_peer_is_ours(int sock, int *pid)
{
#ifdef SO_PEERCRED
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return false;
	if (pid != NULL)
		*pid = peer.pid;
	return peer.uid == geteuid();
#else
	uid_t uid;
	gid_t gid;

	if (getpeereid(sock, &uid, &gid) != 0)
		return false;
	if (pid != NULL)
		*pid = -1;
	return uid == geteuid();
#endif
}

int
cp_net_poll(int sock, int events, CpTime deadline)
{
	struct pollfd p = {.fd = sock, .events = events};

	for (;;)
	{
		int rc = poll(&p, 1, (int) (deadline == 0 ? 0 : cp_timeout_ms(deadline)));

		if (rc > 0)
			return p.revents;
		if (rc < 0 && errno != EINTR)
			return POLLERR;
		if (rc == 0 && (deadline == 0 || cp_now() >= deadline))
			return 0;
	}
}
