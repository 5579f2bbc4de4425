//! The simulated directory tree: which names are durable, which the running process sees, and the changes between.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::random::SimRandom;
use crate::DirEntry;

/// Identifies a file whatever its name.
pub(super) type InodeId = usize;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(InodeId),
}

type Tree = BTreeMap<PathBuf, Node>;

/// One change that a filesystem makes as a whole: a rename sets one name and unsets another.
#[derive(Debug, Clone)]
struct Change(Vec<(PathBuf, Option<Node>)>);

#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    durable: Tree,
    current: Tree,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> io::Result<Node> {
        if is_root(path) {
            return Ok(Node::Dir);
        }
        self.current.get(path).copied().ok_or_else(|| not_found(path))
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<InodeId> {
        match self.get(path)? {
            Node::File(inode) => Ok(inode),
            Node::Dir => Err(io::Error::new(io::ErrorKind::IsADirectory, path.display().to_string())),
        }
    }

    pub(super) fn create(&mut self, path: &Path, node: Node) -> io::Result<()> {
        if self.get(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, path.display().to_string()));
        }
        self.need_dir(path.parent())?;
        self.change(vec![(path.to_owned(), Some(node))]);
        Ok(())
    }

    pub(super) fn create_dirs(&mut self, path: &Path) -> io::Result<()> {
        let mut ancestors: Vec<_> = path.ancestors().filter(|a| !is_root(a)).collect();
        ancestors.reverse();
        for dir in ancestors {
            match self.get(dir) {
                Ok(Node::Dir) => {}
                Ok(Node::File(_)) => {
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, dir.display().to_string()));
                }
                Err(_) => self.create(dir, Node::Dir)?,
            }
        }
        Ok(())
    }

    /// A file or a directory with all it holds.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.get(from)?;
        self.need_dir(to.parent())?;
        let moved: Vec<_> = self.under(from);
        let mut names: Vec<_> = moved.iter().map(|(path, _)| (path.clone(), None)).collect();
        names.extend(moved.iter().map(|(path, node)| {
            // Every path under `from` begins with it.
            let rest = path.strip_prefix(from).unwrap_or(path);
            let path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            (path, Some(*node))
        }));
        self.change(names);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(vec![(path.to_owned(), None)]);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        self.need_dir(Some(path))?;
        for (path, _) in self.under(path).into_iter().rev() {
            self.change(vec![(path, None)]);
        }
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.need_dir(Some(dir))?;
        let children = self.current.iter().filter(|(path, _)| path.parent() == Some(dir));
        Ok(children
            .map(|(path, node)| DirEntry {
                name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                is_dir: *node == Node::Dir,
            })
            .collect())
    }

    /// A file's present name, if it has one.
    pub(super) fn name_of(&self, inode: InodeId) -> Option<&Path> {
        let named = self.current.iter().find(|(_, node)| **node == Node::File(inode));
        named.map(|(path, _)| path.as_path())
    }

    /// Every file, by path.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let files = self.current.iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// Makes the changes that touch the directory durable, in order.
    pub(super) fn sync(&mut self, dir: &Path) -> io::Result<()> {
        self.need_dir(Some(dir))?;
        let touches = |change: &Change| change.0.iter().any(|(path, _)| path.parent() == Some(dir));
        let (now, later) = std::mem::take(&mut self.pending).into_iter().partition(touches);
        self.pending = later;
        let now: Vec<Change> = now;
        now.iter().for_each(|change| apply(&mut self.durable, change));
        Ok(())
    }

    pub(super) fn lose_unsynced(&mut self) {
        self.settle(self.durable.clone());
    }

    pub(super) fn keep_unsynced(&mut self) {
        self.settle(self.current.clone());
    }

    pub(super) fn tear(&mut self, random: &mut SimRandom) {
        let mut tree = self.durable.clone();
        self.pending.iter().filter(|_| random.coin()).for_each(|change| apply(&mut tree, change));
        self.settle(tree);
    }

    /// A name whose directory did not survive is not reachable.
    fn settle(&mut self, mut tree: Tree) {
        let dirs: Tree =
            tree.iter().filter(|(_, n)| **n == Node::Dir).map(|(p, n)| (p.clone(), *n)).collect();
        let reachable = |path: &Path| path.ancestors().skip(1).all(|a| is_root(a) || dirs.contains_key(a));
        tree.retain(|path, _| reachable(path));
        *self = Self { durable: tree.clone(), current: tree, pending: Vec::new() };
    }

    fn under(&self, path: &Path) -> Vec<(PathBuf, Node)> {
        self.current.iter().filter(|(p, _)| p.starts_with(path)).map(|(p, n)| (p.clone(), *n)).collect()
    }

    fn change(&mut self, names: Vec<(PathBuf, Option<Node>)>) {
        let change = Change(names);
        apply(&mut self.current, &change);
        self.pending.push(change);
    }

    fn need_dir(&self, dir: Option<&Path>) -> io::Result<()> {
        match dir.map(|dir| self.get(dir)) {
            None | Some(Ok(Node::Dir)) => Ok(()),
            Some(Ok(Node::File(_))) => Err(io::ErrorKind::NotADirectory.into()),
            Some(Err(error)) => Err(error),
        }
    }
}

fn apply(tree: &mut Tree, Change(names): &Change) {
    for (path, node) in names {
        match node {
            Some(node) => tree.insert(path.clone(), *node),
            None => tree.remove(path),
        };
    }
}

fn is_root(path: &Path) -> bool {
    path.parent().is_none() || path.as_os_str() == "." || path.as_os_str().is_empty()
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, path.display().to_string())
}
