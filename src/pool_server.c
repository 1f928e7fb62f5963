/*
 * pool_server.c
 *		What the pools of one foreign server share: its places
 *		(max_server_size), and that it is paused.
 *
 * Runs in client backends and in the broker, called by the files of pool alone.
 * Which entries there are is the registry lock's business; the places have a
 * spinlock each, so that they can be taken while the lock of any one pool is
 * held.  Decides nothing: who gets a place next is reserved by the broker.
 */
#include "postgres.h"

#include "pool_internal.h"

/* ---- which servers there are --------------------------------------------- */

/* Nothing would be lost with it. */
static bool
is_disposable(CpSharedServer *server)
{
	bool empty;

	if (server->pools > 0 || server->paused != cp_shared->all_paused)
		return false;
	SpinLockAcquire(&server->mutex);
	empty = server->count == 0;
	SpinLockRelease(&server->mutex);
	return empty;
}

static int
find_place(void)
{
	for (int s = 0; s < cp_shared->max_servers; s++)
	{
		if (!cp_servers[s].in_use || is_disposable(&cp_servers[s]))
			return s;
	}
	return CP_NONE;
}

int
cp_server_find(Oid database, Oid server, bool create)
{
	int s;

	for (s = 0; s < cp_shared->max_servers; s++)
	{
		if (cp_servers[s].in_use && cp_servers[s].server == server &&
			cp_servers[s].database == database)
			return s;
	}
	s = create ? find_place() : CP_NONE;
	if (s != CP_NONE)
	{
		cp_servers[s].in_use = true;
		cp_servers[s].database = database;
		cp_servers[s].server = server;
		cp_servers[s].pools = 0;
		cp_servers[s].paused = cp_shared->all_paused;
		cp_servers[s].limit = 0;
		cp_servers[s].reserved_for = CP_NONE;
	}
	return s;
}

void
cp_server_ref(int s)
{
	if (s != CP_NONE)
		cp_servers[s].pools++;
}

void
cp_server_unref(int s)
{
	if (s != CP_NONE)
		cp_servers[s].pools--;
}

/* ---- places ---------------------------------------------------------------- */

bool
cp_server_take_place(int s, int p)
{
	CpSharedServer *server;
	int others;
	bool taken;

	if (s == CP_NONE)
		return true;
	server = &cp_servers[s];
	SpinLockAcquire(&server->mutex);
	others = server->reserved_for != CP_NONE && server->reserved_for != p ? 1 : 0;
	taken = server->limit == 0 || server->count + others < server->limit;
	if (taken)
	{
		server->count++;
		if (server->reserved_for == p)
			server->reserved_for = CP_NONE;
	}
	SpinLockRelease(&server->mutex);
	return taken;
}

void
cp_server_give_place(int s)
{
	if (s == CP_NONE)
		return;
	SpinLockAcquire(&cp_servers[s].mutex);
	cp_servers[s].count--;
	SpinLockRelease(&cp_servers[s].mutex);
}

void
cp_server_note_closing(int s, int change)
{
	if (s == CP_NONE)
		return;
	SpinLockAcquire(&cp_servers[s].mutex);
	cp_servers[s].closing += change;
	SpinLockRelease(&cp_servers[s].mutex);
}

void
cp_server_set_limit(int s, int limit)
{
	if (s == CP_NONE || ((volatile CpSharedServer *) &cp_servers[s])->limit == limit)
		return;
	SpinLockAcquire(&cp_servers[s].mutex);
	cp_servers[s].limit = limit;
	SpinLockRelease(&cp_servers[s].mutex);
}

void
cp_server_reserve(int s, int p)
{
	if (s == CP_NONE)
		return;
	SpinLockAcquire(&cp_servers[s].mutex);
	cp_servers[s].reserved_for = p;
	SpinLockRelease(&cp_servers[s].mutex);
}

void
cp_server_unreserve(int s, int p)
{
	if (s == CP_NONE)
		return;
	SpinLockAcquire(&cp_servers[s].mutex);
	if (cp_servers[s].reserved_for == p)
		cp_servers[s].reserved_for = CP_NONE;
	SpinLockRelease(&cp_servers[s].mutex);
}

/* For a pool without a reservation: is there no place? */
bool
cp_server_is_full(int s)
{
	bool full;

	if (s == CP_NONE)
		return false;
	SpinLockAcquire(&cp_servers[s].mutex);
	full = cp_servers[s].limit > 0 && cp_servers[s].count >= cp_servers[s].limit;
	SpinLockRelease(&cp_servers[s].mutex);
	return full;
}

bool
cp_server_is_oversized(int s)
{
	volatile CpSharedServer *server = &cp_servers[s];
	bool oversized;

	/* most have no limit: no need to lock */
	if (s == CP_NONE || server->limit == 0)
		return false;
	SpinLockAcquire(&server->mutex);
	oversized = server->limit > 0 && server->count - server->closing > server->limit;
	SpinLockRelease(&server->mutex);
	return oversized;
}

int
cp_server_count(int s)
{
	int count;

	if (s == CP_NONE)
		return -1;
	SpinLockAcquire(&cp_servers[s].mutex);
	count = cp_servers[s].count;
	SpinLockRelease(&cp_servers[s].mutex);
	return count;
}

/* ---- servers that are gone ---------------------------------------------------- */

bool
cp_server_next_unused(int *next, Oid database, Oid *server)
{
	bool found = false;

	LWLockAcquire(cp_shmem_registry_lock(), LW_SHARED);
	for (; *next < cp_shared->max_servers && !found; (*next)++)
	{
		CpSharedServer *entry = &cp_servers[*next];

		found = entry->in_use && entry->pools == 0 && entry->database == database;
		*server = entry->server;
	}
	LWLockRelease(cp_shmem_registry_lock());
	return found;
}

void
cp_server_forget_database(Oid database)
{
	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	for (int s = 0; s < cp_shared->max_servers; s++)
	{
		if (cp_servers[s].in_use && cp_servers[s].database == database)
			cp_servers[s].paused = cp_shared->all_paused;
	}
	LWLockRelease(cp_shmem_registry_lock());
}

void
cp_server_forget(Oid database, Oid server)
{
	int s;

	LWLockAcquire(cp_shmem_registry_lock(), LW_EXCLUSIVE);
	s = cp_server_find(database, server, false);
	if (s != CP_NONE && cp_servers[s].pools == 0)
		cp_servers[s].paused = cp_shared->all_paused;
	LWLockRelease(cp_shmem_registry_lock());
}
