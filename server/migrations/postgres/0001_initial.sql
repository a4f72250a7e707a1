-- Times are microseconds since the epoch; prices are decimal texts, USD per 1,000 tokens.
CREATE TABLE models (
    model_id           TEXT PRIMARY KEY,
    display_name       TEXT NOT NULL,
    bedrock_model_id   TEXT NOT NULL,
    model_region       TEXT,
    context_window     BIGINT NOT NULL,
    max_output_tokens  BIGINT NOT NULL,
    input_token_price  TEXT NOT NULL,
    output_token_price TEXT NOT NULL,
    status             TEXT NOT NULL,
    created_at         BIGINT NOT NULL,
    updated_at         BIGINT NOT NULL
);

CREATE TABLE tenants (
    tenant_id     TEXT PRIMARY KEY,
    system_prompt TEXT,
    model_id      TEXT REFERENCES models (model_id),
    status        TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL
);

CREATE TABLE conversations (
    conversation_id          TEXT PRIMARY KEY,
    session_id               TEXT NOT NULL,
    tenant_id                TEXT NOT NULL REFERENCES tenants (tenant_id),
    user_id                  TEXT NOT NULL,
    model_id                 TEXT NOT NULL REFERENCES models (model_id),
    title                    TEXT,
    status                   TEXT NOT NULL,
    workspace_enabled        BOOLEAN NOT NULL,
    total_input_tokens       BIGINT NOT NULL DEFAULT 0,
    total_output_tokens      BIGINT NOT NULL DEFAULT 0,
    estimated_context_tokens BIGINT NOT NULL DEFAULT 0,
    context_limit_reached    BOOLEAN NOT NULL DEFAULT FALSE,
    created_at               BIGINT NOT NULL,
    updated_at               BIGINT NOT NULL
);

CREATE INDEX conversations_by_tenant ON conversations (tenant_id, created_at DESC, conversation_id);

CREATE TABLE messages (
    message_id      TEXT PRIMARY KEY,
    conversation_id TEXT NOT NULL REFERENCES conversations (conversation_id) ON DELETE CASCADE,
    message_seq     BIGINT NOT NULL,
    message_type    TEXT NOT NULL,
    message_subtype TEXT,
    content         TEXT NOT NULL,
    timestamp       BIGINT NOT NULL,
    UNIQUE (conversation_id, message_seq)
);
