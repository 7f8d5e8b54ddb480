//! A progress bar on a terminal; for a job of the daemon's, the same numbers in `progress.json` of its folder; nothing elsewhere.

use crate::{cli::Common, jobs::runner::DIR_VARIABLE};
use cairn_store::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const REDRAW_MS: u64 = 150;
/// Between two notes of a job.
const NOTE_MS: u64 = 1000;

/// Shows a job's counters until it is dropped.
pub struct Bar {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bar {
    /// Starts drawing on stderr if that is a terminal and neither `--quiet` nor `--json` was given.
    pub fn start(common: &Common, label: &str, progress: &Arc<Progress>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        if let Some(dir) = std::env::var_os(DIR_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from) {
            let (shared, progress, label) = (stop.clone(), progress.clone(), label.to_owned());
            let thread = std::thread::spawn(move || note_all(&shared, &progress, &label, &dir));
            return Self { stop, thread: Some(thread) };
        }
        if common.quiet || common.json || !std::io::stderr().is_terminal() {
            return Self { stop, thread: None };
        }
        let (shared, progress, label) = (stop.clone(), progress.clone(), super::shown(label));
        let thread = std::thread::spawn(move || draw(&shared, &progress, label));
        Self { stop, thread: Some(thread) }
    }
}

fn draw(stop: &AtomicBool, progress: &Progress, label: String) {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {msg} {eta}")
        .expect("the template is constant and tested by use");
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(label);
    while !stop.load(Ordering::Relaxed) {
        bar.set_length(progress.total_bytes.load(Ordering::Relaxed));
        bar.set_position(progress.done_bytes.load(Ordering::Relaxed));
        bar.set_message(match progress.stored_bytes.load(Ordering::Relaxed) {
            0 => String::new(),
            n => format!("stored {}", super::bytes(n)),
        });
        std::thread::sleep(Duration::from_millis(REDRAW_MS));
    }
    bar.finish_and_clear();
}

/// Notes how far it is until it is told to stop, and once more then.
fn note_all(stop: &AtomicBool, progress: &Progress, label: &str, dir: &Path) {
    loop {
        let last = stop.load(Ordering::Relaxed);
        note(progress, label, dir);
        if last {
            return;
        }
        let until = Instant::now() + Duration::from_millis(NOTE_MS);
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(REDRAW_MS));
        }
    }
}

/// Replaced whole, so that a reader sees one or the other; not made durable: it is of no use after the job.
fn note(progress: &Progress, label: &str, dir: &Path) {
    let value = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let text = serde_json::json!({
        "name": label, "done": value(&progress.done_bytes), "total": value(&progress.total_bytes), "stored": value(&progress.stored_bytes),
        "time": super::rfc3339(crate::commands::now_unix_ms()),
    });
    let new = dir.join(".progress.new");
    // Nobody needs it so much that the job should fail for it.
    let _ = std::fs::write(&new, text.to_string()).and_then(|()| std::fs::rename(&new, dir.join("progress.json")));
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            // A bar that failed to draw is no reason to fail the job.
            let _ = t.join();
        }
    }
}
