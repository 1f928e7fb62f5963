-- exec(): runs a statement and returns its command tag.
SELECT conpool.exec('remote', 'CREATE TABLE part (id int, name text)');
SELECT conpool.exec('remote', 'INSERT INTO part VALUES ($1, $2), ($1 + 1, $3)', 1, 'one', NULL);
SELECT conpool.exec('remote', 'INSERT INTO part SELECT 3, ''three'' RETURNING id');
SELECT conpool.exec('remote', 'UPDATE part SET name = upper(name) WHERE id > $1', 1);
SELECT conpool.exec('remote', 'MERGE INTO part USING (SELECT 2) s ON false WHEN MATCHED THEN DELETE');
SELECT conpool.exec('remote', 'DELETE FROM part WHERE id = 2');
SELECT conpool.exec('remote', 'SELECT * FROM part');
SELECT conpool.exec('remote', 'VACUUM part');
SELECT conpool.exec('remote', '') = '' AS empty;
SELECT * FROM conpool.query('remote', 'TABLE part ORDER BY id') AS t(id int, name text);

-- what it did is not undone by a local rollback
BEGIN;
SELECT conpool.exec('remote', 'INSERT INTO part VALUES (4, ''four'')');
ROLLBACK;
SELECT * FROM conpool.query('remote', 'SELECT count(*) FROM part') AS t(count int);

-- once for each row
SELECT count(conpool.exec('remote', 'INSERT INTO part VALUES ($1)', g)) FROM generate_series(11, 15) g;

-- on a lease
SELECT conpool.checkout('remote', 'session') AS lease \gset
SELECT conpool.exec(:lease, 'DELETE FROM part WHERE id > $1', 10);
SELECT conpool.exec(:lease, 'DROP TABLE part');
SELECT conpool.checkin(:lease);

SELECT test.at_rest();
