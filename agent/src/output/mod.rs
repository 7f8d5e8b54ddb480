//! What people and scripts see: tables, JSON, progress bars.

mod bar;
mod boot;
mod json;
mod statistics;
#[macro_use]
mod stream;
mod table;

pub use bar::Bar;
pub use boot::{boot_json, boot_line, boot_proof_json, boot_text};
pub use json::{damage_json, disk_json, point_json, rfc3339};
pub use statistics::{store_json, store_text};
pub use stream::{line, tell, was_heard, was_read};
pub use table::{bytes, damage_line, duration, plain_table, point_table, prune_table, run_table, show, simple_table, simulation_table, time};

/// Prints a JSON value on stdout.
pub fn print_json(value: &serde_json::Value) {
    out!("{value:#}");
}

/// Text of a guest or another host on a terminal: control characters are escaped.
pub fn shown(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}
