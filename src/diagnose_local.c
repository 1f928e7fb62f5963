/*
 * diagnose_local.c
 *		The steps of a diagnosis that touch no network: library, broker,
 *		definitions, rights and the state of the pool.
 *
 * Runs in client backends, called by diagnose.c.  Must not show more of a user
 * mapping than the view pg_user_mappings does, nor anything of a connection string
 * but what the views show.
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/scansup.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "conninfo.h"
#include "diagnose_internal.h"
#include "guc.h"

/* the limit of a step where connect_timeout says that there is none, milliseconds */
#define STEP_TIMEOUT 10000

/* ---- library and broker ---- */

void
cp_diagnose_library(CpDiagnosis *d)
{
	if (cp_shared != NULL)
		cp_step_pass(d, CP_STEP_LIBRARY, _("conpool was loaded at server start"));
	else
		cp_step_fail(d, CP_STEP_LIBRARY, _("conpool was not loaded at server start"),
					 _("Add \"conpool\" to shared_preload_libraries in postgresql.conf and "
					   "restart the server."));
}

void
cp_diagnose_broker(CpDiagnosis *d)
{
	uint64 epoch = cp_shmem_broker_epoch();

	if (epoch == 0)
		cp_step_fail(d, CP_STEP_BROKER, _("not running: connections are not shared"),
					 _("See the server log for why it stopped; raise max_worker_processes if "
					   "there was no room for it."));
	else
		cp_step_pass(d, CP_STEP_BROKER,
					 psprintf(_("running: process %u, start number " UINT64_FORMAT
								" since the server's own"),
							  pg_atomic_read_u32(&cp_shared->broker_pid), epoch));
}

/* Where connections are opened ahead of demand, others work for the broker. */
static void
add_workers(CpDiagnosis *d)
{
	CpFinding *finding = &d->findings[CP_STEP_BROKER];
	uint32 dialer = pg_atomic_read_u32(&cp_shared->dialer_pid);
	uint32 reader = pg_atomic_read_u32(&cp_shared->reader_pid);

	if (d->target->options.min_size == 0 || !cp_step_is_ok(d, CP_STEP_BROKER))
		return;
	finding->detail =
		psprintf("%s; %s; %s", finding->detail,
				 dialer != 0 ? psprintf(_("dialer: process %u"), dialer) :
							   _("dialer: not running, as is right while nothing is lacking"),
				 reader != 0 ? psprintf(_("reader: process %u"), reader) :
							   _("reader: has nothing to do"));
}

/* ---- server and rights ---- */

static const char *
option_value(List *options, const char *name)
{
	ListCell *cell;

	foreach(cell, options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return NULL;
}

/* Follows option "server"; false if that leads nowhere, which is found then. */
static bool
find_remote_server(CpDiagnosis *d)
{
	const char *name = cp_target_referred_server(d->server->serverid);
	const char *problem = _("option \"server\" of server \"%s\" refers to server \"%s\", which "
							"refers to another one itself");

	d->remote_server = name != NULL ? GetForeignServerByName(name, true) : d->server;
	if (d->remote_server != NULL &&
		(d->remote_server == d->server ||
		 cp_target_referred_server(d->remote_server->serverid) == NULL))
		return true;
	if (d->remote_server == NULL)
		problem = _("option \"server\" of server \"%s\" refers to server \"%s\", which does not "
					"exist");
	cp_step_fail(d, CP_STEP_SERVER, psprintf(problem, d->server->servername, name),
				 psprintf("ALTER SERVER %s OPTIONS (SET server '...')",
						  quote_identifier(d->server->servername)));
	return false;
}

static char *
describe_server(const ForeignServer *server)
{
	return psprintf(_("foreign server \"%s\" of wrapper \"%s\""), server->servername,
					GetForeignDataWrapper(server->fdwid)->fdwname);
}

static void
take_foreign_server(CpDiagnosis *d)
{
	char *identifier = pstrdup(d->text);

	truncate_identifier(identifier, strlen(identifier), false);
	d->name = identifier;
	d->server = GetForeignServerByName(identifier, true);
	if (d->server == NULL)
	{
		cp_step_fail(d, CP_STEP_SERVER, psprintf(_("server \"%s\" does not exist"), identifier),
					 _("Create it with CREATE SERVER ... FOREIGN DATA WRAPPER conpool, or give a "
					   "connection string in its place."));
		return;
	}
	if (!find_remote_server(d))
		return;
	if (d->remote_server == d->server)
		cp_step_pass(d, CP_STEP_SERVER, describe_server(d->server));
	else
		cp_step_pass(d, CP_STEP_SERVER,
					 psprintf(_("%s; connection options and user mappings are those of %s"),
							  describe_server(d->server), describe_server(d->remote_server)));
}

/* What may be shown of a connection string; throws if it is none. */
static void
take_conninfo_as_server(CpDiagnosis *d)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "conpool connection string",
												  ALLOCSET_SMALL_SIZES);
	CpConninfo *info = cp_conninfo_create(context);

	d->name = palloc(CP_POOL_NAME_LEN);
	cp_conninfo_parse(info, d->text);
	cp_conninfo_display(info, d->name, CP_POOL_NAME_LEN);
	MemoryContextDelete(context);
	cp_step_pass(d, CP_STEP_SERVER, psprintf(_("connection string: %s"), d->name));
}

void
cp_diagnose_server(CpDiagnosis *d)
{
	if (d->is_conninfo)
		take_conninfo_as_server(d);
	else
		take_foreign_server(d);
}

static bool
has_usage(const CpDiagnosis *d, const ForeignServer *server)
{
	return cp_server_aclcheck(server->serverid, d->role, ACL_USAGE) == ACLCHECK_OK;
}

/* On both servers where one refers to the other. */
void
cp_diagnose_usage(CpDiagnosis *d)
{
	const char *role = GetUserNameFromId(d->role, false);
	const ForeignServer *lacking;

	if (d->is_conninfo)
	{
		cp_step_pass(d, CP_STEP_USAGE, _("not needed for a connection string"));
		return;
	}
	lacking = !has_usage(d, d->server) ? d->server : d->remote_server;
	if (has_usage(d, lacking))
		cp_step_pass(d, CP_STEP_USAGE, psprintf(_("role \"%s\" has USAGE on the server"), role));
	else
		cp_step_fail(d, CP_STEP_USAGE,
					 psprintf(_("role \"%s\" lacks USAGE on foreign server \"%s\""), role,
							  lacking->servername),
					 psprintf("GRANT USAGE ON FOREIGN SERVER %s TO %s",
							  quote_identifier(lacking->servername), quote_identifier(role)));
}

static bool
has_mapping(const CpDiagnosis *d, Oid role)
{
	return SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role),
								 ObjectIdGetDatum(d->remote_server->serverid));
}

/* Does view pg_user_mappings show the options of this mapping to this role? */
static bool
sees_mapping(const CpDiagnosis *d, bool is_public)
{
	return superuser_arg(d->role) || !is_public ||
		has_privs_of_role(d->role, d->remote_server->owner);
}

void
cp_diagnose_mapping(CpDiagnosis *d)
{
	const char *role = GetUserNameFromId(d->role, false);
	const char *server;
	const char *user = NULL;
	bool is_public;

	if (d->is_conninfo)
	{
		cp_step_pass(d, CP_STEP_MAPPING, _("not needed for a connection string"));
		return;
	}
	server = d->remote_server->servername;
	is_public = !has_mapping(d, d->role);
	if (is_public && !has_mapping(d, InvalidOid))
	{
		cp_step_fail(d, CP_STEP_MAPPING,
					 psprintf(_("there is none for role \"%s\" or PUBLIC on server \"%s\""), role,
							  server),
					 psprintf("CREATE USER MAPPING FOR %s SERVER %s "
							  "OPTIONS (user '...', password '...')",
							  quote_identifier(role), quote_identifier(server)));
		return;
	}
	if (sees_mapping(d, is_public))
		user = option_value(GetUserMapping(d->role, d->remote_server->serverid)->options, "user");
	cp_step_pass(d, CP_STEP_MAPPING,
				 psprintf("%s%s",
						  is_public ? _("the one for PUBLIC") :
									  psprintf(_("that of role \"%s\""), role),
						  user != NULL ? psprintf(_(", remote user \"%s\""), user) : ""));
}

void
cp_diagnose_conninfo(CpDiagnosis *d)
{
	if (!d->is_conninfo)
		cp_step_pass(d, CP_STEP_CONNINFO, _("not needed for a foreign server"));
	else if (cp_guc_allow_conninfo)
		cp_step_pass(d, CP_STEP_CONNINFO, _("conpool.allow_conninfo is on"));
	else
		cp_step_fail(d, CP_STEP_CONNINFO, _("conpool.allow_conninfo is off"),
					 _("Give the name of a foreign server, or have a superuser set "
					   "\"conpool.allow_conninfo\" to on."));
}

/* The same checks as for a query; whatever they find wrong is thrown. */
static void
resolve(CpDiagnosis *d)
{
	d->target = cp_target_resolve(d->text);
	d->key = d->target->key;
	d->is_uncommitted = d->target->uncommitted;
	d->timeout = d->target->options.connect_timeout;
	if (d->timeout == 0)
		d->timeout = STEP_TIMEOUT;
}

void
cp_diagnose_password(CpDiagnosis *d)
{
	const char *rule;
	const char *password;

	if (d->is_conninfo && !cp_guc_allow_conninfo)
	{
		cp_step_not_tried(d, CP_STEP_PASSWORD, _("connection strings are not allowed"));
		return;
	}
	resolve(d);
	add_workers(d);
	if (d->target->password_required)
		rule = _("required, and the remote must ask for it");
	else if (superuser_arg(d->role))
		rule = _("not required of a superuser");
	else
		rule = _("not required: the user mapping has password_required set to false");
	password = cp_diagnosis_option(d, "password");
	cp_step_pass(d, CP_STEP_PASSWORD,
				 psprintf("%s; %s", rule,
						  password != NULL ? _("one is given") : _("none is given")));
}

/* ---- pool ---- */

/* False if there is none (yet). */
bool
cp_diagnosis_read_pool(const CpDiagnosis *d, int *pool, CpPoolInfo *info)
{
	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		if (i != CP_OVERFLOW_POOL && cp_pool_read(i, info) &&
			memcmp(&info->key, &d->key, sizeof(CpPoolKey)) == 0)
		{
			*pool = i;
			return true;
		}
	}
	return false;
}

static double
seconds_until(CpTime t)
{
	return Max(t - cp_now(), 0) / 1e6;
}

static void
append_problem(StringInfo detail, const char *what, const CpProblem *problem)
{
	if (problem->at == 0)
		return;
	appendStringInfo(detail, " %s (%.0f s ago): %s", what, (cp_now() - problem->at) / 1e6,
					 problem->message);
	if (problem->sqlstate != 0)
		appendStringInfo(detail, " (SQLSTATE %s)", unpack_sql_state(problem->sqlstate));
}

static int
live_connections(const CpPoolInfo *info)
{
	return info->counts[CP_SLOT_IDLE] + info->counts[CP_SLOT_VALIDATING] +
		info->counts[CP_SLOT_LEASED] + info->counts[CP_SLOT_RESETTING];
}

static bool
lacks_connections(const CpPoolInfo *info)
{
	return live_connections(info) < info->options.min_size && info->upkeep_problem.at != 0;
}

static bool
is_full(const CpPoolInfo *info)
{
	return info->waiting > 0 &&
		info->counts[CP_SLOT_IDLE] + info->counts[CP_SLOT_VALIDATING] == 0;
}

static char *
describe_pool(int pool, const CpPoolInfo *info)
{
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfoString(&detail, cp_pool_describe(pool));
	if (info->paused)
		appendStringInfoString(&detail, _(" It is paused."));
	if (info->dropped)
		appendStringInfoString(&detail, _(" What it was made of has been dropped."));
	if (info->breaker.state != CP_BREAKER_CLOSED)
		appendStringInfo(&detail, _(" Breaker open: %d failures in a row, next attempt in %.1f s."),
						 info->breaker.failures, seconds_until(info->breaker.next_attempt));
	if (info->ceiling_until != 0)
		appendStringInfo(&detail, _(" The remote had no room: not more than %d for %.0f s yet."),
						 info->effective_max_size, seconds_until(info->ceiling_until));
	append_problem(&detail, _("Last error"), &info->problem);
	if (lacks_connections(info))
		append_problem(&detail, _("min_size is not reached"), &info->upkeep_problem);
	return detail.data;
}

/* A call of a function for this server, as a hint. */
static char *
call(const CpDiagnosis *d, const char *function)
{
	return psprintf("SELECT conpool.%s(%s)", function, quote_literal_cstr(d->name));
}

/* What to do about the state of the pool, NULL: there is nothing wrong with it. */
static char *
hint_for_pool(const CpDiagnosis *d, const CpPoolInfo *info)
{
	if (info->paused)
		return call(d, "resume");
	if (info->breaker.state != CP_BREAKER_CLOSED)
		return psprintf(_("The steps below tell what is wrong; once it is mended, %s has the pool "
						  "try again at once."),
						call(d, "warm"));
	if (info->ceiling_until != 0)
		return _("Lower max_size or set max_server_size, or raise max_connections of the remote "
				 "or the role's CONNECTION LIMIT there.");
	if (is_full(info))
		return _("See view conpool.leases for the holders and conpool.advice for a better "
				 "max_size.");
	if (info->dropped || lacks_connections(info))
		return _("See the columns dropped and upkeep_error of view conpool.pools.");
	return NULL;
}

void
cp_diagnose_pool(CpDiagnosis *d)
{
	CpPoolInfo *info = palloc(sizeof(CpPoolInfo));
	const char *hint;
	int pool;

	if (!cp_diagnosis_read_pool(d, &pool, info))
	{
		cp_step_pass(d, CP_STEP_POOL,
					 psprintf(_("there is none yet, the first query makes it; max_size is %d."),
							  d->target->options.max_size));
		return;
	}
	hint = hint_for_pool(d, info);
	cp_step_find(d, CP_STEP_POOL, hint == NULL, describe_pool(pool, info), hint);
}
