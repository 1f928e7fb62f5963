-- checkout() and checkin(): what a lease is, and when it ends.
SELECT test.server('leases', $$max_size '3'$$);
CREATE VIEW pg_temp.mine AS SELECT scope, sql FROM conpool.leases
 WHERE server = 'leases' AND pid = pg_backend_pid() ORDER BY lease;

-- a lease is one connection, for this session alone
SELECT conpool.checkout('leases', 'session') AS lease \gset
SELECT conpool.checkout('leases', 'session') AS lease_two \gset
SELECT a.pid <> b.pid AS differ FROM conpool.query(:lease, 'SELECT pg_backend_pid()') AS a(pid int),
	conpool.query(:lease_two, 'SELECT pg_backend_pid()') AS b(pid int);
SELECT conpool.exec(:lease, 'SET work_mem = ''1MB''');
SELECT * FROM conpool.query(:lease, 'SHOW work_mem') AS t(work_mem text);
SELECT * FROM conpool.query(:lease_two, 'SHOW work_mem') AS t(work_mem text);
SELECT scope, sql FROM pg_temp.mine;
SELECT lease = :lease AS same, application_name, held_for < '1min' AS held_for, since <= now() AS since,
	   remote_pid = r.pid AS remote_pid
  FROM conpool.leases, conpool.query(:lease, 'SELECT pg_backend_pid()') AS r(pid int)
 WHERE lease = :lease;

-- given back once; a second time is an error
SELECT conpool.checkin(:lease);
SELECT conpool.checkin(:lease_two);
SELECT test.error_of('SELECT conpool.checkin(' || :lease || ')');
SELECT * FROM pg_temp.mine;

-- scope statement ends with one remote statement, and like scope transaction
-- with the transaction; session does not
SELECT conpool.checkout('leases', 'statement') > 0 AS taken, conpool.checkout('leases') > 0 AS taken;
SELECT scope FROM pg_temp.mine;
BEGIN;
SELECT conpool.checkout('leases', 'statement') AS lease, conpool.checkout('leases', 'statement') AS lease_two \gset
SELECT scope FROM pg_temp.mine;
SELECT conpool.exec(:lease, 'SELECT 1');
SELECT scope FROM pg_temp.mine;
SELECT test.error_of('SELECT conpool.exec(' || :lease || ', ''SELECT 1'')');
SELECT conpool.checkin(:lease_two);
COMMIT;
BEGIN;
SELECT conpool.checkout('leases', 'transaction') AS lease \gset
SELECT conpool.checkout('leases', 'session') AS lease_two \gset
SELECT scope FROM pg_temp.mine;
SELECT conpool.exec(:lease, 'SELECT 1'), conpool.exec(:lease_two, 'SELECT 1');
COMMIT;
SELECT scope FROM pg_temp.mine;
SELECT conpool.exec(:lease_two, 'SELECT 1');

-- also if it is rolled back
BEGIN;
SELECT conpool.checkout('leases') AS lease \gset
SELECT conpool.checkout('leases', 'session') AS lease_three \gset
ROLLBACK;
SELECT scope FROM pg_temp.mine;
SELECT conpool.exec(:lease_three, 'SELECT 1');
SELECT conpool.checkin(:lease_two), conpool.checkin(:lease_three);

-- what a subtransaction took goes back with it, unless it commits
BEGIN;
SAVEPOINT s;
SELECT conpool.checkout('leases') AS lease \gset
ROLLBACK TO s;
SELECT count(*) FROM pg_temp.mine;
SELECT test.error_of('SELECT conpool.checkin(' || :lease || ')');
SELECT conpool.checkout('leases') AS lease \gset
RELEASE s;
SELECT count(*) FROM pg_temp.mine;
SAVEPOINT s;
SELECT conpool.exec(:lease, 'SELECT 1');
ROLLBACK TO s;
SELECT count(*) FROM pg_temp.mine;
SAVEPOINT s;
SELECT conpool.exec(:lease, 'SELECT 1 / 0');
ROLLBACK TO s;
SELECT conpool.exec(:lease, 'SELECT 1');
COMMIT;
SELECT count(*) FROM pg_temp.mine;

-- the same in PL/pgSQL; an error halfway through a result leaves nothing behind
CREATE FUNCTION pg_temp.try(what text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	lease bigint;
BEGIN
	IF what = 'outside' THEN
		lease := conpool.checkout('leases');
	END IF;
	BEGIN
		IF what = 'inside' THEN
			lease := conpool.checkout('leases');
		END IF;
		PERFORM * FROM conpool.query(lease, 'SELECT 10 / (3 - g) FROM generate_series(1, 5) g') AS t(a int);
	EXCEPTION WHEN division_by_zero THEN
		PERFORM conpool.exec('leases', 'SELECT 1');
	END;
	RETURN what || ': ' || (SELECT count(*) FROM conpool.leases WHERE server = 'leases' AND pid = pg_backend_pid());
END $$;
SELECT pg_temp.try('inside');
SELECT pg_temp.try('outside');
BEGIN;
SELECT pg_temp.try('inside') FROM generate_series(1, 3);
COMMIT;
CREATE FUNCTION pg_temp.try_rows() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM * FROM conpool.query('leases', 'SELECT CASE g WHEN 3 THEN ''x'' ELSE ''1'' END FROM generate_series(1, 1000) g') AS t(a int);
EXCEPTION WHEN invalid_text_representation THEN
	RETURN (SELECT count(*) FROM conpool.leases WHERE server = 'leases');
END $$;
SELECT pg_temp.try_rows() FROM generate_series(1, 5);

-- local deferred work at the commit may still use a lease of the transaction
CREATE TABLE deferred (lease bigint);
CREATE FUNCTION use_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE '%', conpool.exec(NEW.lease, 'SELECT 1');
	RETURN NEW;
END $$;
CREATE CONSTRAINT TRIGGER use_lease AFTER INSERT ON deferred
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION use_lease();
BEGIN;
INSERT INTO deferred VALUES (conpool.checkout('leases'));
COMMIT;
DROP TABLE deferred;
DROP FUNCTION use_lease;

-- a lease runs one statement at a time: not another one while its rows are
-- being read; a server's name means another connection then
CREATE FUNCTION ask(target text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT conpool.exec(%s, ''SELECT 1'')', target);
	RETURN true;
END $$;
CREATE DOMAIN asks_lease AS text CHECK (ask(VALUE));
SELECT conpool.checkout('leases', 'session') AS lease \gset
SELECT test.error_of(format('SELECT * FROM conpool.query(%s, ''SELECT $1'', ''%1$s'') AS t(a asks_lease)', :lease));
SELECT a FROM conpool.query(:lease, 'SELECT ''''''leases''''''') AS t(a asks_lease);
SELECT conpool.checkin(:lease);
SET conpool.pool_mode = 'transaction';
SELECT test.error_of('SELECT * FROM conpool.query(''leases'', ''SELECT ''''''''''''leases'''''''''''''') AS t(a asks_lease)');
RESET conpool.pool_mode;
DROP DOMAIN asks_lease;
DROP FUNCTION ask;

-- DISCARD ALL gives back what the session holds
SELECT conpool.checkout('leases', 'session') AS lease \gset
DISCARD ALL;
SELECT count(*) FROM conpool.leases WHERE server = 'leases';
SELECT test.error_of('SELECT conpool.checkin(' || :lease || ')');
SELECT conpool.checkout('leases', 'session') AS lease \gset
DISCARD PLANS;
SELECT conpool.checkin(:lease);

-- the end of the session does as well
SELECT conpool.checkout('leases', 'session') > 0 AS taken;
\c -
SELECT test.wait_until($$(SELECT leased = 0 FROM conpool.pools WHERE server = 'leases' AND database = current_database())$$);
SELECT class, sql FROM conpool.leaks WHERE server = 'leases' AND database = current_database();

SELECT test.at_rest();
DROP SERVER leases CASCADE;
