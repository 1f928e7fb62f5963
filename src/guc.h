/*
 * guc.h
 *		The settings conpool.*: defaults of the pool options, sizes fixed at
 *		server start, and what is no pool's own business.
 */
#ifndef CP_GUC_H
#define CP_GUC_H

#include "options.h"

extern int cp_guc_max_connections; /* slots; fixed at start */
extern int cp_guc_max_pools;	   /* fixed at start */
extern int cp_guc_tunnel_workers;  /* fixed at start, 0 = none */
extern bool cp_guc_allow_conninfo;
extern bool cp_guc_dblink_overflow; /* dblink connections beyond max_size */
extern int cp_guc_refresh_interval; /* seconds, 0 = never */
extern bool cp_guc_track;
extern int cp_guc_log_min_wait;		/* milliseconds, -1 = never */
extern int cp_guc_max_statements;	/* fixed at start, 0 = none */
extern int cp_guc_max_events;		/* fixed at start */
extern int cp_guc_history_size;		/* rows for each pool; fixed at start, 0 = none */
extern int cp_guc_history_interval; /* seconds */

/* what holds where a server does not say otherwise */
extern CpPoolOptions cp_guc_pool_options;

/* _PG_init, any process: defines them all; at_start: in the postmaster */
extern void cp_guc_define(bool at_start);

#endif /* CP_GUC_H */
