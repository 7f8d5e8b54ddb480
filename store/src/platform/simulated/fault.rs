//! What goes wrong: at a given operation of a process, or so many times in a million by the seed.

use super::{Survival, rng::Rng};

/// One thing that goes wrong at one operation.
pub enum Fault {
    /// The operation returns this error number and had no effect. A sync of a file that fails loses what it should have made durable.
    FailBefore(i32),
    /// The operation took effect, its reply is lost: it returns this error number.
    FailAfter(i32),
    /// The process ends here, as by SIGKILL, before the operation took effect.
    Crash,
    /// The same, but its `link` is on its way to the server and takes effect some operations later. Elsewhere like [`Fault::Crash`].
    CrashInFlight,
    /// The host loses power before the operation took effect, and with it the storage if it is the host's own.
    PowerLoss(Survival),
    /// The operation takes so long, milliseconds.
    Delay(u64),
    /// The process is stopped before the operation, as by SIGSTOP, while this runs; then it goes on.
    Pause(Box<dyn FnOnce() + Send>),
}

impl Fault {
    pub(super) fn tag(&self) -> &'static str {
        match self {
            Self::FailBefore(_) => "fail-before",
            Self::FailAfter(_) => "fail-after",
            Self::Crash => "crash",
            Self::CrashInFlight => "crash-in-flight",
            Self::PowerLoss(_) => "power-loss",
            Self::Delay(_) => "delay",
            Self::Pause(_) => "pause",
        }
    }
}

/// How often what goes wrong at each operation, in a million.
#[derive(Clone, Copy, Default, Debug)]
pub struct Rates {
    /// [`Fault::FailBefore`] with EIO or, for writes, ENOSPC.
    pub fail_before_ppm: u32,
    /// [`Fault::FailAfter`] with EIO.
    pub fail_after_ppm: u32,
    /// [`Fault::Crash`] or [`Fault::CrashInFlight`].
    pub crash_ppm: u32,
    /// [`Fault::PowerLoss`].
    pub power_loss_ppm: u32,
    /// [`Fault::Delay`] of up to an hour.
    pub delay_ppm: u32,
}

impl Rates {
    pub(super) fn draw(&self, kind: OpKind, rng: &mut Rng) -> Option<Fault> {
        const HOUR_MS: usize = 3_600_000;
        if rng.chance_ppm(self.fail_before_ppm) {
            let full = kind == OpKind::Write && rng.chance_ppm(500_000);
            return Some(Fault::FailBefore(if full { libc::ENOSPC } else { libc::EIO }));
        }
        if rng.chance_ppm(self.fail_after_ppm) {
            return Some(Fault::FailAfter(libc::EIO));
        }
        if rng.chance_ppm(self.crash_ppm) {
            return Some(if rng.chance_ppm(500_000) { Fault::Crash } else { Fault::CrashInFlight });
        }
        if rng.chance_ppm(self.power_loss_ppm) {
            return Some(Fault::PowerLoss(if rng.chance_ppm(500_000) { Survival::None } else { Survival::Random }));
        }
        rng.chance_ppm(self.delay_ppm).then(|| Fault::Delay(rng.below(HOUR_MS) as u64))
    }
}

/// What an operation does: each is one call to the storage, where another process may come in between and anything may go wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum OpKind {
    /// Making a folder.
    MakeDir,
    /// Making and writing a temporary file.
    Write,
    /// fdatasync of a file.
    SyncFile,
    /// Giving a file its final name.
    Link,
    /// Taking away a temporary file.
    Unlink,
    /// fsync of a folder.
    SyncDir,
    /// Reading a file or a part of it.
    Read,
    /// Asking for a size.
    Stat,
    /// Listing a folder.
    List,
    /// Moving a pack to the trash.
    Rename,
    /// Deleting an object.
    Delete,
    /// Deleting a folder.
    RemoveDir,
    /// Waiting.
    Sleep,
}

impl OpKind {
    /// Whether it changes the storage: only then "failed after it took effect" differs from "failed before".
    pub fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::Stat | Self::List | Self::Sleep)
    }
}
