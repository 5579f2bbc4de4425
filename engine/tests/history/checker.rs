//! Whether a recorded history is one that snapshot isolation allows.
//!
//! Every value written is unique, so a value that was read names its writer. The database says of every transaction
//! which commit it saw last and which number its own commit got; the checker holds it to that: replaying the commits in
//! the order of their numbers gives the one state that a transaction may have read, apart from its own writes. This
//! finds every anomaly that snapshot isolation forbids, and says which kind it is.

use std::collections::{BTreeMap, HashMap};

pub type Key = (usize, i64);
pub type Tag = u64;
/// The rows of one partition.
pub type Rows = BTreeMap<i64, Tag>;

#[derive(Debug, Clone)]
pub enum Op {
    /// All rows of a partition.
    Read(usize, Rows),
    /// A row's new value; `None` if it is deleted.
    Write(Key, Option<Tag>),
}

#[derive(Debug, Clone)]
pub struct Transaction {
    pub session: usize,
    /// The newest commit that anybody was told of before it began.
    pub told: u64,
    /// The last commit that it says it sees.
    pub snapshot: u64,
    /// Its own commit; `None` if it was rolled back or refused, or wrote nothing.
    pub commit: Option<u64>,
    pub ops: Vec<Op>,
}

/// What must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Anomaly {
    /// A value that nobody wrote.
    Invented,
    /// A value of a transaction that did not commit.
    AbortedRead,
    /// A value that its own transaction replaced before it committed.
    IntermediateRead,
    /// A value that was committed after the snapshot.
    FutureRead,
    /// A value older than the snapshot, or none where there is one: read skew, long fork.
    StaleRead,
    /// A row that the reader itself wrote, as it was before.
    OwnWriteMissing,
    /// Two commits of one row, of which the later one did not see the earlier one.
    LostUpdate,
    /// A snapshot older than one of the same session before, or than a commit the client was told of.
    StaleSnapshot,
    /// Two commits with one number, or one that is not after its snapshot.
    CommitOrder,
    /// At the end something else is there than what was committed.
    FinalState,
}

struct Index<'a> {
    history: &'a [Transaction],
    /// The committed ones by commit.
    commits: BTreeMap<u64, &'a Transaction>,
    /// Who wrote a value, and whether it is the last one that it wrote to that row.
    writers: HashMap<Tag, (&'a Transaction, bool)>,
}

fn writes(transaction: &Transaction) -> impl Iterator<Item = (Key, Option<Tag>)> {
    transaction.ops.iter().filter_map(|op| match op {
        Op::Write(key, tag) => Some((*key, *tag)),
        Op::Read(..) => None,
    })
}

fn last_writes(transaction: &Transaction) -> BTreeMap<Key, Option<Tag>> {
    writes(transaction).collect()
}

/// The first anomaly of a history that ended with `last`, if there is one.
pub fn check(history: &[Transaction], last: &[Rows]) -> Result<(), (Anomaly, String)> {
    let mut index = Index { history, commits: BTreeMap::new(), writers: HashMap::new() };
    for transaction in history {
        let last = last_writes(transaction);
        for (key, tag) in writes(transaction) {
            if let Some(tag) = tag {
                index.writers.insert(tag, (transaction, last[&key] == Some(tag)));
            }
        }
        let Some(commit) = transaction.commit else { continue };
        if commit <= transaction.snapshot || index.commits.insert(commit, transaction).is_some() {
            return Err((Anomaly::CommitOrder, format!("{transaction:?}")));
        }
    }
    index.sessions()?;
    index.first_committer_wins()?;
    index.reads(last)
}

impl Index<'_> {
    /// Each session's transactions are in the history in order.
    fn sessions(&self) -> Result<(), (Anomaly, String)> {
        let mut seen: HashMap<usize, u64> = HashMap::new();
        for transaction in self.history {
            let at_least = seen.entry(transaction.session).or_default();
            if transaction.snapshot < (*at_least).max(transaction.told) {
                return Err((Anomaly::StaleSnapshot, format!("after {at_least}: {transaction:?}")));
            }
            *at_least = transaction.commit.unwrap_or(0).max(transaction.snapshot);
        }
        Ok(())
    }

    /// No commit changes a row that another one changed after its snapshot. A key that was taken and given up again
    /// meanwhile is as free as it was.
    fn first_committer_wins(&self) -> Result<(), (Anomaly, String)> {
        let mut versions: HashMap<Key, Vec<(u64, Option<Tag>)>> = HashMap::new();
        for (commit, transaction) in &self.commits {
            for (key, tag) in last_writes(transaction) {
                let before = versions.entry(key).or_default();
                let seen = before.iter().rev().find(|(at, _)| *at <= transaction.snapshot);
                let now = before.last();
                if seen.and_then(|(_, tag)| *tag) != now.and_then(|(_, tag)| *tag) {
                    let what =
                        format!("{key:?} was {seen:?}, then {now:?}, when committed by {transaction:?}");
                    return Err((Anomaly::LostUpdate, what));
                }
                before.push((*commit, tag));
            }
        }
        Ok(())
    }

    /// Replays the commits; each transaction's reads are held against the state at its snapshot.
    fn reads(&self, last: &[Rows]) -> Result<(), (Anomaly, String)> {
        let mut readers: Vec<&Transaction> = self.history.iter().collect();
        readers.sort_by_key(|transaction| transaction.snapshot);
        let mut state = vec![Rows::new(); last.len()];
        let mut commits = self.commits.iter().peekable();
        for reader in readers {
            while let Some((_, writer)) = commits.next_if(|(commit, _)| **commit <= reader.snapshot) {
                replay(&mut state, writer);
            }
            self.reads_of(reader, &state)?;
        }
        commits.for_each(|(_, writer)| replay(&mut state, writer));
        match state == last {
            true => Ok(()),
            false => Err((Anomaly::FinalState, format!("{last:?} where {state:?} was committed"))),
        }
    }

    fn reads_of(&self, reader: &Transaction, state: &[Rows]) -> Result<(), (Anomaly, String)> {
        let mut own: BTreeMap<Key, Option<Tag>> = BTreeMap::new();
        for op in &reader.ops {
            match op {
                Op::Write(key, tag) => drop(own.insert(*key, *tag)),
                Op::Read(part, found) => {
                    let mut expected = state[*part].clone();
                    own.iter().filter(|((at, _), _)| at == part).for_each(|((_, id), tag)| {
                        set(&mut expected, *id, *tag);
                    });
                    let keys = expected.keys().chain(found.keys());
                    let wrong = keys.copied().find(|id| expected.get(id) != found.get(id));
                    if let Some(id) = wrong {
                        let (expected, found) = (expected.get(&id).copied(), found.get(&id).copied());
                        let kind = self.kind(reader, own.contains_key(&(*part, id)), found);
                        let what = format!("{found:?} where {expected:?} is at {:?}: {reader:?}", (part, id));
                        return Err((kind, what));
                    }
                }
            }
        }
        Ok(())
    }

    /// What kind of anomaly it is to have found this value.
    fn kind(&self, reader: &Transaction, own: bool, found: Option<Tag>) -> Anomaly {
        if own {
            return Anomaly::OwnWriteMissing;
        }
        let Some(tag) = found else { return Anomaly::StaleRead };
        match self.writers.get(&tag) {
            None => Anomaly::Invented,
            Some((Transaction { commit: None, .. }, _)) => Anomaly::AbortedRead,
            Some((_, false)) => Anomaly::IntermediateRead,
            Some((Transaction { commit: Some(at), .. }, _)) if *at > reader.snapshot => Anomaly::FutureRead,
            Some(_) => Anomaly::StaleRead,
        }
    }
}

fn replay(state: &mut [Rows], writer: &Transaction) {
    last_writes(writer).into_iter().for_each(|((part, id), tag)| set(&mut state[part], id, tag));
}

fn set(rows: &mut Rows, id: i64, tag: Option<Tag>) {
    match tag {
        Some(tag) => rows.insert(id, tag),
        None => rows.remove(&id),
    };
}

mod controls {
    use super::*;

    fn rows(list: &[(i64, Tag)]) -> Rows {
        list.iter().copied().collect()
    }

    fn write(id: i64, tag: Tag) -> Op {
        Op::Write((0, id), Some(tag))
    }

    fn transaction(session: usize, snapshot: u64, commit: Option<u64>, ops: Vec<Op>) -> Transaction {
        Transaction { session, told: 0, snapshot, commit, ops }
    }

    /// Rows 1 and 2 written, then changed twice, once by a transaction that is rolled back; and a delete.
    fn good() -> (Vec<Transaction>, Vec<Rows>) {
        let read = |list: &[(i64, Tag)]| Op::Read(0, rows(list));
        let history = vec![
            transaction(
                0,
                0,
                Some(1),
                vec![read(&[]), write(1, 10), write(2, 20), read(&[(1, 10), (2, 20)])],
            ),
            transaction(0, 1, Some(2), vec![read(&[(1, 10), (2, 20)]), write(1, 11), write(1, 12)]),
            transaction(1, 1, None, vec![read(&[(1, 10), (2, 20)]), write(2, 21)]),
            transaction(
                1,
                2,
                Some(3),
                vec![read(&[(1, 12), (2, 20)]), Op::Write((0, 2), None), read(&[(1, 12)])],
            ),
            transaction(2, 2, Some(4), vec![read(&[(1, 12), (2, 20)]), write(3, 30)]),
            transaction(2, 4, None, vec![read(&[(1, 12), (3, 30)])]),
        ];
        (history, vec![rows(&[(1, 12), (3, 30)])])
    }

    fn found(change: impl FnOnce(&mut Vec<Transaction>, &mut Vec<Rows>)) -> Anomaly {
        let (mut history, mut last) = good();
        change(&mut history, &mut last);
        check(&history, &last).expect_err("the anomaly is found").0
    }

    #[test]
    fn the_checker_accepts_a_good_history_and_finds_every_kind_of_planted_anomaly() {
        let (history, last) = good();
        check(&history, &last).unwrap();
        let read = |list: &[(i64, Tag)]| Op::Read(0, rows(list));
        let planted = [
            (Anomaly::Invented, found(|h, _| h[5].ops[0] = read(&[(1, 12), (3, 99)]))),
            (Anomaly::AbortedRead, found(|h, _| h[3].ops[0] = read(&[(1, 12), (2, 21)]))),
            (Anomaly::IntermediateRead, found(|h, _| h[3].ops[0] = read(&[(1, 11), (2, 20)]))),
            (Anomaly::FutureRead, found(|h, _| h[2].ops[0] = read(&[(1, 12), (2, 20)]))),
            // Half of a commit, and two readers that see two commits in different orders.
            (Anomaly::StaleRead, found(|h, _| h[1].ops[0] = read(&[(1, 10)]))),
            (Anomaly::StaleRead, found(|h, _| h[5].ops[0] = read(&[(1, 12), (2, 20), (3, 30)]))),
            (Anomaly::OwnWriteMissing, found(|h, _| h[0].ops[3] = read(&[(1, 10)]))),
            (Anomaly::LostUpdate, found(|h, _| h[4].ops.push(Op::Write((0, 2), Some(22))))),
            (Anomaly::StaleSnapshot, found(|h, _| h[5].snapshot = 3)),
            (Anomaly::StaleSnapshot, found(|h, _| h[3].told = 3)),
            (Anomaly::CommitOrder, found(|h, _| h[4].commit = Some(3))),
            (Anomaly::CommitOrder, found(|h, _| h[4].commit = Some(2))),
            (Anomaly::FinalState, found(|_, last| last[0].retain(|id, _| *id != 3))),
        ];
        for (kind, found) in planted {
            assert_eq!(kind, found);
        }
    }
}
