/*
 * map.c
 *		Runs statements on many servers at the same time.
 *
 * Runs in client backends, called by sql_map.c.  One loop starts what can be started,
 * waits for all sockets at once, and reads what has come, so that no server waits for
 * another one; a connection that is not needed any more goes back at once, also while
 * this session stands in the queue of another pool.  If it did not, two sessions could
 * wait for each other for ever.
 *
 * What may fail for one server alone (its checkout, its start) runs in a subtransaction
 * if errors are to be told.  That is over before anything else is done: the other
 * flights must not be the subtransaction's, nor may a sink run in it.
 *
 * Never stops a flight by itself: the abort callbacks do, all at the same time.
 */
#include "postgres.h"

#include "map.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "message.h"
#include "target.h"
#include "transaction.h"

/* A map that runs. */
typedef struct Loop
{
	CpMap *map;
	uint64 number;		 /* of this one, see cp_lease_begin_for_server() */
	CpPatience patience; /* of checkouts that begin now */
	CpFlight *queued;	 /* the last one that was */
	int over;			 /* flights */
	bool changed;		 /* what could not start may be able to now */
	CpRemote **remotes;	 /* to wait for; room for all flights */
	MemoryContext scratch;
} Loop;

typedef void (*Action)(Loop *loop, CpFlight *flight);

/* maps of this session up to now */
static uint64 last_number = 0;

static bool
is_on_way(CpFlightState state)
{
	return state == CP_FLIGHT_BOARDING || state == CP_FLIGHT_FLYING;
}

static void
set_state(Loop *loop, CpFlight *flight, CpFlightState state)
{
	CpFlight *leader = flight->leader;

	if (leader != NULL)
	{
		leader->on_way += is_on_way(state) - is_on_way(flight->state);
		leader->shares = !flight->release;
	}
	if (state == CP_FLIGHT_OVER)
		loop->over++;
	flight->state = state;
	loop->changed = true;
}

/* ---- errors ---- */

/* Was it this session that was interrupted, and not the remote one? */
static bool
is_interrupt(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED && !cp_message_is_remote(error);
}

/*
 * In a subtransaction, as PL/pgSQL's exception blocks have it.  The error, or NULL; an
 * interrupt is thrown.
 */
static ErrorData *
catch_error(Loop *loop, CpFlight *flight, Action act)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		act(loop, flight);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error != NULL && is_interrupt(error))
		ReThrowError(error);
	return error;
}

/* Why a remote could not be reached, or did not let us in, is in the detail. */
static const char *
message_of(const ErrorData *error)
{
	int class = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	bool is_connect = class == ERRCODE_CONNECTION_EXCEPTION ||
		class == ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;

	if (is_connect && error->detail != NULL)
		return psprintf("%s: %s", error->message, error->detail);
	return error->message;
}

/* Does something for a flight; if that fails the flight is over, or the map. */
static void
attempt(Loop *loop, CpFlight *flight, Action act)
{
	ErrorData *error;

	if (loop->map->failed == NULL)
	{
		act(loop, flight);
		return;
	}
	error = catch_error(loop, flight, act);
	if (error == NULL)
		return;
	/* what was taken in an earlier subtransaction has outlived this one */
	cp_lease_give_up(flight->lease_id);
	loop->map->failed(flight->sink, error->sqlerrcode, message_of(error));
	set_state(loop, flight, CP_FLIGHT_OVER);
}

/* ---- starting ---- */

static void
identify(Loop *loop, CpFlight *flight)
{
	CpFlight *other = loop->map->flights;

	/* the target is another one's at the next call */
	flight->key = cp_target_resolve(flight->server)->key;
	while (other != flight &&
		   (other->leader != other || other->key.kind != flight->key.kind ||
			memcmp(&other->key, &flight->key, sizeof(flight->key)) != 0))
		other++;
	flight->leader = other;
}

/* The connection is there: the statement starts. */
static void
take_off(Loop *loop, CpFlight *flight)
{
	if (loop->map->failed != NULL && flight->lease->scope == CP_SCOPE_TRANSACTION)
	{
		cp_transaction_begin_try(flight->lease);
		flight->in_try = true;
	}
	flight->run = cp_run_start(flight->lease, flight->sql, loop->map->params, 0);
	set_state(loop, flight, CP_FLIGHT_FLYING);
}

/* What has become of its checkout. */
static void
note_boarding(Loop *loop, CpFlight *flight, CpBorrowStatus status)
{
	if (status == CP_BORROW_DONE)
		take_off(loop, flight);
	else if (status != CP_BORROW_NONE)
	{
		if (flight->state != CP_FLIGHT_BOARDING || flight->boarding != status)
			set_state(loop, flight, CP_FLIGHT_BOARDING);
		flight->boarding = status;
		if (status == CP_BORROW_QUEUED)
			loop->queued = flight;
	}
	else
	{
		flight->lease = NULL;
		flight->lease_id = 0;
		flight->leader->stuck = true;
		if (flight->state != CP_FLIGHT_PENDING)
			set_state(loop, flight, CP_FLIGHT_PENDING);
	}
}

static void
begin_boarding(Loop *loop, CpFlight *flight)
{
	CpBorrowStatus status;

	flight->lease = cp_lease_begin_for_server(flight->server, loop->patience, loop->number,
											  &flight->borrowing, &status, &flight->release);
	flight->lease_id = flight->lease ? flight->lease->id : 0;
	note_boarding(loop, flight, status);
}

static void
go_on_boarding(Loop *loop, CpFlight *flight)
{
	note_boarding(loop, flight,
				  cp_lease_go_on(flight->lease, flight->server, &flight->borrowing));
}

/*
 * Does one of the flights stand in the queue, or has it been served there?  It may be one
 * of another map's that does, for a value of which this one runs.
 */
static bool
is_queued(const Loop *loop)
{
	return loop->queued != NULL && loop->queued->state == CP_FLIGHT_BOARDING &&
		loop->queued->boarding == CP_BORROW_QUEUED;
}

/* Is there another flight to the same pool for which this one has to wait? */
static bool
has_to_wait(const Loop *loop, const CpFlight *flight)
{
	const CpFlight *leader = flight->leader;

	if (leader->stuck)
		return true;
	/* they would share a lease; or one gives back its own, which is as good as any other */
	return leader->on_way > 0 && (leader->shares || loop->patience == CP_PATIENCE_QUEUE);
}

/* Starts those pending that can start by this. */
static void
start_with(Loop *loop, CpPatience patience)
{
	const CpMap *map = loop->map;

	loop->patience = patience;
	for (int i = 0; i < map->count; i++)
		map->flights[i].stuck = false;
	for (int i = 0; i < map->count; i++)
	{
		CpFlight *flight = &map->flights[i];

		/* there is one queue that a session can stand in */
		if (patience != CP_PATIENCE_NONE && is_queued(loop))
			return;
		if (flight->state == CP_FLIGHT_PENDING && !has_to_wait(loop, flight))
			attempt(loop, flight, begin_boarding);
	}
}

/* First those that nobody has to wait for. */
static void
start_pending(Loop *loop)
{
	if (!loop->changed)
		return;
	loop->changed = false;
	start_with(loop, CP_PATIENCE_NONE);
	start_with(loop, CP_PATIENCE_OPEN);
	start_with(loop, CP_PATIENCE_QUEUE);
}

/* ---- landing ---- */

static void
end_try_well(Loop *loop, CpFlight *flight)
{
	cp_transaction_end_try(flight->lease, false);
}

static void
end_try_failed(Loop *loop, CpFlight *flight)
{
	cp_transaction_end_try(flight->lease, true);
}

/* All has been read, and the connection is at rest. */
static void
land(Loop *loop, CpFlight *flight)
{
	cp_run_free(flight->run);
	flight->run = NULL;
	if (flight->in_try)
		attempt(loop, flight, end_try_well);
	if (flight->release)
		cp_lease_checkin(flight->lease);
	/* unless that has failed */
	if (flight->state != CP_FLIGHT_OVER)
		set_state(loop, flight, CP_FLIGHT_OVER);
}

/* Its statement has failed, or its connection was lost. */
static void
fail(Loop *loop, CpFlight *flight, bool lost)
{
	int sqlstate;
	char *message;

	if (loop->map->failed == NULL)
		cp_run_throw(flight->run);
	cp_run_failure(flight->run, &sqlstate, &message);
	cp_run_free(flight->run);
	flight->run = NULL;
	loop->map->failed(flight->sink, sqlstate, message);
	set_state(loop, flight, CP_FLIGHT_OVER);

	/* if this fails, too, the transaction cannot commit, and will say so */
	if (flight->in_try && !lost)
		(void) catch_error(loop, flight, end_try_failed);
	cp_lease_give_up(flight->lease_id);
}

static void
read_flight(Loop *loop, CpFlight *flight)
{
	CpRunStatus status = cp_run_read(flight->run, flight->sink, false);

	loop->map->pause(flight->sink);
	switch (status)
	{
		case CP_RUN_GOING:
			break;
		case CP_RUN_DONE:
			land(loop, flight);
			break;
		case CP_RUN_FAILED:
		case CP_RUN_LOST:
			fail(loop, flight, status == CP_RUN_LOST);
			break;
	}
}

/* ---- the loop ---- */

/* Goes on with each as far as that is possible. */
static void
go_on(Loop *loop)
{
	const CpMap *map = loop->map;

	for (int i = 0; i < map->count; i++)
	{
		CpFlight *flight = &map->flights[i];

		if (flight->state == CP_FLIGHT_FLYING)
			read_flight(loop, flight);
		else if (flight->state == CP_FLIGHT_BOARDING)
			attempt(loop, flight, go_on_boarding);
	}
}

static bool
is_connecting(const CpFlight *flight)
{
	return flight->state == CP_FLIGHT_BOARDING && flight->boarding == CP_BORROW_CONNECTING;
}

/* Lists what to wait for, and until when; false if something is there already. */
static bool
list_awaited(Loop *loop, int *n, CpTime *until)
{
	const CpMap *map = loop->map;

	*n = 0;
	*until = CP_FOREVER;
	/* the latch may have been reset for another reason since it was looked at */
	if (is_queued(loop) && cp_pool_was_served())
		return false;
	for (int i = 0; i < map->count; i++)
	{
		const CpFlight *flight = &map->flights[i];
		bool flies = flight->state == CP_FLIGHT_FLYING;

		if (flies && cp_run_is_ready(flight->run))
			return false;
		if (flight->state == CP_FLIGHT_BOARDING)
			*until = cp_earlier(*until, flight->borrowing.until);
		if (flies || is_connecting(flight))
			loop->remotes[(*n)++] = flight->lease->remote;
	}
	return cp_now() < *until;
}

static void
wait_for_any(Loop *loop)
{
	int n;
	CpTime until;

	if (list_awaited(loop, &n, &until) &&
		(cp_remote_wait_any(loop->remotes, n, until) & WL_LATCH_SET))
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

void
cp_map_run(CpMap *map)
{
	Loop loop = {
		.map = map,
		.number = ++last_number,
		.changed = true,
		.remotes = palloc(Max(map->count, 1) * sizeof(CpRemote *)),
		.scratch = AllocSetContextCreate(CurrentMemoryContext, "conpool map",
										 ALLOCSET_SMALL_SIZES),
	};
	MemoryContext caller = MemoryContextSwitchTo(loop.scratch);

	for (int i = 0; i < map->count; i++)
		attempt(&loop, &map->flights[i], identify);
	for (;;)
	{
		start_pending(&loop);
		if (loop.over == map->count)
			break;
		wait_for_any(&loop);
		go_on(&loop);
		MemoryContextReset(loop.scratch);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(loop.scratch);
}
