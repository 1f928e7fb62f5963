/*
 * borrow_open.c
 *		Opens the connection for which a lease has a permit: by itself, or by a
 *		tunnel.
 *
 * Runs in client backends, called by borrow.c.  Credentials, certificates and errors
 * stay with the session that they belong to; a tunnel is handed what it needs to
 * connect in the session's place, if the connection may come out encrypted.
 */
#include "postgres.h"

#include "borrow_internal.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#include "cache.h"
#include "compat.h"
#include "conninfo.h"
#include "error.h"
#include "guc.h"
#include "message.h"
#include "probe.h"
#include "pump.h"
#include "secret.h"
#include "tunnel_order.h"

/* ---- failures ------------------------------------------------------------ */

/* Throws the error of an attempt to connect that failed. */
static void
throw_connect_error(const CpTarget *target, CpFailure what, int sqlstate, const char *message)
{
	message = cp_secret_mask(message);
	if (what == CP_FAILURE_LOGIN)
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg("could not log in for pool \"%s\"", target->name),
				 errdetail_internal("%s", message),
				 target->scram_keys ?
					 errhint("With use_scram_passthrough the remote role needs the same SCRAM "
							 "secret as the local one: the same salt, and not just the same "
							 "password.") :
					 errhint("Check user and password of the user mapping or connection string.")));
	ereport(ERROR,
			(errcode(CP_ERRCODE_UNREACHABLE),
			 errmsg("could not connect for pool \"%s\"", target->name),
			 sqlstate == 0 ? errdetail_internal("%s", message) :
							 errdetail("%s (SQLSTATE %s)", message, unpack_sql_state(sqlstate))));
}

/* Is the target what was asked for? */
static bool
is_asked_for(const CpBorrowing *b, const CpLease *lease, const CpTarget *target)
{
	return memcmp(&lease->key, &target->key, sizeof(target->key)) == 0 &&
		memcmp(&b->c.fingerprint, &target->fingerprint, sizeof(target->fingerprint)) == 0;
}

bool
cp_borrow_ask_for(CpBorrowing *b, CpLease *lease, const CpTarget *target)
{
	b->c.options = &target->options;
	if (is_asked_for(b, lease, target))
		return false;
	b->c.fingerprint = target->fingerprint;
	cp_lease_set_target(lease, target);
	return true;
}

bool
cp_borrow_follow_definition(CpBorrowing *b, CpLease *lease, CpTarget **target)
{
	*target = cp_target_again(*target);
	return cp_borrow_ask_for(b, lease, *target);
}

/*
 * The attempt has failed, or has taken too long; `unresolved`: why it was not even
 * begun with, such as that its hosts' names were not found.  Returns if another
 * connection may come free for this caller, who then asks for it; throws otherwise.
 */
static void
end_failed_connect(CpBorrowing *b, CpLease *lease, CpTarget **current, bool timed_out,
				   char *unresolved)
{
	int sqlstate = 0;
	char *message = unresolved;
	CpFailure what = CP_FAILURE_UNREACHABLE;
	CpTarget *target;
	bool may_wait;

	if (unresolved == NULL)
		what = cp_message_connect_failure(lease->remote, timed_out, &sqlstate, &message);

	if (cp_borrow_follow_definition(b, lease, current))
		what = CP_FAILURE_OUTDATED;
	target = *current;
	may_wait = cp_pool_connect_failed(lease->slot, lease->generation, what, sqlstate, message,
									  lease->requested_at);
	cp_borrow_give_up(lease);
	if (may_wait)
		return;
	if (timed_out)
		ereport(ERROR,
				(errcode(CP_ERRCODE_UNREACHABLE),
				 errmsg("could not connect for pool \"%s\": timeout", target->name),
				 errdetail_internal("%s", message),
				 errhint("See the option connect_timeout.")));
	throw_connect_error(target, what, sqlstate, message);
}

/* The caller's own time is over while he connects. */
static void
throw_out_of_time(CpLease *lease, CpTarget *target)
{
	cp_pool_connect_failed(lease->slot, lease->generation, CP_FAILURE_TIMEOUT, 0, NULL,
						   lease->requested_at);
	cp_borrow_give_up(lease);
	cp_borrow_throw_timeout(lease, target);
}

/*
 * The server's own identity (peer, .pgpass, trust) is not lent to users: a
 * connection for which the remote did not ask a password is refused.
 */
static void
check_password_used(CpLease *lease, CpTarget *target)
{
	if (!target->password_required || lease->remote->used_password)
		return;
	cp_pool_connect_failed(lease->slot, lease->generation, CP_FAILURE_REFUSED, 0, NULL,
						   lease->requested_at);
	cp_borrow_give_up(lease);
	ereport(ERROR,
			(errcode(ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED),
			 errmsg("password is required"),
			 errdetail("Non-superusers cannot connect for pool \"%s\" if the remote server does "
					   "not request a password.",
					   target->name),
			 errhint("The remote server's authentication method must be changed, or a superuser "
					 "may set password_required 'false' on the user mapping.")));
}

/* Begins to connect; if there are too few descriptors, with those of the cache. */
static void
start_connect(CpLease *lease, const CpTarget *target)
{
	const char *error;

	lease->remote = cp_remote_start(target->keywords, target->values, &error);
	if (lease->remote == NULL)
	{
		cp_cache_drop_all();
		lease->remote = cp_remote_start(target->keywords, target->values, &error);
	}
	if (lease->remote != NULL)
		return;
	cp_pool_connect_failed(lease->slot, lease->generation, CP_FAILURE_LOCAL, 0, NULL,
						   lease->requested_at);
	cp_borrow_give_up(lease);
	ereport(ERROR,
			(errcode(CP_ERRCODE_UNREACHABLE),
			 errmsg("could not connect for pool \"%s\"", target->name),
			 errdetail_internal("%s", error),
			 errhint("Raise the server's max_files_per_process or its limit of open files.")));
}

/* ---- by a tunnel --------------------------------------------------------- */

/*
 * Will the connection be one lease's only, whatever it comes out as?  The lease is
 * unshared already if its permit is one beyond max_size.
 */
static bool
is_for_one_lease(const CpLease *lease, const CpTarget *target)
{
	return lease->unshared || target->uncommitted || target->by_environment ||
		lease->pool == CP_OVERFLOW_POOL || cp_shmem_broker_epoch() == 0;
}

/* What a tunnel needs to open it; keywords and values are to stay meanwhile. */
static CpTunnelOrder
make_order(const CpLease *lease, const CpTarget *target, const char *const *keywords,
		   const char *const *values, CpTime limit)
{
	long timeout = cp_timeout_ms(limit);
	CpTunnelOrder order = {
		.slot = lease->slot,
		.generation = lease->generation,
		.pool = lease->pool,
		.pool_generation = target->pool_generation,
		.party = target->party,
		.timeout = timeout < 0 ? INT_MAX : (int) Min(Max(timeout, 1), INT_MAX),
		.keywords = keywords,
		.values = values,
	};

	strlcpy(order.pool_name, target->name, sizeof(order.pool_name));
	return order;
}

/*
 * Hands a tunnel the order.  GOING, or ELSEWHERE: none took it.
 */
static CpConnectStatus
start_by_tunnel(CpLease *lease, const CpTunnelOrder *order, CpTime limit)
{
	const char *error;
	int sock = cp_tunnel_send_order(order, limit, true);

	if (sock < 0)
		return CP_CONNECT_ELSEWHERE;
	lease->remote = cp_remote_start_by_tunnel(sock, &error);
	return lease->remote != NULL ? CP_CONNECT_GOING : CP_CONNECT_ELSEWHERE;
}

/* The tunnel cannot do it; what is left of the attempt ends within a moment. */
static void
leave_tunnel(CpLease *lease)
{
	int rest = cp_remote_end(lease->remote);

	lease->remote = NULL;
	cp_remote_await_eof(rest, cp_deadline(cp_now(), CP_EOF_TIMEOUT_MS));
}

/*
 * Has a tunnel open the connection.  FAILED with *unresolved set: there is no address
 * for its hosts.
 */
static CpConnectStatus
connect_by_tunnel(CpLease *lease, const CpTarget *target, CpTime limit, char **unresolved)
{
	/* the target is the cache's; what is made of it goes with the statement */
	const char *const *keywords;
	const char *const *values;
	CpTunnelOrder order;

	*unresolved = cp_probe_resolve(target->keywords, target->values, limit, &keywords, &values);
	if (*unresolved != NULL)
		return cp_now() >= limit ? CP_CONNECT_TIMEOUT : CP_CONNECT_FAILED;
	order = make_order(lease, target, keywords, values, limit);
	return start_by_tunnel(lease, &order, limit);
}

/* ---- opening ------------------------------------------------------------- */

/* What makes everything slower is said once, and once more if it comes back. */
static void
warn_once(bool applies, bool *warned, const char *message)
{
	if (applies && !*warned)
		ereport(WARNING,
				(errmsg_internal("%s", message),
				 errhint("See the server log for why it stopped.")));
	*warned = applies;
}

/* Encrypted connections are not shared where they should be. */
static bool
lacks_tunnel(const CpLease *lease)
{
	return lease->remote->encrypted && PQsslInUse(lease->remote->conn) &&
		cp_guc_tunnel_workers > 0 && cp_pump_is_built() && !cp_tunnel_is_there();
}

static void
warn_if_unshared(const CpLease *lease)
{
	static bool warned_of_broker = false;
	static bool warned_of_tunnel = false;

	warn_once(cp_shmem_broker_epoch() == 0, &warned_of_broker,
			  _("conpool's broker is not running: connections are not shared"));
	warn_once(lacks_tunnel(lease), &warned_of_tunnel,
			  _("conpool's tunnel is not running: encrypted connections are not shared"));
}

/* How the connection came out. */
static void
describe(const CpRemote *remote, CpConnected *info)
{
	const CpPassage *passage = &remote->greeting.passage;

	info->remote_pid = PQbackendPID(remote->conn);
	info->tunnel = passage->tunnel;
	info->encrypted = remote->encrypted || passage->tunnel > 0;
	if (passage->tunnel > 0)
	{
		info->tls_version = passage->tls_version;
		info->tls_cipher = passage->tls_cipher;
	}
	else if (PQsslInUse(remote->conn))
	{
		info->tls_version = PQsslAttribute(remote->conn, "protocol");
		info->tls_cipher = PQsslAttribute(remote->conn, "cipher");
	}
}

/* It is open: tells the pool, and gives the broker its share. */
static void
take_into_pool(CpLease *lease, CpCheckout *c, const CpTarget *target, bool has_greeting,
			   CpTime taken)
{
	CpConnected info = {.connect_time = taken};
	char address[CP_ADDRESS_LEN];

	cp_remote_address(lease->remote, address, sizeof(address));
	info.remote_address = address;
	describe(lease->remote, &info);
	info.unshared = lease->remote->encrypted || !has_greeting || is_for_one_lease(lease, target);
	lease->unshared = info.unshared;
	lease->generation = cp_pool_connected(c, &info);
	lease->connecting = false;
	if (!lease->unshared)
		cp_borrow_donate(lease, cp_deadline(cp_now(), CP_VAULT_TIMEOUT_MS), true);
}

/*
 * A tunnel has kept us waiting until it was too late to connect without one;
 * `out_of_time`: for the caller, not just for this attempt.
 */
static void
throw_tunnel_silent(CpLease *lease, const CpTarget *target, bool out_of_time)
{
	cp_pool_connect_failed(lease->slot, lease->generation,
						   out_of_time ? CP_FAILURE_TIMEOUT : CP_FAILURE_LOCAL, 0, NULL,
						   lease->requested_at);
	cp_borrow_give_up(lease);
	ereport(ERROR,
			(errcode(out_of_time ? CP_ERRCODE_NO_CONNECTION : CP_ERRCODE_UNREACHABLE),
			 out_of_time ?
				 errmsg("timed out waiting for a connection of pool \"%s\"", target->name) :
				 errmsg("could not connect for pool \"%s\"", target->name),
			 errdetail("conpool's tunnel did not answer in time."),
			 errhint("Look for process \"conpool tunnel\" among those of the server, and at the "
					 "view conpool.tunnels.")));
}

/* Begins to connect by itself. */
static CpConnectStatus
connect_here(CpLease *lease, const CpTarget *target, char **unresolved)
{
	/* libpq would wait for a file that never ends, and could not be interrupted */
	if (!cp_conninfo_tls_files_are_regular(target->keywords, target->values))
	{
		*unresolved = pstrdup(CP_NO_REGULAR_FILE);
		return CP_CONNECT_FAILED;
	}
	start_connect(lease, target);
	return CP_CONNECT_GOING;
}

/* Begins to connect in the way that is right for the options; the time may be over. */
static CpConnectStatus
begin_connect(CpBorrowing *b, CpLease *lease, const CpTarget *target, char **unresolved)
{
	CpTime start = cp_now();

	b->connect_start = start;
	b->connect_limit = cp_earlier(b->deadline,
								  cp_deadline(start, target->options.connect_timeout));
	b->by_tunnel = false;
	if (!is_for_one_lease(lease, target) && cp_tunnel_is_there() &&
		cp_tunnel_is_wanted(target->keywords, target->values))
	{
		CpConnectStatus status = connect_by_tunnel(lease, target, b->connect_limit, unresolved);

		b->by_tunnel = status == CP_CONNECT_GOING;
		if (status != CP_CONNECT_ELSEWHERE || cp_now() >= b->connect_limit)
			return status;
	}
	return connect_here(lease, target, unresolved);
}

/* Goes on with connecting; GOING only in steps. */
static CpConnectStatus
go_on(CpBorrowing *b, CpLease *lease)
{
	if (b->waits)
		return cp_remote_finish_connect(lease->remote, b->connect_limit);
	return cp_remote_connect_step(lease->remote, b->connect_limit, &b->events, &b->until);
}

/* Begins to connect, or goes on with it. */
static CpConnectStatus
connect_lease(CpBorrowing *b, CpLease *lease, const CpTarget *target, char **unresolved)
{
	CpConnectStatus status = CP_CONNECT_GOING;

	*unresolved = NULL;
	if (lease->remote == NULL)
		status = begin_connect(b, lease, target, unresolved);
	if (status == CP_CONNECT_GOING)
		status = go_on(b, lease);
	if (status != CP_CONNECT_ELSEWHERE || !b->by_tunnel)
		return status;

	leave_tunnel(lease);
	b->by_tunnel = false;
	if (cp_now() >= b->connect_limit)
		return CP_CONNECT_ELSEWHERE;
	status = connect_here(lease, target, unresolved);
	return status == CP_CONNECT_GOING ? go_on(b, lease) : status;
}

/* What it connects to is not what is wanted any more. */
static void
end_outdated_connect(CpLease *lease)
{
	(void) cp_pool_connect_failed(lease->slot, lease->generation, CP_FAILURE_OUTDATED, 0, NULL,
								  lease->requested_at);
	cp_borrow_give_up(lease);
}

CpBorrowStatus
cp_borrow_open(CpBorrowing *b, CpLease *lease, CpTarget **current)
{
	CpTarget *target = *current;
	CpConnectStatus status;
	char *unresolved;
	bool out_of_time;

	if (lease->remote != NULL && !is_asked_for(b, lease, target))
	{
		end_outdated_connect(lease);
		(void) cp_borrow_ask_for(b, lease, target);
		return CP_BORROW_NONE;
	}
	status = connect_lease(b, lease, target, &unresolved);
	out_of_time = b->connect_limit == b->deadline;
	if (status == CP_CONNECT_GOING)
		return CP_BORROW_CONNECTING;
	if (status == CP_CONNECT_TIMEOUT && out_of_time)
		throw_out_of_time(lease, target);
	if (status == CP_CONNECT_ELSEWHERE)
		throw_tunnel_silent(lease, target, out_of_time);
	if (status == CP_CONNECT_FAILED || status == CP_CONNECT_TIMEOUT)
	{
		end_failed_connect(b, lease, current, status == CP_CONNECT_TIMEOUT, unresolved);
		return CP_BORROW_NONE;
	}
	check_password_used(lease, target);
	take_into_pool(lease, &b->c, target, status == CP_CONNECT_OK,
				   cp_now() - b->connect_start);
	warn_if_unshared(lease);
	return CP_BORROW_DONE;
}
