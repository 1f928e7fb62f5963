-- Option use_scram_passthrough: where it may stand, and what it takes. It needs
-- server and libpq of version 18 (scram_passthrough_1.out); elsewhere it is
-- refused unless it says false. What it does: test/t/520_scram_passthrough.pl.
SELECT test.server('passing', $$use_scram_passthrough 'false'$$);
ALTER USER MAPPING FOR CURRENT_USER SERVER passing OPTIONS (ADD use_scram_passthrough 'off');
SELECT * FROM conpool.query('passing', 'SELECT current_user') AS t(remote_user text);
SELECT role FROM conpool.pools WHERE server = 'passing';

-- it is a boolean, and nothing for a server that refers to another
ALTER SERVER passing OPTIONS (SET use_scram_passthrough 'perhaps');
ALTER USER MAPPING FOR CURRENT_USER SERVER passing OPTIONS (SET use_scram_passthrough '');
ALTER SERVER passing OPTIONS (ADD use_scram_pass_through 'false');
CREATE SERVER referring FOREIGN DATA WRAPPER conpool OPTIONS (server 'passing', use_scram_passthrough 'false');
\set VERBOSITY terse
SELECT conpool.exec('host=127.0.0.1 use_scram_passthrough=true', 'SELECT 1');
\set VERBOSITY default

-- keys are no options, nor is a file to which libpq would write
\set VERBOSITY terse
ALTER SERVER passing OPTIONS (ADD scram_client_key 'x');
ALTER USER MAPPING FOR CURRENT_USER SERVER passing OPTIONS (ADD scram_client_key 'x');
ALTER USER MAPPING FOR CURRENT_USER SERVER passing OPTIONS (ADD scram_server_key 'x');
ALTER SERVER passing OPTIONS (ADD sslkeylogfile '/tmp/keys');
ALTER USER MAPPING FOR CURRENT_USER SERVER passing OPTIONS (ADD sslkeylogfile '/tmp/keys');
ALTER SERVER passing OPTIONS (ADD servicefile '/tmp/services');
\set VERBOSITY default

-- true
ALTER SERVER passing OPTIONS (SET use_scram_passthrough 'true');
\echo :SQLSTATE
ALTER USER MAPPING FOR CURRENT_USER SERVER passing OPTIONS (SET use_scram_passthrough 'on');
\echo :SQLSTATE
CREATE SERVER another FOREIGN DATA WRAPPER conpool OPTIONS (use_scram_passthrough 'on');
\echo :SQLSTATE

-- this session has no keys to pass through: the password counts as ever
SELECT * FROM conpool.query('passing', 'SELECT current_user') AS t(remote_user text);
CREATE ROLE regress_keyless;
SELECT test.server('keyless', $$use_scram_passthrough 'false'$$);
GRANT USAGE ON FOREIGN SERVER keyless TO regress_keyless;
CREATE USER MAPPING FOR regress_keyless SERVER keyless OPTIONS (user 'regress_remote');
ALTER SERVER keyless OPTIONS (SET use_scram_passthrough 'true');
SET ROLE regress_keyless;
SELECT conpool.exec('keyless', 'SELECT 1');
RESET ROLE;

DROP SERVER keyless CASCADE;
DROP SERVER passing CASCADE;
DROP SERVER IF EXISTS another;
DROP ROLE regress_keyless;
