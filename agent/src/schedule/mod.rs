//! When policies want something: cron expressions in a time zone, jitter, windows, and what was missed (docs/policies.md).
//!
//! - [`cron`]: an expression, and the civil times that it names; [`calendar`]: the instants that these are, with daylight saving
//! - [`window`]: hours of the day within which work may begin; [`due`]: whether a run is due, of what was run before
//!
//! Invariants
//! - Pure: the time comes from the caller, always. What was run before comes from a table, so it survives whatever ends.
//! - An instant that was run is not run again, whatever the clock does; what was missed is made up once, not once for each.
//! - A clock that was wrong keeps nobody from their points: what lies too far ahead of now was no run of this time.

pub mod calendar;
pub mod cron;
pub mod due;
pub mod window;

pub use calendar::Schedule;
pub use cron::Cron;
pub use due::{Due, Slot};
pub use window::Window;
