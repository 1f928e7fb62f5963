/*
 * error_stats.h
 *		Which errors callers of a pool got, by SQLSTATE.
 *
 * A table of CP_MAX_ERRORS entries in shared memory; when it is full, the one
 * seen last for the longest time is given up.  Runs in client backends, the
 * reader and the dialer, with no other lock held.  Never throws but for want of
 * memory of the reader's.
 */
#ifndef CP_ERROR_STATS_H
#define CP_ERROR_STATS_H

#include "shmem.h"

#define CP_MAX_ERRORS 512

typedef struct CpErrorStat
{
	CpPoolKey key;
	char pool[CP_POOL_NAME_LEN];
	int sqlstate; /* 0: none was given */
	int64 count;
	TimestampTz first_seen;
	TimestampTz last_seen;
	/* of the last one */
	Oid role;		  /* whose error it was; InvalidOid: nobody's, ahead of demand */
	Oid session_role; /* in whose session */
	uint64 query_id;
	char message[CP_MESSAGE_LEN];
} CpErrorStat;

extern Size cp_error_stats_size(void);
extern void cp_error_stats_attach(void *place, bool is_new);

/* message may be NULL; it is hidden if it may hold a password */
extern void cp_error_stats_add(const CpPoolKey *key, const char *pool, int sqlstate,
							   const char *message, Oid role, Oid session_role,
							   uint64 query_id);

/* copies of all entries, palloc'd; returns how many */
extern int cp_error_stats_read(CpErrorStat **errors);

/* forgets those of a pool, or of all (NULL) */
extern void cp_error_stats_reset(const CpPoolKey *pool);

/* after a restart: puts one back; nobody else is at work */
extern void cp_error_stats_restore(const CpErrorStat *error);

#endif /* CP_ERROR_STATS_H */
