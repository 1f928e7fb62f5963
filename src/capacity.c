/*
 * capacity.c
 *		A round trip with a remote server on a bare socket that asks how many
 *		connections it allows.
 *
 * Runs in the broker, called by keep.c.  Must never block, throw or allocate,
 * nor believe the remote anything: of a message as much is kept as the longest
 * proper one has, the rest is thrown away as it comes; and there is a limit to
 * what it may send.
 */
#include "postgres.h"

#include "capacity.h"

#include <sys/socket.h>

#include "port/pg_bswap.h"

/* where it is missing the server ignores SIGPIPE anyhow */
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static const char question[] =
	"SELECT pg_catalog.current_setting('max_connections'), "
	"pg_catalog.current_setting('superuser_reserved_connections')";

/* digits of a number that is believed: no server has ten million connections */
#define MAX_DIGITS 7
/* bytes read at a time */
#define READ_SIZE 4096
/* bytes of an answer, notices included, beyond which it is no proper one */
#define MAX_ANSWER (64 * 1024)

bool
cp_capacity_ask(int fd)
{
	char message[1 + sizeof(uint32) + sizeof(question)];
	uint32 length = pg_hton32(sizeof(message) - 1);
	ssize_t sent;

	message[0] = 'Q';
	memcpy(message + 1, &length, sizeof(length));
	memcpy(message + 1 + sizeof(length), question, sizeof(question));
	do
		sent = send(fd, message, sizeof(message), MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent == sizeof(message);
}

/* ---- the answer ----------------------------------------------------------- */

static uint32
read_uint32(const uint8 *bytes)
{
	uint32 value;

	memcpy(&value, bytes, sizeof(value));
	return pg_ntoh32(value);
}

/* Takes a column off a row; its digits as a number, -1 if it is none. */
static int
take_number(const uint8 **bytes, const uint8 *end)
{
	uint32 length;
	int value = 0;

	if (end - *bytes < (ptrdiff_t) sizeof(length))
		return -1;
	length = read_uint32(*bytes);
	*bytes += sizeof(length);
	if (length == 0 || length > MAX_DIGITS || length > (uint32) (end - *bytes))
		return -1;
	for (; length > 0; length--, (*bytes)++)
	{
		if (**bytes < '0' || **bytes > '9')
			return -1;
		value = value * 10 + (**bytes - '0');
	}
	return value;
}

/* What a row says: of two columns exactly, and both must be numbers. */
static int
read_row(const CpCapacity *capacity)
{
	const uint8 *bytes = capacity->body;
	const uint8 *end = bytes + capacity->size;
	int all;
	int reserved;

	if (capacity->size < 2 || capacity->size > CP_CAPACITY_MAX_BODY ||
		bytes[0] != 0 || bytes[1] != 2)
		return 0;
	bytes += 2;
	all = take_number(&bytes, end);
	reserved = take_number(&bytes, end);
	if (all < 0 || reserved < 0 || bytes != end)
		return 0;
	return Max(all - reserved, 0);
}

/* A message is complete; false if the connection is not to be used any more. */
static bool
take_message(CpCapacity *capacity)
{
	switch (capacity->header[0])
	{
		case 'T': /* description of the row, not needed */
		case 'C': /* end of the statement */
		case 'N': /* a notice, if the session wants to be told much */
			return true;
		case 'D':
			capacity->connections = capacity->is_answered ? 0 : read_row(capacity);
			capacity->is_answered = true;
			return true;
		case 'E': /* e.g. of a pooler that does not know such statements */
		case 'I':
			capacity->is_answered = true;
			capacity->connections = 0;
			return true;
		case 'Z':
			capacity->is_ready = true;
			return capacity->size == 1 && capacity->body[0] == 'I';
		default:
			return false;
	}
}

/* A header is complete; false if it cannot be one. */
static bool
take_header(CpCapacity *capacity)
{
	uint32 length = read_uint32(capacity->header + 1);

	/* its own size is counted; more than libpq takes is nonsense */
	if (length < sizeof(length) || length > PG_INT32_MAX)
		return false;
	capacity->size = length - sizeof(length);
	capacity->seen = 0;
	return true;
}

/* Takes some bytes of a body; returns how many. */
static size_t
take_body(CpCapacity *capacity, const uint8 *bytes, size_t n)
{
	size_t taken = Min(n, capacity->size - capacity->seen);

	if (capacity->seen < CP_CAPACITY_MAX_BODY)
		memcpy(capacity->body + capacity->seen, bytes,
			   Min(taken, CP_CAPACITY_MAX_BODY - capacity->seen));
	capacity->seen += taken;
	return taken;
}

/* False if the connection is not to be used any more. */
static bool
take_bytes(CpCapacity *capacity, const uint8 *bytes, size_t n)
{
	while (n > 0)
	{
		size_t taken = 1;

		if (capacity->is_ready)
			return false;
		if (capacity->have < (int) sizeof(capacity->header))
		{
			capacity->header[capacity->have++] = *bytes;
			if (capacity->have == (int) sizeof(capacity->header) && !take_header(capacity))
				return false;
		}
		else
			taken = take_body(capacity, bytes, n);
		bytes += taken;
		n -= taken;
		if (capacity->have == (int) sizeof(capacity->header) && capacity->seen == capacity->size)
		{
			capacity->have = 0;
			if (!take_message(capacity))
				return false;
		}
	}
	return true;
}

/* As with a ping: what comes behind the answer counts, too. */
CpPingStatus
cp_capacity_read(CpCapacity *capacity, int fd)
{
	for (;;)
	{
		uint8 buffer[READ_SIZE];
		ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return capacity->is_ready ? CP_PING_ALIVE : CP_PING_WAIT;
		if (n <= 0 || n > MAX_ANSWER - capacity->received || !take_bytes(capacity, buffer, n))
			return CP_PING_DEAD;
		capacity->received += n;
	}
}
