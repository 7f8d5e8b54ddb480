//! A true NFS mount: nfs-ganesha on loopback and two guests with kernels of their own as its clients.
//!
//! The server and the guests are children of the test that runs in a lab: they end with it, whatever happens. The
//! host needs no NFS in its kernel, and nothing of it is mounted anywhere but in the guests.
//!
//! - [`server`]: the server: its export, its port, killed and started again
//! - [`client`]: a guest: commands in it, mounts, its end
//! - [`rig`]: both clients with a store, and what every suite asks of it

pub mod client;
pub mod rig;
pub mod server;

pub use client::{Client, Running};
pub use rig::Rig;
pub use server::{Server, Setup};
