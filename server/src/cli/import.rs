//! `kalamdb import`: streams a file of rows into a table.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::{Client, ServerArgs};
use super::error::{CliResult, print};
use super::packed::{self, Format};

/// Arguments of `kalamdb import`.
#[derive(Args)]
pub(crate) struct ImportArgs {
    /// File with the rows; also .gz or .zst, - for standard input
    file: PathBuf,
    /// Table to import into, NAMESPACE.TABLE; it must exist
    #[arg(long, value_name = "TABLE")]
    table: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Format of the file, if its name does not tell
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// A text that means NULL, besides an empty field
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    /// Column that holds the user id whose partition of a USER table a row goes to
    #[arg(long, value_name = "COLUMN")]
    user_column: Option<String>,
    /// Rows committed together [default: 10000]
    #[arg(long, value_name = "ROWS")]
    batch_rows: Option<u64>,
}

/// Runs `kalamdb import`.
///
/// # Errors
/// If the file cannot be read, or what the server says; it tells how many rows are in.
pub(crate) fn run(args: ImportArgs) -> CliResult {
    let format = match args.format {
        Some(format) => format,
        None if args.file.as_os_str() == "-" => Format::Csv,
        None => Format::of(&args.file)?,
    };
    let (file, size) = packed::open(&args.file)?;
    let client = Client::new(&args.server)?;
    let bar = progress_bar(size);
    let mut rows = packed::unpack(&args.file, bar.wrap_read(file))?;
    let started = Instant::now();
    let answer = client.import(&path(&args.table), &options(&args), format.media_type(), &mut rows);
    bar.finish_and_clear();
    let answer = answer?;
    let (count, seconds) = (answer["rows"].as_u64().unwrap_or_default(), started.elapsed().as_secs_f64());
    let speed = (count as f64 / seconds.max(1e-6)) as u64;
    print(&format!("imported {} rows in {seconds:.1} s ({} rows/s)\n", grouped(count), grouped(speed)))
}

fn path(table: &str) -> String {
    let (namespace, name) = table.split_once('.').unwrap_or(("default", table));
    let encode = |part| utf8_percent_encode(part, NON_ALPHANUMERIC);
    format!("/api/import/{}/{}", encode(namespace), encode(name))
}

fn options(args: &ImportArgs) -> Vec<(&'static str, String)> {
    let mut options = Vec::new();
    options.extend(args.null.clone().map(|null| ("null", null)));
    options.extend(args.user_column.clone().map(|column| ("user_column", column)));
    options.extend(args.batch_rows.map(|rows| ("batch_rows", rows.to_string())));
    options
}

fn progress_bar(size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => {
            (ProgressBar::new(size), "{bar:40} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec} {elapsed}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (336_776, "336,776"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn the_path_names_the_table_safely() {
        assert_eq!(path("app.flights"), "/api/import/app/flights");
        assert_eq!(path("flights"), "/api/import/default/flights");
        assert_eq!(path("a/b.c?d"), "/api/import/a%2Fb/c%3Fd");
    }
}
