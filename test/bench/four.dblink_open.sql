\if :connected = 0
SELECT dblink_connect(name, '@SERVER@') FROM (VALUES ('one'), ('two'), ('three'), ('four')) AS c(name);
\set connected 1
\endif
SELECT dblink_send_query('one', 'select 1'), dblink_send_query('two', 'select 1'),
       dblink_send_query('three', 'select 1'), dblink_send_query('four', 'select 1');
SELECT sum(a) AS n
  FROM (SELECT a FROM dblink_get_result('one') AS t(a int)
        UNION ALL SELECT a FROM dblink_get_result('two') AS t(a int)
        UNION ALL SELECT a FROM dblink_get_result('three') AS t(a int)
        UNION ALL SELECT a FROM dblink_get_result('four') AS t(a int)
        -- the end of each
        UNION ALL SELECT a FROM dblink_get_result('one') AS t(a int)
        UNION ALL SELECT a FROM dblink_get_result('two') AS t(a int)
        UNION ALL SELECT a FROM dblink_get_result('three') AS t(a int)
        UNION ALL SELECT a FROM dblink_get_result('four') AS t(a int)) AS answers \gset
\if :n != 4
SELECT 1 / 0;
\endif
