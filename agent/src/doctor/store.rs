//! Checks of a store: is it there, how much room is left, how is it mounted, does the key open it, does the clock fit its points.

use super::{
    finding::{Finding, Status},
    limit::within,
    mounts::Mount,
};
use crate::{
    cli::Common,
    commands::now_unix_ms,
    config::{LowSpace, StoreEntry},
    context::{self, store_path},
    output,
    watch::stores::{self, AnsweringStore},
};
use cairn_store::{Store, format::StoreId};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// To look at the store's folder; one on a server that is gone never answers.
const LOOK_LIMIT: Duration = Duration::from_secs(15);
/// To open it and list its points; a little more than what is waited for inside.
const OPEN_LIMIT: Duration = Duration::from_secs(45);
/// Less than this is no room for anything.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// Room that is little whatever the file system's size.
const LITTLE_BYTES: u64 = 2 << 30;
/// A file system of any size with this much room is not nearly full.
const ENOUGH_BYTES: u64 = 20 << 30;
/// Of a file system's size.
const LITTLE_PERCENT: u64 = 5;
/// Points that are newer than now by less than this come of clocks that differ as clocks do.
const CLOCK_SKEW_MS_MAX: u64 = 60_000;

/// What is known of a store.
pub struct Examined {
    /// The store, if it answers.
    pub answering: Option<AnsweringStore>,
    /// Findings.
    pub findings: Vec<Finding>,
}

/// Looks at one.
pub fn examine(common: &Common, name: &str, entry: &StoreEntry) -> Examined {
    let common = Common { store: Some(entry.url.clone()), key_file: entry.key_file.clone(), passphrase_file: entry.passphrase_file.clone(), ..common.clone() };
    let (asked, low) = (common.clone(), entry.low_space);
    let done = |answering, findings: Vec<Finding>| Examined { answering, findings: findings.into_iter().map(|f| f.of_store(name)).collect() };
    let (is_there, mut findings) = match within(LOOK_LIMIT, move || look(&asked, low)) {
        Ok(looked) => looked,
        Err(silent) => return done(None, vec![away(&format!("{}: {silent}", entry.url))]),
    };
    if !is_there {
        return done(None, findings);
    }
    let stores = BTreeMap::from([(name.to_owned(), entry.clone())]);
    let (mut answering, silent) = within(OPEN_LIMIT, move || stores::ask(&common, &stores)).unwrap_or_else(|silent| (Vec::new(), vec![silent]));
    let answering = answering.pop();
    match &answering {
        Some(store) => {
            findings.push(Finding::ok("store", format!("{}: {} points", entry.url, store.points_count())));
            findings.push(clock(store.dated_last(), now_unix_ms()));
        }
        // The key's own line says it better, where that is what is wrong.
        None if findings.iter().any(|f| f.check == "key" && f.status == Status::Failed) => {}
        None => {
            let said = silent.first().map_or("it did not open", String::as_str);
            let said = said.strip_prefix(&format!("store {name}: ")).unwrap_or(said);
            findings.push(Finding::told("store", Status::Failed, said, "'cairn verify --all' reads all that is in it (docs/operations.md)"));
        }
    }
    done(answering, findings)
}

fn away(found: &str) -> Finding {
    let remedy = "see whether its disk is mounted and its server answers ('findmnt', 'dmesg'); backups to it fail until then, and lose nothing";
    Finding::failed("store", found, remedy)
}

/// What can be seen from outside; and whether there is a store at all.
fn look(common: &Common, low: Option<LowSpace>) -> (bool, Vec<Finding>) {
    let path = match store_path(common.store.as_deref().unwrap_or_default()) {
        Ok(path) => path,
        Err(failure) => return (false, vec![Finding::told("store", Status::Failed, &failure.message, "name a directory")]),
    };
    // First: a store on a mount that endangers it is not opened at all.
    let mounted = mount(&path);
    match Store::identify(&path) {
        Ok((id, encrypted)) => (true, [mounted, space(&path, low), key(common, &id, encrypted)].concat()),
        Err(e) if e.is_damage() => {
            let remedy = "docs/operations.md says what to do about a store whose configuration is damaged; do not write to it until then";
            (false, [mounted, vec![Finding::failed("store", e.to_string(), remedy)]].concat())
        }
        Err(e) => (false, [mounted, vec![away(&e.to_string())]].concat()),
    }
}

fn mount(path: &Path) -> Vec<Finding> {
    const CHECK: &str = "mount";
    let Some(mount) = Mount::of(path) else { return Vec::new() };
    if let Some(soft) = ["soft", "softerr"].into_iter().find(|option| mount.is_nfs() && mount.has(option)) {
        let found =
            format!("it is on an NFS mount with the option '{soft}': a write that the client gave up may take effect later, which can damage the store");
        return vec![Finding::failed(CHECK, found, "unmount it and mount it with 'hard' (docs/nfs.md)")];
    }
    if mount.is_nfs() && mount.has("nocto") {
        let found = "it is on an NFS mount with the option 'nocto': other hosts' backups may be seen late";
        return vec![Finding::warning(CHECK, found, "mount it without 'nocto' (docs/nfs.md)")];
    }
    if mount.has("ro") {
        let found = format!("its file system cannot be written to: {}", mount.text());
        return vec![Finding::failed(CHECK, found, "'dmesg' says why, if nobody mounted it so; then mount it rw. Restores work as it is")];
    }
    if mount.is_memory() {
        return vec![Finding::warning(CHECK, format!("it lies in memory: {}", mount.text()), "move it to a disk: a restart of the host takes it away")];
    }
    vec![Finding::ok(CHECK, mount.text())]
}

/// Bytes that are free on a path's file system, and of how many. It may hang.
pub fn room(path: &Path) -> rustix::io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

fn space(path: &Path, low: Option<LowSpace>) -> Vec<Finding> {
    const CHECK: &str = "space";
    match room(path) {
        Ok((free_bytes, size_bytes)) => vec![space_of(free_bytes, size_bytes, low)],
        Err(e) => vec![Finding::warning(CHECK, format!("its free space cannot be asked for: {e}"), "see 'df' on the store's folder")],
    }
}

/// What is to be said of a store's room. `low`: what its configuration takes for little.
pub fn space_of(free_bytes: u64, size_bytes: u64, low: Option<LowSpace>) -> Finding {
    const CHECK: &str = "space";
    let found = format!("{} of {} are free", output::bytes(free_bytes), output::bytes(size_bytes));
    let remedy = "'cairn prune' and then 'cairn gc' free what no rule keeps; 'cairn store info' says whose it is; or give the file system more room";
    let is_share_little = free_bytes < ENOUGH_BYTES && free_bytes.saturating_mul(100) < size_bytes.saturating_mul(LITTLE_PERCENT);
    let is_little = low.map_or(free_bytes < LITTLE_BYTES || is_share_little, |low| low.is_low(free_bytes, size_bytes));
    if free_bytes < FREE_BYTES_MIN {
        Finding::failed(CHECK, found, remedy)
    } else if is_little {
        Finding::warning(CHECK, found, remedy)
    } else {
        Finding::ok(CHECK, found)
    }
}

fn key(common: &Common, id: &StoreId, encrypted: bool) -> Vec<Finding> {
    const CHECK: &str = "key";
    if !encrypted {
        return vec![Finding::ok(CHECK, "the store is not encrypted")];
    }
    let path: PathBuf = match (&common.key_file, &common.passphrase_file, &context::default_key_file(id)) {
        (Some(path), ..) | (None, Some(path), _) | (None, None, Ok(path)) => path.clone(),
        (None, None, Err(failure)) => return vec![Finding::told(CHECK, Status::Failed, &failure.message, "name the key with --key-file")],
    };
    let shown = path.display();
    let meta = match fs::metadata(&path) {
        Ok(meta) => meta,
        Err(e) => {
            let remedy = "name it with --key-file (in the configuration: key_file), or put it there; the recovery key on paper opens the store as well";
            return vec![Finding::failed(CHECK, format!("{shown}: {e}"), remedy)];
        }
    };
    if meta.permissions().mode() & 0o077 != 0 {
        let (found, remedy) = (format!("{shown}: others may read it (mode {:03o})", meta.permissions().mode() & 0o777), format!("chmod 600 {shown}"));
        return vec![Finding::failed(CHECK, found, remedy)];
    }
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return vec![Finding::warning(CHECK, format!("{shown} belongs to user {}", meta.uid()), format!("chown root {shown}: who owns it can read it"))];
    }
    match context::credential_of(common, id, encrypted) {
        Ok(_) => vec![Finding::ok(CHECK, shown.to_string())],
        Err(failure) => {
            vec![Finding::told(CHECK, Status::Failed, &failure.message, "put the right file there; the recovery key on paper opens the store as well")]
        }
    }
}

/// Names of points carry their time, and `latest` is the one that is dated last.
fn clock(last: Option<(&str, u64)>, now_ms: u64) -> Finding {
    const CHECK: &str = "clock";
    match last {
        Some((name, time_ms)) if time_ms > now_ms.saturating_add(CLOCK_SKEW_MS_MAX) => {
            let found = format!(
                "a point of {} is dated {}, {} ahead of this host's clock",
                output::shown(name),
                output::rfc3339(time_ms).as_str().unwrap_or_default(),
                output::duration(time_ms - now_ms)
            );
            Finding::warning(CHECK, found, "'timedatectl' on this host and on the one that made the point: one of the clocks is wrong")
        }
        Some((_, time_ms)) => Finding::ok(CHECK, format!("the point that is dated last is of {}", output::rfc3339(time_ms).as_str().unwrap_or_default())),
        None => Finding::ok(CHECK, "there is no point to compare it with"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_judged_by_size_and_share() {
        let (gib, tib) = (1u64 << 30, 1u64 << 40);
        let (tenth, fifty) = (Some(LowSpace::Percent(10)), Some(LowSpace::Bytes(50 * gib)));
        for (free, size, low, status) in [
            (100 << 20, tib, None, Status::Failed),
            (gib, 10 * gib, None, Status::Warning),
            (15 * gib, tib, None, Status::Warning),
            (30 * gib, tib, None, Status::Ok),
            (5 * gib, 20 * gib, None, Status::Ok),
            (30 * gib, tib, tenth, Status::Warning),
            (gib, 10 * gib, tenth, Status::Ok),
            (100 << 20, 100 << 20, tenth, Status::Failed),
            (49 * gib, 10 * tib, fifty, Status::Warning),
            (50 * gib, 10 * tib, fifty, Status::Ok),
        ] {
            assert_eq!(space_of(free, size, low).status, status, "{free} of {size}, {low:?}");
        }
    }

    #[test]
    fn a_point_from_the_future_is_a_warning() {
        assert_eq!(clock(None, 5).status, Status::Ok);
        assert_eq!(clock(Some(("web", 1_000_000)), 1_000_000 - CLOCK_SKEW_MS_MAX).status, Status::Ok);
        let ahead = clock(Some(("web", 10_000_000)), 1_000_000);
        assert!(ahead.status == Status::Warning && ahead.found.contains("web") && ahead.found.contains("2 h 30 min"), "{ahead:?}");
    }
}
