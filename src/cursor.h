/*
 * cursor.h
 *		Cursors of remote servers: which are open on a lease, and what is done with
 *		them.
 *
 * Runs in client backends, called by sql_cursor.c, and by lease.c when leases and
 * transactions end.  Throws where nothing else is said.
 */
#ifndef CP_CURSOR_H
#define CP_CURSOR_H

#include "lease.h"
#include "query.h"

typedef struct CpCursor
{
	dlist_node node; /* in its lease's list */
	uint64 id;
	CpLease *lease;
	bool owns_lease; /* which ends with it */
	int level;		 /* transaction nesting it is open in; 0: in none, scope session */
} CpCursor;

/*
 * Declares a cursor for sql.  owns_lease: the lease is the cursor's alone.  On an error
 * there is no cursor, and a lease of its own is for the abort callbacks to give back.
 */
extern CpCursor *cp_cursor_open(CpLease *lease, bool owns_lease, const char *sql,
								const CpParams *params);

/*
 * The cursor of that number, for the effective role, fit for use; throws 08003, 08006,
 * 42501, 42809, 55006.
 */
extern CpCursor *cp_cursor_get(int64 id);

/* Feeds the next n rows to the sink, fewer at the end. */
extern void cp_cursor_fetch(CpCursor *cursor, int n, CpSink *sink);

/* The cursor is gone, and a lease of its own is committed and given back. */
extern void cp_cursor_close(CpCursor *cursor);

/*
 * Forgets the cursors of the lease that were opened at that nesting level or deeper; 0:
 * all, as is due before a lease goes, whatever its scope.  What the remote makes of it
 * is the caller's business.  Does not throw.
 */
extern void cp_cursors_drop(CpLease *lease, int level);

/* The subtransaction of that level commits: what it opened is its parent's. */
extern void cp_cursors_inherit(CpLease *lease, int level);

#endif /* CP_CURSOR_H */
