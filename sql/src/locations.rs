//! Storage locations: rows of `system.storage_locations`, and which tables use them.

use std::path::Path;
use std::sync::Arc;

use kalamdb_engine::store::S3Location;
use kalamdb_engine::system::{self, Cell};
use kalamdb_engine::{Catalog, Table};

use crate::dml::{Change, Record, check_kept, required, text};
use crate::error::{Error, ErrorCode, Position, Result};
use crate::names;
use crate::statement::StatementContext;
use crate::system::store;

/// The types of location.
const LOCAL: &str = "local";
const S3: &str = "s3";

/// The tables that refer to a location.
pub(crate) fn users_of<'a>(catalog: &'a Catalog, name: &'a str) -> impl Iterator<Item = &'a Arc<Table>> {
    catalog.tables().filter(move |table| table.options.location_reference.as_deref() == Some(name))
}

/// What the engine calls the object store of a location.
fn object_store(credentials_ref: Option<&str>, path: &str) -> String {
    format!("{} {path}", credentials_ref.unwrap_or("-"))
}

/// Refuses a reference to a location that is not there. To be called under the locations' lock, which is to be held until
/// the table is made. Says in which object store its tables are, if it is one.
///
/// # Errors
/// [`ErrorCode::StorageNotFound`] with the nearest name.
pub(crate) async fn check_reference(
    ctx: &StatementContext,
    name: &str,
    at: Option<Position>,
) -> Result<Option<String>> {
    let (mut known, mut found) = (Vec::new(), None);
    store::each(ctx.instance.database(), system::STORAGE_LOCATIONS, |row| {
        let location = row.required_text("location_name")?;
        if location == name {
            let (path, reference) = (row.required_text("path")?, row.text("credentials_ref")?);
            let is_s3 = row.required_text("location_type")? == S3;
            found = Some(is_s3.then(|| object_store(reference, path)));
        }
        known.push(location.to_owned());
        Ok(())
    })
    .await?;
    if let Some(store) = found {
        return Ok(store);
    }
    let message = format!("storage location {name} does not exist");
    let error = Error::new(ErrorCode::StorageNotFound, message).with_position(at);
    Err(match names::nearest(name, known.iter().map(String::as_str)) {
        Some(near) => error.with_hint(format!("did you mean {near}?")),
        None => error,
    })
}

/// Checks the changes of a statement and completes the new rows.
///
/// # Errors
/// [`ErrorCode::AlreadyExists`], [`ErrorCode::InUse`] listing the tables, [`ErrorCode::InvalidParameter`] for a type, path
/// or reference that cannot be used.
pub(crate) async fn check_changes(ctx: &StatementContext, changes: &mut [Change]) -> Result<()> {
    let mut known = Vec::new();
    store::each(ctx.instance.database(), system::STORAGE_LOCATIONS, |row| {
        known.push(row.required_text("location_name")?.to_owned());
        Ok(())
    })
    .await?;
    for change in changes {
        check_kept(change, &["location_name", "created_at"])?;
        let old = change.old.as_ref();
        let moved = |new: &Record| {
            let same = |column| old.is_none_or(|old| text(old, column) == text(new, column));
            let same_store = new_type(new) != Some(S3) || same("credentials_ref");
            !same("path") || !same("location_type") || !same_store
        };
        if let Some(old) = old.filter(|_| change.new.as_ref().is_none_or(moved)) {
            let name = required(old, "location_name")?;
            let tables: Vec<_> = users_of(&ctx.catalog, name).map(|table| table.qualified_name()).collect();
            if !tables.is_empty() {
                let message = format!("storage location {name} is in use by {}", tables.join(", "));
                return Err(Error::new(ErrorCode::InUse, message));
            }
        }
        let is_new = old.is_none();
        let Some(new) = &mut change.new else { continue };
        let name = required(new, "location_name")?.to_owned();
        if is_new && known.contains(&name) {
            return Err(Error::new(
                ErrorCode::AlreadyExists,
                format!("storage location {name} already exists"),
            ));
        }
        known.push(name);
        check(ctx, new).await?;
        new.insert("updated_at".into(), Cell::Int(ctx.now_micros));
        if is_new {
            new.insert("created_at".into(), Cell::Int(ctx.now_micros));
        }
    }
    Ok(())
}

fn new_type(new: &Record) -> Option<&str> {
    text(new, "location_type")
}

async fn check(ctx: &StatementContext, new: &Record) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorCode::InvalidParameter, message));
    let name = required(new, "location_name")?;
    if name.trim().is_empty() || name.len() > 80 || name.chars().any(char::is_control) {
        return refuse("the name of a storage location has 1 to 80 bytes and no control characters".into());
    }
    let kind = required(new, "location_type")?;
    let path = required(new, "path")?;
    if kind == S3 {
        return check_s3(ctx, path, text(new, "credentials_ref")).await;
    }
    if kind != LOCAL {
        return refuse(format!("location_type = {kind:?} is not possible: it is one of '{LOCAL}', '{S3}'"));
    }
    // What stands for a user's id is filled in later.
    let fixed = path.split("${").next().unwrap_or(path);
    if !Path::new(path).is_absolute() || path.split(['/', '\\']).any(|part| part == "..") {
        return refuse(format!("path = {path:?} is not possible: it takes an absolute path without .."));
    }
    let database = ctx.instance.database();
    if let Err(error) = database.disk().create_dir_all(Path::new(fixed)) {
        return refuse(format!("path = {path:?} is not accessible: {error}"));
    }
    match text(new, "credentials_ref") {
        Some(reference) if !reference.starts_with("env:") && !reference.starts_with("config:") => {
            refuse("credentials_ref names where credentials are: 'env:NAME' or 'config:name'".into())
        }
        _ => Ok(()),
    }
}

fn is_name(name: &str, letter: impl Fn(char) -> bool) -> bool {
    !name.is_empty() && name.chars().all(|c| letter(c) || c.is_ascii_digit() || c == '_')
}

/// A bucket is tried out: something is written to it, read and removed.
async fn check_s3(ctx: &StatementContext, path: &str, credentials_ref: Option<&str>) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorCode::InvalidParameter, message));
    if let Err(reason) = S3Location::parse(path) {
        return refuse(format!("path = {path:?} is not possible: {reason}"));
    }
    let named = |reference: &str| match reference.split_once(':') {
        Some(("env", name)) => is_name(name, |c| c.is_ascii_uppercase()),
        Some(("config", name)) => is_name(name, |c| c.is_ascii_alphabetic() || c == '-'),
        _ => false,
    };
    if !credentials_ref.is_none_or(named) {
        let message = "credentials_ref of an object store is 'env:NAME', where NAME has capitals, digits and _, or \
                       'config:name'";
        return Err(Error::new(ErrorCode::InvalidParameter, message).with_hint(
            "NAME_ACCESS_KEY_ID, NAME_SECRET_ACCESS_KEY, NAME_ENDPOINT and NAME_REGION are read from the \
                        server's environment, access_key_id and so on of credentials.name from its configuration",
        ));
    }
    let store = object_store(credentials_ref, path);
    match ctx.instance.database().check_store(&store).await {
        Ok(()) => Ok(()),
        Err(error) => refuse(format!("path = {path:?} is not accessible: {error}")),
    }
}
