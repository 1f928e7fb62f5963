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
#include "settle.h"
#include "target.h"

/* A remote transaction, as far as this session knows it. */
typedef struct CpRemoteTransaction
{
	/* local nesting level that the remote has followed to; 0: there is none */
	int depth;
	/* savepoints from that level on are of committed subtransactions; 0: none are */
	int stale;
	bool stale_read_only; /* and read-only, unlike what follows */
	bool changing;		  /* a BEGIN, SAVEPOINT ... was sent, and not answered */
	int read_only_level;  /* in which it became read-only, 0: it has not */
	char undo[96];		  /* what cp_transaction_undo() returns */
} CpRemoteTransaction;

typedef struct CpLease
{
	dlist_node node; /* in the list of this backend's leases */

	/* what it is */
	uint64 id;
	CpScope scope;
	bool is_explicit; /* by checkout(), not by a query function */
	int nest_level;	  /* transaction nesting it was taken in */
	int held_level;	  /* the same, but deeper if it was parted, and taken again there */
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
	bool may_exceed;	  /* opened beyond max_size, unshared, rather than waited for */
	bool is_private;	  /* not explicit, but one caller's alone */
	bool quiet;			  /* nobody is warned that a transaction was left open */
	uint64 comes_back;	  /* while this session waits for others of that map; 0: it does not */
	CpUsage usage;		  /* not yet reported to the pool */

	CpLeakEnd end; /* how it ends, once it does */

	/* a statement runs: not re-entrant, and in doubt until it has ended */
	bool busy;
	bool clock_runs;		/* of how long it takes */
	int busy_level;			/* transaction nesting it began in; 0: in one that has ended */
	struct CpRun *run;		/* query.c's: the statement on its way, or NULL */
	uint64 request;			/* number under which send() gave it out, or 0 */
	bool goes_with_request; /* given back when the request ends */

	/* its remote transaction, scope transaction only; transaction.c's */
	CpRemoteTransaction transaction;

	/* open cursors, cursor.c's: of CpCursor */
	dlist_head cursors;

	/*
	 * Checked in, but its remote transaction is still open: it cannot be used, and is
	 * given back when that ends, or to the next checkout() of the same.
	 */
	bool parted;

	/* while an abort is on its way */
	CpSettling settling;
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

/* ---- the same in steps, for map.c ---- */

typedef enum CpBorrowStatus
{
	CP_BORROW_DONE,		  /* the connection is there */
	CP_BORROW_QUEUED,	  /* in the queue: again when our latch is set, or at `until` */
	CP_BORROW_CONNECTING, /* again when one of `events` happens on the socket of
						   * lease->remote, or at `until` */
	CP_BORROW_NONE		  /* patience is over; the lease holds nothing */
} CpBorrowStatus;

/* A checkout on its way; belongs to one lease. */
typedef struct CpBorrowing
{
	CpCheckout c;
	CpTime deadline;
	CpTime until;		  /* when to go on with it, unless something happens before */
	int events;			  /* a set of WL_SOCKET_... */
	bool queued;		  /* it stands in the queue */
	CpTime next_check;	  /* for a deadlock */
	bool waits;			  /* for connects, too: not in steps */
	uint64 map;			  /* that it is for, or 0 */
	bool by_tunnel;		  /* that is how it connects */
	CpTime connect_start; /* when it began to */
	CpTime connect_limit;
} CpBorrowing;

/*
 * Begins with cp_lease_for_server(), without waiting.  Only one lease of a session can
 * stand in a queue: with a patience other than NONE it must be the only one that is on
 * its way by such.  map: a number for all that one loop goes on with, and gives back
 * while it waits; a function that is called for a value meanwhile may have a loop of its
 * own.  NULL: patience is over (*status is NONE).  While it is on its way
 * ends of subtransactions leave it alone, unless it was begun there.
 */
extern CpLease *cp_lease_begin_for_server(const char *server, CpPatience patience, uint64 map,
										  CpBorrowing *b, CpBorrowStatus *status,
										  bool *release);

/* Goes on with it.  NONE: as above, and the lease is gone.  Throws as a checkout does. */
extern CpBorrowStatus cp_lease_go_on(CpLease *lease, const char *server, CpBorrowing *b);

/*
 * It failed, outside of an abort: ends what is half done on the lease of that number, if it
 * is there still, and the lease unless others share it.
 */
extern void cp_lease_give_up(uint64 id);

/*
 * The explicit lease of that id, for the effective role; throws 08003, 42501,
 * 55006.  must_be_usable: 08006 if its connection has been lost.  *release
 * (may be NULL): its scope is one statement, so give it back after that.
 */
extern CpLease *cp_lease_get(int64 id, bool must_be_usable, bool *release);

/*
 * The same for those who need one of their own with more to say.  flags: a set of
 * CP_LEASE_...
 */
#define CP_LEASE_EXPLICIT 0x01	 /* as for checkout() */
#define CP_LEASE_MAY_EXCEED 0x02 /* beyond max_size, unshared, rather than wait */
#define CP_LEASE_QUIET 0x04		 /* see CpLease.quiet */
#define CP_LEASE_PRIVATE 0x08	 /* see CpLease.is_private */
extern CpLease *cp_lease_checkout_as(const char *server, CpScope scope, int flags,
									 int64 timeout_ms);

/*
 * For a cursor: the lease that cp_lease_for_server() shares if the server's pool_mode is
 * "transaction", else one of scope transaction of the caller's own (*own true).
 */
extern CpLease *cp_lease_for_cursor(const char *server, bool *own);

/*
 * The run of a lease is a request of that number from now on.  goes_with_it: the lease is
 * given back when the request ends, however that is.  Detached: it goes on over the ends
 * of transactions, good and bad.
 */
extern void cp_lease_attach_request(CpLease *lease, uint64 id, bool goes_with_it, bool detached);

/*
 * The lease with the request of that number, for the effective role; throws 08003, 42501,
 * 42809.
 */
extern CpLease *cp_lease_of_request(int64 id);

/*
 * The request has been read to its end, or was stopped: frees its run, and gives the
 * lease back if it goes with it.  The lease may be gone (LOST): then by number only.
 */
extern void cp_lease_end_request(uint64 id);

/*
 * Stops what runs on these leases, all at the same time, within ABORT_TIMEOUT; what does
 * not stop is closed, and the lease a husk.  Requests on them are ended, with the leases
 * that go with them.  Not in abort: there it is done anyway.
 */
extern void cp_lease_stop(CpLease *const *leases, int n);

/* This session's leases, of CpLease.node; for the modules of this layer. */
extern dlist_head cp_leases;

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

/*
 * The lease of that id, of whatever kind and role; it may be busy, or a husk.  NULL if
 * there is none; one that was taken away, and is not busy, ends with this.
 */
extern CpLease *cp_lease_find(uint64 id);

/* DISCARD ALL: gives back all session leases. */
extern void cp_lease_discard_all(void);

#endif /* CP_LEASE_H */
