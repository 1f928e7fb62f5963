-- Notes how many backends the contestants have, again and again, until the
-- server stops or the script ends this session.
\set ON_ERROR_STOP 1
SET synchronous_commit = off;
\o /dev/null
INSERT INTO seen
  SELECT usename, count(*) FROM pg_stat_activity
   WHERE usename LIKE 'bench\_%' GROUP BY 1
  ON CONFLICT (role) DO UPDATE
    SET backends = greatest(seen.backends, excluded.backends) \watch 0.5
