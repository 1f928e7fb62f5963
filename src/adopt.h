/*
 * adopt.h
 *		A libpq connection made of a socket that another process opened.
 *
 * Runs wherever connections are used: client backends and the broker.  Called
 * by remote.c alone.  Knows libpq and no shared memory.  Never throws.
 */
#ifndef CP_ADOPT_H
#define CP_ADOPT_H

#include "greeting.h"

/*
 * Makes a PGconn that talks on a duplicate of fd; fd stays the caller's.
 * Waits for nothing but this process itself.  NULL with *error, a constant
 * message, when it cannot.
 */
extern PGconn *cp_adopt(int fd, const CpGreeting *greeting, const char **error);

#endif /* CP_ADOPT_H */
