/*
 * settle.c
 *		Brings connections to rest, many at a time.
 *
 * Runs in client backends, called by whoever ends leases, mostly in abort.  Must never
 * throw, serve interrupts or allocate, nor be longer about it than the deadline,
 * whatever the remotes do.
 *
 * Each connection is in a stage and goes on by steps that wait for nothing; one
 * poll() waits for all of them.  What a remote has sent is taken a bufferful at a time,
 * so that one which never stops sending keeps us neither from the others nor from the
 * clock.
 */
#include "postgres.h"

#include "settle.h"

#include <poll.h>

#include "pgstat.h"
#include "wait_events.h"

/* connections that are settled at the same time; those behind wait until one is */
#define WINDOW 64

/* how long the rest of a result is read before it is cancelled, microseconds */
#define RECOVER_PATIENCE 5000

/*
 * How long after a cancel until the next one, microseconds: it hits nothing while the
 * server has not got the whole statement yet.
 */
#define CANCEL_AGAIN 200000

/* how long until we look again where no poll() tells of everything, microseconds */
#define PAUSE 5000

/* The stages, in order; but from DRAIN it may go back to CANCEL. */
enum
{
	STAGE_NEW,
	STAGE_PATIENCE, /* the statement may end by itself */
	STAGE_CANCEL,	/* the server is asked to cancel it */
	STAGE_DRAIN,	/* the server has: what it still sends is read */
	STAGE_PROBE,	/* an empty statement runs: something to hit for a late cancel */
	STAGE_THEN,		/* `then` runs */
	STAGE_OVER
};

static void
finish(CpSettling *s, bool at_rest)
{
	cp_remote_cancel_drop(&s->cancel);
	s->at_rest = at_rest;
	s->stage = STAGE_OVER;
}

static bool
is_idle(const CpSettling *s)
{
	switch (PQtransactionStatus(s->remote->conn))
	{
		case PQTRANS_IDLE:
		case PQTRANS_INTRANS:
		case PQTRANS_INERROR:
			return true;
		default:
			return false;
	}
}

static void
send_query(CpSettling *s, const char *sql, int stage)
{
	s->stage = stage;
	if (!PQsendQuery(s->remote->conn, sql))
		finish(s, false);
}

/* Nothing runs any more, and no cancel is on its way. */
static void
go_on_to_then(CpSettling *s)
{
	if (s->then == NULL)
		finish(s, is_idle(s));
	else
		send_query(s, s->then, STAGE_THEN);
}

static void
begin(CpSettling *s)
{
	/* when a session dies, what notices were collected in is gone already */
	cp_remote_ignore_notices(s->remote);
	if (s->running)
	{
		s->stage = STAGE_PATIENCE;
		s->patience = cp_now() + RECOVER_PATIENCE;
	}
	else
		go_on_to_then(s);
}

/*
 * A cancel may take effect whenever it likes until the end of file that is waited for
 * here, and a moment longer, since the server passes it on by a signal.  After that
 * the probe gives it something to hit that nobody minds.
 */
static void
ask_to_cancel(CpSettling *s, CpTime deadline)
{
	switch (cp_remote_cancel_step(s->remote, &s->cancel, deadline))
	{
		case CP_CANCEL_GOING:
			break;
		case CP_CANCEL_DONE:
			s->stage = STAGE_DRAIN;
			s->patience = cp_now() + CANCEL_AGAIN;
			break;
		case CP_CANCEL_FAILED:
			finish(s, false);
			break;
	}
}

/*
 * Does the connection survive this result?  An error that did not come from the
 * server (it has no SQLSTATE) means that libpq has lost its place.
 */
static bool
is_survivable(const PGresult *result, int stage)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	bool probing = stage == STAGE_PROBE;

	if (stage == STAGE_THEN)
		return PQresultStatus(result) == PGRES_COMMAND_OK;
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

/* What was sent has ended, up to ReadyForQuery. */
static void
statement_ended(CpSettling *s)
{
	if (!is_idle(s))
		finish(s, false);
	else if (s->stage == STAGE_DRAIN)
		send_query(s, "", STAGE_PROBE);
	else if (s->stage == STAGE_THEN)
		finish(s, true);
	else
		go_on_to_then(s);
}

/* Takes what has come, and drops it. */
static void
read_on(CpSettling *s, CpTime deadline)
{
	PGconn *conn = s->remote->conn;

	if (!PQconsumeInput(conn))
	{
		finish(s, false);
		return;
	}
	while (!PQisBusy(conn))
	{
		PGresult *result = PQgetResult(conn);
		bool survivable;

		if (result == NULL)
		{
			statement_ended(s);
			return;
		}
		survivable = is_survivable(result, s->stage);
		PQclear(result);
		if (!survivable)
		{
			finish(s, false);
			return;
		}
		if (cp_now() >= deadline)
			return;
	}
	if ((s->stage == STAGE_PATIENCE || s->stage == STAGE_DRAIN) && cp_now() >= s->patience)
		s->stage = STAGE_CANCEL;
}

/* Goes on as far as it can without waiting. */
static void
advance(CpSettling *s, CpTime deadline)
{
	int before;

	do
	{
		before = s->stage;
		switch (before)
		{
			case STAGE_NEW:
				begin(s);
				break;
			case STAGE_CANCEL:
				ask_to_cancel(s, deadline);
				break;
			case STAGE_OVER:
				break;
			default:
				read_on(s, deadline);
				break;
		}
	} while (s->stage != before);
}

/*
 * What it waits for.  Returns until when at the latest: a socket that there is none of
 * says nothing, and the TLS library may hold bytes that no wait would tell of.
 */
static CpTime
prepare_wait(const CpSettling *s, struct pollfd *wait)
{
	CpTime until = CP_FOREVER;

	if (s->stage == STAGE_CANCEL)
	{
		wait->fd = s->cancel.sock;
		wait->events = s->cancel.asked ? POLLIN : POLLOUT;
		return wait->fd < 0 ? cp_now() + PAUSE : until;
	}
	/* the statement may not have been sent entirely */
	wait->events = POLLIN | (PQflush(s->remote->conn) > 0 ? POLLOUT : 0);
	wait->fd = PQsocket(s->remote->conn);
	if (s->stage == STAGE_PATIENCE || s->stage == STAGE_DRAIN)
		until = s->patience;
	if (s->remote->encrypted || wait->fd < 0)
		until = cp_earlier(until, cp_now() + PAUSE);
	return until;
}

/* Until something happens to one of them, or it is time to look. */
static void
wait_for_some(CpSettling *const *window, int n, CpTime deadline)
{
	struct pollfd waits[WINDOW];
	CpTime until = deadline;

	for (int i = 0; i < n; i++)
		until = cp_earlier(until, prepare_wait(window[i], &waits[i]));
	if (poll(waits, n, (int) cp_timeout_ms(until)) < 0 && errno != EINTR)
		pg_usleep(PAUSE);
}

/*
 * Has the first ones that are not settled take their steps.  Returns how many still
 * are not, in `window`: 0 only if all are.
 */
static int
advance_some(dlist_head *settlings, CpSettling **window, CpTime deadline)
{
	dlist_iter iter;
	int n = 0;

	dlist_foreach(iter, settlings)
	{
		CpSettling *s = dlist_container(CpSettling, node, iter.cur);

		if (n == WINDOW)
			break;
		advance(s, deadline);
		if (s->stage != STAGE_OVER)
			window[n++] = s;
	}
	return n;
}

void
cp_settle(dlist_head *settlings, CpTime deadline)
{
	CpSettling *window[WINDOW];
	dlist_iter iter;
	int n;

	dlist_foreach(iter, settlings)
	{
		CpSettling *s = dlist_container(CpSettling, node, iter.cur);

		s->stage = STAGE_NEW;
		s->cancel = CP_NO_CANCEL;
		s->at_rest = false;
	}

	pgstat_report_wait_start(cp_wait_event(CP_WAIT_CANCEL));
	while ((n = advance_some(settlings, window, deadline)) > 0 && cp_now() < deadline)
		wait_for_some(window, n, deadline);
	pgstat_report_wait_end();

	dlist_foreach(iter, settlings)
	{
		CpSettling *s = dlist_container(CpSettling, node, iter.cur);

		if (s->stage != STAGE_OVER)
			finish(s, false);
	}
}
