/*
 * message.c
 *		Errors and notices of a remote server, as local ones.
 *
 * Runs in client backends, called by query.c.  Knows nothing of leases.  A
 * remote server is not trusted to send valid texts or codes.
 */
#include "postgres.h"

#include "message.h"

#include "mb/pg_wchar.h"

#include "error.h"

/* notices collected but not reported take so many bytes at most */
#define CP_NOTICES_MAX (4 * 1024 * 1024)

/* The texts of a message that are passed on. */
enum
{
	FIELD_MESSAGE,
	FIELD_DETAIL,
	FIELD_HINT,
	FIELD_CONTEXT,
	FIELD_SCHEMA,
	FIELD_TABLE,
	FIELD_COLUMN,
	FIELD_DATATYPE,
	FIELD_CONSTRAINT,
	FIELD_COUNT
};

static const int field_codes[FIELD_COUNT] = {
	[FIELD_MESSAGE] = PG_DIAG_MESSAGE_PRIMARY,
	[FIELD_DETAIL] = PG_DIAG_MESSAGE_DETAIL,
	[FIELD_HINT] = PG_DIAG_MESSAGE_HINT,
	[FIELD_CONTEXT] = PG_DIAG_CONTEXT,
	[FIELD_SCHEMA] = PG_DIAG_SCHEMA_NAME,
	[FIELD_TABLE] = PG_DIAG_TABLE_NAME,
	[FIELD_COLUMN] = PG_DIAG_COLUMN_NAME,
	[FIELD_DATATYPE] = PG_DIAG_DATATYPE_NAME,
	[FIELD_CONSTRAINT] = PG_DIAG_CONSTRAINT_NAME,
};

typedef struct Message
{
	int level; /* local elevel */
	int sqlstate;
	const char *fields[FIELD_COUNT]; /* NULL = not there */
} Message;

struct CpNotice
{
	CpNotice *next;
	Message message;
	char texts[FLEXIBLE_ARRAY_MEMBER]; /* what its fields point to */
};

const char *
cp_message_valid_text(const char *text)
{
	char *copy;

	if (text == NULL || pg_verifymbstr(text, strlen(text), true))
		return text;
	copy = pstrdup(text);
	for (char *p = copy; *p != '\0'; p++)
	{
		if (IS_HIGHBIT_SET(*p))
			*p = '?';
	}
	return copy;
}

/* The SQLSTATE of a message; `otherwise` if there is none that can be raised. */
static int
sqlstate_of(const PGresult *result, int otherwise)
{
	const char *code = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	if (code == NULL || strlen(code) != 5 || strcmp(code, "00000") == 0 ||
		strspn(code, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 5)
		return otherwise;
	return MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4]);
}

/*
 * The level a notice is reported at.  What the remote would write to its own
 * log only comes here because its client_min_messages says so: it is for the
 * client, not for our log.
 */
static int
level_of(const PGresult *notice)
{
	const char *severity = PQresultErrorField(notice, PG_DIAG_SEVERITY_NONLOCALIZED);

	if (severity == NULL)
		return NOTICE;
	if (strcmp(severity, "WARNING") == 0)
		return WARNING;
	if (strcmp(severity, "INFO") == 0)
		return INFO;
	if (strncmp(severity, "DEBUG", 5) == 0)
		return DEBUG1;
	return NOTICE;
}

/* Fills message with pointers into result. */
static void
read_message(const PGresult *result, Message *message)
{
	for (int i = 0; i < FIELD_COUNT; i++)
		message->fields[i] = PQresultErrorField(result, field_codes[i]);

	/* libpq's own errors have no fields */
	if (message->fields[FIELD_MESSAGE] == NULL)
		message->fields[FIELD_MESSAGE] = PQresultErrorMessage(result);
}

static int
add_name(int field, int code, const Message *message)
{
	const char *name = message->fields[field];

	return name != NULL ? err_generic_string(code, cp_message_valid_text(name)) : 0;
}

/* Reports or, from ERROR on, raises a message. */
static void
report_message(const Message *message)
{
	const char *text[FIELD_COUNT];

	for (int i = 0; i < FIELD_COUNT; i++)
		text[i] = cp_message_valid_text(message->fields[i]);

	ereport(message->level,
			(errcode(message->sqlstate),
			 errmsg_internal("%s", pchomp(text[FIELD_MESSAGE])),
			 text[FIELD_DETAIL] ? errdetail_internal("%s", text[FIELD_DETAIL]) : 0,
			 text[FIELD_HINT] ? errhint("%s", text[FIELD_HINT]) : 0,
			 text[FIELD_CONTEXT] ? errcontext("%s", text[FIELD_CONTEXT]) : 0,
			 add_name(FIELD_SCHEMA, PG_DIAG_SCHEMA_NAME, message),
			 add_name(FIELD_TABLE, PG_DIAG_TABLE_NAME, message),
			 add_name(FIELD_COLUMN, PG_DIAG_COLUMN_NAME, message),
			 add_name(FIELD_DATATYPE, PG_DIAG_DATATYPE_NAME, message),
			 add_name(FIELD_CONSTRAINT, PG_DIAG_CONSTRAINT_NAME, message)));
}

/* ---- notices ---- */

/* libpq's notice receiver */
static void
collect_notice(void *arg, const PGresult *result)
{
	CpNotices *notices = arg;
	CpNotice *notice;
	Message message;
	int otherwise = ERRCODE_SUCCESSFUL_COMPLETION;
	size_t size = offsetof(CpNotice, texts);
	char *to;

	message.level = level_of(result);
	if (message.level == WARNING)
		otherwise = ERRCODE_WARNING;
	message.sqlstate = sqlstate_of(result, otherwise);
	read_message(result, &message);
	for (int i = 0; i < FIELD_COUNT; i++)
	{
		if (message.fields[i] != NULL)
			size += strlen(message.fields[i]) + 1;
	}

	notice = notices->bytes + size <= CP_NOTICES_MAX ? malloc(size) : NULL;
	if (notice == NULL)
	{
		notices->dropped++;
		return;
	}

	to = notice->texts;
	for (int i = 0; i < FIELD_COUNT; i++)
	{
		if (message.fields[i] != NULL)
		{
			message.fields[i] = strcpy(to, message.fields[i]);
			to += strlen(to) + 1;
		}
	}
	notice->message = message;
	notice->next = NULL;

	if (notices->last == NULL)
		notices->first = notice;
	else
		notices->last->next = notice;
	notices->last = notice;
	notices->bytes += size;
}

void
cp_message_collect_notices(PGconn *conn, CpNotices *notices)
{
	PQsetNoticeReceiver(conn, collect_notice, notices);
}

static void
free_first(CpNotices *notices)
{
	CpNotice *first = notices->first;

	notices->first = first->next;
	free(first);
}

void
cp_message_report_notices(CpNotices *notices)
{
	int64 dropped = notices->dropped;

	/* each stays in the list until reported: an error must not lose track */
	while (notices->first != NULL)
	{
		report_message(&notices->first->message);
		free_first(notices);
	}
	cp_message_free_notices(notices);

	if (dropped > 0)
		ereport(WARNING,
				(errmsg("%lld messages of the remote server were dropped",
						(long long) dropped)));
}

void
cp_message_free_notices(CpNotices *notices)
{
	while (notices->first != NULL)
		free_first(notices);
	memset(notices, 0, sizeof(*notices));
}

/* ---- errors ---- */

/* Does this code say that the session it was raised in is being ended? */
static bool
is_shutdown(int sqlstate)
{
	return sqlstate == ERRCODE_ADMIN_SHUTDOWN ||
		sqlstate == ERRCODE_CRASH_SHUTDOWN ||
		sqlstate == ERRCODE_CANNOT_CONNECT_NOW;
}

/* It says itself by which function it was raised. */
bool
cp_message_is_remote(const ErrorData *error)
{
	return error->funcname != NULL && strcmp(error->funcname, "report_message") == 0;
}

int
cp_message_sqlstate(const PGresult *error)
{
	return sqlstate_of(error, CP_ERRCODE_LOST);
}

bool
cp_message_is_servers(const PGresult *error)
{
	return sqlstate_of(error, 0) != 0;
}

void
cp_message_throw_error(const char *pool, const PGresult *error)
{
	Message message;

	message.level = ERROR;
	message.sqlstate = sqlstate_of(error, CP_ERRCODE_LOST);
	if (is_shutdown(message.sqlstate))
		cp_message_throw_lost(pool, cp_message_why_lost(NULL, error));
	read_message(error, &message);
	report_message(&message);
	pg_unreachable();
}

char *
cp_message_why_lost(PGconn *conn, const PGresult *error)
{
	const char *said = NULL;

	if (error != NULL && PQresultErrorField(error, PG_DIAG_SQLSTATE) != NULL)
	{
		said = PQresultErrorField(error, PG_DIAG_MESSAGE_PRIMARY);
		if (said != NULL)
			return psprintf(_("The remote server said: %s (SQLSTATE %s)."),
							cp_message_valid_text(said),
							unpack_sql_state(sqlstate_of(error, CP_ERRCODE_LOST)));
	}
	if (error != NULL)
		said = PQresultErrorMessage(error);
	if ((said == NULL || *said == '\0') && conn != NULL)
		said = PQerrorMessage(conn);
	if (said == NULL)
		said = "";
	return pchomp(cp_message_valid_text(said));
}

void
cp_message_throw_lost(const char *pool, const char *why)
{
	ereport(ERROR,
			(errcode(CP_ERRCODE_LOST),
			 errmsg("connection of pool \"%s\" was lost during the statement", pool),
			 *why != '\0' ? errdetail_internal("%s", why) : 0));
}

/* ---- connecting ---- */

/*
 * The SQLSTATE that stands at the beginning of s, as libpq writes it in its
 * verbose messages ("28P01: "); 0 if there is none.
 */
static int
leading_sqlstate(const char *s)
{
	if (strspn(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && s[5] == ':' && s[6] == ' ')
		return MAKE_SQLSTATE(s[0], s[1], s[2], s[3], s[4]);
	return 0;
}

/* A copy that is not longer than such a message may be. */
static char *
clip(const char *verbose)
{
	int len = (int) strnlen(verbose, CP_CONNECT_ERROR_MAX + 1);

	if (len > CP_CONNECT_ERROR_MAX)
		len = pg_mbcliplen(verbose, len, CP_CONNECT_ERROR_MAX);
	return pnstrdup(verbose, len);
}

/*
 * Takes out the SQLSTATEs, and where in libpq's or the server's source an error
 * came from.  In one pass: the remote says how much of it there is.
 */
static void
simplify(char *message, int *sqlstate)
{
	static const char location[] = "\nLOCATION:  ";
	const char *from = message;
	char *to = message;

	while (*from != '\0')
	{
		int state = strncmp(from, ":  ", 3) == 0 ? leading_sqlstate(from + 3) : 0;

		if (state != 0)
		{
			/* with several hosts the last one's is what the attempt ended with */
			*sqlstate = state;
			to = (char *) memmove(to, ":  ", 3) + 3;
			from += 3 + 7;
		}
		else if (strncmp(from, location, sizeof(location) - 1) == 0)
			from += 1 + strcspn(from + 1, "\n");
		else
			*to++ = *from++;
	}
	*to = '\0';
}

char *
cp_message_of_connect(const char *verbose, int *sqlstate)
{
	char *message = clip(verbose);

	/* a copy, if it is not itself */
	message = unconstify(char *, cp_message_valid_text(message));
	*sqlstate = 0;
	simplify(message, sqlstate);
	return pchomp(message);
}

CpFailure
cp_message_connect_failure(CpRemote *remote, bool timed_out, int *sqlstate, char **message)
{
	*message = cp_message_of_connect(cp_remote_connect_error(remote), sqlstate);
	if (timed_out)
		return CP_FAILURE_UNREACHABLE;
	if (ERRCODE_TO_CATEGORY(*sqlstate) == ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION ||
		remote->needs_password)
	{
		if (*sqlstate == 0)
			*sqlstate = ERRCODE_INVALID_PASSWORD;
		return CP_FAILURE_LOGIN;
	}
	if (ERRCODE_TO_CATEGORY(*sqlstate) == ERRCODE_INSUFFICIENT_RESOURCES)
		return CP_FAILURE_ROOM;
	return CP_FAILURE_UNREACHABLE;
}
