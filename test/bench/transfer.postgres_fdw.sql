\set aid random(1, :accounts - 5)
BEGIN;
UPDATE bench_accounts SET abalance = aid WHERE aid = :aid::int;
UPDATE bench_accounts SET abalance = aid WHERE aid = :aid::int + 1;
UPDATE bench_accounts SET abalance = aid WHERE aid = :aid::int + 2;
UPDATE bench_accounts SET abalance = aid WHERE aid = :aid::int + 3;
UPDATE bench_accounts SET abalance = aid WHERE aid = :aid::int + 4;
COMMIT;
