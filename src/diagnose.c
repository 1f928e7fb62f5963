/*
 * diagnose.c
 *		What works and what does not on the way from a session to a remote
 *		server: the steps in their order.
 *
 * Runs in client backends, called by sql_diagnose.c.  Must not throw because of a
 * server, nor show what the caller could not find out by using it: a step is taken
 * only if those that it needs went well, so that nothing about hosts is told to
 * somebody without USAGE or a mapping.
 *
 * Each step runs in a subtransaction of its own, which ends what an error leaves
 * half done.  The connection that one of them opens is used by the next ones; it is
 * no lease, is in no pool and in no cache, and does not outlive the diagnosis.
 */
#include "postgres.h"

#include "diagnose.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/resowner.h"

#include "conninfo.h"
#include "diagnose_internal.h"
#include "message.h"
#include "secret.h"

#define STEPS (CP_STEP_QUERY + 1)

StaticAssertDecl(STEPS == CP_DIAGNOSE_STEPS, "a finding for each step");

typedef struct StepType
{
	const char *name;
	void (*take)(CpDiagnosis *d);
	uint32 needs; /* bits of steps */
} StepType;

/* ---- findings ---- */

/* Texts may come from the remote: nothing that may hold a password gets further. */
static const char *
showable(const char *text)
{
	return text != NULL ? cp_secret_mask(cp_message_valid_text(text)) : NULL;
}

void
cp_step_find(CpDiagnosis *d, CpStep step, bool ok, const char *detail, const char *hint)
{
	CpFinding *finding = &d->findings[step];

	finding->is_tried = true;
	finding->is_ok = ok;
	finding->detail = showable(detail);
	finding->hint = showable(hint);
}

void
cp_step_pass(CpDiagnosis *d, CpStep step, const char *detail)
{
	cp_step_find(d, step, true, detail, NULL);
}

void
cp_step_fail(CpDiagnosis *d, CpStep step, const char *detail, const char *hint)
{
	cp_step_find(d, step, false, detail, hint);
}

void
cp_step_not_tried(CpDiagnosis *d, CpStep step, const char *why)
{
	d->findings[step].is_tried = false;
	d->findings[step].detail = showable(psprintf(_("not tried: %s"), why));
}

bool
cp_step_is_ok(const CpDiagnosis *d, CpStep step)
{
	return d->findings[step].is_tried && d->findings[step].is_ok;
}

bool
cp_step_has_failed(const CpDiagnosis *d, CpStep step)
{
	return d->findings[step].is_tried && !d->findings[step].is_ok;
}

/* What the options say; NULL if nothing. */
const char *
cp_diagnosis_option(const CpDiagnosis *d, const char *keyword)
{
	for (int i = 0; d->target->keywords[i] != NULL; i++)
	{
		if (strcmp(d->target->keywords[i], keyword) == 0 && d->target->values[i][0] != '\0')
			return d->target->values[i];
	}
	return NULL;
}

/* ---- all of them ---- */

#define NEEDS(step) (1U << CP_STEP_##step)

/* in this order; what a step needs stands before it */
static const StepType steps[STEPS] = {
	[CP_STEP_LIBRARY] = {"library preloaded", cp_diagnose_library, 0},
	[CP_STEP_BROKER] = {"broker", cp_diagnose_broker, NEEDS(LIBRARY)},
	[CP_STEP_SERVER] = {"server", cp_diagnose_server, NEEDS(LIBRARY)},
	[CP_STEP_USAGE] = {"USAGE", cp_diagnose_usage, NEEDS(SERVER)},
	[CP_STEP_MAPPING] = {"user mapping", cp_diagnose_mapping, NEEDS(USAGE)},
	[CP_STEP_PASSWORD] = {"password rule", cp_diagnose_password, NEEDS(SERVER) | NEEDS(MAPPING)},
	[CP_STEP_CONNINFO] = {"connection strings", cp_diagnose_conninfo, NEEDS(SERVER)},
	[CP_STEP_POOL] = {"pool", cp_diagnose_pool, NEEDS(CONNINFO) | NEEDS(PASSWORD)},
	[CP_STEP_NAMES] = {"name resolution", cp_diagnose_names, NEEDS(CONNINFO) | NEEDS(PASSWORD)},
	[CP_STEP_TCP] = {"TCP", cp_diagnose_tcp, NEEDS(NAMES)},
	[CP_STEP_LOGIN] = {"login", cp_diagnose_login, NEEDS(TCP)},
	[CP_STEP_ENCRYPTION] = {"encryption", cp_diagnose_encryption, NEEDS(LOGIN)},
	[CP_STEP_ROUND_TRIP] = {"round trip time", cp_diagnose_round_trip, NEEDS(LOGIN)},
	[CP_STEP_CAPACITY] = {"remote max_connections", cp_diagnose_capacity, NEEDS(ROUND_TRIP)},
	[CP_STEP_QUERY] = {"pool query", cp_diagnose_query, NEEDS(CONNINFO) | NEEDS(PASSWORD)},
};

/* The step for whose sake this one cannot be taken, or CP_NONE. */
static int
obstacle(const CpDiagnosis *d, CpStep step)
{
	int untried = CP_NONE;

	for (int i = 0; i < STEPS; i++)
	{
		if (!(steps[step].needs & (1U << i)) || cp_step_is_ok(d, i))
			continue;
		if (cp_step_has_failed(d, i))
			return i;
		untried = obstacle(d, i) != CP_NONE ? obstacle(d, i) : i;
	}
	return untried;
}

/* A step is not tried because of another one. */
static void
blame(CpDiagnosis *d, CpStep step, CpStep other)
{
	const char *reason = cp_step_has_failed(d, other) ? _("step \"%s\" has failed") :
														_("step \"%s\" was not tried");

	cp_step_not_tried(d, step, psprintf(reason, steps[other].name));
}

/*
 * Is the error about the local session rather than the server?  What a remote says
 * never gets here with such a code.
 */
static bool
is_interrupt(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
		error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE;
}

/* A step that was given up: for resolving, what is wrong may be the definition. */
static void
report_error(CpDiagnosis *d, CpStep step, const ErrorData *error)
{
	const char *detail = error->detail == NULL ?
		error->message :
		psprintf(_("%s: %s"), error->message, error->detail);

	if (step == CP_STEP_PASSWORD &&
		error->sqlerrcode != ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED)
	{
		cp_step_fail(d, CP_STEP_SERVER, detail, error->hint);
		blame(d, CP_STEP_PASSWORD, CP_STEP_SERVER);
		return;
	}
	cp_step_fail(d, step, detail, error->hint);
	/* shows how a URI begins, and nothing of the one that was given */
	if (step == CP_STEP_SERVER)
		d->findings[step].hint = error->hint;
}

/* Takes a step in a subtransaction, as a block with EXCEPTION does in PL/pgSQL. */
static void
take(CpDiagnosis *d, CpStep step)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		steps[step].take(d);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (is_interrupt(error))
			ReThrowError(error);
		report_error(d, step, error);
	}
	PG_END_TRY();
}

static void
take_all(CpDiagnosis *d)
{
	for (int i = 0; i < STEPS; i++)
	{
		int in_the_way = obstacle(d, i);

		if (in_the_way == CP_NONE)
			take(d, i);
		else
			blame(d, i, in_the_way);
		/* a login that has come to nothing holds nothing */
		if (i == CP_STEP_LOGIN && !cp_step_is_ok(d, i))
			cp_diagnosis_end_login(d);
	}
}

void
cp_diagnose(const char *server, CpFinding findings[CP_DIAGNOSE_STEPS])
{
	CpDiagnosis *d = palloc0(sizeof(CpDiagnosis));

	d->findings = findings;
	d->text = server;
	d->is_conninfo = cp_conninfo_is_one(server);
	d->role = GetUserId();
	for (int i = 0; i < STEPS; i++)
		findings[i] = (CpFinding){.step = steps[i].name};
	PG_TRY();
	{
		take_all(d);
	}
	PG_FINALLY();
	{
		cp_diagnosis_end_login(d);
	}
	PG_END_TRY();
	cp_diagnosis_note_capacity(d);
}
