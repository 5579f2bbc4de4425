//! Rows in the order of their keys.

use arrow::row::Rows as KeyRows;

/// Sorts row numbers by their keys; equal keys stay in the order they come in.
///
/// The keys of one table mostly begin alike (numbers that count up, times of one day), and the eight bytes behind what
/// all of them have in common tell nearly all apart. These are compared as one number, beside the row; whole keys only
/// where they are equal. The sort merges runs that are in order already, and rows mostly come in a few of them.
pub(crate) fn by_key(keys: &KeyRows, rows: Vec<u32>) -> Vec<u32> {
    let skip = common_prefix(keys, &rows);
    let rest = |row: u32| &keys.row(row as usize).data()[skip..];
    let mut heads: Vec<(u64, u32)> = rows.into_iter().map(|row| (head(rest(row)), row)).collect();
    heads.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| rest(a.1).cmp(rest(b.1))));
    heads.into_iter().map(|(_, row)| row).collect()
}

/// How many bytes the keys of all these rows have in common at their beginning.
fn common_prefix(keys: &KeyRows, rows: &[u32]) -> usize {
    let Some((first, others)) = rows.split_first() else { return 0 };
    let mut common = keys.row(*first as usize).data();
    for row in others {
        let key = keys.row(*row as usize).data();
        if !key.starts_with(common) {
            let same = common.iter().zip(key).take_while(|(a, b)| a == b).count();
            common = &common[..same];
        }
    }
    common.len()
}

/// The first eight bytes as a number that orders like them; what is missing counts as zero.
fn head(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => key.iter().zip((0..8).rev()).map(|(byte, place)| u64::from(*byte) << (8 * place)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, Int64Array};
    use arrow::row::{RowConverter, SortField};

    use super::*;

    fn keys(column: ArrayRef) -> KeyRows {
        let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())]).unwrap();
        converter.convert_columns(&[column]).unwrap()
    }

    fn expected(keys: &KeyRows, mut rows: Vec<u32>) -> Vec<u32> {
        rows.sort_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)));
        rows
    }

    #[test]
    fn numbers_that_come_in_runs_and_twice_are_in_order_with_the_first_of_equals_first() {
        let values = (0..500).chain(-200..100).chain([7, 7, i64::MIN, i64::MAX]);
        let keys = keys(Arc::new(Int64Array::from_iter_values(values)));
        let rows: Vec<u32> = (0..keys.num_rows() as u32).filter(|row| row % 7 != 3).collect();
        assert_eq!(by_key(&keys, rows.clone()), expected(&keys, rows));
    }

    #[test]
    fn keys_that_differ_late_or_only_in_their_length_are_told_apart() {
        let texts =
            ["", "a", "a\0", "a\0\0", "a\0b", "ab", "abcdefgh", "abcdefghi", "abcdefgha", "abcdefgh\0"];
        let long = format!("{}z", "common beginning of more than eight bytes ".repeat(3));
        let longer = format!("{long}{long}");
        let mut values: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        values.extend([long.as_bytes(), longer.as_bytes(), &long.as_bytes()[..40]]);
        values.reverse();
        for from in [0, 1, 3] {
            let keys = keys(Arc::new(BinaryArray::from_iter_values(&values[from..])));
            let rows: Vec<u32> = (0..keys.num_rows() as u32).collect();
            assert_eq!(by_key(&keys, rows.clone()), expected(&keys, rows), "from {from}");
        }
        let keys = keys(Arc::new(BinaryArray::from_iter_values(&values[..3])));
        assert_eq!(
            by_key(&keys, vec![2, 0]),
            expected(&keys, vec![2, 0]),
            "long ones with a long common part"
        );
        assert!(by_key(&keys, Vec::new()).is_empty());
    }
}
