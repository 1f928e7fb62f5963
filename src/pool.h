/*
 * pool.h
 *		Who gets which connection.
 *
 * Runs in client backends and in the broker.  Changes shared memory under the
 * pool's lock; knows no libpq, touches no socket, never waits and, but for
 * registering a pool, never throws.  Latches are set after locks are released.
 */
#ifndef CP_POOL_H
#define CP_POOL_H

#include "shmem.h"

/* ---- finding pools ---- */

/*
 * The pool of that key, made if it is not there.  Its name is the others' too,
 * and stays as it is if the caller's is uncommitted.  Returns its index and
 * generation; CP_OVERFLOW_POOL when no place is to be had, even by evicting.
 */
extern int cp_pool_find(const CpPoolKey *key, const char *name, bool uncommitted,
						const CpPoolOptions *options, uint64 *generation);

/* ---- checkout ---- */

/* What a caller does who does not get at once what he wants. */
typedef enum CpPatience
{
	CP_PATIENCE_QUEUE, /* stays in the queue */
	CP_PATIENCE_OPEN,  /* goes, but would open a connection */
	CP_PATIENCE_NONE   /* goes; may stand in another queue meanwhile */
} CpPatience;

typedef struct CpCheckout
{
	/* in */
	int pool;
	uint64 pool_generation;
	const CpPoolOptions *options;
	CpFingerprint fingerprint;
	CpScope scope;
	Oid role;
	uint64 lease;
	CpTime since;	   /* when the caller began */
	CpTime deadline;   /* when its time is over */
	bool wants_permit; /* unshared only: no idle connection will do */
	/*
	 * A permit beyond max_size, for an unshared connection, will do: rather than wait;
	 * but in scope "statement" only if the caller holds all others itself.
	 */
	bool may_exceed;
	/* what was granted turned out dead: goes to the head of the queue */
	bool again;
	CpPatience patience;
	int held;	 /* leases this backend holds in the pool, and will while it waits */
	bool serves; /* it gives back leases, of whatever pools, while it waits */
	/* per slot: generation this backend has adopted, or 0; NULL = none */
	uint64 *adopted;
	int last_slot; /* tried first, or CP_NONE */

	/* out */
	int slot;
	uint64 generation;
	CpTime wait;  /* microseconds counted as wait so far */
	bool suspect; /* it may be dead: check it before use */
	bool beyond;  /* the permit is one beyond max_size */
} CpCheckout;

typedef enum CpGrant
{
	CP_GRANT_LEASE,	 /* slot is LEASED to the caller */
	CP_GRANT_PERMIT, /* slot is CONNECTING, the caller opens it */
	CP_GRANT_QUEUED, /* in the queue: wait for the latch */
	CP_GRANT_NONE,	 /* his patience is over, nothing has happened */
	CP_GRANT_QUEUE_FULL,
	CP_GRANT_REFUSED,		/* the breaker is open, and no connection lives */
	CP_GRANT_SELF_DEADLOCK, /* the caller holds every connection itself */
	CP_GRANT_POOL_GONE		/* evicted meanwhile: find it again */
} CpGrant;

extern CpGrant cp_pool_checkout(CpCheckout *c);

/* A waiter asks after its latch was set: LEASE, PERMIT, REFUSED or still QUEUED. */
extern CpGrant cp_pool_granted(CpCheckout *c);

/*
 * This backend, if it waits, holds leases that it gives back meanwhile, or none of that
 * kind.  To be said before the first is taken, and after the last has gone.
 */
extern void cp_pool_serves(bool serves);

/* The lease for which this backend stands in a queue, or was granted; 0 = none. */
extern uint64 cp_pool_awaited(void);

/* Has cp_pool_granted() something else to say than QUEUED? */
extern bool cp_pool_was_served(void);

typedef enum CpLeave
{
	CP_LEAVE_TIMEOUT,
	CP_LEAVE_CANCEL
} CpLeave;

/*
 * Leaves the queue, wherever this backend stands in it, and passes on what it
 * was granted meanwhile.  Nothing if it does not wait: safe in any abort.
 */
extern void cp_pool_leave_queue(CpLeave why);

/* ---- opening ---- */

typedef struct CpConnected
{
	int remote_pid;
	const char *remote_address;
	bool encrypted;			 /* also if a tunnel does it */
	int tunnel;				 /* number of the one it goes through, 0 = none */
	const char *tls_version; /* NULL if it is not by TLS */
	const char *tls_cipher;
	bool unshared;
	CpTime connect_time; /* microseconds it took */
} CpConnected;

/* CONNECTING -> LEASED; the permit goes on.  Returns the new generation. */
extern uint64 cp_pool_connected(CpCheckout *c, const CpConnected *info);

typedef enum CpFailure
{
	CP_FAILURE_UNREACHABLE, /* the remote's, or the network's: trips the breaker */
	CP_FAILURE_ROOM,		/* the remote has no room for one more */
	CP_FAILURE_LOGIN,		/* it does not let us in */
	CP_FAILURE_REFUSED,		/* it does, but we do not take the connection */
	CP_FAILURE_LOCAL,		/* out of descriptors or memory */
	CP_FAILURE_OUTDATED,	/* the options have been changed meanwhile */
	CP_FAILURE_TIMEOUT,		/* checkout_timeout ran out meanwhile */
	CP_FAILURE_CANCEL		/* the local session was interrupted */
} CpFailure;

/*
 * An attempt to open fails; the caller ends it next.  Counts it and draws the
 * conclusions for the pool: UNREACHABLE trips the breaker, ROOM and LOGIN lower
 * the ceiling for a while if connections live.  sqlstate 0 and message NULL if
 * there are none.  `since` as in the checkout.  True: connections that would do
 * for this caller live in the hands of others, so it may check out `again`
 * instead of failing, and has not been counted as failed.  (Always for OUTDATED,
 * never for REFUSED, LOCAL, TIMEOUT and CANCEL.)
 */
extern bool cp_pool_connect_failed(int slot, uint64 generation, CpFailure what,
								   int sqlstate, const char *message, CpTime since);

/*
 * CONNECTING -> FREE: the attempt is over and nothing is left of it; the
 * permit goes on.
 */
extern void cp_pool_connect_ended(int slot, uint64 generation);

/*
 * A granted connection is of no use, before anything ran on it: LEASED ->
 * CLOSING, and the grant was none.  The caller checks out again, with `again`
 * set.  is_dead: so others of its pool are suspect; false if that is not known.
 */
extern void cp_pool_discard(CpCheckout *c, bool is_dead);

/*
 * A granted connection could not be taken up in time: LEASED -> IDLE, and the
 * checkout counts as timed out.
 */
extern void cp_pool_give_up(CpCheckout *c);

/* ---- checkin ---- */

typedef enum CpDisposition
{
	CP_CHECKIN_CLEAN, /* back to the idle list */
	CP_CHECKIN_RESET, /* the broker resets it first */
	CP_CHECKIN_CLOSE, /* the broker ends it */
	CP_CHECKIN_ENDED  /* its holder has ended it: nothing is left */
} CpDisposition;

/* What a lease did since it was last reported. */
typedef struct CpUsage
{
	int64 queries;
	int64 query_errors;
	int64 rows;
	int64 discarded; /* 1: ended because dead or in doubt */
	/* microseconds between grant and first use: fetching the socket, checking it */
	CpTime extra_wait;
	int timed;			 /* statements that have ended: not more than one */
	CpTime remote_time;	 /* microseconds it took */
	int64 auto_returned; /* 1: explicit, and the end of its transaction gave it back */
} CpUsage;

typedef struct CpCheckin
{
	int slot;
	uint64 generation;
	CpDisposition disposition;
	bool in_transaction; /* RESET begins with ROLLBACK */
	uint64 changes;		 /* parameters that RESET must bring back */
	bool mid_protocol;	 /* CLOSE without Terminate */
	bool broken;		 /* CLOSE: it was lost, or did not come to rest */
	bool unfit;			 /* CLOSE: nothing is wrong, but others must not use it */
	CpUsage usage;
	/* out */
	CpLeakRecord *leak; /* NULL, or filled if it had been reported as a leak */
	bool was_leak;		/* so it had */
	bool reclaimed;		/* somebody took it away before: nothing was done */
} CpCheckin;

/*
 * LEASED -> IDLE, RESETTING, CLOSING or FREE; hands over to the first waiter.
 * False, and nothing has changed, when CLEAN, RESET or CLOSE was asked but
 * the present broker does not have the socket: the caller donates it or ends
 * it, and calls again.
 */
extern bool cp_pool_checkin(CpCheckin *c);

/*
 * Adds usage of a lease that goes on.  True: it has been reported as a leak; then
 * *leak (may be NULL) is filled.
 */
extern bool cp_pool_add_usage(int slot, uint64 generation, const CpUsage *usage,
							  CpLeakRecord *leak);

/*
 * The holder of a lease tells how a remote transaction on it has ended, as long as it
 * holds it: before checkin.  Nothing if the slot is another's.
 */
extern void cp_pool_count_transaction(int slot, uint64 generation, CpOutcome outcome);

/*
 * The holder says from when to when a remote statement runs.  begins: false if
 * the lease has been, or is being, reclaimed; then nothing must be sent.  ends:
 * returns how long it ran, in microseconds; nothing if the slot is another's.
 */
extern bool cp_pool_statement_begins(int slot, uint64 generation);
extern CpTime cp_pool_statement_ends(int slot, uint64 generation);

/* What took a lease. */
typedef struct CpOrigin
{
	Oid session_role;
	bool is_explicit;  /* checkout() did */
	bool spared;	   /* leak_action must not cancel what its holder does */
	const char *sql;   /* or NULL; is cut to size */
	uint64 query_id;   /* 0 = none was computed */
	const char *stack; /* PL call stack, or NULL */
} CpOrigin;

/* The holder stores it. */
extern void cp_pool_set_origin(int slot, uint64 generation, const CpOrigin *origin);

/* The slot's generation at this moment, read without a lock. */
extern uint64 cp_pool_generation(int slot);

/* Does the present broker have the socket of this slot? */
extern bool cp_pool_is_donated(int slot, uint64 generation);

/* ---- the broker's side ---- */

/* A new run begins: frees what only the last run had, returns its epoch. */
extern uint64 cp_pool_broker_begins(void);

/*
 * The run ends: no broker from now on; slots that only it had become FREE.
 * Ends the sockets first, then calls this.
 */
extern void cp_pool_broker_ends(void);

/* LEASED by pid with that generation?  (fetch, donate, end) */
extern bool cp_pool_is_held_by(int slot, uint64 generation, int pid);

/* CONNECTING by pid with that generation?  (a tunnel, which is to open it) */
extern bool cp_pool_is_opened_by(int slot, uint64 generation, int pid);

/*
 * The broker has taken the socket: records its epoch.  What the dialer donates
 * becomes IDLE.  Returns the generation, which is a new one then; 0 if the slot
 * is no longer held.
 */
extern uint64 cp_pool_donated(int slot, uint64 generation, int pid, uint64 epoch);

/*
 * The holder has given the socket up to the broker to await its end:
 * LEASED or CONNECTING -> CLOSING.  Returns the new generation, 0 if refused.
 * Counts nothing: the holder reports its usage before.
 */
extern uint64 cp_pool_ending(int slot, uint64 generation, int pid);

typedef struct CpTask
{
	int slot;
	uint64 generation;
	CpSlotState state; /* RESETTING, VALIDATING or CLOSING */
	bool in_transaction;
	uint64 changes; /* a set as cp_greeting_changes() makes it */
	bool mid_protocol;
} CpTask;

/* Takes the next slot that wants the broker's work; false if there is none. */
extern bool cp_pool_next_task(CpTask *task);

/* RESETTING or VALIDATING -> IDLE, or -> CLOSING (false); hands over. */
extern void cp_pool_reset_done(int slot, uint64 generation, bool ok);

/* IDLE -> VALIDATING, to look at its socket; false if it is not idle now. */
extern bool cp_pool_validate(int slot, uint64 *generation);

/*
 * VALIDATING -> IDLE (alive) or CLOSING.  The slot keeps its place among the
 * idle ones and its idle_since.  If it is dead all others of its pool that were
 * not checked since become suspect.
 */
extern void cp_pool_validated(int slot, uint64 generation, bool alive);

/* CLOSING -> FREE: its end has been seen, or waited for long enough. */
extern void cp_pool_closed(int slot, uint64 generation);

/* All IDLE connections -> CLOSING (a stopping server). */
extern void cp_pool_close_all_idle(void);

/*
 * Gives free slots, and places of servers, to pools that lack one; where there
 * is none, sees to it that another pool gives one up.  Called on every turn;
 * returns when it wants to be called next.
 */
extern CpTime cp_pool_relieve(void);

/*
 * Maintenance, once a tick and when cp_shared->upkeep_wanted is set (which it
 * clears): closes what is idle for too long, too old or outdated, has VALIDATING
 * begin where it is due (tasks follow), removes pools that were dropped, serves
 * queues whose ceiling or breaker has changed with time.  Returns when it wants
 * to be called next, at the latest.
 */
extern CpTime cp_pool_maintain(CpTime now);

/*
 * A pool that lacks connections (min_size), and whose time to try has come.
 * *next: begin with 0, and go on with what it was set to.  False: no more.
 */
extern bool cp_pool_next_lacking(int *next, CpTime now, CpPoolKey *key);

/* Why pools of that database that lack connections get none; counts as a failed try. */
extern void cp_pool_cannot_upkeep(Oid database, const char *message);

/* All pools of a database are dropped: it is gone. */
extern void cp_pool_drop_database(Oid database);

/* ---- opening ahead of demand: reader and dialer ---- */

/*
 * Reader: what the catalogs say of a pool.  Brings options and definition of
 * the pool of that key up to date; connections of another definition are
 * replaced.  If `create`, the pool is made if it is not there and a place is
 * free.  Returns its index and generation, or CP_NONE.
 */
extern int cp_pool_define(const CpPoolKey *key, const char *name,
						  const CpPoolOptions *options,
						  const CpFingerprint *fingerprint, bool create,
						  uint64 *generation);

/* Reader: the options of a connection string's pool, which are settings. */
extern void cp_pool_set_defaults(int pool, uint64 generation, const CpPoolOptions *options);

/*
 * Dialer: it has an order for the pool, for which it may hold no permit yet (a
 * name is being looked up), until that time at the latest; 0 = it is done.
 */
extern void cp_pool_order_runs(int pool, uint64 generation, CpTime until);

/*
 * Reader: the servers of its database that are remembered without a pool, since
 * they are paused (*next: begin with 0); and one of them is gone.
 */
extern bool cp_server_next_unused(int *next, Oid database, Oid *server);
extern void cp_server_forget(Oid database, Oid server);

/* Reader: its server, mapping or role is gone; it goes when it is empty. */
extern void cp_pool_drop(int pool, uint64 generation);

/* How many connections it lacks that may be opened now; 0 = none. */
extern int cp_pool_lacks(int pool, uint64 generation);

/*
 * Reader and dialer: min_size cannot be reached, for that reason.  Tried again
 * after a while, which grows as cp_breaker_backoff() does.
 */
extern void cp_pool_upkeep_failed(int pool, uint64 generation, int sqlstate,
								  const char *message);

/*
 * Reader: definitions or rights do not allow it, which is a failure too; and
 * they do: what failed only because of them is tried at once.
 */
extern void cp_pool_upkeep_refused(int pool, uint64 generation, int sqlstate,
								   const char *message);
extern void cp_pool_upkeep_allowed(int pool, uint64 generation);

typedef enum CpDial
{
	CP_DIAL_OK,		 /* *slot is CONNECTING, held by this process */
	CP_DIAL_LATER,	 /* too many connects are under way */
	CP_DIAL_NEEDLESS /* nothing is lacking, or may not be opened now */
} CpDial;

/* Dialer: a permit to open one connection ahead of demand. */
extern CpDial cp_pool_dial(int pool, uint64 generation, const CpFingerprint *fingerprint,
						   int *slot, uint64 *slot_generation);

/*
 * Dialer: may what it opens by that order still be of use?  Not if the pool is
 * gone or paused, or its definition another one by now.
 */
extern bool cp_pool_order_holds(int pool, uint64 generation, const CpFingerprint *fingerprint);

/*
 * Dialer: the slot's connection is open.  To be donated next (the broker makes
 * it IDLE then) or, if that fails, ended: cp_pool_connect_ended().
 */
extern void cp_pool_dialed(int slot, uint64 generation, const CpConnected *info);

/*
 * Dialer: takes it back, so that the broker does not take it any more.  False if
 * the broker has it already.
 */
extern bool cp_pool_withdraw(int slot, uint64 generation);

/* ---- administration ---- */

/*
 * Which pools a call is about: all (superusers), those of a server of this
 * database, or one pool.
 */
typedef struct CpPoolSet
{
	bool all;
	Oid database; /* with server: all pools of that server */
	Oid server;
	int pool; /* else this one */
	uint64 generation;
} CpPoolSet;

/*
 * Pools grant nothing from now on; false if they (all of them) were paused
 * before.  A server stays paused for pools that come later, too.  Throws
 * only when no place is left to remember a server without pools.
 */
extern bool cp_pool_pause(const CpPoolSet *set);
extern void cp_pool_resume(const CpPoolSet *set);

/* Is any connection of theirs leased, being opened or reset? */
extern bool cp_pool_is_drained(const CpPoolSet *set);

/*
 * Waits until none is, or none of the pools is there any more; serves
 * interrupts.  False: somebody has resumed one of them meanwhile.
 */
extern bool cp_pool_await_drained(const CpPoolSet *set);

/* Has all connections replaced as they come free. */
extern void cp_pool_reconnect(const CpPoolSet *set);

/* Closes idle connections; returns how many. */
extern int cp_pool_close_idle(const CpPoolSet *set);

/* Forgets failures: what is lacking is opened now, the breaker lets one try. */
extern void cp_pool_warm(const CpPoolSet *set);

typedef enum CpReclaim
{
	CP_RECLAIM_OK,
	CP_RECLAIM_NO_LEASE,
	CP_RECLAIM_UNSHARED, /* only its holder can end the connection */
	CP_RECLAIM_WORKING	 /* a remote statement runs on it */
} CpReclaim;

/*
 * Takes a lease away from its holder: the connection is ended.  Of whom it was
 * is read before with cp_slot_read(); slot and generation are from there.  `by`
 * is the effective role of who does it; InvalidOid: the broker, for the reason
 * `why`, and never from one that works, or has run a statement after that of
 * `ran_at`.  If it had been reported as a leak, leak->class is set and *leak
 * filled.
 */
extern CpReclaim cp_pool_reclaim(int slot, uint64 generation, uint64 lease, Oid by,
								 const char *why, CpTime ran_at, CpLeakRecord *leak);

/*
 * Cancels what the holder of a lease does (SIGINT), if it holds it still, has run
 * no remote statement on it after that of `ran_at`, and runs none on any other.
 * Once for each lease; false if nothing was done.
 */
extern bool cp_pool_cancel_holder(int slot, uint64 generation, uint64 lease, CpTime ran_at);

/* Does that process run a remote statement now, on whatever lease?  Needs no lock. */
extern bool cp_pool_holder_runs(int pid);

/* Was the lease taken away?  By whom, when. */
extern bool cp_pool_was_reclaimed(uint64 lease, CpReclaimRecord *record);

/* ---- marks: databases whose definitions are to be read ---- */

/* Any process: database InvalidOid = all of them; wakes the broker. */
extern void cp_pool_mark_database(Oid database);

/* Broker: takes the marks; *all, or up to CP_MAX_MARKS in `databases`; how many. */
extern int cp_pool_take_marks(Oid *databases, bool *all);

/* ---- deadlock.c ---- */

/*
 * A backend that waits in the queue of `pool` for deadlock_timeout: can it
 * never end, and is it this backend that should give up?  Then *detail
 * (palloc'd) tells who holds what.
 */
extern bool cp_deadlock_found(char **detail);

/* ---- reading ---- */

typedef struct CpPoolInfo
{
	CpPoolKey key;
	uint64 generation;
	char name[CP_POOL_NAME_LEN];
	CpPoolOptions options;
	int counts[CP_SLOT_STATES];
	int unshared;
	int tunnelled;
	int waiting;
	CpPoolStats stats;
	CpTime breaker_time; /* total_breaker_time, until now */
	int remote_max_connections;
	int effective_max_size; /* max_size, or less while the remote has no room */
	CpTime ceiling_until;	/* 0 unless it is less */
	int server_size;		/* places of its server that are taken; -1 without one */
	bool paused;
	bool dropped;
	CpBreaker breaker;
	CpProblem problem;		  /* the last connect that failed */
	CpProblem upkeep_problem; /* why min_size is not reached; at = 0: nothing */
	CpTime upkeep_at;		  /* not tried again before */
} CpPoolInfo;

/* A copy of one pool's entry; false if the place is not in use. */
extern bool cp_pool_read(int pool, CpPoolInfo *info);

typedef struct CpSlotInfo
{
	int slot;
	int pool;
	CpPoolKey key;
	char name[CP_POOL_NAME_LEN];
	int leak_threshold; /* of its pool, milliseconds */
	CpSlotState state;
	uint64 generation;
	CpTime state_since;
	bool unshared;
	bool encrypted;
	int tunnel;						   /* 0 = it does not go through one */
	char tls_version[CP_SLOT_TLS_LEN]; /* empty: it is not encrypted by TLS */
	char tls_cipher[CP_SLOT_TLS_LEN];
	int remote_pid;
	char remote_address[CP_ADDRESS_LEN];
	CpTime opened_at;
	CpTime idle_since;
	CpTime checked_at;
	CpTime expires_at; /* 0 = never */
	bool ahead;		   /* CONNECTING by the dialer */
	uint64 uses;
	int holder_pid;
	uint64 lease;
	CpScope scope;
	Oid lease_role;
	CpTime leased_at;
	CpTime running_since; /* 0 = no remote statement runs */
	CpTime ran_at;		  /* when the last one ended, 0 = none has */
	int leak_action;	  /* CpLeakAction of its pool */
	CpLeakClass leak;	  /* as what it was reported */
	bool leak_acted;	  /* leak_action has been taken */
	int holder_proc;
	char sql[CP_SQL_LEN];
	Oid session_role; /* of the session, whose text this is */
	bool is_explicit; /* by checkout() */
	uint64 query_id;  /* 0 = none was computed */
	char stack[CP_STACK_LEN];
} CpSlotInfo;

/* A copy of one slot, consistent in itself; false if it is FREE. */
extern bool cp_slot_read(int slot, CpSlotInfo *info);

typedef struct CpWaiterInfo
{
	int pool;
	CpPoolKey key;
	char name[CP_POOL_NAME_LEN];
	int pid;
	Oid role;
	CpTime since;
	int position; /* 1 = next */
} CpWaiterInfo;

/* The waiters of one pool, first to last; palloc'd; returns how many. */
extern int cp_pool_waiters(int pool, CpWaiterInfo **waiters);

/*
 * What the pool is doing, for an error's detail: "4 of 4 connections are
 * leased, 0 are connecting, 12 sessions wait; longest held by pid 123 (5.2
 * s), ...".  palloc'd.
 */
extern char *cp_pool_describe(int pool);

/* Counters and distributions of one pool back to zero. */
extern void cp_pool_reset_stats(int pool);

/* A copy of one distribution; false if the pool is not that one any more. */
extern bool cp_pool_read_latency(int pool, uint64 generation, CpLatency kind,
								 CpHistogram *histogram);

/* What happened since the start, and extremes since this was last called. */
typedef struct CpPoolInterval
{
	uint64 generation;
	CpPoolStats counters;
	CpExtremes extremes;
	CpTime breaker_time; /* total_breaker_time, until now */
	CpHistogram wait;
	CpHistogram checkout;
} CpPoolInterval;

/* Broker, for the history: false if the place is not in use. */
extern bool cp_pool_take_interval(int pool, CpPoolInterval *interval);

/* All that is kept of a pool over a restart. */
typedef struct CpPoolRecord
{
	CpPoolKey key;
	char name[CP_POOL_NAME_LEN];
	CpPoolOptions options;
	CpStats stats;
} CpPoolRecord;

/* Postmaster, at its end: a copy, without a lock; false if there is nothing to keep. */
extern bool cp_pool_save(int pool, CpPoolRecord *record);

/*
 * Postmaster, at start: makes the pool, without connections.  Returns its index
 * and generation, CP_NONE if there is no place.
 */
extern int cp_pool_restore(const CpPoolRecord *record, uint64 *generation);

/* What the remote allows ordinary users all in all; 0 and less: not known. */
extern void cp_pool_set_remote_limit(int pool, uint64 generation, int max_connections);

/*
 * For the broker's scan and a session's end (leak.c): marks a lease as reported,
 * counts it and adds the event, if that lease still holds the slot and, unless
 * `class` is ABANDONED, no remote statement has run on it after that of `ran_at`.
 * *first: it is the first time.  False if it is not held like that.
 */
extern bool cp_slot_report_leak(int slot, uint64 lease, CpLeakClass class, CpTime ran_at,
								bool *first);

/*
 * Who holds or opens the connections of a pool that a session waits for there:
 * process IDs in their order, each once, palloc'd; returns how many, 0 if it
 * does not wait there.
 */
extern int cp_pool_blockers(int pool, int pid, int **pids);

#endif /* CP_POOL_H */
