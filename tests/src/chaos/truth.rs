//! What the suite knows for certain about the store, from commands that it ran and that said they had done it.
//!
//! Invariants:
//! - what a point must restore to is kept under a tag that the backup is given, before the backup starts: so it is known even if the backup was
//!   killed right after its commit;
//! - a point that was acknowledged or listed must be in every later list, unless somebody tried to forget it: from before that try on it may be gone;
//! - a point whose forget was acknowledged must be in no later list;
//! - a point whose protection was acknowledged while nobody tried to forget it cannot be forgotten.

use super::image::Image;
use crate::cairn::text;
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tags of the suite begin so; one a backup.
pub const TAG_PREFIX: &str = "seq-";

/// A point as `list --json` has it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The tag that names its content.
    pub tag: String,
}

impl Listed {
    /// From a point of `list`, `show` or a backup.
    ///
    /// # Errors
    /// It lacks a member, or the suite's tag.
    pub fn parse(point: &Value) -> Result<Self> {
        let tags = point["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let tag = tags.into_iter().find(|t| t.starts_with(TAG_PREFIX)).ok_or_else(|| Error::answer("point", format!("has lost its tag: {point}")))?;
        Ok(Self { id: text(point, "id")?, name: text(point, "name")?, tag: tag.to_owned() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    There,
    Protected,
    MayBeGone,
    Gone,
}

#[derive(Debug)]
struct Known {
    name: String,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
struct Prunes {
    started: u64,
    ended: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Truth(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    images: BTreeMap<String, Arc<Image>>,
    points: BTreeMap<String, Known>,
    prunes: BTreeMap<String, Prunes>,
}

/// What must be seen in a list that is asked for now.
#[derive(Debug)]
pub struct Expected {
    there: Vec<String>,
    gone: BTreeSet<String>,
    prunes: BTreeMap<String, Prunes>,
}

impl Inner {
    /// A point that exists for certain; `since`: prunes when that was asked for.
    fn know(&mut self, id: &str, name: &str, since: &BTreeMap<String, Prunes>) {
        let ended = since.get(name).copied().unwrap_or_default().ended;
        let pruned = self.prunes.get(name).is_some_and(|now| now.started > ended);
        let known = self.points.entry(id.to_owned()).or_insert_with(|| Known { name: name.to_owned(), state: State::There });
        if pruned && known.state == State::There {
            known.state = State::MayBeGone;
        }
    }
}

impl Truth {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a backup: what its point must restore to.
    pub fn will_be(&self, tag: &str, image: Arc<Image>) {
        self.lock().images.insert(tag.to_owned(), image);
    }

    /// What the point with this tag must restore to.
    ///
    /// # Errors
    /// No backup was given this tag.
    pub fn image(&self, tag: &str) -> Result<Arc<Image>> {
        self.lock().images.get(tag).cloned().ok_or_else(|| Error::answer("truth", format!("nothing was saved as {tag}")))
    }

    /// What holds before a command is started.
    #[must_use]
    pub fn expect(&self) -> Expected {
        let inner = self.lock();
        let of = |wanted: &[State]| inner.points.iter().filter(|(_, k)| wanted.contains(&k.state)).map(|(id, _)| id.clone()).collect::<Vec<_>>();
        Expected { there: of(&[State::There, State::Protected]), gone: of(&[State::Gone]).into_iter().collect(), prunes: inner.prunes.clone() }
    }

    /// A backup, begun when `before` held, said that this point exists.
    pub fn committed(&self, point: &Listed, before: &Expected) {
        self.lock().know(&point.id, &point.name, &before.prunes);
    }

    /// A list, asked for when `before` held; what is wrong with it, if anything.
    #[must_use]
    pub fn listed(&self, points: &[Listed], before: &Expected) -> Option<String> {
        let mut inner = self.lock();
        points.iter().for_each(|p| inner.know(&p.id, &p.name, &before.prunes));
        let ids: BTreeSet<&str> = points.iter().map(|p| p.id.as_str()).collect();
        let missing = before.there.iter().find(|id| !ids.contains(id.as_str()) && matches!(inner.points[*id].state, State::There | State::Protected));
        if let Some(id) = missing {
            return Some(format!("point {id} was committed, nobody forgot it, and it is not listed"));
        }
        ids.iter().find(|id| before.gone.contains(**id)).map(|id| format!("point {id} was forgotten and is listed"))
    }

    /// Whether somebody began to forget this point; nobody did of one that the suite never heard of.
    #[must_use]
    pub fn may_be_gone(&self, id: &str) -> bool {
        self.lock().points.get(id).is_some_and(|k| matches!(k.state, State::MayBeGone | State::Gone))
    }

    /// Whether no point of this name is certain.
    #[must_use]
    pub fn may_have_none(&self, name: &str) -> bool {
        !self.lock().points.values().any(|k| k.name == name && matches!(k.state, State::There | State::Protected))
    }

    /// Somebody will try to forget these points: whether a protection known to hold forbids it (then nothing changes).
    #[must_use]
    pub fn will_forget(&self, ids: &[&str]) -> bool {
        let mut inner = self.lock();
        if ids.iter().any(|id| inner.points.get(*id).is_some_and(|k| k.state == State::Protected)) {
            return true;
        }
        for id in ids {
            if let Some(known) = inner.points.get_mut(*id).filter(|k| k.state == State::There) {
                known.state = State::MayBeGone;
            }
        }
        false
    }

    /// A forget said that it was done.
    pub fn forgot(&self, ids: &[&str]) {
        let mut inner = self.lock();
        for id in ids {
            if let Some(known) = inner.points.get_mut(*id) {
                known.state = State::Gone;
            }
        }
    }

    /// Somebody will prune this name: all its points may go.
    pub fn will_prune(&self, name: &str) {
        let mut inner = self.lock();
        inner.prunes.entry(name.to_owned()).or_default().started += 1;
        inner.points.values_mut().filter(|k| k.name == name && k.state == State::There).for_each(|k| k.state = State::MayBeGone);
    }

    /// The prune has ended, however it did.
    pub fn pruned(&self, name: &str) {
        let mut inner = self.lock();
        let prunes = inner.prunes.entry(name.to_owned()).or_default();
        prunes.ended += 1;
        // Those that became known meanwhile may be gone as well.
        inner.points.values_mut().filter(|k| k.name == name && k.state == State::There).for_each(|k| k.state = State::MayBeGone);
    }

    /// A protection, begun when `before` held, said that it was done: it holds if nobody tried to forget the point until now.
    pub fn protected(&self, id: &str) {
        let mut inner = self.lock();
        if let Some(known) = inner.points.get_mut(id).filter(|k| k.state == State::There) {
            known.state = State::Protected;
        }
    }

    /// Somebody will take the protection away.
    pub fn will_unprotect(&self, id: &str) {
        let mut inner = self.lock();
        if let Some(known) = inner.points.get_mut(id).filter(|k| k.state == State::Protected) {
            known.state = State::There;
        }
    }

    /// Points that are known to be protected.
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        self.lock().points.iter().filter(|(_, k)| k.state == State::Protected).map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(id: &str) -> Listed {
        Listed { id: id.into(), name: "img0".into(), tag: "seq-0-1".into() }
    }

    #[test]
    fn lists_are_judged_by_what_was_acknowledged() {
        let truth = Truth::default();
        truth.committed(&point("a"), &truth.expect());
        truth.committed(&point("b"), &truth.expect());
        let before = truth.expect();
        assert!(truth.listed(&[point("a"), point("b")], &before).is_none());
        assert!(truth.listed(&[point("a")], &before).expect("b is missing").contains("point b"));
        assert!(!truth.may_be_gone("a") && !truth.may_be_gone("b") && !truth.may_be_gone("nobody's"));
        assert!(!truth.will_forget(&["b"]));
        assert!(truth.may_be_gone("b") && !truth.may_be_gone("a") && !truth.may_have_none("img0") && truth.may_have_none("img1"));
        assert!(truth.listed(&[point("a")], &before).is_none(), "it may be gone");
        assert!(truth.listed(&[point("a"), point("b")], &truth.expect()).is_none(), "or not");
        truth.forgot(&["b"]);
        assert!(truth.listed(&[point("a"), point("b")], &truth.expect()).expect("b is back").contains("point b"));
        truth.protected("a");
        assert!(truth.will_forget(&["a"]), "it is protected");
        assert!(truth.listed(&[], &truth.expect()).is_some());
        truth.will_unprotect("a");
        assert!(!truth.will_forget(&["a"]));
    }

    #[test]
    fn a_prune_may_take_what_is_committed_meanwhile() {
        let truth = Truth::default();
        let before = truth.expect();
        truth.will_prune("img0");
        truth.committed(&point("a"), &before);
        truth.pruned("img0");
        assert!(truth.listed(&[], &truth.expect()).is_none());
        truth.committed(&point("b"), &truth.expect());
        assert!(truth.listed(&[], &truth.expect()).is_some(), "after it all counts again");
    }
}
