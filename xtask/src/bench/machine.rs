//! Where and when figures were taken: what they mean nothing without.

use cairn_lab::process::run_ok;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const QUERY_LIMIT: Duration = Duration::from_secs(30);

/// Date, commit, machine, system.
pub fn facts(dir: &Path) -> [(&'static str, String); 4] {
    [
        ("date", said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        ("commit", said("git", &["describe", "--always", "--dirty"])),
        ("machine", format!("{}, {} threads, {} MiB of memory", cpu(), threads(), memory_mib())),
        ("system", format!("{}, Linux {}, {} below images and stores", distribution(), said("uname", &["-r"]), file_system(dir))),
    ]
}

fn said(program: &str, args: &[&str]) -> String {
    let text = run_ok(Command::new(program).args(args).current_dir(crate::workspace::root()), QUERY_LIMIT);
    text.map_or_else(|_| "unknown".to_owned(), |t| t.trim().to_owned())
}

fn field<'a>(text: &'a str, key: &str, separator: char) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(key)?.trim_start().strip_prefix(separator)).map(|v| v.trim().trim_matches('"'))
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    field(&text, "model name", ':').unwrap_or("unknown processor").to_owned()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = field(&text, "MemTotal", ':').and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) >> 10
}

fn distribution() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    field(&text, "PRETTY_NAME", '=').unwrap_or("unknown distribution").to_owned()
}

fn file_system(dir: &Path) -> String {
    // By the mount: `stat -f` cannot tell ext4 from ext2.
    said("findmnt", &["-n", "-o", "FSTYPE", "-T", &dir.to_string_lossy()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        assert_eq!(field("a: 1\nmodel name\t: Some CPU\n", "model name", ':'), Some("Some CPU"));
        assert_eq!(field("NAME=\"x\"\nPRETTY_NAME=\"A B\"\n", "PRETTY_NAME", '='), Some("A B"));
        assert_eq!(field("", "x", ':'), None);
    }
}
