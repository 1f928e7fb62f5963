-- The remote server of the benchmark. Every contestant has a role of its own,
-- so that pg_stat_activity tells whose backends are whose. The password comes
-- from the environment, the names from psql variables.
\set ON_ERROR_STOP 1
\getenv password BENCH_PASSWORD
SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', 'bench_' || peer, :'password')
  FROM string_to_table(:'peers', ' ') AS peer \gexec

-- A lookup answers with its key: an answer meant for another session shows.
UPDATE pgbench_accounts SET abalance = aid;
VACUUM FULL pgbench_accounts;

CREATE TABLE bench_one AS SELECT 1 AS a;
CREATE TABLE bench_rows AS
  SELECT i AS a, md5(i::text) AS b, i * 1.01 AS c,
         timestamptz '2024-01-01 00:00:00+00' + i * interval '1 second' AS d
    FROM generate_series(1, :rows) AS i;
GRANT SELECT ON pgbench_accounts, bench_one, bench_rows TO PUBLIC;
GRANT UPDATE ON pgbench_accounts TO PUBLIC;
VACUUM (FREEZE, ANALYZE);

-- The most backends each role was seen with; kept up by sample.sql.
CREATE UNLOGGED TABLE seen (role name PRIMARY KEY, backends int);
CHECKPOINT;
