/*
 * conpool.c
 *		Where the library is loaded: settings, hooks, workers.
 *
 * In the postmaster when it is preloaded; else in a backend that merely calls
 * one of its functions, which then says what is missing.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

#include "broker.h"
#include "ddl.h"
#include "guc.h"
#include "lease.h"
#include "shmem.h"
#include "stats_file.h"
#include "tunnel.h"

#ifdef PG_MODULE_MAGIC_EXT
PG_MODULE_MAGIC_EXT(.name = "conpool", .version = "1.4");
#else
PG_MODULE_MAGIC;
#endif

extern PGDLLEXPORT void _PG_init(void);

static ProcessUtility_hook_type prev_process_utility = NULL;

/*
 * Statements that change what pools are made of are noticed, see ddl.c.
 *
 * DISCARD ALL leaves a session as if it were new, so without leases: it is
 * what a pooler in front of this server runs before the next client comes.
 */
static void
process_utility(PlannedStmt *statement, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest,
				QueryCompletion *completion)
{
	bool discards_all = IsA(statement->utilityStmt, DiscardStmt) &&
		castNode(DiscardStmt, statement->utilityStmt)->target == DISCARD_ALL;
	CpDdlScope scope = cp_ddl_scope(statement->utilityStmt);

	if (prev_process_utility)
		prev_process_utility(statement, query, read_only_tree, context, params,
							 environment, dest, completion);
	else
		standard_ProcessUtility(statement, query, read_only_tree, context, params,
								environment, dest, completion);
	if (discards_all)
		cp_lease_discard_all();
	cp_ddl_noticed(scope);
}

void
_PG_init(void)
{
	bool at_start = process_shared_preload_libraries_in_progress;

	cp_guc_define(at_start);
	if (!at_start)
		return;

	cp_shmem_request_at_start(cp_stats_file_begin);
	cp_broker_register();
	cp_tunnel_register();
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
