-- OFFSET 0 and a count of every column: or the remote would do the counting.
SELECT count(a) + 0 * (count(b) + count(c) + count(d)) AS n
  FROM (SELECT a, b, c, d FROM bench_rows OFFSET 0) AS t \gset
\if :n != :rows
SELECT 1 / 0;
\endif
