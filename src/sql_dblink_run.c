/*
 * sql_dblink_run.c
 *		Runs a statement for a function of dblink's, and reports its failure.
 *
 * Runs in client backends, called by the other sql_dblink files.  Of a failure no more
 * and no less is told than dblink tells, in its words.  What ends otherwise, by an error
 * of ours or a cancel, is for the abort callbacks of lease.c.
 */
#include "postgres.h"

#include "sql_dblink_run.h"

#include "miscadmin.h"

#include "error.h"
#include "message.h"

#define NO_CONNECTION "no connection to the server"
#define IN_PROGRESS "another command is already in progress"

/* what libpq says when the connection has gone, whatever the server said before */
#define CLOSED "server closed the connection unexpectedly"
#define CLOSED_LONG \
	CLOSED "\n\tThis probably means the server terminated abnormally\n" \
		   "\tbefore or while processing the request."

/* What there is to tell; NULL where there is nothing. */
typedef struct Failure
{
	int sqlstate;
	const char *message;
	const char *detail;
	const char *hint;
	const char *context;
	const char *whole; /* all in one, as libpq puts it */
} Failure;

/* ---- which connection ---- */

/*
 * A security-restricted operation (an index expression, REFRESH MATERIALIZED VIEW) runs
 * foreign code as somebody else, who must not come by what the session may do remotely.
 */
static void
refuse_if_restricted(const CpDblinkCall *call)
{
	Oid role = GetUserId();

	if (!InSecurityRestrictedOperation() || role == call->lease->role ||
		role == call->connection->session_role)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("cannot use another role's dblink connection within a security-restricted "
					"operation")));
}

bool
cp_dblink_may_use(CpDblinkCall *call, const char *name)
{
	uint64 gone;

	call->name = name;
	call->connection = cp_dblink_find(name, &call->lease);
	if (call->connection == NULL)
		return false;
	if (call->lease != NULL)
	{
		refuse_if_restricted(call);
		return true;
	}
	gone = call->connection->lease;
	cp_dblink_forget(call->connection);
	cp_lease_throw_if_reclaimed(gone, NULL);
	return false;
}

void
cp_dblink_use(CpDblinkCall *call, const char *name)
{
	if (cp_dblink_may_use(call, name))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_DOES_NOT_EXIST),
			 name != NULL ? errmsg("connection \"%s\" not available", name) :
							errmsg("connection not available")));
}

void
cp_dblink_refuse_if_reading(const CpDblinkCall *call)
{
	const CpLease *lease = call->lease;

	if (!lease->busy || (lease->request != 0 && lease->request != call->connection->reading))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("the dblink connection is being read from"),
			 errdetail("This function was called for a value of a result that comes from it.")));
}

const char *
cp_dblink_why_not(const CpDblinkCall *call)
{
	const CpLease *lease = call->lease;

	if (lease->busy || (call->connection != NULL && call->connection->unread_end))
		return IN_PROGRESS;
	if (lease->remote == NULL || PQstatus(lease->remote->conn) != CONNECTION_OK)
		return NO_CONNECTION;
	return NULL;
}

/* ---- failures ---- */

static const char *
field(const PGresult *error, int code)
{
	const char *text = PQresultErrorField(error, code);

	return text != NULL ? pstrdup(cp_message_valid_text(text)) : NULL;
}

/* What the remote, or libpq, said. */
static void
read_error(const PGresult *error, Failure *failure)
{
	failure->whole = pchomp(cp_message_valid_text(PQresultErrorMessage(error)));
	failure->sqlstate = cp_message_sqlstate(error);
	failure->message = field(error, PG_DIAG_MESSAGE_PRIMARY);
	failure->detail = field(error, PG_DIAG_MESSAGE_DETAIL);
	failure->hint = field(error, PG_DIAG_MESSAGE_HINT);
	failure->context = field(error, PG_DIAG_CONTEXT);
	if (failure->message == NULL)
		failure->message = failure->whole;
}

/* The same, if it has cost the connection. */
static void
read_loss(const PGresult *error, Failure *failure)
{
	const char *said = pchomp(cp_message_valid_text(PQresultErrorMessage(error)));

	failure->sqlstate = CP_ERRCODE_LOST;
	failure->message = failure->whole =
		strstr(said, CLOSED) != NULL ? said : psprintf("%s\n%s", said, CLOSED_LONG);
}

/*
 * Why the run has failed or been lost; it is counted with this.  Of a request the server's
 * own words come first.
 */
static void
read_failure(CpRun *run, CpRunStatus status, bool is_request, Failure *failure)
{
	const PGresult *error = cp_run_error(run);
	char *message;

	cp_run_failure(run, &failure->sqlstate, &message);
	failure->message = failure->whole = message;
	if (error != NULL && status == CP_RUN_LOST && !is_request)
		read_loss(error, failure);
	else if (error != NULL)
		read_error(error, failure);
}

/* A statement that is none, such as "", has ended: for dblink that is a failure. */
static void
failure_of_nothing(Failure *failure)
{
	failure->sqlstate = CP_ERRCODE_LOST;
	failure->message = failure->whole = "could not obtain message string for remote error";
}

/* As an error, or a notice. */
static void
report(const CpDblinkCall *call, const Failure *failure)
{
	ereport(call->fail ? ERROR : NOTICE,
			(errcode(failure->sqlstate),
			 errmsg_internal("%s", failure->message),
			 failure->detail ? errdetail_internal("%s", failure->detail) : 0,
			 failure->hint ? errhint("%s", failure->hint) : 0,
			 failure->context ? (errcontext("%s", failure->context)) : 0,
			 call->name ?
				 (errcontext("while %s on dblink connection named \"%s\"", call->doing,
							 call->name)) :
				 (errcontext("while %s on unnamed dblink connection", call->doing))));
}

/* ---- running ---- */

void
cp_dblink_discard_request(CpDblinkCall *call)
{
	uint64 request = call->lease->request;
	CpRun *run = call->lease->run;
	CpRunStatus status;

	if (call->connection != NULL)
		call->connection->unread_end = false;
	if (request == 0)
		return;
	do
		status = cp_run_read(run, NULL, true);
	while (status == CP_RUN_GOING);
	if (status != CP_RUN_DONE)
	{
		Failure failure;

		read_failure(run, status, true, &failure);
	}
	if (status == CP_RUN_LOST)
		cp_run_free(run);
	cp_lease_end_request(request);
}

void
cp_dblink_note_end(CpDblinkCall *call)
{
	const CpRemote *remote = call->lease->remote;
	PGTransactionStatusType status = PQTRANS_UNKNOWN;

	call->connection->unread_end = false;
	if (call->lease->request != 0 && remote != NULL)
		status = PQtransactionStatus(remote->conn);
	if (status != PQTRANS_UNKNOWN && status != PQTRANS_ACTIVE)
		cp_dblink_discard_request(call);
}

/* What was borrowed for the call goes back; it may be gone. */
static void
give_back(CpDblinkCall *call, uint64 lease)
{
	call->lease = cp_lease_find(lease);
	if (call->connection != NULL)
		return;
	if (call->lease != NULL)
		cp_lease_checkin(call->lease);
	call->lease = NULL;
}

/*
 * Who asks for the number of the remote process means that one: to wait for its end, or to
 * end it.  By then it must not work for somebody else, so the connection ends with the
 * lease, as every connection of dblink's does.
 */
static void
note_identity(CpLease *lease, const char *sql)
{
	static const char function[] = "pg_backend_pid";

	for (; *sql != '\0' && !lease->misplaced; sql++)
	{
		if ((*sql | 0x20) == 'p' && pg_strncasecmp(sql, function, strlen(function)) == 0)
			lease->misplaced = true;
	}
}

CpRun *
cp_dblink_start(CpLease *lease, const char *sql, int flags)
{
	static const CpParams none = {.count = -1};

	note_identity(lease, sql);
	return cp_run_start(lease, sql, &none, flags | CP_RUN_NO_CONTEXT | CP_RUN_NO_NOTICES);
}

/* False: it has failed, and *failure says why. */
static bool
run_to_end(CpDblinkCall *call, const char *sql, CpSink *sink, Failure *failure)
{
	uint64 lease = call->lease->id;
	CpRun *run;
	CpRunStatus status;
	bool done;

	memset(failure, 0, sizeof(*failure));
	failure->sqlstate = CP_ERRCODE_LOST;
	failure->message = failure->whole = cp_dblink_why_not(call);
	if (failure->message != NULL)
		return false;

	run = cp_dblink_start(call->lease, sql, 0);
	status = cp_run_read(run, sink, true);
	done = status == CP_RUN_DONE;
	if (!done)
		read_failure(run, status, false, failure);
	else if (*cp_run_tag(run) == '\0')
	{
		failure_of_nothing(failure);
		done = false;
	}
	cp_run_free(run);
	give_back(call, lease);
	return done;
}

bool
cp_dblink_run(CpDblinkCall *call, const char *sql, CpSink *sink)
{
	Failure failure;

	if (run_to_end(call, sql, sink, &failure))
		return true;
	report(call, &failure);
	return false;
}

void
cp_dblink_run_own(CpDblinkCall *call, const char *sql, const char *error)
{
	Failure failure;

	if (!run_to_end(call, sql, NULL, &failure))
		elog(ERROR, "%s: %s", error, failure.whole);
}

void
cp_dblink_fail_request(CpDblinkCall *call, uint64 request, CpRun *run, CpRunStatus status)
{
	Failure failure = {0};

	if (status == CP_RUN_GOING)
		failure_of_nothing(&failure);
	else
		read_failure(run, status, true, &failure);
	/* it is no lease's any more */
	if (status == CP_RUN_LOST)
		cp_run_free(run);
	if (status != CP_RUN_GOING)
		cp_lease_end_request(request);
	call->connection->unread_end = status == CP_RUN_FAILED;
	report(call, &failure);
}
