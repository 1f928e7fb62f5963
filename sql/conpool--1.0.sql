/* sql/conpool--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION conpool" to load this file. \quit

GRANT USAGE ON SCHEMA conpool TO PUBLIC;

---------------------------------------------------------------------------
-- Configuration: servers and user mappings
---------------------------------------------------------------------------

CREATE FUNCTION conpool.fdw_validator(text[], oid)
RETURNS void
LANGUAGE C STRICT
AS 'MODULE_PATHNAME', 'conpool_fdw_validator';

COMMENT ON FUNCTION conpool.fdw_validator(text[], oid) IS
'checks the options of servers and user mappings of the foreign-data wrapper conpool';

CREATE FOREIGN DATA WRAPPER conpool
	VALIDATOR conpool.fdw_validator;

COMMENT ON FOREIGN DATA WRAPPER conpool IS
'servers whose connections are pooled; there are no foreign tables, use conpool.query()';

---------------------------------------------------------------------------
-- Queries
---------------------------------------------------------------------------

CREATE FUNCTION conpool.query(server text, sql text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query';

COMMENT ON FUNCTION conpool.query(text, text) IS
'runs SQL on a pooled connection and returns its rows; needs a column definition list, columns go by position';

CREATE FUNCTION conpool.query(server text, sql text, VARIADIC args "any")
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query';

COMMENT ON FUNCTION conpool.query(text, text, "any") IS
'runs SQL with parameters $1, $2 ... on a pooled connection and returns its rows; needs a column definition list, columns go by position';

CREATE FUNCTION conpool.query(lease bigint, sql text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query_lease';

COMMENT ON FUNCTION conpool.query(bigint, text) IS
'runs SQL on a lease and returns its rows; needs a column definition list, columns go by position';

CREATE FUNCTION conpool.query(lease bigint, sql text, VARIADIC args "any")
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query_lease';

COMMENT ON FUNCTION conpool.query(bigint, text, "any") IS
'runs SQL with parameters $1, $2 ... on a lease and returns its rows; needs a column definition list, columns go by position';

CREATE FUNCTION conpool.query_as(result anyelement, server text, sql text)
RETURNS SETOF anyelement
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query_as';

COMMENT ON FUNCTION conpool.query_as(anyelement, text, text) IS
'runs SQL on a pooled connection and returns rows of the type of the first argument; columns go by name';

CREATE FUNCTION conpool.query_as(result anyelement, server text, sql text, VARIADIC args "any")
RETURNS SETOF anyelement
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query_as';

COMMENT ON FUNCTION conpool.query_as(anyelement, text, text, "any") IS
'runs SQL with parameters $1, $2 ... on a pooled connection and returns rows of the type of the first argument; columns go by name';

CREATE FUNCTION conpool.query_as(result anyelement, lease bigint, sql text)
RETURNS SETOF anyelement
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query_as_lease';

COMMENT ON FUNCTION conpool.query_as(anyelement, bigint, text) IS
'runs SQL on a lease and returns rows of the type of the first argument; columns go by name';

CREATE FUNCTION conpool.query_as(result anyelement, lease bigint, sql text, VARIADIC args "any")
RETURNS SETOF anyelement
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query_as_lease';

COMMENT ON FUNCTION conpool.query_as(anyelement, bigint, text, "any") IS
'runs SQL with parameters $1, $2 ... on a lease and returns rows of the type of the first argument; columns go by name';

CREATE FUNCTION conpool.query_json(server text, sql text)
RETURNS SETOF jsonb
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query_json';

COMMENT ON FUNCTION conpool.query_json(text, text) IS
'runs SQL on a pooled connection and returns one JSON object for each row';

CREATE FUNCTION conpool.query_json(server text, sql text, VARIADIC args "any")
RETURNS SETOF jsonb
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query_json';

COMMENT ON FUNCTION conpool.query_json(text, text, "any") IS
'runs SQL with parameters $1, $2 ... on a pooled connection and returns one JSON object for each row';

CREATE FUNCTION conpool.query_json(lease bigint, sql text)
RETURNS SETOF jsonb
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query_json_lease';

COMMENT ON FUNCTION conpool.query_json(bigint, text) IS
'runs SQL on a lease and returns one JSON object for each row';

CREATE FUNCTION conpool.query_json(lease bigint, sql text, VARIADIC args "any")
RETURNS SETOF jsonb
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_query_json_lease';

COMMENT ON FUNCTION conpool.query_json(bigint, text, "any") IS
'runs SQL with parameters $1, $2 ... on a lease and returns one JSON object for each row';

CREATE FUNCTION conpool.exec(server text, sql text)
RETURNS text
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_exec';

COMMENT ON FUNCTION conpool.exec(text, text) IS
'runs SQL on a pooled connection and returns its command tag; a local ROLLBACK does not undo it';

CREATE FUNCTION conpool.exec(server text, sql text, VARIADIC args "any")
RETURNS text
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_exec';

COMMENT ON FUNCTION conpool.exec(text, text, "any") IS
'runs SQL with parameters $1, $2 ... on a pooled connection and returns its command tag; a local ROLLBACK does not undo it';

CREATE FUNCTION conpool.exec(lease bigint, sql text)
RETURNS text
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_exec_lease';

COMMENT ON FUNCTION conpool.exec(bigint, text) IS
'runs SQL on a lease and returns its command tag; a local ROLLBACK does not undo it';

CREATE FUNCTION conpool.exec(lease bigint, sql text, VARIADIC args "any")
RETURNS text
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_exec_lease';

COMMENT ON FUNCTION conpool.exec(bigint, text, "any") IS
'runs SQL with parameters $1, $2 ... on a lease and returns its command tag; a local ROLLBACK does not undo it';

---------------------------------------------------------------------------
-- Leases
---------------------------------------------------------------------------

CREATE FUNCTION conpool.checkout(server text, scope text DEFAULT 'transaction',
								 timeout interval DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_checkout';

COMMENT ON FUNCTION conpool.checkout(text, text, interval) IS
'takes a connection for this session alone, for scope statement, transaction or session, and returns the lease; waits for the timeout, by default checkout_timeout, 0 for ever';

CREATE FUNCTION conpool.checkin(lease bigint)
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_checkin';

COMMENT ON FUNCTION conpool.checkin(bigint) IS
'gives a lease back to its pool; a second time is an error';

---------------------------------------------------------------------------
-- Administration
---------------------------------------------------------------------------

CREATE FUNCTION conpool.reset_stats(server text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_reset_stats';

REVOKE ALL ON FUNCTION conpool.reset_stats(text) FROM PUBLIC;

COMMENT ON FUNCTION conpool.reset_stats(text) IS
'sets the counters of a server''s pools in this database, or of all pools, to zero; for superusers and whom they grant it';

CREATE FUNCTION conpool.recommended_size(cores int, effective_spindles int DEFAULT 1,
										 clients int DEFAULT 1)
RETURNS int
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'conpool_recommended_size';

COMMENT ON FUNCTION conpool.recommended_size(int, int, int) IS
'a first guess at max_size: (cores * 2 + effective_spindles) / clients, at least 1, with the remote''s cores, its disks that are really read from, and the number of servers that share it; from the PostgreSQL wiki, "Number of Database Connections", and HikariCP, "About Pool Sizing"';

---------------------------------------------------------------------------
-- Views.  The functions behind them filter the rows by who is asking, so
-- everybody may call them.
---------------------------------------------------------------------------

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
	OUT broker text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_pools';

COMMENT ON FUNCTION conpool.get_pools() IS 'the rows of the view conpool.pools';

CREATE VIEW conpool.pools AS
SELECT server, database, role,
	   max_size, pool_mode, checkout_timeout, max_waiters, connect_timeout,
	   connect_concurrency, reset, leak_threshold,
	   size, idle, leased, connecting, resetting, validating, closing,
	   waiting, unshared, broker
  FROM conpool.get_pools();

COMMENT ON VIEW conpool.pools IS 'pools, their options in force, and what their connections do';
COMMENT ON COLUMN conpool.pools.server IS 'foreign server, or what a connection string points to';
COMMENT ON COLUMN conpool.pools.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.pools.role IS 'role of the user mapping, "public" for a PUBLIC mapping; of a connection string, the role that uses it';
COMMENT ON COLUMN conpool.pools.max_size IS 'most connections the pool may have';
COMMENT ON COLUMN conpool.pools.pool_mode IS 'scope of the leases that query functions take';
COMMENT ON COLUMN conpool.pools.checkout_timeout IS 'longest wait for a usable connection, 0 = no limit';
COMMENT ON COLUMN conpool.pools.max_waiters IS 'longest queue, -1 = no limit, 0 = never wait';
COMMENT ON COLUMN conpool.pools.connect_timeout IS 'longest time for one attempt to connect, 0 = no limit';
COMMENT ON COLUMN conpool.pools.connect_concurrency IS 'most attempts to connect at the same time';
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
COMMENT ON COLUMN conpool.pools.broker IS 'running, or not running: then connections are not kept';

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
	OUT pid int)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_connections';

COMMENT ON FUNCTION conpool.get_connections() IS 'the rows of the view conpool.connections';

CREATE VIEW conpool.connections AS
SELECT slot, server, database, role, state, remote_address, remote_pid,
	   opened_at, idle_since, uses, encrypted, pid
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
COMMENT ON COLUMN conpool.connections.uses IS 'how many leases it has served';
COMMENT ON COLUMN conpool.connections.encrypted IS 'whether the connection is encrypted; then it is unshared';
COMMENT ON COLUMN conpool.connections.pid IS 'process ID of the session that leases or opens it';

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
	OUT sql text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_leases';

COMMENT ON FUNCTION conpool.get_leases() IS 'the rows of the view conpool.leases';

CREATE VIEW conpool.leases AS
SELECT l.lease, l.server, l.database, l.role, l.pid, a.application_name,
	   l.scope, l.since, l.held_for, l.remote_pid, l.sql
  FROM conpool.get_leases() AS l
	   LEFT JOIN pg_catalog.pg_stat_get_activity(NULL) AS a
	   ON a.pid OPERATOR(pg_catalog.=) l.pid;

COMMENT ON VIEW conpool.leases IS 'who uses which connection, since when and what for';
COMMENT ON COLUMN conpool.leases.lease IS 'number of the lease, as checkout() returns it';
COMMENT ON COLUMN conpool.leases.server IS 'foreign server of the pool, or what a connection string points to';
COMMENT ON COLUMN conpool.leases.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.leases.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping';
COMMENT ON COLUMN conpool.leases.pid IS 'process ID of the session that holds the lease';
COMMENT ON COLUMN conpool.leases.application_name IS 'application_name of that session';
COMMENT ON COLUMN conpool.leases.scope IS 'statement, transaction or session: when it ends by itself';
COMMENT ON COLUMN conpool.leases.since IS 'when the lease was taken';
COMMENT ON COLUMN conpool.leases.held_for IS 'how long it has been held';
COMMENT ON COLUMN conpool.leases.remote_pid IS 'process ID of the remote backend';
COMMENT ON COLUMN conpool.leases.sql IS 'statement of the session that took the lease, its beginning; <insufficient privilege> when it may not be seen';

CREATE FUNCTION conpool.get_waiters(
	OUT pid int,
	OUT server text,
	OUT database text,
	OUT role text,
	OUT since timestamptz,
	OUT waited_for interval,
	OUT "position" int)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_waiters';

COMMENT ON FUNCTION conpool.get_waiters() IS 'the rows of the view conpool.waiters';

CREATE VIEW conpool.waiters AS
SELECT pid, server, database, role, since, waited_for, "position"
  FROM conpool.get_waiters();

COMMENT ON VIEW conpool.waiters IS 'sessions that wait for a connection';
COMMENT ON COLUMN conpool.waiters.pid IS 'process ID of the session that waits';
COMMENT ON COLUMN conpool.waiters.server IS 'foreign server of the pool, or what a connection string points to';
COMMENT ON COLUMN conpool.waiters.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.waiters.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping';
COMMENT ON COLUMN conpool.waiters.since IS 'when it began to wait';
COMMENT ON COLUMN conpool.waiters.waited_for IS 'how long it has waited';
COMMENT ON COLUMN conpool.waiters."position" IS 'place in the queue of its pool, 1 = next';

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
	OUT class text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_leaks';

COMMENT ON FUNCTION conpool.get_leaks() IS 'the rows of the view conpool.leaks';

CREATE VIEW conpool.leaks AS
SELECT server, database, role, lease, pid, holder, since, held_for, sql, class
  FROM conpool.get_leaks();

COMMENT ON VIEW conpool.leaks IS 'leases held longer than leak_threshold without running anything, and the latest that only the end of a session gave back';
COMMENT ON COLUMN conpool.leaks.server IS 'foreign server of the pool, or what a connection string points to';
COMMENT ON COLUMN conpool.leaks.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.leaks.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping';
COMMENT ON COLUMN conpool.leaks.lease IS 'number of the lease, as checkout() returned it';
COMMENT ON COLUMN conpool.leaks.pid IS 'process ID of the session that holds or held it';
COMMENT ON COLUMN conpool.leaks.holder IS 'role that took the lease';
COMMENT ON COLUMN conpool.leaks.since IS 'when the lease was taken';
COMMENT ON COLUMN conpool.leaks.held_for IS 'how long it has been, or was, held';
COMMENT ON COLUMN conpool.leaks.sql IS 'statement of the session that took the lease, its beginning; <insufficient privilege> when it may not be seen';
COMMENT ON COLUMN conpool.leaks.class IS 'held: still held; abandoned: taken back when its session ended';

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
	OUT stats_reset timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_stat_pools';

COMMENT ON FUNCTION conpool.get_stat_pools() IS 'the rows of the view conpool.stat_pools';

CREATE VIEW conpool.stat_pools AS
SELECT server, database, role,
	   checkouts, checkout_timeouts, checkout_cancels, waited,
	   total_wait_time, max_wait_time, total_checkout_time, max_checkout_time,
	   connects, connect_failures, total_connect_time,
	   queries, query_errors, rows, discarded, resets, leaks, stats_reset
  FROM conpool.get_stat_pools();

COMMENT ON VIEW conpool.stat_pools IS 'counters of the pools since stats_reset; times in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.server IS 'foreign server, or what a connection string points to';
COMMENT ON COLUMN conpool.stat_pools.database IS 'database of this server whose sessions use the pool';
COMMENT ON COLUMN conpool.stat_pools.role IS 'role of the pool''s user mapping, "public" for a PUBLIC mapping';
COMMENT ON COLUMN conpool.stat_pools.checkouts IS 'leases taken';
COMMENT ON COLUMN conpool.stat_pools.checkout_timeouts IS 'callers who got none within checkout_timeout, or found the queue full';
COMMENT ON COLUMN conpool.stat_pools.checkout_cancels IS 'callers who gave up waiting: cancelled or terminated';
COMMENT ON COLUMN conpool.stat_pools.waited IS 'callers who had to queue, whether they got a lease or not';
COMMENT ON COLUMN conpool.stat_pools.total_wait_time IS 'time callers waited for a usable connection, timeouts and cancels included, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.max_wait_time IS 'longest of these waits, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.total_checkout_time IS 'time connections were leased, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.max_checkout_time IS 'longest lease that has ended, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.connects IS 'connections opened';
COMMENT ON COLUMN conpool.stat_pools.connect_failures IS 'attempts to open one that failed';
COMMENT ON COLUMN conpool.stat_pools.total_connect_time IS 'time spent opening connections, of attempts that succeeded, in milliseconds';
COMMENT ON COLUMN conpool.stat_pools.queries IS 'statements sent to the remote';
COMMENT ON COLUMN conpool.stat_pools.query_errors IS 'of these, how many failed';
COMMENT ON COLUMN conpool.stat_pools.rows IS 'rows received, or affected by commands';
COMMENT ON COLUMN conpool.stat_pools.discarded IS 'connections closed because they were dead or in doubt';
COMMENT ON COLUMN conpool.stat_pools.resets IS 'how often a connection''s session state was reset at checkin';
COMMENT ON COLUMN conpool.stat_pools.leaks IS 'leases that were found to be leaks';
COMMENT ON COLUMN conpool.stat_pools.stats_reset IS 'since when these counters count';

GRANT SELECT ON conpool.pools, conpool.connections, conpool.leases,
	conpool.waiters, conpool.leaks, conpool.stat_pools TO PUBLIC;
