/*
 * message.h
 *		Errors and notices of a remote server, as local ones.
 *
 * Runs in client backends, called by query.c.
 */
#ifndef CP_MESSAGE_H
#define CP_MESSAGE_H

#include "libpq-fe.h"

#include "compat.h"
#include "pool.h"
#include "remote.h"

/* Notices of a running statement that have not been reported yet. */
typedef struct CpNotice CpNotice;

typedef struct CpNotices
{
	CpNotice *first;
	CpNotice *last;
	size_t bytes;  /* malloc'd */
	int64 dropped; /* for lack of memory, or beyond the limit */
} CpNotices;

/*
 * Has the notices of conn collected in `notices`, which must live until
 * cp_remote_ignore_notices: libpq's callback must neither throw nor use
 * palloc, so they are reported later.
 */
extern void cp_message_collect_notices(PGconn *conn, CpNotices *notices);

/* Reports what was collected, and forgets it. */
extern void cp_message_report_notices(CpNotices *notices);

/* Forgets it without a report.  Does not throw. */
extern void cp_message_free_notices(CpNotices *notices);

/*
 * Did the server raise this error?  One without a proper SQLSTATE is libpq's
 * own, which has lost its place, or is against the protocol.
 */
extern bool cp_message_is_servers(const PGresult *error);

/* Was it a remote server that raised this error, by cp_message_throw_error()? */
extern bool cp_message_is_remote(const ErrorData *error);

/* The SQLSTATE of an error, 08006 if it has none. */
extern int cp_message_sqlstate(const PGresult *error);

/*
 * Raises the error of a remote statement with the fields it came with; 57P01
 * to 57P03 as 08006, since it is not the local session that is ending.
 */
pg_noreturn extern void cp_message_throw_error(const char *pool, const PGresult *error);

/*
 * The sentence that tells why a connection was lost, palloc'd: what the
 * server said in `error` (may be NULL), else what libpq says of conn.
 */
extern char *cp_message_why_lost(PGconn *conn, const PGresult *error);

/* Raises 08006 with that sentence. */
pg_noreturn extern void cp_message_throw_lost(const char *pool, const char *why);

/*
 * The message of a connect that failed, from libpq's verbose form (no function
 * of libpq tells the SQLSTATE): without SQLSTATE and location, palloc'd.
 * *sqlstate is 0 if the server sent none.
 */
extern char *cp_message_of_connect(const char *verbose, int *sqlstate);

/*
 * What kind of failure it is, with the message and SQLSTATE as above;
 * `timed_out`: it was ended for taking too long.  For cp_pool_connect_failed().
 */
extern CpFailure cp_message_connect_failure(CpRemote *remote, bool timed_out,
											int *sqlstate, char **message);

/*
 * A text that came from the remote: itself, or, if it is not valid in the
 * database's encoding, a palloc'd copy with ? for everything that is not ASCII.
 */
extern const char *cp_message_valid_text(const char *text);

#endif /* CP_MESSAGE_H */
