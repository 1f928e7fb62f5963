/*
 * dblink.h
 *		The connections that this session has made with dblink's functions: which name
 *		stands for which lease.
 *
 * Runs in client backends, called by the sql_dblink files.  Throws.
 */
#ifndef CP_DBLINK_H
#define CP_DBLINK_H

#include "nodes/pg_list.h"

#include "lease.h"

/* One of them, with a name or, at most one, without. */
typedef struct CpDblink
{
	char name[NAMEDATALEN]; /* first: key of a hash */
	uint64 lease;			/* 0: there is none */
	Oid session_role;		/* the session's when it was made, whoever's function did */
	/* cursors opened in a transaction that was begun for them, and how many */
	bool own_transaction;
	int cursors;
	uint64 reading; /* request whose result is being read, or was when that failed */
	/* the last result was an error, and that it was the last has not been read */
	bool unread_end;
} CpDblink;

/*
 * The connection of that name, NULL for the one without, and its lease, which may be a
 * husk; or NULL, if that is gone.  NULL if there is none of that name.
 */
extern CpDblink *cp_dblink_find(const char *name, CpLease **lease);

/* Throws 42710 if there is a connection of that name; may give notice that it is cut. */
extern void cp_dblink_reserve(const char *name);

/*
 * Has the name, which was reserved, or NULL stand for that lease.  Does not throw.  Returns
 * the lease that it stood for, or 0.
 */
extern uint64 cp_dblink_set(const char *name, uint64 lease);

extern void cp_dblink_forget(CpDblink *connection);

/* The names, of char, of those that have one; palloc'd. */
extern List *cp_dblink_names(void);

#endif /* CP_DBLINK_H */
