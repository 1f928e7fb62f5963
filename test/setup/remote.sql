-- The remote side of a test: three roles that log in with a password and a
-- database that the first of them owns. Run by a superuser of the remote.
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;
SET password_encryption = 'scram-sha-256';

SELECT format('DROP DATABASE IF EXISTS %I', 'conpool_remote') \gexec
DROP ROLE IF EXISTS regress_remote, regress_remote_two, regress_remote_admin;

CREATE ROLE regress_remote LOGIN PASSWORD 'remote-secret';
CREATE ROLE regress_remote_two LOGIN PASSWORD 'two-secret';
CREATE ROLE regress_remote_admin LOGIN SUPERUSER PASSWORD 'admin-secret';
CREATE DATABASE conpool_remote OWNER regress_remote;
