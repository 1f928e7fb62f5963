/*
 * stats_file.c
 *		Statistics outlive a clean restart of the server, in a file.
 *
 * Runs in the postmaster (or a server in single-user mode) when no other process
 * of the server runs: shared memory has just been made, or is about to go.  Must
 * never throw, which would end the server, and never trust the file: it is read
 * twice, first to see that all of it is right, then to put it back.
 *
 * The file: a header; pools, each after a 1, with its history; a 0; statements,
 * errors, events and leaks, each kind after their number; a CRC of all that.
 * What belongs to the pool of a connection string is left out but for events and
 * leaks, which only tell: such pools are known by digests that every start of
 * the server makes differently.
 */
#include "postgres.h"

#include "stats_file.h"

#include <unistd.h>

#include "catalog/pg_control.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "error_stats.h"
#include "events.h"
#include "history.h"
#include "leak.h"
#include "pool.h"
#include "shmem.h"
#include "statement_stats.h"

#define STATS_FILE PGSTAT_STAT_PERMANENT_DIRECTORY "/conpool.stat"
#define TEMPORARY_FILE STATS_FILE ".tmp"
#define CONTROL_FILE "global/pg_control"

#define MAGIC "conpool"
/* to be changed with the meaning of anything in it that keeps its size */
#define FORMAT 1

/* the largest values of the settings that limit these (guc.c) */
#define MOST_POOLS 10000
#define MOST_ROWS 100000
#define MOST_STATEMENTS 100000
#define MOST_EVENTS 1000000

/* What is written by a server and a library that are not quite these is of no use. */
typedef struct Header
{
	char magic[8];
	uint32 format;
	uint32 server_version;
	uint32 pool_size;
	uint32 row_size;
	uint32 statement_size;
	uint32 error_size;
	uint32 event_size;
	uint32 leak_size;
} Header;

/* A file while it is written or read. */
typedef struct Stream
{
	FILE *file;
	pg_crc32c crc; /* of what has gone through so far */
	bool failed;   /* the system has, errno says why */
	bool wrong;	   /* reading: its contents */
	bool restores; /* reading: what was read is put back */
} Stream;

static const Header expected_header = {
	.magic = MAGIC,
	.format = FORMAT,
	.server_version = PG_MAJORVERSION_NUM,
	.pool_size = sizeof(CpPoolRecord),
	.row_size = sizeof(CpHistoryRow),
	.statement_size = sizeof(CpStatement),
	.error_size = sizeof(CpErrorStat),
	.event_size = sizeof(CpEvent),
	.leak_size = sizeof(CpLeakRecord),
};

/* Will the pool of that key be the same one after a restart? */
static bool
is_lasting(const CpPoolKey *key)
{
	return key->kind == CP_POOL_SERVER;
}

/* ---- writing ----------------------------------------------------------------- */

static void
put(Stream *out, const void *items, size_t size, size_t n)
{
	if (out->failed || n == 0)
		return;
	out->failed = fwrite(items, size, n, out->file) != n;
	COMP_CRC32C(out->crc, items, size * n);
}

static void
put_count(Stream *out, uint32 n)
{
	put(out, &n, sizeof(n), 1);
}

/* Turns an array round: readers give the newest first, restoring begins with the oldest. */
static void
put_reversed(Stream *out, const char *items, size_t size, int n)
{
	put_count(out, n);
	while (--n >= 0)
		put(out, items + n * size, size, 1);
}

static void
put_pools(Stream *out)
{
	CpPoolRecord record;

	memset(&record, 0, sizeof(record));
	for (int p = 0; p < cp_shared->max_pools; p++)
	{
		CpHistoryRow *rows;
		int n;

		if (!cp_pool_save(p, &record) || !is_lasting(&record.key))
			continue;
		put_count(out, 1);
		put(out, &record, sizeof(record), 1);
		n = cp_history_read(p, cp_pools[p].generation, &rows);
		put_reversed(out, (char *) rows, sizeof(*rows), n);
		pfree(rows);
	}
	put_count(out, 0);
}

static void
put_statements(Stream *out)
{
	CpStatement *statements;
	int n = cp_statement_stats_read(&statements);
	int lasting = 0;

	for (int i = 0; i < n; i++)
	{
		if (is_lasting(&statements[i].key.pool))
			statements[lasting++] = statements[i];
	}
	put_count(out, lasting);
	put(out, statements, sizeof(CpStatement), lasting);
}

static void
put_errors(Stream *out)
{
	CpErrorStat *errors;
	int n = cp_error_stats_read(&errors);
	int lasting = 0;

	for (int i = 0; i < n; i++)
	{
		if (is_lasting(&errors[i].key))
			errors[lasting++] = errors[i];
	}
	put_count(out, lasting);
	put(out, errors, sizeof(CpErrorStat), lasting);
}

static void
put_events(Stream *out)
{
	CpEvent *events;
	int n = cp_events_read(&events);

	put_reversed(out, (char *) events, sizeof(CpEvent), n);
}

static void
put_leaks(Stream *out)
{
	CpLeakRecord *leaks;
	int n = cp_leak_recent(&leaks);

	put_reversed(out, (char *) leaks, sizeof(CpLeakRecord), n);
}

static void
put_all(Stream *out)
{
	INIT_CRC32C(out->crc);
	put(out, &expected_header, sizeof(expected_header), 1);
	put_pools(out);
	put_statements(out);
	put_errors(out);
	put_events(out);
	put_leaks(out);
	FIN_CRC32C(out->crc);
	put_count(out, out->crc);
}

/* False: errno says why. */
static bool
write_temporary_file(void)
{
	Stream out = {.file = AllocateFile(TEMPORARY_FILE, PG_BINARY_W)};
	int failure;

	if (out.file == NULL)
		return false;
	put_all(&out);
	failure = out.failed ? errno : 0;
	if (FreeFile(out.file) != 0 && failure == 0)
		failure = errno;
	errno = failure;
	return failure == 0;
}

static void
write_file(void)
{
	if (write_temporary_file())
	{
		if (durable_rename(TEMPORARY_FILE, STATS_FILE, LOG) == 0)
			return;
	}
	else
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", TEMPORARY_FILE)));
	(void) unlink(TEMPORARY_FILE);
}

/*
 * An immediate shutdown ends with code 0, too.  But it has killed processes, and
 * what they held locks of is neither to be trusted nor to be waited for.  The
 * control file tells the difference.
 */
static bool
was_shut_down(void)
{
	ControlFileData control;
	FILE *file = AllocateFile(CONTROL_FILE, PG_BINARY_R);
	bool is_read;

	if (file == NULL)
		return false;
	is_read = fread(&control, sizeof(control), 1, file) == 1;
	FreeFile(file);
	return is_read && control.pg_control_version == PG_CONTROL_VERSION &&
		(control.state == DB_SHUTDOWNED || control.state == DB_SHUTDOWNED_IN_RECOVERY);
}

/* on_shmem_exit callback */
static void
save(int code, Datum arg)
{
	MemoryContext context;
	MemoryContext caller;

	if (code != 0 || !was_shut_down())
		return;
	context = AllocSetContextCreate(TopMemoryContext, "conpool statistics file",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	write_file();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/* ---- reading ----------------------------------------------------------------- */

static bool
is_fine(const Stream *in)
{
	return !in->failed && !in->wrong;
}

/* The CRC is of what has been read, so a short item need not be looked at. */
static bool
get(Stream *in, void *item, size_t size)
{
	if (!is_fine(in))
		return false;
	if (fread(item, size, 1, in->file) != 1)
	{
		in->failed = ferror(in->file) != 0;
		in->wrong = !in->failed;
		return false;
	}
	COMP_CRC32C(in->crc, item, size);
	return true;
}

/* 0 if it is more than there can be. */
static uint32
get_count(Stream *in, uint32 most)
{
	uint32 n;

	if (!get(in, &n, sizeof(n)))
		return 0;
	in->wrong = n > most;
	return in->wrong ? 0 : n;
}

/* True if the item, of which this was found, is to be put back. */
static bool
accept_if(Stream *in, bool is_right)
{
	if (!is_right)
		in->wrong = true;
	return is_right && in->restores;
}

static bool
is_key(const CpPoolKey *key)
{
	return key->kind <= CP_POOL_OVERFLOW && key->trust <= CP_TRUST_ANY;
}

/* Are the options such as the settings could be? */
static bool
are_options(CpPoolOptions *options)
{
	for (const CpOption *option = cp_options; option->name; option++)
	{
		int value = *cp_option_field(option, options);
		const struct config_enum_entry *choice = option->choices;

		if (option->type != CP_OPTION_CHOICE)
		{
			if (value < option->min || value > option->max)
				return false;
			continue;
		}
		while (choice->name && choice->val != value)
			choice++;
		if (choice->name == NULL)
			return false;
	}
	return true;
}

static void
get_history(Stream *in, int pool, uint64 generation)
{
	uint32 n = get_count(in, MOST_ROWS);
	CpHistoryRow row;

	for (uint32 i = 0; i < n && get(in, &row, sizeof(row)); i++)
	{
		if (accept_if(in, IS_VALID_TIMESTAMP(row.until)) && pool != CP_NONE)
			cp_history_restore(pool, generation, &row);
	}
}

static void
get_pools(Stream *in)
{
	CpPoolRecord record;

	for (int n = 0; get_count(in, n < MOST_POOLS ? 1 : 0) == 1; n++)
	{
		int pool = CP_NONE;
		uint64 generation = 0;
		bool is_right;

		if (!get(in, &record, sizeof(record)))
			return;
		record.name[sizeof(record.name) - 1] = '\0';
		is_right = is_key(&record.key) && is_lasting(&record.key) &&
			are_options(&record.options) &&
			IS_VALID_TIMESTAMP(record.stats.counters.stats_reset);
		if (accept_if(in, is_right))
			pool = cp_pool_restore(&record, &generation);
		/* there may be fewer places than there were */
		get_history(in, pool, generation);
	}
}

static void
get_statements(Stream *in)
{
	uint32 n = get_count(in, MOST_STATEMENTS);
	CpStatement statement;
	bool is_right;

	for (uint32 i = 0; i < n && get(in, &statement, sizeof(statement)); i++)
	{
		statement.pool[sizeof(statement.pool) - 1] = '\0';
		statement.sql[sizeof(statement.sql) - 1] = '\0';
		is_right = is_key(&statement.key.pool) && is_lasting(&statement.key.pool) &&
			IS_VALID_TIMESTAMP(statement.since);
		if (accept_if(in, is_right))
			cp_statement_stats_restore(&statement);
	}
}

static void
get_errors(Stream *in)
{
	uint32 n = get_count(in, CP_MAX_ERRORS);
	CpErrorStat error;
	bool is_right;

	for (uint32 i = 0; i < n && get(in, &error, sizeof(error)); i++)
	{
		error.pool[sizeof(error.pool) - 1] = '\0';
		error.message[sizeof(error.message) - 1] = '\0';
		is_right = is_key(&error.key) && is_lasting(&error.key) &&
			IS_VALID_TIMESTAMP(error.first_seen) && IS_VALID_TIMESTAMP(error.last_seen);
		if (accept_if(in, is_right))
			cp_error_stats_restore(&error);
	}
}

static void
get_events(Stream *in)
{
	uint32 n = get_count(in, MOST_EVENTS);
	CpEvent event;
	bool is_right;

	for (uint32 i = 0; i < n && get(in, &event, sizeof(event)); i++)
	{
		event.pool[sizeof(event.pool) - 1] = '\0';
		event.detail[sizeof(event.detail) - 1] = '\0';
		is_right = is_key(&event.key) && (uint32) event.kind <= CP_EVENT_BROKER_ENDED &&
			event.slot >= CP_NONE && IS_VALID_TIMESTAMP(event.at);
		if (accept_if(in, is_right))
			cp_event_restore(&event);
	}
}

static void
get_leaks(Stream *in)
{
	uint32 n = get_count(in, CP_LEAK_RING);
	CpLeakRecord leak;
	bool is_right;

	for (uint32 i = 0; i < n && get(in, &leak, sizeof(leak)); i++)
	{
		leak.pool[sizeof(leak.pool) - 1] = '\0';
		leak.application[sizeof(leak.application) - 1] = '\0';
		leak.client[sizeof(leak.client) - 1] = '\0';
		leak.sql[sizeof(leak.sql) - 1] = '\0';
		leak.stack[sizeof(leak.stack) - 1] = '\0';
		is_right = is_key(&leak.key) && (uint32) leak.class < CP_LEAK_CLASSES &&
			(uint32) leak.end <= CP_LEAK_LOST && leak.slot >= CP_NONE &&
			IS_VALID_TIMESTAMP(leak.since) && IS_VALID_TIMESTAMP(leak.ended_at);
		if (accept_if(in, is_right))
			cp_leak_restore(&leak);
	}
}

static void
get_header(Stream *in)
{
	Header header;

	if (get(in, &header, sizeof(header)))
		in->wrong = memcmp(&header, &expected_header, sizeof(header)) != 0;
}

/* Reads all of the file; true if there is nothing wrong with it. */
static bool
get_all(Stream *in, bool restores)
{
	pg_crc32c crc;
	pg_crc32c written;

	rewind(in->file);
	in->restores = restores;
	INIT_CRC32C(in->crc);
	get_header(in);
	get_pools(in);
	get_statements(in);
	get_errors(in);
	get_events(in);
	get_leaks(in);
	crc = in->crc;
	FIN_CRC32C(crc);
	if (get(in, &written, sizeof(written)))
		in->wrong = !EQ_CRC32C(crc, written) || fgetc(in->file) != EOF;
	return is_fine(in);
}

static void
read_file(void)
{
	Stream in = {.file = AllocateFile(STATS_FILE, PG_BINARY_R)};

	if (in.file == NULL && errno == ENOENT)
		return;
	in.failed = in.file == NULL;
	if (in.file != NULL && get_all(&in, false))
		(void) get_all(&in, true);
	if (in.failed)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", STATS_FILE)));
	else if (in.wrong)
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("ignoring file \"%s\": it is damaged, or of another version",
						STATS_FILE)));
	if (in.file != NULL)
		FreeFile(in.file);
	if (in.failed || in.wrong)
		cp_stats_file_forget();
}

void
cp_stats_file_forget(void)
{
	if (access(STATS_FILE, F_OK) == 0)
		(void) durable_unlink(STATS_FILE, LOG);
}

void
cp_stats_file_begin(void)
{
	/* pg_upgrade runs no statements of users, and the next start wants the file */
	if (IsUnderPostmaster || IsBinaryUpgrade)
		return;
	/* after a crash as well: all callbacks are forgotten then */
	on_shmem_exit(save, 0);
	read_file();
}
