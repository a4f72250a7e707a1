-- The log of conversations is in files of the server.

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
