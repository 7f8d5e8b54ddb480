//! The program under test waits where a suite wants it to: in its flushes, as with a store that stops answering, or behind a line of its log.
//!
//! Both are small libraries, made with the host's C compiler, for `LD_PRELOAD`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the program's log must say for it to stop behind that line.
pub const LINE: &str = "CAIRN_LAB_LINE";
/// What it must have said before, if anything.
pub const AFTER: &str = "CAIRN_LAB_AFTER";
/// As long as this file is there; once the program waits, one with `.at` behind its name is there, too.
pub const GATE: &str = "CAIRN_LAB_GATE";

/// A library that makes the program it is loaded into wait in every flush for as long as a file is there: a store that has stopped.
///
/// # Panics
/// Where it cannot be made.
#[must_use]
pub fn library(folder: &Path, gate: &Path) -> PathBuf {
    let wait = format!("static void wait_for_store(void) {{ while (access(\"{}\", F_OK) == 0) usleep(10000); }}\n", gate.display());
    let code = "#define _GNU_SOURCE\n#include <unistd.h>\n#include <sys/syscall.h>\n".to_owned()
        + &wait
        + "int fsync(int fd) { wait_for_store(); return (int)syscall(SYS_fsync, fd); }\n\
           int fdatasync(int fd) { wait_for_store(); return (int)syscall(SYS_fdatasync, fd); }\n";
    make(folder, "stall", &code)
}

/// A library that makes the program it is loaded into wait behind the first line on stderr that contains what [`LINE`] says, as long as [`GATE`] is
/// there. Only the thread that wrote it waits; whoever comes first of a program and what it starts.
///
/// # Panics
/// Where it cannot be made.
#[must_use]
pub fn behind_a_line(folder: &Path) -> PathBuf {
    let code = format!(
        "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n\
         #include <sys/syscall.h>\n\
         static volatile int was_said;\n\
         static void wait_at(const char *gate) {{\n\
           char at[4096];\n\
           snprintf(at, sizeof at, \"%s.at\", gate);\n\
           int file = open(at, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);\n\
           if (file < 0) return;\n\
           close(file);\n\
           while (access(gate, F_OK) == 0) usleep(1000);\n\
         }}\n\
         ssize_t write(int fd, const void *bytes, size_t count) {{\n\
           ssize_t done = syscall(SYS_write, fd, bytes, count);\n\
           const char *line = getenv(\"{LINE}\"), *gate = getenv(\"{GATE}\"), *after = getenv(\"{AFTER}\");\n\
           if (fd != 2 || done <= 0 || !line || !gate) return done;\n\
           if (after && memmem(bytes, count, after, strlen(after))) was_said = 1;\n\
           if ((!after || was_said) && memmem(bytes, count, line, strlen(line))) wait_at(gate);\n\
           return done;\n\
         }}\n"
    );
    make(folder, "line", &code)
}

fn make(folder: &Path, name: &str, code: &str) -> PathBuf {
    let (source, library) = (folder.join(name).with_extension("c"), folder.join(name).with_extension("so"));
    fs::write(&source, code).expect("writes");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().expect("cc runs");
    assert!(made.success(), "cc");
    library
}
