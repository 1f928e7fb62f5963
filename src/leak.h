/*
 * leak.h
 *		What is a leak, telling of it once when it begins and once when it ends,
 *		and what is done about it (leak_action).
 */
#ifndef CP_LEAK_H
#define CP_LEAK_H

#include "pool.h"

/* What a session is doing, as pg_stat_activity would say. */
typedef struct CpHolderInfo
{
	CpLeakClass class; /* IDLE, IDLE_IN_TRANSACTION or BUSY */
	char application[CP_APPLICATION_LEN];
	char client[CP_CLIENT_LEN]; /* its address; empty: a local one */
} CpHolderInfo;

/* false if there is no such process */
extern bool cp_leak_holder(int pid, int procno, CpHolderInfo *info);

/*
 * What a lease is that is held for longer than its pool's leak_threshold; NONE
 * if it is not.  WORKING: a remote statement runs, or one has ended within the
 * last second (or the threshold, if that is less).
 */
extern CpLeakClass cp_leak_classify(const CpSlotInfo *slot, CpTime now);

/* the views' words for them; NULL for NONE */
extern const char *cp_leak_class_name(CpLeakClass class);
extern const char *cp_leak_end_name(CpLeakEnd end);

/* Broker, once a tick: warns of new leaks, and does what leak_action says. */
extern void cp_leak_scan(void);

/* A session ends without having given this lease back: it is a leak. */
extern void cp_leak_abandoned(int slot, uint64 lease);

/*
 * A lease that had been reported has ended: one LOG, one event, and into the
 * ring.  The caller has filled what cp_pool_checkin() and its like fill; this
 * adds who the holder is (by pid, who lives still), and the time.
 */
extern void cp_leak_over(CpLeakRecord *record, CpLeakEnd end);

/* Copies of the ring, newest first, palloc'd; returns how many. */
extern int cp_leak_recent(CpLeakRecord **records);

/* after a restart: puts one back, oldest first; nobody else is at work */
extern void cp_leak_restore(const CpLeakRecord *record);

#endif /* CP_LEAK_H */
