/*
 * greeting.c
 *		Records a server's greeting while libpq connects.
 *
 * Runs in the process that connects; called by remote.c alone.
 *
 * libpq keeps no copy of the greeting and does not tell the cancel key, but it
 * prints every message to a trace stream.  Ours takes the names of the
 * parameters and the key out of that text line by line and forgets the rest
 * at once: from version 18 on libpq prints passwords there too.
 *
 * The text is written by the remote server as much as by libpq, which escapes
 * nothing in strings.  Hence only names are taken from it, their values come
 * from PQparameterStatus(); a forged key is sent to none but its forger; and
 * everything is bounded.  Writing to the stream must never fail: libpq's
 * tracing computes its position in a message from what fprintf() returns.
 *
 * In the tunnel libpq connects, and so writes, in a thread: until the recorder is
 * finished or dropped nothing of PostgreSQL's may be called, not even palloc.
 */
#include "postgres.h"

#include "greeting.h"

#include "port/pg_bswap.h"
#include "utils/memutils.h"

/* the longest line that matters: a key of 256 bytes, each printed as \xhh */
#define MAX_LINE (CP_CANCEL_KEY_MAX * 4 + 64)
/* bytes of a parameter's name at most */
#define MAX_NAME 128
/* what no parameter's value is: recorded ones have no control characters */
#define IMPOSSIBLE_VALUE "\001"

struct CpRecorder
{
	FILE *stream;
	char buffer[1024];		 /* stdio's; here so that it can be wiped */
	char line[MAX_LINE + 1]; /* being assembled; surplus is dropped */
	int line_len;
	bool line_cut;

	/* taken from the lines since "authentication ok" */
	char names[CP_GREETING_MAX / 2]; /* each with its terminator */
	int names_len;
	int keys; /* lines with a key: one is normal */
	int pid;
	int key_len;
	uint8 key[CP_CANCEL_KEY_MAX];
	bool unfit; /* something did not fit or looks wrong */
};

/* ---- reading the trace ---- */

static void
begin_greeting(CpRecorder *rec)
{
	/* when libpq tries several hosts, only the last one's counts */
	rec->names_len = 0;
	rec->keys = 0;
	rec->key_len = 0;
	/* unfit stays: this line, too, may be a server's invention */
}

static bool
has_name(const CpRecorder *rec, const char *name)
{
	int at;

	for (at = 0; at < rec->names_len; at += strlen(rec->names + at) + 1)
	{
		if (strcmp(rec->names + at, name) == 0)
			return true;
	}
	return false;
}

/* text: name" "value" */
static void
record_name(CpRecorder *rec, char *text)
{
	char *end = strchr(text, '"');
	int size;

	if (end == NULL || end == text || end - text >= MAX_NAME)
	{
		rec->unfit = true;
		return;
	}
	*end = '\0';
	if (has_name(rec, text))
		return;

	size = end - text + 1;
	if (rec->names_len + size > sizeof(rec->names))
	{
		rec->unfit = true;
		return;
	}
	memcpy(rec->names + rec->names_len, text, size);
	rec->names_len += size;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

/*
 * Key bytes as libpq 18 prints them: 'ab\x00\x7f', where it may or may not
 * have escaped those that are printable.  Returns how many, or -1.
 */
static int
decode_key(const char *text, uint8 *key)
{
	const char *end = text + strlen(text) - 1;
	int n = 0;

	if (end <= text || *text != '\'' || *end != '\'')
		return -1;
	for (text++; text < end; n++)
	{
		if (n == CP_CANCEL_KEY_MAX)
			return -1;
		if (end - text >= 4 && text[0] == '\\' && text[1] == 'x' &&
			hex_digit(text[2]) >= 0 && hex_digit(text[3]) >= 0)
		{
			key[n] = hex_digit(text[2]) << 4 | hex_digit(text[3]);
			text += 4;
		}
		else
			key[n] = (uint8) *text++;
	}
	return n;
}

/*
 * text: pid, then the key, as a signed integer (up to libpq 17) or as bytes.
 * length: of the message, which says how long the key must come out.
 */
static void
record_key(CpRecorder *rec, const char *text, long length)
{
	char *end;

	rec->keys++;
	rec->pid = (int) strtol(text, &end, 10);
	if (end == text || *end != ' ')
	{
		rec->unfit = true;
		return;
	}
	text = end + 1;

	if (*text == '\'')
		rec->key_len = decode_key(text, rec->key);
	else
	{
		uint32 key = pg_hton32((uint32) strtol(text, &end, 10));

		rec->key_len = (end == text || *end != '\0') ? -1 : sizeof(key);
		memcpy(rec->key, &key, sizeof(key));
	}

	/* message length counts itself and the pid, four bytes each */
	if (rec->line_cut || rec->key_len < 0 || rec->key_len != length - 8)
		rec->unfit = true;
}

/* Is text "prefix..."?  Then *rest is what follows. */
static bool
begins_with(char *text, const char *prefix, char **rest)
{
	size_t len = strlen(prefix);

	*rest = text + len;
	return strncmp(text, prefix, len) == 0;
}

/* A line is complete: B, tab, length, tab, name of the message, ... */
static void
record_line(CpRecorder *rec)
{
	char *text;
	char *rest;
	long length;

	if (!begins_with(rec->line, "B\t", &text))
		return;
	length = strtol(text, &rest, 10);
	if (rest == text || *rest != '\t')
		return;
	text = rest + 1;

	/* libpq up to 15, and later */
	if (strcmp(text, "Authentication\t 0") == 0 ||
		strcmp(text, "AuthenticationOk") == 0)
		begin_greeting(rec);
	else if (begins_with(text, "ParameterStatus\t \"", &rest))
		record_name(rec, rest);
	else if (begins_with(text, "BackendKeyData\t ", &rest))
		record_key(rec, rest, length);
}

/* Takes what libpq wrote to the stream.  Never fails. */
static void
take_trace(CpRecorder *rec, const char *data, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++)
	{
		if (data[i] == '\n')
		{
			rec->line[rec->line_len] = '\0';
			record_line(rec);
			explicit_bzero(rec->line, rec->line_len);
			rec->line_len = 0;
			rec->line_cut = false;
		}
		else if (rec->line_len < MAX_LINE)
			rec->line[rec->line_len++] = data[i];
		else
			rec->line_cut = true;
	}
}

/* ---- the stream ---- */

#ifdef __linux__

static ssize_t
write_trace(void *cookie, const char *data, size_t size)
{
	take_trace((CpRecorder *) cookie, data, size);
	return size;
}

static FILE *
open_stream(CpRecorder *rec)
{
	cookie_io_functions_t functions = {.write = write_trace};

	return fopencookie(rec, "w", functions);
}

#else /* BSD, macOS */

static int
write_trace(void *cookie, const char *data, int size)
{
	take_trace((CpRecorder *) cookie, data, size);
	return size;
}

static FILE *
open_stream(CpRecorder *rec)
{
	return fwopen(rec, write_trace);
}

#endif

CpRecorder *
cp_recorder_start(PGconn *conn)
{
	CpRecorder *rec;

	rec = MemoryContextAllocExtended(TopMemoryContext, sizeof(CpRecorder),
									 MCXT_ALLOC_ZERO | MCXT_ALLOC_NO_OOM);
	if (rec == NULL)
		return NULL;
	rec->stream = open_stream(rec);
	if (rec->stream == NULL)
	{
		pfree(rec);
		return NULL;
	}
	setvbuf(rec->stream, rec->buffer, _IOFBF, sizeof(rec->buffer));
	PQtrace(conn, rec->stream);
	PQsetTraceFlags(conn, PQTRACE_SUPPRESS_TIMESTAMPS);
	return rec;
}

/* No more is recorded from now on; all that was is in the recorder. */
static void
stop(CpRecorder *rec, PGconn *conn)
{
	PQuntrace(conn);
	fclose(rec->stream);
	rec->stream = NULL;
}

static void
wipe(CpRecorder *rec)
{
	explicit_bzero(rec, sizeof(*rec));
	pfree(rec);
}

void
cp_recorder_drop(CpRecorder *rec, PGconn *conn)
{
	stop(rec, conn);
	wipe(rec);
}

/* ---- the greeting ---- */

static bool
put(CpGreeting *greeting, const void *data, size_t size)
{
	if (size > sizeof(greeting->bytes) - greeting->len)
		return false;
	memcpy(greeting->bytes + greeting->len, data, size);
	greeting->len += size;
	return true;
}

static bool
put_int32(CpGreeting *greeting, int32 value)
{
	uint32 n = pg_hton32((uint32) value);

	return put(greeting, &n, sizeof(n));
}

static bool
has_control_characters(const char *text)
{
	const char *p;

	for (p = text; *p != '\0'; p++)
	{
		if ((unsigned char) *p < ' ' || *p == 0x7f)
			return true;
	}
	return false;
}

static bool
put_parameter(CpGreeting *greeting, const char *name, const char *value)
{
	size_t name_size = strlen(name) + 1;
	size_t value_size = strlen(value) + 1;

	if (value_size > CP_GREETING_MAX)
		return false;

	return put(greeting, "S", 1) &&
		put_int32(greeting, 4 + name_size + value_size) &&
		put(greeting, name, name_size) &&
		put(greeting, value, value_size);
}

static bool
put_recorded(CpGreeting *greeting, const char *name, const char *value)
{
	if (value == NULL || has_control_characters(name) || has_control_characters(value))
		return false;
	return put_parameter(greeting, name, value);
}

static bool
put_parameters(CpGreeting *greeting, const CpRecorder *rec, PGconn *conn)
{
	int at;

	for (at = 0; at < rec->names_len; at += strlen(rec->names + at) + 1)
	{
		const char *name = rec->names + at;

		if (!put_recorded(greeting, name, PQparameterStatus(conn, name)))
			return false;
	}
	return true;
}

/*
 * The key's place is filled with zeros: a PGconn that gets these bytes never
 * cancels by itself, and at protocol 3.0 wants to see four bytes whatever the
 * length of the real one.
 */
static bool
put_key(CpGreeting *greeting)
{
	return put(greeting, "K", 1) &&
		put_int32(greeting, 12) &&
		put_int32(greeting, greeting->pid) &&
		put_int32(greeting, 0);
}

/* AuthenticationOk; then come the parameters. */
static bool
put_start(CpGreeting *greeting)
{
	return put(greeting, "R", 1) &&
		put_int32(greeting, 8) &&
		put_int32(greeting, 0);
}

/* What follows the parameters: the pid, ReadyForQuery. */
static bool
put_end(CpGreeting *greeting)
{
	return (greeting->pid == 0 || put_key(greeting)) &&
		put(greeting, "Z", 1) &&
		put_int32(greeting, 5) &&
		put(greeting, "I", 1);
}

bool
cp_recorder_finish(CpRecorder *rec, PGconn *conn, CpGreeting *greeting)
{
	bool ok;

	stop(rec, conn);
	memset(greeting, 0, sizeof(*greeting));
	greeting->pid = PQbackendPID(conn);
	if (rec->keys > 1 || (rec->keys == 1 && rec->pid != greeting->pid))
		rec->unfit = true;

	if (rec->keys == 1 && !rec->unfit)
	{
		greeting->key_len = rec->key_len;
		memcpy(greeting->key, rec->key, rec->key_len);
	}
	ok = !rec->unfit &&
		put_start(greeting) &&
		put_parameters(greeting, rec, conn) &&
		put_end(greeting);
	if (!ok)
		greeting->len = 0;
	wipe(rec);
	return ok;
}

static bool
passage_is_valid(const CpPassage *passage)
{
	return passage->tunnel >= 0 &&
		passage->peer_len >= 0 && passage->peer_len <= (int) sizeof(passage->peer) &&
		memchr(passage->tls_version, '\0', sizeof(passage->tls_version)) != NULL &&
		memchr(passage->tls_cipher, '\0', sizeof(passage->tls_cipher)) != NULL;
}

bool
cp_greeting_is_valid(const CpGreeting *greeting, size_t size)
{
	return size >= offsetof(CpGreeting, bytes) && passage_is_valid(&greeting->passage) &&
		greeting->len > 0 && greeting->len <= CP_GREETING_MAX &&
		greeting->key_len >= 0 && greeting->key_len <= CP_CANCEL_KEY_MAX &&
		size == cp_greeting_size(greeting);
}

/* ---- comparing ---- */

/* One after the other: at and bit begin as NULL and 0. */
typedef struct Parameter
{
	const char *at; /* where the next one begins, NULL = at the first */
	uint64 bit;		/* its place in a set of changes */
	const char *name;
	const char *value;
} Parameter;

/*
 * Goes on to the next parameter; false after the last.  Runs after every
 * statement, hence no copies: the bytes are walked in place.  They were built
 * by the functions above, so their form is known.
 */
static bool
next_parameter(const CpGreeting *greeting, Parameter *p)
{
	const char *end = greeting->bytes + greeting->len;

	if (p->at == NULL)
		p->at = greeting->bytes + 9; /* after AuthenticationOk */
	if (p->at >= end || *p->at != 'S')
		return false;
	if (p->bit == 0)
		p->bit = 1;
	else if (p->bit != CP_CHANGES_REST)
		p->bit <<= 1;
	p->name = p->at + 5;
	p->value = p->name + strlen(p->name) + 1;
	p->at = p->value + strlen(p->value) + 1;
	return true;
}

uint64
cp_greeting_changes(const CpGreeting *greeting, PGconn *conn)
{
	Parameter p = {0};
	uint64 changes = 0;

	while (next_parameter(greeting, &p))
	{
		const char *now = PQparameterStatus(conn, p.name);

		if (now == NULL || strcmp(now, p.value) != 0)
			changes |= p.bit;
	}
	return changes;
}

/*
 * libpq looks into some values.  An impossible encoding is SQL_ASCII to it, an
 * impossible version none, anything else "off": good enough for a reset, which
 * is ASCII without literals.
 */
bool
cp_greeting_blot(const CpGreeting *greeting, uint64 changes, CpGreeting *blotted)
{
	Parameter p = {0};

	blotted->len = 0;
	blotted->pid = greeting->pid;
	blotted->key_len = 0;
	if (!put_start(blotted))
		return false;
	while (next_parameter(greeting, &p))
	{
		if (!put_parameter(blotted, p.name, changes & p.bit ? IMPOSSIBLE_VALUE : p.value))
			return false;
	}
	return put_end(blotted);
}
