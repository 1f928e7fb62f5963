/*
 * net.c
 *		Sockets as conpool wants them: non-blocking and closed on exec.
 *
 * Runs in every process that touches sockets; called by remote, adopt, vault and
 * the like.  Must never throw or serve interrupts.
 *
 * SOCK_CLOEXEC, accept4 and dup3 are not everywhere.  A backend has one
 * thread and starts no program between two of these calls, so setting the
 * flag by a call of its own is as good.
 */
#include "postgres.h"

#include "net.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "miscadmin.h"

/* descriptors received at once that we can tell from a single one */
#define MAX_RECEIVED 4

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

/* Connects without waiting. */
static int
connect_once(const struct sockaddr *addr, socklen_t len)
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

	if (cp_net_poll(sock, POLLOUT, 0) == 0)
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
cp_net_connect_path(const char *path)
{
	struct sockaddr_un addr;

	if (!make_address(path, &addr))
		return -1;
	return connect_once((struct sockaddr *) &addr, sizeof(addr));
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

bool
cp_net_raise_descriptor_limit(int more)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return false;
	if (limit.rlim_cur == RLIM_INFINITY)
		return true;
	/* the soft limit is what the rest of the server counts with: add to it */
	limit.rlim_cur += more;
	if (limit.rlim_max != RLIM_INFINITY)
		limit.rlim_cur = Min(limit.rlim_cur, limit.rlim_max);
	return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

/* ---- messages that a descriptor may go along with ---- */

bool
cp_net_send_message(int sock, const void *first, size_t first_size,
					const void *second, size_t second_size, int fd)
{
	struct iovec parts[2] = {
		{unconstify(void *, first), first_size},
		{unconstify(void *, second), second_size},
	};
	union
	{
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = second_size > 0 ? 2 : 1};
	ssize_t sent;

	if (fd >= 0)
	{
		struct cmsghdr *rights;

		memset(&control, 0, sizeof(control));
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		rights = CMSG_FIRSTHDR(&message);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(rights), &fd, sizeof(int));
	}
	do
		sent = sendmsg(sock, &message, 0);
	while (sent < 0 && errno == EINTR);
	return sent == (ssize_t) (first_size + second_size);
}

/*
 * Takes the descriptors that came with a message into *fd, which may hold
 * one.  Any beyond a single one are closed; then returns false.
 */
static bool
take_descriptors(struct msghdr *message, int *fd)
{
	bool ok = (message->msg_flags & MSG_CTRUNC) == 0;
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c))
	{
		int count;
		int i;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < count; i++)
		{
			int received;

			memcpy(&received, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
#ifndef MSG_CMSG_CLOEXEC
			(void) fcntl(received, F_SETFD, FD_CLOEXEC);
#endif
			if (*fd < 0)
				*fd = received;
			else
			{
				close(received);
				ok = false;
			}
		}
	}
	return ok;
}

ssize_t
cp_net_receive(int sock, void *to, size_t room, int *fd)
{
	struct iovec part = {to, room};
	union
	{
		struct cmsghdr align;
		char bytes[CMSG_SPACE(MAX_RECEIVED * sizeof(int))];
	} control;
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	int flags = 0;
	ssize_t n;

#ifdef MSG_CMSG_CLOEXEC
	flags = MSG_CMSG_CLOEXEC;
#endif
	do
		n = recvmsg(sock, &message, flags);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return (errno == EAGAIN || errno == EWOULDBLOCK) ? CP_NET_NOTHING : CP_NET_BAD;
	return take_descriptors(&message, fd) ? n : CP_NET_BAD;
}

bool
cp_net_receive_all(int sock, void *to, size_t size, int *fd, CpTime deadline)
{
	size_t have = 0;

	while (have < size)
	{
		ssize_t n = cp_net_receive(sock, (char *) to + have, size - have, fd);

		if (n > 0)
			have += n;
		else if (n != CP_NET_NOTHING || cp_net_poll(sock, POLLIN, deadline) == 0)
			return false;
	}
	return true;
}
