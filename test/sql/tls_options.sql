-- Options for TLS that name files: who may give which.
SET client_min_messages = warning;
CREATE ROLE regress_tls_user;
GRANT USAGE ON SCHEMA conpool TO regress_tls_user;
GRANT USAGE ON FOREIGN DATA WRAPPER conpool TO regress_tls_user;

-- a key by way of an engine is a library that the server loads
SET ROLE regress_tls_user;
SELECT test.error_of($$SELECT * FROM conpool.query(
	'host=127.0.0.1 user=nobody password=none sslkey=/tmp/library:key', 'SELECT 1') AS t(a int)$$);
SELECT test.error_of($$SELECT * FROM conpool.query(
	'postgresql://nobody:none@127.0.0.1/none?sslkey=engine:key', 'SELECT 1') AS t(a int)$$);
CREATE SERVER tls_own FOREIGN DATA WRAPPER conpool OPTIONS (host '127.0.0.1');
SELECT test.error_of($$CREATE USER MAPPING FOR regress_tls_user SERVER tls_own
	OPTIONS (user 'nobody', password 'none', sslkey 'engine:key')$$);
RESET ROLE;

-- a superuser may say so on a mapping, but the host is its server's owner's
CREATE USER MAPPING FOR regress_tls_user SERVER tls_own
	OPTIONS (user 'nobody', password 'none', sslkey 'engine:key');
SET ROLE regress_tls_user;
SELECT test.error_of($$SELECT conpool.exec('tls_own', 'SELECT 1')$$);
RESET ROLE;

-- keys of TLS sessions are for no file
SELECT left(line, 5) AS sqlstate FROM test.error_of($$
	SELECT conpool.exec('host=127.0.0.1 sslkeylogfile=/tmp/keys', 'SELECT 1')$$) AS line LIMIT 1;
SELECT left(line, 5) AS sqlstate FROM test.error_of($$
	ALTER SERVER tls_own OPTIONS (ADD sslkeylogfile '/tmp/keys')$$) AS line LIMIT 1;

DROP SERVER tls_own CASCADE;
REVOKE USAGE ON SCHEMA conpool FROM regress_tls_user;
REVOKE USAGE ON FOREIGN DATA WRAPPER conpool FROM regress_tls_user;
DROP ROLE regress_tls_user;
