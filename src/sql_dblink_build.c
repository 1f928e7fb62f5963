/*
 * sql_dblink_build.c
 *		dblink_get_pkey and dblink_build_sql_...: the SQL that makes of a row
 *		elsewhere what a local row is.
 *
 * Runs in client backends.  Throws, with dblink's texts.  Knows local tables only;
 * must never have to do with a connection.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(conpool_dblink_get_pkey);
PG_FUNCTION_INFO_V1(conpool_dblink_build_sql_insert);
PG_FUNCTION_INFO_V1(conpool_dblink_build_sql_delete);
PG_FUNCTION_INFO_V1(conpool_dblink_build_sql_update);

/* the columns by which a row is found: indexes into the tuple descriptor */
typedef struct Key
{
	int count;
	int *columns;
} Key;

/* ---- the table ---- */

/*
 * Opens the table that a text names.  Its rows, and what its key is, are for
 * those who may read it.
 */
static Relation
open_table(text *name)
{
	RangeVar *range = makeRangeVarFromNameList(textToQualifiedNameList(name));
	Relation table = table_openrv(range, AccessShareLock);
	AclResult may = pg_class_aclcheck(RelationGetRelid(table), GetUserId(), ACL_SELECT);

	if (may != ACLCHECK_OK)
		aclcheck_error(may, get_relkind_objtype(table->rd_rel->relkind),
					   RelationGetRelationName(table));
	return table;
}

static void
close_table(Relation table)
{
	table_close(table, AccessShareLock);
}

/* As one writes it here: with its schema only where that is needed. */
static char *
table_name(Relation table)
{
	char *schema = NULL;

	if (!RelationIsVisible(RelationGetRelid(table)))
		schema = get_namespace_name(RelationGetNamespace(table));
	return quote_qualified_identifier(schema, RelationGetRelationName(table));
}

static const char *
column_name(Relation table, int column)
{
	return NameStr(TupleDescAttr(RelationGetDescr(table), column)->attname);
}

static bool
is_dropped(Relation table, int column)
{
	return TupleDescAttr(RelationGetDescr(table), column)->attisdropped;
}

/* ---- arguments ---- */

/* The column that is the n-th of those that have not been dropped, from 1. */
static int
nth_column(Relation table, int n)
{
	int left = n;

	for (int column = 0; column < RelationGetNumberOfAttributes(table); column++)
	{
		if (!is_dropped(table, column) && --left == 0)
			return column;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid attribute number %d", n)));
}

static Key
key_of(Relation table, int2vector *numbers, int count)
{
	Key key;

	if (numbers->ndim != 1 || numbers->dataoffset != 0 || numbers->elemtype != INT2OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("array is not a valid int2vector")));
	key.count = Min(count, numbers->dim1);
	if (key.count <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of key attributes must be > 0")));

	key.columns = palloc(key.count * sizeof(int));
	for (int i = 0; i < key.count; i++)
		key.columns[i] = nth_column(table, numbers->values[i]);
	return key;
}

/* Which of the key's columns that is, -1 if none. */
static int
key_position(const Key *key, int column)
{
	for (int i = 0; i < key->count; i++)
	{
		if (key->columns[i] == column)
			return i;
	}
	return -1;
}

/* A value for each column of the key, NULL for a null; *count is how many there are. */
static char **
key_values(ArrayType *array, int *count)
{
	Datum *elements;
	bool *nulls;
	char **values;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, count);
	values = palloc0(*count * sizeof(char *));
	for (int i = 0; i < *count; i++)
	{
		if (!nulls[i])
			values[i] = TextDatumGetCString(elements[i]);
	}
	return values;
}

static char **
source_key(const Key *key, ArrayType *array)
{
	int count;
	char **values = key_values(array, &count);

	if (count != key->count)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("source key array length must match number of key attributes")));
	return values;
}

static char **
target_key(const Key *key, ArrayType *array)
{
	int count;
	char **values = key_values(array, &count);

	if (count != key->count)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("target key array length must match number of key attributes")));
	return values;
}

/* ---- pieces of SQL ---- */

static void
append_value(StringInfo sql, const char *value)
{
	appendStringInfoString(sql, value ? quote_literal_cstr(value) : "NULL");
}

static void
append_condition(StringInfo sql, Relation table, const Key *key, char **values)
{
	appendStringInfoString(sql, " WHERE ");
	for (int i = 0; i < key->count; i++)
	{
		if (i > 0)
			appendStringInfoString(sql, " AND ");
		appendStringInfoString(sql, quote_identifier(column_name(table, key->columns[i])));
		if (values[i])
			appendStringInfo(sql, " = %s", quote_literal_cstr(values[i]));
		else
			appendStringInfoString(sql, " IS NULL");
	}
}

/* What a column has in the end: its part of the new key, or what the row has. */
static const char *
new_value(const Key *key, int column, char **row, char **target)
{
	int position = key_position(key, column);

	return position >= 0 ? target[position] : row[column];
}

/* ---- the row ---- */

/* With a place for dropped columns, so that its columns are those of the table. */
static char *
select_row(Relation table, const Key *key, char **values)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < RelationGetNumberOfAttributes(table); i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? "SELECT " : ", ",
						 is_dropped(table, i) ? "NULL" : quote_identifier(column_name(table, i)));
	appendStringInfo(&sql, " FROM %s", table_name(table));
	append_condition(&sql, table, key, values);
	return sql.data;
}

/* The values, as text, of the one row that has this key; NULL for a null. */
static char **
read_row(Relation table, const Key *key, char **values)
{
	int columns = RelationGetNumberOfAttributes(table);
	char **row = palloc0(columns * sizeof(char *));
	MemoryContext caller = CurrentMemoryContext;

	SPI_connect();
	if (SPI_execute(select_row(table, key, values), false, 2) != SPI_OK_SELECT ||
		SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("source row not found")));
	if (SPI_processed > 1)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("source criteria matched more than one record")));
	for (int i = 0; i < columns; i++)
	{
		char *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1);

		if (value)
			row[i] = MemoryContextStrdup(caller, value);
	}
	SPI_finish();
	return row;
}

/* ---- dblink_get_pkey ---- */

/* Puts the key's columns into the result, numbered from 1, as the index has them. */
static void
put_columns(ReturnSetInfo *result, Relation table, Form_pg_index index)
{
	for (int i = 0; i < index->indnkeyatts; i++)
	{
		Datum row[2];
		bool nulls[2] = {false, false};

		row[0] = Int32GetDatum(i + 1);
		row[1] = CStringGetTextDatum(column_name(table, index->indkey.values[i] - 1));
		tuplestore_putvalues(result->setResult, result->setDesc, row, nulls);
	}
}

/* dblink_get_pkey(relation text) RETURNS SETOF dblink_pkey_results (position, colname) */
Datum
conpool_dblink_get_pkey(PG_FUNCTION_ARGS)
{
	Relation table = open_table(PG_GETARG_TEXT_PP(0));
	ListCell *cell;

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, RelationGetIndexList(table))
	{
		HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
		Form_pg_index index;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for index %u", lfirst_oid(cell));
		index = (Form_pg_index) GETSTRUCT(tuple);
		if (index->indisprimary)
			put_columns((ReturnSetInfo *) fcinfo->resultinfo, table, index);
		ReleaseSysCache(tuple);
	}
	close_table(table);
	return (Datum) 0;
}

/* ---- dblink_build_sql_... ---- */

static char *
insert_of(Relation table, const Key *key, char **row, char **target)
{
	StringInfoData names;
	StringInfoData values;

	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < RelationGetNumberOfAttributes(table); i++)
	{
		if (is_dropped(table, i))
			continue;
		if (names.len > 0)
		{
			appendStringInfoChar(&names, ',');
			appendStringInfoChar(&values, ',');
		}
		appendStringInfoString(&names, quote_identifier(column_name(table, i)));
		append_value(&values, new_value(key, i, row, target));
	}
	return psprintf("INSERT INTO %s(%s) VALUES(%s)", table_name(table), names.data, values.data);
}

static char *
update_of(Relation table, const Key *key, char **row, char **target)
{
	StringInfoData sql;
	const char *separator = " SET ";

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s", table_name(table));
	for (int i = 0; i < RelationGetNumberOfAttributes(table); i++)
	{
		if (is_dropped(table, i))
			continue;
		appendStringInfo(&sql, "%s%s = ", separator, quote_identifier(column_name(table, i)));
		append_value(&sql, new_value(key, i, row, target));
		separator = ", ";
	}
	append_condition(&sql, table, key, target);
	return sql.data;
}

static char *
delete_of(Relation table, const Key *key, char **target)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM %s", table_name(table));
	append_condition(&sql, table, key, target);
	return sql.data;
}

/* (relation text, columns int2vector, count int, source_key text[], target_key text[]) */
Datum
conpool_dblink_build_sql_insert(PG_FUNCTION_ARGS)
{
	Relation table = open_table(PG_GETARG_TEXT_PP(0));
	Key key = key_of(table, (int2vector *) PG_GETARG_POINTER(1), PG_GETARG_INT32(2));
	char **source = source_key(&key, PG_GETARG_ARRAYTYPE_P(3));
	char **target = target_key(&key, PG_GETARG_ARRAYTYPE_P(4));
	char *sql = insert_of(table, &key, read_row(table, &key, source), target);

	close_table(table);
	PG_RETURN_TEXT_P(cstring_to_text(sql));
}

/* the same arguments */
Datum
conpool_dblink_build_sql_update(PG_FUNCTION_ARGS)
{
	Relation table = open_table(PG_GETARG_TEXT_PP(0));
	Key key = key_of(table, (int2vector *) PG_GETARG_POINTER(1), PG_GETARG_INT32(2));
	char **source = source_key(&key, PG_GETARG_ARRAYTYPE_P(3));
	char **target = target_key(&key, PG_GETARG_ARRAYTYPE_P(4));
	char *sql = update_of(table, &key, read_row(table, &key, source), target);

	close_table(table);
	PG_RETURN_TEXT_P(cstring_to_text(sql));
}

/* the same without the source's key: what the row is does not matter */
Datum
conpool_dblink_build_sql_delete(PG_FUNCTION_ARGS)
{
	Relation table = open_table(PG_GETARG_TEXT_PP(0));
	Key key = key_of(table, (int2vector *) PG_GETARG_POINTER(1), PG_GETARG_INT32(2));
	char *sql = delete_of(table, &key, target_key(&key, PG_GETARG_ARRAYTYPE_P(3)));

	close_table(table);
	PG_RETURN_TEXT_P(cstring_to_text(sql));
}
