/*
 * handle.c
 *		What a number that this session was given stands for: a lease, a request or a
 *		cursor.
 *
 * Runs in client backends, called by whoever gives numbers out and takes them back.
 * Knows nothing of the things themselves, and never touches a connection.
 */
#include "postgres.h"

#include "handle.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

typedef struct Entry
{
	uint64 id; /* the key, first */
	CpHandle kind;
} Entry;

/* how many there are room for at first */
#define FEW 16

static const char *const nouns[] = {
	[CP_HANDLE_NONE] = "nothing",
	[CP_HANDLE_LEASE] = "lease",
	[CP_HANDLE_REQUEST] = "request",
	[CP_HANDLE_CURSOR] = "cursor",
};

static HTAB *handles = NULL;

void
cp_handle_add(uint64 id, CpHandle kind)
{
	Entry *entry;

	if (handles == NULL)
	{
		HASHCTL control = {
			.keysize = sizeof(uint64),
			.entrysize = sizeof(Entry),
			.hcxt = TopMemoryContext,
		};

		handles = hash_create("conpool handles", FEW, &control,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(handles, &id, HASH_ENTER, NULL);
	entry->kind = kind;
}

void
cp_handle_remove(uint64 id)
{
	if (handles != NULL)
		hash_search(handles, &id, HASH_REMOVE, NULL);
}

CpHandle
cp_handle_kind(uint64 id)
{
	const Entry *entry = NULL;

	if (handles != NULL)
		entry = hash_search(handles, &id, HASH_FIND, NULL);
	return entry != NULL ? entry->kind : CP_HANDLE_NONE;
}

/* What is done with it. */
static int
hint_of(CpHandle kind)
{
	switch (kind)
	{
		case CP_HANDLE_REQUEST:
			return errhint("A request is for conpool.is_ready(), conpool.wait_any(), "
						   "conpool.result() and conpool.cancel().");
		case CP_HANDLE_CURSOR:
			return errhint("A cursor is for conpool.cursor_fetch() and "
						   "conpool.cursor_close().");
		default:
			return errhint("A lease is for conpool.query() and its like, and "
						   "conpool.checkin().");
	}
}

void
cp_handle_refuse_other(int64 id, CpHandle wanted)
{
	CpHandle kind = cp_handle_kind((uint64) id);

	if (kind == CP_HANDLE_NONE || kind == wanted)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg(INT64_FORMAT " is a %s, not a %s", id, nouns[kind], nouns[wanted]),
			 hint_of(kind)));
}
