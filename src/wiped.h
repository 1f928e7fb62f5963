/*
 * wiped.h
 *		Memory for passwords: overwritten when its context is reset or deleted.
 *
 * Runs in any process.
 */
#ifndef CP_WIPED_H
#define CP_WIPED_H

/* That many bytes, palloc'd in `context`; throws when memory is used up. */
extern char *cp_wiped_alloc(MemoryContext context, size_t size);

/* A copy of a text in such memory. */
extern char *cp_wiped_copy(MemoryContext context, const char *text);

#endif /* CP_WIPED_H */
