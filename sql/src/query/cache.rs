//! Plans of statements that come again and again.
//!
//! A plan is found by the statement's text, the namespace that names are looked up in and the role whose rights apply, and
//! it is good for one version of the catalog. It knows nothing of a session: not who asks, not when, not what was read
//! before ([`Prepared`] says which plans can be kept at all). So it does not matter whose statement it was made for.
//!
//! A text is remembered by its hash when it comes first and its plan is kept from the second time on: statements with values
//! written into them, which never come again, cost no memory and push nothing out.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use datafusion::sql::sqlparser::ast;
use parking_lot::Mutex;

use super::prepared::Prepared;
use crate::auth::Role;
use crate::recent::{Known, LONGEST_TEXT, Recent};
use crate::statement::StatementContext;

/// The plans that are kept.
#[derive(Default)]
pub(crate) struct PlanCache {
    kept: Mutex<Recent<Entry>>,
    hasher: RandomState,
    hits: AtomicU64,
    misses: AtomicU64,
    lookups: AtomicU64,
}

/// How the cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheStats {
    /// Plans that are kept.
    pub(crate) plans: u64,
    /// Statements that were run by a kept plan.
    pub(crate) hits: u64,
    /// Statements that had to be planned.
    pub(crate) misses: u64,
    /// Statements that a kept plan answered with the row of a key.
    pub(crate) lookups: u64,
}

struct Entry {
    text: Box<str>,
    namespace: String,
    role: Role,
    version: u64,
    /// `None` for a statement that has to be planned anew each time.
    plan: Option<Arc<Prepared>>,
}

impl Entry {
    fn is_for(&self, text: &str, namespace: &str, role: Role) -> bool {
        *self.text == *text && self.namespace == namespace && self.role == role
    }
}

impl PlanCache {
    /// The plan of a statement, which is `text` parsed: a kept one, or a new one if the text came before. `None` if the
    /// statement has to be planned in the ordinary way, which then also says what is wrong with it.
    pub(super) async fn plan(
        &self,
        ctx: &Arc<StatementContext>,
        text: &str,
        statement: &ast::Statement,
    ) -> Option<Arc<Prepared>> {
        let plan = self.find(ctx, text, statement).await;
        let counter = if plan.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Relaxed);
        plan
    }

    async fn find(
        &self,
        ctx: &Arc<StatementContext>,
        text: &str,
        statement: &ast::Statement,
    ) -> Option<Arc<Prepared>> {
        if text.len() > LONGEST_TEXT {
            return None;
        }
        let version = ctx.catalog.version();
        let (namespace, role) = (ctx.namespace.as_str(), ctx.role());
        let hash = self.hash(text, namespace, role);
        match self.kept.lock().look_up(hash, |entry| entry.is_for(text, namespace, role)) {
            Known::Kept(entry) if entry.version == version => return entry.plan.clone(),
            // A transaction that began before the catalog changed takes nothing from those after it.
            Known::Kept(entry) if entry.version > version => return None,
            Known::Kept(_) | Known::Before => {}
            Known::Never => return None,
        }
        let plan = Prepared::new(ctx, statement).await.ok()?.map(Arc::new);
        let (text, namespace) = (text.into(), ctx.namespace.clone());
        let entry = Entry { text, namespace, role: ctx.role(), version, plan: plan.clone() };
        self.kept.lock().insert(hash, Arc::new(entry));
        plan
    }

    /// True if a plan is kept that reads a row by its key.
    pub(crate) fn reads_a_row(&self, text: &str, namespace: &str, role: Role) -> bool {
        let entry = self.kept.lock().get(self.hash(text, namespace, role));
        let plan =
            entry.filter(|entry| entry.is_for(text, namespace, role)).and_then(|entry| entry.plan.clone());
        plan.is_some_and(|plan| plan.is_a_lookup())
    }

    fn hash(&self, text: &str, namespace: &str, role: Role) -> u64 {
        self.hasher.hash_one((text, namespace, role as u8))
    }

    /// Counts a statement that was answered with the row of a key.
    pub(super) fn count_lookup(&self) {
        self.lookups.fetch_add(1, Relaxed);
    }

    /// How it does.
    pub(crate) fn stats(&self) -> CacheStats {
        let plans = {
            let kept = self.kept.lock();
            kept.entries().filter(|entry| entry.plan.is_some()).count()
        };
        CacheStats {
            plans: plans as u64,
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            lookups: self.lookups.load(Relaxed),
        }
    }
}
