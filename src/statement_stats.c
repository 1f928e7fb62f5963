/*
 * statement_stats.c
 *		What the local statements cost that use pools, by their query ID.
 *
 * Client backends add to it, views read it; the postmaster restores and saves
 * it.  Never holds a lock of a pool, and under its own one never allocates.
 *
 * Entries are found through a hash table of chains.  The table's lock, shared,
 * keeps an entry where and what it is; exclusive, it lets entries come and go.
 * What is added up in an entry, under the shared lock, is under its spinlock.
 */
#include "postgres.h"

#include "statement_stats.h"

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"

#include "guc.h"

/* when the table is full: what is left of each usage, ... */
#define USAGE_LEFT 0.99
/* ... and the part of the entries, those used least, that go */
#define EVICTED_PERCENT 5

typedef struct Entry
{
	/* table's lock */
	bool in_use;
	uint32 hash; /* of its key */
	int next;	 /* in its chain, or on the free list */

	/* own spinlock */
	slock_t mutex;
	double usage; /* calls, the older the less they count */

	/* own spinlock: counters and the pool's name; table's lock: the rest */
	CpStatement statement;
} Entry;

typedef struct Table
{
	/* fixed after start */
	int max;
	uint32 hash_mask;

	/* table's lock */
	int count;
	int free_head;
	int64 evictions;
} Table;

/* all in one place: the table, its entries, heads of chains, room for sorting */
static Table *table = NULL;
static Entry *entries;
static int *chains;
static int *order;

static int
chain_count(void)
{
	return pg_nextpower2_32(Max(cp_guc_max_statements, 1));
}

Size
cp_statement_stats_size(void)
{
	Size size = MAXALIGN(sizeof(Table));

	size = add_size(size, mul_size(cp_guc_max_statements, sizeof(Entry)));
	size = add_size(size, mul_size(chain_count(), sizeof(int)));
	return add_size(size, mul_size(cp_guc_max_statements, sizeof(int)));
}

/* Forgets everything; the table's lock is held, or nobody else is at work. */
static void
clear(void)
{
	for (uint32 i = 0; i <= table->hash_mask; i++)
		chains[i] = CP_NONE;
	for (int i = 0; i < table->max; i++)
	{
		entries[i].in_use = false;
		entries[i].next = i + 1 < table->max ? i + 1 : CP_NONE;
	}
	table->free_head = table->max > 0 ? 0 : CP_NONE;
	table->count = 0;
	table->evictions = 0;
}

void
cp_statement_stats_attach(void *place, bool is_new)
{
	table = place;
	entries = (Entry *) ((char *) place + MAXALIGN(sizeof(Table)));
	chains = (int *) (entries + cp_guc_max_statements);
	order = chains + chain_count();
	if (!is_new)
		return;
	memset(place, 0, cp_statement_stats_size());
	table->max = cp_guc_max_statements;
	table->hash_mask = chain_count() - 1;
	for (int i = 0; i < table->max; i++)
		SpinLockInit(&entries[i].mutex);
	clear();
}

static bool
is_active(void)
{
	return table != NULL && table->max > 0;
}

/* ---- entries ------------------------------------------------------------- */

static uint32
hash_of(const CpStatementKey *key)
{
	return hash_bytes((const unsigned char *) key, sizeof(*key));
}

static Entry *
find(const CpStatementKey *key, uint32 hash)
{
	for (int i = chains[hash & table->hash_mask]; i != CP_NONE; i = entries[i].next)
	{
		if (entries[i].hash == hash &&
			memcmp(&entries[i].statement.key, key, sizeof(*key)) == 0)
			return &entries[i];
	}
	return NULL;
}

static void
drop(int i)
{
	int *link = &chains[entries[i].hash & table->hash_mask];

	while (*link != i)
		link = &entries[*link].next;
	*link = entries[i].next;
	entries[i].in_use = false;
	entries[i].next = table->free_head;
	table->free_head = i;
	table->count--;
}

static int
compare_usage(const void *a, const void *b)
{
	double left = entries[*(const int *) a].usage;
	double right = entries[*(const int *) b].usage;

	return left < right ? -1 : left > right;
}

/*
 * Gives up those that are used least; all age, so that what was busy once does
 * not stay for ever.  Only when the table is full, and under its lock.
 */
static void
evict(void)
{
	int victims = Max(table->max * EVICTED_PERCENT / 100, 1);

	Assert(table->count == table->max && table->free_head == CP_NONE);
	for (int i = 0; i < table->max; i++)
	{
		entries[i].usage *= USAGE_LEFT;
		order[i] = i;
	}
	qsort(order, table->max, sizeof(int), compare_usage);
	for (int i = 0; i < victims; i++)
		drop(order[i]);
	table->evictions++;
}

/* A new entry, of which but the key nothing is set. */
static Entry *
make(const CpStatementKey *key, uint32 hash)
{
	Entry *entry;
	int i;

	if (table->free_head == CP_NONE)
		evict();
	i = table->free_head;
	entry = &entries[i];
	Assert(!entry->in_use);
	table->free_head = entry->next;
	table->count++;
	entry->in_use = true;
	entry->hash = hash;
	entry->next = chains[hash & table->hash_mask];
	chains[hash & table->hash_mask] = i;
	memset(&entry->statement, 0, sizeof(entry->statement));
	entry->statement.key = *key;
	return entry;
}

/* ---- adding -------------------------------------------------------------- */

/* The name is that of the latest call: servers can be renamed. */
static void
bump(Entry *entry, const char *pool, const CpStatementCounters *counters)
{
	CpStatement *statement = &entry->statement;
	CpStatementCounters *sum = &statement->counters;

	SpinLockAcquire(&entry->mutex);
	entry->usage += Max(counters->calls, 1);
	sum->calls += counters->calls;
	sum->rows += counters->rows;
	sum->errors += counters->errors;
	sum->wait_time += counters->wait_time;
	sum->remote_time += counters->remote_time;
	sum->max_remote_time = Max(sum->max_remote_time, counters->max_remote_time);
	if (strcmp(statement->pool, pool) != 0)
		strlcpy(statement->pool, pool, sizeof(statement->pool));
	SpinLockRelease(&entry->mutex);
}

static int
clipped_length(const char *sql)
{
	int len = (int) strlen(sql);

	return len < CP_STATEMENT_SQL_LEN ? len : pg_mbcliplen(sql, len, CP_STATEMENT_SQL_LEN - 1);
}

/* Takes the lock, exclusive; somebody may have made the entry meanwhile. */
static Entry *
lock_and_make(const CpStatementKey *key, uint32 hash, const char *sql, Oid session_role)
{
	int len = sql ? clipped_length(sql) : 0;
	TimestampTz now = GetCurrentTimestamp();
	Entry *entry;

	LWLockAcquire(cp_shmem_table_lock(CP_LOCK_STATEMENTS), LW_EXCLUSIVE);
	entry = find(key, hash);
	if (entry != NULL)
		return entry;
	entry = make(key, hash);
	entry->usage = 0;
	entry->statement.since = now;
	entry->statement.session_role = session_role;
	if (len > 0)
		memcpy(entry->statement.sql, sql, len);
	return entry;
}

bool
cp_statement_stats_bump(const CpStatementKey *key, const char *pool,
						const CpStatementCounters *counters)
{
	LWLock *lock;
	Entry *entry;

	if (!is_active() || !cp_guc_track)
		return true;
	lock = cp_shmem_table_lock(CP_LOCK_STATEMENTS);
	LWLockAcquire(lock, LW_SHARED);
	entry = find(key, hash_of(key));
	if (entry != NULL)
		bump(entry, pool, counters);
	LWLockRelease(lock);
	return entry != NULL;
}

void
cp_statement_stats_add(const CpStatementKey *key, const char *pool, const char *sql,
					   Oid session_role, const CpStatementCounters *counters)
{
	if (!is_active() || !cp_guc_track)
		return;
	bump(lock_and_make(key, hash_of(key), sql, session_role), pool, counters);
	LWLockRelease(cp_shmem_table_lock(CP_LOCK_STATEMENTS));
}

/* ---- reading and forgetting ---------------------------------------------- */

int
cp_statement_stats_read(CpStatement **statements)
{
	LWLock *lock;
	int max;
	int n = 0;

	*statements = NULL;
	if (!is_active())
		return 0;
	lock = cp_shmem_table_lock(CP_LOCK_STATEMENTS);
	LWLockAcquire(lock, LW_SHARED);
	max = table->count;
	LWLockRelease(lock);

	/* what comes after that is left for the next time */
	*statements = palloc(Max(max, 1) * sizeof(CpStatement));
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < table->max && n < max; i++)
	{
		if (!entries[i].in_use)
			continue;
		SpinLockAcquire(&entries[i].mutex);
		(*statements)[n++] = entries[i].statement;
		SpinLockRelease(&entries[i].mutex);
	}
	LWLockRelease(lock);
	return n;
}

int64
cp_statement_stats_evictions(void)
{
	LWLock *lock;
	int64 evictions;

	if (!is_active())
		return 0;
	lock = cp_shmem_table_lock(CP_LOCK_STATEMENTS);
	LWLockAcquire(lock, LW_SHARED);
	evictions = table->evictions;
	LWLockRelease(lock);
	return evictions;
}

void
cp_statement_stats_reset(const CpPoolKey *pool)
{
	LWLock *lock;

	if (!is_active())
		return;
	lock = cp_shmem_table_lock(CP_LOCK_STATEMENTS);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (pool == NULL)
		clear();
	for (int i = 0; pool != NULL && i < table->max; i++)
	{
		if (entries[i].in_use &&
			memcmp(&entries[i].statement.key.pool, pool, sizeof(*pool)) == 0)
			drop(i);
	}
	LWLockRelease(lock);
}

/* How long ago the calls were is not known any more: they count in full. */
void
cp_statement_stats_restore(const CpStatement *statement)
{
	uint32 hash;
	Entry *entry;

	if (!is_active())
		return;
	hash = hash_of(&statement->key);
	entry = find(&statement->key, hash);
	if (entry == NULL)
		entry = make(&statement->key, hash);
	entry->usage = Max(statement->counters.calls, 1);
	entry->statement = *statement;
	/* it comes from a file */
	entry->statement.pool[CP_POOL_NAME_LEN - 1] = '\0';
	entry->statement.sql[CP_STATEMENT_SQL_LEN - 1] = '\0';
}
