//! Naming processes of a host, so that one that was killed is known to be gone at once and not after a day of silence.
//!
//! A name holds boot, namespaces, pid and start time: no later process, container or host can be mistaken for the one that was named. The namespaces are
//! those of pids, which number, and of time, whose offset shifts the start times that `/proc` tells and the clock that counts from boot.
//! Must not: call a process gone that may be alive; where anything differs or cannot be read the answer is "not certain".

use std::fs;

const PROC: &str = "/proc";

/// What the clock that counts from boot counts from: the running kernel's boot and the time namespace.
pub(super) fn boot() -> String {
    let id = boot_id();
    if id.is_empty() { id } else { format!("{id} {}", time_namespace()) }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// Name of this process; empty where `/proc` does not tell.
pub(super) fn this() -> String {
    let pid = std::process::id();
    match (boot_id(), namespaces(), start_time(pid)) {
        (boot, Some(namespaces), Some(started)) if !boot.is_empty() => format!("{boot} {namespaces} {pid} {started}"),
        _ => String::new(),
    }
}

/// Whether a named process of this boot and these namespaces has ended.
pub(super) fn is_gone(name: &str) -> bool {
    let parts: Vec<&str> = name.split(' ').collect();
    let [its_boot, its_namespaces, pid, started] = parts[..] else { return false };
    let (Ok(pid), Ok(started)) = (pid.parse::<u32>(), started.parse::<u64>()) else { return false };
    // A /proc that hides other users' processes (hidepid) does not show the first one either, and proves nothing.
    if its_boot.is_empty() || its_boot != boot_id() || namespaces().as_deref() != Some(its_namespaces) || start_time(1).is_none() {
        return false;
    }
    start_time(pid) != Some(started)
}

fn namespaces() -> Option<String> {
    Some(format!("{},{}", namespace("pid")?, time_namespace()))
}

fn namespace(kind: &str) -> Option<String> {
    Some(fs::read_link(format!("{PROC}/self/ns/{kind}")).ok()?.to_str()?.replace(' ', "_"))
}

/// Its number, and its offset from boot, for numbers are given again. A kernel without them (before 5.6) has one time for all.
fn time_namespace() -> String {
    let offsets = fs::read_to_string(format!("{PROC}/self/timens_offsets")).unwrap_or_default();
    let from_boot = offsets.lines().find_map(|l| l.strip_prefix("boottime")).map(|l| l.split_whitespace().collect::<Vec<_>>().join("."));
    format!("{}+{}", namespace("time").unwrap_or_else(|| "time".into()), from_boot.unwrap_or_default())
}

/// Field 22 of `/proc/PID/stat` (proc(5)): clock ticks after boot. A zombie has ended as far as its work goes.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("{PROC}/{pid}/stat")).ok()?;
    // The name in field 2 may hold spaces and brackets; the last bracket ends it.
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(rest.first(), Some(&("Z" | "X"))) { None } else { rest.get(19)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_is_gone_and_no_other() {
        assert!(!is_gone(&this()), "this one runs");
        let elsewhen = this().replacen("time:[", "time:[9", 1);
        assert_ne!(elsewhen, this(), "this kernel has time namespaces");
        for odd in ["", "a b c", "x y 1 2", &this().replacen('-', "+", 1), &elsewhen] {
            assert!(!is_gone(odd), "{odd}");
        }
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let name = this().split(' ').take(2).collect::<Vec<_>>().join(" ");
        let name = format!("{name} {} {}", child.id(), start_time(child.id()).expect("it runs"));
        assert!(!is_gone(&name));
        child.kill().expect("kills");
        child.wait().expect("waits");
        assert!(is_gone(&name));
    }
}
