/*
 * pairs.c
 *		Keywords and values for libpq as the text in which they travel between
 *		processes.
 *
 * Runs in any process, called by handover.c and tunnel_order.c.  Must not leave a
 * copy of a value anywhere but where its caller wants it.
 */
#include "postgres.h"

#include "pairs.h"

size_t
cp_pairs_size(const char *const *keywords, const char *const *values, uint32 *count)
{
	size_t size = 0;

	for (*count = 0; keywords[*count] != NULL; (*count)++)
		size += strlen(keywords[*count]) + 1 + strlen(values[*count]) + 1;
	return size;
}

char *
cp_pairs_write(char *to, const char *const *keywords, const char *const *values)
{
	for (int i = 0; keywords[i] != NULL; i++)
	{
		to = stpcpy(to, keywords[i]) + 1;
		to = stpcpy(to, values[i]) + 1;
	}
	return to;
}

/* A keyword is no empty string, a value may be one. */
#define SHORTEST_PAIR 3

bool
cp_pairs_read(const char *text, size_t size, uint32 count,
			  const char *const **keywords, const char *const **values)
{
	const char *end = text + size;
	const char **k;
	const char **v;

	if (size > CP_PAIRS_MAX || count > size / SHORTEST_PAIR)
		return false;
	k = palloc0((count + 1) * sizeof(char *));
	v = palloc0((count + 1) * sizeof(char *));
	for (uint32 i = 0; i < 2 * count; i++)
	{
		const char *terminator = memchr(text, '\0', end - text);

		if (terminator == NULL)
			return false;
		if (i % 2 == 0)
			k[i / 2] = text;
		else
			v[i / 2] = text;
		text = terminator + 1;
	}
	*keywords = k;
	*values = v;
	return text == end;
}
