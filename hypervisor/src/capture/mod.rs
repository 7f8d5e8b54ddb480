//! Capture: how a point in time is taken from a running domain (docs/capture.md, section "The live protocol").

pub mod cleanup;
mod dirty;
pub mod error;
pub mod live;
pub mod lock;
pub mod look;
pub mod names;
pub mod nbd_disk;
pub mod plan;
mod preflight;
pub mod scratch;
pub mod sweep;
pub mod untrack;

pub use error::CaptureError;
