//! `batch-<seq>.deletes`: which rows of a segment were superseded, in the `deletion-vector-v1` layout.
//!
//! ```text
//! length   u32 big-endian     bytes of magic + bitmap
//! magic    D1 D3 39 64
//! bitmap   64-bit roaring, portable serialization: count u64 LE, then per high word: key u32 LE, 32-bit roaring bitmap
//! crc      u32 big-endian     CRC-32 of magic + bitmap
//! ```
//!
//! A new state of a vector is a new file (its name carries the manifest version), durable before the manifest names it.

use roaring::{RoaringBitmap, RoaringTreemap};

const MAGIC: [u8; 4] = [0xD1, 0xD3, 0x39, 0x64];

/// The bytes of a vector.
pub fn encode(rows: &RoaringBitmap) -> Vec<u8> {
    let treemap = RoaringTreemap::from_bitmaps([(0, rows.clone())]);
    let mut bitmap = Vec::with_capacity(treemap.serialized_size());
    treemap.serialize_into(&mut bitmap).expect("writing to a Vec cannot fail");
    seal(&bitmap)
}

/// The bytes of a vector whose bitmap is serialized.
pub(crate) fn seal(bitmap: &[u8]) -> Vec<u8> {
    let body = [&MAGIC, bitmap].concat();
    let mut bytes = Vec::with_capacity(body.len() + 8);
    bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
    bytes
}

/// Reads a vector's bytes.
///
/// # Errors
/// What is wrong with them, in words.
pub fn decode(bytes: &[u8]) -> Result<RoaringBitmap, String> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or("cut short")?;
    let length = u32::from_be_bytes(*length) as usize;
    if rest.len() != length + 4 {
        return Err(format!("{} bytes where {} are stated", rest.len(), length + 4));
    }
    let (body, crc) = rest.split_at(length);
    if crc32fast::hash(body).to_be_bytes() != crc {
        return Err("the checksum does not match".into());
    }
    let bitmap = body.strip_prefix(&MAGIC).ok_or("not a delete vector")?;
    let treemap = RoaringTreemap::deserialize_from(bitmap).map_err(|e| e.to_string())?;
    let mut rows = RoaringBitmap::new();
    for (high, part) in treemap.bitmaps() {
        if high != 0 && !part.is_empty() {
            return Err("names a row past any segment's end".into());
        }
        rows |= part;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        for rows in
            [RoaringBitmap::new(), (0..100_000).step_by(3).collect(), [u32::MAX].into_iter().collect()]
        {
            assert_eq!(decode(&encode(&rows)).unwrap(), rows);
        }
    }

    #[test]
    fn any_flipped_bit_or_cut_is_noticed() {
        let bytes = encode(&[1, 5, 70_000].into_iter().collect());
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(decode(&damaged).is_err(), "bit {at}");
        }
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
