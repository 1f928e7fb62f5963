/*
 * threads.c
 *		Calls of libpq that may take their time, made in threads.
 *
 * Runs in the tunnel, called by its modules; must never wait for a call.
 *
 * Why threads, and what keeps them safe in a process of PostgreSQL, is said in
 * resolver.c.  Here they stay for a while when a call is over: to connect takes a
 * handful of calls, each made when the network has answered the one before.
 *
 * A call is queued first.  From the queue it is assigned, in order, but past those
 * whose owner has his share, if a thread is free for it or can be made: there are
 * never more calls assigned than free threads, which take one each.
 */
#include "postgres.h"

#include "threads.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include "lib/ilist.h"
#include "storage/ipc.h"

/* threads at once */
#define MAX_THREADS 32
/* of these, for one owner, and for all those that are not proven */
#define MAX_THREADS_OF_OWNER 4
#define MAX_UNPROVEN_THREADS 16
/* of these, for one party */
#define MAX_THREADS_OF_PARTY 8
/* bytes of a thread's stack: the usual 8 MB count where memory is not overcommitted */
#define STACK_SIZE (1024 * 1024)
/* of a thread that nobody waits for, as of "nice" */
#define LOWEST_PRIORITY 19
/* how long a thread waits for its next call, seconds */
#define KEEP_THREAD 5

typedef enum CallState
{
	CALL_QUEUED,
	CALL_ASSIGNED, /* a thread is about to take it */
	CALL_RUNNING,
	CALL_DONE
} CallState;

struct CpCall
{
	/* the mutex */
	CallState state;
	dlist_node node; /* in `queued`, else in `begun`, until it is done */
	/* fixed */
	void (*function)(void *);
	void *arg;
	CpCaller caller;
	/* the mutex */
	long thread;   /* the system's number of it, while it runs; 0 = unknown */
	bool put_last; /* the thread ends with it */
};

/* The mutex covers all of these. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static dlist_head queued = DLIST_STATIC_INIT(queued);
static dlist_head begun = DLIST_STATIC_INIT(begun); /* assigned or running */
static int threads = 0;
static int free_threads = 0; /* without a running call */
static int assigned = 0;	 /* calls: never more than free_threads */

/* there is one to take */
static pthread_cond_t call_is_assigned = PTHREAD_COND_INITIALIZER;

/*
 * Reading and writing end; fixed before the first thread.  Sockets: a pipe can be opened
 * anew by way of /proc, so whoever names that for a file that libpq is to read would
 * take out of it what others wait for.
 */
static int wake_ends[2] = {-1, -1};

/* set when the process ends */
static int exit_code;

static void *work(void *arg);

/* ---- in the process and in its threads; the mutex is held ---- */

/* A thread for which nobody has to wait, and which takes no signals. */
static bool
start_thread(void)
{
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t all;
	sigset_t before;
	bool started;

	if (threads >= MAX_THREADS || pthread_attr_init(&attributes) != 0)
		return false;
	(void) pthread_attr_setstacksize(&attributes, STACK_SIZE);
	(void) pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);

	/* a thread begins with the mask of the one that makes it */
	sigfillset(&all);
	started = pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
	if (started)
	{
		started = pthread_create(&thread, &attributes, work, NULL) == 0;
		(void) pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	pthread_attr_destroy(&attributes);
	if (started)
	{
		threads++;
		free_threads++;
	}
	return started;
}

/* Do other calls of its owner, or its party, take up the share? */
static bool
caller_has_share(const CpCall *call)
{
	const CpCaller *caller = &call->caller;
	int of_owner = 0;
	int of_party = 0;
	dlist_iter i;

	dlist_foreach(i, &begun)
	{
		const CpCaller *other = &dlist_container(CpCall, node, i.cur)->caller;

		of_owner += other->owner == caller->owner;
		of_party += other->party == caller->party;
	}
	return of_owner >= MAX_THREADS_OF_OWNER ||
		(OidIsValid(caller->party) && of_party >= MAX_THREADS_OF_PARTY);
}

/* May this call have a thread, as far as its caller is concerned? */
static bool
may_begin(const CpCall *call)
{
	int unproven = 0;
	dlist_iter i;

	dlist_foreach(i, &begun)
	{
		unproven += !dlist_container(CpCall, node, i.cur)->caller.proven;
	}
	return !caller_has_share(call) && (call->caller.proven || unproven < MAX_UNPROVEN_THREADS);
}

/* Assigns what can be, after a call was queued or one is over. */
static void
assign(void)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, &queued)
	{
		CpCall *call = dlist_container(CpCall, node, i.cur);

		if (!may_begin(call))
			continue;
		if (assigned == free_threads && !start_thread())
			return;
		dlist_delete(&call->node);
		dlist_push_tail(&begun, &call->node);
		call->state = CALL_ASSIGNED;
		assigned++;
		pthread_cond_signal(&call_is_assigned);
	}
}

/* ---- in a thread ---- */

/* The system's, of the one that asks; 0: it has none by which it can be put last. */
static long
number_of_thread(void)
{
#ifdef __linux__
	return syscall(SYS_gettid);
#else
	return 0;
#endif
}

static void
lower_priority(const CpCall *call)
{
	if (call->thread != 0)
		(void) setpriority(PRIO_PROCESS, (id_t) call->thread, LOWEST_PRIORITY);
}

/* The mutex is held; one of the calls that are assigned is not yet taken. */
static CpCall *
take_call(void)
{
	dlist_iter i;

	dlist_foreach(i, &begun)
	{
		CpCall *call = dlist_container(CpCall, node, i.cur);

		if (call->state == CALL_ASSIGNED)
		{
			call->state = CALL_RUNNING;
			call->thread = number_of_thread();
			if (call->put_last)
				lower_priority(call);
			assigned--;
			free_threads--;
			return call;
		}
	}
	pg_unreachable();
}

/* Waits for a call to take, with the mutex; false if none comes for a while. */
static bool
wait_for_call(void)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += KEEP_THREAD;
	while (assigned == 0)
	{
		if (pthread_cond_timedwait(&call_is_assigned, &mutex, &limit) != 0)
			return assigned > 0;
	}
	return true;
}

static void *
work(void *arg)
{
	bool put_last = false;

	pthread_mutex_lock(&mutex);
	while (!put_last && wait_for_call())
	{
		CpCall *call = take_call();
		ssize_t written;

		pthread_mutex_unlock(&mutex);
		call->function(call->arg);
		pthread_mutex_lock(&mutex);

		put_last = call->put_last;
		dlist_delete(&call->node);
		/* once the mutex is released it is the process's, which frees it */
		call->state = CALL_DONE;
		if (put_last)
			threads--;
		else
			free_threads++;
		assign();
		/* a full buffer will do */
		written = write(wake_ends[1], "", 1);
		(void) written;
	}
	if (!put_last)
	{
		threads--;
		free_threads--;
	}
	pthread_mutex_unlock(&mutex);
	return NULL;
}

/* ---- in the process that wants the calls ---- */

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
cp_threads_init(void)
{
	on_proc_exit(at_process_exit, 0);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, wake_ends) < 0)
		return -1;
	if (prepare(wake_ends[0]) && prepare(wake_ends[1]))
		return wake_ends[0];
	close(wake_ends[0]);
	close(wake_ends[1]);
	wake_ends[0] = wake_ends[1] = -1;
	return -1;
}

void
cp_threads_drain(void)
{
	char bytes[MAX_THREADS];
	ssize_t n;

	do
		n = read(wake_ends[0], bytes, sizeof(bytes));
	while (n > 0 || (n < 0 && errno == EINTR));
}

CpCall *
cp_threads_call(void (*function)(void *), void *arg, const CpCaller *caller)
{
	CpCall *call = calloc(1, sizeof(CpCall));

	if (call == NULL)
		return NULL;
	call->function = function;
	call->arg = arg;
	call->caller = *caller;
	call->state = CALL_QUEUED;
	pthread_mutex_lock(&mutex);
	dlist_push_tail(&queued, &call->node);
	assign();
	pthread_mutex_unlock(&mutex);
	return call;
}

bool
cp_threads_is_done(CpCall *call)
{
	bool done;

	pthread_mutex_lock(&mutex);
	done = call->state == CALL_DONE;
	pthread_mutex_unlock(&mutex);
	if (done)
		free(call);
	return done;
}

bool
cp_threads_withdraw(CpCall *call)
{
	bool waits;

	pthread_mutex_lock(&mutex);
	waits = call->state == CALL_QUEUED;
	if (waits)
		dlist_delete(&call->node);
	pthread_mutex_unlock(&mutex);
	if (waits)
		free(call);
	return waits;
}

void
cp_threads_put_last(CpCall *call)
{
	pthread_mutex_lock(&mutex);
	call->put_last = true;
	/* under the mutex, so that the thread is not at another call by now */
	if (call->state == CALL_RUNNING)
		lower_priority(call);
	pthread_mutex_unlock(&mutex);
}

bool
cp_threads_waits_for_own(CpCall *call)
{
	bool waits;

	pthread_mutex_lock(&mutex);
	waits = call->state == CALL_QUEUED && caller_has_share(call);
	pthread_mutex_unlock(&mutex);
	return waits;
}
