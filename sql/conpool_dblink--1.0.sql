/* sql/conpool_dblink--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION conpool_dblink" to load this file. \quit

-- Names, arguments and properties are those of dblink 1.2, so that calls need no
-- change.  What conpool_dblink--dblink--1.0.sql makes of the functions of dblink
-- must be the same.

---------------------------------------------------------------------------
-- Connections: a lease of scope session each, given back by dblink_disconnect
---------------------------------------------------------------------------

CREATE FUNCTION dblink_connect(text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_connect';

COMMENT ON FUNCTION dblink_connect(text) IS
'opens the unnamed connection: to a server, or by a connection string';

CREATE FUNCTION dblink_connect(text, text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_connect';

COMMENT ON FUNCTION dblink_connect(text, text) IS
'opens a connection of that name: to a server, or by a connection string';

CREATE FUNCTION dblink_connect_u(text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED SECURITY DEFINER
AS 'MODULE_PATHNAME', 'conpool_dblink_connect';

COMMENT ON FUNCTION dblink_connect_u(text) IS
'dblink_connect(text) that asks for no password of who is no superuser';

CREATE FUNCTION dblink_connect_u(text, text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED SECURITY DEFINER
AS 'MODULE_PATHNAME', 'conpool_dblink_connect';

COMMENT ON FUNCTION dblink_connect_u(text, text) IS
'dblink_connect(text, text) that asks for no password of who is no superuser';

REVOKE ALL ON FUNCTION dblink_connect_u(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION dblink_connect_u(text, text) FROM PUBLIC;

CREATE FUNCTION dblink_disconnect()
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_disconnect';

COMMENT ON FUNCTION dblink_disconnect() IS
'gives the unnamed connection back';

CREATE FUNCTION dblink_disconnect(text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_disconnect';

COMMENT ON FUNCTION dblink_disconnect(text) IS
'gives the connection of that name back';

CREATE FUNCTION dblink_get_connections()
RETURNS text[]
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_get_connections';

COMMENT ON FUNCTION dblink_get_connections() IS
'the names of all open connections';

---------------------------------------------------------------------------
-- Queries: on an open connection, or on one that is borrowed for the call
---------------------------------------------------------------------------

CREATE FUNCTION dblink(text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_record';

COMMENT ON FUNCTION dblink(text) IS
'runs SQL on the unnamed connection and returns its rows; needs a column definition list';

CREATE FUNCTION dblink(text, boolean)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_record';

COMMENT ON FUNCTION dblink(text, boolean) IS
'runs SQL on the unnamed connection and returns its rows; false: a remote error becomes a notice';

CREATE FUNCTION dblink(text, text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_record';

COMMENT ON FUNCTION dblink(text, text) IS
'runs SQL on a named connection, a server or by a connection string and returns its rows; needs a column definition list';

CREATE FUNCTION dblink(text, text, boolean)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_record';

COMMENT ON FUNCTION dblink(text, text, boolean) IS
'runs SQL on a named connection, a server or by a connection string and returns its rows; false: a remote error becomes a notice';

CREATE FUNCTION dblink_exec(text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_exec';

COMMENT ON FUNCTION dblink_exec(text) IS
'runs SQL on the unnamed connection and returns its status';

CREATE FUNCTION dblink_exec(text, boolean)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_exec';

COMMENT ON FUNCTION dblink_exec(text, boolean) IS
'runs SQL on the unnamed connection and returns its status; false: a remote error becomes a notice';

CREATE FUNCTION dblink_exec(text, text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_exec';

COMMENT ON FUNCTION dblink_exec(text, text) IS
'runs SQL on a named connection, a server or by a connection string and returns its status';

CREATE FUNCTION dblink_exec(text, text, boolean)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_exec';

COMMENT ON FUNCTION dblink_exec(text, text, boolean) IS
'runs SQL on a named connection, a server or by a connection string and returns its status; false: a remote error becomes a notice';

---------------------------------------------------------------------------
-- Cursors
---------------------------------------------------------------------------

CREATE FUNCTION dblink_open(text, text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_open';

COMMENT ON FUNCTION dblink_open(text, text) IS
'opens a cursor on the unnamed connection';

CREATE FUNCTION dblink_open(text, text, boolean)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_open';

COMMENT ON FUNCTION dblink_open(text, text, boolean) IS
'opens a cursor on the unnamed connection; false: a remote error becomes a notice';

CREATE FUNCTION dblink_open(text, text, text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_open';

COMMENT ON FUNCTION dblink_open(text, text, text) IS
'opens a cursor on the connection of that name';

CREATE FUNCTION dblink_open(text, text, text, boolean)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_open';

COMMENT ON FUNCTION dblink_open(text, text, text, boolean) IS
'opens a cursor on the connection of that name; false: a remote error becomes a notice';

CREATE FUNCTION dblink_fetch(text, int)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_fetch';

COMMENT ON FUNCTION dblink_fetch(text, int) IS
'fetches at most that many rows of a cursor on the unnamed connection';

CREATE FUNCTION dblink_fetch(text, int, boolean)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_fetch';

COMMENT ON FUNCTION dblink_fetch(text, int, boolean) IS
'fetches at most that many rows of a cursor on the unnamed connection; false: a remote error becomes a notice';

CREATE FUNCTION dblink_fetch(text, text, int)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_fetch';

COMMENT ON FUNCTION dblink_fetch(text, text, int) IS
'fetches at most that many rows of a cursor on the connection of that name';

CREATE FUNCTION dblink_fetch(text, text, int, boolean)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_fetch';

COMMENT ON FUNCTION dblink_fetch(text, text, int, boolean) IS
'fetches at most that many rows of a cursor on the connection of that name; false: a remote error becomes a notice';

CREATE FUNCTION dblink_close(text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_close';

COMMENT ON FUNCTION dblink_close(text) IS
'closes a cursor on the unnamed connection';

CREATE FUNCTION dblink_close(text, boolean)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_close';

COMMENT ON FUNCTION dblink_close(text, boolean) IS
'closes a cursor on the unnamed connection; false: a remote error becomes a notice';

CREATE FUNCTION dblink_close(text, text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_close';

COMMENT ON FUNCTION dblink_close(text, text) IS
'closes a cursor on the connection of that name';

CREATE FUNCTION dblink_close(text, text, boolean)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_close';

COMMENT ON FUNCTION dblink_close(text, text, boolean) IS
'closes a cursor on the connection of that name; false: a remote error becomes a notice';

---------------------------------------------------------------------------
-- Queries that are not waited for
---------------------------------------------------------------------------

CREATE FUNCTION dblink_send_query(text, text)
RETURNS int
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_send_query';

COMMENT ON FUNCTION dblink_send_query(text, text) IS
'sends SQL over the connection of that name and returns at once: 1 if it was sent';

CREATE FUNCTION dblink_is_busy(text)
RETURNS int
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_is_busy';

COMMENT ON FUNCTION dblink_is_busy(text) IS
'1 if dblink_get_result would have to wait, else 0';

CREATE FUNCTION dblink_get_result(text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_get_result';

COMMENT ON FUNCTION dblink_get_result(text) IS
'the rows of the next result of what was sent, none after the last; needs a column definition list';

CREATE FUNCTION dblink_get_result(text, boolean)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_get_result';

COMMENT ON FUNCTION dblink_get_result(text, boolean) IS
'the rows of the next result of what was sent, none after the last; false: a remote error becomes a notice';

CREATE FUNCTION dblink_cancel_query(text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_cancel_query';

COMMENT ON FUNCTION dblink_cancel_query(text) IS
'stops what runs on the connection of that name: OK, or why not';

CREATE FUNCTION dblink_error_message(text)
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_error_message';

COMMENT ON FUNCTION dblink_error_message(text) IS
'the last error of the connection of that name, OK if there was none';

CREATE FUNCTION dblink_get_notify(
	OUT notify_name text,
	OUT be_pid int,
	OUT extra text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_get_notify';

COMMENT ON FUNCTION dblink_get_notify() IS
'the notifications that the unnamed connection has got';

CREATE FUNCTION dblink_get_notify(
	conname text,
	OUT notify_name text,
	OUT be_pid int,
	OUT extra text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_get_notify';

COMMENT ON FUNCTION dblink_get_notify(text) IS
'the notifications that the connection of that name has got';

---------------------------------------------------------------------------
-- Statements for a copy of a local row
---------------------------------------------------------------------------

CREATE TYPE dblink_pkey_results AS (position int, colname text);

COMMENT ON TYPE dblink_pkey_results IS 'a column of a primary key, for dblink_get_pkey()';

CREATE FUNCTION dblink_get_pkey(text)
RETURNS SETOF dblink_pkey_results
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_get_pkey';

COMMENT ON FUNCTION dblink_get_pkey(text) IS
'the columns of the primary key of a local table, in its order';

CREATE FUNCTION dblink_build_sql_insert(text, int2vector, int, text[], text[])
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_build_sql_insert';

COMMENT ON FUNCTION dblink_build_sql_insert(text, int2vector, int, text[], text[]) IS
'the INSERT of a local row, under another key';

CREATE FUNCTION dblink_build_sql_delete(text, int2vector, int, text[])
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_build_sql_delete';

COMMENT ON FUNCTION dblink_build_sql_delete(text, int2vector, int, text[]) IS
'the DELETE of the row with that key';

CREATE FUNCTION dblink_build_sql_update(text, int2vector, int, text[], text[])
RETURNS text
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_build_sql_update';

COMMENT ON FUNCTION dblink_build_sql_update(text, int2vector, int, text[], text[]) IS
'the UPDATE that makes the row with another key like a local one';

CREATE FUNCTION dblink_current_query()
RETURNS text
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_dblink_current_query';

COMMENT ON FUNCTION dblink_current_query() IS
'current_query() by its old name';

---------------------------------------------------------------------------
-- Servers of dblink_fdw.  A wrapper of that name that is there already is kept as
-- it is, with its validator, and does not become part of the extension.
---------------------------------------------------------------------------

DO $$
DECLARE
	has_wrapper boolean := EXISTS (SELECT FROM pg_catalog.pg_foreign_data_wrapper
								   WHERE fdwname = 'dblink_fdw');
	has_validator boolean := pg_catalog.to_regprocedure(pg_catalog.format(
		'%I.dblink_fdw_validator(text[], oid)', pg_catalog.current_schema())) IS NOT NULL;
BEGIN
	IF NOT (has_wrapper AND has_validator) THEN
		CREATE FUNCTION dblink_fdw_validator(options text[], catalog oid)
		RETURNS void
		LANGUAGE C VOLATILE STRICT PARALLEL SAFE
		AS 'MODULE_PATHNAME', 'conpool_dblink_fdw_validator';

		COMMENT ON FUNCTION dblink_fdw_validator(text[], oid) IS
		'checks the options of servers and user mappings of the foreign-data wrapper dblink_fdw';
	END IF;

	IF NOT has_wrapper THEN
		CREATE FOREIGN DATA WRAPPER dblink_fdw
			VALIDATOR dblink_fdw_validator;

		COMMENT ON FOREIGN DATA WRAPPER dblink_fdw IS
		'servers for the functions of dblink; there are no foreign tables';
	END IF;
END
$$;
