-- Options by which a pool looks after itself: what the validator takes.
CREATE SERVER kept FOREIGN DATA WRAPPER conpool OPTIONS (min_size '2', max_size '5', max_server_size '20',
	idle_timeout '10min', max_lifetime '1h', validate_interval '30s');
CREATE USER MAPPING FOR PUBLIC SERVER kept OPTIONS (min_size '3', max_size '3');

-- 0 means none or never; durations have a unit
ALTER SERVER kept OPTIONS (SET min_size '0', SET max_server_size '0', SET idle_timeout '0', SET max_lifetime '0', SET validate_interval '0');
ALTER SERVER kept OPTIONS (SET idle_timeout '600');
ALTER SERVER kept OPTIONS (SET max_lifetime '30');
ALTER SERVER kept OPTIONS (SET validate_interval '1');
ALTER SERVER kept OPTIONS (SET max_lifetime '-1s');
ALTER SERVER kept OPTIONS (SET min_size '-1');
ALTER SERVER kept OPTIONS (SET max_server_size '-1');
ALTER SERVER kept OPTIONS (SET min_size 'some');
\echo :LAST_ERROR_SQLSTATE

-- only the sizes of its own pool may stand on a mapping
ALTER USER MAPPING FOR PUBLIC SERVER kept OPTIONS (ADD max_server_size '5');
ALTER USER MAPPING FOR PUBLIC SERVER kept OPTIONS (ADD idle_timeout '5min');
ALTER USER MAPPING FOR PUBLIC SERVER kept OPTIONS (ADD max_lifetime '5min');
ALTER USER MAPPING FOR PUBLIC SERVER kept OPTIONS (ADD validate_interval '5min');

-- min_size above max_size, in one list
CREATE SERVER wrong FOREIGN DATA WRAPPER conpool OPTIONS (min_size '6', max_size '5');
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER kept OPTIONS (SET min_size '6');
ALTER SERVER kept OPTIONS (SET min_size '5');
ALTER SERVER kept OPTIONS (SET max_size '4');
ALTER SERVER kept OPTIONS (SET max_size '4', SET min_size '4');
ALTER USER MAPPING FOR PUBLIC SERVER kept OPTIONS (SET max_size '2');
CREATE USER MAPPING FOR CURRENT_USER SERVER kept OPTIONS (max_size '2', min_size '3');
-- what another list, or the default, says is no contradiction
ALTER SERVER kept OPTIONS (DROP max_size, SET min_size '1000');
ALTER SERVER kept OPTIONS (SET min_size '1');
CREATE USER MAPPING FOR CURRENT_USER SERVER kept OPTIONS (min_size '50');
SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'kept';
DROP SERVER kept CASCADE;

-- min_size is cut to max_size when it is used
SELECT test.server('kept', $$min_size '5', max_server_size '7', idle_timeout '1min', max_lifetime '2min', validate_interval '3s'$$);
ALTER USER MAPPING FOR CURRENT_USER SERVER kept OPTIONS (ADD max_size '2');
SELECT conpool.exec('kept', 'SELECT 1');
SELECT test.wait_until($$(SELECT idle = 2 FROM conpool.pools WHERE server = 'kept' AND database = current_database())$$);
SELECT min_size, max_size, effective_max_size, effective_max_size_until, max_server_size, idle_timeout, max_lifetime, validate_interval,
	size, server_size, paused, dropped, breaker, failures, next_attempt, upkeep_error
  FROM conpool.pools WHERE server = 'kept' AND database = current_database();
SELECT checked_at >= opened_at AS checked, expires_at - opened_at BETWEEN '108s' AND '120s' AS expires
  FROM conpool.connections WHERE server = 'kept' AND database = current_database();
SELECT test.at_rest();
DROP SERVER kept CASCADE;
