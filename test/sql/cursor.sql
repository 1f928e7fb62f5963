-- cursor_open(), cursor_fetch() and cursor_close(): a large result in pieces.
SELECT test.server('cursors', $$max_size '3'$$) AS done \gset
CREATE VIEW pg_temp.mine AS SELECT scope, count(*) FROM conpool.leases
 WHERE server = 'cursors' AND pid = pg_backend_pid() GROUP BY scope ORDER BY scope;
-- how many cursors the remote session of a lease has open
CREATE FUNCTION pg_temp.open_on(lease bigint) RETURNS bigint LANGUAGE sql AS
	$$ SELECT n FROM conpool.query(lease, 'SELECT count(*) FROM pg_cursors WHERE name LIKE ''conpool\_%''') AS t(n bigint) $$;
SELECT conpool.exec('cursors', 'CREATE TABLE cursors (a int)'), conpool.exec('cursors', 'INSERT INTO cursors VALUES (1)');

-- piece by piece; fewer rows are the end
BEGIN;
SELECT conpool.cursor_open('cursors', 'SELECT i, i * i FROM generate_series(1, 5) i') AS cursor \gset
SELECT * FROM conpool.cursor_fetch(:cursor, 2) AS t(i int, square int);
SELECT * FROM conpool.cursor_fetch(:cursor, 2) AS t(i bigint, square text);
SELECT * FROM conpool.cursor_fetch(:cursor, 2) AS t(i int, square int);
SELECT * FROM conpool.cursor_fetch(:cursor, 2) AS t(i int, square int);
-- it has a lease of its own, which goes with it
SELECT * FROM pg_temp.mine;
SELECT conpool.cursor_close(:cursor);
SELECT * FROM pg_temp.mine;
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :cursor));
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 1) AS t(i int)', :cursor));
COMMIT;

-- parameters; a comment at either end; two at a time
BEGIN;
SELECT conpool.cursor_open('cursors', 'SELECT $1 || i FROM generate_series(1, $2) i', 'x'::text, 3) AS one,
	conpool.cursor_open('cursors', E'-- first\nSELECT i FROM generate_series(1, 3) i -- last') AS two \gset
SELECT * FROM conpool.cursor_fetch(:one, 2) AS t(x text);
SELECT * FROM conpool.cursor_fetch(:two, 1) AS t(i int);
SELECT * FROM conpool.cursor_fetch(:one, 2) AS t(x text);
SELECT * FROM conpool.cursor_fetch(:two, 2147483647) AS t(i int);
SELECT * FROM pg_temp.mine;
COMMIT;
SELECT * FROM pg_temp.mine;
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :one));
SELECT test.error_of($$SELECT conpool.cursor_open('cursors', 'SELECT 1; DROP TABLE cursors')$$);
SELECT test.error_of($$SELECT conpool.cursor_open('cursors', 'DELETE FROM cursors')$$);
SELECT test.error_of($$SELECT conpool.cursor_open('cursors', 'SELECT nonsense')$$);
SELECT * FROM pg_temp.mine;

-- in a loop, with less than one row in hand
DO $$
DECLARE
	cursor bigint := conpool.cursor_open('cursors', 'SELECT i FROM generate_series(1, 1000) i');
	rows int;
	total bigint := 0;
	piece bigint;
BEGIN
	LOOP
		SELECT count(*), sum(i) INTO rows, piece FROM conpool.cursor_fetch(cursor, 64) AS t(i int);
		total := total + coalesce(piece, 0);
		EXIT WHEN rows < 64;
	END LOOP;
	PERFORM conpool.cursor_close(cursor);
	RAISE NOTICE 'total %', total;
END $$;

-- what it does is committed with it, or rolled back with the transaction
BEGIN;
SELECT conpool.exec('cursors', 'CREATE FUNCTION add_one() RETURNS int LANGUAGE sql AS
	''INSERT INTO cursors SELECT max(a) + 1 FROM cursors RETURNING a''');
SELECT conpool.cursor_open('cursors', 'SELECT add_one() FROM generate_series(1, 10)') AS cursor \gset
SELECT * FROM conpool.cursor_fetch(:cursor, 2) AS t(a int);
SELECT conpool.cursor_close(:cursor);
SELECT conpool.cursor_open('cursors', 'SELECT add_one() FROM generate_series(1, 10)') AS cursor \gset
SELECT * FROM conpool.cursor_fetch(:cursor, 2) AS t(a int);
ROLLBACK;
SELECT * FROM conpool.query('cursors', 'SELECT a FROM cursors ORDER BY a') AS t(a int);

-- a subtransaction that aborts takes its own along; one that commits hands them on
BEGIN;
SELECT conpool.cursor_open('cursors', 'SELECT * FROM generate_series(1, 5)') AS outermost \gset
SAVEPOINT s;
SELECT conpool.cursor_open('cursors', 'SELECT * FROM generate_series(1, 5)') AS inner_one \gset
SELECT * FROM conpool.cursor_fetch(:outermost, 1) AS t(i int);
ROLLBACK TO s;
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 1) AS t(i int)', :inner_one));
SELECT * FROM conpool.cursor_fetch(:outermost, 1) AS t(i int);
SELECT conpool.cursor_open('cursors', 'SELECT * FROM generate_series(1, 5)') AS inner_one \gset
RELEASE s;
SELECT * FROM conpool.cursor_fetch(:inner_one, 1) AS t(i int);
SELECT conpool.cursor_close(:inner_one);
-- an error that is handled leaves one that was there before
SELECT conpool.cursor_open('cursors', 'SELECT 10 / (3 - i) FROM generate_series(1, 5) i') AS failing \gset
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 5) AS t(i int)', :failing));
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 5) AS t(i int)', :failing));
SELECT conpool.cursor_close(:failing);
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 1) AS t(i date)', :outermost));
SELECT * FROM conpool.cursor_fetch(:outermost, 1) AS t(i int);
SELECT * FROM pg_temp.mine;
COMMIT;

-- pool_mode "transaction": on the lease that all share
SET conpool.pool_mode = 'transaction';
BEGIN;
SELECT conpool.exec('cursors', 'INSERT INTO cursors VALUES (100)');
SELECT conpool.cursor_open('cursors', 'SELECT a FROM cursors WHERE a >= 100') AS one,
	conpool.cursor_open('cursors', 'SELECT * FROM generate_series(1, 5)') AS two \gset
SELECT * FROM pg_temp.mine;
SELECT * FROM conpool.cursor_fetch(:one, 5) AS t(a int);
SELECT * FROM conpool.query('cursors', 'SELECT count(*) FROM pg_cursors WHERE name LIKE ''conpool\_%''') AS t(n int);
SELECT conpool.cursor_close(:one);
SELECT * FROM conpool.query('cursors', 'SELECT count(*) FROM pg_cursors WHERE name LIKE ''conpool\_%''') AS t(n int);
SAVEPOINT s;
SELECT conpool.cursor_open('cursors', 'SELECT * FROM generate_series(1, 5)') AS three \gset
SELECT * FROM conpool.cursor_fetch(:three, 1) AS t(i int);
ROLLBACK TO s;
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 1) AS t(i int)', :three));
SELECT * FROM conpool.cursor_fetch(:two, 1) AS t(i int);
-- while a request is under way there its connection is busy
SELECT conpool.send('cursors', 'SELECT 1') AS request \gset
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 1) AS t(i int)', :two));
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :two));
SELECT * FROM conpool.result(:request) AS t(n int);
SELECT * FROM conpool.cursor_fetch(:two, 1) AS t(i int);
ROLLBACK;
RESET conpool.pool_mode;
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :two));
SELECT * FROM pg_temp.mine;

-- on a lease of scope transaction
BEGIN;
SELECT conpool.checkout('cursors') AS lease \gset
SELECT conpool.cursor_open(:lease, 'SELECT * FROM generate_series(1, $1)', 5) AS cursor \gset
SELECT * FROM conpool.cursor_fetch(:cursor, 2) AS t(i int);
SELECT pg_temp.open_on(:lease);
SELECT conpool.cursor_close(:cursor);
SELECT pg_temp.open_on(:lease);
SELECT conpool.cursor_open(:lease, 'SELECT * FROM generate_series(1, 5)') AS cursor \gset
SELECT conpool.checkin(:lease);
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 1) AS t(i int)', :cursor));
COMMIT;

-- of scope session: in a transaction that was begun there, whatever happens here
SELECT conpool.checkout('cursors', 'session') AS lease \gset
SELECT test.error_of(format('SELECT conpool.cursor_open(%s, ''SELECT 1'')', :lease));
SELECT conpool.exec(:lease, 'BEGIN');
BEGIN;
SELECT conpool.cursor_open(:lease, 'SELECT * FROM generate_series(1, 5)') AS cursor \gset
ROLLBACK;
SELECT * FROM conpool.cursor_fetch(:cursor, 2) AS t(i int);
SELECT pg_temp.open_on(:lease);
SELECT * FROM conpool.cursor_fetch(:cursor, 2) AS t(i int);
SELECT conpool.exec(:lease, 'COMMIT');
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 1) AS t(i int)', :cursor));
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :cursor));
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :cursor));
SELECT conpool.exec(:lease, 'BEGIN');
SELECT conpool.cursor_open(:lease, 'SELECT 1') AS cursor \gset
SELECT conpool.exec(:lease, 'ROLLBACK'), conpool.checkin(:lease);
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :cursor));
-- of scope statement: in none
BEGIN;
SELECT conpool.checkout('cursors', 'statement') AS lease \gset
SELECT test.error_of(format('SELECT conpool.cursor_open(%s, ''SELECT 1'')', :lease));
ROLLBACK;

-- whose connection was lost
BEGIN;
SELECT conpool.checkout('cursors') AS lease \gset
SELECT conpool.cursor_open(:lease, 'SELECT 1') AS cursor \gset
SAVEPOINT s;
SELECT conpool.exec(:lease, 'SELECT pg_terminate_backend(pg_backend_pid())');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 1) AS t(i int)', :cursor));
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :cursor));
ROLLBACK;
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :cursor));

-- for the role that opened it
CREATE ROLE regress_cursor;
BEGIN;
SELECT conpool.cursor_open('cursors', 'SELECT 1') AS cursor \gset
SET LOCAL ROLE regress_cursor;
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 1) AS t(i int)', :cursor));
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :cursor));
RESET ROLE;
SELECT * FROM conpool.cursor_fetch(:cursor, 1) AS t(i int);

-- other numbers, and none
SELECT conpool.checkout('cursors') AS lease \gset
SELECT conpool.send('cursors', 'SELECT 1') AS request \gset
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 1) AS t(i int)', :lease));
SELECT test.error_of(format('SELECT conpool.cursor_close(%s)', :request));
SELECT test.error_of(format('SELECT conpool.checkin(%s)', :cursor));
SELECT test.error_of(format('SELECT conpool.cancel(%s)', :cursor));
SELECT test.error_of('SELECT conpool.cursor_close(-1)');
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, 0) AS t(i int)', :cursor));
SELECT test.error_of(format('SELECT * FROM conpool.cursor_fetch(%s, NULL) AS t(i int)', :cursor));
SELECT test.error_of('SELECT * FROM conpool.cursor_fetch(NULL, 1) AS t(i int)');
SELECT test.error_of('SELECT conpool.cursor_close(NULL)');
SELECT test.error_of($$SELECT conpool.cursor_open(NULL::text, 'SELECT 1')$$);
SELECT test.error_of($$SELECT conpool.cursor_open(NULL::bigint, 'SELECT 1')$$);
SELECT test.error_of($$SELECT conpool.cursor_open('cursors', NULL)$$);
SELECT conpool.cancel(:request);
COMMIT;

SELECT conpool.exec('cursors', 'DROP TABLE cursors CASCADE'), conpool.exec('cursors', 'DROP FUNCTION add_one');
SELECT test.at_rest();
DROP ROLE regress_cursor;
DROP SERVER cursors CASCADE;
