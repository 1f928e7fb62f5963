-- Whom the statistics are shown to.
SET client_min_messages = warning;
CREATE ROLE regress_alice;
CREATE ROLE regress_bob;
CREATE ROLE regress_monitor IN ROLE pg_read_all_stats;
SELECT test.server('seen') AS done, test.server('seen_public') AS done \gset
ALTER USER MAPPING FOR CURRENT_USER SERVER seen_public OPTIONS (SET password 'unused');
CREATE USER MAPPING FOR regress_alice SERVER seen OPTIONS (user 'regress_remote', password 'remote-secret');
CREATE USER MAPPING FOR PUBLIC SERVER seen_public OPTIONS (user 'regress_remote', password 'remote-secret');
GRANT USAGE ON FOREIGN SERVER seen, seen_public TO regress_alice, regress_bob;
CREATE FUNCTION pg_temp.seen(VARIADIC views text[]) RETURNS TABLE(view text, pools text) LANGUAGE plpgsql AS $$
BEGIN
	FOREACH view IN ARRAY views LOOP
		EXECUTE format('SELECT string_agg(DISTINCT server || '' of '' || role, '', '') FROM conpool.%I
			WHERE server IN (''seen'', ''seen_public'') AND database = current_database()', view) INTO pools;
		RETURN NEXT;
	END LOOP;
END $$;
CREATE TEMP VIEW statements AS SELECT server, role, caller, query_id IS NOT NULL AS query_id, calls, query FROM conpool.stat_statements
 WHERE server IN ('seen', 'seen_public') AND database = current_database();
CREATE TEMP VIEW errors AS SELECT server, role, sqlstate, last_message, last_caller, last_query_id IS NOT NULL AS query_id FROM conpool.stat_errors
 WHERE server IN ('seen', 'seen_public') AND database = current_database();
GRANT SELECT ON statements, errors TO PUBLIC;
SET compute_query_id = on;

-- intervals of the history are short for a while
ALTER SYSTEM SET conpool.history_interval = '1s';
SELECT pg_reload_conf();
SELECT conpool.exec('seen', 'SELECT 1');
SET ROLE regress_alice;
SELECT conpool.exec('seen', 'SELECT 1') AS alices;
SELECT conpool.exec('seen', 'SELECT alices_secret') AS alices;
SELECT conpool.exec('seen_public', 'SELECT 1') AS alices;
SELECT conpool.exec('seen_public', 'SELECT alices_secret') AS alices;
RESET ROLE;
SELECT test.wait_until($$ARRAY[2, 2] = ARRAY(SELECT sum(checkouts)::int FROM conpool.stat_history
	WHERE server IN ('seen', 'seen_public') AND role <> 'postgres' AND database = current_database() GROUP BY server)$$);
SELECT test.wait_until($$EXISTS (SELECT FROM conpool.stat_history WHERE server = 'seen' AND role = 'postgres' AND database = current_database())$$);

-- those whose privileges one has, and PUBLIC ones
\set views '''stat_latency'', ''stat_history'', ''stat_statements'', ''stat_errors'', ''events'''
SET ROLE regress_alice;
SELECT * FROM pg_temp.seen(:views);
SELECT * FROM statements ORDER BY server, query;
SELECT * FROM errors ORDER BY server;
SET ROLE regress_bob;
SELECT * FROM pg_temp.seen(:views);
-- not what others said, or were told
SELECT * FROM statements ORDER BY server, query;
SELECT * FROM errors ORDER BY server;
SELECT conpool.exec('seen_public', 'SELECT bobs_secret') AS bobs;
SELECT * FROM statements ORDER BY server, query;
SELECT * FROM errors ORDER BY server;
SET ROLE regress_alice;
SELECT * FROM errors ORDER BY server;
SET ROLE regress_monitor;
SELECT * FROM pg_temp.seen(:views);
SELECT * FROM statements ORDER BY server, caller, query;
SELECT * FROM errors ORDER BY server;
-- membership is enough
RESET ROLE;
GRANT regress_alice TO regress_bob;
SET ROLE regress_bob;
SELECT * FROM pg_temp.seen(:views);
SELECT * FROM statements WHERE caller = 'regress_alice' ORDER BY server, query;

-- events of no pool: for those who see all
SELECT count(*) FROM conpool.events WHERE server IS NULL;
RESET ROLE;
SELECT count(*) AS of_none FROM conpool.events WHERE server IS NULL \gset
SET ROLE regress_monitor;
SELECT count(*) = :of_none AS seen FROM conpool.events WHERE server IS NULL;
RESET ROLE;

-- the history
SELECT sum(checkouts) AS checkouts, sum(errors) AS errors, sum(timeouts) AS timeouts, sum(breaker_seconds) AS breaker_seconds, max(peak_leased) AS peak_leased, max(peak_waiting) AS peak_waiting,
	   bool_and(wait_p50 <= wait_p99 AND wait_p99 <= wait_max) AS wait, bool_and(checkout_p50 <= checkout_p99 AND checkout_p99 <= checkout_max) AS checkout,
	   count(wait_max) = count(*) FILTER (WHERE checkouts > 0) AS null_if_none
  FROM conpool.stat_history WHERE server = 'seen' AND role = 'regress_alice' AND database = current_database();
ALTER SYSTEM RESET conpool.history_interval;
SELECT pg_reload_conf();

SELECT test.at_rest();
RESET compute_query_id;
DROP SERVER seen CASCADE;
DROP SERVER seen_public CASCADE;
DROP FUNCTION pg_temp.seen;
DROP ROLE regress_alice, regress_bob, regress_monitor;
