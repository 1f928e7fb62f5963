-- What went wrong with a remote, as the view pools tells it, and whom.
SET client_min_messages = warning;
CREATE ROLE regress_alice;
CREATE ROLE regress_bob;
CREATE ROLE regress_monitor IN ROLE pg_read_all_stats;
-- nobody listens on port 1
SELECT test.server('problems', $$SET port '1', checkout_timeout '5s'$$) AS done \gset
SELECT test.server('problems_public', $$SET port '1', checkout_timeout '5s'$$) AS done \gset
CREATE USER MAPPING FOR regress_alice SERVER problems OPTIONS (user 'regress_remote', password 'remote-secret');
CREATE USER MAPPING FOR PUBLIC SERVER problems_public OPTIONS (user 'regress_remote', password 'remote-secret');
GRANT USAGE ON FOREIGN SERVER problems, problems_public TO regress_alice;
CREATE TEMP VIEW problem AS
	SELECT server, role, breaker <> 'closed' AS out_of_reach, breaker_since <= now() AS since, failures > 0 AS failures, next_attempt > breaker_since AS next_attempt,
		   last_error_at <= now() AS at, last_error_sqlstate AS sqlstate, regexp_replace(last_error, '.*port 1 failed: .*', 'the truth') AS last_error
	  FROM conpool.pools WHERE server IN ('problems', 'problems_public') AND role <> 'postgres' AND database = current_database();
GRANT SELECT ON problem TO PUBLIC;

SET ROLE regress_alice;
SELECT left(error, 30) FROM test.error_of($$SELECT conpool.exec('problems', 'SELECT 1')$$) AS error LIMIT 1;
SELECT left(error, 30) FROM test.error_of($$SELECT conpool.exec('problems_public', 'SELECT 1')$$) AS error LIMIT 1;
-- one's own pool, and that of a server that one may use
SELECT * FROM problem ORDER BY server;
SELECT server, checkouts, checkout_failures, refused <= checkout_failures AS refused, connects, connect_failures > 0 AS connect_failures, breaker_opened,
	total_wait_time > 0 AS wait
  FROM conpool.stat_pools WHERE server IN ('problems', 'problems_public') AND database = current_database() ORDER BY server;
-- everybody sees a PUBLIC pool, but not what it says about hosts
SET ROLE regress_bob;
SELECT server, role, out_of_reach, sqlstate, last_error FROM problem ORDER BY server;
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER problems_public TO regress_bob;
SET ROLE regress_bob;
SELECT server, role, out_of_reach, sqlstate, last_error FROM problem ORDER BY server;
SET ROLE regress_monitor;
SELECT server, role, out_of_reach, sqlstate, last_error FROM problem ORDER BY server;
RESET ROLE;

-- ahead of demand: why there are none
ALTER SERVER problems OPTIONS (ADD min_size '1');
SELECT test.wait_until($$(SELECT upkeep_error IS NOT NULL FROM conpool.pools
	WHERE server = 'problems' AND role = 'regress_alice' AND database = current_database())$$);
SET ROLE regress_alice;
SELECT upkeep_error_at <= now() AS at, upkeep_error_sqlstate, upkeep_error ~ 'port 1 failed' AS error
  FROM conpool.pools WHERE server = 'problems' AND role = 'regress_alice' AND database = current_database();
RESET ROLE;

-- it is there again
SELECT port FROM test.remote \gset
ALTER SERVER problems OPTIONS (SET port :'port');
SELECT conpool.warm('problems');
SELECT test.wait_until($$(SELECT idle = 1 FROM conpool.pools
	WHERE server = 'problems' AND role = 'regress_alice' AND database = current_database())$$);
SELECT breaker, failures, next_attempt, upkeep_error_at, upkeep_error_sqlstate, upkeep_error, upkeep_next_try
  FROM conpool.pools WHERE server = 'problems' AND role = 'regress_alice' AND database = current_database();

SELECT test.at_rest();
DROP VIEW problem;
DROP SERVER problems CASCADE;
DROP SERVER problems_public CASCADE;
DROP ROLE regress_alice, regress_bob, regress_monitor;
