/*
 * events.c
 *		A ring of what happened to pools and connections.
 *
 * Written by any process, mostly with a pool's lock held, so that the order of
 * events is that of what they tell.  Its spinlock is held for the copying of one
 * entry and nothing else.
 */
#include "postgres.h"

#include "events.h"

#include "miscadmin.h"

#include "guc.h"

typedef struct Ring
{
	slock_t mutex;
	uint64 last; /* number of the newest one */
	CpEvent events[FLEXIBLE_ARRAY_MEMBER];
} Ring;

static Ring *ring = NULL;

Size
cp_events_size(void)
{
	return add_size(offsetof(Ring, events), mul_size(cp_guc_max_events, sizeof(CpEvent)));
}

void
cp_events_attach(void *place, bool is_new)
{
	ring = place;
	if (!is_new)
		return;
	SpinLockInit(&ring->mutex);
	ring->last = 0;
}

/* Gives the event its number, and the place of the oldest one. */
static void
store(CpEvent *event)
{
	SpinLockAcquire(&ring->mutex);
	event->number = ++ring->last;
	ring->events[(event->number - 1) % cp_guc_max_events] = *event;
	SpinLockRelease(&ring->mutex);
}

void
cp_event_add(CpEventKind kind, const CpSharedPool *pool, int slot, const char *detail)
{
	CpEvent event = {
		.at = GetCurrentTimestamp(),
		.kind = kind,
		.slot = slot,
		.pid = MyProcPid,
	};

	if (pool != NULL)
	{
		event.key = pool->key;
		strlcpy(event.pool, pool->name, sizeof(event.pool));
	}
	if (detail != NULL)
		strlcpy(event.detail, detail, sizeof(event.detail));
	store(&event);
}

void
cp_event_restore(const CpEvent *event)
{
	CpEvent copy = *event;

	store(&copy);
}

const char *
cp_event_name(CpEventKind kind)
{
	switch (kind)
	{
		case CP_EVENT_OPENED:
			return "opened";
		case CP_EVENT_CLOSED:
			return "closed";
		case CP_EVENT_BREAKER_OPENED:
			return "breaker opened";
		case CP_EVENT_BREAKER_CLOSED:
			return "breaker closed";
		case CP_EVENT_LEAK_FOUND:
			return "leak found";
		case CP_EVENT_LEAK_OVER:
			return "leak over";
		case CP_EVENT_RECLAIMED:
			return "reclaimed";
		case CP_EVENT_SETTINGS_CHANGED:
			return "settings changed";
		case CP_EVENT_PAUSED:
			return "paused";
		case CP_EVENT_RESUMED:
			return "resumed";
		case CP_EVENT_RECONNECTED:
			return "reconnect";
		case CP_EVENT_DROPPED:
			return "dropped";
		case CP_EVENT_STATS_RESET:
			return "stats reset";
		case CP_EVENT_BROKER_STARTED:
			return "broker started";
		case CP_EVENT_BROKER_ENDED:
			return "broker ended";
	}
	return NULL;
}

int
cp_events_read(CpEvent **events)
{
	uint64 last;
	int n = 0;

	SpinLockAcquire(&ring->mutex);
	last = ring->last;
	SpinLockRelease(&ring->mutex);
	*events = palloc_extended(mul_size(Min(last, cp_guc_max_events) + 1, sizeof(CpEvent)),
							  MCXT_ALLOC_HUGE);
	/* one at a time: the spinlock is not held for long, and what has gone is left out */
	for (uint64 number = last; number > 0 && last - number < cp_guc_max_events; number--)
	{
		CpEvent *event = &(*events)[n];

		SpinLockAcquire(&ring->mutex);
		*event = ring->events[(number - 1) % cp_guc_max_events];
		SpinLockRelease(&ring->mutex);
		if (event->number != number)
			break;
		n++;
	}
	return n;
}
