//! `cairn daemon`: one a host. Owns the jobs, starts the watch, answers the API (docs/daemon.md).
//!
//! - [`lock`]: there is one; [`listen`]: its socket; [`door`]: that it stays; [`notify`]: what systemd hears
//! - [`state`]: configuration, jobs and watch, shared; [`orders`]: from what is wanted to jobs; [`schedule`], [`upkeep`]: what is wanted by the clock
//! - [`alerts`]: who is told what is wrong
//! - [`serve`], [`api`]: the API; [`client`]: the command line's end of it
//!
//! Invariants
//! - It does no backup by itself: a job is a process of its own, which outlives it.
//! - Nothing that hangs (libvirt, a disk, a client) hangs it: each lives on a thread or a task of its own, and all waits have limits.
//! - It ends within [`END_LIMIT`] of being asked to, whatever hangs.

mod alerts;
mod api;
pub mod client;
mod defined;
mod door;
mod listen;
mod lock;
#[cfg(test)]
mod month;
mod notify;
mod orders;
mod overdue;
pub mod schedule;
mod serve;
mod state;
mod upkeep;

use crate::{
    cli::{Common, Daemon},
    commands::Done,
    context,
    failure::{FAILED, Failure, Outcome},
    jobs::{BROKEN_MAX, Counts, Jobs},
    watch::{self, WISHES_MAX, Wish},
};
use listen::{Listening, socket_default};
use state::{Places, Shared};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::{mpsc::Receiver, oneshot},
};

/// From the signal to the end.
pub const END_LIMIT: Duration = Duration::from_secs(10);
/// Of that, for the watch, and for the thread of jobs.
const WATCH_END_LIMIT: Duration = Duration::from_secs(4);
const JOBS_END_LIMIT: Duration = Duration::from_secs(4);
/// Until a wish is tried again for which no job could be queued.
const WISH_PAUSE: Duration = Duration::from_secs(5);
/// Between two looks at itself.
const TICK: Duration = Duration::from_secs(1);
/// The thread of jobs goes round five times a second. One that has not for so long hangs, and systemd may try whether a new daemon does better.
const SILENT_LIMIT: Duration = Duration::from_secs(60);

/// Runs the daemon until a signal ends it.
pub fn run(common: &Common, o: &Daemon) -> Outcome<Done> {
    let (path, config) = state::load(common.config.as_deref()).map_err(|e| Failure::usage(e.lines().join("\n")))?;
    let state_dir = match (&common.state_dir, &config.daemon.state_dir) {
        (None, Some(dir)) => dir.clone(),
        _ => context::state_dir(common)?,
    };
    let state_dir = std::path::absolute(&state_dir).map_err(|e| Failure::usage(format!("{}: {e}", state_dir.display())))?;
    let lock = lock::take(&state_dir)?;
    let socket = o.place.socket.clone().or_else(|| config.daemon.socket.clone()).unwrap_or_else(socket_default);
    let listen::Sockets { all, problem } = listen::start(&socket)?;
    let found = if problem.is_none() { listen::id_of(&socket) } else { None };
    let (listeners, removers): (Vec<_>, Vec<_>) = all.into_iter().map(Listening::parts).unzip();
    let (tell_broken, broken) = tokio::sync::mpsc::channel(BROKEN_MAX);
    let jobs = Jobs::start(&state_dir, state::limits(&config), move || lock.is_in_place(), tell_broken)?;
    let places = Places { config: common.config.clone(), state_dir, connect: common.connect.clone(), socket: socket.clone() };
    let (wish, wishes) = tokio::sync::mpsc::channel(WISHES_MAX);
    let watch = watch::start(state::watch_settings(&config, &places), wish)?;
    if path.is_none() {
        tracing::warn!("there is no {}: no stores and no policies; points are made only where the store is named", crate::config::PATH_DEFAULT);
    }
    let shared = Arc::new(Shared::new(places, config, jobs, watch));
    problem.into_iter().for_each(|why| shared.set_unreachable(why));
    let runtime = crate::interrupt::runtime()?;
    let result = runtime.block_on(serve_until_end(&shared, listeners, (socket, found), (wishes, broken)));
    end(&shared, runtime);
    drop(removers);
    result.map(|()| Done::Clean)
}

/// `door`: where commands look, and what is there by device and inode.
async fn serve_until_end(
    shared: &Arc<Shared>,
    listeners: Vec<std::os::unix::net::UnixListener>,
    door: (PathBuf, Option<(u64, u64)>),
    (wishes, broken): (Receiver<Wish>, Receiver<String>),
) -> Outcome<()> {
    let listen = |kind| signal(kind).map_err(|e| Failure::new(FAILED, format!("cannot listen to signals: {e}")));
    let mut hup = listen(SignalKind::hangup())?;
    let asked_to_end = end_signals()?;
    let listeners: std::io::Result<Vec<_>> = listeners.into_iter().map(tokio::net::UnixListener::from_std).collect();
    let listeners = listeners.map_err(|e| Failure::new(FAILED, format!("the socket: {e}")))?;
    let (over, is_over) = tokio::sync::watch::channel(false);
    let door = tokio::spawn(door::keep(shared.clone(), door.0, door.1, api::router(shared.clone()), is_over.clone()));
    let server = tokio::spawn(serve::serve(listeners, api::router(shared.clone()), is_over));
    tokio::spawn(grant(shared.clone(), wishes));
    tokio::spawn(look_after(shared.clone(), broken));
    tokio::spawn(tell(shared.clone()));
    tokio::spawn(schedule::keep(shared.clone()));
    tokio::spawn(alerts::keep(shared.clone()));
    let reloader = shared.clone();
    tokio::spawn(async move {
        while hup.recv().await.is_some() {
            // What is wrong was told to the log.
            let _ = reloader.reload().await;
        }
    });
    notify::ready();
    tracing::info!("cairn {} serves", env!("CARGO_PKG_VERSION"));
    let result = tokio::select! {
        // A thread that is gone has no more to say.
        _ = asked_to_end => Ok(()),
        failure = homeless(shared) => Err(failure),
    };
    notify::stopping();
    over.send_replace(true);
    // It may wait for a connection; the end does not.
    let _ = tokio::time::timeout(Duration::from_secs(1), server).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), door).await;
    result
}

/// Until the state folder is not ours any more. A new daemon makes or takes the one that is there now; two that both begin jobs there must not be.
async fn homeless(shared: &Shared) -> Failure {
    while !shared.jobs.is_homeless() {
        tokio::time::sleep(TICK / 5).await;
    }
    let at = shared.places.state_dir.display();
    Failure::new(
        FAILED,
        format!(
            "the state folder {at} was removed or replaced while the daemon worked with it; it ends, and jobs that run go on: start it again, it finds what is there then"
        ),
    )
}

/// A thread and a runtime of its own: whatever hangs in the daemon's, a signal ends it in time.
fn end_signals() -> Outcome<oneshot::Receiver<()>> {
    let failed = |e: std::io::Error| Failure::new(FAILED, format!("cannot listen to signals: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (say, said) = oneshot::channel();
    let (mut int, mut term) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?)
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        });
        // Nobody listens any more where the end has begun by itself.
        let _ = say.send(());
        std::thread::sleep(END_LIMIT);
        tracing::error!("the daemon did not end within {} s, and is ended; jobs go on", END_LIMIT.as_secs());
        std::process::exit(FAILED.into());
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok(said)
}

/// Wishes become jobs where a policy wants them.
async fn grant(shared: Arc<Shared>, mut wishes: Receiver<Wish>) {
    while let Some(wish) = wishes.recv().await {
        // Without records there is no word of the domain's, and its name is enough.
        let word = shared.word_of(|one| one.uuid == wish.uuid).await.unwrap_or_default();
        let orders = shared.order(|ordering| ordering.of_wish(&wish, &word));
        let domain = crate::output::shown(&wish.domain);
        while !orders.is_empty() {
            match shared.add(orders.clone()).await {
                Ok(jobs) => {
                    tracing::info!("{domain}: {} ({}): {} jobs", wish.trigger, wish.why, jobs.len());
                    break;
                }
                Err(f) => {
                    tracing::error!("{domain}: no job for '{}' yet: {}; it is tried again", wish.trigger, f.message);
                    shared.ungranted.store(true, Ordering::Relaxed);
                    tokio::time::sleep(WISH_PAUSE).await;
                }
            }
        }
        shared.ungranted.store(false, Ordering::Relaxed);
        shared.watch.granted(wish.id);
    }
}

/// A backup that ended badly may have taken its guard with it, and left its guest frozen: that is not for the next look by the clock.
async fn look_after(shared: Arc<Shared>, mut broken: Receiver<String>) {
    while let Some(domain) = broken.recv().await {
        tracing::info!("{}: its backup did not end well; it is looked at", crate::output::shown(&domain));
        if let Err(f) = shared.watch.reconcile(Some(&domain)) {
            tracing::warn!("{}", f.message);
        }
    }
}

/// Signs of life, and what `systemctl status` shows.
async fn tell(shared: Arc<Shared>) {
    let watchdog = notify::watchdog();
    let mut told = None;
    let mut ticks = tokio::time::interval(watchdog.map_or(TICK, |limit| (limit / 3).clamp(Duration::from_millis(50), TICK)));
    loop {
        ticks.tick().await;
        if watchdog.is_some() && shared.jobs.silent_for() < SILENT_LIMIT {
            notify::alive();
        }
        let line = match (shared.wrong(), shared.jobs.counts().await) {
            (Some(wrong), _) => format!("the configuration was not reloaded: {}", wrong.first().map_or("", String::as_str)),
            (None, Ok(Counts { queued, running, problems })) => match problems.first() {
                None => format!("jobs: {running} running, {queued} waiting"),
                Some(problem) => format!("jobs: {running} running, {queued} waiting; {problem}"),
            },
            (None, Err(f)) => f.message,
        };
        if told.as_ref() != Some(&line) {
            notify::status(&line);
            told = Some(line);
        }
    }
}

/// Ends what there is; what does not end is left behind.
fn end(shared: &Arc<Shared>, runtime: Runtime) {
    if !shared.jobs.stop(JOBS_END_LIMIT) {
        tracing::warn!("the table of jobs does not answer; jobs go on");
    }
    shared.watch.stop(WATCH_END_LIMIT);
    runtime.shutdown_timeout(Duration::from_millis(500));
}
