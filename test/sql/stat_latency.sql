-- Distributions: every duration is in a bucket, and percentiles are those of the buckets.
SELECT test.server('latency', $$max_size '1'$$);
CREATE TEMP VIEW latency AS SELECT kind, le_ms, count, cumulative FROM conpool.stat_latency
 WHERE server = 'latency' AND role = 'postgres' AND database = current_database();
CREATE TEMP VIEW counters AS SELECT * FROM conpool.stat_pools
 WHERE server = 'latency' AND role = 'postgres' AND database = current_database();

-- nothing was measured
SELECT count(*) FROM latency;
SELECT conpool.exec('latency', 'SELECT 1');
SELECT test.at_rest();
SELECT conpool.reset_stats('latency');
SELECT count(*) FROM latency;
SELECT checkouts, wait_p50, wait_p99, wait_max, checkout_p50, checkout_max, connect_p90, connect_max, remote_p95, remote_max FROM counters;

-- a hundred statements, ten of them slow
SELECT count(conpool.exec('latency', CASE WHEN n % 10 = 0 THEN 'SELECT pg_sleep(0.03)' ELSE 'SELECT 1' END)) FROM generate_series(1, 100) AS n;
SELECT test.error_of($$SELECT conpool.exec('latency', 'SELECT 1 / 0')$$) LIMIT 1;
SELECT test.at_rest();
SELECT kind, sum(count), max(cumulative), count(*) = count(DISTINCT le_ms) AS one_row_each, bool_and(count > 0) AS filled FROM latency GROUP BY kind ORDER BY kind;
SELECT checkouts + checkout_timeouts + checkout_cancels AS wait, checkouts AS checkout, connects AS connect, queries AS remote FROM counters;
-- cumulative is what the name says, and grows with le_ms
SELECT count(*) FROM (SELECT kind, cumulative, sum(count) OVER (PARTITION BY kind ORDER BY le_ms) AS expected FROM latency) AS l WHERE cumulative <> expected;
-- known durations
SELECT (SELECT sum(count) >= 10 FROM latency WHERE kind = 'remote' AND le_ms >= 30) AS slow, remote_max >= 30 AS max,
	   total_remote_time BETWEEN 300 AND total_checkout_time AS total, remote_p50 < 30 AS p50, remote_p95 >= 30 AS p95
  FROM counters;

-- percentiles: the bucket in which that share of the durations is reached, or
-- the longest duration if that is less
CREATE TEMP VIEW expected AS
	SELECT kind, share, least((SELECT min(le_ms) FROM latency l WHERE l.kind = k.kind AND cumulative >= share * total), longest) AS ms
	  FROM (SELECT kind, sum(count) AS total FROM latency GROUP BY kind) AS t
		   JOIN (SELECT v.* FROM counters, LATERAL (VALUES ('wait', wait_max), ('checkout', checkout_max), ('remote', remote_max)) AS v(kind, longest)) AS k USING (kind),
		   (VALUES (0.5), (0.9), (0.95), (0.99)) AS s(share);
SELECT e.kind, e.share, e.ms = v.ms AS same
  FROM expected e JOIN (SELECT v.* FROM counters, LATERAL (VALUES
		('wait', 0.5, wait_p50), ('wait', 0.9, wait_p90), ('wait', 0.95, wait_p95), ('wait', 0.99, wait_p99),
		('checkout', 0.5, checkout_p50), ('checkout', 0.9, checkout_p90), ('checkout', 0.95, checkout_p95), ('checkout', 0.99, checkout_p99),
		('remote', 0.5, remote_p50), ('remote', 0.9, remote_p90), ('remote', 0.95, remote_p95), ('remote', 0.99, remote_p99)) AS v(kind, share, ms)) AS v
	   USING (kind, share) ORDER BY 1, 2;
-- the longest is in the last bucket, which is at most 1/32 wide of it
SELECT kind, last >= longest AND last <= longest * 33 / 32 + 0.001 AS close
  FROM (SELECT kind, max(le_ms) AS last FROM latency GROUP BY kind) AS l
	   JOIN (SELECT v.* FROM counters, LATERAL (VALUES ('wait', wait_max), ('checkout', checkout_max), ('remote', remote_max)) AS v(kind, longest)) AS v
	   USING (kind) ORDER BY kind;

-- waits that time out are in it, too
SELECT format('host=%s port=%s dbname=%s user=postgres', split_part(current_setting('unix_socket_directories'), ',', 1),
			  current_setting('port'), current_database()) AS loopback \gset
SELECT conpool.checkout(:'loopback', 'session') AS other \gset
SELECT conpool.exec(:other, 'SELECT conpool.checkout(''latency'', ''session'')');
SELECT conpool.reset_stats('latency');
SELECT peak_leased FROM counters;
SELECT test.error_of($$SELECT conpool.checkout('latency', timeout => '50ms')$$) LIMIT 1;
SELECT kind, sum(count), sum(count) FILTER (WHERE le_ms >= 50) AS long FROM latency GROUP BY kind ORDER BY kind;
SELECT checkouts, checkout_timeouts, wait_max >= 50 AS wait_max, wait_p99 = wait_max AS wait_p99, peak_leased, peak_waiting FROM counters;
-- LISTEN: so that the connection is closed at checkin
SELECT conpool.exec(:other, 'LISTEN channel');
SELECT conpool.checkin(:other);

SELECT test.at_rest();
DROP SERVER latency CASCADE;
