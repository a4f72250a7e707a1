-- Costs are decimal texts, USD.
CREATE TABLE runs (
    run_id                   TEXT PRIMARY KEY,
    conversation_id          TEXT NOT NULL REFERENCES conversations (conversation_id) ON DELETE CASCADE,
    model_id                 TEXT NOT NULL,
    status                   TEXT NOT NULL,
    input_tokens             BIGINT NOT NULL,
    output_tokens            BIGINT NOT NULL,
    cache_creation_5m_tokens BIGINT NOT NULL,
    cache_creation_1h_tokens BIGINT NOT NULL,
    cache_read_tokens        BIGINT NOT NULL,
    cost_usd                 TEXT NOT NULL,
    turn_count               BIGINT NOT NULL,
    duration_ms              BIGINT NOT NULL,
    began_at                 BIGINT NOT NULL,
    ended_at                 BIGINT NOT NULL
);

CREATE INDEX runs_by_conversation ON runs (conversation_id, began_at);
