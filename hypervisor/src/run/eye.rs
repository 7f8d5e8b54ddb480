//! What can be seen of a guest from outside: its screen, its console, what it read from its disks, whether it crashed.
//!
//! Invariants
//! - Whatever comes from the guest is handed on in pieces; nothing here grows with what a guest says or shows.
//! - A console is read without waiting. Without an event loop libvirt takes in what came while other calls are under way: who reads also asks other
//!   things now and then.
//!
//! What it must not do: understand pictures or texts.

use virt::stream::Stream;
use virt_sys as sys;

use crate::domain::Domain;
use crate::ffi::{self, LibvirtError, Named, Received};

/// One piece of a picture or of a console's output, bytes.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces of a console that are taken in one look: a guest that never stops talking must not hold its reader.
const PIECES_MAX: usize = 64;

/// A domain's first console, open for reading until dropped.
pub struct Console {
    stream: Option<Stream>,
}

impl Console {
    /// Hands on what came since the last look; `false` once no more can come.
    ///
    /// # Errors
    /// libvirt's.
    pub fn read(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<bool, LibvirtError> {
        let Some(stream) = &self.stream else { return Ok(false) };
        let mut piece = vec![0; PIECE_BYTES];
        for _ in 0..PIECES_MAX {
            match ffi::stream_receive(stream, &mut piece)? {
                Received::Bytes(count) => sink(&piece[..count]),
                Received::Nothing => return Ok(true),
                Received::End => {
                    self.close();
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn close(&mut self) {
        // The other end may be gone already.
        let _ = self.stream.take().map(Stream::abort);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.close();
    }
}

impl Domain {
    /// Opens its first console.
    ///
    /// # Errors
    /// libvirt's; among them that it has none that can be opened.
    pub fn open_console(&self) -> Result<Console, LibvirtError> {
        let stream = Stream::new(self.connection(), sys::VIR_STREAM_NONBLOCK).named("virStreamNew")?;
        match self.raw().open_console(None, &stream, 0).named("virDomainOpenConsole") {
            Ok(()) => Ok(Console { stream: Some(stream) }),
            Err(e) => Err(e),
        }
    }

    /// Takes a picture of its first screen and hands it on in pieces until `sink` says `false`; gives libvirt's name of the format
    /// (`image/png` with QEMU from 7.1 on, `image/x-portable-pixmap` before).
    ///
    /// # Errors
    /// libvirt's; among them that it has no screen.
    pub fn screenshot(&self, sink: &mut dyn FnMut(&[u8]) -> bool) -> Result<String, LibvirtError> {
        let stream = Stream::new(self.connection(), 0).named("virStreamNew")?;
        let format = self.raw().screenshot(&stream, 0, 0).named("virDomainScreenshot")?;
        let mut piece = vec![0; PIECE_BYTES];
        let outcome = loop {
            match ffi::stream_receive(&stream, &mut piece) {
                Ok(Received::Bytes(count)) if sink(&piece[..count]) => {}
                Ok(Received::End) => {
                    return stream.finish().named("virStreamFinish").map(|()| format);
                }
                Ok(_) => break Ok(format),
                Err(e) => break Err(e),
            }
        };
        // Nobody wants the rest.
        let _ = stream.abort();
        outcome
    }

    /// Bytes that the guest has read from these disks since it was started; those that cannot be asked about count as none.
    #[must_use]
    pub fn read_bytes(&self, targets: &[String]) -> u64 {
        let of = |target: &String| self.raw().block_stats(target).ok().and_then(|s| u64::try_from(s.rd_bytes).ok());
        targets.iter().filter_map(of).sum()
    }

    /// It crashed, by its own words, and was left as it is (`<on_crash>preserve`).
    ///
    /// # Errors
    /// libvirt's.
    pub fn has_crashed(&self) -> Result<bool, LibvirtError> {
        let (state, _) = ffi::domain_state(self.raw())?;
        Ok(state == sys::VIR_DOMAIN_CRASHED)
    }
}
