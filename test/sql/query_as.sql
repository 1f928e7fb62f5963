-- query_as(): rows of a type that is known here, columns by name.
CREATE TYPE item AS (id int, name text, price numeric(6,2));
SELECT * FROM conpool.query_as(NULL::item, 'remote', 'SELECT 9.999 AS price, 1 AS id, ''bolt'' AS name, 0 AS more');
SELECT i.name FROM conpool.query_as(NULL::item, 'remote',
	'SELECT $1 AS id, $2 AS name, NULL AS price', 2, 'nut') AS i;
SELECT (conpool.query_as(NULL::item, 'remote', 'SELECT g AS id, ''n'' || g AS name, g AS price
	FROM generate_series(1, 2) g')).*;

-- the first argument only gives the type
SELECT * FROM conpool.query_as(ROW(7, 'seven', 7)::item, 'remote', 'SELECT 1 AS id, NULL AS name, 1 AS price');

-- a table, with a dropped column and capitals
CREATE TABLE stock (gone int, "Id" int, name varchar(3));
ALTER TABLE stock DROP COLUMN gone;
ALTER TABLE stock ADD COLUMN amount int DEFAULT 5;
INSERT INTO stock SELECT * FROM conpool.query_as(NULL::stock, 'remote', 'SELECT ''abc'' AS name, 3 AS "Id", NULL AS amount');
SELECT * FROM stock;

-- each column must be there
SELECT * FROM conpool.query_as(NULL::item, 'remote', 'SELECT 1 AS id, ''x'' AS "Name", 2 AS price');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query_as(NULL::stock, 'remote', 'SELECT 1 AS "Id", ''abcd'' AS name, 1 AS amount');
\echo :LAST_ERROR_SQLSTATE

-- scalars: one column of any name
SELECT conpool.query_as(NULL::bigint, 'remote', 'SELECT generate_series(1, 3)');
SELECT * FROM conpool.query_as(NULL::text[], 'remote', 'SELECT ''{a,NULL}''');
SELECT * FROM conpool.query_as(NULL::int, 'remote', 'SELECT 1, 2');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query_as(NULL, 'remote', 'SELECT 1');

-- domains are checked, over a scalar and over a composite type
CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0);
CREATE DOMAIN cheap AS item CHECK ((VALUE).price < 10);
SELECT conpool.query_as(NULL::text, 'remote', 'SELECT 1') AS text, p FROM conpool.query_as(5::positive, 'remote', 'SELECT 1') AS p;
SELECT conpool.query_as(5::positive, 'remote', 'SELECT 0');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.query_as(5::positive, 'remote', 'SELECT NULL');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query_as(NULL::cheap, 'remote', 'SELECT 1 AS id, ''x'' AS name, 9 AS price');
SELECT * FROM conpool.query_as(NULL::cheap, 'remote', 'SELECT 1 AS id, ''x'' AS name, 11 AS price');
\echo :LAST_ERROR_SQLSTATE

-- on a lease
SELECT conpool.checkout('remote', 'session') AS lease \gset
SELECT * FROM conpool.query_as(NULL::item, :lease, 'SELECT 1 AS id, ''x'' AS name, 2 AS price');
SELECT * FROM conpool.query_as(NULL::int, :lease, 'SELECT $1', 3);
SELECT conpool.checkin(:lease);

DROP DOMAIN positive, cheap;
DROP TABLE stock;
DROP TYPE item;
SELECT test.at_rest();
