-- What the validator of the foreign data wrapper takes and what it refuses.
CREATE SERVER plain FOREIGN DATA WRAPPER conpool;
DROP SERVER plain;
CREATE SERVER full_server FOREIGN DATA WRAPPER conpool OPTIONS (host 'db1', port '5432', dbname 'orders',
	sslmode 'prefer', application_name 'a', options '-c work_mem=1MB', keepalives_idle '5',
	max_size '5', max_waiters '0', connect_concurrency '1', checkout_timeout '1500ms', connect_timeout '5',
	leak_threshold '1h', pool_mode 'transaction', reset 'always');
CREATE USER MAPPING FOR PUBLIC SERVER full_server OPTIONS (user 'app', password 'secret', password_required 'false',
	sslkey 'k', sslcert 'c', sslpassword 'p', max_size '7', max_waiters '-1', connect_concurrency '3');

-- durations have a unit, except 0; in connect_timeout a bare number is seconds
ALTER SERVER full_server OPTIONS (SET checkout_timeout '2min', SET leak_threshold '0', SET connect_timeout '250ms');
ALTER SERVER full_server OPTIONS (SET checkout_timeout '1.5 s', SET connect_timeout '0.5');
ALTER SERVER full_server OPTIONS (SET checkout_timeout '30');
ALTER SERVER full_server OPTIONS (SET leak_threshold '5 fortnights');
ALTER SERVER full_server OPTIONS (SET checkout_timeout '-1s');
ALTER SERVER full_server OPTIONS (SET checkout_timeout '1000d');
ALTER SERVER full_server OPTIONS (SET checkout_timeout '');
ALTER SERVER full_server OPTIONS (SET connect_timeout 'soon');
\echo :LAST_ERROR_SQLSTATE

-- numbers and words
ALTER SERVER full_server OPTIONS (SET max_size '0');
ALTER SERVER full_server OPTIONS (SET max_size 'many');
ALTER SERVER full_server OPTIONS (SET max_size '1e9');
ALTER SERVER full_server OPTIONS (SET max_waiters '-2');
ALTER SERVER full_server OPTIONS (SET connect_concurrency '0');
ALTER SERVER full_server OPTIONS (SET pool_mode 'query');
ALTER SERVER full_server OPTIONS (SET reset 'ALWAYS');
ALTER SERVER full_server OPTIONS (SET reset 'sometimes');
\echo :LAST_ERROR_SQLSTATE

-- an unknown name: what was meant, or where it belongs
ALTER SERVER full_server OPTIONS (ADD maxsize '5');
ALTER SERVER full_server OPTIONS (ADD db_name 'x');
-- (the list of what there is depends on libpq)
SELECT left(error, 75) FROM test.error_of($$ALTER SERVER full_server OPTIONS (ADD zzz 'x')$$) AS error;
ALTER SERVER full_server OPTIONS (ADD "Max_Size" '5');

-- secrets belong in mappings, the rest on servers
ALTER SERVER full_server OPTIONS (ADD password 'secret');
ALTER SERVER full_server OPTIONS (ADD "user" 'app');
ALTER SERVER full_server OPTIONS (ADD sslpassword 'secret');
ALTER USER MAPPING FOR PUBLIC SERVER full_server OPTIONS (ADD host 'db2');
ALTER USER MAPPING FOR PUBLIC SERVER full_server OPTIONS (ADD checkout_timeout '1s');
ALTER USER MAPPING FOR PUBLIC SERVER full_server OPTIONS (SET password_required 'perhaps');

-- what conpool sets itself, and what is for nobody
\set VERBOSITY terse
ALTER SERVER full_server OPTIONS (ADD client_encoding 'LATIN1');
ALTER SERVER full_server OPTIONS (ADD fallback_application_name 'x');
ALTER SERVER full_server OPTIONS (ADD replication 'true');
\set VERBOSITY default

-- nothing of a refused change remains
SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'full_server';
SELECT umoptions FROM pg_user_mappings WHERE srvname = 'full_server';

-- a reference to another server stands without connection options
ALTER SERVER full_server OPTIONS (ADD server 'remote');
CREATE SERVER reference FOREIGN DATA WRAPPER conpool OPTIONS (server 'nowhere yet', max_size '3');
ALTER SERVER reference OPTIONS (SET server '');
ALTER SERVER reference OPTIONS (ADD host 'db1');

-- there are no foreign tables; the wrapper itself has no options
CREATE FOREIGN TABLE t (a int) SERVER full_server;
CREATE FOREIGN TABLE t (a int) SERVER full_server OPTIONS (table_name 't');
\echo :LAST_ERROR_SQLSTATE
IMPORT FOREIGN SCHEMA public FROM SERVER full_server INTO public;
ALTER FOREIGN DATA WRAPPER conpool OPTIONS (ADD host 'db1');

-- only superusers lend the server's own identity
CREATE ROLE regress_owner;
ALTER SERVER full_server OWNER TO regress_owner;
SET ROLE regress_owner;
ALTER USER MAPPING FOR PUBLIC SERVER full_server OPTIONS (DROP sslkey, DROP sslcert, SET password_required 'false');
\echo :LAST_ERROR_SQLSTATE
ALTER USER MAPPING FOR PUBLIC SERVER full_server OPTIONS (SET password_required 'true');
\echo :LAST_ERROR_SQLSTATE
ALTER USER MAPPING FOR PUBLIC SERVER full_server OPTIONS (DROP sslkey, DROP sslcert, SET password_required 'true');
RESET ROLE;

DROP SERVER full_server CASCADE;
DROP SERVER reference;
DROP ROLE regress_owner;

-- a list of hosts has its limit: each of them is tried
\set SHOW_CONTEXT never
CREATE SERVER hosts FOREIGN DATA WRAPPER conpool OPTIONS (host '/1,/2', port '1,2');
DO $$ BEGIN EXECUTE format('ALTER SERVER hosts OPTIONS (SET host %L)', repeat('/1,', 63) || '/1'); END $$;
DO $$ BEGIN EXECUTE format('ALTER SERVER hosts OPTIONS (SET host %L)', repeat('/1,', 64) || '/1'); END $$;
\echo :LAST_ERROR_SQLSTATE
DO $$ BEGIN EXECUTE format('ALTER SERVER hosts OPTIONS (SET port %L)', repeat(',', 64)); END $$;
DO $$ BEGIN EXECUTE format('ALTER SERVER hosts OPTIONS (ADD hostaddr %L)', repeat('127.0.0.1,', 64)); END $$;
SELECT conpool.exec('host=' || repeat('/1,', 64), 'SELECT 1');
DROP SERVER hosts;
\set SHOW_CONTEXT errors

-- each option is a setting as well
SELECT name, setting, unit, context, vartype, enumvals FROM pg_settings WHERE name ~ '^conpool\.' ORDER BY name;
SET conpool.checkout_timeout = '2min';
SHOW conpool.checkout_timeout;
SET conpool.checkout_timeout = '-1';
SET conpool.pool_mode = 'query';
SET conpool.max_size = 5;
SET conpool.no_such_setting = 1;

-- which holds where the server says nothing
SET conpool.pool_mode = 'transaction';
SELECT test.server('options', $$checkout_timeout '7s', max_size '3', max_waiters '4', connect_concurrency '5', reset 'never'$$);
ALTER USER MAPPING FOR CURRENT_USER SERVER options OPTIONS (ADD max_size '2', ADD max_waiters '6');
SELECT conpool.exec('remote', 'SELECT 1'), conpool.exec('options', 'SELECT 1');
SELECT server, max_size, max_waiters, connect_timeout, connect_concurrency, reset, leak_threshold
  FROM conpool.pools WHERE server IN ('remote', 'options') AND database = current_database() ORDER BY server;
BEGIN;
SELECT conpool.exec('options', 'SELECT 1');
SELECT server, scope FROM conpool.leases WHERE pid = pg_backend_pid();
COMMIT;
SELECT checkout_timeout FROM conpool.pools WHERE server = 'options' AND database = current_database();

SELECT test.at_rest();
DROP SERVER options CASCADE;
