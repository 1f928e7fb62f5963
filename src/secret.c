/*
 * secret.c
 *		Hides texts that may hold a password.
 *
 * Runs in any process, called by whoever keeps or shows a text.  Must not take
 * a text for harmless that it does not understand: it errs towards hiding.
 */
#include "postgres.h"

#include "secret.h"

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
	return may_hold_password(text) ? "<hidden: it may hold a password>" : text;
}
