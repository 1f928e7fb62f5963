/*
 * secret.h
 *		Hides texts that may hold a password.
 *
 * Runs in any process.  Whatever comes from a remote, or from a user, passes
 * here before it gets into a log, a view or shared memory.  Never throws, never
 * allocates.
 */
#ifndef CP_SECRET_H
#define CP_SECRET_H

/*
 * A text as views and the log may show it: itself, or, if it may hold a
 * password, a constant one.
 */
extern const char *cp_secret_mask(const char *text);

/*
 * The same for SQL, or a call stack (or NULL), of which the first `len` bytes are
 * shown: there the word alone will do, since it may be an option or a connection
 * string.
 */
extern const char *cp_secret_mask_sql(const char *text, int len);

#endif /* CP_SECRET_H */
