/*
 * tunnel_line.c
 *		Lines: the encrypted connections that a tunnel owns.
 *
 * Runs in the tunnel, served by its loop.  A line is a TLS session with a remote and
 * one end of a socket pair, between which a pump (pump.c) passes bytes; the other end
 * is what the pool shares.  Its greeting says by which number it is found when a
 * statement is to be cancelled.  What a pump tells of a connection that was lost may
 * be the remote's words.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "pump.h"
#include "secret.h"
#include "tunnel_internal.h"

/* between two lines in the log about a pool's connections, milliseconds */
#define REPORT_PAUSE 1000
/* bytes of an error in the log */
#define ERROR_LEN 512
/*
 * Bytes of a socket pair's buffer for what is sent to a remote, as far as the kernel
 * allows: whenever it was full libpq moves all that it has not sent yet, so that a
 * long text would take time by the square of its length.
 */
#define SEND_BUFFER (1024 * 1024)

struct CpLine
{
	CpChore chore;
	uint64 id; /* the key of `lines` */
	CpPump *pump;
	int pool;
	char pool_name[CP_POOL_NAME_LEN];
	char address[CP_ADDRESS_LEN];
	int refused_sock; /* of the order, if nobody has taken the other end; else -1 */
	/* who cancels must know these */
	int pid;
	int key_len;
	uint8 key[CP_CANCEL_KEY_MAX];
	dlist_node node;
};

typedef struct LineEntry
{
	uint64 id;
	CpLine *line;
} LineEntry;

/* What the log is told of a pool's lost connections. */
typedef struct Report
{
	CpTime told_at;
	int left_out; /* since then */
	char pool_name[CP_POOL_NAME_LEN];
} Report;

static HTAB *lines = NULL;
static dlist_head line_list = DLIST_STATIC_INIT(line_list);
static uint64 next_id;
static Report *reports; /* per pool */
static bool reports_left_out = false;

void
cp_line_init(void)
{
	HASHCTL control = {
		.keysize = sizeof(uint64),
		.entrysize = sizeof(LineEntry),
		.hcxt = cp_tunnel_context,
	};

	lines = hash_create("conpool lines", 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	reports = MemoryContextAllocZero(cp_tunnel_context, cp_shared->max_pools * sizeof(Report));
	/* so that no connection of an earlier run has the number of one of this */
	if (!pg_strong_random(&next_id, sizeof(next_id)))
		next_id = (uint64) cp_now() << 20;
}

/* ---- the log --------------------------------------------------------------- */

/* Printable ASCII, and nothing that may hold a password. */
static void
copy_error(const char *text, char *copy, size_t size)
{
	strlcpy(copy, cp_secret_mask(text), size);
	for (char *p = copy; *p != '\0'; p++)
	{
		if (*p < ' ' || *p > '~')
			*p = '?';
	}
}

static void
report_loss(const CpLine *line, const char *error, CpTime now)
{
	Report *report = &reports[line->pool];
	char text[ERROR_LEN];

	if (report->told_at != 0 && now < cp_deadline(report->told_at, REPORT_PAUSE))
	{
		report->left_out++;
		reports_left_out = true;
		return;
	}
	report->told_at = now;
	strlcpy(report->pool_name, line->pool_name, sizeof(report->pool_name));
	copy_error(error, text, sizeof(text));
	ereport(LOG,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("encrypted connection of pool \"%s\" with %s was lost",
					line->pool_name, line->address),
			 errdetail_internal("%s", text)));
}

/* How many there were of which nothing was said.  True: some are still to be told. */
static bool
report_left_out(CpTime now)
{
	bool more = false;

	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		Report *report = &reports[i];

		if (report->left_out == 0)
			continue;
		if (now < cp_deadline(report->told_at, REPORT_PAUSE))
		{
			more = true;
			continue;
		}
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg_plural("%d more encrypted connection of pool \"%s\" was lost",
							   "%d more encrypted connections of pool \"%s\" were lost",
							   report->left_out, report->left_out, report->pool_name)));
		report->told_at = now;
		report->left_out = 0;
	}
	return more;
}

/* ---- passing bytes --------------------------------------------------------- */

static void
count_bytes(CpLine *line)
{
	uint64 sent;
	uint64 received;

	cp_pump_take_counts(line->pump, &sent, &received);
	if (sent > 0)
		pg_atomic_fetch_add_u64(&cp_tunnel_shared->bytes_sent, sent);
	if (received > 0)
		pg_atomic_fetch_add_u64(&cp_tunnel_shared->bytes_received, received);
}

/* Takes it out of everything; its pump is closed or was never opened. */
static void
free_line(CpLine *line)
{
	hash_search(lines, &line->id, HASH_REMOVE, NULL);
	dlist_delete(&line->node);
	pg_atomic_fetch_sub_u32(&cp_tunnel_shared->connections, 1);
	cp_chore_end(&line->chore);
	if (line->refused_sock >= 0)
		close(line->refused_sock);
	explicit_bzero(line, sizeof(*line));
	pfree(line);
}

static void
close_line(CpLine *line)
{
	count_bytes(line);
	cp_pump_close(line->pump);
	free_line(line);
}

static void
serve_line(CpChore *chore, CpTime now)
{
	CpLine *line = (CpLine *) chore;
	const char *error;

	switch (cp_pump_run(line->pump, now))
	{
		case CP_PUMP_WAITS:
			cp_chore_set_deadline(chore, cp_pump_deadline(line->pump));
			break;
		case CP_PUMP_HAS_MORE:
			cp_chore_ready(chore);
			break;
		case CP_PUMP_OVER:
			error = cp_pump_error(line->pump);
			if (error != NULL)
				report_loss(line, error, now);
			close_line(line);
			break;
	}
}

bool
cp_line_tick(CpTime now)
{
	dlist_iter i;

	dlist_foreach(i, &line_list)
	{
		count_bytes(dlist_container(CpLine, node, i.cur));
	}
	if (reports_left_out)
		reports_left_out = report_left_out(now);
	return reports_left_out;
}

void
cp_line_close_all(void)
{
	while (!dlist_is_empty(&line_list))
		close_line(dlist_head_element(CpLine, node, &line_list));
}

/* ---- opening --------------------------------------------------------------- */

/* Two connected sockets, ours and the other end, non-blocking and closed on exec. */
static bool
make_pair(int pair[2])
{
	int size = SEND_BUFFER;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return false;
	(void) setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	for (int i = 0; i < 2; i++)
	{
		if (fcntl(pair[i], F_SETFD, FD_CLOEXEC) < 0 || !pg_set_noblock(pair[i]))
		{
			close(pair[0]);
			close(pair[1]);
			return false;
		}
	}
	return true;
}

static void
copy_attribute(PGconn *conn, const char *name, char *to, size_t size)
{
	const char *value = PQsslAttribute(conn, name);

	strlcpy(to, value != NULL ? value : "", size);
}

/* The greeting, with the way to the remote server. */
static void
fill_greeting(const CpRemote *remote, uint64 id, CpGreeting *greeting)
{
	CpPassage *passage = &greeting->passage;

	*greeting = remote->greeting;
	passage->tunnel = cp_tunnel_number;
	passage->id = id;
	passage->peer = remote->peer;
	passage->peer_len = remote->peer_len;
	copy_attribute(remote->conn, "protocol", passage->tls_version, sizeof(passage->tls_version));
	copy_attribute(remote->conn, "cipher", passage->tls_cipher, sizeof(passage->tls_cipher));
}

/* A line without a pump, entered everywhere. */
static CpLine *
make_line(CpRemote *remote, const CpTunnelOrder *order, const CpGreeting *greeting)
{
	CpLine *line = MemoryContextAllocZero(cp_tunnel_context, sizeof(CpLine));
	LineEntry *entry;

	cp_chore_begin(&line->chore, serve_line);
	line->id = greeting->passage.id;
	line->pool = order->pool;
	line->refused_sock = -1;
	strlcpy(line->pool_name, order->pool_name, sizeof(line->pool_name));
	cp_remote_address(remote, line->address, sizeof(line->address));
	line->pid = greeting->pid;
	line->key_len = greeting->key_len;
	memcpy(line->key, greeting->key, greeting->key_len);
	entry = hash_search(lines, &line->id, HASH_ENTER, NULL);
	entry->line = line;
	dlist_push_tail(&line_list, &line->node);
	pg_atomic_fetch_add_u32(&cp_tunnel_shared->connections, 1);
	return line;
}

CpLine *
cp_line_open(CpRemote *remote, const CpTunnelOrder *order, CpGreeting *greeting, int *other)
{
	int pair[2];
	CpLine *line;
	const char *error;

	if (!make_pair(pair))
	{
		ereport(LOG,
				(errcode_for_socket_access(),
				 errmsg("could not create a socket: %m")));
		cp_remote_await_eof(cp_remote_end(remote), 0);
		return NULL;
	}
	fill_greeting(remote, next_id++, greeting);
	line = make_line(remote, order, greeting);
	line->pump = cp_pump_open(cp_remote_take_conn(remote), pair[0], &line->chore, &error);
	if (line->pump == NULL)
	{
		ereport(LOG,
				(errmsg("conpool's tunnel could not take a connection over: %s", error)));
		free_line(line);
		close(pair[1]);
		return NULL;
	}
	cp_chore_ready(&line->chore);
	*other = pair[1];
	return line;
}

void
cp_line_was_refused(CpLine *line, int other, int sock)
{
	static const char terminate[] = {'X', 0, 0, 0, 4};
	ssize_t sent;

	sent = send(other, terminate, sizeof(terminate), 0);
	(void) sent;
	close(other);
	line->refused_sock = sock;
}

/* ---- cancels --------------------------------------------------------------- */

PGconn *
cp_line_find(const CpTunnelCancel *cancel, int *pool)
{
	const LineEntry *entry = hash_search(lines, &cancel->id, HASH_FIND, NULL);
	const CpLine *line = entry != NULL ? entry->line : NULL;

	if (line == NULL || cancel->pid != line->pid || cancel->key_len != line->key_len ||
		memcmp(cancel->key, line->key, line->key_len) != 0)
		return NULL;
	*pool = line->pool;
	return cp_pump_conn(line->pump);
}
