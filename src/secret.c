/*
 * secret.c
 *		Hides texts that may hold a password.
 *
 * Runs in any process, called by whoever keeps or shows a text.  Must not take
 * a text for harmless that it does not understand: it errs towards hiding.
 */
#include "postgres.h"

#include "secret.h"

static const char hidden[] = "<hidden: it may hold a password>";

/*
 * Servers repeat what they were told, such as a database's name that is a
 * connection string by mistake.
 */
static bool
may_hold_password(const char *text)
{
	for (const char *p = text; *p; p++)
	{
		if (strncmp(p, "://", 3) == 0)
			return true;
		if (pg_strncasecmp(p, "password", 8) == 0 &&
			p[8 + strspn(p + 8, " \t\n\r\f\v")] == '=')
			return true;
	}
	return false;
}

const char *
cp_secret_mask(const char *text)
{
	return may_hold_password(text) ? hidden : text;
}

const char *
cp_secret_mask_sql(const char *text, int len)
{
	for (int i = 0; text != NULL && i < len && text[i] != '\0'; i++)
	{
		/* one look is enough at nearly all characters */
		if (((text[i] | 0x20) == 'p' && pg_strncasecmp(text + i, "password", 8) == 0) ||
			(text[i] == ':' && strncmp(text + i, "://", 3) == 0))
			return hidden;
	}
	return text;
}
