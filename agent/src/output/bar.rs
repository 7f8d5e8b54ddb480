//! A progress bar on a terminal; nothing elsewhere.

use crate::cli::Common;
use cairn_store::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

const REDRAW_MS: u64 = 150;

/// Shows a job's counters until it is dropped.
pub struct Bar {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bar {
    /// Starts drawing on stderr if that is a terminal and neither `--quiet` nor `--json` was given.
    pub fn start(common: &Common, label: &str, progress: &Arc<Progress>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
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

impl Drop for Bar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            // A bar that failed to draw is no reason to fail the job.
            let _ = t.join();
        }
    }
}
