/*
 * diagnose_remote.c
 *		The steps of a diagnosis that talk with the remote: reaching it, a login,
 *		what the connection is like, and a query through the pool.
 *
 * Runs in client backends, called by diagnose.c.  Serves interrupts in every step,
 * and has a time limit for each.  Must leave no lease, socket or lock behind.
 *
 * The login is no business of the pool, whose breaker and ceilings would be in its
 * way just when it is needed.  So that even many sessions together exceed what a
 * remote was promised by no more than one connection, a lock sees to it that one
 * session at a time has one.
 */
#include "postgres.h"

#include <sys/ioctl.h>

#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "cache.h"
#include "conninfo.h"
#include "diagnose_internal.h"
#include "error.h"
#include "guc.h"
#include "lease.h"
#include "message.h"
#include "probe.h"
#include "pump.h"
#include "tunnel_order.h"

/* the limit of looking names up, milliseconds */
#define NAMES_TIMEOUT 5000
/* how long to wait for the remote's end of file, milliseconds */
#define EOF_TIMEOUT 200
/* empty statements of which the median is the round trip time */
#define ROUND_TRIPS 5
/* columns of a statement's row that are looked at, and bytes of their values */
#define MAX_COLUMNS 2
#define MAX_VALUE 32
/* results and bytes beyond which an answer is none to what we have asked */
#define MAX_RESULTS 10
#define MAX_ANSWER (64 * 1024)
/* tells our advisory lock from those of users, who have 1 and 2 */
#define LOCK_CLASS 0xC0D1

/* The row that a statement has returned, or why there is none. */
typedef struct Answer
{
	bool is_lost;	 /* or not answered in time: the connection is of no use */
	bool is_refused; /* something came that was not asked for */
	const char *error;
	size_t bytes; /* that have come */
	int results;
	bool has_row;
	char *values[MAX_COLUMNS]; /* NULL = not there, or too long */
} Answer;

static char *
ms(CpTime us)
{
	return psprintf(_("%.1f ms"), us / 1000.0);
}

/* When the time of a step that begins now is over. */
static CpTime
step_deadline(const CpDiagnosis *d)
{
	return cp_deadline(cp_now(), d->timeout);
}

/* ---- reaching the remote ---- */

static void
report_names(CpDiagnosis *d, const CpProbedName *names, int n)
{
	StringInfoData detail;
	int failed = 0;

	initStringInfo(&detail);
	for (int i = 0; i < n; i++)
	{
		appendStringInfo(&detail, "%s\"%s\": ", i > 0 ? "; " : "", names[i].name);
		for (int j = 0; j < names[i].count; j++)
			appendStringInfo(&detail, "%s%s", j > 0 ? ", " : "", names[i].addresses[j]);
		if (names[i].count == 0)
			appendStringInfoString(&detail, names[i].error);
		failed += names[i].count == 0;
		d->is_name_stuck = d->is_name_stuck || names[i].is_stuck;
		appendStringInfo(&detail, " (%s)", ms(names[i].taken));
	}
	cp_step_find(d, CP_STEP_NAMES, d->nentries > 0, detail.data,
				 failed == 0 ? NULL :
							   _("Check option host, and the resolver of this machine "
								 "(/etc/resolv.conf, /etc/hosts); with option hostaddr no name is "
								 "looked up."));
}

void
cp_diagnose_names(CpDiagnosis *d)
{
	CpTime deadline = cp_deadline(cp_now(), Min(NAMES_TIMEOUT, d->timeout));
	CpProbedName *names;
	int n;

	d->nhosts = Max(cp_hosts_split(d->target->keywords, d->target->values, &d->hosts), 0);
	if (d->nhosts == 0)
	{
		cp_step_pass(d, CP_STEP_NAMES,
					 _("left to libpq: a service file, or lists that do not match"));
		return;
	}
	names = cp_probe_list(d->hosts, d->nhosts, &n);
	if (n > 0)
		cp_probe_names(names, n, deadline, deadline);
	d->nentries = cp_hosts_expand(cp_probe_found(d->hosts, d->nhosts, names), d->nhosts,
								  &d->entries);
	if (n > 0)
		report_names(d, names, n);
	else
		cp_step_pass(d, CP_STEP_NAMES, _("there is no name to look up"));
}

/* Keeps those that can be connected to; the time is shared among all of them. */
void
cp_diagnose_tcp(CpDiagnosis *d)
{
	CpTime deadline = step_deadline(d);
	StringInfoData detail;
	int reached = 0;
	int n = d->nentries;

	if (n == 0)
	{
		cp_step_pass(d, CP_STEP_TCP, _("left to libpq"));
		return;
	}
	initStringInfo(&detail);
	for (int i = 0; i < n; i++)
	{
		CpHost *entry = &d->entries[i];
		CpTime now = cp_now();
		CpTime taken = 0;
		const char *error;

		error = cp_probe_connect(entry, now + Max(deadline - now, 0) / (n - i), &taken);
		appendStringInfo(&detail, "%s%s: ", i > 0 ? "; " : "", cp_probe_describe(entry));
		if (error != NULL)
			appendStringInfo(&detail, _("%s after %s"), error, ms(taken));
		else
		{
			appendStringInfo(&detail, _("connected in %s"), ms(taken));
			d->entries[reached++] = *entry;
		}
	}
	d->nentries = reached;
	cp_step_find(d, CP_STEP_TCP, reached > 0, detail.data,
				 reached == n ? NULL :
								_("Check options host and port, that the remote runs and listens "
								  "there (its listen_addresses and port), and firewalls between; "
								  "the limit is option connect_timeout."));
}

/* ---- a connection of our own ---- */

/* One session at a time has one for the same server. */
static bool
lock_login(CpDiagnosis *d)
{
	struct
	{
		Oid server;
		CpFingerprint conninfo;
	} what;
	uint64 hash;

	memset(&what, 0, sizeof(what));
	what.server = d->key.server;
	what.conninfo = d->key.conninfo;
	hash = hash_bytes_extended((const unsigned char *) &what, sizeof(what), 0);
	SET_LOCKTAG_ADVISORY(d->lock, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, LOCK_CLASS);
	/* for the session, since it outlives the step's subtransaction */
	d->is_locked = LockAcquire(&d->lock, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	return d->is_locked;
}

/* Ends the connection if there is one; nothing else is left of it. */
void
cp_diagnosis_end_login(CpDiagnosis *d)
{
	CpRemote *remote = d->remote;

	d->remote = NULL;
	if (remote != NULL)
		cp_remote_await_eof(cp_remote_end(remote), cp_deadline(cp_now(), EOF_TIMEOUT));
	if (d->is_locked)
		LockRelease(&d->lock, ExclusiveLock, true);
	d->is_locked = false;
}

/* Begins to connect; if there are too few descriptors, with those of the cache. */
static const char *
start_login(CpDiagnosis *d)
{
	const char *const *keywords = d->target->keywords;
	const char *const *values = d->target->values;
	const char **new_keywords;
	const char **new_values;
	const char *error = NULL;

	if (d->nentries > 0)
	{
		cp_hosts_join(keywords, values, d->entries, d->nentries, NULL, &new_keywords,
					  &new_values);
		keywords = new_keywords;
		values = new_values;
	}
	d->remote = cp_remote_start(keywords, values, &error);
	if (d->remote == NULL)
	{
		cp_cache_drop_all();
		d->remote = cp_remote_start(keywords, values, &error);
	}
	return d->remote == NULL ? error : NULL;
}

/* Whose options are to be changed, as the beginning of a command. */
static char *
alter_command(const CpDiagnosis *d, bool mapping)
{
	if (d->is_conninfo)
		return _("the connection string");
	if (mapping)
		return psprintf("ALTER USER MAPPING FOR %s SERVER %s OPTIONS (SET ...)",
						OidIsValid(d->key.role) ?
							quote_identifier(GetUserNameFromId(d->key.role, false)) :
							"PUBLIC",
						quote_identifier(d->remote_server->servername));
	return psprintf("ALTER SERVER %s OPTIONS (SET ...)",
					quote_identifier(d->remote_server->servername));
}

static const char *
hint_for_login(const CpDiagnosis *d, CpFailure what, int sqlstate)
{
	if (sqlstate == ERRCODE_INVALID_PASSWORD)
		return psprintf(_("Check user and password: %s."), alter_command(d, true));
	if (what == CP_FAILURE_LOGIN)
		return psprintf(_("Check pg_hba.conf of the remote, and the user: %s."),
						alter_command(d, true));
	if (what == CP_FAILURE_ROOM)
		return _("The remote has no room: see its max_connections, and the CONNECTION LIMIT of "
				 "its role and database.");
	if (sqlstate == ERRCODE_UNDEFINED_DATABASE)
		return psprintf(_("Check option dbname: %s."), alter_command(d, false));
	if (sqlstate == ERRCODE_CANNOT_CONNECT_NOW)
		return _("The remote is starting or shutting down: see its log.");
	return psprintf(_("See the log of the remote, and the options: %s."), alter_command(d, false));
}

static void
report_login_failure(CpDiagnosis *d, bool timed_out)
{
	int sqlstate;
	char *message;
	CpFailure what = cp_message_connect_failure(d->remote, timed_out, &sqlstate, &message);

	if (sqlstate != 0)
		message = psprintf(_("%s (SQLSTATE %s)"), message, unpack_sql_state(sqlstate));
	if (timed_out)
		cp_step_fail(d, CP_STEP_LOGIN,
					 psprintf(_("no answer within %d ms: %s"), d->timeout, message),
					 _("See option connect_timeout, and whether the remote is overloaded or is no "
					   "PostgreSQL server."));
	else
		cp_step_fail(d, CP_STEP_LOGIN, message, hint_for_login(d, what, sqlstate));
}

static const char *
describe_authentication(const CpRemote *remote)
{
	if (remote->used_password)
		return _("a password was asked for");
	if (PQgssEncInUse(remote->conn))
		return _("no password was asked for (GSSAPI)");
	return _("no password was asked for (trust, peer, ident, a certificate or GSSAPI)");
}

static void
report_login(CpDiagnosis *d, CpTime taken)
{
	const char *version = PQparameterStatus(d->remote->conn, "server_version");
	char address[CP_ADDRESS_LEN];

	cp_remote_address(d->remote, address, sizeof(address));
	cp_step_pass(d, CP_STEP_LOGIN,
				 psprintf(_("logged in at %s in %s; PostgreSQL %s; %s"), address, ms(taken),
						  version != NULL ? version : _("of unknown version"),
						  describe_authentication(d->remote)));
}

/*
 * The server's own identity is not lent to users: without a password the connection
 * would be refused, and nothing is learned from it here either.
 */
static bool
password_is_lacking(CpDiagnosis *d)
{
	if (!d->target->password_required || d->remote->used_password)
		return false;
	cp_step_fail(d, CP_STEP_LOGIN,
				 _("the remote did not ask for a password, as it must for a non-superuser"),
				 _("Change the remote's authentication method in its pg_hba.conf, or have a "
				   "superuser set password_required to false in the user mapping."));
	return true;
}

void
cp_diagnose_login(CpDiagnosis *d)
{
	CpTime start = cp_now();
	CpTime deadline = step_deadline(d);
	const char *error;

	if (!lock_login(d))
	{
		cp_step_not_tried(d, CP_STEP_LOGIN,
						  _("another session is diagnosing this server just now"));
		return;
	}
	/* libpq would wait for a file that never ends, and could not be interrupted */
	if (!cp_conninfo_tls_files_are_regular(d->target->keywords, d->target->values))
	{
		cp_step_fail(d, CP_STEP_LOGIN, CP_NO_REGULAR_FILE,
					 _("See sslrootcert, sslcert, sslkey and sslcrl among the options."));
		return;
	}
	error = start_login(d);
	if (error != NULL)
	{
		cp_step_fail(d, CP_STEP_LOGIN, error,
					 _("Raise the server's max_files_per_process or its limit of open files."));
		return;
	}
	d->connected = cp_remote_finish_connect(d->remote, deadline);
	if (d->connected == CP_CONNECT_FAILED || d->connected == CP_CONNECT_TIMEOUT)
		report_login_failure(d, d->connected == CP_CONNECT_TIMEOUT);
	else if (!password_is_lacking(d))
		report_login(d, cp_now() - start);
}

/* ---- what the connection is like ---- */

static const char *
describe_encryption(CpRemote *remote)
{
	const char *version;
	const char *cipher;

	if (PQgssEncInUse(remote->conn))
		return _("encrypted by GSSAPI");
	if (!PQsslInUse(remote->conn))
		return _("not encrypted");
	version = PQsslAttribute(remote->conn, "protocol");
	cipher = PQsslAttribute(remote->conn, "cipher");
	return psprintf(_("encrypted by %s (%s)"), version != NULL ? version : "TLS",
					cipher != NULL ? cipher : _("unknown cipher"));
}

/* What to do so that there is a tunnel. */
static const char *
hint_for_no_tunnel(void)
{
	if (!cp_pump_is_built())
		return _("Build conpool with OpenSSL's headers in place. Until then every lease opens a "
				 "connection of its own.");
	if (cp_guc_tunnel_workers == 0)
		return _("Set conpool.tunnel_workers to 1 or more, and restart the server. Until then "
				 "every lease opens a connection of its own.");
	return _("See the server log for why the tunnel has ended; it is started again every second.");
}

/* Why such a connection does not go through a tunnel; NULL: it does. */
static const char *
why_no_tunnel(const CpDiagnosis *d, const char **hint)
{
	if (PQgssEncInUse(d->remote->conn))
	{
		*hint = psprintf(_("Every lease opens a connection of its own. With gssencmode 'disable' "
						   "connections are encrypted by TLS, if the remote offers it, and "
						   "shared: %s."),
						 alter_command(d, false));
		return _("no tunnel encrypts by GSSAPI");
	}
	if (d->remote->wanted_gss)
	{
		*hint = _("Every lease opens a connection of its own. Have the remote ask for another "
				  "authentication method in its pg_hba.conf.");
		return _("no tunnel authenticates by GSSAPI or SSPI");
	}
	if (!cp_conninfo_passfile_is_small(d->target->keywords, d->target->values) ||
		!cp_conninfo_tls_files_are_small(d->target->keywords, d->target->values))
	{
		*hint = _("Every lease opens a connection of its own. See the options that name files.");
		return _("no tunnel reads a file that is empty, very long, or not a regular one");
	}
	if (!cp_tunnel_is_wanted(d->target->keywords, d->target->values))
	{
		*hint = psprintf(_("Every lease opens a connection of its own. Give the options "
						   "themselves, without a service file: %s."),
						 alter_command(d, false));
		return _("no tunnel reads a service file");
	}
	if (cp_tunnel_is_there())
		return NULL;
	*hint = hint_for_no_tunnel();
	return cp_tunnel_why_none();
}

/* NULL: it can be shared. */
static const char *
why_unshared(const CpDiagnosis *d, const char **hint)
{
	const char *why = d->remote->encrypted ? why_no_tunnel(d, hint) : NULL;

	if (why != NULL)
		return why;
	if (d->connected == CP_CONNECT_NO_GREETING)
		return _("what the remote says at the beginning of a session cannot be passed on");
	if (d->is_uncommitted)
		return _("its options are of this transaction, which has not been committed");
	if (cp_shmem_broker_epoch() == 0)
		return _("the broker is not running");
	return NULL;
}

/* What libpq was told, by the options or else the environment; NULL: nothing. */
static const char *
sslmode(const CpDiagnosis *d)
{
	const char *mode = cp_diagnosis_option(d, "sslmode");

	if (mode == NULL)
		mode = getenv("PGSSLMODE");
	return mode != NULL && mode[0] != '\0' ? mode : NULL;
}

static char *
describe_sslmode(const CpDiagnosis *d)
{
	const char *mode = sslmode(d);

	if (mode == NULL)
		return pstrdup(_("sslmode is not set, and so \"prefer\""));
	return psprintf(cp_diagnosis_option(d, "sslmode") != NULL ?
						_("sslmode is \"%s\"") :
						_("sslmode is \"%s\", by the server's environment"),
					mode);
}

/* What came of it, where that can be told; Unix sockets are never encrypted. */
static const char *
describe_outcome(const CpDiagnosis *d)
{
	const CpRemote *remote = d->remote;
	const char *mode = sslmode(d);

	if (remote->encrypted || remote->peer_len == 0 || remote->peer.ss_family == AF_UNIX ||
		(mode != NULL && strcmp(mode, "prefer") != 0))
		return "";
	return _(", and TLS was not to be had");
}

void
cp_diagnose_encryption(CpDiagnosis *d)
{
	const char *hint = NULL;
	const char *why = why_unshared(d, &hint);
	const char *sharing = d->remote->encrypted ? _("connections are shared through a tunnel") :
												 _("connections are shared");

	if (why != NULL)
		sharing = psprintf(_("connections are not shared: %s"), why);
	cp_step_find(d, CP_STEP_ENCRYPTION, true,
				 psprintf("%s; %s%s; %s", describe_encryption(d->remote), describe_sslmode(d),
						  describe_outcome(d), sharing),
				 hint);
}

/* ---- statements ---- */

/* False, for whoever is to go no further. */
static bool
refuse(Answer *answer)
{
	answer->is_refused = true;
	answer->error = _("the remote answered with something that was not asked for");
	return false;
}

/* Bytes that have come and that libpq has not read. */
static size_t
bytes_to_read(const CpRemote *remote)
{
	int n = 0;

	if (PQsocket(remote->conn) == PGINVALID_SOCKET ||
		ioctl(PQsocket(remote->conn), FIONREAD, &n) < 0)
		return 0;
	return Max(n, 0);
}

/*
 * Waits until libpq can go on; false if it never will in time, or if more comes than
 * is sensible, of which libpq would keep whatever it is told to.  Serves interrupts,
 * and looks at the clock, also if there is no need to wait: a remote that never
 * stops talking would otherwise hold the session for ever.
 */
static bool
await_result(Answer *answer, CpRemote *remote, CpTime deadline)
{
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (cp_now() >= deadline)
		{
			answer->error = _("no answer in time");
			return false;
		}
		if (!PQisBusy(remote->conn))
			return true;
		answer->bytes += bytes_to_read(remote);
		if (answer->bytes > MAX_ANSWER)
			return refuse(answer);
		/* before waiting: what the TLS library holds is not seen on the socket */
		if (!PQconsumeInput(remote->conn) || !PQisBusy(remote->conn))
			return true;
		if (cp_remote_wait(remote, WL_SOCKET_READABLE, deadline) & WL_LATCH_SET)
			ResetLatch(MyLatch);
	}
}

/* A result with columns; none of our statements returns more than one row. */
static bool
take_row(Answer *answer, const PGresult *result)
{
	if (PQntuples(result) == 0)
		return true;
	if (answer->has_row)
		return refuse(answer);
	answer->has_row = true;
	for (int i = 0; i < Min(PQnfields(result), MAX_COLUMNS); i++)
	{
		if (!PQgetisnull(result, 0, i) && PQgetlength(result, 0, i) <= MAX_VALUE)
			answer->values[i] = pstrdup(PQgetvalue(result, 0, i));
	}
	return true;
}

/* Notes what a result says; false if there is no safe way past it. */
static bool
take_result(Answer *answer, PGconn *conn, const PGresult *result)
{
	if (++answer->results > MAX_RESULTS)
		return refuse(answer);
	switch (PQresultStatus(result))
	{
		case PGRES_SINGLE_TUPLE:
		case PGRES_TUPLES_OK:
			return take_row(answer, result);
		case PGRES_EMPTY_QUERY:
		case PGRES_COMMAND_OK:
			return true;
		case PGRES_FATAL_ERROR:
			answer->error = cp_message_why_lost(conn, result);
			return cp_message_is_servers(result);
		default:
			return refuse(answer);
	}
}

/* Takes the next result; false at the end, or if there is no safe way past it. */
static bool
take_next(Answer *answer, PGconn *conn, bool *is_over)
{
	PGresult *result = PQgetResult(conn);
	volatile bool goes_on = false;

	*is_over = result == NULL;
	if (*is_over)
		return false;
	PG_TRY();
	{
		goes_on = take_result(answer, conn, result);
	}
	PG_FINALLY();
	{
		PQclear(result);
	}
	PG_END_TRY();
	return goes_on;
}

/* Runs a statement; serves interrupts. */
static Answer
run(CpRemote *remote, const char *sql, CpTime deadline)
{
	Answer answer = {0};
	bool is_over = false;

	if (cp_remote_send(remote, sql, -1, NULL, NULL))
	{
		while (await_result(&answer, remote, deadline) &&
			   take_next(&answer, remote->conn, &is_over))
			;
	}
	answer.is_lost = !is_over || PQstatus(remote->conn) != CONNECTION_OK ||
		PQtransactionStatus(remote->conn) != PQTRANS_IDLE;
	if (answer.is_lost && answer.error == NULL)
		answer.error = cp_message_why_lost(remote->conn, NULL);
	return answer;
}

static int
compare_times(const void *a, const void *b)
{
	CpTime x = *(const CpTime *) a;
	CpTime y = *(const CpTime *) b;

	return (x > y) - (x < y);
}

void
cp_diagnose_round_trip(CpDiagnosis *d)
{
	CpTime deadline = step_deadline(d);
	CpTime times[ROUND_TRIPS];
	CpTime median;

	for (int i = 0; i < ROUND_TRIPS; i++)
	{
		CpTime start = cp_now();
		Answer answer = run(d->remote, "", deadline);

		if (answer.error != NULL)
		{
			cp_step_fail(d, CP_STEP_ROUND_TRIP, answer.error,
						 _("See the log of the remote, and whether it is overloaded."));
			return;
		}
		times[i] = cp_now() - start;
	}
	qsort(times, ROUND_TRIPS, sizeof(CpTime), compare_times);
	median = times[ROUND_TRIPS / 2];
	cp_step_pass(d, CP_STEP_ROUND_TRIP,
				 psprintf(_("%.3f ms, the median of %d empty statements (%.3f to %.3f ms)"),
						  median / 1000.0, ROUND_TRIPS, times[0] / 1000.0,
						  times[ROUND_TRIPS - 1] / 1000.0));
}

/* ---- the remote's limit ---- */

/* What all pools of the server may open together; *pools: how many there are. */
static int64
sum_of_ceilings(const CpDiagnosis *d, int *pools)
{
	const CpPoolOptions *options = &d->target->options;
	CpPoolInfo *info = palloc(sizeof(CpPoolInfo));
	int64 sum = options->max_size;

	*pools = 1;
	for (int i = 0; d->key.kind == CP_POOL_SERVER && i < cp_shared->max_pools; i++)
	{
		if (i == CP_OVERFLOW_POOL || !cp_pool_read(i, info) ||
			info->key.database != d->key.database || info->key.server != d->key.server ||
			memcmp(&info->key, &d->key, sizeof(CpPoolKey)) == 0)
			continue;
		sum += info->options.max_size;
		(*pools)++;
	}
	return options->max_server_size > 0 ? Min(sum, options->max_server_size) : sum;
}

static void
compare_limits(CpDiagnosis *d, int max_connections, int reserved)
{
	const CpPoolOptions *options = &d->target->options;
	int pools;
	int64 ceiling = sum_of_ceilings(d, &pools);
	StringInfoData detail;
	const char *hint = NULL;

	initStringInfo(&detail);
	appendStringInfo(&detail,
					 _("max_connections is %d there, superuser_reserved_connections %d: that "
					   "leaves %d; max_size is %d"),
					 max_connections, reserved, d->capacity, options->max_size);
	if (options->max_server_size > 0)
		appendStringInfo(&detail, _(", max_server_size %d"), options->max_server_size);
	appendStringInfo(&detail, _("; all pools of this server (%d) may have " INT64_FORMAT), pools,
					 ceiling);
	if (ceiling > d->capacity)
		hint = psprintf(_("Lower max_size, set max_server_size to %d at most, or raise "
						  "max_connections of the remote."),
						d->capacity);
	cp_step_find(d, CP_STEP_CAPACITY, hint == NULL, detail.data, hint);
}

/* Whatever the remote says: a number of connections, or -1. */
static int
read_number(const char *text)
{
	char *end;
	long value;

	if (text == NULL)
		return -1;
	errno = 0;
	value = strtol(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && value >= 0 && value <= INT_MAX / 2 ?
		(int) value :
		-1;
}

void
cp_diagnose_capacity(CpDiagnosis *d)
{
	Answer answer = run(d->remote,
						"SELECT pg_catalog.current_setting('max_connections'), "
						"pg_catalog.current_setting('superuser_reserved_connections')",
						step_deadline(d));
	int max_connections = read_number(answer.values[0]);
	int reserved = read_number(answer.values[1]);

	if (answer.error == NULL && (max_connections < 0 || reserved < 0))
		answer.error = _("the remote gave no numbers");
	if (answer.error != NULL)
	{
		cp_step_fail(d, CP_STEP_CAPACITY, answer.error,
					 _("The remote may be a pooler or no PostgreSQL server: compare its limit with "
					   "max_size and max_server_size yourself."));
		return;
	}
	d->capacity = Max(max_connections - reserved, 0);
	compare_limits(d, max_connections, reserved);
}

/* Tells the pool, unless it was somewhere else that we connected to. */
void
cp_diagnosis_note_capacity(const CpDiagnosis *d)
{
	CpPoolInfo *info = palloc(sizeof(CpPoolInfo));
	int pool;

	if (d->capacity > 0 && !d->is_uncommitted && cp_diagnosis_read_pool(d, &pool, info))
		cp_pool_set_remote_limit(pool, info->generation, d->capacity);
}

/* ---- a query through the pool ---- */

/* Why nothing is to be learned from it, or NULL. */
static const char *
why_no_query(const CpDiagnosis *d)
{
	CpPoolInfo *info = palloc0(sizeof(CpPoolInfo));
	int pool;
	bool has_pool = cp_diagnosis_read_pool(d, &pool, info);

	if (has_pool && info->paused)
		return _("the pool is paused");
	if (d->is_name_stuck)
		return _("a name server does not answer, and a new connection would wait for it");
	if (!cp_step_has_failed(d, CP_STEP_NAMES) && !cp_step_has_failed(d, CP_STEP_TCP) &&
		!cp_step_has_failed(d, CP_STEP_LOGIN))
		return NULL;
	if (!has_pool || info->counts[CP_SLOT_IDLE] + info->counts[CP_SLOT_VALIDATING] == 0)
		return _("no connection can be opened, and the pool has none that is idle");
	return NULL;
}

/* How long to wait for a connection of the pool, milliseconds. */
static int
checkout_timeout(const CpDiagnosis *d, const CpTarget *target)
{
	int timeout = target->options.checkout_timeout;

	return timeout > 0 ? Min(timeout, d->timeout) : d->timeout;
}

/* Was the lease's connection there before that instant? */
static bool
was_idle(const CpLease *lease, CpTime since)
{
	CpSlotInfo *slot = palloc(sizeof(CpSlotInfo));

	return cp_slot_read(lease->slot, slot) && slot->opened_at < since;
}

/* Runs the statement; an error ends the lease with the subtransaction. */
static Answer
run_on_lease(CpDiagnosis *d, CpLease *lease)
{
	Answer answer;

	lease->dirty = true;
	if (!cp_lease_statement_begins(lease))
		ereport(ERROR,
				(errcode(CP_ERRCODE_NOT_YOUR_LEASE),
				 errmsg("the lease was taken away before it was used")));
	lease->usage.queries++;
	answer = run(lease->remote, "SELECT 1", step_deadline(d));
	/* what never ends is not waited for, nor asked to stop */
	lease->beyond_recovery = answer.is_refused;
	if (answer.is_lost)
		ereport(ERROR,
				(errcode(CP_ERRCODE_LOST),
				 errmsg_internal("%s", answer.error),
				 errhint("See the log of the remote, and whether it is overloaded.")));
	lease->usage.rows++;
	if (answer.error != NULL)
		lease->usage.query_errors++;
	else
		lease->dirty = cp_remote_changes(lease->remote) != 0;
	cp_lease_statement_ends(lease);
	return answer;
}

/*
 * As conpool.query would, but with a lease of its own, whatever pool_mode is: one
 * that this transaction shares is not touched.
 */
void
cp_diagnose_query(CpDiagnosis *d)
{
	const char *why;
	CpTime start;
	CpTime obtained;
	CpLease *lease;
	Answer answer;
	bool idle;

	cp_diagnosis_end_login(d);
	why = why_no_query(d);
	if (why != NULL)
	{
		cp_step_not_tried(d, CP_STEP_QUERY, why);
		return;
	}
	start = cp_now();
	lease = cp_lease_checkout(d->text, CP_SCOPE_STATEMENT, false,
							  checkout_timeout(d, d->target));
	obtained = cp_now();
	idle = was_idle(lease, start);
	answer = run_on_lease(d, lease);
	cp_lease_checkin(lease);
	if (answer.error == NULL && (answer.values[0] == NULL || strcmp(answer.values[0], "1") != 0))
		answer.error = _("the remote answered something else than 1");
	if (answer.error != NULL)
		cp_step_fail(d, CP_STEP_QUERY, answer.error, _("See the log of the remote."));
	else
		cp_step_pass(d, CP_STEP_QUERY,
					 psprintf(_("SELECT 1 came back in %s, of which getting the connection took "
								"%s; it was %s"),
							  ms(cp_now() - start), ms(obtained - start),
							  idle ? _("an idle one") : _("a new one")));
}
