//! The program itself, run as libvirt runs it. What real domains make of it is in the lab's suite (tests/tests/hook.rs).

mod hostile;
mod runner;
mod ways;
