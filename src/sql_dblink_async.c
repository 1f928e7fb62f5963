/*
 * sql_dblink_async.c
 *		dblink's functions for what goes on remotely meanwhile: send_query, is_busy,
 *		get_result, cancel_query, error_message, get_notify.
 *
 * Runs in client backends.  A query that was sent is a request of its connection's
 * lease, and no end of a transaction touches it; only its result says when it is over.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "compat.h"
#include "message.h"
#include "rows_dblink.h"
#include "shmem.h"
#include "sql_dblink_run.h"

PG_FUNCTION_INFO_V1(conpool_dblink_send_query);
PG_FUNCTION_INFO_V1(conpool_dblink_is_busy);
PG_FUNCTION_INFO_V1(conpool_dblink_get_result);
PG_FUNCTION_INFO_V1(conpool_dblink_cancel_query);
PG_FUNCTION_INFO_V1(conpool_dblink_error_message);
PG_FUNCTION_INFO_V1(conpool_dblink_get_notify);

/* the remote takes note of a cancel within this time, in milliseconds */
#define CANCEL_TIMEOUT 2000

#define NOTIFY_COLUMNS 3

/* On the connection that the first argument names. */
static void
begin_call(FunctionCallInfo fcinfo, CpDblinkCall *call)
{
	memset(call, 0, sizeof(*call));
	call->fail = PG_NARGS() < 2 || PG_GETARG_BOOL(1);
	cp_dblink_use(call, text_to_cstring(PG_GETARG_TEXT_PP(0)));
}

/* dblink_send_query(connname text, sql text) returns int: 1, or 0 if it cannot be sent */
Datum
conpool_dblink_send_query(PG_FUNCTION_ARGS)
{
	CpDblinkCall call = {0};
	const char *why_not;

	cp_dblink_use(&call, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	why_not = cp_dblink_why_not(&call);
	if (why_not != NULL)
	{
		elog(NOTICE, "could not send query: %s", why_not);
		PG_RETURN_INT32(0);
	}
	(void) cp_dblink_start(call.lease, text_to_cstring(PG_GETARG_TEXT_PP(1)),
						   CP_RUN_WHOLE | CP_RUN_STEPWISE);
	/* nobody is told the number */
	cp_lease_attach_request(call.lease, pg_atomic_fetch_add_u64(&cp_shared->next_lease, 1),
							false, true);
	PG_RETURN_INT32(1);
}

/* dblink_is_busy(connname text) returns int: 1 if get_result() would wait */
Datum
conpool_dblink_is_busy(PG_FUNCTION_ARGS)
{
	CpDblinkCall call;

	begin_call(fcinfo, &call);
	if (call.lease->run != NULL && !cp_run_is_ready(call.lease->run))
		PG_RETURN_INT32(1);
	/* that the connection is lost may be what there is to read */
	if (call.lease->run == NULL && call.lease->remote != NULL)
		(void) PQconsumeInput(call.lease->remote->conn);
	cp_dblink_note_end(&call);
	PG_RETURN_INT32(0);
}

/*
 * A result as it came.  What the caller makes of its values may fail, and that is no
 * reason to stop the request: what it has yet to bring can be read afterwards.
 */
typedef struct Kept
{
	CpSink sink;
	PGresult *set; /* NULL: it has no columns */
	bool had_columns;
	char *tag;
} Kept;

static void
keep_set(CpSink *sink, PGconn *conn, PGresult *set)
{
	Kept *kept = (Kept *) sink;

	kept->set = PQcopyResult(set, PG_COPYRES_ATTRS | PG_COPYRES_TUPLES);
	if (kept->set == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
}

static void
keep_row(CpSink *sink, PGresult *set, int row)
{
}

static void
keep_end(CpSink *sink, const char *tag, bool had_columns)
{
	Kept *kept = (Kept *) sink;

	kept->had_columns = had_columns;
	kept->tag = pstrdup(tag);
}

/* May call anything, even what ends the connection. */
static void
feed(CpSink *sink, PGconn *conn, const Kept *kept)
{
	int rows = kept->set != NULL ? PQntuples(kept->set) : 0;

	if (kept->set != NULL)
		sink->begin(sink, conn, kept->set);
	for (int row = 0; row < rows; row++)
		sink->row(sink, kept->set, row);
	sink->end(sink, kept->tag, kept->had_columns);
}

/* Passes it on to where it is wanted; it is freed then, whatever happens. */
static void
pass_on(const Kept *kept, PGconn *conn, CpDblinkRows *rows)
{
	PG_TRY();
	{
		feed(&rows->sink, conn, kept);
	}
	PG_CATCH();
	{
		PQclear(kept->set);
		PG_RE_THROW();
	}
	PG_END_TRY();
	PQclear(kept->set);
	cp_dblink_rows_status(rows);
}

/* The next result of a query that was sent; the end, once, if there is none. */
static void
read_result(CpDblinkCall *call, CpDblinkRows *rows)
{
	Kept kept = {.sink = {keep_set, keep_row, keep_end}};
	CpRun *run = call->lease->run;
	uint64 request = call->lease->request;
	CpRunStatus status;

	call->connection->reading = request;
	status = cp_run_read(run, &kept.sink, true);
	call->connection->reading = 0;
	if (status == CP_RUN_DONE)
		cp_lease_end_request(request);
	else if (status != CP_RUN_GOING || *cp_run_tag(run) == '\0')
		cp_dblink_fail_request(call, request, run, status);
	else
		pass_on(&kept, call->lease->remote->conn, rows);
}

/* dblink_get_result(connname text [, fail bool]) returns SETOF record */
Datum
conpool_dblink_get_result(PG_FUNCTION_ARGS)
{
	CpDblinkRows *rows = cp_dblink_rows(fcinfo);
	CpDblinkCall call;

	begin_call(fcinfo, &call);
	cp_dblink_refuse_if_reading(&call);
	call.doing = "executing query";
	call.connection->unread_end = false;
	if (call.lease->request != 0)
		read_result(&call, rows);
	cp_dblink_rows_end(rows);
	return (Datum) 0;
}

/* dblink_cancel_query(connname text) returns text: OK, or why not */
Datum
conpool_dblink_cancel_query(PG_FUNCTION_ARGS)
{
	CpDblinkCall call;
	CpLease *lease;

	begin_call(fcinfo, &call);
	lease = call.lease;
	if (lease->remote == NULL)
		PG_RETURN_TEXT_P(cstring_to_text(CP_DBLINK_NO_CANCEL));
	if (cp_remote_cancel(lease->remote, cp_deadline(cp_now(), CANCEL_TIMEOUT)))
		PG_RETURN_TEXT_P(cstring_to_text("OK"));
	/* it may come late, and must not hit anybody else's statement */
	lease->misplaced = true;
	PG_RETURN_TEXT_P(cstring_to_text("the server did not take note of the cancel request"));
}

/* dblink_error_message(connname text) returns text: OK, or of the last query */
Datum
conpool_dblink_error_message(PG_FUNCTION_ARGS)
{
	CpDblinkCall call;
	const char *message = "no connection to the server";

	begin_call(fcinfo, &call);
	if (call.lease->remote != NULL)
		message = PQerrorMessage(call.lease->remote->conn);
	if (message == NULL || *message == '\0')
		message = "OK";
	PG_RETURN_TEXT_P(cstring_to_text(pchomp(cp_message_valid_text(message))));
}

static void
put_notification(ReturnSetInfo *result, const PGnotify *notify)
{
	Datum values[NOTIFY_COLUMNS];
	bool nulls[NOTIFY_COLUMNS] = {false};

	values[0] = CStringGetTextDatum(cp_message_valid_text(notify->relname));
	values[1] = Int32GetDatum(notify->be_pid);
	values[2] = CStringGetTextDatum(cp_message_valid_text(notify->extra ? notify->extra : ""));
	nulls[2] = notify->extra == NULL;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The same, and frees it. */
static void
take_notification(ReturnSetInfo *result, PGnotify *notify)
{
	PG_TRY();
	{
		put_notification(result, notify);
	}
	PG_CATCH();
	{
		PQfreemem(notify);
		PG_RE_THROW();
	}
	PG_END_TRY();
	PQfreemem(notify);
}

/* Those that have come.  It listens: nobody else may have the connection. */
static void
take_notifications(CpLease *lease, ReturnSetInfo *result)
{
	PGconn *conn = lease->remote->conn;
	PGnotify *notify;

	(void) PQconsumeInput(conn);
	while ((notify = PQnotifies(conn)) != NULL)
	{
		lease->listened = true;
		take_notification(result, notify);
	}
}

/*
 * dblink_get_notify([connname text], OUT notify_name text, OUT be_pid int, OUT extra text)
 * returns SETOF record
 */
Datum
conpool_dblink_get_notify(PG_FUNCTION_ARGS)
{
	CpDblinkCall call = {0};

	/* without a name, there need not be a connection */
	if (PG_NARGS() == 1)
		cp_dblink_use(&call, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	else
		(void) cp_dblink_may_use(&call, NULL);
	InitMaterializedSRF(fcinfo, 0);
	if (call.lease != NULL && call.lease->remote != NULL)
	{
		take_notifications(call.lease, (ReturnSetInfo *) fcinfo->resultinfo);
		cp_dblink_note_end(&call);
	}
	return (Datum) 0;
}
