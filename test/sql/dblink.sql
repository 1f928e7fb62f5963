-- conpool_dblink: dblink's functions on the connections of pools.  That they are
-- dblink's is tested elsewhere; here it is about what the pools see of them.
CREATE SCHEMA regress_dblink;
CREATE EXTENSION conpool_dblink SCHEMA regress_dblink;
SET search_path = regress_dblink, public;
SELECT test.server('linked', $$max_size '2'$$) AS done \gset
CREATE VIEW pg_temp.leases AS SELECT scope, count(*) FROM conpool.leases
 WHERE server = 'linked' AND pid = pg_backend_pid() GROUP BY scope ORDER BY scope;
CREATE VIEW pg_temp.pool AS SELECT size, idle, leased, unshared, connects, overflowed
  FROM conpool.pools JOIN conpool.stat_pools USING (server, database, role)
 WHERE server = 'linked' AND database = current_database();

-- by name of a server of conpool, of dblink_fdw, by a connection string
DO $$
DECLARE
	options text;
BEGIN
	SELECT format('host %L, port %L, dbname ''conpool_remote''', host, port::text) ||
		   CASE WHEN test.tls() THEN format(', sslmode %L, sslrootcert %L', sslmode, sslrootcert)
				ELSE '' END
	INTO options FROM test.remote;
	EXECUTE 'CREATE SERVER linked_too FOREIGN DATA WRAPPER dblink_fdw OPTIONS (' || options || ')';
END $$;
CREATE USER MAPPING FOR CURRENT_USER SERVER linked_too
	OPTIONS (user 'regress_remote', password 'remote-secret');
SELECT * FROM dblink('linked', 'SELECT current_user, 1') AS t(a text, b int);
SELECT * FROM dblink('linked_too', 'SELECT current_user, 2') AS t(a text, b int);
SELECT * FROM dblink(test.conninfo(), 'SELECT current_user, 3') AS t(a text, b int);
SELECT * FROM conpool.query('linked_too', 'SELECT current_user, 4') AS t(a text, b int);
SELECT dblink_exec('linked', 'CREATE TEMP TABLE gone (a int)');
SELECT test.wait_until('SELECT idle = size FROM pg_temp.pool');
SELECT dblink_exec('linked', 'INSERT INTO gone VALUES (1)', false);
SELECT test.wait_until('SELECT idle = size FROM pg_temp.pool');
-- all by one connection
SELECT * FROM pg_temp.pool;

-- a connection with a name is a lease of scope session, which transactions do not end
BEGIN;
SELECT dblink_connect('one', 'linked');
SELECT dblink_exec('one', 'CREATE TEMP TABLE mine (a int)');
ROLLBACK;
SELECT * FROM pg_temp.leases;
SELECT dblink_exec('one', 'INSERT INTO mine VALUES (1), (2)');
SELECT dblink_open('one', 'c', 'TABLE mine');
SELECT * FROM dblink_fetch('one', 'c', 5) AS t(a int);
SELECT dblink_close('one', 'c');
-- given back by other means it is not available any more
SELECT dblink_connect('other', 'linked');
SELECT conpool.checkin(max(lease)) FROM conpool.leases WHERE server = 'linked' AND pid = pg_backend_pid();
SELECT dblink_error_message('other');
SELECT dblink_get_connections();
SELECT test.wait_until('SELECT idle + leased = size FROM pg_temp.pool');

-- more than max_size of them
SELECT dblink_connect('two', 'linked'), dblink_connect('three', 'linked'), dblink_connect('four', 'linked');
SELECT size, leased, unshared, overflowed FROM pg_temp.pool;
SELECT a.b, c.d FROM dblink('two', 'SELECT 2') AS a(b int), dblink('four', 'SELECT 4') AS c(d int);
SELECT * FROM dblink('linked', 'SELECT 5') AS t(a int);
SELECT dblink_disconnect('two'), dblink_disconnect('three');
SET conpool.dblink_overflow = off;
SELECT dblink_connect('five', 'linked');
SELECT test.error_of($$SELECT dblink_connect('six', 'linked')$$);
RESET conpool.dblink_overflow;
SELECT array_agg(a ORDER BY a) FROM unnest(dblink_get_connections()) AS a;

-- queries on their way: others go on beside them, and no end of a transaction counts
SELECT dblink_disconnect('five');
BEGIN;
SELECT dblink_send_query('four', 'SELECT 1 FROM pg_sleep(0.01); SELECT 2');
SELECT * FROM dblink('one', 'SELECT count(*) FROM mine') AS t(a int);
ROLLBACK;
SELECT * FROM pg_temp.leases;
SELECT * FROM dblink_get_result('four') AS t(a int);
SELECT * FROM dblink_get_result('four') AS t(a int);
SELECT * FROM dblink_get_result('four') AS t(a int);

-- errors are dblink's, where conpool has none of its own
\set SHOW_CONTEXT always
SELECT dblink_exec('one', 'SELECT 1/0');
SELECT dblink_exec('linked', 'SELECT 1/0', false);
SELECT * FROM dblink('one', 'COPY mine TO STDOUT') AS t(a int);
SELECT * FROM dblink('one', 'SELECT 1') AS t(a int);
SELECT dblink_disconnect('one');
SELECT dblink_connect('unknown');
\set SHOW_CONTEXT errors

-- rights on servers are looked at when connecting
CREATE ROLE regress_linker;
GRANT USAGE ON SCHEMA regress_dblink TO regress_linker;
SET ROLE regress_linker;
SELECT dblink_connect('linked');
SELECT * FROM dblink('linked', 'SELECT 1') AS t(a int);
SELECT dblink_connect_u('linked');
RESET ROLE;

-- DISCARD ALL gives all of them back
SELECT dblink_send_query('four', 'SELECT pg_sleep(1000)');
DISCARD ALL;
SET search_path = regress_dblink, public;
SELECT dblink_get_connections();
SELECT dblink_disconnect('four');
SELECT test.at_rest();
SELECT size <= 2 AS "no more than max_size", unshared, overflowed FROM conpool.pools
  JOIN conpool.stat_pools USING (server, database, role) WHERE server = 'linked';

INSERT INTO test.beyond SELECT overflowed FROM conpool.stat_pools WHERE server = 'linked';
RESET search_path;
DROP OWNED BY regress_linker;
DROP ROLE regress_linker;
DROP SERVER linked CASCADE;
SET client_min_messages = warning;
DROP EXTENSION conpool_dblink CASCADE;
DROP SCHEMA regress_dblink;
