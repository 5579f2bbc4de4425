//! Patterns: LIKE with an escape character of its own, and templates of dates and times.

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Value, ValueWithSpan,
};

use crate::error::{Error, ErrorCode, Result};

/// Rewrites the pattern of an expression.
///
/// # Errors
/// [`ErrorCode::Unsupported`] for a pattern that cannot be told otherwise.
pub(super) fn rewrite(expr: &mut Expr) -> Result<()> {
    match expr {
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            let escape = match escape_char {
                Some(ValueWithSpan { value: Value::SingleQuotedString(escape), .. }) if escape != "\\" => {
                    escape
                }
                _ => return Ok(()),
            };
            let Some(text) = text_of(pattern) else {
                let message = "ESCAPE is available with a constant pattern only";
                return Err(Error::new(ErrorCode::Unsupported, message));
            };
            *text = escaped(text, escape.chars().next());
            *escape_char = None;
            Ok(())
        }
        Expr::Function(function) => {
            let name = function.name.to_string().to_ascii_lowercase();
            let FunctionArguments::List(list) = &mut function.args else { return Ok(()) };
            match (name.as_str(), list.args.as_mut_slice()) {
                (
                    "to_char" | "to_date" | "to_timestamp",
                    [_, FunctionArg::Unnamed(FunctionArgExpr::Expr(template))],
                ) => match text_of(template) {
                    // DataFusion's own templates have percent signs.
                    Some(text) if !text.contains('%') => {
                        *text = strftime(text)?;
                        Ok(())
                    }
                    _ => Ok(()),
                },
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn text_of(expr: &mut Expr) -> Option<&mut String> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => Some(text),
        _ => None,
    }
}

/// A pattern in which `escape`, if there is one, makes the next character stand for itself, as one in which `\` does.
fn escaped(pattern: &str, escape: Option<char>) -> String {
    let mut result = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(next) = chars.next() {
        match next {
            c if Some(c) == escape => result.extend(chars.next().into_iter().flat_map(|c| ['\\', c])),
            '\\' => result.push_str("\\\\"),
            c => result.push(c),
        }
    }
    result
}

/// Fields of PostgreSQL's templates as those of strftime; the longer of two that begin alike comes first.
const FIELDS: [(&str, &str); 26] = [
    ("FMMonth", "%B"),
    ("FMDay", "%A"),
    ("FMDD", "%-d"),
    ("FMMM", "%-m"),
    ("FMHH24", "%-H"),
    ("FMHH12", "%-I"),
    ("IYYY", "%G"),
    ("YYYY", "%Y"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("DDD", "%j"),
    ("Mon", "%b"),
    ("YY", "%y"),
    ("MM", "%m"),
    ("MI", "%M"),
    ("MS", "%3f"),
    ("US", "%6f"),
    ("DD", "%d"),
    ("Dy", "%a"),
    ("HH", "%I"),
    ("SS", "%S"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("ID", "%u"),
    ("IW", "%V"),
    ("TZ", "%Z"),
];

/// Fields that are written in capitals alone or not at all, because others of their letters mean something else.
const EXACT: [&str; 6] = ["FMMonth", "FMDay", "Mon", "Dy", "AM", "PM"];

/// A template such as `YYYY-MM-DD HH24:MI:SS` for strftime.
fn strftime(template: &str) -> Result<String> {
    let mut result = String::with_capacity(2 * template.len());
    let mut rest = template;
    while let Some(first) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (text, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            result.push_str(text);
            rest = after;
            continue;
        }
        let seconds_of_the_day = rest.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("SSSS"));
        let begins = |field: &str| match EXACT.contains(&field) {
            true => rest.starts_with(field),
            false => rest.get(..field.len()).is_some_and(|start| start.eq_ignore_ascii_case(field)),
        };
        let field = FIELDS.iter().find(|(field, _)| begins(field)).filter(|_| !seconds_of_the_day);
        if let Some((field, known)) = field {
            result.push_str(known);
            rest = &rest[field.len()..];
        } else if first.is_ascii_alphabetic() && first != 'T' {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let message = format!("the field {} of a template is not available", &rest[..end]);
            return Err(Error::new(ErrorCode::Unsupported, message).with_hint(
                "there are YYYY YY MM Mon FMMonth DD DDD Dy FMDay HH24 HH12 MI SS MS US AM IYYY IW ID TZ, \"text\", and the \
                 fields of strftime, as %Y",
            ));
        } else {
            result.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_those_of_strftime() {
        for (template, expected) in [
            ("YYYY-MM-DD HH24:MI:SS", "%Y-%m-%d %H:%M:%S"),
            ("yyyy/mm/dd", "%Y/%m/%d"),
            ("Mon DD, YYYY", "%b %d, %Y"),
            ("YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"", "%Y-%m-%dT%H:%M:%S.%6fZ"),
            ("FMDD.FMMM.YY", "%-d.%-m.%y"),
            ("YYYYMMDDTHH24MISS", "%Y%m%dT%H%M%S"),
            ("é", "é"),
        ] {
            assert_eq!(strftime(template).unwrap(), expected, "{template}");
        }
        for unknown in ["Month", "Q", "YYYY-WW", "DDth", "SSSS"] {
            assert_eq!(strftime(unknown).unwrap_err().code, ErrorCode::Unsupported, "{unknown}");
        }
    }

    #[test]
    fn another_escape_character_escapes_as_a_backslash_does() {
        for (pattern, escape, expected) in [
            ("a#_c", Some('#'), "a\\_c"),
            ("50!%%", Some('!'), "50\\%%"),
            ("##x", Some('#'), "\\#x"),
            ("a\\b%", Some('#'), "a\\\\b%"),
            ("a\\b%", None, "a\\\\b%"),
        ] {
            assert_eq!(escaped(pattern, escape), expected, "{pattern}");
        }
    }
}
