/*
 * options.h
 *		The options of a pool: what there is, how a value is written, and what
 *		is in force when nothing is said.
 *
 * Runs in any process.  Used by guc.c, which makes a setting of each, by
 * target.c and by the validator of the foreign data wrapper.  Knows nothing of
 * libpq, catalogs or shared memory.
 */
#ifndef CP_OPTIONS_H
#define CP_OPTIONS_H

#include "utils/guc.h"

typedef enum CpScope
{
	CP_SCOPE_STATEMENT,
	CP_SCOPE_TRANSACTION,
	CP_SCOPE_SESSION
} CpScope;

typedef enum CpResetMode
{
	CP_RESET_AUTO,
	CP_RESET_ALWAYS,
	CP_RESET_NEVER
} CpResetMode;

typedef enum CpLeakAction
{
	CP_LEAK_LOG,
	CP_LEAK_CANCEL,
	CP_LEAK_RECLAIM
} CpLeakAction;

/* The options in force; durations in milliseconds, 0 = none or never. */
typedef struct CpPoolOptions
{
	int min_size;
	int max_size;
	int max_server_size; /* over all pools of the server, 0 = no limit */
	int max_waiters;	 /* -1 = no limit, 0 = never wait */
	int connect_concurrency;
	int checkout_timeout;
	int connect_timeout;
	int idle_timeout;
	int max_lifetime;
	int validate_interval;
	int leak_threshold;
	CpScope pool_mode;
	CpResetMode reset;
	CpLeakAction leak_action;
} CpPoolOptions;

typedef enum CpOptionType
{
	CP_OPTION_NUMBER,
	CP_OPTION_DURATION, /* milliseconds, written with a unit */
	CP_OPTION_CHOICE	/* one of several words */
} CpOptionType;

/* What is known of one option. */
typedef struct CpOption
{
	const char *name;
	CpOptionType type;
	size_t offset; /* of its int in CpPoolOptions */
	int boot_value;
	int min;
	int max;
	const struct config_enum_entry *choices;
	bool on_mapping; /* may stand on a user mapping as well */
	/* a number without unit is seconds, as in libpq, and not refused */
	bool bare_seconds;
	GucContext context; /* of the setting conpool.<name> */
	const char *short_desc;
	const char *long_desc;
} CpOption;

/* all of them; the last one has no name */
extern const CpOption cp_options[];

/* Options that were written down somewhere, to lie over the settings. */
typedef struct CpGivenOptions
{
	uint32 given; /* bit i: cp_options[i] is given */
	CpPoolOptions values;
} CpGivenOptions;

/* NULL if there is no option of that name */
extern const CpOption *cp_option_find(const char *name);

/* the option's place in a set of options */
extern int *cp_option_field(const CpOption *option, CpPoolOptions *options);

/*
 * The value of the option that the text stands for.  Throws 22023 if it does
 * not stand for any.
 */
extern int cp_option_parse(const CpOption *option, const char *text);

/* Adds an option to those given, in place of an earlier value; throws 22023. */
extern void cp_options_give(CpGivenOptions *given, const CpOption *option,
							const char *text);

/* Lays the given options over *options. */
extern void cp_options_overlay(CpPoolOptions *options, const CpGivenOptions *given);

#endif /* CP_OPTIONS_H */
