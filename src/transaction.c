/*
 * transaction.c
 *		The remote transactions of leases of scope "transaction".
 *
 * Runs in client backends, called by query.c (a statement is about to run) and lease.c
 * (something ends).  Learnt from postgres_fdw's connection.c, which does the same for
 * its connections: https://www.postgresql.org/docs/current/postgres-fdw.html, section
 * "Transaction Management".  Other than there a subtransaction that commits costs no
 * round trip: its savepoint stays, as a part of its parent, until another one is to be
 * set.
 *
 * Never leaves it open whether something has committed without saying so.
 */
#include "postgres.h"

#include "transaction.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/procsignal.h"

#include "error.h"
#include "error_stats.h"
#include "message.h"
#include "query.h"
#include "statement_stats.h"

/* once an interrupt is pending, what is still awaited of a COMMIT (milliseconds) */
#define COMMIT_GRACE 1000
/* so many times it is looked whether a connection is at its end */
#define LOOKS 10

typedef enum Outcome
{
	AWAITED,
	COMMITTED,
	REFUSED, /* the remote has rolled back */
	UNKNOWN	 /* nobody has told */
} Outcome;

/* What a server has said when it was about to hang up. */
typedef struct Farewell
{
	bool said_it;
	char said[256];
} Farewell;

/* One of those that commit together. */
typedef struct Commit
{
	CpLease *lease;
	Outcome outcome;
	int sqlstate;	   /* of what was refused */
	char message[512]; /* why it was refused, or is not known */
} Commit;

/* ---- looking ---- */

bool
cp_transaction_is_open(const CpLease *lease)
{
	return lease->transaction.depth > 0 || lease->transaction.changing;
}

static PGTransactionStatusType
remote_status(const CpLease *lease)
{
	return PQtransactionStatus(lease->remote->conn);
}

bool
cp_transaction_holds(const CpLease *lease)
{
	return lease->transaction.depth == 0 || remote_status(lease) != PQTRANS_IDLE;
}

void
cp_transaction_throw_if_lost(const CpLease *lease)
{
	if (!cp_transaction_is_open(lease) ||
		(lease->slot != CP_NONE && cp_pool_generation(lease->slot) == lease->generation))
		return;
	cp_lease_throw_if_reclaimed(lease->id, lease->pool_name);
	ereport(ERROR,
			(errcode(CP_ERRCODE_LOST),
			 errmsg("the remote transaction on pool \"%s\" was lost with its connection",
					lease->pool_name),
			 errhint("Roll the local transaction, or the subtransaction in which it was begun, "
					 "back.")));
}

/* ---- statements of our own ---- */

/* Reads all that comes; the first error, to be cleared, or NULL. */
static PGresult *
read_answers(CpRemote *remote)
{
	PGresult *volatile error = NULL;
	PGresult *result;

	PG_TRY();
	{
		while ((result = cp_remote_next_result(remote)) != NULL)
		{
			if (error == NULL && PQresultStatus(result) != PGRES_COMMAND_OK)
				error = result;
			else
				PQclear(result);
		}
	}
	PG_CATCH();
	{
		PQclear(error);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return error;
}

pg_noreturn static void
throw_lost_at(CpLease *lease, const PGresult *error)
{
	char *why = cp_message_why_lost(lease->remote->conn, error);
	char *pool = pstrdup(lease->pool_name);
	uint64 id = lease->id;

	cp_lease_lost(lease);
	cp_lease_throw_if_reclaimed(id, pool);
	cp_message_throw_lost(pool, why);
}

/*
 * Sends statements, in one text, that change the state of the remote transaction, and
 * waits for their end.  If that is interrupted, or the remote refuses, `changing` and the
 * remote's own status tell what an abort has to do.
 */
static void
control(CpLease *lease, const char *sql)
{
	PGresult *volatile error;

	if (!cp_lease_statement_begins(lease))
	{
		char *pool = pstrdup(lease->pool_name);
		uint64 id = lease->id;

		cp_lease_lost(lease);
		cp_lease_throw_if_reclaimed(id, pool);
		cp_message_throw_lost(pool, "the lease was taken away");
	}
	lease->transaction.changing = true;
	if (!cp_remote_send(lease->remote, sql, -1, NULL, NULL))
		throw_lost_at(lease, NULL);
	error = read_answers(lease->remote);
	PG_TRY();
	{
		if (PQstatus(lease->remote->conn) != CONNECTION_OK ||
			(error != NULL && !cp_message_is_servers(error)))
			throw_lost_at(lease, error);
		cp_lease_statement_ends(lease);
		if (error != NULL)
		{
			/* what is left of it, if anything, is for the abort to roll back */
			lease->transaction.changing = remote_status(lease) != PQTRANS_IDLE;
			cp_message_throw_error(lease->pool_name, error);
		}
	}
	PG_FINALLY();
	{
		PQclear(error);
	}
	PG_END_TRY();
	lease->transaction.changing = false;
}

/* ---- entering ---- */

static void
append_begin(StringInfo sql, bool read_only)
{
	appendStringInfo(sql, "START TRANSACTION ISOLATION LEVEL %s%s%s",
					 IsolationIsSerializable() ? "SERIALIZABLE" : "REPEATABLE READ",
					 read_only ? ", READ ONLY" : "",
					 XactDeferrable ? ", DEFERRABLE" : "");
}

static void
append_separator(StringInfo sql)
{
	if (sql->len > 0)
		appendStringInfoString(sql, "; ");
}

/* It has been ended by a statement, and whoever was told has gone on even so (try_map). */
static void
throw_if_ended(const CpLease *lease)
{
	if (lease->transaction.depth == 0 || remote_status(lease) != PQTRANS_IDLE)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
			 errmsg("the remote transaction on pool \"%s\" has ended before",
					lease->pool_name),
			 errhint("Roll the local transaction back.")));
}

void
cp_transaction_enter(CpLease *lease)
{
	CpRemoteTransaction *t = &lease->transaction;
	int level = GetCurrentTransactionNestLevel();
	bool begins = t->depth == 0;
	bool becomes_read_only = XactReadOnly && t->read_only_level == 0;
	/*
	 * A subtransaction may be read-only and its parent not, which nobody tells us.  But
	 * DEFERRABLE means nothing unless it is said of all of the transaction.
	 */
	bool all_read_only = begins && becomes_read_only && (level == 1 || XactDeferrable);
	/* what the lease was taken in ends with it: that needs no savepoint ... */
	int first = (begins ? lease->nest_level : t->depth) + 1;
	bool deeper;
	bool releases;
	StringInfoData sql;

	cp_transaction_throw_if_lost(lease);
	throw_if_ended(lease);
	/* ... unless it is read-only, and its parent, which may inherit the lease, is not */
	if (becomes_read_only && !all_read_only && level > 1 && level == lease->nest_level)
		first = level;
	deeper = level >= first;
	/* whether it is read-only or not, what is said in a savepoint ends with it */
	releases = t->stale > 0 && (deeper || t->stale_read_only || becomes_read_only);
	if (!begins && !deeper && !becomes_read_only && !releases)
		return;

	initStringInfo(&sql);
	if (begins)
		append_begin(&sql, all_read_only);
	if (releases)
		appendStringInfo(&sql, "RELEASE SAVEPOINT conpool_%d", t->stale);
	for (int l = first; l <= level; l++)
	{
		append_separator(&sql);
		appendStringInfo(&sql, "SAVEPOINT conpool_%d", l);
	}
	if (becomes_read_only && !all_read_only)
	{
		append_separator(&sql);
		appendStringInfoString(&sql, "SET TRANSACTION READ ONLY");
	}

	/* interrupted between the two, nobody could tell one savepoint from the other */
	lease->beyond_recovery = releases;
	control(lease, sql.data);
	lease->beyond_recovery = false;
	pfree(sql.data);

	t->depth = level;
	if (releases)
	{
		t->stale = 0;
		t->stale_read_only = false;
	}
	if (becomes_read_only)
		t->read_only_level = all_read_only ? 1 : level;
}

void
cp_transaction_begin_try(CpLease *lease)
{
	if (lease->scope != CP_SCOPE_TRANSACTION)
		return;
	cp_transaction_enter(lease);
	control(lease, "SAVEPOINT conpool_try");
}

void
cp_transaction_end_try(CpLease *lease, bool failed)
{
	/* nothing is left of it if the connection was lost */
	if (lease->scope != CP_SCOPE_TRANSACTION || lease->slot == CP_NONE)
		return;
	if (failed)
		control(lease, "ROLLBACK TO SAVEPOINT conpool_try; RELEASE SAVEPOINT conpool_try");
	else
		control(lease, "RELEASE SAVEPOINT conpool_try");
}

/* ---- the end of subtransactions ---- */

void
cp_transaction_merge(CpLease *lease, int level)
{
	CpRemoteTransaction *t = &lease->transaction;

	if (t->depth < level)
		return;
	t->depth = level - 1;
	/* that which the lease was taken in has a savepoint only if it is read-only */
	if (lease->nest_level < level || (t->read_only_level == level && level > 1))
		t->stale = t->stale > 0 ? Min(t->stale, level) : level;
	if (t->read_only_level >= level)
	{
		t->read_only_level = 0;
		t->stale_read_only = t->stale > 0;
	}
}

/* Does the whole remote transaction end when that level aborts? */
static bool
ends_whole(const CpLease *lease, int level)
{
	return level <= lease->nest_level;
}

const char *
cp_transaction_undo(CpLease *lease, int level)
{
	CpRemoteTransaction *t = &lease->transaction;

	if (!cp_transaction_is_open(lease))
		return NULL;
	if (ends_whole(lease, level))
		return "ROLLBACK";
	if (t->depth < level && !t->changing)
		return NULL;
	/*
	 * If the savepoint was being set, and was not, this fails, and the connection is
	 * closed: what was done before is lost, then, too.
	 */
	snprintf(t->undo, sizeof(t->undo),
			 "ROLLBACK TO SAVEPOINT conpool_%d; RELEASE SAVEPOINT conpool_%d", level, level);
	return t->undo;
}

static void
forget(CpLease *lease)
{
	memset(&lease->transaction, 0, sizeof(lease->transaction));
}

void
cp_transaction_undone(CpLease *lease, int level, bool well)
{
	CpRemoteTransaction *t = &lease->transaction;

	if (ends_whole(lease, level))
	{
		if (t->depth > 0 && lease->slot != CP_NONE)
			cp_pool_count_transaction(lease->slot, lease->generation, CP_OUTCOME_ROLLED_BACK);
		forget(lease);
		return;
	}
	/* as long as its level lasts it must be known that it is lost */
	if (!well)
		return;
	t->changing = false;
	t->depth = Min(t->depth, level - 1);
	if (t->stale >= level)
	{
		t->stale = 0;
		t->stale_read_only = false;
	}
	if (t->read_only_level >= level)
		t->read_only_level = 0;
}

/* ---- committing ---- */

/* Requests that nobody has read are part of it: they must have ended well. */
static void
finish_requests(const Commit *commits, int n)
{
	for (int i = 0; i < n; i++)
	{
		CpRun *run = commits[i].lease->run;

		if (run != NULL && cp_run_read(run, NULL, true) != CP_RUN_DONE)
			cp_run_throw(run);
	}
}

/* A message that came unasked; a fatal one is kept. */
static void
note_farewell(void *arg, const PGresult *notice)
{
	Farewell *farewell = arg;
	const char *severity = PQresultErrorField(notice, PG_DIAG_SEVERITY_NONLOCALIZED);
	const char *said = PQresultErrorField(notice, PG_DIAG_MESSAGE_PRIMARY);

	if (severity == NULL || (strcmp(severity, "FATAL") != 0 && strcmp(severity, "PANIC") != 0))
		return;
	farewell->said_it = true;
	strlcpy(farewell->said, said ? said : "", sizeof(farewell->said));
}

/*
 * What a server says before it hangs up comes first, and the end of file behind it, maybe
 * later; notices and notifications do no harm.
 */
static bool
is_alive(CpRemote *remote, Farewell *farewell)
{
	bool alive = true;

	PQsetNoticeReceiver(remote->conn, note_farewell, farewell);
	for (int i = 0; i < LOOKS && alive && cp_remote_is_readable(remote); i++)
		alive = PQconsumeInput(remote->conn) && !PQisBusy(remote->conn);
	cp_remote_ignore_notices(remote);
	return alive && !farewell->said_it && PQstatus(remote->conn) == CONNECTION_OK;
}

pg_noreturn static void
throw_lost_before_commit(CpLease *lease, const Farewell *farewell)
{
	char *pool = pstrdup(lease->pool_name);
	uint64 id = lease->id;
	char *why;

	if (farewell->said_it)
		why = psprintf(_("The remote server said: %s."), cp_message_valid_text(farewell->said));
	else
		why = cp_message_why_lost(lease->remote->conn, NULL);
	cp_lease_lost(lease);
	cp_lease_throw_if_reclaimed(id, pool);
	ereport(ERROR,
			(errcode(CP_ERRCODE_LOST),
			 errmsg("connection of pool \"%s\" was lost before the remote transaction was "
					"committed",
					pool),
			 errdetail("%s\nNothing has been committed.", why)));
}

/* Before anything is committed: could all of them be? */
static void
check(CpLease *lease)
{
	Farewell farewell = {0};

	cp_transaction_throw_if_lost(lease);
	if (!is_alive(lease->remote, &farewell))
		throw_lost_before_commit(lease, &farewell);
	switch (remote_status(lease))
	{
		case PQTRANS_INTRANS:
			break;
		case PQTRANS_INERROR:
			ereport(ERROR,
					(errcode(ERRCODE_IN_FAILED_SQL_TRANSACTION),
					 errmsg("the remote transaction on pool \"%s\" cannot be committed: a "
							"statement in it has failed",
							lease->pool_name),
					 errhint("Have the error roll back the local (sub)transaction, too.")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
					 errmsg("the remote transaction on pool \"%s\" cannot be committed: it has "
							"ended before",
							lease->pool_name)));
	}
}

/* Allocates nothing: that may fail, and nothing must now. */
static void
set_message(Commit *commit, const char *message)
{
	size_t len = strlcpy(commit->message, message, sizeof(commit->message));

	len = Min(len, sizeof(commit->message) - 1);
	while (len > 0 && commit->message[len - 1] == '\n')
		len--;
	commit->message[len] = '\0';
}

static void
send_commit(Commit *commit)
{
	CpLease *lease = commit->lease;

	lease->transaction.changing = true;
	if (!cp_lease_statement_begins(lease))
	{
		commit->outcome = REFUSED;
		commit->sqlstate = CP_ERRCODE_LOST;
		set_message(commit, "the lease was taken away");
	}
	else if (!PQsendQuery(lease->remote->conn, "COMMIT"))
	{
		commit->outcome = UNKNOWN;
		set_message(commit, PQerrorMessage(lease->remote->conn));
	}
}

/* An error of the server: has it rolled back, and nothing else? */
static bool
is_definite(CpLease *lease, const PGresult *error)
{
	const char *severity = PQresultErrorField(error, PG_DIAG_SEVERITY_NONLOCALIZED);

	return PQstatus(lease->remote->conn) == CONNECTION_OK && cp_message_is_servers(error) &&
		severity != NULL && strcmp(severity, "ERROR") == 0;
}

/* One result; what counts is the first. */
static void
take_answer(Commit *commit, PGresult *result)
{
	const char *message;

	if (commit->outcome != AWAITED)
		return;
	if (PQresultStatus(result) == PGRES_COMMAND_OK)
	{
		/* a server says ROLLBACK if the transaction had failed */
		bool committed = strcmp(PQcmdStatus(result), "COMMIT") == 0;

		commit->outcome = committed ? COMMITTED : REFUSED;
		commit->sqlstate = ERRCODE_TRANSACTION_ROLLBACK;
		set_message(commit, "the remote server has rolled back");
		return;
	}
	commit->outcome = is_definite(commit->lease, result) ? REFUSED : UNKNOWN;
	message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	set_message(commit, message ? message : PQresultErrorMessage(result));
	commit->sqlstate = cp_message_sqlstate(result);
}

/* Takes what is there; true if nothing is to come any more. */
static bool
has_answered(Commit *commit)
{
	CpRemote *remote = commit->lease->remote;

	while (cp_remote_has_result(remote))
	{
		PGresult *result = PQgetResult(remote->conn);

		if (result == NULL)
			return true;
		take_answer(commit, result);
		PQclear(result);
	}
	return false;
}

static bool
is_interrupted(void)
{
	/* others may wait for us to take note of something: that does no harm */
	if (ProcSignalBarrierPending)
		ProcessProcSignalBarrier();
	return QueryCancelPending || ProcDiePending || cp_transaction_timed_out();
}

/*
 * Waits for the answer.  All have been sent, so nothing is lost by waiting for one after
 * the other.
 */
static void
await_answer(Commit *commit, CpTime *limit)
{
	CpRemote *remote = commit->lease->remote;

	while (!has_answered(commit))
	{
		if (*limit == CP_FOREVER && is_interrupted())
			*limit = cp_deadline(cp_now(), COMMIT_GRACE);
		if (cp_now() >= *limit)
		{
			/* it may have told, and only not that it is ready for more */
			if (commit->outcome == AWAITED)
			{
				commit->outcome = UNKNOWN;
				set_message(commit, "it did not answer before the wait was interrupted");
			}
			return;
		}
		if (cp_remote_wait(remote, WL_SOCKET_READABLE, *limit) & WL_LATCH_SET)
			ResetLatch(MyLatch);
	}
	if (commit->outcome != AWAITED)
		return;
	commit->outcome = UNKNOWN;
	set_message(commit, PQerrorMessage(remote->conn));
}

/* The lease is at rest, or its connection is not to be used any more. */
static void
conclude(Commit *commit)
{
	static const CpOutcome outcomes[] = {
		[COMMITTED] = CP_OUTCOME_COMMITTED,
		[REFUSED] = CP_OUTCOME_ROLLED_BACK,
		[UNKNOWN] = CP_OUTCOME_UNKNOWN,
	};
	CpLease *lease = commit->lease;

	Assert(commit->outcome != AWAITED);
	cp_pool_count_transaction(lease->slot, lease->generation, outcomes[commit->outcome]);
	if (commit->outcome == UNKNOWN || !lease->busy)
		lease->busy = lease->beyond_recovery = true;
	else
		cp_lease_statement_ends(lease);
	forget(lease);
	if (commit->outcome == UNKNOWN)
		commit->sqlstate = ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN;
	if (commit->outcome != COMMITTED)
		cp_error_stats_add(&lease->key, lease->pool_name, commit->sqlstate, commit->message,
						   lease->role, GetOuterUserId(), cp_my_query_id());
}

/* "Committed: "a", "b"." and so on, if there are any. */
static void
append_pools(StringInfo detail, const char *label, const Commit *commits, int n, Outcome outcome)
{
	bool first = true;

	for (int i = 0; i < n; i++)
	{
		if (commits[i].outcome != outcome)
			continue;
		if (first)
			appendStringInfo(detail, "%s%s: ", detail->len > 0 ? "\n" : "", label);
		appendStringInfo(detail, "%s\"%s\"", first ? "" : ", ", commits[i].lease->pool_name);
		first = false;
	}
	if (!first)
		appendStringInfoChar(detail, '.');
}

/* Throws unless all have committed. */
static void
report(const Commit *commits, int n)
{
	const Commit *worst = &commits[0];
	StringInfoData detail;
	bool partly = false;

	for (int i = 0; i < n; i++)
	{
		if (commits[i].outcome > worst->outcome)
			worst = &commits[i];
		if (commits[i].outcome != REFUSED)
			partly = true;
	}
	if (worst->outcome == COMMITTED)
		return;

	initStringInfo(&detail);
	appendStringInfo(&detail, "Pool \"%s\": %s", worst->lease->pool_name,
					 cp_message_valid_text(worst->message));
	append_pools(&detail, "Committed", commits, n, COMMITTED);
	append_pools(&detail, "Not committed", commits, n, REFUSED);
	append_pools(&detail, "Outcome unknown", commits, n, UNKNOWN);
	ereport(ERROR,
			(errcode(worst->sqlstate),
			 worst->outcome == UNKNOWN ?
				 errmsg("the outcome of the remote transaction on pool \"%s\" is not known",
						worst->lease->pool_name) :
				 errmsg("could not commit the remote transaction on pool \"%s\"",
						worst->lease->pool_name),
			 errdetail_internal("%s", detail.data),
			 partly ? errhint("The local transaction is rolled back; what has been committed on "
							  "other servers stays.") :
					  0));
}

static void
commit_all(Commit *commits, int n)
{
	CpTime limit = CP_FOREVER;

	finish_requests(commits, n);
	for (int i = 0; i < n; i++)
		check(commits[i].lease);
	CHECK_FOR_INTERRUPTS();

	/* from here on nothing is thrown until all is known that can be */
	HOLD_INTERRUPTS();
	for (int i = 0; i < n; i++)
		send_commit(&commits[i]);
	for (int i = 0; i < n; i++)
	{
		if (commits[i].outcome == AWAITED)
			await_answer(&commits[i], &limit);
	}
	for (int i = 0; i < n; i++)
		conclude(&commits[i]);
	RESUME_INTERRUPTS();
	report(commits, n);
}

bool
cp_transaction_commit(dlist_head *leases)
{
	Commit *commits;
	dlist_iter iter;
	int n = 0;

	dlist_foreach(iter, leases)
		n += cp_transaction_is_open(dlist_container(CpLease, node, iter.cur));
	if (n == 0)
		return false;

	commits = palloc0(n * sizeof(Commit));
	n = 0;
	dlist_foreach(iter, leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (cp_transaction_is_open(lease))
			commits[n++].lease = lease;
	}
	commit_all(commits, n);
	pfree(commits);
	return true;
}

void
cp_transaction_commit_one(CpLease *lease)
{
	Commit commit = {.lease = lease};

	if (cp_transaction_is_open(lease))
		commit_all(&commit, 1);
}
