-- send(), is_ready(), wait_any(), result() and cancel(): statements that go on
-- remotely while the session does something else.
SELECT test.server('async', $$max_size '3'$$) AS done \gset
CREATE VIEW pg_temp.mine AS SELECT scope, count(*) FROM conpool.leases
 WHERE server = 'async' AND pid = pg_backend_pid() GROUP BY scope ORDER BY scope;
-- what a request waits for while "gate", a session of its own, has it locked
SELECT conpool.checkout('remote_admin', 'session') AS gate \gset
SELECT conpool.exec(:gate, 'SELECT pg_advisory_lock(6001)');
\set wait '''SELECT 7 FROM pg_advisory_xact_lock_shared(6001)'''

-- there and back; with parameters, and as the types that are asked for
SELECT t.* FROM conpool.send('async', 'SELECT 1') AS request, conpool.result(request) AS t(n int);
SELECT t.* FROM conpool.send('async', 'SELECT $1 + 1, $2', 41, 'x'::text) AS request,
	conpool.result(request) AS t(n bigint, x text);
SELECT t.* FROM conpool.send('async', 'SELECT $1', VARIADIC ARRAY['a', 'b']) AS request,
	conpool.result(request) AS t(x text);
SELECT t.* FROM conpool.send('async', 'SELECT 1; SELECT 2 WHERE false; SELECT 3') AS request,
	conpool.result(request) AS t(n int);
SELECT t.* FROM conpool.send('async', 'CREATE TEMP TABLE t (a int)') AS request,
	conpool.result(request) AS t(n int);

-- many at once, read in any order; each gives its connection back
BEGIN;
SELECT conpool.send('async', 'SELECT 1') AS one, conpool.send('async', 'SELECT 2') AS two,
	conpool.send('async', 'SELECT 3') AS three \gset
SELECT * FROM pg_temp.mine;
SELECT * FROM conpool.result(:three) AS t(n int);
SELECT * FROM conpool.result(:one) AS t(n int);
SELECT * FROM pg_temp.mine;
SELECT * FROM conpool.result(:two) AS t(n int);
SELECT * FROM pg_temp.mine;
-- once; after that the number stands for nothing
SELECT test.error_of(format('SELECT * FROM conpool.result(%s) AS t(n int)', :two));
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :two));
SELECT test.error_of(format('SELECT conpool.wait_any(ARRAY[%s])', :two));
SELECT test.error_of(format('SELECT conpool.cancel(%s)', :two));
COMMIT;

-- ready, or not
BEGIN;
SELECT conpool.send('async', :wait) AS slow, conpool.send('async', 'SELECT 1') AS one,
	conpool.send('async', 'SELECT 1 / 0') AS bad \gset
SELECT conpool.wait_any(ARRAY[:slow, :one]) = :one AS one;
SELECT conpool.wait_any(ARRAY[:bad]) = :bad AS bad;
SELECT conpool.is_ready(:slow) AS slow, conpool.is_ready(:one) AS one, conpool.is_ready(:bad) AS bad;
-- of those that are, the first in the array
SELECT conpool.wait_any(ARRAY[:one, :bad]) = :one AS one, conpool.wait_any(ARRAY[:bad, :one]) = :bad AS bad,
	conpool.wait_any(ARRAY[:slow, :slow, :bad, :one, :bad]) = :bad AS bad,
	conpool.wait_any(ARRAY[[:slow, :one], [:one, :bad]]) = :one AS one;
SELECT conpool.wait_any(ARRAY[:slow, :slow], '0'), conpool.wait_any(ARRAY[:slow], '20 ms'),
	conpool.wait_any('{}'), conpool.wait_any('{}', '1 hour');
SELECT conpool.exec(:gate, 'SELECT pg_advisory_unlock(6001)');
SELECT conpool.wait_any(ARRAY[:slow]) = :slow AS slow, conpool.wait_any(ARRAY[:slow], '1 hour') = :slow AS slow,
	conpool.is_ready(:slow);
SELECT * FROM conpool.result(:slow) AS t(n int);
SELECT conpool.exec(:gate, 'SELECT pg_advisory_lock(6001)');

-- an error comes out of result(), which ends the request
SAVEPOINT s;
SELECT * FROM conpool.result(:bad) AS t(n int);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT test.error_of(format('SELECT * FROM conpool.result(%s) AS t(n int)', :bad));
SELECT * FROM conpool.result(:one) AS t(n int);
SELECT * FROM pg_temp.mine;
COMMIT;
-- also one after rows, one of ours, and of what cannot be sent at all
BEGIN;
SELECT conpool.send('async', 'SELECT 10 / (3 - i) FROM generate_series(1, 5) i') AS bad,
	conpool.send('async', 'SELECT ''x''') AS not_int, conpool.send('async', 'COPY (SELECT 1) TO STDOUT') AS copy \gset
SELECT test.error_of(format('SELECT * FROM conpool.result(%s) AS t(n int)', :copy));
SELECT test.error_of(format('SELECT * FROM conpool.result(%s) AS t(n int)', :not_int));
SELECT test.error_of(format('SELECT * FROM conpool.result(%s) AS t(n int)', :bad));
SELECT * FROM pg_temp.mine;
-- a function that handles it goes on
DO $$
DECLARE
	requests bigint[];
	request bigint;
	total bigint := 0;
	failures int := 0;
BEGIN
	FOR round IN 1 .. 20 LOOP
		requests := ARRAY[conpool.send('async', 'SELECT $1', round), conpool.send('async', 'SELECT $1 / ($1 % 2)', round)];
		WHILE cardinality(requests) > 0 LOOP
			request := conpool.wait_any(requests);
			requests := array_remove(requests, request);
			BEGIN
				total := total + (SELECT n FROM conpool.result(request) AS t(n int));
			EXCEPTION WHEN division_by_zero THEN
				failures := failures + 1;
			END;
		END LOOP;
	END LOOP;
	RAISE NOTICE 'total %, failures %', total, failures;
END $$;
SELECT * FROM pg_temp.mine;
COMMIT;

-- cancel() ends it, whatever it is doing
BEGIN;
SELECT conpool.send('async', :wait) AS slow, conpool.send('async', 'SELECT 1') AS one \gset
SELECT conpool.cancel(:slow);
SELECT conpool.wait_any(ARRAY[:one]) = :one AS one;
SELECT conpool.cancel(:one);
SELECT * FROM pg_temp.mine;
SELECT test.error_of(format('SELECT conpool.cancel(%s)', :slow));
COMMIT;
SELECT test.at_rest() FROM conpool.checkin(:gate);
SELECT conpool.checkout('remote_admin', 'session') AS gate \gset
SELECT conpool.exec(:gate, 'SELECT pg_advisory_lock(6001)');
SELECT * FROM conpool.query(:gate, $$SELECT count(*) FROM pg_stat_activity
	WHERE usename = 'regress_remote' AND state <> 'idle' AND query LIKE '%6001%'$$) AS t(running int);

-- what is unread when the transaction ends is stopped, with a warning if it commits
BEGIN;
SELECT conpool.send('async', :wait) > 0 AS sent;
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
SELECT * FROM pg_temp.mine;
BEGIN;
SELECT conpool.send('async', :wait) AS slow \gset
ROLLBACK;
SELECT * FROM pg_temp.mine;
SELECT test.error_of(format('SELECT conpool.cancel(%s)', :slow));
-- so is what a subtransaction sent that aborts, and nothing else
BEGIN;
SELECT conpool.send('async', 'SELECT 1') AS outer_one \gset
SAVEPOINT s;
SELECT conpool.send('async', :wait) AS slow \gset
SAVEPOINT t;
SELECT conpool.send('async', 'SELECT 3') AS inherited \gset
RELEASE t;
ROLLBACK TO s;
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :slow));
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :inherited));
SELECT * FROM pg_temp.mine;
SELECT conpool.send('async', 'SELECT 4') AS inherited \gset
RELEASE s;
SELECT * FROM conpool.result(:inherited) AS t(n int);
SELECT * FROM conpool.result(:outer_one) AS t(n int);
COMMIT;
-- and what one was waiting for when it was interrupted
BEGIN;
SELECT conpool.send('async', :wait) AS slow, conpool.send('async', 'SELECT 1') AS one \gset
SAVEPOINT s;
SET LOCAL statement_timeout = '50 ms';
SELECT * FROM conpool.result(:slow) AS t(n int);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :slow));
SELECT * FROM conpool.result(:one) AS t(n int);
SELECT conpool.send('async', :wait) AS slow \gset
SAVEPOINT s;
SET LOCAL statement_timeout = '50 ms';
SELECT conpool.wait_any(ARRAY[:slow]);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT conpool.is_ready(:slow);
SELECT conpool.cancel(:slow);
COMMIT;

-- a lease is busy until its request has ended
SELECT conpool.checkout('async', 'session') AS lease \gset
SELECT conpool.exec(:lease, 'SET work_mem = ''1MB''');
SELECT conpool.send(:lease, 'SELECT current_setting(''work_mem'') FROM pg_advisory_xact_lock_shared(6001)') AS request \gset
SELECT test.error_of(format('SELECT conpool.exec(%s, ''SELECT 1'')', :lease));
SELECT test.error_of(format('SELECT conpool.send(%s, ''SELECT 1'')', :lease));
SELECT test.error_of(format('SELECT conpool.checkin(%s)', :lease));
-- one of scope session goes on over transactions, good and bad
BEGIN;
SELECT 1 / 0;
ROLLBACK;
SELECT conpool.is_ready(:request);
SELECT conpool.exec(:gate, 'SELECT pg_advisory_unlock(6001)');
SELECT * FROM conpool.result(:request) AS t(work_mem text);
SELECT conpool.exec(:gate, 'SELECT pg_advisory_lock(6001)');
SELECT conpool.exec(:lease, 'SELECT 1');
-- but not over the end of the one that sent it, if that is bad
BEGIN;
SELECT conpool.send(:lease, :wait) AS request \gset
ROLLBACK;
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :request));
SELECT * FROM conpool.query(:lease, 'SHOW work_mem') AS t(work_mem text);
BEGIN;
SAVEPOINT s;
SELECT conpool.send(:lease, :wait) AS request \gset
ROLLBACK TO s;
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :request));
SELECT conpool.send(:lease, :wait) AS request \gset
COMMIT;
SELECT conpool.is_ready(:request);
-- it is fit for use after an error, and after cancel()
SELECT conpool.cancel(:request);
SELECT conpool.send(:lease, 'SELECT 1 / 0') AS request \gset
SELECT test.error_of(format('SELECT * FROM conpool.result(%s) AS t(n int)', :request));
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :request));
SELECT * FROM conpool.query(:lease, 'SHOW work_mem') AS t(work_mem text);
SELECT * FROM pg_temp.mine;
SELECT conpool.checkin(:lease);
-- scope statement: given back with the request
BEGIN;
SELECT conpool.checkout('async', 'statement') AS lease \gset
SELECT conpool.send(:lease, 'SELECT 1') AS request \gset
SELECT * FROM pg_temp.mine;
SELECT * FROM conpool.result(:request) AS t(n int);
SELECT * FROM pg_temp.mine;
COMMIT;
-- DISCARD ALL
SELECT conpool.checkout('async', 'session') AS lease \gset
SELECT conpool.send(:lease, :wait) AS request \gset
SELECT conpool.checkout('remote_admin', 'session') AS gate_two \gset
DISCARD ALL;
SELECT test.at_rest();
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :request));
SELECT conpool.checkout('remote_admin', 'session') AS gate \gset
SELECT conpool.exec(:gate, 'SELECT pg_advisory_lock(6001)');
CREATE VIEW pg_temp.mine AS SELECT scope, count(*) FROM conpool.leases
 WHERE server = 'async' AND pid = pg_backend_pid() GROUP BY scope ORDER BY scope;

-- scope transaction: the request is part of the remote transaction, and read to its
-- end before that is committed
SELECT conpool.exec('async', 'CREATE TABLE async (a int PRIMARY KEY)');
BEGIN;
SELECT conpool.checkout('async') AS lease \gset
SELECT conpool.send(:lease, 'INSERT INTO async VALUES (1)') > 0 AS sent;
COMMIT;
SELECT * FROM conpool.query('async', 'SELECT a FROM async') AS t(a int);
BEGIN;
SELECT conpool.checkout('async') AS lease \gset
SELECT conpool.send(:lease, 'INSERT INTO async VALUES (2)') > 0 AS sent;
ROLLBACK;
BEGIN;
SELECT conpool.checkout('async') AS lease \gset
SELECT conpool.exec(:lease, 'INSERT INTO async VALUES (3)');
SELECT conpool.send(:lease, 'INSERT INTO async VALUES (1)') > 0 AS sent;
COMMIT;
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('async', 'SELECT a FROM async') AS t(a int);
-- pool_mode: a server's shared lease is busy, too
SET conpool.pool_mode = 'transaction';
BEGIN;
SELECT conpool.send('async', 'INSERT INTO async VALUES (4) RETURNING a') AS request \gset
SELECT test.error_of($$SELECT conpool.exec('async', 'SELECT 1')$$);
SELECT * FROM conpool.result(:request) AS t(a int);
SELECT conpool.exec('async', 'INSERT INTO async VALUES (5)');
SELECT * FROM pg_temp.mine;
COMMIT;
RESET conpool.pool_mode;
SELECT * FROM conpool.query('async', 'SELECT a FROM async') AS t(a int);

-- more than the pool can have at once
BEGIN;
SELECT conpool.send('async', 'SELECT 1') AS one, conpool.send('async', 'SELECT 2') AS two,
	conpool.send('async', 'SELECT 3') AS three \gset
SELECT test.error_of($$SELECT conpool.send('async', 'SELECT 4')$$);
SELECT * FROM conpool.result(:one) AS t(n int);
SELECT conpool.send('async', 'SELECT 4') AS four \gset
SELECT t.* FROM unnest(ARRAY[:four, :three, :two]) AS request, conpool.result(request) AS t(n int);
COMMIT;

-- whose connection is lost
BEGIN;
SELECT conpool.send('async', 'SELECT pg_terminate_backend(pg_backend_pid())') AS request \gset
SELECT conpool.wait_any(ARRAY[:request]) = :request AS request;
SELECT test.error_of(format('SELECT * FROM conpool.result(%s) AS t(n bool)', :request));
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :request));
SELECT * FROM pg_temp.mine;
COMMIT;

-- for the role that sent it
CREATE ROLE regress_async;
GRANT USAGE ON FOREIGN SERVER async TO regress_async;
BEGIN;
SELECT conpool.send('async', 'SELECT 1') AS one \gset
SET LOCAL ROLE regress_async;
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :one));
SELECT test.error_of(format('SELECT conpool.wait_any(ARRAY[%s])', :one));
SELECT test.error_of(format('SELECT * FROM conpool.result(%s) AS t(n int)', :one));
SELECT test.error_of(format('SELECT conpool.cancel(%s)', :one));
RESET ROLE;
SELECT * FROM conpool.result(:one) AS t(n int);
COMMIT;

-- other numbers, and none
BEGIN;
SELECT conpool.checkout('async') AS lease \gset
SELECT conpool.send('async', 'SELECT 1') AS request \gset
SELECT test.error_of(format('SELECT conpool.is_ready(%s)', :lease));
SELECT test.error_of(format('SELECT conpool.wait_any(ARRAY[%s, %s])', :request, :lease));
SELECT test.error_of(format('SELECT * FROM conpool.result(%s) AS t(n int)', :lease));
SELECT test.error_of(format('SELECT conpool.cancel(%s)', :lease));
SELECT test.error_of(format('SELECT conpool.exec(%s, ''SELECT 1'')', :request));
SELECT test.error_of(format('SELECT conpool.checkin(%s)', :request));
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :request));
SELECT test.error_of('SELECT conpool.is_ready(-1)');
SELECT conpool.cancel(:request);
ROLLBACK;
SELECT test.error_of($$SELECT conpool.send(NULL::text, 'SELECT 1')$$);
SELECT test.error_of($$SELECT conpool.send('async', NULL)$$);
SELECT test.error_of($$SELECT conpool.send(NULL::bigint, 'SELECT 1')$$);
SELECT test.error_of('SELECT conpool.is_ready(NULL)');
SELECT test.error_of('SELECT conpool.wait_any(NULL)');
SELECT test.error_of('SELECT conpool.wait_any(ARRAY[1, NULL]::bigint[])');
SELECT test.error_of('SELECT conpool.wait_any(ARRAY[1])');
SELECT test.error_of('SELECT conpool.wait_any(ARRAY[1], ''-1 s'')');
SELECT test.error_of('SELECT * FROM conpool.result(NULL) AS t(n int)');
SELECT test.error_of('SELECT conpool.cancel(NULL)');
SELECT test.error_of('SELECT conpool.notifications(NULL)');

-- nobody ends a request while its rows are being read
CREATE FUNCTION pg_temp.meddle() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM conpool.cancel(current_setting('test.request')::bigint);
	RETURN true;
END $$;
CREATE DOMAIN pg_temp.meddling AS int CHECK (pg_temp.meddle());
BEGIN;
SELECT conpool.send('async', 'SELECT 1') AS one \gset
SELECT conpool.send('async', 'SELECT * FROM generate_series(1, 3)') AS two \gset
SELECT set_config('test.request', :'two', true) = :'two' AS set;
SELECT test.error_of(format('SELECT * FROM conpool.result(%s) AS t(n pg_temp.meddling)', :two));
SELECT * FROM conpool.result(:one) AS t(n int);
SELECT * FROM pg_temp.mine;
COMMIT;

-- notifications of a lease: what has come so far
SELECT conpool.checkout('async', 'session') AS lease \gset
SELECT * FROM conpool.notifications(:lease);
SELECT conpool.exec(:lease, 'LISTEN news'), conpool.exec(:lease, 'LISTEN "other news"');
SELECT conpool.exec(:gate, 'NOTIFY news, ''first''');
SELECT conpool.exec(:gate, 'NOTIFY "other news"');
SELECT conpool.exec(:gate, 'SELECT pg_notify(''nobody listens'', ''x'')');
-- a round trip, for they come between two statements
SELECT conpool.exec(:lease, 'SELECT 1');
SELECT channel, payload, pid = remote_pid AS pid FROM conpool.notifications(:lease),
	conpool.query(:gate, 'SELECT pg_backend_pid()') AS t(remote_pid int);
SELECT * FROM conpool.notifications(:lease);
-- and without one
SELECT conpool.exec(:gate, 'NOTIFY news, ''üçñ''');
SELECT test.wait_until(format('EXISTS (SELECT FROM conpool.notifications(%s) WHERE payload = ''üçñ'')', :lease));
-- not while a request is under way
SELECT conpool.send(:lease, 'SELECT 1') AS request \gset
SELECT test.error_of(format('SELECT conpool.notifications(%s)', :lease));
SELECT conpool.cancel(:request);
SELECT test.error_of('SELECT conpool.notifications(-1)');
SET ROLE regress_async;
SELECT test.error_of(format('SELECT conpool.notifications(%s)', :lease));
RESET ROLE;
-- a connection that has listened is not for others
SELECT pid FROM conpool.query(:lease, 'SELECT pg_backend_pid()') AS t(pid int) \gset
SELECT conpool.checkin(:lease);
SELECT test.wait_until('(SELECT leased + closing = 0 FROM conpool.pools
	WHERE server = ''async'' AND database = current_database())');
SELECT count(*) FROM conpool.connections WHERE server = 'async' AND remote_pid = :pid;
-- one that was lost meanwhile
SELECT conpool.checkout('async', 'session') AS lease \gset
SELECT pid FROM conpool.query(:lease, 'SELECT pg_backend_pid()') AS t(pid int) \gset
SELECT * FROM conpool.query(:gate, format('SELECT pg_terminate_backend(%s, 20000)', :pid)) AS t(gone bool);
SELECT test.error_of(format('SELECT test.wait_until(''EXISTS (SELECT FROM conpool.notifications(%s))'')', :lease))
 LIMIT 1;
SELECT test.error_of(format('SELECT conpool.notifications(%s)', :lease));
SELECT conpool.checkin(:lease), conpool.checkin(:gate);

SELECT conpool.exec('async', 'DROP TABLE async');
SELECT test.at_rest();
REVOKE USAGE ON FOREIGN SERVER async FROM regress_async;
DROP ROLE regress_async;
DROP SERVER async CASCADE;
