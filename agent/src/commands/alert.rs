//! `cairn alert list|test|silence`

use super::Done;
use crate::{
    cli::{AlertCommand, AlertList, AlertSilence, AlertTest, Common},
    daemon::client::Client,
    failure::{FAILED, Outcome},
    output,
};
use serde_json::{Value, json};

/// `cairn alert`
pub fn run(common: &Common, command: &AlertCommand) -> Outcome<Done> {
    match command {
        AlertCommand::List(o) => list(common, o),
        AlertCommand::Test(o) => test(common, o),
        AlertCommand::Silence(o) => silence(common, o),
    }
}

fn list(common: &Common, o: &AlertList) -> Outcome<Done> {
    let said = Client::new(common, &o.place)?.get("/api/v1/alerts")?;
    if common.json {
        output::print_json(&said);
        return Ok(Done::Clean);
    }
    let targets: Vec<&Value> = said["targets"].as_array().into_iter().flatten().collect();
    if targets.is_empty() {
        out!("nobody is told anything: the configuration has no target below alerts: (docs/alerts.md). 'cairn status' shows how this host stands");
        return Ok(Done::Clean);
    }
    let row = |alert: &Value| {
        let told: Vec<String> =
            alert["told"].as_array().into_iter().flatten().map(|told| format!("{} {}", text(&told["target"]), local(&told["time"]))).collect();
        let wanted = alert["targets"].as_array().is_some_and(|all| !all.is_empty());
        let told = match &alert["silent_until"] {
            Value::String(_) => format!("silent until {}", local(&alert["silent_until"])),
            _ if !told.is_empty() => told.join(", "),
            _ if !wanted => "no target wants it".to_owned(),
            _ => format!("nobody yet (from {} on)", local(&alert["told_from"])),
        };
        [text(&alert["severity"]).to_owned(), text(&alert["key"]).to_owned(), local(&alert["since"]), output::shown(text(&alert["title"])), told]
    };
    let rows: Vec<[String; 5]> = said["alerts"].as_array().into_iter().flatten().map(row).collect();
    match rows.is_empty() {
        true => out!("nothing is wrong, as far as the daemon has seen"),
        false => out!("{}", output::simple_table(&["SEVERITY", "KEY", "SINCE", "WHAT", "TOLD"], &[], rows)),
    }
    let state = |target: &&Value| match target["problem"].as_str() {
        Some(why) => format!("{} ({}) FAILS: {}; next try {}", text(&target["name"]), text(&target["way"]), output::shown(why), local(&target["next_try"])),
        None => format!("{} ({})", text(&target["name"]), text(&target["way"])),
    };
    out!("targets: {}", targets.iter().map(state).collect::<Vec<_>>().join(", "));
    Ok(Done::Clean)
}

fn test(common: &Common, o: &AlertTest) -> Outcome<Done> {
    let said = Client::new(common, &o.place)?.post("/api/v1/alerts/test", &json!({"target": o.target}))?;
    let tests: Vec<&Value> = said["tests"].as_array().into_iter().flatten().collect();
    if common.json {
        output::print_json(&said);
    } else {
        for test in &tests {
            let (name, way) = (text(&test["target"]), text(&test["way"]));
            match (test["sent"] == true, test["problem"].as_str()) {
                (true, None) => out!("{name} ({way}): took a message"),
                (true, Some(remark)) => out!("{name} ({way}): took a message, but {}", output::shown(remark)),
                (false, why) => out!("{name} ({way}): FAILED: {}", output::shown(why.unwrap_or("no reason was given"))),
            }
        }
    }
    Ok(if tests.iter().all(|test| test["sent"] == true) { Done::Clean } else { Done::Code(FAILED) })
}

fn silence(common: &Common, o: &AlertSilence) -> Outcome<Done> {
    let said = Client::new(common, &o.place)?.post("/api/v1/alerts/silence", &json!({"key": o.key, "for_s": o.for_ms.div_ceil(1000)}))?;
    if common.json {
        output::print_json(&said);
    } else if !common.quiet {
        match o.for_ms {
            0 => out!("{} is told again", output::shown(&o.key)),
            _ => out!("nobody is told of {} until {}", output::shown(&o.key), local(&said["silent_until"])),
        }
    }
    Ok(Done::Clean)
}

/// An instant as the API has it, as people read it.
fn local(instant: &Value) -> String {
    text(instant).parse::<jiff::Timestamp>().ok().and_then(|t| u64::try_from(t.as_millisecond()).ok()).map(output::time).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
