//! Where this program's own file is, for whoever starts it again.
//!
//! Invariant: a package that was upgraded under a running daemon does not keep it from starting anything: the file that has the name now is started, the newer
//! one, and what lies between the two processes is a command line. Without a file of that name the old one is started, which the kernel keeps as long
//! as this process lives.
//!
//! `/proc/self/exe` is for processes that must be of the same build as their parent (a command and its runner).

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// What the kernel puts behind the name of a file that was removed or replaced.
const DELETED: &[u8] = b" (deleted)";

/// The file that has this program's name; none if there is no such file any more. For those who may start it when this process is long gone.
pub fn file() -> Option<PathBuf> {
    now(&std::env::current_exe().ok()?)
}

/// What can be started as long as this process lives: the file, or else what runs here.
pub fn program() -> PathBuf {
    // With the number: who starts it may do so by another program, whose own file `self` would be.
    file().unwrap_or_else(|| format!("/proc/{}/exe", std::process::id()).into())
}

fn now(seen: &Path) -> Option<PathBuf> {
    if seen.is_file() {
        return Some(seen.to_owned());
    }
    let name = Path::new(OsStr::from_bytes(seen.as_os_str().as_bytes().strip_suffix(DELETED)?));
    name.is_file().then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_that_was_replaced_is_found_by_its_name() {
        let dir = tempfile::tempdir().expect("dir");
        let (name, seen) = (dir.path().join("cairn"), dir.path().join("cairn (deleted)"));
        assert_eq!(now(&seen), None, "removed, and nothing in its place");
        fs::write(&name, "new").expect("writes");
        assert_eq!((now(&seen), now(&name)), (Some(name.clone()), Some(name)));
        fs::write(&seen, "somebody's odd name").expect("writes");
        assert_eq!(now(&seen), Some(seen));
        assert_eq!(now(dir.path()), None, "no folder");
    }

    #[test]
    fn this_program_is_there() {
        assert_eq!(file(), std::env::current_exe().ok());
        assert_eq!(Some(program()), file());
    }
}
