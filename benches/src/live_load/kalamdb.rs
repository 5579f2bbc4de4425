//! KalamDB: feeds over SSE.

use std::io;
use std::path::Path;
use std::process::Command;

use jsonwebtoken::{EncodingKey, Header};
use kalamdb_engine::{Clock, SystemClock};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::process::Process;
use crate::http::{Connection, basic, open_stream};

const PASSWORD: &str = "a password for a benchmark";
const SECRET: &str = "a secret for a benchmark that is long enough";

/// A server and what it is asked.
#[derive(Debug)]
pub struct Kalamdb {
    pub process: Process,
}

impl Kalamdb {
    /// Starts a server and creates the tables.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(binary: &Path, directory: TempDir) -> io::Result<Self> {
        let mut command = Command::new(binary);
        command.arg("serve").arg("--data").arg(directory.path().join("data"));
        command.args(["--listen", "127.0.0.1:0"]);
        command.env("KALAMDB_ROOT_PASSWORD", PASSWORD).env("KALAMDB_AUTH_JWT_SECRET", SECRET);
        let server = Self { process: Process::announced(command, directory)? };
        let mut root = server.connection().await?;
        for sql in [
            "CREATE NAMESPACE bench",
            "CREATE SHARED TABLE bench.t (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), sent BIGINT, body TEXT)",
            "CREATE USER TABLE bench.u (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), sent BIGINT, body TEXT)",
            "CREATE STREAM TABLE bench.s (sent BIGINT, body TEXT) WITH (retention = '5s', max_buffer = 100000)",
            "CREATE STREAM TABLE bench.e (sent BIGINT, body TEXT) WITH (retention = '5s', ephemeral = true)",
        ] {
            root.sql(sql).await?;
        }
        Ok(server)
    }

    fn address(&self) -> &str {
        &self.process.address
    }

    /// A connection of `root`.
    ///
    /// # Errors
    /// From the network.
    pub async fn connection(&self) -> io::Result<Connection> {
        Connection::open(self.address(), &basic(&format!("root:{PASSWORD}"))).await
    }

    /// A connection of some user.
    ///
    /// # Errors
    /// From the network.
    pub async fn connection_of(&self, user: &str) -> io::Result<Connection> {
        Connection::open(self.address(), &format!("Authorization: Bearer {}\r\n", token(user)?)).await
    }

    /// Inserts a row.
    ///
    /// # Errors
    /// From the network, or the server's answer.
    pub async fn write(&self, by: &mut Connection, table: &str, sent: u64, body: &str) -> io::Result<()> {
        let json = format!(
            r#"{{"sql":"INSERT INTO bench.{table} (sent, body) VALUES ($1, $2)","params":[{sent},"{body}"]}}"#
        );
        by.post("/api/sql", &json).await.map(drop)
    }

    /// Opens a feed of a user on a table, and waits until it begins.
    ///
    /// # Errors
    /// From the network, or the server's answer.
    pub async fn subscribe(
        &self,
        user: Option<&str>,
        table: &str,
        receive_buffer: Option<u32>,
    ) -> io::Result<(TcpStream, Vec<u8>)> {
        let authorization = match user {
            Some(user) => format!("Authorization: Bearer {}\r\n", token(user)?),
            None => basic(&format!("root:{PASSWORD}")),
        };
        let request = format!(
            "GET /api/live?snapshot=false&sql=SELECT%20sent,%20body%20FROM%20bench.{table} HTTP/1.1\r\nHost: {}\r\n{authorization}\r\n",
            self.address()
        );
        open_stream(self.address(), &request, "event: ready\n", receive_buffer).await
    }
}

/// What a login would give to a user.
fn token(user: &str) -> io::Result<String> {
    let now = SystemClock.now_micros() / 1_000_000;
    let claims = serde_json::json!({"sub": user, "iat": now, "exp": now + 86_400});
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
        .map_err(io::Error::other)
}
