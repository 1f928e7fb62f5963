/*
 * sql_async.c
 *		send(), is_ready(), wait_any(), result(), cancel() and notifications(): what
 *		goes on remotely while the session does something else.
 *
 * Runs in client backends.  Checks the arguments and passes them down.  A request is
 * the run of a lease, under a number; when it ends is lease.c's.  So whoever waits here
 * keeps no pointer to one over anything that may end it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "args.h"
#include "error.h"
#include "handle.h"
#include "lease.h"
#include "message.h"
#include "query.h"
#include "rows.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(conpool_send);
PG_FUNCTION_INFO_V1(conpool_send_lease);
PG_FUNCTION_INFO_V1(conpool_is_ready);
PG_FUNCTION_INFO_V1(conpool_wait_any);
PG_FUNCTION_INFO_V1(conpool_result);
PG_FUNCTION_INFO_V1(conpool_cancel);
PG_FUNCTION_INFO_V1(conpool_notifications);

/* ---- sending ---- */

/*
 * It gets its number when it is on its way: until then, and if there is no memory for a
 * number, it is a statement like any other to the abort callbacks.
 */
/*
 * What another role's code leaves outstanding would hold up, or fail, the commit of
 * whoever runs the operation.
 */
static void
refuse_if_restricted(void)
{
	if (InSecurityRestrictedOperation() && GetUserId() != GetOuterUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot send a request within another role's security-restricted "
						"operation")));
}

static Datum
send_request(FunctionCallInfo fcinfo, CpBy by)
{
	CpParams params;
	char *sql;
	CpLease *lease;
	bool goes_with_it;
	uint64 id;

	cp_shmem_require();
	refuse_if_restricted();
	sql = cp_args_statement(fcinfo, 0, by, &params);
	lease = cp_args_lease(fcinfo, 0, by, &goes_with_it);
	(void) cp_run_start(lease, sql, &params, 0);

	id = pg_atomic_fetch_add_u64(&cp_shared->next_lease, 1);
	cp_handle_add(id, CP_HANDLE_REQUEST);
	cp_lease_attach_request(lease, id, goes_with_it, false);
	PG_RETURN_INT64((int64) id);
}

/* send(server text, sql text [, VARIADIC args "any"]) returns bigint */
Datum
conpool_send(PG_FUNCTION_ARGS)
{
	return send_request(fcinfo, CP_BY_SERVER);
}

/* send(lease bigint, sql text [, VARIADIC args "any"]) returns bigint */
Datum
conpool_send_lease(PG_FUNCTION_ARGS)
{
	return send_request(fcinfo, CP_BY_LEASE);
}

/* ---- waiting ---- */

/* is_ready(request bigint) returns boolean */
Datum
conpool_is_ready(PG_FUNCTION_ARGS)
{
	cp_shmem_require();
	cp_args_require(fcinfo, 0, "request");
	PG_RETURN_BOOL(cp_run_is_ready(cp_lease_of_request(PG_GETARG_INT64(0))->run));
}

/* Requests that are waited for, each once, in the order in which they were named. */
typedef struct Awaited
{
	int count;
	CpRun **runs;
	int64 *ids;
} Awaited;

static bool
is_awaited(const Awaited *awaited, int64 id)
{
	for (int i = 0; i < awaited->count; i++)
	{
		if (awaited->ids[i] == id)
			return true;
	}
	return false;
}

static void
collect_requests(ArrayType *array, Awaited *awaited)
{
	Datum *ids;
	int count;

	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"requests\" must not contain nulls")));
	deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &ids, NULL, &count);
	awaited->count = 0;
	awaited->runs = palloc(count * sizeof(CpRun *));
	awaited->ids = palloc(count * sizeof(int64));
	for (int i = 0; i < count; i++)
	{
		int64 id = DatumGetInt64(ids[i]);

		if (is_awaited(awaited, id))
			continue;
		awaited->runs[awaited->count] = cp_lease_of_request(id)->run;
		awaited->ids[awaited->count++] = id;
	}
}

/* wait_any(requests bigint[], timeout interval DEFAULT NULL) returns bigint */
Datum
conpool_wait_any(PG_FUNCTION_ARGS)
{
	Awaited awaited;
	int64 timeout;
	CpTime deadline = CP_FOREVER;
	int ready;

	cp_shmem_require();
	cp_args_require(fcinfo, 0, "requests");
	timeout = cp_args_timeout(fcinfo, 1);
	if (timeout >= 0)
		deadline = cp_now() + timeout * 1000;

	collect_requests(PG_GETARG_ARRAYTYPE_P(0), &awaited);
	if (awaited.count == 0)
		PG_RETURN_NULL();
	ready = cp_run_wait_any(awaited.runs, awaited.count, deadline, false);
	if (ready < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(awaited.ids[ready]);
}

/* ---- ending ---- */

/* result(request bigint) returns SETOF record */
Datum
conpool_result(PG_FUNCTION_ARGS)
{
	int64 id;
	CpRows *rows;
	CpRun *run;

	cp_shmem_require();
	cp_args_require(fcinfo, 0, "request");
	id = PG_GETARG_INT64(0);
	rows = cp_rows_typed(fcinfo);
	run = cp_lease_of_request(id)->run;

	/* the abort callbacks end it if it throws, and free the run after that */
	if (cp_run_read(run, &rows->sink, true) != CP_RUN_DONE)
		cp_run_throw(run);
	cp_rows_end(rows);
	cp_lease_end_request((uint64) id);
	return (Datum) 0;
}

/* cancel(request bigint) returns void */
Datum
conpool_cancel(PG_FUNCTION_ARGS)
{
	CpLease *lease;

	cp_shmem_require();
	cp_args_require(fcinfo, 0, "request");
	lease = cp_lease_of_request(PG_GETARG_INT64(0));
	cp_lease_stop(&lease, 1);
	PG_RETURN_VOID();
}

/* ---- notifications ---- */

/*
 * What is not valid in our encoding is made so: an error would take those notifications
 * along that have been read already.
 */
static void
put_notification(const ReturnSetInfo *result, const PGnotify *notify)
{
	Datum values[] = {
		CStringGetTextDatum(cp_message_valid_text(notify->relname)),
		CStringGetTextDatum(cp_message_valid_text(notify->extra)),
		Int32GetDatum(notify->be_pid),
	};
	bool nulls[lengthof(values)] = {false};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The same, and frees it. */
static void
take_notification(const ReturnSetInfo *result, PGnotify *notify)
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

pg_noreturn static void
throw_lost(CpLease *lease)
{
	uint64 id = lease->id;
	char *pool = pstrdup(lease->pool_name);
	char *why = cp_message_why_lost(lease->remote->conn, NULL);

	cp_lease_lost(lease);
	cp_lease_throw_if_reclaimed(id, pool);
	ereport(ERROR,
			(errcode(CP_ERRCODE_LOST),
			 errmsg("the connection of lease " UINT64_FORMAT " of pool \"%s\" was lost", id, pool),
			 errdetail_internal("%s", why)));
}

/* notifications(lease bigint) returns TABLE(channel text, payload text, pid int) */
Datum
conpool_notifications(PG_FUNCTION_ARGS)
{
	CpLease *lease;
	PGconn *conn;
	PGnotify *notify;

	cp_shmem_require();
	cp_args_require(fcinfo, 0, "lease");
	InitMaterializedSRF(fcinfo, 0);
	lease = cp_lease_get(PG_GETARG_INT64(0), true, NULL);
	conn = lease->remote->conn;

	if (PQconsumeInput(conn) == 0 || PQstatus(conn) != CONNECTION_OK)
		throw_lost(lease);
	while ((notify = PQnotifies(conn)) != NULL)
	{
		/* somebody listens, even if no command tag has said so */
		lease->listened = true;
		take_notification((ReturnSetInfo *) fcinfo->resultinfo, notify);
		CHECK_FOR_INTERRUPTS();
	}
	return (Datum) 0;
}
