//! Small JSON files that say whether they are whole: their last member, `crc32`, is the checksum of every byte before it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const CRC_MEMBER: &str = "\n  \"crc32\": ";

#[derive(Deserialize)]
struct Format {
    format_version: u32,
}

/// The bytes of a file that holds `value`, which must be an object with members.
///
/// # Errors
/// [`Error::Internal`] if it cannot be written as JSON.
pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::internal("encode a manifest", e))?;
    // Reopen the object: "...\n}" becomes "...,\n  "crc32": n\n}".
    bytes.truncate(bytes.len() - 2);
    bytes.push(b',');
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(format!("{CRC_MEMBER}{crc}\n}}\n").as_bytes());
    Ok(bytes)
}

/// What such bytes hold, if its `format_version` is at most `newest`.
///
/// # Errors
/// What is wrong with them, in words.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], newest: u32) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8")?;
    let at = text.rfind(CRC_MEMBER).ok_or("no checksum: the file is cut short or damaged")?;
    let stated = text[at + CRC_MEMBER.len()..].trim_end().trim_end_matches('}').trim();
    let stated: u32 = stated.parse().map_err(|_| "no checksum: the file is damaged")?;
    if crc32fast::hash(&text.as_bytes()[..at]) != stated {
        return Err("the checksum does not match: the file is damaged".into());
    }
    // The version first: what a newer one looks like is not known here.
    let Format { format_version } = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if format_version > newest {
        return Err(format!("format version {format_version} is newer than {newest}, the newest known here"));
    }
    serde_json::from_str(text).map_err(|e| e.to_string())
}
