-- reclaim(): a lease is taken away from the session that holds it.
SET client_min_messages = warning;
CREATE ROLE regress_alice;
CREATE ROLE regress_bob LOGIN;
SELECT test.server('reclaim', $$max_size '1', checkout_timeout '100ms'$$) AS done \gset
CREATE USER MAPPING FOR regress_bob SERVER reclaim OPTIONS (user 'regress_remote', password 'remote-secret');
GRANT USAGE ON FOREIGN SERVER reclaim TO regress_bob;
CREATE FUNCTION pg_temp.loopback(role text) RETURNS text LANGUAGE sql AS $$
	SELECT format('host=%s port=%s dbname=%s user=%s', split_part(current_setting('unix_socket_directories'), ',', 1),
				  current_setting('port'), current_database(), role) $$;

-- sessions of a superuser and of another role
SELECT conpool.checkout(pg_temp.loopback('postgres'), 'session') AS other \gset
SELECT conpool.checkout(pg_temp.loopback('regress_bob'), 'session') AS bob \gset
SELECT lease FROM conpool.query(:other, $$SELECT conpool.checkout('reclaim', 'session')$$) AS t(lease bigint) \gset
SELECT lease AS bobs FROM conpool.query(:bob, $$SELECT conpool.checkout('reclaim', 'session')$$) AS t(lease bigint) \gset

-- what is no lease, or one's own
SELECT conpool.reclaim(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.reclaim(-1);
\echo :LAST_ERROR_SQLSTATE
SELECT test.error_of(format('SELECT conpool.reclaim(%s)', :other));

-- who may: whoever may signal the session
SET ROLE regress_alice;
SELECT test.error_of(format('SELECT conpool.reclaim(%s)', :lease));
SELECT test.error_of(format('SELECT conpool.reclaim(%s)', :bobs));
RESET ROLE;
GRANT pg_signal_backend TO regress_alice;
SET ROLE regress_alice;
SELECT test.error_of(format('SELECT conpool.reclaim(%s)', :lease));
SELECT conpool.reclaim(:bobs);
SELECT test.error_of(format('SELECT conpool.reclaim(%s)', :bobs));
RESET ROLE;
SELECT conpool.reclaim(:lease);

-- the place is free again
SELECT conpool.exec('reclaim', 'SELECT 1');
SELECT count(*) FROM conpool.leases WHERE server = 'reclaim' AND database = current_database();

-- its holder is told, and goes on without it
SELECT test.error_of(format('SELECT conpool.exec(%s, $x$SELECT conpool.exec($1, $y$SELECT 1$y$)$x$, %s)', :other, :lease));
SELECT test.error_of(format('SELECT conpool.exec(%s, $x$SELECT conpool.checkin($1)$x$, %s)', :other, :lease));
SELECT test.error_of(format('SELECT conpool.exec(%s, $x$SELECT conpool.exec($1, $y$SELECT 1$y$)$x$, %s)', :bob, :bobs));
SELECT conpool.exec(:other, $$SELECT conpool.exec('reclaim', 'SELECT 1')$$), conpool.exec(:bob, $$SELECT conpool.exec('reclaim', 'SELECT 1')$$);
SELECT conpool.checkin(:other), conpool.checkin(:bob);

SELECT test.at_rest();
DROP SERVER reclaim CASCADE;
DROP FUNCTION pg_temp.loopback;
REVOKE pg_signal_backend FROM regress_alice;
DROP ROLE regress_alice, regress_bob;
