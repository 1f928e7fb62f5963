-- The local server of the benchmark: one foreign server per contestant, all
-- used by the ordinary role "app". The password comes from the environment,
-- ports and peers from psql variables.
\set ON_ERROR_STOP 1
\getenv password BENCH_PASSWORD
CREATE ROLE app LOGIN;
CREATE EXTENSION dblink;
CREATE EXTENSION postgres_fdw;

-- One server for each "peer wrapper port pool-options" line.
SELECT strpos(' ' || :'peers' || ' ', ' conpool') > 0 AS conpool \gset
\if :conpool
CREATE EXTENSION conpool;
\endif
CREATE TEMP TABLE contestant (peer name, wrapper name, port int, extra text);
INSERT INTO contestant VALUES
  ('conpool', 'conpool', :remote_port, ', max_size ''8'''),
  ('conpool_untracked', 'conpool', :remote_port, ', max_size ''8'''),
  ('conpool_always', 'conpool', :remote_port, ', max_size ''8'', reset ''always'''),
  ('dblink_call', 'dblink_fdw', :remote_port, ''),
  ('dblink_open', 'dblink_fdw', :remote_port, ''),
  ('dblink_pgbouncer', 'dblink_fdw', :pgbouncer_port, ''),
  ('postgres_fdw', 'postgres_fdw', :remote_port, '');
DELETE FROM contestant WHERE peer <> ALL (string_to_array(:'peers', ' '));

SELECT format('CREATE SERVER %I FOREIGN DATA WRAPPER %I OPTIONS (host ''127.0.0.1'', '
              'port %L, dbname ''bench'', sslmode ''disable'', gssencmode ''disable''%s)',
              peer, wrapper, port, extra),
       format('CREATE USER MAPPING FOR app SERVER %I OPTIONS (user %L, password %L)',
              peer, 'bench_' || peer, :'password'),
       format('GRANT USAGE ON FOREIGN SERVER %I TO app', peer)
  FROM contestant \gexec

SELECT count(*) > 0 AS fdw FROM contestant WHERE peer = 'postgres_fdw' \gset
\if :fdw
CREATE FOREIGN TABLE bench_one (a int) SERVER postgres_fdw;
CREATE FOREIGN TABLE bench_accounts (aid int, abalance int)
  SERVER postgres_fdw OPTIONS (table_name 'pgbench_accounts');
-- Whoever reads that much with postgres_fdw raises its fetch_size of 100.
CREATE FOREIGN TABLE bench_rows (a int, b text, c numeric, d timestamptz)
  SERVER postgres_fdw OPTIONS (fetch_size '10000');
GRANT SELECT ON bench_one, bench_accounts, bench_rows TO app;
\endif
