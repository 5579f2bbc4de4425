//! The servers, as one type: start, subscribe, write.

use std::io;
use std::sync::Arc;

use futures::future::try_join_all;
use tokio::net::TcpStream;

use super::LiveLoad;
use super::feed::{Readers, Tally};
use super::kalamdb::Kalamdb;
use super::pocketbase::Pocketbase;
use super::postgres::{Postgres, Session};
use crate::http::Connection;
use crate::report::Outcome;

/// How many subscribers connect at a time.
const AT_A_TIME: usize = 50;

/// A server with a table `t`.
#[derive(Debug)]
pub enum Side {
    Kalamdb(Kalamdb),
    Postgres(Postgres),
    Pocketbase(Pocketbase),
}

/// A connection that writes.
#[derive(Debug)]
pub enum Writer {
    Kalamdb(Connection),
    Postgres(Session),
    Pocketbase(Connection),
}

impl Side {
    /// Starts every server that is compared, ours first.
    ///
    /// # Errors
    /// If one does not start.
    pub async fn all(load: &LiveLoad) -> Outcome<Vec<Self>> {
        let mut sides = vec![Self::Kalamdb(Kalamdb::start(&load.kalamdb, load.directory()?).await?)];
        if let Some(bin) = &load.postgres {
            sides.push(Self::Postgres(Postgres::start(bin, load.directory()?).await?));
        }
        if let Some(binary) = &load.pocketbase {
            sides.push(Self::Pocketbase(Pocketbase::start(binary, load.directory()?).await?));
        }
        Ok(sides)
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Kalamdb(_) => "KalamDB",
            Self::Postgres(_) => "PostgreSQL NOTIFY",
            Self::Pocketbase(_) => "PocketBase",
        }
    }

    /// A subscriber that gets every row that is written from now on.
    ///
    /// # Errors
    /// From the network or the server.
    pub async fn subscribe(&self) -> io::Result<(TcpStream, Vec<u8>)> {
        match self {
            Self::Kalamdb(server) => server.subscribe(None, "t", None).await,
            Self::Postgres(server) => server.subscribe().await,
            Self::Pocketbase(server) => server.subscribe().await,
        }
    }

    /// So many subscribers.
    ///
    /// # Errors
    /// From the network or the server.
    pub async fn subscribers(&self, count: usize, tally: &Arc<Tally>) -> io::Result<Readers> {
        let mut readers = Readers::start(tally)?;
        while readers.len() < count {
            let batch = AT_A_TIME.min(count - readers.len());
            for (stream, rest) in try_join_all((0..batch).map(|_| self.subscribe())).await? {
                readers.add(stream, rest)?;
            }
        }
        Ok(readers)
    }

    /// # Errors
    /// From the network or the server.
    pub async fn writer(&self) -> io::Result<Writer> {
        Ok(match self {
            Self::Kalamdb(server) => Writer::Kalamdb(server.connection().await?),
            Self::Postgres(server) => Writer::Postgres(server.connect().await?),
            Self::Pocketbase(server) => Writer::Pocketbase(server.connection().await?),
        })
    }

    /// Writes a row.
    ///
    /// # Errors
    /// From the network, or the server's answer.
    pub async fn write(&self, writer: &mut Writer, sent: u64) -> io::Result<()> {
        match (self, writer) {
            (Self::Kalamdb(server), Writer::Kalamdb(by)) => server.write(by, "t", sent, BODY).await,
            (Self::Postgres(_), Writer::Postgres(by)) => by.write(sent, BODY).await,
            (Self::Pocketbase(server), Writer::Pocketbase(by)) => server.write(by, sent, BODY).await,
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// What a row has beside its number.
pub const BODY: &str =
    "a line of text as long as a message in a chat might be, neither very short nor really long at all";
