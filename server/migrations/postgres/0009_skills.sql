-- Skills of tenants, in versions that never change. The content is JSON, as it is checked and digested.
CREATE TABLE skills (
    tenant_id   TEXT NOT NULL REFERENCES tenants (tenant_id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    version     BIGINT NOT NULL,
    description TEXT NOT NULL,
    digest      TEXT NOT NULL,
    files       BIGINT NOT NULL,
    bytes       BIGINT NOT NULL,
    content     TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, name, version)
);
-- The last number that a version of a skill had. It stays when the skill is deleted: a number never means two contents.
CREATE TABLE skill_numbers (
    tenant_id TEXT NOT NULL REFERENCES tenants (tenant_id) ON DELETE CASCADE,
    name      TEXT NOT NULL,
    last      BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
