-- Keys that are created at run time. A key itself is never stored, only its SHA-256 in hexadecimal digits. Times are microseconds since
-- the epoch; scopes are words separated by spaces. A row without a tenant is an operator's key.
CREATE TABLE api_keys (
    key_id       TEXT PRIMARY KEY,
    tenant_id    TEXT REFERENCES tenants (tenant_id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    prefix       TEXT NOT NULL,
    hash         TEXT NOT NULL UNIQUE,
    scopes       TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    last_used_at BIGINT,
    revoked_at   BIGINT,
    -- Number of the change that wrote the row last.
    change       BIGINT NOT NULL
);

CREATE INDEX api_keys_by_owner ON api_keys (COALESCE(tenant_id, ''), created_at);
CREATE INDEX api_keys_by_change ON api_keys (change);

-- One row, by which servers notice that keys have changed. `deletions` counts changes that removed rows. `required` is 1 once an
-- operator's key has been created: from then on every request needs a key.
CREATE TABLE api_key_state (
    id        BIGINT PRIMARY KEY,
    changes   BIGINT NOT NULL,
    deletions BIGINT NOT NULL,
    required  BIGINT NOT NULL
);

INSERT INTO api_key_state (id, changes, deletions, required) VALUES (1, 0, 0, 0);
