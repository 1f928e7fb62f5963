/*
 * convert.h
 *		What it takes to carry a value as text from one server to another
 *		unchanged: settings in force while it is written and read, and texts
 *		that are valid.
 *
 * Runs in client backends, called by args.c and rows*.c.  Throws.
 */
#ifndef CP_CONVERT_H
#define CP_CONVERT_H

#include "libpq-fe.h"

/* Settings that only some types depend on; a set of flags. */
#define CP_CONVERT_MONEY 0x01 /* lc_monetary */
#define CP_CONVERT_NAMES 0x02 /* search_path, for names of objects */

/* What the text of a value of this type depends on, beyond the usual. */
extern int cp_convert_needs(Oid type);

/*
 * Puts settings in force under which output functions write what any server
 * reads back as the same value.  Returns the nest level for cp_convert_end,
 * or -1 when nothing had to be changed.  An abort undoes it too.
 */
extern int cp_convert_begin_output(int needs);

/* The same for input functions that read what the server of conn has sent. */
extern int cp_convert_begin_input(int needs, PGconn *conn);

extern void cp_convert_end(int nest_level);

/* Raises 22021 unless value is valid in the encoding of the database. */
extern void cp_convert_verify(const char *value, int len);

#endif /* CP_CONVERT_H */
