/*
 * sql_dblink.c
 *		dblink's functions that connect and that run statements: connect, disconnect,
 *		get_connections, dblink itself, exec, open, fetch, close, current_query.
 *
 * Runs in client backends.  A connection is a lease of scope "session"; without one the
 * caller's string, or server, is borrowed from for the call.  What the functions return
 * and raise is dblink's, so that whoever was written for that notices nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/scansup.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "compat.h"
#include "error.h"
#include "guc.h"
#include "rows_dblink.h"
#include "secret.h"
#include "sql_dblink_run.h"

PG_FUNCTION_INFO_V1(conpool_dblink_connect);
PG_FUNCTION_INFO_V1(conpool_dblink_disconnect);
PG_FUNCTION_INFO_V1(conpool_dblink_get_connections);
PG_FUNCTION_INFO_V1(conpool_dblink_record);
PG_FUNCTION_INFO_V1(conpool_dblink_exec);
PG_FUNCTION_INFO_V1(conpool_dblink_open);
PG_FUNCTION_INFO_V1(conpool_dblink_fetch);
PG_FUNCTION_INFO_V1(conpool_dblink_close);
PG_FUNCTION_INFO_V1(conpool_dblink_current_query);

/* a connection string that says nothing, as one with an "=" */
#define EMPTY_STRING "dbname=''"

/* ---- arguments ---- */

static char *
text_argument(FunctionCallInfo fcinfo, int i)
{
	return text_to_cstring(PG_GETARG_TEXT_PP(i));
}

/*
 * Most functions take arguments of their own, `own` of them, before which a connection's
 * name may stand, and after which whether to fail.  Returns the name, or NULL; *first is
 * the first of their own.
 */
static const char *
read_arguments(FunctionCallInfo fcinfo, int own, int *first, bool *fail)
{
	int count = PG_NARGS();
	bool says_fail = count == own + 2 ||
		get_fn_expr_argtype(fcinfo->flinfo, count - 1) == BOOLOID;

	*fail = !says_fail || PG_GETARG_BOOL(count - 1);
	*first = count - own - says_fail;
	return *first > 0 ? text_argument(fcinfo, 0) : NULL;
}

/* The same, for one that needs a connection. */
static int
begin_call(FunctionCallInfo fcinfo, int own, CpDblinkCall *call)
{
	int first;
	const char *name;

	memset(call, 0, sizeof(*call));
	name = read_arguments(fcinfo, own, &first, &call->fail);
	cp_dblink_use(call, name);
	return first;
}

/* ---- connecting ---- */

static char *
server_name(const char *text)
{
	char *name = pstrdup(text);

	truncate_identifier(name, strlen(name), false);
	return name;
}

static bool
is_server(const char *text)
{
	return OidIsValid(get_foreign_server_oid(server_name(text), true));
}

static void
free_options(PQconninfoOption *options)
{
	for (PQconninfoOption *o = options; o != NULL && o->keyword != NULL; o++)
	{
		if (o->val)
			explicit_bzero(o->val, strlen(o->val));
	}
	PQconninfoFree(options);
}

/*
 * Why libpq does not take the text for a connection string; NULL: it does.  It repeats
 * what it stumbled over, which may be (part of) a password.
 */
static char *
why_no_string(const char *text)
{
	char *error = NULL;
	char *why = NULL;
	const char *shown = cp_secret_mask(text);
	PQconninfoOption *options = PQconninfoParse(text, &error);

	if (options != NULL)
		free_options(options);
	else if (shown != text)
		why = pstrdup(shown);
	else
		why = pchomp(error != NULL ? error : "");
	if (error != NULL)
	{
		explicit_bzero(error, strlen(error));
		PQfreemem(error);
	}
	return why;
}

static void
throw_no_password(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg(CP_DBLINK_NO_PASSWORD),
			 errdetail(CP_DBLINK_NONE_GIVEN)));
}

/*
 * The string without an encoding, which dblink takes and does nothing with: that of the
 * database is used in any case.
 */
static const char *
without_encoding(const char *text)
{
	PQconninfoOption *options = PQconninfoParse(text, NULL);
	StringInfoData buf;

	if (options == NULL)
		return text;
	initStringInfo(&buf);
	for (PQconninfoOption *o = options; o->keyword != NULL; o++)
	{
		if (o->val == NULL || strcmp(o->keyword, "client_encoding") == 0)
			continue;
		appendStringInfo(&buf, "%s='", o->keyword);
		for (const char *c = o->val; *c != '\0'; c++)
		{
			if (*c == '\'' || *c == '\\')
				appendStringInfoChar(&buf, '\\');
			appendStringInfoChar(&buf, *c);
		}
		appendStringInfoString(&buf, "' ");
	}
	free_options(options);
	return buf.len > 0 ? buf.data : EMPTY_STRING;
}

static void
throw_unreachable(const char *why)
{
	ereport(ERROR,
			(errcode(CP_ERRCODE_UNREACHABLE),
			 errmsg("could not establish connection"),
			 why != NULL ? errdetail_internal("%s", why) : 0));
}

/* Without a password in it, since it is none, it is refused for that first. */
static void
throw_no_string(const char *why)
{
	if (!superuser())
		throw_no_password();
	throw_unreachable(why);
}

static void
throw_password_not_used(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg(CP_DBLINK_NO_PASSWORD),
			 errdetail(CP_DBLINK_NONE_USED),
			 errhint(CP_DBLINK_NONE_USED_HINT)));
}

/* The error that is being caught, which is over then. */
static ErrorData *
take_error(MemoryContext context)
{
	ErrorData *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	return error;
}

/* An error of resolving what the text names, or is, as dblink has it. */
static void
throw_target_error(const char *text, ErrorData *error)
{
	bool is_string = cp_target_is_conninfo(text);
	char *why = NULL;

	if (error->sqlerrcode == ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED)
		throw_no_password();
	/* no mapping: in the words of the server, which are not the same in all versions */
	if (error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT && !is_string)
		(void) GetUserMapping(GetUserId(), get_foreign_server_oid(server_name(text), false));
	if (error->sqlerrcode == ERRCODE_INVALID_PARAMETER_VALUE && is_string)
	{
		why = why_no_string(text);
		if (why == NULL)
			throw_unreachable(error->message);
		throw_no_string(why);
	}
	ReThrowError(error);
}

/* What conpool takes for what dblink takes. */
static const char *
equivalent(const char *text)
{
	if (text[strspn(text, " \t\n\r\f\v")] == '\0')
		return EMPTY_STRING;
	if (cp_target_is_conninfo(text) && strstr(text, "client_encoding") != NULL)
		return without_encoding(text);
	return text;
}

static const char *
option_of(List *options, const char *name)
{
	ListCell *cell;

	foreach(cell, options)
	{
		DefElem *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}

/*
 * SCRAM keys are of no use to a remote that is to be reached by another method, which
 * would be the server's own.  conpool insists on SCRAM, dblink on that nobody asks for
 * anything else.
 */
static void
refuse_other_method(const CpTarget *target)
{
	const char *method;

	if (!target->scram_keys || !target->password_required)
		return;
	method = option_of(GetForeignServer(target->key.server)->options, "require_auth");
	if (method != NULL && strcmp(method, "scram-sha-256") != 0 &&
		option_of(GetUserMapping(GetUserId(), target->key.server)->options, "password") == NULL)
		throw_no_password();
}

/*
 * Looks whether the text names a server, or is a connection string, that the caller may
 * use; throws if not.  Returns what conpool takes for the same.
 */
static const char *
check_target(const char *text)
{
	MemoryContext context = CurrentMemoryContext;
	const char *const target = equivalent(text);

	if (!cp_target_is_conninfo(target) && !is_server(target))
		throw_no_string(why_no_string(target));
	PG_TRY();
	{
		refuse_other_method(cp_target_resolve(target));
	}
	PG_CATCH();
	{
		throw_target_error(target, take_error(context));
	}
	PG_END_TRY();
	return target;
}

/* What libpq said, without what conpool adds. */
static char *
without_sqlstate(char *detail)
{
	char *end = detail != NULL ? strstr(detail, " (SQLSTATE ") : NULL;

	if (end != NULL)
		*end = '\0';
	return detail;
}

/* An error of connecting, as dblink has it. */
static void
throw_connect_error(ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED)
		throw_password_not_used();
	if (error->sqlerrcode == CP_ERRCODE_UNREACHABLE ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION)
		throw_unreachable(without_sqlstate(error->detail));
	ReThrowError(error);
}

/* Of a target that was checked just now. */
static CpLease *
check_out(const char *target, CpScope scope)
{
	MemoryContext context = CurrentMemoryContext;
	int flags = CP_LEASE_QUIET |
		(scope == CP_SCOPE_SESSION ? CP_LEASE_EXPLICIT : CP_LEASE_PRIVATE) |
		(cp_guc_dblink_overflow ? CP_LEASE_MAY_EXCEED : 0);
	CpLease *lease = NULL;

	PG_TRY();
	{
		lease = cp_lease_checkout_as(target, scope, flags, -1);
	}
	PG_CATCH();
	{
		throw_connect_error(take_error(context));
	}
	PG_END_TRY();
	return lease;
}

/* Ends what runs on it, and gives it back. */
static void
give_up(CpLease *lease)
{
	uint64 id = lease->id;

	if (lease->busy)
	{
		cp_lease_stop(&lease, 1);
		lease = cp_lease_find(id);
	}
	if (lease != NULL)
		cp_lease_checkin(lease);
}

/* dblink_connect([connname text,] connstr text) returns text; also dblink_connect_u */
Datum
conpool_dblink_connect(PG_FUNCTION_ARGS)
{
	const char *name = PG_NARGS() == 2 ? text_argument(fcinfo, 0) : NULL;
	const char *target = check_target(text_argument(fcinfo, PG_NARGS() - 1));
	CpDblinkCall former = {0};
	CpLease *lease;
	uint64 replaced;

	if (name != NULL)
		cp_dblink_reserve(name);
	else if ((former.connection = cp_dblink_find(NULL, &former.lease)) != NULL &&
			 former.lease != NULL)
		cp_dblink_refuse_if_reading(&former);

	lease = check_out(target, CP_SCOPE_SESSION);
	replaced = cp_dblink_set(name, lease->id);
	lease = replaced != 0 ? cp_lease_find(replaced) : NULL;
	if (lease != NULL)
		give_up(lease);
	PG_RETURN_TEXT_P(cstring_to_text("OK"));
}

/* dblink_disconnect([connname text]) returns text */
Datum
conpool_dblink_disconnect(PG_FUNCTION_ARGS)
{
	CpDblinkCall call = {0};

	cp_dblink_use(&call, PG_NARGS() == 1 ? text_argument(fcinfo, 0) : NULL);
	cp_dblink_refuse_if_reading(&call);
	cp_dblink_forget(call.connection);
	give_up(call.lease);
	PG_RETURN_TEXT_P(cstring_to_text("OK"));
}

/* dblink_get_connections() returns text[]; NULL if none has a name */
Datum
conpool_dblink_get_connections(PG_FUNCTION_ARGS)
{
	ArrayBuildState *names = NULL;
	ListCell *cell;

	foreach(cell, cp_dblink_names())
		names = accumArrayResult(names, CStringGetTextDatum(lfirst(cell)), false, TEXTOID,
								 CurrentMemoryContext);
	if (names == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(makeArrayResult(names, CurrentMemoryContext));
}

/* ---- statements ---- */

/*
 * For a function that takes a statement: on the connection that the first of two texts
 * names, or else by the connection string or server that it is; on the one without a
 * name if there is but one text.  Returns the statement.
 */
static char *
begin_statement(FunctionCallInfo fcinfo, CpDblinkCall *call)
{
	int first;
	const char *name;
	char *sql;

	memset(call, 0, sizeof(*call));
	name = read_arguments(fcinfo, 1, &first, &call->fail);
	sql = text_argument(fcinfo, first);
	if (name == NULL)
		cp_dblink_use(call, NULL);
	else if (!cp_dblink_may_use(call, name))
	{
		call->name = NULL;
		call->connection = NULL;
		call->lease = check_out(check_target(name), CP_SCOPE_STATEMENT);
	}
	return sql;
}

/* dblink([connname | connstr text,] sql text [, fail bool]) returns SETOF record */
Datum
conpool_dblink_record(PG_FUNCTION_ARGS)
{
	CpDblinkRows *rows = cp_dblink_rows(fcinfo);
	CpDblinkCall call;
	char *sql = begin_statement(fcinfo, &call);
	const char *why_not = cp_dblink_why_not(&call);

	if (why_not != NULL)
	{
		cp_dblink_refuse_if_reading(&call);
		cp_dblink_discard_request(&call);
		elog(ERROR, "could not send query: %s", why_not);
	}
	call.doing = "executing query";
	if (cp_dblink_run(&call, sql, &rows->sink))
		cp_dblink_rows_status(rows);
	cp_dblink_rows_end(rows);
	return (Datum) 0;
}

/* For a statement whose rows nobody wants; but there must not be any. */
typedef struct Command
{
	CpSink sink;
	bool had_columns;
	char *tag;
} Command;

static void
ignore_set(CpSink *sink, PGconn *conn, PGresult *fields)
{
}

static void
ignore_row(CpSink *sink, PGresult *result, int row)
{
}

static void
note_end(CpSink *sink, const char *tag, bool had_columns)
{
	Command *command = (Command *) sink;

	command->had_columns = had_columns;
	command->tag = pstrdup(tag);
}

/* dblink_exec([connname | connstr text,] sql text [, fail bool]) returns text */
Datum
conpool_dblink_exec(PG_FUNCTION_ARGS)
{
	Command command = {.sink = {ignore_set, ignore_row, note_end}};
	CpDblinkCall call;
	char *sql = begin_statement(fcinfo, &call);

	call.doing = "executing command";
	if (!cp_dblink_run(&call, sql, &command.sink))
		PG_RETURN_TEXT_P(cstring_to_text("ERROR"));
	if (command.had_columns)
		ereport(ERROR,
				(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
				 errmsg("statement returning results not allowed")));
	PG_RETURN_TEXT_P(cstring_to_text(command.tag));
}

/* ---- cursors ---- */

/* dblink_open([connname text,] cursorname text, sql text [, fail bool]) returns text */
Datum
conpool_dblink_open(PG_FUNCTION_ARGS)
{
	CpDblinkCall call;
	int first = begin_call(fcinfo, 2, &call);
	char *cursor = text_argument(fcinfo, first);
	char *sql = text_argument(fcinfo, first + 1);

	if (cp_dblink_why_not(&call) == NULL &&
		PQtransactionStatus(call.lease->remote->conn) == PQTRANS_IDLE)
	{
		cp_dblink_run_own(&call, "BEGIN", "begin error");
		call.connection->own_transaction = true;
		/* an ABORT may have closed cursors that were counted */
		call.connection->cursors = 0;
	}
	if (call.connection->own_transaction)
		call.connection->cursors++;

	call.doing = psprintf("opening cursor \"%s\"", cursor);
	if (!cp_dblink_run(&call, psprintf("DECLARE %s CURSOR FOR %s", cursor, sql), NULL))
		PG_RETURN_TEXT_P(cstring_to_text("ERROR"));
	PG_RETURN_TEXT_P(cstring_to_text("OK"));
}

/*
 * dblink_fetch([connname text,] cursorname text, howmany int [, fail bool]) returns SETOF
 * record
 */
Datum
conpool_dblink_fetch(PG_FUNCTION_ARGS)
{
	CpDblinkRows *rows = cp_dblink_rows(fcinfo);
	CpDblinkCall call;
	int first = begin_call(fcinfo, 2, &call);
	char *cursor = text_argument(fcinfo, first);
	char *sql = psprintf("FETCH %d FROM %s", PG_GETARG_INT32(first + 1), cursor);

	call.doing = psprintf("fetching from cursor \"%s\"", cursor);
	if (!cp_dblink_run(&call, sql, &rows->sink))
		cp_dblink_rows_clear(rows);
	else if (!rows->had_columns)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_CURSOR_NAME),
				 errmsg("cursor \"%s\" does not exist", cursor)));
	cp_dblink_rows_end(rows);
	return (Datum) 0;
}

/* dblink_close([connname text,] cursorname text [, fail bool]) returns text */
Datum
conpool_dblink_close(PG_FUNCTION_ARGS)
{
	CpDblinkCall call;
	char *cursor = text_argument(fcinfo, begin_call(fcinfo, 1, &call));

	call.doing = psprintf("closing cursor \"%s\"", cursor);
	if (!cp_dblink_run(&call, psprintf("CLOSE %s", cursor), NULL))
		PG_RETURN_TEXT_P(cstring_to_text("ERROR"));

	if (call.connection->own_transaction && --call.connection->cursors == 0)
	{
		call.connection->own_transaction = false;
		cp_dblink_run_own(&call, "COMMIT", "commit error");
	}
	PG_RETURN_TEXT_P(cstring_to_text("OK"));
}

/* dblink_current_query() returns text */
Datum
conpool_dblink_current_query(PG_FUNCTION_ARGS)
{
	return current_query(fcinfo);
}
