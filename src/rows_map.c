/*
 * rows_map.c
 *		Rows of many servers, as they come, into one tuplestore.
 *
 * Runs in client backends.  map.c calls the sinks in turn while their statements run,
 * and says when it goes on to another one: the settings under which values are read are
 * those of the server they come from.  Never reads from a connection itself.
 */
#include "postgres.h"

#include "rows_map.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "convert.h"
#include "rows.h"
#include "secret.h"

/* columns of the rows we make; the last two only if errors are rows */
enum
{
	COLUMN_SERVER,
	COLUMN_DATA,
	COLUMN_SQLSTATE,
	COLUMN_ERROR,
	COLUMNS
};

struct CpMapRows
{
	CpRows rows; /* but for its sink */
	CpMapForm form;
};

typedef struct MapSink
{
	CpSink sink;
	CpMapRows *all;
	Datum server;
	CpForm *form;
	PGconn *conn;	   /* of the result set that has begun */
	bool has_settings; /* they are in force */
	int nest_level;	   /* of them, see convert.h */
} MapSink;

static void
undo_settings(MapSink *sink)
{
	if (sink->has_settings)
		cp_convert_end(sink->nest_level);
	sink->has_settings = false;
}

static void
begin_set(CpSink *any, PGconn *conn, PGresult *fields)
{
	MapSink *sink = (MapSink *) any;

	/* an earlier statement of the same text may have changed the remote's */
	undo_settings(sink);
	sink->conn = conn;
	sink->form->begin(sink->form, fields);
}

static void
put_values(CpMapRows *all, Datum *values, bool *nulls)
{
	tuplestore_putvalues(all->rows.store, all->rows.desc, values, nulls);
}

static void
put_row(CpSink *any, PGresult *result, int row)
{
	MapSink *sink = (MapSink *) any;
	MemoryContext old = MemoryContextSwitchTo(sink->all->rows.row_context);
	Datum values[COLUMNS] = {[COLUMN_SERVER] = sink->server};
	bool nulls[COLUMNS] = {[COLUMN_SQLSTATE] = true, [COLUMN_ERROR] = true};

	if (!sink->has_settings)
		sink->nest_level = cp_convert_begin_input(sink->form->needs, sink->conn);
	sink->has_settings = true;
	values[COLUMN_DATA] = sink->form->make(sink->form, result, row, &nulls[COLUMN_DATA]);
	put_values(sink->all, values, nulls);

	MemoryContextSwitchTo(old);
	MemoryContextReset(sink->all->rows.row_context);
}

void
cp_map_rows_pause(CpSink *sink)
{
	undo_settings((MapSink *) sink);
}

void
cp_map_rows_failed(CpSink *any, int sqlstate, const char *message)
{
	MapSink *sink = (MapSink *) any;
	MemoryContext old = MemoryContextSwitchTo(sink->all->rows.row_context);
	Datum values[COLUMNS] = {
		[COLUMN_SERVER] = sink->server,
		[COLUMN_SQLSTATE] = CStringGetTextDatum(unpack_sql_state(sqlstate)),
		[COLUMN_ERROR] = CStringGetTextDatum(message),
	};
	bool nulls[COLUMNS] = {[COLUMN_DATA] = true};

	put_values(sink->all, values, nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(sink->all->rows.row_context);
}

CpMapRows *
cp_map_rows(FunctionCallInfo fcinfo, CpMapForm form)
{
	CpMapRows *rows = palloc0(sizeof(CpMapRows));
	TupleDesc desc;

	cp_rows_require_set(fcinfo);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	cp_rows_init(&rows->rows, fcinfo, desc);
	rows->form = form;
	return rows;
}

CpSink *
cp_map_rows_sink(CpMapRows *rows, const char *server)
{
	MapSink *sink = palloc0(sizeof(MapSink));

	sink->sink.begin = begin_set;
	sink->sink.row = put_row;
	sink->all = rows;
	/* a connection string may hold a password, and who gets the rows need not know it */
	sink->server = CStringGetTextDatum(cp_secret_mask(server));
	sink->form = rows->form == CP_MAP_JSON ?
		cp_form_json() :
		cp_form_typed(TupleDescAttr(rows->rows.desc, COLUMN_DATA)->atttypid);
	return &sink->sink;
}

void
cp_map_rows_end(CpMapRows *rows)
{
	cp_rows_end(&rows->rows);
}
