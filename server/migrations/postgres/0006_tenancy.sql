-- Configurations of tenants and conversations, as JSON. Versions begin at 1; a missing row has version 0.
CREATE TABLE tenant_configurations (
    tenant_id  TEXT PRIMARY KEY REFERENCES tenants (tenant_id) ON DELETE CASCADE,
    version    BIGINT NOT NULL,
    document   TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE conversation_configurations (
    conversation_id TEXT PRIMARY KEY REFERENCES conversations (conversation_id) ON DELETE CASCADE,
    version         BIGINT NOT NULL,
    document        TEXT NOT NULL,
    updated_at      BIGINT NOT NULL
);

CREATE TABLE vaults (
    vault_id   TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL REFERENCES tenants (tenant_id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (tenant_id, name)
);

-- What a credential is for is in the open; the secret is sealed.
CREATE TABLE vault_credentials (
    credential_id TEXT PRIMARY KEY,
    vault_id      TEXT NOT NULL REFERENCES vaults (vault_id) ON DELETE CASCADE,
    name          TEXT NOT NULL,
    position      BIGINT NOT NULL,
    purpose       TEXT NOT NULL,
    sealed        TEXT NOT NULL,
    key_id        TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    UNIQUE (vault_id, name)
);

-- Counts changes of the above, so that every server notices them.
CREATE TABLE configuration_changes (
    only_row BIGINT PRIMARY KEY,
    number   BIGINT NOT NULL
);
INSERT INTO configuration_changes (only_row, number) VALUES (0, 0);
