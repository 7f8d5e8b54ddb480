//! What libvirt writes to the hook: read to a bound and for a time, whatever stands at the other end.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// libvirt writes the UUID behind the name, within the first kilobyte; an XML has some ten.
pub const BYTES_MAX: usize = 64 * 1024;
/// libvirt has the XML ready; more than this would take from what is left for the record.
pub const TIME_MAX: Duration = Duration::from_millis(30);

/// All that comes before the end, the bound, the time or an error.
#[must_use]
pub fn read_some(fd: BorrowedFd<'_>, bytes_max: usize, time_max: Duration) -> Vec<u8> {
    let end = Instant::now() + time_max;
    let mut text = vec![0; bytes_max];
    let mut length = 0;
    while let Some(free) = text.get_mut(length..).filter(|free| !free.is_empty()) {
        if !is_ready(fd, end) {
            break;
        }
        match read(fd, free) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => break,
        }
    }
    text.truncate(length);
    text
}

/// Waits until there is something to read, or the end; false when the time is over or there is no such descriptor.
fn is_ready(fd: BorrowedFd<'_>, end: Instant) -> bool {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        // Rounded up: a wait of no time would ask again and again.
        let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Ok(0) => return false,
            Ok(_) => return fds.first().and_then(PollFd::revents).is_some_and(|got| !got.contains(PollFlags::POLLNVAL)),
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn it_ends_with_the_end_the_bound_or_the_time() {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        writer.write_all(b"0123456789").expect("written");
        assert_eq!(read_some(reader.as_fd(), 4, SHORT), b"0123");
        let begin = Instant::now();
        assert_eq!(read_some(reader.as_fd(), 100, SHORT), b"456789", "the writer is still there");
        assert!(begin.elapsed() >= SHORT && begin.elapsed() < Duration::from_secs(2));
        writer.write_all(b"x").expect("written");
        drop(writer);
        assert_eq!(read_some(reader.as_fd(), 100, Duration::from_secs(60)), b"x");
    }

    #[test]
    fn what_cannot_be_read_is_empty() {
        let folder = std::fs::File::open("/").expect("a folder");
        assert!(read_some(folder.as_fd(), 100, SHORT).is_empty());
        // SAFETY: nothing is done with the descriptor but asking for it, and no descriptor has this number.
        let none = unsafe { BorrowedFd::borrow_raw(i32::MAX) };
        assert!(read_some(none, 100, SHORT).is_empty());
    }
}
