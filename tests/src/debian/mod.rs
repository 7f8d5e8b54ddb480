//! A full Debian guest for the lab: systemd, its own kernel and initrd, PostgreSQL, MariaDB, the guest agent.
//!
//! - [`recipe`]: what it consists of; its hash names the finished image
//! - [`sources`]: where this machine's apt takes Debian from
//! - [`build`]: makes the image, without a mount on the host
//! - [`cache`]: one finished image for all labs of a machine, built once
//! - [`guest`]: the domain, and files into it
//!
//! Invariants: the guest is of the release that the host itself runs; no name of a mirror is written anywhere here.

pub mod build;
pub mod cache;
pub mod guest;
pub mod recipe;
pub mod sources;

pub use guest::DOMAIN;
