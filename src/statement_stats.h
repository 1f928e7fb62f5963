/*
 * statement_stats.h
 *		What the local statements cost that use pools, by their query ID.
 *
 * A table of conpool.max_statements entries in shared memory; when it is full,
 * those that are used least are given up, as pg_stat_statements does it: found
 * under a shared lock and bumped under the entry's spinlock, made and evicted
 * under the exclusive lock.  Runs in client backends, with no other lock held.
 * Never throws but for want of memory of the reader's.
 */
#ifndef CP_STATEMENT_STATS_H
#define CP_STATEMENT_STATS_H

#include "shmem.h"

/* compared as bytes, so zero it first */
typedef struct CpStatementKey
{
	CpPoolKey pool;
	Oid role; /* effective role of the caller */
	uint32 unused;
	uint64 query_id; /* 0: none was computed */
} CpStatementKey;

/* What is added, or has been added up; times in microseconds. */
typedef struct CpStatementCounters
{
	int64 calls; /* remote statements that were sent */
	int64 rows;
	int64 errors; /* of calls, and of checkouts */
	CpTime wait_time;
	CpTime remote_time;
	CpTime max_remote_time;
} CpStatementCounters;

typedef struct CpStatement
{
	CpStatementKey key;
	char pool[CP_POOL_NAME_LEN];
	char sql[CP_STATEMENT_SQL_LEN]; /* its beginning, as it was first seen, ... */
	Oid session_role;				/* ... in a session of that role */
	CpStatementCounters counters;
	TimestampTz since; /* first seen */
} CpStatement;

/* what it takes in shared memory, and its start, by shmem.c */
extern Size cp_statement_stats_size(void);
extern void cp_statement_stats_attach(void *place, bool is_new);

/* false if there is no entry yet: to be added then */
extern bool cp_statement_stats_bump(const CpStatementKey *key, const char *pool,
									const CpStatementCounters *counters);

/*
 * The same, making the entry if need be.  sql (may be NULL) is copied then; the
 * caller has hidden what may hold a password.
 */
extern void cp_statement_stats_add(const CpStatementKey *key, const char *pool, const char *sql,
								   Oid session_role, const CpStatementCounters *counters);

/* copies of all entries, palloc'd; returns how many */
extern int cp_statement_stats_read(CpStatement **statements);

/*
 * how often entries were given up for others, some at a time, since start or
 * reset of all
 */
extern int64 cp_statement_stats_evictions(void);

/* forgets those of a pool, or of all (NULL) */
extern void cp_statement_stats_reset(const CpPoolKey *pool);

/* after a restart: puts one back; nobody else is at work */
extern void cp_statement_stats_restore(const CpStatement *statement);

#endif /* CP_STATEMENT_STATS_H */
