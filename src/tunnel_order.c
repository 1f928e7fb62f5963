/*
 * tunnel_order.c
 *		How whoever holds a permit asks a tunnel to open the connection.
 *
 * The functions of the first half run in client backends and the dialer, those of
 * the second in the tunnel, which serves many: there nothing may wait.  Waits of
 * the first half have a deadline; nothing throws but lack of memory and their
 * CHECK_FOR_INTERRUPTS().  A password is in nothing but memory that is overwritten
 * when it is freed, and in a socket between two processes that the kernel has
 * vouched for.
 *
 * An order is a header of fixed size, then keywords and values in turn (pairs.c).
 */
#include "postgres.h"

#include "tunnel_order.h"

#include <sys/socket.h>
#include <unistd.h>

#include "compat.h"
#include "conninfo.h"
#include "guc.h"
#include "hosts.h"
#include "libpq/pqcomm.h"
#include "miscadmin.h"
#include "net.h"
#include "pairs.h"
#include "pgstat.h"
#include "pool.h"
#include "pump.h"
#include "utils/memutils.h"
#include "wait_events.h"
#include "wiped.h"

StaticAssertDecl(CP_TUNNELS == CP_MAX_TUNNELS, "the segment has a place for every tunnel");

#define TUNNEL_BACKLOG 256

#define ORDER_MAGIC 0x43504f54 /* CPOT */

/* longest time to hand an order over, and to read one (milliseconds, as all here) */
#define SEND_LIMIT 1000
#define READ_LIMIT 5000
/* between two attempts while the backlog is full */
#define BACKLOG_PAUSE 5

/* What goes over the socket before the text; the magic first, as in a CpTunnelCancel. */
typedef struct Header
{
	uint32 magic;
	uint32 text_size; /* bytes */
	uint32 pairs;	  /* of keyword and value */
	int32 slot;
	uint64 generation;
	uint64 pool_generation;
	int32 pool;
	int32 timeout;
	Oid party;
	char pool_name[CP_POOL_NAME_LEN];
} Header;

/* What has come of a message of unknown kind. */
struct CpTunnelInput
{
	union
	{
		uint32 magic;
		Header order;
		CpTunnelCancel cancel;
	} head;
	char *text; /* wiped memory, once its size is known */
};

/* ---- which connections ---- */

static bool
is_set(const char *text)
{
	return text != NULL && text[0] != '\0';
}

/* As libpq has it: the last one counts, an empty value is none; then the environment. */
static const char *
option(const char *const *keywords, const char *const *values, const char *keyword,
	   const char *variable)
{
	const char *value = NULL;

	for (int i = 0; keywords[i] != NULL; i++)
	{
		if (strcmp(keywords[i], keyword) == 0 && is_set(values[i]))
			value = values[i];
	}
	if (value == NULL)
		value = getenv(variable);
	return is_set(value) ? value : NULL;
}

static bool
option_is(const char *const *keywords, const char *const *values, const char *keyword,
		  const char *variable, const char *expected)
{
	const char *value = option(keywords, values, keyword, variable);

	return value != NULL && strcmp(value, expected) == 0;
}

/* Is a host among them that is reached by a network? */
static bool
has_network_host(const char *const *keywords, const char *const *values)
{
	CpHost *hosts;
	int n = cp_hosts_split(keywords, values, &hosts);

	for (int i = 0; i < n; i++)
	{
		if (is_set(hosts[i].hostaddr) ||
			(is_set(hosts[i].host) && !is_unixsock_path(hosts[i].host)) ||
			(!is_set(hosts[i].host) && DEFAULT_PGSOCKET_DIR[0] == '\0'))
			return true;
	}
	return false;
}

bool
cp_tunnel_is_wanted(const char *const *keywords, const char *const *values)
{
	return !option_is(keywords, values, "sslmode", "PGSSLMODE", "disable") &&
		!option_is(keywords, values, "gssencmode", "PGGSSENCMODE", "require") &&
		option(keywords, values, "service", "PGSERVICE") == NULL &&
		/* a thread that reads for ever would be lost */
		cp_conninfo_passfile_is_small(keywords, values) &&
		has_network_host(keywords, values);
}

/* ---- sending ---- */

/*
 * The one that listens, is none of the `refused` (a bit for each), and has the
 * fewest connections; CP_NONE: there is none.
 */
static int
choose_tunnel(uint32 refused)
{
	uint32 fewest = 0;
	int best = CP_NONE;

	for (int i = 0; i < CP_TUNNELS; i++)
	{
		CpSharedTunnel *tunnel = &cp_shared->tunnels[i];
		uint32 connections = pg_atomic_read_u32(&tunnel->connections);

		if (pg_atomic_read_u32(&tunnel->pid) == 0 || (refused & (1U << i)) != 0)
			continue;
		if (best == CP_NONE || connections < fewest)
		{
			best = i;
			fewest = connections;
		}
	}
	return best;
}

bool
cp_tunnel_is_there(void)
{
	return choose_tunnel(0) != CP_NONE;
}

const char *
cp_tunnel_why_none(void)
{
	if (!cp_pump_is_built())
		return _("conpool was built without OpenSSL");
	if (cp_guc_tunnel_workers == 0)
		return _("conpool.tunnel_workers is 0");
	return _("no tunnel is running");
}

static void
pause_for(int ms, bool interruptible)
{
	if (!interruptible)
	{
		pg_usleep(ms * 1000L);
		return;
	}
	if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
				  cp_wait_event(CP_WAIT_CONNECT)) &
		WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Is the other end the tunnel that shared memory names? */
static bool
peer_is_tunnel(int sock, int index)
{
	int pid;

	return cp_net_peer_is_ours(sock, &pid) && pid > 0 &&
		pid == (int) pg_atomic_read_u32(&cp_shared->tunnels[index].pid);
}

/* Connects with a tunnel; -1: it is not there, or not in time. */
static int
connect_tunnel(int index, CpTime deadline, bool interruptible)
{
	char path[MAXPGPATH];
	int sock;

	cp_tunnel_path(index + 1, path, sizeof(path));
	while ((sock = cp_net_connect_path(path)) < 0)
	{
		if (errno != EAGAIN || cp_now() >= deadline)
			return -1;
		pause_for(BACKLOG_PAUSE, interruptible);
	}
	if (peer_is_tunnel(sock, index))
		return sock;
	close(sock);
	return -1;
}

static bool
send_all(int sock, const char *bytes, size_t size, CpTime deadline)
{
	while (size > 0)
	{
		ssize_t n = send(sock, bytes, size, 0);

		if (n >= 0)
		{
			bytes += n;
			size -= n;
		}
		/* an order is some hundred bytes, so the wait is for the rare long one */
		else if ((errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) ||
				 cp_net_poll(sock, POLLOUT, deadline) == 0)
			return false;
	}
	return true;
}

/* Sends it to one tunnel after the other until one takes it; its socket or -1. */
static int
send_message(const char *message, size_t size, CpTime deadline, bool interruptible)
{
	uint32 refused = 0;
	int index;

	while ((index = choose_tunnel(refused)) != CP_NONE)
	{
		int sock = connect_tunnel(index, deadline, interruptible);

		if (sock >= 0 && send_all(sock, message, size, deadline))
			return sock;
		if (sock >= 0)
			close(sock);
		refused |= 1U << index;
	}
	return -1;
}

static void
fill_header(Header *header, const CpTunnelOrder *order, size_t text_size, uint32 pairs)
{
	memset(header, 0, sizeof(*header));
	header->magic = ORDER_MAGIC;
	header->text_size = (uint32) text_size;
	header->pairs = pairs;
	header->slot = order->slot;
	header->generation = order->generation;
	header->pool = order->pool;
	header->pool_generation = order->pool_generation;
	header->timeout = order->timeout;
	header->party = order->party;
	strlcpy(header->pool_name, order->pool_name, sizeof(header->pool_name));
}

/*
 * The order with options by which nothing is asked of a ticket server: the tunnel has
 * no credentials of the session's.  False: that cannot be.
 */
static bool
without_tickets(const CpTunnelOrder *order, CpTunnelOrder *changed)
{
	const char **keywords;
	const char **values;

	if (cp_conninfo_without_waiting(order->keywords, order->values, &keywords, &values) != NULL)
		return false;
	*changed = *order;
	changed->keywords = keywords;
	changed->values = values;
	return true;
}

int
cp_tunnel_send_order(const CpTunnelOrder *order, CpTime deadline, bool interruptible)
{
	CpTunnelOrder sent;
	uint32 pairs;
	size_t text_size;
	MemoryContext context;
	Header header;
	char *message;
	int sock;

	if (!without_tickets(order, &sent))
		return -1;
	text_size = cp_pairs_size(sent.keywords, sent.values, &pairs);
	if (text_size > CP_PAIRS_MAX)
		return -1;
	fill_header(&header, &sent, text_size, pairs);
	/* if something throws it goes, and is wiped, with the context around it */
	context = AllocSetContextCreate(CurrentMemoryContext, "conpool order",
									ALLOCSET_SMALL_SIZES);
	message = cp_wiped_alloc(context, sizeof(header) + text_size);
	memcpy(message, &header, sizeof(header));
	(void) cp_pairs_write(message + sizeof(header), sent.keywords, sent.values);
	deadline = cp_earlier(deadline, cp_deadline(cp_now(), SEND_LIMIT));
	sock = send_message(message, sizeof(header) + text_size, deadline, interruptible);
	MemoryContextDelete(context);
	return sock;
}

/* ---- the tunnel ---- */

int
cp_tunnel_listen(int tunnel)
{
	char path[MAXPGPATH];

	cp_tunnel_path(tunnel, path, sizeof(path));
	return cp_net_listen(path, TUNNEL_BACKLOG);
}

void
cp_tunnel_unlink(int tunnel)
{
	char path[MAXPGPATH];

	cp_tunnel_path(tunnel, path, sizeof(path));
	unlink(path);
}

CpTunnelClient *
cp_tunnel_accept(int listener)
{
	int sock = cp_net_accept(listener);
	MemoryContext context;
	CpTunnelClient *client;
	int pid;

	if (sock < 0)
		return NULL;
	if (!cp_net_peer_is_ours(sock, &pid) || pid <= 0)
	{
		close(sock);
		return NULL;
	}
	context = AllocSetContextCreate(CurrentMemoryContext, "conpool tunnel client",
									ALLOCSET_SMALL_SIZES);
	client = MemoryContextAllocZero(context, sizeof(CpTunnelClient));
	client->context = context;
	/* it holds the cancel key, or how long the password is */
	client->input = (struct CpTunnelInput *)
		cp_wiped_alloc(context, sizeof(struct CpTunnelInput));
	memset(client->input, 0, sizeof(struct CpTunnelInput));
	client->sock = sock;
	client->pid = pid;
	client->deadline = cp_deadline(cp_now(), READ_LIMIT);
	return client;
}

/* Bytes of the message, as far as is known by now; 0: it is no good. */
static size_t
message_size(const CpTunnelClient *client)
{
	const struct CpTunnelInput *input = client->input;

	if (client->have < sizeof(uint32))
		return sizeof(uint32);
	if (input->head.magic == CP_TUNNEL_CANCEL_MAGIC)
		return sizeof(CpTunnelCancel);
	if (input->head.magic != ORDER_MAGIC)
		return 0;
	if (client->have < sizeof(Header))
		return sizeof(Header);
	return input->head.order.text_size <= CP_PAIRS_MAX ?
		sizeof(Header) + input->head.order.text_size :
		0;
}

/* Where the next byte goes, and how many may follow it there. */
static char *
next_place(CpTunnelClient *client, size_t total, size_t *room)
{
	struct CpTunnelInput *input = client->input;
	size_t head = Min(total, sizeof(input->head));

	if (input->head.magic == ORDER_MAGIC && client->have >= sizeof(Header))
	{
		if (input->text == NULL)
			input->text = cp_wiped_alloc(client->context, input->head.order.text_size);
		*room = total - client->have;
		return input->text + (client->have - sizeof(Header));
	}
	*room = head - client->have;
	return (char *) &input->head + client->have;
}

/* Does the peer hold the permit, and is the rest what it should be? */
static bool
take_order(CpTunnelClient *client)
{
	const Header *header = &client->input->head.order;
	MemoryContext caller;
	CpTunnelOrder *order;
	bool ok;

	if (header->slot < 0 || header->slot >= cp_shared->max_slots ||
		header->pool < 0 || header->pool >= cp_shared->max_pools || header->timeout <= 0 ||
		!cp_pool_is_opened_by(header->slot, header->generation, client->pid))
		return false;
	caller = MemoryContextSwitchTo(client->context);
	order = palloc0(sizeof(CpTunnelOrder));
	order->slot = header->slot;
	order->generation = header->generation;
	order->pool = header->pool;
	order->pool_generation = header->pool_generation;
	order->timeout = header->timeout;
	order->party = header->party;
	strlcpy(order->pool_name, header->pool_name, sizeof(order->pool_name));
	ok = cp_pairs_read(client->input->text, header->text_size, header->pairs,
					   &order->keywords, &order->values);
	MemoryContextSwitchTo(caller);
	client->order = order;
	return ok;
}

static bool
take_cancel(CpTunnelClient *client)
{
	CpTunnelCancel *cancel = &client->input->head.cancel;

	client->cancel = cancel;
	return cancel->key_len > 0 && cancel->key_len <= CP_CANCEL_KEY_MAX;
}

CpTunnelRead
cp_tunnel_read_client(CpTunnelClient *client)
{
	size_t total;
	bool ok;

	while ((total = message_size(client)) > client->have)
	{
		int fd = -1;
		size_t room;
		char *to = next_place(client, total, &room);
		ssize_t n = cp_net_receive(client->sock, to, room, &fd);

		if (fd >= 0)
			close(fd);
		if (n == CP_NET_NOTHING && fd < 0)
			return CP_TUNNEL_READ_MORE;
		if (n <= 0 || fd >= 0)
			return CP_TUNNEL_READ_LOST;
		client->have += n;
	}
	if (total == 0)
		return CP_TUNNEL_READ_LOST;
	ok = client->input->head.magic == ORDER_MAGIC ? take_order(client) : take_cancel(client);
	return ok ? CP_TUNNEL_READ_DONE : CP_TUNNEL_READ_LOST;
}

void
cp_tunnel_drop_client(CpTunnelClient *client)
{
	if (client->sock >= 0)
		close(client->sock);
	MemoryContextDelete(client->context);
}
