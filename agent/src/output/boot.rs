//! Boot proofs as people and scripts see them.

use super::{bytes, duration, rfc3339, shown, time};
use cairn_store::{
    BootProof,
    format::boot_proof::{BootCheck, BootLevel, BootVerdict},
};
use serde_json::{Value, json};

fn level(level: BootLevel) -> &'static str {
    match level {
        BootLevel::None => "none",
        BootLevel::Started => "started",
        BootLevel::Screen => "screen",
        BootLevel::Agent => "agent",
    }
}

/// A verdict in one line, with what it rests on.
pub fn boot_text(v: &BootVerdict) -> String {
    let mut parts = vec![match v.passed {
        true => format!("boots, level {}", level(v.level)),
        false => format!("DOES NOT BOOT: {}; it came to level {}, wanted was {}", shown(&v.reason), level(v.level), level(v.wanted)),
    }];
    parts.extend(v.started_ms.map(|ms| format!("started in {}", duration(ms))));
    parts.extend(v.screen_ms.map(|ms| format!("first sign after {}", duration(ms))));
    parts.extend(v.agent_ms.map(|ms| format!("agent after {}", duration(ms))));
    parts.push(format!("{} read", bytes(v.read_bytes)));
    for (name, check) in [("check in the guest", &v.exec), ("script", &v.script)] {
        parts.extend(check.as_ref().map(|c| check_text(name, c)));
    }
    let blank = if v.screen_blank { ", of one colour" } else { "" };
    parts.extend(v.screen.map(|(w, h)| format!("screen {w}x{h}{blank}")));
    if v.passed && v.level < BootLevel::Agent {
        parts.push("without an agent nobody knows what came up: look at picture and console".to_owned());
    }
    parts.join(", ")
}

fn check_text(name: &str, c: &BootCheck) -> String {
    let said = if c.said.is_empty() || c.passed { String::new() } else { format!(", it said: {}", shown(&c.said)) };
    format!("{name} {} ({} after {}{said})", if c.passed { "passed" } else { "FAILED" }, shown(&c.why), duration(c.took_ms))
}

/// When and where besides.
pub fn boot_line(p: &BootProof) -> String {
    let v = &p.verdict;
    let on = format!("{} on {}, cairn {}, libvirt {}, QEMU {}", time(p.time_unix_ms), shown(&p.host), v.cairn_version, v.libvirt_version, v.qemu_version);
    format!("{} ({})", boot_text(v), shown(&on))
}

/// A verdict for scripts.
pub fn boot_json(v: &BootVerdict) -> Value {
    let check = |c: &Option<BootCheck>| c.as_ref().map(|c| json!({"passed": c.passed, "why": c.why, "took_ms": c.took_ms, "said": c.said}));
    json!({
        "passed": v.passed, "level": level(v.level), "wanted": level(v.wanted), "reason": v.reason, "took_ms": v.took_ms, "started_ms": v.started_ms,
        "screen_ms": v.screen_ms, "agent_ms": v.agent_ms, "read": v.read_bytes, "exec": check(&v.exec), "script": check(&v.script),
        "screen": v.screen.map(|(width, height)| json!({"width": width, "height": height, "blank": v.screen_blank})),
        "evidence": v.evidence, "cairn_version": v.cairn_version, "libvirt_version": v.libvirt_version, "qemu_version": v.qemu_version,
    })
}

/// The same with time and host.
pub fn boot_proof_json(p: &BootProof) -> Value {
    let mut value = boot_json(&p.verdict);
    value["time"] = rfc3339(p.time_unix_ms);
    value["host"] = json!(p.host);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_what_it_rests_on() {
        let check = BootCheck { passed: false, why: "exit code 3".into(), took_ms: 1500, said: "no \u{1b}".into() };
        let v = BootVerdict {
            passed: false,
            level: BootLevel::Agent,
            wanted: BootLevel::Agent,
            reason: "the script failed: exit code 3".into(),
            agent_ms: Some(14_200),
            script: Some(check),
            ..BootVerdict::default()
        };
        let text = boot_text(&v);
        for part in ["DOES NOT BOOT: the script failed", "agent after 14.2 s", "script FAILED (exit code 3 after 1.5 s, it said: no \\u{1b})"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let passed = boot_text(&BootVerdict { passed: true, level: BootLevel::Screen, ..BootVerdict::default() });
        assert!(passed.starts_with("boots, level screen") && passed.contains("without an agent"), "{passed}");
        assert_eq!((boot_json(&v)["script"]["passed"].as_bool(), boot_json(&v)["level"].as_str()), (Some(false), Some("agent")));
    }
}
