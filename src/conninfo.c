/*
 * conninfo.c
 *		The libpq options that a connection is opened with.
 *
 * Runs in client backends, called by target.c and the validator; the part that
 * is about waiting in the dialer.  Throws.
 * Must never put a value into a message, nor leave one behind in freed memory.
 */
#include "postgres.h"

#include "conninfo.h"

#include <sys/stat.h>

#include "common/hmac.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"
#include "libpq-fe.h"
#include "mb/pg_wchar.h"

#include "wiped.h"

#ifdef HAVE_LIBPQSRV_CHECK_PROXY_CONNINFO
/* The server that loads us may be an earlier minor release, without it. */
#pragma weak libpqsrv_is_valid_proxy_option
#include "libpq/libpq-be-fe-helpers.h"
#endif

/*
 * What the remote prints, and reads, must not depend on settings of its
 * database or role.
 * These are startup options because DISCARD ALL goes back to them; a SET would
 * be undone by it.
 */
#define FIXED_OPTIONS \
	"-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 " \
	"-c bytea_output=hex -c lc_monetary=C -c array_nulls=on -c xmloption=content"

/* Unless given: a silent partition ends within about a minute. */
static const char *const defaults[][2] = {
	{"keepalives", "1"},
	{"keepalives_idle", "30"},	   /* s */
	{"keepalives_interval", "10"}, /* s */
	{"tcp_user_timeout", "30000"}, /* ms */
};

/* bytes of a password file, or one with certificates, that are read without ado */
#define PASSFILE_MAX (1024 * 1024)
#define TLS_FILE_MAX (16 * 1024 * 1024)

/* what people write who want no file at all */
#define NO_FILE "/dev/null"

/* see cp_conninfo_without_waiting() */
#define NO_SERVICE_10 "----------"
#define NO_SERVICE \
	"none@" NO_SERVICE_10 NO_SERVICE_10 NO_SERVICE_10 NO_SERVICE_10 NO_SERVICE_10 \
		NO_SERVICE_10 NO_SERVICE_10 NO_SERVICE_10

/* An HMAC in the making. */
typedef struct Digest
{
	pg_hmac_ctx *hmac;
	bool failed;
} Digest;

/* ---- what libpq has ---- */

/*
 * All options of this libpq, none of them given; ends with a NULL keyword.
 * Not PQconndefaults, which would bring values from the environment.
 */
static const PQconninfoOption *
libpq_options(void)
{
	static PQconninfoOption *options = NULL;

	if (options == NULL)
		options = PQconninfoParse("", NULL);
	if (options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	return options;
}

static int
count_options(void)
{
	const PQconninfoOption *options = libpq_options();
	int n = 0;

	while (options[n].keyword)
		n++;
	return n;
}

/* CP_NONE if libpq has no such option */
static int
option_index(const char *keyword)
{
	const PQconninfoOption *options = libpq_options();

	for (int i = 0; options[i].keyword; i++)
	{
		if (strcmp(options[i].keyword, keyword) == 0)
			return i;
	}
	return CP_NONE;
}

const char *
cp_conninfo_keyword(int i)
{
	return libpq_options()[i].keyword;
}

/*
 * For nobody, in whatever way this libpq classes them: they would have the server
 * write or read a file of the caller's choice (a service file may hold any option),
 * or use somebody else's keys.
 */
static bool
is_unsafe(const char *keyword)
{
	static const char *const unsafe[] = {
		"sslkeylogfile",
		"servicefile",
		"scram_client_key",
		"scram_server_key",
	};

	for (int i = 0; i < lengthof(unsafe); i++)
	{
		if (strcmp(keyword, unsafe[i]) == 0)
			return true;
	}
	return false;
}

/*
 * The same division as in postgres_fdw: debug options (replication among
 * them) are for nobody, and OAuth would ask its questions on the server's
 * standard error.
 */
CpConninfoPlace
cp_conninfo_place(const char *keyword)
{
	int i = option_index(keyword);
	const char *display;

	if (i == CP_NONE)
		return CP_CONNINFO_NOWHERE;
	display = libpq_options()[i].dispchar;
	if (strchr(display, 'D') || is_unsafe(keyword) ||
		strncmp(keyword, "oauth_", strlen("oauth_")) == 0 ||
		strcmp(keyword, "client_encoding") == 0 ||
		strcmp(keyword, "fallback_application_name") == 0)
		return CP_CONNINFO_NOWHERE;
	if (strchr(display, '*') || strcmp(keyword, "user") == 0)
		return CP_CONNINFO_MAPPING;
	return CP_CONNINFO_SERVER;
}

/*
 * Any scheme will do: a URI that is mistyped may hold a password as well, and
 * must not show up as the name of a server that does not exist.
 */
bool
cp_conninfo_is_one(const char *text)
{
	return strchr(text, '=') != NULL || strstr(text, "://") != NULL;
}

/* ---- gathering options ---- */

CpConninfo *
cp_conninfo_create(MemoryContext context)
{
	CpConninfo *info = MemoryContextAllocZero(context, sizeof(CpConninfo));

	info->context = context;
	info->given = MemoryContextAllocZero(context, count_options() * sizeof(char *));
	return info;
}

void
cp_conninfo_set(CpConninfo *info, const char *keyword, const char *value)
{
	int i = option_index(keyword);

	if (i == CP_NONE)
		elog(ERROR, "libpq has no option \"%s\"", keyword);
	info->given[i] = cp_wiped_copy(info->context, value);
}

const char *
cp_conninfo_get(const CpConninfo *info, const char *keyword)
{
	int i = option_index(keyword);

	if (i == CP_NONE || info->given[i] == NULL || info->given[i][0] == '\0')
		return NULL;
	return info->given[i];
}

void
cp_conninfo_check_list(const char *keyword, const char *value)
{
	int n = 1;

	if (strcmp(keyword, "host") != 0 && strcmp(keyword, "hostaddr") != 0 &&
		strcmp(keyword, "port") != 0)
		return;
	for (; *value != '\0'; value++)
		n += *value == ',';
	if (n > CP_MAX_HOSTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" has too many entries", keyword),
				 errdetail("It has %d, and at most %d are tried.", n, CP_MAX_HOSTS)));
}

static void
require_allowed(const char *keyword)
{
	/* a string made for an application may well name that application */
	if (strcmp(keyword, "fallback_application_name") == 0)
		return;
	if (cp_conninfo_place(keyword) == CP_CONNINFO_NOWHERE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" is not allowed in a connection string",
						keyword),
				 strcmp(keyword, "client_encoding") == 0 ?
					 errdetail("conpool sets it to the encoding of the local database.") :
					 0));
}

static void
free_parsed(PQconninfoOption *options)
{
	for (PQconninfoOption *o = options; o->keyword; o++)
	{
		if (o->val)
			explicit_bzero(o->val, strlen(o->val));
	}
	PQconninfoFree(options);
}

static void
throw_invalid(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid connection string"),
			 errdetail("It is not shown because it may hold a password."),
			 errhint("Write \"keyword=value ...\" with libpq's keywords and single "
					 "quotes around values with spaces, or a URI that begins with "
					 "\"postgresql://\" and has its special characters "
					 "percent-encoded.")));
}

/*
 * Does the host hold the rest of a URI's password, in which an @ was not
 * encoded?  An abstract Unix socket begins with @, a path may have one.
 */
static bool
holds_credentials(const char *host)
{
	const char *at = *host == '/' ? NULL : strrchr(host, '@');

	return at != NULL && at != host && at[-1] != ',';
}

void
cp_conninfo_parse(CpConninfo *info, const char *string)
{
	PQconninfoOption *options = PQconninfoParse(string, NULL);

	if (options == NULL)
		throw_invalid();
	PG_TRY();
	{
		for (PQconninfoOption *o = options; o->keyword; o++)
		{
			if (o->val == NULL)
				continue;
			require_allowed(o->keyword);
			if (strcmp(o->keyword, "host") == 0 && holds_credentials(o->val))
				throw_invalid();
			cp_conninfo_check_list(o->keyword, o->val);
			cp_conninfo_set(info, o->keyword, o->val);
		}
	}
	PG_FINALLY();
	{
		free_parsed(options);
	}
	PG_END_TRY();
}

/* ---- finishing ---- */

static void
add_startup_options(CpConninfo *info)
{
	const char *own = cp_conninfo_get(info, "options");
	char *options;

	/* the user's come last, so that they win */
	options = own ? psprintf("%s %s", FIXED_OPTIONS, own) : pstrdup(FIXED_OPTIONS);
	cp_conninfo_set(info, "options", options);
	explicit_bzero(options, strlen(options));
	pfree(options);
}

/*
 * Lets the server refuse options that a libpq newer than itself has brought,
 * where it knows how to.
 */
static void
check_with_server(const CpConninfo *info)
{
#ifdef HAVE_LIBPQSRV_CHECK_PROXY_CONNINFO
	int n = count_options();
	PQconninfoOption *options;

	if (libpqsrv_is_valid_proxy_option == NULL)
		return;
	options = palloc((n + 1) * sizeof(PQconninfoOption));
	memcpy(options, libpq_options(), (n + 1) * sizeof(PQconninfoOption));
	for (int i = 0; i < n; i++)
		options[i].val = info->given[i];
	libpqsrv_check_proxy_conninfo_opts(options);
	pfree(options);
#endif
}

/*
 * As the option itself rather than the one to fall back to, before which the
 * environment would come.
 */
static void
set_application_name(CpConninfo *info, const char *name)
{
	const char *own = cp_conninfo_get(info, "fallback_application_name");

	if (cp_conninfo_get(info, "application_name") == NULL)
		cp_conninfo_set(info, "application_name", own ? own : name);
}

void
cp_conninfo_finish(CpConninfo *info, const char *application_name)
{
	int n = count_options();
	int used = 0;

	cp_conninfo_set(info, "client_encoding", GetDatabaseEncodingName());
	for (int i = 0; i < lengthof(defaults); i++)
	{
		if (cp_conninfo_get(info, defaults[i][0]) == NULL)
			cp_conninfo_set(info, defaults[i][0], defaults[i][1]);
	}
	set_application_name(info, application_name);
	add_startup_options(info);

	/* a pool option: conpool limits the attempt itself */
	info->given[option_index("connect_timeout")] = NULL;

	check_with_server(info);

	info->keywords = MemoryContextAllocZero(info->context, (n + 1) * sizeof(char *));
	info->values = MemoryContextAllocZero(info->context, (n + 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
	{
		if (info->given[i] == NULL)
			continue;
		/* a server may have been made when there was no such limit */
		cp_conninfo_check_list(cp_conninfo_keyword(i), info->given[i]);
		info->keywords[used] = cp_conninfo_keyword(i);
		info->values[used++] = info->given[i];
	}
}

/* ---- digests ---- */

static void
digest_add(Digest *d, const void *data, size_t size)
{
	d->failed = d->failed || pg_hmac_update(d->hmac, data, size) < 0;
}

/* kind: keeps digests of different things apart */
static void
digest_begin(Digest *d, char kind)
{
	d->hmac = pg_hmac_create(PG_SHA256);
	if (d->hmac == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	d->failed = pg_hmac_init(d->hmac, cp_shared->secret, sizeof(cp_shared->secret)) < 0;
	digest_add(d, &kind, sizeof(kind));
}

/* with its terminator, so that "a", "bc" and "ab", "c" differ */
static void
digest_add_text(Digest *d, const char *text)
{
	digest_add(d, text, strlen(text) + 1);
}

static CpFingerprint
digest_end(Digest *d)
{
	uint8 full[PG_SHA256_DIGEST_LENGTH];
	CpFingerprint result;

	d->failed = d->failed || pg_hmac_final(d->hmac, full, sizeof(full)) < 0;
	if (d->failed)
	{
		const char *why = pg_hmac_error(d->hmac);

		pg_hmac_free(d->hmac);
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute HMAC: %s", why)));
	}
	pg_hmac_free(d->hmac);
	memcpy(result.bytes, full, sizeof(result.bytes));
	return result;
}

CpFingerprint
cp_conninfo_fingerprint(const CpConninfo *info, CpTrust trust)
{
	Digest d;

	digest_begin(&d, 'o');
	digest_add(&d, &trust, sizeof(trust));
	for (int i = 0; info->keywords[i]; i++)
	{
		digest_add_text(&d, info->keywords[i]);
		digest_add_text(&d, info->values[i]);
	}
	return digest_end(&d);
}

CpFingerprint
cp_conninfo_digest(const char *string)
{
	Digest d;

	digest_begin(&d, 's');
	digest_add_text(&d, string);
	return digest_end(&d);
}

/* ---- without waiting ---- */

static const char *
given_option(const char *const *keywords, const char *const *values, const char *keyword)
{
	for (int i = 0; keywords[i] != NULL; i++)
	{
		if (strcmp(keywords[i], keyword) == 0 && values[i] != NULL && values[i][0] != '\0')
			return values[i];
	}
	return NULL;
}

/* The same, or what the environment says; NULL if neither does. */
static const char *
effective_option(const char *const *keywords, const char *const *values, const char *keyword,
				 const char *variable)
{
	const char *value = given_option(keywords, values, keyword);

	if (value == NULL)
		value = getenv(variable);
	return value != NULL && value[0] != '\0' ? value : NULL;
}

/* Ends reading it soon?  Files that the kernel makes up have no size. */
static bool
is_small_file(const char *path, off_t limit)
{
	struct stat st;

	if (strcmp(path, NO_FILE) == 0)
		return true;
	if (stat(path, &st) < 0)
		return true; /* libpq does without it */
	return S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size <= limit;
}

static bool
is_regular_file(const char *path, off_t limit)
{
	struct stat st;

	if (strcmp(path, NO_FILE) == 0)
		return true;
	return stat(path, &st) < 0 || S_ISREG(st.st_mode);
}

/* Are all files that libpq reads for TLS of that kind? */
static bool
tls_files_are(bool (*kind)(const char *, off_t), const char *const *keywords,
			  const char *const *values)
{
	static const char *const files[] = {"sslrootcert", "sslcert", "sslkey", "sslcrl"};

	for (int i = 0; i < lengthof(files); i++)
	{
		const char *path = given_option(keywords, values, files[i]);

		if (path != NULL && !kind(path, TLS_FILE_MAX))
			return false;
	}
	return true;
}

/*
 * A value of require_auth by which GSSAPI is not spoken; NULL if the one that is
 * given requires it.
 */
static const char *
without_gss(const char *require_auth)
{
	if (require_auth == NULL)
		return "!gss,!sspi";
	if (require_auth[0] != '!')
		return strstr(require_auth, "gss") == NULL && strstr(require_auth, "sspi") == NULL ?
			require_auth :
			NULL;
	/* to say a thing twice is an error */
	return psprintf("%s%s%s", require_auth,
					strstr(require_auth, "!gss") == NULL ? ",!gss" : "",
					strstr(require_auth, "!sspi") == NULL ? ",!sspi" : "");
}

/* Copies both arrays with an option replaced. */
static void
replace_option(const char *const *keywords, const char *const *values,
			   const char *keyword, const char *value,
			   const char ***new_keywords, const char ***new_values)
{
	int count = 0;
	int used = 0;

	while (keywords[count] != NULL)
		count++;
	*new_keywords = palloc0((count + 2) * sizeof(char *));
	*new_values = palloc0((count + 2) * sizeof(char *));
	for (int i = 0; i < count; i++)
	{
		if (strcmp(keywords[i], keyword) == 0)
			continue;
		(*new_keywords)[used] = keywords[i];
		(*new_values)[used++] = values[i];
	}
	(*new_keywords)[used] = keyword;
	(*new_values)[used] = value;
}

bool
cp_conninfo_passfile_is_small(const char *const *keywords, const char *const *values)
{
	const char *passfile = given_option(keywords, values, "passfile");

	return passfile == NULL || is_small_file(passfile, PASSFILE_MAX);
}

bool
cp_conninfo_tls_files_are_regular(const char *const *keywords, const char *const *values)
{
	return tls_files_are(is_regular_file, keywords, values);
}

bool
cp_conninfo_tls_files_are_small(const char *const *keywords, const char *const *values)
{
	return tls_files_are(is_small_file, keywords, values);
}

/*
 * The remote may ask for GSSAPI, for which the Kerberos library looks names up
 * before it notices that there is no ticket.  Where libpq cannot be told to refuse,
 * it gets the name of a service which makes a name of the host that no name server
 * is asked for: a part of it is longer than may be.
 */
const char *
cp_conninfo_without_waiting(const char *const *keywords, const char *const *values,
							const char ***new_keywords, const char ***new_values)
{
	const char *keyword = "require_auth";
	const char *value;

	if (effective_option(keywords, values, "service", "PGSERVICE") != NULL)
		return "option \"service\" is of no use ahead of demand: give the options themselves";
	if (!cp_conninfo_passfile_is_small(keywords, values))
		return "the password file is empty, too long, or not a regular file";
	if (option_index(keyword) != CP_NONE)
		value = without_gss(effective_option(keywords, values, keyword, "PGREQUIREAUTH"));
	else
	{
		keyword = "krbsrvname";
		value = NO_SERVICE;
	}
	if (value == NULL)
		return "GSSAPI authentication is of no use ahead of demand";
	replace_option(keywords, values, keyword, value, new_keywords, new_values);
	return NULL;
}

/* ---- for people ---- */

void
cp_conninfo_display(const CpConninfo *info, char *buf, size_t size)
{
	static const char *const shown[] = {"host", "hostaddr", "port", "dbname", "user"};
	StringInfoData text;
	int len;

	initStringInfo(&text);
	for (int i = 0; i < lengthof(shown); i++)
	{
		const char *value = cp_conninfo_get(info, shown[i]);

		if (value == NULL)
			continue;
		/* a string within the string, by mistake, with a password perhaps */
		if (cp_conninfo_is_one(value))
			value = "...";
		appendStringInfo(&text, "%s%s=%s", text.len > 0 ? " " : "", shown[i], value);
	}
	if (text.len == 0)
		appendStringInfoString(&text, "(connection string)");

	len = pg_mbcliplen(text.data, text.len, size - 1);
	memcpy(buf, text.data, len);
	buf[len] = '\0';
	pfree(text.data);
}
