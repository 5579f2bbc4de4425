//! Medians, percentiles and clocks.

use std::time::{Duration, Instant};

/// The middle value; of two middle ones the larger. 0 if there is none.
pub fn median(values: Vec<f64>) -> f64 {
    percentile(values, 0.5)
}

/// The value below which this share of the values lies. 0 if there is none.
pub fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Microseconds, with fractions.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// How long each of `count` calls took, in microseconds.
///
/// # Errors
/// The first error of a call.
pub fn time_each<E>(count: usize, mut call: impl FnMut() -> Result<(), E>) -> Result<Vec<f64>, E> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        call()?;
        times.push(micros(begun.elapsed()));
    }
    Ok(times)
}
