-- conpool's own errors: one SQLSTATE each, a detail, a hint.
SELECT test.server('errors', $$max_size '1', checkout_timeout '200ms'$$);

-- who waits for nobody but himself waits for ever
SELECT conpool.checkout('errors', 'session') AS lease \gset
SELECT test.error_of($$SELECT conpool.exec('errors', 'SELECT 1')$$);
SELECT test.error_of($$SELECT conpool.checkout('errors')$$);
SELECT conpool.exec(:lease, 'SELECT 1');
SELECT conpool.checkin(:lease);
SELECT conpool.exec('errors', 'SELECT 1');

-- no connection within checkout_timeout; the queue is full.  Somebody else has
-- the connection: a session that conpool itself opens.
SELECT test.server('errors_full', $$max_size '1', max_waiters '0'$$);
SELECT format('host=%s port=%s dbname=%s user=postgres', split_part(current_setting('unix_socket_directories'), ',', 1),
			  current_setting('port'), current_database()) AS loopback \gset
SELECT conpool.checkout(:'loopback', 'session') AS other \gset
SELECT conpool.exec(:other, 'SELECT conpool.checkout(''errors'', ''session''), conpool.checkout(''errors_full'', ''session'')');
SELECT conpool.reset_stats('errors');
SELECT test.error_of($$SELECT conpool.exec('errors', 'SELECT 1')$$);
SELECT test.error_of($$SELECT conpool.exec('errors_full', 'SELECT 1')$$);
-- an explicit timeout comes first
SELECT test.error_of($$SELECT conpool.checkout('errors', timeout => '1ms')$$);
SELECT test.error_of($$SELECT conpool.checkout('errors', timeout => '-1ms')$$);
SELECT server, checkout_timeouts, waited FROM conpool.stat_pools
 WHERE server ~ '^errors' AND database = current_database() ORDER BY server;
-- LISTEN: so that the connection is closed at checkin
SELECT conpool.exec(:other, 'LISTEN channel');
SELECT conpool.checkin(:other);
SELECT test.wait_until($$(SELECT bool_and(leased = 0) FROM conpool.pools WHERE server ~ '^errors')$$);

-- the remote cannot be reached, or refuses; its own words are in the detail
SELECT test.server('errors_port', $$SET port '1'$$);
SELECT test.error_of($$SELECT conpool.exec('errors_port', 'SELECT 1')$$);
SELECT test.server('errors_dbname', $$SET dbname 'nowhere'$$);
SELECT test.error_of($$SELECT conpool.exec('errors_dbname', 'SELECT 1')$$);
SELECT test.server('errors_login');
ALTER USER MAPPING FOR CURRENT_USER SERVER errors_login OPTIONS (SET password 'wrong-secret');
SELECT test.error_of($$SELECT conpool.exec('errors_login', 'SELECT 1')$$);
ALTER USER MAPPING FOR CURRENT_USER SERVER errors_login OPTIONS (DROP password);
SELECT test.error_of($$SELECT conpool.exec('errors_login', 'SELECT 1')$$);
SELECT server, connects, connect_failures, checkouts FROM conpool.stat_pools
 WHERE server ~ '^errors_[pdl]' AND database = current_database() ORDER BY server;

-- not a lease of this session
SELECT test.error_of('SELECT conpool.checkin(' || :lease || ')');
SELECT test.error_of('SELECT conpool.exec(' || :lease || ', ''SELECT 1'')');
SELECT test.error_of('SELECT conpool.checkin(0)');
SELECT test.error_of('SELECT conpool.checkin(-1)');
SELECT test.error_of('SELECT conpool.checkin(NULL)');

-- no such server, no such scope, nothing at all
SELECT test.error_of($$SELECT conpool.exec('nowhere', 'SELECT 1')$$);
SELECT test.error_of($$SELECT conpool.exec('', 'SELECT 1')$$);
SELECT test.error_of($$SELECT conpool.checkout('errors', 'forever')$$);
SELECT test.error_of($$SELECT conpool.checkout(NULL)$$);
SELECT test.error_of($$SELECT conpool.checkout('errors', NULL)$$);

SELECT test.at_rest();
DROP SERVER errors CASCADE;
DROP SERVER errors_full CASCADE;
DROP SERVER errors_port CASCADE;
DROP SERVER errors_dbname CASCADE;
DROP SERVER errors_login CASCADE;
