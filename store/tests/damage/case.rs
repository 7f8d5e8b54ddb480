//! One cell of the matrix: what is done to the files of a store, and what may come of it.

use super::regions::regions;
use std::{fs, path::Path};

/// One file's change.
#[derive(Clone, Debug)]
pub enum Edit {
    /// It has these bytes now.
    Write(String, Vec<u8>),
    /// It is gone.
    Delete(String),
    /// Zeros follow up to so many bytes.
    Grow(String, u64),
}

impl Edit {
    pub fn path(&self) -> &str {
        match self {
            Self::Write(path, _) | Self::Delete(path) | Self::Grow(path, _) => path,
        }
    }
}

/// A cell. What it does not excuse must not happen.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is done to what.
    pub label: String,
    pub edits: Vec<Edit>,
    /// Names of points that a listing may leave out.
    pub hides: Vec<String>,
    /// Families of points whose restore may fail, with a message that names the object.
    pub hurts: Vec<String>,
    /// Whether opening the store may be refused, with a message that names the object.
    pub may_not_open: bool,
    /// Why a scrub with keys cannot see it.
    pub unseen: Option<&'static str>,
    /// Why a scrub without keys cannot see it.
    pub unseen_without_keys: Option<&'static str>,
    /// Leaves out what a seal has no part in: caches, dry runs, other plans, a collection before anybody looked.
    pub quick: bool,
    /// Why a collection may take what the undamaged store would keep.
    pub collectable: Option<&'static str>,
}

impl Case {
    pub fn new(label: String, edits: Vec<Edit>) -> Self {
        Self {
            label,
            edits,
            hides: Vec::new(),
            hurts: Vec::new(),
            may_not_open: false,
            unseen: None,
            unseen_without_keys: None,
            quick: false,
            collectable: None,
        }
    }
    pub fn hides(mut self, point: &str) -> Self {
        self.hides.push(point.into());
        self
    }
    pub fn hurts(mut self, family: &str) -> Self {
        self.hurts.push(family.into());
        self
    }
    pub fn may_not_open(mut self) -> Self {
        self.may_not_open = true;
        self
    }
    pub fn unseen(mut self, why: &'static str) -> Self {
        (self.unseen, self.unseen_without_keys) = (Some(why), Some(why));
        self
    }
    pub fn unseen_without_keys(mut self, why: &'static str) -> Self {
        self.unseen_without_keys = Some(why);
        self
    }
    /// A bit of a region.
    pub fn is_flip(&self) -> bool {
        self.label.contains(" flipped at ")
    }

    pub fn quick_flip(mut self) -> Self {
        self.quick = self.is_flip();
        self
    }
    pub fn collectable(mut self, why: &'static str) -> Self {
        self.collectable = Some(why);
        self
    }
}

/// A bit of each region flipped.
pub fn flips(root: &Path, path: &str) -> Vec<Case> {
    let whole = read(root, path);
    let flip = |(name, at): (String, usize)| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        Case::new(format!("{path}: {name} flipped at {at}"), vec![Edit::Write(path.into(), bytes)])
    };
    regions(path, &whole).into_iter().map(flip).collect()
}

/// Cut to nothing, to half, by a byte; longer by a byte, and beyond any limit of its kind.
pub fn lengths(root: &Path, path: &str) -> Vec<Case> {
    let whole = read(root, path);
    let write = |what: &str, bytes: &[u8]| Case::new(format!("{path}: {what}"), vec![Edit::Write(path.into(), bytes.to_vec())]);
    vec![
        write("cut to nothing", &[]),
        write("cut to half", &whole[..whole.len() / 2]),
        write("cut by a byte", &whole[..whole.len() - 1]),
        write("a byte longer", &[&whole[..], &[0]].concat()),
        Case::new(format!("{path}: grown beyond all limits"), vec![Edit::Grow(path.into(), (64 << 20) + 1)]),
    ]
}

/// Gone.
pub fn deleted(path: &str) -> Case {
    Case::new(format!("{path}: deleted"), vec![Edit::Delete(path.into())])
}

/// Two objects under each other's names.
pub fn swapped(root: &Path, a: &str, b: &str) -> Case {
    Case::new(format!("{a} and {b}: swapped"), vec![Edit::Write(a.into(), read(root, b)), Edit::Write(b.into(), read(root, a))])
}

/// An object of the same store under another name, be there one of that name or not.
pub fn replayed(root: &Path, from: &str, to: &str) -> Case {
    Case::new(format!("{from}: replayed as {to}"), vec![Edit::Write(to.into(), read(root, from))])
}

/// An object of another store under this one's name.
pub fn foreign(other: &Path, from: &str, to: &str) -> Case {
    Case::new(format!("{to}: replaced by another store's"), vec![Edit::Write(to.into(), read(other, from))])
}

/// Moved to another folder under its own file name.
pub fn misplaced(root: &Path, from: &str, folder: &str) -> Case {
    let to = format!("{folder}/{}", from.rsplit_once('/').expect("objects lie in folders").1);
    Case::new(format!("{from}: moved to {folder}"), vec![Edit::Delete(from.into()), Edit::Write(to, read(root, from))])
}

fn read(root: &Path, path: &str) -> Vec<u8> {
    fs::read(root.join(path)).expect("reads")
}
