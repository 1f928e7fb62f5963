/*
 * transaction.h
 *		The remote transactions of leases of scope "transaction": begun with the first
 *		statement, committed just before the local one, rolled back with it, with a
 *		savepoint for each subtransaction.
 *
 * Runs in client backends.  query.c has it enter, lease.c has it end.
 */
#ifndef CP_TRANSACTION_H
#define CP_TRANSACTION_H

#include "lease.h"

/* Does a remote transaction hang on the lease, even if its connection was lost? */
extern bool cp_transaction_is_open(const CpLease *lease);

/*
 * Begins the remote transaction of the lease, or brings it to the local nesting level,
 * before a statement.  Waits for the remote, serves interrupts.  Throws.
 */
extern void cp_transaction_enter(CpLease *lease);

/*
 * After a statement: false if it has ended the transaction by itself (COMMIT, ROLLBACK),
 * which breaks it off.
 */
extern bool cp_transaction_holds(const CpLease *lease);

/* Throws 08006 if the connection of an open transaction was lost. */
extern void cp_transaction_throw_if_lost(const CpLease *lease);

/*
 * Commits those of all these leases, at the same time.  Throws unless all of them have
 * committed, saying which have, which have not, and of which it is not known.  Does not
 * serve interrupts: once one is pending it waits a little longer, and gives up.  True if there
 * were any.
 */
extern bool cp_transaction_commit(dlist_head *leases);

/* The one of a single lease, which is then free to go. */
extern void cp_transaction_commit_one(CpLease *lease);

/* A subtransaction commits: what it did remotely is its parent's.  No round trip. */
extern void cp_transaction_merge(CpLease *lease, int level);

/*
 * What is to be run remotely when the transaction (level 1), or a subtransaction of that
 * level, aborts; NULL if nothing is.  In a buffer of the lease.
 */
extern const char *cp_transaction_undo(CpLease *lease, int level);

/* That was run, or the connection is gone. */
extern void cp_transaction_undone(CpLease *lease, int level, bool well);

/*
 * For a statement whose failure is not to break the remote transaction: a savepoint
 * before it (after cp_transaction_enter()), and what follows it.  Both wait for the
 * remote and throw; nothing but for leases of scope "transaction".
 */
extern void cp_transaction_begin_try(CpLease *lease);
extern void cp_transaction_end_try(CpLease *lease, bool failed);

#endif /* CP_TRANSACTION_H */
