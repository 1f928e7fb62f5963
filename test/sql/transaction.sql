-- Scope transaction: a remote transaction that follows the local one.
SELECT test.server('xact', $$max_size '4', pool_mode 'transaction'$$) AS done,
	test.server('xact_two', $$max_size '2', pool_mode 'transaction'$$) AS done \gset
-- "remote" is autocommit, on other connections: it sees what the others have committed
SELECT conpool.exec('remote', 'CREATE TABLE xact (a int)') AS done \gset
-- and this session as another one sees it
SELECT format('host=%s port=%s dbname=%s user=postgres', split_part(current_setting('unix_socket_directories'), ',', 1),
			  current_setting('port'), current_database()) AS loopback \gset
CREATE FUNCTION pg_temp.seen() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(a::text, ' ') FROM conpool.query('remote', 'SELECT a FROM xact ORDER BY a') AS t(a int) $$;
CREATE FUNCTION pg_temp.remote(expression text, server text DEFAULT 'xact') RETURNS text LANGUAGE sql AS
	$$ SELECT x FROM conpool.query(server, 'SELECT ' || expression) AS t(x text) $$;
CREATE FUNCTION pg_temp.insert(a int, server text DEFAULT 'xact') RETURNS void LANGUAGE sql AS
	$$ SELECT conpool.exec(server, 'INSERT INTO xact VALUES ($1)', a) $$;
CREATE FUNCTION pg_temp.insert(a int, lease bigint) RETURNS void LANGUAGE sql AS
	$$ SELECT conpool.exec(lease, 'INSERT INTO xact VALUES ($1)', a) $$;
CREATE FUNCTION pg_temp.clear() RETURNS void LANGUAGE sql AS $$ SELECT conpool.exec('remote', 'TRUNCATE xact') $$;
CREATE VIEW pg_temp.mine AS SELECT server, scope, count(*) FROM conpool.leases
 WHERE server LIKE 'xact%' AND pid = pg_backend_pid() GROUP BY server, scope ORDER BY server, scope;
\set VERBOSITY terse

-- isolation: as strict as it is here, and no less than REPEATABLE READ
CREATE FUNCTION pg_temp.mode() RETURNS TABLE (here text, there text) LANGUAGE plpgsql AS $$
DECLARE
	mode constant text := 'concat_ws('', '', current_setting(''transaction_isolation''),
		''read only '' || current_setting(''transaction_read_only''),
		''deferrable '' || current_setting(''transaction_deferrable''))';
BEGIN
	EXECUTE 'SELECT ' || mode INTO here;
	there := pg_temp.remote(mode);
	RETURN NEXT;
END $$;
SELECT * FROM pg_temp.mode();
BEGIN;
SELECT * FROM pg_temp.mode();
COMMIT;
BEGIN ISOLATION LEVEL READ UNCOMMITTED READ ONLY;
SELECT * FROM pg_temp.mode();
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM pg_temp.mode();
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT * FROM pg_temp.mode();
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT * FROM pg_temp.mode();
COMMIT;
BEGIN DEFERRABLE;
SELECT * FROM pg_temp.mode();
COMMIT;
SET default_transaction_read_only = on;
SELECT * FROM pg_temp.mode();
RESET default_transaction_read_only;
-- a lease, whatever the server's pool_mode is
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT isolation FROM conpool.checkout('remote') AS lease,
	conpool.query(lease, 'SHOW transaction_isolation') AS t(isolation text);
COMMIT;
-- what else is a transaction of its own
BEGIN;
SELECT test.error_of($$SELECT conpool.exec('remote', 'SAVEPOINT s')$$);
COMMIT;

-- what others commit meanwhile is not seen, over any number of calls
BEGIN;
SELECT pg_temp.remote('count(*) FROM xact');
SELECT conpool.exec('remote', 'INSERT INTO xact VALUES (1)');
SELECT pg_temp.remote('count(*) FROM xact');
COMMIT;
SELECT pg_temp.remote('count(*) FROM xact');
SELECT pg_temp.clear();

-- READ ONLY in the middle
BEGIN;
SELECT pg_temp.insert(1);
SET TRANSACTION READ ONLY;
SELECT * FROM pg_temp.mode();
SELECT pg_temp.insert(2);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
SELECT pg_temp.insert(3);
SET TRANSACTION READ ONLY;
SAVEPOINT a;
SELECT * FROM pg_temp.mode();
RELEASE a;
SAVEPOINT b;
SAVEPOINT c;
SELECT * FROM pg_temp.mode();
ROLLBACK TO b;
SELECT * FROM pg_temp.mode();
COMMIT;
-- in a subtransaction, for as long as that lasts
BEGIN;
SELECT pg_temp.insert(4);
SAVEPOINT a;
SET TRANSACTION READ ONLY;
SELECT * FROM pg_temp.mode();
SELECT pg_temp.insert(5);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO a;
SELECT * FROM pg_temp.mode();
SELECT pg_temp.insert(6);
SET TRANSACTION READ ONLY;
SELECT * FROM pg_temp.mode();
RELEASE a;
SELECT pg_temp.insert(7);
SAVEPOINT a;
SET TRANSACTION READ ONLY;
SAVEPOINT b;
SELECT * FROM pg_temp.mode();
RELEASE b;
SELECT * FROM pg_temp.mode();
RELEASE a;
SELECT * FROM pg_temp.mode();
SELECT pg_temp.insert(8);
-- in which nothing is done remotely
SAVEPOINT a;
SET TRANSACTION READ ONLY;
RELEASE a;
SELECT pg_temp.insert(9);
COMMIT;
-- in which it is begun
BEGIN;
SAVEPOINT a;
SET TRANSACTION READ ONLY;
SELECT * FROM pg_temp.mode();
ROLLBACK TO a;
SELECT pg_temp.insert(10);
COMMIT;
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SET TRANSACTION READ ONLY;
SELECT * FROM pg_temp.mode();
RELEASE b;
SELECT * FROM pg_temp.mode();
SET TRANSACTION READ ONLY;
SELECT * FROM pg_temp.mode();
RELEASE a;
SELECT pg_temp.insert(11);
COMMIT;
-- after one
BEGIN;
SAVEPOINT a;
SELECT pg_temp.insert(12);
RELEASE a;
SET TRANSACTION READ ONLY;
SELECT * FROM pg_temp.mode();
SAVEPOINT a;
SELECT * FROM pg_temp.mode();
COMMIT;
SELECT pg_temp.seen();
SELECT pg_temp.clear();

-- one connection and one transaction for all calls to a server, another for a lease
BEGIN;
SELECT pg_temp.remote('pg_backend_pid()') AS pid, pg_temp.remote('txid_current()') AS xid \gset
SELECT pg_temp.remote('pg_backend_pid()') = :'pid' AS same, pg_temp.remote('txid_current()') = :'xid' AS same;
SAVEPOINT a;
SELECT pg_temp.remote('pg_backend_pid()') = :'pid' AS same;
ROLLBACK TO a;
SELECT pg_temp.remote('pg_backend_pid()') = :'pid' AS same;
SELECT pg_temp.remote('pg_backend_pid()', 'xact_two') = :'pid' AS same;
SELECT conpool.checkout('xact') AS lease \gset
SELECT pid = :'pid' AS same FROM conpool.query(:lease, 'SELECT pg_backend_pid()') AS t(pid text);
SELECT * FROM pg_temp.mine;
COMMIT;
SELECT * FROM pg_temp.mine;

-- committed and rolled back with it, on all servers
BEGIN;
SELECT pg_temp.insert(1), pg_temp.insert(2, 'xact_two');
SELECT pg_temp.insert(3, conpool.checkout('xact'));
SELECT pg_temp.insert(4);
SELECT pg_temp.seen();
COMMIT;
SELECT pg_temp.seen();
BEGIN;
SELECT pg_temp.insert(5), pg_temp.insert(6, 'xact_two');
SELECT pg_temp.insert(7, conpool.checkout('xact'));
ROLLBACK;
BEGIN;
SELECT pg_temp.insert(8), pg_temp.insert(9, 'xact_two');
SELECT 1 / 0;
COMMIT;
BEGIN;
SELECT pg_temp.insert(10);
SELECT pg_temp.remote('1 / 0', 'xact_two');
ROLLBACK;
-- without a transaction block, each statement is one
SELECT pg_temp.insert(11);
SELECT pg_temp.insert(12) FROM (SELECT 1 / (random() * 0)::int OFFSET 0) AS t;
SELECT pg_temp.insert(13), pg_temp.insert(0 / (random() * 0)::int);
SELECT pg_temp.seen();
SELECT pg_temp.clear();
-- local triggers that are deferred to the commit
CREATE TABLE deferred (a int);
CREATE FUNCTION remotely() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM conpool.exec('xact', 'INSERT INTO xact VALUES ($1)', NEW.a);
	IF NEW.a = 2 THEN
		RAISE 'two';
	END IF;
	RETURN NEW;
END $$;
CREATE CONSTRAINT TRIGGER remotely AFTER INSERT ON deferred
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION remotely();
INSERT INTO deferred VALUES (1);
INSERT INTO deferred VALUES (2);
SELECT pg_temp.seen();
SELECT pg_temp.clear();
DROP TABLE deferred;
DROP FUNCTION remotely;

-- savepoints
BEGIN;
SELECT pg_temp.insert(1);
SAVEPOINT a;
SELECT pg_temp.insert(2);
SAVEPOINT b;
SELECT pg_temp.insert(3);
ROLLBACK TO b;
SELECT pg_temp.insert(4);
ROLLBACK TO b;
ROLLBACK TO a;
SELECT pg_temp.insert(5);
RELEASE a;
SAVEPOINT a;
SELECT pg_temp.insert(6);
SAVEPOINT b;
SELECT pg_temp.insert(7);
RELEASE b;
ROLLBACK TO a;
SELECT pg_temp.insert(8);
COMMIT;
SELECT pg_temp.seen();
SELECT pg_temp.clear();
-- one that has committed is not rolled back with the next
BEGIN;
SAVEPOINT a;
SELECT pg_temp.insert(1);
RELEASE a;
SAVEPOINT b;
ROLLBACK TO b;
SAVEPOINT c;
SELECT pg_temp.insert(2);
ROLLBACK TO c;
SAVEPOINT d;
SELECT pg_temp.insert(3);
RELEASE d;
ROLLBACK TO c;
SELECT pg_temp.insert(4);
RELEASE b;
SAVEPOINT b;
SAVEPOINT c;
SELECT pg_temp.insert(5);
ROLLBACK TO c;
SELECT pg_temp.insert(6);
COMMIT;
SELECT pg_temp.seen();
SELECT pg_temp.clear();
-- taken in a subtransaction
BEGIN;
SAVEPOINT a;
SELECT pg_temp.insert(1);
SELECT * FROM pg_temp.mine;
ROLLBACK TO a;
SELECT * FROM pg_temp.mine;
SAVEPOINT b;
SAVEPOINT c;
SELECT pg_temp.insert(2);
RELEASE c;
SAVEPOINT c;
SELECT pg_temp.insert(3);
ROLLBACK TO c;
RELEASE b;
SELECT * FROM pg_temp.mine;
SAVEPOINT b;
SELECT conpool.checkout('xact') AS lease \gset
SELECT pg_temp.insert(4, :lease);
ROLLBACK TO b;
SELECT test.error_of('SELECT conpool.exec(' || :lease || ', ''SELECT 1'')');
SELECT conpool.checkout('xact') AS lease \gset
SELECT pg_temp.insert(5, :lease);
RELEASE b;
SAVEPOINT b;
SELECT pg_temp.insert(6, :lease);
ROLLBACK TO b;
SELECT pg_temp.insert(7, :lease);
SELECT * FROM pg_temp.mine;
COMMIT;
SELECT pg_temp.seen();
SELECT pg_temp.clear();
-- a remote error
BEGIN;
SELECT pg_temp.insert(1);
SAVEPOINT a;
SELECT pg_temp.insert(2);
SELECT pg_temp.remote('1 / 0');
SELECT pg_temp.insert(3);
ROLLBACK TO a;
SELECT pg_temp.insert(4);
SELECT pg_temp.remote('1 / 0', 'xact_two');
ROLLBACK TO a;
SELECT pg_temp.insert(5, 'xact_two');
SELECT pg_temp.insert(6);
COMMIT;
SELECT pg_temp.seen();
SELECT pg_temp.clear();

-- exception blocks: errors of ours and of the remote's, nested
CREATE FUNCTION pg_temp.try(inner_error text, outer_error text, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	caught text := '';
BEGIN
	PERFORM pg_temp.insert(n);
	BEGIN
		PERFORM pg_temp.insert(n + 1);
		BEGIN
			PERFORM pg_temp.insert(n + 2);
			EXECUTE inner_error;
			PERFORM pg_temp.insert(n + 3);
		EXCEPTION WHEN division_by_zero THEN
			caught := 'inner ';
			PERFORM pg_temp.insert(n + 4);
		END;
		PERFORM pg_temp.insert(n + 5);
		EXECUTE outer_error;
		PERFORM pg_temp.insert(n + 6);
	EXCEPTION WHEN division_by_zero OR invalid_text_representation THEN
		caught := caught || 'outer';
		PERFORM pg_temp.insert(n + 7);
	END;
	PERFORM pg_temp.insert(n + 8);
	RETURN caught;
END $$;
\set none '''SELECT 1'''
\set ours '''SELECT 1 / (random() * 0)::int'''
\set theirs '''SELECT pg_temp.remote(''''1 / 0'''')'''
-- in the middle of the rows of a result
\set midst '''SELECT * FROM conpool.query(''''xact'''', ''''SELECT CASE i WHEN 500 THEN ''''''''x'''''''' ELSE ''''''''1'''''''' END FROM generate_series(1, 1000) i'''') AS t(a int)'''
BEGIN;
SELECT pg_temp.try(:none, :none, 10);
SELECT pg_temp.try(:ours, :none, 20);
SELECT pg_temp.try(:none, :ours, 30);
SELECT pg_temp.try(:theirs, :ours, 40);
SELECT pg_temp.try(:ours, :theirs, 50);
SELECT pg_temp.try(:theirs, :theirs, 60);
SELECT pg_temp.try(:midst, :none, 70);
SELECT pg_temp.try(:theirs, :midst, 80);
COMMIT;
SELECT pg_temp.seen();
SELECT pg_temp.clear();

-- a loop of them: the remote does not nest deeper and deeper.  A savepoint within
-- which something was written has a transaction ID, which is locked
BEGIN;
DO $$
DECLARE
	handled int := 0;
BEGIN
	FOR i IN 1 .. 300 LOOP
		BEGIN
			PERFORM pg_temp.insert(i);
			IF i % 3 = 0 THEN
				PERFORM pg_temp.remote('1 / 0');
			END IF;
		EXCEPTION WHEN division_by_zero THEN
			handled := handled + 1;
		END;
	END LOOP;
	RAISE NOTICE 'handled: %', handled;
END $$;
SELECT pg_temp.remote('count(*) <= 2 FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = ''transactionid''');
COMMIT;
SELECT count(*) FROM conpool.query('xact', 'SELECT a FROM xact') AS t(a int);
SELECT pg_temp.clear();

-- any nesting: the remote has what we have, and is read-only when we are
CREATE TABLE mirror (a int);
CREATE TEMP SEQUENCE mirror_a;
CREATE FUNCTION pg_temp.write() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	a constant int := nextval('mirror_a');
	read_only constant text := current_setting('transaction_read_only');
BEGIN
	IF pg_temp.remote('current_setting(''transaction_read_only'')') <> read_only THEN
		RAISE WARNING 'the remote is not read only %', read_only;
	END IF;
	IF read_only = 'off' THEN
		INSERT INTO mirror VALUES (a);
		PERFORM pg_temp.insert(a);
	END IF;
END $$;
CREATE FUNCTION pg_temp.wander(depth int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR step IN 0 .. (random() * 3)::int LOOP
		IF random() < 0.4 THEN
			PERFORM pg_temp.write();
		END IF;
		IF random() < 0.5 AND depth < 5 THEN
			BEGIN
				IF random() < 0.1 THEN
					SET TRANSACTION READ ONLY;
				END IF;
				PERFORM pg_temp.wander(depth + 1);
				CASE (random() * 5)::int
					WHEN 0 THEN RAISE division_by_zero;
					WHEN 1 THEN PERFORM pg_temp.remote('1 / 0');
					ELSE NULL;
				END CASE;
			EXCEPTION WHEN division_by_zero THEN
				IF random() < 0.2 AND depth > 0 THEN
					RAISE;
				ELSIF random() < 0.5 THEN
					PERFORM pg_temp.write();
				END IF;
			END;
		END IF;
	END LOOP;
END $$;
SELECT setseed(0.6) AS done \gset
DO $$
BEGIN
	FOR round IN 1 .. 150 LOOP
		PERFORM pg_temp.wander(0);
		IF round % 10 = 0 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
END $$;
SELECT (SELECT count(*) FROM mirror) > 100 AS many,
	(SELECT string_agg(a::text, ' ' ORDER BY a) FROM mirror) = pg_temp.seen() AS equal;
DROP TABLE mirror;
DROP SEQUENCE mirror_a;
SELECT pg_temp.clear();

-- procedures that end transactions: each has a remote one of its own
CREATE PROCEDURE pg_temp.batch(n int) LANGUAGE plpgsql AS $$
DECLARE
	xids text[];
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM pg_temp.insert(i);
		BEGIN
			PERFORM pg_temp.insert(100 + i);
			xids := xids || pg_temp.remote('txid_current()');
			PERFORM 1 / (i % 2);
		EXCEPTION WHEN division_by_zero THEN
		END;
		IF i % 3 = 0 THEN
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
	END LOOP;
	RAISE NOTICE 'remote transactions: %', (SELECT count(DISTINCT xid) FROM unnest(xids) AS xid);
END $$;
CALL pg_temp.batch(7);
SELECT pg_temp.seen();
SELECT pg_temp.clear();

-- a lease that is given back before its transaction has ended
CREATE ROLE regress_xact;
CREATE USER MAPPING FOR regress_xact SERVER xact OPTIONS (user 'regress_remote_two', password 'two-secret');
GRANT USAGE ON FOREIGN SERVER xact TO regress_xact;
BEGIN;
SELECT conpool.checkout('xact') AS lease \gset
SELECT pg_temp.insert(1, :lease);
SELECT conpool.checkin(:lease);
SELECT test.error_of('SELECT conpool.exec(' || :lease || ', ''SELECT 1'')');
SELECT test.error_of('SELECT conpool.checkin(' || :lease || ')');
SELECT * FROM pg_temp.mine;
-- it is had again, but not for another scope, server or role
SELECT conpool.checkout('xact', 'session') AS other \gset
SELECT :other = :lease AS same;
SELECT conpool.checkin(:other);
SELECT conpool.checkout('xact_two') = :lease AS same;
SET LOCAL ROLE regress_xact;
SELECT conpool.checkout('xact') = :lease AS same;
RESET ROLE;
SELECT conpool.checkout('xact') = :lease AS same;
SELECT pg_temp.insert(2, :lease);
SELECT pg_temp.remote('count(*) FROM xact') AS others_see;
SELECT conpool.checkin(:lease);
COMMIT;
SELECT pg_temp.seen();
-- rolled back, too, and with a subtransaction
BEGIN;
SELECT conpool.checkout('xact') AS lease \gset
SELECT pg_temp.insert(3, :lease);
SELECT conpool.checkin(:lease);
ROLLBACK;
BEGIN;
SELECT conpool.checkout('xact') AS lease \gset
SELECT pg_temp.insert(4, :lease);
SAVEPOINT a;
SELECT pg_temp.insert(5, :lease);
SELECT conpool.checkin(:lease);
ROLLBACK TO a;
SELECT conpool.checkout('xact') = :lease AS same;
SELECT pg_temp.insert(6, :lease);
SELECT conpool.checkin(:lease);
RELEASE a;
COMMIT;
SELECT pg_temp.seen();
-- at once where nothing was begun
BEGIN;
SELECT conpool.checkin(conpool.checkout('xact'));
SELECT * FROM pg_temp.mine;
COMMIT;
SELECT pg_temp.clear();

-- a statement that ends the remote transaction
BEGIN;
SELECT pg_temp.insert(1);
SELECT test.error_of($$SELECT conpool.exec('xact', 'COMMIT')$$);
COMMIT;
BEGIN;
SELECT conpool.exec('xact', 'ROLLBACK');
\echo :LAST_ERROR_SQLSTATE
COMMIT;
BEGIN;
SELECT conpool.exec('xact', 'ABORT; SELECT 1');
\echo :LAST_ERROR_SQLSTATE
COMMIT;
BEGIN;
SELECT conpool.exec('xact', 'COMMIT AND CHAIN');
\echo :LAST_ERROR_SQLSTATE
COMMIT;
BEGIN;
SELECT conpool.exec('xact', 'ROLLBACK; BEGIN');
\echo :LAST_ERROR_SQLSTATE
COMMIT;
BEGIN;
SELECT pg_temp.insert(3);
SELECT conpool.exec('xact', 'Rollback and Chain');
\echo :LAST_ERROR_SQLSTATE
COMMIT;
-- savepoints of one's own are no matter
BEGIN;
SELECT pg_temp.insert(4);
SELECT conpool.exec('xact', 'SAVEPOINT mine');
SELECT pg_temp.insert(5);
SELECT conpool.exec('xact', 'ROLLBACK TO mine');
SELECT conpool.exec('xact', 'RELEASE mine');
SELECT pg_temp.insert(6);
COMMIT;
SELECT pg_temp.seen();
SELECT pg_temp.clear();

-- a connection that is lost takes its transaction along, as long as that lasts
\set lose 'pg_terminate_backend(pg_backend_pid())'
BEGIN;
SELECT pg_temp.insert(1);
SELECT pg_temp.insert(2, 'xact_two');
SAVEPOINT a;
SELECT pg_temp.remote(:'lose');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO a;
SELECT test.error_of('SELECT pg_temp.insert(3)');
SAVEPOINT b;
SELECT test.error_of('SELECT pg_temp.insert(4)');
RELEASE b;
SELECT pg_temp.insert(5, 'xact_two');
COMMIT;
\echo :LAST_ERROR_SQLSTATE
BEGIN;
SAVEPOINT a;
SELECT pg_temp.insert(6);
SAVEPOINT b;
SELECT pg_temp.remote(:'lose');
ROLLBACK TO b;
SELECT test.error_of('SELECT pg_temp.insert(7)');
ROLLBACK TO a;
SELECT pg_temp.insert(8);
COMMIT;
BEGIN;
SELECT conpool.checkout('xact') AS lease \gset
SELECT pg_temp.insert(9, :lease);
SAVEPOINT a;
SELECT conpool.exec(:lease, 'SELECT ' || :'lose');
ROLLBACK TO a;
SELECT test.error_of('SELECT pg_temp.insert(10, ' || :lease || ')');
SELECT conpool.checkin(:lease);
SELECT pg_temp.insert(11);
COMMIT;
\echo :LAST_ERROR_SQLSTATE
-- or was taken away
BEGIN;
SELECT conpool.checkout('xact') AS lease \gset
SELECT pg_temp.insert(12, :lease);
SAVEPOINT a;
SELECT conpool.exec(:'loopback', format('SELECT conpool.reclaim(%s)', :lease));
SELECT * FROM test.error_of('SELECT pg_temp.insert(13, ' || :lease || ')') LIMIT 1;
ROLLBACK TO a;
SELECT * FROM test.error_of('SELECT pg_temp.insert(14, ' || :lease || ')') LIMIT 1;
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY terse
SELECT pg_temp.seen();
SELECT pg_temp.clear();

-- a cursor and savepoints
BEGIN;
SELECT conpool.cursor_open('xact', 'SELECT i FROM generate_series(1, 9) i') AS cursor \gset
SELECT * FROM conpool.cursor_fetch(:cursor, 1) AS t(i int);
SAVEPOINT a;
SELECT * FROM conpool.cursor_fetch(:cursor, 2) AS t(i int);
SELECT pg_temp.insert(1);
SELECT pg_temp.remote('1 / 0');
ROLLBACK TO a;
SELECT * FROM conpool.cursor_fetch(:cursor, 1) AS t(i int);
RELEASE a;
SELECT pg_temp.insert(2);
SELECT conpool.cursor_close(:cursor);
COMMIT;
SELECT pg_temp.seen();
SELECT pg_temp.clear();

-- a failure that is not to break the transaction
BEGIN;
SELECT pg_temp.insert(1);
SELECT server, data, sqlstate FROM conpool.try_map(ARRAY['xact', 'xact_two', 'xact'], 'SELECT 1 / 0') ORDER BY server;
SELECT pg_temp.insert(2);
SAVEPOINT a;
SELECT server, data, sqlstate FROM conpool.try_map(ARRAY['xact', 'xact_two'],
	ARRAY['INSERT INTO xact VALUES (3) RETURNING a', 'INSERT INTO xact VALUES (4), (5 / 0) RETURNING a']) ORDER BY server;
SELECT pg_temp.insert(6);
RELEASE a;
COMMIT;
SELECT pg_temp.seen();
BEGIN;
SELECT server, data, sqlstate FROM conpool.try_map(ARRAY['xact', 'xact_two'], 'INSERT INTO xact VALUES (7) RETURNING a') ORDER BY server;
ROLLBACK;
SELECT pg_temp.seen();
SELECT pg_temp.clear();

-- one that is taken again in a subtransaction goes back with that
BEGIN;
SELECT conpool.checkout('xact') AS lease \gset
SELECT pg_temp.insert(1, :lease), conpool.checkin(:lease);
SAVEPOINT a;
SELECT conpool.checkout('xact') = :lease AS same, pg_temp.insert(2, :lease);
ROLLBACK TO a;
SELECT test.error_of(format('SELECT conpool.exec(%s, ''SELECT 1'')', :lease));
SELECT conpool.checkout('xact') = :lease AS same, pg_temp.insert(3, :lease);
COMMIT;
SELECT pg_temp.seen();
SELECT pg_temp.clear();

-- PREPARE TRANSACTION: not with what is remote in it.  (55000: it is not enabled here)
BEGIN;
SELECT pg_temp.insert(1);
\set VERBOSITY default
PREPARE TRANSACTION 'xact';
\set VERBOSITY terse
\echo :LAST_ERROR_SQLSTATE
SELECT pg_temp.seen();
BEGIN;
SELECT pg_temp.insert(1, conpool.checkout('xact'));
SELECT conpool.checkin(lease) FROM conpool.leases WHERE pid = pg_backend_pid();
PREPARE TRANSACTION 'xact';
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.checkout('xact', 'session') AS lease \gset
BEGIN;
SELECT conpool.exec(:lease, 'SELECT 1'), conpool.exec('remote', 'SELECT 1');
PREPARE TRANSACTION 'xact';
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.checkin(:lease);
SELECT pg_temp.seen();
SELECT * FROM pg_temp.mine;

-- what is counted; and what was harmless needs no reset in the end
SELECT test.at_rest();
SELECT conpool.reset_stats();
BEGIN;
SELECT pg_temp.insert(1);
SAVEPOINT a;
SELECT pg_temp.insert(2);
ROLLBACK TO a;
SELECT pg_temp.insert(3);
COMMIT;
BEGIN;
SELECT pg_temp.insert(4);
ROLLBACK;
SELECT test.at_rest();
SELECT server, queries, query_errors, remote_commits, remote_rollbacks, remote_commits_unknown, resets, discarded
  FROM conpool.stat_pools WHERE server = 'xact' AND role = current_user AND database = current_database();
BEGIN;
SELECT conpool.exec('xact', 'SET work_mem = ''1MB''');
COMMIT;
BEGIN;
SELECT pg_temp.remote('1 / 0');
ROLLBACK;
BEGIN;
SELECT pg_temp.insert(5), pg_temp.insert(6, conpool.checkout('xact'));
COMMIT;
SELECT test.at_rest();
SELECT pg_temp.remote('current_setting(''work_mem'')') <> '1MB' AS reset;
SELECT server, queries, query_errors, remote_commits, remote_rollbacks, remote_commits_unknown, resets, discarded
  FROM conpool.stat_pools WHERE server = 'xact' AND role = current_user AND database = current_database();
SELECT queries, sum(calls) AS calls FROM conpool.stat_statements s JOIN conpool.stat_pools p USING (server, database, role)
 WHERE server = 'xact' AND role = current_user AND database = current_database() GROUP BY queries;

SELECT conpool.exec('remote', 'DROP TABLE xact');
SELECT test.at_rest();
SET client_min_messages = warning;
DROP SERVER xact CASCADE;
DROP SERVER xact_two CASCADE;
DROP ROLE regress_xact;
