/*
 * session_state.c
 *		Can a statement have left something behind in its session?
 *
 * Runs in client backends, after every statement of an implicit lease with
 * reset "auto", so it has to be quick.  It errs towards a reset, but it only
 * sees the text: functions that change the session by themselves escape it,
 * which is what reset "always" is for.
 *
 * Not counted as state: what ends with the transaction (large object
 * descriptors, snapshots); currval() and lastval(), which a plain INSERT
 * sets as well; and what DISCARD ALL would not undo anyway (temporary
 * replication slots, replication origins).
 */
#include "postgres.h"

#include "session_state.h"

/*
 * Words in a text that make a reset necessary: functions that set a parameter
 * or take a lock for the session, the view whose UPDATE sets parameters, those
 * that open connections which stay with the session, built-in ones that run
 * SQL out of a string, and the beginning of a name that is written with
 * escapes.  All in lower case.
 */
static const char *const suspects[] = {
	"advisory",
	"conpool.checkout",
	"dblink_connect",
	"pg_settings",
	"query_to_xml",
	"set_config",
	"set_limit",
	"setseed",
	"ts_rewrite",
	"ts_stat",
	"u&\"",
};

/* ASCII only: a word of the list cannot be spelled otherwise. */
static inline char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

static bool
begins_with(const char *text, const char *word)
{
	while (*word != '\0' && lower(*text) == *word)
	{
		text++;
		word++;
	}
	return *word == '\0';
}

static bool
contains(const char *text, const char *word)
{
	for (; *text != '\0'; text++)
	{
		if (begins_with(text, word))
			return true;
	}
	return false;
}

static bool
contains_suspect(const char *text)
{
	for (; *text != '\0'; text++)
	{
		/* the letters that suspects begin with: elsewhere one look is enough */
		switch (lower(*text))
		{
			case 'a':
			case 'c':
			case 'd':
			case 'p':
			case 'q':
			case 's':
			case 't':
			case 'u':
				for (int i = 0; i < lengthof(suspects); i++)
				{
					if (begins_with(text, suspects[i]))
						return true;
				}
				break;
			default:
				break;
		}
	}
	return false;
}

/* Is this the word that the tag begins with? */
static bool
is_tag(const char *tag, const char *word)
{
	size_t len = strlen(word);

	return strncmp(tag, word, len) == 0 && (tag[len] == ' ' || tag[len] == '\0');
}

/*
 * TABLE, VALUES and WITH come as SELECT, and so do SELECT INTO and CREATE
 * TABLE AS, which may make temporary tables but return no columns.
 */
static bool
is_clean_tag(const char *tag, bool had_columns, const char *sql)
{
	if (is_tag(tag, "SELECT"))
		return had_columns;
	if (is_tag(tag, "EXPLAIN"))
		return !contains(sql, "analy"); /* EXPLAIN ANALYZE CREATE TABLE AS */
	return is_tag(tag, "INSERT") || is_tag(tag, "UPDATE") || is_tag(tag, "DELETE") ||
		is_tag(tag, "MERGE") || is_tag(tag, "SHOW");
}

bool
cp_session_state_is_clean(const char *tag, bool had_columns, const char *sql)
{
	return is_clean_tag(tag, had_columns, sql) && !contains_suspect(sql);
}
