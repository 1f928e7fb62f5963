/*
 * wait_events.c
 *		What pg_stat_activity says a process waits for.
 *
 * Runs in any process, called wherever one waits.  All are asked for when the
 * first one is, since that may throw, and a later one may be wanted while a
 * transaction aborts.
 */
#include "postgres.h"

#include "wait_events.h"

#include "compat.h"

static const char *const names[] = {
	[CP_WAIT_LEASE] = "ConpoolLease",
	[CP_WAIT_CONNECT] = "ConpoolConnect",
	[CP_WAIT_REMOTE] = "ConpoolRemote",
	[CP_WAIT_CANCEL] = "ConpoolCancel",
	[CP_WAIT_BROKER] = "ConpoolBroker",
	[CP_WAIT_DRAIN] = "ConpoolDrain",
	[CP_WAIT_MAIN] = "ConpoolMain",
};

static uint32 numbers[lengthof(names)];

unsigned int
cp_wait_event(CpWaitEvent event)
{
	static bool known = false;

	for (int i = 0; !known && i < (int) lengthof(names); i++)
		numbers[i] = cp_new_wait_event(names[i]);
	known = true;
	return numbers[event];
}
