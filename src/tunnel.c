/*
 * tunnel.c
 *		The workers that open connections which may come out encrypted, and own
 *		the encrypted ones: their life, and the loop.
 *
 * Started by the postmaster, as many as conpool.tunnel_workers says, and started
 * again when they die.  Orders and cancels come over a private socket from whoever
 * holds a permit or a connection (tunnel_order.h).  A tunnel has shared memory and a
 * latch, but no database and no ProcSignal slot: nobody waits for it.
 *
 * All its connections wait for it, though.  So it must never wait for anything but
 * cp_watch_wait(): what of libpq's may block is called in threads, and no chore does
 * more at a time than is fair.  It reads no catalog and resolves no name.
 *
 * Chores are served in rounds: what becomes ready in one is served in the next, so
 * that everybody else has had his turn before.
 */
#include "postgres.h"

#include "tunnel.h"

#include <sys/resource.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"

#include "guc.h"
#include "net.h"
#include "pump.h"
#include "tunnel_internal.h"

/* between two additions to the counters, milliseconds */
#define TICK 1000
/* clients whose message is not there yet */
#define MAX_CLIENTS 256
/* clients accepted in one round */
#define MAX_ACCEPTS 64
/* descriptors beside those of the connections */
#define OTHER_DESCRIPTORS 1000
/* of an attempt: order, network, grip, and what libpq opens; of a connection */
#define DESCRIPTORS_OF_ATTEMPT 6
#define DESCRIPTORS_OF_LINE 2
/* log, latch, sets, clients, threads that look at files */
#define RESERVED_DESCRIPTORS 100

/* A client whose message is not there yet. */
typedef struct Client
{
	CpChore chore;
	CpTunnelClient *client;
	CpWatched watched;
} Client;

int cp_tunnel_number = 0;
CpSharedTunnel *cp_tunnel_shared = NULL;
MemoryContext cp_tunnel_context = NULL;

static MemoryContext round_context; /* reset after every round */
static int listener = -1;
static int threads_socket = -1;
static int spare = -1; /* descriptor to make room with for a client to turn away */
static int client_count = 0;
static uint64 descriptor_limit = 0;

static dlist_head ready = DLIST_STATIC_INIT(ready);
static dlist_head timed = DLIST_STATIC_INIT(timed);
static dlist_head calling = DLIST_STATIC_INIT(calling);
static uint64 this_round = 1;
/* none of `timed` is due before */
static CpTime first_deadline = CP_FOREVER;

static bool has_worked = false; /* since the last tick */
static CpTime next_tick = 0;
static uint64 cpu_time_before; /* of the runs before this one, microseconds */

/* ---- chores ---------------------------------------------------------------- */

void
cp_chore_begin(CpChore *chore, void (*serve)(CpChore *, CpTime))
{
	memset(chore, 0, sizeof(*chore));
	chore->serve = serve;
	chore->deadline = CP_FOREVER;
}

void
cp_chore_ready(CpChore *chore)
{
	if (chore->round != 0)
		return;
	chore->round = this_round + 1;
	dlist_push_tail(&ready, &chore->ready_node);
}

void
cp_chore_set_deadline(CpChore *chore, CpTime deadline)
{
	if (chore->deadline != CP_FOREVER && deadline == CP_FOREVER)
		dlist_delete(&chore->timed_node);
	else if (chore->deadline == CP_FOREVER && deadline != CP_FOREVER)
		dlist_push_tail(&timed, &chore->timed_node);
	chore->deadline = deadline;
	first_deadline = cp_earlier(first_deadline, deadline);
}

bool
cp_chore_call(CpChore *chore, void (*function)(void *), void *arg, const CpCaller *caller)
{
	Assert(chore->call == NULL);
	chore->call = cp_threads_call(function, arg, caller);
	if (chore->call == NULL)
		return false;
	chore->called_at = cp_now();
	dlist_push_tail(&calling, &chore->call_node);
	return true;
}

bool
cp_chore_withdraw_call(CpChore *chore)
{
	if (!cp_threads_withdraw(chore->call))
		return false;
	dlist_delete(&chore->call_node);
	chore->call = NULL;
	return true;
}

void
cp_chore_end(CpChore *chore)
{
	Assert(chore->call == NULL);
	if (chore->round != 0)
		dlist_delete(&chore->ready_node);
	chore->round = 0;
	cp_chore_set_deadline(chore, CP_FOREVER);
}

bool
cp_chore_watch(CpChore *chore, CpWatched *watched, int sock, bool reading, bool writing)
{
	cp_watch_remove(watched);
	if (!cp_watch_add(watched, sock, chore))
		return false;
	/* what is possible already is told as well: so nothing is to be tried before */
	watched->readable = false;
	watched->writable = false;
	watched->wants_read = reading;
	if (writing)
		cp_watch_await_room(watched);
	return true;
}

bool
cp_chore_happened(const CpWatched *watched)
{
	/* that it is writable is told only if it was wanted, or if all is lost */
	return (watched->wants_read && watched->readable) || watched->writable;
}

bool
cp_chore_peer_has_gone(CpWatched *watched)
{
	char byte;
	ssize_t n;

	if (!watched->readable)
		return false;
	do
		n = recv(watched->fd, &byte, 1, MSG_PEEK);
	while (n < 0 && errno == EINTR);
	watched->readable = n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
	return watched->readable;
}

/* Has those that are due served in this round. */
static void
take_due(CpTime now)
{
	dlist_mutable_iter i;

	if (now < first_deadline)
		return;
	first_deadline = CP_FOREVER;
	dlist_foreach_modify(i, &timed)
	{
		CpChore *chore = dlist_container(CpChore, timed_node, i.cur);

		if (now < chore->deadline)
			first_deadline = cp_earlier(first_deadline, chore->deadline);
		else
		{
			cp_chore_set_deadline(chore, CP_FOREVER);
			cp_chore_ready(chore);
		}
	}
}

static void
take_finished_calls(void)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, &calling)
	{
		CpChore *chore = dlist_container(CpChore, call_node, i.cur);

		if (!cp_threads_is_done(chore->call))
			continue;
		dlist_delete(&chore->call_node);
		chore->call = NULL;
		cp_chore_ready(chore);
	}
}

/* Serves each of those that are ready by now, once. */
static void
serve_ready(CpTime now)
{
	this_round++;
	while (!dlist_is_empty(&ready))
	{
		CpChore *chore = dlist_head_element(CpChore, ready_node, &ready);

		if (chore->round > this_round)
			break;
		dlist_delete(&chore->ready_node);
		chore->round = 0;
		has_worked = true;
		chore->serve(chore, now);
	}
}

/* ---- clients --------------------------------------------------------------- */

/* Its message is there: goes about it. */
static void
take_message(CpTunnelClient *client)
{
	if (client->order != NULL)
		cp_attempt_begin(client);
	else
		cp_cancel_begin(client);
}

static void
free_client(Client *c)
{
	cp_watch_remove(&c->watched);
	cp_chore_end(&c->chore);
	client_count--;
	pfree(c);
}

static void
serve_client(CpChore *chore, CpTime now)
{
	Client *c = (Client *) chore;
	CpTunnelClient *client = c->client;
	CpTunnelRead result = cp_tunnel_read_client(client);

	if (result == CP_TUNNEL_READ_MORE && now < client->deadline)
	{
		c->watched.readable = false;
		cp_chore_set_deadline(chore, client->deadline);
		return;
	}
	free_client(c);
	if (result == CP_TUNNEL_READ_DONE)
		take_message(client);
	else
		cp_tunnel_drop_client(client);
}

/* The rest of its message is still to come. */
static void
await_message(CpTunnelClient *client)
{
	Client *c = MemoryContextAllocZero(cp_tunnel_context, sizeof(Client));

	client_count++;
	c->client = client;
	c->watched.fd = -1;
	cp_chore_begin(&c->chore, serve_client);
	if (cp_chore_watch(&c->chore, &c->watched, client->sock, true, false))
		cp_chore_set_deadline(&c->chore, client->deadline);
	else
	{
		free_client(c);
		cp_tunnel_drop_client(client);
	}
}

/* Most messages are there as soon as their sender is: reads them at once. */
static void
begin_client(CpTunnelClient *client)
{
	switch (cp_tunnel_read_client(client))
	{
		case CP_TUNNEL_READ_DONE:
			take_message(client);
			return;
		case CP_TUNNEL_READ_MORE:
			if (client_count < MAX_CLIENTS)
			{
				await_message(client);
				return;
			}
			break;
		case CP_TUNNEL_READ_LOST:
			break;
	}
	cp_tunnel_drop_client(client);
}

/* Without a descriptor for him the listener would fire for ever. */
static void
turn_one_away(void)
{
	int sock;

	if (spare >= 0)
		close(spare);
	sock = cp_net_accept(listener);
	if (sock >= 0)
		close(sock);
	spare = cp_net_dup(threads_socket);
}

static void
accept_clients(void)
{
	for (int i = 0; i < MAX_ACCEPTS; i++)
	{
		MemoryContext before = MemoryContextSwitchTo(cp_tunnel_context);
		CpTunnelClient *client;

		errno = 0;
		client = cp_tunnel_accept(listener);
		MemoryContextSwitchTo(before);
		if (client != NULL)
		{
			has_worked = true;
			begin_client(client);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE)
			turn_one_away();
		return;
	}
}

/* ---- the loop -------------------------------------------------------------- */

static void
note_cpu_time(void)
{
	struct rusage usage;

	uint64 seconds;

	if (getrusage(RUSAGE_SELF, &usage) < 0)
		return;
	seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec;
	pg_atomic_write_u64(&cp_tunnel_shared->cpu_time,
						cpu_time_before + seconds * 1000000 + usage.ru_utime.tv_usec +
							usage.ru_stime.tv_usec);
}

static void
tick(CpTime now)
{
	if (!has_worked || now < next_tick)
		return;
	has_worked = cp_line_tick(now);
	note_cpu_time();
	next_tick = cp_deadline(now, TICK);
}

/* Waits, if nothing is ready, and notes what is. */
static void
wait_for_events(CpTime now)
{
	CpWatched *changed[CP_WATCH_EVENTS];
	bool others_ready = false;
	CpTime deadline = first_deadline;
	int n;

	if (has_worked)
		deadline = cp_earlier(deadline, next_tick);
	if (!dlist_is_empty(&ready))
		deadline = now;
	n = cp_watch_wait(deadline, changed, &others_ready);
	for (int i = 0; i < n; i++)
		cp_chore_ready(changed[i]->owner);
	if (others_ready)
	{
		cp_threads_drain();
		take_finished_calls();
		accept_clients();
	}
}

static void
turn(void)
{
	CpTime now = cp_now();

	take_due(now);
	serve_ready(now);
	tick(now);
	MemoryContextReset(round_context);
	wait_for_events(now);
}

/* ---- life ------------------------------------------------------------------ */

/* What has not been set up yet is found empty. */
static void
tunnel_exit(int code, Datum arg)
{
	LWLockReleaseAll();
	pg_atomic_write_u32(&cp_tunnel_shared->pid, 0);
	if (listener >= 0)
		cp_tunnel_unlink(cp_tunnel_number);
	cp_line_close_all();
	note_cpu_time();
	pg_atomic_write_u32(&cp_tunnel_shared->connections, 0);
}

static void
begin_to_listen(void)
{
	listener = cp_tunnel_listen(cp_tunnel_number);
	if (listener < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not listen on the socket of conpool's tunnel: %m")));
}

static void
watch_own_sockets(void)
{
	int sockets[] = {threads_socket, listener};

	if (!cp_watch_init(sockets, lengthof(sockets)))
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not watch sockets: %m")));
}

/* How many there can be; says so if that may be too few. */
static void
look_at_descriptor_limit(void)
{
	uint64 wanted = (uint64) DESCRIPTORS_OF_LINE * cp_guc_max_connections + OTHER_DESCRIPTORS;
	struct rlimit limit;

	if (!cp_net_raise_descriptor_limit(wanted))
		ereport(LOG,
				(errmsg("could not raise the limit of file descriptors: %m")));
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	descriptor_limit = limit.rlim_cur == RLIM_INFINITY ? 0 : limit.rlim_cur;
	if (descriptor_limit != 0 && descriptor_limit < wanted)
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("conpool's tunnel may run out of file descriptors"),
				 errdetail("It may need %llu, and has %llu. Without enough of them encrypted "
						   "connections are not shared.",
						   (unsigned long long) wanted, (unsigned long long) descriptor_limit),
				 errhint("Raise the limit (ulimit -Hn, or LimitNOFILE of the systemd unit), or "
						 "\"conpool.tunnel_workers\".")));
}

bool
cp_tunnel_has_descriptors(int attempts)
{
	uint64 used = RESERVED_DESCRIPTORS + DESCRIPTORS_OF_ATTEMPT * attempts +
		DESCRIPTORS_OF_LINE * pg_atomic_read_u32(&cp_tunnel_shared->connections);

	return descriptor_limit == 0 || used <= descriptor_limit;
}

static void
set_up(void)
{
	cp_tunnel_context = AllocSetContextCreate(TopMemoryContext, "conpool tunnel",
											  ALLOCSET_DEFAULT_SIZES);
	round_context = AllocSetContextCreate(cp_tunnel_context, "conpool tunnel round",
										  ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(round_context);
	look_at_descriptor_limit();
	cpu_time_before = pg_atomic_read_u64(&cp_tunnel_shared->cpu_time);
	/* for a key whose passphrase is not given OpenSSL would ask at the terminal */
	PQsetSSLKeyPassHook_OpenSSL(PQdefaultSSLKeyPassHook_OpenSSL);
	cp_attempt_init();
	cp_line_init();
	threads_socket = cp_threads_init();
	if (threads_socket < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create a socket: %m")));
	spare = cp_net_dup(threads_socket);
	begin_to_listen();
	watch_own_sockets();
	/* from here on orders come */
	pg_atomic_write_u64(&cp_tunnel_shared->started_at, (uint64) cp_now());
	pg_atomic_write_u32(&cp_tunnel_shared->pid, (uint32) MyProcPid);
}

/* Exit code 1 in any case, so that it is started again unless the server stops. */
void
cp_tunnel_main(Datum arg)
{
	cp_tunnel_number = DatumGetInt32(arg);
	cp_tunnel_shared = &cp_shared->tunnels[cp_tunnel_number - 1];
	before_shmem_exit(tunnel_exit, 0);

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SIG_IGN);
	pqsignal(SIGINT, SIG_IGN);
	BackgroundWorkerUnblockSignals();

	set_up();
	while (!ShutdownRequestPending)
		turn();
	proc_exit(1);
}

void
cp_tunnel_register(void)
{
	BackgroundWorker worker = {0};

	/* pg_upgrade wants nobody else at work */
	if (IsBinaryUpgrade || !cp_pump_is_built())
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_type, "conpool tunnel", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "conpool", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "cp_tunnel_main", sizeof(worker.bgw_function_name));
	for (int i = 1; i <= cp_guc_tunnel_workers; i++)
	{
		snprintf(worker.bgw_name, BGW_MAXLEN, "conpool tunnel %d", i);
		worker.bgw_main_arg = Int32GetDatum(i);
		RegisterBackgroundWorker(&worker);
	}
}
