//! `cairn jobs`, `cairn job run|cancel|log`, and the runner of one

use super::{Done, now_unix_ms};
use crate::{
    cli::{Common, JobCommand, JobLog, JobPlace, JobRun, JobRunner, Jobs},
    daemon::client::Client,
    failure::{FAILED, Outcome},
    jobs::{State, folder::JobFolder, runner},
    output,
};
use serde_json::{Value, json};
use std::time::Duration;

/// What is listed without `--all`.
const RECENT_MS: u64 = 24 * 3600 * 1000;
/// Of a message in the table; 'cairn job log' has all of it.
const MESSAGE_CHARS: usize = 80;
/// Between two looks at a log that is followed.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// `cairn jobs`
pub fn list(common: &Common, o: &Jobs) -> Outcome<Done> {
    let query = if o.all { String::new() } else { format!("?since_unix_ms={}", now_unix_ms().saturating_sub(RECENT_MS)) };
    let jobs = Client::new(common, &o.place)?.get(&format!("/api/v1/jobs{query}"))?;
    if common.json {
        output::print_json(&jobs);
    } else {
        table(&jobs);
    }
    Ok(Done::Clean)
}

/// `cairn job`
pub fn run(common: &Common, command: &JobCommand) -> Outcome<Done> {
    match command {
        JobCommand::Run(o) => order(common, o),
        JobCommand::Cancel(o) => cancel(common, o),
        JobCommand::Log(o) => log(common, o),
    }
}

/// `cairn job-runner`
pub fn runner(o: &JobRunner) -> Outcome<Done> {
    runner::run(&JobFolder::at(&o.dir)).map(|()| Done::Clean)
}

fn order(common: &Common, o: &JobRun) -> Outcome<Done> {
    let image = o.image.as_ref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    let mut body = json!({});
    for (key, value) in [
        ("domain", o.domain.clone()),
        ("image", image.map(|path| path.display().to_string())),
        ("name", o.name.clone()),
        ("policy", o.policy.clone()),
        ("store", common.store.clone()),
    ] {
        if let Some(value) = value {
            body[key] = value.into();
        }
    }
    let said = Client::new(common, &o.place)?.post("/api/v1/backups", &body)?;
    if common.json {
        output::print_json(&said);
    } else if !common.quiet {
        for job in said["jobs"].as_array().into_iter().flatten() {
            out!("job {}: {} into {}, {}; 'cairn job log {} --follow'", job["id"], text(&job["domain"]), text(&job["store"]), text(&job["state"]), job["id"]);
        }
    }
    Ok(Done::Clean)
}

fn cancel(common: &Common, o: &JobPlace) -> Outcome<Done> {
    let job = Client::new(common, &o.place)?.post(&format!("/api/v1/jobs/{}/cancel", o.id), &json!({}))?;
    if common.json {
        output::print_json(&job);
    } else if !common.quiet {
        let running = job["state"] == State::Running.word();
        out!("job {} {}", job["id"], if running { "is asked to end; 'cairn jobs' shows when it has" } else { "is cancelled" });
    }
    Ok(Done::Clean)
}

fn log(common: &Common, o: &JobLog) -> Outcome<Done> {
    let (client, id) = (Client::new(common, &o.job.place)?, o.job.id);
    let (mut offset, mut pieces) = (0, String::new());
    loop {
        let piece = client.get(&format!("/api/v1/jobs/{id}/log?offset={offset}"))?;
        let said = text(&piece["text"]);
        let next = piece["next_offset"].as_u64().unwrap_or(offset);
        let over = piece["over"].as_bool().unwrap_or(true);
        if common.json {
            pieces.push_str(said);
        } else {
            // A guest's words may be in it: all but line ends is escaped.
            said.lines().for_each(|line| out!("{}", output::shown(line)));
        }
        offset = next;
        if !said.is_empty() {
            continue;
        }
        if over || !o.follow {
            break;
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
    let job = client.get(&format!("/api/v1/jobs/{id}"))?;
    if common.json {
        output::print_json(&json!({"id": id, "state": job["state"], "code": job["code"], "text": pieces}));
    }
    Ok(if o.follow { ended(&job) } else { Done::Clean })
}

/// As the job itself ended.
fn ended(job: &Value) -> Done {
    match (State::parse(text(&job["state"])), job["code"].as_u64().and_then(|c| u8::try_from(c).ok())) {
        (Some(State::Done), _) => Done::Clean,
        (Some(State::Warnings), _) => Done::WithWarnings,
        (_, Some(code)) if code != 0 => Done::Code(code),
        _ => Done::Code(FAILED),
    }
}

fn table(jobs: &Value) {
    let row = |job: &Value| {
        let done = match (job["progress"]["done"].as_u64(), job["progress"]["total"].as_u64()) {
            (Some(done), Some(total)) if total > 0 => format!("{} %", done.saturating_mul(100) / total),
            _ => String::new(),
        };
        let when = local(["ended", "started", "queued"].iter().map(|key| text(&job[*key])).find(|t| !t.is_empty()).unwrap_or_default());
        let state = text(&job["state"]);
        let state = if job["cancel_asked"] == true && state == State::Running.word() { "running, to end" } else { state };
        [
            job["id"].to_string(),
            text(&job["kind"]).to_owned(),
            output::shown(text(&job["domain"])),
            text(&job["store"]).to_owned(),
            job["policies"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(","),
            text(&job["trigger"]).to_owned(),
            state.to_owned(),
            done,
            when,
            message(job),
        ]
    };
    let rows: Vec<[String; 10]> = jobs.as_array().into_iter().flatten().map(row).collect();
    out!("{}", output::simple_table(&["ID", "KIND", "NAME", "STORE", "POLICY", "WHY", "STATE", "DONE", "SINCE", "MESSAGE"], &[0, 7], rows));
}

/// An instant as the API has it, as people read it.
fn local(instant: &str) -> String {
    instant.parse::<jiff::Timestamp>().ok().and_then(|t| u64::try_from(t.as_millisecond()).ok()).map(output::time).unwrap_or_default()
}

/// Why it ended, or what it waits for; marked where it is cut.
fn message(job: &Value) -> String {
    let waits_until = local(text(&job["not_before"]));
    if job["state"] == State::Queued.word() && !waits_until.is_empty() {
        return format!("another try of job {}, not before {waits_until}", job["retry_of"]);
    }
    let all = output::shown(text(&job["message"]));
    match all.char_indices().nth(MESSAGE_CHARS) {
        Some((cut, _)) => format!("{}… ('cairn job log {}')", &all[..cut], job["id"]),
        None => all,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_cut_says_so_and_a_try_that_waits_says_until_when() {
        let long = json!({"id": 7, "state": "failed", "message": "ü".repeat(MESSAGE_CHARS + 1)});
        assert_eq!(message(&long), format!("{}… ('cairn job log 7')", "ü".repeat(MESSAGE_CHARS)));
        let whole = "x".repeat(MESSAGE_CHARS);
        assert_eq!(message(&json!({"id": 7, "state": "failed", "message": whole})), whole);
        let waits = json!({"id": 8, "state": "queued", "retry_of": 7, "not_before": "2026-11-22T10:00:00Z", "message": null});
        let said = message(&waits);
        assert!(said.starts_with("another try of job 7, not before ") && said.len() > 40, "{said}");
        assert_eq!(message(&json!({"id": 8, "state": "queued", "retry_of": null, "not_before": null, "message": null})), "");
    }
}
