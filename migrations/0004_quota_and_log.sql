-- Quota and change log, as statement-level triggers: count, limit and change_seq move in one row update together
-- with the rows, so a bulk insert over the quota fails whole and the log has no gap. What a tenant writes without storing
-- more memories (log, kept answers, audit) is bounded as it is written: no tenant fills the disk of all within its quota.
SET LOCAL ROLE stellar_maintainer;

-- How many log entries, and how many answers, are kept at most of a tenant that may store this many memories.
CREATE FUNCTION stellar.entries_kept(memory_limit integer) RETURNS bigint
LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE WHEN memory_limit < 0 THEN 10000000 ELSE greatest(50000, 10 * memory_limit::bigint) END
$$;

-- Takes the oldest entries out of a log that has become too long by these `added` ones. Only once in 256 entries, so that most
-- writes pay nothing, and then at most twice as many as were added since: so no write takes long after a limit was lowered.
CREATE FUNCTION stellar.log_trim(tenant uuid, last_seq bigint, added integer, memory_limit integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF last_seq / 256 > (last_seq - added) / 256 THEN
        DELETE FROM stellar.changes c WHERE c.ctid = ANY (ARRAY(
            SELECT surplus.ctid FROM stellar.changes surplus
            WHERE surplus.user_id = tenant AND surplus.seq <= last_seq - stellar.entries_kept(memory_limit)
            ORDER BY surplus.seq LIMIT 2 * (added + 256)));
    END IF;
END
$$;

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
        PERFORM stellar.log_trim(batch.user_id, counted.change_seq, batch.n, counted.memory_limit);
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
    counted stellar.usage;
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
        RETURNING u.* INTO counted;
        CONTINUE WHEN NOT FOUND;
        INSERT INTO stellar.changes (user_id, seq, op, memory_id, agent, key_id)
        SELECT batch.user_id, counted.change_seq - batch.n + c.position, c.op, c.id,
            nullif(current_setting('app.agent', true), ''), nullif(current_setting('app.key_id', true), '')::uuid
        FROM unnest(batch.ids, batch.ops) WITH ORDINALITY AS c (id, op, position);
        PERFORM stellar.log_trim(batch.user_id, counted.change_seq, batch.n, counted.memory_limit);
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
    counted stellar.usage;
BEGIN
    FOR batch IN
        SELECT d.user_id, count(*)::integer AS n, array_agg(d.id ORDER BY d.id) AS ids
        FROM deleted d GROUP BY d.user_id ORDER BY d.user_id
    LOOP
        UPDATE stellar.usage u SET memory_count = u.memory_count - batch.n, change_seq = u.change_seq + batch.n
        WHERE u.user_id = batch.user_id
        RETURNING u.* INTO counted;
        CONTINUE WHEN NOT FOUND;
        INSERT INTO stellar.changes (user_id, seq, op, memory_id, agent, key_id)
        SELECT batch.user_id, counted.change_seq - batch.n + c.position, 'forget', c.id,
            nullif(current_setting('app.agent', true), ''), nullif(current_setting('app.key_id', true), '')::uuid
        FROM unnest(batch.ids) WITH ORDINALITY AS c (id, position);
        PERFORM stellar.log_trim(batch.user_id, counted.change_seq, batch.n, counted.memory_limit);
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

-- Counts kept answers, and takes the oldest away when there are too many: at most entries_kept() stay and at least nine
-- tenths of that, as answer_marks tells. So it neither counts nor sorts the rows. As log_trim: once in 256 answers, and at most
-- twice as many as were added since.
CREATE FUNCTION stellar.operations_kept() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    batch record;
    counted stellar.usage;
BEGIN
    FOR batch IN SELECT k.user_id, count(*)::integer AS n FROM kept k GROUP BY k.user_id ORDER BY k.user_id LOOP
        UPDATE stellar.usage u SET answers_kept = u.answers_kept + batch.n
        WHERE u.user_id = batch.user_id
        RETURNING u.* INTO counted;
        CONTINUE WHEN NOT FOUND;
        IF cardinality(counted.answer_marks) = 10 AND counted.answers_kept / 256 > (counted.answers_kept - batch.n) / 256 THEN
            DELETE FROM stellar.operations o WHERE o.ctid = ANY (ARRAY(
                SELECT surplus.ctid FROM stellar.operations surplus
                WHERE surplus.user_id = batch.user_id
                    AND surplus.expires_at <= counted.answer_marks[1] + interval '24 hours'
                ORDER BY surplus.expires_at LIMIT 2 * (batch.n + 256)));
        END IF;
        IF counted.answers_kept >= stellar.entries_kept(counted.memory_limit) / 10 THEN
            UPDATE stellar.usage u SET answers_kept = 0,
                answer_marks = (u.answer_marks || now())[greatest(1, cardinality(u.answer_marks) - 8):]
            WHERE u.user_id = batch.user_id;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- Of a tenant's audit the newest 10,000 entries stay.
CREATE FUNCTION stellar.audit_added() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM stellar.audit a WHERE a.ctid = ANY (ARRAY(
        SELECT surplus.ctid
        FROM (SELECT DISTINCT n.user_id FROM added n) AS tenant
        CROSS JOIN LATERAL (
            SELECT x.ctid FROM stellar.audit x
            WHERE x.user_id = tenant.user_id ORDER BY x.at DESC, x.id DESC OFFSET 10000
        ) AS surplus));
    RETURN NULL;
END
$$;

-- Prunes what is kept for a bounded time, at most `batch` rows of each kind. Returns how many rows went. What somebody else
-- holds waits for the next time: it waits for no writer, so that no writer and it can wait for each other.
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
        WHERE old.at < now() - keep_changes AND old.seq < u.change_seq ORDER BY old.at LIMIT batch
        FOR UPDATE OF old SKIP LOCKED));
    GET DIAGNOSTICS n = ROW_COUNT;
    gone := gone + n;
    DELETE FROM stellar.operations o WHERE o.ctid = ANY (ARRAY(
        SELECT old.ctid FROM stellar.operations old WHERE old.expires_at < now() ORDER BY old.expires_at LIMIT batch
        FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS n = ROW_COUNT;
    gone := gone + n;
    DELETE FROM stellar.audit a WHERE a.ctid = ANY (ARRAY(
        SELECT old.ctid FROM stellar.audit old WHERE old.at < now() - keep_audit ORDER BY old.at LIMIT batch
        FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN gone + n;
END
$$;

-- For how many seconds the oldest row that prune() should take has been waiting for it; 0 when there is none.
CREATE FUNCTION stellar.prune_lag(keep_changes interval, keep_audit interval) RETURNS double precision
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT extract(epoch FROM greatest(interval '0',
        (SELECT now() - keep_changes - old.at FROM stellar.changes old JOIN stellar.usage u ON u.user_id = old.user_id
            WHERE old.at < now() - keep_changes AND old.seq < u.change_seq ORDER BY old.at LIMIT 1),
        (SELECT now() - min(old.expires_at) FROM stellar.operations old),
        (SELECT now() - keep_audit - min(old.at) FROM stellar.audit old)))::double precision
$$;

GRANT EXECUTE ON FUNCTION stellar.memories_inserted(), stellar.memories_updated(), stellar.memories_deleted(),
    stellar.operations_kept(), stellar.audit_added() TO stellar_owner;
RESET ROLE;

SET LOCAL ROLE stellar_owner;
CREATE TRIGGER memories_inserted AFTER INSERT ON stellar.memories
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION stellar.memories_inserted();
CREATE TRIGGER memories_updated AFTER UPDATE ON stellar.memories
    REFERENCING OLD TABLE AS before_update NEW TABLE AS after_update
    FOR EACH STATEMENT EXECUTE FUNCTION stellar.memories_updated();
CREATE TRIGGER memories_deleted AFTER DELETE ON stellar.memories
    REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION stellar.memories_deleted();
CREATE TRIGGER operations_kept AFTER INSERT ON stellar.operations
    REFERENCING NEW TABLE AS kept FOR EACH STATEMENT EXECUTE FUNCTION stellar.operations_kept();
CREATE TRIGGER audit_added AFTER INSERT ON stellar.audit
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION stellar.audit_added();
RESET ROLE;
