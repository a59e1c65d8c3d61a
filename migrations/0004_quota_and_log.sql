-- Quota and change log, as statement-level triggers: count, limit and change_seq move in one row update together
-- with the rows, so a bulk insert over the quota fails whole and the log has no gap.
SET LOCAL ROLE stellar_maintainer;

-- SQLSTATE SM403: over quota; DETAIL is {"used": n, "limit": n}.
CREATE FUNCTION stellar.memories_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    batch record;
    counted stellar.usage;
BEGIN
    FOR batch IN SELECT i.user_id, count(*)::integer AS n FROM inserted i GROUP BY i.user_id ORDER BY i.user_id LOOP
        UPDATE stellar.usage u
        SET memory_count = u.memory_count + batch.n, change_seq = u.change_seq + batch.n
        WHERE u.user_id = batch.user_id
        RETURNING u.* INTO counted;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the tenant is being erased' USING ERRCODE = 'SM410';
        END IF;
        IF counted.memory_limit >= 0 AND counted.memory_count > counted.memory_limit THEN
            RAISE EXCEPTION 'memory quota reached' USING
                ERRCODE = 'SM403',
                DETAIL = json_build_object('used', counted.memory_count - batch.n, 'limit', counted.memory_limit)::text;
        END IF;
        INSERT INTO stellar.changes (user_id, seq, op, memory_id, agent, key_id)
        SELECT batch.user_id, counted.change_seq - batch.n + row_number() OVER (ORDER BY i.created_at, i.id), 'store', i.id,
            i.agent, i.key_id
        FROM inserted i
        WHERE i.user_id = batch.user_id;
    END LOOP;
    RETURN NULL;
END
$$;

-- Only writes and moves are logged: never recall counts or scores. `move`: nothing but the zone differs. A write that
-- leaves a memory as it was is logged as well when its time or its agent is another one.
CREATE FUNCTION stellar.memories_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    batch record;
    last_seq bigint;
BEGIN
    FOR batch IN
        SELECT c.user_id, count(*)::integer AS n, array_agg(c.id ORDER BY c.id) AS ids,
            array_agg(CASE WHEN c.written THEN 'update' ELSE 'move' END ORDER BY c.id) AS ops
        FROM (
            SELECT n.user_id, n.id, o.zone <> n.zone AS moved,
                (o.content, o.metadata, o.importance, o.written_at, o.written_by)
                    IS DISTINCT FROM (n.content, n.metadata, n.importance, n.written_at, n.written_by) AS written
            FROM after_update n JOIN before_update o ON o.user_id = n.user_id AND o.id = n.id
        ) c
        WHERE c.written OR c.moved
        GROUP BY c.user_id ORDER BY c.user_id
    LOOP
        UPDATE stellar.usage u SET change_seq = u.change_seq + batch.n
        WHERE u.user_id = batch.user_id
        RETURNING u.change_seq INTO last_seq;
        CONTINUE WHEN NOT FOUND;
        INSERT INTO stellar.changes (user_id, seq, op, memory_id, agent, key_id)
        SELECT batch.user_id, last_seq - batch.n + c.position, c.op, c.id, nullif(current_setting('app.agent', true), ''),
            nullif(current_setting('app.key_id', true), '')::uuid
        FROM unnest(batch.ids, batch.ops) WITH ORDINALITY AS c (id, op, position);
    END LOOP;
    RETURN NULL;
END
$$;

-- A missing usage row means that the whole tenant is being erased: nothing to count, nobody to tell.
CREATE FUNCTION stellar.memories_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    batch record;
    last_seq bigint;
BEGIN
    FOR batch IN
        SELECT d.user_id, count(*)::integer AS n, array_agg(d.id ORDER BY d.id) AS ids
        FROM deleted d GROUP BY d.user_id ORDER BY d.user_id
    LOOP
        UPDATE stellar.usage u SET memory_count = u.memory_count - batch.n, change_seq = u.change_seq + batch.n
        WHERE u.user_id = batch.user_id
        RETURNING u.change_seq INTO last_seq;
        CONTINUE WHEN NOT FOUND;
        INSERT INTO stellar.changes (user_id, seq, op, memory_id, agent, key_id)
        SELECT batch.user_id, last_seq - batch.n + c.position, 'forget', c.id, nullif(current_setting('app.agent', true), ''),
            nullif(current_setting('app.key_id', true), '')::uuid
        FROM unnest(batch.ids) WITH ORDINALITY AS c (id, position);
    END LOOP;
    RETURN NULL;
END
$$;

-- Forgets one memory of the current tenant. False: the tenant has none of that id.
CREATE FUNCTION stellar.forget(memory uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM stellar.memories m WHERE m.user_id = stellar.current_tenant() AND m.id = memory;
    RETURN FOUND;
END
$$;

-- Prunes what is kept for a bounded time, at most `batch` rows of each kind. Returns how many rows went.
CREATE FUNCTION stellar.prune(keep_changes interval, keep_audit interval, batch integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone bigint := 0;
    n bigint;
BEGIN
    -- The newest entry of each tenant stays: the log's end must be readable from the log.
    DELETE FROM stellar.changes c WHERE c.ctid = ANY (ARRAY(
        SELECT old.ctid FROM stellar.changes old JOIN stellar.usage u ON u.user_id = old.user_id
        WHERE old.at < now() - keep_changes AND old.seq < u.change_seq ORDER BY old.at LIMIT batch));
    GET DIAGNOSTICS n = ROW_COUNT;
    gone := gone + n;
    DELETE FROM stellar.operations o WHERE o.ctid = ANY (ARRAY(
        SELECT old.ctid FROM stellar.operations old WHERE old.expires_at < now() LIMIT batch));
    GET DIAGNOSTICS n = ROW_COUNT;
    gone := gone + n;
    DELETE FROM stellar.audit a WHERE a.ctid = ANY (ARRAY(
        SELECT old.ctid FROM stellar.audit old WHERE old.at < now() - keep_audit LIMIT batch));
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN gone + n;
END
$$;

GRANT EXECUTE ON FUNCTION stellar.memories_inserted(), stellar.memories_updated(), stellar.memories_deleted() TO stellar_owner;
RESET ROLE;

SET LOCAL ROLE stellar_owner;
CREATE TRIGGER memories_inserted AFTER INSERT ON stellar.memories
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION stellar.memories_inserted();
CREATE TRIGGER memories_updated AFTER UPDATE ON stellar.memories
    REFERENCING OLD TABLE AS before_update NEW TABLE AS after_update
    FOR EACH STATEMENT EXECUTE FUNCTION stellar.memories_updated();
CREATE TRIGGER memories_deleted AFTER DELETE ON stellar.memories
    REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION stellar.memories_deleted();
RESET ROLE;
