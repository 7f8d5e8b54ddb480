//! `cairn daemon`

use super::Done;
use crate::{
    cli::{Common, Daemon},
    config,
    daemon::{self, client::Client},
    failure::{Failure, NOT_FOUND, Outcome},
    output,
};
use serde_json::json;
use std::path::Path;

/// Runs it, or does what its options ask for instead.
pub fn run(common: &Common, o: &Daemon) -> Outcome<Done> {
    match &o.check_config {
        Some(file) => check(common, file.as_deref().or(common.config.as_deref())),
        None if o.reload => reload(common, o),
        None => daemon::run(common, o),
    }
}

fn check(common: &Common, named: Option<&Path>) -> Outcome<Done> {
    let path = config::find(named).ok_or_else(|| Failure::new(NOT_FOUND, format!("there is no {}; name a file", config::PATH_DEFAULT)))?;
    let config = config::load_for_daemon(&path).map_err(|e| Failure::usage(e.lines().join("\n")))?;
    if common.json {
        let names = |map: Vec<&String>| map.into_iter().cloned().collect::<Vec<_>>();
        let (stores, policies) = (names(config.stores.keys().collect()), names(config.policies.keys().collect()));
        output::print_json(&json!({"path": path.display().to_string(), "ok": true, "stores": stores, "policies": policies}));
    } else if !common.quiet {
        out!("{}: ok, {} stores, {} policies", path.display(), config.stores.len(), config.policies.len());
    }
    Ok(Done::Clean)
}

fn reload(common: &Common, o: &Daemon) -> Outcome<Done> {
    let said = Client::new(common, &o.place)?.post("/api/v1/reload", &json!({}))?;
    let later: Vec<&str> = said["restart_needed"].as_array().into_iter().flatten().filter_map(|v| v.as_str()).collect();
    if common.json {
        output::print_json(&said);
    } else if !common.quiet {
        out!("reloaded: {}", said["path"].as_str().unwrap_or("there is no configuration, so no stores and no policies"));
    }
    later.iter().for_each(|name| say!("cairn: warning: {name} counts from the daemon's next start on"));
    Ok(if later.is_empty() { Done::Clean } else { Done::WithWarnings })
}
