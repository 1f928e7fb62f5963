/*
 * lease.h
 *		Leases of this backend: taking them, giving them back, and giving
 *		them back when a transaction, a subtransaction or the session ends.
 *
 * Runs in client backends.  Throws.
 */
#ifndef CP_LEASE_H
#define CP_LEASE_H

#include "lib/ilist.h"

#include "pool.h"
#include "remote.h"
#include "target.h"

typedef struct CpLease
{
	dlist_node node; /* in the list of this backend's leases */

	/* what it is */
	uint64 id;
	CpScope scope;
	bool is_explicit; /* by checkout(), not by a query function */
	int nest_level;	  /* transaction nesting it was taken in */
	Oid role;		  /* effective role that took it */
	char pool_name[CP_POOL_NAME_LEN];
	CpPoolKey key;
	CpResetMode reset;

	/* what it holds; borrow.c's */
	int pool;
	int slot; /* CP_NONE: nothing, never or no longer */
	uint64 generation;
	CpRemote *remote; /* NULL: not yet, or lost */
	bool connecting;  /* the slot is a permit still */
	bool unshared;
	int donation;		 /* vault socket with the reply to come, or -1 */
	CpTime requested_at; /* the checkout began */
	CpTime obtained_at;	 /* the connection was there */
	CpTime untold_wait;	 /* not yet in the statistics of a statement */

	/* what has been done with it; set by query.c */
	bool dirty;			  /* needs a reset at checkin */
	bool listened;		  /* ever ran LISTEN: closed at checkin */
	bool huge;			  /* read a huge value: let the buffer go */
	bool beyond_recovery; /* what runs cannot be brought to rest */
	bool wants_primary;	  /* opened for a server that can be written to */
	bool misplaced;		  /* it turned out to be another: closed at checkin */
	CpUsage usage;		  /* not yet reported to the pool */

	CpLeakEnd end; /* how it ends, once it does */

	/* a statement runs: not re-entrant, and in doubt until it has ended */
	bool busy;
	bool clock_runs; /* of how long it takes */
	int busy_level;	 /* transaction nesting it began in */
} CpLease;

/*
 * Takes a lease.  timeout_ms: -1 = the pool's checkout_timeout, 0 = no limit.
 * Throws as the README's table of errors says.  Scope statement: the caller
 * gives it back with cp_lease_checkin; on error the abort callbacks do.
 */
extern CpLease *cp_lease_checkout(const char *server, CpScope scope, bool is_explicit,
								  int64 timeout_ms);

/*
 * For a query function on a server name: a lease in the scope the pool's
 * pool_mode says.  Scope transaction and session share one implicit lease per
 * server in this backend.  *release: give it back after the statement.
 */
extern CpLease *cp_lease_for_server(const char *server, bool *release);

/*
 * The explicit lease of that id, for the effective role; throws 08003, 42501,
 * 55006.  must_be_usable: 08006 if its connection has been lost.  *release
 * (may be NULL): its scope is one statement, so give it back after that.
 */
extern CpLease *cp_lease_get(int64 id, bool must_be_usable, bool *release);

/* What the lease is of: at first, and when that has changed since. */
extern void cp_lease_set_target(CpLease *lease, const CpTarget *target);

/* Throws 08003, saying who did it and when, if this session's lease was reclaimed. */
extern void cp_lease_throw_if_reclaimed(uint64 id, const char *pool_name);

/* Gives it back; the CpLease is gone.  Throws nothing about the remote. */
extern void cp_lease_checkin(CpLease *lease);

/*
 * Before the first byte of a statement, and after its last (ReadyForQuery
 * read): between them the connection is in doubt.  begins: false if the lease
 * was taken away; then nothing may be sent, and cp_lease_lost() is to follow.
 */
extern bool cp_lease_statement_begins(CpLease *lease);
extern void cp_lease_statement_ends(CpLease *lease);

/*
 * Whose statistics something is to be counted in: a copy, since a lease may be
 * gone when it fails.
 */
typedef struct CpAccount
{
	CpPoolKey pool;
	char pool_name[CP_POOL_NAME_LEN];
	Oid role;
	CpTime wait; /* untold_wait of the lease; it is told now */
} CpAccount;

extern void cp_lease_account(CpLease *lease, CpAccount *account);

/*
 * A remote statement has ended, after that many microseconds and rows; failed:
 * within PG_CATCH, for the error that is being thrown; sent: it was.
 */
extern void cp_lease_count_statement(const CpAccount *account, bool sent, bool failed,
									 CpTime taken, int64 rows);

/*
 * The connection broke: ends it.  The lease stays as a husk, unless somebody has
 * taken it away.
 */
extern void cp_lease_lost(CpLease *lease);

/* How many connections of that pool this backend holds. */
extern int cp_lease_count_in_pool(int pool);

/* DISCARD ALL: gives back all session leases. */
extern void cp_lease_discard_all(void);

#endif /* CP_LEASE_H */
