/*
 * sql_dblink_fdw.c
 *		dblink_fdw_validator(text[], oid): which options CREATE and ALTER SERVER and
 *		USER MAPPING take for the foreign data wrapper dblink_fdw.
 *
 * Runs in client backends, called by PostgreSQL with all the options that an object
 * is to have.  Throws, with dblink's texts.  Looks at names only, and takes those that
 * dblink takes, but for the few that are unsafe (conninfo.c); must never look at other
 * objects, which a restore may create later.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/varlena.h"

#include "compat.h"
#include "conninfo.h"
#include "scram.h"

/* a name this many edits away from a valid one is taken for a slip */
#define MAX_EDITS 4

PG_FUNCTION_INFO_V1(conpool_dblink_fdw_validator);

/*
 * May libpq's option stand there?  There is none that the wrapper itself has.  The
 * name to fall back on is taken, though conpool gives its connections one of its own.
 */
static bool
is_connection_option(const char *name, Oid catalog)
{
	CpConninfoPlace place = cp_conninfo_place(name);

	if (strcmp(name, "fallback_application_name") == 0)
		place = CP_CONNINFO_SERVER;
	return (catalog == ForeignServerRelationId && place == CP_CONNINFO_SERVER) ||
		(catalog == UserMappingRelationId && place == CP_CONNINFO_MAPPING);
}

/* dblink has it from the version on in which a server keeps its clients' keys. */
static bool
is_passthrough(const char *name, Oid catalog)
{
#ifdef CP_HAS_SCRAM_KEYS
	return strcmp(name, CP_SCRAM_OPTION) == 0 &&
		(catalog == ForeignServerRelationId || catalog == UserMappingRelationId);
#else
	return false;
#endif
}

/* names of libpq's options that may stand there */
static List *
connection_options(Oid catalog)
{
	List *names = NIL;
	const char *keyword;

	for (int i = 0; (keyword = cp_conninfo_keyword(i)) != NULL; i++)
	{
		if (is_connection_option(keyword, catalog))
			names = lappend(names, (char *) keyword);
	}
	return names;
}

/* As dblink of this version has it: the name that is near, or all of them. */
static int
hint_for_unknown(const char *name, List *valid)
{
	ListCell *cell;
#ifdef CP_HAS_CLOSEST_MATCH
	ClosestMatchState match;

	if (valid == NIL)
		return errhint("There are no valid options in this context.");
	initClosestMatch(&match, name, MAX_EDITS);
	foreach(cell, valid)
		updateClosestMatch(&match, lfirst(cell));
	if (getClosestMatch(&match) == NULL)
		return 0;
	return errhint("Perhaps you meant the option \"%s\".", getClosestMatch(&match));
#else
	StringInfoData names;

	if (valid == NIL)
		return errhint("There are no valid options in this context.");
	initStringInfo(&names);
	foreach(cell, valid)
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", (char *) lfirst(cell));
	return errhint("Valid options in this context are: %s", names.data);
#endif
}

/* dblink_fdw_validator(options text[], catalog oid) RETURNS void */
Datum
conpool_dblink_fdw_validator(PG_FUNCTION_ARGS)
{
	List *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid catalog = PG_GETARG_OID(1);
	ListCell *cell;

	foreach(cell, options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (is_passthrough(def->defname, catalog))
			(void) defGetBoolean(def); /* throws unless it is one */
		else if (!is_connection_option(def->defname, catalog))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
					 errmsg("invalid option \"%s\"", def->defname),
					 hint_for_unknown(def->defname, connection_options(catalog))));
	}
	PG_RETURN_VOID();
}
