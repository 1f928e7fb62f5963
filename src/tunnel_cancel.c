/*
 * tunnel_cancel.c
 *		Cancels of what runs on the connections of a tunnel.
 *
 * Runs in the tunnel, served by its loop.  libpq connects anew for a cancel, and
 * encrypts that as it did the connection; its calls are made in threads.  Only from
 * version 17 on it can: before that, sessions cancel by themselves, in the clear
 * (remote.c), and whoever asks all the same is told no.
 *
 * A cancel goes on when whoever asked has gone: he has given the connection up then,
 * so no other statement can be hit, and the remote one would go on without it.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "utils/memutils.h"

#include "tunnel_internal.h"

#ifdef LIBPQ_HAS_ASYNC_CANCEL

/* longest time for one, milliseconds */
#define CANCEL_LIMIT (60 * 1000)

typedef struct Cancel
{
	CpChore chore;
	CpTunnelClient *client;
	PGcancelConn *conn;
	bool started;
	PostgresPollingStatusType polling;
	CpWatched network;
	CpTime deadline;
	bool over;		 /* but a call in a thread is not */
	CpCaller caller; /* of its calls */
} Cancel;

static void
free_cancel(Cancel *c)
{
	cp_watch_remove(&c->network);
	cp_chore_end(&c->chore);
	PQcancelFinish(c->conn);
	cp_tunnel_drop_client(c->client);
	pfree(c);
}

/* As soon as no call is under way. */
static void
leave(Cancel *c)
{
	if (c->chore.call == NULL || cp_chore_withdraw_call(&c->chore))
	{
		free_cancel(c);
		return;
	}
	cp_chore_set_deadline(&c->chore, CP_FOREVER);
	c->over = true;
}

/* In a thread. */
static void
make_call(void *arg)
{
	Cancel *c = arg;

	if (c->started)
		c->polling = PQcancelPoll(c->conn);
	else
		c->polling = PQcancelStart(c->conn) ? PGRES_POLLING_WRITING : PGRES_POLLING_FAILED;
	c->started = true;
}

static void
call_libpq(Cancel *c)
{
	/* libpq may close its socket, and get another one of the same number */
	cp_watch_remove(&c->network);
	if (cp_chore_call(&c->chore, make_call, c, &c->caller))
		cp_chore_set_deadline(&c->chore, c->deadline);
	else
		leave(c);
}

/* A call is over. */
static void
take_step(Cancel *c)
{
	ssize_t sent;

	switch (c->polling)
	{
		case PGRES_POLLING_READING:
		case PGRES_POLLING_WRITING:
			if (cp_chore_watch(&c->chore, &c->network, PQcancelSocket(c->conn),
							   c->polling == PGRES_POLLING_READING,
							   c->polling == PGRES_POLLING_WRITING))
				cp_chore_set_deadline(&c->chore, c->deadline);
			else
				leave(c);
			return;
		case PGRES_POLLING_OK:
			sent = send(c->client->sock, "", 1, 0);
			(void) sent;
			break;
		default:
			break;
	}
	leave(c);
}

static void
serve_cancel(CpChore *chore, CpTime now)
{
	Cancel *c = (Cancel *) chore;

	if (c->over)
	{
		if (chore->call == NULL)
			free_cancel(c);
	}
	else if (now >= c->deadline)
		leave(c);
	else if (chore->call != NULL)
		cp_chore_set_deadline(chore, c->deadline);
	else if (c->network.fd < 0)
		take_step(c);
	else if (cp_chore_happened(&c->network))
		call_libpq(c);
	else
		cp_chore_set_deadline(chore, c->deadline);
}

void
cp_cancel_begin(CpTunnelClient *client)
{
	int pool;
	PGconn *conn = cp_line_find(client->cancel, &pool);
	Cancel *c;

	if (conn == NULL || client->cancel->timeout == 0)
	{
		cp_tunnel_drop_client(client);
		return;
	}
	c = MemoryContextAllocZero(cp_tunnel_context, sizeof(Cancel));
	cp_chore_begin(&c->chore, serve_cancel);
	c->client = client;
	/* a copy; NULL has libpq's functions fail */
	c->conn = PQcancelCreate(conn);
	c->network.fd = -1;
	/* none of a pool's, whose connects may all hang */
	c->caller = (CpCaller){.owner = -1 - pool, .proven = true};
	c->deadline = cp_deadline(cp_now(), Min(client->cancel->timeout, CANCEL_LIMIT));
	call_libpq(c);
}

#else

void
cp_cancel_begin(CpTunnelClient *client)
{
	cp_tunnel_drop_client(client);
}

#endif
