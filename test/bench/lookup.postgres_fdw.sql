\set aid random(1, :accounts)
SELECT abalance FROM bench_accounts WHERE aid = :aid::int \gset
\if :abalance != :aid
SELECT 1 / 0;
\endif
