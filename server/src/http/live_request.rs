//! What a feed is asked for: groups of repeated parameters (`GET`), or JSON (`POST`).

use std::collections::HashSet;

use kalamdb_sql::{ErrorCode, LiveRequest, SubscriptionRequest};
use serde::Deserialize;
use serde_json::Value;

use super::body;
use super::error::{ApiError, ApiResult};
use super::query::{Pairs, number, truth};

/// A feed, and where its queries' names are looked up.
pub(crate) struct FeedRequest {
    /// The subscriptions, each with an id.
    pub(crate) live: LiveRequest,
    /// The namespace of unqualified names.
    pub(crate) namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonFeed {
    subscriptions: Vec<JsonSubscription>,
    #[serde(default)]
    last_event_id: Option<Cursor>,
    #[serde(default)]
    namespace: Option<String>,
}

/// A cursor is a text (`"12.1"` is one), but `0` and other whole numbers come naturally as numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Cursor {
    Text(String),
    Number(u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonSubscription {
    #[serde(default)]
    id: Option<String>,
    sql: String,
    #[serde(default)]
    params: Option<Vec<Value>>,
    #[serde(default)]
    last_rows: Option<u64>,
    #[serde(default)]
    snapshot: Option<bool>,
}

/// One group of parameters of an address.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Group {
    id: Option<String>,
    sql: Option<String>,
    last_rows: Option<u64>,
    snapshot: Option<bool>,
}

const NAMES: [&str; 7] = ["sql", "id", "last_rows", "snapshot", "last_event_id", "namespace", "token"];

/// The feed that an address asks for. A parameter that its group already has begins the next group.
///
/// # Errors
/// `INVALID_PARAMETER` naming what is wrong.
pub(crate) fn from_pairs(pairs: &Pairs) -> ApiResult<FeedRequest> {
    pairs.only(&NAMES)?;
    let subscriptions = groups(pairs)?.into_iter().map(subscription).collect::<ApiResult<_>>()?;
    let last_event_id = pairs.last("last_event_id").filter(|seen| !seen.is_empty()).map(Into::into);
    let namespace = pairs.last("namespace").map(Into::into);
    finish(LiveRequest { subscriptions, last_event_id }, namespace)
}

/// The feed that a JSON body asks for.
///
/// # Errors
/// `INVALID_PARAMETER` naming what is wrong, `SYNTAX_ERROR` if it is not JSON.
pub(crate) fn from_json(body: &[u8]) -> ApiResult<FeedRequest> {
    let feed: JsonFeed = body::parse_json(body)?;
    let subscription = |s: JsonSubscription| SubscriptionRequest {
        id: s.id,
        sql: s.sql,
        params: s.params.unwrap_or_default(),
        last_rows: s.last_rows,
        snapshot: s.snapshot.unwrap_or(true),
    };
    let subscriptions = feed.subscriptions.into_iter().map(subscription).collect();
    let last_event_id = feed.last_event_id.map(|cursor| match cursor {
        Cursor::Text(text) => text,
        Cursor::Number(number) => number.to_string(),
    });
    finish(LiveRequest { subscriptions, last_event_id }, feed.namespace)
}

/// Gives every subscription an id (`q1`, `q2`, ... by its place) and checks that none is there twice.
fn finish(mut live: LiveRequest, namespace: Option<String>) -> ApiResult<FeedRequest> {
    if live.subscriptions.is_empty() {
        return Err(ApiError::invalid("the feed has no subscription: sql is missing"));
    }
    let mut seen = HashSet::new();
    for (index, subscription) in live.subscriptions.iter_mut().enumerate() {
        let id = subscription.id.get_or_insert_with(|| format!("q{}", index + 1));
        if !seen.insert(id.clone()) {
            return Err(ApiError::invalid(format!("two subscriptions have the id {id:?}")));
        }
    }
    Ok(FeedRequest { live, namespace })
}

fn groups(pairs: &Pairs) -> ApiResult<Vec<Group>> {
    let mut groups = vec![Group::default()];
    for (name, value) in &pairs.0 {
        if !matches!(name.as_str(), "sql" | "id" | "last_rows" | "snapshot") {
            continue;
        }
        if groups.last().is_none_or(|group| group.has(name)) {
            groups.push(Group::default());
        }
        if let Some(group) = groups.last_mut() {
            group.set(name, value)?;
        }
    }
    Ok(groups)
}

impl Group {
    fn has(&self, name: &str) -> bool {
        match name {
            "sql" => self.sql.is_some(),
            "id" => self.id.is_some(),
            "last_rows" => self.last_rows.is_some(),
            _ => self.snapshot.is_some(),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> ApiResult<()> {
        match name {
            "sql" => self.sql = Some(value.to_owned()),
            "id" => self.id = Some(value.to_owned()),
            "last_rows" => self.last_rows = Some(number(name, value)?),
            _ => self.snapshot = Some(truth(name, value)?),
        }
        Ok(())
    }
}

fn subscription(group: Group) -> ApiResult<SubscriptionRequest> {
    let sql = group.sql.ok_or_else(|| {
        ApiError::new(ErrorCode::InvalidParameter, "a subscription has no sql")
            .hint("repeat the parameters in groups: sql, id, last_rows, then sql again for the next one")
    })?;
    let (last_rows, snapshot) = (group.last_rows, group.snapshot.unwrap_or(true));
    Ok(SubscriptionRequest { id: group.id, sql, params: Vec::new(), last_rows, snapshot })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = (String, String, Option<u64>, bool);

    fn seen(request: FeedRequest) -> Vec<Seen> {
        let subscriptions = request.live.subscriptions.into_iter();
        subscriptions.map(|s| (s.id.unwrap(), s.sql, s.last_rows, s.snapshot)).collect()
    }

    fn get(query: &str) -> ApiResult<FeedRequest> {
        from_pairs(&Pairs::of(&format!("/api/live?{query}").parse().unwrap()))
    }

    fn expect(id: &str, sql: &str, last_rows: Option<u64>, snapshot: bool) -> Seen {
        (id.into(), sql.into(), last_rows, snapshot)
    }

    #[test]
    fn repeated_parameters_form_groups_in_any_order() {
        assert_eq!(seen(get("sql=A").unwrap()), [expect("q1", "A", None, true)]);
        let two = [expect("a", "A", Some(5), true), expect("b", "B", None, false)];
        assert_eq!(seen(get("sql=A&last_rows=5&id=a&sql=B&id=b&snapshot=false").unwrap()), two);
        assert_eq!(seen(get("id=a&last_rows=5&sql=A&id=b&sql=B&snapshot=0").unwrap()), two);
        let mixed = [expect("q1", "A", None, true), expect("b", "B", None, true)];
        assert_eq!(seen(get("sql=A&sql=B&id=b").unwrap()), mixed);
        assert_eq!(get("sql=A&last_event_id=12.1").unwrap().live.last_event_id.as_deref(), Some("12.1"));
        assert_eq!(get("sql=A&namespace=app&token=t").unwrap().namespace.as_deref(), Some("app"));
    }

    #[test]
    fn what_does_not_make_a_feed_is_refused() {
        for query in ["", "id=a", "sql=A&id=a&id=b", "sql=A&last_rows=x", "sql=A&snapshot=maybe", "sq=A"] {
            let error = get(query).err().unwrap();
            assert_eq!(error.error().code, ErrorCode::InvalidParameter, "{query}");
        }
        assert!(get("sql=A&id=x&sql=B&id=x").is_err(), "the same id twice");
        assert!(get("sql=A&sql=B&id=q1").is_err(), "a given id that is another's default");
    }

    #[test]
    fn a_json_feed_is_read() {
        let body = br#"{"subscriptions":[{"id":"m","sql":"A","params":[1],"last_rows":3},{"sql":"B","snapshot":false}],
                        "last_event_id":0}"#;
        let request = from_json(body).unwrap();
        assert_eq!(request.live.last_event_id.as_deref(), Some("0"));
        assert_eq!(seen(request), [expect("m", "A", Some(3), true), expect("q2", "B", None, false)]);
        assert!(from_json(br#"{"subscriptions":[]}"#).is_err());
        assert!(from_json(br#"{"subscriptions":[{"sql":"A","lastrows":1}]}"#).is_err());
    }
}
