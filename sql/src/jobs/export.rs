//! `EXPORT USER`: all rows of one person, as Parquet files that anybody can read.
//!
//! The files are written to a directory of a temporary name beside the one that was asked for, which gets its name when
//! all of them are durable: whoever finds the directory finds a whole export. All tables are read at one snapshot.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use datafusion::sql::sqlparser::ast;
use futures::StreamExt;
use kalamdb_engine::{Disk, Table, TableKind, UserId, path_component};
use serde_json::{Value, json};

use super::{About, Progress, start};
use crate::audit;
use crate::auth::{Identity, Role};
use crate::dialect::{self, Export};
use crate::error::{Error, ErrorCode, Result};
use crate::files::{ParquetFile, write_file};
use crate::query;
use crate::session::Outcome;
use crate::statement::StatementContext;

/// Where relative paths begin, below the data directory.
const EXPORTS: &str = "exports";

/// Writes the user's partitions of all USER tables, soft-deleted rows included, and its row of `system.users`.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`]; [`ErrorCode::InvalidParameter`] for a path that cannot be;
/// [`ErrorCode::AlreadyExists`] if something is there.
pub(crate) async fn export(ctx: &Arc<StatementContext>, wanted: &Export) -> Result<Outcome> {
    ctx.require(Role::Dba, "EXPORT")?;
    let user = UserId::new(&wanted.user).map_err(|e| Error::from(e).with_position(wanted.position))?;
    let path = target(ctx, &wanted.path).map_err(|error| error.with_position(wanted.path_position))?;
    let parameters = json!({"user": user.as_str(), "path": path.display().to_string()});
    audit::record(&ctx.instance, &ctx.identity, "export_user", Some(&user), Some(parameters.clone())).await?;
    let about = About { kind: "export", parameters, ..About::default() };
    let identity = Identity { user, role: Role::User };
    let ctx = Arc::new(StatementContext { identity, ..StatementContext::clone(ctx) });
    start(&ctx.clone(), about, wanted.nowait, |progress| async move { run(&ctx, &path, &progress).await })
        .await
}

/// The directory that a path means; nothing may be there.
fn target(ctx: &StatementContext, path: &str) -> Result<PathBuf> {
    let refuse =
        |why: &str| Err(Error::new(ErrorCode::InvalidParameter, format!("this path is not possible: {why}")));
    if path.trim().is_empty() || path.contains('\0') {
        return refuse("it is empty or has a NUL");
    }
    if Path::new(path).components().any(|part| part == Component::ParentDir) {
        return refuse("it climbs with ..");
    }
    let database = ctx.instance.database();
    let path = database.config().dir.join(EXPORTS).join(path);
    let exists = database.disk().exists(&path).map_err(|e| io(&path, &e))?;
    if exists {
        let message = format!("{} already exists", path.display());
        return Err(Error::new(ErrorCode::AlreadyExists, message));
    }
    Ok(path)
}

async fn run(ctx: &Arc<StatementContext>, path: &Path, progress: &Progress) -> Result<Value> {
    let disk = ctx.instance.database().disk().clone();
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", ctx.instance.database().snowflake()));
    let aside = PathBuf::from(aside);
    disk.create_dir_all(&aside).map_err(|e| io(&aside, &e))?;
    let result = fill(ctx, &disk, &aside, progress).await.and_then(|result| {
        disk.sync_dir(&aside).and_then(|()| disk.rename(&aside, path)).map_err(|e| io(path, &e))?;
        if let Some(parent) = path.parent() {
            disk.sync_dir(parent).map_err(|e| io(parent, &e))?;
        }
        Ok(result)
    });
    if result.is_err()
        && let Err(error) = disk.remove_dir_all(&aside)
    {
        tracing::warn!(path = %aside.display(), %error, "what an export left could not be removed");
    }
    result
}

async fn fill(
    ctx: &Arc<StatementContext>,
    disk: &Arc<dyn Disk>,
    dir: &Path,
    progress: &Progress,
) -> Result<Value> {
    let tables: Vec<_> = ctx.catalog.tables().filter(|table| table.kind == TableKind::User).collect();
    progress.expect(tables.len() + 1);
    let mut written = Vec::new();
    for table in tables {
        let columns = "*, _seq, _updated, _deleted";
        let name = format!(
            "{}.{}.parquet",
            path_component(table.namespace.as_str()),
            path_component(table.name.as_str())
        );
        let (rows, bytes) = copy(ctx, disk, &dir.join(&name), &select(columns, table)?, progress).await?;
        if rows > 0 {
            written
                .push(json!({"table": table.qualified_name(), "file": name, "rows": rows, "bytes": bytes}));
        }
        progress.step()?;
    }
    let account = ctx.instance.users().find(ctx.identity.user.as_str());
    let account = account.map(|user| {
        json!({
            "username": user.username,
            "role": user.role.as_str(),
            "metadata": user.metadata,
            "created_at_micros": user.created_at,
            "last_login_micros": user.last_login,
        })
    });
    let summary = json!({
        "user_id": ctx.identity.user.as_str(),
        "account": account,
        "seq": ctx.snapshot.seq(),
        "tables": written,
    });
    write_file(disk.as_ref(), &dir.join("export.json"), summary.to_string().as_bytes())
        .map_err(|e| io(dir, &e))?;
    progress.step()?;
    Ok(summary)
}

/// `SELECT columns FROM table`.
fn select(columns: &str, table: &Table) -> Result<ast::Statement> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    dialect::parse_query(&format!(
        "SELECT {columns} FROM {}.{}",
        quoted(table.namespace.as_str()),
        quoted(table.name.as_str())
    ))
}

/// Writes the rows of a query to a file, if there are any. Returns how many rows and bytes.
async fn copy(
    ctx: &Arc<StatementContext>,
    disk: &Arc<dyn Disk>,
    path: &Path,
    query: &ast::Statement,
    progress: &Progress,
) -> Result<(usize, u64)> {
    let mut rows = query::query(ctx, query, &[]).await?;
    let mut file: Option<ParquetFile> = None;
    let mut count = 0;
    while let Some(batch) = rows.stream.next().await {
        let batch = batch?;
        progress.go_on()?;
        if batch.num_rows() == 0 {
            continue;
        }
        count += batch.num_rows();
        let mut open = match file.take() {
            Some(open) => open,
            None => ParquetFile::create(disk.as_ref(), path, &rows.schema)?,
        };
        // Encoding and writing block.
        let written = tokio::task::spawn_blocking(move || open.write(&batch).map(|()| open)).await;
        file = Some(written.map_err(Error::internal)??);
    }
    let Some(open) = file else { return Ok((0, 0)) };
    let bytes = tokio::task::spawn_blocking(move || open.finish()).await.map_err(Error::internal)??;
    progress.add_written(bytes);
    Ok((count, bytes))
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    crate::files::failed(path, error)
}
