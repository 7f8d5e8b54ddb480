//! Restoring disks in place: only what differs is read from the store and written, and the chain of increments goes on (docs/in-place.md).
//!
//! Order for one restore: 1 the domain is off and locked · 2 images are free of other users, and looked at · 3 the record names what is half
//! restored, durable · 4 disk by disk: where it may differ, what does differ, written, durable, its image closed in good order, its name off the
//! record · 5 the record goes. If we die from 3 on, the record stays: backups of the domain are refused, and the same command again goes on. What
//! may differ is told anew then, so it does not matter how far the first one came.
//!
//! Modules: `record` (3), `off` (1), `ways` (where it may differ), `raw` and `disk` (4).

mod disk;
mod off;
mod raw;
mod record;
mod ways;

pub use disk::{DiskReport, Run, Work, run_disk};
pub use off::{Off, require_off};
pub use record::{Record, image_key, refuse_half_restored, remove as forget_record, warnings};
pub use ways::{Way, describe};
