/* sql/conpool--1.1--1.2.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION conpool UPDATE TO '1.2'" to load this file. \quit

---------------------------------------------------------------------------
-- Views that have more columns now.  They are dropped and created again: a
-- user's view that depends on one stops the update with an error that names
-- it, and has to be dropped first.  Privileges that had been granted on them
-- beyond the default have to be granted again.
---------------------------------------------------------------------------

DROP VIEW conpool.pools;
DROP FUNCTION conpool.get_pools();

-- Columns are appended only: the library serves databases that still have an
-- older version, and leaves out what is not declared.
CREATE FUNCTION conpool.get_pools(
	OUT server text,
	OUT database text,
	OUT role text,
	OUT max_size int,
	OUT pool_mode text,
	OUT checkout_timeout interval,
	OUT max_waiters int,
	OUT connect_timeout interval,
	OUT connect_concurrency int,
	OUT reset text,
	OUT leak_threshold interval,
	OUT size int,
	OUT idle int,
	OUT leased int,
	OUT connecting int,
	OUT resetting int,
	OUT validating int,
	OUT closing int,
	OUT waiting int,
	OUT unshared int,
	OUT broker text,
	OUT min_size int,
	OUT max_server_size int,
	OUT idle_timeout interval,
	OUT max_lifetime interval,
	OUT validate_interval interval,
	OUT effective_max_size int,
	OUT effective_max_size_until timestamptz,
	OUT server_size int,
	OUT paused boolean,
	OUT dropped boolean,
	OUT breaker text,
	OUT breaker_since timestamptz,
	OUT failures int,
	OUT next_attempt timestamptz,
	OUT last_error_at timestamptz,
	OUT last_error_sqlstate text,
	OUT last_error text,
	OUT upkeep_error_at timestamptz,
	OUT upkeep_error_sqlstate text,
	OUT upkeep_error text,
	OUT upkeep_next_try timestamptz,
	OUT leak_action text,
	OUT remote_max_connections int)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_pools';

COMMENT ON FUNCTION conpool.get_pools() IS 'the rows of the view conpool.pools';

CREATE VIEW conpool.pools AS
SELECT server, database, role,
	   min_size, max_size, effective_max_size, effective_max_size_until,
	   max_server_size, remote_max_connections, pool_mode, checkout_timeout,
	   max_waiters, connect_timeout, connect_concurrency, idle_timeout,
	   max_lifetime, validate_interval, reset, leak_threshold, leak_action,
	   size, idle, leased, connecting, resetting, validating, closing,
	   waiting, unshared, server_size, paused, dropped,
	   breaker, breaker_since, failures, next_attempt,
	   last_error_at, last_error_sqlstate, last_error,
	   upkeep_error_at, upkeep_error_sqlstate, upkeep_error, upkeep_next_try,
	   broker
  FROM conpool.get_pools();

COMMENT ON VIEW conpool.pools IS 'pools, their options in force, what their connections do, and whether their remotes answer';
COMMENT ON COLUMN conpool.pools.server IS 'foreign server, or what a connection string points to';
COMMENT ON COLUMN conpool.pools.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.pools.role IS 'role of the user mapping, "public" for a PUBLIC mapping; of a connection string, the role that uses it';
COMMENT ON COLUMN conpool.pools.min_size IS 'connections kept open ahead of demand';
COMMENT ON COLUMN conpool.pools.max_size IS 'most connections the pool may have';
COMMENT ON COLUMN conpool.pools.effective_max_size IS 'the same, or less for a while because the remote has no room for more';
COMMENT ON COLUMN conpool.pools.effective_max_size_until IS 'how long that is less than max_size; NULL when it is not';
COMMENT ON COLUMN conpool.pools.max_server_size IS 'most connections that all pools of the server may have, 0 = no limit';
COMMENT ON COLUMN conpool.pools.remote_max_connections IS 'connections that the remote server allows ordinary users, all in all; NULL as long as nobody has asked it';
COMMENT ON COLUMN conpool.pools.pool_mode IS 'scope of the leases that query functions take';
COMMENT ON COLUMN conpool.pools.checkout_timeout IS 'longest wait for a usable connection, 0 = no limit';
COMMENT ON COLUMN conpool.pools.max_waiters IS 'longest queue, -1 = no limit, 0 = never wait';
COMMENT ON COLUMN conpool.pools.connect_timeout IS 'longest time for one attempt to connect, 0 = no limit';
COMMENT ON COLUMN conpool.pools.connect_concurrency IS 'most attempts to connect at the same time';
COMMENT ON COLUMN conpool.pools.idle_timeout IS 'an idle connection above min_size is closed after that time, 0 = never';
COMMENT ON COLUMN conpool.pools.max_lifetime IS 'a connection is closed at that age, or up to a tenth earlier, 0 = never';
COMMENT ON COLUMN conpool.pools.validate_interval IS 'how often an idle connection is checked by a round trip, 0 = never';
COMMENT ON COLUMN conpool.pools.reset IS 'when session state is reset at checkin: auto, always, never';
COMMENT ON COLUMN conpool.pools.leak_threshold IS 'a lease held longer is examined, whether it is a leak; 0 = never';
COMMENT ON COLUMN conpool.pools.leak_action IS 'what is done about a leak beside telling of it: log (nothing), cancel, reclaim';
COMMENT ON COLUMN conpool.pools.size IS 'connections of the pool: the sum of the six numbers that follow';
COMMENT ON COLUMN conpool.pools.idle IS 'connections ready to be used';
COMMENT ON COLUMN conpool.pools.leased IS 'connections in use by a session';
COMMENT ON COLUMN conpool.pools.connecting IS 'connections being opened';
COMMENT ON COLUMN conpool.pools.resetting IS 'connections whose session state is being cleared';
COMMENT ON COLUMN conpool.pools.validating IS 'connections being looked at, whether they live';
COMMENT ON COLUMN conpool.pools.closing IS 'connections being closed; they count until the remote has seen it';
COMMENT ON COLUMN conpool.pools.waiting IS 'sessions that wait for a connection';
COMMENT ON COLUMN conpool.pools.unshared IS 'connections, of size, that serve one lease only and are closed after it';
COMMENT ON COLUMN conpool.pools.server_size IS 'connections of all pools of the server; NULL for a connection string';
COMMENT ON COLUMN conpool.pools.paused IS 'whether nobody gets a connection until resume()';
COMMENT ON COLUMN conpool.pools.dropped IS 'whether its server, user mapping, role or database is gone: the pool goes when its leases have ended';
COMMENT ON COLUMN conpool.pools.breaker IS 'closed: connections are opened as needed; open: the remote could not be reached, who needs a new connection fails at once; probing: one attempt to reach it is under way';
COMMENT ON COLUMN conpool.pools.breaker_since IS 'since when the breaker is closed, or is not; NULL if it never opened';
COMMENT ON COLUMN conpool.pools.failures IS 'attempts to reach the remote that failed, in a row';
COMMENT ON COLUMN conpool.pools.next_attempt IS 'when the next attempt is due; NULL when the breaker is closed';
COMMENT ON COLUMN conpool.pools.last_error_at IS 'when the last connect that failed did';
COMMENT ON COLUMN conpool.pools.last_error_sqlstate IS 'its SQLSTATE; NULL when there was none';
COMMENT ON COLUMN conpool.pools.last_error IS 'what it said; <insufficient privilege> when it may not be seen';
COMMENT ON COLUMN conpool.pools.upkeep_error_at IS 'when opening connections ahead of demand last failed; NULL if min_size is reached';
COMMENT ON COLUMN conpool.pools.upkeep_error_sqlstate IS 'its SQLSTATE; NULL when there was none';
COMMENT ON COLUMN conpool.pools.upkeep_error IS 'why min_size is not reached; <insufficient privilege> when it may not be seen';
COMMENT ON COLUMN conpool.pools.upkeep_next_try IS 'when it is tried again; NULL = at once';
COMMENT ON COLUMN conpool.pools.broker IS 'running, or not running: then connections are not kept';

DROP VIEW conpool.leases;
DROP FUNCTION conpool.get_leases();

CREATE FUNCTION conpool.get_leases(
	OUT lease bigint,
	OUT server text,
	OUT database text,
	OUT role text,
	OUT pid int,
	OUT scope text,
	OUT since timestamptz,
	OUT held_for interval,
	OUT remote_pid int,
	OUT sql text,
	OUT running_since timestamptz,
	OUT last_used timestamptz,
	OUT leak text,
	OUT query_id bigint,
	OUT stack text,
	OUT application_name text,
	OUT client_addr text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_leases';

COMMENT ON FUNCTION conpool.get_leases() IS 'the rows of the view conpool.leases';

CREATE VIEW conpool.leases AS
SELECT lease, server, database, role, pid, application_name, client_addr,
	   scope, since, held_for, running_since, last_used, leak,
	   remote_pid, sql, query_id, stack
  FROM conpool.get_leases();

COMMENT ON VIEW conpool.leases IS 'who uses which connection, since when and what for';
COMMENT ON COLUMN conpool.leases.lease IS 'number of the lease, as checkout() returns it';
COMMENT ON COLUMN conpool.leases.server IS 'foreign server of the pool, or what a connection string points to';
COMMENT ON COLUMN conpool.leases.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.leases.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping';
COMMENT ON COLUMN conpool.leases.pid IS 'process ID of the session that holds the lease';
COMMENT ON COLUMN conpool.leases.application_name IS 'application_name of that session';
COMMENT ON COLUMN conpool.leases.client_addr IS 'address of its client; NULL for a local one, or when it may not be seen';
COMMENT ON COLUMN conpool.leases.scope IS 'statement, transaction or session: when it ends by itself';
COMMENT ON COLUMN conpool.leases.since IS 'when the lease was taken';
COMMENT ON COLUMN conpool.leases.held_for IS 'how long it has been held';
COMMENT ON COLUMN conpool.leases.running_since IS 'since when a remote statement runs; NULL when none does';
COMMENT ON COLUMN conpool.leases.last_used IS 'when the last remote statement ended; NULL when none has';
COMMENT ON COLUMN conpool.leases.leak IS 'what it does if held longer than leak_threshold: working (a remote statement runs: no leak), idle, idle in transaction, busy elsewhere; else NULL';
COMMENT ON COLUMN conpool.leases.remote_pid IS 'process ID of the remote backend';
COMMENT ON COLUMN conpool.leases.sql IS 'statement of the session that took the lease, its beginning; <insufficient privilege> when it may not be seen';
COMMENT ON COLUMN conpool.leases.query_id IS 'query ID of that statement, as in pg_stat_activity; NULL if none was computed, or when it may not be seen';
COMMENT ON COLUMN conpool.leases.stack IS 'PL functions that the lease was taken in, with lines, if it outlives the call; <insufficient privilege> when it may not be seen';

DROP VIEW conpool.leaks;
DROP FUNCTION conpool.get_leaks();

CREATE FUNCTION conpool.get_leaks(
	OUT server text,
	OUT database text,
	OUT role text,
	OUT lease bigint,
	OUT pid int,
	OUT holder text,
	OUT since timestamptz,
	OUT held_for interval,
	OUT sql text,
	OUT class text,
	OUT application_name text,
	OUT client_addr text,
	OUT outcome text,
	OUT ended_at timestamptz,
	OUT query_id bigint,
	OUT stack text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_leaks';

COMMENT ON FUNCTION conpool.get_leaks() IS 'the rows of the view conpool.leaks';

CREATE VIEW conpool.leaks AS
SELECT class, server, database, role, lease, pid, holder, application_name,
	   client_addr, since, held_for, outcome, ended_at, sql, query_id, stack
  FROM conpool.get_leaks();

COMMENT ON VIEW conpool.leaks IS 'leases held longer than leak_threshold without a remote statement running, and the latest such leases that have ended';
COMMENT ON COLUMN conpool.leaks.class IS 'what its holder did, or does: idle, idle in transaction, busy elsewhere; abandoned: its session ended without giving it back';
COMMENT ON COLUMN conpool.leaks.server IS 'foreign server of the pool, or what a connection string points to';
COMMENT ON COLUMN conpool.leaks.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.leaks.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping';
COMMENT ON COLUMN conpool.leaks.lease IS 'number of the lease, as checkout() returned it';
COMMENT ON COLUMN conpool.leaks.pid IS 'process ID of the session that holds or held it';
COMMENT ON COLUMN conpool.leaks.holder IS 'role that took the lease';
COMMENT ON COLUMN conpool.leaks.application_name IS 'application_name of the session';
COMMENT ON COLUMN conpool.leaks.client_addr IS 'address of its client; NULL for a local one, or when it may not be seen';
COMMENT ON COLUMN conpool.leaks.since IS 'when the lease was taken';
COMMENT ON COLUMN conpool.leaks.held_for IS 'how long it has been, or was, held';
COMMENT ON COLUMN conpool.leaks.outcome IS 'how it ended: checked in, transaction ended, session ended, reclaimed, connection lost; NULL: it is still held';
COMMENT ON COLUMN conpool.leaks.ended_at IS 'when that was';
COMMENT ON COLUMN conpool.leaks.sql IS 'statement of the session that took the lease, its beginning; <insufficient privilege> when it may not be seen';
COMMENT ON COLUMN conpool.leaks.query_id IS 'query ID of that statement, as in pg_stat_activity; NULL if none was computed, or when it may not be seen';
COMMENT ON COLUMN conpool.leaks.stack IS 'PL functions that the lease was taken in, with lines; <insufficient privilege> when it may not be seen';

DROP VIEW conpool.stat_pools;
DROP FUNCTION conpool.get_stat_pools();

CREATE FUNCTION conpool.get_stat_pools(
	OUT server text,
	OUT database text,
	OUT role text,
	OUT checkouts bigint,
	OUT checkout_timeouts bigint,
	OUT checkout_cancels bigint,
	OUT waited bigint,
	OUT total_wait_time float8,
	OUT max_wait_time float8,
	OUT total_checkout_time float8,
	OUT max_checkout_time float8,
	OUT connects bigint,
	OUT connect_failures bigint,
	OUT total_connect_time float8,
	OUT queries bigint,
	OUT query_errors bigint,
	OUT rows bigint,
	OUT discarded bigint,
	OUT resets bigint,
	OUT leaks bigint,
	OUT stats_reset timestamptz,
	OUT checkout_failures bigint,
	OUT refused bigint,
	OUT dials bigint,
	OUT validations bigint,
	OUT validation_failures bigint,
	OUT idle_closed bigint,
	OUT expired bigint,
	OUT breaker_opened bigint,
	OUT total_remote_time float8,
	OUT auto_returned bigint,
	OUT leaks_idle bigint,
	OUT leaks_idle_in_transaction bigint,
	OUT leaks_busy bigint,
	OUT leaks_abandoned bigint,
	OUT total_breaker_time float8,
	OUT total_failed_wait_time float8,
	OUT peak_leased bigint,
	OUT peak_waiting bigint,
	OUT wait_p50 float8,
	OUT wait_p90 float8,
	OUT wait_p95 float8,
	OUT wait_p99 float8,
	OUT wait_max float8,
	OUT checkout_p50 float8,
	OUT checkout_p90 float8,
	OUT checkout_p95 float8,
	OUT checkout_p99 float8,
	OUT checkout_max float8,
	OUT connect_p50 float8,
	OUT connect_p90 float8,
	OUT connect_p95 float8,
	OUT connect_p99 float8,
	OUT connect_max float8,
	OUT remote_p50 float8,
	OUT remote_p90 float8,
	OUT remote_p95 float8,
	OUT remote_p99 float8,
	OUT remote_max float8)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_stat_pools';

COMMENT ON FUNCTION conpool.get_stat_pools() IS 'the rows of the view conpool.stat_pools';

CREATE VIEW conpool.stat_pools AS
SELECT server, database, role,
	   checkouts, checkout_timeouts, checkout_cancels, checkout_failures,
	   refused, waited, peak_waiting, total_wait_time, total_failed_wait_time,
	   max_wait_time,
	   wait_p50, wait_p90, wait_p95, wait_p99, wait_max,
	   peak_leased, auto_returned, total_checkout_time, max_checkout_time,
	   checkout_p50, checkout_p90, checkout_p95, checkout_p99, checkout_max,
	   connects, connect_failures, dials, total_connect_time,
	   connect_p50, connect_p90, connect_p95, connect_p99, connect_max,
	   breaker_opened, total_breaker_time,
	   queries, query_errors, rows, total_remote_time,
	   remote_p50, remote_p90, remote_p95, remote_p99, remote_max,
	   discarded, resets, validations, validation_failures, idle_closed, expired,
	   leaks, leaks_idle, leaks_idle_in_transaction, leaks_busy, leaks_abandoned,
	   stats_reset
  FROM conpool.get_stat_pools();

COMMENT ON VIEW conpool.stat_pools IS 'counters of the pools since stats_reset; times in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.server IS 'foreign server, or what a connection string points to';
COMMENT ON COLUMN conpool.stat_pools.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.stat_pools.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping';
COMMENT ON COLUMN conpool.stat_pools.checkouts IS 'leases taken';
COMMENT ON COLUMN conpool.stat_pools.checkout_timeouts IS 'callers who got none within checkout_timeout, or found the queue full';
COMMENT ON COLUMN conpool.stat_pools.checkout_cancels IS 'callers who gave up waiting: cancelled or terminated';
COMMENT ON COLUMN conpool.stat_pools.checkout_failures IS 'callers who got none because no connection could be opened';
COMMENT ON COLUMN conpool.stat_pools.refused IS 'of these, those who were turned away without a try, the breaker being open';
COMMENT ON COLUMN conpool.stat_pools.waited IS 'callers who had to queue, whether they got a lease or not';
COMMENT ON COLUMN conpool.stat_pools.peak_waiting IS 'most callers that waited at a time';
COMMENT ON COLUMN conpool.stat_pools.total_wait_time IS 'time callers waited for a usable connection, timeouts, cancels and failures included, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.total_failed_wait_time IS 'of total_wait_time, that of callers who got no connection because none could be opened, in milliseconds; the distribution of waits is without them';
COMMENT ON COLUMN conpool.stat_pools.max_wait_time IS 'longest of these waits, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.wait_p50 IS '50 % of waits for a usable connection (timeouts and cancels included) took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.wait_p90 IS '90 % of waits for a usable connection (timeouts and cancels included) took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.wait_p95 IS '95 % of waits for a usable connection (timeouts and cancels included) took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.wait_p99 IS '99 % of waits for a usable connection (timeouts and cancels included) took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.wait_max IS 'longest of waits for a usable connection (timeouts and cancels included), in milliseconds; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.peak_leased IS 'most connections leased at a time';
COMMENT ON COLUMN conpool.stat_pools.auto_returned IS 'leases of checkout() that the end of their transaction gave back';
COMMENT ON COLUMN conpool.stat_pools.total_checkout_time IS 'time connections were leased, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.max_checkout_time IS 'longest lease that has ended, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.checkout_p50 IS '50 % of leases that have ended took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.checkout_p90 IS '90 % of leases that have ended took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.checkout_p95 IS '95 % of leases that have ended took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.checkout_p99 IS '99 % of leases that have ended took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.checkout_max IS 'longest of leases that have ended, in milliseconds; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.connects IS 'connections opened';
COMMENT ON COLUMN conpool.stat_pools.connect_failures IS 'attempts to open one that failed';
COMMENT ON COLUMN conpool.stat_pools.dials IS 'of connects, those ahead of demand';
COMMENT ON COLUMN conpool.stat_pools.total_connect_time IS 'time spent opening connections, of attempts that succeeded, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.connect_p50 IS '50 % of connects that succeeded took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.connect_p90 IS '90 % of connects that succeeded took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.connect_p95 IS '95 % of connects that succeeded took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.connect_p99 IS '99 % of connects that succeeded took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.connect_max IS 'longest of connects that succeeded, in milliseconds; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.breaker_opened IS 'how often the remote was found out of reach';
COMMENT ON COLUMN conpool.stat_pools.total_breaker_time IS 'time the breaker was not closed, until now, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.queries IS 'statements sent to the remote';
COMMENT ON COLUMN conpool.stat_pools.query_errors IS 'of these, how many failed';
COMMENT ON COLUMN conpool.stat_pools.rows IS 'rows received, or affected by commands';
COMMENT ON COLUMN conpool.stat_pools.total_remote_time IS 'time remote statements took, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.remote_p50 IS '50 % of remote statements took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.remote_p90 IS '90 % of remote statements took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.remote_p95 IS '95 % of remote statements took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.remote_p99 IS '99 % of remote statements took no longer, in milliseconds, within 3.2 %; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.remote_max IS 'longest of remote statements, in milliseconds; NULL when none was timed';
COMMENT ON COLUMN conpool.stat_pools.discarded IS 'connections closed because they were dead or in doubt';
COMMENT ON COLUMN conpool.stat_pools.resets IS 'how often a connection''s session state was reset at checkin';
COMMENT ON COLUMN conpool.stat_pools.validations IS 'checks of idle connections by a round trip';
COMMENT ON COLUMN conpool.stat_pools.validation_failures IS 'of these, those that were not answered; also idle connections found dead otherwise';
COMMENT ON COLUMN conpool.stat_pools.idle_closed IS 'connections closed because of idle_timeout';
COMMENT ON COLUMN conpool.stat_pools.expired IS 'connections closed because of max_lifetime';
COMMENT ON COLUMN conpool.stat_pools.leaks IS 'leases that were found to be leaks, each once';
COMMENT ON COLUMN conpool.stat_pools.leaks_idle IS 'how many leases were found leaking while their session was idle';
COMMENT ON COLUMN conpool.stat_pools.leaks_idle_in_transaction IS 'the same, idle in a transaction';
COMMENT ON COLUMN conpool.stat_pools.leaks_busy IS 'the same, while their session did something else';
COMMENT ON COLUMN conpool.stat_pools.leaks_abandoned IS 'leases whose session ended without giving them back';
COMMENT ON COLUMN conpool.stat_pools.stats_reset IS 'since when these counters count';

GRANT SELECT ON conpool.pools, conpool.leases, conpool.leaks,
	conpool.stat_pools TO PUBLIC;

---------------------------------------------------------------------------
-- Distributions, history, statements, errors and events
---------------------------------------------------------------------------

CREATE FUNCTION conpool.get_stat_latency(
	OUT server text,
	OUT database text,
	OUT role text,
	OUT kind text,
	OUT le_ms float8,
	OUT count bigint,
	OUT cumulative bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_stat_latency';

COMMENT ON FUNCTION conpool.get_stat_latency() IS 'the rows of the view conpool.stat_latency';

CREATE VIEW conpool.stat_latency AS
SELECT server, database, role, kind, le_ms, count, cumulative
  FROM conpool.get_stat_latency();

COMMENT ON VIEW conpool.stat_latency IS 'how many durations were how long since stats_reset, in buckets at most 3.2 % wide, those that are not empty';
COMMENT ON COLUMN conpool.stat_latency.server IS 'foreign server of the pool, or what a connection string points to';
COMMENT ON COLUMN conpool.stat_latency.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.stat_latency.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping; of a connection string, the role that uses it';
COMMENT ON COLUMN conpool.stat_latency.kind IS 'wait: for a usable connection, of checkouts that got one, timed out or were cancelled; checkout: leases that have ended; connect: connects that succeeded; remote: remote statements';
COMMENT ON COLUMN conpool.stat_latency.le_ms IS 'longest duration that belongs to the bucket, in milliseconds; Infinity for the last one';
COMMENT ON COLUMN conpool.stat_latency.count IS 'durations longer than those of the bucket before, up to that';
COMMENT ON COLUMN conpool.stat_latency.cumulative IS 'durations up to that';

CREATE FUNCTION conpool.get_stat_history(
	OUT server text,
	OUT database text,
	OUT role text,
	OUT until timestamptz,
	OUT seconds int,
	OUT checkouts bigint,
	OUT timeouts bigint,
	OUT errors bigint,
	OUT wait_p50 float8,
	OUT wait_p99 float8,
	OUT wait_max float8,
	OUT checkout_p50 float8,
	OUT checkout_p99 float8,
	OUT checkout_max float8,
	OUT peak_leased int,
	OUT peak_waiting int,
	OUT breaker_seconds float8)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_stat_history';

COMMENT ON FUNCTION conpool.get_stat_history() IS 'the rows of the view conpool.stat_history';

CREATE VIEW conpool.stat_history AS
SELECT server, database, role, until, seconds, checkouts, timeouts, errors,
	   wait_p50, wait_p99, wait_max, checkout_p50, checkout_p99, checkout_max,
	   peak_leased, peak_waiting, breaker_seconds
  FROM conpool.get_stat_history();

COMMENT ON VIEW conpool.stat_history IS 'what each pool did in each interval of the last hours, newest first; see conpool.history_interval and conpool.history_size';
COMMENT ON COLUMN conpool.stat_history.server IS 'foreign server of the pool, or what a connection string points to';
COMMENT ON COLUMN conpool.stat_history.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.stat_history.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping; of a connection string, the role that uses it';
COMMENT ON COLUMN conpool.stat_history.until IS 'when the interval ended';
COMMENT ON COLUMN conpool.stat_history.seconds IS 'how long it was';
COMMENT ON COLUMN conpool.stat_history.checkouts IS 'leases taken';
COMMENT ON COLUMN conpool.stat_history.timeouts IS 'callers who got none within checkout_timeout, or found the queue full';
COMMENT ON COLUMN conpool.stat_history.errors IS 'statements that failed, and callers for whom no connection could be opened';
COMMENT ON COLUMN conpool.stat_history.wait_p50 IS '50 % of waits for a connection took no longer, in milliseconds; NULL if there was none';
COMMENT ON COLUMN conpool.stat_history.wait_p99 IS '99 % of waits for a connection took no longer, in milliseconds; NULL if there was none';
COMMENT ON COLUMN conpool.stat_history.wait_max IS 'longest wait for a connection, in milliseconds; NULL if there was none';
COMMENT ON COLUMN conpool.stat_history.checkout_p50 IS '50 % of leases that ended were held no longer, in milliseconds; NULL if there was none';
COMMENT ON COLUMN conpool.stat_history.checkout_p99 IS '99 % of leases that ended were held no longer, in milliseconds; NULL if there was none';
COMMENT ON COLUMN conpool.stat_history.checkout_max IS 'longest lease that ended, in milliseconds; NULL if there was none';
COMMENT ON COLUMN conpool.stat_history.peak_leased IS 'most connections leased at a time';
COMMENT ON COLUMN conpool.stat_history.peak_waiting IS 'most callers that waited at a time';
COMMENT ON COLUMN conpool.stat_history.breaker_seconds IS 'seconds for which the breaker was not closed';

CREATE FUNCTION conpool.get_stat_statements(
	OUT server text,
	OUT database text,
	OUT role text,
	OUT caller text,
	OUT query_id bigint,
	OUT calls bigint,
	OUT rows bigint,
	OUT errors bigint,
	OUT total_wait_time float8,
	OUT total_remote_time float8,
	OUT max_remote_time float8,
	OUT since timestamptz,
	OUT query text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_stat_statements';

COMMENT ON FUNCTION conpool.get_stat_statements() IS 'the rows of the view conpool.stat_statements';

CREATE VIEW conpool.stat_statements AS
SELECT server, database, role, caller, query_id, calls, rows, errors,
	   total_wait_time, total_remote_time, max_remote_time, since, query
  FROM conpool.get_stat_statements();

COMMENT ON VIEW conpool.stat_statements IS 'what local statements did with each pool, by query ID; see conpool.max_statements';
COMMENT ON COLUMN conpool.stat_statements.server IS 'foreign server of the pool, or what a connection string points to';
COMMENT ON COLUMN conpool.stat_statements.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.stat_statements.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping; of a connection string, the role that uses it';
COMMENT ON COLUMN conpool.stat_statements.caller IS 'effective role that ran the local statement';
COMMENT ON COLUMN conpool.stat_statements.query_id IS 'query ID of the local statement, queryid of pg_stat_statements; NULL if none was computed, or when it may not be seen';
COMMENT ON COLUMN conpool.stat_statements.calls IS 'remote statements sent by it';
COMMENT ON COLUMN conpool.stat_statements.rows IS 'rows received, or affected by commands';
COMMENT ON COLUMN conpool.stat_statements.errors IS 'of calls, those that failed; and callers who got no connection';
COMMENT ON COLUMN conpool.stat_statements.total_wait_time IS 'time it waited for usable connections, in milliseconds';
COMMENT ON COLUMN conpool.stat_statements.total_remote_time IS 'time its remote statements took, in milliseconds';
COMMENT ON COLUMN conpool.stat_statements.max_remote_time IS 'longest of these, in milliseconds';
COMMENT ON COLUMN conpool.stat_statements.since IS 'since when this is counted';
COMMENT ON COLUMN conpool.stat_statements.query IS 'text of the local statement, its beginning; <insufficient privilege> when it may not be seen';

CREATE FUNCTION conpool.stat_statements_evictions()
RETURNS bigint
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_stat_statements_evictions';

COMMENT ON FUNCTION conpool.stat_statements_evictions() IS
'how often the view conpool.stat_statements gave up a statement for another one; if that grows, conpool.max_statements is small';

CREATE FUNCTION conpool.get_stat_errors(
	OUT server text,
	OUT database text,
	OUT role text,
	OUT sqlstate text,
	OUT count bigint,
	OUT first_seen timestamptz,
	OUT last_seen timestamptz,
	OUT last_message text,
	OUT last_caller text,
	OUT last_query_id bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_stat_errors';

COMMENT ON FUNCTION conpool.get_stat_errors() IS 'the rows of the view conpool.stat_errors';

CREATE VIEW conpool.stat_errors AS
SELECT server, database, role, sqlstate, count, first_seen, last_seen,
	   last_message, last_caller, last_query_id
  FROM conpool.get_stat_errors();

COMMENT ON VIEW conpool.stat_errors IS 'errors that callers of each pool got, by SQLSTATE, those of conpool itself included';
COMMENT ON COLUMN conpool.stat_errors.server IS 'foreign server of the pool, or what a connection string points to';
COMMENT ON COLUMN conpool.stat_errors.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.stat_errors.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping; of a connection string, the role that uses it';
COMMENT ON COLUMN conpool.stat_errors.sqlstate IS 'SQLSTATE of the errors; NULL: none was given';
COMMENT ON COLUMN conpool.stat_errors.count IS 'how many there were';
COMMENT ON COLUMN conpool.stat_errors.first_seen IS 'when the first of them was';
COMMENT ON COLUMN conpool.stat_errors.last_seen IS 'when the last one was';
COMMENT ON COLUMN conpool.stat_errors.last_message IS 'what the last one said; <insufficient privilege> when it may not be seen';
COMMENT ON COLUMN conpool.stat_errors.last_caller IS 'effective role that got it; NULL: nobody, it came up ahead of demand';
COMMENT ON COLUMN conpool.stat_errors.last_query_id IS 'query ID of the local statement that got it; NULL if none was computed, or when it may not be seen';

CREATE FUNCTION conpool.get_events(
	OUT number bigint,
	OUT at timestamptz,
	OUT event text,
	OUT server text,
	OUT database text,
	OUT role text,
	OUT slot int,
	OUT pid int,
	OUT detail text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_events';

COMMENT ON FUNCTION conpool.get_events() IS 'the rows of the view conpool.events';

CREATE VIEW conpool.events AS
SELECT number, at, event, server, database, role, slot, pid, detail
  FROM conpool.get_events();

COMMENT ON VIEW conpool.events IS 'what happened to pools and connections, newest first; see conpool.max_events';
COMMENT ON COLUMN conpool.events.number IS 'counts the events, from 1';
COMMENT ON COLUMN conpool.events.at IS 'when it happened';
COMMENT ON COLUMN conpool.events.event IS 'opened, closed, breaker opened, breaker closed, leak found, leak over, reclaimed, settings changed, paused, resumed, reconnect, dropped, stats reset, broker started or broker ended';
COMMENT ON COLUMN conpool.events.server IS 'foreign server of the pool, or what a connection string points to; NULL: the event is of no pool';
COMMENT ON COLUMN conpool.events.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.events.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping; of a connection string, the role that uses it';
COMMENT ON COLUMN conpool.events.slot IS 'slot of the connection, as in the view conpool.connections; NULL: the event is of none';
COMMENT ON COLUMN conpool.events.pid IS 'process ID of whoever did it';
COMMENT ON COLUMN conpool.events.detail IS 'the reason, the kind of leak and how it ended, what was changed';

GRANT SELECT ON conpool.stat_latency, conpool.stat_history,
	conpool.stat_statements, conpool.stat_errors, conpool.events TO PUBLIC;

COMMENT ON FUNCTION conpool.reset_stats(text) IS
'sets what is counted of a server''s pools in this database, or of all pools, to zero: counters, distributions, statements and errors, not history, events and leaks; for superusers and whom they grant it';

---------------------------------------------------------------------------
-- Answers
---------------------------------------------------------------------------

CREATE FUNCTION conpool.blocking_pids(pid int)
RETURNS int[]
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_blocking_pids';

COMMENT ON FUNCTION conpool.blocking_pids(int) IS
'process IDs of the sessions that use or open the connections of the pool that a session waits for; empty if it does not wait, or may not be seen';

-- ---- diagnose() ----

-- not safe in parallel: each step is a subtransaction, and the caller's own
-- mapping and settings count
CREATE FUNCTION conpool.diagnose(server text)
RETURNS TABLE (step text, ok boolean, detail text, hint text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'conpool_diagnose';

COMMENT ON FUNCTION conpool.diagnose(text) IS
'what works and what does not on the way to a server, or by a connection string, step by step from the library to a query that comes back; ok is NULL where a step was not tried, hint names the setting or command that helps; raises no error for whatever is wrong with the server';

-- ---- end of diagnose() ----

-- ---- advice and histogram() ----

-- What these are made of is PostgreSQL's own, whatever else there may be in the
-- extension's schema.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Each finding wants enough to go by, or says nothing:
--   all that judge by counters     100 checkouts
--   pool too small                 waits of 10 ms and more in 3 intervals of an hour
--   long jobs                      such waits of one caller in 20, 3 jobs
--   pool too large                 a day, and 1000 checkouts
--   too many connects              20 of them, one for 20 checkouts or fewer
--   leaks                          one that is held now, or 3 so far
--   breaker                        3 openings within an hour
-- Two pools that the views do not tell apart, as a superuser's and the others'
-- of one mapping, count as one.
CREATE VIEW conpool.advice AS
WITH

-- ---- facts ----

-- what pools may have, and have
pools AS (
	SELECT server, database, role,
		   count(*) AS alike,
		   bool_and(server_size IS NULL) AS is_conninfo,
		   max(min_size) AS min_size,
		   max(max_size) AS max_size,
		   sum(max_size) AS ceiling,
		   bool_or(effective_max_size < max_size) AS is_refused,
		   max(max_server_size) AS max_server_size,
		   max(remote_max_connections) AS remote_max_connections,
		   max(idle_timeout) AS idle_timeout,
		   max(max_lifetime) AS max_lifetime,
		   max(reset) AS reset,
		   max(last_error) AS last_error
	  FROM conpool.pools
	 WHERE database IS NOT NULL AND NOT dropped
	 GROUP BY server, database, role
),

-- what they have done
totals AS (
	SELECT server, database, role,
		   greatest(extract(epoch FROM clock_timestamp() - min(stats_reset)), 1) AS seconds,
		   date_trunc('second', clock_timestamp() - min(stats_reset)) AS counted_for,
		   sum(checkouts) AS checkouts,
		   sum(checkout_timeouts) AS timeouts,
		   sum(waited) AS waited,
		   sum(total_wait_time) AS wait_ms,
		   sum(total_checkout_time) AS held_ms,
		   sum(total_checkout_time) / greatest(sum(checkouts), 1) AS mean_held_ms,
		   max(checkout_p50) AS usual_held_ms,
		   max(checkout_max) AS longest_held_ms,
		   max(wait_p99) AS wait_p99,
		   sum(connects) AS connects,
		   sum(connects - dials) AS connects_on_demand,
		   sum(total_connect_time) / greatest(sum(connects), 1) AS mean_connect_ms,
		   sum(resets) AS resets,
		   sum(breaker_opened) AS breaker_opened,
		   sum(idle_closed) AS idle_closed,
		   sum(expired) AS expired,
		   sum(leaks) AS leaks,
		   sum(leaks_idle) AS leaks_idle,
		   sum(leaks_idle_in_transaction) AS leaks_idle_in_transaction,
		   sum(leaks_busy) AS leaks_busy,
		   sum(leaks_abandoned) AS leaks_abandoned,
		   sum(peak_leased) AS peak_leased,
		   sum(peak_waiting) AS peak_waiting
	  FROM conpool.stat_pools
	 GROUP BY server, database, role
),

-- and in each interval of the last hour
history AS (
	SELECT server, database, role, until,
		   greatest(max(seconds), 1) AS seconds,
		   sum(checkouts) AS checkouts,
		   sum(timeouts) AS timeouts,
		   max(wait_p50) AS wait_p50,
		   max(wait_p99) AS wait_p99,
		   sum(peak_leased) AS peak_leased,
		   sum(peak_waiting) AS peak_waiting
	  FROM conpool.stat_history
	 WHERE until > clock_timestamp() - interval '1 hour'
	 GROUP BY server, database, role, until
),

latency AS (
	SELECT server, database, role, kind, le_ms, count
	  FROM conpool.stat_latency
	 WHERE kind IN ('wait', 'checkout')
),

-- how many callers waited long enough to mind
waits AS (
	SELECT server, database, role,
		   sum(count) AS all_waits,
		   coalesce(sum(count) FILTER (WHERE le_ms > 10), 0) AS long_waits
	  FROM latency
	 WHERE kind = 'wait'
	 GROUP BY server, database, role
),

-- Where the connections of a server go, as far as that may be seen: of a list of
-- hosts, where most of them do.
addresses AS (
	SELECT server, database, mode() WITHIN GROUP (ORDER BY remote_address) AS address
	  FROM conpool.connections
	 WHERE remote_address IS NOT NULL
	 GROUP BY server, database
),

-- a server, or what a connection string points to: what all its pools may open
servers AS (
	SELECT server, database, address,
		   coalesce(address, format('%I.%I', database, server)) AS remote,
		   least(sum(ceiling), nullif(max(max_server_size), 0),
				 current_setting('conpool.max_connections')::int) AS ceiling,
		   max(remote_max_connections) AS remote_max_connections
	  FROM pools LEFT JOIN addresses USING (server, database)
	 GROUP BY server, database, address
),

-- a remote: what all servers may open there, and what it allows if that is known
remotes AS (
	SELECT remote, max(address) AS address,
		   sum(ceiling) AS ceiling,
		   least(sum(ceiling), current_setting('conpool.max_connections')::int) AS may_open,
		   max(remote_max_connections) AS allows,
		   string_agg(quote_ident(server), ', ' ORDER BY server, database) AS servers
	  FROM servers
	 GROUP BY remote
),

-- ---- findings ----

-- Two modes of checkout times: most leases are short, some are more than 20 times
-- as long as usual and take most of the time, and others wait meanwhile.
long_leases AS (
	SELECT server, database, role,
		   sum(l.count) AS all_leases,
		   sum(l.count * least(l.le_ms, t.longest_held_ms)) AS all_ms,
		   sum(l.count) FILTER (WHERE is_long) AS leases,
		   sum(l.count * least(l.le_ms, t.longest_held_ms)) FILTER (WHERE is_long) AS ms,
		   max(l.le_ms) FILTER (WHERE NOT is_long) AS longest_short_ms
	  FROM latency AS l JOIN totals AS t USING (server, database, role),
		   LATERAL (SELECT l.le_ms > greatest(20 * t.usual_held_ms, 100) AS is_long) AS split
	 WHERE l.kind = 'checkout'
	 GROUP BY server, database, role
),
long_jobs AS (
	SELECT server, database, role,
		   'long jobs' AS finding,
		   format('%s of %s leases were held for more than %s ms and took %s %% of the time that connections were in use; %s of %s callers waited for more than 10 ms',
				  l.leases, l.all_leases, round(l.longest_short_ms::numeric, 1),
				  round((100 * l.ms / nullif(l.all_ms, 0))::numeric), w.long_waits, w.all_waits) AS evidence,
		   'give the long jobs a server of their own, and whoever runs them USAGE on it' AS suggestion,
		   -- by Little's law, so many of them run at a time
		   greatest(ceil(l.ms / 1000 / t.seconds), 1) AS size
	  FROM long_leases AS l
		   JOIN totals AS t USING (server, database, role)
		   JOIN waits AS w USING (server, database, role)
	 WHERE t.checkouts >= 100
	   AND l.all_leases >= 100
	   AND l.leases >= 3
	   AND l.leases * 5 <= l.all_leases
	   AND l.ms * 2 >= l.all_ms
	   AND t.waited * 20 >= t.checkouts
	   AND w.long_waits * 20 >= w.all_waits
),

-- Intervals in which callers waited although all that the pool may have was
-- leased.  How many callers hold a connection or wait for one at a time is, by
-- Little's law, how many come in a second times how long they stay.
crowded_intervals AS (
	SELECT server, database, role, h.until,
		   h.checkouts, h.timeouts, h.wait_p99, h.peak_leased + h.peak_waiting AS most,
		   (h.checkouts + h.timeouts) / h.seconds AS arrivals,
		   (h.checkouts + h.timeouts) / h.seconds
		   * (t.mean_held_ms + coalesce(h.wait_p50, 0)) / 1000 AS callers
	  FROM history AS h
		   JOIN pools AS p USING (server, database, role)
		   JOIN totals AS t USING (server, database, role)
	 WHERE h.peak_waiting > 0
	   AND (h.timeouts > 0 OR h.wait_p99 >= 10)
	   AND h.peak_leased >= least(p.ceiling, nullif(p.max_server_size, 0))
	UNION ALL
	-- without a history, on the average since counting began
	SELECT server, database, role, NULL,
		   t.checkouts, t.timeouts, t.wait_p99, t.peak_leased + t.peak_waiting,
		   (t.checkouts + t.timeouts) / t.seconds,
		   (t.held_ms + t.wait_ms) / 1000 / t.seconds
	  FROM totals AS t
		   JOIN pools AS p USING (server, database, role)
		   JOIN waits AS w USING (server, database, role)
	 WHERE NOT EXISTS (SELECT FROM history AS h
						WHERE (h.server, h.database, h.role) = (t.server, t.database, t.role))
	   AND t.waited * 20 >= t.checkouts
	   AND w.long_waits * 20 >= w.all_waits
	   AND t.peak_leased >= least(p.ceiling, nullif(p.max_server_size, 0))
),
crowds AS (
	SELECT server, database, role,
		   count(until) AS intervals,
		   sum(checkouts) AS checkouts,
		   sum(timeouts) AS timeouts,
		   max(wait_p99) AS wait_p99,
		   max(arrivals) AS arrivals,
		   -- there never were more than that
		   max(least(callers, most)) AS callers
	  FROM crowded_intervals
	 GROUP BY server, database, role
),

-- Crowds with room at the remote, or where nobody knows.  One interval may be that
-- in which the connections were opened.
crowded_pools AS (
	SELECT server, database, role, c.timeouts, c.wait_p99, c.arrivals, c.callers,
		   t.mean_held_ms, p.alike,
		   CASE WHEN p.max_server_size BETWEEN 1 AND p.ceiling
				THEN 'max_server_size' ELSE 'max_size' END AS option,
		   least(p.ceiling, nullif(p.max_server_size, 0)) AS size,
		   least(r.allows - r.ceiling,
				 CASE WHEN p.max_server_size > p.ceiling
					  THEN p.max_server_size - p.ceiling END) AS room
	  FROM crowds AS c
		   JOIN pools AS p USING (server, database, role)
		   JOIN totals AS t USING (server, database, role)
		   JOIN servers AS s USING (server, database)
		   JOIN remotes AS r USING (remote)
	 WHERE c.checkouts + c.timeouts >= 100
	   AND (c.intervals >= 3 OR c.intervals = 0)
	   AND NOT p.is_refused
	   AND NOT EXISTS (SELECT FROM long_jobs AS j
						WHERE (j.server, j.database, j.role) = (p.server, p.database, p.role))
),
pool_too_small AS (
	SELECT server, database, role,
		   'pool too small' AS finding,
		   format('all %s connections were in use, 1 %% of callers waited for %s ms or longer, %s timed out; %s callers a second, who hold a connection for %s ms, and their waits make %s callers at a time',
				  size, round(wait_p99::numeric, 1), timeouts, round(arrivals, 1),
				  round(mean_held_ms::numeric, 1), round(callers::numeric, 1)) AS evidence,
		   format('raise %s to %s', option, value) AS suggestion,
		   option,
		   value::text AS value
	  FROM crowded_pools,
		   -- a quarter more at least: less would hardly be noticed
		   LATERAL (SELECT least(greatest(ceil(callers), ceil(size * 1.25)), size + room)
						   AS wanted) AS w,
		   LATERAL (SELECT CASE option WHEN 'max_size' THEN ceil(wanted / alike)
								ELSE wanted END AS value) AS v
	 WHERE wanted > size
),

-- Most of what the pool may have has never been needed.
pool_too_large AS (
	SELECT server, database, role,
		   'pool too large' AS finding,
		   format('never more than %s of %s connections were in use at a time, in %s and %s checkouts',
				  t.peak_leased, p.ceiling, t.counted_for, t.checkouts) AS evidence,
		   format('lower max_size to %s', value) AS suggestion,
		   'max_size' AS option,
		   value::text AS value
	  FROM pools AS p
		   JOIN totals AS t USING (server, database, role),
		   LATERAL (SELECT greatest(2 * t.peak_leased, p.min_size, 1) AS value) AS v
	 WHERE t.checkouts >= 1000
	   AND t.seconds >= 24 * 60 * 60
	   AND t.peak_leased * 4 <= p.ceiling
	   AND t.peak_leased + 10 <= p.ceiling
	   AND value < p.max_size
),

-- connections that were opened for hardly more than one use
churn AS (
	SELECT server, database, role, p.min_size, p.max_size, p.is_conninfo,
		   p.idle_timeout, p.max_lifetime, t.idle_closed, t.expired, t.connects,
		   t.connects_on_demand * 20 >= t.checkouts AS keeps_waiting,
		   format('%s connections, %s ms each, were opened for %s checkouts',
				  t.connects, round(t.mean_connect_ms::numeric, 1), t.checkouts) AS opened
	  FROM pools AS p JOIN totals AS t USING (server, database, role)
	 WHERE t.checkouts >= 100
	   AND t.connects >= 20
	   AND t.connects * 20 >= t.checkouts
),
usual_peaks AS (
	SELECT server, database, role, round(avg(peak_leased)) AS leased
	  FROM history
	 WHERE checkouts > 0
	 GROUP BY server, database, role
),

-- They are closed because they are idle, and needed again.  A mapping of a role
-- of its own is what it takes to keep them ahead of demand.
min_size_too_low AS (
	SELECT server, database, role,
		   'min_size too low' AS finding,
		   format('%s, with min_size %s; idle_timeout closed %s', opened, min_size, idle_closed)
		   AS evidence,
		   format('raise min_size to %s', value) AS suggestion,
		   'min_size' AS option,
		   value::text AS value
	  FROM churn LEFT JOIN usual_peaks AS u USING (server, database, role),
		   LATERAL (SELECT least(greatest(u.leased, min_size + 1), max_size) AS value) AS v
	 WHERE keeps_waiting
	   AND idle_closed * 2 >= connects
	   AND NOT is_conninfo AND role <> 'public'
	   AND value > min_size
),
idle_timeout_too_short AS (
	SELECT server, database, role,
		   'idle_timeout too short' AS finding,
		   format('%s; idle_timeout, %s, closed %s', opened, idle_timeout, idle_closed) AS evidence,
		   format('raise idle_timeout to %s', value) AS suggestion,
		   'idle_timeout' AS option,
		   value
	  FROM churn,
		   LATERAL (SELECT CASE WHEN idle_timeout < interval '10 min' THEN '10min'
								ELSE '1h' END AS value) AS v
	 WHERE keeps_waiting
	   AND idle_closed * 2 >= connects
	   AND (idle_timeout < interval '1 min'
			OR (idle_timeout < interval '1 hour' AND (is_conninfo OR role = 'public')))
),
max_lifetime_too_short AS (
	SELECT server, database, role,
		   'max_lifetime too short' AS finding,
		   format('%s; max_lifetime, %s, closed %s', opened, max_lifetime, expired) AS evidence,
		   'raise max_lifetime to 30min' AS suggestion,
		   'max_lifetime' AS option,
		   '30min' AS value
	  FROM churn
	 WHERE expired * 2 >= connects
	   AND max_lifetime < interval '30 min'
),

-- Each reset is a round trip for which the connection is of no use to others.
reset_always AS (
	SELECT server, database, role,
		   'reset always' AS finding,
		   format('%s of %s leases, held for %s ms, ended with a reset: one more round trip to the remote each, which forgets its plans as well',
				  t.resets, t.checkouts, round(t.mean_held_ms::numeric, 1)) AS evidence,
		   'set reset to auto: it resets what may have left something behind; always is for functions that do so unseen' AS suggestion,
		   'reset' AS option,
		   'auto' AS value
	  FROM pools AS p JOIN totals AS t USING (server, database, role)
	 WHERE p.reset = 'always'
	   AND t.checkouts >= 100
	   AND t.resets * 2 >= t.checkouts
	   AND t.mean_held_ms < 100
),

-- sessions that take connections and keep them
held_leaks AS (
	SELECT server, database, role, count(*) AS leaks, max(held_for) AS held_for,
		   (array_agg(pid ORDER BY held_for DESC))[1] AS pid,
		   (array_agg(class ORDER BY held_for DESC))[1] AS class
	  FROM conpool.leaks
	 WHERE outcome IS NULL
	 GROUP BY server, database, role
),
leaks AS (
	SELECT server, database, role,
		   'leaks' AS finding,
		   concat_ws('; ',
					 format('%s leaks since counting began: %s found idle, %s idle in transaction, %s busy elsewhere, %s abandoned',
							t.leaks, t.leaks_idle, t.leaks_idle_in_transaction, t.leaks_busy,
							t.leaks_abandoned),
					 format('%s held now, the longest for %s by pid %s, %s', h.leaks,
							date_trunc('second', h.held_for), h.pid, h.class)) AS evidence,
		   CASE greatest(t.leaks_idle + t.leaks_abandoned, t.leaks_idle_in_transaction, t.leaks_busy)
				WHEN t.leaks_idle + t.leaks_abandoned
				THEN 'have the sessions call checkin(), or take the leases for a transaction only'
				WHEN t.leaks_idle_in_transaction
				THEN 'end the transactions, or have idle_in_transaction_session_timeout end them'
				ELSE 'take the leases later, or give them back before the other work'
		   END AS suggestion,
		   format('SELECT class, pid, holder, held_for, outcome, stack, sql FROM conpool.leaks WHERE server = %L AND database = %L AND role = %L;',
				  server, database, role) AS sql
	  FROM totals AS t LEFT JOIN held_leaks AS h USING (server, database, role)
	 WHERE h.leaks > 0 OR t.leaks >= 3
),

-- A remote that is there one moment and gone the next.
openings AS (
	SELECT server, database, role, count(*) AS openings
	  FROM conpool.events
	 WHERE event = 'breaker opened' AND at > clock_timestamp() - interval '1 hour'
	 GROUP BY server, database, role
),
breaker_flaps AS (
	SELECT server, database, role,
		   'breaker flaps' AS finding,
		   format('the remote was found out of reach %s times within an hour, %s times in %s; last error: %s',
				  o.openings, t.breaker_opened, t.counted_for, coalesce(p.last_error, 'none'))
		   AS evidence,
		   'find out what is between here and the remote, or whether it restarts; a list of hosts gives it a second address' AS suggestion,
		   format('SELECT * FROM conpool.diagnose(%L);', server) AS sql
	  FROM openings AS o
		   JOIN pools AS p USING (server, database, role)
		   JOIN totals AS t USING (server, database, role)
	 WHERE o.openings >= 3
),

-- All pools together may ask the remote for more than it has.  Each server gets
-- a share of nine tenths: others want to connect as well.
remote_too_small AS (
	SELECT server, database, NULL::text AS role,
		   'remote too small' AS finding,
		   format('%s may open %s connections to %s, which allows ordinary users %s', r.servers,
				  r.may_open, coalesce(r.address, 'their remote'), r.allows) AS evidence,
		   format('limit the server to %s connections, or raise max_connections of the remote',
				  value) AS suggestion,
		   'max_server_size' AS option,
		   value::text AS value
	  FROM servers AS s JOIN remotes AS r USING (remote),
		   LATERAL (SELECT greatest(floor(0.9 * r.allows * s.ceiling / r.ceiling), 1) AS value) AS v
	 WHERE r.may_open > r.allows
	   AND value < s.ceiling
),

-- ---- statements ----

-- The servers of this database, and where an option would have to be changed:
-- what a mapping says beats what its server says.
local_servers AS (
	SELECT s.srvname AS server,
		   EXISTS (SELECT FROM pg_foreign_data_wrapper AS w
						  JOIN pg_proc AS v ON v.oid = w.fdwvalidator
					WHERE w.oid = s.srvfdw AND v.prosrc = 'conpool_fdw_validator') AS has_options,
		   ARRAY(SELECT option_name FROM pg_options_to_table(s.srvoptions)) AS options,
		   (SELECT option_value FROM pg_options_to_table(s.srvoptions)
			 WHERE option_name = 'server') AS refers_to
	  FROM pg_foreign_server AS s
),
local_mappings AS (
	SELECT srvname AS server, usename AS role,
		   ARRAY(SELECT option_name FROM pg_options_to_table(umoptions)) AS options
	  FROM pg_user_mappings
	 WHERE srvname NOT IN (SELECT server FROM local_servers WHERE refers_to IS NOT NULL)
),
changes AS (
	SELECT server, database, role, f.finding, f.evidence,
		   f.suggestion || CASE
				WHEN is_conninfo THEN format(', by the setting conpool.%s or a server in place of the connection string', f.option)
				WHEN NOT is_here THEN format(', in database %I', database)
				WHEN NOT s.has_options THEN format(', by a server of the wrapper conpool that refers to %I', server)
				ELSE '' END AS suggestion,
		   CASE WHEN is_conninfo OR NOT is_here OR NOT s.has_options THEN NULL
				WHEN f.option = ANY (m.options)
				THEN format('ALTER USER MAPPING FOR %s SERVER %I OPTIONS (SET %s %L);',
							CASE role WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(role) END,
							server, f.option, f.value)
				ELSE format('ALTER SERVER %I OPTIONS (%s %s %L);', server,
							CASE WHEN f.option = ANY (s.options) THEN 'SET' ELSE 'ADD' END,
							f.option, f.value)
		   END AS sql
	  FROM (SELECT * FROM pool_too_small
			UNION ALL SELECT * FROM pool_too_large
			UNION ALL SELECT * FROM min_size_too_low
			UNION ALL SELECT * FROM idle_timeout_too_short
			UNION ALL SELECT * FROM max_lifetime_too_short
			UNION ALL SELECT * FROM reset_always
			UNION ALL SELECT * FROM remote_too_small) AS f
		   JOIN (SELECT server, database, bool_and(is_conninfo) AS is_conninfo
				   FROM pools GROUP BY server, database) AS p USING (server, database)
		   LEFT JOIN local_servers AS s USING (server)
		   LEFT JOIN local_mappings AS m USING (server, role),
		   LATERAL (SELECT database = current_database() AND s.server IS NOT NULL AS is_here) AS h
),
new_servers AS (
	SELECT server, database, role, j.finding, j.evidence,
		   j.suggestion || CASE WHEN taken IS NOT NULL
								THEN format('; %I is there already', name) ELSE '' END AS suggestion,
		   CASE WHEN database = current_database() AND s.server IS NOT NULL AND taken IS NULL
				THEN format('CREATE SERVER %I FOREIGN DATA WRAPPER conpool OPTIONS (server %L, max_size %L);',
							name, coalesce(s.refers_to, server), j.size)
		   END AS sql
	  FROM long_jobs AS j
		   LEFT JOIN local_servers AS s USING (server),
		   LATERAL (SELECT CASE WHEN octet_length(server) < 60 THEN server
								ELSE left(server, 14) END || '_jobs' AS name) AS name
		   LEFT JOIN (SELECT server AS taken FROM local_servers) AS others ON taken = name
)
SELECT server, database, role, finding, evidence, suggestion, sql FROM changes
UNION ALL
SELECT server, database, role, finding, evidence, suggestion, sql FROM new_servers
UNION ALL
SELECT server, database, role, finding, evidence, suggestion, sql FROM leaks
UNION ALL
SELECT server, database, role, finding, evidence, suggestion, sql FROM breaker_flaps
 ORDER BY server, database, role, finding;

COMMENT ON VIEW conpool.advice IS 'what could be better about the pools, with the evidence and what to do about it; empty where all is well, or too little has happened to tell';
COMMENT ON COLUMN conpool.advice.server IS 'foreign server of the pool, or what a connection string points to';
COMMENT ON COLUMN conpool.advice.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.advice.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping; of a connection string, the role that uses it; NULL: it is about all pools of the server';
COMMENT ON COLUMN conpool.advice.finding IS 'pool too small, pool too large, min_size too low, idle_timeout too short, max_lifetime too short, reset always, long jobs, leaks, breaker flaps or remote too small';
COMMENT ON COLUMN conpool.advice.evidence IS 'what was seen';
COMMENT ON COLUMN conpool.advice.suggestion IS 'what to do about it';
COMMENT ON COLUMN conpool.advice.sql IS 'a statement that does it, or shows more; NULL where there is none to be run in this database';

GRANT SELECT ON conpool.advice TO PUBLIC;

CREATE FUNCTION conpool.check_histogram(server text, kind text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_check_histogram';

COMMENT ON FUNCTION conpool.check_histogram(text, text) IS
'raises an error unless the function conpool.histogram() may be asked for that';

-- The buckets of the view are merged, to two or four for each power of two where
-- that makes no more than 25 rows, to one where it does not, and what lies below
-- the 25th row from the end is added to that one.  On a logarithmic axis which is
-- linear between the powers, as the buckets are, a duration d of 2^n to 2^(n+1)
-- microseconds is at n + d / 2^n - 1.
CREATE FUNCTION conpool.histogram(server text, kind text DEFAULT 'wait')
RETURNS TABLE (le text, count bigint, bar text)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED
BEGIN ATOMIC
	SELECT conpool.check_histogram(server, kind);

	WITH buckets AS (
		-- bounds are whole microseconds: d is the first one that is beyond
		SELECT d, ceil(round(log(2.0, d), 6)) - 1 AS n, l.count
		  FROM conpool.stat_latency AS l,
			   LATERAL (SELECT CASE WHEN l.le_ms = 'Infinity' THEN 2 ^ 33::numeric
									ELSE round(l.le_ms::numeric * 1000) + 1 END AS d) AS bound
		 WHERE l.server = histogram.server
		   AND l.database = current_database()
		   AND l.kind = histogram.kind
	),
	places AS (
		SELECT n + d / 2 ^ n - 1 AS place, buckets.count FROM buckets
	),
	scale AS (
		SELECT CASE WHEN span * 4 <= 25 THEN 4 WHEN span * 2 <= 25 THEN 2 ELSE 1 END AS parts
		  FROM (SELECT ceil(max(place)) - floor(min(place)) + 1 AS span FROM places) AS s
	),
	steps AS (
		SELECT ceil(round(place * parts, 6))::int AS step, sum(places.count)::bigint AS count
		  FROM places, scale
		 GROUP BY step
	),
	ends AS (
		SELECT greatest(min(step), max(step) - 24) AS first, max(step) AS last FROM steps
	),
	drawn AS (
		SELECT greatest(step, first) AS line, sum(steps.count)::bigint AS count
		  FROM steps, ends
		 GROUP BY line
	),
	lines AS (
		SELECT line, coalesce(drawn.count, 0) AS count
		  FROM ends
			   CROSS JOIN generate_series(first, last) AS line
			   LEFT JOIN drawn USING (line)
	),
	bounds AS (
		SELECT line, lines.count, max(lines.count) OVER () AS most,
			   CASE WHEN line > 32 * parts THEN 'Infinity'
					ELSE 2 ^ n * (line / parts::numeric - n + 1) END AS us
		  FROM lines, scale, LATERAL (SELECT ceil(line / parts::numeric) - 1 AS n) AS power
	)
	SELECT lpad(CASE WHEN us = 'Infinity' THEN 'longer'
					 ELSE trim_scale(round(value, CASE WHEN value < 10 THEN 2
													   WHEN value < 100 THEN 1 ELSE 0 END))
						  || ' ' || unit END, 8),
		   bounds.count,
		   -- block characters where both ends know them
		   repeat(chr(CASE WHEN getdatabaseencoding() = 'UTF8' AND pg_client_encoding() = 'UTF8'
						   THEN 9608 ELSE ascii('#') END),
				  greatest(round(40.0 * bounds.count / most), sign(bounds.count))::int)
	  FROM bounds,
		   LATERAL (SELECT CASE WHEN us < 1e3 THEN us WHEN us < 1e6 THEN us / 1e3
								WHEN us < 60e6 THEN us / 1e6 ELSE us / 60e6 END AS value,
						   CASE WHEN us < 1e3 THEN 'us' WHEN us < 1e6 THEN 'ms'
								WHEN us < 60e6 THEN 's' ELSE 'min' END AS unit) AS shown
	 ORDER BY line;
END;

COMMENT ON FUNCTION conpool.histogram(text, text) IS
'draws a distribution of a server''s pools in this database: wait (for a connection), checkout (how long it was held), connect or remote (statements); each row counts what took longer than the row before, up to le';

-- ---- end of advice and histogram() ----

-- ---- report() ----

-- The rows it shows are those that the caller sees in the views.
CREATE FUNCTION conpool.report()
RETURNS text
LANGUAGE C VOLATILE PARALLEL RESTRICTED
SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'conpool_report';

COMMENT ON FUNCTION conpool.report() IS
'all that the views tell, as one HTML page that needs nothing else; psql -XAtc ''SELECT conpool.report()'' > report.html';

-- ---- end of report() ----
