//! The daemon as it is used: real processes, a real socket, real jobs on real stores; what is left when any of them is killed.

mod alerts;
mod api;
mod config;
mod full;
mod jobs;
mod kills;
mod life;
mod looks;
#[allow(dead_code, reason = "shared with the suite of the program")]
#[path = "../program/place.rs"]
mod place;
mod policy;
mod schedule;
mod served;
mod standing;
mod unit;
