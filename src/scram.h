/*
 * scram.h
 *		The SCRAM keys by which this session's client has logged in, for logging in
 *		at a remote in the same way: pass-through.
 *
 * Runs in client backends, called by target.c; the first part in the validator, too.
 * The remote must have the very same SCRAM secret for the role: then the keys do
 * for it what the password would, and nobody has to write that down.
 */
#ifndef CP_SCRAM_H
#define CP_SCRAM_H

#include "conninfo.h"

/* the option of servers and user mappings that asks for it */
#define CP_SCRAM_OPTION "use_scram_passthrough"

/*
 * Why pass-through is not to be had here, for anybody: a sentence for people; NULL
 * if it is.
 */
extern const char *cp_scram_unsupported(void);

/*
 * Why the caller has no keys to pass through now, a sentence likewise; NULL if he
 * has.  They are of the role that has logged in, and not lent to what runs with other
 * rights, be it by SECURITY DEFINER or SET ROLE: somebody else could have them used at a
 * remote of his own, pass the exchange on to another server, and be logged in there.
 */
extern const char *cp_scram_lacking(void);

/*
 * Gives the keys to a connection in place of a password, and that it must not be
 * opened by anything but SCRAM; unless `trusted`, not without channel binding either:
 * then what the remote is told is of no use to it at another server, of which it may be
 * a go-between.  Only if nothing is lacking.  Throws.
 */
extern void cp_scram_give(CpConninfo *info, bool trusted);

#endif /* CP_SCRAM_H */
