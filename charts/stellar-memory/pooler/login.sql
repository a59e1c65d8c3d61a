-- What PgBouncer needs in the product's database to ask for the passwords of engines: see "Behind a pooler" in ../README.md.
-- Once, by a superuser, for nobody else may read verifiers: psql -f login.sql 'postgres://postgres@db.example.com/stellar'
-- Then give it the password that is in PgBouncer's userlist.txt: \password pgbouncer
CREATE ROLE pgbouncer LOGIN;
-- The migrations take CONNECT from PUBLIC.
GRANT CONNECT ON DATABASE :"DBNAME" TO pgbouncer;

CREATE SCHEMA pgbouncer;
GRANT USAGE ON SCHEMA pgbouncer TO pgbouncer;

-- For the logins of engines alone: a pooler that is broken into tells nothing of an administrator.
CREATE FUNCTION pgbouncer.login(asked text) RETURNS TABLE (name text, verifier text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.usename::text, s.passwd FROM pg_shadow s
    WHERE s.usename = asked AND asked ~ '^(stellar_pool|t_[0-9a-f]{32})$'
$$;
REVOKE EXECUTE ON FUNCTION pgbouncer.login(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgbouncer.login(text) TO pgbouncer;
