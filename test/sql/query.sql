-- query(): rows of a remote statement, columns by position.
SELECT * FROM conpool.query('remote', 'SELECT 1, ''one''') AS t(id int, name text);
SELECT * FROM conpool.query('remote', 'SELECT $1 + 1, upper($2)', 41, 'two'::text)
	AS t(a int, b text);

-- names do not matter, the declared types do
SELECT * FROM conpool.query('remote', 'SELECT 7 AS x, ''8'' AS y') AS t(y numeric(4,2), x int);

-- the two sides are joined; a call for each row of the local table
CREATE TABLE word (id int, word text);
INSERT INTO word VALUES (1, 'uno'), (2, 'due'), (3, 'tre');
SELECT w.word, r.square
  FROM word w,
	   conpool.query('remote', 'SELECT g, g * g FROM generate_series(1, 3) g')
	   AS r(id int, square int)
 WHERE r.id = w.id ORDER BY w.id;
SELECT w.word, r.again
  FROM word w, conpool.query('remote', 'SELECT repeat($1, $2)', w.word, w.id) AS r(again text)
 ORDER BY w.id;
DROP TABLE word;

-- in a cursor that goes backwards
BEGIN;
DECLARE c SCROLL CURSOR FOR
	SELECT * FROM conpool.query('remote', 'SELECT generate_series(1, 5)') AS t(n int);
MOVE LAST c;
FETCH BACKWARD 2 FROM c;
COMMIT;

-- the same connection every time, for all who call
SELECT test.server('query');
SELECT count(DISTINCT pid) FROM generate_series(1, 5) g,
	conpool.query('query', 'SELECT pg_backend_pid(), $1', g) AS t(pid int, n int);
SELECT size, idle, leased FROM conpool.pools
 WHERE server = 'query' AND database = current_database();

-- and always the application name that says whom it serves
SELECT replace(name, current_database(), 'DATABASE') AS name
  FROM conpool.query('remote', 'SHOW application_name') AS t(name text);

-- a column definition list is needed, in FROM
SELECT conpool.query('remote', 'SELECT 1');
SELECT * FROM conpool.query('remote', 'SELECT 1');

-- none of the functions skips a call because an argument is NULL
SELECT * FROM conpool.query(NULL::text, 'SELECT 1') AS t(a int);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('remote', NULL) AS t(a int);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('remote', NULL, 1) AS t(a int);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query(NULL::bigint, 'SELECT 1') AS t(a int);
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec(NULL::text, 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.query_json('remote', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.query_as(NULL::int, NULL::text, 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE

SELECT test.at_rest();
DROP SERVER query CASCADE;
