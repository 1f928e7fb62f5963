/*
 * pump.c
 *		One encrypted connection: bytes passed between its TLS session and a local
 *		socket.
 *
 * Runs in the tunnel, called by its main loop.  Must never block, throw, or call a
 * function of libpq's that reads from the connection or writes to it.
 *
 * libpq's own BIO reads and writes the remote socket.  A callback on it keeps the
 * flags of that socket (watch.h): it does not let a call through of which it is known
 * that it would get EAGAIN, nor more than is fair in one run.  So OpenSSL may be called
 * at any time, costs no system call in vain, and it does not matter which of its calls
 * waits for which direction: whenever anything changes, both are tried.
 *
 * How it ends:
 *
 *   local side has ended    what it wrote is passed on, then close_notify and end of
 *                           file.  What the remote still sends is passed on as well.
 *   local side is gone      likewise, but what the remote sends is thrown away.
 *   remote side has ended   what it sent is passed on, however long that takes if
 *                           there is still somebody to read it, then end of file.  What
 *                           the local side writes is thrown away.
 *
 * In the first two cases, and when nothing more can be sent, the rest must not stand
 * still for longer than PATIENCE.
 */
#include "postgres.h"

#include "pump.h"

#include <sys/socket.h>
#include <unistd.h>

#ifdef CP_USE_OPENSSL
#include <openssl/err.h>
#include <openssl/ssl.h>
#if OPENSSL_VERSION_NUMBER >= 0x10101000L
#define IS_BUILT
#endif
#endif

#ifdef IS_BUILT

#include "net.h"
#include "utils/memutils.h"

/* bytes passed in one run, each way */
#define FAIR_SHARE (64 * 1024)

/* what a read from the network counts at least, however little there was */
#define READ_COST 512

/*
 * How long a side may take to follow the other's end, milliseconds; a little less than
 * the broker waits for a connection that it ends, before its slot is another's.
 */
#define PATIENCE 1800

/* Bytes that one side has not taken yet.  There is a buffer only if there are any. */
typedef struct Held
{
	char *bytes;
	int begin;
	int end;
} Held;

struct CpPump
{
	PGconn *conn;
	SSL *ssl;
	CpWatched remote;
	CpWatched local;
	Held for_remote;
	Held for_local;
	bool local_ended;  /* it writes no more, and all of it was read */
	bool local_gone;   /* it does not read any more */
	bool remote_told;  /* that the local side has ended */
	bool remote_ended; /* nothing more can be read */
	bool remote_deaf;  /* nothing that is written arrives */
	bool out_of_memory;
	bool ending;	   /* it must not stand still any more */
	CpTime moved_at;   /* when somebody last took something; since then it stands still */
	int network_errno; /* of the last call on the remote socket that failed */
	const char *error; /* NULL = none yet */
	char error_text[256];
	/* bytes since they were last asked for */
	uint64 sent;
	uint64 received;
	/* of this run */
	CpTime now;
	int network_share; /* bytes that may still be read from the network */
	bool interrupted;  /* for the sake of fairness */
};

/* on their way; whatever cannot be passed on at once is copied */
static char scratch[CP_PUMP_BUFFER];

/* ---- what is held up ---- */

static bool
holds(const Held *held)
{
	return held->bytes != NULL;
}

static void
drop_held(Held *held)
{
	if (held->bytes != NULL)
		pfree(held->bytes);
	held->bytes = NULL;
}

static void
hold(CpPump *pump, Held *held, const char *bytes, int n)
{
	Assert(!holds(held) && n > 0 && n <= CP_PUMP_BUFFER);
	held->bytes = MemoryContextAllocExtended(TopMemoryContext, CP_PUMP_BUFFER,
											 MCXT_ALLOC_NO_OOM);
	if (held->bytes == NULL)
	{
		pump->out_of_memory = true;
		pump->error = "out of memory";
		return;
	}
	memcpy(held->bytes, bytes, n);
	held->begin = 0;
	held->end = n;
}

static void
take_from(Held *held, int n)
{
	held->begin += n;
	if (held->begin >= held->end)
		drop_held(held);
}

/* ---- the remote socket ---- */

/* A call that is not made: to OpenSSL it has got EAGAIN. */
static long
put_off(BIO *bio, int which)
{
	BIO_clear_retry_flags(bio);
	BIO_set_flags(bio, which | BIO_FLAGS_SHOULD_RETRY);
	return -1;
}

static void
note_network_read(CpPump *pump, BIO *bio, size_t room, size_t got)
{
	if (got > 0)
	{
		pump->network_share -= Max((int) got, READ_COST);
		if (got < room && !pump->remote.ended)
			pump->remote.readable = false;
	}
	else if (!BIO_should_retry(bio))
		pump->network_errno = errno;
	else if (errno != EINTR)
		pump->remote.readable = false;
}

/*
 * libpq keeps failed writes to itself, so that what the server had to say last can
 * still be read; they count as done, and so do all later ones.  Only errno tells.
 */
static void
note_network_write(CpPump *pump, BIO *bio, bool done)
{
	if (done)
		pump->remote_deaf |= errno != 0;
	else if (!BIO_should_retry(bio))
		pump->network_errno = errno;
	else if (errno != EINTR)
		cp_watch_await_room(&pump->remote);
}

/* A BIO_callback_fn_ex. */
static long
on_network(BIO *bio, int operation, const char *bytes, size_t size, int argi, long argl,
		   int result, size_t *processed)
{
	CpPump *pump = (CpPump *) BIO_get_callback_arg(bio);

	switch (operation)
	{
		case BIO_CB_READ:
			if (!pump->remote.readable || pump->network_share <= 0)
				return put_off(bio, BIO_FLAGS_READ);
			break;
		case BIO_CB_READ | BIO_CB_RETURN:
			note_network_read(pump, bio, size, result > 0 ? *processed : 0);
			break;
		case BIO_CB_WRITE:
			if (!pump->remote.writable)
				return put_off(bio, BIO_FLAGS_WRITE);
			errno = 0;
			break;
		case BIO_CB_WRITE | BIO_CB_RETURN:
			note_network_write(pump, bio, result > 0);
			break;
	}
	return result;
}

/* ---- the TLS session ---- */

/* Did the remote's end of file come without close_notify? */
static bool
is_abrupt_end(const CpPump *pump, int failure, unsigned long code)
{
	if (failure == SSL_ERROR_SYSCALL)
		return pump->network_errno == 0;
#ifdef SSL_R_UNEXPECTED_EOF_WHILE_READING
	return ERR_GET_LIB(code) == ERR_LIB_SSL &&
		ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
#else
	return false;
#endif
}

/* Why a call failed for good; the oldest error of the queue is the cause. */
static const char *
describe_failure(CpPump *pump, int failure)
{
	unsigned long code = ERR_get_error();
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

	if (is_abrupt_end(pump, failure, code))
		return "the remote server closed the connection without ending TLS";
	if (failure == SSL_ERROR_SYSCALL)
		snprintf(pump->error_text, sizeof(pump->error_text), "%s",
				 strerror(pump->network_errno));
	else if (reason != NULL)
		snprintf(pump->error_text, sizeof(pump->error_text), "TLS error: %s", reason);
	else
		snprintf(pump->error_text, sizeof(pump->error_text), "TLS error %lu", code);
	return pump->error_text;
}

/* After a call that did not do what it should: it is put off, or that was the end. */
static void
note_tls_result(CpPump *pump, int result)
{
	int why = SSL_get_error(pump->ssl, result);

	if (why == SSL_ERROR_WANT_READ)
		pump->interrupted |= pump->remote.readable;
	else if (why == SSL_ERROR_WANT_WRITE)
		pump->interrupted |= pump->remote.writable;
	else
	{
		pump->remote_ended = true;
		/* who was told that we have ended may end as he likes */
		if (why != SSL_ERROR_ZERO_RETURN && !pump->remote_told)
			pump->error = describe_failure(pump, why);
	}
}

/* SSL_get_error() wants nothing in the queue that was there before the call. */
static void
begin_tls_call(CpPump *pump)
{
	ERR_clear_error();
	pump->network_errno = 0;
}

/* Fills the scratch buffer as far as there is something; returns the bytes. */
static int
read_remote(CpPump *pump)
{
	int filled = 0;

	while (filled < (int) sizeof(scratch) && !pump->remote_ended)
	{
		int n;

		begin_tls_call(pump);
		n = SSL_read(pump->ssl, scratch + filled, sizeof(scratch) - filled);
		if (n <= 0)
		{
			note_tls_result(pump, n);
			break;
		}
		filled += n;
	}
	pump->received += filled;
	return filled;
}

/*
 * Returns the bytes taken.  If that is 0, it must be given the same again: OpenSSL may
 * have sent a part of it.
 */
static int
write_remote(CpPump *pump, const char *bytes, int n)
{
	int written;

	if (pump->remote_ended)
		return n;
	begin_tls_call(pump);
	written = SSL_write(pump->ssl, bytes, n);
	if (written <= 0)
	{
		note_tls_result(pump, written);
		return 0;
	}
	pump->sent += written;
	pump->moved_at = pump->now;
	return written;
}

/* close_notify and end of file, once there is room for that. */
static void
tell_remote(CpPump *pump)
{
	int result;

	begin_tls_call(pump);
	result = SSL_shutdown(pump->ssl);
	if (result < 0 && SSL_get_error(pump->ssl, result) == SSL_ERROR_WANT_WRITE)
	{
		pump->interrupted |= pump->remote.writable;
		return;
	}
	pump->remote_told = true;
	shutdown(pump->remote.fd, SHUT_WR);
}

/* ---- the local socket ---- */

/* Fills the scratch buffer with what there is; returns the bytes, 0 = nothing now. */
static int
read_local(CpPump *pump)
{
	bool nothing;
	ssize_t n;

	do
		n = recv(pump->local.fd, scratch, sizeof(scratch), 0);
	while (n < 0 && errno == EINTR);

	nothing = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
	if (nothing || (n > 0 && n < (ssize_t) sizeof(scratch) && !pump->local.ended))
		pump->local.readable = false;
	if (!nothing && n <= 0)
	{
		pump->local_ended = true;
		/* an error: it went without having read everything */
		pump->local_gone |= n < 0;
	}
	return Max((int) n, 0);
}

/* Returns the bytes taken; whoever is gone takes everything. */
static int
write_local(CpPump *pump, const char *bytes, int n)
{
	ssize_t written;

	if (pump->local_gone)
		return n;
	if (!pump->local.writable)
		return 0;
	do
		written = send(pump->local.fd, bytes, n, MSG_NOSIGNAL);
	while (written < 0 && errno == EINTR);

	if (written > 0)
	{
		pump->moved_at = pump->now;
		return (int) written;
	}
	if (errno == EAGAIN || errno == EWOULDBLOCK)
	{
		cp_watch_await_room(&pump->local);
		return 0;
	}
	pump->local_gone = true;
	return n;
}

/* ---- passing ---- */

/* Passes on, and holds what is not taken; false if there is such a rest. */
static bool
pass(CpPump *pump, Held *held, int (*write)(CpPump *, const char *, int),
	 const char *bytes, int n)
{
	int passed = 0;
	int written;

	while (passed < n && (written = write(pump, bytes + passed, n - passed)) > 0)
		passed += written;
	if (passed < n)
		hold(pump, held, bytes + passed, n - passed);
	return passed == n;
}

/* Passes on what is held; true if nothing is held any more. */
static bool
pass_held(CpPump *pump, Held *held, int (*write)(CpPump *, const char *, int))
{
	while (holds(held))
	{
		int written = write(pump, held->bytes + held->begin, held->end - held->begin);

		if (written == 0)
			return false;
		take_from(held, written);
	}
	return true;
}

static void
pass_to_local(CpPump *pump)
{
	bool passed = pass_held(pump, &pump->for_local, write_local);

	while (passed && !pump->remote_ended)
	{
		int n = read_remote(pump);

		if (n == 0)
			break;
		passed = pass(pump, &pump->for_local, write_local, scratch, n);
	}
}

static void
pass_to_remote(CpPump *pump)
{
	bool passed = pass_held(pump, &pump->for_remote, write_remote);
	int share = FAIR_SHARE;

	while (passed && !pump->local_ended && pump->local.readable && share > 0)
	{
		int n = read_local(pump);

		share -= n;
		passed = pass(pump, &pump->for_remote, write_remote, scratch, n);
	}
	if (passed && share <= 0)
		pump->interrupted = true;
	if (passed && pump->local_ended && !pump->remote_told && !pump->remote_ended)
		tell_remote(pump);
}

/* ---- a run ---- */

/* Notices that a side has ended, and sees whether that is all. */
static bool
is_over(CpPump *pump)
{
	if (pump->out_of_memory)
		return true;
	if (pump->remote_ended && (!holds(&pump->for_local) || pump->local_gone))
		return true;
	if (!pump->ending &&
		(pump->local_ended || pump->local.ended || pump->remote_deaf))
	{
		pump->ending = true;
		pump->moved_at = pump->now;
	}
	if (pump->now < cp_pump_deadline(pump))
		return false;
	if (pump->remote_deaf && !pump->remote_told && pump->error == NULL)
		pump->error = "could not send to the remote server";
	return true;
}

CpPumpState
cp_pump_run(CpPump *pump, CpTime now)
{
	int share;

	pump->now = now;
	pump->network_share = FAIR_SHARE;
	pump->interrupted = false;

	pass_to_local(pump);
	share = pump->network_share;
	pass_to_remote(pump);
	/* a write may have had to read first, and what it got may hold data */
	if (pump->network_share != share)
		pass_to_local(pump);

	if (is_over(pump))
		return CP_PUMP_OVER;
	pump->remote.wants_read = !pump->remote_ended && !holds(&pump->for_local);
	pump->local.wants_read = !pump->local_ended && !holds(&pump->for_remote);
	return pump->interrupted ? CP_PUMP_HAS_MORE : CP_PUMP_WAITS;
}

CpTime
cp_pump_deadline(const CpPump *pump)
{
	return pump->ending ? cp_deadline(pump->moved_at, PATIENCE) : CP_FOREVER;
}

const char *
cp_pump_error(const CpPump *pump)
{
	return pump->error;
}

void
cp_pump_take_counts(CpPump *pump, uint64 *sent, uint64 *received)
{
	*sent = pump->sent;
	*received = pump->received;
	pump->sent = pump->received = 0;
}

PGconn *
cp_pump_conn(const CpPump *pump)
{
	return pump->conn;
}

/* ---- its beginning and its end ---- */

bool
cp_pump_is_built(void)
{
	return true;
}

bool
cp_pump_can(PGconn *conn)
{
	SSL *ssl = PQsslStruct(conn, "OpenSSL");

	return ssl != NULL && SSL_get_rbio(ssl) != NULL &&
		SSL_get_rbio(ssl) == SSL_get_wbio(ssl);
}

/* Sets up what OpenSSL is to do and what not; the handshake is over. */
static void
prepare_tls(CpPump *pump)
{
	BIO *bio = SSL_get_rbio(pump->ssl);

	/*
	 * Tickets and the like are dealt with in passing: when a call is put off, it
	 * has read all there is.
	 */
	SSL_set_mode(pump->ssl, SSL_MODE_AUTO_RETRY | SSL_MODE_RELEASE_BUFFERS);
	SSL_set_mode(pump->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE);
	SSL_set_mode(pump->ssl, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	/* a handshake computes for too long to be made here */
	SSL_set_options(pump->ssl, SSL_OP_NO_RENEGOTIATION);
	/* header and contents of a record by one call */
	SSL_set_read_ahead(pump->ssl, 1);
	BIO_set_callback_arg(bio, (char *) pump);
	BIO_set_callback_ex(bio, on_network);
}

static CpPump *
make_pump(PGconn *conn, int local, void *owner, const char **error)
{
	CpPump *pump;

	if (!cp_pump_can(conn))
	{
		*error = "TLS is not by a library that can be used";
		return NULL;
	}
	pump = MemoryContextAllocExtended(TopMemoryContext, sizeof(CpPump),
									  MCXT_ALLOC_ZERO | MCXT_ALLOC_NO_OOM);
	if (pump == NULL)
	{
		*error = "out of memory";
		return NULL;
	}
	pump->conn = conn;
	pump->ssl = PQsslStruct(conn, "OpenSSL");
	pump->local.fd = -1;
	if (cp_watch_add(&pump->remote, PQsocket(conn), owner) &&
		cp_watch_add(&pump->local, local, owner))
		return pump;
	*error = "out of resources to watch a socket";
	cp_watch_remove(&pump->remote);
	pfree(pump);
	return NULL;
}

CpPump *
cp_pump_open(PGconn *conn, int local, void *owner, const char **error)
{
	CpPump *pump = make_pump(conn, local, owner, error);

	if (pump != NULL)
	{
		prepare_tls(pump);
		return pump;
	}
	/* it waits for nothing then */
	PQsetnonblocking(conn, 1);
	PQfinish(conn);
	close(local);
	return NULL;
}

/* What is left unread when a Unix socket is closed looks like an error to its peer. */
static void
end_local(int local)
{
	int left = 64;

	shutdown(local, SHUT_RDWR);
	while (left-- > 0 && recv(local, scratch, sizeof(scratch), 0) > 0)
		;
}

void
cp_pump_close(CpPump *pump)
{
	int local = pump->local.fd;
	int remote = pump->remote.fd;

	if (!pump->remote_told && pump->error == NULL)
		tell_remote(pump);
	BIO_set_callback_ex(SSL_get_rbio(pump->ssl), NULL);
	cp_watch_remove(&pump->remote);
	cp_watch_remove(&pump->local);

	end_local(local);
	shutdown(remote, SHUT_RDWR);
	/* a socket on which Terminate can be said to nobody */
	cp_net_put_over(local, remote);
	PQfinish(pump->conn);
	close(local);
	drop_held(&pump->for_remote);
	drop_held(&pump->for_local);
	pfree(pump);
}

#else /* !IS_BUILT */

bool
cp_pump_is_built(void)
{
	return false;
}

bool
cp_pump_can(PGconn *conn)
{
	return false;
}

CpPump *
cp_pump_open(PGconn *conn, int local, void *owner, const char **error)
{
	PQfinish(conn);
	close(local);
	*error = "built without OpenSSL";
	return NULL;
}

CpPumpState
cp_pump_run(CpPump *pump, CpTime now)
{
	return CP_PUMP_OVER;
}

CpTime
cp_pump_deadline(const CpPump *pump)
{
	return CP_FOREVER;
}

const char *
cp_pump_error(const CpPump *pump)
{
	return NULL;
}

void
cp_pump_take_counts(CpPump *pump, uint64 *sent, uint64 *received)
{
	*sent = *received = 0;
}

PGconn *
cp_pump_conn(const CpPump *pump)
{
	return NULL;
}

void
cp_pump_close(CpPump *pump)
{
}

#endif /* IS_BUILT */
