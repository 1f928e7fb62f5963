/* sql/conpool--1.3--1.4.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION conpool UPDATE TO '1.4'" to load this file. \quit

---------------------------------------------------------------------------
-- A view that has more columns now.  They come last, so it is replaced: what
-- depends on it, and what was granted on it, stays.  A function's columns
-- cannot be added to, so it gives its name to a new one and goes when the view
-- no longer needs it.
---------------------------------------------------------------------------

ALTER FUNCTION conpool.get_stat_pools() RENAME TO get_stat_pools_1_3;

-- Columns are appended only: the library serves databases that still have an
-- older version, and leaves out what is not declared.
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
	OUT remote_max float8,
	OUT overflowed bigint,
	OUT remote_commits bigint,
	OUT remote_rollbacks bigint,
	OUT remote_commits_unknown bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_stat_pools';

COMMENT ON FUNCTION conpool.get_stat_pools() IS 'the rows of the view conpool.stat_pools';

CREATE OR REPLACE VIEW conpool.stat_pools AS
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
	   stats_reset,
	   overflowed, remote_commits, remote_rollbacks, remote_commits_unknown
  FROM conpool.get_stat_pools();

COMMENT ON COLUMN conpool.stat_pools.overflowed IS 'of connects, those beyond max_size: made for functions of the extension conpool_dblink, as conpool.dblink_overflow allows it';
COMMENT ON COLUMN conpool.stat_pools.remote_commits IS 'remote transactions, of leases of scope transaction, that were committed';
COMMENT ON COLUMN conpool.stat_pools.remote_rollbacks IS 'the same, that were rolled back, without those that were lost with their connection before COMMIT';
COMMENT ON COLUMN conpool.stat_pools.remote_commits_unknown IS 'the same, whose connection was lost between COMMIT and its answer: nobody here knows whether they were committed';
COMMENT ON COLUMN conpool.pools.max_size IS 'most connections the pool may have, but for what conpool.dblink_overflow lets functions of the extension conpool_dblink open beyond it';

DROP FUNCTION conpool.get_stat_pools_1_3();

---------------------------------------------------------------------------
-- What commands do in scope transaction
---------------------------------------------------------------------------

COMMENT ON FUNCTION conpool.exec(text, text) IS
'runs SQL on a pooled connection and returns its command tag; a local ROLLBACK undoes it with pool_mode transaction only';

COMMENT ON FUNCTION conpool.exec(text, text, "any") IS
'runs SQL with parameters $1, $2 ... on a pooled connection and returns its command tag; a local ROLLBACK undoes it with pool_mode transaction only';

COMMENT ON FUNCTION conpool.exec(bigint, text) IS
'runs SQL on a lease and returns its command tag; a local ROLLBACK undoes it in scope transaction only';

COMMENT ON FUNCTION conpool.exec(bigint, text, "any") IS
'runs SQL with parameters $1, $2 ... on a lease and returns its command tag; a local ROLLBACK undoes it in scope transaction only';

COMMENT ON FUNCTION conpool.checkout(text, text, interval) IS
'takes a connection for this session alone, for scope statement, transaction (what it does there is committed or rolled back with the local transaction) or session, and returns the lease; waits for the timeout, by default checkout_timeout, 0 for ever';

COMMENT ON FUNCTION conpool.checkin(bigint) IS
'gives a lease back to its pool, the connection of one of scope transaction when its transaction ends; a second time is an error';

---------------------------------------------------------------------------
-- Asynchronous queries
---------------------------------------------------------------------------

CREATE FUNCTION conpool.send(server text, sql text)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_send';

COMMENT ON FUNCTION conpool.send(text, text) IS
'sends SQL on a pooled connection, for which it may wait, and returns the number of the request, by which result() has the rows; the connection comes back when they have been read, at cancel(), or at the end of the local transaction, which stops what is unread (COMMIT with a warning)';

CREATE FUNCTION conpool.send(server text, sql text, VARIADIC args "any")
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_send';

COMMENT ON FUNCTION conpool.send(text, text, "any") IS
'sends SQL with parameters $1, $2 ... on a pooled connection, for which it may wait, and returns the number of the request, by which result() has the rows; the connection comes back when they have been read, at cancel(), or at the end of the local transaction, which stops what is unread (COMMIT with a warning)';

CREATE FUNCTION conpool.send(lease bigint, sql text)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_send_lease';

COMMENT ON FUNCTION conpool.send(bigint, text) IS
'sends SQL on a lease and returns the number of the request, by which result() has the rows; until then nothing else can be done on the lease; COMMIT waits for it in scope transaction; in scope session it goes on, unless the transaction that sent it fails';

CREATE FUNCTION conpool.send(lease bigint, sql text, VARIADIC args "any")
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_send_lease';

COMMENT ON FUNCTION conpool.send(bigint, text, "any") IS
'sends SQL with parameters $1, $2 ... on a lease and returns the number of the request, by which result() has the rows; until then nothing else can be done on the lease; COMMIT waits for it in scope transaction; in scope session it goes on, unless the transaction that sent it fails';

CREATE FUNCTION conpool.is_ready(request bigint)
RETURNS boolean
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_is_ready';

COMMENT ON FUNCTION conpool.is_ready(bigint) IS
'whether result() would begin without waiting: rows, an error or the end have come; for the role that sent it';

CREATE FUNCTION conpool.wait_any(requests bigint[], timeout interval DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_wait_any';

COMMENT ON FUNCTION conpool.wait_any(bigint[], interval) IS
'waits until one of the requests is ready, as is_ready() says, and returns the first in the array that is; NULL after the timeout (none by default: for ever), and of an empty array; for the role that sent them';

CREATE FUNCTION conpool.result(request bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_result';

COMMENT ON FUNCTION conpool.result(bigint) IS
'waits for what send() asked for, returns its rows and ends the request; needs a column definition list, columns go by position; an error of the remote is raised here, and ends it, too; for the role that sent it';

CREATE FUNCTION conpool.cancel(request bigint)
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_cancel';

COMMENT ON FUNCTION conpool.cancel(bigint) IS
'stops what send() began, for which it waits a little while only, and ends the request; a connection that it took comes back, by being closed if need be; for the role that sent it';

CREATE FUNCTION conpool.notifications(lease bigint)
RETURNS TABLE(channel text, payload text, pid int)
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_notifications';

COMMENT ON FUNCTION conpool.notifications(bigint) IS
'takes the notifications that have come on a lease of scope session after LISTEN, oldest first, with the process ID of the remote session that sent them; waits for none';

---------------------------------------------------------------------------
-- Large results in pieces
---------------------------------------------------------------------------

CREATE FUNCTION conpool.cursor_open(server text, sql text)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_cursor_open';

COMMENT ON FUNCTION conpool.cursor_open(text, text) IS
'opens a cursor for a query at a server, in a remote transaction that ends with the local one, and returns its number; cursor_fetch() has the rows';

CREATE FUNCTION conpool.cursor_open(server text, sql text, VARIADIC args "any")
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_cursor_open';

COMMENT ON FUNCTION conpool.cursor_open(text, text, "any") IS
'opens a cursor for a query with parameters $1, $2 ... at a server, in a remote transaction that ends with the local one, and returns its number; cursor_fetch() has the rows';

CREATE FUNCTION conpool.cursor_open(lease bigint, sql text)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_cursor_open_lease';

COMMENT ON FUNCTION conpool.cursor_open(bigint, text) IS
'opens a cursor for a query on a lease and returns its number; cursor_fetch() has the rows; in scope session a transaction must have been begun there';

CREATE FUNCTION conpool.cursor_open(lease bigint, sql text, VARIADIC args "any")
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_cursor_open_lease';

COMMENT ON FUNCTION conpool.cursor_open(bigint, text, "any") IS
'opens a cursor for a query with parameters $1, $2 ... on a lease and returns its number; cursor_fetch() has the rows; in scope session a transaction must have been begun there';

CREATE FUNCTION conpool.cursor_fetch(cursor bigint, n int)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_cursor_fetch';

COMMENT ON FUNCTION conpool.cursor_fetch(bigint, int) IS
'returns the next n rows of a cursor, n at least 1; fewer are its end; needs a column definition list, columns go by position; for the role that opened it';

CREATE FUNCTION conpool.cursor_close(cursor bigint)
RETURNS void
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_cursor_close';

COMMENT ON FUNCTION conpool.cursor_close(bigint) IS
'closes a cursor, and gives the connection back if nothing else needs it; a second time is an error; for the role that opened it';

---------------------------------------------------------------------------
-- Many servers at once.  sql is for all of them, sqls has one for each.
---------------------------------------------------------------------------

CREATE FUNCTION conpool.map(servers text[], sql text)
RETURNS TABLE(server text, data jsonb)
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_map';

COMMENT ON FUNCTION conpool.map(text[], text) IS
'runs SQL at all servers at the same time, as far as their pools have room, and returns each row as a JSON object beside its server, as they come; the first error stops the others and is raised';

CREATE FUNCTION conpool.map(servers text[], sql text, VARIADIC args "any")
RETURNS TABLE(server text, data jsonb)
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_map';

COMMENT ON FUNCTION conpool.map(text[], text, "any") IS
'runs SQL with parameters $1, $2 ... at all servers at the same time, as far as their pools have room, and returns each row as a JSON object beside its server, as they come; the first error stops the others and is raised';

CREATE FUNCTION conpool.map(servers text[], sqls text[])
RETURNS TABLE(server text, data jsonb)
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_map';

COMMENT ON FUNCTION conpool.map(text[], text[]) IS
'runs at each server the statement that has its place in the second array (as long as the first), at the same time, as far as their pools have room, and returns each row as a JSON object beside its server, as they come; the first error stops the others and is raised';

CREATE FUNCTION conpool.map(servers text[], sqls text[], VARIADIC args "any")
RETURNS TABLE(server text, data jsonb)
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_map';

COMMENT ON FUNCTION conpool.map(text[], text[], "any") IS
'runs at each server the statement with parameters $1, $2 ... that has its place in the second array (as long as the first), at the same time, as far as their pools have room, and returns each row as a JSON object beside its server, as they come; the first error stops the others and is raised';

CREATE FUNCTION conpool.map_as(result anyelement, servers text[], sql text)
RETURNS TABLE(server text, data anyelement)
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_map_as';

COMMENT ON FUNCTION conpool.map_as(anyelement, text[], text) IS
'runs SQL at all servers at the same time, as far as their pools have room, and returns each row as a value of the type of the first argument, columns by name, beside its server, as they come; the first error stops the others and is raised';

CREATE FUNCTION conpool.map_as(result anyelement, servers text[], sql text, VARIADIC args "any")
RETURNS TABLE(server text, data anyelement)
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_map_as';

COMMENT ON FUNCTION conpool.map_as(anyelement, text[], text, "any") IS
'runs SQL with parameters $1, $2 ... at all servers at the same time, as far as their pools have room, and returns each row as a value of the type of the first argument, columns by name, beside its server, as they come; the first error stops the others and is raised';

CREATE FUNCTION conpool.map_as(result anyelement, servers text[], sqls text[])
RETURNS TABLE(server text, data anyelement)
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_map_as';

COMMENT ON FUNCTION conpool.map_as(anyelement, text[], text[]) IS
'runs at each server the statement that has its place in the second array (as long as the first), at the same time, as far as their pools have room, and returns each row as a value of the type of the first argument, columns by name, beside its server, as they come; the first error stops the others and is raised';

CREATE FUNCTION conpool.map_as(result anyelement, servers text[], sqls text[], VARIADIC args "any")
RETURNS TABLE(server text, data anyelement)
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_map_as';

COMMENT ON FUNCTION conpool.map_as(anyelement, text[], text[], "any") IS
'runs at each server the statement with parameters $1, $2 ... that has its place in the second array (as long as the first), at the same time, as far as their pools have room, and returns each row as a value of the type of the first argument, columns by name, beside its server, as they come; the first error stops the others and is raised';

CREATE FUNCTION conpool.try_map(servers text[], sql text)
RETURNS TABLE(server text, data jsonb, sqlstate text, error text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'conpool_try_map';

COMMENT ON FUNCTION conpool.try_map(text[], text) IS
'runs SQL at all servers at the same time, as far as their pools have room, and returns each row as a JSON object beside its server, as they come; an error is a row, too, the last of its server, with SQLSTATE and message and without data';

CREATE FUNCTION conpool.try_map(servers text[], sql text, VARIADIC args "any")
RETURNS TABLE(server text, data jsonb, sqlstate text, error text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'conpool_try_map';

COMMENT ON FUNCTION conpool.try_map(text[], text, "any") IS
'runs SQL with parameters $1, $2 ... at all servers at the same time, as far as their pools have room, and returns each row as a JSON object beside its server, as they come; an error is a row, too, the last of its server, with SQLSTATE and message and without data';

CREATE FUNCTION conpool.try_map(servers text[], sqls text[])
RETURNS TABLE(server text, data jsonb, sqlstate text, error text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'conpool_try_map';

COMMENT ON FUNCTION conpool.try_map(text[], text[]) IS
'runs at each server the statement that has its place in the second array (as long as the first), at the same time, as far as their pools have room, and returns each row as a JSON object beside its server, as they come; an error is a row, too, the last of its server, with SQLSTATE and message and without data';

CREATE FUNCTION conpool.try_map(servers text[], sqls text[], VARIADIC args "any")
RETURNS TABLE(server text, data jsonb, sqlstate text, error text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'conpool_try_map';

COMMENT ON FUNCTION conpool.try_map(text[], text[], "any") IS
'runs at each server the statement with parameters $1, $2 ... that has its place in the second array (as long as the first), at the same time, as far as their pools have room, and returns each row as a JSON object beside its server, as they come; an error is a row, too, the last of its server, with SQLSTATE and message and without data';
