-- Tunnels: what the views tell of them, and to whom, and what they do not where a connection is not encrypted.
SET client_min_messages = warning;
SELECT test.server('clear') AS done \gset
SELECT directory FROM conpool.query('remote_admin', 'SHOW unix_socket_directories') AS t(directories text),
	split_part(directories, ',', 1) AS directory \gset
ALTER SERVER clear OPTIONS (SET host :'directory');
SELECT count(*) = current_setting('conpool.tunnel_workers')::int AS all, min(tunnel) AS first FROM conpool.tunnels;
SELECT test.wait_until($$NOT EXISTS (SELECT FROM conpool.tunnels WHERE pid IS NULL)$$);
SELECT bool_and(started_at <= now()) AS started, count(DISTINCT pid) = count(*) AS pids,
	   bool_and(cpu_time BETWEEN 0 AND extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()) * 1000) AS cpu_time
  FROM conpool.tunnels;

-- nothing goes through a tunnel that cannot be encrypted, as over a Unix socket
SELECT array_agg((tunnel, opened, failed)) AS before FROM conpool.tunnels \gset
SELECT conpool.exec('clear', 'SELECT 1');
SELECT encrypted, tls_version, tls_cipher, tunnel FROM conpool.connections WHERE server = 'clear' AND database = current_database();
SELECT size, unshared, tunnelled FROM conpool.pools WHERE server = 'clear' AND database = current_database();
SELECT array_agg((tunnel, opened, failed))::text = :'before' AS as_before FROM conpool.tunnels;

-- tunnels are shown to everybody
CREATE ROLE regress_tunnels;
SET ROLE regress_tunnels;
SELECT count(*) = current_setting('conpool.tunnel_workers')::int AS all, count(pid) = count(*) AS pids FROM conpool.tunnels;
SELECT count(*) FROM conpool.connections WHERE server = 'clear';
RESET ROLE;
DROP ROLE regress_tunnels;

-- how many there are is fixed when the server starts
SELECT setting, unit, context, vartype, min_val, max_val, boot_val, short_desc, extra_desc FROM pg_settings WHERE name = 'conpool.tunnel_workers';
SET conpool.tunnel_workers = 2;
\echo :LAST_ERROR_SQLSTATE
ALTER SYSTEM SET conpool.tunnel_workers = 17;
\echo :LAST_ERROR_SQLSTATE

SELECT test.at_rest();
DROP SERVER clear CASCADE;
