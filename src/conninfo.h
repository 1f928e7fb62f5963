/*
 * conninfo.h
 *		The libpq options that a connection is opened with: which there are,
 *		who may give them, and what conpool adds.
 *
 * Runs in client backends, called by target.c and the validator; the last part
 * in the dialer.  Knows libpq's options, and no catalog, right or network.  Throws.
 */
#ifndef CP_CONNINFO_H
#define CP_CONNINFO_H

#include "shmem.h"

/* where an option may be given; a connection string may give either kind */
typedef enum CpConninfoPlace
{
	CP_CONNINFO_NOWHERE, /* conpool's own business, or unsafe */
	CP_CONNINFO_SERVER,
	CP_CONNINFO_MAPPING /* who one is, and every secret */
} CpConninfoPlace;

typedef struct CpConninfo
{
	MemoryContext context; /* of everything in here */
	/* in the order of libpq's options; NULL = not given */
	char **given;
	/* set by cp_conninfo_finish; both end with NULL */
	const char **keywords;
	const char **values;
} CpConninfo;

/* entries that a list of hosts may have: each is tried by itself */
#define CP_MAX_HOSTS 64

/* Is the text a connection string or URI, and never the name of a server? */
extern bool cp_conninfo_is_one(const char *text);

/* libpq's i-th option, NULL past the last */
extern const char *cp_conninfo_keyword(int i);

/* NOWHERE as well for what libpq does not know */
extern CpConninfoPlace cp_conninfo_place(const char *keyword);

/* Begins an empty one, to live in that context. */
extern CpConninfo *cp_conninfo_create(MemoryContext context);

/* Gives an option, in place of an earlier value; keyword must be libpq's. */
extern void cp_conninfo_set(CpConninfo *info, const char *keyword, const char *value);

/* NULL = not given; libpq takes an empty value for none, and so do we */
extern const char *cp_conninfo_get(const CpConninfo *info, const char *keyword);

/* Throws unless a list (host, hostaddr, port) is short enough; others are. */
extern void cp_conninfo_check_list(const char *keyword, const char *value);

/*
 * Gives all options that a connection string or URI holds.  Throws without
 * showing any of the text, which may hold a password.
 */
extern void cp_conninfo_parse(CpConninfo *info, const char *string);

/*
 * Adds what conpool wants on every connection, has the server's own check look
 * at the whole, and makes keywords and values for PQconnectStartParams.  The
 * application's name is for connections that were given none.
 */
extern void cp_conninfo_finish(CpConninfo *info, const char *application_name);

/* Of a finished one and the rule it is opened under. */
extern CpFingerprint cp_conninfo_fingerprint(const CpConninfo *info, CpTrust trust);

/* Of the text itself, as part of a pool's key. */
extern CpFingerprint cp_conninfo_digest(const char *string);

/*
 * The same options (new arrays; strings shared) for a process that must not wait
 * in libpq: without what has it read a file that never ends, or ask a name server
 * or a ticket server.  Encryption does, too, but is left as it is: that is for the
 * caller to see to.  Returns NULL, or why such options are of no use then.
 */
extern const char *cp_conninfo_without_waiting(const char *const *keywords,
											   const char *const *values,
											   const char ***new_keywords,
											   const char ***new_values);

/*
 * Does reading the password file that the options name end soon?  libpq itself reads
 * on for ever, whoever waits for it; true also if none is named.
 */
extern bool cp_conninfo_passfile_is_small(const char *const *keywords,
										  const char *const *values);

/*
 * Are those files regular that the options name for TLS: certificates, key, revocation
 * lists?  Does reading them end soon?  True of one that is not there.  May be called in
 * a thread.
 */
extern bool cp_conninfo_tls_files_are_regular(const char *const *keywords,
											  const char *const *values);
#define CP_NO_REGULAR_FILE "what an option names as a file for TLS is not a regular file"
extern bool cp_conninfo_tls_files_are_small(const char *const *keywords,
											const char *const *values);

/* A name for people, made of nothing but host, port, database and user. */
extern void cp_conninfo_display(const CpConninfo *info, char *buf, size_t size);

#endif /* CP_CONNINFO_H */
