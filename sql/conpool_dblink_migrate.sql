-- conpool_dblink_migrate.sql
--		Turns extension dblink into conpool_dblink in one database, with everything that
--		depends on it: views, functions, servers of dblink_fdw, user mappings, grants.
--
--		psql -d DATABASE -f "$(pg_config --sharedir)/extension/conpool_dblink_migrate.sql"
--
-- Run it as a superuser, with conpool in shared_preload_libraries.  Either all of it
-- happens or nothing.  The functions stay what they are, under the same OID; only the
-- library that they call is another.  Sessions that have connections open by
-- dblink_connect() lose them: have them reconnect.
--
-- Where nothing depends on dblink this is as good:
--
--		DROP EXTENSION dblink; CREATE EXTENSION conpool_dblink;
--
-- The way back, where nothing depends on conpool_dblink, is the same with the names
-- exchanged.  Else dump the database, write dblink for conpool_dblink in the dump's line
-- CREATE EXTENSION, and restore it: nothing else in a dump names the extension.

\set ON_ERROR_STOP on

BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

-- Can it be done at all?
DO $$
DECLARE
	others text;
BEGIN
	IF current_setting('is_superuser') <> 'on' THEN
		RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
			MESSAGE = 'must be superuser to migrate from dblink to conpool_dblink';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_settings WHERE name = 'conpool.max_connections') THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = 'conpool is not loaded',
			HINT = 'Add conpool to shared_preload_libraries in postgresql.conf, and restart the server.';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'dblink') THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object',
			MESSAGE = format('database "%s" has no extension "dblink"', current_database()),
			HINT = 'Use CREATE EXTENSION conpool_dblink.';
	END IF;
	IF EXISTS (SELECT FROM pg_extension WHERE extname = 'conpool_dblink') THEN
		RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
			MESSAGE = 'extension "conpool_dblink" exists beside "dblink"',
			HINT = 'Drop the one that is not used.';
	END IF;
	SELECT string_agg(quote_ident(e.extname), ', ' ORDER BY e.extname) INTO others
	FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.objid
	WHERE d.classid = 'pg_extension'::regclass AND d.refclassid = 'pg_extension'::regclass AND
		d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dblink');
	IF others IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
			MESSAGE = 'other extensions require extension "dblink"',
			DETAIL = format('They ask for it by its name: %s.', others);
	END IF;
END
$$;

-- Older versions lack the wrapper dblink_fdw, or what is said of parallel queries.
SELECT extversion <> '1.2' AS is_old FROM pg_extension WHERE extname = 'dblink' \gset
\if :is_old
ALTER EXTENSION dblink UPDATE TO '1.2';
\endif

-- What it has, with privileges as they are and as the extension's script made them.
-- An array type comes and goes with its element's type.
CREATE TEMPORARY TABLE member ON COMMIT DROP AS
SELECT d.classid, d.objid, upper(replace(o.type, '-', ' ')) AS kind, o.identity,
	   coalesce(p.proacl, t.typacl, w.fdwacl) AS acl, i.initprivs AS initial_acl
FROM pg_depend AS d
	CROSS JOIN pg_identify_object(d.classid, d.objid, 0) AS o
	LEFT JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
	LEFT JOIN pg_type AS t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
	LEFT JOIN pg_foreign_data_wrapper AS w
		ON d.classid = 'pg_foreign_data_wrapper'::regclass AND w.oid = d.objid
	LEFT JOIN pg_init_privs AS i
		ON i.classoid = d.classid AND i.objoid = d.objid AND i.objsubid = 0
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND
	d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dblink') AND
	NOT (d.classid = 'pg_type'::regclass AND
		 EXISTS (SELECT FROM pg_type WHERE typarray = d.objid));

-- Somebody's objects that are to go with the extension (DEPENDS ON EXTENSION).
CREATE TEMPORARY TABLE follower ON COMMIT DROP AS
SELECT upper(o.type) AS kind, o.identity
FROM pg_depend AS d
	CROSS JOIN pg_identify_object(d.classid, d.objid, d.objsubid) AS o
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x' AND
	d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'dblink');

CREATE TEMPORARY TABLE migrated ON COMMIT DROP AS
SELECT nspname AS schema FROM pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace
WHERE extname = 'dblink';

-- An extension's new member is remembered with the privileges that it has at that
-- moment, as those that pg_dump need not save.  So for that moment it has no others
-- than the script of dblink gave it.  GRANT and REVOKE could not bring back who
-- granted what; so it is written where it is kept.
UPDATE pg_proc AS c SET proacl = initial_acl FROM member
WHERE classid = 'pg_proc'::regclass AND objid = c.oid AND acl IS DISTINCT FROM initial_acl;
UPDATE pg_type AS c SET typacl = initial_acl FROM member
WHERE classid = 'pg_type'::regclass AND objid = c.oid AND acl IS DISTINCT FROM initial_acl;
UPDATE pg_foreign_data_wrapper AS c SET fdwacl = initial_acl FROM member
WHERE classid = 'pg_foreign_data_wrapper'::regclass AND objid = c.oid AND
	acl IS DISTINCT FROM initial_acl;

-- From the one extension to the other.
DO $$
DECLARE
	object record;
	rest text;
BEGIN
	FOR object IN SELECT kind, identity FROM pg_temp.member LOOP
		EXECUTE format('ALTER EXTENSION dblink DROP %s %s', object.kind, object.identity);
	END LOOP;
	FOR object IN SELECT kind, identity FROM pg_temp.follower LOOP
		EXECUTE format('ALTER %s %s NO DEPENDS ON EXTENSION dblink',
					   object.kind, object.identity);
	END LOOP;

	DROP EXTENSION dblink;
	EXECUTE format('CREATE EXTENSION conpool_dblink SCHEMA %I VERSION %L',
				   (SELECT schema FROM pg_temp.migrated), 'dblink');
	ALTER EXTENSION conpool_dblink UPDATE;

	FOR object IN SELECT kind, identity FROM pg_temp.follower LOOP
		EXECUTE format('ALTER %s %s DEPENDS ON EXTENSION conpool_dblink',
					   object.kind, object.identity);
	END LOOP;

	SELECT string_agg(kind || ' ' || identity, ', ' ORDER BY identity) INTO rest
	FROM pg_temp.member AS m
	WHERE NOT EXISTS (
		SELECT FROM pg_depend AS d
		WHERE d.classid = m.classid AND d.objid = m.objid AND d.deptype = 'e' AND
			d.refclassid = 'pg_extension'::regclass AND
			d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'conpool_dblink'));
	IF rest IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
			MESSAGE = 'extension "dblink" has members that conpool_dblink does not know',
			DETAIL = format('They are: %s.', rest),
			HINT = 'Take them out of the extension by ALTER EXTENSION dblink DROP.';
	END IF;
END
$$;

-- Privileges as they were.
UPDATE pg_proc AS c SET proacl = acl FROM member
WHERE classid = 'pg_proc'::regclass AND objid = c.oid AND acl IS DISTINCT FROM initial_acl;
UPDATE pg_type AS c SET typacl = acl FROM member
WHERE classid = 'pg_type'::regclass AND objid = c.oid AND acl IS DISTINCT FROM initial_acl;
UPDATE pg_foreign_data_wrapper AS c SET fdwacl = acl FROM member
WHERE classid = 'pg_foreign_data_wrapper'::regclass AND objid = c.oid AND
	acl IS DISTINCT FROM initial_acl;

SELECT extname, extversion, extnamespace::regnamespace AS schema
FROM pg_extension WHERE extname = 'conpool_dblink';
COMMIT;
