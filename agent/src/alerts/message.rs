//! What is said: a subject, a text for people, the same as JSON and as variables for programs. Pure.
//!
//! Invariant: all texts of causes can be shown ([`super::Cause`]); what is not theirs is made so here. So a subject is one line, and a variable has no zero byte.

use super::book::{Due, Entry, State};
use crate::output::{duration, rfc3339, shown, time};
use serde_json::{Value, json};

/// Causes that are told in full in one message; of the others it has the titles.
const FULL_MAX: usize = 20;
/// Version of the JSON: keys are only ever added, and this changes if one ever must not be read as before.
const VERSION: u32 = 1;

/// A message to one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Unique.
    pub id: String,
    /// When it was made, Unix milliseconds.
    pub made_unix_ms: u64,
    /// This host.
    pub host: String,
    /// Of one line.
    pub subject: String,
    /// For people.
    pub text: String,
    /// For programs.
    pub json: Value,
    /// For scripts.
    pub variables: Vec<(&'static str, String)>,
}

impl Message {
    /// Of what is due for a target, at least one thing.
    pub fn new(host: &str, target: &str, batch: &[Due], now: u64) -> Self {
        let (id, host) = (uuid::Uuid::new_v4().to_string(), shown(host));
        let subject = subject(&host, batch);
        let mut text: String = batch.iter().take(FULL_MAX).map(|due| section(due, &host, now)).collect::<Vec<_>>().join("\n");
        if batch.len() > FULL_MAX {
            text.push_str("\nAnd besides:\n");
            batch.iter().skip(FULL_MAX).for_each(|due| text.push_str(&format!("  {}: {}\n", headline(due), due.entry.cause.title)));
        }
        text.push_str(&format!("\n-- \nCairn {} on {host}, target {target}. 'cairn alert list' shows what stands.\n", env!("CARGO_PKG_VERSION")));
        let json = json!({
            "version": VERSION, "id": id, "time": rfc3339(now), "host": host, "target": target, "subject": subject, "text": text,
            "alerts": batch.iter().map(|due| alert_json(due, &host, now)).collect::<Vec<_>>(),
        });
        let variables = variables(&id, &host, &subject, target, batch);
        Self { id, made_unix_ms: now, host, subject, text, json, variables }
    }
}

fn subject(host: &str, batch: &[Due]) -> String {
    let Some(first) = batch.first() else { return format!("[cairn] {host}: nothing") };
    let state = match first.state {
        State::Open => "",
        State::Reminder => "still: ",
        State::Resolved => "over: ",
    };
    let more = if batch.len() > 1 { format!(" (and {} more)", batch.len() - 1) } else { String::new() };
    format!("[cairn] {host}: {state}{}{more}", first.entry.cause.title)
}

fn headline(due: &Due) -> String {
    match due.state {
        State::Open => due.entry.cause.severity.word().to_uppercase(),
        State::Reminder => format!("STILL {}", due.entry.cause.severity.word().to_uppercase()),
        State::Resolved => "OVER".to_owned(),
    }
}

fn section(due: &Due, host: &str, now: u64) -> String {
    let cause = &due.entry.cause;
    let since = due.entry.since_unix_ms();
    let mut out = format!("{}: {}\n\n  what:  {}\n", headline(due), cause.title, cause.what.replace('\n', "\n         "));
    out.push_str(&format!("  host:  {host}\n  since: {} ({})\n", time(since), duration(now.saturating_sub(since))));
    if let Some(gone) = due.entry.gone_unix_ms {
        out.push_str(&format!("  over:  {}\n", time(gone)));
    }
    if due.state != State::Resolved {
        if !cause.why.is_empty() {
            out.push_str("  its last words:\n");
            cause.why.iter().for_each(|line| out.push_str(&format!("      {line}\n")));
        }
        out.push_str("  what to do:\n");
        cause.remedy.iter().for_each(|line| out.push_str(&format!("      {line}\n")));
    }
    out.push_str(&format!("  key:   {}\n", cause.key));
    out
}

fn alert_json(due: &Due, host: &str, now: u64) -> Value {
    let mut value = entry_json(&due.entry, host, now);
    value["state"] = due.state.word().into();
    value
}

/// A cause as all who read JSON have it.
pub fn entry_json(entry: &Entry, host: &str, now: u64) -> Value {
    let cause = &entry.cause;
    let gone = entry.gone_unix_ms;
    json!({
        "key": cause.key, "kind": cause.kind.word(), "severity": cause.severity.word(), "state": if gone.is_some() { "resolved" } else { "open" },
        "host": host, "title": cause.title, "what": cause.what, "why": cause.why, "remedy": cause.remedy,
        "domain": cause.domain, "uuid": cause.uuid, "policies": cause.policies, "store": cause.store, "job": cause.job,
        "since": rfc3339(entry.since_unix_ms()), "age_s": now.saturating_sub(entry.since_unix_ms()) / 1000, "resolved": gone.map(rfc3339),
    })
}

/// Of the first, which is the worst of the news, and how many there are.
fn variables(id: &str, host: &str, subject: &str, target: &str, batch: &[Due]) -> Vec<(&'static str, String)> {
    let mut out = vec![
        ("CAIRN_ALERT_ID", id.to_owned()),
        ("CAIRN_ALERT_HOST", host.to_owned()),
        ("CAIRN_ALERT_TARGET", target.to_owned()),
        ("CAIRN_ALERT_SUBJECT", subject.to_owned()),
        ("CAIRN_ALERT_COUNT", batch.len().to_string()),
    ];
    if let Some(due) = batch.first() {
        let cause = &due.entry.cause;
        out.extend([
            ("CAIRN_ALERT_STATE", due.state.word().to_owned()),
            ("CAIRN_ALERT_KEY", cause.key.clone()),
            ("CAIRN_ALERT_KIND", cause.kind.word().to_owned()),
            ("CAIRN_ALERT_SEVERITY", cause.severity.word().to_owned()),
            ("CAIRN_ALERT_DOMAIN", cause.domain.clone().unwrap_or_default()),
            ("CAIRN_ALERT_STORE", cause.store.clone().unwrap_or_default()),
            ("CAIRN_ALERT_POLICIES", cause.policies.join(",")),
        ]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Cause, Kind, Severity},
        *,
    };
    use std::collections::BTreeMap;

    fn due(state: State, name: &str) -> Due {
        let cause =
            Cause::new(Kind::Rpo, Severity::Critical, &format!("nightly:{name}:main"), &format!("{name} is late")).of_domain(name, "u").remedy("mend it");
        let gone_unix_ms = (state == State::Resolved).then_some(90_000);
        Due { state, entry: Entry { cause, opened_unix_ms: 60_000, gone_unix_ms, silent_until_unix_ms: None, told: BTreeMap::new() } }
    }

    #[test]
    fn a_message_says_what_to_whom_since_when_and_what_to_do() {
        let message = Message::new("vm1", "ops", &[due(State::Open, "web"), due(State::Resolved, "db")], 120_000);
        assert_eq!(message.subject, "[cairn] vm1: web is late (and 1 more)");
        for word in ["CRITICAL: web is late", "what to do:\n      mend it", "(1:00 min", "OVER: db is late", "key:   rpo:nightly:web:main"] {
            assert!(message.text.contains(word), "{word}: {}", message.text);
        }
        let alerts = &message.json["alerts"];
        assert_eq!((&alerts[0]["state"], &alerts[1]["state"], &alerts[0]["domain"]), (&"open".into(), &"resolved".into(), &"web".into()));
        assert!(message.variables.contains(&("CAIRN_ALERT_KEY", "rpo:nightly:web:main".into())));
    }

    #[test]
    fn names_of_guests_are_text_wherever_they_stand() {
        let evil = "x\r\nBcc: all@example.net\r\n\r\n.\r\n\0$(reboot)\u{1b}[2J\u{7f}\u{85}";
        let message = Message::new("h\nx", "ops", &[due(State::Reminder, evil)], 120_000);
        assert!(!message.subject.chars().any(char::is_control), "{:?}", message.subject);
        assert!(!message.text.chars().any(|c| c.is_control() && c != '\n') && !message.text.contains("\nBcc"), "{:?}", message.text);
        assert!(message.variables.iter().all(|(_, value)| !value.chars().any(char::is_control)), "{:?}", message.variables);
        assert!(!message.json["alerts"][0].to_string().contains('\u{1b}'));
    }

    #[test]
    fn of_very_many_the_first_are_told_in_full() {
        let batch: Vec<Due> = (0..200).map(|n| due(State::Open, &format!("web{n}"))).collect();
        let message = Message::new("h", "ops", &batch, 120_000);
        assert!(message.text.contains("CRITICAL: web199 is late") && message.text.matches("what to do").count() == FULL_MAX);
        assert!(message.text.len() < 32 << 10 && message.json["alerts"].as_array().is_some_and(|all| all.len() == 200));
    }
}
