/*
 * probe.c
 *		Can a remote's hosts be reached?  Looks their names up, and connects to
 *		them without a word.
 *
 * Runs in client backends, called by borrow_open.c and diagnose.c.  Must never wait without
 * serving interrupts, nor leave a socket behind.
 *
 * Names are looked up in threads (resolver.c), as in the dialer: a name server
 * that does not answer would otherwise hold the session up for minutes.  The pipe
 * that tells of their end is made with the first lookup and kept.
 */
#include "postgres.h"

#include "probe.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "common/ip.h"
#include "lib/stringinfo.h"
#include "libpq/pqcomm.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"

#include "net.h"
#include "wait_events.h"

/* Where a host listens. */
typedef struct Address
{
	struct sockaddr_storage bytes;
	socklen_t len;
} Address;

/* ---- waiting ---- */

/* Waits for the descriptor, serving interrupts; false if the deadline has passed. */
static bool
wait_for(int fd, int wanted, CpTime deadline)
{
	for (;;)
	{
		long timeout = cp_timeout_ms(deadline);
		int events = WaitLatchOrSocket(MyLatch,
									   WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | wanted |
										   (timeout >= 0 ? WL_TIMEOUT : 0),
									   fd, timeout, cp_wait_event(CP_WAIT_CONNECT));

		if (events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (events & wanted)
			return true;
		if (cp_now() >= deadline)
			return false;
	}
}

/* ---- names ---- */

/* The reading end of the resolver's pipe, or -1. */
static int
resolver_pipe(void)
{
	static int pipe_end = -1;
	static bool is_made = false;

	if (!is_made)
	{
		is_made = true;
		pipe_end = cp_resolver_init();
		/* both ends count, whatever the limit is: they are there for good */
		if (pipe_end >= 0)
		{
			ReserveExternalFD();
			ReserveExternalFD();
		}
	}
	return pipe_end;
}

/* Takes up what is done; returns how many are still being looked up. */
static int
collect(CpProbedName *names, int n, CpTime start)
{
	int pending = 0;

	for (int i = 0; i < n; i++)
	{
		CpProbedName *name = &names[i];

		if (name->is_done)
			continue;
		if (!cp_resolver_done(name->lookup, &name->addresses, &name->count, &name->error))
		{
			pending++;
			continue;
		}
		name->lookup = NULL;
		name->is_done = true;
		name->taken = cp_now() - start;
	}
	return pending;
}

static void
start_lookups(CpProbedName *names, int n)
{
	for (int i = 0; i < n; i++)
	{
		const char *name = names[i].name;
		/* each counts for itself: one that hangs time and again holds up no other */
		int owner = (int) hash_bytes((const unsigned char *) name, strlen(name));

		names[i].lookup = cp_resolver_start(name, owner, true);
		if (names[i].lookup == NULL)
		{
			names[i].error = _("too many lookups of names are under way");
			names[i].is_stuck = names[i].is_done = true;
		}
	}
}

/* What is not done is waited for no longer. */
static void
abandon(CpProbedName *names, int n, CpTime start)
{
	for (int i = 0; i < n; i++)
	{
		CpProbedName *name = &names[i];

		if (name->lookup == NULL)
			continue;
		cp_resolver_abandon(name->lookup);
		name->lookup = NULL;
		name->is_done = true;
		name->is_stuck = true;
		name->error = _("no answer");
		name->taken = cp_now() - start;
	}
}

static bool
is_any_found(const CpProbedName *names, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (names[i].count > 0)
			return true;
	}
	return false;
}

void
cp_probe_names(CpProbedName *names, int n, CpTime patience, CpTime deadline)
{
	CpTime start = cp_now();
	int pipe_end = resolver_pipe();

	if (pipe_end < 0)
	{
		for (int i = 0; i < n; i++)
			names[i].error = _("no pipe could be made for looking it up");
		return;
	}
	PG_TRY();
	{
		start_lookups(names, n);
		while (collect(names, n, start) > 0 &&
			   wait_for(pipe_end, WL_SOCKET_READABLE,
						is_any_found(names, n) ? patience : deadline))
			cp_resolver_drain();
	}
	PG_FINALLY();
	{
		abandon(names, n, start);
	}
	PG_END_TRY();
}

CpProbedName *
cp_probe_list(const CpHost *hosts, int n, int *count)
{
	CpProbedName *names = palloc0(Max(n, 1) * sizeof(CpProbedName));

	*count = 0;
	for (int i = 0; i < n; i++)
	{
		if (cp_host_is_name(&hosts[i]))
			names[(*count)++].name = hosts[i].host;
	}
	return names;
}

CpFoundHost *
cp_probe_found(const CpHost *hosts, int n, const CpProbedName *names)
{
	CpFoundHost *found = palloc0(Max(n, 1) * sizeof(CpFoundHost));

	for (int i = 0; i < n; i++)
	{
		found[i].given = hosts[i];
		if (!cp_host_is_name(&hosts[i]))
			continue;
		found[i].addresses = names->addresses;
		found[i].count = names->count;
		names++;
	}
	return found;
}

static char *
describe_failures(const CpProbedName *names, int n)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < n; i++)
		appendStringInfo(&text, _("%scould not translate host name \"%s\" to address: %s"),
						 i > 0 ? "\n" : "", names[i].name, names[i].error);
	return text.data;
}

char *
cp_probe_resolve(const char *const *keywords, const char *const *values, CpTime deadline,
				 const char *const **new_keywords, const char *const **new_values)
{
	CpHost *hosts;
	int n = cp_hosts_split(keywords, values, &hosts);
	CpTime now = cp_now();
	CpTime patience = deadline;
	CpProbedName *names;
	int count;
	const char **resolved_keywords;
	const char **resolved_values;

	*new_keywords = keywords;
	*new_values = values;
	if (n <= 0)
		return NULL;
	names = cp_probe_list(hosts, n, &count);
	if (count == 0)
		return NULL;
	/* as in hosts.c: one of several must leave time for the others */
	if (deadline != CP_FOREVER)
		patience = now + Max(deadline - now, 0) / n;
	cp_probe_names(names, count, patience, count < n ? patience : deadline);
	if (!cp_hosts_resolve(keywords, values, cp_probe_found(hosts, n, names), n,
						  &resolved_keywords, &resolved_values))
		return describe_failures(names, count);
	*new_keywords = (const char *const *) resolved_keywords;
	*new_values = (const char *const *) resolved_values;
	return NULL;
}

/* ---- connecting ---- */

/* libpq's defaults where nothing is given, not even by the environment */
static const char *
port_of(const CpHost *host)
{
	return host->port != NULL ? host->port : DEF_PGPORT_STR;
}

static const char *
host_of(const CpHost *host)
{
	if (host->hostaddr != NULL)
		return host->hostaddr;
	if (host->host != NULL)
		return host->host;
	return DEFAULT_PGSOCKET_DIR[0] != '\0' ? DEFAULT_PGSOCKET_DIR : "127.0.0.1";
}

/* The path of the socket in a directory. */
static char *
socket_path(const char *directory, const char *port)
{
	char path[MAXPGPATH];

	UNIXSOCK_PATH(path, (int) strtol(port, NULL, 10), directory);
	return pstrdup(path);
}

char *
cp_probe_describe(const CpHost *host)
{
	const char *where = host_of(host);
	const char *port = port_of(host);

	if (is_unixsock_path(where))
		return socket_path(where, port);
	return psprintf(strchr(where, ':') != NULL ? "[%s]:%s" : "%s:%s", where, port);
}

/* NULL, or why it has no address. */
static const char *
find_address(const CpHost *host, Address *address)
{
	const char *where = host_of(host);
	const char *port = port_of(host);
	bool is_path = is_unixsock_path(where);
	struct addrinfo hint = {
		.ai_family = is_path ? AF_UNIX : AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
	};
	struct addrinfo *found = NULL;
	int error = pg_getaddrinfo_all(is_path ? NULL : where,
								   is_path ? socket_path(where, port) : port, &hint, &found);

	if (error != 0 || found == NULL)
		return error != 0 ? pstrdup(gai_strerror(error)) : _("it has no address");
	address->len = Min(found->ai_addrlen, sizeof(address->bytes));
	memcpy(&address->bytes, found->ai_addr, address->len);
	pg_freeaddrinfo_all(hint.ai_family, found);
	return NULL;
}

/* Why a connect failed, with errno as it left it. */
static const char *
describe_errno(int error)
{
	if (error == EAGAIN || error == EWOULDBLOCK)
		return _("too many connections wait to be accepted");
	return pstrdup(strerror(error));
}

static const char *
connect_socket(int sock, const Address *address, CpTime deadline)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (connect(sock, (const struct sockaddr *) &address->bytes, address->len) == 0)
		return NULL;
	if (errno != EINPROGRESS && errno != EINTR)
		return describe_errno(errno);
	if (!wait_for(sock, WL_SOCKET_WRITEABLE, deadline))
		return _("no answer");
	if (getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	return error != 0 ? describe_errno(error) : NULL;
}

const char *
cp_probe_connect(const CpHost *host, CpTime deadline, CpTime *taken)
{
	CpTime start = cp_now();
	Address address = {0};
	const char *error = find_address(host, &address);
	int sock;

	if (error != NULL)
		return error;
	if (!AcquireExternalFD())
		return _("out of file descriptors");
	sock = cp_net_socket(address.bytes.ss_family);
	if (sock < 0)
		error = describe_errno(errno);
	PG_TRY();
	{
		if (sock >= 0)
			error = connect_socket(sock, &address, deadline);
	}
	PG_FINALLY();
	{
		if (sock >= 0)
			close(sock);
		ReleaseExternalFD();
	}
	PG_END_TRY();
	*taken = cp_now() - start;
	return error;
}
