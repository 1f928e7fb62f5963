/*
 * tunnel_probe.c
 *		Gives conpool's tunnel orders from a backend, so that the kernel vouches for this
 *		backend's pid, but says whatever it likes; and looks into shared memory.
 *
 * Built and loaded by TAP tests:
 *
 *	CREATE FUNCTION probe_orders(slots int, generations int) RETURNS text
 *		Tries all of them; returns those "slot generation" that the tunnel has taken.
 *
 *	CREATE FUNCTION probe_while_connecting(slots int, generations int) RETURNS void
 *	CREATE FUNCTION probe_result() RETURNS text
 *		The same in a thread, until one is taken: to be followed by a statement that has
 *		this backend connect.  What else is tried with that pair is in the result, line
 *		by line.  The statement is cancelled when all is done.
 *
 *	CREATE FUNCTION probe_descriptors(message bytea, descriptors int) RETURNS text
 *		What the tunnel says to a message with duplicates of this process's standard
 *		error.
 *
 *	CREATE FUNCTION probe_memory(name text, size bigint, needle bytea) RETURNS int
 *		How often a part of shared memory has those bytes, each one's bits inverted:
 *		they are not to be there because of the call.
 *
 * Said of an answer: "refused" if the tunnel hangs up without a word, "silent" if it
 * does nothing for a while, else a status and an error.
 */
#include "postgres.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "fmgr.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

#include "pairs.h"
#include "shmem.h"
#include "tunnel_reply.h"

#define ORDER_MAGIC 0x43504f54
#define MAX_DESCRIPTORS 8
#define PATIENCE 20000 /* milliseconds, as all here */
#define SEARCH_LIMIT 30000

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(probe_orders);
PG_FUNCTION_INFO_V1(probe_while_connecting);
PG_FUNCTION_INFO_V1(probe_result);
PG_FUNCTION_INFO_V1(probe_descriptors);
PG_FUNCTION_INFO_V1(probe_memory);

/* As in tunnel_order.c. */
typedef struct Header
{
	uint32 magic;
	uint32 text_size;
	uint32 pairs;
	int32 slot;
	uint64 generation;
	uint64 pool_generation;
	int32 pool;
	int32 timeout;
	Oid party;
	char pool_name[CP_POOL_NAME_LEN];
} Header;

typedef struct Order
{
	Header header;
	char text[256];
	size_t size; /* of text that is sent, whatever the header says */
} Order;

typedef struct Search
{
	int slots;
	int generations;
} Search;

static pthread_t thread;
static Search search;
static char result[8192];

/* ---- asking; what a thread may call ---- */

static int
connect_tunnel(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX,
							   .sun_path = "pg_stat_tmp/conpool.tunnel.1"};
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (sock >= 0 && connect(sock, (struct sockaddr *) &addr, sizeof(addr)) == 0)
		return sock;
	close(sock);
	return -1;
}

/* Fails if the tunnel has hung up by now, which is as good. */
static void
send_parts(int sock, struct iovec *parts, int count, int descriptors)
{
	union
	{
		struct cmsghdr align;
		char bytes[CMSG_SPACE(MAX_DESCRIPTORS * sizeof(int))];
	} control = {0};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};

	if (descriptors > 0)
	{
		struct cmsghdr *rights;

		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(descriptors * sizeof(int));
		rights = CMSG_FIRSTHDR(&message);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(descriptors * sizeof(int));
		for (int i = 0; i < descriptors; i++)
			((int *) CMSG_DATA(rights))[i] = STDERR_FILENO;
	}
	(void) !sendmsg(sock, &message, MSG_NOSIGNAL);
}

/* What it says, in words; closes the socket. */
static void
read_answer(int sock, char *answer, size_t size)
{
	static const char *const names[] = {"ok", "failed", "timeout", "elsewhere"};
	struct pollfd p = {.fd = sock, .events = POLLIN};
	CpTunnelReply reply;
	char error[1024];
	ssize_t n;

	if (poll(&p, 1, PATIENCE) == 0)
		snprintf(answer, size, "silent");
	else if (recv(sock, &reply, sizeof(reply), MSG_WAITALL) != sizeof(reply))
		snprintf(answer, size, "refused");
	else
	{
		n = recv(sock, error, sizeof(error) - 1, 0);
		error[Max(n, 0)] = '\0';
		error[strcspn(error, "\n")] = '\0';
		snprintf(answer, size, "%s: %s",
				 reply.status < lengthof(names) ? names[reply.status] : "nonsense", error);
	}
	close(sock);
}

static void
ask(Order *order, int descriptors, char *answer, size_t size)
{
	struct iovec parts[] = {{&order->header, sizeof(Header)}, {order->text, order->size}};
	int sock = connect_tunnel();

	if (sock < 0)
	{
		snprintf(answer, size, "no tunnel");
		return;
	}
	send_parts(sock, parts, lengthof(parts), descriptors);
	read_answer(sock, answer, size);
}

static void
add_pair(Order *order, const char *keyword, const char *value)
{
	char *to = order->text + order->size;

	to = stpcpy(to, keyword) + 1;
	to = stpcpy(to, value) + 1;
	order->size = to - order->text;
	order->header.pairs++;
	order->header.text_size = (uint32) order->size;
}

/* Nobody listens where it leads to. */
static void
make_order(Order *order, int slot, uint64 generation)
{
	memset(order, 0, sizeof(*order));
	order->header.magic = ORDER_MAGIC;
	order->header.slot = slot;
	order->header.generation = generation;
	order->header.timeout = PATIENCE;
	strlcpy(order->header.pool_name, "probe", sizeof(order->header.pool_name));
	add_pair(order, "hostaddr", "127.0.0.1");
	add_pair(order, "port", "1");
	add_pair(order, "user", "nobody");
	add_pair(order, "dbname", "nothing");
}

/* Writes those that are taken, up to some, and returns how many that are. */
static int
try_all(char *taken, size_t size, int some, int *slot, uint64 *generation)
{
	int count = 0;

	taken[0] = '\0';
	for (int s = 0; s < search.slots; s++)
	{
		for (int g = 0; g < search.generations && count < some; g++)
		{
			Order order;
			char answer[1024];

			make_order(&order, s, g);
			ask(&order, 0, answer, sizeof(answer));
			if (strcmp(answer, "refused") == 0)
				continue;
			count++;
			*slot = s;
			*generation = g;
			snprintf(taken + strlen(taken), size - strlen(taken), "taken: %d %d %s\n", s, g, answer);
		}
	}
	return count;
}

static void
report(const char *what, Order *order, int descriptors)
{
	char answer[1024];

	ask(order, descriptors, answer, sizeof(answer));
	snprintf(result + strlen(result), sizeof(result) - strlen(result), "%s: %s\n", what, answer);
}

/* Whatever might be wrong with an order that is right otherwise. */
static void
try_variants(int slot, uint64 generation)
{
	Order order;

	make_order(&order, slot, generation);
	report("right", &order, 0);
	for (int i = 1; i <= MAX_DESCRIPTORS; i *= 2)
		report("descriptors", &order, i);
	order.header.timeout = 0;
	report("no time", &order, 0);
	order.header.timeout = -1;
	report("less than no time", &order, 0);

	make_order(&order, slot, generation);
	order.header.pool = -1;
	report("pool -1", &order, 0);
	order.header.pool = 1000000;
	report("no such pool", &order, 0);

	make_order(&order, slot, generation);
	order.header.pairs--;
	report("a pair less", &order, 0);
	order.header.pairs += 2;
	report("a pair more", &order, 0);
	order.header.pairs = 0;
	report("no pairs", &order, 0);
	order.header.pairs = 0xffffffff;
	report("four billion pairs", &order, 0);

	make_order(&order, slot, generation);
	order.text[order.size - 1] = 'x';
	report("no terminator", &order, 0);
	make_order(&order, slot, generation);
	order.header.text_size--;
	report("a byte less", &order, 0);
	order.header.text_size = 0;
	report("no text", &order, 0);
	order.header.text_size = CP_PAIRS_MAX + 1;
	report("too much text", &order, 0);
	order.header.text_size = 0xffffffff;
	report("four gigabytes of text", &order, 0);

	make_order(&order, slot, generation);
	memset(order.header.pool_name, 'x', sizeof(order.header.pool_name));
	report("a name without end", &order, 0);
	add_pair(&order, "no_such_option", "x");
	report("an unknown option", &order, 0);
	make_order(&order, slot, generation);
	report("right again", &order, 0);
}

static void *
probe(void *arg)
{
	struct timespec start;
	struct timespec now;
	char taken[1024];
	int slot;
	uint64 generation;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while (try_all(taken, sizeof(taken), 1, &slot, &generation) == 0 &&
		   now.tv_sec - start.tv_sec < SEARCH_LIMIT / 1000);
	if (taken[0] != '\0')
	{
		(void) try_all(taken, sizeof(taken), 10, &slot, &generation);
		strlcpy(result, taken, sizeof(result));
		try_variants(slot, generation);
	}
	/* a cancel */
	kill(getpid(), SIGINT);
	return NULL;
}

/* ---- SQL ---- */

Datum
probe_orders(PG_FUNCTION_ARGS)
{
	char taken[1024];
	int slot;
	uint64 generation;

	search.slots = PG_GETARG_INT32(0);
	search.generations = PG_GETARG_INT32(1);
	(void) try_all(taken, sizeof(taken), 10, &slot, &generation);
	PG_RETURN_TEXT_P(cstring_to_text(taken));
}

Datum
probe_while_connecting(PG_FUNCTION_ARGS)
{
	sigset_t all;
	sigset_t before;

	search.slots = PG_GETARG_INT32(0);
	search.generations = PG_GETARG_INT32(1);
	result[0] = '\0';
	/* signals are for the backend's own thread */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&thread, NULL, probe, NULL) != 0)
		strlcpy(result, "no thread", sizeof(result));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	PG_RETURN_VOID();
}

Datum
probe_result(PG_FUNCTION_ARGS)
{
	pthread_join(thread, NULL);
	PG_RETURN_TEXT_P(cstring_to_text(result));
}

Datum
probe_descriptors(PG_FUNCTION_ARGS)
{
	bytea *message = PG_GETARG_BYTEA_PP(0);
	struct iovec part = {VARDATA_ANY(message), VARSIZE_ANY_EXHDR(message)};
	int sock = connect_tunnel();
	char answer[1024];

	if (sock < 0)
		elog(ERROR, "could not connect to the tunnel: %m");
	send_parts(sock, &part, 1, Min(PG_GETARG_INT32(1), MAX_DESCRIPTORS));
	shutdown(sock, SHUT_WR);
	read_answer(sock, answer, sizeof(answer));
	PG_RETURN_TEXT_P(cstring_to_text(answer));
}

/* Of what is in that table already; size must be what it was made with. */
Datum
probe_memory(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Size size = PG_GETARG_INT64(1);
	bytea *needle = PG_GETARG_BYTEA_P_COPY(2);
	int needle_size = VARSIZE_ANY_EXHDR(needle);
	char *place;
	bool found;
	int count = 0;

	for (int i = 0; i < needle_size; i++)
		VARDATA(needle)
	[i] ^= 0xff;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	place = ShmemInitStruct(name, size, &found);
	LWLockRelease(AddinShmemInitLock);
	if (!found)
		elog(ERROR, "there was no \"%s\"", name);
	for (Size i = 0; i + needle_size <= size; i++)
		count += place[i] == VARDATA(needle)[0] &&
			memcmp(place + i, VARDATA(needle), needle_size) == 0;
	PG_RETURN_INT32(count);
}
