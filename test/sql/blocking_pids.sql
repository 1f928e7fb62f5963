-- blocking_pids() of who does not wait; of who does: test/specs/blocking-pids.spec
SELECT conpool.blocking_pids(NULL) IS NULL AS "NULL";
SELECT conpool.blocking_pids(pg_backend_pid()) AS mine, conpool.blocking_pids(0) AS "0", conpool.blocking_pids(-1) AS "-1",
	   conpool.blocking_pids(2147483647) AS nobody;
-- to hold a lease is not to wait
SELECT conpool.checkout('remote', 'session') AS lease \gset
SELECT conpool.blocking_pids(pg_backend_pid());
SELECT conpool.checkin(:lease);
-- an array with no element, for joins
SELECT cardinality(conpool.blocking_pids(0)) AS cardinality, 1 = ANY (conpool.blocking_pids(0)) AS "any";
-- everybody may ask
CREATE ROLE regress_alice;
SET ROLE regress_alice;
SELECT conpool.blocking_pids(pg_backend_pid());
RESET ROLE;
DROP ROLE regress_alice;
SELECT test.at_rest();
