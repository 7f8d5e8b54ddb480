//! A limit for what may hang: a daemon that is stopped, a file server that is gone, a disk that does not answer.
//!
//! The work has a thread of its own. One that does not come back is left behind and ends with the program: nothing that a check does has to be undone.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

/// Does the work; in words, why there is no result.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, result) = channel();
    let thread = std::thread::Builder::new().name("check".into()).spawn(move || {
        // Whoever waited has given up if this fails.
        let _ = done.send(work());
    });
    thread.map_err(|e| format!("no thread for it: {e}"))?;
    result.recv_timeout(limit).map_err(|e| match e {
        RecvTimeoutError::Timeout => format!("no answer within {} s", limit.as_secs()),
        RecvTimeoutError::Disconnected => "the check broke off, which is a defect of this program".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_hangs_is_left_behind() {
        assert_eq!(within(Duration::from_secs(60), || 7), Ok(7));
        let start = Instant::now();
        let silent = within(Duration::from_millis(50), || std::thread::sleep(Duration::from_secs(60))).expect_err("too long");
        assert!(silent.contains("no answer") && start.elapsed() < Duration::from_secs(30), "{silent}");
    }
}
