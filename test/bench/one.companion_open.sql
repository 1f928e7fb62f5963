\if :connected = 0
SELECT companion.dblink_connect('open', '@SERVER@');
\set connected 1
\endif
SELECT a FROM companion.dblink('open', 'select 1') AS t(a int) \gset
\if :a != 1
SELECT 1 / 0;
\endif
