/*
 * borrow.h
 *		Gets a lease its connection, by waiting, fetching or opening, and gives
 *		the connection back.
 *
 * Runs in client backends, called by lease.c, which keeps the leases where an
 * abort finds them.
 */
#ifndef CP_BORROW_H
#define CP_BORROW_H

#include "lease.h"

/*
 * Waits for a connection, fetches or opens it.  Serves interrupts and throws
 * (the README's table of errors); what is half done then, cp_borrow_abort()
 * undoes.
 */
extern void cp_borrow(CpLease *lease, CpTarget *target, CpTime deadline);

/*
 * Gives the connection back: clean, for reset, or ended if it is in doubt.
 * Does not throw.  Waits for the broker's answer, if need be, until about the
 * deadline.  The lease holds nothing afterwards.
 */
extern void cp_borrow_return(CpLease *lease, CpTime deadline);

/*
 * Brings whatever the lease was in the middle of to an end: leaves the queue,
 * gives up a connect, stops a statement that runs (for no longer than the
 * deadline; what does not stop is closed).  Does not throw.  Afterwards the
 * lease is at rest, or holds nothing.
 */
extern void cp_borrow_abort(CpLease *lease, CpTime deadline);

/* A statement has ended, one way or another: how long it took goes into usage. */
extern void cp_borrow_stop_clock(CpLease *lease);

/* Reports what a lease that goes on has done up to now. */
extern void cp_borrow_report_usage(CpLease *lease);

/*
 * The client's statement, as views and the log may show it: not if a connection
 * string or an option in it may hold a password.  NULL if there is none.
 */
extern const char *cp_borrow_statement_to_show(void);

/* Reads the broker's answer to a donation if it has come; cheap. */
extern void cp_borrow_look_for_answer(CpLease *lease);

#endif /* CP_BORROW_H */
