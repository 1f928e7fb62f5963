/*
 * historian.h
 *		Writes down what each pool did in each interval.
 */
#ifndef CP_HISTORIAN_H
#define CP_HISTORIAN_H

#include "clock.h"

/*
 * Broker, on each turn: writes a row for each pool if an interval is over;
 * returns when it wants to be called next.  Intervals end at full multiples of
 * their length by the wall clock.  The first call only notes what was counted
 * before; its memory context must last.  Throws when out of memory.
 */
extern CpTime cp_historian_turn(CpTime now);

/* Broker, when it is told to end: writes what the present interval has so far. */
extern void cp_historian_end(CpTime now);

#endif /* CP_HISTORIAN_H */
