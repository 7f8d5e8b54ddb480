//! `cairn runs`

use super::{Done, now_unix_ms};
use crate::{
    boot_proof,
    cli::{self, Common},
    context,
    failure::Outcome,
    output,
    run::{
        folder::{RunFolder, RunSockets},
        launch,
        record::{Phase, Record, State, Wish},
        status::Status,
    },
};
use cairn_hypervisor::{events, host::HostError, run::GuestState};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

/// For a run that nobody served: the store is opened, and QEMU's tools started.
const SERVED_WAIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// For libvirt's daemon: what is shown without it is worth more than a long wait.
const LIBVIRT_LIMIT: Duration = Duration::from_secs(5);

/// A run as it is shown.
struct Shown {
    record: Record,
    state: String,
    status: Status,
    written_bytes: u64,
    keeping: bool,
    /// What people should know.
    trouble: Option<String>,
}

/// Lists runs; those that nobody serves are served again.
pub fn run(common: &Common, o: &cli::Runs) -> Outcome<Done> {
    let state_dir = context::state_dir(common)?;
    let left = boot_proof::sweep(&state_dir);
    let folders = match &o.name {
        None => RunFolder::all(&state_dir)?,
        Some(name) => vec![RunFolder::of(&state_dir, name)?],
    };
    let (mut shown, mut libvirt) = (Vec::new(), Libvirt::default());
    for folder in &folders {
        let record = match folder.record() {
            Ok(record) => record,
            // Ended meanwhile, or was never begun.
            Err(f) if f.code == crate::failure::NOT_FOUND && o.name.is_none() => continue,
            Err(f) => return Err(f),
        };
        shown.push(look(folder, record, &mut libvirt)?);
    }
    if common.json {
        output::print_json(&shown.iter().map(json).collect());
    } else if shown.is_empty() {
        out!("no domain runs from a restore point");
    } else {
        out!("{}", output::run_table(&shown.iter().map(row).collect::<Vec<_>>()));
    }
    for s in &shown {
        if let Some(trouble) = &s.trouble {
            say!("cairn: warning: {}: {}", output::shown(&s.record.name), output::shown(trouble));
        }
    }
    left.iter().for_each(|l| say!("cairn: warning: {}", output::shown(l)));
    Ok(if !left.is_empty() || shown.iter().any(|s| s.trouble.is_some()) { Done::WithWarnings } else { Done::Clean })
}

/// libvirt's daemons, one for each URI. One that says nothing is asked once: every run of it would wait as long again.
#[derive(Default)]
struct Libvirt {
    silent: Vec<Option<String>>,
}

impl Libvirt {
    /// What a run's guest does, and what keeps that from being told.
    fn guest(&mut self, record: &Record) -> (&'static str, Option<String>) {
        const SILENT: &str = "unknown: libvirt does not answer";
        let trouble = || Some("libvirt's daemon does not answer; is it stopped, or overloaded? 'virsh list' would hang too".to_owned());
        if self.silent.contains(&record.connect) {
            return (SILENT, trouble());
        }
        match events::open_within(record.connect.as_deref(), LIBVIRT_LIMIT).and_then(|host| host.domain(&record.uuid)) {
            Err(HostError::Silent { .. }) => {
                self.silent.push(record.connect.clone());
                (SILENT, trouble())
            }
            Err(HostError::NoDomain { .. }) => ("gone", Some(crate::run::again::gone(record).message)),
            Err(_) => ("unknown", None),
            Ok(domain) => (domain.guest_state().map_or("unknown", word), None),
        }
    }
}

fn word(state: GuestState) -> &'static str {
    match state {
        GuestState::Running => "running",
        GuestState::Paused => "paused",
        GuestState::IoError => "paused (I/O error)",
        GuestState::Off => "off",
    }
}

fn look(folder: &RunFolder, record: Record, libvirt: &mut Libvirt) -> Outcome<Shown> {
    let wish = folder.wish()?;
    if record.state == State::Ready {
        // A run that ends at this moment is none.
        let _ = launch::ensure_supervisor(folder, &record);
    }
    let status = served(folder, &record, wish.as_ref());
    let (guest, silent) = libvirt.guest(&record);
    let state = match (record.state, &wish) {
        (_, Some(Wish::Discard)) => "being removed".to_owned(),
        (State::Making, _) => "unfinished".to_owned(),
        (State::Ready, _) if record.proof.is_some() => format!("{guest}, boot proof"),
        (State::Ready, _) if !status.served => format!("{guest}, not served"),
        (State::Ready, _) => guest.to_owned(),
    };
    let of = |path: &std::path::Path| fs::metadata(path).map_or(0, |m| m.blocks() * 512);
    let written_bytes = record.disks.iter().filter(|d| d.phase != Phase::Pivoted).map(|d| of(&d.overlay)).sum();
    let unserved = (record.state == State::Ready && !status.served && !matches!(wish, Some(Wish::Discard)))
        .then(|| format!("the point is not served; {} says more", folder.log().display()));
    // One that is being made or removed has no domain, and nothing is wrong with it.
    let silent = silent.filter(|_| record.state == State::Ready && !matches!(wish, Some(Wish::Discard)));
    let mut said: Vec<String> = [status.trouble().or(unserved), silent].into_iter().flatten().collect();
    said.dedup();
    let trouble = (!said.is_empty()).then(|| said.join("; "));
    Ok(Shown { record, state, status, written_bytes, trouble, keeping: matches!(wish, Some(Wish::Keep { .. })) })
}

/// What its supervisor says; one that was just started is given a moment to serve it.
fn served(folder: &RunFolder, record: &Record, wish: Option<&Wish>) -> Status {
    let until = Instant::now() + SERVED_WAIT;
    loop {
        let status = Status::read(&RunSockets::of(&record.id)).unwrap_or_default();
        let may_change = record.state == State::Ready && !status.served && status.trouble().is_none() && !matches!(wish, Some(Wish::Discard));
        if !may_change || !folder.exists() || Instant::now() > until {
            return status;
        }
        std::thread::sleep(POLL);
    }
}

fn percent(s: &Shown) -> Option<u64> {
    let keep = s.status.keep.as_ref().filter(|_| s.keeping)?;
    Some(keep.done_bytes.saturating_mul(100).checked_div(keep.total_bytes).unwrap_or(0))
}

fn row(s: &Shown) -> [String; 6] {
    let keep = match (s.keeping, percent(s)) {
        (false, _) => "-".to_owned(),
        (true, p) => format!("{} %", p.unwrap_or(0)),
    };
    let point = format!("{} {}", output::shown(&s.record.point_name), s.record.point.chars().take(crate::points::SHOWN_ID_DIGITS).collect::<String>());
    [
        output::shown(&s.record.name),
        point,
        s.state.clone(),
        output::bytes(s.written_bytes),
        keep,
        output::duration(now_unix_ms().saturating_sub(s.record.created_unix_ms)),
    ]
}

fn json(s: &Shown) -> serde_json::Value {
    let r = &s.record;
    let disks: Vec<_> = r
        .disks
        .iter()
        .map(|d| {
            let (image, on) = match (&d.phase, &d.copy) {
                (Phase::Pivoted, Some(copy)) => (&copy.path, "copy"),
                _ => (&d.overlay, "overlay"),
            };
            serde_json::json!({"target": d.target, "size": d.size_bytes, "image": image.display().to_string(), "on": on})
        })
        .collect();
    serde_json::json!({
        "name": r.name, "uuid": r.uuid, "point": r.point_name, "id": r.point, "state": s.state, "served": s.status.served, "restarts": s.status.restarts,
        "written": s.written_bytes, "keeping": s.keeping, "keep_percent": percent(s), "created": output::rfc3339(r.created_unix_ms), "network": r.network,
        "via": r.via, "disks": disks, "problem": s.trouble, "boot_proof": r.proof.is_some(),
    })
}
