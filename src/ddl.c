/*
 * ddl.c
 *		Notices statements that change what pools are made of.
 *
 * Runs in client backends, from the utility hook, around every statement that
 * is not a plain query: so it looks at little more than the statement's kind.
 * What a statement has changed is there for others when its transaction commits,
 * so that is when the databases are marked: this one at any rate, since a mark for
 * all is dealt with more slowly.  Which servers or pools it concerns is not its
 * business: whoever reads the definitions finds out.  Must never throw.
 */
#include "postgres.h"

#include "ddl.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"

#include "pool.h"

/* of the statements of this transaction that have succeeded */
static CpDdlScope noticed = CP_DDL_NONE;
static bool registered = false;

/* An extension's or a schema's end may be a server's or the wrapper's. */
static CpDdlScope
scope_of_drop(const DropStmt *statement)
{
	switch (statement->removeType)
	{
		case OBJECT_FOREIGN_SERVER:
		case OBJECT_FDW:
		case OBJECT_EXTENSION:
		case OBJECT_SCHEMA:
			return CP_DDL_DATABASE;
		default:
			return CP_DDL_NONE;
	}
}

static CpDdlScope
scope_of_rename(const RenameStmt *statement)
{
	switch (statement->renameType)
	{
		case OBJECT_FOREIGN_SERVER:
		case OBJECT_FDW:
			return CP_DDL_DATABASE;
		case OBJECT_ROLE:
		case OBJECT_DATABASE:
			return CP_DDL_ALL;
		default:
			return CP_DDL_NONE;
	}
}

/* Roles change their own password as often as they like: that is nothing to us. */
static bool
is_indifferent(const AlterRoleStmt *statement)
{
	ListCell *cell;

	foreach(cell, statement->options)
	{
		const char *name = lfirst_node(DefElem, cell)->defname;

		if (strcmp(name, "password") != 0 && strcmp(name, "validUntil") != 0 &&
			strcmp(name, "connectionlimit") != 0)
			return false;
	}
	return true;
}

/* What a prepared transaction had done is not known any more. */
static CpDdlScope
scope_of_transaction(const TransactionStmt *statement)
{
	return statement->kind == TRANS_STMT_COMMIT_PREPARED ||
			statement->kind == TRANS_STMT_ROLLBACK_PREPARED ?
		CP_DDL_ALL :
		CP_DDL_NONE;
}

static CpDdlScope
database_if(bool concerned)
{
	return concerned ? CP_DDL_DATABASE : CP_DDL_NONE;
}

CpDdlScope
cp_ddl_scope(const Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_CreateForeignServerStmt:
		case T_AlterForeignServerStmt:
		case T_CreateUserMappingStmt:
		case T_AlterUserMappingStmt:
		case T_DropUserMappingStmt:
		case T_AlterFdwStmt:
		case T_CreateExtensionStmt:
		case T_AlterExtensionStmt:
		case T_DropOwnedStmt:
		case T_ReassignOwnedStmt:
			return CP_DDL_DATABASE;
		case T_AlterRoleStmt:
			return is_indifferent((const AlterRoleStmt *) statement) ? CP_DDL_NONE : CP_DDL_ALL;
		case T_DropRoleStmt:
		case T_GrantRoleStmt:
		case T_CreatedbStmt: /* its template may have servers */
		case T_AlterDatabaseStmt:
		case T_DropdbStmt:
			return CP_DDL_ALL;
		case T_DropStmt:
			return scope_of_drop((const DropStmt *) statement);
		case T_RenameStmt:
			return scope_of_rename((const RenameStmt *) statement);
		case T_AlterOwnerStmt:
			return database_if(((const AlterOwnerStmt *) statement)->objectType ==
							   OBJECT_FOREIGN_SERVER);
		case T_GrantStmt:
			return database_if(((const GrantStmt *) statement)->objtype ==
							   OBJECT_FOREIGN_SERVER);
		case T_TransactionStmt:
			return scope_of_transaction((const TransactionStmt *) statement);
		default:
			return CP_DDL_NONE;
	}
}

/*
 * Called when the transaction's changes can be seen already.  A prepared one is
 * forgotten: COMMIT PREPARED, whosever it is, marks all.
 */
static void
transaction_ends(XactEvent event, void *arg)
{
	if (noticed == CP_DDL_NONE)
		return;
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (noticed == CP_DDL_ALL)
				cp_pool_mark_database(InvalidOid);
			cp_pool_mark_database(MyDatabaseId);
			noticed = CP_DDL_NONE;
			break;
		case XACT_EVENT_ABORT: /* it may have used what is not there any more */
			cp_pool_mark_database(MyDatabaseId);
			noticed = CP_DDL_NONE;
			break;
		case XACT_EVENT_PREPARE:
			noticed = CP_DDL_NONE;
			break;
		default:
			break;
	}
}

void
cp_ddl_noticed(CpDdlScope scope)
{
	if (scope == CP_DDL_NONE || cp_shared == NULL)
		return;
	if (!registered)
		RegisterXactCallback(transaction_ends, NULL);
	registered = true;
	noticed = Max(noticed, scope);
}
