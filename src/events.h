/*
 * events.h
 *		A ring of what happened to pools and connections.
 *
 * Written by any process, also with a pool's lock held; its spinlock is the
 * innermost of all locks.  Never throws.
 */
#ifndef CP_EVENTS_H
#define CP_EVENTS_H

#include "shmem.h"

typedef enum CpEventKind
{
	CP_EVENT_OPENED,
	CP_EVENT_CLOSED, /* detail: the reason */
	CP_EVENT_BREAKER_OPENED,
	CP_EVENT_BREAKER_CLOSED,
	CP_EVENT_LEAK_FOUND, /* detail: its class */
	CP_EVENT_LEAK_OVER,	 /* detail: how it ended */
	CP_EVENT_RECLAIMED,
	CP_EVENT_SETTINGS_CHANGED, /* detail: which pool options, or the connection options */
	CP_EVENT_PAUSED,
	CP_EVENT_RESUMED,
	CP_EVENT_RECONNECTED, /* somebody wants all connections replaced */
	CP_EVENT_DROPPED,
	CP_EVENT_STATS_RESET,
	CP_EVENT_BROKER_STARTED, /* of no pool */
	CP_EVENT_BROKER_ENDED
} CpEventKind;

typedef struct CpEvent
{
	TimestampTz at;
	uint64 number; /* counts from 1 */
	CpEventKind kind;
	CpPoolKey key;				 /* zero: of no pool */
	char pool[CP_POOL_NAME_LEN]; /* empty: of no pool */
	int slot;					 /* CP_NONE: of no connection */
	int pid;					 /* whose doing it was */
	char detail[CP_EVENT_DETAIL_LEN];
} CpEvent;

/* what the ring takes in shared memory, and its start, by shmem.c */
extern Size cp_events_size(void);
extern void cp_events_attach(void *place, bool is_new);

/* pool NULL: of none; detail may be NULL, and holds nothing confidential */
extern void cp_event_add(CpEventKind kind, const CpSharedPool *pool, int slot,
						 const char *detail);

/* the view's word for a kind */
extern const char *cp_event_name(CpEventKind kind);

/* copies of them, newest first, palloc'd; returns how many */
extern int cp_events_read(CpEvent **events);

/* after a restart: puts one back, oldest first; nobody else is at work */
extern void cp_event_restore(const CpEvent *event);

#endif /* CP_EVENTS_H */
