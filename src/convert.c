/*
 * convert.c
 *		Settings in force while values are written to and read from text, and
 *		the check that a text is valid.
 *
 * Runs in client backends.  The remote's side is fixed by the startup options
 * of every connection (conninfo.c); here the local side is made to fit, and
 * only where it does not fit already: a nest of settings costs more than the
 * conversion of a short row.  Never changes a setting beyond cp_convert_end.
 */
#include "postgres.h"

#include "convert.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/xml.h"

/* ---- types ---- */

int
cp_convert_needs(Oid type)
{
	Oid element;

	switch (type)
	{
			/* nearly all columns are one of these: spare them the catalog */
		case BOOLOID:
		case BYTEAOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case UNKNOWNOID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
		case UUIDOID:
		case JSONOID:
		case JSONBOID:
		case INT4ARRAYOID:
		case INT8ARRAYOID:
		case TEXTARRAYOID:
			return 0;

		case MONEYOID:
			return CP_CONVERT_MONEY;

		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGTYPEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
			return CP_CONVERT_NAMES;
	}

	element = get_element_type(type);
	if (OidIsValid(element))
		return cp_convert_needs(element);

	/* whatever a composite, domain or range is made of */
	switch (get_typtype(type))
	{
		case TYPTYPE_BASE:
		case TYPTYPE_ENUM:
			return 0;
		default:
			return CP_CONVERT_MONEY | CP_CONVERT_NAMES;
	}
}

/* ---- settings ---- */

/* Sets one setting until cp_convert_end, opening the nest if need be. */
static void
set_meanwhile(int *nest_level, const char *name, const char *value)
{
	if (*nest_level < 0)
		*nest_level = NewGUCNestLevel();
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

static void
set_monetary(int *nest_level)
{
	/* not its variable: that one's header needs those of ICU */
	if (strcmp(GetConfigOption("lc_monetary", false, false), "C") != 0)
		set_meanwhile(nest_level, "lc_monetary", "C");
}

int
cp_convert_begin_output(int needs)
{
	int nest_level = -1;

	if (DateStyle != USE_ISO_DATES)
		set_meanwhile(&nest_level, "datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		set_meanwhile(&nest_level, "intervalstyle", "postgres");
	/* from 1 on a float is written so that it reads back bit for bit */
	if (extra_float_digits < 1)
		set_meanwhile(&nest_level, "extra_float_digits", "3");
	if (needs & CP_CONVERT_MONEY)
		set_monetary(&nest_level);
	/* so that every object outside pg_catalog is written with its schema */
	if (needs & CP_CONVERT_NAMES)
		set_meanwhile(&nest_level, "search_path", "pg_catalog");
	return nest_level;
}

/*
 * The order of the fields in dates that a server prints in a style other than
 * ISO.  YMD is for reading only; German dates begin with the day always.
 */
static const char *
printed_order(const char *datestyle)
{
	return strncmp(datestyle, "German", 6) == 0 || strstr(datestyle, "DMY") != NULL ?
		"DMY" :
		"MDY";
}

int
cp_convert_begin_input(int needs, PGconn *conn)
{
	int nest_level = -1;
	const char *remote;

	/*
	 * Dates in ISO style read the same under any local DateStyle.  In another
	 * one, which the user must have set on a lease of his own, the order of
	 * the fields must be known.
	 */
	remote = PQparameterStatus(conn, "DateStyle");
	if (remote != NULL && strncmp(remote, "ISO", 3) != 0)
		set_meanwhile(&nest_level, "datestyle", printed_order(remote));

	remote = PQparameterStatus(conn, "IntervalStyle");
	if (remote == NULL || strcmp(remote, "postgres") == 0)
	{
		if (IntervalStyle != INTSTYLE_POSTGRES)
			set_meanwhile(&nest_level, "intervalstyle", "postgres");
	}
	else
		set_meanwhile(&nest_level, "intervalstyle", remote);

	/* these change what is read, whatever the remote's settings are */
	if (!Array_nulls)
		set_meanwhile(&nest_level, "array_nulls", "on");
	if (xmloption != XMLOPTION_CONTENT)
		set_meanwhile(&nest_level, "xmloption", "content");
	if (needs & CP_CONVERT_MONEY)
		set_monetary(&nest_level);
	return nest_level;
}

void
cp_convert_end(int nest_level)
{
	if (nest_level >= 0)
		AtEOXact_GUC(true, nest_level);
}

/* ---- encoding ---- */

static bool
is_ascii(const char *value, int len)
{
	uint64 bits = 0;

	for (; len >= (int) sizeof(uint64); value += sizeof(uint64), len -= sizeof(uint64))
	{
		uint64 chunk;

		memcpy(&chunk, value, sizeof(chunk));
		bits |= chunk;
	}
	while (len-- > 0)
		bits |= (uint64) *value++;

	/* a char may be signed, but then its high bits are those of a byte */
	return (bits & UINT64CONST(0x8080808080808080)) == 0;
}

/*
 * libpq's client_encoding only says what the remote promised; the input
 * functions of most types believe it.
 */
void
cp_convert_verify(const char *value, int len)
{
	if (!is_ascii(value, len))
		(void) pg_verify_mbstr(GetDatabaseEncoding(), value, len, false);
}
