/*
 * handover.c
 *		Passing what it takes to open connections, passwords included, from the
 *		reader to the dialer.
 *
 * The functions of the first half run in the reader, those of the second in
 * the dialer.  Waits have a deadline; nothing throws but lack of memory and
 * the reader's CHECK_FOR_INTERRUPTS().  A password is in nothing but memory
 * that is overwritten when it is freed, and in a socket between two processes
 * that the kernel has vouched for.
 *
 * One order per connection of a Unix socket: a header of fixed size, then
 * keywords and values in turn, each with its terminator.  The receipt is one
 * byte.
 */
#include "postgres.h"

#include "handover.h"

#include <unistd.h>

#include "compat.h"
#include "miscadmin.h"
#include "net.h"
#include "pairs.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "wait_events.h"
#include "wiped.h"

#define HANDOVER_PATH PG_STAT_TMP_DIR "/conpool.dialer"
#define HANDOVER_BACKLOG 16

#define ORDER_MAGIC 0x43504f31 /* CPO1 */
#define RECEIPT 'R'

/* how long the rest of an order may take once its sender is there, milliseconds */
#define ORDER_LIMIT 1000
/* between two attempts while the backlog is full, milliseconds */
#define BACKLOG_PAUSE 5

/* What goes over the socket before the text. */
typedef struct Header
{
	uint32 magic;
	uint32 text_size; /* bytes */
	uint32 pairs;	  /* of keyword and value */
	int32 pool;
	uint64 pool_generation;
	int32 count;
	int32 connect_timeout;
	CpFingerprint fingerprint;
	uint32 password_required;
	Oid party;
} Header;

/* ---- reader ---- */

static Header
make_header(const CpOrder *order)
{
	Header header = {
		.magic = ORDER_MAGIC,
		.pool = order->pool,
		.pool_generation = order->pool_generation,
		.count = order->count,
		.connect_timeout = order->connect_timeout,
		.fingerprint = order->fingerprint,
		.password_required = order->password_required,
		.party = order->party,
	};
	size_t size = cp_pairs_size(order->keywords, order->values, &header.pairs);

	header.text_size = (uint32) Min(size, CP_PAIRS_MAX + 1);
	return header;
}

/* The whole message, in memory of that context that is wiped with it. */
static char *
make_message(MemoryContext context, const CpOrder *order, const Header *header)
{
	char *message = cp_wiped_alloc(context, sizeof(*header) + header->text_size);

	memcpy(message, header, sizeof(*header));
	(void) cp_pairs_write(message + sizeof(*header), order->keywords, order->values);
	return message;
}

/* Is the other end the process that shared memory names? */
static bool
peer_is(int sock, pg_atomic_uint32 *process)
{
	int pid;

	return cp_net_peer_is_ours(sock, &pid) && pid > 0 &&
		pid == (int) pg_atomic_read_u32(process);
}

/* Connects with the dialer; -1: it is not there, or not in time. */
static int
connect_dialer(CpTime deadline)
{
	int sock;

	while ((sock = cp_net_connect_path(HANDOVER_PATH)) < 0)
	{
		if (errno != EAGAIN || cp_now() >= deadline)
			return -1;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 BACKLOG_PAUSE, cp_wait_event(CP_WAIT_BROKER));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (peer_is(sock, &cp_shared->dialer_pid))
		return sock;
	close(sock);
	return -1;
}

/* Waits until the socket is ready, serving interrupts; false: the deadline passed. */
static bool
wait_for(int sock, int ready, CpTime deadline)
{
	for (;;)
	{
		long timeout = cp_timeout_ms(deadline);
		int events = WaitLatchOrSocket(MyLatch,
									   WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | ready |
										   (timeout >= 0 ? WL_TIMEOUT : 0),
									   sock, timeout, cp_wait_event(CP_WAIT_BROKER));

		if (events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (events & ready)
			return true;
		if (events & WL_TIMEOUT)
			return false;
	}
}

static bool
is_transient(int error)
{
	return error == EINTR || error == EAGAIN || error == EWOULDBLOCK;
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
		else if (!is_transient(errno) || !wait_for(sock, WL_SOCKET_WRITEABLE, deadline))
			return false;
	}
	return true;
}

static bool
await_receipt(int sock, CpTime deadline)
{
	char receipt = 0;
	ssize_t n;

	while ((n = recv(sock, &receipt, 1, 0)) < 0)
	{
		if (!is_transient(errno) || !wait_for(sock, WL_SOCKET_READABLE, deadline))
			return false;
	}
	return n == 1 && receipt == RECEIPT;
}

static bool
send_message(const char *message, size_t size, CpTime deadline)
{
	int sock = connect_dialer(deadline);
	bool taken = false;

	if (sock < 0)
		return false;
	PG_TRY();
	{
		taken = send_all(sock, message, size, deadline) && await_receipt(sock, deadline);
	}
	PG_FINALLY();
	{
		close(sock);
	}
	PG_END_TRY();
	return taken;
}

bool
cp_handover_is_too_long(const CpOrder *order)
{
	return make_header(order).text_size > CP_PAIRS_MAX;
}

bool
cp_handover_send(const CpOrder *order, CpTime deadline)
{
	Header header = make_header(order);
	MemoryContext context;
	char *message;
	bool taken;

	if (header.text_size > CP_PAIRS_MAX)
		return false;
	/* if something throws it goes, and is wiped, with the context around it */
	context = AllocSetContextCreate(CurrentMemoryContext, "conpool order",
									ALLOCSET_SMALL_SIZES);
	message = make_message(context, order, &header);
	taken = send_message(message, sizeof(header) + header.text_size, deadline);
	MemoryContextDelete(context);
	return taken;
}

/* ---- dialer ---- */

int
cp_handover_listen(void)
{
	return cp_net_listen(HANDOVER_PATH, HANDOVER_BACKLOG);
}

void
cp_handover_unlink(void)
{
	unlink(HANDOVER_PATH);
}

/* Exactly `size` bytes; no descriptor has a place here. */
static bool
receive_all(int sock, void *to, size_t size, CpTime deadline)
{
	int fd = -1;
	bool ok = cp_net_receive_all(sock, to, size, &fd, deadline);

	if (fd >= 0)
		close(fd);
	return ok && fd < 0;
}

static bool
header_is_sound(const Header *header)
{
	/* a keyword is no empty string, a value may be one */
	return header->magic == ORDER_MAGIC &&
		header->text_size <= CP_PAIRS_MAX &&
		header->pairs <= header->text_size / 3 &&
		header->pool >= 0 && header->pool < cp_shared->max_pools &&
		header->count > 0 &&
		header->connect_timeout >= 0;
}

/* Reads an order into the current memory context; NULL if it is no good. */
static CpOrder *
receive_order(int sock)
{
	CpTime deadline = cp_deadline(cp_now(), ORDER_LIMIT);
	Header header;
	CpOrder *order;
	char *text;

	if (!receive_all(sock, &header, sizeof(header), deadline) || !header_is_sound(&header))
		return NULL;
	text = cp_wiped_alloc(CurrentMemoryContext, header.text_size);
	if (!receive_all(sock, text, header.text_size, deadline))
		return NULL;

	order = palloc0(sizeof(CpOrder));
	order->pool = header.pool;
	order->pool_generation = header.pool_generation;
	order->count = header.count;
	order->fingerprint = header.fingerprint;
	order->password_required = header.password_required != 0;
	order->party = header.party;
	order->connect_timeout = header.connect_timeout;
	return cp_pairs_read(text, header.text_size, header.pairs, &order->keywords,
						 &order->values) ?
		order :
		NULL;
}

/* A sender that has gone meanwhile has its order carried out all the same. */
static void
give_receipt(int sock)
{
	const char receipt = RECEIPT;

	(void) send(sock, &receipt, 1, 0);
}

CpOrder *
cp_handover_accept(int listener)
{
	int sock = cp_net_accept(listener);
	MemoryContext context;
	MemoryContext caller;
	CpOrder *order = NULL;

	if (sock < 0)
		return NULL;
	context = AllocSetContextCreate(CurrentMemoryContext, "conpool order",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	if (peer_is(sock, &cp_shared->reader_pid))
		order = receive_order(sock);
	if (order)
		give_receipt(sock);
	close(sock);
	MemoryContextSwitchTo(caller);
	if (order == NULL)
		MemoryContextDelete(context);
	return order;
}

void
cp_handover_free(CpOrder *order)
{
	MemoryContextDelete(GetMemoryChunkContext(order));
}
