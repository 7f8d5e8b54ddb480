//! `cairn keep`: says what is wanted and watches. The run's supervisor does it.

use super::{Done, now_unix_ms};
use crate::{
    cli::{self, Common},
    context,
    failure::{FAILED, Failure, NOT_FOUND, Outcome},
    interrupt,
    output::{self, Bar},
    run::{
        again, detached,
        folder::{RunFolder, RunSockets},
        launch,
        record::{Destination, Record, State, Wish},
        room, saved,
        status::Status,
    },
};
use cairn_store::Progress;
use std::{
    fs,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(100);
/// For a supervisor to hear of a wish.
const HEARD_LIMIT: Duration = Duration::from_secs(30);
/// A supervisor that has not heard of a keep after this is held up, and what it says is the reason.
const OWN_WORDS_AFTER: Duration = Duration::from_secs(3);
/// For a supervisor to say that a keep is over.
const TOLD_LIMIT: Duration = Duration::from_secs(2);

/// Asks for it, and waits for the end unless told otherwise.
pub fn run(common: &Common, o: &cli::Keep) -> Outcome<Done> {
    let folder = RunFolder::of(&context::state_dir(common)?, &o.name)?;
    let record = folder.record()?;
    record.refuse_proof()?;
    match (record.state, folder.wish()?) {
        (_, Some(Wish::Discard)) => {
            return Err(Failure::refused(format!("run '{0}' is being removed; 'cairn discard {0}' goes on with that", output::shown(&o.name))));
        }
        (State::Making, _) => {
            return Err(Failure::refused(format!("run '{0}' was never finished; remove it with 'cairn discard {0}'", output::shown(&o.name))));
        }
        (State::Ready, wish) if o.cancel => return cancel(common, &folder, &record, wish.as_ref()),
        (State::Ready, _) => {}
    }
    refuse_other_place(&folder, &record, o)?;
    let to = destinations(&folder, &record, o)?;
    refuse_what_would_be_lost(&folder, &record)?;
    room::refuse(&record, &to)?;
    let asked_unix_ms = now_unix_ms();
    let bytes_per_s = o.rate.or_else(|| rate_of(&folder)).unwrap_or(0);
    folder.set_wish(&Wish::Keep { asked_unix_ms, bytes_per_s, to: to.clone() })?;
    launch::ensure_supervisor(&folder, &record)?;
    if o.detach {
        if common.json {
            output::print_json(&serde_json::json!({"name": record.name, "kept": false}));
        } else if !common.quiet {
            out!("run {} is being kept; 'cairn runs' shows how far it is", output::shown(&record.name));
        }
        return Ok(Done::Clean);
    }
    watch(common, &folder, &record, asked_unix_ms)?;
    crate::run::wait_end(&record);
    let left = detached::left(&record, &to);
    if common.json {
        let left: Vec<_> = left.iter().map(|(target, path)| serde_json::json!({"target": target, "image": path})).collect();
        output::print_json(&serde_json::json!({"name": record.name, "kept": true, "detached": left}));
    } else if !common.quiet {
        out!("domain {} is an ordinary one now", output::shown(&record.name));
    }
    for (target, path) in &left {
        let path = output::shown(&path.display().to_string());
        say!("cairn: warning: disk {target} is not in the domain any more; its image {path} is whole and was left: attach it, or remove it");
    }
    Ok(if left.is_empty() { Done::Clean } else { Done::WithWarnings })
}

/// Before anything is wished for; the supervisor looks again. A domain that was undefined is defined again: only then can it be kept.
fn refuse_what_would_be_lost(folder: &RunFolder, record: &Record) -> Outcome<()> {
    let (domain, again) = again::find(&crate::run::connect(record.connect.as_deref())?, folder, record)?;
    if again {
        say!("cairn: warning: domain {} was undefined; it is defined again", output::shown(&record.name));
    }
    saved::refuse(&domain, record)
}

/// The limit of a keep that is at work: asked for again without one, it stays.
fn rate_of(folder: &RunFolder) -> Option<u64> {
    match folder.wish() {
        Ok(Some(Wish::Keep { bytes_per_s, .. })) => Some(bytes_per_s),
        _ => None,
    }
}

/// Until the run is gone.
fn watch(common: &Common, folder: &RunFolder, record: &Record, asked_unix_ms: u64) -> Outcome<()> {
    let (sockets, progress) = (RunSockets::of(&record.id), Arc::new(Progress::default()));
    let runtime = interrupt::runtime()?;
    interrupt::watch(&runtime, &progress, "nothing: it goes on by itself, 'cairn keep --cancel' ends it")?;
    let _bar = Bar::start(common, "keep", &progress);
    let (begin, mut told) = (Instant::now(), String::new());
    loop {
        match folder.record() {
            Err(f) if f.code == NOT_FOUND => return Ok(()),
            Err(f) => return Err(f),
            // Another run of that name: ours is over.
            Ok(now) if now.id != record.id => return Ok(()),
            Ok(_) => {}
        }
        if !matches!(folder.wish(), Ok(Some(Wish::Keep { asked_unix_ms: asked, .. })) if asked == asked_unix_ms) && folder.exists() {
            return Err(Failure::new(FAILED, format!("keeping run '{}' was cancelled, or asked for again, by another command", output::shown(&record.name))));
        }
        if let Some(status) = Status::read(&sockets) {
            // What is said before may be of an earlier keep.
            let mut heard = begin.elapsed() > OWN_WORDS_AFTER;
            if let Some(keep) = status.keep.as_ref().filter(|k| k.asked_unix_ms == asked_unix_ms) {
                heard = true;
                progress.done_bytes.store(keep.done_bytes, Ordering::Relaxed);
                progress.total_bytes.store(keep.total_bytes, Ordering::Relaxed);
                if keep.gave_up {
                    return Err(Failure::new(FAILED, status.problem.clone().unwrap_or_else(|| "it was given up".into())));
                }
            }
            // What holds it up may be for whoever watches to mend.
            if let Some(trouble) = status.trouble().filter(|trouble| heard && *trouble != told) {
                if !common.quiet {
                    say!("cairn: warning: {}", output::shown(&trouble));
                }
                told = trouble;
            }
        }
        if progress.cancel.load(Ordering::SeqCst) {
            return Err(Failure::new(crate::failure::INTERRUPTED, "no longer watching; the run is still being kept ('cairn keep --cancel' ends that)"));
        }
        // A supervisor that died and left no server is started again.
        if let Err(f) = launch::ensure_supervisor(folder, record)
            && f.code != NOT_FOUND
        {
            return Err(f);
        }
        std::thread::sleep(POLL);
    }
}

fn cancel(common: &Common, folder: &RunFolder, record: &Record, wish: Option<&Wish>) -> Outcome<Done> {
    if !matches!(wish, Some(Wish::Keep { .. } | Wish::Cancel)) {
        return Err(Failure::refused(format!("run '{}' is not being kept", output::shown(&record.name))));
    }
    folder.set_wish(&Wish::Cancel)?;
    launch::ensure_supervisor(folder, record)?;
    let until = Instant::now() + HEARD_LIMIT;
    while folder.wish()?.is_some() {
        if Instant::now() > until {
            return Err(Failure::new(FAILED, format!("it is not cancelled after {} s; see {}", HEARD_LIMIT.as_secs(), folder.log().display())));
        }
        std::thread::sleep(POLL);
    }
    // 'runs' is not to tell of it any more.
    let until = Instant::now() + TOLD_LIMIT;
    while Status::read(&RunSockets::of(&record.id)).is_some_and(|status| status.keep.is_some()) && Instant::now() < until {
        std::thread::sleep(POLL);
    }
    if common.json {
        output::print_json(&serde_json::json!({"name": record.name, "cancelled": true}));
    } else if !common.quiet {
        out!("run {} goes on as a run", output::shown(&record.name));
    }
    Ok(Done::Clean)
}

/// A keep elsewhere that has begun goes on to where it began.
fn refuse_other_place(folder: &RunFolder, record: &Record, o: &cli::Keep) -> Outcome<()> {
    let begun = record.disks.iter().find_map(|d| d.copy.as_ref());
    let (Some(to), Some(copy), Some(Wish::Keep { .. })) = (&o.to, begun, folder.wish()?) else { return Ok(()) };
    let (base, _) = place(record, to)?;
    if copy.path == base || copy.path.parent() == Some(base.as_path()) {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "run '{0}' is being kept at {1} already; 'cairn keep {0} --cancel' first if it shall go elsewhere",
        output::shown(&record.name),
        copy.path.display()
    )))
}

/// Where each disk goes; empty for a keep in place.
fn destinations(folder: &RunFolder, record: &Record, o: &cli::Keep) -> Outcome<Vec<Destination>> {
    let begun: Vec<Destination> = record.disks.iter().filter_map(|d| d.copy.clone()).collect();
    let Some(to) = &o.to else {
        if begun.is_empty() {
            return Ok(Vec::new());
        }
        // A copy that was begun is gone on with, to where the wish said; after a cancel only what is there already has a place.
        return Ok(match folder.wish()? {
            Some(Wish::Keep { to, .. }) if !to.is_empty() => to,
            _ => begun,
        });
    };
    let format = if o.format == cli::Format::Raw { "raw" } else { "qcow2" };
    let (base, is_folder) = place(record, to)?;
    let mut out = Vec::new();
    for disk in &record.disks {
        if let Some(copy) = begun.iter().find(|c| c.target == disk.target) {
            out.push(copy.clone());
            continue;
        }
        let path = if is_folder { base.join(format!("{}-{}.{format}", record.name.replace('/', "_"), disk.target)) } else { base.clone() };
        if fs::symlink_metadata(&path).is_ok() {
            return Err(Failure::refused(format!("{} exists; nothing was done (give another place)", path.display())));
        }
        out.push(Destination { target: disk.target.clone(), path, format: format.into(), inode: None });
    }
    Ok(out)
}

/// A folder, or the path of the only disk.
fn place(record: &Record, to: &str) -> Outcome<(PathBuf, bool)> {
    if !to.contains('/') {
        return Ok((PathBuf::from(crate::run::connect(record.connect.as_deref())?.pool_folder(to)?), true));
    }
    let path = std::path::absolute(to).map_err(|e| Failure::usage(format!("'{to}': {e}")))?;
    if path.is_dir() {
        return Ok((path, true));
    }
    if record.disks.len() > 1 {
        return Err(Failure::usage(format!(
            "{} is no folder, and the domain has {} disks; give a folder or a storage pool",
            path.display(),
            record.disks.len()
        )));
    }
    if !path.parent().is_some_and(std::path::Path::is_dir) {
        return Err(Failure::not_found(format!("there is no folder for {}", path.display())));
    }
    Ok((path, false))
}
