//! A process that falls asleep in the middle of its work and never wakes: what others find is what one leaves that died there.

use super::{Lab, passes_on};
use cairn_store::{
    OpenOptions, Store,
    platform::{LocalPlatform, Platform},
};
use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

/// Whoever waits for so long does it for ever. Shorter waits (signs of life) pass as they should.
pub const FOR_GOOD_MS: u64 = 3_600_000;

struct Sleeper {
    folder: LocalPlatform,
    falls_asleep: Mutex<Sender<()>>,
}

impl Platform for Sleeper {
    passes_on!(folder: location create cover barrier read read_at size list list_dirs now_unix_ms monotonic_ms boot random process is_gone deleting);

    fn sleep_ms(&self, ms: u64) {
        if ms < FOR_GOOD_MS {
            return self.folder.sleep_ms(ms);
        }
        // The test may be over already.
        let _ = self.falls_asleep.lock().expect("no panic").send(());
        loop {
            thread::park();
        }
    }
}

/// Its store, and what tells that it sleeps.
pub fn open(lab: &Lab, state: &str) -> (Store, Receiver<()>) {
    let (falls_asleep, told) = channel();
    let platform = Sleeper { folder: LocalPlatform::open(&lab.root()).expect("opens"), falls_asleep: Mutex::new(falls_asleep) };
    let options = OpenOptions { credential: lab.credential(), state_dir: lab.dir.path().join(state), host: "host".into() };
    (Store::open_on(Arc::new(platform), options).expect("opens"), told)
}
