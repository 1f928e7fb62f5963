/*
 * pairs.h
 *		Keywords and values for libpq, passwords among them, as the text in which
 *		they travel between processes.
 *
 * Runs in any process.  A pair after the other, keyword and value each with its
 * terminator.  Throws only when memory is used up.
 */
#ifndef CP_PAIRS_H
#define CP_PAIRS_H

/* bytes that travel at most */
#define CP_PAIRS_MAX (1024 * 1024)

/* What they come to: *count pairs.  More than CP_PAIRS_MAX bytes: too long to travel. */
extern size_t cp_pairs_size(const char *const *keywords, const char *const *values,
							uint32 *count);

/* Writes them, of a size that fits; returns where they end. */
extern char *cp_pairs_write(char *to, const char *const *keywords, const char *const *values);

/*
 * Makes arrays (palloc'd, NULL-terminated) of a text's keywords and values, which
 * stay where they are.  False unless it is just as many as `count`, every one of
 * them terminated.
 */
extern bool cp_pairs_read(const char *text, size_t size, uint32 count,
						  const char *const **keywords, const char *const **values);

#endif /* CP_PAIRS_H */
