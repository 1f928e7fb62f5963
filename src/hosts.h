/*
 * hosts.h
 *		A list of hosts in libpq's options: taken apart, put together, tried in
 *		turn.
 *
 * libpq's asynchronous connect knows no time limit for one host of a list: one
 * that never answers keeps it from the others.  So a list is tried host by host
 * (remote.c); and names are looked up by whoever asks a tunnel to connect, and by
 * the dialer, before libpq does.  Knows libpq's options, no network.  Memory is
 * palloc'd in the current context; throws only when that is used up.
 */
#ifndef CP_HOSTS_H
#define CP_HOSTS_H

#include "clock.h"

/* One entry of the lists; NULL where an option gives none. */
typedef struct CpHost
{
	const char *host;	  /* a name, an address, or a socket's directory */
	const char *hostaddr; /* an address: host is not looked up then */
	const char *port;
} CpHost;

/* A host, and what was found for its name if that had to be looked up. */
typedef struct CpFoundHost
{
	CpHost given;
	char **addresses; /* numeric, in the resolver's order */
	int count;		  /* of them */
} CpFoundHost;

/*
 * Takes host, hostaddr and port apart as libpq does (empty entries, one port
 * for all, the environment for what is not given).  Returns how many entries, at
 * least 1; *hosts is an array of them.  0: the lists do not fit each other, or a
 * service file may have a say: all is to be left to libpq.  CP_NONE: more than
 * CP_MAX_HOSTS, which conninfo.c does not let through; the environment might.
 */
extern int cp_hosts_split(const char *const *keywords, const char *const *values,
						  CpHost **hosts);

/* Would libpq have to look the name up? */
extern bool cp_host_is_name(const CpHost *host);

/*
 * Copies keywords and values (new arrays, NULL-terminated; strings shared) with
 * host, hostaddr and port as these entries have them.  `target_session_attrs`
 * replaces that option unless it is NULL; libpq's load_balance_hosts is left.
 */
extern void cp_hosts_join(const char *const *keywords, const char *const *values,
						  const CpHost *hosts, int n,
						  const char *target_session_attrs,
						  const char ***new_keywords, const char ***new_values);

/*
 * Makes entries of hosts: of a name one for each address, of which it takes a few if
 * there are many hosts, with the name beside it for what is verified against it; none
 * if it has no address.  Returns how many: 0 if nothing but such names was given.
 */
extern int cp_hosts_expand(const CpFoundHost *hosts, int n, CpHost **entries);

/*
 * Copies keywords and values with these entries in place of the hosts, so that no
 * name is left to look up.  Where load_balance_hosts asks for it they are in random
 * order, another one at each call: hosts first, then each one's addresses, as libpq
 * has it; what tries them keeps that order.  False, and nothing is made, if there is
 * no entry.
 */
extern bool cp_hosts_resolve(const char *const *keywords, const char *const *values,
							 const CpFoundHost *hosts, int n,
							 const char ***new_keywords, const char ***new_values);

/* ---- trying in turn ---- */

/*
 * The hosts of a list, each to be tried by itself for its share of the time.  In
 * libpq's order, or a random one if load_balance_hosts says so; with prefer-standby
 * twice, and those that did not answer last in the second pass.
 */
typedef struct CpHostTurns CpHostTurns;

/*
 * *turns is NULL if there is but one host, or if all is to be left to libpq.  Has
 * copies of keywords and values, which may be passwords: cp_hosts_end() wipes them.
 * False: too many hosts.
 */
extern bool cp_hosts_begin(const char *const *keywords, const char *const *values,
						   CpHostTurns **turns);

/*
 * The options to connect with to the next host, valid until cp_hosts_end();
 * false if there is none left.  Does not throw.
 */
extern bool cp_hosts_next(CpHostTurns *turns, const char *const **keywords,
						  const char *const **values);

/* How long the present host may take if all of them have until the deadline. */
extern CpTime cp_hosts_limit(CpHostTurns *turns, CpTime deadline);

/* The present host did not answer within its time. */
extern void cp_hosts_was_silent(CpHostTurns *turns);

/* NULL is allowed. */
extern void cp_hosts_end(CpHostTurns *turns);

#endif /* CP_HOSTS_H */
