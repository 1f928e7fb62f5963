/*
 * resolver.c
 *		Looks host names up without blocking: getaddrinfo() in threads.
 *
 * Runs in the dialer, called by dialer.c, and in client backends, called by probe.c;
 * must never wait for a lookup.
 *
 * Threads, although a process of PostgreSQL has only one: getaddrinfo() knows
 * no time limit and cannot be interrupted, and nothing in POSIX can be waited
 * for in its place.  In the dialer itself, a name server that does not answer
 * would hold up all pools, and a session could not be cancelled; a process for
 * each lookup would take a slot of max_worker_processes, and would have to be
 * waited for at the server's end.  A thread that hangs costs a stack, and exit()
 * does not wait for it.
 *
 * What keeps that safe: a thread calls nothing but the C library.  It has all
 * signals blocked, so that PostgreSQL's handlers run where they always did; its
 * memory is from malloc; what it shares with the process is a CpLookup and the
 * number of threads, under a mutex, and a pipe.
 */
#include "postgres.h"

#include "resolver.h"

#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "storage/ipc.h"

#include "clock.h"

/* threads at once, those that nobody waits for any more included */
#define MAX_THREADS 64
/* of these, for one owner, and for all those that are not proven */
#define MAX_THREADS_OF_OWNER 4
#define MAX_UNPROVEN_THREADS 32
/* bytes of a thread's stack: the usual 8 MB count where memory is not overcommitted */
#define STACK_SIZE (1024 * 1024)

/* a lookup that has begun before is joined only so long after (milliseconds) */
#define JOIN_LIMIT (60 * 1000)

struct CpLookup
{
	/* the mutex */
	bool done;
	int users;		/* who waits for it; without any it is freed when it is done */
	CpLookup *next; /* in running, until it is done */
	/* the thread's until done, then the process's */
	int error; /* of getaddrinfo(), 0 = found */
	int system_error;
	struct addrinfo *found;
	/* fixed */
	CpTime begun;
	int owner;
	bool proven;
	char name[FLEXIBLE_ARRAY_MEMBER];
};

/* The mutex covers how many threads there are and what they look up. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int threads = 0;
static CpLookup *running = NULL;

/* reading and writing end; fixed before the first thread */
static int pipe_ends[2] = {-1, -1};

/* set when the process ends */
static int exit_code;

/* ---- in a thread ---- */

static void
free_lookup(CpLookup *lookup)
{
	if (lookup->found != NULL)
		freeaddrinfo(lookup->found);
	free(lookup);
}

/* Takes a lookup off the list; the mutex is held. */
static void
unlink_lookup(const CpLookup *lookup)
{
	CpLookup **place = &running;

	while (*place != lookup)
		place = &(*place)->next;
	*place = lookup->next;
}

static void *
look_up(void *arg)
{
	CpLookup *lookup = arg;
	struct addrinfo hint = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	bool wanted;
	ssize_t written;

	lookup->error = getaddrinfo(lookup->name, NULL, &hint, &lookup->found);
	lookup->system_error = errno;
	if (lookup->error != 0)
		lookup->found = NULL;

	pthread_mutex_lock(&mutex);
	wanted = lookup->users > 0;
	lookup->done = true;
	unlink_lookup(lookup);
	threads--;
	pthread_mutex_unlock(&mutex);

	/* from here on it is the process's, if that still wants it */
	if (!wanted)
		free_lookup(lookup);
	/* also if it is not wanted: there is room for one more thread.  Full will do. */
	written = write(pipe_ends[1], "", 1);
	(void) written;
	return NULL;
}

/* ---- in the process that asks ---- */

/* Closed on exec and non-blocking; what fails leaves errno. */
static bool
prepare(int fd)
{
	return fcntl(fd, F_SETFD, FD_CLOEXEC) >= 0 && pg_set_noblock(fd);
}

/*
 * exit() would run the destructors of libraries that a thread may be in just now,
 * and a crash takes the whole server with it.
 */
static void
leave_threads(void)
{
	bool any;

	pthread_mutex_lock(&mutex);
	any = threads > 0;
	pthread_mutex_unlock(&mutex);
	if (any)
		_exit(exit_code);
}

/*
 * What is registered last with exit() runs first: before any destructor, and since
 * that is done only now, after all callbacks of this process.
 */
static void
at_process_exit(int code, Datum arg)
{
	/* unknown if some library has called exit() */
	exit_code = code >= 0 ? code : 1;
	if (atexit(leave_threads) != 0)
		leave_threads();
}

int
cp_resolver_init(void)
{
	on_proc_exit(at_process_exit, 0);
	if (pipe(pipe_ends) < 0)
		return -1;
	if (prepare(pipe_ends[0]) && prepare(pipe_ends[1]))
		return pipe_ends[0];
	close(pipe_ends[0]);
	close(pipe_ends[1]);
	pipe_ends[0] = pipe_ends[1] = -1;
	return -1;
}

void
cp_resolver_drain(void)
{
	char bytes[MAX_THREADS];
	ssize_t n;

	do
		n = read(pipe_ends[0], bytes, sizeof(bytes));
	while (n > 0 || (n < 0 && errno == EINTR));
}

/* One that is under way for this name, with a user more; the mutex is held. */
static CpLookup *
join_running(const char *name, CpTime now)
{
	for (CpLookup *lookup = running; lookup != NULL; lookup = lookup->next)
	{
		/* one that has hung for so long may never end */
		if (strcmp(lookup->name, name) == 0 && now < cp_deadline(lookup->begun, JOIN_LIMIT))
		{
			lookup->users++;
			return lookup;
		}
	}
	return NULL;
}

/* May this owner have one more thread?  The mutex is held. */
static bool
has_share(int owner, bool proven)
{
	int own = 0;
	int unproven = 0;

	for (const CpLookup *lookup = running; lookup != NULL; lookup = lookup->next)
	{
		own += lookup->owner == owner;
		unproven += !lookup->proven;
	}
	return own < MAX_THREADS_OF_OWNER && threads < MAX_THREADS &&
		(proven || unproven < MAX_UNPROVEN_THREADS);
}

/* A new lookup with one user; NULL: out of memory. */
static CpLookup *
make_lookup(const char *name, CpTime now)
{
	size_t size = strlen(name) + 1;
	CpLookup *lookup = calloc(1, offsetof(CpLookup, name) + size);

	if (lookup == NULL)
		return NULL;
	memcpy(lookup->name, name, size);
	lookup->users = 1;
	lookup->begun = now;
	return lookup;
}

/* A thread for which nobody has to wait, and which takes no signals. */
static bool
start_thread(CpLookup *lookup)
{
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t all;
	sigset_t before;
	bool started;

	if (pthread_attr_init(&attributes) != 0)
		return false;
	(void) pthread_attr_setstacksize(&attributes, STACK_SIZE);
	(void) pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);

	/* a thread begins with the mask of the one that makes it */
	sigfillset(&all);
	started = pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
	if (started)
	{
		started = pthread_create(&thread, &attributes, look_up, lookup) == 0;
		(void) pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	pthread_attr_destroy(&attributes);
	return started;
}

/* Starts a thread for a new lookup; the mutex is held, so it waits at its end. */
static CpLookup *
begin_lookup(const char *name, int owner, bool proven, CpTime now)
{
	CpLookup *lookup;

	if (!has_share(owner, proven))
		return NULL;
	lookup = make_lookup(name, now);
	if (lookup == NULL)
		return NULL;
	lookup->owner = owner;
	lookup->proven = proven;
	if (!start_thread(lookup))
	{
		free(lookup);
		return NULL;
	}
	threads++;
	lookup->next = running;
	running = lookup;
	return lookup;
}

CpLookup *
cp_resolver_start(const char *name, int owner, bool proven)
{
	CpTime now = cp_now();
	CpLookup *lookup;

	pthread_mutex_lock(&mutex);
	lookup = join_running(name, now);
	if (lookup == NULL)
		lookup = begin_lookup(name, owner, proven, now);
	pthread_mutex_unlock(&mutex);
	return lookup;
}

/* One user less; frees it with the last one, unless its thread is to. */
static void
leave_lookup(CpLookup *lookup)
{
	bool over;

	pthread_mutex_lock(&mutex);
	over = --lookup->users == 0 && lookup->done;
	pthread_mutex_unlock(&mutex);
	if (over)
		free_lookup(lookup);
}

static const char *
describe_error(const CpLookup *lookup)
{
	if (lookup->error == EAI_SYSTEM)
		return pstrdup(strerror(lookup->system_error));
	return pstrdup(gai_strerror(lookup->error));
}

/* The addresses found, as numbers; palloc'd. */
static char **
list_addresses(const struct addrinfo *found, int *n)
{
	char **addresses;
	int count = 0;

	for (const struct addrinfo *a = found; a != NULL; a = a->ai_next)
		count++;
	addresses = palloc(Max(count, 1) * sizeof(char *));
	*n = 0;
	for (const struct addrinfo *a = found; a != NULL; a = a->ai_next)
	{
		char text[NI_MAXHOST];

		if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0,
						NI_NUMERICHOST) == 0)
			addresses[(*n)++] = pstrdup(text);
	}
	return addresses;
}

bool
cp_resolver_done(CpLookup *lookup, char ***addresses, int *n, const char **error)
{
	bool done;

	pthread_mutex_lock(&mutex);
	done = lookup->done;
	pthread_mutex_unlock(&mutex);
	if (!done)
		return false;

	*addresses = list_addresses(lookup->found, n);
	*error = NULL;
	if (lookup->error != 0)
		*error = describe_error(lookup);
	else if (*n == 0)
		*error = "no address is known for it";
	leave_lookup(lookup);
	return true;
}

void
cp_resolver_abandon(CpLookup *lookup)
{
	leave_lookup(lookup);
}
