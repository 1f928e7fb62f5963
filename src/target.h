/*
 * target.h
 *		From what the caller names (a foreign server or a connection string)
 *		to a pool, its options and how to connect.
 *
 * Runs in client backends inside a transaction.  Reads catalogs, checks
 * rights (design, section 7), throws.  Never touches a network.
 */
#ifndef CP_TARGET_H
#define CP_TARGET_H

#include "shmem.h"

typedef struct CpTarget
{
	CpPoolKey key;
	char name[CP_POOL_NAME_LEN]; /* for people; never holds a secret */
	Oid role;					 /* effective role that resolved it */
	CpPoolOptions options;		 /* in force now, settings included */
	CpFingerprint fingerprint;
	bool password_required; /* refuse a connection that used none */
	/* options written by this very transaction: unshared connections only */
	bool uncommitted;
	const char *const *keywords; /* for PQconnectStartParams */
	const char *const *values;

	/* pool.c's memory of where the pool is; CP_NONE at first */
	int pool;
	uint64 pool_generation;
} CpTarget;

/*
 * Resolves a server name or connection string for the effective role, with
 * all checks.  The result is cached per (name, role) and stays valid until
 * the next call; options are brought up to date at each call.
 */
extern CpTarget *cp_target_resolve(const char *server);

/* true if text is a connection string or URI and never a server's name */
extern bool cp_target_is_conninfo(const char *server);

#endif /* CP_TARGET_H */
