/*
 * ddl.h
 *		Notices statements that change what pools are made of: foreign servers,
 *		user mappings, roles, databases, the extension.
 *
 * Runs in client backends, from the utility hook.
 */
#ifndef CP_DDL_H
#define CP_DDL_H

#include "nodes/nodes.h"

/* Which databases' definitions a statement may change. */
typedef enum CpDdlScope
{
	CP_DDL_NONE,
	CP_DDL_DATABASE, /* this one's */
	CP_DDL_ALL
} CpDdlScope;

/* Looks at a statement before it runs: afterwards it may have been freed. */
extern CpDdlScope cp_ddl_scope(const Node *statement);

/* The statement has succeeded; the databases concerned are marked at commit. */
extern void cp_ddl_noticed(CpDdlScope scope);

#endif /* CP_DDL_H */
