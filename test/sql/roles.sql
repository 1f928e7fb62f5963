-- Whose mapping and rights are used: those of the effective role.
SET client_min_messages = warning;
CREATE ROLE regress_alice;
CREATE ROLE regress_bob;
CREATE ROLE regress_carol;
GRANT CREATE ON SCHEMA public TO regress_alice;
SELECT test.server('roles') AS done, test.conninfo() AS conninfo \gset
CREATE USER MAPPING FOR regress_alice SERVER roles OPTIONS (user 'regress_remote', password 'remote-secret');
CREATE USER MAPPING FOR regress_bob SERVER roles OPTIONS (user 'regress_remote_two', password 'two-secret');
GRANT USAGE ON FOREIGN SERVER roles TO regress_alice, regress_carol;
CREATE FUNCTION public.who(server text DEFAULT 'roles', OUT name text, OUT pid int) LANGUAGE sql AS
	$$ SELECT * FROM conpool.query(server, 'SELECT current_user, pg_backend_pid()') AS t(name text, pid int) $$;

-- USAGE is needed, and a mapping
SET ROLE regress_bob;
SELECT name FROM who();
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_carol;
SELECT name FROM who();
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_alice;
SELECT name FROM who();

-- rights are looked up at every call
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER roles TO regress_bob;
SET ROLE regress_bob;
SELECT name FROM who();
RESET ROLE;
REVOKE USAGE ON FOREIGN SERVER roles FROM regress_bob;
SET ROLE regress_bob;
SELECT name FROM who();
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER roles TO regress_bob;

-- roles with mappings of their own never share, not even with the same login
SELECT pid AS mine FROM who() \gset
SET ROLE regress_alice;
SELECT name, pid <> :mine AS differs FROM who();
RESET ROLE;

-- a PUBLIC mapping is one pool for all
CREATE USER MAPPING FOR PUBLIC SERVER roles OPTIONS (user 'regress_remote', password 'remote-secret');
CREATE ROLE regress_dave;
GRANT USAGE ON FOREIGN SERVER roles TO regress_dave;
SET ROLE regress_carol;
SELECT pid AS carols FROM who() \gset
SET ROLE regress_dave;
SELECT name, pid = :carols AS same FROM who();
SET ROLE regress_bob;
SELECT name, pid = :carols AS same FROM who();
RESET ROLE;
SELECT role, size FROM conpool.pools WHERE server = 'roles' AND database = current_database() ORDER BY role;
-- but not for superusers: their connections may use what others' may not
DROP USER MAPPING FOR CURRENT_USER SERVER roles;
SELECT name, pid = :carols AS same FROM who();
SELECT role, size FROM conpool.pools WHERE server = 'roles' AND role = 'public' AND database = current_database();

-- a connection string is for one role
SELECT pid AS mine FROM who(:'conninfo') \gset
SET ROLE regress_alice;
SELECT pid AS alices FROM who(:'conninfo') \gset
SELECT pid = :alices AS same, pid = :mine AS mine FROM who(:'conninfo');
SET ROLE regress_bob;
SELECT name, pid IN (:mine, :alices) AS same FROM who(:'conninfo');

-- SECURITY DEFINER: the owner's mapping inside, the caller's outside
SET ROLE regress_alice;
CREATE FUNCTION public.as_alice(OUT name text, OUT pid int) LANGUAGE sql SECURITY DEFINER AS $$ SELECT * FROM who() $$;
SET ROLE regress_bob;
SELECT a.name AS inside, b.name AS outside FROM as_alice() a, who() b;

-- a lease is useless to another role; a definer's function does not lend it out
SET ROLE regress_alice;
CREATE FUNCTION public.alices_lease() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
	$$ SELECT conpool.checkout('roles', 'session') $$;
CREATE FUNCTION public.alices_return(lease bigint) RETURNS void LANGUAGE sql SECURITY DEFINER AS
	$$ SELECT conpool.checkin(lease) $$;
SET ROLE regress_bob;
SELECT alices_lease() AS lease \gset
SELECT test.error_of('SELECT conpool.exec(' || :lease || ', ''SELECT 1'')');
SELECT test.error_of('SELECT conpool.checkin(' || :lease || ')');
RESET ROLE;
SELECT test.error_of('SELECT conpool.exec(' || :lease || ', ''SELECT 1'')');
SELECT alices_return(:lease);
-- the same for the lease that pool_mode shares
SET conpool.pool_mode = 'transaction';
BEGIN;
SET ROLE regress_bob;
SELECT a.name AS inside, b.name AS outside FROM as_alice() a, who() b;
SELECT role, scope FROM conpool.leases WHERE server = 'roles' ORDER BY role;
COMMIT;
BEGIN;
SET ROLE regress_carol;
SELECT pid AS carols FROM who() \gset
SET ROLE regress_dave;
SELECT pid = :carols AS same FROM who();
COMMIT;
RESET conpool.pool_mode;
RESET ROLE;

-- a security-restricted operation leaves no lease behind
CREATE MATERIALIZED VIEW refreshed AS SELECT conpool.checkout('remote', 'session') AS lease WITH NO DATA;
REFRESH MATERIALIZED VIEW refreshed;
\echo :LAST_ERROR_SQLSTATE
DROP MATERIALIZED VIEW refreshed;
CREATE MATERIALIZED VIEW refreshed AS SELECT conpool.exec('remote', 'SELECT 1') WITH NO DATA;
SET conpool.pool_mode = 'session';
REFRESH MATERIALIZED VIEW refreshed;
\echo :LAST_ERROR_SQLSTATE
SET conpool.pool_mode = 'transaction';
REFRESH MATERIALIZED VIEW refreshed;
TABLE refreshed;
RESET conpool.pool_mode;
DROP MATERIALIZED VIEW refreshed;

SELECT test.at_rest();
DROP FUNCTION alices_return, alices_lease, as_alice, who;
DROP SERVER roles CASCADE;
DROP OWNED BY regress_alice, regress_bob, regress_carol, regress_dave;
DROP ROLE regress_alice, regress_bob, regress_carol, regress_dave;
