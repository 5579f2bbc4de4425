//! All accounts in memory.

use std::collections::HashMap;
use std::sync::Arc;

use kalamdb_engine::{Database, read};
use parking_lot::RwLock;

use super::{User, rows};
use crate::auth::Account;
use crate::error::{Error, Result};

/// The users there are, by id and by name. Changed under [`Directory::writer`] only, after the change is durable.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    users: RwLock<Users>,
    /// Held by a statement that changes users, from its look at them to its commit.
    pub(crate) writer: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Users {
    by_id: HashMap<String, Arc<User>>,
    /// Username to id.
    names: HashMap<String, String>,
}

impl Directory {
    /// Reads `system.users`.
    ///
    /// # Errors
    /// The engine's.
    pub(crate) async fn load(database: &Database) -> Result<Self> {
        let table = rows::table(&database.catalog())?;
        let view = database.view(&database.snapshot(), &table, None).await?;
        let directory = Self::default();
        for located in read::live_rows(&view)? {
            for row in 0..located.addresses.len() {
                directory.put(rows::user(&located.rows.rows, row)?);
            }
        }
        Ok(directory)
    }

    /// True if nobody can log in yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.users.read().by_id.is_empty()
    }

    /// A user by id or, failing that, by name.
    pub(crate) fn find(&self, login: &str) -> Option<Arc<User>> {
        let users = self.users.read();
        let id = if users.by_id.contains_key(login) { login } else { users.names.get(login)? };
        users.by_id.get(id).cloned()
    }

    /// What a login is checked against.
    pub(crate) fn account(&self, login: &str) -> Option<Account> {
        let user = self.find(login)?;
        Some(Account {
            user: user.user_id.clone(),
            role: user.role,
            password_hash: user.password_hash.as_deref().map(Arc::from),
        })
    }

    pub(super) fn put(&self, user: User) {
        let mut users = self.users.write();
        let id = user.user_id.to_string();
        if let Some(old) = users.by_id.get(&id).cloned() {
            users.names.remove(&old.username);
        }
        users.names.insert(user.username.clone(), id.clone());
        users.by_id.insert(id, Arc::new(user));
    }

    pub(super) fn remove(&self, user: &User) {
        let mut users = self.users.write();
        users.by_id.remove(user.user_id.as_str());
        users.names.remove(&user.username);
    }

    /// How many users of a role there are.
    pub(super) fn count(&self, role: crate::auth::Role) -> usize {
        self.users.read().by_id.values().filter(|user| user.role == role).count()
    }
}

impl From<&User> for Error {
    fn from(user: &User) -> Self {
        Self::new(crate::error::ErrorCode::AlreadyExists, format!("user {} already exists", user.user_id))
    }
}
