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
#include "error.h"
#include "error_stats.h"
#include "leak.h"
#include "statement_stats.h"

/* how long an abort may take to stop what runs remotely (milliseconds) */
#define ABORT_TIMEOUT 2000
/* the same for a session's end, all leases together */
#define EXIT_TIMEOUT 1000

static dlist_head leases = DLIST_STATIC_INIT(leases);

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
new_lease(const CpTarget *target, CpScope scope, bool is_explicit)
{
	CpLease *lease = spare;

	spare = NULL;
	if (lease == NULL)
		lease = MemoryContextAlloc(TopMemoryContext, sizeof(CpLease));
	memset(lease, 0, sizeof(*lease));
	lease->id = pg_atomic_fetch_add_u64(&cp_shared->next_lease, 1);
	lease->scope = scope;
	lease->is_explicit = is_explicit;
	lease->nest_level = GetCurrentTransactionNestLevel();
	lease->role = target->role;
	cp_lease_set_target(lease, target);
	lease->slot = CP_NONE;
	lease->donation = -1;
	lease->requested_at = cp_now();
	dlist_push_head(&leases, &lease->node);
	return lease;
}

/* By when what is given back, or stopped, must be at rest. */
static CpTime
abort_deadline(void)
{
	return exit_deadline != 0 ? exit_deadline : cp_deadline(cp_now(), ABORT_TIMEOUT);
}

/* Gives back what it holds, and forgets it. */
static void
end_lease(CpLease *lease)
{
	/* first, since giving back may end with a message, and that be interrupted */
	dlist_delete(&lease->node);
	cp_borrow_return(lease, abort_deadline());
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

	dlist_foreach(iter, &leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->slot != CP_NONE && lease->pool == pool && !is_reclaimed(lease))
			n++;
	}
	return n;
}

/* ---- the end of transactions -------------------------------------------- */

/*
 * Brings to rest what was interrupted at this transaction nesting level or
 * deeper, and ends the leases that were taken there.
 */
static void
abort_leases(int level)
{
	CpTime deadline = abort_deadline();
	dlist_mutable_iter iter;

	cp_pool_leave_queue(CP_LEAVE_CANCEL);
	dlist_foreach_modify(iter, &leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);
		bool taken_here = lease->nest_level >= level;
		bool half_taken = lease->obtained_at == 0;

		if (lease->busy ? lease->busy_level >= level : taken_here)
			cp_borrow_abort(lease, deadline);
		if (taken_here && (lease->scope != CP_SCOPE_SESSION || half_taken))
		{
			lease->end = CP_LEAK_TRANSACTION_ENDED;
			end_lease(lease);
		}
	}
}

/* Leases of the transaction end with it; those of the session go on. */
static void
end_transaction_leases(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->scope != CP_SCOPE_SESSION)
		{
			lease->end = CP_LEAK_TRANSACTION_ENDED;
			end_lease(lease);
		}
	}
}

static void
refuse_prepare(void)
{
	dlist_iter iter;

	dlist_foreach(iter, &leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->scope != CP_SCOPE_SESSION)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that holds a lease of pool \"%s\"",
							lease->pool_name),
					 lease->is_explicit ?
						 errhint("Give the lease back with conpool.checkin() first.") :
						 errhint("Its pool_mode is \"transaction\"; with \"statement\" no lease "
								 "outlives a statement.")));
	}
}

static void
at_transaction_event(XactEvent event, void *arg)
{
	if (dlist_is_empty(&leases) && event != XACT_EVENT_ABORT)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
			end_transaction_leases();
			/* as in cp_lease_checkin() */
			CHECK_FOR_INTERRUPTS();
			break;
		case XACT_EVENT_PRE_PREPARE:
			refuse_prepare();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
			abort_leases(0);
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

	dlist_foreach(iter, &leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		lease->nest_level = Min(lease->nest_level, level - 1);
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
	dlist_foreach_modify(iter, &leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->is_explicit && lease->slot != CP_NONE && !is_reclaimed(lease))
			cp_leak_abandoned(lease->slot, lease->id);
		lease->end = CP_LEAK_SESSION_ENDED;
		cp_borrow_abort(lease, exit_deadline);
		end_lease(lease);
	}
}

void
cp_lease_discard_all(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &leases)
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
check_scope(CpScope scope)
{
	if (scope == CP_SCOPE_SESSION && InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot take a lease of scope \"session\" within a "
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

/* Asks for the connection; if none is to be had, that counts. */
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
		CpAccount account;

		lease->untold_wait = cp_now() - lease->requested_at;
		cp_lease_account(lease, &account);
		cp_lease_count_statement(&account, false, true, 0, 0);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static CpLease *
checkout_target(CpTarget *target, CpScope scope, bool is_explicit, int64 timeout_ms)
{
	CpLease *lease;

	check_scope(scope);
	register_callbacks();
	if (timeout_ms < 0)
		timeout_ms = target->options.checkout_timeout;
	lease = new_lease(target, scope, is_explicit);
	borrow(lease, target, cp_deadline(lease->requested_at, timeout_ms));
	return lease;
}

CpLease *
cp_lease_checkout(const char *server, CpScope scope, bool is_explicit, int64 timeout_ms)
{
	return checkout_target(cp_target_resolve(server), scope, is_explicit, timeout_ms);
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

/* Forgets a lease that was taken away, and says so; returns if that is long ago. */
static void
drop_reclaimed(CpLease *lease)
{
	uint64 id = lease->id;
	char *pool_name = pstrdup(lease->pool_name);

	end_lease(lease);
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
				 errhint("A lease runs one statement at a time; take another one.")));
}

/* The lease that query functions share in this transaction or session. */
static CpLease *
find_implicit(const CpTarget *target, CpScope scope)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->is_explicit || lease->scope != scope || lease->role != target->role ||
			memcmp(&lease->key, &target->key, sizeof(lease->key)) != 0)
			continue;
		if (lease->slot != CP_NONE && !is_reclaimed(lease))
			return lease;
		/* whoever runs a statement on it needs it yet */
		refuse_if_busy(lease);
		if (is_reclaimed(lease))
			drop_reclaimed(lease);
		else
			end_lease(lease); /* its connection was lost */
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
		return checkout_target(target, scope, false, -1);
	lease = find_implicit(target, scope);
	if (lease == NULL)
		return checkout_target(target, scope, false, -1);
	refuse_if_busy(lease);
	return lease;
}

static CpLease *
find_lease(uint64 id)
{
	dlist_iter iter;

	dlist_foreach(iter, &leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (lease->id == id && lease->is_explicit)
			return lease;
	}
	return NULL;
}

pg_noreturn static void
throw_not_held(int64 id)
{
	cp_lease_throw_if_reclaimed((uint64) id, NULL);
	ereport(ERROR,
			(errcode(CP_ERRCODE_NOT_YOUR_LEASE),
			 errmsg("lease " INT64_FORMAT " is not held by this session", id),
			 errdetail("It never was, or it has been given back."),
			 errhint("View conpool.leases shows the leases that are held.")));
}

CpLease *
cp_lease_get(int64 id, bool must_be_usable, bool *release)
{
	CpLease *lease = find_lease((uint64) id);

	if (lease == NULL)
		throw_not_held(id);
	if (lease->role != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for lease " INT64_FORMAT, id),
				 errdetail("A lease can only be used by the role that took it.")));
	/* also of one that was reclaimed: whoever runs the statement needs it yet */
	refuse_if_busy(lease);
	if (is_reclaimed(lease))
	{
		drop_reclaimed(lease);
		throw_not_held(id);
	}
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

/* ---- using and giving back ---------------------------------------------- */

void
cp_lease_checkin(CpLease *lease)
{
	Assert(!lease->busy);
	lease->end = CP_LEAK_CHECKED_IN;
	end_lease(lease);
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
	if (reclaimed)
		end_lease(lease);
	else
		cp_borrow_return(lease, abort_deadline());
}
