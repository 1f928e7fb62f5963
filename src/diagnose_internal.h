/*
 * diagnose_internal.h
 *		What the files of diagnose share: the steps, and what is known after them.
 *
 * diagnose.c takes the steps in their order; diagnose_local.c has those that
 * touch no network, diagnose_remote.c the others.
 */
#ifndef CP_DIAGNOSE_INTERNAL_H
#define CP_DIAGNOSE_INTERNAL_H

#include "foreign/foreign.h"
#include "storage/lock.h"

#include "diagnose.h"
#include "hosts.h"
#include "pool.h"
#include "remote.h"
#include "target.h"

typedef enum CpStep
{
	CP_STEP_LIBRARY,
	CP_STEP_BROKER,
	CP_STEP_SERVER,
	CP_STEP_USAGE,
	CP_STEP_MAPPING,
	CP_STEP_PASSWORD,
	CP_STEP_CONNINFO,
	CP_STEP_POOL,
	CP_STEP_NAMES,
	CP_STEP_TCP,
	CP_STEP_LOGIN,
	CP_STEP_ENCRYPTION,
	CP_STEP_ROUND_TRIP,
	CP_STEP_CAPACITY,
	CP_STEP_QUERY
} CpStep;

typedef struct CpDiagnosis
{
	CpFinding *findings; /* by step; detail is NULL until it is known */
	const char *text;	 /* what the caller named: may hold a password */
	bool is_conninfo;
	Oid role;
	char *name; /* of the pool, for people */

	/* the foreign server, and where connection options and mappings come from */
	ForeignServer *server;
	ForeignServer *remote_server;

	/* once it is resolved */
	const CpTarget *target; /* valid until the pool is asked for a connection */
	CpPoolKey key;
	bool is_uncommitted;
	int timeout; /* of a step, milliseconds */

	/* hosts, and the addresses found for them; 0 entries: libpq's own business */
	CpHost *hosts;
	int nhosts;
	CpHost *entries;
	int nentries;
	bool is_name_stuck; /* a name server does not answer: libpq would wait for it */

	/* the connection of our own */
	LOCKTAG lock;
	bool is_locked;
	CpRemote *remote;
	CpConnectStatus connected;
	int capacity; /* connections that the remote allows ordinary users, 0 = not known */
} CpDiagnosis;

/* ---- diagnose.c ---- */

/* What a step has found; the texts may come from the remote. */
extern void cp_step_find(CpDiagnosis *d, CpStep step, bool ok, const char *detail,
						 const char *hint);
extern void cp_step_pass(CpDiagnosis *d, CpStep step, const char *detail);
extern void cp_step_fail(CpDiagnosis *d, CpStep step, const char *detail,
						 const char *hint);
extern void cp_step_not_tried(CpDiagnosis *d, CpStep step, const char *why);

extern bool cp_step_is_ok(const CpDiagnosis *d, CpStep step);
extern bool cp_step_has_failed(const CpDiagnosis *d, CpStep step);

/* The value of one of libpq's options; NULL if it is not given. */
extern const char *cp_diagnosis_option(const CpDiagnosis *d, const char *keyword);

/* The target's pool; false if there is none (yet). */
extern bool cp_diagnosis_read_pool(const CpDiagnosis *d, int *pool, CpPoolInfo *info);

/* ---- the steps: each says what it has found, or throws ---- */

/* diagnose_local.c */
extern void cp_diagnose_library(CpDiagnosis *d);
extern void cp_diagnose_broker(CpDiagnosis *d);
extern void cp_diagnose_server(CpDiagnosis *d);
extern void cp_diagnose_usage(CpDiagnosis *d);
extern void cp_diagnose_mapping(CpDiagnosis *d);
extern void cp_diagnose_password(CpDiagnosis *d);
extern void cp_diagnose_conninfo(CpDiagnosis *d);
extern void cp_diagnose_pool(CpDiagnosis *d);

/* diagnose_remote.c */
extern void cp_diagnose_names(CpDiagnosis *d);
extern void cp_diagnose_tcp(CpDiagnosis *d);
extern void cp_diagnose_login(CpDiagnosis *d);
extern void cp_diagnose_encryption(CpDiagnosis *d);
extern void cp_diagnose_round_trip(CpDiagnosis *d);
extern void cp_diagnose_capacity(CpDiagnosis *d);
extern void cp_diagnose_query(CpDiagnosis *d);

/* Ends the connection of our own, if there is one; nothing is left of it. */
extern void cp_diagnosis_end_login(CpDiagnosis *d);

/* Tells the pool, which may be there only now, what the remote allows. */
extern void cp_diagnosis_note_capacity(const CpDiagnosis *d);

#endif /* CP_DIAGNOSE_INTERNAL_H */
