-- pause(), resume(), close_idle(), reconnect() and warm(): what they do, and who may.
SET client_min_messages = warning;
CREATE ROLE regress_alice;
CREATE ROLE regress_bob;
SELECT test.server('admin', $$max_size '3', checkout_timeout '100ms'$$) AS done \gset
CREATE TEMP VIEW state AS
	SELECT size, idle, leased, paused FROM conpool.pools WHERE server = 'admin' AND database = current_database();
SELECT format('host=%s port=%s dbname=%s user=postgres', split_part(current_setting('unix_socket_directories'), ',', 1),
			  current_setting('port'), current_database()) AS loopback \gset
SELECT conpool.checkout(:'loopback', 'session') AS other \gset

-- a server is paused before it has a pool; twice is as good as once
SELECT conpool.pause('admin');
SELECT conpool.pause('admin');
SELECT test.error_of($$SELECT conpool.exec('admin', 'SELECT 1')$$);
SELECT * FROM state;
SELECT conpool.resume('admin');
SELECT conpool.resume('admin');
SELECT conpool.exec('admin', 'SELECT 1');
SELECT * FROM state;

-- one's own lease cannot be waited for; without waiting it goes on
SELECT conpool.checkout('admin', 'session') AS lease \gset
SELECT conpool.pause('admin');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM state;
SELECT conpool.pause('admin', wait => false);
SELECT * FROM state;
SELECT conpool.exec(:lease, 'SELECT 1');
SELECT conpool.checkin(:lease);
SELECT test.error_of($$SELECT conpool.exec('admin', 'SELECT 1')$$) LIMIT 1;
-- all have come back
SELECT conpool.pause('admin');
SELECT conpool.resume('admin');
SELECT conpool.exec('admin', 'SELECT 1');

-- a pause whose wait is interrupted is none, unless it was one before
SELECT lease AS others FROM conpool.query(:other, $$SELECT conpool.checkout('admin', 'session')$$) AS t(lease bigint) \gset
SET statement_timeout = '50ms';
SELECT conpool.pause('admin');
RESET statement_timeout;
SELECT * FROM state;
SELECT conpool.pause('admin', false);
SET statement_timeout = '50ms';
SELECT conpool.pause('admin');
RESET statement_timeout;
SELECT * FROM state;
SELECT conpool.exec(:other, 'SELECT conpool.checkin($1)', :others);
SELECT conpool.pause('admin', wait => NULL);
SELECT conpool.resume('admin');

-- close_idle(): what is leased stays
SELECT conpool.checkout('admin', 'session') AS a, conpool.checkout('admin', 'session') AS b, conpool.checkout('admin', 'session') AS c \gset
SELECT conpool.checkin(:a), conpool.checkin(:b);
SELECT test.wait_until('(SELECT idle = 2 FROM state)');
SELECT conpool.close_idle('admin');
SELECT conpool.close_idle('admin');
SELECT conpool.exec(:c, 'SELECT 1');
SELECT conpool.checkin(:c);
SELECT test.wait_until('(SELECT size = 1 AND idle = 1 FROM state)');

-- also while paused
SELECT conpool.pause('admin');
SELECT conpool.close_idle('admin');
SELECT test.wait_until('(SELECT size = 0 AND paused FROM state)');
SELECT conpool.resume('admin');

-- reconnect(): idle connections are replaced, leased ones when they come back
SELECT conpool.reconnect('admin');
SELECT pid FROM conpool.query('admin', 'SELECT pg_backend_pid()') AS t(pid int) \gset
SELECT conpool.reconnect('admin');
SELECT conpool.reconnect('admin');
SELECT pid <> :pid AS replaced FROM conpool.query('admin', 'SELECT pg_backend_pid()') AS t(pid int);
SELECT conpool.checkout('admin', 'session') AS lease \gset
SELECT pid FROM conpool.query(:lease, 'SELECT pg_backend_pid()') AS t(pid int) \gset
SELECT conpool.reconnect('admin');
SELECT pid = :pid AS same FROM conpool.query(:lease, 'SELECT pg_backend_pid()') AS t(pid int);
SELECT conpool.checkin(:lease);
SELECT pid <> :pid AS replaced FROM conpool.query('admin', 'SELECT pg_backend_pid()') AS t(pid int);
SELECT test.wait_until('(SELECT size = 1 AND idle = 1 FROM state)');

-- warm(): nothing is lacking, or min_size is
SELECT conpool.warm('admin');
SELECT conpool.warm('admin');
ALTER SERVER admin OPTIONS (ADD min_size '2');
SELECT conpool.warm('admin');
SELECT test.wait_until('(SELECT idle = 2 FROM state)');
SELECT conpool.close_idle('admin');
SELECT conpool.warm('admin');
SELECT test.wait_until('(SELECT size = 2 AND idle = 2 FROM state)');
ALTER SERVER admin OPTIONS (DROP min_size);

-- all pools, of all databases: for superusers
SELECT conpool.pause(), conpool.pause(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.pause(wait => false), conpool.pause(NULL, false);
SELECT * FROM state;
SET conpool.checkout_timeout = '100ms';
SELECT test.error_of($$SELECT conpool.exec('remote', 'SELECT 1')$$) LIMIT 1;
RESET conpool.checkout_timeout;
SELECT conpool.resume(), conpool.resume(NULL);
SELECT conpool.checkin(:other);
SELECT conpool.pause();
SELECT conpool.close_idle() > 0 AS closed;
SELECT conpool.resume();
SELECT conpool.reconnect(), conpool.warm();
SELECT conpool.exec('remote', 'SELECT 1'), conpool.exec('admin', 'SELECT 1');

-- what does not exist
SELECT conpool.pause('nowhere');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.resume('nowhere');
SELECT conpool.reconnect('nowhere');
SELECT conpool.warm('nowhere');
SELECT conpool.close_idle('nowhere');

-- who may: the owner of the server
CREATE FUNCTION pg_temp.tries(server text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	call text;
BEGIN
	FOREACH call IN ARRAY ARRAY['pause', 'resume', 'reconnect', 'warm', 'close_idle'] LOOP
		RETURN QUERY SELECT call || ' ' || error FROM test.error_of(format('SELECT conpool.%I(%L)', call, server)) AS error;
	END LOOP;
END $$;
GRANT USAGE ON FOREIGN SERVER admin TO regress_alice;
SET ROLE regress_alice;
SELECT pg_temp.tries('admin');
SELECT pg_temp.tries(NULL);
RESET ROLE;
ALTER SERVER admin OWNER TO regress_alice;
SET ROLE regress_alice;
SELECT pg_temp.tries('admin');
SELECT pg_temp.tries('remote') LIMIT 1;
RESET ROLE;

-- a connection string, or the name that the views show: one's own pool
SELECT test.conninfo() AS conninfo \gset
SET ROLE regress_alice;
SELECT conpool.exec(:'conninfo', 'SELECT 1');
SELECT server AS name FROM conpool.pools WHERE role = 'regress_alice' AND database = current_database() AND server ~ 'user=regress_remote$' \gset
SELECT conpool.pause(:'conninfo');
SELECT paused FROM conpool.pools WHERE server = :'name' AND role = 'regress_alice';
SELECT conpool.resume(:'name');
SELECT paused FROM conpool.pools WHERE server = :'name' AND role = 'regress_alice';
SELECT conpool.reconnect(:'name'), conpool.warm(:'name');
SELECT test.at_rest();
SELECT conpool.exec(:'conninfo', 'SELECT 1');
SELECT conpool.close_idle(:'conninfo');
SET ROLE regress_bob;
SELECT array_agg(error) = ARRAY['42704: pool "' || regexp_replace(:'name', '\d+', 'N', 'g') || '" does not exist'] AS hidden
  FROM test.error_of(format('SELECT conpool.pause(%L)', :'name')) AS error;
RESET ROLE;
SELECT conpool.pause(:'name', false);
SELECT role, paused FROM conpool.pools WHERE server = :'name' AND database = current_database() AND role = 'regress_alice';
SELECT conpool.resume(:'name');

SELECT test.at_rest();
DROP SERVER admin CASCADE;
DROP FUNCTION pg_temp.tries;
DROP ROLE regress_alice, regress_bob;
