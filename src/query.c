/*
 * query.c
 *		Runs statements on leases and brings their rows home.
 *
 * Runs in client backends, called by the sql_* files, map.c and cursor.c.  Sends,
 * reads to the end, and only then throws what the remote had to say, so that the
 * connection is at rest.  What ends it otherwise (an error of a sink, a cancel)
 * leaves the lease busy: the abort callbacks in lease.c bring the connection to rest
 * or close it, and free the run.  Never gives a lease back, never repeats a statement.
 */
#include "postgres.h"

#include "query.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "error.h"
#include "message.h"
#include "session_state.h"
#include "statement_stats.h"
#include "transaction.h"

/* a message of more bytes makes libpq's buffer, which never shrinks, too big */
#define CP_HUGE_MESSAGE (1024 * 1024)

/* bytes of the statement shown in the context of an error */
#define CP_CONTEXT_SQL 200

/* results taken at a time from a run that is not waited for */
#define CP_BATCH 1000

/* runs for whose connections no memory is allocated when they are waited for */
#define CP_FEW_RUNS 16

/* What ended a run that was lost or failed, if it was not the remote's error. */
typedef enum Fault
{
	FAULT_NONE,
	FAULT_LOST,		   /* the connection broke */
	FAULT_TAKEN,	   /* somebody took the lease away */
	FAULT_COPY,		   /* there is no safe way past it */
	FAULT_TRANSACTION, /* the statement ended the remote transaction */
} Fault;

/* Lives in TopMemoryContext, since it may outlive statements and transactions. */
struct CpRun
{
	CpLease *lease; /* NULL once it is lost */
	uint64 lease_id;
	char pool[CP_POOL_NAME_LEN]; /* its pool's name */
	const char *sql;
	char *own_sql; /* to be freed, or NULL */
	int flags;
	bool was_dirty;

	/* for the statistics */
	CpAccount account;
	CpTime sent_at; /* 0: not sent */
	int64 rows;
	bool counted;

	CpRunStatus status;
	bool being_read;
	Fault fault;
	char *why;						  /* it was lost; to be freed, or NULL */
	bool in_set;					  /* the sink has begun a result set */
	int results;					  /* of statements that have ended */
	char tag[COMPLETION_TAG_BUFSIZE]; /* of the last of them */
	bool had_columns;				  /* the last of them */

	/* malloc'd */
	PGresult *result; /* in hand */
	PGresult *error;  /* the first */
	CpNotices notices;
};

/* a run between two uses, so that a statement need not allocate one */
static CpRun *spare = NULL;

static void
query_context(void *arg)
{
	CpRun *run = arg;
	int len = strnlen(run->sql, CP_CONTEXT_SQL + 1);

	if (run->flags & CP_RUN_NO_CONTEXT)
		return;
	if (len <= CP_CONTEXT_SQL)
		errcontext("remote query on pool \"%s\": %s", run->pool, run->sql);
	else
		errcontext("remote query on pool \"%s\": %.*s...", run->pool,
				   pg_mbcliplen(run->sql, len, CP_CONTEXT_SQL), run->sql);
}

/* ---- its life ---- */

static CpRun *
new_run(CpLease *lease, const char *sql, int flags, bool copy)
{
	CpRun *run = spare;

	spare = NULL;
	if (run == NULL)
		run = MemoryContextAlloc(TopMemoryContext, sizeof(CpRun));
	memset(run, 0, sizeof(*run));
	run->lease = lease;
	run->lease_id = lease->id;
	memcpy(run->pool, lease->pool_name, CP_POOL_NAME_LEN);
	run->sql = sql;
	run->flags = flags;
	cp_lease_account(lease, &run->account);
	/* last: whoever has no memory for it loses nothing but the run */
	if (copy)
		run->sql = run->own_sql = MemoryContextStrdup(TopMemoryContext, sql);
	return run;
}

/* Nobody hears of notices any more, and nothing more is taken. */
static void
stop_reading(CpRun *run)
{
	if (run->lease != NULL && run->lease->remote != NULL)
		cp_remote_ignore_notices(run->lease->remote);
	cp_message_free_notices(&run->notices);
	PQclear(run->result);
	run->result = NULL;
}

void
cp_run_free(CpRun *run)
{
	stop_reading(run);
	PQclear(run->error);
	run->error = NULL;
	if (run->lease != NULL && run->lease->run == run)
		run->lease->run = NULL;
	if (run->own_sql)
		pfree(run->own_sql);
	if (run->why)
		pfree(run->why);
	if (spare == NULL)
		spare = run;
	else
		pfree(run);
}

/* ---- counting ---- */

/* failed: within PG_CATCH */
static void
count(CpRun *run, bool failed)
{
	CpTime taken = run->sent_at != 0 ? cp_now() - run->sent_at : 0;

	if (run->counted)
		return;
	run->counted = true;
	cp_lease_count_statement(&run->account, run->sent_at != 0, failed, taken, run->rows);
}

void
cp_run_abandon(CpRun *run)
{
	/* nothing that may throw: a statement not yet known is not counted */
	if (!run->counted && run->sent_at != 0)
	{
		CpStatementKey key = {
			.pool = run->account.pool,
			.role = run->account.role,
			.query_id = cp_my_query_id(),
		};
		CpStatementCounters counters = {
			.calls = 1,
			.rows = run->rows,
			.wait_time = run->account.wait,
			.remote_time = cp_now() - run->sent_at,
			.max_remote_time = cp_now() - run->sent_at,
		};

		(void) cp_statement_stats_bump(&key, run->account.pool_name, &counters);
	}
	cp_run_free(run);
}

/* ---- how it ends ---- */

/* The connection cannot be used again: gives it up. */
static void
lose(CpRun *run, Fault fault)
{
	CpLease *lease = run->lease;
	char *why = NULL;

	if (fault == FAULT_LOST)
		why = cp_message_why_lost(lease->remote->conn, run->error);
	run->status = CP_RUN_LOST;
	run->fault = fault;
	if (why != NULL)
		run->why = MemoryContextStrdup(TopMemoryContext, why);
	stop_reading(run);
	if (lease->run == run)
		lease->run = NULL;
	run->lease = NULL;
	if (fault != FAULT_TAKEN)
		lease->usage.query_errors++;
	if (fault == FAULT_COPY)
		lease->beyond_recovery = true;
	cp_lease_lost(lease);
}

/*
 * Decides whether the connection needs a reset.  It was marked so before the
 * first byte; the mark is taken back only when the statement is known to have
 * left nothing behind.
 */
static void
note_session_state(CpRun *run)
{
	CpLease *lease = run->lease;
	PGconn *conn = lease->remote->conn;
	PGnotify *notify;

	/* its holder may want to see notifications; checkin will look for them */
	if (lease->is_explicit)
		return;
	/* someone listens, even if no tag has said so */
	while ((notify = PQnotifies(conn)) != NULL)
	{
		PQfreemem(notify);
		lease->listened = true;
	}

	if (run->was_dirty)
		return;
	if (run->error == NULL && run->results == 1 &&
		cp_session_state_is_clean(run->tag, run->had_columns, run->sql) &&
		cp_remote_changes(lease->remote) == 0)
		lease->dirty = false;
}

/*
 * A server that was primary when the connection was opened, and cannot be
 * written to any more, is not the one that was asked for.  But a transaction may be
 * read-only by itself.
 */
static void
note_misplaced(CpRun *run)
{
	const char *sqlstate = run->error ? PQresultErrorField(run->error, PG_DIAG_SQLSTATE) : NULL;

	if (run->lease->wants_primary && sqlstate != NULL && strcmp(sqlstate, "25006") == 0 &&
		!cp_transaction_is_open(run->lease))
		run->lease->misplaced = true;
}

/* Everything has been read. */
static void
finish(CpRun *run)
{
	CpLease *lease = run->lease;

	if (PQstatus(lease->remote->conn) != CONNECTION_OK ||
		(run->error != NULL && !cp_message_is_servers(run->error)))
	{
		lose(run, FAULT_LOST);
		return;
	}

	note_session_state(run);
	note_misplaced(run);
	if (run->error == NULL && !cp_transaction_holds(lease))
		run->fault = FAULT_TRANSACTION;
	run->status = run->error != NULL || run->fault != FAULT_NONE ? CP_RUN_FAILED : CP_RUN_DONE;
	if (run->status == CP_RUN_FAILED)
		lease->usage.query_errors++;
	cp_remote_ignore_notices(lease->remote);
	cp_lease_statement_ends(lease);
}

/* ---- what comes back ---- */

/* A result with columns: the start, rows or the end of a result set. */
static void
take_rows(CpRun *run, CpSink *sink)
{
	int rows = PQntuples(run->result);

	run->rows += rows;
	run->lease->usage.rows += rows;
	if (PQresultMemorySize(run->result) > CP_HUGE_MESSAGE)
		run->lease->huge = true;
	if (sink == NULL)
		return;

	if (!run->in_set)
	{
		sink->begin(sink, run->lease->remote->conn, run->result);
		run->in_set = true;
	}
	for (int row = 0; row < rows; row++)
		sink->row(sink, run->result, row);
}

/* Does the text have that word, in letters of any case? */
static bool
mentions(const char *text, const char *word)
{
	size_t len = strlen(word);

	for (; *text != '\0'; text++)
	{
		if (pg_strncasecmp(text, word, len) == 0)
			return true;
	}
	return false;
}

/*
 * The statement that has just ended: does it say that the remote transaction is not the
 * one that we have begun any more, though there is one?  ROLLBACK TO has the same tag as
 * ROLLBACK AND CHAIN.
 */
static bool
is_another_transaction(const CpRun *run)
{
	if (strcmp(run->tag, "ROLLBACK") == 0)
		return mentions(run->sql, "chain");
	if (strcmp(run->tag, "BEGIN") == 0 || strcmp(run->tag, "START TRANSACTION") == 0)
		return run->results > 1;
	return strcmp(run->tag, "COMMIT") == 0;
}

/* A statement has ended well. */
static void
take_end(CpRun *run, CpSink *sink, bool had_columns)
{
	strlcpy(run->tag, cp_message_valid_text(PQcmdStatus(run->result)), sizeof(run->tag));
	run->had_columns = had_columns;
	run->in_set = false;
	run->results++;
	if (cp_transaction_is_open(run->lease) && is_another_transaction(run))
		run->fault = FAULT_TRANSACTION;
	if (!had_columns)
	{
		int64 rows = strtoll(PQcmdTuples(run->result), NULL, 10);

		run->rows += rows;
		run->lease->usage.rows += rows;
	}
	if (strcmp(run->tag, "LISTEN") == 0)
		run->lease->listened = true;
	if (sink != NULL && sink->end != NULL)
		sink->end(sink, run->tag, had_columns);
}

/* True: a statement has ended with it. */
static bool
take_result(CpRun *run, CpSink *sink)
{
	switch (PQresultStatus(run->result))
	{
		case PGRES_SINGLE_TUPLE:
#ifdef LIBPQ_HAS_CHUNK_MODE
		case PGRES_TUPLES_CHUNK:
#endif
			take_rows(run, sink);
			return false;
		case PGRES_TUPLES_OK:
			take_rows(run, sink);
			take_end(run, sink, true);
			return true;
		case PGRES_COMMAND_OK:
		case PGRES_EMPTY_QUERY:
			take_end(run, sink, false);
			return true;
		case PGRES_COPY_IN:
		case PGRES_COPY_OUT:
		case PGRES_COPY_BOTH:
			lose(run, FAULT_COPY);
			return true;
		default:
			/* what follows an error is of no interest */
			if (run->error == NULL)
			{
				run->error = run->result;
				run->result = NULL;
			}
			return false;
	}
}

static void
read_results(CpRun *run, CpSink *sink, bool wait)
{
	CpRemote *remote = run->lease->remote;

	for (int taken = 0;; taken++)
	{
		bool ended;

		if (!wait && (taken >= CP_BATCH || !cp_remote_has_result(remote)))
			return;
		run->result = cp_remote_next_result(remote);
		if (run->result == NULL)
			break;
		CHECK_FOR_INTERRUPTS();
		cp_message_report_notices(&run->notices);
		ended = take_result(run, sink);
		PQclear(run->result);
		run->result = NULL;
		if (run->status != CP_RUN_GOING || (ended && (run->flags & CP_RUN_STEPWISE)))
			return;
	}
	cp_message_report_notices(&run->notices);
	finish(run);
}

/* A sink calls input functions, and so what a domain's CHECK calls. */
void
cp_run_refuse_if_read(const CpRun *run)
{
	if (run->being_read)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the result of a statement on pool \"%s\" is being read already",
						run->pool)));
}

CpRunStatus
cp_run_read(CpRun *run, CpSink *sink, bool wait)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = query_context,
		.arg = run,
	};
	int level;

	if (run->status != CP_RUN_GOING)
		return run->status;
	cp_run_refuse_if_read(run);
	run->being_read = true;

	/* if it throws here, then the statement is this (sub)transaction's to stop */
	level = run->lease->busy_level;
	run->lease->busy_level = GetCurrentTransactionNestLevel();
	error_context_stack = &context;
	PG_TRY();
	{
		read_results(run, sink, wait);
	}
	PG_CATCH();
	{
		run->being_read = false;
		stop_reading(run);
		count(run, true);
		PG_RE_THROW();
	}
	PG_END_TRY();
	error_context_stack = context.previous;
	run->being_read = false;

	if (run->lease != NULL)
		run->lease->busy_level = level;
	if (run->status == CP_RUN_DONE)
		count(run, false);
	return run->status;
}

bool
cp_run_is_ready(CpRun *run)
{
	return run->status != CP_RUN_GOING || cp_remote_has_result(run->lease->remote);
}

int
cp_run_wait_any(CpRun *const *runs, int n, CpTime deadline, bool wakes)
{
	CpRemote *few[CP_FEW_RUNS];
	CpRemote **remotes = n > CP_FEW_RUNS ? palloc(n * sizeof(CpRemote *)) : few;
	int ready = -1;

	for (;;)
	{
		for (int i = 0; i < n && ready < 0; i++)
		{
			if (cp_run_is_ready(runs[i]))
				ready = i;
			else
				remotes[i] = runs[i]->lease->remote;
		}
		if (ready >= 0 || cp_now() >= deadline)
			break;
		if (cp_remote_wait_any(remotes, n, deadline) & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
			if (wakes)
				break;
		}
	}
	if (remotes != few)
		pfree(remotes);
	return ready;
}

/* ---- errors ---- */

const PGresult *
cp_run_error(const CpRun *run)
{
	return run->error;
}

const char *
cp_run_tag(const CpRun *run)
{
	return run->tag;
}

/* Throws what it failed with. */
pg_noreturn static void
throw_failure(CpRun *run)
{
	switch (run->fault)
	{
		case FAULT_COPY:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("COPY to or from the client is not supported in a remote query"),
					 errdetail("The connection was closed."),
					 errhint("Use COPY with a file or a program on the remote server, or a query "
							 "instead.")));
			break;
		case FAULT_TRANSACTION:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
					 errmsg("the remote transaction on pool \"%s\" was ended by the statement",
							run->pool),
					 errdetail("It belongs to the local transaction, and ends with it."),
					 errhint("To end remote transactions yourself, take a lease of scope "
							 "\"session\" with conpool.checkout().")));
			break;
		case FAULT_TAKEN:
		case FAULT_LOST:
			cp_lease_throw_if_reclaimed(run->lease_id, run->pool);
			cp_message_throw_lost(run->pool, run->why ? run->why : "the lease was taken away");
			break;
		case FAULT_NONE:
			break;
	}
	cp_message_throw_error(run->pool, run->error);
}

void
cp_run_throw(CpRun *run)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = query_context,
		.arg = run,
	};

	error_context_stack = &context;
	PG_TRY();
	{
		throw_failure(run);
	}
	PG_CATCH();
	{
		count(run, true);
		cp_run_free(run);
		PG_RE_THROW();
	}
	PG_END_TRY();
	pg_unreachable();
}

/* Nothing but ereport() throws in here, so the error can be caught and dropped. */
void
cp_run_failure(CpRun *run, int *sqlstate, char **message)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		throw_failure(run);
	}
	PG_CATCH();
	{
		ErrorData *error;

		count(run, true);
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		*sqlstate = error->sqlerrcode;
		*message = error->message;
	}
	PG_END_TRY();
}

/* ---- the statement ---- */

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

/* Throws if it could not be sent. */
static void
send_statement(CpRun *run, const CpParams *params)
{
	CpLease *lease = run->lease;
	CpRemote *remote;
	bool sent;

	if (lease->scope == CP_SCOPE_TRANSACTION)
	{
		/* if that throws, the lease may be gone */
		run->lease = NULL;
		cp_transaction_enter(lease);
		run->lease = lease;
	}
	run->was_dirty = lease->dirty;
	lease->dirty = true;
	if (is_huge(run->sql, params))
		lease->huge = true;
	if (!cp_lease_statement_begins(lease))
	{
		/* somebody has taken the lease away since it was looked at last */
		lose(run, FAULT_TAKEN);
		throw_failure(run);
	}
	lease->usage.queries++;
	run->sent_at = cp_now();
	remote = lease->remote;
	if (!(run->flags & CP_RUN_NO_NOTICES))
		cp_message_collect_notices(remote->conn, &run->notices);

	if (run->flags & CP_RUN_WHOLE)
		sent = cp_remote_send_whole(remote, run->sql, params->count, params->types,
									params->values);
	else
		sent = cp_remote_send(remote, run->sql, params->count, params->types, params->values);
	if (!sent)
	{
		lose(run, FAULT_LOST);
		throw_failure(run);
	}
}

/* The same; on an error there is no run any more. */
static pg_noinline void
try_to_send(CpRun *run, const CpParams *params)
{
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = query_context,
		.arg = run,
	};

	error_context_stack = &context;
	PG_TRY();
	{
		send_statement(run, params);
	}
	PG_CATCH();
	{
		count(run, true);
		cp_run_free(run);
		PG_RE_THROW();
	}
	PG_END_TRY();
	error_context_stack = context.previous;
}

static CpRun *
start(CpLease *lease, const char *sql, const CpParams *params, int flags, bool copy)
{
	CpRun *run = new_run(lease, sql, flags, copy);

	try_to_send(run, params);
	lease->run = run;
	return run;
}

CpRun *
cp_run_start(CpLease *lease, const char *sql, const CpParams *params, int flags)
{
	return start(lease, sql, params, flags, true);
}

char *
cp_query_run(CpLease *lease, const char *sql, const CpParams *params, CpSink *sink)
{
	CpRun *run = start(lease, sql, params, 0, false);
	char *tag;

	if (cp_run_read(run, sink, true) != CP_RUN_DONE)
		cp_run_throw(run);
	tag = pstrdup(run->tag);
	cp_run_free(run);
	return tag;
}
