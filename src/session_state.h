/*
 * session_state.h
 *		Can a statement have left something behind in its session?
 *
 * Runs in client backends, called by query.c.  Does not throw.
 */
#ifndef CP_SESSION_STATE_H
#define CP_SESSION_STATE_H

/*
 * True if a statement that ended well, alone in its text, cannot have changed
 * the session as far as its text and tag tell.  had_columns: it returned a
 * result set, if an empty one.  Parameters that the server reports when they
 * change are for the caller to compare.
 */
extern bool cp_session_state_is_clean(const char *tag, bool had_columns, const char *sql);

#endif /* CP_SESSION_STATE_H */
