/*
 * remote.c
 *		A connection with a remote server, as this process sees it.
 *
 * Runs in client backends and, for adopted connections, in the broker.  Called
 * by the modules that hold a connection.  Must never throw because of the
 * remote, and never block where interrupts are not served, except in
 * cp_remote_recover() and cp_remote_cancel(), which run in aborts and have a
 * deadline.
 */
#include "postgres.h"

#include "remote.h"

#include <netdb.h>
#include <netinet/in.h>
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

/* how long the rest of a result is read before it is cancelled, microseconds */
#define RECOVER_PATIENCE 5000

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
	return remote;
}

static void
free_wait_set(CpRemote *remote)
{
	if (remote->wait_set != NULL)
		FreeWaitEventSet(remote->wait_set);
	remote->wait_set = NULL;
}

/* Whatever PQfinish() says goes to the present socket. */
static void
drop_conn(CpRemote *remote)
{
	if (remote->recorder != NULL)
		cp_recorder_drop(remote->recorder, remote->conn);
	remote->recorder = NULL;
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
	ReleaseExternalFD();
	explicit_bzero(&remote->greeting, sizeof(remote->greeting));
	pfree(remote);
}

/* ---- connecting ---- */

/* False, and the state is FAILED, when there is no memory. */
static bool
start_conn(CpRemote *remote, const char *const *keywords, const char *const *values)
{
	remote->polling = PGRES_POLLING_FAILED;
	remote->conn = PQconnectStartParams(keywords, values, 0);
	if (remote->conn != NULL)
		remote->recorder = cp_recorder_start(remote->conn);
	if (remote->recorder == NULL)
		return false;
	cp_remote_ignore_notices(remote);
	/* the only way to learn the SQLSTATE of a connect that failed */
	PQsetErrorVerbosity(remote->conn, PQERRORS_VERBOSE);
	if (PQstatus(remote->conn) != CONNECTION_BAD)
		remote->polling = PGRES_POLLING_WRITING;
	return true;
}

CpRemote *
cp_remote_start(const char *const *keywords, const char *const *values,
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
	if (turns != NULL)
		(void) cp_hosts_next(turns, &keywords, &values);
	if (!start_conn(remote, keywords, values))
	{
		*error = "out of memory";
		free_remote(remote);
		return NULL;
	}
	return remote;
}

/* What libpq says of the present host, or as much of it as is kept. */
static int
length_of_error(const char *text)
{
	int len = (int) strnlen(text, HOST_ERROR_MAX + 1);

	return len > HOST_ERROR_MAX ? pg_mbcliplen(text, len, HOST_ERROR_MAX) : len;
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
	const char *text = PQerrorMessage(remote->conn);
	const char *reason = timed_out ? "timeout expired\n" : "";
	size_t len = strlen(before);
	size_t text_len = length_of_error(text);
	size_t added = text_len + strlen(reason);
	char *errors;

	/* a wrong option is the same with every host */
	if (!timed_out && len >= text_len && memcmp(before + len - text_len, text, text_len) == 0)
		return;
	errors = MemoryContextAllocExtended(TopMemoryContext, CP_CONNECT_ERROR_MAX + 1,
										MCXT_ALLOC_NO_OOM);
	if (errors == NULL)
		return;
	snprintf(errors, CP_CONNECT_ERROR_MAX + 1, "%s%.*s%s",
			 last_lines(before, CP_CONNECT_ERROR_MAX - added), (int) text_len, text, reason);
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
	(void) start_conn(remote, keywords, values);
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
 * The present host has failed, or its time is over: goes over to the next one.
 * FAILED, TIMEOUT: there is none.
 */
static CpConnectStatus
leave_host(CpRemote *remote, bool timed_out, CpTime deadline)
{
	bool go_on = timed_out || deserves_another_host(remote->conn);

	note_error(remote, timed_out);
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
	if (is_under_way(remote) && is_ready(remote))
	{
		if (remote->only_in_clear && is_about_to_encrypt(remote))
			return CP_CONNECT_ENCRYPTED;
		remote->polling = PQconnectPoll(remote->conn);
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
	remote->peer_len = sizeof(remote->peer);
	if (getpeername(sock, (struct sockaddr *) &remote->peer, &remote->peer_len) < 0)
		remote->peer_len = 0;
}

/* libpq says that it is connected: notes what only this process can know. */
static CpConnectStatus
connected(CpRemote *remote)
{
	PGconn *conn = remote->conn;
	bool recorded;

	recorded = cp_recorder_finish(remote->recorder, conn, &remote->greeting);
	remote->recorder = NULL;
	forget_errors(remote);
	note_peer(remote, PQsocket(conn));
	PQsetErrorVerbosity(conn, PQERRORS_DEFAULT);
	remote->encrypted = PQsslInUse(conn) || PQgssEncInUse(conn);
	remote->used_password = PQconnectionUsedPassword(conn) != 0;
	if (PQsetnonblocking(conn, 1) != 0)
		return CP_CONNECT_FAILED;
	return recorded ? CP_CONNECT_OK : CP_CONNECT_NO_GREETING;
}

CpConnectStatus
cp_remote_connect_step(CpRemote *remote, CpTime deadline, int *events, CpTime *until)
{
	bool left;
	CpConnectStatus status = advance(remote, deadline, &left);

	if (status != CP_CONNECT_GOING)
	{
		end_turns(remote);
		return status == CP_CONNECT_OK ? connected(remote) : status;
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
							   PQsocket(remote->conn), timeout, cp_wait_event(CP_WAIT_CONNECT));
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
		note_peer(remote, fd);
		memcpy(&remote->greeting, greeting, cp_greeting_size(greeting));
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

int
cp_remote_end(CpRemote *remote)
{
	int rest = -1;

	if (remote == NULL)
		return -1;
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

bool
cp_remote_send(CpRemote *remote, const char *sql, int nparams, const Oid *types,
			   const char *const *values)
{
	PGconn *conn = remote->conn;
	int sent;
	int unsent;

	if (nparams < 0)
		sent = PQsendQuery(conn, sql);
	else
		sent = PQsendQueryParams(conn, sql, nparams, types, values, NULL, NULL, 0);
	if (!sent || !PQsetSingleRowMode(conn))
		return false;

	while ((unsent = PQflush(conn)) > 0)
	{
		/* reading too, or each side might wait for the other to read */
		if (!wait_and_read(remote, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE))
			return false;
	}
	return unsent == 0;
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

uint64
cp_remote_changes(CpRemote *remote)
{
	return cp_greeting_changes(&remote->greeting, remote->conn);
}

/* ---- recovering ---- */

typedef enum Drained
{
	DRAINED,	 /* up to ReadyForQuery */
	DRAIN_MORE,	 /* the deadline passed */
	DRAIN_BROKEN /* lost, or in a state with no safe way out */
} Drained;

/*
 * Does the connection survive this result?  An error that did not come from
 * the server (it has no SQLSTATE) means that libpq has lost its place.
 * probing: it is the answer to an empty statement, which a cancel that was
 * late may have hit.
 */
static bool
is_survivable(const PGresult *result, bool probing)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	switch (PQresultStatus(result))
	{
		case PGRES_EMPTY_QUERY:
			return true;
		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_SINGLE_TUPLE:
			return !probing;
		case PGRES_FATAL_ERROR:
			return sqlstate != NULL && (!probing || strcmp(sqlstate, "57014") == 0);
		default:
			return false;
	}
}

/* Reads until PQgetResult() would not block, or the deadline. */
static Drained
read_until_ready(CpRemote *remote, CpTime deadline)
{
	while (is_busy(remote))
	{
		int unsent = PQflush(remote->conn);
		int wanted = POLLIN | (unsent > 0 ? POLLOUT : 0);

		if (unsent < 0 || PQsocket(remote->conn) == PGINVALID_SOCKET)
			return DRAIN_BROKEN;
		if (cp_net_poll(PQsocket(remote->conn), wanted, deadline) == 0 ||
			cp_now() >= deadline)
			return DRAIN_MORE;
		if (!PQconsumeInput(remote->conn))
			return DRAIN_BROKEN;
	}
	return DRAINED;
}

/* Reads what the server sends for the statement that runs, and drops it. */
static Drained
drain(CpRemote *remote, bool probing, CpTime deadline)
{
	for (;;)
	{
		Drained state = read_until_ready(remote, deadline);
		PGresult *result;
		bool survivable;

		if (state != DRAINED)
			return state;
		result = PQgetResult(remote->conn);
		if (result == NULL)
			break;
		survivable = is_survivable(result, probing);
		PQclear(result);
		if (!survivable)
			return DRAIN_BROKEN;
		if (cp_now() >= deadline)
			return DRAIN_MORE;
	}

	switch (PQtransactionStatus(remote->conn))
	{
		case PQTRANS_IDLE:
		case PQTRANS_INTRANS:
		case PQTRANS_INERROR:
			return DRAINED;
		default:
			return DRAIN_BROKEN;
	}
}

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

/*
 * Always in the clear, also for an encrypted connection: servers accept that,
 * and libpq before 17 sends its own no other way.
 */
static bool
request_cancel(CpRemote *remote, CpTime deadline)
{
	uint8 packet[12 + CP_CANCEL_KEY_MAX];
	int size = build_cancel_request(&remote->greeting, packet);
	char byte;
	bool ended = false;
	int sock;

	if (remote->greeting.key_len == 0 || remote->peer_len == 0)
		return false;
	sock = cp_net_connect((struct sockaddr *) &remote->peer, remote->peer_len, deadline);
	if (sock < 0)
		return false;

	/* the end of file says that the server has dealt with it */
	if (send(sock, packet, size, 0) == size &&
		cp_net_poll(sock, POLLIN, deadline) != 0)
		ended = recv(sock, &byte, 1, 0) == 0;
	close(sock);
	explicit_bzero(packet, sizeof(packet));
	return ended;
}

/*
 * Cancels the statement that runs.  That may take effect whenever it likes until
 * the end of file that request_cancel() waits for, and a moment longer, since the
 * server passes it on by a signal.  The empty round trip gives it something to hit
 * that nobody minds.
 */
static bool
stop_statement(CpRemote *remote, CpTime deadline)
{
	return request_cancel(remote, deadline) &&
		drain(remote, false, deadline) == DRAINED &&
		PQsendQuery(remote->conn, "") &&
		drain(remote, true, deadline) == DRAINED;
}

bool
cp_remote_recover(CpRemote *remote, CpTime deadline)
{
	CpTime patience = cp_earlier(deadline, cp_now() + RECOVER_PATIENCE);
	Drained state;
	bool stopped;

	/* when a session dies, what notices were collected in is gone already */
	cp_remote_ignore_notices(remote);
	state = drain(remote, false, patience);
	if (state != DRAIN_MORE)
		return state == DRAINED;

	pgstat_report_wait_start(cp_wait_event(CP_WAIT_CANCEL));
	stopped = stop_statement(remote, deadline);
	pgstat_report_wait_end();
	return stopped;
}

bool
cp_remote_cancel(CpRemote *remote, CpTime deadline)
{
	bool ended;

	pgstat_report_wait_start(cp_wait_event(CP_WAIT_CANCEL));
	ended = request_cancel(remote, deadline);
	pgstat_report_wait_end();
	return ended;
}

/* ---- looking ---- */

void
cp_remote_address(CpRemote *remote, char *buf, size_t size)
{
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr);
	char host[NI_MAXHOST];
	char port[NI_MAXSERV];

	buf[0] = '\0';
	if (PQsocket(remote->conn) == PGINVALID_SOCKET ||
		getpeername(PQsocket(remote->conn), (struct sockaddr *) &addr, &len) < 0)
		return;

	if (addr.ss_family == AF_UNIX)
	{
		/* not terminated when it fills its place; empty for a socket pair */
		size_t path_len = len - offsetof(struct sockaddr_un, sun_path);

		if (len > offsetof(struct sockaddr_un, sun_path))
			snprintf(buf, size, "%.*s", (int) path_len, ((struct sockaddr_un *) &addr)->sun_path);
	}
	else if (getnameinfo((struct sockaddr *) &addr, len, host, sizeof(host), port, sizeof(port),
						 NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		snprintf(buf, size, addr.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}
