//! libvirt's events, for as long as the watch lives: connected again whenever libvirt's daemon went, ended, or hung.
//!
//! Invariants
//! - All calls to libvirt are made on this thread, which nobody waits for: a daemon that is stopped may hold the opening of a connection until it goes on.
//! - Events between two connections are lost; whoever hears [`Message::Connected`] looks at all domains.

use super::post::{Message, Post};
use crate::domain::chain;
use cairn_hook::clock;
use cairn_hypervisor::{
    Host,
    events::{self, Event, Subscription},
    host::HostError,
};
use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

/// Between two attempts, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A connection that held for so long was a good one.
const GOOD: Duration = Duration::from_secs(60);
/// So soon the end of the watch is seen.
const TURN: Duration = Duration::from_millis(500);

/// libvirt's URI, which may be changed.
#[derive(Debug, Clone)]
pub struct Uri(Arc<Mutex<Option<String>>>);

impl Uri {
    /// This one, for now.
    pub fn of(uri: Option<String>) -> Self {
        Self(Arc::new(Mutex::new(uri)))
    }

    /// Another one from now on.
    pub fn set(&self, uri: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = uri;
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Begins; the thread ends by itself when the watch does, once libvirt lets it.
pub fn start(uri: Uri, post: Post) -> io::Result<()> {
    std::thread::Builder::new().name("libvirt-watch".into()).spawn(move || run(&uri, &post)).map(drop)
}

fn run(uri: &Uri, post: &Post) {
    let mut pause = PAUSE_MIN;
    while !post.has_ended() {
        let begin = Instant::now();
        let current = uri.get();
        let why = match events::open(current.as_deref()).and_then(|host| listen(&host, post, || uri.get() != current)) {
            Ok(why) => why.to_owned(),
            Err(e) => chain(&e),
        };
        // The queue being full, the mark stays that something was missed.
        let _ = post.offer(Message::Lost(why));
        if begin.elapsed() > GOOD {
            pause = PAUSE_MIN;
        }
        let until = Instant::now() + pause;
        while Instant::now() < until && !post.has_ended() {
            std::thread::sleep(TURN.min(until.saturating_duration_since(Instant::now())));
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Hands events on until the connection ends; why it did.
fn listen(host: &Host, post: &Post, is_another: impl Fn() -> bool) -> Result<&'static str, HostError> {
    let (to, from) = channel();
    let _subscription = Subscription::new(host, to)?;
    let _ = post.offer(Message::Connected);
    loop {
        if post.has_ended() {
            return Ok("the watch ends");
        }
        if is_another() {
            return Ok("another connection is configured");
        }
        match from.recv_timeout(TURN) {
            Ok(Event::Closed { why }) => return Ok(why),
            Ok(event) => {
                // What finds no room is known to be missed.
                let _ = post.offer(Message::Libvirt(Box::new(event), clock::since_boot_ns()));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok("libvirt gives no events any more"),
        }
    }
}
