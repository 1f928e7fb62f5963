-- The local side of a test, in the database that the test runs in: the
-- extension, two foreign servers, and helpers in the schema "test".
--
-- Takes the psql variables remote_host and remote_port.
--
--   server "remote"         database conpool_remote as regress_remote
--   server "remote_admin"   the same as superuser: an observer whose pool is
--                           not the one that is being observed
--   test.server(name [, options [, role]])
--                           one more server with a pool of its own, e.g.
--                           test.server('one', $$max_size '1'$$)
--   test.conninfo([role])   a libpq connection string with password
--   test.port()             the remote's port
--   test.wait_until(condition [, time_limit])
--                           waits until SELECT (condition) is true, e.g.
--                           test.wait_until('(SELECT waiting = 1 FROM ...)')
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;

CREATE EXTENSION conpool;

CREATE SCHEMA test;
GRANT USAGE ON SCHEMA test TO PUBLIC;

CREATE TABLE test.remote (host text, port int);
INSERT INTO test.remote VALUES (:'remote_host', :remote_port);

CREATE TABLE test.remote_role (name text, password text);
INSERT INTO test.remote_role VALUES
	('regress_remote', 'remote-secret'),
	('regress_remote_two', 'two-secret'),
	('regress_remote_admin', 'admin-secret');
GRANT SELECT ON test.remote, test.remote_role TO PUBLIC;

CREATE FUNCTION test.port() RETURNS int
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT port FROM test.remote;
END;

CREATE FUNCTION test.conninfo(role text DEFAULT 'regress_remote') RETURNS text
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT format('host=%s port=%s dbname=conpool_remote user=%s password=%s',
				  host, port, name, password)
	FROM test.remote, test.remote_role WHERE name = role;
END;

CREATE FUNCTION test.server(name text, options text DEFAULT '',
							role text DEFAULT 'regress_remote') RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE SERVER %I FOREIGN DATA WRAPPER conpool
						OPTIONS (host %L, port %L, dbname ''conpool_remote'')',
				   name, r.host, r.port::text) FROM test.remote r;
	IF options <> '' THEN
		EXECUTE format('ALTER SERVER %I OPTIONS (%s)', name, options);
	END IF;
	EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER %I
						OPTIONS (user %L, password %L)',
				   server.name, r.name, r.password)
		FROM test.remote_role r WHERE r.name = role;
END $$;

CREATE FUNCTION test.wait_until(condition text,
								time_limit interval DEFAULT '20 s')
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	deadline constant timestamptz := clock_timestamp() + time_limit;
	reached boolean;
BEGIN
	LOOP
		PERFORM pg_stat_clear_snapshot();
		EXECUTE 'SELECT (' || condition || ')' INTO reached;
		EXIT WHEN reached;
		IF clock_timestamp() > deadline THEN
			RAISE EXCEPTION 'not reached within %: %', time_limit, condition;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

SELECT test.server('remote') AS done,
	test.server('remote_admin', role => 'regress_remote_admin') AS done \gset
