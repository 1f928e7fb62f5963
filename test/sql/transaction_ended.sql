-- Scope transaction: a statement that ends the remote transaction by itself is an error,
-- also if it begins another one at once, and nothing done later is committed alone.
SELECT test.server('ended', $$max_size '4', pool_mode 'transaction'$$) AS done,
	conpool.exec('remote', 'CREATE TABLE ended (a int)') AS done \gset
CREATE FUNCTION pg_temp.insert(a int) RETURNS void LANGUAGE sql AS
	$$ SELECT conpool.exec('ended', 'INSERT INTO ended VALUES ($1)', a) $$;
-- what others see
CREATE FUNCTION pg_temp.seen() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(a::text, ' ') FROM conpool.query('remote', 'SELECT a FROM ended ORDER BY a') AS t(a int) $$;
\set VERBOSITY sqlstate

-- it rolls back: nothing is there
BEGIN;
SELECT pg_temp.insert(1);
SELECT conpool.exec('ended', 'ROLLBACK AND CHAIN');
COMMIT;
BEGIN;
SELECT pg_temp.insert(2);
SAVEPOINT a;
SELECT pg_temp.insert(3);
SELECT conpool.exec('ended', 'rollback and chain');
ROLLBACK TO a;
SELECT pg_temp.insert(4);
ROLLBACK TO a;
COMMIT;
BEGIN;
SELECT pg_temp.insert(5);
SELECT conpool.exec('ended', 'ROLLBACK; BEGIN');
COMMIT;
-- the first that is done on it, and as a query, with a parameter, as a request
BEGIN;
SELECT conpool.exec('ended', 'ROLLBACK AND CHAIN');
ROLLBACK;
BEGIN;
SELECT * FROM conpool.query('ended', 'ROLLBACK AND CHAIN; SELECT 6') AS t(a int);
ROLLBACK;
BEGIN;
SELECT conpool.checkout('ended') AS lease \gset
SELECT conpool.exec(:lease, 'INSERT INTO ended VALUES (7)') AS done \gset
SELECT conpool.send(:lease, 'ROLLBACK AND CHAIN; INSERT INTO ended VALUES (8)') AS request \gset
COMMIT;
SELECT pg_temp.seen();

-- it commits what was done before, which nobody can help; but nothing after it
BEGIN;
SELECT pg_temp.insert(10);
SELECT conpool.exec('ended', 'COMMIT AND CHAIN');
COMMIT;
BEGIN;
SELECT pg_temp.insert(11);
SAVEPOINT a;
SELECT conpool.exec('ended', 'COMMIT; BEGIN');
ROLLBACK TO a;
SELECT pg_temp.insert(12);
ROLLBACK TO a;
COMMIT;
BEGIN;
SAVEPOINT a;
SELECT conpool.exec('ended', 'COMMIT AND CHAIN; INSERT INTO ended VALUES (13)');
ROLLBACK TO a;
SELECT pg_temp.insert(14);
COMMIT;
SELECT pg_temp.seen();
SELECT conpool.exec('remote', 'TRUNCATE ended') AS done \gset

-- try_map(), whose caller may go on: the local transaction cannot commit
BEGIN;
SELECT pg_temp.insert(20);
SELECT server, sqlstate FROM conpool.try_map('{ended, remote}', ARRAY['rollback', 'SELECT']) ORDER BY server;
SELECT pg_temp.insert(21);
COMMIT;
BEGIN;
SELECT pg_temp.insert(22);
SELECT server, sqlstate FROM conpool.try_map('{ended, ended}', ARRAY['rollback', 'INSERT INTO ended VALUES (23)']);
SELECT server, sqlstate FROM conpool.try_map('{ended}', 'INSERT INTO ended VALUES (24)');
COMMIT;
BEGIN;
SELECT pg_temp.insert(25);
SELECT server, sqlstate FROM conpool.try_map('{ended}', 'rollback');
COMMIT;
BEGIN;
SELECT pg_temp.insert(26);
SELECT server, sqlstate FROM conpool.try_map('{ended}', 'rollback and chain');
SELECT server, sqlstate FROM conpool.try_map('{ended}', 'INSERT INTO ended VALUES (27)');
COMMIT;
-- but in a subtransaction
BEGIN;
SAVEPOINT a;
SELECT server, sqlstate FROM conpool.try_map('{ended}', 'rollback');
SELECT pg_temp.insert(28);
ROLLBACK TO a;
SELECT pg_temp.insert(29);
COMMIT;
SELECT pg_temp.seen();
SELECT conpool.exec('remote', 'TRUNCATE ended') AS done \gset

-- what does not end it
BEGIN;
SELECT conpool.exec('ended', 'INSERT INTO ended VALUES (30); SAVEPOINT s; INSERT INTO ended VALUES (31); ROLLBACK TO s');
SELECT conpool.exec('ended', 'ROLLBACK TO s'), conpool.exec('ended', 'RELEASE s');
SELECT pg_temp.insert(32);
COMMIT;
SELECT pg_temp.seen();

\set VERBOSITY default
SELECT conpool.exec('remote', 'DROP TABLE ended') AS done \gset
SELECT test.at_rest();
DROP SERVER ended CASCADE;
