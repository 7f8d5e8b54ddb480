//! What the command line of `cargo xtask bench` asks for.

use super::tools::Kind;
use crate::error::{Error, Result};
use std::path::PathBuf;

/// Shown for `--help` and wrong lines.
pub const USAGE: &str = "\
usage: cargo xtask bench [recovery|capture] [OPTIONS]

First backup, day 2, day 3, clone, separate install, restore, verify, forget: Cairn beside `floor` (the least work for
the format), restic and borg (Debian's, installed if missing) and rustic (if it is on PATH), on images made of this
machine's /usr and generated data. Prints wall time, CPU time, memory, store sizes, ratios and the budgets; a missed
budget is no failure. As root it begins every step with a cold page cache. Needs about eleven times the image's size.

recovery: a whole restore beside restic, qemu-img and cp; reads over NBD beside qemu-nbd and nbdkit; boots from a point,
restores in place and a disk of 1 TiB in the lab.

capture: backups of a domain whose guest writes, beside virtnbdbackup (Debian's, installed if missing) on the same domain:
full and increments, and what the guest's own writes take meanwhile. Medians of three rounds or --repeat.

  --size SIZE      size of the disks, such as 8G or 1536M (default 8G, at least 1G)
  --quick          the same as --size 1G
  --only LIST      only these of cairn,floor,restic,rustic,borg
  --repeat N       so many times, and show the medians (default 1)
  --dir DIR        images and stores lie below DIR; images stay for the next run (default /var/tmp/cairn-bench)
  --images         make the images and stop
  --write          write docs/benchmarks.md, docs/recovery-figures.md or docs/capture-figures.md
";
const SIZE_MIN: u64 = 1 << 30;
const SIZE_MAX: u64 = 64 << 30;
const REPEAT_MAX: usize = 20;

/// The line, parsed.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of each disk.
    pub bytes: u64,
    /// Tools asked for; all where none is named.
    pub only: Vec<Kind>,
    /// Rounds.
    pub repeat: usize,
    /// Cache of images and place of stores.
    pub dir: PathBuf,
    /// Stop once the images are there.
    pub images_only: bool,
    /// Write the page.
    pub write: bool,
    /// What is measured.
    pub part: Part,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Backups of images, restores, a store's care.
    Store,
    /// What a recovery waits for.
    Recovery,
    /// Backups of a running domain.
    Capture,
}

impl Options {
    /// From the arguments after `bench`.
    pub fn parse(args: &[String]) -> Result<Self> {
        let dir = PathBuf::from("/var/tmp/cairn-bench");
        let mut out = Self { bytes: 8 << 30, only: Vec::new(), repeat: 0, dir, images_only: false, write: false, part: Part::Store };
        let (mut args, mut of_images) = (args.iter(), None);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| Error::Usage(format!("{arg} needs a value\n\n{USAGE}")));
            match arg.as_str() {
                "recovery" => out.part = Part::Recovery,
                "capture" => out.part = Part::Capture,
                "--size" => out.bytes = size(value()?)?,
                "--quick" => out.bytes = SIZE_MIN,
                "--only" => out.only = value()?.split(',').map(kind).collect::<Result<_>>()?,
                "--repeat" => out.repeat = repeat(value()?)?,
                "--dir" => out.dir = value()?.into(),
                "--images" => out.images_only = true,
                "--write" => out.write = true,
                _ => return Err(Error::Usage(format!("unknown option {arg:?}\n\n{USAGE}"))),
            }
            of_images = Some(arg).filter(|a| ["--only", "--dir", "--images"].contains(&a.as_str())).or(of_images);
        }
        if let Some(option) = of_images.filter(|_| out.part == Part::Capture) {
            return Err(Error::Usage(format!("{option} is of no use to 'bench capture', which makes a domain of its own and needs no images")));
        }
        if out.repeat == 0 {
            out.repeat = if out.part == Part::Capture { 3 } else { 1 };
        }
        Ok(out)
    }
}

fn size(text: &str) -> Result<u64> {
    let wrong = || Error::Usage(format!("--size {text:?}: give 1G to 64G, such as 8G or 1536M"));
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let shift = match unit {
        "G" => 30,
        "M" => 20,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|b| (SIZE_MIN..=SIZE_MAX).contains(b)).ok_or_else(wrong)
}

fn repeat(text: &str) -> Result<usize> {
    let n = text.parse().ok().filter(|n| (1..=REPEAT_MAX).contains(n));
    n.ok_or_else(|| Error::Usage(format!("--repeat {text:?}: give a number from 1 to {REPEAT_MAX}")))
}

fn kind(name: &str) -> Result<Kind> {
    let found = Kind::ALL.into_iter().find(|k| k.name() == name);
    found.ok_or_else(|| Error::Usage(format!("--only: there is no tool {name:?}; there are {}", Kind::ALL.map(Kind::name).join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn lines_are_parsed() {
        let o = parsed("--size 1536M --only cairn,floor --repeat 3 --write").expect("valid");
        assert_eq!((o.bytes, o.repeat, o.write), (1536 << 20, 3, true));
        assert_eq!(o.only, [Kind::Cairn, Kind::Floor]);
        assert_eq!(parsed("--quick").expect("valid").bytes, 1 << 30);
        let part = |line: &str| parsed(line).map(|o| (o.part, o.repeat)).expect("valid");
        assert_eq!(part("recovery --quick"), (Part::Recovery, 1));
        assert_eq!(part("capture"), (Part::Capture, 3));
        assert_eq!(part("--repeat 2 capture"), (Part::Capture, 2));
        assert_eq!(o.part, Part::Store);
    }

    #[test]
    fn wrong_lines_are_wrong_usage() {
        for line in [
            "capture --only cairn",
            "--images capture",
            "capture --dir /x",
            "--size",
            "--size 8",
            "--size G",
            "--size 0G",
            "--size 99999999999999999999G",
            "--size 1T",
            "--only tar",
            "--only",
            "--repeat 0",
            "x",
        ] {
            assert!(matches!(parsed(line), Err(Error::Usage(_))), "{line:?}");
        }
    }
}
