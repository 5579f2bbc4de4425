//! Bytes of our own: how rows and commits are written into log records.
//!
//! [`columns`] holds the compact row codec, [`record`] the commit record built from it. The envelope is bincode (whose
//! crate is no longer maintained: it is used in [`record`] alone, so that it can be replaced in one place).

pub mod columns;
pub mod record;

use crate::error::{Error, Result};

/// A cursor over bytes that may be damaged: every read is checked.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.rest.len() {
            return Err(damaged("ends too early"));
        }
        let (taken, rest) = self.rest.split_at(n);
        self.rest = rest;
        Ok(taken)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// The next variable-length integer (LEB128).
    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged("holds an endless integer"))
    }

    /// The next variable-length integer as a size that is at most `limit`.
    pub fn size(&mut self, limit: usize) -> Result<usize> {
        usize::try_from(self.varint()?)
            .ok()
            .filter(|n| *n <= limit)
            .ok_or_else(|| damaged("holds an impossible size"))
    }
}

/// Appends a variable-length integer (LEB128).
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed variable-length integer (zigzag).
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Reads what [`put_signed`] wrote.
pub fn get_signed(input: &mut Input<'_>) -> Result<i64> {
    let raw = input.varint()?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

pub(crate) fn damaged(reason: &str) -> Error {
    Error::Corrupt(format!("a log record {reason}"))
}
