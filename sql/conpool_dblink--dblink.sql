/* sql/conpool_dblink--dblink.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "\i conpool_dblink_migrate.sql" to load this file. \quit

-- For conpool_dblink_migrate.sql: takes over what was extension dblink's, as it is.
-- The functions call the library of dblink until the update to 1.0.

ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_connect(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_connect(text, text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_connect_u(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_connect_u(text, text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_disconnect();
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_disconnect(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_get_connections();
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink(text, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink(text, text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink(text, text, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_exec(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_exec(text, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_exec(text, text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_exec(text, text, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_open(text, text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_open(text, text, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_open(text, text, text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_open(text, text, text, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_fetch(text, int);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_fetch(text, int, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_fetch(text, text, int);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_fetch(text, text, int, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_close(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_close(text, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_close(text, text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_close(text, text, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_send_query(text, text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_is_busy(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_get_result(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_get_result(text, boolean);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_cancel_query(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_error_message(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_get_notify();
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_get_notify(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_get_pkey(text);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_build_sql_insert(text, int2vector, int, text[], text[]);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_build_sql_delete(text, int2vector, int, text[]);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_build_sql_update(text, int2vector, int, text[], text[]);
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_current_query();
ALTER EXTENSION conpool_dblink ADD FUNCTION dblink_fdw_validator(text[], oid);
ALTER EXTENSION conpool_dblink ADD TYPE dblink_pkey_results;

DO $$
DECLARE
	stranger text;
BEGIN
	-- Whoever asks for this version by hand must not be given somebody's functions.
	SELECT objid::pg_catalog.regprocedure INTO stranger
	FROM pg_catalog.pg_depend
		JOIN pg_catalog.pg_proc AS p ON p.oid = objid
		JOIN pg_catalog.pg_language AS l ON l.oid = prolang
	-- no = of pg_catalog is for just these types: whoever may create one in the schema
	-- of the extension would have it called here
	WHERE classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass AND
		refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass AND
		deptype = 'e' AND
		refobjid = (SELECT oid FROM pg_catalog.pg_extension WHERE extname = 'conpool_dblink') AND
		NOT (lanname = 'c' AND probin ~ '(^|/)dblink(\.[a-z]+)?$')
	LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'function % is not one of dblink''s library', stranger;
	END IF;

	IF EXISTS (SELECT FROM pg_catalog.pg_foreign_data_wrapper
			   WHERE fdwname = 'dblink_fdw') THEN
		ALTER EXTENSION conpool_dblink ADD FOREIGN DATA WRAPPER dblink_fdw;
	END IF;
END
$$;
