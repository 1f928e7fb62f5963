/*
 * adopt.c
 *		Makes a libpq connection of a socket that another process opened.
 *
 * Runs in client backends and in the broker; called by remote.c alone.  Must
 * never wait for another process, and never say a word to the remote server.
 *
 * libpq cannot be given a socket, but its socket can be replaced.  We listen
 * on a Unix socket, have libpq connect to it, answer its startup packet with
 * the greeting that was recorded when the real connection was opened, and put
 * the real socket over libpq's.
 */
#include "postgres.h"

#include "adopt.h"

#include <fcntl.h>
#include <unistd.h>

#include "compat.h"
#include "miscadmin.h"
#include "net.h"
#include "pgstat.h"

/* our own data directory, short and right wherever it is moved to */
#define PROC_CWD "/proc/self/cwd"

/* calls of PQconnectPoll() that may be needed when all input is there */
#define MAX_POLLS 16

/*
 * Values for libpq options, so that neither the environment nor a default of
 * libpq's reaches the connection with ourselves.  Others that have an
 * environment variable get their compiled-in default, or an empty value; the
 * rest cannot be set from outside once PGSERVICE is out of the way.
 */
static const struct
{
	const char *keyword;
	const char *value;
} neutral_options[] = {
	{"user", "conpool"},
	{"dbname", "conpool"},
	{"password", "none"}, /* or password files would be read */
	{"sslmode", "disable"},
	{"sslcertmode", "disable"}, /* an empty value is an error */
	{"gssencmode", "disable"},
	{"channel_binding", "disable"},
	{"target_session_attrs", "any"},
	{"min_protocol_version", "3.0"},
	{"max_protocol_version", "3.0"},
};

static const char *
neutral_value(const PQconninfoOption *option)
{
	int i;

	for (i = 0; i < lengthof(neutral_options); i++)
	{
		if (strcmp(option->keyword, neutral_options[i].keyword) == 0)
			return neutral_options[i].value;
	}
	if (option->envvar == NULL)
		return NULL;
	return option->compiled ? option->compiled : "";
}

/* Appends keyword='value'; false when it does not fit. */
static bool
append_option(char *conninfo, size_t size, const char *keyword, const char *value)
{
	size_t len = strlen(conninfo);
	const char *p;

	len += snprintf(conninfo + len, size - len, "%s='", keyword);
	for (p = value; *p != '\0' && len < size - 4; p++)
	{
		if (*p == '\'' || *p == '\\')
			conninfo[len++] = '\\';
		conninfo[len++] = *p;
	}
	if (*p != '\0' || len >= size - 4)
		return false;
	strcpy(conninfo + len, "' ");
	return true;
}

/* One for each process at a time: the number of its PGPROC makes it unique. */
static int
listener_port(void)
{
	return 1 + CP_MY_PROC_NUMBER % 65535;
}

/* libpq wants an absolute path for the directory of the socket. */
static bool
append_address(char *conninfo, size_t size)
{
	char directory[MAXPGPATH];
	char port[16];

	if (access(PROC_CWD "/" PG_STAT_TMP_DIR, X_OK) == 0)
		strlcpy(directory, PROC_CWD "/" PG_STAT_TMP_DIR, sizeof(directory));
	else
		snprintf(directory, sizeof(directory), "%s/%s", DataDir, PG_STAT_TMP_DIR);
	snprintf(port, sizeof(port), "%d", listener_port());
	return append_option(conninfo, size, "host", directory) &&
		append_option(conninfo, size, "port", port);
}

static bool
append_neutral_options(char *conninfo, size_t size)
{
	PQconninfoOption *defaults = PQconndefaults();
	const PQconninfoOption *option;
	bool ok = defaults != NULL;

	for (option = defaults; ok && option->keyword != NULL; option++)
	{
		const char *value;

		if (strcmp(option->keyword, "host") == 0 ||
			strcmp(option->keyword, "port") == 0 ||
			strcmp(option->keyword, "service") == 0)
			continue;
		value = neutral_value(option);
		if (value != NULL)
			ok = append_option(conninfo, size, option->keyword, value);
	}
	PQconninfoFree(defaults);
	return ok;
}

/*
 * The connection string by which libpq finds this process, made once.  A
 * string and not arrays: those would treat empty values as unset.
 */
static const char *
own_conninfo(void)
{
	static char conninfo[4096];
	static bool complete = false;

	if (!complete)
	{
		conninfo[0] = '\0';
		complete = append_address(conninfo, sizeof(conninfo)) &&
			append_neutral_options(conninfo, sizeof(conninfo));
	}
	return complete ? conninfo : NULL;
}

/*
 * Connects to our own listener.  NULL, or a PGconn whose state is BAD, when
 * that fails.  PGSERVICE would be obeyed whatever the options say, even an
 * empty "service", so it is put out of sight meanwhile.
 */
static PGconn *
connect_to_self(void)
{
	const char *service = getenv("PGSERVICE");
	char *hidden = NULL;
	const char *conninfo;
	PGconn *conn = NULL;

	if (service != NULL)
	{
		hidden = strdup(service);
		if (hidden == NULL)
			return NULL;
		unsetenv("PGSERVICE");
	}

	conninfo = own_conninfo();
	if (conninfo != NULL)
		conn = PQconnectStart(conninfo);

	if (hidden != NULL)
	{
		setenv("PGSERVICE", hidden, 1);
		free(hidden);
	}
	return conn;
}

/* The server side of libpq's connection, whoever else may have connected. */
static int
accept_self(int listener)
{
	for (;;)
	{
		int peer = cp_net_accept(listener);
		int pid;

		if (peer < 0)
			return -1;
		if (cp_net_peer_is_ours(peer, &pid) && (pid == -1 || pid == MyProcPid))
			return peer;
		close(peer);
	}
}

/* Plays the server: libpq gets the greeting and takes itself for connected. */
static bool
greet(PGconn *conn, int listener, const CpGreeting *greeting)
{
	PostgresPollingStatusType state = PGRES_POLLING_READING;
	int peer = accept_self(listener);
	int i;

	if (peer < 0)
		return false;
	if (send(peer, greeting->bytes, greeting->len, 0) != greeting->len)
		state = PGRES_POLLING_FAILED;
	for (i = 0; i < MAX_POLLS && state != PGRES_POLLING_OK && state != PGRES_POLLING_FAILED; i++)
		state = PQconnectPoll(conn);
	close(peer);
	return state == PGRES_POLLING_OK;
}

PGconn *
cp_adopt(int fd, const CpGreeting *greeting, const char **error)
{
	char path[MAXPGPATH];
	int listener;
	PGconn *conn;

	/* relative to the data directory, which every server process is in */
	snprintf(path, sizeof(path), "%s/.s.PGSQL.%d", PG_STAT_TMP_DIR, listener_port());
	listener = cp_net_listen(path, 8);
	if (listener < 0)
	{
		*error = "could not create a socket in \"" PG_STAT_TMP_DIR "\"";
		return NULL;
	}

	conn = connect_to_self();
	if (conn == NULL || PQstatus(conn) == CONNECTION_BAD ||
		!greet(conn, listener, greeting) ||
		PQsetnonblocking(conn, 1) != 0 ||
		!cp_net_put_over(fd, PQsocket(conn)))
	{
		*error = "could not hand a socket to libpq";
		PQfinish(conn);
		conn = NULL;
	}
	unlink(path);
	close(listener);
	return conn;
}
