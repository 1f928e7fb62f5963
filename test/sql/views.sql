-- What the views show, and to whom.
SET client_min_messages = warning;
CREATE ROLE regress_alice;
CREATE ROLE regress_bob;
CREATE ROLE regress_monitor IN ROLE pg_read_all_stats;
SELECT test.server('views', $$max_size '4'$$) AS done \gset
SELECT test.server('views_public') AS done \gset
ALTER USER MAPPING FOR CURRENT_USER SERVER views_public OPTIONS (SET password 'unused');
CREATE USER MAPPING FOR regress_alice SERVER views OPTIONS (user 'regress_remote', password 'remote-secret');
CREATE USER MAPPING FOR PUBLIC SERVER views_public OPTIONS (user 'regress_remote', password 'remote-secret');
GRANT USAGE ON FOREIGN SERVER views, views_public TO regress_alice, regress_bob;

-- all columns
SELECT attrelid::regclass AS view, string_agg(attname || ' ' || atttypid::regtype, E'\n' ORDER BY attnum) AS columns
  FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
 WHERE relnamespace = 'conpool'::regnamespace AND relkind = 'v' GROUP BY 1 ORDER BY 1;

-- the states of a pool's connections add up to its size, whatever they do
CREATE VIEW pg_temp.states AS
	SELECT size, idle, leased, connecting + resetting + validating + closing AS other, waiting, unshared,
		   size = idle + leased + connecting + resetting + validating + closing AS adds_up, broker
	  FROM conpool.pools WHERE server = 'views' AND role = 'postgres' AND database = current_database();
SELECT * FROM pg_temp.states;
SELECT conpool.checkout('views', 'session') AS lease \gset
SELECT conpool.checkout('views', 'session') AS lease_two \gset
SELECT * FROM pg_temp.states;
SELECT conpool.exec('views', 'SELECT 1');
SELECT * FROM pg_temp.states;
SELECT conpool.checkin(:lease), conpool.checkin(:lease_two);
SELECT adds_up FROM pg_temp.states;
SELECT test.at_rest();
SELECT * FROM pg_temp.states;

-- connections: one row each
SELECT conpool.checkout('views', 'session') AS lease \gset
SELECT state, remote_address ~ ':\d+$' AS address, remote_pid = r.pid AS remote_pid, opened_at <= now() AS opened, idle_since IS NULL AS busy,
	   uses > 0 AS used, encrypted = test.tls() AS encryption, c.pid = pg_backend_pid() AS mine
  FROM conpool.connections c, conpool.query(:lease, 'SELECT pg_backend_pid()') AS r(pid int)
 WHERE server = 'views' AND database = current_database() AND c.remote_pid = r.pid;
SELECT state, remote_address ~ ':\d+$' AS address, opened_at <= idle_since AND idle_since <= now() AS idle, uses > 0 AS used, encrypted = test.tls() AS encryption,
	   num_nonnulls(tls_version, tls_cipher, tunnel) = CASE WHEN test.tls() THEN 3 ELSE 0 END AS tunnel, pid
  FROM conpool.connections WHERE server = 'views' AND database = current_database() AND state = 'idle';
SELECT count(*) = (SELECT size FROM pg_temp.states) AS all, count(DISTINCT slot) = count(*) AS different_slots
  FROM conpool.connections WHERE server = 'views' AND database = current_database();
SELECT conpool.checkin(:lease);

-- rows are those of roles that one has the privileges of, and of PUBLIC mappings
SET ROLE regress_alice;
SELECT conpool.exec('views', 'SELECT 1'), conpool.exec('views_public', 'SELECT 1');
SELECT conpool.checkout('views', 'session') AS lease \gset
SELECT conpool.checkout('views_public', 'session') AS lease_two \gset
CREATE FUNCTION pg_temp.seen(view text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('SELECT server || '' of '' || role || CASE WHEN count(*) > 1 THEN '' twice'' ELSE '''' END
		FROM conpool.%I WHERE server IN (''views'', ''views_public'') AND database = current_database()
		GROUP BY server, role ORDER BY 1', view);
END $$;
SELECT pg_temp.seen('pools');
SELECT pg_temp.seen('stat_pools');
SELECT pg_temp.seen('leases');
SELECT DISTINCT sql ~ '^SELECT conpool.checkout' AS own_sql FROM conpool.leases WHERE server IN ('views', 'views_public');
SET ROLE regress_bob;
SELECT pg_temp.seen('pools');
SELECT pg_temp.seen('stat_pools');
SELECT pg_temp.seen('leases');
SELECT server, sql, stack, query_id, application_name IS NOT NULL AS application_name FROM conpool.leases WHERE server IN ('views', 'views_public');
SELECT server, state, remote_address, pid IS NOT NULL AS pid FROM conpool.connections WHERE server IN ('views', 'views_public') AND state = 'leased';
SET ROLE regress_monitor;
SELECT pg_temp.seen('pools');
SELECT pg_temp.seen('leases');
SELECT server, sql ~ '^SELECT conpool.checkout' AS sql FROM conpool.leases WHERE server IN ('views', 'views_public') ORDER BY server;
SELECT server, state, remote_address ~ ':\d+$' AS remote_address FROM conpool.connections WHERE server IN ('views', 'views_public') AND state = 'leased' ORDER BY server;
-- membership is enough
RESET ROLE;
GRANT regress_alice TO regress_bob;
SET ROLE regress_bob;
SELECT pg_temp.seen('leases');
SELECT DISTINCT sql ~ '^SELECT conpool.checkout' AS sql FROM conpool.leases WHERE server IN ('views', 'views_public');
SET ROLE regress_alice;
SELECT conpool.checkin(:lease), conpool.checkin(:lease_two);
RESET ROLE;

-- leaks: held too long, and not at work
ALTER SERVER views OPTIONS (ADD leak_threshold '1ms');
SELECT conpool.checkout('views', 'session') AS lease \gset
SELECT test.wait_until($$EXISTS (SELECT FROM conpool.leaks WHERE server = 'views' AND database = current_database())$$);
SELECT class, lease = :lease AS same, pid = pg_backend_pid() AS mine, role, holder, application_name, client_addr, held_for > '0' AS held_for, outcome, ended_at, sql
  FROM conpool.leaks WHERE server = 'views' AND database = current_database();
SELECT leak, application_name, client_addr, running_since, last_used FROM conpool.leases WHERE lease = :lease;
-- a statement on it: no leak for a moment
ALTER SERVER views OPTIONS (SET leak_threshold '1s');
SELECT conpool.exec('views', 'SELECT 1'), conpool.exec(:lease, 'SELECT pg_sleep(1)');
SELECT leak, running_since, last_used > since AS last_used,
	   (SELECT count(*) FROM conpool.leaks WHERE server = 'views' AND database = current_database()) AS leaks
  FROM conpool.leases WHERE lease = :lease;
-- told of by the broker, and when it is over
SELECT test.wait_until($$(SELECT leaks = 1 FROM conpool.stat_pools WHERE server = 'views' AND role = 'postgres' AND database = current_database())$$);
SELECT leaks_idle + leaks_idle_in_transaction + leaks_busy AS leaks, leaks_abandoned FROM conpool.stat_pools
 WHERE server = 'views' AND role = 'postgres' AND database = current_database();
SELECT conpool.checkin(:lease);
SELECT lease = :lease AS same, pid = pg_backend_pid() AS mine, role, holder, application_name, client_addr, outcome,
	   ended_at = since + held_for AS ended_at, sql
  FROM conpool.leaks WHERE server = 'views' AND database = current_database();

SELECT test.at_rest();
DROP SERVER views CASCADE;
DROP SERVER views_public CASCADE;
DROP FUNCTION pg_temp.seen;
DROP ROLE regress_alice, regress_bob, regress_monitor;
