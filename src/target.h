/*
 * target.h
 *		From what the caller names (a foreign server or a connection string)
 *		to a pool, its options and how to connect.
 *
 * Runs in client backends and the reader, inside a transaction.  Reads
 * catalogs, checks rights (design, section 7), throws.  Never touches a network.
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
	Oid owner; /* of the server; InvalidOid: a connection string has none */
	/*
	 * the role that answers for what its options have other processes do: that owner,
	 * or who uses the connection string; InvalidOid: a superuser
	 */
	Oid party;
	bool password_required; /* refuse a connection that used none */
	/* options written by this very transaction: unshared connections only */
	bool uncommitted;
	/* what this process's environment makes of its options may be nobody else's: likewise */
	bool by_environment;
	/*
	 * SCRAM pass-through is asked for: each session's keys are part of the fingerprint,
	 * so that what the catalogs say does not tell which connections are right
	 */
	bool scram_passthrough;
	bool scram_keys;			 /* and this session has keys, which are used */
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

/*
 * The same once more, for what may have changed since.  The old target is gone.
 */
extern CpTarget *cp_target_again(const CpTarget *target);

/* true if text is a connection string or URI and never a server's name */
extern bool cp_target_is_conninfo(const char *server);

/*
 * The name in option "server" of that server, if it is one of wrapper conpool; else
 * NULL.  Looks at no rights, and not at whether there is a server of that name.
 */
extern const char *cp_target_referred_server(Oid server);

/*
 * ---- for the reader, which is nobody's session ----
 *
 * Ahead of demand a definition counts as a superuser's, so that its connections
 * need no password, only if nobody else could have written it: if superusers own
 * the server and the one that it refers to.  It is not enough that the role is a
 * superuser, or that its mapping has password_required 'false': the server's owner
 * may write a mapping for anybody, and change the host at any time.
 */

/* A mapping of a role's own, by which a pool can be kept ahead of demand. */
typedef struct CpTargetMapping
{
	Oid server;
	Oid role;
} CpTargetMapping;

/*
 * All of them, for servers of the wrapper conpool (whose option "server" may
 * lead to mappings of another one); palloc'd; returns how many.
 */
extern int cp_target_mappings(CpTargetMapping **mappings);

/*
 * What the catalogs say of a server for a role with a mapping of its own,
 * without looking at rights; NULL if one of them is gone.  Its key is that of the
 * role's own sessions; password_required is set for them, too, if the definition
 * is not a superuser's.  Not cached: valid until the memory context it was called
 * in is reset.
 */
extern CpTarget *cp_target_of_mapping(Oid server, Oid role);

/*
 * May connections of that target of cp_target_of_mapping() be opened without
 * anybody asking?  Throws as cp_target_resolve() does, and if the owner of the
 * server lacks USAGE on the one that it refers to, or if there is no password in
 * a definition that is not a superuser's.
 */
extern void cp_target_require_rights(const CpTarget *target);

/*
 * What the catalogs of this database now say of an existing pool, without
 * looking at rights; NULL if its server, mapping or role is gone (or, for a
 * connection string, its role), or another trust holds.  For a connection
 * string only key, and no options, are set.
 */
extern CpTarget *cp_target_of_pool(const CpPoolKey *key);

#endif /* CP_TARGET_H */
