/*
 * leak.h
 *		What is a leak, and telling the log once when one begins.
 */
#ifndef CP_LEAK_H
#define CP_LEAK_H

#include "pool.h"

/* Is this lease held longer than its pool's leak_threshold, and not working? */
extern bool cp_leak_is_one(const CpSlotInfo *slot, CpTime now);

/* Broker, once a tick: warns of new leaks in the log. */
extern void cp_leak_scan(void);

/* A session ended without giving this lease back: into the ring, counted. */
extern void cp_leak_abandoned(int slot);

/* Its holder gave a reported lease back: one LOG. held_for in microseconds. */
extern void cp_leak_over(const char *pool, uint64 lease, CpTime held_for);

/* Copies of the ring, newest first, palloc'd; returns how many. */
extern int cp_leak_recent(CpLeakRecord **records);

#endif /* CP_LEAK_H */
