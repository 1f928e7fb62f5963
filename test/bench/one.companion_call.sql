SELECT a FROM companion.dblink('@SERVER@', 'select 1') AS t(a int) \gset
\if :a != 1
SELECT 1 / 0;
\endif
