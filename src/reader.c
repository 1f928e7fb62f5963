/*
 * reader.c
 *		The worker that reads the definitions of one database's servers: the
 *		pools follow them, and what they lack is ordered from the dialer.
 *
 * A dynamic worker, started by the broker (upkeep.c), that ends by itself.
 * DROP DATABASE waits for it, so it takes milliseconds: it never touches a
 * network, and what it has to tell the dialer it tells after its transaction,
 * with a limit.  One definition that is no good keeps it from no other.
 */
#include "postgres.h"

#include "reader.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "handover.h"
#include "pool.h"
#include "target.h"

/* how long the dialer may take for all orders together, milliseconds */
#define ORDERS_LIMIT 2000

/* A pool that is there, and a mapping by which one may have to be made. */
typedef struct Existing
{
	int pool;
	CpPoolInfo info;
} Existing;

typedef struct Wanted
{
	CpTargetMapping mapping;
	CpTarget *target; /* NULL: nothing is to be opened ahead of demand */
} Wanted;

/* ---- failing without consequences ---- */

/*
 * Calls look(arg) in a subtransaction.  Returns NULL or the error that it
 * threw.  Memory stays allocated in either case.
 */
static ErrorData *
attempt(void (*look)(void *), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		look(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	/* pg_cancel_backend() means this worker, not what it happened to look at */
	if (error && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	return error;
}

/* What an error says, cut to the size of a pool's message. */
static char *
reason_of(const ErrorData *error)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, error->message);
	if (error->detail || error->hint)
		appendStringInfoChar(&text, '.');
	if (error->detail)
		appendStringInfo(&text, " %s", error->detail);
	if (error->hint)
		appendStringInfo(&text, " %s", error->hint);
	text.data[pg_mbcliplen(text.data, text.len, CP_MESSAGE_LEN - 1)] = '\0';
	return text.data;
}

/*
 * By which fingerprint a pool's connections are known, or NULL: with SCRAM pass-through
 * each session brings its own, and whoever finds no match replaces what is in his way.
 */
static const CpFingerprint *
definition_of(const CpTarget *target)
{
	return target->scram_passthrough ? NULL : &target->fingerprint;
}

/* ---- pools that are there ---- */

static void
follow(void *arg)
{
	const Existing *existing = arg;
	const CpPoolKey *key = &existing->info.key;
	const CpTarget *target;
	uint64 generation;

	/* it may be newer than what we know of the catalogs, and is not to be taken for dropped */
	AcceptInvalidationMessages();
	target = cp_target_of_pool(key);
	if (target == NULL)
		cp_pool_drop(existing->pool, existing->info.generation);
	else if (key->kind == CP_POOL_SERVER)
		(void) cp_pool_define(key, target->name, &target->options, definition_of(target),
							  false, &generation);
	else
		cp_pool_set_defaults(existing->pool, existing->info.generation, &target->options);
}

static void
follow_definitions(void)
{
	for (int p = CP_OVERFLOW_POOL + 1; p < cp_shared->max_pools; p++)
	{
		Existing existing = {.pool = p};
		ErrorData *error;

		CHECK_FOR_INTERRUPTS();
		if (!cp_pool_read(p, &existing.info) || existing.info.key.database != MyDatabaseId)
			continue;
		error = attempt(follow, &existing);
		if (error)
			ereport(LOG,
					(errcode(error->sqlerrcode),
					 errmsg("could not read the definition of connection pool \"%s\"",
							existing.info.name),
					 errdetail_internal("%s", reason_of(error))));
	}
}

/* Paused servers are remembered without a pool; not if they were dropped. */
static void
forget_servers(void)
{
	int next = 0;
	Oid server;

	while (cp_server_next_unused(&next, MyDatabaseId, &server))
	{
		if (!SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(server)))
			cp_server_forget(MyDatabaseId, server);
	}
}

/* ---- pools that are to have connections ahead of demand ---- */

/* The pool comes first: if the role lacks rights it is there to say so. */
static void
look_at_mapping(void *arg)
{
	Wanted *wanted = arg;
	CpTarget *target = cp_target_of_mapping(wanted->mapping.server, wanted->mapping.role);

	if (target == NULL || target->options.min_size == 0)
		return;
	wanted->target = target;
	target->pool = cp_pool_define(&target->key, target->name, &target->options,
								  definition_of(target), true, &target->pool_generation);
	cp_target_require_rights(target);
	if (target->pool != CP_NONE)
		cp_pool_upkeep_allowed(target->pool, target->pool_generation);
}

/* Has that been said of the pool before? */
static bool
is_known(const CpTarget *target, const ErrorData *error, const char *reason)
{
	CpPoolInfo info;

	return cp_pool_read(target->pool, &info) &&
		info.generation == target->pool_generation &&
		info.upkeep_problem.at != 0 &&
		info.upkeep_problem.sqlstate == error->sqlerrcode &&
		strcmp(info.upkeep_problem.message, reason) == 0;
}

static void
log_failure(const Wanted *wanted, const ErrorData *error, const char *reason)
{
	ForeignServer *server = GetForeignServerExtended(wanted->mapping.server, FSV_MISSING_OK);
	const char *role = GetUserNameFromId(wanted->mapping.role, true);

	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("cannot open connections of server \"%s\" for role \"%s\" ahead of demand",
					server ? server->servername : "?", role ? role : "?"),
			 errdetail_internal("%s", reason)));
}

static void
note_failure(const Wanted *wanted, const ErrorData *error)
{
	const CpTarget *target = wanted->target;
	char *reason = reason_of(error);

	if (target == NULL || target->pool == CP_NONE)
	{
		log_failure(wanted, error, reason);
		return;
	}
	if (!is_known(target, error, reason))
		log_failure(wanted, error, reason);
	cp_pool_upkeep_refused(target->pool, target->pool_generation, error->sqlerrcode, reason);
}

/* Returns the targets (CpTarget) whose pools are to be filled. */
static List *
look_at_mappings(void)
{
	CpTargetMapping *mappings;
	int n = cp_target_mappings(&mappings);
	int without_pool = 0;
	List *targets = NIL;

	for (int i = 0; i < n; i++)
	{
		Wanted wanted = {.mapping = mappings[i]};
		ErrorData *error;

		CHECK_FOR_INTERRUPTS();
		error = attempt(look_at_mapping, &wanted);
		if (error)
			note_failure(&wanted, error);
		else if (wanted.target && wanted.target->pool == CP_NONE)
			without_pool++;
		else if (wanted.target)
			targets = lappend(targets, wanted.target);
	}
	if (without_pool > 0)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no room for %d more connection pools with \"min_size\"", without_pool),
				 errhint("Increase \"%s\".", "conpool.max_pools")));
	return targets;
}

/* ---- one run ---- */

/* One of the two; the companion's pools need not the other. */
static bool
has_extension(void)
{
	return OidIsValid(get_extension_oid("conpool", true)) ||
		OidIsValid(get_extension_oid("conpool_dblink", true));
}

static List *
read_definitions(void)
{
	if (!has_extension())
	{
		cp_pool_drop_database(MyDatabaseId);
		pg_atomic_write_u32(&cp_shared->last_bare, MyDatabaseId);
		return NIL;
	}
	follow_definitions();
	forget_servers();
	return look_at_mappings();
}

static void
send_order(const CpTarget *target, int count, CpTime deadline)
{
	CpOrder order = {
		.pool = target->pool,
		.pool_generation = target->pool_generation,
		.count = count,
		.fingerprint = target->fingerprint,
		.password_required = target->password_required,
		.party = target->party,
		.connect_timeout = target->options.connect_timeout,
		.keywords = target->keywords,
		.values = target->values,
	};

	if (cp_handover_is_too_long(&order))
		cp_pool_upkeep_failed(target->pool, target->pool_generation,
							  ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							  _("the connection options are too long"));
	else if (!cp_handover_send(&order, deadline))
		cp_pool_upkeep_failed(target->pool, target->pool_generation, 0,
							  _("the connection pool's dialer does not answer"));
}

static void
order_connections(List *targets)
{
	CpTime deadline = cp_deadline(cp_now(), ORDERS_LIMIT);
	ListCell *cell;

	foreach(cell, targets)
	{
		const CpTarget *target = lfirst(cell);
		int count;

		/* the broker sees to it that there will be a dialer, and a reader again */
		if (pg_atomic_read_u32(&cp_shared->dialer_pid) == 0)
			return;
		count = cp_pool_lacks(target->pool, target->pool_generation);
		if (count > 0)
			send_order(target, count, deadline);
	}
}

/* Passwords are wiped with `context`, in which all of this takes place. */
static void
run(MemoryContext context)
{
	List *targets;

	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "reading the definitions of connection pools");
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	targets = read_definitions();
	PopActiveSnapshot();
	CommitTransactionCommand();

	MemoryContextSwitchTo(context);
	pgstat_report_activity(STATE_RUNNING, "ordering connections that pools lack");
	order_connections(targets);
}

/* Only one's own: the broker may have started the next one. */
static void
reader_exit(int code, Datum arg)
{
	uint32 self = MyProcPid;

	pg_atomic_compare_exchange_u32(&cp_shared->reader_pid, &self, 0);
	cp_shmem_wake_broker();
}

/*
 * Settings of a database are its owner's: none may have us wait for what sessions
 * do, or fail.
 */
static void
override_settings(void)
{
	static const char *const settings[][2] = {
		/* a deferrable transaction waits for others; on a standby there is none */
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_deferrable", "off"},
		{"default_transaction_read_only", "off"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"transaction_timeout", "0"},
		{"search_path", "pg_catalog"},
	};

	for (int i = 0; i < lengthof(settings); i++)
	{
		/* not every version has all of them */
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	}
}

void
cp_reader_main(Datum database)
{
	MemoryContext context;

	before_shmem_exit(reader_exit, 0);
	pg_atomic_write_u32(&cp_shared->reader_pid, MyProcPid);

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	override_settings();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(database), InvalidOid, 0);

	context = AllocSetContextCreate(TopMemoryContext, "conpool reader",
									ALLOCSET_DEFAULT_SIZES);
	run(context);
	/* the broker learns that it need not be read once more */
	pg_atomic_write_u32(&cp_shared->last_read, DatumGetObjectId(database));
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
}
