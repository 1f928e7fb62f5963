-- The local server of the benchmark: one foreign server per contestant, and
-- one more, called tls_..., where it is measured over TLS, all used by the
-- ordinary role "app". The password comes from the environment, ports (0: not
-- wanted) and peers from psql variables.
\set ON_ERROR_STOP 1
\getenv password BENCH_PASSWORD
CREATE ROLE app LOGIN;
CREATE EXTENSION dblink;
CREATE EXTENSION postgres_fdw;

SELECT ' ' || :'peers' ~ ' (conpool|companion)' AS conpool \gset
\if :conpool
CREATE EXTENSION conpool;
\endif
SELECT strpos(' ' || :'peers' || ' ', ' companion') > 0 AS companion \gset
\if :companion
CREATE SCHEMA companion;
GRANT USAGE ON SCHEMA companion TO app;
CREATE EXTENSION conpool_dblink SCHEMA companion;
\endif
CREATE TEMP TABLE contestant (peer name, wrapper name, extra text, port int, tls_port int);
INSERT INTO contestant VALUES
  ('conpool', 'conpool', ', max_size ''8''', :remote_port, :remote_tls_port),
  ('conpool_untracked', 'conpool', ', max_size ''8''', :remote_port, 0),
  ('conpool_always', 'conpool', ', max_size ''8'', reset ''always''', :remote_port, 0),
  ('dblink_call', 'dblink_fdw', '', :remote_port, :remote_tls_port),
  ('dblink_open', 'dblink_fdw', '', :remote_port, :remote_tls_port),
  ('dblink_pgbouncer', 'dblink_fdw', '', :pgbouncer_port, :pgbouncer_tls_port),
  ('postgres_fdw', 'postgres_fdw', '', :remote_port, 0),
  ('companion_call', 'dblink_fdw', '', :remote_port, 0),
  ('companion_open', 'dblink_fdw', '', :remote_port, 0);
DELETE FROM contestant WHERE peer <> ALL (string_to_array(:'peers', ' '));

-- dblink has no TLS to PgBouncer.
CREATE TEMP TABLE server AS
  SELECT peer::text AS name, peer, wrapper, port, extra || ', sslmode ''disable''' AS extra
    FROM contestant WHERE port > 0
  UNION ALL
  SELECT 'tls_' || peer, peer, wrapper, tls_port, extra ||
         CASE peer WHEN 'dblink_pgbouncer' THEN ', sslmode ''disable'''
         ELSE format(', sslmode ''verify-full'', sslrootcert %L', :'root') END
    FROM contestant WHERE tls_port > 0
  UNION ALL
  SELECT name, peer, wrapper, port, extra || ', sslmode ''disable''' || also
    FROM contestant,
         (VALUES ('transaction_conpool', ', pool_mode ''transaction'''), ('four_1', ''),
                 ('four_2', ''), ('four_3', ''), ('four_4', '')) AS more(name, also)
   WHERE peer = 'conpool' AND port > 0;

SELECT format('CREATE SERVER %I FOREIGN DATA WRAPPER %I OPTIONS (host ''127.0.0.1'', '
              'port %L, dbname ''bench'', gssencmode ''disable''%s)',
              name, wrapper, port, extra),
       format('CREATE USER MAPPING FOR app SERVER %I OPTIONS (user %L, password %L)',
              name, 'bench_' || peer, :'password'),
       format('GRANT USAGE ON FOREIGN SERVER %I TO app', name)
  FROM server \gexec

SELECT count(*) > 0 AS fdw FROM server WHERE name = 'postgres_fdw' \gset
\if :fdw
CREATE FOREIGN TABLE bench_one (a int) SERVER postgres_fdw;
CREATE FOREIGN TABLE bench_accounts (aid int, abalance int)
  SERVER postgres_fdw OPTIONS (table_name 'pgbench_accounts');
-- Whoever reads that much with postgres_fdw raises its fetch_size of 100.
CREATE FOREIGN TABLE bench_rows (a int, b text, c numeric, d timestamptz)
  SERVER postgres_fdw OPTIONS (fetch_size '10000');
GRANT SELECT ON bench_one, bench_accounts, bench_rows TO app;
GRANT UPDATE ON bench_accounts TO app;
\endif
