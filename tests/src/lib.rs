//! The lab: a libvirt of its own in a private namespace, a real guest in it, and what suites need around them.
//!
//! Nothing of the host is touched: the lab's libvirtd sees its own `/etc/libvirt`, `/var/lib/libvirt`, `/run`
//! and so on, its processes live in a process namespace of their own, and the end of the process that made
//! the lab, SIGKILL included, is the end of everything in it.
//!
//! - outside: [`enter::enter`] makes the namespace and runs a command in it; `lab_test!` does it for a test
//! - inside: [`lab::Lab::here`] gives the folders and the domain, [`domain::Domain`] talks to guest and QEMU
//! - a full Debian guest with databases beside `lab1`: [`mod@debian`]
//! - a machine with a real systemd beside the lab: [`mod@machine`]; a Ceph cluster: [`mod@ceph`]
//! - without a lab: [`mod@chaos`], many processes on one store
//! - pages whose transcripts are typed and compared: [`mod@transcript`]
//! - a run from a backup, and what befalls it: [`mod@runs`], [`mod@fire`]
//! - oracles: [`mod@reference`], [`journal`], [`filesystem`]: independent of Cairn's own code, and must stay so
//!
//! This crate links no system library; it drives `virsh`, `qemu-img` and `debugfs` as programs.

pub mod accident;
pub mod cairn;
pub mod ceph;
pub mod chaos;
pub mod console;
pub mod daemon;
pub mod debian;
pub mod disks;
pub mod domain;
pub mod elf;
pub mod enter;
pub mod error;
pub mod filesystem;
pub mod fire;
pub mod folder;
pub mod frozen;
pub mod hollow;
pub mod hooks;
pub mod imposter;
pub mod init;
pub mod initramfs;
pub mod journal;
pub mod lab;
pub mod latency;
pub mod libvirt;
pub mod loops;
pub mod machine;
pub mod modes;
pub mod mounts;
pub mod nfs;
pub mod off;
pub mod options;
pub mod process;
pub mod reference;
pub mod roles;
pub mod runs;
pub mod second;
pub mod signals;
pub mod stall;
pub mod steps;
pub mod suite;
pub mod testing;
pub mod traces;
pub mod transcript;
pub mod writer;

pub use cairn::Cairn;
pub use domain::Domain;
pub use enter::{Entry, enter};
pub use error::{Error, Result};
pub use lab::Lab;
pub use options::Options;
