-- The local side of a test, in the database that the test runs in: the
-- extension, two foreign servers, and helpers in the schema "test".
--
-- Takes the psql variables remote_host and remote_port; for a remote with TLS
-- also remote_sslmode and remote_sslrootcert, which whoever connects by what
-- is below asks for.
--
--   server "remote"         database conpool_remote as regress_remote
--   server "remote_admin"   the same as superuser: an observer whose pool is
--                           not the one that is being observed
--   test.server(name [, options [, role]])
--                           one more server with a pool of its own, e.g.
--                           test.server('one', $$max_size '1'$$)
--   test.conninfo([role])   a libpq connection string with password
--   test.port()             the remote's port
--   test.tls()              does the remote insist on TLS?
--   test.wait_until(condition [, time_limit])
--                           waits until SELECT (condition) is true, e.g.
--                           test.wait_until('(SELECT waiting = 1 FROM ...)')
--   test.error_of(statement)
--                           what a statement that must fail says, line by
--                           line, digits (ports, process IDs, times) as N
--   test.at_rest()          waits until nothing is leased, opened, reset or
--                           closed in any pool of this database; checks that
--                           the states of each add up to its size
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;

CREATE EXTENSION conpool;

CREATE SCHEMA test;
GRANT USAGE ON SCHEMA test TO PUBLIC;

\if :{?remote_sslmode}
\else
\set remote_sslmode ''
\set remote_sslrootcert ''
\endif
CREATE TABLE test.remote (host text, port int, sslmode text, sslrootcert text);
INSERT INTO test.remote VALUES (:'remote_host', :remote_port,
								nullif(:'remote_sslmode', ''), nullif(:'remote_sslrootcert', ''));

-- what tests open beyond max_size, which no tunnel does
CREATE TABLE test.beyond (connections bigint);

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

CREATE FUNCTION test.tls() RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT sslmode IS NOT NULL FROM test.remote;
END;

CREATE FUNCTION test.conninfo(role text DEFAULT 'regress_remote') RETURNS text
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT concat_ws(' ', 'host=' || host, 'port=' || port, 'dbname=conpool_remote',
					 'user=' || name, 'password=' || password,
					 'sslmode=' || sslmode, 'sslrootcert=' || sslrootcert)
	FROM test.remote, test.remote_role WHERE name = role;
END;

CREATE FUNCTION test.server(name text, options text DEFAULT '',
							role text DEFAULT 'regress_remote') RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE SERVER %I FOREIGN DATA WRAPPER conpool
						OPTIONS (host %L, port %L, dbname ''conpool_remote'')',
				   name, r.host, r.port::text) FROM test.remote r;
	IF test.tls() THEN
		EXECUTE format('ALTER SERVER %I OPTIONS (sslmode %L, sslrootcert %L)',
					   name, r.sslmode, r.sslrootcert) FROM test.remote r;
	END IF;
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

CREATE FUNCTION test.error_of(statement text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN NEXT 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN NEXT sqlstate || ': ' || regexp_replace(message, '\d+', 'N', 'g');
	RETURN QUERY SELECT 'DETAIL: ' || regexp_replace(line, '\d+', 'N', 'g')
		FROM regexp_split_to_table(detail, '\n') AS line WHERE line <> '';
	RETURN QUERY SELECT 'HINT: ' || hint WHERE hint <> '';
END $$;

CREATE FUNCTION test.at_rest() RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
	pool record;
BEGIN
	PERFORM test.wait_until('NOT EXISTS (SELECT FROM conpool.pools
		WHERE database = current_database() AND
			  leased + connecting + resetting + closing + waiting > 0)');
	FOR pool IN SELECT * FROM conpool.pools WHERE database = current_database() LOOP
		IF pool.size <> pool.idle + pool.leased + pool.connecting +
			pool.resetting + pool.validating + pool.closing
		THEN
			RAISE EXCEPTION 'states do not add up to the size: %', pool;
		END IF;
		IF pool.size > pool.max_size THEN
			RAISE EXCEPTION 'more connections than allowed: %', pool;
		END IF;
	END LOOP;
	RETURN NOT EXISTS (SELECT FROM conpool.leases WHERE database = current_database())
		AND NOT EXISTS (SELECT FROM conpool.waiters WHERE database = current_database());
END $$;

SELECT test.server('remote') AS done,
	test.server('remote_admin', role => 'regress_remote_admin') AS done \gset

-- The isolation tester asks this function whether a step waits for another
-- session, and by itself knows the waits for locks only. For us a session also
-- waits while it queues for a connection that one of the others holds; and
-- while one of the others, by the advisory lock 4711, says that it holds up
-- the remote, a session also waits for that. (Functions that are built in are
-- called by their OID, so replacing this one would change nothing.)
ALTER FUNCTION pg_catalog.pg_isolation_test_session_is_blocked(int, int[])
	RENAME TO pg_isolation_test_session_is_blocked_by_locks;
CREATE FUNCTION pg_catalog.pg_isolation_test_session_is_blocked(int, int[])
RETURNS boolean
LANGUAGE sql
BEGIN ATOMIC
	SELECT pg_isolation_test_session_is_blocked_by_locks($1, $2)
		OR EXISTS (SELECT FROM conpool.waiters w
				   JOIN conpool.connections c USING (server, database, role)
				   WHERE w.pid = $1 AND c.pid = ANY ($2))
		OR EXISTS (SELECT FROM conpool.connections c, pg_locks l
				   WHERE c.pid = $1 AND l.locktype = 'advisory' AND l.objid = 4711
				   AND l.pid <> $1 AND l.pid = ANY ($2));
END;
