//! All objects but packs: each decodes, lies under its own name, and with keys its seal holds.

use super::{Finding, MISPLACED, Scrub, ScrubReport};
use crate::{
    Progress, Result, StoreError,
    crypto::verify_signature,
    damage::read_or_skip,
    point::{
        PointSet,
        registers::{CachedReader, list_months_of, whole_mark},
    },
    store::Inner,
};
use cairn_store_format::{
    ObjectName, SessionId,
    config::Config,
    header::ObjectKind,
    ids::parse_hex,
    keys::KeySlot,
    limits::{LIST_BYTES_MAX, REGISTER_BYTES_MAX},
    name::{parse_copy, parse_numbered, parse_round, parse_session},
    register, small,
};

use std::collections::{BTreeMap, BTreeSet};

/// Kind, subject and number that an object must have by its name.
type Identity = (ObjectKind, [u8; 16], u64);

impl Scrub<'_> {
    pub(super) fn objects(&self, report: &mut ScrubReport, progress: &Progress) -> Result<()> {
        let mut names = Vec::new();
        for root in ["config", "keys", "gc", "b"] {
            names.extend(self.platform.list(root)?);
        }
        for root in ["x", "c", "r", "p", "f", "v"] {
            names.extend(list_months_of(self.platform, root)?);
        }
        report.add(gaps(&names));
        self.registers(&names, report)?;
        let buried: BTreeSet<String> = names.iter().filter(|n| n.as_str().starts_with("f/")).map(|n| n.file().to_owned()).collect();
        for name in names {
            progress.check()?;
            // The register of a forgotten point tells nothing that anybody needs.
            if ["c/", "r/"].iter().any(|root| name.as_str().starts_with(root)) && buried.contains(name.file()) {
                continue;
            }
            let bytes = match self.platform.read(&name, LIST_BYTES_MAX) {
                Ok(Some(bytes)) => bytes,
                // Collections take records away.
                Ok(None) => continue,
                Err(e) if e.is_damage() || e.is_bad_media() => {
                    self.check_there()?;
                    if name.as_str().starts_with("x/") {
                        self.index.forget_file(name.as_str())?;
                    }
                    report.add([Finding { object: name.to_string(), offset: None, why: e.to_string() }]);
                    continue;
                }
                Err(e) => return Err(e),
            };
            report.objects += 1;
            if is_misplaced(&name) {
                report.add([Finding { object: name.to_string(), offset: None, why: MISPLACED.into() }]);
            }
            let checked = self.object(&name, &bytes);
            if checked.is_err() && name.as_str().starts_with("x/") {
                // The next collection of this host looks at it, and replaces it.
                self.index.forget_file(name.as_str())?;
            }
            if checked.is_err() && name.as_str().starts_with("r/") {
                self.index.forget_object(&whole_mark(&name))?;
            }
            match checked {
                Ok(()) => {}
                Err(StoreError::Damaged { why, .. }) => report.add([Finding { object: name.to_string(), offset: None, why }]),
                Err(StoreError::Format(e)) => report.add([Finding { object: name.to_string(), offset: None, why: e.to_string() }]),
                Err(e) => return Err(e),
            }
        }
        report.add(self.copies()?);
        Ok(())
    }

    fn object(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        let (root, file) = (name.as_str().split('/').next().unwrap_or_default(), name.file());
        match root {
            "config" => {
                let (config, signed, signature) = Config::decode(bytes)?;
                verify_signature(&config.public_key, signed, &signature)?;
                same(name, config.store == self.store)
            }
            "keys" if file.starts_with("slot-") => Ok(KeySlot::decode(bytes).map(drop)?),
            "keys" => {
                let ring = small::decode(ObjectKind::KeyRing, bytes)?;
                same(name, parse_copy(file, "ring-") == Some(ring.number) && ring.subject == self.store.0)
            }
            "x" => {
                let (session, _) = cairn_store_format::index::decode(bytes)?;
                same(name, parse_numbered(file).is_some_and(|n| n.0 == session))
            }
            "c" | "r" => self.register(name, bytes),
            _ => match identity(root, file) {
                Some(identity) => self.small(name, identity, bytes),
                // Not ours: nothing that any code of this version would read.
                None => Ok(()),
            },
        }
    }

    /// Registers that are missing: by their copies, and with keys by what logs and children tell. And copies that are not the same. `names`: listed with
    /// `c/` before `r/`, so each finding is looked at once more.
    fn registers(&self, names: &[ObjectName], report: &mut ScrubReport) -> Result<()> {
        let sessions = |root: &str| -> BTreeSet<SessionId> {
            names.iter().filter(|n| n.as_str().starts_with(root)).filter_map(|n| parse_session(n.file()).ok()).collect()
        };
        let forgotten = sessions("f/");
        for id in sessions("r/").into_iter().filter(|id| !forgotten.contains(id)) {
            let (name, copy) = (ObjectName::register(&id), ObjectName::register_copy(&id));
            let read = |name: &ObjectName| read_or_skip(self.platform, name, REGISTER_BYTES_MAX);
            let why = match (read(&name)?, read(&copy)?) {
                // One that is damaged is told as such, and the other one not.
                (Some(a), Some(b)) if a != b && [&a, &b].iter().all(|bytes| register::decode(bytes).is_ok()) => {
                    format!("it and its copy {copy} are not the same")
                }
                (None, Some(_)) if self.platform.size(&name)?.is_none() => {
                    format!("the register is missing; its copy {copy} serves, and a collection puts it back")
                }
                _ => continue,
            };
            self.index.forget_object(&whole_mark(&copy))?;
            report.add([Finding { object: name.to_string(), offset: None, why }]);
        }
        if let Some(store) = self.keyed {
            let missing = PointSet::load(store)?;
            report.add(missing.missing().map(|(id, why)| Finding { object: ObjectName::register(id).to_string(), offset: None, why: why.into() }));
        }
        Ok(())
    }

    fn register(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        let reg = register::decode(bytes)?;
        let Ok(id) = parse_session(name.file()) else { return Ok(()) };
        same(name, reg.session == id)?;
        match self.keyed {
            Some(store) => CachedReader::new(store, false).register_at(&id, name).map(drop),
            None => Ok(()),
        }
    }

    fn small(&self, name: &ObjectName, (kind, subject, number): Identity, bytes: &[u8]) -> Result<()> {
        let object = small::decode(kind, bytes)?;
        same(name, object.subject == subject && object.number == number)?;
        let open = |store: &Inner| store.keys.open_object(name, kind, &subject, number, bytes).map(drop);
        self.keyed.map_or(Ok(()), open)
    }

    /// What lies in the store twice must be there twice.
    fn copies(&self) -> Result<Vec<Finding>> {
        let mut out = Vec::new();
        for root in ["config", "keys"] {
            let names = self.platform.list(root)?;
            for name in names.iter().filter(|n| n.as_str().ends_with(".a") || n.as_str().ends_with(".b")) {
                let (base, copy) = name.as_str().split_at(name.as_str().len() - 1);
                let other = format!("{base}{}", if copy == "a" { "b" } else { "a" });
                if !names.iter().any(|n| n.as_str() == other) {
                    out.push(Finding { object: other, offset: None, why: "one of two copies is missing".into() });
                }
            }
        }
        Ok(out)
    }
}

/// Entries that are missing between others of a point's log.
fn gaps(names: &[ObjectName]) -> Vec<Finding> {
    let mut logs: BTreeMap<SessionId, BTreeSet<u32>> = BTreeMap::new();
    for (sid, n) in names.iter().filter(|n| n.as_str().starts_with("p/")).filter_map(|n| parse_numbered(n.file())) {
        logs.entry(sid).or_default().insert(n);
    }
    let missing = |sid: &SessionId, n: u32| Finding {
        object: ObjectName::point_log(sid, n).to_string(),
        offset: None,
        why: "this entry of a point's log is missing".into(),
    };
    let mut out = Vec::new();
    for (sid, numbers) in &logs {
        let mut next = 0;
        for n in numbers {
            // One finding a gap, however wide.
            out.extend((*n != next).then(|| missing(sid, next)));
            next = n.saturating_add(1);
        }
    }
    out
}

/// What lies by month lies in the month of its session.
fn is_misplaced(name: &ObjectName) -> bool {
    let (root, file) = (name.as_str().split('/').next().unwrap_or_default(), name.file());
    let home = match (root, parse_numbered(file), parse_session(file)) {
        ("x", Some((sid, n)), _) => ObjectName::index(&sid, n),
        ("p", Some((sid, n)), _) => ObjectName::point_log(&sid, n),
        ("c", _, Ok(sid)) => ObjectName::register(&sid),
        ("r", _, Ok(sid)) => ObjectName::register_copy(&sid),
        ("v", Some((sid, n)), _) => ObjectName::evidence(&sid, n),
        ("f", _, Ok(sid)) => ObjectName::tombstone(&sid),
        _ => return false,
    };
    *name != home
}

fn same(name: &ObjectName, same: bool) -> Result<()> {
    if same { Ok(()) } else { Err(StoreError::damaged(name, "it lies under another object's name")) }
}

fn identity(root: &str, file: &str) -> Option<Identity> {
    let session = |text: &str| parse_session(text).ok();
    match root {
        "p" => parse_numbered(file).map(|(s, n)| (ObjectKind::PointLog, s.0, n.into())),
        "v" => parse_numbered(file).map(|(s, n)| (ObjectKind::Evidence, s.0, n.into())),
        "f" => session(file).map(|s| (ObjectKind::Tombstone, s.0, 0)),
        "b" => parse_hex::<16>(file).ok().map(|id| (ObjectKind::Report, id, 0)),
        "gc" => {
            let round = |prefix: &str, kind| parse_round(file, prefix).map(|n| (kind, [0; 16], n));
            file.strip_prefix("session-")
                .and_then(session)
                .map(|s| (ObjectKind::Session, s.0, 0))
                .or_else(|| file.strip_prefix("beat-").and_then(parse_numbered).map(|(s, n)| (ObjectKind::Beat, s.0, n.into())))
                .or_else(|| round("condemned-", ObjectKind::Condemned))
                .or_else(|| round("pardon-", ObjectKind::Pardon))
                .or_else(|| round("done-", ObjectKind::Done))
        }
        _ => None,
    }
}
