/*
 * sql_options.c
 *		fdw_validator(text[], oid): which options CREATE and ALTER SERVER and
 *		USER MAPPING take for the foreign data wrapper conpool.
 *
 * Runs in client backends, called by PostgreSQL with all the options that an
 * object is to have.  Throws.  What it lets through is what target.c relies
 * on; it must never look at other objects, which a restore may create later.
 */
#include "postgres.h"

#include <limits.h>

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/varlena.h"

#include "conninfo.h"
#include "options.h"
#include "scram.h"

/* a name this many edits away from a valid one is taken for a slip */
#define MAX_EDITS 4

PG_FUNCTION_INFO_V1(conpool_fdw_validator);

/* ---- which options there are ---- */

static List *
server_option_names(void)
{
	List *names = list_make1("server");
	const char *keyword;

	for (const CpOption *option = cp_options; option->name; option++)
		names = lappend(names, (char *) option->name);
	for (int i = 0; (keyword = cp_conninfo_keyword(i)) != NULL; i++)
	{
		/* connect_timeout is libpq's as well as ours */
		if (cp_conninfo_place(keyword) == CP_CONNINFO_SERVER &&
			cp_option_find(keyword) == NULL)
			names = lappend(names, (char *) keyword);
	}
	return lappend(names, CP_SCRAM_OPTION);
}

static List *
mapping_option_names(void)
{
	List *names = list_make3("password_required", "sslcert", "sslkey");
	const char *keyword;

	for (const CpOption *option = cp_options; option->name; option++)
	{
		if (option->on_mapping)
			names = lappend(names, (char *) option->name);
	}
	for (int i = 0; (keyword = cp_conninfo_keyword(i)) != NULL; i++)
	{
		if (cp_conninfo_place(keyword) == CP_CONNINFO_MAPPING)
			names = lappend(names, (char *) keyword);
	}
	return lappend(names, CP_SCRAM_OPTION);
}

static List *
option_names(Oid catalog)
{
	if (catalog == ForeignServerRelationId)
		return server_option_names();
	if (catalog == UserMappingRelationId)
		return mapping_option_names();
	return NIL;
}

static bool
contains(List *names, const char *name)
{
	ListCell *cell;

	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

/* ---- unknown options ---- */

/* The valid name that was probably meant, or NULL. */
static const char *
nearest(List *names, const char *name)
{
	int len = strlen(name);
	int limit = Min(MAX_EDITS, len / 2);
	const char *best = NULL;
	ListCell *cell;

	foreach(cell, names)
	{
		const char *candidate = lfirst(cell);
		int edits;

		edits = varstr_levenshtein_less_equal(name, len, candidate, strlen(candidate),
											  1, 1, 1, limit, true);
		if (edits <= limit)
		{
			best = candidate;
			limit = edits - 1;
		}
	}
	return best;
}

static char *
joined(List *names)
{
	StringInfoData buf;
	ListCell *cell;

	initStringInfo(&buf);
	foreach(cell, names)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "", (char *) lfirst(cell));
	return buf.data;
}

static int
hint_for_unknown(const char *name, Oid catalog)
{
	List *names = option_names(catalog);
	const char *meant = nearest(names, name);

	if (catalog != UserMappingRelationId && contains(mapping_option_names(), name))
		return errhint("Option \"%s\" belongs in a user mapping.", name);
	if (catalog != ForeignServerRelationId && contains(server_option_names(), name))
		return errhint("Option \"%s\" belongs in a server.", name);
	if (meant)
		return errhint("Perhaps you meant the option \"%s\".", meant);
	if (names == NIL)
		return errhint("There are no valid options in this context.");
	return errhint("Valid options in this context are: %s.", joined(names));
}

static void
check_known(const char *name, Oid catalog)
{
	if (!contains(option_names(catalog), name))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", name),
				 hint_for_unknown(name, catalog)));
}

/* ---- values ---- */

/*
 * The same rules as in postgres_fdw: what lends the server's own identity to a
 * role takes a superuser.
 */
static void
check_mapping_option(DefElem *def)
{
	if (strcmp(def->defname, "password_required") == 0)
	{
		if (!defGetBoolean(def) && !superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("only superusers may set option \"%s\" to false",
							def->defname),
					 errdetail("User mappings that have it may only be created or changed by "
							   "superusers.")));
	}
	else if (strcmp(def->defname, "sslcert") == 0 || strcmp(def->defname, "sslkey") == 0)
	{
		if (!superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("only superusers may set option \"%s\" of a user mapping",
							def->defname),
					 errdetail("User mappings that have it may only be created or changed by "
							   "superusers.")));
	}
}

/* False is taken everywhere, so that definitions can be moved between versions. */
static void
check_passthrough(DefElem *def)
{
	if (strcmp(def->defname, CP_SCRAM_OPTION) != 0)
		return;
	if (defGetBoolean(def) && cp_scram_unsupported() != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("SCRAM pass-through is not supported"),
				 errdetail_internal("%s", cp_scram_unsupported()),
				 errhint("Set option \"%s\" to false, and give the user mapping a password.",
						 def->defname)));
}

/* A server that refers to another has no connection options of its own. */
static void
check_reference(List *options)
{
	bool refers = false;
	ListCell *cell;

	foreach(cell, options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, "server") != 0)
			continue;
		refers = true;
		if (defGetString(def)[0] == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", "server", ""),
					 errhint("Give the name of a foreign server.")));
	}
	if (!refers)
		return;

	foreach(cell, options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, "server") != 0 && cp_option_find(def->defname) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("options \"%s\" and \"%s\" exclude each other",
							"server", def->defname),
					 errdetail("Connection options are taken from the server that option "
							   "\"server\" names.")));
	}
}

/*
 * Only what one list says can contradict itself.  Where a size is given
 * elsewhere, on the server or in a setting, min_size is cut to max_size when it
 * is used.
 */
static void
check_sizes(List *options)
{
	int min_size = 0;
	int max_size = INT_MAX;
	ListCell *cell;

	foreach(cell, options)
	{
		DefElem *def = lfirst_node(DefElem, cell);

		if (strcmp(def->defname, "min_size") == 0)
			min_size = cp_option_parse(cp_option_find("min_size"), defGetString(def));
		else if (strcmp(def->defname, "max_size") == 0)
			max_size = cp_option_parse(cp_option_find("max_size"), defGetString(def));
	}
	if (min_size > max_size)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" (%d) is greater than option \"%s\" (%d)",
						"min_size", min_size, "max_size", max_size),
				 errhint("Lower \"%s\" or raise \"%s\".", "min_size", "max_size")));
}

static void
refuse_foreign_tables(Oid catalog)
{
	if (catalog == ForeignTableRelationId || catalog == AttributeRelationId)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign data wrapper \"%s\" does not support foreign tables", "conpool"),
				 errhint("Use the function conpool.query().")));
}

Datum
conpool_fdw_validator(PG_FUNCTION_ARGS)
{
	List *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid catalog = PG_GETARG_OID(1);
	ListCell *cell;

	refuse_foreign_tables(catalog);
	foreach(cell, options)
	{
		DefElem *def = lfirst_node(DefElem, cell);
		const CpOption *option = cp_option_find(def->defname);

		check_known(def->defname, catalog);
		if (option)
			(void) cp_option_parse(option, defGetString(def));
		else
			cp_conninfo_check_list(def->defname, defGetString(def));
		check_passthrough(def);
		if (catalog == UserMappingRelationId)
			check_mapping_option(def);
	}
	check_sizes(options);
	if (catalog == ForeignServerRelationId)
		check_reference(options);
	PG_RETURN_VOID();
}
