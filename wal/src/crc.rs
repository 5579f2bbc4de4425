//! CRC-32 of frame headers (24 bytes, three steps of eight) and of payloads.
//!
//! `crc32fast` is made for longer input: it takes headers, and what is left of a payload behind its last 16 bytes, byte by
//! byte. With small records that was half the time of a recovery. Same polynomial, same results.

const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    // Table n: the same byte followed by n zero bytes.
    let mut n = 1;
    while n < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[n - 1][byte];
            tables[n][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        n += 1;
    }
    tables
}

/// The CRC-32 of a header, continuing from `initial`.
pub(crate) fn crc32(initial: u32, bytes: &[u8; 24]) -> u32 {
    let (words, _) = bytes.as_chunks::<8>();
    !words.iter().fold(!initial, step)
}

/// The CRC-32 of a payload.
pub(crate) fn hash(payload: &[u8]) -> u32 {
    let (blocks, rest) = payload.split_at(payload.len() & !15);
    let (words, bytes) = rest.as_chunks::<8>();
    let crc = words.iter().fold(!crc32fast::hash(blocks), step);
    !bytes.iter().fold(crc, |crc, byte| (crc >> 8) ^ TABLES[0][(crc as u8 ^ byte) as usize])
}

fn step(crc: u32, word: &[u8; 8]) -> u32 {
    let word = u64::from_le_bytes(*word) ^ u64::from(crc);
    let table = |n: usize| TABLES[7 - n][(word >> (8 * n)) as usize & 0xff];
    table(0) ^ table(1) ^ table(2) ^ table(3) ^ table(4) ^ table(5) ^ table(6) ^ table(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_library() {
        for seed in 0..2000u32 {
            let bytes: [u8; 24] =
                std::array::from_fn(|i| (seed.wrapping_mul(2_654_435_761) >> (i % 24)) as u8);
            let mut hasher = crc32fast::Hasher::new_with_initial(seed.wrapping_mul(77_777_777));
            hasher.update(&bytes);
            assert_eq!(crc32(seed.wrapping_mul(77_777_777), &bytes), hasher.finalize());
        }
    }

    #[test]
    fn payloads_of_every_length_agree_with_the_library() {
        let bytes: Vec<u8> = (0..700u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in 0..=bytes.len() {
            assert_eq!(hash(&bytes[..len]), crc32fast::hash(&bytes[..len]), "{len} bytes");
        }
    }
}
