/*
 * remote.c
 *		A connection with a remote server, as this process sees it.
 *
 * Runs in client backends, dialer and tunnel and, for adopted connections, in the
 * broker.  Called by the modules that hold a connection.  Must never throw because
 * of the remote, and never block where interrupts are not served, except in
 * cp_remote_cancel(), which runs in aborts and has a deadline.  What is left of a
 * statement is dealt with in settle.c.
 *
 * While a tunnel connects (cp_remote_start_by_tunnel) there is no PGconn yet, and
 * everything here must bear that; libpq's functions do.
 */
#include "postgres.h"

#include "remote.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <unistd.h>

#include "adopt.h"
#include "compat.h"
#include "libpq/pqcomm.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "net.h"
#include "ping.h"
#include "port/pg_bswap.h"
#include "storage/fd.h"
#include "tunnel_reply.h"
#include "utils/memutils.h"
#include "wait_events.h"

/* places in a kept wait event set */
enum
{
	LATCH_POSITION,
	DEATH_POSITION,
	SOCKET_POSITION,
	POSITIONS
};

/* bytes that are kept of what libpq says of one host: the remote has a part in it */
#define HOST_ERROR_MAX 2048

/* until a cancel is tried again for which there was no room, microseconds */
#define CANCEL_PAUSE 5000

/* bytes that a server may send before it is ready, where others' memory is at stake */
#define RECEIVED_MAX (1024 * 1024)

/* how long after its own deadline a tunnel is expected to answer, milliseconds */
#define TUNNEL_PATIENCE 300

/*
 * A socket that is connected with nobody, made before the first connection
 * and kept for good, so that letting go of one cannot fail.
 */
static int dead_socket = -1;

/* ---- making and freeing ---- */

static bool
make_dead_socket(void)
{
	if (dead_socket >= 0)
		return true;
	if (!AcquireExternalFD())
		return false;
	dead_socket = cp_net_socket(AF_UNIX);
	if (dead_socket < 0)
		ReleaseExternalFD();
	return dead_socket >= 0;
}

/* libpq would print what a server has to say while connecting to our stderr. */
static void
ignore_notice(void *arg, const PGresult *notice)
{
}

void
cp_remote_ignore_notices(CpRemote *remote)
{
	PQsetNoticeReceiver(remote->conn, ignore_notice, NULL);
}

/* A CpRemote with its descriptor counted, but no connection yet. */
static CpRemote *
new_remote(const char **error)
{
	CpRemote *remote;

	if (!make_dead_socket() || !AcquireExternalFD())
	{
		*error = "out of file descriptors";
		return NULL;
	}
	remote = MemoryContextAllocExtended(TopMemoryContext, sizeof(CpRemote),
										MCXT_ALLOC_ZERO | MCXT_ALLOC_NO_OOM);
	if (remote == NULL)
	{
		ReleaseExternalFD();
		*error = "out of memory";
		return NULL;
	}
	remote->wait_socket = PGINVALID_SOCKET;
	remote->tunnel_sock = -1;
	return remote;
}

static void
free_wait_set(CpRemote *remote)
{
	if (remote->wait_set != NULL)
		FreeWaitEventSet(remote->wait_set);
	remote->wait_set = NULL;
}

/* Whatever PQfinish() says goes to the present socket; it does not wait until it can. */
static void
drop_conn(CpRemote *remote)
{
	if (remote->recorder != NULL)
		cp_recorder_drop(remote->recorder, remote->conn);
	remote->recorder = NULL;
	(void) PQsetnonblocking(remote->conn, 1);
	PQfinish(remote->conn);
	remote->conn = NULL;
}

static void
end_turns(CpRemote *remote)
{
	cp_hosts_end(remote->turns);
	remote->turns = NULL;
}

static void
forget_errors(CpRemote *remote)
{
	if (remote->errors != NULL)
		pfree(remote->errors);
	remote->errors = NULL;
}

static void
free_remote(CpRemote *remote)
{
	free_wait_set(remote);
	drop_conn(remote);
	end_turns(remote);
	forget_errors(remote);
	if (remote->tunnel_sock >= 0)
		close(remote->tunnel_sock);
	ReleaseExternalFD();
	explicit_bzero(&remote->greeting, sizeof(remote->greeting));
	pfree(remote);
}

/* ---- connecting ---- */

/*
 * Who has calls made elsewhere gives the connection away, and whoever goes on with it
 * does not see what libpq has read of it: what the server said right after "ready for
 * query" is to be among the parameters.  (A call like the others: the remote decides
 * how much there is to read.)  False: the connection is lost.
 */
static bool
take_late_messages(PGconn *conn)
{
	return PQconsumeInput(conn) && !PQisBusy(conn);
}

void
cp_remote_call(CpRemote *remote)
{
	if (remote->call == CP_CALL_START)
		remote->conn = PQconnectStartParams(remote->keywords, remote->values, 0);
	else
		remote->polling = PQconnectPoll(remote->conn);
	if (remote->calls_elsewhere && remote->polling == PGRES_POLLING_OK &&
		!take_late_messages(remote->conn))
		remote->polling = PGRES_POLLING_FAILED;
	remote->called = true;
}

/* PQconnectStartParams() has been called; without memory the state stays FAILED. */
static void
conn_started(CpRemote *remote)
{
	if (remote->conn != NULL)
		remote->recorder = cp_recorder_start(remote->conn);
	if (remote->recorder == NULL)
		return;
	cp_remote_ignore_notices(remote);
	/* the only way to learn the SQLSTATE of a connect that failed */
	PQsetErrorVerbosity(remote->conn, PQERRORS_VERBOSE);
	if (PQstatus(remote->conn) != CONNECTION_BAD)
		remote->polling = PGRES_POLLING_WRITING;
}

/* Goes on after the call that was due, if it has been made. */
static void
take_call(CpRemote *remote)
{
	CpRemoteCall call = remote->call;

	if (!remote->called)
		return;
	remote->call = CP_CALL_NONE;
	remote->called = false;
	if (call == CP_CALL_START)
		conn_started(remote);
}

/* The call is due: makes it here, or leaves it to whoever makes them. */
static void
make_call(CpRemote *remote, CpRemoteCall call)
{
	remote->call = call;
	if (remote->calls_elsewhere)
		return;
	cp_remote_call(remote);
	take_call(remote);
}

static void
start_conn(CpRemote *remote, const char *const *keywords, const char *const *values)
{
	remote->polling = PGRES_POLLING_FAILED;
	remote->keywords = keywords;
	remote->values = values;
	make_call(remote, CP_CALL_START);
}

/* NULL with *error: it cannot be begun with. */
static CpRemote *
begin_connect(const char *const *keywords, const char *const *values, bool calls_elsewhere,
			  const char **error)
{
	/* first, since it is all that may throw */
	CpHostTurns *turns;
	CpRemote *remote;

	if (!cp_hosts_begin(keywords, values, &turns))
	{
		*error = "too many hosts";
		return NULL;
	}
	remote = new_remote(error);
	if (remote == NULL)
	{
		cp_hosts_end(turns);
		return NULL;
	}
	remote->turns = turns;
	remote->calls_elsewhere = calls_elsewhere;
	if (turns != NULL)
		(void) cp_hosts_next(turns, &keywords, &values);
	start_conn(remote, keywords, values);
	return remote;
}

CpRemote *
cp_remote_start(const char *const *keywords, const char *const *values,
				const char **error)
{
	CpRemote *remote = begin_connect(keywords, values, false, error);

	if (remote != NULL && remote->recorder == NULL)
	{
		*error = "out of memory";
		free_remote(remote);
		return NULL;
	}
	return remote;
}

CpRemote *
cp_remote_prepare(const char *const *keywords, const char *const *values,
				  const char **error)
{
	return begin_connect(keywords, values, true, error);
}

/* Appends as much as there is room for. */
static void
append(char *to, size_t size, const char *text, size_t len)
{
	size_t have = strlen(to);

	strlcpy(to + have, text, Min(size - have, len + 1));
}

/*
 * Copies what libpq says of the present host, or as much of it as is kept.  Where it
 * was given an address it leaves the name out, but says both if it has looked that up
 * itself: so do we, who look names up before.
 */
static void
copy_error(PGconn *conn, char *copy)
{
	const size_t size = HOST_ERROR_MAX + 2;
	const char *text = conn != NULL ? PQerrorMessage(conn) : "out of memory\n";
	const char *host = conn != NULL ? PQhost(conn) : "";
	const char *address = conn != NULL ? PQhostaddr(conn) : "";
	char place[NI_MAXHOST];
	char named[NI_MAXHOST + HOST_ERROR_MAX];
	const char *found;
	int len;

	snprintf(place, sizeof(place), "\"%s\", port ", address);
	snprintf(named, sizeof(named), "\"%s\" (%s), port ", host, address);
	copy[0] = '\0';
	while (strcmp(host, address) != 0 && (found = strstr(text, place)) != NULL)
	{
		append(copy, size, text, found - text);
		append(copy, size, named, strlen(named));
		text = found + strlen(place);
	}
	append(copy, size, text, strlen(text));
	len = (int) strlen(copy);
	if (len > HOST_ERROR_MAX)
		copy[pg_mbcliplen(copy, len, HOST_ERROR_MAX)] = '\0';
}

/* The end of `text`, of no more than `limit` bytes, from the beginning of a line on. */
static const char *
last_lines(const char *text, size_t limit)
{
	size_t len = strlen(text);
	const char *end_of_line;

	if (len <= limit)
		return text;
	end_of_line = strchr(text + len - limit, '\n');
	return end_of_line != NULL ? end_of_line + 1 : "";
}

/*
 * Keeps what libpq has to say of the attempt that is over.  While it waits for
 * an answer its message ends with "failed: ", and lacks the reason.
 */
static void
note_error(CpRemote *remote, bool timed_out)
{
	const char *before = remote->errors != NULL ? remote->errors : "";
	const char *reason = timed_out ? "timeout expired\n" : "";
	size_t len = strlen(before);
	char text[HOST_ERROR_MAX + 2];
	size_t text_len;
	size_t added;
	char *errors;

	copy_error(remote->conn, text);
	text_len = strlen(text);
	added = text_len + strlen(reason);
	/* a wrong option is the same with every host */
	if (!timed_out && len >= text_len && memcmp(before + len - text_len, text, text_len) == 0)
		return;
	errors = MemoryContextAllocExtended(TopMemoryContext, CP_CONNECT_ERROR_MAX + 1,
										MCXT_ALLOC_NO_OOM);
	if (errors == NULL)
		return;
	snprintf(errors, CP_CONNECT_ERROR_MAX + 1, "%s%s%s",
			 last_lines(before, CP_CONNECT_ERROR_MAX - added), text, reason);
	forget_errors(remote);
	remote->errors = errors;
}

const char *
cp_remote_connect_error(CpRemote *remote)
{
	if (remote->errors == NULL)
		note_error(remote, false);
	return remote->errors != NULL ? remote->errors : "out of memory";
}

/*
 * The SQLSTATE of the last error of a server in a verbose message, which writes
 * "severity:  code: text"; NULL if there is none.
 */
static const char *
last_sqlstate(const char *message)
{
	const char *code = NULL;

	for (const char *p = strstr(message, ":  "); p != NULL; p = strstr(p + 1, ":  "))
	{
		if (strspn(p + 3, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && p[8] == ':')
			code = p + 3;
	}
	return code;
}

/*
 * May another host do better?  libpq goes on to the next one if there was no
 * server, or none that takes sessions now, or one of the wrong kind; but not
 * once a server has refused us.  That a server breaks off without a word
 * ends libpq's list too, not ours: a proxy in front of a dead server does it.
 */
static bool
deserves_another_host(PGconn *conn)
{
	const char *code;

	/* it has let us in, and turned out to be of the wrong kind */
	if (PQparameterStatus(conn, "server_version") != NULL)
		return true;
	if (PQconnectionNeedsPassword(conn))
		return false;
	code = last_sqlstate(PQerrorMessage(conn));
	return code == NULL || strncmp(code, "57P03", 5) == 0;
}

/* False if there is no other host, or no time for it. */
static bool
start_next_host(CpRemote *remote, CpTime deadline)
{
	const char *const *keywords;
	const char *const *values;

	if (remote->turns == NULL || cp_now() >= deadline ||
		!cp_hosts_next(remote->turns, &keywords, &values))
		return false;
	drop_conn(remote);
	start_conn(remote, keywords, values);
	return true;
}

/* When the present host's time is over. */
static CpTime
limit_of_host(CpRemote *remote, CpTime deadline)
{
	return remote->turns != NULL ? cp_hosts_limit(remote->turns, deadline) : deadline;
}

static bool
is_under_way(CpRemote *remote)
{
	return remote->polling == PGRES_POLLING_READING || remote->polling == PGRES_POLLING_WRITING;
}

/* Called before its socket is ready, libpq would take it for connected. */
static bool
is_ready(CpRemote *remote)
{
	int wanted = remote->polling == PGRES_POLLING_READING ? POLLIN : POLLOUT;

	return cp_net_poll(PQsocket(remote->conn), wanted, 0) != 0;
}

void
cp_remote_only_in_clear(CpRemote *remote)
{
	remote->only_in_clear = true;
}

/*
 * Is libpq about to begin with encryption?  The server's answer to the request is
 * a single byte, and the first one that it sends: what is seen here is what libpq
 * is going to read.
 */
static bool
is_about_to_encrypt(CpRemote *remote)
{
	ConnStatusType status = PQstatus(remote->conn);
	char answer = '\0';

	if (status != CONNECTION_SSL_STARTUP && status != CONNECTION_GSS_STARTUP)
		return false;
	/* without asking, by sslnegotiation */
	if (remote->polling == PGRES_POLLING_WRITING)
		return true;
	return recv(PQsocket(remote->conn), &answer, 1, MSG_PEEK) == 1 &&
		(answer == 'S' || answer == 'G');
}

/*
 * Was it about authentication by GSSAPI or SSPI?  No function of libpq tells, and not
 * all versions trace what the server asked for, but all say so if it does not work.
 */
static bool
speaks_of_gss(const char *error)
{
	return strstr(error, "GSSAPI") != NULL || strstr(error, "SSPI") != NULL;
}

/*
 * Must others not have this process connect, since all their connections are its own?
 * Encryption by GSSAPI waits for a ticket server, and is of no use here; and libpq
 * keeps in memory whatever a server sends before it is ready.
 */
static bool
is_for_nobody_else(CpRemote *remote)
{
	int waiting = 0;
	char answer = '\0';

	if (ioctl(PQsocket(remote->conn), FIONREAD, &waiting) == 0)
		remote->received += waiting;
	if (remote->received > RECEIVED_MAX)
		return true;
	return PQstatus(remote->conn) == CONNECTION_GSS_STARTUP &&
		remote->polling == PGRES_POLLING_READING &&
		recv(PQsocket(remote->conn), &answer, 1, MSG_PEEK) == 1 && answer == 'G';
}

/*
 * The present host has failed, or its time is over: goes over to the next one.
 * FAILED, TIMEOUT: there is none.
 */
static CpConnectStatus
leave_host(CpRemote *remote, bool timed_out, CpTime deadline)
{
	bool go_on = timed_out || deserves_another_host(remote->conn);

	note_error(remote, timed_out);
	remote->needs_password = PQconnectionNeedsPassword(remote->conn);
	remote->wanted_gss |= speaks_of_gss(PQerrorMessage(remote->conn));
	if (timed_out && remote->turns != NULL)
		cp_hosts_was_silent(remote->turns);
	if (go_on && start_next_host(remote, deadline))
		return CP_CONNECT_GOING;
	return timed_out ? CP_CONNECT_TIMEOUT : CP_CONNECT_FAILED;
}

/*
 * Goes on with the present host, if it can.  It may have failed, and its time may
 * be over, also if it keeps us busy: then *left is set.  OK: libpq is connected.
 */
static CpConnectStatus
advance(CpRemote *remote, CpTime deadline, bool *left)
{
	*left = false;
	take_call(remote);
	if (remote->call != CP_CALL_NONE)
		return CP_CONNECT_GOING;
	if (is_under_way(remote) && is_ready(remote) &&
		(!remote->calls_elsewhere || cp_now() < limit_of_host(remote, deadline)))
	{
		if (remote->only_in_clear && is_about_to_encrypt(remote))
			return CP_CONNECT_ENCRYPTED;
		if (remote->calls_elsewhere && is_for_nobody_else(remote))
			return CP_CONNECT_ELSEWHERE;
		make_call(remote, CP_CALL_POLL);
		if (remote->call != CP_CALL_NONE)
			return CP_CONNECT_GOING;
	}
	if (remote->polling == PGRES_POLLING_OK)
		return CP_CONNECT_OK;
	if (is_under_way(remote) && cp_now() < limit_of_host(remote, deadline))
		return CP_CONNECT_GOING;
	*left = true;
	return leave_host(remote, is_under_way(remote), deadline);
}

static void
note_peer(CpRemote *remote, int sock)
{
	const CpPassage *passage = &remote->greeting.passage;

	remote->peer_len = sizeof(remote->peer);
	if (passage->peer_len > 0)
	{
		remote->peer = passage->peer;
		remote->peer_len = passage->peer_len;
	}
	else if (getpeername(sock, (struct sockaddr *) &remote->peer, &remote->peer_len) < 0)
		remote->peer_len = 0;
}

/* libpq says that it is connected: notes what only this process can know. */
static CpConnectStatus
connected(CpRemote *remote)
{
	PGconn *conn = remote->conn;
	bool recorded;

	remote->encrypted = PQsslInUse(conn) || PQgssEncInUse(conn);
	remote->used_password = PQconnectionUsedPassword(conn) != 0;
	forget_errors(remote);
	if (PQsetnonblocking(conn, 1) != 0)
		return CP_CONNECT_FAILED;
	recorded = cp_recorder_finish(remote->recorder, conn, &remote->greeting);
	remote->recorder = NULL;
	note_peer(remote, PQsocket(conn));
	PQsetErrorVerbosity(conn, PQERRORS_DEFAULT);
	return recorded ? CP_CONNECT_OK : CP_CONNECT_NO_GREETING;
}

/* ---- connecting by a tunnel ---- */

CpRemote *
cp_remote_start_by_tunnel(int sock, const char **error)
{
	CpRemote *remote = new_remote(error);

	if (remote == NULL)
		close(sock);
	else
		remote->tunnel_sock = sock;
	return remote;
}

/*
 * The tunnel has connected: makes a connection of the descriptor that came, and
 * closes it.  If that fails, and no fault of the remote's, the caller may try by
 * himself.
 */
static CpConnectStatus
take_tunnelled(CpRemote *remote, const CpTunnelReply *reply, int fd)
{
	const char *error;

	note_peer(remote, fd);
	remote->used_password = reply->used_password != 0;
	remote->conn = cp_adopt(fd, &remote->greeting, &error);
	close(fd);
	close(remote->tunnel_sock);
	remote->tunnel_sock = -1;
	if (remote->conn == NULL)
		return CP_CONNECT_ELSEWHERE;
	cp_remote_ignore_notices(remote);
	return CP_CONNECT_OK;
}

/* The order's socket stays: its end of file will say that nothing is left. */
static CpConnectStatus
take_reply(CpRemote *remote, const CpTunnelReply *reply, int fd, const char *error)
{
	switch ((CpTunnelStatus) reply->status)
	{
		case CP_TUNNEL_OK:
			return take_tunnelled(remote, reply, fd);
		case CP_TUNNEL_FAILED:
		case CP_TUNNEL_TIMEOUT:
			remote->errors = MemoryContextAllocExtended(TopMemoryContext, strlen(error) + 1,
														MCXT_ALLOC_NO_OOM);
			if (remote->errors != NULL)
				strcpy(remote->errors, error);
			remote->needs_password = reply->needs_password != 0;
			return reply->status == CP_TUNNEL_FAILED ? CP_CONNECT_FAILED : CP_CONNECT_TIMEOUT;
		case CP_TUNNEL_ELSEWHERE:
			break;
	}
	return CP_CONNECT_ELSEWHERE;
}

/* As cp_remote_connect_step().  The tunnel has the same deadline, and tells of it. */
static CpConnectStatus
await_tunnel(CpRemote *remote, CpTime deadline, int *events, CpTime *until)
{
	CpTunnelReply reply;
	char error[CP_TUNNEL_ERROR_MAX];
	int fd;

	*events = WL_SOCKET_READABLE;
	*until = deadline == CP_FOREVER ? CP_FOREVER : cp_deadline(deadline, TUNNEL_PATIENCE);
	switch (cp_tunnel_read_reply(remote->tunnel_sock, &reply, &fd, &remote->greeting, error))
	{
		case CP_TUNNEL_READ_MORE:
			return cp_now() < *until ? CP_CONNECT_GOING : CP_CONNECT_ELSEWHERE;
		case CP_TUNNEL_READ_DONE:
			return take_reply(remote, &reply, fd, error);
		case CP_TUNNEL_READ_LOST:
			break;
	}
	return CP_CONNECT_ELSEWHERE;
}

/* ---- connecting, step by step ---- */

CpConnectStatus
cp_remote_connect_step(CpRemote *remote, CpTime deadline, int *events, CpTime *until)
{
	CpConnectStatus status;
	bool left;

	if (remote->tunnel_sock >= 0)
		return await_tunnel(remote, deadline, events, until);
	status = advance(remote, deadline, &left);
	if (status != CP_CONNECT_GOING)
	{
		end_turns(remote);
		return status == CP_CONNECT_OK ? connected(remote) : status;
	}
	if (remote->call != CP_CALL_NONE)
	{
		*events = 0;
		*until = CP_FOREVER;
		return CP_CONNECT_GOING;
	}
	if (left)
	{
		*events = 0;
		*until = cp_now();
		return CP_CONNECT_GOING;
	}
	*events = remote->polling == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
	*until = limit_of_host(remote, deadline);
	return CP_CONNECT_GOING;
}

/*
 * Waits for what libpq wants, once, and serves interrupts.  Not with a kept set:
 * libpq may close its socket and get a new one of the same number.
 */
static void
wait_for_connect(CpRemote *remote, int wanted, CpTime until)
{
	long timeout = cp_timeout_ms(until);
	int events;

	events = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | wanted |
								   (timeout >= 0 ? WL_TIMEOUT : 0),
							   cp_remote_socket(remote), timeout, cp_wait_event(CP_WAIT_CONNECT));
	if (events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

CpConnectStatus
cp_remote_finish_connect(CpRemote *remote, CpTime deadline)
{
	for (;;)
	{
		int events;
		CpTime until;
		CpConnectStatus status = cp_remote_connect_step(remote, deadline, &events, &until);

		if (status != CP_CONNECT_GOING)
			return status;
		/* what comes without a pause may never let us see the latch */
		CHECK_FOR_INTERRUPTS();
		wait_for_connect(remote, events, until);
	}
}

/* The PGconn of an adoption; it does not know the values of `changes`. */
static PGconn *
adopt_blotted(int fd, const CpGreeting *greeting, uint64 changes, const char **error)
{
	CpGreeting blotted;

	if (changes == 0)
		return cp_adopt(fd, greeting, error);
	if (!cp_greeting_blot(greeting, changes, &blotted))
	{
		*error = "greeting is too long";
		return NULL;
	}
	return cp_adopt(fd, &blotted, error);
}

CpRemote *
cp_remote_adopt(int fd, const CpGreeting *greeting, uint64 changes, const char **error)
{
	CpRemote *remote = new_remote(error);

	if (remote != NULL)
	{
		remote->shared = true;
		memcpy(&remote->greeting, greeting, cp_greeting_size(greeting));
		note_peer(remote, fd);
		/* what is compared with is the true greeting in any case */
		remote->conn = adopt_blotted(fd, greeting, changes, error);
		if (remote->conn == NULL)
		{
			free_remote(remote);
			remote = NULL;
		}
		else
			cp_remote_ignore_notices(remote);
	}
	close(fd);
	return remote;
}

/* ---- leaving ---- */

void
cp_remote_let_go(CpRemote *remote)
{
	if (remote == NULL)
		return;
	/* the set first: the kernel forgets a socket only with its last duplicate */
	free_wait_set(remote);
	if (PQsocket(remote->conn) != PGINVALID_SOCKET)
		cp_net_put_over(dead_socket, PQsocket(remote->conn));
	free_remote(remote);
}

PGconn *
cp_remote_take_conn(CpRemote *remote)
{
	PGconn *conn = remote->conn;

	remote->conn = NULL;
	free_remote(remote);
	return conn;
}

/*
 * Calls the order off.  The tunnel may have answered it by now: who only waited for the
 * end of file would throw the connection away unseen, and would not know its end.
 */
static int
end_order(CpRemote *remote)
{
	static const char terminate[] = {'X', 0, 0, 0, 4};
	int sock = remote->tunnel_sock;
	CpTunnelReply reply;
	char error[CP_TUNNEL_ERROR_MAX];
	ssize_t sent;
	int fd;

	remote->tunnel_sock = -1;
	shutdown(sock, SHUT_WR);
	if (cp_tunnel_read_reply(sock, &reply, &fd, &remote->greeting, error) != CP_TUNNEL_READ_DONE ||
		fd < 0)
		return sock;
	close(sock);
	sent = send(fd, terminate, sizeof(terminate), 0);
	(void) sent;
	return fd;
}

int
cp_remote_end(CpRemote *remote)
{
	int rest = -1;

	if (remote == NULL)
		return -1;
	if (remote->tunnel_sock >= 0)
		rest = end_order(remote);
	if (PQsocket(remote->conn) != PGINVALID_SOCKET)
		rest = cp_net_dup(PQsocket(remote->conn));
	/* libpq says Terminate, after what it may still have in its buffer */
	free_remote(remote);
	if (rest >= 0)
		shutdown(rest, SHUT_WR);
	return rest;
}

void
cp_remote_await_eof(int fd, CpTime deadline)
{
	char buffer[8192];
	ssize_t n;

	if (fd < 0)
		return;
	while (cp_now() < deadline && cp_net_poll(fd, POLLIN, deadline) != 0)
	{
		n = recv(fd, buffer, sizeof(buffer), 0);
		if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
			break;
	}
	shutdown(fd, SHUT_RDWR);
	close(fd);
}

/* ---- statements ---- */

bool
cp_remote_is_readable(CpRemote *remote)
{
	int sock = PQsocket(remote->conn);

	return sock == PGINVALID_SOCKET || cp_net_poll(sock, POLLIN, 0) != 0;
}

static void
make_wait_set(CpRemote *remote, pgsocket sock)
{
	WaitEventSet *set;

	set = remote->wait_set = cp_create_wait_event_set(POSITIONS);
	remote->wait_socket = sock;
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(set, WL_SOCKET_READABLE, sock, NULL, NULL);
}

int
cp_remote_wait(CpRemote *remote, int events, CpTime deadline)
{
	pgsocket sock = PQsocket(remote->conn);
	WaitEvent occurred[POSITIONS];
	int result = 0;
	int n;
	int i;

	/* libpq has closed it, and says why when it is asked to go on */
	if (sock == PGINVALID_SOCKET)
		return events;

	if (sock != remote->wait_socket)
		free_wait_set(remote);
	if (remote->wait_set == NULL)
		make_wait_set(remote, sock);
	ModifyWaitEvent(remote->wait_set, SOCKET_POSITION, events, NULL);
	n = WaitEventSetWait(remote->wait_set, cp_timeout_ms(deadline), occurred, POSITIONS,
						 cp_wait_event(CP_WAIT_REMOTE));
	for (i = 0; i < n; i++)
		result |= occurred[i].events;
	return n == 0 ? WL_TIMEOUT : result;
}

/*
 * Waits for the socket, serving interrupts; reads what is there.  False when
 * libpq could not read.
 */
static bool
wait_and_read(CpRemote *remote, int wanted)
{
	int events = cp_remote_wait(remote, wanted, CP_FOREVER);

	if (events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return !(events & WL_SOCKET_READABLE) || PQconsumeInput(remote->conn);
}

bool
cp_remote_check(CpRemote *remote, CpTime deadline)
{
	int sock = PQsocket(remote->conn);
	CpPing ping = {0};
	CpPingStatus status;

	Assert(!remote->encrypted);
	if (sock == PGINVALID_SOCKET || !cp_ping_send(sock))
		return false;
	while ((status = cp_ping_read(&ping, sock)) == CP_PING_WAIT)
	{
		int events = cp_remote_wait(remote, WL_SOCKET_READABLE, deadline);

		if (events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (events & WL_TIMEOUT)
			return false;
	}
	return status == CP_PING_ALIVE;
}

/* whole: each result is collected, instead of row by row */
static bool
send_statement(CpRemote *remote, bool whole, const char *sql, int nparams, const Oid *types,
			   const char *const *values)
{
	PGconn *conn = remote->conn;
	int sent;
	int unsent;

	if (nparams < 0)
		sent = PQsendQuery(conn, sql);
	else
		sent = PQsendQueryParams(conn, sql, nparams, types, values, NULL, NULL, 0);
	if (!sent || !(whole || PQsetSingleRowMode(conn)))
		return false;

	while ((unsent = PQflush(conn)) > 0)
	{
		/* reading too, or each side might wait for the other to read */
		if (!wait_and_read(remote, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE))
			return false;
	}
	return unsent == 0;
}

bool
cp_remote_send(CpRemote *remote, const char *sql, int nparams, const Oid *types,
			   const char *const *values)
{
	return send_statement(remote, false, sql, nparams, types, values);
}

bool
cp_remote_send_whole(CpRemote *remote, const char *sql, int nparams, const Oid *types,
					 const char *const *values)
{
	return send_statement(remote, true, sql, nparams, types, values);
}

/* Would PQgetResult() block? */
static bool
is_busy(CpRemote *remote)
{
	if (!PQisBusy(remote->conn))
		return false;
	if (!remote->encrypted)
		return true;
	/* the TLS library may hold bytes that no wait on the socket would tell of */
	(void) PQconsumeInput(remote->conn);
	return PQisBusy(remote->conn);
}

PGresult *
cp_remote_next_result(CpRemote *remote)
{
	while (is_busy(remote))
	{
		/* if libpq could not read, its result says why */
		if (!wait_and_read(remote, WL_SOCKET_READABLE))
			break;
	}
	return PQgetResult(remote->conn);
}

bool
cp_remote_has_result(CpRemote *remote)
{
	/* if libpq cannot read, its next result says why */
	return !PQisBusy(remote->conn) || !PQconsumeInput(remote->conn) || !PQisBusy(remote->conn);
}

/* Does one of the first n have the same socket? */
static bool
is_listed(CpRemote *const *remotes, int n, pgsocket sock)
{
	for (int i = 0; i < n; i++)
	{
		if (cp_remote_socket(remotes[i]) == sock)
			return true;
	}
	return false;
}

/* What is awaited on its socket: while it connects libpq has a say. */
static int
awaited_events(const CpRemote *remote)
{
	if (remote->recorder == NULL || remote->tunnel_sock >= 0 ||
		remote->polling == PGRES_POLLING_READING)
		return WL_SOCKET_READABLE;
	return WL_SOCKET_WRITEABLE;
}

int
cp_remote_wait_any(CpRemote *const *remotes, int n, CpTime deadline)
{
	WaitEvent occurred;
	WaitEventSet *set;
	int found;

	for (int i = 0; i < n; i++)
	{
		/* libpq has closed it, and says why when it is asked to go on */
		if (cp_remote_socket(remotes[i]) == PGINVALID_SOCKET)
			return WL_SOCKET_READABLE;
	}
	set = cp_create_wait_event_set(n + 2);
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < n; i++)
	{
		pgsocket sock = cp_remote_socket(remotes[i]);

		if (!is_listed(remotes, i, sock))
			AddWaitEventToSet(set, awaited_events(remotes[i]), sock, NULL, NULL);
	}
	found = WaitEventSetWait(set, cp_timeout_ms(deadline), &occurred, 1,
							 cp_wait_event(CP_WAIT_REMOTE));
	FreeWaitEventSet(set);
	return found == 0 ? WL_TIMEOUT : (int) occurred.events;
}

uint64
cp_remote_changes(CpRemote *remote)
{
	return cp_greeting_changes(&remote->greeting, remote->conn);
}

/* ---- cancelling ---- */

/* Builds a CancelRequest; returns its size. */
static int
build_cancel_request(const CpGreeting *greeting, uint8 *packet)
{
	uint32 head[3];

	head[0] = pg_hton32(sizeof(head) + greeting->key_len);
	head[1] = pg_hton32(CANCEL_REQUEST_CODE);
	head[2] = pg_hton32((uint32) greeting->pid);
	memcpy(packet, head, sizeof(head));
	memcpy(packet + sizeof(head), greeting->key, greeting->key_len);
	return sizeof(head) + greeting->key_len;
}

static bool
send_cancel_request(CpRemote *remote, int sock)
{
	uint8 packet[12 + CP_CANCEL_KEY_MAX];
	int size = build_cancel_request(&remote->greeting, packet);
	bool sent = send(sock, packet, size, 0) == size;

	explicit_bzero(packet, sizeof(packet));
	return sent;
}

/* Begins to connect with the remote; the socket, or -1 with errno. */
static int
reach_peer(CpRemote *remote)
{
	int sock = cp_net_socket(remote->peer.ss_family);
	int save_errno;

	if (sock < 0 ||
		connect(sock, (struct sockaddr *) &remote->peer, remote->peer_len) == 0 ||
		errno == EINPROGRESS || errno == EINTR)
		return sock;
	save_errno = errno;
	close(sock);
	errno = save_errno;
	return -1;
}

static bool
goes_by_tunnel(const CpRemote *remote)
{
#ifdef LIBPQ_HAS_ASYNC_CANCEL
	return remote->greeting.passage.tunnel > 0;
#else
	return false;
#endif
}

/*
 * Where the tunnel cannot help it goes in the clear, also for an encrypted connection:
 * servers accept that, and libpq before 17 sends its own no other way.
 */
static CpCancelStatus
begin_cancel(CpRemote *remote, CpCancel *cancel, CpTime deadline)
{
	bool by_tunnel = goes_by_tunnel(remote);

	if (remote->greeting.key_len == 0 || (remote->peer_len == 0 && !by_tunnel))
		return CP_CANCEL_FAILED;
	cancel->asked = by_tunnel;
	if (by_tunnel)
		cancel->sock = cp_tunnel_begin_cancel(&remote->greeting, deadline);
	else
		cancel->sock = reach_peer(remote);
	/* a full backlog, or other cancels have taken the last descriptors: that passes */
	if (cancel->sock >= 0 || errno == EAGAIN || errno == EMFILE || errno == ENFILE)
		return CP_CANCEL_GOING;
	return CP_CANCEL_FAILED;
}

/* The remote's end of file says that it has dealt with the request; a tunnel says it. */
static CpCancelStatus
read_cancel_answer(CpRemote *remote, int sock)
{
	char byte;
	ssize_t n = recv(sock, &byte, 1, 0);

	if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK))
		return CP_CANCEL_GOING;
	return n == (goes_by_tunnel(remote) ? 1 : 0) ? CP_CANCEL_DONE : CP_CANCEL_FAILED;
}

CpCancelStatus
cp_remote_cancel_step(CpRemote *remote, CpCancel *cancel, CpTime deadline)
{
	CpCancelStatus status = CP_CANCEL_GOING;

	if (cancel->sock < 0)
		status = begin_cancel(remote, cancel, deadline);
	if (status == CP_CANCEL_GOING && cancel->sock >= 0 && !cancel->asked &&
		cp_net_poll(cancel->sock, POLLOUT, 0) != 0)
	{
		cancel->asked = send_cancel_request(remote, cancel->sock);
		if (!cancel->asked)
			status = CP_CANCEL_FAILED;
	}
	if (status == CP_CANCEL_GOING && cancel->sock >= 0 && cancel->asked)
		status = read_cancel_answer(remote, cancel->sock);
	if (status != CP_CANCEL_GOING)
		cp_remote_cancel_drop(cancel);
	return status;
}

void
cp_remote_cancel_drop(CpCancel *cancel)
{
	if (cancel->sock >= 0)
		close(cancel->sock);
	*cancel = CP_NO_CANCEL;
}

bool
cp_remote_cancel(CpRemote *remote, CpTime deadline)
{
	CpCancel cancel = CP_NO_CANCEL;
	CpCancelStatus status;

	pgstat_report_wait_start(cp_wait_event(CP_WAIT_CANCEL));
	while ((status = cp_remote_cancel_step(remote, &cancel, deadline)) == CP_CANCEL_GOING &&
		   cp_now() < deadline)
	{
		if (cancel.sock >= 0)
			(void) cp_net_poll(cancel.sock, cancel.asked ? POLLIN : POLLOUT, deadline);
		else
			pg_usleep(CANCEL_PAUSE);
	}
	cp_remote_cancel_drop(&cancel);
	pgstat_report_wait_end();
	return status == CP_CANCEL_DONE;
}

/* ---- looking ---- */

pgsocket
cp_remote_socket(const CpRemote *remote)
{
	return remote->tunnel_sock >= 0 ? remote->tunnel_sock : PQsocket(remote->conn);
}

void
cp_remote_address(CpRemote *remote, char *buf, size_t size)
{
	const struct sockaddr *addr = (const struct sockaddr *) &remote->peer;
	socklen_t len = remote->peer_len;
	char host[NI_MAXHOST];
	char port[NI_MAXSERV];

	buf[0] = '\0';
	if (len == 0)
		return;
	if (addr->sa_family == AF_UNIX)
	{
		/* not terminated when it fills its place; empty for a socket pair */
		size_t path_len = len - offsetof(struct sockaddr_un, sun_path);

		if (len > offsetof(struct sockaddr_un, sun_path))
			snprintf(buf, size, "%.*s", (int) path_len,
					 ((const struct sockaddr_un *) addr)->sun_path);
	}
	else if (getnameinfo(addr, len, host, sizeof(host), port, sizeof(port),
						 NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		snprintf(buf, size, addr->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}
