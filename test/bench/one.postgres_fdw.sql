SELECT a FROM bench_one \gset
\if :a != 1
SELECT 1 / 0;
\endif
