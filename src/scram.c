/*
 * scram.c
 *		The SCRAM keys of this session's client, for logging in at a remote.
 *
 * Runs in client backends, called by target.c and the validator.  Throws.  Must
 * never put a key into a message, nor leave one behind in memory of its own.
 */
#include "postgres.h"

#include "scram.h"

#include "miscadmin.h"

#include "compat.h"

#ifdef CP_HAS_SCRAM_KEYS

/*
 * The header would want those of OpenSSL and Kerberos, which need not be there; a
 * Port has the same layout without them.
 */
#undef USE_OPENSSL
#undef ENABLE_GSS
#include "common/base64.h"
#include "libpq/libpq-be.h"

/* never sent: keys have precedence, and nothing but SCRAM is allowed */
#define UNUSED_PASSWORD "-"

static bool
libpq_has(const char *option)
{
	const char *keyword;

	for (int i = 0; (keyword = cp_conninfo_keyword(i)) != NULL; i++)
	{
		if (strcmp(keyword, option) == 0)
			return true;
	}
	return false;
}

/* It may be another version than the server. */
static bool
libpq_takes_keys(void)
{
	static int known = -1;

	if (known < 0)
		known = libpq_has("scram_client_key") && libpq_has("scram_server_key") &&
			libpq_has("require_auth");
	return known != 0;
}

const char *
cp_scram_unsupported(void)
{
	return libpq_takes_keys() ?
		NULL :
		_("It needs PostgreSQL 18 or later, and the server's libpq is older.");
}

const char *
cp_scram_lacking(void)
{
	if (!libpq_takes_keys())
		return cp_scram_unsupported();
	if (MyProcPort == NULL)
		return _("This process serves no client.");
	if (!MyProcPort->has_scram_keys)
		return _("The session's client did not log in by SCRAM.");
	if (GetUserId() != GetAuthenticatedUserId() || GetOuterUserId() != GetAuthenticatedUserId())
		return _("What runs with the rights of another role than the one that has logged in "
				 "does not get its SCRAM keys.");
	return NULL;
}

static void
give_key(CpConninfo *info, const char *keyword, const uint8 *key, int size)
{
	char text[SCRAM_MAX_KEY_LEN * 2];
	int len = pg_b64_encode(key, size, text, sizeof(text) - 1);

	if (len < 0)
		elog(ERROR, "could not encode option \"%s\"", keyword);
	text[len] = '\0';
	cp_conninfo_set(info, keyword, text);
	explicit_bzero(text, sizeof(text));
}

void
cp_scram_give(CpConninfo *info, bool trusted)
{
	give_key(info, "scram_client_key", MyProcPort->scram_ClientKey,
			 sizeof(MyProcPort->scram_ClientKey));
	give_key(info, "scram_server_key", MyProcPort->scram_ServerKey,
			 sizeof(MyProcPort->scram_ServerKey));
	/* a remote that asks for nothing, or in another way, would not look at the keys */
	cp_conninfo_set(info, "require_auth", "scram-sha-256");
	if (!trusted)
		cp_conninfo_set(info, "channel_binding", "require");
	/* without one libpq reads a file, and blames what goes wrong later on its absence */
	cp_conninfo_set(info, "password", UNUSED_PASSWORD);
}

#else

const char *
cp_scram_unsupported(void)
{
	return _("It needs PostgreSQL 18 or later, and this server is older.");
}

const char *
cp_scram_lacking(void)
{
	return cp_scram_unsupported();
}

void
cp_scram_give(CpConninfo *info, bool trusted)
{
	elog(ERROR, "this server keeps no SCRAM keys");
}

#endif
