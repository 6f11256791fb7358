//! The names of the disk: directories as they are, as they are durably, and the operations between.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};

use super::Chooser;
use super::content::Content;

const ROOT: usize = 0;

/// Files and directories by number; the root is number 0.
#[derive(Clone)]
pub(super) struct Tree {
    nodes: Vec<Option<Node>>,
    /// Directory operations not yet synced, oldest first.
    pending: Vec<Change>,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) handles: u32,
}

#[derive(Clone)]
pub(super) enum Kind {
    File(Content),
    Dir(Dir),
}

#[derive(Clone, Default)]
pub(super) struct Dir {
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
}

/// A name: the directory it is in, and the word.
type Name = (usize, String);

#[derive(Clone)]
enum Change {
    Link { name: Name, ino: usize },
    Unlink { name: Name },
    Move { from: Name, to: Name, ino: usize },
}

impl Default for Tree {
    fn default() -> Tree {
        Tree {
            nodes: vec![Some(Node::dir())],
            pending: Vec::new(),
        }
    }
}

impl Node {
    fn dir() -> Node {
        Node {
            kind: Kind::Dir(Dir::default()),
            mode: 0o700,
            handles: 0,
        }
    }

    fn file() -> Node {
        Node {
            kind: Kind::File(Content::default()),
            mode: 0o600,
            handles: 0,
        }
    }
}

impl Tree {
    pub(super) fn resolve(&self, path: &Path) -> io::Result<usize> {
        let mut at = ROOT;
        for word in words(path) {
            at = *self
                .dir(at)?
                .live
                .get(word?)
                .ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    pub(super) fn is_dir(&self, ino: usize) -> bool {
        matches!(
            self.nodes.get(ino),
            Some(Some(Node {
                kind: Kind::Dir(_),
                ..
            }))
        )
    }

    pub(super) fn node_mut(&mut self, ino: usize) -> io::Result<&mut Node> {
        self.nodes
            .get_mut(ino)
            .and_then(Option::as_mut)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn file_mut(&mut self, ino: usize) -> io::Result<&mut Content> {
        match &mut self.node_mut(ino)?.kind {
            Kind::File(content) => Ok(content),
            Kind::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for word in words(path) {
            let word = word?;
            at = match self.dir(at)?.live.get(word) {
                Some(&ino) if self.is_dir(ino) => ino,
                Some(_) => return Err(io::ErrorKind::NotADirectory.into()),
                None => self.link((at, word.to_string()), Node::dir())?,
            };
        }
        Ok(())
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<usize> {
        let name = self.name(path)?;
        self.link(name, Node::file())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let ino = self.resolve(from)?;
        let (from, to) = (self.name(from)?, self.name(to)?);
        if from == to {
            return Ok(());
        }
        if let Some(&old) = self.dir(to.0)?.live.get(&to.1) {
            let moves_dir = self.is_dir(ino);
            match &self.node_mut(old)?.kind {
                Kind::Dir(dir) if !dir.live.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                Kind::Dir(_) if !moves_dir => return Err(io::ErrorKind::IsADirectory.into()),
                Kind::File(_) if moves_dir => return Err(io::ErrorKind::NotADirectory.into()),
                _ => {}
            }
        }
        self.dir_mut(from.0)?.live.remove(&from.1);
        self.dir_mut(to.0)?.live.insert(to.1.clone(), ino);
        self.pending.push(Change::Move { from, to, ino });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let ino = self.resolve(path)?;
        if self.is_dir(ino) && !self.dir(ino)?.live.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let name = self.name(path)?;
        self.dir_mut(name.0)?.live.remove(&name.1);
        self.pending.push(Change::Unlink { name });
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self
            .dir(self.resolve(path)?)?
            .live
            .keys()
            .cloned()
            .collect())
    }

    /// Makes the pending operations that touch this directory durable, in order. A move between two directories becomes
    /// durable with either: file systems commit it as one transaction.
    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.resolve(path)?;
        self.dir(dir)?;
        let (now, later) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|change| change.touches(dir));
        self.pending = later;
        for change in now {
            self.make_durable(change);
        }
        self.sweep();
        Ok(())
    }

    pub(super) fn crash(&mut self, chooser: &mut dyn Chooser) {
        for change in std::mem::take(&mut self.pending) {
            if chooser.choose(2) == 1 {
                self.make_durable(change);
            }
        }
        for node in self.nodes.iter_mut().flatten() {
            node.handles = 0;
            if let Kind::Dir(dir) = &mut node.kind {
                dir.live = dir.durable.clone();
            }
        }
        self.sweep();
        for node in self.nodes.iter_mut().flatten() {
            if let Kind::File(content) = &mut node.kind {
                content.crash(chooser);
            }
        }
    }

    pub(super) fn release(&mut self, ino: usize) {
        if let Ok(node) = self.node_mut(ino) {
            node.handles = node.handles.saturating_sub(1);
        }
    }

    /// Lengths of all files that have a name or are open.
    pub(super) fn used_bytes(&self) -> u64 {
        let live = self.reachable(|dir| dir.live.values());
        let used = |(ino, node): (usize, &Option<Node>)| match node {
            Some(Node {
                kind: Kind::File(content),
                handles,
                ..
            }) if live[ino] || *handles > 0 => content.len(),
            _ => 0,
        };
        self.nodes.iter().enumerate().map(used).sum()
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let size = |node: &Node| match &node.kind {
            Kind::File(content) => content.memory_bytes(),
            Kind::Dir(_) => 0,
        };
        self.nodes.iter().flatten().map(size).sum()
    }

    fn link(&mut self, name: Name, node: Node) -> io::Result<usize> {
        let ino = match self.nodes.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.nodes.push(None);
                self.nodes.len() - 1
            }
        };
        self.dir_mut(name.0)?.live.insert(name.1.clone(), ino);
        self.nodes[ino] = Some(node);
        self.pending.push(Change::Link { name, ino });
        Ok(ino)
    }

    fn make_durable(&mut self, change: Change) {
        let mut set = |(dir, word): Name, ino: Option<usize>| {
            if let Ok(dir) = self.dir_mut(dir) {
                match ino {
                    Some(ino) => dir.durable.insert(word, ino),
                    None => dir.durable.remove(&word),
                };
            }
        };
        match change {
            Change::Link { name, ino } => set(name, Some(ino)),
            Change::Unlink { name } => set(name, None),
            Change::Move { from, to, ino } => {
                set(from, None);
                set(to, Some(ino));
            }
        }
    }

    /// Forgets what no name, no pending operation and no open file refers to.
    fn sweep(&mut self) {
        let live = self.reachable(|dir| dir.live.values());
        let durable = self.reachable(|dir| dir.durable.values());
        let mut kept: Vec<bool> = live
            .iter()
            .zip(durable)
            .map(|(&live, durable)| live || durable)
            .collect();
        for change in &self.pending {
            match change {
                Change::Link { name, ino } => (kept[name.0], kept[*ino]) = (true, true),
                Change::Unlink { name } => kept[name.0] = true,
                Change::Move { from, to, ino } => {
                    (kept[from.0], kept[to.0], kept[*ino]) = (true, true, true)
                }
            }
        }
        for (node, kept) in self.nodes.iter_mut().zip(kept) {
            if !kept && node.as_ref().is_some_and(|node| node.handles == 0) {
                *node = None;
            }
        }
    }

    fn reachable<'a, I: Iterator<Item = &'a usize>>(
        &'a self,
        entries: impl Fn(&'a Dir) -> I,
    ) -> Vec<bool> {
        let mut found = vec![false; self.nodes.len()];
        let mut todo = vec![ROOT];
        while let Some(ino) = todo.pop() {
            if std::mem::replace(&mut found[ino], true) {
                continue;
            }
            if let Some(Some(Node {
                kind: Kind::Dir(dir),
                ..
            })) = self.nodes.get(ino)
            {
                todo.extend(entries(dir));
            }
        }
        found
    }

    fn name(&self, path: &Path) -> io::Result<Name> {
        let word = path
            .file_name()
            .and_then(|word| word.to_str())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.resolve(path.parent().unwrap_or(Path::new("")))?;
        self.dir(dir)?;
        Ok((dir, word.to_string()))
    }

    fn dir(&self, ino: usize) -> io::Result<&Dir> {
        match self.nodes.get(ino) {
            Some(Some(Node {
                kind: Kind::Dir(dir),
                ..
            })) => Ok(dir),
            Some(Some(_)) => Err(io::ErrorKind::NotADirectory.into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn dir_mut(&mut self, ino: usize) -> io::Result<&mut Dir> {
        match &mut self.node_mut(ino)?.kind {
            Kind::Dir(dir) => Ok(dir),
            Kind::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }
}

impl Change {
    fn touches(&self, dir: usize) -> bool {
        match self {
            Change::Link { name, .. } | Change::Unlink { name } => name.0 == dir,
            Change::Move { from, to, .. } => from.0 == dir || to.0 == dir,
        }
    }
}

/// The components of a path; the root and `.` are where every path starts.
fn words(path: &Path) -> impl Iterator<Item = io::Result<&str>> {
    path.components().filter_map(|component| match component {
        Component::RootDir | Component::CurDir => None,
        Component::Normal(word) => Some(
            word.to_str()
                .ok_or_else(|| io::ErrorKind::InvalidInput.into()),
        ),
        Component::ParentDir | Component::Prefix(_) => {
            Some(Err(io::ErrorKind::InvalidInput.into()))
        }
    })
}
