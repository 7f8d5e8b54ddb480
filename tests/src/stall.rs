//! A store that stops answering while nothing else does: the program under test waits in its flushes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library that makes the program it is loaded into wait in every flush for as long as a file is there: a store that has stopped. Made with the
/// host's C compiler, for `LD_PRELOAD`.
///
/// # Panics
/// Where it cannot be made.
#[must_use]
pub fn library(folder: &Path, gate: &Path) -> PathBuf {
    let (source, library) = (folder.join("stall.c"), folder.join("stall.so"));
    let wait = format!("static void wait_for_store(void) {{ while (access(\"{}\", F_OK) == 0) usleep(10000); }}\n", gate.display());
    let code = "#define _GNU_SOURCE\n#include <unistd.h>\n#include <sys/syscall.h>\n".to_owned()
        + &wait
        + "int fsync(int fd) { wait_for_store(); return (int)syscall(SYS_fsync, fd); }\n\
           int fdatasync(int fd) { wait_for_store(); return (int)syscall(SYS_fdatasync, fd); }\n";
    fs::write(&source, code).expect("writes");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().expect("cc runs");
    assert!(made.success(), "cc");
    library
}
