CREATE NAMESPACE IF NOT EXISTS chat;

-- Every user has a partition of their own: nobody else can read it, whatever they ask.
CREATE USER TABLE IF NOT EXISTS chat.messages (
    id     BIGINT PRIMARY KEY,
    peer   TEXT NOT NULL,
    sender TEXT NOT NULL,
    body   TEXT NOT NULL,
    at     TIMESTAMP NOT NULL DEFAULT NOW()
);

-- Who is typing matters for a few seconds, to whoever looks. Nothing of it is written to disk.
CREATE STREAM TABLE IF NOT EXISTS chat.typing (who TEXT NOT NULL, peer TEXT NOT NULL)
    WITH (retention = '3s', max_buffer = 1000, ephemeral = true);

CREATE USER 'ann' WITH PASSWORD 'ann likes tea' ROLE user;
CREATE USER 'bob' WITH PASSWORD 'bob likes rain' ROLE user;
CREATE USER 'post' WITH PASSWORD 'the postman rings twice' ROLE service;
