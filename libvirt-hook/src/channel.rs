//! The datagram socket between hook and listener, `/run/cairn/hook.sock`: one record a datagram, sent once, never waited for.
//!
//! A record that the socket takes may still be lost with a listener that dies before it reads; it looks at all domains when it starts.

use crate::event::{DecodeError, Event, RECORD_BYTES_MAX};
use crate::place::{SOCKET, open_base};
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Sends a record to whoever listens in `base`.
///
/// # Errors
/// Nobody listens, or whoever does has as many unread records as its socket holds. Nothing was sent then.
pub fn send(base: &Path, record: &[u8]) -> io::Result<()> {
    // A folder that others may write to could have anybody's socket in it.
    open_base(base)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    let sent = socket.send_to(record, base.join(SOCKET))?;
    if sent == record.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

/// The listener's end.
#[derive(Debug)]
pub struct Inbox {
    socket: UnixDatagram,
    path: PathBuf,
    /// Device and inode of the file that hooks send to.
    file: (u64, u64),
}

impl Inbox {
    /// Listens in `base`, for its owner only. A socket that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// Another process listens there (`AddrInUse`), or the folder cannot be used.
    pub fn bind(base: &Path) -> io::Result<Self> {
        open_base(base)?;
        let path = base.join(SOCKET);
        if UnixDatagram::unbound()?.connect(&path).is_ok() {
            return Err(io::Error::new(ErrorKind::AddrInUse, format!("another process listens at {}", path.display())));
        }
        // Made beside and renamed, so that there is no moment at which it is there for others, and none without one.
        let new = base.join(format!(".{SOCKET}.{}", std::process::id()));
        match fs::remove_file(&new) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let socket = UnixDatagram::bind(&new)?;
        // Not by the umask, which is that of all threads: a daemon makes files and starts programs meanwhile.
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        let meta = fs::symlink_metadata(&new)?;
        fs::rename(&new, &path)?;
        Ok(Self { socket, path, file: (meta.dev(), meta.ino()) })
    }

    /// Whether hooks still find this socket: one whose file was taken away or replaced hears nothing more.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.file)
    }

    /// The socket, for whoever waits for many things at once; it does not block.
    #[must_use]
    pub fn socket(&self) -> &UnixDatagram {
        &self.socket
    }

    /// The next record, if one is there. Bytes that are none are told, and gone.
    ///
    /// # Errors
    /// The socket's.
    pub fn next(&self) -> io::Result<Option<Result<Event, DecodeError>>> {
        // One byte more than a record has, so that a longer datagram is seen to be one.
        let mut bytes = [0; RECORD_BYTES_MAX + 1];
        match self.socket.recv(&mut bytes) {
            Ok(length) => Ok(bytes.get(..length).map(Event::decode)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn records_arrive_and_a_full_socket_refuses() {
        let dir = tempfile::tempdir().expect("folder");
        let base = dir.path().join("cairn");
        assert!(send(&base, b"x").is_err(), "nobody listens");
        let inbox = Inbox::bind(&base).expect("bound");
        assert_eq!(fs::metadata(base.join(SOCKET)).expect("there").mode() & 0o777, 0o600);
        assert!(inbox.next().expect("read").is_none());
        send(&base, b"no record").expect("sent");
        assert_eq!(inbox.next().expect("read"), Some(Err(DecodeError::NotOurs)));
        send(&base, &[b'x'; RECORD_BYTES_MAX + 100]).expect("sent");
        assert_eq!(inbox.next().expect("read"), Some(Err(DecodeError::TooLong)));
        let sent = (0..100_000).take_while(|_| send(&base, &[b'x'; 1000]).is_ok()).count();
        assert!((1..100_000).contains(&sent), "{sent} were taken by a listener that does not read");
    }

    #[test]
    fn one_listens_and_what_is_left_of_one_is_replaced() {
        let dir = tempfile::tempdir().expect("folder");
        let first = Inbox::bind(dir.path()).expect("bound");
        assert_eq!(Inbox::bind(dir.path()).expect_err("one is there").kind(), ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(send(dir.path(), b"x").expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
        let second = Inbox::bind(dir.path()).expect("bound");
        assert!(second.is_in_place());
        send(dir.path(), b"x").expect("sent");
        assert!(second.next().expect("read").is_some());
        assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 1, "nothing else is left");
        fs::remove_file(dir.path().join(SOCKET)).expect("removed");
        assert!(!second.is_in_place(), "nobody finds it any more");
    }

    #[test]
    fn nothing_is_sent_to_a_place_of_others() {
        let dir = tempfile::tempdir().expect("folder");
        let base = dir.path().join("cairn");
        let inbox = Inbox::bind(&base).expect("bound");
        fs::set_permissions(&base, fs::Permissions::from_mode(0o777)).expect("changed");
        assert!(send(&base, b"x").is_err());
        fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).expect("changed");
        let link = dir.path().join("link");
        symlink(&base, &link).expect("link");
        assert!(send(&link, b"x").is_err());
        assert!(inbox.next().expect("read").is_none());
    }
}
