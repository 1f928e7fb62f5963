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
#include "storage/lwlock.h"
#include "storage/spin.h"

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
/* leases that a session's end took back, kept for the view "leaks" */
#define CP_LEAK_RING 128
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
	CpTime state_since;
	uint64 vault_epoch; /* the broker run that has the socket, or 0 */
	CpFingerprint fingerprint;
	bool unshared;
	bool encrypted;
	bool in_transaction; /* a reset begins with ROLLBACK */
	uint64 changes;		 /* parameters that a reset must bring back */
	bool mid_protocol;	 /* no Terminate may be sent when closing */
	int remote_pid;
	char remote_address[CP_ADDRESS_LEN];
	CpTime opened_at;
	CpTime idle_since;
	uint64 uses;

	/* pool lock: the lease; set exactly in LEASED and CONNECTING */
	int holder_proc; /* number of its PGPROC, or CP_NONE */
	int holder_pid;
	uint64 lease;
	CpScope scope;
	Oid lease_role;
	CpTime leased_at;
	bool leak_reported;

	/* worklist's spinlock */
	bool queued_task;
	int next_task;

	/* atomic: since when a remote statement runs (CpTime), or 0 */
	pg_atomic_uint64 running_since;

	/* the slot's own spinlock; written by the holder */
	slock_t mutex;
	char sql[CP_SQL_LEN]; /* the local statement that took the lease */
} CpSharedSlot;

typedef enum CpWaiterState
{
	CP_WAITER_NONE,
	CP_WAITER_QUEUED,
	CP_WAITER_GRANTED_LEASE, /* slot is LEASED to it */
	CP_WAITER_GRANTED_PERMIT /* slot is CONNECTING, held by it */
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
	bool wants_permit; /* only an unshared connection will do */
	CpTime wait;	   /* microseconds counted at the grant */
	CpFingerprint fingerprint;
	uint64 lease;
	CpScope scope;
	Oid role;
} CpSharedWaiter;

typedef struct CpSharedPool
{
	/* registry lock to change, registry or pool lock to read */
	bool in_use;
	uint64 generation; /* changes when the entry is given away */
	CpPoolKey key;

	/* pool lock */
	char name[CP_POOL_NAME_LEN];
	CpPoolOptions options;
	int counts[CP_SLOT_STATES]; /* of its slots, FREE unused */
	int unshared;				/* of them */
	int idle_head;
	int idle_tail;
	int queue_head;
	int queue_tail;
	int waiting;
	/* has room by its own ceilings, but no slot was free */
	bool starved;
	CpTime last_used;
	CpPoolStats stats;
} CpSharedPool;

/* A leak that is over, for the view "leaks". */
typedef struct CpLeakRecord
{
	char pool[CP_POOL_NAME_LEN];
	CpPoolKey key;
	uint64 lease;
	int pid;
	Oid role;
	CpTime since;
	CpTime held_for; /* microseconds */
	char sql[CP_SQL_LEN];
} CpLeakRecord;

typedef struct CpShared
{
	/* fixed after start */
	int max_slots;
	int max_pools;
	int max_waiters;
	uint8 secret[32]; /* for fingerprints and conninfo digests */

	/* atomic */
	pg_atomic_uint64 next_lease;   /* leases, and later requests and cursors */
	pg_atomic_uint64 broker_epoch; /* 0 while there is no broker */
	pg_atomic_uint32 broker_proc;  /* number of its PGPROC */
	pg_atomic_uint32 broker_pid;
	pg_atomic_uint32 starved_pools; /* how many */

	/* the broker's alone */
	uint64 last_epoch;

	/* registry lock */
	uint64 last_pool_generation;
	uint64 leak_count; /* ever written to the ring */
	CpLeakRecord leak_ring[CP_LEAK_RING];

	/* free list's spinlock */
	slock_t free_mutex;
	int free_head;
	int free_count;

	/* worklist's spinlock: slots the broker has to look at */
	slock_t task_mutex;
	int task_head;
	int task_tail;
} CpShared;

/* NULL unless the library was preloaded */
extern CpShared *cp_shared;
extern CpSharedPool *cp_pools;
extern CpSharedSlot *cp_slots;
extern CpSharedWaiter *cp_waiters;

/* postmaster, from _PG_init: ask for the segment and its locks */
extern void cp_shmem_request_at_start(void);

/* raises 55000 with what to do when the library was not preloaded */
extern void cp_shmem_require(void);

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
