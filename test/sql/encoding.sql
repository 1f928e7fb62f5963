-- The local database and the remote one may differ in their encodings.
SELECT host, port, current_database() AS test_database FROM test.remote \gset
CREATE DATABASE regress_latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
\c regress_latin1
SET client_encoding = 'UTF8';
CREATE EXTENSION conpool;
CREATE SERVER remote FOREIGN DATA WRAPPER conpool
	OPTIONS (host :'host', port :'port', dbname 'conpool_remote');
CREATE USER MAPPING FOR CURRENT_USER SERVER remote
	OPTIONS (user 'regress_remote', password 'remote-secret');

-- arguments, the statement itself, rows, names of columns
SELECT * FROM conpool.query('remote',
	'SELECT $1, octet_length($1), ''ü'', octet_length(''ü''), current_setting(''client_encoding'')', 'naïve'::text)
	AS t(argument text, octets int, literal text, octets_too int, client_encoding text);
SELECT * FROM conpool.query_json('remote', 'SELECT $1 AS "ä"', 'é'::text);
SELECT octet_length(value) FROM conpool.query('remote', 'SELECT ''ä''') AS t(value text);

-- texts of errors and notices
SELECT conpool.exec('remote', 'SELECT "größe"');
SELECT conpool.exec('remote', $$DO 'BEGIN RAISE NOTICE ''größer''; END'$$);

-- what LATIN1 does not have: an error of the remote's, and life goes on
SELECT * FROM conpool.query('remote', 'SELECT chr(8364)') AS t(euro text);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM conpool.query('remote', 'SELECT ''fine''') AS t(a text);
SELECT queries, query_errors, discarded FROM conpool.stat_pools
 WHERE database = current_database();

\c :test_database
DROP DATABASE regress_latin1;
