//! One module a command: fits options to the store and the hypervisor, prints what came of it.

mod alert;
mod backup;
mod backup_image;
mod boot;
mod daemon;
mod diff;
mod discard;
mod doctor;
mod export;
mod hook;
mod in_place;
mod in_place_told;
mod init;
mod jobs;
mod keep;
mod list;
mod log;
mod pages;
mod policy;
mod policy_edit;
mod reconcile;
mod recover_host;
mod restore;
pub mod retention;
mod run;
mod runs;
mod scrub;
mod standing;
mod store_info;
mod untrack;
mod verify;

pub use backup_image::now_unix_ms;
pub use retention::{parse_ms, parse_span};
pub use scrub::{parse_bytes, parse_rate};

use crate::{
    cli::{Cli, Command},
    failure::{DAMAGED, Outcome},
    output,
};

/// How a command that did not fail ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// All is well.
    Clean,
    /// Done; warnings were printed and, for backups, are in the point.
    WithWarnings,
    /// Something that is no failure of the command but must not end in 0.
    Code(u8),
}

/// Names what of registers and logs cannot be read, and how the command ends where there is any: a point may be among it.
fn unreadable(damaged: &[String]) -> Done {
    damaged.iter().for_each(|d| say!("cairn: warning: {}; a point may be missing here, see 'cairn verify --all'", output::shown(d)));
    if damaged.is_empty() { Done::Clean } else { Done::Code(DAMAGED) }
}

/// Runs the command.
pub fn run(cli: Cli) -> Outcome<Done> {
    let common = &match cli.command {
        // Their store is a name for the daemon; `doctor` looks at a configuration that is wrong.
        Command::Daemon(_)
        | Command::Jobs(_)
        | Command::Job { .. }
        | Command::Alert { .. }
        | Command::Policy { .. }
        | Command::JobRunner(_)
        | Command::Doctor(_) => cli.common,
        // They tell of a configuration that is wrong in words of their own.
        Command::Status(_) | Command::Watch(_) | Command::Check(_) => cli.common,
        // They are made where packages are, without any store.
        Command::Completions(_) | Command::Man(_) => cli.common,
        _ => crate::context::with_named_store(cli.common)?,
    };
    match cli.command {
        Command::Init(o) => init::run(common, &o),
        Command::Backup(o) => backup::run(common, &o),
        Command::BackupImage(o) => backup_image::run(common, &o),
        Command::List(o) => list::list(common, &o),
        Command::Show(o) => list::show(common, &o),
        Command::Restore(o) if o.in_place.in_place => in_place::run(common, &o),
        Command::Restore(o) => restore::run(common, &o),
        Command::Diff(o) => diff::run(common, &o),
        Command::Export(o) => export::run(common, &o),
        Command::Run(o) => run::run(common, &o),
        Command::Runs(o) => runs::run(common, &o),
        Command::Keep(o) => keep::run(common, &o),
        Command::Discard(o) => discard::run(common, &o),
        Command::ServeRun(o) => run::serve(common, &o),
        Command::RecoverHost(o) => recover_host::run(common, &o),
        Command::Verify(o) => verify::run(common, &o),
        Command::Tag(o) => log::tag(common, &o),
        Command::Note(o) => log::note(common, &o),
        Command::Forget(o) => retention::forget(common, &o),
        Command::Prune(o) => retention::prune(common, &o),
        Command::Gc(o) => retention::gc(common, &o),
        Command::Protect(o) => log::protect(common, &o, true),
        Command::Unprotect(o) => log::protect(common, &o, false),
        Command::Store { command } => store_info::run(common, &command),
        Command::Hook { command } => hook::run(common, &command),
        Command::Doctor(o) => doctor::run(common, &o),
        Command::Reconcile(o) => reconcile::run(common, &o),
        Command::Untrack(o) => untrack::run(common, &o),
        Command::Daemon(o) => daemon::run(common, &o),
        Command::Jobs(o) => jobs::list(common, &o),
        Command::Job { command } => jobs::run(common, &command),
        Command::Alert { command } => alert::run(common, &command),
        Command::Policy { command } => policy::run(common, &command),
        Command::JobRunner(o) => jobs::runner(&o),
        Command::Status(o) => standing::status(common, &o),
        Command::Watch(o) => standing::watch(common, &o),
        Command::Check(o) => standing::check(common, &o),
        Command::Completions(o) => pages::completions(&o),
        Command::Man(o) => pages::man(common, &o),
        Command::Guard => backup::guard(),
    }
}
