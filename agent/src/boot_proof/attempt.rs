//! One boot proof from beginning to end: A1 a run, isolated and paused · A2 its processors run · A3 it comes up, or not · A4 checks in the guest and on the host ·
//! A5 the picture and the console's end · A6 the run is taken away.
//!
//! Invariants
//! - A6 comes after every way through the others; should this process die, the run's supervisor does it (the owner's lock, [`super`]).
//! - A verdict is about the guest. What the host could not do (no memory, no such network, no libvirt, a store that is away) is an error, and no verdict.

use super::{
    Options, Proof, exec, script,
    watch::{self, Subject, Watch},
};
use crate::{
    cli::Common,
    commands::now_unix_ms,
    failure::{DAMAGED, FAILED, Failure, Outcome},
    run::{
        self,
        folder::RunFolder,
        keep::libvirt,
        make::{self, Made, Request},
        record,
    },
};
use cairn_hypervisor::{Domain, host::version_text, run::isolate};
use cairn_store::format::boot_proof::{BootCheck, BootLevel, BootVerdict, Evidence};
use std::{sync::atomic::AtomicBool, time::Instant};

/// A reason of the guest's for which the rest was not tried.
type Reason = Option<String>;

/// Proves one point, by its id.
pub fn run(common: &Common, options: &Options, point: &str, stop: &AtomicBool) -> Outcome<Proof> {
    let begin = Instant::now();
    let request = Request {
        name: Some(super::new_name()),
        network: "none".to_owned(),
        memory_bytes: options.memory_bytes,
        dir: options.dir.clone(),
        pool: options.pool.clone(),
        keep_identity: false,
        paused: true,
        allow_damaged: false,
        via: crate::cli::ViaChoice::Auto,
        proof: Some(record::Proof { limit_s: options.supervised_limit().as_secs() }),
    };
    let made = match make::make(common, &request, point, stop) {
        Ok(made) => made,
        // A point that cannot be read is one that does not boot.
        Err(f) if f.code == DAMAGED => {
            let verdict = BootVerdict { reason: f.message, took_ms: ms(begin), ..fresh() };
            return Ok(Proof { verdict, evidence: Evidence { time_unix_ms: now_unix_ms(), ..Evidence::default() }, warnings: Vec::new(), left: None });
        }
        Err(f) => return Err(f),
    };
    let folder = RunFolder::of(&made.record.state_dir, &made.record.name)?;
    let outcome = look(options, &made, begin, stop);
    // A6
    let left = run::discard(&folder, &made.record).err().map(|f| f.message);
    // What is still there is the supervisor's, and the next sweep's.
    drop(made.owner);
    let (mut verdict, evidence, mut warnings) = match (outcome, &left) {
        (Ok(seen), _) => seen,
        (Err(f), None) => return Err(f),
        (Err(f), Some(left)) => return Err(Failure::new(f.code, format!("{}; and the run {} is still there: {left}", f.message, made.record.name))),
    };
    verdict.took_ms = ms(begin);
    let left = left.map(|why| format!("run {} is still there: {why}; 'cairn discard {} --force' removes it", made.record.name, made.record.name));
    warnings.splice(..0, made.warnings);
    Ok(Proof { verdict, evidence, warnings, left })
}

fn fresh() -> BootVerdict {
    BootVerdict { cairn_version: env!("CARGO_PKG_VERSION").to_owned(), ..BootVerdict::default() }
}

fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A2 to A5.
fn look(options: &Options, made: &Made, begin: Instant, stop: &AtomicBool) -> Outcome<(BootVerdict, Evidence, Vec<String>)> {
    let xml = made.domain.xml_inactive().map_err(|e| libvirt(&e))?;
    let visible = isolate::visible(&xml).map_err(|e| Failure::new(FAILED, e.to_string()))?;
    let wanted = options.level.unwrap_or(match (visible.agent, visible.screen || visible.console) {
        (true, _) => BootLevel::Agent,
        (false, true) => BootLevel::Screen,
        (false, false) => BootLevel::Started,
    });
    let mut verdict = BootVerdict { wanted, ..fresh() };
    let targets = made.record.disks.iter().map(|d| d.target.clone()).collect();
    let subject = Subject { record: made.record.clone(), targets, visible };
    let mut watch = Watch::begin(subject, made.domain.clone(), stop)?; // A2
    verdict.started_ms = Some(ms(begin));
    if let Some((libvirt, qemu)) = watch.versions() {
        (verdict.libvirt_version, verdict.qemu_version) = (version_text(libvirt), version_text(qemu));
    }
    let mut reason = watch.wait(wanted, options.boot_limit)?; // A3
    if reason.is_none() {
        reason = checks(options, made, &mut watch, &mut verdict)?; // A4
    }
    if let Some((reason, f)) = reason.as_ref().and_then(|reason| Some((reason, watch.obstacle()?))) {
        return Err(Failure::new(f.code, format!("{}; this says nothing of the point ({reason})", f.message)));
    }
    // A5
    let mut evidence = Evidence { time_unix_ms: now_unix_ms(), ..Evidence::default() };
    let mut warnings = Vec::new();
    if visible.screen {
        match watch.domain().map_err(|f| f.message).and_then(|domain| watch::picture(&domain)) {
            Ok(picture) => {
                verdict.screen = Some(picture.screen);
                verdict.screen_blank = picture.blank;
                evidence.picture = picture.png;
            }
            Err(e) => warnings.push(format!("there is no picture of the screen: {e}")),
        }
    }
    watch.listen();
    evidence.console = watch.said.bytes().to_vec();
    verdict.level = watch.level();
    (verdict.screen_ms, verdict.agent_ms, verdict.read_bytes) = (watch.screen_ms, watch.agent_ms, watch.read_bytes);
    verdict.passed = reason.is_none();
    verdict.reason = reason.unwrap_or_default();
    Ok((verdict, evidence, warnings))
}

fn checks(options: &Options, made: &Made, watch: &mut Watch<'_>, verdict: &mut BootVerdict) -> Outcome<Reason> {
    let mut ended: Reason = None;
    if let Some(line) = &options.exec {
        let domain: Domain = watch.domain()?;
        let check = exec::run(&domain, line, options.script_limit, &mut || alive(watch, &mut ended));
        verdict.exec = match failed_by_guest(check, &ended)? {
            Some(check) => Some(check),
            None => return Ok(ended),
        };
        if let Some(check) = verdict.exec.as_ref().filter(|check| !check.passed) {
            return Ok(Some(format!("the check in the guest failed: {}", check.why)));
        }
    }
    if let Some(path) = &options.script {
        let uri = watch.domain()?.uri().map_err(|e| libvirt(&e))?;
        let environment = [
            ("CAIRN_BOOT_DOMAIN", made.record.name.clone()),
            ("CAIRN_BOOT_UUID", made.record.uuid.clone()),
            ("CAIRN_BOOT_URI", uri.clone()),
            ("LIBVIRT_DEFAULT_URI", uri),
            ("CAIRN_BOOT_POINT", made.record.point.clone()),
            ("CAIRN_BOOT_NAME", made.record.point_name.clone()),
        ];
        let check = script::run(path, &environment, options.script_limit, &mut || alive(watch, &mut ended));
        verdict.script = match failed_by_guest(check, &ended)? {
            Some(check) => Some(check),
            None => return Ok(ended),
        };
        if let Some(check) = verdict.script.as_ref().filter(|check| !check.passed) {
            return Ok(Some(format!("the script failed: {}", check.why)));
        }
    }
    Ok(None)
}

/// A guest that dies under a check ends it.
fn alive(watch: &mut Watch<'_>, ended: &mut Reason) -> Outcome<()> {
    *ended = watch.tick()?;
    match ended {
        None => Ok(()),
        Some(reason) => Err(Failure::new(FAILED, reason.clone())),
    }
}

/// `None` where the guest's end ended the check.
fn failed_by_guest(check: Outcome<BootCheck>, ended: &Reason) -> Outcome<Option<BootCheck>> {
    match check {
        Ok(check) => Ok(Some(check)),
        Err(_) if ended.is_some() => Ok(None),
        Err(f) => Err(f),
    }
}
