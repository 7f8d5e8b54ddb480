//! `cairn status`, `cairn watch`, `cairn check`

use super::Done;
use crate::{
    cli::{Check, Common, Status, Watch},
    failure::Outcome,
    output,
    standing::{
        gather::gather,
        page::{is_well, page},
        plugin::{self, Wanted},
    },
};
use std::time::Duration;

/// Clears a terminal, and puts the cursor in its first place.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J\u{1b}[3J";

/// `cairn status`
pub fn status(common: &Common, o: &Status) -> Outcome<Done> {
    let report = gather(common, &o.place)?;
    if common.json {
        output::print_json(&report.json());
    } else {
        out!("{}", page(&report));
    }
    Ok(if is_well(&report) { Done::Clean } else { Done::WithWarnings })
}

/// `cairn watch`
pub fn watch(common: &Common, o: &Watch) -> Outcome<Done> {
    loop {
        let report = gather(common, &o.place)?;
        if common.json {
            output::print_json(&report.json());
        } else {
            out!("{CLEAR}{}", page(&report));
        }
        if output::was_read().is_err() {
            // Who read it has left.
            return Ok(Done::Clean);
        }
        std::thread::sleep(Duration::from_secs(o.every));
    }
}

/// `cairn check`: whatever happens is a state of a plugin.
pub fn check(common: &Common, o: &Check) -> Outcome<Done> {
    let wanted = Wanted { policies: o.policy.clone(), unprotected_ok: o.unprotected_ok };
    let said = match gather(common, &o.place) {
        Ok(report) => plugin::judge(&report, &wanted),
        Err(failure) => plugin::unknown(&failure.message),
    };
    out!("{}", said.text);
    Ok(match said.state.code() {
        0 => Done::Clean,
        code => Done::Code(code),
    })
}
