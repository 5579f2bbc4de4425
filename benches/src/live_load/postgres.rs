//! PostgreSQL: LISTEN and NOTIFY, with as much of its protocol as that takes.

use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::{Process, free_port};

/// A server; every row that is inserted is notified in the same transaction.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Postgres {
    /// Makes a cluster, starts its server and creates the table. `bin` holds `initdb` and `postgres`. PostgreSQL refuses
    /// to run as root: then it runs as the user and group 65534.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(bin: &Path, directory: TempDir) -> io::Result<Self> {
        let as_root =
            std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
        let command = |name: &str| {
            let mut command = Command::new(bin.join(name));
            if as_root {
                command.uid(65534).gid(65534);
            }
            command.current_dir("/");
            command
        };
        if as_root {
            chown(directory.path(), Some(65534), Some(65534))?;
        }
        let cluster = directory.path().join("cluster");
        let mut initdb = command("initdb");
        initdb.args(["-A", "trust", "-U", "postgres", "-D"]).arg(&cluster);
        let made = initdb.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
        if !made.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        let port = free_port()?;
        let mut postgres = command("postgres");
        postgres.arg("-D").arg(&cluster).args(["-p", &port.to_string(), "-k", ""]);
        postgres.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=1100"]);
        let server = Self { process: Process::listening(postgres, format!("127.0.0.1:{port}"), directory)? };
        let mut session = server.connect().await?;
        session.query("CREATE TABLE t (id BIGSERIAL PRIMARY KEY, sent BIGINT, body TEXT)").await?;
        Ok(server)
    }

    /// Connects; waits while the server is starting.
    ///
    /// # Errors
    /// From the network or the server.
    pub async fn connect(&self) -> io::Result<Session> {
        for _ in 0..100 {
            match Session::open(&self.process.address).await {
                Err(error) if error.to_string().contains("starting up") => {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                other => return other,
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// A session that listens.
    ///
    /// # Errors
    /// From the network or the server.
    pub async fn subscribe(&self) -> io::Result<(TcpStream, Vec<u8>)> {
        let mut session = self.connect().await?;
        session.query("LISTEN t").await?;
        Ok((session.stream, session.buffer))
    }
}

impl Session {
    async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream, buffer: Vec::new() };
        let mut startup = 196_608_i32.to_be_bytes().to_vec();
        startup.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
        session.send(None, &startup).await?;
        session.until_ready().await?;
        Ok(session)
    }

    /// Inserts a row and notifies of it, in one transaction.
    ///
    /// # Errors
    /// From the network or the server.
    pub async fn write(&mut self, sent: u64, body: &str) -> io::Result<()> {
        let sql = format!(
            "INSERT INTO t (sent, body) VALUES ({sent}, '{body}'); NOTIFY t, '{{\"sent\":{sent},\"body\":\"{body}\"}}'"
        );
        self.query(&sql).await
    }

    async fn query(&mut self, sql: &str) -> io::Result<()> {
        self.send(Some(b'Q'), &[sql.as_bytes(), b"\0"].concat()).await?;
        self.until_ready().await
    }

    async fn send(&mut self, kind: Option<u8>, body: &[u8]) -> io::Result<()> {
        let length = i32::try_from(body.len() + 4).map_err(io::Error::other)?;
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        self.stream.write_all(&message).await
    }

    /// Reads messages until the server is ready for the next query.
    async fn until_ready(&mut self) -> io::Result<()> {
        loop {
            while let Some(length) = self.buffer.get(1..5).and_then(|bytes| bytes.try_into().ok()) {
                let whole = u32::from_be_bytes(length) as usize + 1;
                if self.buffer.len() < whole {
                    break;
                }
                let message: Vec<u8> = self.buffer.drain(..whole).collect();
                match message[0] {
                    b'E' => return Err(io::Error::other(String::from_utf8_lossy(&message).into_owned())),
                    b'Z' => return Ok(()),
                    _ => {}
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
