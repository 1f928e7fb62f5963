/*
 * wait_events.h
 *		What pg_stat_activity says a process waits for.
 *
 * Runs in any process.  From PostgreSQL 17 on these are wait events of their
 * own, by name; before that they all are "Extension".
 */
#ifndef CP_WAIT_EVENTS_H
#define CP_WAIT_EVENTS_H

typedef enum CpWaitEvent
{
	CP_WAIT_LEASE,	 /* ConpoolLease: a session, in a pool's queue */
	CP_WAIT_CONNECT, /* ConpoolConnect: a session, for a remote to let it in */
	CP_WAIT_REMOTE,	 /* ConpoolRemote: a session, for a remote statement's result */
	CP_WAIT_CANCEL,	 /* ConpoolCancel: a session, for a remote statement to stop */
	CP_WAIT_BROKER,	 /* ConpoolBroker: a session, for the broker's answer */
	CP_WAIT_DRAIN,	 /* ConpoolDrain: a session, for a paused pool's leases to end */
	CP_WAIT_MAIN	 /* ConpoolMain: a worker, for something to do */
} CpWaitEvent;

/* the event's number, for WaitLatch and its like */
extern unsigned int cp_wait_event(CpWaitEvent event);

#endif /* CP_WAIT_EVENTS_H */
