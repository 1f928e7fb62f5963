/*
 * clock_shift.c
 *		Moves the wall clock of the processes that preload it (LD_PRELOAD), as if
 *		somebody had set the machine's clock; monotonic clocks go on.
 *
 * Built and used by test/t/325_clock.pl alone.  The environment variable
 * CLOCK_SHIFT names a file of eight bytes, the seconds to add as an integer in
 * the machine's byte order.  It is mapped, so a change is seen at once by all.
 *
 * (libfaketime will not do: it switches itself off in processes that the
 * postmaster starts from a signal handler, and the broker is one.)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift;

__attribute__((constructor)) static void
map_shift(void)
{
	const char *path = getenv("CLOCK_SHIFT");
	int			fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void	   *map;

	if (fd < 0)
		return;
	map = mmap(NULL, sizeof(*shift), PROT_READ, MAP_SHARED, fd, 0);
	if (map != MAP_FAILED)
		shift = map;
	close(fd);
}

int
clock_gettime(clockid_t clock, struct timespec *t)
{
	int			result = syscall(SYS_clock_gettime, clock, t);

	if (result == 0 && shift &&
		(clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		t->tv_sec += *shift;
	return result;
}

int
gettimeofday(struct timeval *restrict t, void *restrict zone)
{
	struct timespec now;

	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return -1;
	t->tv_sec = now.tv_sec;
	t->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *t)
{
	struct timespec now;

	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return -1;
	if (t)
		*t = now.tv_sec;
	return now.tv_sec;
}
