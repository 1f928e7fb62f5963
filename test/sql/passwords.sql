-- Non-superusers bring a password, which the remote must have asked for; and
-- nobody gets to see one.
SET client_min_messages = warning;
CREATE ROLE regress_alice;
SELECT test.server('passwords') AS done, test.conninfo() AS conninfo, host, port FROM test.remote \gset
GRANT USAGE ON FOREIGN SERVER passwords TO PUBLIC;
CREATE USER MAPPING FOR regress_alice SERVER passwords OPTIONS (user 'regress_remote');

-- the mapping must have one
SET ROLE regress_alice;
SELECT conpool.exec('passwords', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
ALTER USER MAPPING FOR regress_alice SERVER passwords OPTIONS (ADD password '');
SET ROLE regress_alice;
SELECT conpool.exec('passwords', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
ALTER USER MAPPING FOR regress_alice SERVER passwords OPTIONS (SET password 'remote-secret');
SET ROLE regress_alice;
SELECT conpool.exec('passwords', 'SELECT 1');
RESET ROLE;

-- the remote must have asked for it: over the Unix socket it does not
SELECT directory FROM conpool.query('remote_admin', 'SHOW unix_socket_directories') AS t(directories text),
	split_part(directories, ',', 1) AS directory \gset
SELECT test.server('trusted') AS done \gset
ALTER SERVER trusted OPTIONS (SET host :'directory');
GRANT USAGE ON FOREIGN SERVER trusted TO PUBLIC;
CREATE USER MAPPING FOR regress_alice SERVER trusted OPTIONS (user 'regress_remote', password 'remote-secret');
SET ROLE regress_alice;
SELECT conpool.exec('trusted', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
-- such a connection is not kept
SELECT test.at_rest();
SELECT size, connects, connect_failures FROM conpool.pools JOIN conpool.stat_pools USING (server, database, role)
 WHERE server = 'trusted' AND role = 'regress_alice' AND database = current_database();

-- superusers may, and may let others
SELECT conpool.exec('trusted', 'SELECT 1');
ALTER USER MAPPING FOR regress_alice SERVER trusted OPTIONS (ADD password_required 'false', DROP password);
SET ROLE regress_alice;
SELECT conpool.exec('trusted', 'SELECT 1');
RESET ROLE;

-- not in a wrapper that does not check who sets the option
CREATE FOREIGN DATA WRAPPER unchecked;
CREATE SERVER unchecked FOREIGN DATA WRAPPER unchecked OPTIONS (host :'directory', port :'port', dbname 'conpool_remote');
GRANT USAGE ON FOREIGN SERVER unchecked TO PUBLIC;
CREATE USER MAPPING FOR regress_alice SERVER unchecked OPTIONS (user 'regress_remote', password_required 'false');
SET ROLE regress_alice;
SELECT conpool.exec('unchecked', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
DROP FOREIGN DATA WRAPPER unchecked CASCADE;

-- a connection opened under one rule is not lent under the other
ALTER ROLE regress_alice SUPERUSER;
SET ROLE regress_alice;
SELECT pid AS superusers FROM conpool.query('passwords', 'SELECT pg_backend_pid()') AS t(pid int) \gset
RESET ROLE;
ALTER ROLE regress_alice NOSUPERUSER;
SET ROLE regress_alice;
SELECT pid = :superusers AS same FROM conpool.query('passwords', 'SELECT pg_backend_pid()') AS t(pid int);
RESET ROLE;

-- connection strings: the same rules
SET ROLE regress_alice;
SELECT conpool.exec(:'conninfo', 'SELECT 1');
SELECT conpool.exec(replace(:'conninfo', 'password=remote-secret', ''), 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT test.error_of(format('SELECT conpool.exec(%L, ''SELECT 1'')',
	format('host=%s port=%s dbname=conpool_remote user=regress_remote password=remote-secret', :'directory', :'port'))) LIMIT 1;
RESET ROLE;

-- conpool.allow_conninfo
SET conpool.allow_conninfo = off;
SET ROLE regress_alice;
SELECT conpool.exec(:'conninfo', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.checkout(:'conninfo');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec('passwords', 'SELECT 1');
SET conpool.allow_conninfo = on;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
RESET conpool.allow_conninfo;

-- no password in any view, even if it is wrong or in the wrong place
SELECT test.error_of(format('SELECT conpool.exec(%L, ''SELECT 1'')',
	:'conninfo' || ' dbname=''user=me password=remote-secret''')) LIMIT 1;
SELECT view, count(*) AS secrets FROM (
	SELECT 'pools' AS view, v::text AS line FROM conpool.pools v
	UNION ALL SELECT 'connections', v::text FROM conpool.connections v
	UNION ALL SELECT 'leaks', v::text FROM conpool.leaks v
	UNION ALL SELECT 'stat_pools', v::text FROM conpool.stat_pools v
	UNION ALL SELECT 'stat_latency', v::text FROM conpool.stat_latency v
	UNION ALL SELECT 'stat_history', v::text FROM conpool.stat_history v
	UNION ALL SELECT 'stat_statements', v::text FROM conpool.stat_statements v
	UNION ALL SELECT 'stat_errors', v::text FROM conpool.stat_errors v
	UNION ALL SELECT 'events', v::text FROM conpool.events v) AS lines
 WHERE line ~ 'secret' GROUP BY view;

SELECT test.at_rest();
DROP SERVER passwords CASCADE;
DROP SERVER trusted CASCADE;
DROP ROLE regress_alice;
