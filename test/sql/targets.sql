-- What can stand where a server's name is wanted.
SET client_min_messages = warning;
CREATE EXTENSION postgres_fdw;
CREATE EXTENSION dblink;
CREATE FOREIGN DATA WRAPPER other_wrapper;
RESET client_min_messages;
SELECT host, port FROM test.remote \gset
SELECT test.conninfo() AS conninfo \gset
CREATE FUNCTION pg_temp.who(server text) RETURNS text LANGUAGE sql AS
	$$ SELECT name FROM conpool.query(server, 'SELECT current_user') AS t(name text) $$;

-- servers of other libpq-based wrappers, whatever other options they have
CREATE SERVER by_postgres_fdw FOREIGN DATA WRAPPER postgres_fdw
	OPTIONS (host :'host', port :'port', dbname 'conpool_remote', fetch_size '5', connect_timeout '3');
CREATE SERVER by_dblink_fdw FOREIGN DATA WRAPPER dblink_fdw
	OPTIONS (host :'host', port :'port', dbname 'conpool_remote');
CREATE SERVER by_other_wrapper FOREIGN DATA WRAPPER other_wrapper
	OPTIONS (host :'host', port :'port', dbname 'conpool_remote', max_size '1', color 'red');
CREATE USER MAPPING FOR CURRENT_USER SERVER by_postgres_fdw OPTIONS (user 'regress_remote', password 'remote-secret');
CREATE USER MAPPING FOR CURRENT_USER SERVER by_dblink_fdw OPTIONS (user 'regress_remote_two', password 'two-secret');
CREATE USER MAPPING FOR PUBLIC SERVER by_other_wrapper OPTIONS (user 'regress_remote', password 'remote-secret', age '7');
SELECT pg_temp.who('by_postgres_fdw'), pg_temp.who('by_dblink_fdw'), pg_temp.who('by_other_wrapper');

-- a server that refers to one of these has their connection and mappings, and
-- pool options of its own
CREATE SERVER reference FOREIGN DATA WRAPPER conpool OPTIONS (server 'by_postgres_fdw', max_size '3');
SELECT pg_temp.who('reference');
CREATE SERVER reference_two FOREIGN DATA WRAPPER conpool OPTIONS (server 'remote', reset 'never');
SELECT pg_temp.who('reference_two');
SELECT server, role, max_size, connect_timeout, reset, size FROM conpool.pools
 WHERE server ~ '^(by_|reference)' AND database = current_database() ORDER BY server;
CREATE SERVER chain FOREIGN DATA WRAPPER conpool OPTIONS (server 'reference');
SELECT conpool.exec('chain', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER chain OPTIONS (SET server 'nowhere');
SELECT conpool.exec('chain', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE

-- USAGE is needed on both
CREATE ROLE regress_user;
GRANT USAGE ON FOREIGN SERVER reference_two TO regress_user;
CREATE USER MAPPING FOR regress_user SERVER remote OPTIONS (user 'regress_remote', password 'remote-secret');
SET ROLE regress_user;
SELECT * FROM conpool.query('reference_two', 'SELECT 1') AS t(a int);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER remote TO regress_user;
SET ROLE regress_user;
SELECT * FROM conpool.query('reference_two', 'SELECT 1') AS t(a int);
RESET ROLE;
DROP USER MAPPING FOR regress_user SERVER remote;
DROP OWNED BY regress_user;
DROP ROLE regress_user;

-- connection strings and URIs
SELECT pg_temp.who(:'conninfo');
SELECT pg_temp.who(format('postgresql://regress_remote_two:two-secret@%s:%s/conpool_remote', :'host', :'port'));
SELECT pg_temp.who(format('postgres://%s:%s/conpool_remote?user=regress_remote&password=remote-secret', :'host', :'port'));
SELECT conpool.checkout(:'conninfo', 'session') AS lease \gset
SELECT conpool.exec(:lease, 'SELECT 1');
SELECT conpool.checkin(:lease);
-- its pool has the name of what it points to, without the password
SELECT count(*) >= 3 AS several, bool_and(size <= 1) AS kept, bool_and(max_size = 10) AS default_size, count(*) FILTER (WHERE server ~ 'secret') AS secrets,
	   min(replace(server, :'port', 'PORT')) AS server
  FROM conpool.pools WHERE server ~ 'dbname=conpool_remote user=' AND role = 'postgres' AND database = current_database();

-- what cannot be parsed may hold a password, too
SELECT conpool.exec('host=x password=''remote-secret', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec('http://me:remote-secret@x', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec('dbname=x client_encoding=LATIN1', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec('dbname=x replication=true', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec('dbname=x max_size=1', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE

-- a server whose name is a connection string captures nobody
SELECT test.server('host=127.0.0.1 port=1');
SELECT test.server('postgresql://127.0.0.1:1');
SELECT conpool.exec('host=127.0.0.1 port=1', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec('postgresql://127.0.0.1:1', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SET client_min_messages = warning;
DROP SERVER "host=127.0.0.1 port=1" CASCADE;
DROP SERVER "postgresql://127.0.0.1:1" CASCADE;

-- names are identifiers: case matters, long ones are cut
CREATE SERVER "Mixed Case" FOREIGN DATA WRAPPER conpool OPTIONS (server 'remote');
SELECT pg_temp.who('Mixed Case');
SELECT conpool.exec('mixed case', 'SELECT 1');
DROP SERVER "Mixed Case";
SELECT repeat('long', 20) AS long \gset
CREATE SERVER :long FOREIGN DATA WRAPPER conpool OPTIONS (server 'remote');
SELECT pg_temp.who(:'long');
DROP SERVER :long;

SELECT test.at_rest();
DROP SERVER reference;
DROP SERVER reference_two;
DROP SERVER chain;
DROP EXTENSION postgres_fdw CASCADE;
DROP EXTENSION dblink CASCADE;
DROP FOREIGN DATA WRAPPER other_wrapper CASCADE;
