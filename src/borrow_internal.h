/*
 * borrow_internal.h
 *		What borrow.c and borrow_open.c share.
 *
 * Runs in client backends.
 */
#ifndef CP_BORROW_INTERNAL_H
#define CP_BORROW_INTERNAL_H

#include "borrow.h"
#include "compat.h"

/* the broker answers within this time or is not there, in milliseconds */
#define CP_VAULT_TIMEOUT_MS 2000
/* how long to wait ourselves for a remote's end of file (milliseconds) */
#define CP_EOF_TIMEOUT_MS 200

/* ---- borrow.c ---- */

/* Gives the broker a duplicate of the socket; the answer comes later. */
extern void cp_borrow_donate(CpLease *lease, CpTime deadline, bool interruptible);

/* Ends an attempt to connect that has failed, after the pool was told. */
extern void cp_borrow_give_up(CpLease *lease);

/* Throws the error of a checkout whose time is over. */
pg_noreturn extern void cp_borrow_throw_timeout(CpLease *lease, CpTarget *target);

/* ---- borrow_open.c ---- */

/*
 * Opens the connection for which the lease has a permit, or goes on with that.  NONE if
 * it failed, but the caller may wait for another one; throws if he may not.
 * CONNECTING: only in steps.
 */
extern CpBorrowStatus cp_borrow_open(CpBorrowing *b, CpLease *lease, CpTarget **current);

/*
 * While this session waited, or tried in vain, the options may have been changed.
 * If so it asks anew, with the present ones; true then.
 */
extern bool cp_borrow_follow_definition(CpBorrowing *b, CpLease *lease, CpTarget **target);

/* The same, the target being the present one. */
extern bool cp_borrow_ask_for(CpBorrowing *b, CpLease *lease, const CpTarget *target);

#endif /* CP_BORROW_INTERNAL_H */
