//! Runs comparisons and prints their rows.

use std::error::Error;

use crate::measure::median;
use crate::place::Place;

/// What a comparison may fail with.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// One line of the table before its runs are summed up: the same work done by us and by the other side.
#[derive(Debug, Clone)]
pub struct Sample {
    /// What was done.
    pub work: String,
    /// What it is compared with.
    pub beside: &'static str,
    /// Our figure.
    pub ours: f64,
    /// The other side's.
    pub theirs: f64,
    /// Unit of both.
    pub unit: &'static str,
    /// What the ratio ours / theirs has to be.
    pub budget: Budget,
}

/// What the ratio ours / theirs has to be.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// At most this (times).
    AtMost(f64),
    /// At least this (throughputs).
    AtLeast(f64),
    /// There is none; the figure is for orientation.
    None,
}

/// A comparison: one call is one run of both sides and yields one sample per line of the table.
pub trait Comparison {
    /// What `--only` selects by.
    fn name(&self) -> &'static str;
    /// One alternating run.
    ///
    /// # Errors
    /// Whatever keeps it from measuring.
    fn run(&self, place: &Place) -> Outcome<Vec<Sample>>;
}

/// Runs every comparison whose name contains `only` and prints the table of medians.
///
/// # Errors
/// The first failure of a comparison.
pub fn run(only: &str, runs: usize, place: &Place) -> Outcome<()> {
    println!("| work | beside | ours | theirs | ratio (min..max) | budget | |");
    println!("|---|---|---|---|---|---|---|");
    for comparison in crate::all().iter().filter(|c| c.name().contains(only)) {
        let samples = (0..runs.max(1)).map(|_| comparison.run(place)).collect::<Outcome<Vec<_>>>()?;
        for line in 0..samples[0].len() {
            let runs: Vec<&Sample> = samples.iter().map(|run| &run[line]).collect();
            print_line(&runs);
        }
    }
    Ok(())
}

fn print_line(runs: &[&Sample]) {
    let Sample { work, beside, unit, budget, .. } = runs[0];
    let ratios: Vec<f64> = runs.iter().map(|s| s.ours / s.theirs).collect();
    let ours = median(runs.iter().map(|s| s.ours).collect());
    let theirs = median(runs.iter().map(|s| s.theirs).collect());
    let ratio = median(ratios.clone());
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let (wanted, met) = match budget {
        Budget::AtMost(limit) => (format!("<= {limit:.2}x"), Some(ratio <= *limit)),
        Budget::AtLeast(limit) => (format!(">= {limit:.2}x"), Some(ratio >= *limit)),
        Budget::None => (String::new(), None),
    };
    let verdict = met.map_or("", |met| if met { "met" } else { "MISSED" });
    println!(
        "| {work} | {beside} | {ours:.1} {unit} | {theirs:.1} {unit} | {ratio:.2}x ({least:.2}..{most:.2}) | {wanted} | {verdict} |"
    );
}
