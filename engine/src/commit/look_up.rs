//! Looking keys up in the segments, and following rows to where they were moved since they were read. Nothing is locked.

use super::place::{holder, is_there, is_tombstone, moved};
use super::prepare::{Claim, Prepared, key_columns};
use crate::codec::record::{Replaced, Target};
use crate::error::{Error, Result};
use crate::partition::Version;
use crate::tombstones;
use crate::view::Place;

impl Prepared {
    /// Looks the claimed keys up in the segments, where memory does not already know them, and reads the tombstones that
    /// hold some of them.
    pub(crate) fn look_up(&mut self) -> Result<()> {
        let version = self.partition.version();
        self.follow(&version)?;
        self.segments = version.segments.clone();
        if !self.segments.is_empty() {
            self.look_up_segments()?;
        }
        self.find_tombstones(&version)
    }

    /// Says which tombstones hold claimed keys. One that comes or goes before the locks are taken makes it stale.
    fn find_tombstones(&mut self, version: &Version) -> Result<()> {
        self.replaced.clear();
        self.body.replaced = Replaced::default();
        let cold = |claim: &Claim| claim.found.is_some_and(|(_, found)| found.tombstone);
        let hot = version.memtables().any(|memtable| !memtable.tombstones.is_empty());
        for claim in self.claims.iter().filter(|claim| hot || cold(claim)) {
            let holder = holder(version, self.key(claim), claim.found);
            self.replaced.extend(holder.filter(|place| is_tombstone(place, claim.found)));
        }
        if !self.replaced.is_empty() {
            let (targets, old) = tombstones::read(&self.table, version, &self.replaced)?;
            self.body.replaced = Replaced { targets, old: Some(old) };
        }
        Ok(())
    }

    fn look_up_segments(&mut self) -> Result<()> {
        let mut claims = std::mem::take(&mut self.claims);
        let insert_columns = self.body.inserted.as_ref().map(|rows| key_columns(&self.table, rows));
        let update_columns = self.body.updated.as_ref().map(|(.., new)| key_columns(&self.table, new));
        for claim in &mut claims {
            claim.found = None;
            let columns = if claim.insert { &insert_columns } else { &update_columns };
            let key = self.key(claim);
            // The newest segment first: at most one holds the key unsuperseded.
            for segment in self.segments.iter().rev() {
                let found = segment.find(key, columns.as_deref().unwrap_or(&[]), claim.row)?;
                if let Some(found) = found {
                    claim.found = Some((segment.meta().id, found));
                    break;
                }
            }
        }
        self.claims = claims;
        Ok(())
    }

    /// Follows rows to where flushes and compactions moved them since they were read.
    fn follow(&mut self, version: &Version) -> Result<()> {
        let updated = self.body.updated.iter_mut().flat_map(|(targets, ..)| targets);
        let targets = updated.chain(self.body.deleted.iter_mut().flat_map(|(targets, _)| targets));
        for (place, target) in self.superseded.iter_mut().zip(targets) {
            if is_there(version, place) {
                continue;
            }
            let view = self.view.as_deref().ok_or(Error::Conflict)?;
            let (segment, row) = moved(version, view, &self.followed, place).ok_or(Error::Conflict)?;
            let id = segment.meta().id;
            (*place, *target) = (Place::Segment { id, row }, Target::Segment { id, row });
            if !self.followed.iter().any(|known| known.meta().id == id) {
                self.followed.push(segment);
            }
        }
        Ok(())
    }
}
