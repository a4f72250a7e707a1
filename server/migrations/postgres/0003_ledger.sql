-- What runs of deleted conversations have used: numbers only. Days are counted from 1970-01-01, UTC; costs are decimal texts, USD.
CREATE TABLE usage_ledger (
    tenant_id                TEXT NOT NULL REFERENCES tenants (tenant_id) ON DELETE CASCADE,
    model_id                 TEXT NOT NULL,
    day                      BIGINT NOT NULL,
    runs                     BIGINT NOT NULL,
    input_tokens             BIGINT NOT NULL,
    output_tokens            BIGINT NOT NULL,
    cache_creation_5m_tokens BIGINT NOT NULL,
    cache_creation_1h_tokens BIGINT NOT NULL,
    cache_read_tokens        BIGINT NOT NULL,
    cost_usd                 TEXT NOT NULL,
    PRIMARY KEY (tenant_id, model_id, day)
);
