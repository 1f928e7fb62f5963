-- Security-restricted operations: in an index or a materialized view a role's code runs
-- for whoever maintains it. It comes by nothing that the session has, and leaves nothing
-- behind that could fail, or hold up, the session's commit.
CREATE SCHEMA regress_restricted;
CREATE EXTENSION conpool_dblink SCHEMA regress_restricted;
CREATE ROLE regress_tenant;
GRANT USAGE ON SCHEMA regress_restricted TO regress_tenant;
GRANT EXECUTE ON FUNCTION regress_restricted.dblink_connect_u(text, text) TO regress_tenant;
SELECT test.server('restricted'), test.server('restricted_xact', $$pool_mode 'transaction'$$);
GRANT USAGE ON FOREIGN SERVER restricted, restricted_xact TO regress_tenant;
CREATE USER MAPPING FOR regress_tenant SERVER restricted OPTIONS (user 'regress_remote', password 'remote-secret');
CREATE USER MAPPING FOR regress_tenant SERVER restricted_xact OPTIONS (user 'regress_remote', password 'remote-secret');
GRANT CREATE ON SCHEMA public TO regress_tenant;

-- an index and a materialized view of an ordinary role; what they call is SQL of the role's
SET ROLE regress_tenant;
CREATE TABLE trap (a int);
CREATE FUNCTION spring(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 0';
INSERT INTO trap VALUES (1);
CREATE INDEX ON trap (spring(a));
CREATE MATERIALIZED VIEW caught AS SELECT 0 AS a, 'nobody' AS who;
RESET ROLE;
CREATE PROCEDURE pg_temp.set_trap(sql text) LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL ROLE regress_tenant;
	EXECUTE format('CREATE OR REPLACE FUNCTION spring(a int) RETURNS int
					LANGUAGE plpgsql IMMUTABLE AS %L',
				   format('BEGIN RETURN (%s); END', sql));
	RESET ROLE;
END $$;
CREATE FUNCTION pg_temp.error(OUT error text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT * FROM test.error_of('REINDEX TABLE trap') $$;
-- works where it is nobody else's
CALL pg_temp.set_trap($$SELECT * FROM regress_restricted.dblink('restricted', 'SELECT 1') AS t(a int)$$);
SELECT * FROM pg_temp.error();

-- connections that have a name, or none
SELECT regress_restricted.dblink_connect('mine', 'remote_admin'), regress_restricted.dblink_connect('remote_admin');
CALL pg_temp.set_trap($$SELECT * FROM regress_restricted.dblink('mine', 'SELECT 1') AS t(a int)$$);
SELECT * FROM pg_temp.error();
CALL pg_temp.set_trap($$SELECT * FROM regress_restricted.dblink('SELECT 1') AS t(a int)$$);
SELECT * FROM pg_temp.error();
CALL pg_temp.set_trap($$length(regress_restricted.dblink_exec('mine', 'SELECT 1'))$$);
SELECT * FROM pg_temp.error();
CALL pg_temp.set_trap($$regress_restricted.dblink_send_query('mine', 'SELECT 1')$$);
SELECT * FROM pg_temp.error();
CALL pg_temp.set_trap($$length(regress_restricted.dblink_open('mine', 'c', 'SELECT 1'))$$);
SELECT * FROM pg_temp.error();
CALL pg_temp.set_trap($$length(regress_restricted.dblink_cancel_query('mine'))$$);
SELECT * FROM pg_temp.error();
CALL pg_temp.set_trap($$length(regress_restricted.dblink_error_message('mine'))$$);
SELECT * FROM pg_temp.error();
CALL pg_temp.set_trap($$length(regress_restricted.dblink_disconnect('mine'))$$);
SELECT * FROM pg_temp.error();
-- none of which has reached the connection
SELECT * FROM regress_restricted.dblink('mine', 'SELECT 1') AS t(a int), regress_restricted.dblink('SELECT 2') AS u(a int);
-- nor can one be left behind
CALL pg_temp.set_trap($$length(regress_restricted.dblink_connect('left', 'restricted'))$$);
SELECT * FROM pg_temp.error();
SELECT regress_restricted.dblink_get_connections();

-- leases, and requests, whose failure would be the commit's
CALL pg_temp.set_trap($$conpool.checkout('restricted', 'transaction')$$);
SELECT * FROM pg_temp.error();
CALL pg_temp.set_trap($$conpool.checkout('restricted', 'session')$$);
SELECT * FROM pg_temp.error();
CALL pg_temp.set_trap($$conpool.send('restricted', 'SELECT pg_sleep(5)')$$);
SELECT * FROM pg_temp.error();
CALL pg_temp.set_trap($$conpool.send('restricted_xact', 'SELECT pg_sleep(5)')$$);
SELECT * FROM pg_temp.error();
SELECT conpool.checkout('restricted', 'session') AS lease \gset
CALL pg_temp.set_trap($$conpool.send($$ || :lease || $$, 'SELECT pg_sleep(5)')$$);
SELECT * FROM pg_temp.error();
SELECT conpool.checkin(:lease);

-- the view, which its owner refreshes over connections of the owner's
SET ROLE regress_tenant;
DROP MATERIALIZED VIEW caught;
SELECT regress_restricted.dblink_connect('plain', test.conninfo()), regress_restricted.dblink_connect_u('definer', test.conninfo('regress_remote_two'));
CREATE MATERIALIZED VIEW caught AS
	SELECT * FROM regress_restricted.dblink('plain', 'SELECT current_user, txid_current()') AS t(who text, xid bigint)
	UNION ALL SELECT * FROM regress_restricted.dblink('definer', 'SELECT current_user, txid_current()') AS t(who text, xid bigint);
CREATE TABLE before AS TABLE caught;
REFRESH MATERIALIZED VIEW caught;
SELECT count(*), count(DISTINCT who), count(DISTINCT xid) FROM (TABLE before UNION ALL TABLE caught) AS t;
SELECT regress_restricted.dblink_disconnect('plain'), regress_restricted.dblink_disconnect('definer');
RESET ROLE;
-- and a superuser does, over connections of the superuser's
SELECT regress_restricted.dblink_connect('plain', 'remote_admin'), regress_restricted.dblink_connect('definer', 'remote_admin');
SELECT test.error_of('REFRESH MATERIALIZED VIEW caught');
SELECT count(*), count(DISTINCT xid) FROM caught;

SELECT regress_restricted.dblink_disconnect(name) FROM unnest(regress_restricted.dblink_get_connections()) AS name;
SELECT regress_restricted.dblink_disconnect();
SELECT test.at_rest();
SET client_min_messages = warning;
DROP OWNED BY regress_tenant;
DROP ROLE regress_tenant;
DROP SERVER restricted, restricted_xact CASCADE;
DROP EXTENSION conpool_dblink CASCADE;
DROP SCHEMA regress_restricted;
