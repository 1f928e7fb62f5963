/*
 * dialer.c
 *		The worker that opens connections ahead of demand: its life, its loop,
 *		and how an order becomes connections that the broker has.
 *
 * Started by the broker (upkeep.c) when a pool lacks connections; gets its orders,
 * passwords included, from the reader (handover.c), and goes when it has had
 * nothing to do for a while.  It has shared memory and a latch, but no database
 * and no ProcSignal slot: nobody waits for it, whatever it waits for.
 *
 * It serves all pools at once, so it must never wait for anything but its wait
 * event set: names are looked up in threads (resolver.c), libpq is gone on with
 * when its socket is ready, and so are the vault and the tunnels.  It never reads a
 * catalog, and keeps no connection: what is open is the broker's, or a tunnel's.
 *
 * An order becomes a job: first the addresses of its hosts, without a permit, then
 * a connect for each permit that the pool grants.  One that may come out encrypted is
 * made by a tunnel; if none takes it, here, and only in the clear.  A failure ends
 * the job; the broker comes again when the pool may be tried again.
 */
#include "postgres.h"

#include "dialer.h"

#include <sys/socket.h>
#include <unistd.h>

#include "lib/ilist.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"

#include "compat.h"
#include "conninfo.h"
#include "error.h"
#include "handover.h"
#include "hosts.h"
#include "message.h"
#include "pool.h"
#include "remote.h"
#include "resolver.h"
#include "secret.h"
#include "tunnel_order.h"
#include "vault.h"
#include "wait_events.h"

/*
 * Connects under way at once: over all pools, of pools that are failing, slow ones
 * included, and of one order, for which a single one goes ahead.  So remotes that
 * do not answer leave room for the others; if there is none all the same, a slow
 * one gives way.
 */
#define MAX_ATTEMPTS 32
#define MAX_FAILING_ATTEMPTS 16
#define MAX_ATTEMPTS_OF_JOB 8

/* without work for so long, it goes (milliseconds, as all below) */
#define IDLE_LIMIT (60 * 1000)
/* looking names up, and a connect, are given up after this at the latest */
#define CONNECT_LIMIT (30 * 1000)
/* a connect that takes longer, to a remote that has let nobody in, is a slow one */
#define SLOW_LIMIT 2000
/* a pool that waits for a place for so long is told so */
#define PLACE_LIMIT 1000
/* a tunnel takes an order at once, or is too busy; everything else waits meanwhile */
#define TUNNEL_TIMEOUT 20
/* the broker answers within this time or is not there */
#define VAULT_TIMEOUT 2000
/* how long to wait for the remote's end of file */
#define EOF_TIMEOUT 2000
/* before a permit, or a thread, is asked for again */
#define RETRY_PAUSE 1000
/* between two looks whether the order for which a connect runs still holds */
#define HOLDS_PAUSE 1000
/* before the vault's backlog, while it is full, is tried again */
#define VAULT_PAUSE 20
/* before the listener is looked at again after it gave no order */
#define LISTEN_PAUSE 100

/* why a pool has no connections ahead of demand */
#define ENCRYPTED "connections are encrypted and cannot be kept ahead of demand"
#define ELSEWHERE \
	"a tunnel could not open the connection: GSSAPI is asked for, or the tunnel is busy or " \
	"has ended"
#define NO_GREETING "what the remote server says when a session begins cannot be passed on"

/* A host's name, while it is looked up. */
typedef struct HostName
{
	bool pending;	  /* it is to be looked up, or is being */
	CpLookup *lookup; /* NULL: no thread was free yet */
} HostName;

/* An order that is being carried out. */
typedef struct Job
{
	dlist_node node; /* in jobs, if listed */
	bool listed;	 /* more connects may follow */
	int users;		 /* its attempts, and the list; without any it is freed */
	bool proven;	 /* the remote has let one of its attempts in */
	CpOrder *order;
	MemoryContext context; /* of what follows */

	CpFoundHost *hosts;
	HostName *names; /* of the hosts */
	int nhosts;
	bool has_names; /* one of them at least */
	bool resolved;
	bool without_thread;	/* there was none in time for one of its names */
	CpTime deadline;		/* of looking names up */
	const char *unresolved; /* why there is no address at all, or NULL */
	bool wants_tunnel;
	/* for connects that are made here, or why there can be none */
	const char *hindrance;
	const char *const *keywords;
	const char *const *values;

	CpTime retry_at;	 /* no permit, place, or thread is asked for before */
	CpTime placeless_at; /* since then it waits for a place; 0 = it does not */
	CpTime claimed_at;	 /* when another one was made to give way to it */
	bool told;			 /* that it waits */
} Job;

typedef enum AttemptState
{
	ATTEMPT_NONE, /* the place is free */
	ATTEMPT_CONNECTING,
	ATTEMPT_OFFERING, /* connected; the vault's backlog was full up to now */
	ATTEMPT_OFFERED,  /* the broker's answer is awaited */
	ATTEMPT_ENDING	  /* given up; the remote's end of file is awaited */
} AttemptState;

/* A permit of the pool, and what has become of it. */
typedef struct Attempt
{
	AttemptState state;
	Job *job;
	int slot;
	uint64 generation;
	CpRemote *remote;
	CpTime begun;
	CpTime deadline; /* of the state */
	CpTime until;	 /* it is gone on with then, or when `sock` is ready */
	pgsocket sock;	 /* of libpq, tunnel or vault, or what is left of the connection */
	int events;		 /* that are waited for on it, 0 = none */
	bool ready;		 /* one of them has happened */
} Attempt;

static MemoryContext dialer_context;
static MemoryContext turn_context; /* reset after every turn */

static int listener = -1;
static int resolver_pipe = -1;
static bool order_is_there = false;
static CpTime listen_at = 0; /* the listener is not watched before */
static CpTime idle_since = 0;

static dlist_head jobs = DLIST_STATIC_INIT(jobs);
static Attempt attempts[MAX_ATTEMPTS];
/* so many slow ones are to give way, once no list is being gone through */
static int places_claimed = 0;

/* per pool: its generation, once the log has been told of an outage */
static uint64 *complained;
/* per pool: its generation, once a remote has let us in */
static uint64 *proven;

/* ---- jobs ------------------------------------------------------------------ */

/* One user less. */
static void
leave_job(Job *job)
{
	if (--job->users > 0)
		return;
	cp_handover_free(job->order);
	MemoryContextDelete(job->context);
}

/* No more connects for this order; those under way go on. */
static void
close_job(Job *job)
{
	if (!job->listed)
		return;
	for (int i = 0; i < job->nhosts; i++)
	{
		if (job->names[i].lookup != NULL)
			cp_resolver_abandon(job->names[i].lookup);
		job->names[i].lookup = NULL;
	}
	dlist_delete(&job->node);
	job->listed = false;
	cp_pool_order_runs(job->order->pool, job->order->pool_generation, 0);
	leave_job(job);
}

static Job *
listed_job_of(int pool)
{
	dlist_iter i;

	dlist_foreach(i, &jobs)
	{
		Job *job = dlist_container(Job, node, i.cur);

		if (job->order->pool == pool)
			return job;
	}
	return NULL;
}

/*
 * Is it the same order once more?  The reader writes it again while names are
 * looked up, since no permit is held meanwhile.
 */
static bool
is_repeated(const CpOrder *order, const CpOrder *other)
{
	return order->pool_generation == other->pool_generation &&
		memcmp(&order->fingerprint, &other->fingerprint, sizeof(CpFingerprint)) == 0 &&
		order->password_required == other->password_required;
}

/* ---- failures -------------------------------------------------------------- */

/* Has nothing come of it since the log was told? */
static bool
is_failing(const CpOrder *order)
{
	return complained[order->pool] == order->pool_generation;
}

/* Is there a remote behind it? */
static bool
is_proven(const CpOrder *order)
{
	return proven[order->pool] == order->pool_generation;
}

/* Milliseconds that a connect, or looking its names up, may take. */
static int
connect_limit(const CpOrder *order)
{
	return order->connect_timeout > 0 ? Min(order->connect_timeout, CONNECT_LIMIT) : CONNECT_LIMIT;
}

/* One line in the log for each outage of a pool; the view tells of every attempt. */
static void
complain(const CpOrder *order, int sqlstate, const char *message)
{
	CpPoolInfo *info;

	if (is_failing(order))
		return;
	info = palloc(sizeof(CpPoolInfo));
	if (cp_pool_read(order->pool, info))
		ereport(LOG,
				(errcode(sqlstate != 0 ? sqlstate : CP_ERRCODE_UNREACHABLE),
				 errmsg("could not open a connection of pool \"%s\" ahead of demand",
						info->name),
				 errdetail_internal("%s", cp_secret_mask(message)),
				 errhint("This is tried again; see the view conpool.pools.")));
	complained[order->pool] = order->pool_generation;
}

/* min_size cannot be reached: the broker comes again after a while. */
static void
give_up_job(Job *job, int sqlstate, const char *message)
{
	const CpOrder *order = job->order;

	cp_pool_upkeep_failed(order->pool, order->pool_generation, sqlstate, message);
	complain(order, sqlstate, message);
	close_job(job);
}

/* The place is free again; whoever lacked a permit may have one now. */
static void
leave_attempt(Attempt *a)
{
	dlist_iter i;

	leave_job(a->job);
	memset(a, 0, sizeof(*a));
	dlist_foreach(i, &jobs)
	{
		dlist_container(Job, node, i.cur)->retry_at = 0;
	}
}

/* Nothing is left of the connection: the permit goes on. */
static void
attempt_ended(Attempt *a)
{
	cp_pool_connect_ended(a->slot, a->generation);
	leave_attempt(a);
}

/* Ends a connection that nobody else has, whole or half-open. */
static void
end_attempt(Attempt *a)
{
	int rest = cp_remote_end(a->remote);

	a->remote = NULL;
	if (rest < 0)
	{
		attempt_ended(a);
		return;
	}
	a->state = ATTEMPT_ENDING;
	a->sock = rest;
	a->events = WL_SOCKET_READABLE;
	a->ready = false;
	a->until = a->deadline = cp_deadline(cp_now(), EOF_TIMEOUT);
}

/* A connection that is open is of no use to the pool. */
static void
reject(Attempt *a, const char *message)
{
	give_up_job(a->job, 0, message);
	end_attempt(a);
}

/* There will be no connection. */
static void
fail(Attempt *a, CpFailure what, int sqlstate, const char *message)
{
	(void) cp_pool_connect_failed(a->slot, a->generation, what, sqlstate, message, a->begun);
	give_up_job(a->job, sqlstate, message);
	end_attempt(a);
}

/* ---- orders ---------------------------------------------------------------- */

/* What it takes to connect here, without waiting in libpq. */
static void
make_own_options(Job *job)
{
	const char **keywords;
	const char **values;

	job->hindrance = cp_conninfo_without_waiting(job->order->keywords, job->order->values,
												 &keywords, &values);
	if (job->hindrance == NULL)
	{
		job->keywords = keywords;
		job->values = values;
	}
}

/* The order's hosts, and how they are connected to; or why they cannot be. */
static const char *
list_hosts(Job *job)
{
	const CpOrder *order = job->order;
	CpHost *given;
	int n = cp_hosts_split(order->keywords, order->values, &given);

	if (n == CP_NONE)
		return "too many hosts";
	job->hosts = palloc0(Max(n, 1) * sizeof(CpFoundHost));
	job->names = palloc0(Max(n, 1) * sizeof(HostName));
	job->nhosts = n;
	for (int i = 0; i < n; i++)
	{
		job->hosts[i].given = given[i];
		job->names[i].pending = cp_host_is_name(&given[i]);
		job->has_names |= job->names[i].pending;
	}
	make_own_options(job);
	job->wants_tunnel = cp_tunnel_is_wanted(order->keywords, order->values);
	return job->wants_tunnel ? NULL : job->hindrance;
}

/* Takes the order over. */
static void
open_job(CpOrder *order, CpTime now)
{
	const char *error;
	MemoryContext context = AllocSetContextCreate(dialer_context, "conpool order",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	Job *job = palloc0(sizeof(Job));

	job->context = context;
	job->order = order;
	job->deadline = cp_deadline(now, connect_limit(order));
	error = list_hosts(job);
	job->users = 1;
	job->listed = true;
	dlist_push_tail(&jobs, &job->node);
	cp_pool_order_runs(order->pool, order->pool_generation, job->deadline);
	MemoryContextSwitchTo(before);
	if (error != NULL)
		give_up_job(job, 0, error);
}

static void
accept_order(CpTime now)
{
	MemoryContext before = MemoryContextSwitchTo(dialer_context);
	CpOrder *order = cp_handover_accept(listener);
	Job *job;

	MemoryContextSwitchTo(before);
	order_is_there = false;
	if (order == NULL)
	{
		/* out of descriptors, perhaps: the listener would fire for ever */
		listen_at = cp_deadline(now, LISTEN_PAUSE);
		return;
	}
	if (order->pool <= CP_OVERFLOW_POOL || order->pool >= cp_shared->max_pools)
	{
		cp_handover_free(order);
		return;
	}
	job = listed_job_of(order->pool);
	if (job != NULL && is_repeated(job->order, order))
		cp_handover_free(order);
	else
	{
		/* what is left of an old one is not wanted any more */
		if (job != NULL)
			close_job(job);
		open_job(order, now);
	}
}

/* ---- donating -------------------------------------------------------------- */

/*
 * Gives the broker a duplicate of the socket; a full backlog is tried again
 * later.
 */
static void
offer(Attempt *a)
{
	CpVaultRequest request = {0};
	CpVaultStatus status;

	request.op = CP_VAULT_DONATE;
	request.slot = a->slot;
	request.generation = a->generation;
	request.epoch = cp_shmem_broker_epoch();
	a->events = 0;
	/* from here on somebody else may have it, whatever goes wrong */
	a->remote->shared = true;
	a->sock = cp_vault_client_send(&request, cp_remote_socket(a->remote), &a->remote->greeting,
								   0, false, &status);
	if (a->sock >= 0)
	{
		a->state = ATTEMPT_OFFERED;
		a->events = WL_SOCKET_READABLE;
		a->until = a->deadline = cp_deadline(cp_now(), VAULT_TIMEOUT);
	}
	else if (status == CP_VAULT_TIMEOUT && cp_now() < a->deadline)
		a->until = cp_deadline(cp_now(), VAULT_PAUSE);
	else
		reject(a, "could not hand a connection over to conpool's broker");
}

/*
 * It is not known whether the broker has the connection, and so perhaps
 * somebody a lease on it: nothing may be said on it.  If the broker has not taken
 * it by now, it never will, and the remote sees the end of file.
 */
static void
leave_in_doubt(Attempt *a)
{
	if (cp_pool_withdraw(a->slot, a->generation))
	{
		/* the broker will refuse it, so it is ours to end */
		reject(a, "conpool's broker did not answer");
		return;
	}
	cp_remote_let_go(a->remote);
	give_up_job(a->job, 0, "conpool's broker did not answer");
	attempt_ended(a);
}

static void
read_answer(Attempt *a, CpTime now)
{
	switch (cp_vault_client_reply(a->sock, NULL, NULL, 0, false))
	{
		case CP_VAULT_OK:
			cp_remote_let_go(a->remote);
			complained[a->job->order->pool] = 0;
			leave_attempt(a);
			break;
		case CP_VAULT_PENDING:
			if (now < a->deadline)
				break;
			close(a->sock);
			leave_in_doubt(a);
			break;
		case CP_VAULT_REFUSED:
			reject(a, "conpool's broker did not take a connection");
			break;
		default:
			leave_in_doubt(a);
	}
}

/* ---- connecting ------------------------------------------------------------ */

static void
connected(Attempt *a, bool has_greeting)
{
	CpRemote *remote = a->remote;
	const CpPassage *passage = &remote->greeting.passage;
	CpConnected info = {0};
	char address[CP_ADDRESS_LEN];

	if (a->job->order->password_required && !remote->used_password)
	{
		/* as in borrow.c: the server's own identity is not lent to users */
		fail(a, CP_FAILURE_REFUSED, ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED,
			 "password is required: the remote server did not ask for one");
		return;
	}

	cp_remote_address(remote, address, sizeof(address));
	info.remote_pid = PQbackendPID(remote->conn);
	info.remote_address = address;
	info.tunnel = passage->tunnel;
	info.tls_version = passage->tunnel > 0 ? passage->tls_version : NULL;
	info.tls_cipher = passage->tunnel > 0 ? passage->tls_cipher : NULL;
	info.encrypted = remote->encrypted || passage->tunnel > 0;
	info.unshared = remote->encrypted || !has_greeting;
	info.connect_time = cp_now() - a->begun;
	a->job->proven = true;
	proven[a->job->order->pool] = a->job->order->pool_generation;
	/* the remote has answered, even if nothing can be done with the connection */
	cp_pool_dialed(a->slot, a->generation, &info);

	if (remote->encrypted)
		reject(a, ENCRYPTED);
	else if (!has_greeting)
		reject(a, NO_GREETING);
	else
	{
		a->state = ATTEMPT_OFFERING;
		a->deadline = cp_deadline(cp_now(), VAULT_TIMEOUT);
		offer(a);
	}
}

static void
connect_failed(Attempt *a, bool timed_out)
{
	char *message;
	int sqlstate;
	CpFailure what = cp_message_connect_failure(a->remote, timed_out, &sqlstate, &message);

	/* our limit says nothing of a remote that is given more time by others */
	if (timed_out && connect_limit(a->job->order) == CONNECT_LIMIT)
		what = CP_FAILURE_TIMEOUT;
	fail(a, what, sqlstate, message);
}

/*
 * It would be encrypted, which this process has no use for: whose business it is
 * has not taken it.
 */
static void
fail_encrypted(Attempt *a)
{
	const char *why = "this kind of encryption is not shared";

	if (a->job->wants_tunnel)
		why = cp_tunnel_is_there() ? "no tunnel took the order" : cp_tunnel_why_none();
	fail(a, CP_FAILURE_REFUSED, 0, psprintf("%s: %s", ENCRYPTED, why));
}

/* Nobody wants the connection any longer, and perhaps another one in its place. */
static void
abandon(Attempt *a)
{
	(void) cp_pool_connect_failed(a->slot, a->generation, CP_FAILURE_OUTDATED, 0, NULL,
								  a->begun);
	close_job(a->job);
	end_attempt(a);
}

/* Goes as far as it can. */
static void
go_on_connecting(Attempt *a)
{
	const CpOrder *order = a->job->order;
	CpConnectStatus status;

	if (!cp_pool_order_holds(order->pool, order->pool_generation, &order->fingerprint))
	{
		abandon(a);
		return;
	}
	status = cp_remote_connect_step(a->remote, a->deadline, &a->events, &a->until);
	switch (status)
	{
		case CP_CONNECT_GOING:
			a->sock = cp_remote_socket(a->remote);
			a->until = cp_earlier(a->until, cp_deadline(cp_now(), HOLDS_PAUSE));
			break;
		case CP_CONNECT_OK:
		case CP_CONNECT_NO_GREETING:
			connected(a, status == CP_CONNECT_OK);
			break;
		case CP_CONNECT_ENCRYPTED:
			fail_encrypted(a);
			break;
		case CP_CONNECT_ELSEWHERE:
			/* which says nothing of the remote */
			fail(a, CP_FAILURE_LOCAL, 0, ELSEWHERE);
			break;
		case CP_CONNECT_FAILED:
		case CP_CONNECT_TIMEOUT:
			connect_failed(a, status == CP_CONNECT_TIMEOUT);
			break;
	}
}

/* The remote is to see the end before the slot is free. */
static void
await_end(Attempt *a, CpTime now)
{
	char buffer[1024];
	ssize_t n;

	do
		n = recv(a->sock, buffer, sizeof(buffer), 0);
	while (n < 0 && errno == EINTR);
	if ((n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))) && now < a->deadline)
		return;
	shutdown(a->sock, SHUT_RDWR);
	close(a->sock);
	attempt_ended(a);
}

static void
go_on(Attempt *a, CpTime now)
{
	a->ready = false;
	switch (a->state)
	{
		case ATTEMPT_NONE:
			break;
		case ATTEMPT_CONNECTING:
			go_on_connecting(a);
			break;
		case ATTEMPT_OFFERING:
			offer(a);
			break;
		case ATTEMPT_OFFERED:
			read_answer(a, now);
			break;
		case ATTEMPT_ENDING:
			await_end(a, now);
			break;
	}
}

static bool
is_slow(const Attempt *a, CpTime now)
{
	return a->state == ATTEMPT_CONNECTING && !a->job->proven &&
		now >= cp_deadline(a->begun, SLOW_LIMIT);
}

/* A place for one more attempt; NULL if there is none for this job now. */
static Attempt *
place_for(const Job *job, CpTime now)
{
	Attempt *place = NULL;
	int failing = 0;

	for (int i = 0; i < MAX_ATTEMPTS; i++)
	{
		Attempt *a = &attempts[i];

		if (a->state == ATTEMPT_NONE)
			place = a;
		else if (is_failing(a->job->order) || is_slow(a, now))
			failing++;
	}
	return is_failing(job->order) && failing >= MAX_FAILING_ATTEMPTS ? NULL : place;
}

/* Ends the one that has been slow for longest; its place is free a little later. */
static void
make_one_give_way(CpTime now)
{
	Attempt *slowest = NULL;

	for (int i = 0; i < MAX_ATTEMPTS; i++)
	{
		Attempt *a = &attempts[i];

		if (is_slow(a, now) && (slowest == NULL || a->begun < slowest->begun))
			slowest = a;
	}
	if (slowest != NULL)
		fail(slowest, CP_FAILURE_TIMEOUT, 0,
			 "gave way to other pools: the remote server did not answer at once");
}

/* There is no place for its next attempt. */
static void
wait_for_place(Job *job, CpTime now)
{
	const CpOrder *order = job->order;

	job->retry_at = cp_deadline(now, RETRY_PAUSE);
	if (job->placeless_at == 0)
		job->placeless_at = now;
	if (!job->told && now >= cp_deadline(job->placeless_at, PLACE_LIMIT))
	{
		job->told = true;
		cp_pool_upkeep_failed(order->pool, order->pool_generation, 0,
							  "too many other connections are being opened");
	}
	/* those that fail have their own limit, and wait for one another */
	if (!is_failing(order) && now >= cp_deadline(job->claimed_at, EOF_TIMEOUT))
	{
		job->claimed_at = now;
		places_claimed++;
	}
}

/* The options with addresses in place of the hosts' names, if there are any. */
static void
add_addresses(const Job *job, const char *const **keywords, const char *const **values)
{
	const char **resolved_keywords;
	const char **resolved_values;

	if (job->has_names &&
		cp_hosts_resolve(*keywords, *values, job->hosts, job->nhosts,
						 &resolved_keywords, &resolved_values))
	{
		*keywords = (const char *const *) resolved_keywords;
		*values = (const char *const *) resolved_values;
	}
}

/*
 * Has a tunnel connect, in which libpq may wait as long as it likes; false if none
 * takes the order.
 */
static bool
start_by_tunnel(Attempt *a, const char **error)
{
	const CpOrder *order = a->job->order;
	CpPoolInfo *info = palloc(sizeof(CpPoolInfo));
	CpTunnelOrder wanted = {
		.slot = a->slot,
		.generation = a->generation,
		.pool = order->pool,
		.pool_generation = order->pool_generation,
		.party = order->party,
		.timeout = connect_limit(order),
		.keywords = order->keywords,
		.values = order->values,
	};
	int sock;

	if (!cp_tunnel_is_there())
		return false;
	if (cp_pool_read(order->pool, info))
		strlcpy(wanted.pool_name, info->name, sizeof(wanted.pool_name));
	add_addresses(a->job, &wanted.keywords, &wanted.values);
	sock = cp_tunnel_send_order(&wanted, cp_deadline(cp_now(), TUNNEL_TIMEOUT), false);
	if (sock < 0)
		return false;
	a->remote = cp_remote_start_by_tunnel(sock, error);
	return true;
}

/* Connects here; the error is set if it is no use to try. */
static void
start_here(Attempt *a, const char **error)
{
	const char *const *keywords = a->job->keywords;
	const char *const *values = a->job->values;

	*error = a->job->hindrance;
	if (*error != NULL)
		return;
	add_addresses(a->job, &keywords, &values);
	a->remote = cp_remote_start(keywords, values, error);
	if (a->remote != NULL)
		cp_remote_only_in_clear(a->remote);
}

/* The permit is there. */
static void
start_attempt(Attempt *a)
{
	const Job *job = a->job;
	const char *error;

	if (job->unresolved != NULL)
	{
		fail(a, CP_FAILURE_UNREACHABLE, 0, job->unresolved);
		return;
	}
	if (!job->wants_tunnel || !start_by_tunnel(a, &error))
		start_here(a, &error);
	if (a->remote == NULL)
		fail(a, CP_FAILURE_LOCAL, job->hindrance == NULL ? ERRCODE_INSUFFICIENT_RESOURCES : 0,
			 error);
	else
		go_on_connecting(a);
}

/* Begins a connect if the pool permits it; false if not, or not now. */
static bool
begin_attempt(Job *job, CpTime now)
{
	const CpOrder *order = job->order;
	Attempt *a;
	uint64 generation;
	int slot;

	/* the list is one of its users */
	if (now < job->retry_at || job->users > (job->proven ? MAX_ATTEMPTS_OF_JOB : 1))
		return false;
	a = place_for(job, now);
	if (a == NULL)
	{
		wait_for_place(job, now);
		return false;
	}
	job->placeless_at = 0;
	switch (cp_pool_dial(order->pool, order->pool_generation, &order->fingerprint,
						 &slot, &generation))
	{
		case CP_DIAL_LATER:
			job->retry_at = cp_deadline(now, RETRY_PAUSE);
			return false;
		case CP_DIAL_NEEDLESS:
			close_job(job);
			return false;
		case CP_DIAL_OK:
			break;
	}

	a->state = ATTEMPT_CONNECTING;
	a->slot = slot;
	a->generation = generation;
	a->job = job;
	job->users++;
	a->begun = cp_now();
	a->deadline = cp_deadline(a->begun, connect_limit(order));
	start_attempt(a);
	return true;
}

/* ---- addresses ------------------------------------------------------------- */

/* Goes on with looking up a host's name; the job's context is the current one. */
static void
look_up(Job *job, CpFoundHost *host, HostName *name, CpTime now)
{
	const char *text = host->given.host;
	const char *error = NULL;

	if (name->lookup == NULL && now >= job->retry_at)
	{
		name->lookup = cp_resolver_start(text, job->order->pool, is_proven(job->order));
		if (name->lookup == NULL)
			job->retry_at = cp_deadline(now, RETRY_PAUSE);
	}
	if (name->lookup != NULL &&
		cp_resolver_done(name->lookup, &host->addresses, &host->count, &error))
	{
		name->lookup = NULL;
		name->pending = false;
		/* its thread may serve the next one */
		job->retry_at = 0;
		if (host->count == 0)
			job->unresolved = psprintf("could not translate host name \"%s\" to address: %s",
									   text, error);
	}
	else if (now >= job->deadline)
	{
		name->pending = false;
		if (name->lookup == NULL)
		{
			job->without_thread = true;
			return;
		}
		cp_resolver_abandon(name->lookup);
		name->lookup = NULL;
		job->unresolved = psprintf("timed out looking up host name \"%s\"", text);
	}
}

/* All that could be found is: one address is enough to go on with. */
static void
end_lookups(Job *job)
{
	CpHost *entries;

	job->resolved = true;
	job->retry_at = 0;
	if (cp_hosts_expand(job->hosts, job->nhosts, &entries) > 0)
	{
		job->unresolved = NULL;
		job->without_thread = false;
	}
}

/* Goes on with looking up; false while a name is pending. */
static bool
has_addresses(Job *job, CpTime now)
{
	MemoryContext before;
	bool pending = false;

	if (job->resolved)
		return true;
	before = MemoryContextSwitchTo(job->context);
	for (int i = 0; i < job->nhosts; i++)
	{
		if (job->names[i].pending)
			look_up(job, &job->hosts[i], &job->names[i], now);
		pending |= job->names[i].pending;
	}
	if (!pending)
		end_lookups(job);
	MemoryContextSwitchTo(before);
	if (job->resolved && job->without_thread)
	{
		/* which says nothing of the remote: no permit, and nothing for the breaker */
		cp_pool_upkeep_failed(job->order->pool, job->order->pool_generation, 0,
							  job->unresolved != NULL ?
								  job->unresolved :
								  "too many other host names are being looked up");
		close_job(job);
		return false;
	}
	return job->resolved;
}

/* ---- the loop -------------------------------------------------------------- */

/* In turns, so that no pool takes all places because it came first. */
static void
begin_attempts(CpTime now)
{
	dlist_mutable_iter i;
	bool begun = true;

	while (begun)
	{
		begun = false;
		dlist_foreach_modify(i, &jobs)
		{
			Job *job = dlist_container(Job, node, i.cur);

			if (has_addresses(job, now) && begin_attempt(job, now))
				begun = true;
		}
	}
	for (; places_claimed > 0; places_claimed--)
		make_one_give_way(now);
}

static void
go_on_with_attempts(CpTime now)
{
	for (int i = 0; i < MAX_ATTEMPTS; i++)
	{
		Attempt *a = &attempts[i];

		if (a->state != ATTEMPT_NONE && (a->ready || now >= a->until))
			go_on(a, now);
	}
}

/* When there is something to do even if nothing happens; notes if there is no work. */
static CpTime
next_deadline(CpTime now)
{
	CpTime next = CP_FOREVER;
	bool idle = dlist_is_empty(&jobs);
	dlist_iter i;

	dlist_foreach(i, &jobs)
	{
		Job *job = dlist_container(Job, node, i.cur);

		if (!job->resolved)
			next = cp_earlier(next, job->deadline);
		if (job->retry_at > now)
			next = cp_earlier(next, job->retry_at);
	}
	for (int j = 0; j < MAX_ATTEMPTS; j++)
	{
		if (attempts[j].state == ATTEMPT_NONE)
			continue;
		idle = false;
		next = cp_earlier(next, attempts[j].until);
	}
	if (listen_at > now)
		next = cp_earlier(next, listen_at);
	if (!idle)
		idle_since = now;
	return cp_earlier(next, cp_deadline(idle_since, IDLE_LIMIT));
}

/*
 * The set is made anew for every wait: libpq may close a socket and get
 * another one of the same number, and nothing can be taken out of a set.
 */
static WaitEventSet *
make_wait_set(CpTime now)
{
	WaitEventSet *set = cp_create_wait_event_set(4 + MAX_ATTEMPTS);

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(set, WL_SOCKET_READABLE, resolver_pipe, NULL, NULL);
	if (now >= listen_at)
		AddWaitEventToSet(set, WL_SOCKET_READABLE, listener, NULL, &order_is_there);
	for (int i = 0; i < MAX_ATTEMPTS; i++)
	{
		Attempt *a = &attempts[i];

		if (a->state != ATTEMPT_NONE && a->events != 0 && a->sock != PGINVALID_SOCKET)
			AddWaitEventToSet(set, a->events, a->sock, NULL, &a->ready);
	}
	return set;
}

/* Waits, and notes what is ready. */
static void
wait_for_events(CpTime deadline)
{
	WaitEventSet *set = make_wait_set(cp_now());
	WaitEvent events[4 + MAX_ATTEMPTS];
	int n;

	n = WaitEventSetWait(set, cp_timeout_ms(deadline), events, lengthof(events),
						 cp_wait_event(CP_WAIT_MAIN));
	FreeWaitEventSet(set);
	/* before anything is looked at, so that what comes later is seen later */
	ResetLatch(MyLatch);
	cp_resolver_drain();
	for (int i = 0; i < n; i++)
	{
		bool *ready = events[i].user_data;

		if (ready != NULL)
			*ready = true;
	}
}

/* False: there has been no work for long enough. */
static bool
turn(void)
{
	CpTime now = cp_now();
	CpTime deadline;

	if (order_is_there)
		accept_order(now);
	go_on_with_attempts(now);
	begin_attempts(now);
	deadline = next_deadline(now);
	if (now >= cp_deadline(idle_since, IDLE_LIMIT))
		return false;
	wait_for_events(deadline);
	MemoryContextReset(turn_context);
	return true;
}

/* ---- life ------------------------------------------------------------------ */

/* Ends one of those under way without waiting, and gives its permit back. */
static void
end_now(Attempt *a)
{
	switch (a->state)
	{
		case ATTEMPT_NONE:
			return;
		case ATTEMPT_CONNECTING:
			(void) cp_pool_connect_failed(a->slot, a->generation, CP_FAILURE_CANCEL, 0, NULL,
										  a->begun);
			a->sock = cp_remote_end(a->remote);
			break;
		case ATTEMPT_OFFERING:
			a->sock = cp_remote_end(a->remote);
			break;
		case ATTEMPT_OFFERED:
			/* the broker may have it by now */
			if (cp_pool_withdraw(a->slot, a->generation))
				a->sock = cp_remote_end(a->remote);
			else
				cp_remote_let_go(a->remote);
			break;
		case ATTEMPT_ENDING:
			break;
	}
	a->state = ATTEMPT_NONE;
	if (a->sock >= 0)
		close(a->sock);
	cp_pool_connect_ended(a->slot, a->generation);
}

/* What has not been set up yet is found empty. */
static void
dialer_exit(int code, Datum arg)
{
	uint32 own_pid = (uint32) MyProcPid;

	dlist_mutable_iter i;

	LWLockReleaseAll();
	if (pg_atomic_compare_exchange_u32(&cp_shared->dialer_pid, &own_pid, 0))
		cp_handover_unlink();
	for (int n = 0; n < MAX_ATTEMPTS; n++)
		end_now(&attempts[n]);
	dlist_foreach_modify(i, &jobs)
		close_job(dlist_container(Job, node, i.cur));
}

static void
set_up(void)
{
	uint32 nobody = 0;

	dialer_context = AllocSetContextCreate(TopMemoryContext, "conpool dialer",
										   ALLOCSET_DEFAULT_SIZES);
	turn_context = AllocSetContextCreate(dialer_context, "conpool dialer turn",
										 ALLOCSET_SMALL_SIZES);
	complained = MemoryContextAllocZero(dialer_context,
										cp_shared->max_pools * sizeof(uint64));
	proven = MemoryContextAllocZero(dialer_context, cp_shared->max_pools * sizeof(uint64));
	MemoryContextSwitchTo(turn_context);

	resolver_pipe = cp_resolver_init();
	if (resolver_pipe < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create a pipe: %m")));
	listener = cp_handover_listen();
	if (listener < 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not listen on the socket of conpool's dialer: %m")));
	/* from here on readers come */
	if (!pg_atomic_compare_exchange_u32(&cp_shared->dialer_pid, &nobody, (uint32) MyProcPid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another dialer of conpool was started at the same time")));
	cp_shmem_wake_broker();
	idle_since = cp_now();
}

/*
 * Exit code 0 whenever it goes by itself: the broker starts it when it is
 * wanted.
 */
void
cp_dialer_main(Datum arg)
{
	before_shmem_exit(dialer_exit, 0);

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SIG_IGN);
	pqsignal(SIGINT, SIG_IGN);
	BackgroundWorkerUnblockSignals();

	/* its socket is in use, and so would be gone */
	if (pg_atomic_read_u32(&cp_shared->dialer_pid) != 0)
		return;
	set_up();
	while (!ShutdownRequestPending && turn())
		;
}
