-- Changed options take effect at the next checkout.
CREATE FUNCTION pg_temp.who(OUT name text, OUT application_name text, OUT pid int) LANGUAGE sql AS
	$$ SELECT * FROM conpool.query('changes', 'SELECT current_user, current_setting(''application_name''), pg_backend_pid()')
		AS t(name text, application_name text, pid int) $$;
CREATE FUNCTION pg_temp.counts(OUT size int, OUT max_size int, OUT connects bigint, OUT queries bigint) LANGUAGE sql AS
	$$ SELECT size, max_size, connects, queries FROM conpool.pools JOIN conpool.stat_pools USING (server, database, role)
		WHERE server ~ '^changes' AND database = current_database() $$;
SELECT test.server('changes', $$max_size '1'$$);

-- connection options: a new connection takes the place of the old one; the
-- pool and its statistics go on
SELECT name, application_name, pid FROM pg_temp.who() \gset before_
ALTER SERVER changes OPTIONS (ADD application_name 'new name');
SELECT name, application_name, pid = :before_pid AS same FROM pg_temp.who();
SELECT * FROM pg_temp.counts();

-- sizes and timeouts: nothing is reconnected
SELECT pid FROM pg_temp.who() \gset before_
ALTER SERVER changes OPTIONS (SET max_size '2', ADD checkout_timeout '5s', ADD connect_timeout '3');
SELECT pid = :before_pid AS same FROM pg_temp.who();
SELECT * FROM pg_temp.counts();

-- a mapping: another user, and another password
ALTER USER MAPPING FOR CURRENT_USER SERVER changes OPTIONS (SET user 'regress_remote_two', SET password 'two-secret');
SELECT name FROM pg_temp.who();
ALTER USER MAPPING FOR CURRENT_USER SERVER changes OPTIONS (SET password 'wrong-secret');
SELECT test.error_of('SELECT conpool.exec(''changes'', ''SELECT 1'')') LIMIT 1;
ALTER USER MAPPING FOR CURRENT_USER SERVER changes OPTIONS (SET user 'regress_remote', SET password 'remote-secret');
SELECT name FROM pg_temp.who();

-- a lease that is held goes on as it is
SELECT conpool.checkout('changes', 'session') AS lease \gset
ALTER SERVER changes OPTIONS (SET application_name 'newer name');
SELECT * FROM conpool.query(:lease, 'SHOW application_name') AS t(name text);
SELECT conpool.checkin(:lease);
SELECT application_name FROM pg_temp.who();

-- a new name
ALTER SERVER changes RENAME TO changes_renamed;
SELECT conpool.exec('changes', 'SELECT 1');
SELECT conpool.exec('changes_renamed', 'SELECT 1');
SELECT count(*), min(server) FROM conpool.pools WHERE server ~ '^changes' AND database = current_database();
ALTER SERVER changes_renamed RENAME TO changes;
SELECT conpool.exec('changes', 'SELECT 1');

-- options that are not committed yet: on a connection for this use only, which
-- counts in the pool
ALTER SERVER changes OPTIONS (SET max_size '1');
SELECT test.at_rest();
SELECT pid FROM pg_temp.who() \gset before_
SELECT connects FROM pg_temp.counts() \gset before_
BEGIN;
ALTER SERVER changes OPTIONS (SET application_name 'uncommitted');
SELECT application_name FROM pg_temp.who();
SELECT application_name FROM pg_temp.who();
SELECT conpool.checkout('changes') > 0 AS taken;
SELECT unshared, size FROM conpool.pools WHERE server = 'changes' AND database = current_database();
ROLLBACK;
SELECT test.at_rest();
SELECT unshared, size FROM conpool.pools WHERE server = 'changes' AND database = current_database();
SELECT connects - :before_connects AS connects FROM pg_temp.counts();
SELECT application_name FROM pg_temp.who();

-- nor does a server that is never committed leave anything behind
BEGIN;
SELECT test.server('changes_uncommitted', role => 'regress_remote_two');
SELECT * FROM conpool.query('changes_uncommitted', 'SELECT current_user') AS t(name text);
ROLLBACK;
SELECT test.at_rest();
-- the pool itself may be there still
SELECT coalesce(sum(size), 0) AS size, coalesce(sum(unshared), 0) AS unshared FROM conpool.pools WHERE server = 'changes_uncommitted' AND database = current_database();

-- a server that is gone
DROP SERVER changes CASCADE;
SELECT conpool.exec('changes', 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT test.at_rest();
