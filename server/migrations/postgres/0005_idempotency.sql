-- Answers to requests with Idempotency-Key. `slot` and `body` are hashes, `body` with the key in it: who has no key learns nothing of
-- the body. Times are microseconds since the epoch. A row without a tenant is of operators.
CREATE TABLE idempotency (
    slot       TEXT PRIMARY KEY,
    tenant_id  TEXT REFERENCES tenants (tenant_id) ON DELETE CASCADE,
    -- The request: a hash of its method and path, and of its body once that was read.
    route      TEXT NOT NULL,
    body       TEXT,
    -- Who is working on it, and when that was last confirmed.
    claim      TEXT NOT NULL,
    claimed_at BIGINT NOT NULL,
    -- The run that it starts, written down before it starts.
    run_id     TEXT,
    -- The answer; no status: there is none yet. No answer with a status: it is too long to be kept.
    status     BIGINT,
    headers    TEXT,
    answer     TEXT,
    bytes      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX idempotency_by_end ON idempotency (expires_at);
CREATE INDEX idempotency_by_owner ON idempotency (COALESCE(tenant_id, ''), bytes);
