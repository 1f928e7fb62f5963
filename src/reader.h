/*
 * reader.h
 *		The worker that reads the definitions of one database's servers.
 */
#ifndef CP_READER_H
#define CP_READER_H

#include "postgres.h"

extern PGDLLEXPORT void cp_reader_main(Datum database);

#endif /* CP_READER_H */
