/*
 * vault.c
 *		Passing sockets between backends and the broker.
 *
 * The functions of the first half run in client backends (borrow.c), those of
 * the second in the broker, which alone knows what a slot is and whether the
 * peer may have it.  Nothing here blocks but the client's waits, which have a
 * deadline; nothing throws but their CHECK_FOR_INTERRUPTS().
 *
 * One request and one reply per connection of a Unix socket.  Both are a
 * header of fixed size and, where it says so, the part of a CpGreeting that is
 * in use, with the socket as ancillary data of the first byte.  Both fit the
 * kernel's buffer, so each is sent by one call or not at all.
 */
#include "postgres.h"

#include "vault.h"

#include <unistd.h>

#include "compat.h"
#include "miscadmin.h"
#include "net.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "wait_events.h"

#define VAULT_PATH PG_STAT_TMP_DIR "/conpool.vault"
#define VAULT_BACKLOG 1024

#define REQUEST_MAGIC 0x43505231 /* CPR1 */
#define REPLY_MAGIC 0x43504131	 /* CPA1 */

/* how long a peer may take to finish its request, milliseconds */
#define CLIENT_LIMIT 5000
/* how long the rest of a reply may take once it has begun, milliseconds */
#define REPLY_LIMIT 1000
/* shortest and longest pause while the backlog is full, milliseconds */
#define MIN_PAUSE 1
#define MAX_PAUSE 20

/* ---- client backends ---- */

/* Pauses between two attempts; nothing may be open that a throw would leak. */
static void
pause_for(int ms, bool interruptible)
{
	int events;

	if (!interruptible)
	{
		pg_usleep(ms * 1000L);
		return;
	}
	events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					   cp_wait_event(CP_WAIT_BROKER));
	if (events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Connects with the broker; -1 with *status. */
static int
connect_broker(CpTime deadline, bool interruptible, CpVaultStatus *status)
{
	int pause = MIN_PAUSE;
	int sock;

	while ((sock = cp_net_connect_path(VAULT_PATH)) < 0)
	{
		if (errno != EAGAIN)
		{
			*status = CP_VAULT_UNREACHABLE;
			return -1;
		}
		if (cp_now() >= deadline)
		{
			*status = CP_VAULT_TIMEOUT;
			return -1;
		}
		pause_for(pause, interruptible);
		pause = Min(pause * 2, MAX_PAUSE);
	}
	if (!cp_net_peer_is_ours(sock, NULL))
	{
		close(sock);
		*status = CP_VAULT_REFUSED;
		return -1;
	}
	return sock;
}

int
cp_vault_client_send(const CpVaultRequest *request, int fd, const CpGreeting *greeting,
					 CpTime deadline, bool interruptible, CpVaultStatus *status)
{
	CpVaultRequest header = *request;
	int sock = connect_broker(deadline, interruptible, status);

	if (sock < 0)
		return -1;
	header.magic = REQUEST_MAGIC;
	header.greeting_size = greeting != NULL ? cp_greeting_size(greeting) : 0;
	if (!cp_net_send_message(sock, &header, sizeof(header), greeting, header.greeting_size, fd))
	{
		close(sock);
		*status = CP_VAULT_UNREACHABLE;
		return -1;
	}
	*status = CP_VAULT_OK;
	return sock;
}

/* Waits for the reply to begin, serving interrupts; closes sock if one throws. */
static bool
wait_interruptibly(int sock, CpTime deadline)
{
	int events = 0;

	PG_TRY();
	{
		while (!(events & (WL_SOCKET_READABLE | WL_TIMEOUT)))
		{
			long timeout = cp_timeout_ms(deadline);

			events = WaitLatchOrSocket(MyLatch,
									   WL_LATCH_SET | WL_SOCKET_READABLE | WL_EXIT_ON_PM_DEATH |
										   (timeout >= 0 ? WL_TIMEOUT : 0),
									   sock, timeout, cp_wait_event(CP_WAIT_BROKER));
			if (events & WL_LATCH_SET)
			{
				ResetLatch(MyLatch);
				CHECK_FOR_INTERRUPTS();
			}
		}
	}
	PG_CATCH();
	{
		close(sock);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return (events & WL_SOCKET_READABLE) != 0;
}

/* The same without serving them, for whoever must not be interrupted. */
static bool
wait_stubbornly(int sock, CpTime deadline)
{
	bool begun;

	pgstat_report_wait_start(cp_wait_event(CP_WAIT_BROKER));
	begun = cp_net_poll(sock, POLLIN, deadline) != 0;
	pgstat_report_wait_end();
	return begun;
}

/* Reads a reply that has begun to arrive; *fd is what came with it, or -1. */
static CpVaultStatus
read_reply(int sock, int *fd, CpGreeting *greeting)
{
	CpTime deadline = cp_deadline(cp_now(), REPLY_LIMIT);
	CpVaultReply reply;

	if (!cp_net_receive_all(sock, &reply, sizeof(reply), fd, deadline) ||
		reply.magic != REPLY_MAGIC)
		return CP_VAULT_UNREACHABLE;
	if (reply.status != CP_VAULT_OK)
		return CP_VAULT_REFUSED;
	if (greeting == NULL)
		return CP_VAULT_OK;

	/* asked for a socket: it must be there, with its greeting */
	if (*fd < 0 || reply.greeting_size < 0 || reply.greeting_size > sizeof(CpGreeting) ||
		!cp_net_receive_all(sock, greeting, reply.greeting_size, fd, deadline) ||
		!cp_greeting_is_valid(greeting, reply.greeting_size))
		return CP_VAULT_UNREACHABLE;
	return CP_VAULT_OK;
}

CpVaultStatus
cp_vault_client_reply(int sock, int *fd, CpGreeting *greeting, CpTime deadline,
					  bool interruptible)
{
	CpVaultStatus status;
	int received = -1;
	bool begun;

	if (deadline == 0)
		begun = cp_net_poll(sock, POLLIN, 0) != 0;
	else if (interruptible)
		begun = wait_interruptibly(sock, deadline);
	else
		begun = wait_stubbornly(sock, deadline);
	if (!begun && deadline == 0)
		return CP_VAULT_PENDING;

	status = begun ? read_reply(sock, &received, greeting) : CP_VAULT_TIMEOUT;
	close(sock);
	if (fd != NULL && status == CP_VAULT_OK)
		*fd = received;
	else
	{
		if (received >= 0)
			close(received);
		if (fd != NULL)
			*fd = -1;
	}
	return status;
}

/* ---- broker ---- */

int
cp_vault_server_listen(void)
{
	return cp_net_listen(VAULT_PATH, VAULT_BACKLOG);
}

void
cp_vault_server_unlink(void)
{
	unlink(VAULT_PATH);
}

CpVaultClient *
cp_vault_server_accept(int listener, bool *refused)
{
	int sock = cp_net_accept(listener);
	int pid;
	CpVaultClient *client = NULL;

	*refused = false;
	if (sock < 0)
		return NULL;
	if (cp_net_peer_is_ours(sock, &pid))
		client = MemoryContextAllocExtended(CurrentMemoryContext, sizeof(CpVaultClient),
											MCXT_ALLOC_ZERO | MCXT_ALLOC_NO_OOM);
	if (client == NULL)
	{
		*refused = true;
		close(sock);
		return NULL;
	}
	client->sock = sock;
	client->pid = pid;
	client->fd = -1;
	client->deadline = cp_deadline(cp_now(), CLIENT_LIMIT);
	return client;
}

/* Is a request's header one of ours, as far as can be told without slots? */
static bool
header_is_sound(const CpVaultRequest *request)
{
	if (request->magic != REQUEST_MAGIC)
		return false;
	switch (request->op)
	{
		case CP_VAULT_DONATE:
			return request->greeting_size > 0 && request->greeting_size <= sizeof(CpGreeting);
		case CP_VAULT_FETCH:
		case CP_VAULT_END:
			return request->greeting_size == 0;
		default:
			return false;
	}
}

/* The request is whole: does it hang together? */
static bool
request_is_sound(const CpVaultClient *client)
{
	switch (client->request.op)
	{
		case CP_VAULT_DONATE:
			return client->fd >= 0 &&
				cp_greeting_is_valid(&client->greeting, client->request.greeting_size);
		case CP_VAULT_END:
			return client->fd >= 0;
		default:
			return client->fd < 0;
	}
}

/*
 * What of the request is missing: header, then greeting.  0 bytes: nothing.
 */
static size_t
missing_part(CpVaultClient *client, char **to)
{
	size_t header_size = sizeof(client->request);
	size_t total = header_size;

	if (client->have < header_size)
		*to = (char *) &client->request + client->have;
	else
	{
		total += client->request.greeting_size;
		*to = (char *) &client->greeting + (client->have - header_size);
	}
	return total - client->have;
}

CpVaultRead
cp_vault_server_read(CpVaultClient *client)
{
	char *to;
	char surplus;
	size_t missing;
	ssize_t rest;

	while ((missing = missing_part(client, &to)) > 0)
	{
		ssize_t n = cp_net_receive(client->sock, to, missing, &client->fd);

		if (n == CP_NET_NOTHING)
			return CP_VAULT_READ_MORE;
		if (n <= 0)
			return CP_VAULT_READ_BAD;
		client->have += n;
		if (client->have == sizeof(client->request) && !header_is_sound(&client->request))
			return CP_VAULT_READ_BAD;
	}

	/* a peer that has gone since is served all the same, one that goes on is not */
	rest = cp_net_receive(client->sock, &surplus, 1, &client->fd);
	if ((rest != CP_NET_EOF && rest != CP_NET_NOTHING) || !request_is_sound(client))
		return CP_VAULT_READ_BAD;
	return CP_VAULT_READ_DONE;
}

bool
cp_vault_server_reply(CpVaultClient *client, CpVaultStatus status, int fd,
					  const CpGreeting *greeting)
{
	CpVaultReply reply = {
		.magic = REPLY_MAGIC,
		.status = status,
		.greeting_size = greeting != NULL ? cp_greeting_size(greeting) : 0,
	};

	return cp_net_send_message(client->sock, &reply, sizeof(reply), greeting, reply.greeting_size,
							   fd);
}

void
cp_vault_server_drop(CpVaultClient *client)
{
	close(client->sock);
	if (client->fd >= 0)
		close(client->fd);
	pfree(client);
}
