//! nfs-ganesha with one export on a port of loopback, as a child process.
//!
//! Invariant: only the process that was started here is ever signalled.
//! Must not depend on the host's NFS configuration: all it reads and writes lies in the folder it is given.

use crate::error::{Error, Result};
use crate::process::{run_ok, wait_for};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SHIM: &str = include_str!("../../guest/nfs-shim.c");
const PROGRAM: &str = "ganesha.nfsd";
const UP_LIMIT: Duration = Duration::from_secs(30);
const DEATH_LIMIT: Duration = Duration::from_secs(60);
const COMPILE_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// The export's name for clients.
pub const EXPORT: &str = "/export";
/// Times of a grace period and a lease are short, so that a restart does not cost a suite its minutes.
const CONFIG: &str = "\
NFS_CORE_PARAM { Protocols = 4; NFS_Port = @PORT@; MNT_Port = @MNT_PORT@; Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFSV4 { Only_Numeric_Owners = true; Grace_Period = 5; Lease_Lifetime = 10; RecoveryBackend = fs; RecoveryRoot = \"@DIR@/recovery\"; Graceless = @GRACELESS@; }
EXPORT { Export_Id = 1; Path = \"@DIR@/export\"; Pseudo = \"@EXPORT@\"; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 4; FSAL { Name = VFS; } }
LOG { Default_Log_Level = EVENT; }
";

/// What the server of a test is like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Setup {
    /// Times are cut to multiples of this (`tests/guest/nfs-shim.c`).
    pub round_ns: Option<u64>,
    /// After a restart clients may claim for some seconds what they had open, and nothing new is opened until then.
    pub grace: bool,
}

/// The server; dropping it kills it.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    port: u16,
    round_ns: Option<u64>,
    child: Child,
}

impl Server {
    /// Starts it with an empty export below `folder`.
    ///
    /// # Errors
    /// It is not installed, there is no compiler for the library it is preloaded with, or it does not come up.
    pub fn start(folder: &Path, setup: Setup) -> Result<Self> {
        for name in ["export", "recovery"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        }
        // It makes neither of its own folders, and asks for the first even if its files lie elsewhere.
        for path in ["/run/ganesha", "/var/run/ganesha"] {
            fs::create_dir_all(path).map_err(Error::io("create", path))?;
        }
        let source = folder.join("shim.c");
        fs::write(&source, SHIM).map_err(Error::io("write", &source))?;
        let mut compile = Command::new("cc");
        compile.args(["-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(folder.join("shim.so")).arg(&source).arg("-ldl");
        run_ok(&mut compile, COMPILE_LIMIT)?;
        let (port, mnt_port) = (free_port()?, free_port()?);
        let text = CONFIG.replace("@PORT@", &port.to_string()).replace("@MNT_PORT@", &mnt_port.to_string());
        let text = text.replace("@DIR@", &folder.to_string_lossy()).replace("@EXPORT@", EXPORT);
        let text = text.replace("@GRACELESS@", if setup.grace { "false" } else { "true" });
        let config = folder.join("ganesha.conf");
        fs::write(&config, text).map_err(Error::io("write", &config))?;
        let child = spawn(folder, setup.round_ns)?;
        let mut server = Self { folder: folder.to_owned(), port, round_ns: setup.round_ns, child };
        server.wait_up()?;
        Ok(server)
    }

    /// Where clients connect, on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The exported folder on the host.
    #[must_use]
    pub fn export(&self) -> PathBuf {
        self.folder.join("export")
    }

    /// SIGKILL, now.
    ///
    /// # Errors
    /// It was gone already.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().map_err(Error::io("wait for", PROGRAM))? {
            return Err(Error::answer(PROGRAM, format!("ended by itself: {status}{}", self.log_end())));
        }
        self.child.kill().and_then(|()| self.child.wait()).map(drop).map_err(Error::io("kill", PROGRAM))
    }

    /// Starts it again after its end, with the same export on the same port.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.folder, self.round_ns)?;
        self.wait_up()
    }

    /// From now on the first link into a folder whose path contains `folder` is the server's last deed.
    ///
    /// # Errors
    /// The file that says so cannot be written.
    pub fn die_after_link_into(&self, folder: &str) -> Result<()> {
        // Renamed into place: the server must never read half of it.
        let (path, whole) = (self.trigger(), self.folder.join("trigger.new"));
        fs::write(&whole, folder).map_err(Error::io("write", &whole))?;
        fs::rename(&whole, &path).map_err(Error::io("rename", &whole))
    }

    /// Waits for the end that [`Self::die_after_link_into`] asked for.
    ///
    /// # Errors
    /// It lives on.
    pub fn wait_dead(&mut self) -> Result<()> {
        let child = &mut self.child;
        wait_for("the server's end after a link", DEATH_LIMIT, POLL, || child.try_wait().map_err(Error::io("wait for", PROGRAM))).map(drop)
    }

    fn trigger(&self) -> PathBuf {
        self.folder.join("trigger")
    }

    fn wait_up(&mut self) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let child = &mut self.child;
        let up = wait_for("NFS server on loopback", UP_LIMIT, POLL, || {
            if let Some(status) = child.try_wait().map_err(Error::io("wait for", PROGRAM))? {
                return Err(Error::answer(PROGRAM, format!("ended: {status}")));
            }
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok().map(drop))
        });
        up.map_err(|error| Error::answer(PROGRAM, format!("{}{}", error.report(), self.log_end())))
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(self.folder.join("ganesha.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("; the end of its log:\n  {}", lines[lines.len().saturating_sub(10)..].join("\n  "))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, round_ns: Option<u64>) -> Result<Child> {
    let output = folder.join("ganesha.out");
    let output = File::create(&output).map_err(Error::io("create", &output))?;
    let again = output.try_clone().map_err(Error::io("open again", "ganesha.out"))?;
    let mut command = Command::new(PROGRAM);
    command.arg("-F").arg("-f").arg(folder.join("ganesha.conf")).arg("-L").arg(folder.join("ganesha.log")).arg("-p").arg(folder.join("ganesha.pid"));
    command.env("PATH", crate::init::PATH).env("LD_PRELOAD", folder.join("shim.so")).env("SHIM_TRIGGER", folder.join("trigger"));
    if let Some(round_ns) = round_ns {
        command.env("SHIM_ROUND_NS", round_ns.to_string());
    }
    command.stdin(Stdio::null()).stdout(output).stderr(again).spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { what: PROGRAM.into(), remedy: "run `cargo xtask setup`".into() },
        _ => Error::io("start", PROGRAM)(error),
    })
}

/// A port that nobody uses now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::io("bind a port of", "127.0.0.1"))?;
    listener.local_addr().map(|address| address.port()).map_err(Error::io("bind a port of", "127.0.0.1"))
}
