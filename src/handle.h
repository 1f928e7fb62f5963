/*
 * handle.h
 *		What a number that this session was given stands for: a lease, a request or a
 *		cursor.
 *
 * Runs in client backends.  All draw their numbers from one counter, so that one of
 * the wrong kind can be refused by name.  Throws.
 */
#ifndef CP_HANDLE_H
#define CP_HANDLE_H

typedef enum CpHandle
{
	CP_HANDLE_NONE,
	CP_HANDLE_LEASE,
	CP_HANDLE_REQUEST,
	CP_HANDLE_CURSOR
} CpHandle;

/* Notes a number that is about to be given out; before anything else is done with it. */
extern void cp_handle_add(uint64 id, CpHandle kind);

/* It is over.  Does not throw; nothing if it was never added. */
extern void cp_handle_remove(uint64 id);

extern CpHandle cp_handle_kind(uint64 id);

/*
 * Throws 42809 if the number stands for something else than wanted, saying for what;
 * returns if it stands for nothing.
 */
extern void cp_handle_refuse_other(int64 id, CpHandle wanted);

#endif /* CP_HANDLE_H */
