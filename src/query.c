/*
 * query.c
 *		Runs one statement on a lease and brings its rows home.
 *
 * Runs in client backends, called by sql_query.c.  Sends, reads to the end,
 * and only then throws what the remote had to say, so that the connection is
 * at rest.  What ends it otherwise (an error of a sink, a cancel) leaves the
 * lease busy: the abort callbacks in lease.c bring the connection to rest or
 * close it.  Never gives a lease back, never repeats a statement.
 */
#include "postgres.h"

#include "query.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "error.h"
#include "message.h"
#include "session_state.h"

/* a message of more bytes makes libpq's buffer, which never shrinks, too big */
#define CP_HUGE_MESSAGE (1024 * 1024)

/* bytes of the statement shown in the context of an error */
#define CP_CONTEXT_SQL 200

/* One statement (or several in one text) on its way. */
typedef struct Run
{
	CpLease *lease;	  /* NULL once it is lost */
	const char *pool; /* its pool's name */
	const char *sql;
	CpSink *sink;
	bool was_dirty;

	/* for the statistics */
	CpAccount account;
	CpTime sent_at; /* 0: not sent */
	int64 rows;

	bool in_set;	  /* the sink has begun a result set */
	int results;	  /* of statements that have ended */
	char *tag;		  /* of the last of them */
	bool had_columns; /* the last of them */

	/* to be freed in any case: malloc'd */
	PGresult *result; /* in hand */
	PGresult *error;  /* the first */
	CpNotices notices;
} Run;

static void
query_context(void *arg)
{
	Run *run = arg;
	int len = strnlen(run->sql, CP_CONTEXT_SQL + 1);

	if (len <= CP_CONTEXT_SQL)
		errcontext("remote query on pool \"%s\": %s", run->pool, run->sql);
	else
		errcontext("remote query on pool \"%s\": %.*s...", run->pool,
				   pg_mbcliplen(run->sql, len, CP_CONTEXT_SQL), run->sql);
}

/* ---- how it ends ---- */

/* The connection cannot be used again: gives it up. */
static void
lose(Run *run)
{
	CpLease *lease = run->lease;

	run->pool = pstrdup(run->pool);
	run->lease = NULL;
	lease->usage.query_errors++;
	cp_lease_lost(lease);
}

static void
throw_lost(Run *run)
{
	char *why = cp_message_why_lost(run->lease->remote->conn, run->error);
	uint64 id = run->lease->id;

	lose(run);
	cp_lease_throw_if_reclaimed(id, run->pool);
	cp_message_throw_lost(run->pool, why);
}

/* There is no safe way past COPY, so it ends the connection. */
static void
refuse_copy(Run *run)
{
	run->lease->beyond_recovery = true;
	lose(run);
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("COPY to or from the client is not supported in a remote query"),
			 errdetail("The connection was closed."),
			 errhint("Use COPY with a file or a program on the remote server, or a query "
					 "instead.")));
}

/*
 * Decides whether the connection needs a reset.  It was marked so before the
 * first byte; the mark is taken back only when the statement is known to have
 * left nothing behind.
 */
static void
note_session_state(Run *run)
{
	CpLease *lease = run->lease;
	PGconn *conn = lease->remote->conn;
	PGnotify *notify;

	/* someone listens, even if no tag has said so */
	while ((notify = PQnotifies(conn)) != NULL)
	{
		PQfreemem(notify);
		lease->listened = true;
	}

	if (run->was_dirty || lease->is_explicit)
		return;
	if (run->error == NULL && run->results == 1 &&
		cp_session_state_is_clean(run->tag, run->had_columns, run->sql) &&
		cp_remote_changes(lease->remote) == 0)
		lease->dirty = false;
}

/*
 * A server that was primary when the connection was opened, and cannot be
 * written to any more, is not the one that was asked for.
 */
static void
note_misplaced(Run *run)
{
	const char *sqlstate = run->error ? PQresultErrorField(run->error, PG_DIAG_SQLSTATE) : NULL;

	if (run->lease->wants_primary && sqlstate != NULL &&
		strcmp(sqlstate, "25006") == 0)
		run->lease->misplaced = true;
}

/* Everything has been read. */
static void
finish(Run *run)
{
	CpLease *lease = run->lease;

	if (PQstatus(lease->remote->conn) != CONNECTION_OK ||
		(run->error != NULL && !cp_message_is_servers(run->error)))
		throw_lost(run);

	note_session_state(run);
	note_misplaced(run);
	if (run->error != NULL)
		lease->usage.query_errors++;
	cp_lease_statement_ends(lease);
	if (run->error != NULL)
		cp_message_throw_error(run->pool, run->error);
}

/* ---- what comes back ---- */

/* A result with columns: the start, rows or the end of a result set. */
static void
take_rows(Run *run)
{
	int count = PQntuples(run->result);

	run->rows += count;
	run->lease->usage.rows += count;
	if (PQresultMemorySize(run->result) > CP_HUGE_MESSAGE)
		run->lease->huge = true;
	if (run->sink == NULL)
		return;

	if (!run->in_set)
	{
		run->sink->begin(run->sink, run->lease->remote->conn, run->result);
		run->in_set = true;
	}
	for (int row = 0; row < count; row++)
		run->sink->row(run->sink, run->result, row);
}

/* A statement has ended well. */
static void
take_end(Run *run, bool had_columns)
{
	if (run->tag != NULL)
		pfree(run->tag);
	run->tag = pstrdup(cp_message_valid_text(PQcmdStatus(run->result)));
	run->had_columns = had_columns;
	run->in_set = false;
	run->results++;
	if (!had_columns)
	{
		int64 rows = strtoll(PQcmdTuples(run->result), NULL, 10);

		run->rows += rows;
		run->lease->usage.rows += rows;
	}
	if (strcmp(run->tag, "LISTEN") == 0)
		run->lease->listened = true;
}

static void
take_result(Run *run)
{
	switch (PQresultStatus(run->result))
	{
		case PGRES_SINGLE_TUPLE:
#ifdef LIBPQ_HAS_CHUNK_MODE
		case PGRES_TUPLES_CHUNK:
#endif
			take_rows(run);
			break;
		case PGRES_TUPLES_OK:
			take_rows(run);
			take_end(run, true);
			break;
		case PGRES_COMMAND_OK:
		case PGRES_EMPTY_QUERY:
			take_end(run, false);
			break;
		case PGRES_COPY_IN:
		case PGRES_COPY_OUT:
		case PGRES_COPY_BOTH:
			refuse_copy(run);
			break;
		default:
			/* what follows an error is of no interest */
			if (run->error == NULL)
			{
				run->error = run->result;
				run->result = NULL;
			}
			break;
	}
}

/* ---- the statement ---- */

/* Somebody has taken the lease away since it was looked at last. */
static void
throw_reclaimed(Run *run)
{
	CpLease *lease = run->lease;
	uint64 id = lease->id;

	run->pool = pstrdup(run->pool);
	run->lease = NULL;
	cp_lease_lost(lease);
	cp_lease_throw_if_reclaimed(id, run->pool);
	cp_message_throw_lost(run->pool, "the lease was taken away");
}

/* Is what is sent so long that libpq's buffer should not be kept? */
static bool
is_huge(const char *sql, const CpParams *params)
{
	size_t bytes = strlen(sql);

	for (int i = 0; i < params->count; i++)
	{
		if (params->values[i] != NULL)
			bytes += strlen(params->values[i]);
	}
	return bytes > CP_HUGE_MESSAGE;
}

static void
run_statement(Run *run, const CpParams *params)
{
	CpRemote *remote = run->lease->remote;

	run->was_dirty = run->lease->dirty;
	run->lease->dirty = true;
	if (is_huge(run->sql, params))
		run->lease->huge = true;
	if (!cp_lease_statement_begins(run->lease))
		throw_reclaimed(run);
	run->lease->usage.queries++;
	run->sent_at = cp_now();
	cp_message_collect_notices(remote->conn, &run->notices);

	if (!cp_remote_send(remote, run->sql, params->count, params->types, params->values))
		throw_lost(run);
	while ((run->result = cp_remote_next_result(remote)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		cp_message_report_notices(&run->notices);
		take_result(run);
		PQclear(run->result);
		run->result = NULL;
	}
	cp_message_report_notices(&run->notices);
	finish(run);
}

/* failed: within PG_CATCH */
static void
count(Run *run, bool failed)
{
	CpTime taken = run->sent_at != 0 ? cp_now() - run->sent_at : 0;

	cp_lease_count_statement(&run->account, run->sent_at != 0, failed, taken, run->rows);
}

/* Frees what outlives a memory context.  Does not throw. */
static void
release(Run *run)
{
	if (run->lease != NULL && run->lease->remote != NULL)
		cp_remote_ignore_notices(run->lease->remote);
	cp_message_free_notices(&run->notices);
	PQclear(run->result);
	PQclear(run->error);
}

char *
cp_query_run(CpLease *lease, const char *sql, const CpParams *params, CpSink *sink)
{
	/* not on the stack: it changes between setjmp and longjmp */
	Run *run = palloc0(sizeof(Run));
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = query_context,
		.arg = run,
	};

	run->lease = lease;
	run->pool = lease->pool_name;
	run->sql = sql;
	run->sink = sink;
	cp_lease_account(lease, &run->account);

	error_context_stack = &context;
	PG_TRY();
	{
		run_statement(run, params);
	}
	PG_CATCH();
	{
		release(run);
		count(run, true);
		PG_RE_THROW();
	}
	PG_END_TRY();
	release(run);
	count(run, false);
	error_context_stack = context.previous;

	return run->tag != NULL ? run->tag : pstrdup("");
}
