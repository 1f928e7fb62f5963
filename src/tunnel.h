/*
 * tunnel.h
 *		The workers that open connections which may come out encrypted, and own
 *		the encrypted ones.
 */
#ifndef CP_TUNNEL_H
#define CP_TUNNEL_H

#include "postgres.h"

/* postmaster, from _PG_init: as many as conpool.tunnel_workers says */
extern void cp_tunnel_register(void);

/* entry point of the worker; arg: its number, from 1 on */
extern PGDLLEXPORT void cp_tunnel_main(Datum arg);

#endif /* CP_TUNNEL_H */
