/*
 * history.c
 *		Keeps the rows of the pools' histories in shared memory.
 *
 * Laid out by shmem.c in the postmaster; the broker's historian writes, any
 * process reads.  Must never touch the memory of places that no pool has had:
 * it is most of what is asked for, and stays the system's until it is used.
 */
#include "postgres.h"

#include "history.h"

#include "storage/shmem.h"

#include "guc.h"

/* The ring of one place among the pools. */
typedef struct Head
{
	uint64 generation; /* of the pool whose rows they are, 0 = none */
	uint64 written;	   /* rows, ever */
} Head;

/* history lock: both */
static Head *heads = NULL;
static CpHistoryRow *rows = NULL;

/* as many as cp_shared->max_pools, which is not there yet when this is asked for */
static int
place_count(void)
{
	return cp_guc_max_pools + 1;
}

static Size
heads_size(void)
{
	return MAXALIGN(mul_size(place_count(), sizeof(Head)));
}

Size
cp_history_size(void)
{
	Size ring = mul_size(cp_guc_history_size, sizeof(CpHistoryRow));

	return add_size(heads_size(), mul_size(place_count(), ring));
}

void
cp_history_attach(void *place, bool is_new)
{
	heads = place;
	rows = (CpHistoryRow *) ((char *) place + heads_size());
	if (is_new)
		memset(heads, 0, heads_size());
}

/* The place in the rings of a pool's n-th row, from 0. */
static CpHistoryRow *
row_at(int pool, uint64 n)
{
	return &rows[(Size) pool * cp_guc_history_size + n % cp_guc_history_size];
}

static void
append(int pool, uint64 generation, const CpHistoryRow *row)
{
	Head *head = &heads[pool];

	if (cp_guc_history_size == 0)
		return;
	if (head->generation != generation)
		*head = (Head){.generation = generation};
	*row_at(pool, head->written) = *row;
	head->written++;
}

void
cp_history_write(int pool, uint64 generation, const CpHistoryRow *row)
{
	LWLockAcquire(cp_shmem_table_lock(CP_LOCK_HISTORY), LW_EXCLUSIVE);
	append(pool, generation, row);
	LWLockRelease(cp_shmem_table_lock(CP_LOCK_HISTORY));
}

void
cp_history_restore(int pool, uint64 generation, const CpHistoryRow *row)
{
	append(pool, generation, row);
}

/* How many rows of that pool there are; with the lock held. */
static int
count_rows(int pool, uint64 generation)
{
	const Head *head = &heads[pool];

	if (head->generation != generation)
		return 0;
	return (int) Min(head->written, (uint64) cp_guc_history_size);
}

int
cp_history_read(int pool, uint64 generation, CpHistoryRow **copies)
{
	LWLock *lock = cp_shmem_table_lock(CP_LOCK_HISTORY);
	int room;
	int n;

	/* memory is allocated without the lock, and there may be more rows then */
	LWLockAcquire(lock, LW_SHARED);
	room = count_rows(pool, generation);
	LWLockRelease(lock);
	*copies = palloc(Max(room, 1) * sizeof(CpHistoryRow));

	LWLockAcquire(lock, LW_SHARED);
	n = Min(room, count_rows(pool, generation));
	for (int i = 0; i < n; i++)
		(*copies)[i] = *row_at(pool, heads[pool].written - 1 - i);
	LWLockRelease(lock);
	return n;
}
