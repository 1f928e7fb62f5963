\if :connected = 0
SELECT dblink_connect('open', '@SERVER@');
\set connected 1
\endif
SELECT count(*) AS n
  FROM dblink('open', 'select a, b, c, d from bench_rows')
    AS t(a int, b text, c numeric, d timestamptz) \gset
\if :n != :rows
SELECT 1 / 0;
\endif
