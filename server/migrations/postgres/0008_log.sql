-- The log of conversations: for each run, the lines of its journal, which every server can read.
CREATE TABLE log_runs (
    run_id TEXT PRIMARY KEY,
    conversation_id TEXT NOT NULL REFERENCES conversations (conversation_id) ON DELETE CASCADE,
    -- The server process that adds to it.
    owner TEXT NOT NULL,
    -- The run has ended and is in the database.
    settled BOOLEAN NOT NULL DEFAULT FALSE,
    settled_at TIMESTAMPTZ,
    -- Size of its lines, once it is settled.
    bytes BIGINT NOT NULL DEFAULT 0,
    -- What was only of use while it was new has been removed.
    compacted BOOLEAN NOT NULL DEFAULT FALSE
);
CREATE INDEX log_runs_of_conversations ON log_runs (conversation_id, run_id);
CREATE INDEX log_runs_unsettled ON log_runs (run_id) WHERE NOT settled;

CREATE TABLE log_lines (
    run_id TEXT NOT NULL REFERENCES log_runs (run_id) ON DELETE CASCADE,
    line BIGINT NOT NULL,
    -- Name of the event; empty for what only servers read.
    event TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (run_id, line)
);

-- The driver's own memory of a conversation: what it has reported of its transcript, by which another workspace goes on.
CREATE TABLE transcripts (
    conversation_id TEXT PRIMARY KEY REFERENCES conversations (conversation_id) ON DELETE CASCADE,
    bytes           BIGINT NOT NULL,
    parts           BIGINT NOT NULL
);

CREATE TABLE transcript_parts (
    conversation_id TEXT NOT NULL REFERENCES transcripts (conversation_id) ON DELETE CASCADE,
    number          BIGINT NOT NULL,
    file            TEXT NOT NULL,
    lines           TEXT NOT NULL,
    PRIMARY KEY (conversation_id, number)
);
