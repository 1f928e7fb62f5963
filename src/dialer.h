/*
 * dialer.h
 *		The worker that opens connections ahead of demand.
 */
#ifndef CP_DIALER_H
#define CP_DIALER_H

#include "postgres.h"

extern PGDLLEXPORT void cp_dialer_main(Datum arg);

#endif /* CP_DIALER_H */
