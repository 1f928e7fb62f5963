/*
 * borrow.c
 *		Gets a lease its connection and gives the connection back.
 *
 * Runs in client backends, called by lease.c.  Here pool (who may), vault
 * (sockets) and remote (libpq) come together.  A connection is given back as
 * clean only if libpq was provably done with it; anything in doubt is closed.
 */
#include "postgres.h"

#include "borrow.h"

#include <limits.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/wait_event.h"

#include "borrow_internal.h"
#include "cache.h"
#include "compat.h"
#include "error.h"
#include "guc.h"
#include "leak.h"
#include "message.h"
#include "secret.h"
#include "vault.h"
#include "wait_events.h"

/* a connection that may be dead answers within this time, in milliseconds */
#define CHECK_TIMEOUT 5000
/* for the broker to take over a connection's end, however late it is */
#define END_TIMEOUT 200

/* ---- the broker --------------------------------------------------------- */

static CpVaultRequest
vault_request(const CpLease *lease, CpVaultOp op)
{
	CpVaultRequest request = {0};

	request.op = op;
	request.slot = lease->slot;
	request.generation = lease->generation;
	request.epoch = cp_shmem_broker_epoch();
	return request;
}

void
cp_borrow_donate(CpLease *lease, CpTime deadline, bool interruptible)
{
	CpVaultRequest request = vault_request(lease, CP_VAULT_DONATE);
	CpVaultStatus status;

	/* from here on somebody else may have it, whatever goes wrong */
	lease->remote->shared = true;
	lease->donation = cp_vault_client_send(&request, PQsocket(lease->remote->conn),
										   &lease->remote->greeting, deadline,
										   interruptible, &status);
}

/* Reads the answer to a donation, or looks whether it is there (deadline 0). */
static void
await_answer(CpLease *lease, CpTime deadline)
{
	if (lease->donation < 0)
		return;
	if (cp_vault_client_reply(lease->donation, NULL, NULL, deadline, false) != CP_VAULT_PENDING)
		lease->donation = -1;
}

void
cp_borrow_look_for_answer(CpLease *lease)
{
	await_answer(lease, 0);
}

/* Sharing would silently cease if adoption always failed: say so, once. */
static void
log_adoption_failure(const char *error)
{
	static bool logged = false;

	if (!logged)
		ereport(LOG,
				(errmsg("could not adopt a pooled connection: %s", error),
				 errdetail("The connection is closed and another one opened.")));
	logged = true;
}

/*
 * Fetches the leased connection's socket and adopts it; NULL if that fails.
 * *answered is false if the broker has said nothing in time, which does not
 * tell anything about the connection.
 */
static CpRemote *
fetch(CpLease *lease, CpTime deadline, bool *answered)
{
	CpVaultRequest request = vault_request(lease, CP_VAULT_FETCH);
	CpVaultStatus status;
	CpGreeting greeting;
	CpRemote *remote = NULL;
	const char *error;
	int fd = -1;
	int sock;

	deadline = cp_earlier(deadline, cp_deadline(cp_now(), CP_VAULT_TIMEOUT_MS));
	sock = cp_vault_client_send(&request, -1, NULL, deadline, true, &status);
	if (sock >= 0)
		status = cp_vault_client_reply(sock, &fd, &greeting, deadline, true);
	*answered = status != CP_VAULT_TIMEOUT;
	if (status == CP_VAULT_OK && fd >= 0)
	{
		remote = cp_remote_adopt(fd, &greeting, 0, &error);
		if (remote == NULL)
			log_adoption_failure(error);
	}
	explicit_bzero(&greeting, sizeof(greeting));
	return remote;
}

/*
 * A round trip before use, since others of its pool were found dead.  If that is
 * interrupted nobody knows whether the answer is still to come.
 */
static bool
passes_check(CpLease *lease, CpTime deadline)
{
	bool alive;

	lease->busy = lease->beyond_recovery = true;
	lease->busy_level = lease->nest_level;
	alive = cp_remote_check(lease->remote,
							cp_earlier(deadline, cp_deadline(cp_now(), CHECK_TIMEOUT)));
	lease->busy = lease->beyond_recovery = false;
	if (!alive)
	{
		cp_remote_let_go(lease->remote);
		lease->remote = NULL;
	}
	return alive;
}

/*
 * The connection of a lease just granted, ready for use; false if it turns
 * out to be dead, or if the broker has not answered in time.
 */
static bool
take_up(CpLease *lease, bool suspect, CpTime deadline, bool *answered)
{
	CpRemote *remote = cp_cache_take(lease->slot, lease->generation);
	bool takes_time = remote == NULL || suspect;
	CpTime start = takes_time ? cp_now() : 0;

	if (remote == NULL)
	{
		cp_cache_drop_stale();
		remote = fetch(lease, deadline, answered);
		if (remote == NULL)
			return false;
	}
	/* nothing may be there to read, whatever it is */
	if (cp_remote_is_readable(remote))
	{
		cp_remote_let_go(remote);
		return false;
	}
	lease->remote = remote;
	if (suspect && !passes_check(lease, deadline))
		return false;
	/* in vain, it is part of the wait for the next connection */
	if (takes_time)
		lease->usage.extra_wait = cp_now() - start;
	return true;
}

/* ---- ending ------------------------------------------------------------- */

static void
holds_nothing(CpLease *lease)
{
	/* an answer that is still to come is of no interest any more */
	if (lease->donation >= 0)
		close(lease->donation);
	lease->donation = -1;
	lease->slot = CP_NONE;
	lease->remote = NULL;
	lease->connecting = false;
	lease->busy = false;
	memset(&lease->usage, 0, sizeof(lease->usage));
}

/* Asks the broker to await the end of a connection that we have given up. */
static bool
hand_over_end(CpLease *lease, int fd, CpTime deadline)
{
	CpVaultRequest request = vault_request(lease, CP_VAULT_END);
	CpVaultStatus status;
	int sock;

	if (request.epoch == 0)
		return false;
	sock = cp_vault_client_send(&request, fd, NULL, deadline, false, &status);
	if (sock < 0)
		return false;
	return cp_vault_client_reply(sock, NULL, NULL, deadline, false) == CP_VAULT_OK;
}

/*
 * How long the broker has for taking over a connection's end: a moment longer than the
 * deadline, but not for each of those that end by the same one.
 */
static CpTime
with_grace(CpTime deadline)
{
	static CpTime passed = 0;
	static CpTime limit;
	CpTime now = cp_now();

	if (now < deadline)
		return Max(deadline, cp_deadline(now, END_TIMEOUT));
	if (passed != deadline)
		limit = cp_deadline(now, END_TIMEOUT);
	passed = deadline;
	return limit;
}

/*
 * Ends a connection that the broker does not have (or will not end): we say
 * goodbye; the broker, or without one we ourselves, wait for the remote's end
 * of file, and until then the slot counts.
 */
static void
end_it_ourselves(CpLease *lease, CpTime deadline)
{
	int fd = lease->remote ? cp_remote_end(lease->remote) : -1;
	CpLeakRecord leak;

	lease->remote = NULL;
	if (!lease->connecting &&
		cp_pool_add_usage(lease->slot, lease->generation, &lease->usage, &leak))
		cp_leak_over(&leak, lease->end);
	memset(&lease->usage, 0, sizeof(lease->usage));

	deadline = with_grace(deadline);
	if (fd >= 0 && hand_over_end(lease, fd, deadline))
		close(fd);
	else
	{
		if (fd >= 0)
			cp_remote_await_eof(fd, cp_earlier(deadline, cp_deadline(cp_now(), CP_EOF_TIMEOUT_MS)));
		if (lease->connecting)
			cp_pool_connect_ended(lease->slot, lease->generation);
		else
		{
			CpCheckin c = {
				.slot = lease->slot,
				.generation = lease->generation,
				.disposition = CP_CHECKIN_ENDED,
			};

			cp_pool_checkin(&c);
		}
	}
	holds_nothing(lease);
}

void
cp_borrow_give_up(CpLease *lease)
{
	end_it_ourselves(lease, cp_deadline(cp_now(), CP_VAULT_TIMEOUT_MS));
}

/* ---- refused ------------------------------------------------------------ */

/* The breaker is open: what went wrong last, and when it is tried again. */
static void
throw_refused(CpLease *lease, const CpTarget *target)
{
	CpPoolInfo info;
	const char *message;
	double delay;

	if (!cp_pool_read(lease->pool, &info))
		memset(&info, 0, sizeof(info));
	message = cp_message_valid_text(info.problem.message);
	delay = Max(info.breaker.next_attempt - cp_now(), 0) / 1e6;
	ereport(ERROR,
			(errcode(CP_ERRCODE_UNREACHABLE),
			 errmsg("could not connect for pool \"%s\": not tried again yet", target->name),
			 info.breaker.state == CP_BREAKER_PROBING ?
				 errdetail("Failures in a row: %d; another attempt is under way.\n"
						   "Last error: %s",
						   info.breaker.failures, message) :
				 errdetail("Failures in a row: %d; the next attempt is due in %.1f s.\n"
						   "Last error: %s",
						   info.breaker.failures, delay, message),
			 errhint("See the columns breaker, next_attempt and last_error of view "
					 "conpool.pools.")));
}

static void
throw_paused(const CpTarget *target)
{
	ereport(ERROR,
			(errcode(CP_ERRCODE_PAUSED),
			 errmsg("pool \"%s\" is paused", target->name),
			 errdetail("It was not resumed within checkout_timeout."),
			 errhint("See conpool.resume().")));
}

void
cp_borrow_throw_timeout(CpLease *lease, CpTarget *target)
{
	int pool = lease->pool;
	char *detail = cp_pool_describe(pool);
	CpPoolInfo info;

	if (cp_pool_read(pool, &info) && info.paused)
		throw_paused(target);
	ereport(ERROR,
			(errcode(CP_ERRCODE_NO_CONNECTION),
			 errmsg("timed out waiting for a connection of pool \"%s\"", target->name),
			 errdetail_internal("%s", detail),
			 errhint("See view conpool.leases for the holders; consider raising max_size or "
					 "conpool.checkout_timeout.")));
}

/*
 * The broker did not answer in time.  Nothing is wrong with the connection, so
 * it is not given up for another one, which would have to be fetched, too.
 */
static void
throw_not_fetched(CpLease *lease, CpTarget *target, CpTime deadline)
{
	if (cp_now() >= deadline)
		cp_borrow_throw_timeout(lease, target);
	ereport(ERROR,
			(errcode(CP_ERRCODE_NO_CONNECTION),
			 errmsg("could not get a connection of pool \"%s\" from conpool's broker",
					target->name),
			 errdetail("The broker did not answer within %d ms.", CP_VAULT_TIMEOUT_MS),
			 errhint("Look for process \"conpool broker\" in pg_stat_activity.")));
}

/* ---- waiting ------------------------------------------------------------ */

static void
throw_queue_full(CpLease *lease, CpTarget *target)
{
	char *detail = cp_pool_describe(lease->pool);

	ereport(ERROR,
			(errcode(CP_ERRCODE_NO_CONNECTION),
			 errmsg("too many sessions wait for a connection of pool \"%s\"", target->name),
			 errdetail_internal("%s", detail),
			 errhint("The option max_waiters is %d; consider raising max_size.",
					 target->options.max_waiters)));
}

static void
throw_waits_already(const CpLease *lease)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("cannot take a connection of pool \"%s\" while this session waits for one",
					lease->pool_name),
			 errdetail("A function that is called for a value of a remote result needs it.")));
}

static void
throw_self_deadlock(CpLease *lease, CpTarget *target)
{
	char *detail = cp_pool_describe(lease->pool);

	ereport(ERROR,
			(errcode(lease->may_exceed ? CP_ERRCODE_NO_CONNECTION : CP_ERRCODE_DEADLOCK),
			 errmsg("this session holds every connection of pool \"%s\" itself", target->name),
			 errdetail_internal("%s", detail),
			 lease->may_exceed ?
				 errhint("There is no place beyond max_size either: see conpool.max_connections, "
						 "a quarter of which is kept for other pools, and max_server_size.") :
				 errhint("Give a lease back with conpool.checkin(), run the statement on a lease "
						 "you hold, or raise max_size.")));
}

static void
throw_deadlock(const CpTarget *target, const char *detail)
{
	ereport(ERROR,
			(errcode(CP_ERRCODE_DEADLOCK),
			 errmsg("deadlock detected while waiting for a connection of pool \"%s\"",
					target->name),
			 errdetail_internal("%s", detail),
			 errhint("Take connections of several pools in the same order everywhere, or raise "
					 "max_size.")));
}

/* Looks, every deadlock_timeout, whether the wait can end at all. */
static void
check_deadlock(const CpTarget *target, CpTime *next_check)
{
	char *detail;

	if (cp_now() < *next_check)
		return;
	if (cp_deadlock_found(&detail))
	{
		cp_pool_leave_queue(CP_LEAVE_TIMEOUT);
		throw_deadlock(target, detail);
	}
	*next_check = cp_deadline(cp_now(), DeadlockTimeout);
}

/* Leases that come free while this one is waited for: in that pool, or in any. */
static int
count_coming_back(const CpBorrowing *b, int pool)
{
	dlist_iter iter;
	int n = 0;

	dlist_foreach(iter, &cp_leases)
	{
		CpLease *lease = dlist_container(CpLease, node, iter.cur);

		if (b->map != 0 && lease->comes_back == b->map && lease->slot != CP_NONE &&
			(pool == CP_NONE || lease->pool == pool))
			n++;
	}
	return n;
}

/* In the queue: what was granted, if anything; throws if the time is over. */
static CpGrant
look_in_queue(CpBorrowing *b, CpLease *lease, CpTarget *target)
{
	CpGrant grant = cp_pool_granted(&b->c);

	if (grant != CP_GRANT_QUEUED)
		return grant;
	if (cp_now() >= b->deadline)
	{
		cp_pool_leave_queue(CP_LEAVE_TIMEOUT);
		cp_borrow_throw_timeout(lease, target);
	}
	cp_pool_serves(count_coming_back(b, CP_NONE) > 0);
	check_deadlock(target, &b->next_check);
	return grant;
}

/* Without a pool nothing is shared and no limit holds: say so, once. */
static void
warn_of_overflow(void)
{
	static bool warned = false;

	if (!warned)
		ereport(WARNING,
				(errmsg("conpool has no place for another pool: connections are not shared"),
				 errhint("Raise conpool.max_pools, or use fewer different connection strings.")));
	warned = true;
}

/* What the remote has been promised is kept even so. */
static void
refuse_overflow_of_limited(CpTarget *target)
{
	if (target->options.max_server_size == 0)
		return;
	target->pool = CP_NONE;
	ereport(ERROR,
			(errcode(CP_ERRCODE_NO_CONNECTION),
			 errmsg("conpool has no place for pool \"%s\"", target->name),
			 errdetail("Its server has a max_server_size, which unpooled connections would "
					   "exceed."),
			 errhint("Raise conpool.max_pools.")));
}

static void
find_pool(CpTarget *target)
{
	if (target->pool == CP_NONE)
		target->pool = cp_pool_find(&target->key, target->name, target->uncommitted,
									&target->options, &target->pool_generation);
}

/* Asks for a lease or a permit. */
static CpGrant
ask(CpBorrowing *b, CpLease *lease, CpTarget *target)
{
	CpCheckout *c = &b->c;
	CpGrant grant;

	do
	{
		find_pool(target);
		lease->pool = c->pool = target->pool;
		c->pool_generation = target->pool_generation;
		c->held = cp_lease_count_in_pool(c->pool) - count_coming_back(b, c->pool);
		c->serves = count_coming_back(b, CP_NONE) > 0;
		/* it may be standing in another queue */
		if (c->patience == CP_PATIENCE_NONE && lease->comes_back)
			cp_pool_serves(true);
		if (target->pool == CP_OVERFLOW_POOL)
		{
			refuse_overflow_of_limited(target);
			warn_of_overflow();
			/* there may be a place for it next time */
			target->pool = CP_NONE;
		}
		c->wants_permit = target->uncommitted || target->by_environment ||
			c->pool == CP_OVERFLOW_POOL;

		grant = cp_pool_checkout(c);
		if (grant == CP_GRANT_POOL_GONE)
			target->pool = CP_NONE;
	} while (grant == CP_GRANT_POOL_GONE);
	b->next_check = cp_deadline(cp_now(), DeadlockTimeout);
	return grant;
}

/* Asks, or looks what has become of it; throws if that is nothing. */
static CpGrant
check_out(CpBorrowing *b, CpLease *lease, CpTarget *target)
{
	CpGrant grant = b->queued ? look_in_queue(b, lease, target) : ask(b, lease, target);

	b->queued = grant == CP_GRANT_QUEUED;
	b->until = cp_earlier(b->deadline, b->next_check);
	switch (grant)
	{
		case CP_GRANT_QUEUE_FULL:
			throw_queue_full(lease, target);
			break;
		case CP_GRANT_SELF_DEADLOCK:
			throw_self_deadlock(lease, target);
			break;
		case CP_GRANT_REFUSED:
			throw_refused(lease, target);
			break;
		default:
			break;
	}
	return grant;
}

const char *
cp_borrow_statement_to_show(void)
{
	return cp_secret_mask_sql(debug_query_string, CP_SQL_LEN);
}

/*
 * Through which functions the checkout came, for a lease that outlives its call:
 * what PL/pgSQL calls PG_CONTEXT, innermost first.
 */
static const char *
stack_to_show(const CpLease *lease)
{
	if (error_context_stack == NULL ||
		(lease->scope == CP_SCOPE_STATEMENT && !lease->is_explicit))
		return NULL;
	return cp_secret_mask_sql(GetErrorContextStack(), CP_STACK_LEN);
}

/* Does the server's definition ask for one that can be written to? */
static bool
wants_primary(const CpTarget *target)
{
	for (int i = 0; target->keywords[i]; i++)
	{
		if (strcmp(target->keywords[i], "target_session_attrs") == 0)
			return strcmp(target->values[i], "read-write") == 0 ||
				strcmp(target->values[i], "primary") == 0;
	}
	return false;
}

/*
 * A server's owner decides what is done about leaks of its connections; but a
 * superuser's statements are nobody's to cancel who is none.
 */
static bool
is_spared(const CpLease *lease, const CpTarget *target)
{
	return OidIsValid(target->owner) && !superuser_arg(target->owner) &&
		(superuser_arg(lease->role) || superuser_arg(GetSessionUserId()));
}

static void
store_origin(const CpLease *lease, const CpTarget *target)
{
	CpOrigin origin = {
		.session_role = GetOuterUserId(),
		.is_explicit = lease->is_explicit,
		.spared = is_spared(lease, target),
		.sql = cp_borrow_statement_to_show(),
		.query_id = cp_my_query_id(),
		.stack = stack_to_show(lease),
	};

	cp_pool_set_origin(lease->slot, lease->generation, &origin);
}

/* As conpool.log_min_wait wants it; the statement only if it may be shown. */
static void
log_long_wait(const CpLease *lease, const CpTarget *target, CpTime wait)
{
	bool hide;

	if (cp_guc_log_min_wait < 0 || wait < (CpTime) cp_guc_log_min_wait * 1000)
		return;
	hide = target->key.kind == CP_POOL_CONNINFO ||
		cp_secret_mask_sql(debug_query_string, INT_MAX) != debug_query_string;
	ereport(LOG,
			(errmsg("waited %.3f ms for a connection of pool \"%s\"", wait / 1e3, target->name),
			 errdetail_internal("%s", cp_pool_describe(lease->pool)),
			 errhidestmt(hide),
			 errhidecontext(hide)));
}

/*
 * Takes up a connection that was granted; false if that has to be tried with another
 * one.
 */
static bool
take_granted(CpBorrowing *b, CpLease *lease, CpTarget *target)
{
	bool answered = true;

	if (take_up(lease, b->c.suspect, b->deadline, &answered))
		return true;
	lease->slot = CP_NONE;
	if (!answered)
	{
		cp_pool_give_up(&b->c);
		throw_not_fetched(lease, target, b->deadline);
	}
	/* a check that ended with the caller's own time has proven nothing */
	cp_pool_discard(&b->c, !b->c.suspect || cp_now() < b->deadline);
	return false;
}

/* The lease has its connection. */
static void
obtained(CpLease *lease, const CpTarget *target)
{
	CpTime now = cp_now();

	lease->wants_primary = wants_primary(target);
	store_origin(lease, target);
	log_long_wait(lease, target, now - lease->requested_at);
	/* up to here an interrupt finds it half taken, and ends it */
	lease->obtained_at = now;
}

/* Makes use of what was granted.  NONE: in vain, something else has to be had. */
static CpBorrowStatus
use_grant(CpBorrowing *b, CpLease *lease, CpTarget **target)
{
	if (!lease->connecting)
		return take_granted(b, lease, *target) ? CP_BORROW_DONE : CP_BORROW_NONE;
	if (lease->remote == NULL && cp_borrow_follow_definition(b, lease, target))
	{
		cp_borrow_give_up(lease);
		return CP_BORROW_NONE;
	}
	return cp_borrow_open(b, lease, target);
}

/* As cp_borrow_step(), with a target that is brought up to date. */
static CpBorrowStatus
step(CpBorrowing *b, CpLease *lease, CpTarget **target)
{
	for (;;)
	{
		CpBorrowStatus status;

		if (lease->slot == CP_NONE)
		{
			CpGrant grant = check_out(b, lease, *target);

			if (grant == CP_GRANT_QUEUED)
				return CP_BORROW_QUEUED;
			if (grant == CP_GRANT_NONE)
				return CP_BORROW_NONE;
			lease->slot = b->c.slot;
			lease->generation = b->c.generation;
			lease->connecting = grant == CP_GRANT_PERMIT;
			lease->unshared = lease->connecting && b->c.beyond;
		}
		status = use_grant(b, lease, target);
		if (status == CP_BORROW_DONE)
			obtained(lease, *target);
		if (status != CP_BORROW_NONE)
			return status;
		/* once more, at the head of the queue */
		b->c.again = true;
	}
}

void
cp_borrow_begin(CpBorrowing *b, CpLease *lease, CpTime deadline, CpPatience patience)
{
	memset(b, 0, sizeof(*b));
	b->deadline = deadline;
	b->c.patience = patience;
	b->c.scope = lease->scope;
	b->c.role = lease->role;
	b->c.lease = lease->id;
	b->c.may_exceed = lease->may_exceed;
	b->c.since = lease->requested_at;
	b->c.deadline = deadline;
	b->c.adopted = cp_cache_generations();
	b->c.last_slot = cp_cache_last();
	/* a function of the user's, called for a value, while we wait for another one */
	if (patience != CP_PATIENCE_NONE && cp_pool_awaited() != 0)
		throw_waits_already(lease);
}

CpBorrowStatus
cp_borrow_step(CpBorrowing *b, CpLease *lease, CpTarget *target)
{
	/* the target of the last step may be gone */
	b->c.options = &target->options;
	if (!b->queued && lease->slot == CP_NONE)
		(void) cp_borrow_ask_for(b, lease, target);
	return step(b, lease, &target);
}

void
cp_borrow(CpLease *lease, CpTarget *target, CpTime deadline)
{
	CpBorrowing b;

	cp_borrow_begin(&b, lease, deadline, CP_PATIENCE_QUEUE);
	b.waits = true;
	b.c.options = &target->options;
	b.c.fingerprint = target->fingerprint;
	while (step(&b, lease, &target) == CP_BORROW_QUEUED)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT,
						 cp_timeout_ms(b.until), cp_wait_event(CP_WAIT_LEASE));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* ---- giving back -------------------------------------------------------- */

/*
 * Can the session differ from a new one, as far as is known?  Not after
 * nothing but statements that were found to be clean.
 */
static bool
may_have_changed(const CpLease *lease)
{
	return lease->dirty || lease->is_explicit;
}

/* Has anybody listened on it?  Notifications may be there that nobody asked for. */
static bool
listens(CpLease *lease)
{
	PGnotify *notify;

	while ((notify = PQnotifies(lease->remote->conn)) != NULL)
	{
		PQfreemem(notify);
		lease->listened = true;
	}
	return lease->listened;
}

/* The rules of design section 4, "Checkin". */
static CpDisposition
choose_disposition(CpLease *lease)
{
	PGTransactionStatusType transaction;

	/* granted, but interrupted before it was taken up */
	if (lease->remote == NULL)
		return CP_CHECKIN_CLEAN;
	transaction = PQtransactionStatus(lease->remote->conn);
	if (lease->busy || listens(lease) || lease->misplaced ||
		PQstatus(lease->remote->conn) != CONNECTION_OK ||
		transaction == PQTRANS_ACTIVE || transaction == PQTRANS_UNKNOWN)
		return CP_CHECKIN_CLOSE;
	if (transaction != PQTRANS_IDLE)
		return CP_CHECKIN_RESET;
	/* others could not know how values are written on it from now on */
	if (lease->reset == CP_RESET_NEVER && cp_remote_changes(lease->remote) != 0)
		return CP_CHECKIN_CLOSE;
	if (lease->reset == CP_RESET_ALWAYS ||
		(lease->reset == CP_RESET_AUTO && may_have_changed(lease)))
		return CP_CHECKIN_RESET;
	return CP_CHECKIN_CLEAN;
}

static bool
has_open_transaction(const CpLease *lease)
{
	PGTransactionStatusType transaction;

	if (lease->remote == NULL)
		return false;
	transaction = PQtransactionStatus(lease->remote->conn);
	return transaction == PQTRANS_INTRANS || transaction == PQTRANS_INERROR;
}

/*
 * The parameters that a reset must bring back.  The remote reports changes
 * only, and only we have seen those up to now: the broker could not tell what
 * was brought back from what was never reported.
 */
static uint64
changes_to_reset(const CpLease *lease, CpDisposition disposition)
{
	if (disposition != CP_CHECKIN_RESET || !may_have_changed(lease))
		return 0;
	return cp_remote_changes(lease->remote);
}

/*
 * Tells the pool; false if the broker does not have the socket.  *reclaimed: the
 * connection is somebody else's business already.
 */
static bool
tell_pool(CpLease *lease, CpDisposition disposition, bool in_transaction, bool *reclaimed)
{
	CpLeakRecord leak;
	CpCheckin c = {
		.slot = lease->slot,
		.generation = lease->generation,
		.disposition = disposition,
		.in_transaction = in_transaction,
		.changes = changes_to_reset(lease, disposition),
		.mid_protocol = lease->busy,
		.broken = lease->busy ||
			(lease->remote != NULL && PQstatus(lease->remote->conn) != CONNECTION_OK),
		.unfit = lease->listened || lease->misplaced,
		.usage = lease->usage,
		.leak = &leak,
	};

	if (!cp_pool_checkin(&c))
		return false;
	*reclaimed = c.reclaimed;
	if (c.was_leak)
		cp_leak_over(&leak, lease->end);
	return true;
}

/*
 * The broker does not have the socket yet, or it is a new broker, which has
 * none of what the last one had: sees to it that it has, if it is worth it.
 */
static bool
settle_donation(CpLease *lease, CpDisposition disposition, CpTime deadline)
{
	await_answer(lease, deadline);
	if (cp_pool_is_donated(lease->slot, lease->generation))
		return true;
	if (disposition == CP_CHECKIN_CLOSE || lease->remote == NULL ||
		cp_shmem_broker_epoch() == 0)
		return false;
	cp_borrow_donate(lease, deadline, false);
	await_answer(lease, deadline);
	return cp_pool_is_donated(lease->slot, lease->generation);
}

/*
 * May this backend keep its adoption?  Not if its PGconn might remember what a
 * reset undoes, or a buffer that a huge value has made big.
 */
static bool
may_keep(const CpLease *lease, CpDisposition disposition)
{
	if (lease->huge)
		return false;
	return disposition == CP_CHECKIN_CLEAN ||
		(disposition == CP_CHECKIN_RESET && !may_have_changed(lease));
}

/* Gives the lease's connection to the pool; false if that is not possible. */
static bool
give_to_pool(CpLease *lease, CpDisposition disposition, bool in_transaction,
			 CpTime deadline)
{
	CpRemote *remote = lease->remote;
	bool reclaimed = false;

	if (!tell_pool(lease, disposition, in_transaction, &reclaimed) &&
		!(settle_donation(lease, disposition, deadline) &&
		  tell_pool(lease, disposition, in_transaction, &reclaimed)))
		return false;
	if (remote != NULL)
	{
		if (!reclaimed && may_keep(lease, disposition))
			cp_cache_keep(lease->slot, lease->generation, remote);
		else
			cp_remote_let_go(remote);
	}
	holds_nothing(lease);
	return true;
}

void
cp_borrow_stop_clock(CpLease *lease)
{
	CpTime taken;

	if (!lease->clock_runs)
		return;
	lease->clock_runs = false;
	taken = cp_pool_statement_ends(lease->slot, lease->generation);
	/* BEGIN, SAVEPOINT and COMMIT are nobody's statements */
	if (lease->transaction.changing)
		return;
	lease->usage.timed = 1;
	lease->usage.remote_time = taken;
}

void
cp_borrow_report_usage(CpLease *lease)
{
	(void) cp_pool_add_usage(lease->slot, lease->generation, &lease->usage, NULL);
	memset(&lease->usage, 0, sizeof(lease->usage));
}

void
cp_borrow_return(CpLease *lease, CpTime deadline)
{
	CpDisposition disposition;
	bool open_transaction;

	if (lease->slot == CP_NONE)
		return;
	/*
	 * Messages to the log serve interrupts.  The pool must not have the
	 * connection while the lease believes that it has.
	 */
	HOLD_INTERRUPTS();
	cp_borrow_stop_clock(lease);
	lease->usage.auto_returned = lease->is_explicit && lease->scope == CP_SCOPE_TRANSACTION &&
		lease->end == CP_LEAK_TRANSACTION_ENDED;
	disposition = choose_disposition(lease);
	open_transaction = has_open_transaction(lease);
	if (disposition == CP_CHECKIN_CLOSE && !lease->listened)
		lease->usage.discarded = 1;

	if (lease->unshared || !give_to_pool(lease, disposition, open_transaction, deadline))
		end_it_ourselves(lease, deadline);
	RESUME_INTERRUPTS();

	if (open_transaction && !lease->quiet && lease->scope != CP_SCOPE_TRANSACTION)
		ereport(WARNING,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a transaction left open on pool \"%s\" was rolled back",
						lease->pool_name),
				 errhint("Scope \"statement\" ends with the statement, \"session\" with "
						 "conpool.checkin(). What is to end with the local transaction is for "
						 "scope \"transaction\".")));
}

void
cp_borrow_break_off(CpLease *lease, CpTime deadline)
{
	if (lease->slot == CP_NONE)
		return;
	if (lease->connecting)
	{
		cp_pool_connect_failed(lease->slot, lease->generation, CP_FAILURE_CANCEL, 0, NULL,
							   lease->requested_at);
		end_it_ourselves(lease, deadline);
		return;
	}
	/* else it was the check before use */
	if (lease->obtained_at != 0)
		lease->usage.query_errors++;
	lease->busy = true; /* whatever it is in the middle of: in doubt */
	if (lease->end != CP_LEAK_SESSION_ENDED)
		lease->end = CP_LEAK_LOST;
	cp_borrow_return(lease, deadline);
}

void
cp_borrow_stopped(CpLease *lease)
{
	if (!lease->busy)
		return;
	lease->usage.query_errors++;
	/* what was stopped may have changed session state before */
	lease->dirty = true;
	lease->busy = false;
	cp_borrow_stop_clock(lease);
	cp_borrow_report_usage(lease);
}
