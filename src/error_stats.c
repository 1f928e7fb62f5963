/*
 * error_stats.c
 *		Which errors callers of a pool got, by SQLSTATE.
 *
 * Client backends, the reader and the dialer add to it, views read it; the
 * postmaster restores and saves it.  All of it is under one lock.  Never holds
 * a lock of a pool, and under its own one never allocates.
 */
#include "postgres.h"

#include "error_stats.h"

#include "common/hashfn.h"
#include "mb/pg_wchar.h"

#include "secret.h"

/* a role with so many errors in a full table replaces its own */
#define MAX_ERRORS_OF_ROLE (CP_MAX_ERRORS / 4)

typedef struct Table
{
	int count;
	/* of the entries' keys and SQLSTATEs: looking for one reads little memory */
	uint32 hashes[CP_MAX_ERRORS];
	CpErrorStat entries[CP_MAX_ERRORS]; /* those in use come first */
} Table;

static Table *table = NULL;

Size
cp_error_stats_size(void)
{
	return sizeof(Table);
}

void
cp_error_stats_attach(void *place, bool is_new)
{
	table = place;
	if (is_new)
		memset(table, 0, sizeof(*table));
}

static uint32
hash_of(const CpPoolKey *key, int sqlstate)
{
	return hash_combine(hash_bytes((const unsigned char *) key, sizeof(*key)),
						hash_bytes_uint32((uint32) sqlstate));
}

static int
find(const CpPoolKey *key, int sqlstate, uint32 hash)
{
	for (int i = 0; i < table->count; i++)
	{
		const CpErrorStat *entry = &table->entries[i];

		if (table->hashes[i] == hash && entry->sqlstate == sqlstate &&
			memcmp(&entry->key, key, sizeof(*key)) == 0)
			return i;
	}
	return CP_NONE;
}

/*
 * A place for one more, if need be that of the one seen last for the longest time.
 * A role with many of them gives up one of its own: whoever raises one code after
 * the other remotely shall not push out what others want to see.
 */
static int
vacate(Oid role)
{
	int oldest = 0;
	int oldest_own = CP_NONE;
	int own = 0;

	if (table->count < CP_MAX_ERRORS)
		return table->count++;
	for (int i = 0; i < CP_MAX_ERRORS; i++)
	{
		if (table->entries[i].last_seen < table->entries[oldest].last_seen)
			oldest = i;
		if (table->entries[i].role != role)
			continue;
		own++;
		if (oldest_own == CP_NONE ||
			table->entries[i].last_seen < table->entries[oldest_own].last_seen)
			oldest_own = i;
	}
	return own >= MAX_ERRORS_OF_ROLE ? oldest_own : oldest;
}

static CpErrorStat *
find_or_make(const CpPoolKey *key, int sqlstate, uint32 hash, Oid role, TimestampTz now)
{
	int i = find(key, sqlstate, hash);
	CpErrorStat *entry;

	if (i != CP_NONE)
		return &table->entries[i];
	i = vacate(role);
	table->hashes[i] = hash;
	entry = &table->entries[i];
	memset(entry, 0, sizeof(*entry));
	entry->key = *key;
	entry->sqlstate = sqlstate;
	entry->first_seen = now;
	return entry;
}

/* How much of a message is kept: no character is cut. */
static int
clipped_length(const char *message)
{
	int len = (int) strnlen(message, 2 * CP_MESSAGE_LEN);

	if (len < CP_MESSAGE_LEN)
		return len;
	len = pg_mbcliplen(message, len, CP_MESSAGE_LEN - 1);
	/* the dialer, without a database, knows no encoding */
	while (GetDatabaseEncoding() == PG_SQL_ASCII && len > 0 && (message[len] & 0xC0) == 0x80)
		len--;
	return len;
}

void
cp_error_stats_add(const CpPoolKey *key, const char *pool, int sqlstate, const char *message,
				   Oid role, Oid session_role, uint64 query_id)
{
	TimestampTz now;
	uint32 hash;
	int len;
	char clipped[CP_MESSAGE_LEN];
	CpErrorStat *entry;

	if (table == NULL)
		return;
	now = GetCurrentTimestamp();
	hash = hash_of(key, sqlstate);
	len = message ? clipped_length(message) : 0;
	if (len > 0)
		memcpy(clipped, message, len);
	clipped[len] = '\0';
	message = cp_secret_mask(clipped);
	len = (int) strlen(message);

	LWLockAcquire(cp_shmem_table_lock(CP_LOCK_ERRORS), LW_EXCLUSIVE);
	entry = find_or_make(key, sqlstate, hash, role, now);
	entry->count++;
	entry->last_seen = now;
	entry->role = role;
	entry->session_role = session_role;
	entry->query_id = query_id;
	strlcpy(entry->pool, pool, sizeof(entry->pool));
	memcpy(entry->message, message, len);
	entry->message[len] = '\0';
	LWLockRelease(cp_shmem_table_lock(CP_LOCK_ERRORS));
}

int
cp_error_stats_read(CpErrorStat **errors)
{
	int n;

	*errors = NULL;
	if (table == NULL)
		return 0;
	*errors = palloc(sizeof(table->entries));
	LWLockAcquire(cp_shmem_table_lock(CP_LOCK_ERRORS), LW_SHARED);
	n = table->count;
	memcpy(*errors, table->entries, n * sizeof(CpErrorStat));
	LWLockRelease(cp_shmem_table_lock(CP_LOCK_ERRORS));
	return n;
}

/* The last one takes the place of the one that goes. */
static void
drop(int i)
{
	int last = --table->count;

	if (i == last)
		return;
	table->hashes[i] = table->hashes[last];
	table->entries[i] = table->entries[last];
}

void
cp_error_stats_reset(const CpPoolKey *pool)
{
	if (table == NULL)
		return;
	LWLockAcquire(cp_shmem_table_lock(CP_LOCK_ERRORS), LW_EXCLUSIVE);
	for (int i = table->count - 1; i >= 0; i--)
	{
		if (pool == NULL || memcmp(&table->entries[i].key, pool, sizeof(*pool)) == 0)
			drop(i);
	}
	LWLockRelease(cp_shmem_table_lock(CP_LOCK_ERRORS));
}

void
cp_error_stats_restore(const CpErrorStat *error)
{
	CpErrorStat *entry;

	if (table == NULL)
		return;
	entry = find_or_make(&error->key, error->sqlstate,
						 hash_of(&error->key, error->sqlstate), error->role,
						 error->first_seen);
	*entry = *error;
	/* it comes from a file */
	entry->pool[CP_POOL_NAME_LEN - 1] = '\0';
	entry->message[CP_MESSAGE_LEN - 1] = '\0';
}
