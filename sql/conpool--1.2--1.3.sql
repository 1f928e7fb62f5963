/* sql/conpool--1.2--1.3.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION conpool UPDATE TO '1.3'" to load this file. \quit

---------------------------------------------------------------------------
-- Views that have more columns now.  These come last, so the views are
-- replaced: what depends on them, and what was granted on them, stays.  A
-- function's columns cannot be added to, so it gives its name to a new one
-- and goes when the view no longer needs it.
---------------------------------------------------------------------------

ALTER FUNCTION conpool.get_pools() RENAME TO get_pools_1_2;

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
	OUT remote_max_connections int,
	OUT tunnelled int)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_pools';

COMMENT ON FUNCTION conpool.get_pools() IS 'the rows of the view conpool.pools';

CREATE OR REPLACE VIEW conpool.pools AS
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
	   broker, tunnelled
  FROM conpool.get_pools();

COMMENT ON COLUMN conpool.pools.tunnelled IS 'connections, of size, that go through a tunnel: encrypted, and shared all the same';

DROP FUNCTION conpool.get_pools_1_2();

ALTER FUNCTION conpool.get_connections() RENAME TO get_connections_1_2;

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
	OUT expires_at timestamptz,
	OUT tls_version text,
	OUT tls_cipher text,
	OUT tunnel int)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_connections';

COMMENT ON FUNCTION conpool.get_connections() IS 'the rows of the view conpool.connections';

CREATE OR REPLACE VIEW conpool.connections AS
SELECT slot, server, database, role, state, remote_address, remote_pid,
	   opened_at, idle_since, checked_at, expires_at, uses, encrypted, pid,
	   tls_version, tls_cipher, tunnel
  FROM conpool.get_connections();

COMMENT ON COLUMN conpool.connections.encrypted IS 'whether the connection is encrypted';
COMMENT ON COLUMN conpool.connections.tls_version IS 'by which version of TLS, as TLSv1.3; NULL if it is not encrypted by TLS';
COMMENT ON COLUMN conpool.connections.tls_cipher IS 'by which cipher, as TLS_AES_256_GCM_SHA384; NULL if it is not encrypted by TLS';
COMMENT ON COLUMN conpool.connections.tunnel IS 'number of the tunnel that the connection goes through, as in the view conpool.tunnels; NULL: through none';

DROP FUNCTION conpool.get_connections_1_2();

---------------------------------------------------------------------------
-- Tunnels
---------------------------------------------------------------------------

CREATE FUNCTION conpool.get_tunnels(
	OUT tunnel int,
	OUT pid int,
	OUT started_at timestamptz,
	OUT connections int,
	OUT opened bigint,
	OUT failed bigint,
	OUT bytes_sent bigint,
	OUT bytes_received bigint,
	OUT cpu_time float8)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'conpool_get_tunnels';

COMMENT ON FUNCTION conpool.get_tunnels() IS 'the rows of the view conpool.tunnels';

CREATE VIEW conpool.tunnels AS
SELECT tunnel, pid, started_at, connections, opened, failed,
	   bytes_sent, bytes_received, cpu_time
  FROM conpool.get_tunnels();

COMMENT ON VIEW conpool.tunnels IS 'processes that own encrypted connections and pass on what goes through them, one row for each that conpool.tunnel_workers asks for; counted since the server''s start';
COMMENT ON COLUMN conpool.tunnels.tunnel IS 'its number, from 1 on';
COMMENT ON COLUMN conpool.tunnels.pid IS 'its process ID; NULL: it does not run';
COMMENT ON COLUMN conpool.tunnels.started_at IS 'since when it runs; NULL: it does not';
COMMENT ON COLUMN conpool.tunnels.connections IS 'encrypted connections it has now';
COMMENT ON COLUMN conpool.tunnels.opened IS 'connections it has opened, those that came out unencrypted included';
COMMENT ON COLUMN conpool.tunnels.failed IS 'attempts to open one that failed';
COMMENT ON COLUMN conpool.tunnels.bytes_sent IS 'bytes passed on to remotes, as they were before encryption';
COMMENT ON COLUMN conpool.tunnels.bytes_received IS 'bytes that came from remotes, as they were after decryption';
COMMENT ON COLUMN conpool.tunnels.cpu_time IS 'processor time it took, in milliseconds; a core is used up when this grows by 1000 each second';

-- for everybody: it says nothing of whose connections these are
GRANT SELECT ON conpool.tunnels TO PUBLIC;
