/*
 * guc.c
 *		Defines the settings conpool.*.
 *
 * Runs in whatever process loads the library, from _PG_init, once.  A setting
 * conpool.<option> is what holds for a pool whose server does not give the
 * option.  Must never look at anything but the settings themselves.
 */
#include "postgres.h"

#include "guc.h"

#include <limits.h>

#include "utils/guc.h"

#define PREFIX "conpool"

int cp_guc_max_connections = 200;
int cp_guc_max_pools = 100;
int cp_guc_tunnel_workers = 1;
bool cp_guc_allow_conninfo = true;
bool cp_guc_dblink_overflow = true;
int cp_guc_refresh_interval = 60;
bool cp_guc_track = true;
int cp_guc_log_min_wait = -1;
int cp_guc_max_statements = 1000;
int cp_guc_max_events = 1000;
int cp_guc_history_size = 1440;
int cp_guc_history_interval = 60;
CpPoolOptions cp_guc_pool_options;

static void
define_pool_option(const CpOption *option)
{
	char *name = psprintf(PREFIX ".%s", option->name);
	int *variable = cp_option_field(option, &cp_guc_pool_options);

	if (option->type == CP_OPTION_CHOICE)
		DefineCustomEnumVariable(name, option->short_desc, option->long_desc,
								 variable, option->boot_value, option->choices,
								 option->context, 0, NULL, NULL, NULL);
	else
		DefineCustomIntVariable(name, option->short_desc, option->long_desc,
								variable, option->boot_value, option->min,
								option->max, option->context,
								option->type == CP_OPTION_DURATION ? GUC_UNIT_MS : 0,
								NULL, NULL, NULL);
	pfree(name);
}

static void
define_sizes(void)
{
	DefineCustomIntVariable(PREFIX ".max_connections",
							"Sets how many connections all pools together may have.",
							NULL,
							&cp_guc_max_connections, 200, 1, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(PREFIX ".max_pools",
							"Sets how many pools there may be.",
							NULL,
							&cp_guc_max_pools, 100, 1, 10000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(PREFIX ".tunnel_workers",
							"Sets how many processes pass encrypted connections on.",
							"0 turns that off: encrypted connections are not shared.",
							&cp_guc_tunnel_workers, 1, 0, 16,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(PREFIX ".max_statements",
							"Sets how many statements are kept statistics of.",
							"0 turns that off.",
							&cp_guc_max_statements, 1000, 0, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(PREFIX ".max_events",
							"Sets how many events are kept.",
							NULL,
							&cp_guc_max_events, 1000, 1, 1000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(PREFIX ".history_size",
							"Sets how many intervals are kept in the history of each pool.",
							"0 turns that off.",
							&cp_guc_history_size, 1440, 0, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

static void
define_statistics(void)
{
	DefineCustomBoolVariable(PREFIX ".track",
							 "Collects how long waits, checkouts, connects and statements take.",
							 NULL,
							 &cp_guc_track, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(PREFIX ".log_min_wait",
							"Sets how long a wait for a connection must be to be logged.",
							"0 logs all, -1 turns that off.",
							&cp_guc_log_min_wait, -1, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable(PREFIX ".history_interval",
							"Sets the length of an interval of the history.",
							NULL,
							&cp_guc_history_interval, 60, 1, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

/*
 * A library that is loaded later than the server starts has no shared memory,
 * and PostgreSQL refuses to define settings that are fixed at start.  The
 * prefix is left unreserved then, or setting conpool.max_connections first and
 * preloading the library next would be complained about.
 */
void
cp_guc_define(bool at_start)
{
	for (const CpOption *option = cp_options; option->name; option++)
		define_pool_option(option);

	DefineCustomBoolVariable(PREFIX ".allow_conninfo",
							 "Allows connection strings in place of a server's name.",
							 NULL,
							 &cp_guc_allow_conninfo, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable(PREFIX ".dblink_overflow",
							 "Lets dblink's functions connect beyond a pool's max_size.",
							 "What they hold by name is held until they disconnect, so "
							 "sessions that would wait get a connection of their own, "
							 "which is closed when it is given back.",
							 &cp_guc_dblink_overflow, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(PREFIX ".refresh_interval",
							"Sets how often a standby looks for changed servers.",
							"0 turns that off.",
							&cp_guc_refresh_interval, 60, 0, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	define_statistics();
	if (at_start)
	{
		define_sizes();
		MarkGUCPrefixReserved(PREFIX);
	}
}
