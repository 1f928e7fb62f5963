/*
 * greeting.h
 *		What a server says between "authentication ok" and "ready for query":
 *		recording it while libpq connects, comparing with it later.
 *
 * Knows libpq and nothing else.  Never throws.
 */
#ifndef CP_GREETING_H
#define CP_GREETING_H

#include <sys/socket.h>

#include "libpq-fe.h"

/* bytes of a greeting at most; real ones have about 500 */
#define CP_GREETING_MAX 4096
/* bytes of a cancel key at most (protocol 3.2 allows 256) */
#define CP_CANCEL_KEY_MAX 256

/* texts of libpq's about an encrypted connection, terminator included */
#define CP_TLS_VERSION_LEN 16
#define CP_TLS_CIPHER_LEN 64

/*
 * How one gets from the socket to the remote server, if there is a tunnel in
 * between: all zero if not.
 */
typedef struct CpPassage
{
	int32 tunnel; /* its number, from 1 on; 0 = the socket is the remote's own */
	int32 peer_len;
	uint64 id;					  /* the connection's, within the run of that tunnel */
	struct sockaddr_storage peer; /* of the remote server */
	char tls_version[CP_TLS_VERSION_LEN];
	char tls_cipher[CP_TLS_CIPHER_LEN];
} CpPassage;

/*
 * The bytes a server sends between "authentication ok" and "ready for query",
 * both included, as they go into a new PGconn; and the cancel key by itself.
 * Travels between processes as it is (same binary on both sides).
 */
typedef struct CpGreeting
{
	int32 len;	   /* of bytes; 0 = cannot be passed on */
	int32 pid;	   /* of the remote backend, 0 = not told */
	int32 key_len; /* 0 = no key, cannot be cancelled */
	uint8 key[CP_CANCEL_KEY_MAX];
	CpPassage passage;
	char bytes[CP_GREETING_MAX];
} CpGreeting;

/* Bytes of a greeting that travel. */
static inline size_t
cp_greeting_size(const CpGreeting *greeting)
{
	return offsetof(CpGreeting, bytes) + greeting->len;
}

/* Is this, come from another process, a whole greeting of `size` bytes? */
extern bool cp_greeting_is_valid(const CpGreeting *greeting, size_t size);

/*
 * The parameters whose values in libpq are not those the greeting gave them: a
 * bit for each in the greeting's order, the last one for all the rest.
 */
#define CP_CHANGES_REST (UINT64CONST(1) << 63)
extern uint64 cp_greeting_changes(const CpGreeting *greeting, PGconn *conn);

/*
 * Makes a copy, without the key, in which those parameters have a value that
 * no server's can be equal to.  False if it does not fit.
 */
extern bool cp_greeting_blot(const CpGreeting *greeting, uint64 changes, CpGreeting *blotted);

/* ---- recording ---- */

typedef struct CpRecorder CpRecorder;

/*
 * Begins to record; conn must come straight from PQconnectStart.  NULL: out
 * of memory.
 */
extern CpRecorder *cp_recorder_start(PGconn *conn);

/*
 * conn is connected: fills *greeting, wipes what libpq traced, frees the
 * recorder.  False, with bytes empty but the key usable, when what the server
 * said cannot be passed on.
 */
extern bool cp_recorder_finish(CpRecorder *recorder, PGconn *conn, CpGreeting *greeting);

/* The connect failed or was given up: wipes and frees.  Before PQfinish. */
extern void cp_recorder_drop(CpRecorder *recorder, PGconn *conn);

#endif /* CP_GREETING_H */
