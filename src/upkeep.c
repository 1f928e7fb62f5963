/*
 * upkeep.c
 *		When which database's definitions are read, and that there is a dialer.
 *
 * Runs in the broker, on every turn of its loop.  Databases queue here to be
 * read: those that were marked (somebody changed a server, a mapping, a role),
 * and those of pools that lack connections.  One at a time gets a reader, a
 * worker that attaches to it for some milliseconds.  A reader hands what is to
 * be opened to the dialer, so databases whose pools lack connections wait until
 * that listens.
 *
 * Must never wait: not for a worker (they report by the latch), nor for a lock
 * of a catalog or a database.  That no worker is to be had is normal, and is
 * told to the pools as the reason why they lack connections.
 */
#include "postgres.h"

#include "upkeep.h"

#include <signal.h>

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "guc.h"
#include "pool.h"

/* all in milliseconds */
/* between two reads of the same database, and two looks for what is lacking */
#define PACE 200
/* between two reads of all databases for what somebody has changed */
#define ALL_PACE 2000
/* before something is tried again; doubled for workers that cannot start ... */
#define RETRY 1000
/* ... up to this */
#define MAX_RETRY 30000
/* a delay that grows with the failures of a reader is doubled so often at most */
#define MAX_DOUBLINGS 6
/* for a worker to start, a reader to read, a dialer to listen or to end */
#define LIMIT 10000
/* what lacks so soon after it was read for that was not dealt with ... */
#define SOON 500
/* ... and is not tried again at once after so many times */
#define MAX_FRUITLESS 3
/* looking whether the reader of a former broker has ended */
#define POLL 100
/* between two complaints in the log */
#define COMPLAINT_INTERVAL 60000

/* A database that is, or was once, to be read. */
typedef struct Database
{
	Oid oid;	 /* key of the hash table */
	bool exists; /* these two only while the list is read */
	bool has_pools;
	bool connectable; /* ALTER DATABASE ... ALLOW_CONNECTIONS */
	bool bare;		  /* when it was last read it had no extension of ours */
	bool marked;	  /* its definitions may have changed */
	bool lacking;	  /* pools of it lack connections: needs the dialer */
	uint64 turn;	  /* its place in the queue, lowest first; 0 = none */
	CpTime not_before;
	CpTime read_at; /* when it was last read for what was lacking; 0 = never */
	int failures;	/* reads in a row that were not done to the end */
	int fruitless;	/* reads in a row after which the same was lacking at once */
} Database;

/* A worker that this broker has started. */
typedef struct Worker
{
	BackgroundWorkerHandle *handle; /* NULL: there is none */
	CpTime since;					/* we wait for it; 0: it is at work */
	bool started;					/* it was seen to run */
	bool listened;					/* the dialer only */
	bool terminated;				/* it was told to end */
} Worker;

/* What is to be done, as found by survey(). */
typedef struct Survey
{
	bool anything;
	bool lacking;
	Database *first; /* may be read now */
	CpTime next;	 /* when the time of another one comes */
} Survey;

static MemoryContext context;
static HTAB *databases;
static uint64 last_turn = 0;
static bool queue_is_empty = true; /* false: perhaps not */

static bool list_wanted = false;
static bool bare_wanted = false; /* databases without the extension, too */
static CpTime list_at = 0;		 /* not before */
static CpTime list_read_at = 0;	 /* the last time */
static bool list_read_in_recovery = false;

static bool look_wanted = false;
static CpTime look_at = 0; /* not before */

static Worker reader;
static Oid reading = InvalidOid;
static bool reading_marked = false;
static bool reading_lacking = false;
static CpTime strange_reader_since = 0;
static Worker dialer;

static int launch_failures = 0; /* in a row */
static CpTime launch_at = 0;	/* not before */
static CpTime complain_at = 0;	/* not before */

/* ---- the queue ------------------------------------------------------------ */

static Database *
enter_database(Oid oid)
{
	bool found;
	Database *database = hash_search(databases, &oid, HASH_ENTER, &found);

	if (!found)
	{
		memset(database, 0, sizeof(*database));
		database->oid = oid;
		database->connectable = true;
	}
	return database;
}

/* Who is in the queue already keeps the place. */
static void
enqueue(Database *database)
{
	if (database->turn == 0)
		database->turn = ++last_turn;
	queue_is_empty = false;
}

static void
mark(Database *database)
{
	/* else the reader would fail; when connections are allowed again all is marked */
	database->marked = database->connectable;
	if (database->marked)
		enqueue(database);
}

/*
 * All databases are to be read that have the extension.  Where it was created just
 * now has a mark of its own, unless there were too many.
 */
static void
all_changed(bool too_many)
{
	if (!list_wanted)
		list_at = cp_deadline(list_read_at, ALL_PACE);
	list_wanted = true;
	bare_wanted |= too_many;
}

static void
take_marks(CpTime now)
{
	Oid marked[CP_MAX_MARKS];
	bool all = false;
	int n = cp_pool_take_marks(marked, &all);

	if (all)
		all_changed(n == CP_MAX_MARKS);
	for (int i = 0; i < n; i++)
		mark(enter_database(marked[i]));
}

/*
 * A pool that the reader has dealt with has either a reason to lack connections or
 * an order with the dialer.  If it has neither the reader has failed, and would
 * again.
 */
static bool
is_hopeless(Database *database, CpTime now)
{
	bool soon = now < cp_deadline(database->read_at, SOON);

	if (database->read_at == 0)
		return false;
	database->fruitless = soon ? database->fruitless + 1 : 0;
	database->read_at = 0;
	return database->fruitless >= MAX_FRUITLESS;
}

static void
enqueue_lacking(Database *database, CpTime now)
{
	/* it may just be about to be served; its end has us look again */
	if (database->lacking || database->oid == reading)
		return;
	if (!database->connectable)
		cp_pool_cannot_upkeep(database->oid, "the database does not accept connections");
	else if (is_hopeless(database, now))
		cp_pool_cannot_upkeep(database->oid,
							  "the definitions could not be read, see the server log");
	else
	{
		database->lacking = true;
		enqueue(database);
	}
}

static void
look_for_lacking(CpTime now)
{
	HASH_SEQ_STATUS all;
	Database *database;
	CpPoolKey key;
	int next = 0;

	look_wanted = false;
	look_at = cp_deadline(now, PACE);
	hash_seq_init(&all, databases);
	while ((database = hash_seq_search(&all)) != NULL)
		database->lacking = false;
	while (cp_pool_next_lacking(&next, now, &key))
		enqueue_lacking(enter_database(key.database), now);
}

static bool
dialer_listens(void)
{
	return pg_atomic_read_u32(&cp_shared->dialer_pid) != 0;
}

static Survey
survey(CpTime now)
{
	Survey result = {.next = CP_FOREVER};
	HASH_SEQ_STATUS all;
	Database *database;
	bool listens = dialer_listens();

	if (queue_is_empty)
		return result;
	hash_seq_init(&all, databases);
	while ((database = hash_seq_search(&all)) != NULL)
	{
		if (!database->marked && !database->lacking)
			continue;
		result.anything = true;
		result.lacking |= database->lacking;
		if (!database->marked && !listens)
			continue;
		if (database->not_before > now)
			result.next = cp_earlier(result.next, database->not_before);
		else if (result.first == NULL || database->turn < result.first->turn)
			result.first = database;
	}
	queue_is_empty = !result.anything;
	return result;
}

/* ---- catalogs that all databases share ------------------------------------ */

/*
 * Does that work in a transaction of its own; false if it fails, which goes to
 * the log: trouble with a catalog must not cost the pool.
 */
static bool
in_transaction(bool (*work)(Oid), Oid argument)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool ok = false;

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		ok = work(argument);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		RESUME_INTERRUPTS();
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return ok;
}

/*
 * Could a reader attach to the database?  While it is dropped, renamed or copied
 * the reader would wait for that lock, and all other databases for the reader.
 */
static bool
can_be_attached(Oid database)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	return LockAcquire(&tag, RowExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

static void
note_databases_of_pools(void)
{
	CpPoolInfo info;

	for (int i = 0; i < cp_shared->max_pools; i++)
	{
		if (cp_pool_read(i, &info) && OidIsValid(info.key.database) && !info.dropped)
			enter_database(info.key.database)->has_pools = true;
	}
}

/* A database whose DROP was interrupted has a limit that cannot be set. */
static bool
is_half_dropped(Form_pg_database form)
{
	return form->datconnlimit < -1;
}

static bool
scan_databases(Oid unused)
{
	Relation relation;
	TableScanDesc scan;
	HeapTuple tuple;

	if (!ConditionalLockRelationOid(DatabaseRelationId, AccessShareLock))
		return false;
	/* before there is a snapshot: what has a pool by now must be in it, or is gone */
	note_databases_of_pools();
	relation = table_open(DatabaseRelationId, NoLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		Database *database;

		if (is_half_dropped(form))
			continue;
		database = enter_database(form->oid);
		database->exists = true;
		database->connectable = form->datallowconn;
	}
	table_endscan(scan);
	table_close(relation, NoLock);
	return true;
}

/* All databases are to be read, and those that are gone forgotten. */
static void
read_list(CpTime now)
{
	HASH_SEQ_STATUS all;
	Database *database;
	bool in_recovery = RecoveryInProgress();

	hash_seq_init(&all, databases);
	while ((database = hash_seq_search(&all)) != NULL)
	{
		database->exists = false;
		database->has_pools = false;
	}
	if (!in_transaction(scan_databases, InvalidOid))
	{
		list_at = cp_deadline(now, RETRY);
		return;
	}
	list_wanted = false;
	list_read_at = now;
	list_read_in_recovery = in_recovery;
	hash_seq_init(&all, databases);
	while ((database = hash_seq_search(&all)) != NULL)
	{
		if (database->exists)
		{
			if (bare_wanted || !database->bare)
				mark(database);
			continue;
		}
		if (database->has_pools)
			cp_pool_drop_database(database->oid);
		hash_search(databases, &database->oid, HASH_REMOVE, NULL);
	}
	bare_wanted = false;
}

/*
 * Servers that are changed on the primary mark nothing here.  Returns when all
 * databases are to be read for that reason: after a promotion once more, for what
 * came just before it.
 */
static CpTime
refresh_time(void)
{
	if (!RecoveryInProgress())
		return list_read_in_recovery ? 0 : CP_FOREVER;
	return cp_deadline(list_read_at, (int64) cp_guc_refresh_interval * 1000);
}

/* ---- workers --------------------------------------------------------------- */

static void
complain(CpTime now, const char *reason, bool often)
{
	if (now < complain_at || (!often && launch_failures > 1))
		return;
	complain_at = cp_deadline(now, COMPLAINT_INTERVAL);
	ereport(LOG,
			(errmsg("no upkeep of connection pools: %s", reason),
			 errhint("Beside its broker conpool needs two background workers at a time. "
					 "Consider raising \"max_worker_processes\".")));
}

/*
 * Everybody who waits for a worker gets to know why none comes.  If nobody does,
 * the log has it only once.
 */
static void
launch_failed(CpTime now, const char *reason)
{
	HASH_SEQ_STATUS all;
	Database *database;
	bool anybody = false;

	launch_at = cp_deadline(now, Min(RETRY << Min(launch_failures, 5), MAX_RETRY));
	launch_failures++;
	hash_seq_init(&all, databases);
	while ((database = hash_seq_search(&all)) != NULL)
	{
		if (!database->lacking)
			continue;
		anybody = true;
		database->lacking = false;
		cp_pool_cannot_upkeep(database->oid, reason);
	}
	complain(now, reason, anybody);
}

static bool
launch(Worker *worker, const char *name, const char *function, int flags, Oid database,
	   CpTime now)
{
	BackgroundWorker entry = {0};

	entry.bgw_flags = BGWORKER_SHMEM_ACCESS | flags;
	entry.bgw_start_time = BgWorkerStart_ConsistentState;
	entry.bgw_restart_time = BGW_NEVER_RESTART;
	entry.bgw_main_arg = ObjectIdGetDatum(database);
	entry.bgw_notify_pid = MyProcPid;
	strlcpy(entry.bgw_name, name, BGW_MAXLEN);
	strlcpy(entry.bgw_type, name, BGW_MAXLEN);
	strlcpy(entry.bgw_library_name, "conpool", sizeof(entry.bgw_library_name));
	strlcpy(entry.bgw_function_name, function, sizeof(entry.bgw_function_name));

	*worker = (Worker){.since = now};
	if (RegisterDynamicBackgroundWorker(&entry, &worker->handle))
		return true;
	launch_failed(now, "could not start a background worker: no free slot "
					   "(max_worker_processes)");
	return false;
}

static bool
has_ended(Worker *worker)
{
	pid_t pid;

	switch (GetBackgroundWorkerPid(worker->handle, &pid))
	{
		case BGWH_NOT_YET_STARTED:
			return false;
		case BGWH_STARTED:
			launch_failures = 0;
			worker->started = true;
			return false;
		case BGWH_STOPPED:
		case BGWH_POSTMASTER_DIED:
			break;
	}
	pfree(worker->handle);
	worker->handle = NULL;
	return true;
}

/* Returns when it will have taken too long. */
static CpTime
limit_of(const Worker *worker)
{
	return worker->terminated ? CP_FOREVER : cp_deadline(worker->since, LIMIT);
}

static void
terminate(Worker *worker)
{
	TerminateBackgroundWorker(worker->handle);
	worker->terminated = true;
}

/* ---- the reader ------------------------------------------------------------ */

/*
 * The reader was ended before its work was done, or failed.  What fails once fails
 * more often, and each time the log hears of it: the delay grows.
 */
static void
read_later(Database *database, CpTime now)
{
	int delay = RETRY << Min(database->failures, MAX_DOUBLINGS);

	database->failures++;
	database->not_before = cp_deadline(now, delay);
	if (reading_marked)
		mark(database);
}

static void
reader_ended(CpTime now)
{
	Database *database = hash_search(databases, &reading, HASH_FIND, NULL);
	bool done = pg_atomic_read_u32(&cp_shared->last_read) == reading;

	if (database && done)
	{
		database->failures = 0;
		database->bare = pg_atomic_read_u32(&cp_shared->last_bare) == reading;
	}
	else if (database)
		read_later(database, now);
	if (database && reading_lacking)
		database->read_at = now;
	reading = InvalidOid;
	cp_upkeep_look();
}

static void
watch_reader(CpTime now)
{
	if (has_ended(&reader))
	{
		reader_ended(now);
		return;
	}
	if (now < limit_of(&reader))
		return;
	terminate(&reader);
	if (!reader.started)
		launch_failed(now, "a background worker did not start within 10 seconds");
	else
	{
		cp_pool_cannot_upkeep(reading, "definitions could not be read within 10 seconds");
		ereport(LOG,
				(errmsg("could not read the server definitions of database %u within 10 "
						"seconds",
						reading)));
	}
}

/*
 * A former broker's reader: there can be one at a time.  It does not report to
 * us, and gets the same limit.
 */
static bool
strange_reader_runs(CpTime now)
{
	int pid = (int) pg_atomic_read_u32(&cp_shared->reader_pid);

	if (pid == 0)
	{
		strange_reader_since = 0;
		return false;
	}
	if (strange_reader_since == 0)
		strange_reader_since = now;
	if (now >= cp_deadline(strange_reader_since, LIMIT))
	{
		strange_reader_since = now;
		if (BackendPidGetProc(pid) != NULL)
			kill(pid, SIGTERM);
	}
	return true;
}

/* The next in the queue to which a reader can attach. */
static Database *
next_to_read(CpTime now, CpTime *next)
{
	for (;;)
	{
		Survey found = survey(now);

		*next = found.next;
		if (found.first == NULL || in_transaction(can_be_attached, found.first->oid))
			return found.first;
		found.first->not_before = cp_deadline(now, RETRY);
	}
}

/* Has the next database read, if there is one; returns when to come back. */
static CpTime
read_next(CpTime now)
{
	Database *database;
	CpTime next;

	if (now < launch_at)
		return launch_at;
	if (strange_reader_runs(now))
		return cp_deadline(now, POLL);
	database = next_to_read(now, &next);
	if (database == NULL)
		return next;
	pg_atomic_write_u32(&cp_shared->last_read, InvalidOid);
	pg_atomic_write_u32(&cp_shared->last_bare, InvalidOid);
	if (!launch(&reader, "conpool reader", "cp_reader_main",
				BGWORKER_BACKEND_DATABASE_CONNECTION, database->oid, now))
		return launch_at;
	reading = database->oid;
	reading_marked = database->marked;
	reading_lacking = database->lacking && dialer_listens();
	database->marked = false;
	database->lacking = false;
	database->turn = 0;
	database->not_before = cp_deadline(now, PACE);
	return limit_of(&reader);
}

/* ---- the dialer ------------------------------------------------------------ */

/* One that was started, but does not listen: not yet, or no longer. */
static CpTime
watch_dialer(CpTime now)
{
	if (dialer.since == 0)
		dialer.since = now;
	if (has_ended(&dialer))
		return now;
	if (now >= limit_of(&dialer))
	{
		terminate(&dialer);
		launch_failed(now, "the dialer did not start within 10 seconds");
	}
	return limit_of(&dialer);
}

/* Sees to it that there is a dialer if one is wanted; returns when to come back. */
static CpTime
keep_dialer(bool wanted, CpTime now)
{
	/* a former broker's is as good as ours */
	if (dialer_listens())
	{
		dialer.since = 0;
		dialer.listened = true;
		return CP_FOREVER;
	}
	if (dialer.handle != NULL)
	{
		CpTime next = watch_dialer(now);

		if (dialer.handle != NULL)
			return next;
		if (!dialer.listened && !dialer.terminated)
			launch_failed(now, "the dialer ended before it listened");
	}
	if (!wanted || now < launch_at)
		return wanted ? launch_at : CP_FOREVER;
	if (!launch(&dialer, "conpool dialer", "cp_dialer_main", 0, InvalidOid, now))
		return launch_at;
	return limit_of(&dialer);
}

/* ---- the broker's view ------------------------------------------------------ */

void
cp_upkeep_begin(void)
{
	HASHCTL control = {.keysize = sizeof(Oid), .entrysize = sizeof(Database)};

	context = AllocSetContextCreate(TopMemoryContext, "conpool upkeep", ALLOCSET_SMALL_SIZES);
	control.hcxt = context;
	databases = hash_create("conpool upkeep", 16, &control,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	cp_upkeep_all();
}

void
cp_upkeep_all(void)
{
	list_wanted = true;
	bare_wanted = true;
}

void
cp_upkeep_look(void)
{
	look_wanted = true;
}

/* Brings the queue up to date; returns when to do so again. */
static CpTime
fill_queue(CpTime now)
{
	CpTime next;

	take_marks(now);
	if (now >= refresh_time())
		cp_upkeep_all();
	if (list_wanted && now >= list_at)
		read_list(now);
	next = list_wanted ? list_at : refresh_time();
	if (look_wanted && now >= look_at)
		look_for_lacking(now);
	if (look_wanted)
		next = cp_earlier(next, look_at);
	return next;
}

CpTime
cp_upkeep_turn(CpTime now)
{
	MemoryContext caller = MemoryContextSwitchTo(context);
	CpTime next;
	Survey found;

	if (reader.handle != NULL)
		watch_reader(now);
	next = fill_queue(now);
	found = survey(now);
	next = cp_earlier(next, keep_dialer(found.lacking, now));
	if (reader.handle != NULL)
		next = cp_earlier(next, limit_of(&reader));
	else if (found.anything)
		next = cp_earlier(next, read_next(now));
	MemoryContextSwitchTo(caller);
	return next;
}
