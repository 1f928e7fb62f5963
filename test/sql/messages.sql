-- Notices and errors of the remote arrive as local ones.
SELECT conpool.exec('remote', $remote$
CREATE FUNCTION speak(level text, code text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('DO $do$BEGIN
		RAISE %s USING MESSAGE = ''the message'', DETAIL = ''the detail'', HINT = ''the hint'', ERRCODE = %L,
			COLUMN = ''col'', CONSTRAINT = ''con'', DATATYPE = ''typ'', TABLE = ''tab'', SCHEMA = ''sch'';
		END$do$', level, code);
	RETURN 'spoken';
END $$ $remote$);

SELECT * FROM conpool.query('remote', 'SELECT speak(''NOTICE'', ''00000'')') AS t(a text);
SELECT * FROM conpool.query('remote', 'SELECT speak(''WARNING'', ''01007'')') AS t(a text);
SELECT * FROM conpool.query('remote', 'SELECT speak(''INFO'', ''00000'')') AS t(a text);
-- several, in their order, and before an error
SELECT conpool.exec('remote', $remote$
DO $$BEGIN FOR i IN 1..3 LOOP RAISE NOTICE '%00%%', i; END LOOP; PERFORM 1 / 0; END$$ $remote$);
\echo :LAST_ERROR_SQLSTATE
-- client_min_messages is the local one's
SET client_min_messages = error;
SELECT * FROM conpool.query('remote', 'SELECT speak(''WARNING'', ''01007'')') AS t(a text);
RESET client_min_messages;

-- errors keep everything they have
SELECT * FROM conpool.query('remote', 'SELECT speak(''EXCEPTION'', ''23P99'')') AS t(a text);
\echo :LAST_ERROR_SQLSTATE
CREATE FUNCTION pg_temp.fields(statement text, OUT state text, OUT col text, OUT con text, OUT typ text, OUT tab text, OUT sch text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, col = COLUMN_NAME, con = CONSTRAINT_NAME,
		typ = PG_DATATYPE_NAME, tab = TABLE_NAME, sch = SCHEMA_NAME;
END $$;
SELECT * FROM pg_temp.fields($$SELECT conpool.exec('remote', 'SELECT speak(''EXCEPTION'', ''23P99'')')$$);

SELECT conpool.exec('remote', 'SELECT nothing');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec('remote', 'SELEC 1');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec('remote', 'SELECT ' || repeat('1 + ', 60) || '1 / 0');
\echo :LAST_ERROR_SQLSTATE

-- a function can catch them by their condition
CREATE FUNCTION pg_temp.caught() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM conpool.exec('remote', 'SELECT 1 / 0');
EXCEPTION WHEN division_by_zero THEN
	RETURN 'caught: ' || sqlerrm;
END $$;
SELECT pg_temp.caught();

-- a remote session that is ended is a lost connection, not our own end
SELECT conpool.exec('remote', 'SELECT pg_terminate_backend(pg_backend_pid())');
\echo :LAST_ERROR_SQLSTATE
SELECT conpool.exec('remote', 'DROP FUNCTION speak');

SELECT test.at_rest();
