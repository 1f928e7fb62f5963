/*
 * wiped.c
 *		Memory for passwords: overwritten when its context is reset or deleted.
 *
 * Runs in any process, called by whoever keeps a password in memory.  Must not
 * leave one behind on whatever path: the context's own callback overwrites it.
 */
#include "postgres.h"

#include "wiped.h"

#include "utils/memutils.h"

typedef struct Wiped
{
	MemoryContextCallback callback;
	size_t size;
	char bytes[FLEXIBLE_ARRAY_MEMBER];
} Wiped;

static void
wipe(void *arg)
{
	Wiped *wiped = arg;

	explicit_bzero(wiped->bytes, wiped->size);
}

char *
cp_wiped_alloc(MemoryContext context, size_t size)
{
	Wiped *wiped = MemoryContextAlloc(context, offsetof(Wiped, bytes) + size);

	wiped->size = size;
	wiped->callback.func = wipe;
	wiped->callback.arg = wiped;
	MemoryContextRegisterResetCallback(context, &wiped->callback);
	return wiped->bytes;
}

char *
cp_wiped_copy(MemoryContext context, const char *text)
{
	size_t size = strlen(text) + 1;

	return memcpy(cp_wiped_alloc(context, size), text, size);
}
