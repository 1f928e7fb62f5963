/*
 * lease.c
 *		Leases of this backend: which there are, and when they end.
 *
 * Runs in client backends.  A lease is entered in the list before it asks for
 * its connection, so that whatever happens then, the callbacks below (end of
 * a transaction, of a subtransaction, of the session) find it and give back
 * what it holds.  No lease is ever freed without that.
 */
#include "postgres.h"

#include "lease.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/memutils.h"

#include "borrow.h"
#include "compat.h"
#include "cursor.h"
#include "error.h"
#include "error_stats.h"
#include "handle.h"
#include "leak.h"
#include "query.h"
#include "statement_stats.h"
#include "transaction.h"

/* how long an abort may take to stop what runs remotely (milliseconds) */
#define ABORT_TIMEOUT 2000
/* the same for one that follows another, which has taken all of its time */
#define FURTHER_TIMEOUT 200
/* it does if it begins so soon after (milliseconds) */
#define FURTHER_WITHIN 50
/* the same for a session's end, all leases together */
#define EXIT_TIMEOUT 1000

dlist_head cp_leases = DLIST_STATIC_INIT(cp_leases);

/* a CpLease between two uses, so that a statement need not allocate one */
static CpLease *spare = NULL;

/* set at the session's end: the limit for all that is still to be done */
static CpTime exit_deadline = 0;

/* ---- the list ----------------------------------------------------------- */

void
cp_lease_set_target(CpLease *lease, const CpTarget *target)
{
	strlcpy(lease->pool_name, target->name, sizeof(lease->pool_name));
	lease->key = target->key;
	lease->reset = target->options.reset;
	lease->pool = target->pool;
}

static CpLease *
new_lease(const CpTarget *target, CpScope scope, int flags)
{
	CpLease *lease = spare;

	spare = NULL;
	if (lease == NULL)
		lease = MemoryContextAlloc(TopMemoryContext, sizeof(CpLease));
	memset(lease, 0, sizeof(*lease));
	lease->id = pg_atomic_fetch_add_u64(&cp_shared->next_lease, 1);
	lease->scope = scope;
	lease->is_explicit = (flags & CP_LEASE_EXPLICIT) != 0;
	lease->is_private = (flags & CP_LEASE_PRIVATE) != 0;
	lease->may_exceed = (flags & CP_LEASE_MAY_EXCEED) != 0;
	lease->quiet = (flags & CP_LEASE_QUIET) != 0;
	lease->nest_level = lease->held_level = GetCurrentTransactionNestLevel();
	lease->role = target->role;
	cp_lease_set_target(lease, target);
	lease->slot = CP_NONE;
	lease->donation = -1;
	lease->requested_at = cp_now();
	dlist_init(&lease->cursors);
	dlist_push_head(&cp_leases, &lease->node);
	return lease;
}

/* By when what is given back, or stopped, must be at rest. */
static CpTime
abort_deadline(void)
{
	return exit_deadline != 0 ? exit_deadline : cp_deadline(cp_now(), ABORT_TIMEOUT);
}

/* Whatever came of the request, its number means nothing any more. */
static void
forget_request(CpLease *lease)
{
	if (lease->run != NULL)
		cp_run_abandon(lease->run);
	if (lease->request != 0)
		cp_handle_remove(lease->request);
	lease->request = 0;
	lease->goes_with_request = false;
}

/* Gives back what it holds, and forgets it.  Waits for the broker until the deadline. */
static void
end_lease(CpLease *lease, CpTime deadline)
{
	/* first, since giving back may end with a message, and that be interrupted */
	dlist_delete(&lease->node);
	forget_request(lease);
	cp_cursors_drop(lease, 0);
	if (lease->is_explicit)
		cp_handle_remove(lease->id);
	cp_borrow_return(lease, deadline);
	if (spare == NULL)
		spare = lease;
	else
		pfree(lease);
}

/* Has somebody taken its connection away? */
static bool
is_reclaimed(const CpLease *lease)
{
	return lease->slot != CP_NONE && !lease->connecting &&
		cp_pool_generation(lease->slot) != lease->generation;
}

int
cp_lease_count_in_pool(int pool)
{
	dlist_iter iter;
	int n = 0;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->slot != CP_NONE && lease->pool == pool && !is_reclaimed(lease))
			n++;
	}
	return n;
}

/* ---- bringing to rest ---------------------------------------------------- */

/*
 * Puts the lease on the list of those to be settled, with what is to be run then; false
 * if there is nothing to settle, or no way to.
 */
static bool
list_settling(dlist_head *list, CpLease *lease, bool stop, const char *then)
{
	if ((!stop && then == NULL) || lease->slot == CP_NONE || lease->remote == NULL ||
		lease->connecting || lease->beyond_recovery || is_reclaimed(lease))
		return false;
	lease->settling.remote = lease->remote;
	lease->settling.running = lease->busy;
	lease->settling.then = then;
	dlist_push_tail(list, &lease->settling.node);
	return true;
}

/* Settles those on the list; what does not come to rest is closed, and its lease a husk. */
static void
settle(dlist_head *list, CpTime deadline)
{
	dlist_mutable_iter iter;

	if (dlist_is_empty(list))
		return;
	cp_settle(list, deadline);
	dlist_foreach_modify(iter, list)
	{
		CpSettling *settling = dlist_container(CpSettling, node, iter.cur);
		CpLease *lease = (CpLease *) ((char *) settling - offsetof(CpLease, settling));

		if (settling->at_rest)
			cp_borrow_stopped(lease);
		else
			cp_borrow_break_off(lease, deadline);
	}
}

/* What is half done, or cannot be settled, ends with its connection. */
static void
break_off(CpLease *lease, CpTime deadline)
{
	if (lease->slot != CP_NONE && (lease->connecting || lease->busy || lease->beyond_recovery))
		cp_borrow_break_off(lease, deadline);
}

void
cp_lease_stop(CpLease *const *leases, int n)
{
	CpTime deadline = abort_deadline();
	dlist_head list;

	for (int i = 0; i < n; i++)
	{
		if (leases[i]->run != NULL)
			cp_run_refuse_if_read(leases[i]->run);
	}
	dlist_init(&list);
	for (int i = 0; i < n; i++)
	{
		if (leases[i]->busy && !list_settling(&list, leases[i], true, NULL))
			break_off(leases[i], deadline);
	}
	settle(&list, deadline);
	for (int i = 0; i < n; i++)
	{
		uint64 request = leases[i]->request;

		if (request != 0)
			cp_lease_end_request(request);
		else if (leases[i]->run != NULL)
			cp_run_abandon(leases[i]->run);
	}
}

/* ---- the end of transactions -------------------------------------------- */

/*
 * Stops what was interrupted at this transaction nesting level or deeper, and rolls back
 * what was done there remotely, on all leases at the same time.
 */
static void
undo_remotely(int level, CpTime deadline)
{
	dlist_head list;
	dlist_iter iter;

	dlist_init(&list);
	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);
		bool stop = lease->busy && lease->busy_level >= level;
		const char *then = cp_transaction_undo(lease, level);

		/* what map.c has begun further out goes on */
		bool gives_up = lease->connecting && lease->nest_level >= level;

		if (!list_settling(&list, lease, stop, then) && (stop || then != NULL || gives_up))
			break_off(lease, deadline);
	}
	settle(&list, deadline);
}

/* Leaves the queue unless it is for a lease that was asked for further out. */
static void
leave_queue(int level)
{
	uint64 awaited = cp_pool_awaited();
	dlist_iter iter;

	if (awaited == 0)
		return;
	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->id == awaited && lease->nest_level < level)
			return;
	}
	cp_pool_leave_queue(CP_LEAVE_CANCEL);
}

/*
 * By when an abort must be over.  Levels of nesting abort one by one, and whoever waits for
 * all of them should not wait that long for each.
 */
static CpTime
level_deadline(CpTime last_exhausted)
{
	CpTime now = cp_now();

	if (exit_deadline == 0 && now < cp_deadline(last_exhausted, FURTHER_WITHIN))
		return cp_deadline(now, FURTHER_TIMEOUT);
	return abort_deadline();
}

/* Given back, but what was done on it commits with the local transaction. */
static void
part(CpLease *lease)
{
	lease->parted = true;
	cp_handle_remove(lease->id);
}

/* Ends the leases that were taken at this nesting level or deeper. */
static void
abort_leases(int level)
{
	static CpTime exhausted = 0; /* when one was over that has taken all of its time */
	CpTime deadline = level_deadline(exhausted);
	dlist_mutable_iter iter;

	leave_queue(level);
	undo_remotely(level, deadline);
	dlist_foreach_modify(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);
		bool taken_here = lease->nest_level >= level;
		bool half_taken = lease->obtained_at == 0;
		/* the request failed, or was stopped just now */
		bool unread = lease->request != 0 && !lease->busy;
		bool goes = unread && lease->goes_with_request;

		if (unread || (lease->run != NULL && !lease->busy))
			forget_request(lease);
		if (cp_transaction_undo(lease, level) != NULL)
			cp_transaction_undone(lease, level, lease->slot != CP_NONE && !is_reclaimed(lease));
		if ((taken_here && (lease->scope != CP_SCOPE_SESSION || half_taken)) || goes)
		{
			lease->end = CP_LEAK_TRANSACTION_ENDED;
			end_lease(lease, deadline);
		}
		else
		{
			cp_cursors_drop(lease, level);
			if (lease->is_explicit && lease->held_level >= level &&
				cp_transaction_is_open(lease))
				part(lease);
		}
	}
	if (cp_now() >= deadline)
		exhausted = cp_now();
}

/* Does a request on it end with the transaction, though nobody has read it? */
static bool
is_left_unread(const CpLease *lease)
{
	return lease->run != NULL && lease->busy && lease->scope != CP_SCOPE_TRANSACTION &&
		!(lease->is_explicit && lease->scope == CP_SCOPE_SESSION);
}

static void
stop_unread_requests(void)
{
	CpTime deadline = abort_deadline();
	dlist_head list;
	dlist_iter iter;
	dlist_mutable_iter ending;

	dlist_init(&list);
	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (!is_left_unread(lease))
			continue;
		ereport(WARNING,
				(errmsg("request " UINT64_FORMAT " on pool \"%s\" was stopped at the end of the "
						"transaction",
						lease->request, lease->pool_name),
				 errhint("Read its result with conpool.result(), or stop it with "
						 "conpool.cancel().")));
		if (!list_settling(&list, lease, true, NULL))
			break_off(lease, deadline);
	}
	settle(&list, deadline);
	dlist_foreach_modify(ending, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, ending.cur);

		if (lease->request != 0 && !lease->busy)
			forget_request(lease);
	}
}

/* Leases of the transaction end with it; those of the session go on. */
static void
end_transaction_leases(void)
{
	CpTime deadline = abort_deadline();
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->scope != CP_SCOPE_SESSION)
		{
			lease->end = CP_LEAK_TRANSACTION_ENDED;
			end_lease(lease, deadline);
		}
		else
		{
			/* a request on it is no transaction's business any more */
			lease->busy_level = 0;
			cp_cursors_inherit(lease, 1);
		}
	}
}

static void
commit_leases(void)
{
	stop_unread_requests();
	if (cp_transaction_commit(&cp_leases))
	{
		/* nothing may fail now that can be helped */
		HOLD_INTERRUPTS();
		end_transaction_leases();
		RESUME_INTERRUPTS();
		return;
	}
	end_transaction_leases();
	/* as in cp_lease_checkin() */
	CHECK_FOR_INTERRUPTS();
}

static const char *
hint_for_prepare(const CpLease *lease)
{
	if (cp_transaction_is_open(lease))
		return _("A remote transaction has begun in it, which cannot be prepared: use COMMIT.");
	if (lease->is_explicit)
		return _("Give the lease back with conpool.checkin() first.");
	return _("Read the results of requests, and close cursors, first.");
}

static void
refuse_prepare(void)
{
	dlist_iter iter;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->scope != CP_SCOPE_SESSION)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that holds a lease of pool \"%s\"",
							lease->pool_name),
					 errhint("%s", hint_for_prepare(lease))));
	}
}

static void
at_transaction_event(XactEvent event, void *arg)
{
	if (dlist_is_empty(&cp_leases) && event != XACT_EVENT_ABORT)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
			commit_leases();
			break;
		case XACT_EVENT_PRE_PREPARE:
			refuse_prepare();
			/* what is left is the session's, and ends with this transaction or goes on */
			stop_unread_requests();
			end_transaction_leases();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
			abort_leases(1);
			break;
		default:
			break;
	}
}

/* What a subtransaction took belongs to its parent once it commits. */
static void
inherit_leases(int level)
{
	dlist_iter iter;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		cp_transaction_merge(lease, level);
		cp_cursors_inherit(lease, level);
		lease->nest_level = Min(lease->nest_level, level - 1);
		lease->held_level = Min(lease->held_level, level - 1);
		lease->busy_level = Min(lease->busy_level, level - 1);
	}
}

static void
at_subtransaction_event(SubXactEvent event, SubTransactionId mySubid,
						SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		abort_leases(GetCurrentTransactionNestLevel());
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		inherit_leases(GetCurrentTransactionNestLevel());
}

/* ---- the end of the session --------------------------------------------- */

/* Stops what still runs on any lease. */
static void
stop_all(CpTime deadline)
{
	dlist_head list;
	dlist_iter iter;

	dlist_init(&list);
	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (!list_settling(&list, lease, lease->busy, NULL))
			break_off(lease, deadline);
	}
	settle(&list, deadline);
}

/*
 * Ends the transaction first: this callback, registered late, runs before
 * PostgreSQL's own, and FATAL runs no PG_CATCH.
 */
static void
at_exit(int code, Datum arg)
{
	dlist_mutable_iter iter;

	exit_deadline = cp_deadline(cp_now(), EXIT_TIMEOUT);
	/* the client has gone, or has been told: warnings are for the log */
	whereToSendOutput = DestNone;
	AbortOutOfAnyTransaction();
	cp_pool_leave_queue(CP_LEAVE_CANCEL);
	stop_all(exit_deadline);
	dlist_foreach_modify(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->is_explicit && !lease->quiet && lease->slot != CP_NONE &&
			!is_reclaimed(lease))
			cp_leak_abandoned(lease->slot, lease->id);
		lease->end = CP_LEAK_SESSION_ENDED;
		end_lease(lease, exit_deadline);
	}
}

void
cp_lease_discard_all(void)
{
	dlist_mutable_iter iter;

	stop_all(abort_deadline());
	dlist_foreach_modify(iter, &cp_leases)
		cp_lease_checkin(dlist_container(CpLease, node, iter.cur));
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(at_transaction_event, NULL);
	RegisterSubXactCallback(at_subtransaction_event, NULL);
	before_shmem_exit(at_exit, 0);
	registered = true;
}

/* ---- taking ------------------------------------------------------------- */

/*
 * A security-restricted operation (an index expression, REFRESH MATERIALIZED
 * VIEW) runs foreign code as somebody else; it must not leave anything behind
 * in the session.
 */
static void
check_scope(CpScope scope, int flags)
{
	if (!InSecurityRestrictedOperation())
		return;
	if (scope == CP_SCOPE_SESSION)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot take a lease of scope \"session\" within a "
						"security-restricted operation")));
	/* it could have the commit of whoever runs the operation fail, or wait */
	if (scope == CP_SCOPE_TRANSACTION && (flags & CP_LEASE_EXPLICIT) &&
		GetUserId() != GetOuterUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot take a lease of scope \"transaction\" within another role's "
						"security-restricted operation")));
}

/* ---- statistics ---------------------------------------------------------- */

void
cp_lease_account(CpLease *lease, CpAccount *account)
{
	account->pool = lease->key;
	memcpy(account->pool_name, lease->pool_name, CP_POOL_NAME_LEN);
	account->role = lease->role;
	account->wait = lease->untold_wait;
	lease->untold_wait = 0;
}

/* Within PG_CATCH. */
static void
count_error(const CpAccount *account)
{
	MemoryContext context = MemoryContextSwitchTo(TopTransactionContext);
	ErrorData *error = CopyErrorData();

	cp_error_stats_add(&account->pool, account->pool_name, error->sqlerrcode, error->message,
					   account->role, GetOuterUserId(), cp_my_query_id());
	FreeErrorData(error);
	MemoryContextSwitchTo(context);
}

void
cp_lease_count_statement(const CpAccount *account, bool sent, bool failed, CpTime taken,
						 int64 rows)
{
	CpStatementKey key = {
		.pool = account->pool,
		.role = account->role,
		.query_id = cp_my_query_id(),
	};
	CpStatementCounters counters = {
		.calls = sent ? 1 : 0,
		.rows = rows,
		.errors = failed ? 1 : 0,
		.wait_time = account->wait,
		.remote_time = taken,
		.max_remote_time = taken,
	};

	/* the text is looked through only when it is needed */
	if (!cp_statement_stats_bump(&key, account->pool_name, &counters))
		cp_statement_stats_add(&key, account->pool_name, cp_borrow_statement_to_show(),
							   GetOuterUserId(), &counters);
	if (failed)
		count_error(account);
}

/* Within PG_CATCH: no connection was to be had, and that counts. */
static void
count_failed_checkout(CpLease *lease)
{
	CpAccount account;

	lease->untold_wait = cp_now() - lease->requested_at;
	cp_lease_account(lease, &account);
	cp_lease_count_statement(&account, false, true, 0, 0);
}

/* Asks for the connection. */
static void
borrow(CpLease *lease, CpTarget *target, CpTime deadline)
{
	PG_TRY();
	{
		cp_borrow(lease, target, deadline);
		lease->untold_wait = lease->obtained_at - lease->requested_at;
	}
	PG_CATCH();
	{
		count_failed_checkout(lease);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static CpLease *
checkout_target(CpTarget *target, CpScope scope, int flags, int64 timeout_ms)
{
	CpLease *lease;

	check_scope(scope, flags);
	register_callbacks();
	if (timeout_ms < 0)
		timeout_ms = target->options.checkout_timeout;
	lease = new_lease(target, scope, flags);
	if (lease->is_explicit)
		cp_handle_add(lease->id, CP_HANDLE_LEASE);
	borrow(lease, target, cp_deadline(lease->requested_at, timeout_ms));
	return lease;
}

/* One of scope transaction that was checked in, but cannot go before its transaction does. */
static CpLease *
find_parted(const CpTarget *target)
{
	dlist_iter iter;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->parted && lease->role == target->role && lease->slot != CP_NONE &&
			!is_reclaimed(lease) && memcmp(&lease->key, &target->key, sizeof(lease->key)) == 0)
			return lease;
	}
	return NULL;
}

CpLease *
cp_lease_checkout(const char *server, CpScope scope, bool is_explicit, int64 timeout_ms)
{
	CpTarget *target = cp_target_resolve(server);
	CpLease *lease = NULL;

	if (is_explicit && scope == CP_SCOPE_TRANSACTION)
		lease = find_parted(target);
	if (lease == NULL)
		return checkout_target(target, scope, is_explicit ? CP_LEASE_EXPLICIT : 0, timeout_ms);
	cp_handle_add(lease->id, CP_HANDLE_LEASE);
	lease->parted = false;
	lease->held_level = GetCurrentTransactionNestLevel();
	return lease;
}

CpLease *
cp_lease_checkout_as(const char *server, CpScope scope, int flags, int64 timeout_ms)
{
	return checkout_target(cp_target_resolve(server), scope, flags, timeout_ms);
}

void
cp_lease_throw_if_reclaimed(uint64 id, const char *pool_name)
{
	CpReclaimRecord record;
	char *role;

	if (!cp_pool_was_reclaimed(id, &record) || record.holder_pid != MyProcPid)
		return;
	role = OidIsValid(record.role) ? GetUserNameFromId(record.role, true) : NULL;
	ereport(ERROR,
			(errcode(CP_ERRCODE_NOT_YOUR_LEASE),
			 pool_name ?
				 errmsg("lease " UINT64_FORMAT " of pool \"%s\" was reclaimed", id, pool_name) :
				 errmsg("lease " UINT64_FORMAT " was reclaimed", id),
			 record.why[0] != '\0' ?
				 errdetail("conpool's broker took it away at %s: %s; its connection was closed.",
						   timestamptz_to_str(cp_wall_clock(record.at)), record.why) :
				 errdetail("Process %d, role \"%s\", took it away with conpool.reclaim() at %s; "
						   "its connection was closed.",
						   record.pid, role ? role : "?",
						   timestamptz_to_str(cp_wall_clock(record.at)))));
}

/*
 * Forgets a lease that was taken away, and says so; returns if that is long ago.  As
 * long as there is a transaction that is lost with it a husk remains.
 */
static void
drop_reclaimed(CpLease *lease)
{
	uint64 id = lease->id;
	char *pool_name = pstrdup(lease->pool_name);

	if (cp_transaction_is_open(lease))
		cp_borrow_return(lease, abort_deadline());
	else
		end_lease(lease, abort_deadline());
	cp_lease_throw_if_reclaimed(id, pool_name);
}

static void
refuse_if_busy(const CpLease *lease)
{
	if (lease->busy)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("lease " UINT64_FORMAT " of pool \"%s\" is running a statement already",
						lease->id, lease->pool_name),
				 lease->request != 0 ?
					 errdetail("The result of request " UINT64_FORMAT " has not been read yet.",
							   lease->request) :
					 0,
				 errhint("A lease runs one statement at a time; take another one.")));
}

/* By a function that is called for a value of a result that is read meanwhile. */
static void
refuse_if_half_taken(const CpLease *lease)
{
	if (lease->obtained_at == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a connection of pool \"%s\" is being taken already",
						lease->pool_name)));
}

/* The lease that query functions share in this transaction or session. */
static CpLease *
find_implicit(const CpTarget *target, CpScope scope)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->is_explicit || lease->is_private || lease->goes_with_request ||
			lease->scope != scope || lease->role != target->role ||
			memcmp(&lease->key, &target->key, sizeof(lease->key)) != 0)
			continue;
		if (lease->slot != CP_NONE && !lease->connecting && !is_reclaimed(lease))
			return lease;
		/* whoever runs a statement on it needs it yet */
		refuse_if_busy(lease);
		refuse_if_half_taken(lease);
		cp_transaction_throw_if_lost(lease);
		if (is_reclaimed(lease))
			drop_reclaimed(lease);
		else
			end_lease(lease, abort_deadline()); /* its connection was lost */
	}
	return NULL;
}

CpLease *
cp_lease_for_server(const char *server, bool *release)
{
	CpTarget *target = cp_target_resolve(server);
	CpScope scope = target->options.pool_mode;
	CpLease *lease;

	*release = scope == CP_SCOPE_STATEMENT;
	if (*release)
		return checkout_target(target, scope, 0, -1);
	lease = find_implicit(target, scope);
	if (lease == NULL)
		return checkout_target(target, scope, 0, -1);
	refuse_if_busy(lease);
	return lease;
}

/* Goes on with a checkout; one that is over leaves no lease behind. */
static CpBorrowStatus
step(CpLease *lease, CpTarget *target, CpBorrowing *b)
{
	CpBorrowStatus status;

	PG_TRY();
	{
		status = cp_borrow_step(b, lease, target);
	}
	PG_CATCH();
	{
		count_failed_checkout(lease);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (status == CP_BORROW_DONE)
		lease->untold_wait = lease->obtained_at - lease->requested_at;
	else if (status == CP_BORROW_NONE)
		end_lease(lease, abort_deadline());
	return status;
}

CpLease *
cp_lease_begin_for_server(const char *server, CpPatience patience, uint64 map,
						  CpBorrowing *b, CpBorrowStatus *status, bool *release)
{
	CpTarget *target = cp_target_resolve(server);
	CpScope scope = target->options.pool_mode;
	CpLease *lease = NULL;

	*release = scope == CP_SCOPE_STATEMENT;
	*status = CP_BORROW_DONE;
	if (!*release)
		lease = find_implicit(target, scope);
	if (lease != NULL)
	{
		refuse_if_busy(lease);
		return lease;
	}
	check_scope(scope, 0);
	register_callbacks();
	lease = new_lease(target, scope, 0);
	lease->comes_back = *release ? map : 0;
	cp_borrow_begin(b, lease, cp_deadline(lease->requested_at, target->options.checkout_timeout),
					patience);
	b->map = map;
	*status = step(lease, target, b);
	return *status == CP_BORROW_NONE ? NULL : lease;
}

CpBorrowStatus
cp_lease_go_on(CpLease *lease, const char *server, CpBorrowing *b)
{
	return step(lease, cp_target_resolve(server), b);
}

void
cp_lease_give_up(uint64 id)
{
	dlist_iter iter;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->id != id)
			continue;
		if (cp_pool_awaited() == id)
			cp_pool_leave_queue(CP_LEAVE_CANCEL);
		break_off(lease, abort_deadline());
		/* one that is shared goes on; of a transaction that is lost a husk remains */
		if (lease->comes_back || (lease->slot == CP_NONE && !cp_transaction_is_open(lease)))
		{
			lease->end = CP_LEAK_CHECKED_IN;
			end_lease(lease, abort_deadline());
		}
		break;
	}
}

CpLease *
cp_lease_for_cursor(const char *server, bool *own)
{
	CpTarget *target = cp_target_resolve(server);
	CpLease *lease;

	*own = target->options.pool_mode != CP_SCOPE_TRANSACTION;
	if (*own)
		return checkout_target(target, CP_SCOPE_TRANSACTION, CP_LEASE_PRIVATE, -1);
	lease = find_implicit(target, CP_SCOPE_TRANSACTION);
	if (lease == NULL)
		return checkout_target(target, CP_SCOPE_TRANSACTION, 0, -1);
	refuse_if_busy(lease);
	return lease;
}

static CpLease *
find_lease(uint64 id)
{
	dlist_iter iter;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->id == id && lease->is_explicit && !lease->parted)
			return lease;
	}
	return NULL;
}

CpLease *
cp_lease_find(uint64 id)
{
	dlist_iter iter;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->id != id)
			continue;
		/* whoever runs a statement on it needs it yet */
		if (lease->busy || !is_reclaimed(lease))
			return lease;
		end_lease(lease, abort_deadline());
		break;
	}
	return NULL;
}

pg_noreturn static void
throw_not_held(int64 id)
{
	cp_handle_refuse_other(id, CP_HANDLE_LEASE);
	cp_lease_throw_if_reclaimed((uint64) id, NULL);
	ereport(ERROR,
			(errcode(CP_ERRCODE_NOT_YOUR_LEASE),
			 errmsg("lease " INT64_FORMAT " is not held by this session", id),
			 errdetail("It never was, or it has been given back."),
			 errhint("View conpool.leases shows the leases that are held.")));
}

static void
require_role(const CpLease *lease, const char *what, int64 id)
{
	if (lease->role != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for %s " INT64_FORMAT, what, id),
				 errdetail("A lease can only be used by the role that took it.")));
}

CpLease *
cp_lease_get(int64 id, bool must_be_usable, bool *release)
{
	CpLease *lease = find_lease((uint64) id);

	if (lease == NULL)
		throw_not_held(id);
	require_role(lease, "lease", id);
	/* also of one that was reclaimed: whoever runs the statement needs it yet */
	refuse_if_busy(lease);
	if (is_reclaimed(lease))
	{
		drop_reclaimed(lease);
		throw_not_held(id);
	}
	if (must_be_usable)
		cp_transaction_throw_if_lost(lease);
	if (must_be_usable && lease->slot == CP_NONE)
		ereport(ERROR,
				(errcode(CP_ERRCODE_LOST),
				 errmsg("the connection of lease " INT64_FORMAT " of pool \"%s\" was lost",
						id, lease->pool_name),
				 errhint("Give the lease back with conpool.checkin() and take another.")));
	if (release != NULL)
		*release = lease->scope == CP_SCOPE_STATEMENT;
	return lease;
}

/* ---- requests ------------------------------------------------------------- */

void
cp_lease_attach_request(CpLease *lease, uint64 id, bool goes_with_it, bool detached)
{
	Assert(lease->run != NULL && lease->request == 0);
	lease->request = id;
	lease->goes_with_request = goes_with_it;
	if (detached)
		lease->busy_level = 0;
}

static CpLease *
find_request(uint64 id)
{
	dlist_iter iter;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->request == id && lease->run != NULL)
			return lease;
	}
	return NULL;
}

CpLease *
cp_lease_of_request(int64 id)
{
	CpLease *lease = id > 0 ? find_request((uint64) id) : NULL;

	if (lease == NULL)
	{
		cp_handle_refuse_other(id, CP_HANDLE_REQUEST);
		ereport(ERROR,
				(errcode(CP_ERRCODE_NOT_YOUR_LEASE),
				 errmsg("request " INT64_FORMAT " is not outstanding in this session", id),
				 errdetail("It never was, its result has been read, or it has ended with its "
						   "transaction.")));
	}
	require_role(lease, "request", id);
	cp_run_refuse_if_read(lease->run);
	return lease;
}

void
cp_lease_end_request(uint64 id)
{
	dlist_iter iter;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);
		bool goes = lease->goes_with_request;

		if (lease->request != id)
			continue;
		forget_request(lease);
		if (goes)
			cp_lease_checkin(lease);
		break;
	}
	cp_handle_remove(id);
}

/* ---- using and giving back ---------------------------------------------- */

void
cp_lease_checkin(CpLease *lease)
{
	Assert(!lease->busy);
	if (cp_transaction_is_open(lease))
	{
		part(lease);
		return;
	}
	lease->end = CP_LEAK_CHECKED_IN;
	end_lease(lease, abort_deadline());
	/* what leak_action has cancelled is this, and not what comes next */
	CHECK_FOR_INTERRUPTS();
}

bool
cp_lease_statement_begins(CpLease *lease)
{
	Assert(!lease->busy);
	if (!cp_pool_statement_begins(lease->slot, lease->generation))
		return false;
	lease->busy = lease->clock_runs = true;
	lease->busy_level = GetCurrentTransactionNestLevel();
	return true;
}

/* Leases that go on report at once: a statistic must not wait for their end. */
void
cp_lease_statement_ends(CpLease *lease)
{
	lease->busy = false;
	cp_borrow_stop_clock(lease);
	if (lease->donation >= 0)
		cp_borrow_look_for_answer(lease);
	if (lease->is_explicit || lease->scope != CP_SCOPE_STATEMENT)
		cp_borrow_report_usage(lease);
}

/* What was reclaimed would go on running remotely, though nobody hears of it. */
void
cp_lease_lost(CpLease *lease)
{
	bool reclaimed = is_reclaimed(lease);

	lease->busy = true; /* it never came to an end: in doubt */
	lease->end = CP_LEAK_LOST;
	if (reclaimed && lease->remote != NULL)
		(void) cp_remote_cancel(lease->remote, abort_deadline());
	if (reclaimed && !cp_transaction_is_open(lease))
		end_lease(lease, abort_deadline());
	else
		cp_borrow_return(lease, abort_deadline());
}
