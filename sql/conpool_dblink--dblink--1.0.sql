/* sql/conpool_dblink--dblink--1.0.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION conpool_dblink UPDATE TO '1.0'" to load this file. \quit

-- Has the functions that were dblink's call this library.  They are replaced, so that
-- what depends on them, what was granted on them and how they were altered stays.
DO $$
DECLARE
	member record;
BEGIN
	FOR member IN
		SELECT p.oid, prosrc FROM pg_catalog.pg_depend
			JOIN pg_catalog.pg_proc AS p ON p.oid = objid
		-- no = of pg_catalog is for just these types: whoever may create one in the
		-- schema of the extension would have it called here
		WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass AND
			refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass AND
			deptype = 'e' AND
			refobjid = (SELECT oid FROM pg_catalog.pg_extension
						WHERE extname = 'conpool_dblink')
	LOOP
		EXECUTE pg_catalog.regexp_replace(
			pg_catalog.pg_get_functiondef(member.oid), '\nAS [^\n]*\n*$',
			pg_catalog.format(e'\nAS %L, %L', 'MODULE_PATHNAME', 'conpool_' || member.prosrc));
	END LOOP;
END
$$;

-- dblink has no comments; somebody's own stay.
DO $$
DECLARE
	name text;
	comment text;
BEGIN
	FOR name, comment IN
		VALUES
			('dblink_connect(text)',
			 'opens the unnamed connection: to a server, or by a connection string'),
			('dblink_connect(text, text)',
			 'opens a connection of that name: to a server, or by a connection string'),
			('dblink_connect_u(text)',
			 'dblink_connect(text) that asks for no password of who is no superuser'),
			('dblink_connect_u(text, text)',
			 'dblink_connect(text, text) that asks for no password of who is no superuser'),
			('dblink_disconnect()',
			 'gives the unnamed connection back'),
			('dblink_disconnect(text)',
			 'gives the connection of that name back'),
			('dblink_get_connections()',
			 'the names of all open connections'),
			('dblink(text)',
			 'runs SQL on the unnamed connection and returns its rows; needs a column definition list'),
			('dblink(text, boolean)',
			 'runs SQL on the unnamed connection and returns its rows; false: a remote error becomes a notice'),
			('dblink(text, text)',
			 'runs SQL on a named connection, a server or by a connection string and returns its rows; needs a column definition list'),
			('dblink(text, text, boolean)',
			 'runs SQL on a named connection, a server or by a connection string and returns its rows; false: a remote error becomes a notice'),
			('dblink_exec(text)',
			 'runs SQL on the unnamed connection and returns its status'),
			('dblink_exec(text, boolean)',
			 'runs SQL on the unnamed connection and returns its status; false: a remote error becomes a notice'),
			('dblink_exec(text, text)',
			 'runs SQL on a named connection, a server or by a connection string and returns its status'),
			('dblink_exec(text, text, boolean)',
			 'runs SQL on a named connection, a server or by a connection string and returns its status; false: a remote error becomes a notice'),
			('dblink_open(text, text)',
			 'opens a cursor on the unnamed connection'),
			('dblink_open(text, text, boolean)',
			 'opens a cursor on the unnamed connection; false: a remote error becomes a notice'),
			('dblink_open(text, text, text)',
			 'opens a cursor on the connection of that name'),
			('dblink_open(text, text, text, boolean)',
			 'opens a cursor on the connection of that name; false: a remote error becomes a notice'),
			('dblink_fetch(text, int)',
			 'fetches at most that many rows of a cursor on the unnamed connection'),
			('dblink_fetch(text, int, boolean)',
			 'fetches at most that many rows of a cursor on the unnamed connection; false: a remote error becomes a notice'),
			('dblink_fetch(text, text, int)',
			 'fetches at most that many rows of a cursor on the connection of that name'),
			('dblink_fetch(text, text, int, boolean)',
			 'fetches at most that many rows of a cursor on the connection of that name; false: a remote error becomes a notice'),
			('dblink_close(text)',
			 'closes a cursor on the unnamed connection'),
			('dblink_close(text, boolean)',
			 'closes a cursor on the unnamed connection; false: a remote error becomes a notice'),
			('dblink_close(text, text)',
			 'closes a cursor on the connection of that name'),
			('dblink_close(text, text, boolean)',
			 'closes a cursor on the connection of that name; false: a remote error becomes a notice'),
			('dblink_send_query(text, text)',
			 'sends SQL over the connection of that name and returns at once: 1 if it was sent'),
			('dblink_is_busy(text)',
			 '1 if dblink_get_result would have to wait, else 0'),
			('dblink_get_result(text)',
			 'the rows of the next result of what was sent, none after the last; needs a column definition list'),
			('dblink_get_result(text, boolean)',
			 'the rows of the next result of what was sent, none after the last; false: a remote error becomes a notice'),
			('dblink_cancel_query(text)',
			 'stops what runs on the connection of that name: OK, or why not'),
			('dblink_error_message(text)',
			 'the last error of the connection of that name, OK if there was none'),
			('dblink_get_notify()',
			 'the notifications that the unnamed connection has got'),
			('dblink_get_notify(text)',
			 'the notifications that the connection of that name has got'),
			('dblink_get_pkey(text)',
			 'the columns of the primary key of a local table, in its order'),
			('dblink_build_sql_insert(text, int2vector, int, text[], text[])',
			 'the INSERT of a local row, under another key'),
			('dblink_build_sql_delete(text, int2vector, int, text[])',
			 'the DELETE of the row with that key'),
			('dblink_build_sql_update(text, int2vector, int, text[], text[])',
			 'the UPDATE that makes the row with another key like a local one'),
			('dblink_current_query()',
			 'current_query() by its old name'),
			('dblink_fdw_validator(text[], oid)',
			 'checks the options of servers and user mappings of the foreign-data wrapper dblink_fdw')
	LOOP
		IF pg_catalog.obj_description(name::pg_catalog.regprocedure, 'pg_proc') IS NULL THEN
			EXECUTE pg_catalog.format('COMMENT ON FUNCTION %s IS %L', name, comment);
		END IF;
	END LOOP;

	IF pg_catalog.obj_description('dblink_pkey_results'::pg_catalog.regtype, 'pg_type') IS NULL THEN
		COMMENT ON TYPE dblink_pkey_results IS
		'a column of a primary key, for dblink_get_pkey()';
	END IF;
	IF (SELECT pg_catalog.obj_description(oid, 'pg_foreign_data_wrapper') IS NULL
		FROM pg_catalog.pg_foreign_data_wrapper WHERE fdwname = 'dblink_fdw') THEN
		COMMENT ON FOREIGN DATA WRAPPER dblink_fdw IS
		'servers for the functions of dblink; there are no foreign tables';
	END IF;
END
$$;
