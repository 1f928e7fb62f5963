-- Several statements in one text, COPY, transactions left open.
SELECT test.server('statements', $$max_size '1'$$);

-- without arguments the last result set counts; all have to fit, as in dblink
SELECT * FROM conpool.query('statements', 'SELECT 1 AS x; SELECT 2 AS y UNION ALL SELECT 3') AS t(a int);
SELECT * FROM conpool.query('statements', 'SELECT 1; SELECT 2, 3') AS t(a int, b int);
SELECT * FROM conpool.query_json('statements', 'SELECT 1 AS a; SELECT 2 AS b WHERE false');
SELECT * FROM conpool.query('statements', 'CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1), (2); TABLE t') AS t(a int);
SELECT conpool.exec('statements', 'CREATE TABLE part (a int); INSERT INTO part VALUES (1), (2)');

-- also when a statement without a result follows
SELECT * FROM conpool.query('statements', 'SELECT 7; DROP TABLE part') AS t(a int);

-- an error undoes them all
SELECT conpool.exec('statements', 'CREATE TABLE part (a int); SELECT 1 / 0; SELECT 3');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('statements', 'SELECT to_regclass(''part'') IS NULL') AS t(undone bool);

-- with arguments the protocol refuses them
SELECT * FROM conpool.query('statements', 'SELECT $1::int; SELECT 2', 1) AS t(a int);
\echo :LAST_ERROR_SQLSTATE

-- COPY is refused in both directions, wherever it stands, and nothing hangs
SET statement_timeout = '10s';
SELECT conpool.exec('statements', 'CREATE TABLE part (a int)');
SELECT conpool.exec('statements', 'COPY part FROM STDIN');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('statements', 'COPY (SELECT generate_series(1, 1000000)) TO STDOUT') AS t(a int);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('statements', 'SELECT 1; COPY part FROM STDIN; SELECT 2') AS t(a int);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query_json('statements', 'COPY part TO STDOUT; COPY part FROM STDIN');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.checkout('statements', 'session') AS lease \gset
SELECT conpool.exec(:lease, 'COPY part TO STDOUT');
\echo :LAST_ERROR_SQLSTATE
-- the lease has no connection any more
SELECT test.error_of('SELECT conpool.exec(' || :lease || ', ''SELECT 1'')');
SELECT conpool.checkin(:lease);
SELECT conpool.exec('statements', 'DROP TABLE part');
RESET statement_timeout;
SELECT test.at_rest();
SELECT discarded FROM conpool.stat_pools WHERE server = 'statements' AND database = current_database();

-- a transaction left open is rolled back
SELECT conpool.exec('statements', 'BEGIN; CREATE TABLE part (a int)');
SELECT * FROM conpool.query('statements', 'SELECT to_regclass(''part'') IS NULL') AS t(undone bool);
SELECT * FROM conpool.query('statements', 'BEGIN; SELECT 5') AS t(a int);
SELECT conpool.exec('statements', 'COMMIT');

-- on a lease it goes on until that is given back
SELECT conpool.checkout('statements', 'session') AS lease \gset
SELECT conpool.exec(:lease, 'BEGIN'), conpool.exec(:lease, 'CREATE TABLE part (a int)');
SELECT conpool.exec(:lease, 'SELECT 1 / 0');
SELECT conpool.exec(:lease, 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec(:lease, 'ROLLBACK'), conpool.exec(:lease, 'BEGIN'), conpool.exec(:lease, 'CREATE TABLE part (a int)');
SELECT conpool.checkin(:lease);
BEGIN;
SELECT conpool.checkout('statements') AS lease \gset
SELECT conpool.exec(:lease, 'CREATE TABLE part (a int)');
ROLLBACK;
SELECT * FROM conpool.query('statements', 'SELECT to_regclass(''part'') IS NULL') AS t(undone bool);

SELECT test.at_rest();
DROP SERVER statements CASCADE;
