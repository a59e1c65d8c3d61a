-- The tables. Every key of a table that holds tenants' rows starts with user_id: a unique violation then tells
-- nothing about another tenant. api_keys.key_hash is the one exception (a key must find its tenant).
SET LOCAL ROLE stellar_owner;

CREATE TABLE stellar.tiers (
    name text PRIMARY KEY,
    placement text NOT NULL CHECK (placement IN ('pooled', 'dedicated')),
    max_memories integer NOT NULL CHECK (max_memories >= -1),
    max_agents integer NOT NULL CHECK (max_agents >= -1),
    max_api_keys integer NOT NULL CHECK (max_api_keys >= -1),
    requests_per_minute integer NOT NULL CHECK (requests_per_minute >= 1),
    max_sockets integer NOT NULL DEFAULT 5 CHECK (max_sockets >= -1),
    socket_messages_per_second integer NOT NULL DEFAULT 10 CHECK (socket_messages_per_second >= 1)
);
COMMENT ON TABLE stellar.tiers IS 'The Tier resources, as the operator saw them last. -1 means no limit.';

CREATE TABLE stellar.users (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    tier text NOT NULL,
    placement text NOT NULL DEFAULT 'pooled' CHECK (placement IN ('pooled', 'dedicated')),
    endpoint text,
    suspended boolean NOT NULL DEFAULT false,
    role_name text NOT NULL GENERATED ALWAYS AS ('t_' || replace(id::text, '-', '')) STORED UNIQUE,
    max_agents integer NOT NULL DEFAULT 1,
    max_api_keys integer NOT NULL DEFAULT 5,
    requests_per_minute integer NOT NULL DEFAULT 60,
    max_sockets integer NOT NULL DEFAULT 5 CHECK (max_sockets >= -1),
    socket_messages_per_second integer NOT NULL DEFAULT 10 CHECK (socket_messages_per_second >= 1),
    capability_generation integer NOT NULL DEFAULT 1,
    capability_hash bytea CHECK (octet_length(capability_hash) = 32),
    capability_hash_previous bytea CHECK (octet_length(capability_hash_previous) = 32),
    capability_previous_until timestamptz,
    pool_access_until timestamptz,
    role_access_until timestamptz,
    retired_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((placement = 'dedicated') = (endpoint IS NOT NULL))
);
COMMENT ON TABLE stellar.users IS 'The tenants. Identity, effective limits, and where each is served.';
COMMENT ON COLUMN stellar.users.endpoint IS 'host:port of the dedicated engine; NULL while pooled';
COMMENT ON COLUMN stellar.users.pool_access_until IS 'the pooled engine still serves this dedicated tenant until then';
COMMENT ON COLUMN stellar.users.role_access_until IS 'the tenant''s own role still opens (or already opens) this pooled tenant until then';
COMMENT ON COLUMN stellar.users.capability_previous_until IS 'the capability of the generation before still opens until then';
COMMENT ON COLUMN stellar.users.retired_at IS 'the Tenant was deleted with policy Retain: rows stay, nobody is served';

CREATE TABLE stellar.usage (
    user_id uuid PRIMARY KEY REFERENCES stellar.users (id) ON DELETE CASCADE,
    memory_count integer NOT NULL DEFAULT 0,
    memory_limit integer NOT NULL CHECK (memory_limit >= -1),
    change_seq bigint NOT NULL DEFAULT 0,
    answers_kept bigint NOT NULL DEFAULT 0,
    answer_marks timestamptz[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
COMMENT ON TABLE stellar.usage IS 'One row a tenant: quota and gapless log counter, moved together by the triggers.';
COMMENT ON COLUMN stellar.usage.answers_kept IS 'rows of operations that were added since the newest mark';
COMMENT ON COLUMN stellar.usage.answer_marks IS
    'when each of the newest ten tenths of the answers that may be kept was full: older ones than the first of ten go';

CREATE TABLE stellar.api_keys (
    user_id uuid NOT NULL REFERENCES stellar.users (id) ON DELETE CASCADE,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    agent text NOT NULL CHECK (agent ~ '^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$'),
    key_hash bytea NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    prefix text NOT NULL,
    managed boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    PRIMARY KEY (user_id, id)
);
COMMENT ON COLUMN stellar.api_keys.managed IS 'made by the operator, its text is in the tenant''s Secret';

CREATE TABLE stellar.memories (
    user_id uuid NOT NULL REFERENCES stellar.users (id) ON DELETE CASCADE,
    id uuid NOT NULL,
    content text NOT NULL CHECK (char_length(content) BETWEEN 1 AND 10000),
    metadata jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    session text,
    speaker text,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    source text,
    agent text,
    key_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    written_at timestamptz NOT NULL DEFAULT now(),
    written_by text,
    last_recalled_at timestamptz,
    recall_count integer NOT NULL DEFAULT 0 CHECK (recall_count >= 0),
    importance real NOT NULL DEFAULT 0.5 CHECK (importance BETWEEN 0 AND 1),
    emotion text,
    zone smallint NOT NULL CHECK (zone BETWEEN 0 AND 4),
    total_score real NOT NULL,
    embedding bytea,
    embedding_version smallint,
    index_row bytea,
    index_version smallint,
    PRIMARY KEY (user_id, id)
);
CREATE INDEX memories_by_zone ON stellar.memories (user_id, zone);
CREATE INDEX memories_by_score ON stellar.memories (user_id, total_score DESC, id DESC);
CREATE INDEX memories_by_time ON stellar.memories (user_id, occurred_at, id);
COMMENT ON COLUMN stellar.memories.written_at IS 'the time of the last write, by which the next one wins or not';
COMMENT ON COLUMN stellar.memories.written_by IS 'the agent of the last write: of two at the same time the larger name wins';
COMMENT ON COLUMN stellar.memories.total_score IS
    'the score free of time: what it would be at 2025-01-01; when read it falls by 0.30 / 90 a day';
COMMENT ON COLUMN stellar.memories.embedding IS 'int8 vector, its meaning given by embedding_version; NULL until computed';
COMMENT ON COLUMN stellar.memories.index_row IS 'compact index entry, its meaning given by index_version; NULL until computed';

CREATE TABLE stellar.changes (
    user_id uuid NOT NULL REFERENCES stellar.users (id) ON DELETE CASCADE,
    seq bigint NOT NULL,
    op text NOT NULL CHECK (op IN ('store', 'update', 'move', 'forget')),
    memory_id uuid NOT NULL,
    agent text,
    key_id uuid,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, seq)
);
CREATE INDEX changes_by_age ON stellar.changes (at);
-- Finds the removal of a memory whose id is stored again.
CREATE INDEX changes_forgotten ON stellar.changes (user_id, memory_id) WHERE op = 'forget';
COMMENT ON TABLE stellar.changes IS 'A tenant''s log, kept for a bounded time. seq has no gaps, save that its oldest entries are pruned.';
COMMENT ON COLUMN stellar.changes.key_id IS 'the API key (its id) that it was done with, for the audit';

CREATE TABLE stellar.operations (
    user_id uuid NOT NULL REFERENCES stellar.users (id) ON DELETE CASCADE,
    op_id text NOT NULL CHECK (char_length(op_id) BETWEEN 1 AND 255),
    request_hash bytea NOT NULL CHECK (octet_length(request_hash) = 32),
    answer jsonb NOT NULL,
    expires_at timestamptz NOT NULL DEFAULT now() + interval '24 hours',
    PRIMARY KEY (user_id, op_id)
);
CREATE INDEX operations_by_age ON stellar.operations (expires_at);
CREATE INDEX operations_of_tenant_by_age ON stellar.operations (user_id, expires_at);
COMMENT ON TABLE stellar.operations IS 'Answers already given, by Idempotency-Key or op_id, so that a retry is answered and not repeated.';

CREATE TABLE stellar.audit (
    user_id uuid NOT NULL REFERENCES stellar.users (id) ON DELETE CASCADE,
    at timestamptz NOT NULL DEFAULT now(),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    agent text,
    key_id uuid,
    what text NOT NULL CHECK (what ~ '^[a-z]+(-[a-z]+)*$'),
    detail jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(detail) = 'object'),
    PRIMARY KEY (user_id, at, id)
);
CREATE INDEX audit_by_age ON stellar.audit (at);
COMMENT ON TABLE stellar.audit IS
    'What was done to a tenant rather than to a memory of it: keys, tier, placement. With `changes` it is all that was done.';

CREATE TABLE stellar.gateways (
    id uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE stellar.gateways IS 'The live gateways: each enforces a tenant''s request rate divided by their number.';

-- Planner statistics of these tables would answer questions about other tenants (EXPLAIN prints estimates).
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN
        SELECT a.attrelid::regclass AS relation, a.attname
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid IN (
                'stellar.memories'::regclass, 'stellar.changes'::regclass, 'stellar.usage'::regclass,
                'stellar.operations'::regclass, 'stellar.audit'::regclass, 'stellar.api_keys'::regclass
            )
            AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', c.relation, c.attname);
    END LOOP;
END
$$;

RESET ROLE;
