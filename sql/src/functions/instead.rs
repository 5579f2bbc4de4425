//! Functions of PostgreSQL that there are not, and what does what they do.

/// What to write instead of a call of a function; `None` for a name that PostgreSQL does not know either.
pub(crate) fn instead_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "age" => "the difference of two timestamps is an interval: a - b",
        "to_number" => "CAST(text AS DECIMAL(p, s)) reads a number",
        "div" => "the quotient of whole numbers is whole: a / b",
        "format" => "|| and concat put texts together",
        "quote_literal" | "quote_ident" | "quote_nullable" => "send values as params for $1, $2, ...",
        "percentile_disc" | "mode" => {
            "percentile_cont(p) WITHIN GROUP (ORDER BY x) and median(x) are what there is"
        }
        "regexp_matches" => "regexp_match(text, pattern) gives the parts of the first match",
        "regexp_split_to_array" | "regexp_split_to_table" => {
            "string_to_array(text, separator) splits by a text"
        }
        "regexp_substr" => "regexp_match(text, pattern)[1] is the first match",
        "json_agg" | "jsonb_agg" | "json_object_agg" | "jsonb_object_agg" | "array_to_json"
        | "row_to_json" | "to_json" | "to_jsonb" | "json_build_object" | "jsonb_build_object"
        | "json_build_array" | "jsonb_build_array" => {
            "answers are JSON: array_agg(x) gives an array, named_struct('key', x) an object"
        }
        "jsonb_set" | "jsonb_insert" | "jsonb_delete" | "jsonb_pretty" | "jsonb_strip_nulls" => {
            "JSON values can be looked into with ->, ->> and json_get, and replaced as a whole"
        }
        "nextval" | "currval" | "setval" | "lastval" => {
            "a BIGINT column can be AUTO_INCREMENT; RETURNING gives its value"
        }
        "to_tsvector" | "to_tsquery" | "plainto_tsquery" | "ts_rank" => {
            "text is searched with LIKE, ILIKE and ~"
        }
        "make_interval" | "justify_days" | "justify_hours" | "justify_interval" => {
            "an interval is written INTERVAL '1 day 2 hours'"
        }
        "make_timestamp" | "make_timestamptz" => {
            "to_timestamp(text) reads a timestamp, make_date(y, m, d) makes a date"
        }
        "current_setting" | "set_config" => "system.settings lists what the server was started with",
        "pg_sleep" | "pg_advisory_lock" | "pg_notify" => "a statement does nothing but read and write rows",
        "current_database" | "current_schema" | "current_catalog" => {
            "SHOW NAMESPACES and USE are about namespaces"
        }
        "pg_typeof" => {
            "the schema of an answer has the types of its columns; arrow_typeof(x) is that of a value"
        }
        "array_fill" => "array_repeat(value, count) makes an array",
        "setseed" => "random() cannot be repeated",
        _ => return None,
    })
}
