/*
 * compat.h
 *		The only place that knows which version of PostgreSQL it is built for.
 */
#ifndef CP_COMPAT_H
#define CP_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "conpool needs PostgreSQL 15 or later"
#endif

#include "storage/latch.h"
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif
#include "storage/proc.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 170000
#define CP_MY_PROC_NUMBER (MyProc->pgprocno)
#define cp_create_wait_event_set(n) CreateWaitEventSet(TopMemoryContext, (n))
#else
#define CP_MY_PROC_NUMBER MyProcNumber
#define cp_create_wait_event_set(n) CreateWaitEventSet(NULL, (n))
#endif

#if PG_VERSION_NUM < 160000
#define cp_server_aclcheck(oid, role, mode) \
	pg_foreign_server_aclcheck((oid), (role), (mode))
#define cp_server_ownercheck(oid, role) pg_foreign_server_ownercheck((oid), (role))
#else
#define cp_server_aclcheck(oid, role, mode) \
	object_aclcheck(ForeignServerRelationId, (oid), (role), (mode))
#define cp_server_ownercheck(oid, role) \
	object_ownercheck(ForeignServerRelationId, (oid), (role))
#endif

#if PG_VERSION_NUM < 180000 && !defined(pg_noreturn)
#define pg_noreturn pg_attribute_noreturn()
#endif

/* custom wait events, by name, come with a later issue */
#define CP_WAIT_EVENT PG_WAIT_EXTENSION

#endif /* CP_COMPAT_H */
