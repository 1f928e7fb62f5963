SELECT count(*) AS n
  FROM conpool.map_as(NULL::int, '{four_1,four_2,four_3,four_4}', 'select 1')
 WHERE data = 1 \gset
\if :n != 4
SELECT 1 / 0;
\endif
