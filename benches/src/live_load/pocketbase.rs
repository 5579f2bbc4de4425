//! PocketBase: realtime subscriptions over SSE.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::process::{Process, free_port};
use crate::http::{Connection, find, open_stream};

const EMAIL: &str = "bench@example.com";
const PASSWORD: &str = "a password for a benchmark";

/// A server with one collection that everybody may read and write.
#[derive(Debug)]
pub struct Pocketbase {
    process: Process,
}

impl Pocketbase {
    /// Starts a server and creates the collection.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(binary: &Path, directory: TempDir) -> io::Result<Self> {
        let data = directory.path().join("data");
        let mut admin = Command::new(binary);
        admin.args(["superuser", "upsert", EMAIL, PASSWORD, "--dir"]).arg(&data);
        let made = admin.stdin(Stdio::null()).output()?;
        if !made.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(binary);
        command.args(["serve", "--http", &address, "--dir"]).arg(&data);
        let server = Self { process: Process::listening(command, address, directory)? };
        let login = json!({"identity": EMAIL, "password": PASSWORD}).to_string();
        let mut connection = server.connection().await?;
        let answer = connection.post("/api/collections/_superusers/auth-with-password", &login).await?;
        let answer: Value = serde_json::from_slice(answer)?;
        let token = answer["token"].as_str().unwrap_or_default();
        let mut admin =
            Connection::open(&server.process.address, &format!("Authorization: {token}\r\n")).await?;
        let collection = json!({
            "name": "t", "type": "base", "listRule": "", "viewRule": "", "createRule": "",
            "fields": [{"name": "sent", "type": "number"}, {"name": "body", "type": "text"}],
        });
        admin.post("/api/collections", &collection.to_string()).await?;
        Ok(server)
    }

    /// A connection of nobody in particular.
    ///
    /// # Errors
    /// From the network.
    pub async fn connection(&self) -> io::Result<Connection> {
        Connection::open(&self.process.address, "").await
    }

    /// Creates a record.
    ///
    /// # Errors
    /// From the network, or the server's answer.
    pub async fn write(&self, by: &mut Connection, sent: u64, body: &str) -> io::Result<()> {
        let json = format!(r#"{{"sent":{sent},"body":"{body}"}}"#);
        by.post("/api/collections/t/records", &json).await.map(drop)
    }

    /// A realtime connection that is subscribed to the collection.
    ///
    /// # Errors
    /// From the network, or the server's answer.
    pub async fn subscribe(&self) -> io::Result<(TcpStream, Vec<u8>)> {
        let address = &self.process.address;
        let request = format!("GET /api/realtime HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let (mut stream, mut rest) = open_stream(address, &request, "\"clientId\":\"", None).await?;
        let id = loop {
            if let Some(end) = find(&rest, b"\"") {
                break String::from_utf8_lossy(&rest[..end]).into_owned();
            }
            stream.read_buf(&mut rest).await?;
        };
        let asked = json!({"clientId": id, "subscriptions": ["t/*"]}).to_string();
        self.connection().await?.post("/api/realtime", &asked).await?;
        Ok((stream, rest))
    }
}
