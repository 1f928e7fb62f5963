/* sql/conpool--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION conpool UPDATE TO '1.1'" to load this file. \quit

---------------------------------------------------------------------------
-- Administration.  Everybody may call these functions: they look for
-- themselves whether the caller owns the server, or may signal the session.
---------------------------------------------------------------------------

-- not safe in parallel: it waits for sessions that may wait for the caller's
CREATE FUNCTION conpool.pause(server text DEFAULT NULL, wait boolean DEFAULT true)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'conpool_pause';

COMMENT ON FUNCTION conpool.pause(text, boolean) IS
'lets nobody take a connection of a server''s pools until resume(), and returns when those in use have been given back, or at once if not to wait; for the server''s owner, without a server for superusers: all pools';

CREATE FUNCTION conpool.resume(server text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_resume';

COMMENT ON FUNCTION conpool.resume(text) IS
'ends what pause() began; for the server''s owner, without a server for superusers: all pools';

CREATE FUNCTION conpool.reconnect(server text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_reconnect';

COMMENT ON FUNCTION conpool.reconnect(text) IS
'replaces every connection of a server''s pools as it comes free; for the server''s owner, without a server for superusers: all pools';

CREATE FUNCTION conpool.warm(server text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_warm';

COMMENT ON FUNCTION conpool.warm(text) IS
'opens what a server''s pools lack of min_size, whatever went wrong before, and lets a pool whose remote could not be reached try again; returns at once; for the server''s owner, without a server for superusers: all pools';

CREATE FUNCTION conpool.close_idle(server text DEFAULT NULL)
RETURNS int
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_close_idle';

COMMENT ON FUNCTION conpool.close_idle(text) IS
'closes the idle connections of a server''s pools and returns how many there were; for the server''s owner, without a server for superusers: all pools';

CREATE FUNCTION conpool.reclaim(lease bigint)
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_reclaim';

COMMENT ON FUNCTION conpool.reclaim(bigint) IS
'takes a lease away from the session that holds it, and closes its connection; for whoever may terminate that session';

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
	OUT upkeep_next_try timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_pools';

COMMENT ON FUNCTION conpool.get_pools() IS 'the rows of the view conpool.pools';

CREATE VIEW conpool.pools AS
SELECT server, database, role,
	   min_size, max_size, effective_max_size, effective_max_size_until,
	   max_server_size, pool_mode, checkout_timeout, max_waiters,
	   connect_timeout, connect_concurrency, idle_timeout, max_lifetime,
	   validate_interval, reset, leak_threshold,
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
COMMENT ON COLUMN conpool.pools.pool_mode IS 'scope of the leases that query functions take';
COMMENT ON COLUMN conpool.pools.checkout_timeout IS 'longest wait for a usable connection, 0 = no limit';
COMMENT ON COLUMN conpool.pools.max_waiters IS 'longest queue, -1 = no limit, 0 = never wait';
COMMENT ON COLUMN conpool.pools.connect_timeout IS 'longest time for one attempt to connect, 0 = no limit';
COMMENT ON COLUMN conpool.pools.connect_concurrency IS 'most attempts to connect at the same time';
COMMENT ON COLUMN conpool.pools.idle_timeout IS 'an idle connection above min_size is closed after that time, 0 = never';
COMMENT ON COLUMN conpool.pools.max_lifetime IS 'a connection is closed at that age, or up to a tenth earlier, 0 = never';
COMMENT ON COLUMN conpool.pools.validate_interval IS 'how often an idle connection is checked by a round trip, 0 = never';
COMMENT ON COLUMN conpool.pools.reset IS 'when session state is reset at checkin: auto, always, never';
COMMENT ON COLUMN conpool.pools.leak_threshold IS 'a lease held longer, and idle, is taken for a leak, 0 = never';
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

DROP VIEW conpool.connections;
DROP FUNCTION conpool.get_connections();

CREATE FUNCTION conpool.get_connections(
	OUT slot int,
	OUT server text,
	OUT database text,
	OUT role text,
	OUT state text,
	OUT remote_address text,
	OUT remote_pid int,
	OUT opened_at timestamptz,
	OUT idle_since timestamptz,
	OUT uses bigint,
	OUT encrypted boolean,
	OUT pid int,
	OUT checked_at timestamptz,
	OUT expires_at timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_connections';

COMMENT ON FUNCTION conpool.get_connections() IS 'the rows of the view conpool.connections';

CREATE VIEW conpool.connections AS
SELECT slot, server, database, role, state, remote_address, remote_pid,
	   opened_at, idle_since, checked_at, expires_at, uses, encrypted, pid
  FROM conpool.get_connections();

COMMENT ON VIEW conpool.connections IS 'connections of all pools, one row each';
COMMENT ON COLUMN conpool.connections.slot IS 'place in shared memory that the connection takes';
COMMENT ON COLUMN conpool.connections.server IS 'foreign server of its pool, or what a connection string points to';
COMMENT ON COLUMN conpool.connections.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.connections.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping';
COMMENT ON COLUMN conpool.connections.state IS 'connecting, idle, leased, resetting, validating or closing';
COMMENT ON COLUMN conpool.connections.remote_address IS 'address and port of the remote, or its socket; NULL when it may not be seen';
COMMENT ON COLUMN conpool.connections.remote_pid IS 'process ID of the remote backend';
COMMENT ON COLUMN conpool.connections.opened_at IS 'when the connection was opened';
COMMENT ON COLUMN conpool.connections.idle_since IS 'since when it is idle; NULL when it is not';
COMMENT ON COLUMN conpool.connections.checked_at IS 'when it was last known to live';
COMMENT ON COLUMN conpool.connections.expires_at IS 'when it reaches max_lifetime; NULL = never';
COMMENT ON COLUMN conpool.connections.uses IS 'how many leases it has served';
COMMENT ON COLUMN conpool.connections.encrypted IS 'whether the connection is encrypted; then it is unshared';
COMMENT ON COLUMN conpool.connections.pid IS 'process ID of the session that leases or opens it';

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
	OUT breaker_opened bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_stat_pools';

COMMENT ON FUNCTION conpool.get_stat_pools() IS 'the rows of the view conpool.stat_pools';

CREATE VIEW conpool.stat_pools AS
SELECT server, database, role,
	   checkouts, checkout_timeouts, checkout_cancels, checkout_failures,
	   refused, waited, total_wait_time, max_wait_time,
	   total_checkout_time, max_checkout_time,
	   connects, connect_failures, dials, total_connect_time, breaker_opened,
	   queries, query_errors, rows, discarded, resets,
	   validations, validation_failures, idle_closed, expired,
	   leaks, stats_reset
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
COMMENT ON COLUMN conpool.stat_pools.total_wait_time IS 'time callers waited for a usable connection, timeouts, cancels and failures included, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.max_wait_time IS 'longest of these waits, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.total_checkout_time IS 'time connections were leased, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.max_checkout_time IS 'longest lease that has ended, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.connects IS 'connections opened';
COMMENT ON COLUMN conpool.stat_pools.connect_failures IS 'attempts to open one that failed';
COMMENT ON COLUMN conpool.stat_pools.dials IS 'of connects, those ahead of demand';
COMMENT ON COLUMN conpool.stat_pools.total_connect_time IS 'time spent opening connections, of attempts that succeeded, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.breaker_opened IS 'how often the remote was found out of reach';
COMMENT ON COLUMN conpool.stat_pools.queries IS 'statements sent to the remote';
COMMENT ON COLUMN conpool.stat_pools.query_errors IS 'of these, how many failed';
COMMENT ON COLUMN conpool.stat_pools.rows IS 'rows received, or affected by commands';
COMMENT ON COLUMN conpool.stat_pools.discarded IS 'connections closed because they were dead or in doubt';
COMMENT ON COLUMN conpool.stat_pools.resets IS 'how often a connection''s session state was reset at checkin';
COMMENT ON COLUMN conpool.stat_pools.validations IS 'checks of idle connections by a round trip';
COMMENT ON COLUMN conpool.stat_pools.validation_failures IS 'of these, those that were not answered; also idle connections found dead otherwise';
COMMENT ON COLUMN conpool.stat_pools.idle_closed IS 'connections closed because of idle_timeout';
COMMENT ON COLUMN conpool.stat_pools.expired IS 'connections closed because of max_lifetime';
COMMENT ON COLUMN conpool.stat_pools.leaks IS 'leases that were found to be leaks';
COMMENT ON COLUMN conpool.stat_pools.stats_reset IS 'since when these counters count';

GRANT SELECT ON conpool.pools, conpool.connections, conpool.stat_pools TO PUBLIC;
