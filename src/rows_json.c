/*
 * rows_json.c
 *		Rows of a remote result into a tuplestore of jsonb, one object each.
 *
 * Runs in client backends.  What a value becomes is decided by the remote's
 * type of its column, where that is built in: numbers become numbers (but NaN
 * and the infinities, which JSON has not, strings), booleans booleans, json
 * and jsonb what they hold, arrays of any dimension arrays of the same; all
 * else is a string with the text the remote sent.  When column names repeat
 * the last column wins, as in jsonb itself.
 */
#include "postgres.h"

#include "rows.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "message.h"

typedef enum JsonKind
{
	JSON_STRING,
	JSON_NUMBER,
	JSON_BOOL,
	JSON_JSON
} JsonKind;

/* A column of the remote result. */
typedef struct JsonColumn
{
	const char *name;
	JsonKind kind; /* of an array: of its elements */
	bool is_array;
} JsonColumn;

typedef struct JsonForm
{
	CpForm form;
	int count;
	JsonColumn *columns;
	FmgrInfo text_array_input;
	MemoryContext set_context; /* of columns, reset for each result set */
	const JsonColumn *current; /* being converted */
} JsonForm;

typedef struct JsonRows
{
	CpRows rows;
	CpForm *form;
} JsonRows;

/* ---- columns ---- */

static JsonKind
kind_of(Oid type)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			return JSON_NUMBER;
		case BOOLOID:
			return JSON_BOOL;
		case JSONOID:
		case JSONBOID:
			return JSON_JSON;
		default:
			return JSON_STRING;
	}
}

/*
 * The element type, if the text of this type is an array in braces with
 * commas; else InvalidOid.  (The vectors have no braces, boxes semicolons.)
 */
static Oid
element_of(Oid type)
{
	Oid element;

	if (type >= FirstGenbkiObjectId || type == INT2VECTOROID || type == OIDVECTOROID)
		return InvalidOid;
	element = get_element_type(type);
	return element == BOXOID ? InvalidOid : element;
}

static void
describe_column(JsonColumn *column, PGresult *fields, int i)
{
	Oid type = PQftype(fields, i);

	column->name = pstrdup(cp_message_valid_text(PQfname(fields, i)));
	column->kind = kind_of(type);
	if (column->kind == JSON_STRING)
	{
		Oid element = element_of(type);

		column->is_array = OidIsValid(element);
		column->kind = kind_of(element);
	}
}

static void
describe_columns(CpForm *form, PGresult *fields)
{
	JsonForm *json = (JsonForm *) form;
	MemoryContext old;

	MemoryContextReset(json->set_context);
	old = MemoryContextSwitchTo(json->set_context);
	json->count = PQnfields(fields);
	json->columns = palloc0(json->count * sizeof(JsonColumn));
	for (int i = 0; i < json->count; i++)
		describe_column(&json->columns[i], fields, i);
	MemoryContextSwitchTo(old);
}

/* ---- values ---- */

static void
push_string(JsonbParseState **state, JsonbIteratorToken as, const char *text)
{
	JsonbValue value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, text);
	value.val.string.len = strlen(text);
	pushJsonbValue(state, as, &value);
}

static void
push_number(JsonbParseState **state, JsonbIteratorToken as, const char *text)
{
	JsonbValue value;

	/* NaN, Infinity, -Infinity: no number has an n */
	if (strpbrk(text, "nN") != NULL)
	{
		push_string(state, as, text);
		return;
	}
	value.type = jbvNumeric;
	value.val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in,
															CStringGetDatum(text),
															ObjectIdGetDatum(InvalidOid),
															Int32GetDatum(-1)));
	pushJsonbValue(state, as, &value);
}

/* Puts what a json text holds in its place. */
static void
push_json(JsonbParseState **state, JsonbIteratorToken as, const char *text)
{
	Jsonb *jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	JsonbIterator *it = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue value;

	if (JB_ROOT_IS_SCALAR(jsonb))
	{
		/* an array of one element that is not to be seen */
		(void) JsonbIteratorNext(&it, &value, false);
		(void) JsonbIteratorNext(&it, &value, false);
		pushJsonbValue(state, as, &value);
		return;
	}
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		bool has_value = token == WJB_KEY || token == WJB_VALUE || token == WJB_ELEM;

		pushJsonbValue(state, token, has_value ? &value : NULL);
	}
}

/* One value in its text form, NULL = SQL NULL. */
static void
push_scalar(JsonbParseState **state, JsonbIteratorToken as, JsonKind kind, const char *text)
{
	JsonbValue value;

	if (text == NULL)
	{
		value.type = jbvNull;
		pushJsonbValue(state, as, &value);
		return;
	}
	switch (kind)
	{
		case JSON_NUMBER:
			push_number(state, as, text);
			break;
		case JSON_BOOL:
			value.type = jbvBool;
			value.val.boolean = *text == 't';
			pushJsonbValue(state, as, &value);
			break;
		case JSON_JSON:
			push_json(state, as, text);
			break;
		case JSON_STRING:
			push_string(state, as, text);
			break;
	}
}

/* What is left of an array to be pushed. */
typedef struct Elements
{
	JsonKind kind;
	int ndim;
	int *dims;
	Datum *values; /* text */
	bool *nulls;
	int next;
} Elements;

static void
push_dimension(JsonbParseState **state, Elements *elements, int dim)
{
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < elements->dims[dim]; i++)
	{
		if (dim + 1 < elements->ndim)
			push_dimension(state, elements, dim + 1);
		else
		{
			int n = elements->next++;

			push_scalar(state, WJB_ELEM, elements->kind,
						elements->nulls[n] ? NULL : TextDatumGetCString(elements->values[n]));
		}
	}
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/* An array: read as text[], which gives the text of each element. */
static void
push_array(JsonForm *json, JsonbParseState **state, JsonKind kind, char *text)
{
	ArrayType *array;
	Elements elements = {.kind = kind};
	int nothing = 0;
	int count;

	array = DatumGetArrayTypeP(InputFunctionCall(&json->text_array_input, text, TEXTOID, -1));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT,
					  &elements.values, &elements.nulls, &count);
	elements.ndim = ARR_NDIM(array);
	/* an empty array has no dimensions at all */
	elements.dims = elements.ndim > 0 ? ARR_DIMS(array) : &nothing;
	push_dimension(state, &elements, 0);
}

/* ---- rows ---- */

static void
column_context(void *arg)
{
	const JsonColumn *column = ((JsonForm *) arg)->current;

	if (column != NULL)
		errcontext("column \"%s\" of the result", column->name);
}

static Jsonb *
row_object(JsonForm *json, PGresult *result, int row)
{
	JsonbParseState *state = NULL;
	JsonbValue *object;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < json->count; i++)
	{
		const JsonColumn *column = &json->columns[i];
		char *value;

		json->current = column;
		value = cp_rows_value(result, row, i);
		push_string(&state, WJB_KEY, column->name);
		if (column->is_array && value != NULL)
			push_array(json, &state, column->kind, value);
		else
			push_scalar(&state, WJB_VALUE, column->kind, value);
	}
	json->current = NULL;
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(object);
}

static Datum
make_json(CpForm *form, PGresult *result, int row, bool *is_null)
{
	JsonForm *json = (JsonForm *) form;
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = column_context,
		.arg = json,
	};
	Datum value;

	error_context_stack = &context;
	value = JsonbPGetDatum(row_object(json, result, row));
	error_context_stack = context.previous;
	*is_null = false;
	return value;
}

CpForm *
cp_form_json(void)
{
	JsonForm *json = palloc0(sizeof(JsonForm));

	json->form.begin = describe_columns;
	json->form.make = make_json;
	json->set_context = AllocSetContextCreate(CurrentMemoryContext, "conpool json columns",
											  ALLOCSET_SMALL_SIZES);
	fmgr_info(F_ARRAY_IN, &json->text_array_input);
	return &json->form;
}

/* ---- the sink ---- */

static void
begin_json(CpSink *sink, PGconn *conn, PGresult *fields)
{
	JsonRows *rows = (JsonRows *) sink;

	rows->form->begin(rows->form, fields);
	cp_rows_begin_set(&rows->rows, conn, rows->form->needs);
}

static void
put_json(CpSink *sink, PGresult *result, int row)
{
	JsonRows *rows = (JsonRows *) sink;
	MemoryContext old = MemoryContextSwitchTo(rows->rows.row_context);
	bool is_null;
	Datum value = rows->form->make(rows->form, result, row, &is_null);

	tuplestore_putvalues(rows->rows.store, rows->rows.desc, &value, &is_null);
	MemoryContextSwitchTo(old);
	MemoryContextReset(rows->rows.row_context);
}

CpRows *
cp_rows_json(FunctionCallInfo fcinfo)
{
	JsonRows *rows = palloc0(sizeof(JsonRows));

	cp_rows_require_set(fcinfo);
	cp_rows_init(&rows->rows, fcinfo, cp_rows_scalar_desc("data", JSONBOID));
	rows->form = cp_form_json();
	rows->rows.sink.begin = begin_json;
	rows->rows.sink.row = put_json;
	return &rows->rows;
}
