/*
 * keep.c
 *		The sockets that the broker keeps, one for each slot: resetting their
 *		sessions, looking whether they live, and ending them.
 *
 * Runs in the broker only, called from its loop.  A connection is worked on
 * (reset, checked, closed) only while its slot says so in shared memory, so
 * nobody else talks on it meanwhile.  Must never wait: every step is taken when
 * its socket is ready, every piece of work has a deadline.  Never throws because
 * of a remote; a connection in any doubt is closed.
 *
 * Closing: backends may hold duplicates of the socket, so close() alone would
 * leave the remote session running.  Terminate is said if the protocol is
 * idle, the sending side is shut down, the peer's end of file is awaited, and
 * only then the slot becomes free: closing connections count like open ones.
 */
#include "postgres.h"

#include "keep.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "capacity.h"
#include "compat.h"
#include "net.h"
#include "ping.h"

/* a session is reset within this time or closed, in milliseconds */
#define RESET_LIMIT 10000
/* a round trip is answered within this time or the connection closed, in milliseconds */
#define VALIDATE_LIMIT 5000
/* how long the peer's end of file is awaited, in milliseconds */
#define CLOSING_LIMIT 2000
/* bytes read and thrown away while it is awaited */
#define CLOSING_MAX_BYTES (1024 * 1024)
/* a pool's remote is asked again how many connections it allows, in milliseconds: ... */
#define CAPACITY_INTERVAL (60 * 60 * 1000)
/* ... and if that is not known yet */
#define CAPACITY_RETRY_INTERVAL (10 * 60 * 1000)

typedef enum Work
{
	WORK_NONE,		   /* idle, leased, or no socket at all */
	WORK_RESET_QUEUED, /* too many resets under way */
	WORK_ROLLBACK,	   /* the two steps of a reset */
	WORK_DISCARD,
	WORK_VALIDATING, /* awaits the answer to a ping, ... */
	WORK_ASKING,	 /* ... or to a question about its remote */
	WORK_CLOSING	 /* awaits the peer's end of file */
} Work;

typedef struct KeptSocket
{
	int fd;			   /* -1 = none */
	uint64 generation; /* of the slot when it came, or in CLOSING */
	CpGreeting *greeting;
	Work work;
	CpTime deadline;	 /* of the work */
	bool in_transaction; /* the reset begins with ROLLBACK */
	uint64 changes;		 /* parameters that the reset must bring back */
	bool unsent;		 /* libpq may hold part of a message of ours */
	CpRemote *remote;	 /* the adoption that resets talk on, or NULL */
	CpPing ping;		 /* of the validation, or ... */
	CpCapacity capacity; /* ... of the question */
	size_t discarded;	 /* bytes read in closing */
} KeptSocket;

/* When the remote of a pool was last asked how many connections it allows. */
typedef struct AskedPool
{
	uint64 generation;
	CpTime at; /* 0 = never */
} AskedPool;

static KeptSocket *kept = NULL;
static int kept_count = 0;

static AskedPool *asked = NULL;

/* sockets with work in hand, resets that run, resets that wait */
static int working = 0;
static int resets_running = 0;
static int resets_queued = 0;
static int adoptions = 0;
static uint64 change_count = 0;

/* scratch space of cp_keep_look */
static struct pollfd *poll_fds;
static int *poll_slots;

void
cp_keep_init(int slots)
{
	kept = palloc0(slots * sizeof(KeptSocket));
	asked = palloc0(cp_shared->max_pools * sizeof(AskedPool));
	poll_fds = palloc(slots * sizeof(struct pollfd));
	poll_slots = palloc(slots * sizeof(int));
	for (int i = 0; i < slots; i++)
		kept[i].fd = -1;
	kept_count = slots;
}

static inline int
slot_of(const KeptSocket *sock)
{
	return (int) (sock - kept);
}

/* ---- keeping ------------------------------------------------------------ */

/* The one place that changes what is done with a socket. */
static void
set_work(KeptSocket *sock, Work work)
{
	bool was_resetting = sock->work == WORK_ROLLBACK || sock->work == WORK_DISCARD;
	bool is_resetting = work == WORK_ROLLBACK || work == WORK_DISCARD;

	working += (work != WORK_NONE) - (sock->work != WORK_NONE);
	resets_queued += (work == WORK_RESET_QUEUED) - (sock->work == WORK_RESET_QUEUED);
	resets_running += is_resetting - was_resetting;
	sock->work = work;
	change_count++;
}

static void
let_go(KeptSocket *sock)
{
	if (sock->remote == NULL)
		return;
	cp_remote_let_go(sock->remote);
	sock->remote = NULL;
	adoptions--;
}

/* Forgets a socket and all work on it.  The descriptor is the caller's. */
static int
take_out(KeptSocket *sock)
{
	int fd = sock->fd;

	let_go(sock);
	if (sock->greeting)
	{
		/* it holds the cancel key */
		explicit_bzero(sock->greeting, sizeof(CpGreeting));
		pfree(sock->greeting);
		sock->greeting = NULL;
	}
	if (sock->work != WORK_NONE)
		set_work(sock, WORK_NONE);
	sock->fd = -1;
	sock->generation = 0;
	sock->unsent = false;
	return fd;
}

/*
 * Makes place for the socket of a connection.  What is there is either a
 * duplicate of the same socket, which must stay alive, or left over from a
 * connection that its holder has ended.
 */
static void
drop_former(KeptSocket *sock, bool same_connection)
{
	int fd = take_out(sock);

	if (fd < 0)
		return;
	if (!same_connection)
		shutdown(fd, SHUT_RDWR);
	close(fd);
}

void
cp_keep_socket(int slot, uint64 generation, int fd, const CpGreeting *greeting)
{
	KeptSocket *sock = &kept[slot];

	drop_former(sock, sock->generation == generation);
	sock->fd = fd;
	sock->generation = generation;
	sock->greeting = palloc(sizeof(CpGreeting));
	*sock->greeting = *greeting;
}

int
cp_keep_find(int slot, uint64 generation, const CpGreeting **greeting)
{
	KeptSocket *sock = &kept[slot];

	if (sock->fd < 0 || sock->generation != generation ||
		sock->work != WORK_NONE || sock->greeting == NULL)
		return -1;
	if (greeting)
		*greeting = sock->greeting;
	return sock->fd;
}

/* ---- resetting ---------------------------------------------------------- */

static void
finish_reset(KeptSocket *sock, bool ok)
{
	if (!ok || adoptions > CP_KEEP_MAX_RETAINED)
		let_go(sock);
	set_work(sock, WORK_NONE);
	/* if not ok the slot comes back at once as a task of closing */
	cp_pool_reset_done(slot_of(sock), sock->generation, ok);
}

/* Pushes out what libpq has not sent yet; false if the connection is lost. */
static bool
flush(KeptSocket *sock)
{
	int left = PQflush(sock->remote->conn);

	if (sock->unsent != (left > 0))
	{
		sock->unsent = left > 0;
		change_count++;
	}
	return left >= 0;
}

/* Each step is a message of its own: DISCARD ALL tolerates no company. */
static void
send_step(KeptSocket *sock, Work step)
{
	set_work(sock, step);
	if (!PQsendQuery(sock->remote->conn, step == WORK_ROLLBACK ? "ROLLBACK" : "DISCARD ALL") ||
		!flush(sock))
		finish_reset(sock, false);
}

/*
 * A PGconn to reset the session with: that of the last reset, or a new one.
 * Either knows the values of the greeting, so where the session has others by
 * now it must be one that learns from the remote whether they are back.
 */
static bool
adopt(KeptSocket *sock)
{
	const char *error;
	int fd;

	if (sock->changes != 0)
		let_go(sock);
	if (sock->remote != NULL)
		return true;
	fd = cp_net_dup(sock->fd);
	if (fd >= 0)
		sock->remote = cp_remote_adopt(fd, sock->greeting, sock->changes, &error);
	if (sock->remote == NULL)
		return false;
	adoptions++;
	return true;
}

static void
start_reset(KeptSocket *sock)
{
	if (!adopt(sock))
	{
		finish_reset(sock, false);
		return;
	}
	send_step(sock, sock->in_transaction ? WORK_ROLLBACK : WORK_DISCARD);
}

/* Starts resets that had to wait, as far as there is room for them. */
static void
start_queued_resets(void)
{
	for (int i = 0; i < kept_count && resets_queued > 0; i++)
	{
		if (resets_running >= CP_KEEP_MAX_RESETS)
			return;
		if (kept[i].work == WORK_RESET_QUEUED)
			start_reset(&kept[i]);
	}
}

static void
begin_reset(KeptSocket *sock, const CpTask *task)
{
	sock->in_transaction = task->in_transaction;
	sock->changes = task->changes;
	sock->deadline = cp_deadline(cp_now(), RESET_LIMIT);
	set_work(sock, WORK_RESET_QUEUED);
	if (resets_running < CP_KEEP_MAX_RESETS)
		start_reset(sock);
}

/*
 * Is the session as it was when it was new?  What the user's own functions
 * have set comes back with DISCARD ALL, but not what the server's configuration
 * has changed since; and a pooler in front of the remote may have swallowed it,
 * or changed the server behind the connection.
 */
static bool
is_like_new(CpRemote *remote)
{
	return PQtransactionStatus(remote->conn) == PQTRANS_IDLE &&
		cp_remote_changes(remote) == 0;
}

static void
end_of_step(KeptSocket *sock)
{
	if (sock->work == WORK_ROLLBACK)
		send_step(sock, WORK_DISCARD);
	else
		finish_reset(sock, is_like_new(sock->remote));
}

/* Takes the results that are there, without waiting for more. */
static void
read_results(KeptSocket *sock)
{
	PGconn *conn = sock->remote->conn;

	if (!flush(sock) || !PQconsumeInput(conn))
	{
		finish_reset(sock, false);
		return;
	}
	while (!PQisBusy(conn))
	{
		PGresult *result = PQgetResult(conn);
		ExecStatusType status = PQresultStatus(result);

		if (result == NULL)
		{
			end_of_step(sock);
			return;
		}
		PQclear(result);
		if (status != PGRES_COMMAND_OK)
		{
			finish_reset(sock, false);
			return;
		}
	}
}

/* ---- validating --------------------------------------------------------- */

static void
finish_validation(KeptSocket *sock, bool alive)
{
	set_work(sock, WORK_NONE);
	/* if dead the slot comes back at once as a task of closing */
	cp_pool_validated(slot_of(sock), sock->generation, alive);
}

/* What the remote has said it allows is for the pool of its connection. */
static void
note_capacity(KeptSocket *sock)
{
	CpSlotInfo slot;
	CpPoolInfo pool;

	if (sock->capacity.connections > 0 && cp_slot_read(slot_of(sock), &slot) &&
		slot.generation == sock->generation && cp_pool_read(slot.pool, &pool))
		cp_pool_set_remote_limit(slot.pool, pool.generation, sock->capacity.connections);
}

static void
read_answer(KeptSocket *sock)
{
	CpPingStatus status = sock->work == WORK_ASKING ?
		cp_capacity_read(&sock->capacity, sock->fd) :
		cp_ping_read(&sock->ping, sock->fd);

	if (status == CP_PING_WAIT)
		return;
	if (status == CP_PING_ALIVE && sock->work == WORK_ASKING)
		note_capacity(sock);
	finish_validation(sock, status == CP_PING_ALIVE);
}

/* Is a check due because of validate_interval, and not of a suspicion? */
static bool
is_routine(const CpSlotInfo *slot, const CpPoolInfo *pool, CpTime now)
{
	return pool->options.validate_interval > 0 &&
		now >= cp_deadline(slot->checked_at, pool->options.validate_interval);
}

/*
 * Is it time to ask the remote of a slot's pool what it allows?  Then it counts
 * as asked, whatever comes of it.
 */
static bool
is_to_be_asked(int i)
{
	CpTime now = cp_now();
	CpSlotInfo slot;
	CpPoolInfo pool;
	AskedPool *last;
	int interval;

	if (!cp_slot_read(i, &slot) || !cp_pool_read(slot.pool, &pool) ||
		!is_routine(&slot, &pool, now))
		return false;
	interval = pool.remote_max_connections > 0 ? CAPACITY_INTERVAL : CAPACITY_RETRY_INTERVAL;
	last = &asked[slot.pool];
	if (last->at != 0 && last->generation == pool.generation &&
		now < cp_deadline(last->at, interval))
		return false;
	*last = (AskedPool){.generation = pool.generation, .at = now};
	return true;
}

/* On the bare socket: an adoption that a reset has left behind does not see it. */
static void
begin_validation(KeptSocket *sock)
{
	bool asks = is_to_be_asked(slot_of(sock));

	memset(&sock->ping, 0, sizeof(sock->ping));
	memset(&sock->capacity, 0, sizeof(sock->capacity));
	sock->deadline = cp_deadline(cp_now(), VALIDATE_LIMIT);
	set_work(sock, asks ? WORK_ASKING : WORK_VALIDATING);
	if (!(asks ? cp_capacity_ask(sock->fd) : cp_ping_send(sock->fd)))
		finish_validation(sock, false);
}

/* ---- closing ------------------------------------------------------------ */

static void
finish_closing(KeptSocket *sock)
{
	int slot = slot_of(sock);
	uint64 generation = sock->generation;
	int fd = take_out(sock);

	shutdown(fd, SHUT_RDWR);
	close(fd);
	cp_pool_closed(slot, generation);
}

/* A buffer too full for five bytes is no reason to wait: the shutdown says it. */
static void
say_terminate(int fd)
{
	static const char terminate[] = {'X', 0, 0, 0, 4};

	(void) send(fd, terminate, sizeof(terminate), MSG_DONTWAIT);
}

/* Reads on until the peer's end of file, an error, or more than is sensible. */
static void
drain(KeptSocket *sock)
{
	char buffer[8192];

	for (;;)
	{
		ssize_t n = recv(sock->fd, buffer, sizeof(buffer), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n > 0)
			sock->discarded += n;
		if (n <= 0 || sock->discarded > CLOSING_MAX_BYTES)
		{
			finish_closing(sock);
			return;
		}
	}
}

static void
begin_closing(int slot, bool mid_protocol)
{
	KeptSocket *sock = &kept[slot];

	if (!mid_protocol)
		say_terminate(sock->fd);
	shutdown(sock->fd, SHUT_WR);
	sock->discarded = 0;
	sock->deadline = cp_deadline(cp_now(), CLOSING_LIMIT);
	set_work(sock, WORK_CLOSING);
	drain(sock);
}

void
cp_keep_await_end(int slot, uint64 generation, int fd)
{
	KeptSocket *sock = &kept[slot];

	drop_former(sock, true);
	sock->fd = fd;
	sock->generation = generation;
	begin_closing(slot, true);
}

/* ---- work --------------------------------------------------------------- */

static void
begin_task_of_closing(const CpTask *task)
{
	KeptSocket *sock = &kept[task->slot];
	bool mid_protocol = task->mid_protocol;

	if (sock->work == WORK_CLOSING && sock->generation == task->generation)
		return;
	if (sock->fd < 0)
	{
		/* its holder alone had it, and is gone */
		cp_pool_closed(task->slot, task->generation);
		return;
	}
	if (sock->work != WORK_NONE)
	{
		mid_protocol = true;
		let_go(sock);
	}
	sock->generation = task->generation;
	begin_closing(task->slot, mid_protocol);
}

/* The same for a connection whose session goes on. */
static void
begin_task_of_keeping(const CpTask *task)
{
	KeptSocket *sock = &kept[task->slot];
	bool is_here = cp_keep_find(task->slot, task->generation, NULL) >= 0;

	if (task->state == CP_SLOT_VALIDATING)
	{
		if (is_here)
			begin_validation(sock);
		else
			cp_pool_validated(task->slot, task->generation, false);
	}
	else
	{
		if (is_here)
			begin_reset(sock, task);
		else
			cp_pool_reset_done(task->slot, task->generation, false);
	}
}

void
cp_keep_begin(const CpTask *task)
{
	if (task->state == CP_SLOT_CLOSING)
		begin_task_of_closing(task);
	else
		begin_task_of_keeping(task);
}

int
cp_keep_watched(uint64 *changes)
{
	*changes = change_count;
	return working;
}

uint32
cp_keep_events(int slot, pgsocket *fd)
{
	KeptSocket *sock = &kept[slot];

	switch (sock->work)
	{
		case WORK_NONE:
		case WORK_RESET_QUEUED:
			break;
		case WORK_ROLLBACK:
		case WORK_DISCARD:
			*fd = PQsocket(sock->remote->conn);
			return WL_SOCKET_READABLE | (sock->unsent ? WL_SOCKET_WRITEABLE : 0);
		case WORK_VALIDATING:
		case WORK_ASKING:
		case WORK_CLOSING:
			*fd = sock->fd;
			return WL_SOCKET_READABLE;
	}
	*fd = PGINVALID_SOCKET;
	return 0;
}

void
cp_keep_ready(int slot)
{
	KeptSocket *sock = &kept[slot];

	switch (sock->work)
	{
		case WORK_NONE:
		case WORK_RESET_QUEUED:
			break;
		case WORK_ROLLBACK:
		case WORK_DISCARD:
			read_results(sock);
			break;
		case WORK_VALIDATING:
		case WORK_ASKING:
			read_answer(sock);
			break;
		case WORK_CLOSING:
			drain(sock);
			break;
	}
	start_queued_resets();
}

/* The time for the work is over. */
static void
give_up(KeptSocket *sock)
{
	if (sock->work == WORK_CLOSING)
		finish_closing(sock);
	else if (sock->work == WORK_VALIDATING || sock->work == WORK_ASKING)
		finish_validation(sock, false);
	else
		finish_reset(sock, false);
}

CpTime
cp_keep_expire(CpTime now)
{
	CpTime next = CP_FOREVER;

	for (int i = 0; i < kept_count && working > 0; i++)
	{
		if (kept[i].work == WORK_NONE)
			continue;
		if (now < kept[i].deadline)
			next = cp_earlier(next, kept[i].deadline);
		else
			give_up(&kept[i]);
	}
	start_queued_resets();
	return next;
}

/* ---- looking ------------------------------------------------------------ */

static bool
is_readable(int fd)
{
	return cp_net_poll(fd, POLLIN, 0) != 0;
}

/*
 * A socket left over from a connection that its holder has ended itself: the
 * slot is free, or in use by a later connection that has not come here.  (In
 * CLOSING the task that needs the socket may be still to come.)
 */
static void
drop_if_stale(int slot)
{
	CpSlotInfo info;

	if (cp_slot_read(slot, &info) &&
		(info.generation == kept[slot].generation || info.state == CP_SLOT_CLOSING))
		return;
	drop_former(&kept[slot], false);
}

/* Input on an idle connection is its end, whatever the remote has to say. */
static void
look_at(int slot)
{
	KeptSocket *sock = &kept[slot];
	uint64 generation;

	if (cp_pool_validate(slot, &generation))
		cp_pool_validated(slot, generation,
						  generation == sock->generation && !is_readable(sock->fd));
	else
		drop_if_stale(slot);
}

/*
 * All sockets are looked at in one system call, leased ones too: that costs
 * less than finding out which are idle.  Only those with input are asked
 * after, under the pool's lock.
 */
void
cp_keep_look(void)
{
	int n = 0;

	for (int i = 0; i < kept_count; i++)
	{
		if (kept[i].fd < 0 || kept[i].work != WORK_NONE)
			continue;
		poll_fds[n] = (struct pollfd){.fd = kept[i].fd, .events = POLLIN};
		poll_slots[n++] = i;
	}
	if (n == 0 || poll(poll_fds, n, 0) <= 0)
		return;
	for (int i = 0; i < n; i++)
	{
		if (poll_fds[i].revents != 0)
			look_at(poll_slots[i]);
	}
}

/* ---- at the broker's exit ------------------------------------------------- */

void
cp_keep_end_now(int slot, bool terminate)
{
	KeptSocket *sock;

	if (slot >= kept_count || kept[slot].fd < 0)
		return;
	sock = &kept[slot];
	if (terminate && sock->work == WORK_NONE)
		say_terminate(sock->fd);
	shutdown(sock->fd, SHUT_RDWR);
	close(sock->fd);
	sock->fd = -1;
}

void
cp_keep_end_unleased(void)
{
	for (int i = 0; i < kept_count; i++)
	{
		CpSlotInfo info;

		if (kept[i].fd < 0)
			continue;
		if (cp_slot_read(i, &info) && info.state == CP_SLOT_LEASED &&
			info.generation == kept[i].generation)
			continue;
		cp_keep_end_now(i, false);
	}
}
