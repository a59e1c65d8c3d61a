-- When two write the same memory the last write wins, so each memory knows its last write. And a change of zone alone,
-- which nobody wrote, is told apart from an update.
SET LOCAL ROLE stellar_owner;

ALTER TABLE stellar.memories
    ADD COLUMN written_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN written_by text;
-- See 0002: statistics would answer questions about other tenants.
ALTER TABLE stellar.memories
    ALTER COLUMN written_at SET STATISTICS 0,
    ALTER COLUMN written_by SET STATISTICS 0;
COMMENT ON COLUMN stellar.memories.written_at IS
    'the time of the last write, by which the next one wins or not; of memories from before this column, when it was added';
COMMENT ON COLUMN stellar.memories.written_by IS 'the agent of the last write: of two at the same time the larger name wins';
GRANT INSERT (written_at, written_by), UPDATE (written_at, written_by) ON stellar.memories TO stellar_tenants, stellar_pool;

ALTER TABLE stellar.changes
    DROP CONSTRAINT changes_op_check,
    ADD CONSTRAINT changes_op_check CHECK (op IN ('store', 'update', 'move', 'forget'));

GRANT CREATE ON SCHEMA stellar TO stellar_maintainer;
RESET ROLE;
SET LOCAL ROLE stellar_maintainer;

-- Only writes and moves are logged: never recall counts or scores. `move`: nothing but the zone differs. A write that
-- leaves a memory as it was is logged as well when its time or its agent is another one.
CREATE OR REPLACE FUNCTION stellar.memories_updated() RETURNS trigger
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

RESET ROLE;
SET LOCAL ROLE stellar_owner;
REVOKE CREATE ON SCHEMA stellar FROM stellar_maintainer;
RESET ROLE;
