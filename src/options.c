/*
 * options.c
 *		The one table of pool options, and the reading of their values.
 *
 * Runs in any process; called by guc.c, target.c and the validator.  Throws
 * where a value does not parse.  Must never look at a catalog: what is allowed
 * where, and for whom, is its callers' business.
 */
#include "postgres.h"

#include "options.h"

#include <limits.h>
#include <math.h>

#include "lib/stringinfo.h"

/* more connections than any server has */
#define MANY 100000

#define MS_PER_SECOND 1000

static const struct config_enum_entry scopes[] = {
	{"statement", CP_SCOPE_STATEMENT, false},
	{"transaction", CP_SCOPE_TRANSACTION, false},
	{"session", CP_SCOPE_SESSION, false},
	{NULL, 0, false},
};

static const struct config_enum_entry reset_modes[] = {
	{"auto", CP_RESET_AUTO, false},
	{"always", CP_RESET_ALWAYS, false},
	{"never", CP_RESET_NEVER, false},
	{NULL, 0, false},
};

static const struct config_enum_entry leak_actions[] = {
	{"log", CP_LEAK_LOG, false},
	{"cancel", CP_LEAK_CANCEL, false},
	{"reclaim", CP_LEAK_RECLAIM, false},
	{NULL, 0, false},
};

StaticAssertDecl(sizeof(CpScope) == sizeof(int) && sizeof(CpResetMode) == sizeof(int) &&
					 sizeof(CpLeakAction) == sizeof(int),
				 "options are read and written as int");

const CpOption cp_options[] = {
	{
		.name = "min_size",
		.type = CP_OPTION_NUMBER,
		.offset = offsetof(CpPoolOptions, min_size),
		.boot_value = 0,
		.min = 0,
		.max = MANY,
		.on_mapping = true,
		.context = PGC_SIGHUP,
		.short_desc = "Sets how many connections of a pool are kept open ahead of demand.",
		.long_desc = "Never more than max_size. It takes a user mapping for a role of its own.",
	},
	{
		.name = "max_size",
		.type = CP_OPTION_NUMBER,
		.offset = offsetof(CpPoolOptions, max_size),
		.boot_value = 10,
		.min = 1,
		.max = MANY,
		.on_mapping = true,
		.context = PGC_SIGHUP,
		.short_desc = "Sets the maximum number of connections of a pool.",
	},
	{
		.name = "max_server_size",
		.type = CP_OPTION_NUMBER,
		.offset = offsetof(CpPoolOptions, max_server_size),
		.boot_value = 0,
		.min = 0,
		.max = MANY,
		.context = PGC_SIGHUP,
		.short_desc = "Sets the maximum number of connections of all pools of a server.",
		.long_desc = "0 means no limit.",
	},
	{
		.name = "max_waiters",
		.type = CP_OPTION_NUMBER,
		.offset = offsetof(CpPoolOptions, max_waiters),
		.boot_value = -1,
		.min = -1,
		.max = INT_MAX,
		.on_mapping = true,
		.context = PGC_SIGHUP,
		.short_desc = "Sets how many sessions may wait for a connection of a pool.",
		.long_desc = "Further ones are refused at once. 0 means that none may wait, "
					 "-1 that there is no limit.",
	},
	{
		.name = "connect_concurrency",
		.type = CP_OPTION_NUMBER,
		.offset = offsetof(CpPoolOptions, connect_concurrency),
		.boot_value = 2,
		.min = 1,
		.max = MANY,
		.on_mapping = true,
		.context = PGC_SIGHUP,
		.short_desc = "Sets how many connections of a pool may be opened at the same time.",
	},
	{
		.name = "checkout_timeout",
		.type = CP_OPTION_DURATION,
		.offset = offsetof(CpPoolOptions, checkout_timeout),
		.boot_value = 30 * MS_PER_SECOND,
		.min = 0,
		.max = INT_MAX,
		.context = PGC_USERSET,
		.short_desc = "Sets the longest wait for a usable connection.",
		.long_desc = "It covers the queue and the opening of a connection. 0 means no limit.",
	},
	{
		.name = "connect_timeout",
		.type = CP_OPTION_DURATION,
		.offset = offsetof(CpPoolOptions, connect_timeout),
		.boot_value = 10 * MS_PER_SECOND,
		.min = 0,
		.max = INT_MAX,
		.bare_seconds = true,
		.context = PGC_SIGHUP,
		.short_desc = "Sets the time limit of one attempt to connect.",
		.long_desc = "0 means no limit.",
	},
	{
		.name = "idle_timeout",
		.type = CP_OPTION_DURATION,
		.offset = offsetof(CpPoolOptions, idle_timeout),
		.boot_value = 10 * 60 * MS_PER_SECOND,
		.min = 0,
		.max = INT_MAX,
		.context = PGC_SIGHUP,
		.short_desc = "Sets the time after which an idle connection is closed.",
		.long_desc = "So many as min_size says stay open. 0 means never.",
	},
	{
		.name = "max_lifetime",
		.type = CP_OPTION_DURATION,
		.offset = offsetof(CpPoolOptions, max_lifetime),
		.boot_value = 30 * 60 * MS_PER_SECOND,
		.min = 0,
		.max = INT_MAX,
		.context = PGC_SIGHUP,
		.short_desc = "Sets the age at which a connection is closed.",
		.long_desc = "Up to a tenth earlier, at random, and never while it is leased. "
					 "0 means never.",
	},
	{
		.name = "validate_interval",
		.type = CP_OPTION_DURATION,
		.offset = offsetof(CpPoolOptions, validate_interval),
		.boot_value = 30 * MS_PER_SECOND,
		.min = 0,
		.max = INT_MAX,
		.context = PGC_SIGHUP,
		.short_desc = "Sets how often an idle connection is checked by a round trip.",
		.long_desc = "0 means never.",
	},
	{
		.name = "leak_threshold",
		.type = CP_OPTION_DURATION,
		.offset = offsetof(CpPoolOptions, leak_threshold),
		.boot_value = 5 * 60 * MS_PER_SECOND,
		.min = 0,
		.max = INT_MAX,
		.context = PGC_SIGHUP,
		.short_desc = "Sets the time after which a lease that is still held is examined.",
		.long_desc = "0 means never.",
	},
	{
		.name = "pool_mode",
		.type = CP_OPTION_CHOICE,
		.offset = offsetof(CpPoolOptions, pool_mode),
		.boot_value = CP_SCOPE_STATEMENT,
		.choices = scopes,
		.context = PGC_USERSET,
		.short_desc = "Sets the scope of the leases that query functions take.",
	},
	{
		.name = "reset",
		.type = CP_OPTION_CHOICE,
		.offset = offsetof(CpPoolOptions, reset),
		.boot_value = CP_RESET_AUTO,
		.choices = reset_modes,
		.context = PGC_SIGHUP,
		.short_desc = "Sets when the session state of a connection is reset.",
	},
	{
		.name = "leak_action",
		.type = CP_OPTION_CHOICE,
		.offset = offsetof(CpPoolOptions, leak_action),
		.boot_value = CP_LEAK_LOG,
		.choices = leak_actions,
		.context = PGC_SIGHUP,
		.short_desc = "Sets what is done about a lease that is found to be a leak.",
		.long_desc = "log: it is told in the server log; cancel: what its holder does is "
					 "cancelled, too; reclaim: the connection is taken away and closed.",
	},
	{.name = NULL},
};

StaticAssertDecl(lengthof(cp_options) <= 32, "CpGivenOptions has 32 bits");

const CpOption *
cp_option_find(const char *name)
{
	for (const CpOption *option = cp_options; option->name; option++)
	{
		if (strcmp(option->name, name) == 0)
			return option;
	}
	return NULL;
}

int *
cp_option_field(const CpOption *option, CpPoolOptions *options)
{
	return (int *) ((char *) options + option->offset);
}

/* ---- values ---- */

/* Throws; has a type so that callers can return it. */
static int
refuse(const CpOption *option, const char *text, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", option->name, text),
			 hint ? errhint("%s", _(hint)) : 0));
}

/* value as it was read: a double, so that nothing has overflowed yet */
static int
in_range(const CpOption *option, const char *text, double value)
{
	const char *unit = option->type == CP_OPTION_DURATION ? " ms" : "";

	if (!(value >= option->min && value <= option->max))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is outside the valid range for option \"%s\" (%d%s .. %d%s)",
						text, option->name, option->min, unit, option->max, unit)));
	/* less than a millisecond must not become 0, which means no limit */
	if (option->type == CP_OPTION_DURATION && value > 0)
		value = Max(value, 1);
	return (int) rint(value);
}

static int
parse_number(const CpOption *option, const char *text)
{
	const char *hint = NULL;
	int value;

	if (!parse_int(text, &value, 0, &hint))
		return refuse(option, text, hint);
	return in_range(option, text, value);
}

/*
 * Without a unit the number may be meant in seconds as well as in
 * milliseconds, so it is refused, unless it is 0; connect_timeout means what
 * it means in libpq: seconds, and no limit if it is not positive.
 */
static int
parse_duration(const CpOption *option, const char *text)
{
	const char *hint = NULL;
	double value;

	if (parse_real(text, &value, 0, NULL))
	{
		if (option->bare_seconds)
			return in_range(option, text, Max(value, 0) * MS_PER_SECOND);
		if (value != 0)
			return refuse(option, text,
						  gettext_noop("A duration needs a unit, as in \"30s\" or \"500ms\"."));
		return 0;
	}
	if (!parse_real(text, &value, GUC_UNIT_MS, &hint))
		return refuse(option, text, hint);
	return in_range(option, text, value);
}

static int
parse_choice(const CpOption *option, const char *text)
{
	const struct config_enum_entry *choice;
	StringInfoData names;

	for (choice = option->choices; choice->name; choice++)
	{
		if (pg_strcasecmp(choice->name, text) == 0)
			return choice->val;
	}

	initStringInfo(&names);
	for (choice = option->choices; choice->name; choice++)
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", choice->name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", option->name, text),
			 errhint("Available values: %s.", names.data)));
}

int
cp_option_parse(const CpOption *option, const char *text)
{
	switch (option->type)
	{
		case CP_OPTION_NUMBER:
			return parse_number(option, text);
		case CP_OPTION_DURATION:
			return parse_duration(option, text);
		case CP_OPTION_CHOICE:
			return parse_choice(option, text);
	}
	pg_unreachable();
}

/* ---- sets of options ---- */

void
cp_options_give(CpGivenOptions *given, const CpOption *option, const char *text)
{
	*cp_option_field(option, &given->values) = cp_option_parse(option, text);
	given->given |= UINT32_C(1) << (option - cp_options);
}

void
cp_options_overlay(CpPoolOptions *options, const CpGivenOptions *given)
{
	CpPoolOptions values = given->values;

	if (given->given == 0)
		return;
	for (int i = 0; cp_options[i].name; i++)
	{
		if (given->given & (UINT32_C(1) << i))
			*cp_option_field(&cp_options[i], options) =
				*cp_option_field(&cp_options[i], &values);
	}
}
