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
 * (the README's table of errors); what is half done then, cp_borrow_break_off()
 * undoes.
 */
extern void cp_borrow(CpLease *lease, CpTarget *target, CpTime deadline);

/* ---- the same in steps, for whoever has other things to see to meanwhile ---- */

/*
 * Begins.  Only one lease of a session can stand in a queue: with patience QUEUE or
 * OPEN it must be the only one on its way that does; throws if it is not.
 */
extern void cp_borrow_begin(CpBorrowing *b, CpLease *lease, CpTime deadline,
							CpPatience patience);

/*
 * Goes on as far as that is possible without waiting; but looks names up, fetches
 * sockets, and checks what may be dead.  The target is what the server's name leads to
 * now.  Throws as cp_borrow() does.
 */
extern CpBorrowStatus cp_borrow_step(CpBorrowing *b, CpLease *lease, CpTarget *target);

/*
 * Gives the connection back: clean, for reset, or ended if it is in doubt.
 * Does not throw.  Waits for the broker's answer, if need be, until about the
 * deadline.  The lease holds nothing afterwards.
 */
extern void cp_borrow_return(CpLease *lease, CpTime deadline);

/*
 * In abort: what the lease was in the middle of ends with its connection: gives up a
 * connect, closes what does not come to rest.  Does not throw.  Afterwards the lease holds
 * nothing.
 */
extern void cp_borrow_break_off(CpLease *lease, CpTime deadline);

/* What ran on the lease, if anything, was stopped, and its connection is at rest. */
extern void cp_borrow_stopped(CpLease *lease);

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
