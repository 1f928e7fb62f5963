/*
 * watch.c
 *		Many sockets watched at a time, for whoever passes bytes between them.
 *
 * Runs in the tunnel, called by its main loop and by pump.c.  Must never touch what
 * arrives on a socket.
 *
 * With epoll there are two sets, one in the other.  The server's wait event set, which
 * knows about latch and postmaster, has one socket, the set of our own.  That has the
 * watched sockets, edge-triggered, and the fixed ones.  The deadline is a timer in it,
 * which goes on while nothing changes about it: a time limit for each wait would have
 * the kernel set one up each time.
 *
 * Without epoll a wait event set is made for each wait.
 */
#include "postgres.h"

#include "watch.h"

#ifdef HAVE_SYS_EPOLL_H
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
#endif

#include "compat.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "wait_events.h"

/* Has the latch been set?  Then it is reset, before anything is looked at. */
static bool
reset_latch(void)
{
	if (!MyLatch->is_set)
		return false;
	ResetLatch(MyLatch);
	return true;
}

static void
begin_flags(CpWatched *watched, int fd, void *owner)
{
	watched->fd = fd;
	watched->readable = watched->writable = true;
	watched->ended = false;
	watched->wants_read = true;
	watched->wants_write = false;
	watched->owner = owner;
}

#ifdef HAVE_SYS_EPOLL_H

static WaitEventSet *wait_set = NULL;
static int epoll_fd = -1;
static int timer_fd = -1;
static CpTime timer_at = CP_FOREVER; /* when it goes off */

/* ---- the watched ---- */

static bool
enter(int set, int op, int fd, uint32 events, void *data)
{
	struct epoll_event event = {.events = events, .data.ptr = data};

	return epoll_ctl(set, op, fd, &event) == 0;
}

bool
cp_watch_init(const int *fixed, int fixed_count)
{
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (epoll_fd < 0 || timer_fd < 0 ||
		!enter(epoll_fd, EPOLL_CTL_ADD, timer_fd, EPOLLIN, &timer_fd))
		return false;
	for (int i = 0; i < fixed_count; i++)
	{
		if (!enter(epoll_fd, EPOLL_CTL_ADD, fixed[i], EPOLLIN, NULL))
			return false;
	}
	wait_set = cp_create_wait_event_set(3);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, epoll_fd, NULL, NULL);
	return true;
}

bool
cp_watch_add(CpWatched *watched, int fd, void *owner)
{
	begin_flags(watched, -1, owner);
	if (!enter(epoll_fd, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, watched))
		return false;
	watched->fd = fd;
	return true;
}

void
cp_watch_remove(CpWatched *watched)
{
	if (watched->fd >= 0)
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, watched->fd, NULL);
	watched->fd = -1;
}

void
cp_watch_await_room(CpWatched *watched)
{
	watched->writable = false;
	if (watched->wants_write)
		return;
	/* if there is room again by now, the kernel says so at once */
	watched->wants_write = true;
	enter(epoll_fd, EPOLL_CTL_MOD, watched->fd,
		  EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, watched);
}

static void
note_events(CpWatched *watched, uint32 events)
{
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		watched->ended = true;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		watched->readable = true;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		watched->writable = true;
	if (watched->wants_write && watched->writable)
	{
		watched->wants_write = false;
		enter(epoll_fd, EPOLL_CTL_MOD, watched->fd, EPOLLIN | EPOLLRDHUP | EPOLLET, watched);
	}
}

/* ---- the deadline ---- */

/*
 * Has the timer go off then, or earlier, if that was wanted before; nothing is lost by
 * that.
 */
static void
set_timer(CpTime deadline)
{
	struct itimerspec at = {.it_value.tv_sec = deadline / 1000000,
							.it_value.tv_nsec = deadline % 1000000 * 1000};

	if (deadline >= timer_at)
		return;
	timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
	timer_at = deadline;
}

static void
stop_timer(void)
{
	uint64 times;
	ssize_t n;

	n = read(timer_fd, &times, sizeof(times));
	(void) n;
	timer_at = CP_FOREVER;
}

/* ---- waiting ---- */

/* What is there by now. */
static int
collect_events(CpWatched **changed, bool *others_ready)
{
	struct epoll_event events[CP_WATCH_EVENTS];
	int n = epoll_wait(epoll_fd, events, CP_WATCH_EVENTS, 0);
	int count = 0;

	for (int i = 0; i < n; i++)
	{
		if (events[i].data.ptr == NULL)
			*others_ready = true;
		else if (events[i].data.ptr == &timer_fd)
			stop_timer();
		else
		{
			changed[count] = events[i].data.ptr;
			note_events(changed[count++], events[i].events);
		}
	}
	return count;
}

int
cp_watch_wait(CpTime deadline, CpWatched **changed, bool *others_ready)
{
	WaitEvent event;
	int count = 0;
	long timeout = deadline > cp_now() ? -1 : 0;

	if (timeout < 0)
		set_timer(deadline);
	*others_ready = false;
	if (WaitEventSetWait(wait_set, timeout, &event, 1, cp_wait_event(CP_WAIT_MAIN)) > 0)
		count = collect_events(changed, others_ready);
	*others_ready |= reset_latch();
	return count;
}

#else /* !HAVE_SYS_EPOLL_H */

static dlist_head all = DLIST_STATIC_INIT(all);
static int all_count = 0;
static const int *fixed_ones = NULL;
static int fixed_ones_count = 0;

bool
cp_watch_init(const int *fixed, int fixed_count)
{
	int *copy = MemoryContextAlloc(TopMemoryContext, Max(fixed_count, 1) * sizeof(int));

	memcpy(copy, fixed, fixed_count * sizeof(int));
	fixed_ones = copy;
	fixed_ones_count = fixed_count;
	return true;
}

bool
cp_watch_add(CpWatched *watched, int fd, void *owner)
{
	begin_flags(watched, fd, owner);
	dlist_push_tail(&all, &watched->node);
	all_count++;
	return true;
}

void
cp_watch_remove(CpWatched *watched)
{
	if (watched->fd < 0)
		return;
	dlist_delete(&watched->node);
	all_count--;
	watched->fd = -1;
}

void
cp_watch_await_room(CpWatched *watched)
{
	watched->writable = false;
	watched->wants_write = true;
}

static void
note_events(CpWatched *watched, uint32 events)
{
	if (events & WL_SOCKET_CLOSED)
		watched->ended = true;
	if (events & (WL_SOCKET_READABLE | WL_SOCKET_CLOSED))
		watched->readable = true;
	if (events & WL_SOCKET_WRITEABLE)
	{
		watched->writable = true;
		watched->wants_write = false;
	}
	/* to the end, so that others have their turn next */
	dlist_delete(&watched->node);
	dlist_push_tail(&all, &watched->node);
}

static uint32
wanted_events(const CpWatched *watched)
{
	uint32 events = (watched->wants_read ? WL_SOCKET_READABLE : 0) |
		(watched->wants_write ? WL_SOCKET_WRITEABLE : 0);

	/* that it has ended is told once */
	if (!watched->wants_read && !watched->ended && WaitEventSetCanReportClosed())
		events |= WL_SOCKET_CLOSED;
	return events;
}

/* Those that an event is wanted of; user data are the watched one, or NULL. */
static void
add_sockets(WaitEventSet *set)
{
	dlist_iter iter;

	for (int i = 0; i < fixed_ones_count; i++)
		AddWaitEventToSet(set, WL_SOCKET_READABLE, fixed_ones[i], NULL, NULL);
	dlist_foreach(iter, &all)
	{
		CpWatched *watched = dlist_container(CpWatched, node, iter.cur);

		if (wanted_events(watched) != 0)
			AddWaitEventToSet(set, wanted_events(watched), watched->fd, NULL, watched);
	}
}

int
cp_watch_wait(CpTime deadline, CpWatched **changed, bool *others_ready)
{
	WaitEventSet *set = cp_create_wait_event_set(2 + fixed_ones_count + all_count);
	WaitEvent events[CP_WATCH_EVENTS];
	int count = 0;
	int n;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	add_sockets(set);
	n = WaitEventSetWait(set, cp_timeout_ms(deadline), events, CP_WATCH_EVENTS,
						 cp_wait_event(CP_WAIT_MAIN));
	FreeWaitEventSet(set);

	*others_ready = reset_latch();
	for (int i = 0; i < n; i++)
	{
		if (events[i].user_data == NULL)
			*others_ready = true;
		else
		{
			changed[count] = events[i].user_data;
			note_events(changed[count++], events[i].events);
		}
	}
	return count;
}

#endif /* HAVE_SYS_EPOLL_H */
