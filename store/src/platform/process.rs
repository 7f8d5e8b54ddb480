//! Naming processes of a host, so that one that was killed is known to be gone at once and not after a day of silence.
//!
//! A name holds boot, pid namespace, pid and start time: no later process, container or host can be mistaken for the one that was named.
//! Must not: call a process gone that may be alive; where anything differs or cannot be read the answer is "not certain".

use std::fs;

const PROC: &str = "/proc";

/// The running kernel's boot id.
pub(super) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// Name of this process; empty where `/proc` does not tell.
pub(super) fn this() -> String {
    let pid = std::process::id();
    match (boot(), pid_namespace(), start_time(pid)) {
        (boot, Some(namespace), Some(started)) if !boot.is_empty() => format!("{boot} {namespace} {pid} {started}"),
        _ => String::new(),
    }
}

/// Whether a named process of this boot and pid namespace has ended.
pub(super) fn is_gone(name: &str) -> bool {
    let parts: Vec<&str> = name.split(' ').collect();
    let [its_boot, namespace, pid, started] = parts[..] else { return false };
    let (Ok(pid), Ok(started)) = (pid.parse::<u32>(), started.parse::<u64>()) else { return false };
    // A /proc that hides other users' processes (hidepid) does not show the first one either, and proves nothing.
    if its_boot.is_empty() || its_boot != boot() || pid_namespace().as_deref() != Some(namespace) || start_time(1).is_none() {
        return false;
    }
    start_time(pid) != Some(started)
}

fn pid_namespace() -> Option<String> {
    Some(fs::read_link(format!("{PROC}/self/ns/pid")).ok()?.to_str()?.replace(' ', "_"))
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
        for odd in ["", "a b c", "x y 1 2", &this().replacen('-', "+", 1)] {
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
