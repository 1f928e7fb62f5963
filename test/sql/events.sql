-- What happened to a pool and its connections.
SELECT coalesce(max(number), 0) AS start FROM conpool.events \gset
SELECT test.server('events', $$max_size '2'$$);
CREATE TEMP VIEW happened AS SELECT event, role, slot IS NOT NULL AS of_connection, pid = pg_backend_pid() AS mine, detail, number
  FROM conpool.events WHERE server = 'events' AND database = current_database();

SELECT conpool.exec('events', 'SELECT 1');
SELECT test.at_rest();
SELECT conpool.pause('events'), conpool.resume('events');
SELECT conpool.reset_stats('events');
SELECT conpool.close_idle('events');
SELECT test.at_rest();
SELECT event, role, of_connection, mine, detail FROM happened WHERE number > :start ORDER BY number;
-- a connection that is lost, and one that is replaced
SELECT max(number) AS start FROM conpool.events \gset
SELECT conpool.exec('events', 'SELECT pg_terminate_backend(pg_backend_pid())');
SELECT test.at_rest();
SELECT conpool.exec('events', 'SELECT 1');
SELECT conpool.reconnect('events');
SELECT test.at_rest();
SELECT event, of_connection, detail FROM happened WHERE number > :start ORDER BY number;
-- settings, and the end
SELECT max(number) AS start FROM conpool.events \gset
ALTER SERVER events OPTIONS (SET max_size '3', ADD idle_timeout '1h');
SELECT conpool.exec('events', 'SELECT 1');
SELECT test.at_rest();
DROP SERVER events CASCADE;
SELECT test.wait_until($$NOT EXISTS (SELECT FROM conpool.pools WHERE server = 'events' AND database = current_database())$$);
SELECT event, of_connection, detail FROM happened WHERE number > :start ORDER BY number;

-- newest first, without a gap
SELECT number = max(number) OVER () AS newest FROM (SELECT * FROM conpool.events OFFSET 0) AS e LIMIT 1;
SELECT max(number) - min(number) + 1 = count(*) AS no_gap FROM conpool.events;
SELECT count(*) FROM (SELECT number, lag(number) OVER () AS newer FROM conpool.events) AS e WHERE number > newer;
