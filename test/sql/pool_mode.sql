-- pool_mode: the scope of the leases that query functions take by themselves.
CREATE FUNCTION pg_temp.held() RETURNS SETOF text LANGUAGE sql AS
	$$ SELECT scope FROM conpool.leases WHERE server = 'modes' AND pid = pg_backend_pid() $$;
SELECT test.server('modes', $$max_size '2'$$);

-- statement, by default: nothing is held between two statements
BEGIN;
SELECT conpool.exec('modes', 'SET work_mem = ''1MB''');
SELECT pg_temp.held();
SELECT * FROM conpool.query('modes', 'SELECT current_setting(''work_mem'')') AS t(work_mem text);
COMMIT;

-- transaction: one lease until the transaction ends
SET conpool.pool_mode = 'transaction';
BEGIN;
SELECT conpool.exec('modes', 'SET work_mem = ''1MB''');
SELECT pg_temp.held();
SELECT * FROM conpool.query('modes', 'SELECT current_setting(''work_mem'')') AS t(work_mem text);
-- an explicit lease is another one
SELECT work_mem FROM conpool.checkout('modes') AS lease,
	conpool.query(lease, 'SELECT current_setting(''work_mem'')') AS t(work_mem text);
SELECT pg_temp.held();
COMMIT;
SELECT pg_temp.held();
SELECT * FROM conpool.query('modes', 'SELECT current_setting(''work_mem'')') AS t(work_mem text);
SELECT pg_temp.held();

-- a subtransaction that aborts gives back its own
BEGIN;
SAVEPOINT s;
SELECT conpool.exec('modes', 'SELECT 1');
ROLLBACK TO s;
SELECT pg_temp.held();
SELECT conpool.exec('modes', 'SELECT 1');
SAVEPOINT s;
SELECT conpool.exec('modes', 'SELECT 1 / 0');
ROLLBACK TO s;
SELECT pg_temp.held();
SELECT conpool.exec('modes', 'SELECT 1');
COMMIT;

-- session: one until the session ends, or DISCARD ALL
ALTER SERVER modes OPTIONS (ADD pool_mode 'session');
SELECT conpool.exec('modes', 'SET work_mem = ''2MB''');
SELECT pg_temp.held();
SELECT * FROM conpool.query('modes', 'SELECT current_setting(''work_mem'')') AS t(work_mem text);
BEGIN;
SELECT conpool.exec('modes', 'SELECT 1 / 0');
ROLLBACK;
SELECT * FROM conpool.query('modes', 'SELECT current_setting(''work_mem'')') AS t(work_mem text);
SELECT pool_mode FROM conpool.pools WHERE server = 'modes' AND database = current_database();
DISCARD ALL;
SELECT count(*) FROM conpool.leases WHERE server = 'modes';

-- one whose connection was lost is replaced
SELECT conpool.exec('modes', 'SELECT 1');
SELECT conpool.exec('modes', 'SELECT pg_terminate_backend(pg_backend_pid())');
SELECT conpool.exec('modes', 'SELECT 1');
DISCARD ALL;

-- PREPARE TRANSACTION
SELECT conpool.checkout('remote', 'session') AS session_lease \gset
BEGIN;
SELECT conpool.checkout('modes') > 0 AS taken;
PREPARE TRANSACTION 'conpool';
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.checkin(:session_lease);

SELECT test.at_rest();
DROP SERVER modes CASCADE;
