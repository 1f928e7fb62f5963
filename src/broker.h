/*
 * broker.h
 *		The background worker that keeps the sockets and maintains the pools.
 */
#ifndef CP_BROKER_H
#define CP_BROKER_H

/* postmaster, from _PG_init */
extern void cp_broker_register(void);

/* entry point of the worker */
extern PGDLLEXPORT void cp_broker_main(Datum arg);

#endif /* CP_BROKER_H */
