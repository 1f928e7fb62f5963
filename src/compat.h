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
#include "utils/backend_status.h"
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
#include "catalog/pg_foreign_server.h"
#define cp_server_aclcheck(oid, role, mode) \
	object_aclcheck(ForeignServerRelationId, (oid), (role), (mode))
#define cp_server_ownercheck(oid, role) \
	object_ownercheck(ForeignServerRelationId, (oid), (role))
#endif

/* query ID of this session's statement, 0 = none was computed */
#define cp_my_query_id() ((uint64) pgstat_get_my_query_id())

#if PG_VERSION_NUM < 180000 && !defined(pg_noreturn)
#define pg_noreturn pg_attribute_noreturn()
#endif

#if PG_VERSION_NUM < 160000
#define cp_local_beentry(i) pgstat_fetch_stat_local_beentry(i)
#else
#define cp_local_beentry(i) pgstat_get_local_beentry_by_index(i)
#endif

/* from 18 on the server keeps the keys by which its client has logged in */
#if PG_VERSION_NUM >= 180000
#define CP_HAS_SCRAM_KEYS
#endif

/* validators hint at the name that was probably meant from 16 on */
#if PG_VERSION_NUM >= 160000
#define CP_HAS_CLOSEST_MATCH
#endif

/* wait events have names of their own from 17 on */
#if PG_VERSION_NUM < 170000
#define cp_new_wait_event(name) ((void) (name), PG_WAIT_EXTENSION)
#define cp_proc_in_transaction(proc) LocalTransactionIdIsValid((proc)->lxid)
#else
#define cp_new_wait_event(name) WaitEventExtensionNew(name)
#define cp_proc_in_transaction(proc) LocalTransactionIdIsValid((proc)->vxid.lxid)
#endif

/* what dblink says to those who are no superusers */
#if PG_VERSION_NUM < 160000
#define CP_DBLINK_NO_PASSWORD "password is required"
#define CP_DBLINK_NONE_GIVEN "Non-superusers must provide a password in the connection string."
#define CP_DBLINK_NONE_USED \
	"Non-superuser cannot connect if the server does not request a password."
#define CP_DBLINK_NONE_USED_HINT "Target server's authentication method must be changed."
#else
#define CP_DBLINK_NO_PASSWORD "password or GSSAPI delegated credentials required"
#define CP_DBLINK_NONE_GIVEN \
	"Non-superusers must provide a password in the connection string or " \
	"send delegated GSSAPI credentials."
#define CP_DBLINK_NONE_USED \
	"Non-superusers may only connect using credentials they provide, " \
	"eg: password in connection string or delegated GSSAPI credentials"
#define CP_DBLINK_NONE_USED_HINT \
	"Ensure provided credentials match target server's authentication method."
#endif

/* what dblink says when a connection that is gone is to cancel */
#if PG_VERSION_NUM < 170000
#define CP_DBLINK_NO_CANCEL "PQcancel() -- no cancel object supplied"
#else
#define CP_DBLINK_NO_CANCEL "connection not open"
#endif

/* Is the session about to be ended by transaction_timeout?  (17) */
#if PG_VERSION_NUM >= 170000
#define cp_transaction_timed_out() (TransactionTimeoutPending != 0)
#else
#define cp_transaction_timed_out() false
#endif

#endif /* CP_COMPAT_H */
