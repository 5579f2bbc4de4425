//! The events of a feed: what they are called and what their data looks like.

use std::sync::Arc;

use arrow::datatypes::Schema;
use bytes::Bytes;
use kalamdb_engine::Seq;
use serde_json::{Value, json};

use crate::error::Error;
use crate::json::write_timestamp;
use crate::live::cursor::Cursor;
use crate::types::column_infos;

/// One event as a client gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveEvent {
    /// The event id: with it a client that lost the connection resumes.
    pub id: Option<String>,
    /// The event's name; none for a block that only moves the id.
    pub event: Option<&'static str>,
    /// One line of JSON; empty if there is no name.
    pub data: Bytes,
}

/// An event on its way to a client.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// What is delivered once this event is: becomes its id.
    pub(crate) cursor: Option<Cursor>,
    /// Its name; none to move the id only.
    pub(crate) event: Option<&'static str>,
    /// One line of JSON.
    pub(crate) data: Bytes,
    /// The subscription it belongs to, by place in the request.
    pub(crate) subscription: Option<u32>,
    /// How many rows it reports changed.
    pub(crate) rows: u32,
}

impl Outgoing {
    /// An event of the connection as a whole.
    pub(crate) fn of_connection(event: &'static str, data: &Value) -> Self {
        Self { cursor: None, event: Some(event), data: to_bytes(data), subscription: None, rows: 0 }
    }

    /// An event of one subscription that reports no row.
    pub(crate) fn of_subscription(index: usize, event: &'static str, data: impl Into<Bytes>) -> Self {
        Self {
            cursor: None,
            event: Some(event),
            data: data.into(),
            subscription: Some(index as u32),
            rows: 0,
        }
    }

    /// An event that others share.
    pub(crate) fn of_ready(ready: &Ready, index: u32) -> Self {
        Self {
            cursor: None,
            event: Some(ready.event),
            data: ready.data.clone(),
            subscription: Some(index),
            rows: ready.rows,
        }
    }

    /// Moves the id and says nothing else.
    pub(crate) fn marker(cursor: Cursor) -> Self {
        Self { cursor: Some(cursor), event: None, data: Bytes::new(), subscription: None, rows: 0 }
    }

    pub(crate) fn with_cursor(mut self, cursor: Option<Cursor>) -> Self {
        self.cursor = cursor;
        self
    }

    /// Bytes it takes in a queue.
    pub(crate) fn cost(&self) -> usize {
        self.data.len() + size_of::<Self>()
    }
}

/// A change of a result, encoded but for the name of the subscription, which differs between connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) event: &'static str,
    /// Everything after the subscription's name.
    pub(crate) rest: Vec<u8>,
    pub(crate) rows: u32,
}

impl Encoded {
    /// The failure of a subscription, in the form of a change, so that it takes its place in the order of commits.
    pub(crate) fn failure(error: &Error) -> Self {
        let fields = json!({"code": error.code.as_str(), "message": error.message}).to_string();
        let mut rest = vec![b','];
        rest.extend_from_slice(&fields.as_bytes()[1..]);
        Self { event: "error", rest, rows: 0 }
    }

    /// The data for a subscription whose data begins with `prefix` (see [`subscription_prefix`]).
    pub(crate) fn data(&self, prefix: &[u8]) -> Bytes {
        [prefix, &self.rest].concat().into()
    }
}

/// An event whose bytes all subscriptions of the same query and name share.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) event: &'static str,
    pub(crate) data: Bytes,
    pub(crate) rows: u32,
}

/// The events of subscriptions whose data begins with `prefix`.
pub(crate) fn ready(encoded: &[Encoded], prefix: &[u8]) -> Arc<[Ready]> {
    encoded.iter().map(|e| Ready { event: e.event, data: e.data(prefix), rows: e.rows }).collect()
}

/// How the data of every event of a subscription begins.
pub(crate) fn subscription_prefix(name: &str) -> Box<[u8]> {
    format!("{{\"subscription\":{}", Value::from(name)).into_bytes().into()
}

/// The data of `ready`.
pub(crate) fn opened<'a>(
    connection: &str,
    seq: Seq,
    subscriptions: impl Iterator<Item = (&'a str, &'a str, &'a Schema)>,
) -> Value {
    let subscriptions: Vec<Value> = subscriptions
        .map(|(name, live_id, schema)| json!({"id": name, "live_id": live_id, "schema": describe(schema)}))
        .collect();
    json!({"connection_id": connection, "seq": seq, "subscriptions": subscriptions})
}

fn describe(schema: &Schema) -> Vec<Value> {
    let column =
        |c: &crate::session::ColumnInfo| json!({"name": c.name, "type": c.type_name, "nullable": c.nullable});
    column_infos(schema).iter().map(column).collect()
}

/// The data of `heartbeat`.
pub(crate) fn heartbeat(now_micros: i64, seq: Seq) -> Value {
    let mut time = Vec::with_capacity(32);
    write_timestamp(now_micros, &mut time);
    json!({"time": String::from_utf8_lossy(&time), "seq": seq})
}

/// The data of `closed` and `reset`.
pub(crate) fn reason(prefix: &[u8], reason: &str) -> Bytes {
    [prefix, format!(",\"reason\":{}}}", Value::from(reason)).as_bytes()].concat().into()
}

/// The data of `snapshot`; `rows` is already JSON, without brackets.
pub(crate) fn snapshot(prefix: &[u8], rows: &[u8], seq: Seq, first: bool, last: bool) -> Bytes {
    let tail = format!("],\"seq\":{seq},\"first\":{first},\"last\":{last}}}");
    [prefix, b",\"rows\":[", rows, tail.as_bytes()].concat().into()
}

fn to_bytes(value: &Value) -> Bytes {
    value.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn data_is_one_line_of_json_that_names_its_subscription() {
        let prefix = subscription_prefix("a \"b\"\n");
        let error = Error::new(ErrorCode::DivisionByZero, "division\nby zero");
        let all = [
            Encoded::failure(&error).data(&prefix),
            reason(&prefix, "killed"),
            snapshot(&prefix, b"{\"id\":1},{\"id\":2}", 7, true, false),
        ];
        for data in &all {
            assert!(!data.contains(&b'\n'));
            let value: Value = serde_json::from_slice(data).unwrap();
            assert_eq!(value["subscription"], "a \"b\"\n");
        }
        let value: Value = serde_json::from_slice(&all[2]).unwrap();
        assert_eq!(value["rows"], json!([{"id": 1}, {"id": 2}]));
        assert_eq!(
            (&value["seq"], &value["first"], &value["last"]),
            (&json!(7), &json!(true), &json!(false))
        );
    }
}
