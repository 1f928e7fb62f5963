/*
 * cursor.c
 *		Cursors of remote servers: which are open on a lease, and what is done with
 *		them.
 *
 * Runs in client backends, called by sql_cursor.c, and by lease.c when leases and
 * transactions end.  A cursor is entered in its lease's list once the remote has
 * declared it, and is never there when the lease is gone.  Never takes a lease.
 */
#include "postgres.h"

#include "cursor.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "error.h"
#include "handle.h"
#include "shmem.h"
#include "transaction.h"

/* its name at the remote, from its number, which no other has */
#define NAME_FORMAT "conpool_" UINT64_FORMAT

/* for what is run without parameters */
static const CpParams no_params = {.count = -1};

static void
forget(CpCursor *cursor)
{
	dlist_delete(&cursor->node);
	cp_handle_remove(cursor->id);
	pfree(cursor);
}

/* ---- the ends of leases and transactions ---- */

void
cp_cursors_drop(CpLease *lease, int level)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &lease->cursors)
	{
		CpCursor *cursor = dlist_container(CpCursor, node, iter.cur);

		if (cursor->level >= level)
			forget(cursor);
	}
}

void
cp_cursors_inherit(CpLease *lease, int level)
{
	dlist_iter iter;

	dlist_foreach(iter, &lease->cursors)
	{
		CpCursor *cursor = dlist_container(CpCursor, node, iter.cur);

		cursor->level = Min(cursor->level, level - 1);
	}
}

/* ---- opening ---- */

/* Declares it; it is in no list yet. */
static void
declare(const CpCursor *cursor, const char *sql, const CpParams *params)
{
	/* on a line of its own, or a comment at the end of the first would swallow it */
	char *command = psprintf("DECLARE " NAME_FORMAT " NO SCROLL CURSOR FOR\n%s", cursor->id, sql);
	/* by the extended protocol in any case, which takes one statement only */
	CpParams own = {
		.count = Max(params->count, 0),
		.types = params->types,
		.values = params->values,
	};

	(void) cp_query_run(cursor->lease, command, &own, NULL);
	pfree(command);
}

CpCursor *
cp_cursor_open(CpLease *lease, bool owns_lease, const char *sql, const CpParams *params)
{
	CpCursor *cursor = MemoryContextAllocZero(TopMemoryContext, sizeof(CpCursor));

	cursor->id = pg_atomic_fetch_add_u64(&cp_shared->next_lease, 1);
	cursor->lease = lease;
	cursor->owns_lease = owns_lease;
	/* a remote session's own transaction does not follow the local one */
	cursor->level = lease->scope == CP_SCOPE_SESSION ? 0 : GetCurrentTransactionNestLevel();

	PG_TRY();
	{
		cp_handle_add(cursor->id, CP_HANDLE_CURSOR);
		declare(cursor, sql, params);
	}
	PG_CATCH();
	{
		cp_handle_remove(cursor->id);
		pfree(cursor);
		PG_RE_THROW();
	}
	PG_END_TRY();

	dlist_push_tail(&lease->cursors, &cursor->node);
	return cursor;
}

/* ---- using ---- */

static CpCursor *
find_on_lease(CpLease *lease, uint64 id)
{
	dlist_iter iter;

	dlist_foreach(iter, &lease->cursors)
	{
		CpCursor *cursor = dlist_container(CpCursor, node, iter.cur);

		if (cursor->id == id)
			return cursor;
	}
	return NULL;
}

/* Those of a lease that was checked in cannot be used, as the lease. */
static CpCursor *
find(uint64 id)
{
	dlist_iter iter;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);
		CpCursor *cursor = lease->parted ? NULL : find_on_lease(lease, id);

		if (cursor != NULL)
			return cursor;
	}
	return NULL;
}

static void
refuse_if_busy(const CpCursor *cursor)
{
	const CpLease *lease = cursor->lease;

	if (!lease->busy)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("the connection of cursor " UINT64_FORMAT " of pool \"%s\" is running a "
					"statement already",
					cursor->id, lease->pool_name),
			 lease->request != 0 ?
				 errdetail("The result of request " UINT64_FORMAT " has not been read yet.",
						   lease->request) :
				 0));
}

static void
refuse_if_lost(const CpCursor *cursor)
{
	const CpLease *lease = cursor->lease;

	if (lease->slot == CP_NONE || lease->remote == NULL)
		ereport(ERROR,
				(errcode(CP_ERRCODE_LOST),
				 errmsg("the connection of cursor " UINT64_FORMAT " of pool \"%s\" was lost",
						cursor->id, lease->pool_name),
				 errdetail("The cursor went with it.")));
}

CpCursor *
cp_cursor_get(int64 id)
{
	CpCursor *cursor;

	cp_handle_refuse_other(id, CP_HANDLE_CURSOR);
	cursor = find((uint64) id);
	if (cursor == NULL)
		ereport(ERROR,
				(errcode(CP_ERRCODE_NOT_YOUR_LEASE),
				 errmsg("cursor " INT64_FORMAT " is not open in this session", id),
				 errdetail("It never was, or it was closed, alone or with its lease or "
						   "transaction.")));
	if (cursor->lease->role != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for cursor " INT64_FORMAT, id),
				 errdetail("A cursor can only be used by the role that opened it.")));
	refuse_if_busy(cursor);
	refuse_if_lost(cursor);
	return cursor;
}

void
cp_cursor_fetch(CpCursor *cursor, int n, CpSink *sink)
{
	char *command = psprintf("FETCH FORWARD %d FROM " NAME_FORMAT, n, cursor->id);

	(void) cp_query_run(cursor->lease, command, &no_params, sink);
	pfree(command);
}

/*
 * Forgotten first: if the remote does not close it, since it is gone there, say, there is
 * nothing more that could be done with it here.
 */
void
cp_cursor_close(CpCursor *cursor)
{
	CpLease *lease = cursor->lease;
	bool owns_lease = cursor->owns_lease;
	char *command = psprintf("CLOSE " NAME_FORMAT, cursor->id);

	forget(cursor);
	if (owns_lease)
	{
		/* the end of its transaction closes it */
		cp_transaction_commit_one(lease);
		cp_lease_checkin(lease);
	}
	else
		(void) cp_query_run(lease, command, &no_params, NULL);
	pfree(command);
}
