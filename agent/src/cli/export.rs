//! Options of `cairn export`.

use clap::{ArgGroup, Args};
use std::path::PathBuf;

/// `cairn export`
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("way").required(true).args(["raw", "qcow2", "nbd"])),
    after_help = "Examples:
  cairn export web1@latest --disk vda --raw /tmp/vda.raw
  cairn export web1@latest --disk vda --raw - | ssh host2 'dd of=/dev/vg0/web1 bs=1M'
  cairn export web1@latest --disk vda --qcow2 /tmp/vda.qcow2
  cairn export web1@latest --disk vda --nbd /run/vda.sock      nbdcopy, qemu-img, nbd-client, guestfish --ro read it until Ctrl-C
  cairn export web1@latest --disk vda --nbd tcp://0.0.0.0:10809 --tls-cert c.pem --tls-key k.pem --tls-ca ca.pem

Nothing that exists is overwritten without --force. TCP without TLS is for addresses of this host alone (127.0.0.1, [::1])."
)]
pub struct Export {
    /// The point
    pub point: String,
    /// Which disk, by target; may be left out where the point has one
    #[arg(long, value_name = "TARGET")]
    pub disk: Option<String>,
    /// To a sparse raw file, or with - to standard output
    #[arg(long, value_name = "FILE")]
    pub raw: Option<PathBuf>,
    /// To a qcow2 image
    #[arg(long, value_name = "FILE")]
    pub qcow2: Option<PathBuf>,
    /// Serve it read-only over NBD, on a unix socket or on tcp://HOST:PORT
    #[arg(long, value_name = "SOCKET")]
    pub nbd: Option<String>,
    /// Certificate for TCP, PEM
    #[arg(long, value_name = "FILE", requires_all = ["nbd", "tls_key", "tls_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Authorities whose client certificates are accepted, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(long)]
    pub force: bool,
}
