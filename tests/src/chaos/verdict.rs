//! Which ends of a command are right while others are killed, stopped, forgotten and collected around it. All others are failures.
//!
//! The one place with these rules; each row says why it may happen.

use super::children::Ended;
use crate::cairn::{BUSY, DAMAGED, DONE, FAILED, NOT_FOUND, REFUSED, WARNINGS};

/// What was asked of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// `backup-image`
    Backup,
    /// `list`
    List,
    /// `restore`
    Restore,
    /// `verify --all`, with or without `--data`
    VerifyAll,
    /// `verify NAME`
    VerifyName,
    /// `forget`
    Forget,
    /// `forget` of a point whose protection is known to hold
    ForgetProtected,
    /// `forget --undo`
    Undo,
    /// `prune`
    Prune,
    /// `tag`, `note`, `protect`, `unprotect`
    Log,
    /// `gc`
    Gc,
    /// `gc --dry-run`
    GcDryRun,
    /// `gc` that takes live sessions for dead
    GcImpatient,
}

const KILLED: i32 = 128 + 9;

/// What the suite itself did to a command that ran just now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around {
    /// A collection that takes the living for dead ran meanwhile.
    pub shut_out: bool,
    /// The cache in its state folder was damaged a short while ago.
    pub spoiled: bool,
    /// A forget of what the command is about was begun, before it or while it ran: the truth knows of no certainty that it is there.
    pub may_be_gone: bool,
}

/// The name under which a right end is counted; `Err` is what is wrong.
///
/// # Errors
/// The end is not a right one.
pub fn judge(op: Op, ended: &Ended, around: Around) -> Result<&'static str, &'static str> {
    let shut_out = around.shut_out;
    let (code, said) = (ended.output.code(), ended.output.err_text());
    let says = |text: &str| said.contains(text);
    if says("panicked") {
        return Err("it panicked");
    }
    match (op, code) {
        (_, KILLED) if ended.killed => Ok("killed"),
        (Op::ForgetProtected, REFUSED) => Ok("refused, as it must be"),
        (Op::ForgetProtected, _) => Err("a protected point must be refused"),
        (_, DONE) => Ok("done"),
        // What the command is about was forgotten before it looked, or before it could hold it. Nobody else's point is ever "not there".
        (Op::Restore | Op::VerifyName | Op::Forget | Op::Prune | Op::Log | Op::Undo, NOT_FOUND) if around.may_be_gone => Ok("not there"),
        (Op::Restore | Op::VerifyName | Op::Forget | Op::Prune | Op::Log | Op::Undo, NOT_FOUND) => Err("nobody forgot it, and it was not found"),
        // A protection that the suite lost sight of: its command was killed after it took effect.
        (Op::Forget, REFUSED) if says("is protected") => Ok("protected"),
        (Op::Prune, WARNINGS) if says("is protected") => Ok("protected"),
        // Another collection is at work, or a backup that began before did not end within --wait.
        (Op::Gc | Op::GcImpatient, BUSY) => Ok("busy"),
        // A backup, or a repack within a collection, that was fenced while it was alive; or what it wrote or read was taken for a dead one's.
        (Op::Backup | Op::Undo | Op::Gc | Op::GcImpatient, FAILED) if shut_out && says("was shut out") => Ok("shut out"),
        (Op::Backup | Op::Undo | Op::Gc | Op::GcImpatient, DAMAGED) if shut_out => Ok("shut out, then its packs were collected"),
        (_, FAILED) if shut_out && says("No such file or directory") => Ok("its temporary file was taken for a dead one's"),
        // Damage of a cache that shows in the middle of a command ends it; the next command makes the cache anew.
        (_, FAILED) if around.spoiled && says("it is only a cache") => Ok("cache found damaged"),
        _ => Err("no such end is allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Output;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn ended(code: i32, killed: bool, stderr: &str) -> Ended {
        let status = ExitStatus::from_raw(if code > 128 { code - 128 } else { code << 8 });
        let output = Output { status, stdout: Vec::new(), stderr: stderr.into() };
        Ended { command: String::new(), output, killed, took: std::time::Duration::ZERO }
    }

    #[test]
    fn only_right_ends_pass() {
        let (alone, shut_out) = (Around::default(), Around { shut_out: true, ..Around::default() });
        let forgotten = Around { may_be_gone: true, ..Around::default() };
        for op in [Op::Restore, Op::VerifyName, Op::Forget, Op::Prune, Op::Log, Op::Undo] {
            assert_eq!(judge(op, &ended(15, false, ""), forgotten), Ok("not there"));
            assert!(judge(op, &ended(15, false, ""), alone).is_err() && judge(op, &ended(15, false, ""), shut_out).is_err(), "{op:?}: nobody forgot it");
        }
        assert!(judge(Op::Backup, &ended(15, false, ""), forgotten).is_err());
        assert_eq!(judge(Op::Backup, &ended(0, false, ""), alone), Ok("done"));
        assert_eq!(judge(Op::Backup, &ended(137, true, ""), alone), Ok("killed"));
        assert!(judge(Op::Backup, &ended(137, false, ""), alone).is_err(), "killed by another");
        assert!(judge(Op::Backup, &ended(139, true, ""), alone).is_err(), "a segmentation fault");
        assert!(judge(Op::Backup, &ended(1, false, "it was shut out"), alone).is_err(), "by whom?");
        assert!(judge(Op::Backup, &ended(1, false, "it was shut out"), shut_out).is_ok());
        assert!(judge(Op::Restore, &ended(14, false, ""), shut_out).is_err());
        assert!(judge(Op::Restore, &ended(0, false, "thread panicked at"), alone).is_err());
        assert!(judge(Op::List, &ended(1, false, "it is only a cache"), alone).is_err(), "nobody had touched it");
        assert!(judge(Op::ForgetProtected, &ended(0, false, ""), alone).is_err());
    }
}
