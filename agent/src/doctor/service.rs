//! Checks of what runs around backups: the configuration, libvirt's hook, the daemon.

use super::{
    finding::{Finding, Status},
    limit::within,
};
use crate::{
    alerts::send,
    cli::{Common, SocketPlace},
    config::{self, AlertTarget, Config},
    daemon::client::Client,
    hook::{DIR_DEFAULT, Place, Source, look::Look},
    output,
};
use serde_json::Value;
use std::{path::Path, time::Duration};

/// For files of this host.
const FILES_LIMIT: Duration = Duration::from_secs(10);
/// The daemon answers within a second; on a busy host it may take some.
const DAEMON_LIMIT: Duration = Duration::from_secs(20);

/// The configuration, if there is one that can be read.
pub fn config(common: &Common) -> (Option<Config>, Vec<Finding>) {
    const CHECK: &str = "config";
    let named = common.config.clone();
    let read = move || config::find(named.as_deref()).map(|path| (config::load(&path), path));
    match within(FILES_LIMIT, read) {
        Err(silent) => (None, vec![Finding::failed(CHECK, format!("{}: {silent}", config::PATH_DEFAULT), "see whether its disk is in order (dmesg)")]),
        Ok(None) => (None, vec![Finding::ok(CHECK, format!("there is no {}: no stores, no policies", config::PATH_DEFAULT))]),
        Ok(Some((Ok(config), path))) => {
            let found = format!("{}: {} stores, {} policies", path.display(), config.stores.len(), config.policies.len());
            (Some(config), vec![Finding::ok(CHECK, found)])
        }
        Ok(Some((Err(errors), _))) => {
            let wrong = |line: String| Finding::failed(CHECK, line, "mend the line; 'cairn daemon --check-config' checks it again (docs/daemon.md)");
            (None, errors.lines().into_iter().map(wrong).collect())
        }
    }
}

/// Targets of alerts: whether what they are sent with can be used. Nothing is sent.
pub fn alerts(config: &Option<Config>) -> Vec<Finding> {
    const CHECK: &str = "alerts";
    let targets = config.iter().flat_map(|config| config.alerts.clone());
    let of = |(name, target): (String, AlertTarget)| {
        let way = target.way_word();
        match within(FILES_LIMIT, move || send::check(&target)) {
            Ok(Ok(())) => Finding::ok(CHECK, format!("target {name}: {way}; 'cairn alert test {name}' sends a message")),
            Ok(Err(why)) => {
                Finding::told(CHECK, Status::Failed, &format!("target {name}: {why}"), "mend that, or the target, and try it with 'cairn alert test'")
            }
            Err(silent) => Finding::failed(CHECK, format!("target {name}: {silent}"), "see whether the disk of its files is in order (dmesg)"),
        }
    };
    let found: Vec<Finding> = targets.map(of).collect();
    let has_policies = config.as_ref().is_some_and(|config| !config.policies.is_empty());
    if found.is_empty() && has_policies {
        return vec![Finding::ok(CHECK, "nobody is told where backups fail: the configuration has no target below alerts: (docs/alerts.md)")];
    }
    found
}

/// libvirt's hook.
pub fn hook() -> Vec<Finding> {
    const CHECK: &str = "hook";
    let place = Place::of(Path::new(DIR_DEFAULT));
    let at = place.clone();
    let look = match within(FILES_LIMIT, move || Look::at(&at, Source::find(None).ok().as_ref())) {
        Err(silent) => return vec![Finding::failed(CHECK, format!("{DIR_DEFAULT}: {silent}"), "see whether its disk is in order (dmesg)")],
        Ok(Err(failure)) => return vec![Finding::told(CHECK, Status::Failed, &failure.message, "'cairn hook status' says more")],
        Ok(Ok(look)) => look,
    };
    if look.version.is_none() {
        let why = look.foreign.as_ref().map_or_else(|| "it is not installed".to_owned(), |what| format!("in its place is {what}"));
        let found = format!("{why}: starts and shutdowns are seen by the daemon alone, while it runs");
        return vec![Finding::warning(CHECK, found, "'cairn hook install' (docs/hooks.md)")];
    }
    let problems = look.problems.iter().map(|problem| match problem.rsplit_once(": ") {
        Some((what, remedy)) => Finding::warning(CHECK, what, remedy),
        None => Finding::warning(CHECK, problem, "'cairn hook status' and docs/hooks.md say more"),
    });
    // What libvirt's daemons have to do is told in whole sentences, behind a colon.
    let calls = look.daemons.iter().filter(|d| d.calls == crate::hook::daemons::Calls::AfterReload).map(|d| {
        let found = format!("{} (pid {}) had no hook when it started, and has not called this one yet", d.name, d.pid);
        Finding::warning(CHECK, found, format!("run 'systemctl reload {}', unless you did", d.name))
    });
    let findings: Vec<Finding> = problems.chain(calls).collect();
    if findings.is_empty() { vec![Finding::ok(CHECK, look.state(&place))] } else { findings }
}

/// The daemon.
pub fn daemon(common: &Common, place: &SocketPlace, config: &Option<Config>) -> Vec<Finding> {
    const CHECK: &str = "daemon";
    let is_needed = config.as_ref().is_some_and(|c| !c.policies.is_empty());
    let (common, place) = (common.clone(), place.clone());
    let health = within(DAEMON_LIMIT, move || Client::new(&common, &place).and_then(|client| client.get("/api/v1/health")));
    match health {
        Err(silent) => {
            vec![Finding::failed(CHECK, format!("the daemon: {silent}"), "'systemctl status cairn'; if it hangs, 'systemctl restart cairn' (jobs go on)")]
        }
        Ok(Err(_)) if !is_needed => vec![Finding::ok(CHECK, "none runs, and no policy needs one")],
        Ok(Err(failure)) => {
            let finding = Finding::told(CHECK, Status::Failed, &failure.message.replacen(": start", "; start", 1), "'systemctl status cairn'");
            vec![Finding { found: format!("{}: policies make no points", finding.found), ..finding }]
        }
        Ok(Ok(health)) => of_health(&health),
    }
}

/// What the daemon says of itself.
fn of_health(health: &Value) -> Vec<Finding> {
    const CHECK: &str = "daemon";
    let text = |value: &Value| value.as_str().map(output::shown);
    let mut out = Vec::new();
    for wrong in health["config"]["wrong"].as_array().into_iter().flatten().filter_map(&text) {
        out.push(Finding::failed(CHECK, format!("it runs on with an older configuration: {wrong}"), "mend the line, then 'cairn daemon --reload'"));
    }
    if let Some(problem) = text(&health["jobs"]["error"]) {
        out.push(Finding::failed(
            CHECK,
            format!("its table of jobs: {problem}"),
            "see whether the disk of its state folder is full or broken; then 'systemctl restart cairn'",
        ));
    }
    let watch = &health["watch"];
    if let Some(problem) = text(&watch["libvirt_problem"]) {
        out.push(Finding::failed(CHECK, format!("it has lost libvirt: {problem}"), "see the check 'libvirt'; it connects again by itself"));
    }
    if let Some(problem) = text(&watch["look_problem"]) {
        out.push(Finding::warning(CHECK, format!("its last look at the domains: {problem}"), "'cairn reconcile' does one now and says what is in the way"));
    }
    // What it complains of besides: reasons that have a finding of their own above have its text in them.
    let known: Vec<String> = out.iter().filter_map(|f| f.found.split_once(": ")).map(|(_, problem)| problem.to_owned()).collect();
    for reason in health["reasons"].as_array().into_iter().flatten().filter_map(&text) {
        if !known.iter().any(|problem| reason.contains(problem.as_str())) {
            out.push(Finding::told(CHECK, Status::Failed, &reason, "'journalctl -u cairn' says more"));
        }
    }
    if out.is_empty() && health["status"] != "ok" {
        out.push(Finding::warning(CHECK, "it calls itself degraded, and gives no reason", "'journalctl -u cairn' says why"));
    }
    let version = text(&health["version"]).unwrap_or_default();
    if version != env!("CARGO_PKG_VERSION") {
        let found = format!("it is of version {version}, and this is {}", env!("CARGO_PKG_VERSION"));
        out.push(Finding::warning(CHECK, found, "'systemctl restart cairn'; jobs go on"));
    }
    if out.is_empty() {
        let (pid, jobs) = (&health["pid"], &health["jobs"]);
        out.push(Finding::ok(CHECK, format!("pid {pid}, jobs: {} running, {} waiting", jobs["running"], jobs["queued"])));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_daemon_is_judged_by_what_it_says() {
        let well = json!({"status": "ok", "version": env!("CARGO_PKG_VERSION"), "pid": 7, "config": {"wrong": null}, "jobs": {"queued": 1, "running": 0},
            "watch": {"libvirt_problem": null, "look_problem": null}});
        let found = of_health(&well);
        assert!(found.len() == 1 && found[0].status == Status::Ok && found[0].found.contains("pid 7"), "{found:?}");
        let ill = json!({"status": "degraded", "version": "0.0.0", "pid": 7, "config": {"wrong": ["a:1:2: x"]}, "jobs": {"error": "disk"},
            "watch": {"libvirt_problem": "gone", "look_problem": "late"}});
        let found = of_health(&ill);
        let failed = found.iter().filter(|f| f.status == Status::Failed).count();
        assert_eq!((found.len(), failed), (5, 3), "{found:?}");
        assert!(found.iter().all(|f| f.remedy.is_some()));
        let full = "the disk of the state folder /var/lib/cairn is full; free space there\u{1b}[2J";
        let ill = json!({"status": "degraded", "version": env!("CARGO_PKG_VERSION"), "pid": 7, "reasons": [full, "libvirt has been away for 4 minutes: gone; x"],
            "watch": {"libvirt_problem": "gone"}});
        let found = of_health(&ill);
        assert_eq!(found.len(), 2, "what is told of libvirt already is not told twice: {found:?}");
        assert!(found[1].status == Status::Failed && found[1].found.ends_with("/var/lib/cairn is full"), "{found:?}");
        assert!(found[1].remedy.as_deref().is_some_and(|remedy| remedy.starts_with("free space there") && !remedy.contains('\u{1b}')), "{found:?}");
        assert_eq!(of_health(&json!({"status": "degraded", "version": env!("CARGO_PKG_VERSION")}))[0].status, Status::Warning);
    }
}
