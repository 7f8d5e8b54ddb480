//! All that is wrong with a file, though the parser stops at the first mistake: the key that the mistake is in is blanked with its value, the rest is read
//! again, and so on; what is left in the end is checked like a file without mistakes.
//!
//! Invariants
//! - Places stay what they are: blanks stand where the key was.
//! - What follows from a key that was blanked is not told: a mistake in what holds it, and what the check does not find ([`Blanked::hide`]).
//! - Bounded: a text that is no YAML has one mistake, and no text has more than [`ROUNDS_MAX`].

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Spanned};
use std::{fmt, ops::Range};

/// More mistakes than these are told in another run.
pub const ROUNDS_MAX: usize = 50;

/// Line and column, counted from 1.
pub type Place = (u64, u64);

/// Keys that were blanked.
#[derive(Debug, Default)]
pub struct Blanked(Vec<Key>);

/// A key with its value.
#[derive(Debug)]
pub struct Key {
    /// The keys around it, from the outermost on, and its own.
    path: Vec<String>,
    begin: Place,
    end: Place,
}

impl Blanked {
    /// Whether what the check misses below these keys may have been there.
    pub fn hide(&self, below: &[&str]) -> bool {
        self.0.iter().any(|key| key.path.iter().zip(below).all(|(a, b)| a == b))
    }

    /// Whether what is wrong with this key may come of one in it that was blanked.
    pub fn explain(&self, key: &Key) -> bool {
        self.0.iter().any(|inner| key.begin <= inner.begin && inner.begin < key.end)
    }

    /// Blanks one more.
    pub fn add(&mut self, text: &mut String, key: Key) {
        let range = offset(text, key.begin)..offset(text, key.end);
        let blanks: String = text[range.clone()].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        text.replace_range(range, &blanks);
        self.0.push(key);
    }

    /// Whether stores may have been named that the check does not know.
    pub fn hide_stores(&self) -> bool {
        self.0.iter().any(|key| key.path.len() == 1 || key.path.len() == 2 && key.path[0] == "stores")
    }
}

/// A text as keys and values, if it is YAML.
pub fn outline(text: &str) -> Result<Spanned<Tree>, serde_saphyr::Error> {
    serde_saphyr::from_str(text)
}

/// The innermost key around this place, or the one around that: what is missing is told at the first key that is there beside it.
pub fn find(text: &str, at: Place, is_missing: bool) -> Option<Key> {
    let mut around = Vec::new();
    outline(text).ok()?.value.descend(text, 0..text.len(), offset(text, at), &mut around);
    if is_missing && around.last().is_some_and(|(_, range)| place(text, range.start) == at) {
        around.pop();
    }
    let range = around.last()?.1.clone();
    Some(Key { path: around.into_iter().map(|(name, _)| name).collect(), begin: place(text, range.start), end: place(text, range.end) })
}

/// Where keys and values are, whatever they mean.
pub enum Tree {
    Leaf,
    List(Vec<Spanned<Tree>>),
    Keys(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl Tree {
    /// Keys around a place, from the outermost on, with what of the text is theirs; `own`: what is this node's.
    fn descend(&self, text: &str, own: Range<usize>, at: usize, around: &mut Vec<(String, Range<usize>)>) {
        let begin = |location: Location| offset(text, (location.line(), location.column()));
        match self {
            Self::Leaf => {}
            Self::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    let end = items.get(i + 1).map_or(own.end, |next| begin(next.referenced));
                    let range = begin(item.referenced)..end;
                    if range.contains(&at) {
                        item.value.descend(text, range, at, around);
                    }
                }
            }
            Self::Keys(pairs) => {
                let is_flow = text[own.clone()].starts_with('{');
                for (i, (key, value)) in pairs.iter().enumerate() {
                    let end = match pairs.get(i + 1) {
                        Some((next, _)) => begin(next.referenced),
                        None if is_flow => flow_end(text, begin(value.referenced), own.end),
                        None => own.end,
                    };
                    let range = begin(key.referenced)..end;
                    if range.contains(&at) {
                        around.push((key.value.clone(), range));
                        let inner = begin(value.referenced).min(end)..end;
                        value.value.descend(text, inner, at, around);
                    }
                }
            }
        }
    }
}

/// Where the last value inside braces ends: before the bracket that closes them.
fn flow_end(text: &str, from: usize, until: usize) -> usize {
    let (mut depth, mut quote) = (0_usize, None);
    for (i, c) in text[from..until].char_indices() {
        match (quote, c) {
            (Some(q), _) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') if depth == 0 => return from + i,
            (None, '}' | ']') => depth -= 1,
            (None, _) => {}
        }
    }
    until
}

fn offset(text: &str, (line, column): Place) -> usize {
    let begin: usize = text.split_inclusive('\n').take(usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX)).map(str::len).sum();
    let chars = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
    begin + text[begin..].chars().take(chars).map(char::len_utf8).sum::<usize>()
}

fn place(text: &str, offset: usize) -> Place {
    let before = &text[..offset];
    let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
    (before.matches('\n').count() as u64 + 1, line.chars().count() as u64 + 1)
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Tree;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_i128<E>(self, _: i128) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_u128<E>(self, _: u128) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_bytes<E>(self, _: &[u8]) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
        Tree::deserialize(d)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Tree::Keys(pairs))
    }
}
