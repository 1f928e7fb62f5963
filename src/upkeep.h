/*
 * upkeep.h
 *		When which database's definitions are read, and that there is a dialer:
 *		the broker starts the workers that keep min_size.
 *
 * Runs in the broker only.
 */
#ifndef CP_UPKEEP_H
#define CP_UPKEEP_H

#include "clock.h"

/* The broker begins: all databases are to be read. */
extern void cp_upkeep_begin(void);

/* The settings may have changed: the same. */
extern void cp_upkeep_all(void);

/* Pools may lack connections: the next turns look for them. */
extern void cp_upkeep_look(void);

/*
 * One round: takes the marks, starts a reader or the dialer where one is wanted
 * and none runs.  Never waits, never throws but for want of memory.  Returns when
 * it wants to be called next.
 */
extern CpTime cp_upkeep_turn(CpTime now);

#endif /* CP_UPKEEP_H */
