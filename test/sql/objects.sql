-- What the extension consists of.
SELECT p.oid::regprocedure AS function, pg_get_function_result(p.oid) AS result, provolatile AS v, proparallel AS p, proisstrict AS strict,
	   has_function_privilege('public', p.oid, 'EXECUTE') AS public
  FROM pg_proc p WHERE pronamespace = 'conpool'::regnamespace
 ORDER BY p.oid::regprocedure::text COLLATE "C";

-- Everything has a comment: nothing is listed here.
SELECT pg_describe_object(classid, objid, objsubid) AS object
  FROM (SELECT classid, objid, 0 AS objsubid FROM pg_depend
		 WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
		   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'conpool')
		UNION ALL
		SELECT 'pg_class'::regclass, attrelid, attnum FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
		 WHERE relnamespace = 'conpool'::regnamespace AND attnum > 0 AND relkind = 'v') AS objects
 WHERE coalesce(CASE objsubid WHEN 0 THEN obj_description(objid, classid::regclass::name) ELSE col_description(objid, objsubid) END, '') = ''
   AND classid <> 'pg_type'::regclass AND classid <> 'pg_rewrite'::regclass
 ORDER BY 1;
SELECT obj_description(e.oid, 'pg_extension') <> '' AS comment, extrelocatable, nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
 WHERE extname = 'conpool';

-- PUBLIC may use the schema and read the views
SELECT has_schema_privilege('public', 'conpool', 'USAGE') AS usage, has_schema_privilege('public', 'conpool', 'CREATE') AS create,
	   bool_and(has_table_privilege('public', oid, 'SELECT')) AS select
  FROM pg_class WHERE relnamespace = 'conpool'::regnamespace AND relkind = 'v';

-- a literal is one statement for all servers
EXPLAIN (VERBOSE, COSTS OFF) SELECT conpool.map(ARRAY['a', 'b'], 'SELECT 1'), conpool.try_map('{a,b}', '{SELECT 1,SELECT 2}', 3);

-- recommended_size()
SELECT conpool.recommended_size(4) AS "4", conpool.recommended_size(4, 0) AS "4, 0", conpool.recommended_size(8, 2, 3) AS "8, 2, 3",
	   conpool.recommended_size(1, 0, 100) AS "1, 0, 100", conpool.recommended_size(16, clients => 2) AS "16 for 2",
	   conpool.recommended_size(NULL) AS "NULL";
SELECT conpool.recommended_size(0);
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.recommended_size(4, -1);
SELECT conpool.recommended_size(4, 1, 0);
SELECT conpool.recommended_size(2147483647);
\echo :LAST_ERROR_SQLSTATE

-- the extension comes and goes, also while its connections are open
SELECT current_database() AS test_database, host, port FROM test.remote \gset
CREATE DATABASE regress_objects TEMPLATE template0;
\c regress_objects
CREATE EXTENSION conpool;
CREATE SERVER s FOREIGN DATA WRAPPER conpool OPTIONS (host :'host', port :'port', dbname 'conpool_remote');
CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (user 'regress_remote', password 'remote-secret');
SELECT conpool.exec('s', 'SELECT 1');
DROP EXTENSION conpool;
DROP EXTENSION conpool CASCADE;
CREATE EXTENSION conpool SCHEMA public;
CREATE EXTENSION conpool;
SELECT conpool.exec('s', 'SELECT 1');
DROP EXTENSION conpool;
\c :test_database
-- pools do not hold up DROP DATABASE
DROP DATABASE regress_objects;
SELECT test.at_rest();
