/*
 * broker.c
 *		The background worker that keeps the sockets and maintains the pools:
 *		its life, its loop, and how it answers at the vault.
 *
 * Started by the postmaster as soon as the server is consistent, so that a hot
 * standby has pools too, and started again whenever it dies.  Backends reach
 * it through the vault (keep.c keeps what they donate) and through the
 * worklist in shared memory.  It must never wait for anything but its wait
 * event set, connect, resolve a name or read a catalog of a database; and it
 * serves interrupts on every turn, or DROP DATABASE would hang for everybody.
 * An error of its own ends it with exit code 1: the next run starts clean.
 *
 * Idle sockets are never in the wait event set.  A descriptor that is closed
 * here while a backend has a duplicate would go on firing and could not be
 * taken out any more; they are looked at once a second instead.
 */
#include "postgres.h"

#include "broker.h"

#include <sys/resource.h>
#include <unistd.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"

#include "compat.h"
#include "guc.h"
#include "historian.h"
#include "keep.h"
#include "leak.h"
#include "net.h"
#include "pool.h"
#include "stats_file.h"
#include "upkeep.h"
#include "vault.h"
#include "wait_events.h"

/* between two rounds of maintenance, in milliseconds */
#define TICK 1000
/* peers with a request under way; each may have one descriptor in it */
#define MAX_CLIENTS 200
/* clients accepted in one turn, so that the other work gets its turn too */
#define MAX_ACCEPTS 100
/* events taken in one turn */
#define MAX_EVENTS 64
/* bytes of what pg_stat_activity says of the broker */
#define ACTIVITY_SIZE 128
/* descriptors for log, latch, wait event set, catalogs and libraries */
#define OTHER_DESCRIPTORS 100

typedef enum SourceKind
{
	SOURCE_INTERNAL, /* latch or postmaster death */
	SOURCE_LISTENER,
	SOURCE_CLIENT,
	SOURCE_SLOT
} SourceKind;

/* What stands at a position of the wait event set. */
typedef struct Source
{
	SourceKind kind;
	int index; /* of the client or slot */
} Source;

static uint64 epoch = 0;
static int listener = -1;
static bool listening = true; /* false after running out of descriptors */
static CpTime next_tick = 0;
static CpTime next_maintenance = 0;
static bool stopping = false; /* the server is, as of the last tick */
static MemoryContext tick_context;

static CpVaultClient *clients[MAX_CLIENTS];
static int client_count = 0;

static WaitEventSet *wait_set = NULL;
static Source *sources = NULL;
static bool wait_set_stale = true;
static uint64 watched_changes = 0;

/* ---- clients of the vault ------------------------------------------------ */

static void
drop_client(int index)
{
	cp_vault_server_drop(clients[index]);
	clients[index] = NULL;
	client_count--;
	wait_set_stale = true;
}

static CpVaultStatus
serve_donation(CpVaultClient *client)
{
	const CpVaultRequest *request = &client->request;
	uint64 generation = cp_pool_donated(request->slot, request->generation, client->pid,
										epoch);

	if (generation == 0)
		return CP_VAULT_REFUSED;
	cp_keep_socket(request->slot, generation, client->fd, &client->greeting);
	client->fd = -1;
	return CP_VAULT_OK;
}

static CpVaultStatus
serve_end(CpVaultClient *client)
{
	const CpVaultRequest *request = &client->request;
	uint64 generation = cp_pool_ending(request->slot, request->generation, client->pid);

	if (generation == 0)
		return CP_VAULT_REFUSED;
	cp_keep_await_end(request->slot, generation, client->fd);
	client->fd = -1;
	return CP_VAULT_OK;
}

static CpVaultStatus
serve_fetch(CpVaultClient *client, int *fd, const CpGreeting **greeting)
{
	const CpVaultRequest *request = &client->request;

	if (!cp_pool_is_held_by(request->slot, request->generation, client->pid))
		return CP_VAULT_REFUSED;
	*fd = cp_keep_find(request->slot, request->generation, greeting);
	return *fd < 0 ? CP_VAULT_REFUSED : CP_VAULT_OK;
}

/*
 * Answers one request.  Whoever asks must be who shared memory says holds the
 * slot: the peer's pid is the kernel's word, the rest is only its own.
 */
static void
serve(CpVaultClient *client)
{
	const CpVaultRequest *request = &client->request;
	CpVaultStatus status = CP_VAULT_REFUSED;
	int fd = -1;
	const CpGreeting *greeting = NULL;

	if (request->epoch == epoch && client->pid > 0 &&
		request->slot >= 0 && request->slot < cp_shared->max_slots)
	{
		switch (request->op)
		{
			case CP_VAULT_DONATE:
				status = serve_donation(client);
				break;
			case CP_VAULT_FETCH:
				status = serve_fetch(client, &fd, &greeting);
				break;
			case CP_VAULT_END:
				status = serve_end(client);
				break;
		}
	}
	cp_vault_server_reply(client, status, fd, greeting);
}

static void
read_client(int index)
{
	CpVaultClient *client = clients[index];

	switch (cp_vault_server_read(client))
	{
		case CP_VAULT_READ_MORE:
			return;
		case CP_VAULT_READ_DONE:
			serve(client);
			break;
		case CP_VAULT_READ_BAD:
			break;
	}
	drop_client(index);
}

/* A place for one more client: that of the longest silent one, if need be. */
static int
place_for_client(void)
{
	int oldest = 0;

	for (int i = 0; i < MAX_CLIENTS; i++)
	{
		if (clients[i] == NULL)
			return i;
		if (clients[i]->deadline < clients[oldest]->deadline)
			oldest = i;
	}
	drop_client(oldest);
	return oldest;
}

/* Most requests are there as soon as their sender is: read them at once. */
static void
accept_clients(void)
{
	for (int i = 0; i < MAX_ACCEPTS; i++)
	{
		bool refused = false;
		CpVaultClient *client;
		int index;

		errno = 0;
		client = cp_vault_server_accept(listener, &refused);
		if (client == NULL && refused)
			continue;
		if (client == NULL)
		{
			/* the listener would fire for ever: try again at the next tick */
			if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
				listening = false;
			wait_set_stale |= !listening;
			return;
		}
		index = place_for_client();
		clients[index] = client;
		client_count++;
		wait_set_stale = true;
		read_client(index);
	}
}

/* Drops clients that were silent for too long; returns the next deadline. */
static CpTime
expire_clients(CpTime now)
{
	CpTime next = CP_FOREVER;

	for (int i = 0; i < MAX_CLIENTS && client_count > 0; i++)
	{
		if (clients[i] == NULL)
			continue;
		if (clients[i]->deadline <= now)
			drop_client(i);
		else
			next = cp_earlier(next, clients[i]->deadline);
	}
	return next;
}

/* ---- maintenance --------------------------------------------------------- */

/*
 * Does the postmaster wait for sessions to end?  A smart shutdown tells no
 * worker, only its lock file; yet a pooled connection to this very server is
 * a session that never ends by itself.
 */
static bool
server_is_stopping(void)
{
	char line[MAXPGPATH];
	bool found = false;
	FILE *file = AllocateFile("postmaster.pid", "r");

	if (file == NULL)
		return false;
	for (int i = 1; fgets(line, sizeof(line), file) != NULL; i++)
	{
		if (i == LOCK_FILE_LINE_PM_STATUS)
			found = strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	}
	FreeFile(file);
	return found;
}

/* What the broker has in hand: connections, and in how many pools. */
typedef struct Load
{
	int pools;
	int kept;
	int checking;
	int resetting;
	int closing;
} Load;

/* Numbers for people to look at: no lock is worth it. */
static Load
estimate_load(void)
{
	Load load = {0};

	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		const volatile CpSharedPool *pool = &cp_pools[p];
		const volatile int *counts = pool->counts;
		int kept;

		if (!pool->in_use)
			continue;
		kept = counts[CP_SLOT_IDLE] + counts[CP_SLOT_LEASED] + counts[CP_SLOT_RESETTING] +
			counts[CP_SLOT_VALIDATING] - pool->unshared;
		load.pools += kept > 0;
		load.kept += Max(kept, 0);
		load.checking += counts[CP_SLOT_VALIDATING];
		load.resetting += counts[CP_SLOT_RESETTING];
		load.closing += counts[CP_SLOT_CLOSING];
	}
	return load;
}

static void
describe_load(char *text, size_t size)
{
	const Load load = estimate_load();
	const struct
	{
		const char *what;
		int count;
	} parts[] = {
		{"checking", load.checking},
		{"resetting", load.resetting},
		{"closing", load.closing},
	};
	const char *separator = ";";
	int len;

	len = snprintf(text, size, "keeping %d connection%s of %d pool%s",
				   load.kept, load.kept == 1 ? "" : "s", load.pools, load.pools == 1 ? "" : "s");
	for (int i = 0; i < (int) lengthof(parts); i++)
	{
		if (parts[i].count == 0)
			continue;
		len += snprintf(text + len, size - len, "%s %s %d", separator, parts[i].what,
						parts[i].count);
		separator = ",";
	}
}

/* In pg_stat_activity, as the broker's last query. */
static void
show_activity(void)
{
	static char shown[ACTIVITY_SIZE] = "";
	char text[ACTIVITY_SIZE];

	describe_load(text, sizeof(text));
	if (strcmp(text, shown) == 0)
		return;
	strlcpy(shown, text, sizeof(shown));
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_IDLE, text);
}

static void
tick(void)
{
	MemoryContext caller = MemoryContextSwitchTo(tick_context);

	wait_set_stale |= !listening;
	listening = true;
	cp_keep_look();
	cp_leak_scan();
	show_activity();
	stopping = server_is_stopping();
	if (stopping)
		cp_pool_close_all_idle();
	MemoryContextSwitchTo(caller);
	MemoryContextReset(tick_context);
}

/* After each tick, and when somebody has seen that a pool wants it. */
static void
maintain(CpTime now)
{
	if (now < next_maintenance && pg_atomic_read_u32(&cp_shared->upkeep_wanted) == 0)
		return;
	next_maintenance = cp_pool_maintain(now);
	cp_upkeep_look();
}

static void
take_tasks(void)
{
	CpTask task;

	while (cp_pool_next_task(&task))
		cp_keep_begin(&task);
}

/* ---- waiting ------------------------------------------------------------- */

static void
watch(SourceKind kind, int index, uint32 events, pgsocket fd)
{
	Latch *latch = events == WL_LATCH_SET ? MyLatch : NULL;
	int position = AddWaitEventToSet(wait_set, events, fd, latch, NULL);

	sources[position] = (Source){kind, index};
}

/* An event cannot be taken out of a set: it is made anew when one is to go. */
static void
build_wait_set(void)
{
	uint64 changes;
	int size = 3 + client_count + cp_keep_watched(&changes);

	if (wait_set && !wait_set_stale && changes == watched_changes)
		return;
	if (wait_set)
	{
		FreeWaitEventSet(wait_set);
		pfree(sources);
	}
	wait_set = cp_create_wait_event_set(size);
	sources = palloc(size * sizeof(Source));

	watch(SOURCE_INTERNAL, 0, WL_LATCH_SET, PGINVALID_SOCKET);
	watch(SOURCE_INTERNAL, 0, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET);
	if (listening)
		watch(SOURCE_LISTENER, 0, WL_SOCKET_READABLE, listener);
	for (int i = 0; i < MAX_CLIENTS; i++)
	{
		if (clients[i])
			watch(SOURCE_CLIENT, i, WL_SOCKET_READABLE, clients[i]->sock);
	}
	for (int i = 0; i < cp_shared->max_slots; i++)
	{
		pgsocket fd;
		uint32 events = cp_keep_events(i, &fd);

		if (events != 0)
			watch(SOURCE_SLOT, i, events, fd);
	}
	wait_set_stale = false;
	watched_changes = changes;
}

/* What a source was may have changed with an event before it in this turn. */
static void
handle_event(const WaitEvent *event)
{
	Source source = sources[event->pos];

	switch (source.kind)
	{
		case SOURCE_INTERNAL:
			break;
		case SOURCE_LISTENER:
			accept_clients();
			break;
		case SOURCE_CLIENT:
			if (clients[source.index])
				read_client(source.index);
			break;
		case SOURCE_SLOT:
			cp_keep_ready(source.index);
			break;
	}
}

static void
wait_for_events(CpTime deadline)
{
	WaitEvent events[MAX_EVENTS];
	int n;

	build_wait_set();
	n = WaitEventSetWait(wait_set, cp_timeout_ms(deadline), events, MAX_EVENTS,
						 cp_wait_event(CP_WAIT_MAIN));
	/* before anything is looked at, so that what comes later is seen later */
	ResetLatch(MyLatch);
	for (int i = 0; i < n; i++)
		handle_event(&events[i]);
}

static void
serve_signals(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ShutdownRequestPending)
	{
		cp_historian_end(cp_now());
		proc_exit(1);
	}
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		cp_upkeep_all();
	}
}

static void
turn(void)
{
	CpTime now = cp_now();
	CpTime deadline;

	serve_signals();
	if (now >= next_tick)
	{
		tick();
		next_tick = cp_deadline(now, TICK);
		next_maintenance = now;
	}
	maintain(now);
	take_tasks();
	deadline = cp_earlier(cp_keep_expire(now), expire_clients(now));
	deadline = cp_earlier(deadline, next_maintenance);
	/* nobody is to be brought in who would have to be sent away */
	if (!stopping)
		deadline = cp_earlier(deadline, cp_upkeep_turn(now));
	deadline = cp_earlier(deadline, cp_pool_relieve());
	deadline = cp_earlier(deadline, cp_historian_turn(now));
	/* the pool wakes us for every task, those that come of this turn too */
	wait_for_events(cp_earlier(deadline, next_tick));
}

/* ---- descriptors ---------------------------------------------------------- */

/* How many the broker may have open at once. */
static rlim_t
descriptors_needed(void)
{
	return (rlim_t) cp_guc_max_connections + CP_KEEP_MAX_RESETS + CP_KEEP_MAX_RETAINED +
		2 * MAX_CLIENTS + OTHER_DESCRIPTORS;
}

/* Better no start than a broker that fails when it is needed most. */
static void
check_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max == RLIM_INFINITY ||
		limit.rlim_max >= descriptors_needed())
		return;
	ereport(FATAL,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("too few file descriptors for conpool.max_connections = %d",
					cp_guc_max_connections),
			 errdetail("The connection pool's broker needs %llu file descriptors, the hard "
					   "limit of a process is %llu.",
					   (unsigned long long) descriptors_needed(),
					   (unsigned long long) limit.rlim_max),
			 errhint("Raise the limit (ulimit -Hn, or LimitNOFILE of the systemd unit), or "
					 "lower \"conpool.max_connections\".")));
}

static void
raise_descriptor_limit(void)
{
	if (!cp_net_raise_descriptor_limit((int) descriptors_needed()))
		ereport(LOG,
				(errmsg("could not raise the limit of file descriptors: %m")));
}

/* ---- life ----------------------------------------------------------------- */

/*
 * Ends every connection that no backend is using, without waiting.  Idle
 * ones are taken from the pool first, so that nobody leases them on the way;
 * what comes back between the two rounds is ended in the second.  Whatever
 * has not been set up yet is found empty.
 */
static void
broker_exit(int code, Datum arg)
{
	CpTask task;

	LWLockReleaseAll();
	if (listener >= 0)
		cp_vault_server_unlink();
	if (epoch == 0)
		return;

	cp_pool_close_all_idle();
	while (cp_pool_next_task(&task))
	{
		if (task.state == CP_SLOT_CLOSING)
			cp_keep_end_now(task.slot, !task.mid_protocol);
	}
	cp_keep_end_unleased();
	cp_pool_broker_ends();
	cp_keep_end_unleased();
}

static void
set_up(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "conpool broker",
												  ALLOCSET_DEFAULT_SIZES);

	tick_context = AllocSetContextCreate(context, "conpool broker tick", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(context);
	raise_descriptor_limit();
	cp_keep_init(cp_shared->max_slots);
	listener = cp_vault_server_listen();
	if (listener < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not listen on the connection pool's socket: %m")));
	/* from here on backends come */
	epoch = cp_pool_broker_begins();
	cp_stats_file_forget();
	cp_upkeep_begin();
}

void
cp_broker_main(Datum arg)
{
	before_shmem_exit(broker_exit, 0);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	/* pg_cancel_backend() must not cost the pool */
	pqsignal(SIGINT, SIG_IGN);
	BackgroundWorkerUnblockSignals();
	/* no database: seen in pg_stat_activity, but in nobody's way */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	set_up();
	for (;;)
		turn();
}

void
cp_broker_register(void)
{
	BackgroundWorker worker = {0};

	/* pg_upgrade wants nobody else at work */
	if (IsBinaryUpgrade)
		return;
	check_descriptor_limit();

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_name, "conpool broker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "conpool broker", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "conpool", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "cp_broker_main", sizeof(worker.bgw_function_name));
	RegisterBackgroundWorker(&worker);
}
