//! Results as people read them: aligned columns, numbers to the right.

use std::fmt::Write;

use console::measure_text_width;
use serde_json::Value;

/// One result of an answer (with rows as arrays) as text.
pub(crate) fn render(result: &Value) -> String {
    let columns = result["schema"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = String::new();
    if !columns.is_empty() {
        rows(columns, result["rows"].as_array().map(Vec::as_slice).unwrap_or_default(), &mut text);
    }
    text.push_str(&summary(result, !columns.is_empty()));
    text.push('\n');
    text
}

fn rows(columns: &[Value], rows: &[Value], text: &mut String) {
    let names: Vec<String> = columns.iter().map(|column| cell(&column["name"])).collect();
    let right: Vec<bool> = columns.iter().map(is_number).collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| (0..names.len()).map(|i| cell(&row[i])).collect()).collect();
    let widest = |i: usize| {
        let widths = cells.iter().map(|row| measure_text_width(&row[i]));
        widths.chain([measure_text_width(&names[i])]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..names.len()).map(widest).collect();
    line(&names, &widths, &vec![false; names.len()], text);
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    text.push_str(&rule.join("+"));
    text.push('\n');
    for row in &cells {
        line(row, &widths, &right, text);
    }
}

fn line(cells: &[String], widths: &[usize], right: &[bool], text: &mut String) {
    let start = text.len();
    for (i, cell) in cells.iter().enumerate() {
        if i > 0 {
            text.push('|');
        }
        let padding = " ".repeat(widths[i] - measure_text_width(cell).min(widths[i]));
        let (before, after) = if right[i] { (padding.as_str(), "") } else { ("", padding.as_str()) };
        // Writing to a String cannot fail.
        let _ = write!(text, " {before}{cell}{after} ");
    }
    let end = text.trim_end().len().max(start);
    text.truncate(end);
    text.push('\n');
}

fn is_number(column: &Value) -> bool {
    let name = column["type"].as_str().unwrap_or_default();
    matches!(name, "SMALLINT" | "INT" | "BIGINT" | "FLOAT" | "DOUBLE")
        || name.starts_with("DECIMAL(") && !name.ends_with("[]")
}

/// A value on one line.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::String(text) if !text.contains(char::is_control) => text.clone(),
        Value::String(text) => text.chars().fold(String::new(), |mut shown, c| {
            match c.is_control() {
                true => shown.extend(c.escape_default()),
                false => shown.push(c),
            }
            shown
        }),
        other => other.to_string(),
    }
}

fn summary(result: &Value, has_rows: bool) -> String {
    let time = result["execution_time_ms"].as_f64().unwrap_or_default();
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    let mut parts = Vec::new();
    if has_rows {
        let count = result["row_count"].as_u64().unwrap_or_default();
        parts.push(format!("{count} row{}", plural(count)));
    }
    if let Some(affected) = result["affected_rows"].as_u64() {
        parts.push(format!("{affected} row{} affected", plural(affected)));
    }
    if let Some(message) = result["message"].as_str() {
        parts.push(message.to_owned());
    }
    parts.push(format!("{time:.1} ms"));
    format!("({})", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let result = json!({
            "schema": [{"name": "id", "type": "BIGINT"}, {"name": "text", "type": "TEXT"}],
            "rows": [[1, "Grüße"], [100, null], ["9007199254740993", "two\nlines"]],
            "row_count": 3, "execution_time_ms": 1.26,
        });
        let expected = [
            " id               | text",
            "------------------+------------",
            "                1 | Grüße",
            "              100 | NULL",
            " 9007199254740993 | two\\nlines",
            "(3 rows, 1.3 ms)",
            "",
        ];
        assert_eq!(render(&result), expected.join("\n"));
    }

    #[test]
    fn results_without_rows_are_one_line() {
        let insert =
            json!({"schema": [], "rows": [], "affected_rows": 1, "execution_time_ms": 2.0, "seq": 7});
        assert_eq!(render(&insert), "(1 row affected, 2.0 ms)\n");
        let create = json!({"schema": [], "rows": [], "message": "created", "execution_time_ms": 0.5});
        assert_eq!(render(&create), "(created, 0.5 ms)\n");
    }
}
