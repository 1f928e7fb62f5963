/*
 * shmem.h
 *		The shared memory of conpool: what lies where, and what protects it.
 *
 * Included by the modules that keep the state (shmem, stats, pool, leak) and,
 * for the small value types at the top, by those above them.  Holds no
 * pointers, no descriptors and no passwords.
 *
 * Lock order: registry LWLock; one pool's LWLock, never two; a spinlock.
 * Under a lock: no libpq, no catalog, no allocation, no waiting, no latch.
 */
#ifndef CP_SHMEM_H
#define CP_SHMEM_H

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "breaker.h"
#include "clock.h"
#include "options.h"
#include "stats.h"

#define CP_NONE (-1)

/* bytes of SQL text kept with a lease, terminator included */
#define CP_SQL_LEN 1024
/* bytes of a pool's display name, terminator included */
#define CP_POOL_NAME_LEN 128
/* text form of a remote address, "host:port" or a socket's path */
#define CP_ADDRESS_LEN 128
/* bytes of an error's message kept with a pool, terminator included */
#define CP_MESSAGE_LEN 256
/* bytes of the PL call stack kept with a lease, terminator included */
#define CP_STACK_LEN 1024
/* bytes of an application's name and of a client's address, likewise */
#define CP_APPLICATION_LEN 64
#define CP_CLIENT_LEN 64
/* bytes of what is told of an event, and of why a lease was reclaimed */
#define CP_EVENT_DETAIL_LEN 128
/* bytes of a statement's text kept with its statistics */
#define CP_STATEMENT_SQL_LEN 256
/* leaks that are over, kept for the view "leaks" */
#define CP_LEAK_RING 128
/* leases that reclaim() took away, kept to tell their holders */
#define CP_RECLAIM_RING 128
/* bytes of a connection's TLS version and of its cipher, terminator included */
#define CP_SLOT_TLS_LEN 64
/* tunnels there may be: conpool.tunnel_workers at most (tunnel_reply.h) */
#define CP_TUNNELS 16
/* databases noted to be read again; beyond that it is all of them */
#define CP_MAX_MARKS 64
/* servers remembered beside those of the pools: paused ones, overflow */
#define CP_SPARE_SERVERS 32
/* the pool of connections that found no pool; its connections are unshared */
#define CP_OVERFLOW_POOL 0

/* the rule a connection is opened under, part of the pool (design, section 7) */
typedef enum CpTrust
{
	CP_TRUST_PASSWORD, /* the remote must have asked for a password */
	CP_TRUST_ANY	   /* a superuser's, or password_required 'false' */
} CpTrust;

typedef enum CpPoolKind
{
	CP_POOL_SERVER,	  /* a foreign server and a user mapping */
	CP_POOL_CONNINFO, /* a connection string and a role */
	CP_POOL_OVERFLOW
} CpPoolKind;

/* HMAC of the connection options with the segment's secret */
typedef struct CpFingerprint
{
	uint8 bytes[16];
} CpFingerprint;

/* What makes a pool; compared as bytes, so zero it first. */
typedef struct CpPoolKey
{
	Oid database;
	Oid server;	 /* CP_POOL_SERVER */
	Oid mapping; /* CP_POOL_SERVER: oid of the user mapping */
	/* the mapping's, InvalidOid = PUBLIC; CP_POOL_CONNINFO: the caller's */
	Oid role;
	uint32 kind;			/* CpPoolKind */
	uint32 trust;			/* CpTrust */
	CpFingerprint conninfo; /* CP_POOL_CONNINFO: HMAC of the string */
} CpPoolKey;

/*
 * States of a slot.  pool_slot.c has the only function that assigns one, and the
 * table of legal changes; src/README draws it.
 */
typedef enum CpSlotState
{
	CP_SLOT_FREE,		/* no connection; on the free list */
	CP_SLOT_CONNECTING, /* its holder has a permit and opens it */
	CP_SLOT_IDLE,		/* the broker has it, clean, on the idle list */
	CP_SLOT_LEASED,		/* its holder uses it */
	CP_SLOT_RESETTING,	/* the broker clears its session state */
	CP_SLOT_VALIDATING, /* the broker looks whether it still lives */
	CP_SLOT_CLOSING		/* the broker ends it */
} CpSlotState;

#define CP_SLOT_STATES (CP_SLOT_CLOSING + 1)

/* Why a connection is closed. */
typedef enum CpCloseReason
{
	CP_CLOSE_UNKNOWN,
	CP_CLOSE_IDLE,		/* idle_timeout */
	CP_CLOSE_LIFETIME,	/* max_lifetime */
	CP_CLOSE_OUTDATED,	/* other options by now, or reconnect() */
	CP_CLOSE_DROPPED,	/* server, mapping, role or database is gone */
	CP_CLOSE_OVERSIZED, /* more than max_size or max_server_size */
	CP_CLOSE_GIVEN,		/* another pool, or caller, needs the place */
	CP_CLOSE_ORDERED,	/* close_idle() */
	CP_CLOSE_STOPPING,	/* the server, or the broker, stops */
	CP_CLOSE_DEAD,		/* found dead while idle */
	CP_CLOSE_LOST,		/* lost, or in doubt, when its holder gave it back */
	CP_CLOSE_UNFIT,		/* not to be used by others: it listens, is no primary ... */
	CP_CLOSE_RESET,		/* its reset failed */
	CP_CLOSE_RECLAIMED,
	CP_CLOSE_BROKER_LOST /* the broker that had it has ended */
} CpCloseReason;

/*
 * Whether a remote statement runs on a lease, and since when, in one word: the
 * low 48 bits are a CpTime (good for nine years of uptime), 0 = none runs, the
 * others the lowest of the slot's generation, so that nobody can change the word
 * of another lease.
 */
#define CP_RUNNING_BITS 48
#define CP_RUNNING_MASK ((UINT64CONST(1) << CP_RUNNING_BITS) - 1)
/* in place of the time: the lease is being reclaimed, none may begin any more */
#define CP_CLAIMED CP_RUNNING_MASK

static inline uint64
cp_running_word(uint64 generation, uint64 since)
{
	return generation << CP_RUNNING_BITS | since;
}

/* One connection.  The pool lock is the lock of the pool it is in. */
typedef struct CpSharedSlot
{
	/* free list's spinlock while FREE, pool lock otherwise */
	CpSlotState state;
	int pool;
	int prev; /* idle list; most recently used first */
	int next; /* idle list or free list */

	/* pool lock */
	/* changes when a connection enters, and when it starts to leave */
	uint64 generation;
	int server; /* whose place it takes: CpSharedServer, or CP_NONE */
	CpTime state_since;
	uint64 vault_epoch; /* the broker run that has the socket, or 0 */
	CpFingerprint fingerprint;
	bool own_options; /* its holder's, not the pool's: it tells nothing of its remote */
	bool unshared;
	bool beyond; /* opened beyond max_size: it does not count there */
	bool encrypted;
	int tunnel;						   /* number of the one it goes through, 0 = none */
	char tls_version[CP_SLOT_TLS_LEN]; /* empty: it is not encrypted by TLS */
	char tls_cipher[CP_SLOT_TLS_LEN];
	bool in_transaction; /* a reset begins with ROLLBACK */
	uint64 changes;		 /* parameters that a reset must bring back */
	bool mid_protocol;	 /* no Terminate may be sent when closing */
	int remote_pid;
	char remote_address[CP_ADDRESS_LEN];
	CpTime begun_at; /* when somebody was permitted to open it */
	CpTime opened_at;
	CpTime idle_since;
	CpTime checked_at; /* when it was last known to live */
	uint32 jitter;	   /* which part of a tenth of max_lifetime it misses */
	bool ahead;		   /* the dialer opens it, ahead of demand */
	bool dialed;	   /* it has, and donates it */
	uint64 uses;

	/* pool lock: the lease; set exactly in LEASED and CONNECTING */
	int holder_proc; /* number of its PGPROC, or CP_NONE */
	int holder_pid;
	uint64 lease;
	CpScope scope;
	Oid lease_role;
	CpTime leased_at;
	CpTime wait;		   /* microseconds counted as its wait, ... */
	bool wait_tracked;	   /* ... also in the distribution */
	bool ending;		   /* its holder has said all there is to say of it */
	CpLeakClass leak;	   /* as what it was reported; NONE: it was not */
	bool leak_acted;	   /* leak_action has been taken */
	CpCloseReason leaving; /* why it is being closed, for the event */

	/* worklist's spinlock */
	bool queued_task;
	int next_task;

	pg_atomic_uint64 running; /* atomic: a cp_running_word(), new with each lease */
	pg_atomic_uint64 ran_at;  /* atomic: when the lease's last one ended (CpTime), or 0 */

	/* the slot's own spinlock; written by the holder */
	slock_t mutex;
	char sql[CP_SQL_LEN];	  /* the local statement that took the lease */
	Oid session_role;		  /* of the session, whose text this is */
	bool is_explicit;		  /* by checkout() */
	bool spared;			  /* leak_action must not cancel anything */
	uint64 query_id;		  /* of that statement, 0 = none was computed */
	char stack[CP_STACK_LEN]; /* PL functions it came through, if it outlives the call */
} CpSharedSlot;

typedef enum CpWaiterState
{
	CP_WAITER_NONE,
	CP_WAITER_QUEUED,
	CP_WAITER_GRANTED_LEASE,  /* slot is LEASED to it */
	CP_WAITER_GRANTED_PERMIT, /* slot is CONNECTING, held by it */
	CP_WAITER_REFUSED		  /* the breaker is open, nothing lives */
} CpWaiterState;

/* One backend that may wait; indexed by the number of its PGPROC. */
typedef struct CpSharedWaiter
{
	/* pool lock of `pool`; `state` may be read by its owner without it */
	CpWaiterState state;
	int pool;
	int prev;
	int next;
	int slot;		   /* what was granted */
	uint64 generation; /* of the granted slot */
	int pid;
	CpTime since;
	CpTime deadline;
	bool wants_permit; /* only an unshared connection will do */
	bool may_exceed;   /* a permit beyond max_size will do */
	bool serves;	   /* it gives back leases while it waits */
	bool suspect;	   /* the granted connection is to be checked first */
	CpTime wait;	   /* microseconds counted at the grant */
	CpFingerprint fingerprint;
	uint64 lease;
	CpScope scope;
	Oid role;
} CpSharedWaiter;

/*
 * A foreign server that has pools: what they share.  Its places are counted
 * here, since no two pools may be locked at a time.
 */
typedef struct CpSharedServer
{
	/* registry lock */
	bool in_use;
	Oid database;
	Oid server;
	int pools;	 /* that refer to it */
	bool paused; /* pools made later begin paused */

	/* its own spinlock */
	slock_t mutex;
	int limit;		  /* max_server_size, 0 = none */
	int count;		  /* slots that take a place, CLOSING ones too */
	int closing;	  /* of them, those that are CLOSING */
	int reserved_for; /* pool that gets the next place, or CP_NONE */
} CpSharedServer;

/* Why something does not work, for people; at = 0: nothing happened. */
typedef struct CpProblem
{
	CpTime at;
	int sqlstate; /* 0 = none was given */
	char message[CP_MESSAGE_LEN];
} CpProblem;

typedef struct CpSharedPool
{
	/* registry lock to change, registry or pool lock to read */
	bool in_use;
	uint64 generation; /* changes when the entry is given away */
	CpPoolKey key;
	int server; /* its CpSharedServer, CP_NONE for connection strings */

	/* pool lock */
	char name[CP_POOL_NAME_LEN];
	CpPoolOptions options;
	int counts[CP_SLOT_STATES]; /* of its slots, FREE unused */
	int beyond[CP_SLOT_STATES]; /* of them: those beyond max_size */
	int unshared;				/* of them all */
	int tunnelled;				/* of them: with slot.tunnel > 0 */
	int idle_head;
	int idle_tail;
	int queue_head;
	int queue_tail;
	int waiting;
	int exceeding; /* of them: those who may exceed max_size */
	/* has room by its own ceilings, but no slot or no place was free */
	bool starved;
	/* connections to close at checkin, so that another pool gets the places */
	int must_give;
	CpTime last_used;

	/* pool lock: what was decreed */
	bool paused;
	bool dropped;			  /* server, mapping, role or database is gone */
	bool defined;			  /* `definition` is known */
	CpFingerprint definition; /* the one in force: others are replaced ... */
	CpTime defined_at;		  /* ... if they were begun before that was known */
	CpTime reconnect_before;  /* connections begun before are replaced */

	/* pool lock: the state of its remote */
	CpTime suspect_before; /* what was not checked since is checked before use */
	CpBreaker breaker;
	int prober;			  /* slot whose connect is the breaker's probe, or CP_NONE */
	CpFingerprint failed; /* options of the connect for which the breaker is open */
	CpProblem problem;	  /* of the last connect that failed */
	int ceiling;		  /* what the remote has room for, ... */
	CpTime ceiling_until; /* ... until then; see cp_pool_ceiling() */
	int ceiling_failures; /* refusals for want of room in a row */

	/* pool lock: connections that may be closed for their age, and until when */
	int expiries;
	CpTime expiries_until;

	/* pool lock: opening ahead of demand */
	int upkeep_failures;	  /* in a row */
	CpTime upkeep_at;		  /* not tried again before */
	CpTime order_until;		  /* the dialer is at it, until then at the latest; or 0 */
	CpProblem upkeep_problem; /* why min_size is not reached; at = 0: nothing */
	bool upkeep_refused;	  /* that is what the definitions say, or rights */

	/* pool lock: what the remote itself allows ordinary users, 0 = not known */
	int remote_max_connections;

	CpStats stats;
} CpSharedPool;

/* How a leak ended. */
typedef enum CpLeakEnd
{
	CP_LEAK_CHECKED_IN,
	CP_LEAK_TRANSACTION_ENDED,
	CP_LEAK_SESSION_ENDED,
	CP_LEAK_RECLAIMED,
	CP_LEAK_LOST /* its connection */
} CpLeakEnd;

/* A leak that is over, for the view "leaks". */
typedef struct CpLeakRecord
{
	uint64 number; /* counts from 1 */
	CpLeakClass class;
	CpLeakEnd end;
	char pool[CP_POOL_NAME_LEN];
	CpPoolKey key;
	uint64 lease;
	int slot;
	int pid;
	Oid role;
	Oid session_role; /* of the session, whose text this is */
	char application[CP_APPLICATION_LEN];
	char client[CP_CLIENT_LEN]; /* address; empty: a local one */
	TimestampTz since;
	TimestampTz ended_at;
	char sql[CP_SQL_LEN];
	uint64 query_id;
	char stack[CP_STACK_LEN];
} CpLeakRecord;

/* A lease that was taken away from its holder. */
typedef struct CpReclaimRecord
{
	uint64 lease;
	int holder_pid; /* whose it was */
	int pid;		/* of whoever did it */
	Oid role;		/* whose effective role this was; InvalidOid: the broker's */
	CpTime at;
	char why[CP_EVENT_DETAIL_LEN]; /* what leak_action says of it; empty: somebody's order */
} CpReclaimRecord;

/* A worker that owns encrypted connections; written by itself alone. */
typedef struct CpSharedTunnel
{
	/* atomic */
	pg_atomic_uint32 pid;		  /* 0 while it does not listen */
	pg_atomic_uint32 connections; /* it has now */
	pg_atomic_uint64 started_at;  /* CpTime; 0 = never */
	/* atomic: since the server's start */
	pg_atomic_uint64 opened;
	pg_atomic_uint64 failed;	 /* attempts */
	pg_atomic_uint64 bytes_sent; /* to remotes, of their protocol: in the clear */
	pg_atomic_uint64 bytes_received;
	pg_atomic_uint64 cpu_time; /* microseconds */
} CpSharedTunnel;

typedef struct CpShared
{
	/* fixed after start */
	int max_slots;
	int max_pools;
	int max_servers;
	int max_waiters;
	uint8 secret[32]; /* for fingerprints and conninfo digests */

	/* atomic */
	pg_atomic_uint64 next_lease;   /* leases, and later requests and cursors */
	pg_atomic_uint64 broker_epoch; /* 0 while there is no broker */
	pg_atomic_uint32 broker_proc;  /* number of its PGPROC */
	pg_atomic_uint32 broker_pid;
	pg_atomic_uint32 starved_pools; /* how many */
	pg_atomic_uint32 upkeep_wanted; /* 1: the broker is to look at all pools now */
	pg_atomic_uint32 dialer_pid;	/* 0 while it does not listen */
	pg_atomic_uint32 reader_pid;	/* 0 while there is none */
	pg_atomic_uint32 last_read;		/* database that a reader has read to the end */
	pg_atomic_uint32 last_bare;		/* the same one, if it lacks our extensions */

	/* atomic: that of number n is tunnels[n - 1] */
	CpSharedTunnel tunnels[CP_TUNNELS];

	/* broadcast when a paused pool has no lease left, or is resumed or gone */
	ConditionVariable drained;

	/* the broker's alone */
	uint64 last_epoch;

	/* registry lock */
	uint64 last_pool_generation;
	uint64 leak_count; /* ever written to the ring, in whose order is none */
	CpLeakRecord leak_ring[CP_LEAK_RING];
	bool all_paused; /* pools made later begin paused */

	/* reclaims' spinlock */
	slock_t reclaim_mutex;
	uint64 reclaim_count; /* ever written to the ring */
	CpReclaimRecord reclaim_ring[CP_RECLAIM_RING];

	/* free list's spinlock */
	slock_t free_mutex;
	int free_head;
	int free_count;
	int free_reserved_for; /* pool that gets the last one, or CP_NONE */

	/* worklist's spinlock: slots the broker has to look at */
	slock_t task_mutex;
	int task_head;
	int task_tail;

	/* marks' spinlock: databases whose definitions are to be read again */
	slock_t mark_mutex;
	bool all_marked;
	int mark_count;
	Oid marks[CP_MAX_MARKS];
} CpShared;

/* NULL unless the library was preloaded */
extern CpShared *cp_shared;
extern CpSharedPool *cp_pools;
extern CpSharedSlot *cp_slots;
extern CpSharedWaiter *cp_waiters;
extern CpSharedServer *cp_servers;

/*
 * postmaster, from _PG_init: asks for the segment and its locks; `begin` is
 * called whenever shared memory is there and new
 */
extern void cp_shmem_request_at_start(void (*begin)(void));

/* raises 55000 with what to do when the library was not preloaded */
extern void cp_shmem_require(void);

/* Locks of tables beside the pools; taken with no other lock held. */
typedef enum CpTableLock
{
	CP_LOCK_STATEMENTS,
	CP_LOCK_ERRORS,
	CP_LOCK_HISTORY
} CpTableLock;

#define CP_TABLE_LOCKS (CP_LOCK_HISTORY + 1)

extern LWLock *cp_shmem_table_lock(CpTableLock which);

extern LWLock *cp_shmem_registry_lock(void);
extern LWLock *cp_shmem_pool_lock(int pool);

/* number of this process's PGPROC: index of its CpSharedWaiter */
extern int cp_shmem_my_proc(void);

/* wakes a process that has a PGPROC; never under a lock */
extern void cp_shmem_wake(int procno);
extern void cp_shmem_wake_broker(void);

/* the run of the broker that is up, or 0 */
static inline uint64
cp_shmem_broker_epoch(void)
{
	return pg_atomic_read_u64(&cp_shared->broker_epoch);
}

#endif /* CP_SHMEM_H */
