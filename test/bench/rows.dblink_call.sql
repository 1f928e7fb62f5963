SELECT count(*) AS n
  FROM dblink('@SERVER@', 'select a, b, c, d from bench_rows')
    AS t(a int, b text, c numeric, d timestamptz) \gset
\if :n != :rows
SELECT 1 / 0;
\endif
