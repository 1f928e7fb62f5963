/*
 * tunnel_connect.c
 *		Orders become connections.
 *
 * Runs in the tunnel, served by its loop.  An attempt takes the steps of remote.c,
 * the calls between them made in threads.  In the end it answers: with the remote's
 * own socket if the connection is in the clear, with one end of a line if it is
 * encrypted (tunnel_line.c), with an error, or with the advice to do it oneself.
 *
 * Whoever asked may go at any time.  Then, as after a failure, what there is of the
 * connection is ended, and only when nothing is left the order's socket is closed:
 * the asker's permit counts until then.  A call in a thread cannot be stopped, so it
 * may keep an attempt for as long as it likes; the loop never waits for it.
 *
 * An order has passwords: it is freed as soon as libpq needs it no more.
 */
#include "postgres.h"

#include <sys/socket.h>
#include <unistd.h>

#include "utils/memutils.h"

#include "conninfo.h"
#include "net.h"
#include "pump.h"
#include "tunnel_internal.h"

/* connects under way at once */
#define MAX_ATTEMPTS 256
/* how long a call waits for a thread (milliseconds, as all here) */
#define THREAD_PATIENCE 1000
/* how long the remote's end of file is awaited */
#define EOF_TIMEOUT 2000
/* reads in a row of what is thrown away until then */
#define MAX_READS 8

typedef enum AttemptState
{
	ATTEMPT_CONNECTING,
	ATTEMPT_HELD,  /* it is over, but a call in a thread is not */
	ATTEMPT_ENDING /* the remote's end of file is awaited */
} AttemptState;

/* What is wrong with the files that the options name. */
typedef enum FileProblem
{
	FILES_GOOD,
	FILES_LONG,	  /* or without a size: for whoever asks to read */
	FILES_ENDLESS /* perhaps: for nobody */
} FileProblem;

typedef struct Attempt
{
	CpChore chore;
	AttemptState state;
	CpTunnelClient *client; /* with the order; NULL when that is not needed any more */
	int pool;
	uint64 pool_generation;
	Oid party; /* as in the order */
	int sock;  /* the order's */
	CpWatched asker;
	CpRemote *remote;  /* NULL in state ENDING */
	CpTime deadline;   /* of the state */
	CpTime until;	   /* the next step is due then, or when ... */
	CpWatched network; /* ... something happens to libpq's socket, or the rest */
	int rest;		   /* what is left of the connection, in state ENDING */
	FileProblem files; /* why libpq is not called at all */
	int grip;		   /* a duplicate of libpq's socket while it is called, or -1 */
} Attempt;

static int attempt_count = 0;

/* per pool: its generation, once a remote has let us in */
static uint64 *proven;

void
cp_attempt_init(void)
{
	proven = MemoryContextAllocZero(cp_tunnel_context, cp_shared->max_pools * sizeof(uint64));
}

/* ---- the end --------------------------------------------------------------- */

static void
loosen_grip(Attempt *a)
{
	if (a->grip >= 0)
		close(a->grip);
	a->grip = -1;
}

static void
free_attempt(Attempt *a)
{
	loosen_grip(a);
	cp_watch_remove(&a->asker);
	cp_watch_remove(&a->network);
	cp_chore_end(&a->chore);
	if (a->sock >= 0)
		close(a->sock);
	if (a->client != NULL)
		cp_tunnel_drop_client(a->client);
	attempt_count--;
	pfree(a);
}

static void
forget_order(Attempt *a)
{
	if (a->client != NULL)
		cp_tunnel_drop_client(a->client);
	a->client = NULL;
}

/* The remote is to see the end before the order's socket is closed. */
static void
await_end(Attempt *a, CpTime now)
{
	char buffer[8192];
	int reads = 0;
	ssize_t n;

	do
		n = recv(a->rest, buffer, sizeof(buffer), 0);
	while ((n > 0 && ++reads < MAX_READS) || (n < 0 && errno == EINTR));
	/* a remote that sends on and on is not to hold up the others */
	if (n > 0 && now < a->deadline)
	{
		cp_chore_ready(&a->chore);
		return;
	}
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && now < a->deadline)
	{
		a->network.readable = false;
		cp_chore_set_deadline(&a->chore, a->deadline);
		return;
	}
	cp_watch_remove(&a->network);
	shutdown(a->rest, SHUT_RDWR);
	close(a->rest);
	free_attempt(a);
}

/* Nobody wants the connection, whole or half-open. */
static void
end_remote(Attempt *a)
{
	cp_watch_remove(&a->network);
	loosen_grip(a);
	a->rest = cp_remote_end(a->remote);
	a->remote = NULL;
	forget_order(a);
	if (a->rest < 0)
	{
		free_attempt(a);
		return;
	}
	a->state = ATTEMPT_ENDING;
	a->deadline = cp_deadline(cp_now(), EOF_TIMEOUT);
	/* if it cannot be watched its end is found at the deadline */
	(void) cp_chore_watch(&a->chore, &a->network, a->rest, true, false);
	cp_chore_set_deadline(&a->chore, a->deadline);
}

/* There is nothing more to be done but to end the connection. */
static void
leave(Attempt *a)
{
	cp_watch_remove(&a->asker);
	if (a->chore.call != NULL && !cp_chore_withdraw_call(&a->chore))
	{
		a->state = ATTEMPT_HELD;
		if (a->grip >= 0)
			shutdown(a->grip, SHUT_RDWR);
		cp_threads_put_last(a->chore.call);
		cp_chore_set_deadline(&a->chore, CP_FOREVER);
	}
	else
		end_remote(a);
}

/* ---- answers --------------------------------------------------------------- */

/* The last of a text: later hosts have precedence. */
static const char *
tail_of(const char *text, size_t size)
{
	size_t len = strlen(text);

	return len < size ? text : text + len - size + 1;
}

static void
answer_failed(Attempt *a, CpTunnelStatus status, bool needs_password, const char *error)
{
	CpTunnelReply reply = {.status = status, .needs_password = needs_password};

	if (status != CP_TUNNEL_ELSEWHERE)
		pg_atomic_fetch_add_u64(&cp_tunnel_shared->failed, 1);
	/* if he does not get it he has gone */
	(void) cp_tunnel_send_reply(a->sock, &reply, NULL,
								error != NULL ? tail_of(error, CP_TUNNEL_ERROR_MAX) : NULL, -1);
	leave(a);
}

/* Whoever asked may do it himself. */
static void
answer_elsewhere(Attempt *a)
{
	answer_failed(a, CP_TUNNEL_ELSEWHERE, false, NULL);
}

static void
answer_in_clear(Attempt *a)
{
	CpRemote *remote = a->remote;
	CpTunnelReply reply = {.status = CP_TUNNEL_OK, .used_password = remote->used_password};

	if (!cp_tunnel_send_reply(a->sock, &reply, &remote->greeting, NULL, PQsocket(remote->conn)))
	{
		leave(a);
		return;
	}
	pg_atomic_fetch_add_u64(&cp_tunnel_shared->opened, 1);
	cp_remote_let_go(remote);
	free_attempt(a);
}

static void
answer_encrypted(Attempt *a)
{
	CpTunnelReply reply = {.status = CP_TUNNEL_OK, .used_password = a->remote->used_password};
	CpGreeting greeting;
	int other;
	CpLine *line = cp_line_open(a->remote, a->client->order, &greeting, &other);

	a->remote = NULL;
	if (line == NULL)
	{
		answer_elsewhere(a);
		return;
	}
	if (cp_tunnel_send_reply(a->sock, &reply, &greeting, NULL, other))
	{
		pg_atomic_fetch_add_u64(&cp_tunnel_shared->opened, 1);
		close(other);
	}
	else
	{
		cp_line_was_refused(line, other, a->sock);
		a->sock = -1;
	}
	explicit_bzero(&greeting, sizeof(greeting));
	free_attempt(a);
}

static void
connected(Attempt *a, bool has_greeting)
{
	PGconn *conn = a->remote->conn;

	proven[a->pool] = a->pool_generation;
	/* looked at now, or it might be given to somebody who has just gone */
	a->asker.readable = true;
	if (cp_chore_peer_has_gone(&a->asker))
		leave(a);
	else if (!has_greeting || PQgssEncInUse(conn) || (PQsslInUse(conn) && !cp_pump_can(conn)))
		answer_elsewhere(a);
	else if (PQsslInUse(conn))
		answer_encrypted(a);
	else
		answer_in_clear(a);
}

/* A server that wants GSSAPI is to see the credentials of whoever asked. */
static void
failed(Attempt *a, bool timed_out)
{
	CpRemote *remote = a->remote;

	if (remote->wanted_gss)
		answer_elsewhere(a);
	else
		answer_failed(a, timed_out ? CP_TUNNEL_TIMEOUT : CP_TUNNEL_FAILED,
					  remote->needs_password, cp_remote_connect_error(remote));
}

/* ---- going on -------------------------------------------------------------- */

/*
 * A user may name anything for a file with certificates: something that never ends
 * would cost the thread for good.  It is looked at here and not where the order comes
 * from, since there the same name may mean another file: /proc/self/fd/3.
 */
static FileProblem
look_at_files(const CpRemote *remote)
{
	if (!cp_conninfo_tls_files_are_regular(remote->keywords, remote->values))
		return FILES_ENDLESS;
	if (!cp_conninfo_tls_files_are_small(remote->keywords, remote->values))
		return FILES_LONG;
	return FILES_GOOD;
}

/* In a thread. */
static void
make_call(void *arg)
{
	Attempt *a = arg;

	if (a->remote->call == CP_CALL_START)
		a->files = look_at_files(a->remote);
	if (a->files == FILES_GOOD)
		cp_remote_call(a->remote);
}

/*
 * A remote that never stops sending keeps libpq's call going for ever.  By a socket of
 * the same connection it can be broken off; not by libpq's own, which may be another
 * one by then.
 */
static void
take_grip(Attempt *a)
{
	if (a->remote->call == CP_CALL_POLL)
		a->grip = cp_net_dup(PQsocket(a->remote->conn));
}

/* libpq wants to be called, or its socket to be watched. */
static void
prepare_next_step(Attempt *a, int events)
{
	CpRemote *remote = a->remote;
	bool prepared;

	if (remote->call != CP_CALL_NONE)
	{
		CpCaller caller = {
			.owner = a->pool,
			.party = a->party,
			.proven = proven[a->pool] == a->pool_generation,
		};

		take_grip(a);
		prepared = cp_chore_call(&a->chore, make_call, a, &caller);
		a->until = cp_deadline(a->chore.called_at, THREAD_PATIENCE);
	}
	else
		prepared = events == 0 ||
			cp_chore_watch(&a->chore, &a->network, cp_remote_socket(remote),
						   (events & WL_SOCKET_READABLE) != 0,
						   (events & WL_SOCKET_WRITEABLE) != 0);
	if (prepared)
		cp_chore_set_deadline(&a->chore, cp_earlier(a->until, a->deadline));
	else
		answer_elsewhere(a);
}

static void
refuse_files(Attempt *a)
{
	if (a->files == FILES_LONG)
		answer_elsewhere(a);
	else
		answer_failed(a, CP_TUNNEL_FAILED, false,
					  CP_NO_REGULAR_FILE "\n");
}

static void
take_step(Attempt *a)
{
	int events;

	/* libpq may close its socket, and get another one of the same number */
	cp_watch_remove(&a->network);
	loosen_grip(a);
	if (a->files != FILES_GOOD)
	{
		refuse_files(a);
		return;
	}
	switch (cp_remote_connect_step(a->remote, a->deadline, &events, &a->until))
	{
		case CP_CONNECT_GOING:
			prepare_next_step(a, events);
			break;
		case CP_CONNECT_OK:
			connected(a, true);
			break;
		case CP_CONNECT_NO_GREETING:
			connected(a, false);
			break;
		case CP_CONNECT_FAILED:
			failed(a, false);
			break;
		case CP_CONNECT_TIMEOUT:
			failed(a, true);
			break;
		case CP_CONNECT_ELSEWHERE:
			answer_elsewhere(a);
			break;
		case CP_CONNECT_ENCRYPTED:
			Assert(false);
			answer_elsewhere(a);
			break;
	}
}

/* A call that does not end; what libpq has to say of this host is not to be had. */
static void
time_out_call(Attempt *a)
{
	const char *before = a->remote->errors;
	char *error = psprintf("%stimeout expired\n", before != NULL ? before : "");

	answer_failed(a, CP_TUNNEL_TIMEOUT, false, error);
}

/*
 * Its call is not over: has it waited for too long?  If those before it of the same
 * pool hang, it would hang elsewhere, too, where it could not even be cancelled.
 */
static void
await_call(Attempt *a, CpTime now)
{
	if (now >= cp_earlier(a->until, a->deadline) &&
		!cp_threads_waits_for_own(a->chore.call) && cp_chore_withdraw_call(&a->chore))
	{
		answer_elsewhere(a);
		return;
	}
	if (now >= a->deadline)
	{
		time_out_call(a);
		return;
	}
	if (now >= a->until)
		a->until = cp_deadline(now, THREAD_PATIENCE);
	cp_chore_set_deadline(&a->chore, cp_earlier(a->until, a->deadline));
}

static void
go_on(Attempt *a, CpTime now)
{
	if (cp_chore_peer_has_gone(&a->asker))
		leave(a);
	else if (a->chore.call != NULL)
		await_call(a, now);
	else if (a->remote->called || a->files != FILES_GOOD || now >= a->until ||
			 cp_chore_happened(&a->network))
		take_step(a);
	else
		cp_chore_set_deadline(&a->chore, cp_earlier(a->until, a->deadline));
}

static void
serve_attempt(CpChore *chore, CpTime now)
{
	Attempt *a = (Attempt *) chore;

	switch (a->state)
	{
		case ATTEMPT_CONNECTING:
			go_on(a, now);
			break;
		case ATTEMPT_HELD:
			if (chore->call == NULL)
				end_remote(a);
			break;
		case ATTEMPT_ENDING:
			await_end(a, now);
			break;
	}
}

void
cp_attempt_begin(CpTunnelClient *client)
{
	const CpTunnelOrder *order = client->order;
	Attempt *a = MemoryContextAllocZero(cp_tunnel_context, sizeof(Attempt));
	const char *error;

	attempt_count++;
	cp_chore_begin(&a->chore, serve_attempt);
	a->client = client;
	a->sock = client->sock;
	client->sock = -1;
	a->asker.fd = -1;
	a->network.fd = -1;
	a->rest = -1;
	a->grip = -1;
	a->pool = order->pool;
	a->pool_generation = order->pool_generation;
	a->party = order->party;
	a->deadline = cp_deadline(cp_now(), order->timeout);
	if (attempt_count <= MAX_ATTEMPTS && cp_tunnel_has_descriptors(attempt_count) &&
		cp_chore_watch(&a->chore, &a->asker, a->sock, true, false))
		a->remote = cp_remote_prepare(order->keywords, order->values, &error);
	if (a->remote == NULL)
		answer_elsewhere(a);
	else
		take_step(a);
}
