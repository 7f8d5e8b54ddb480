//! All steps of all tools: step by step, and within a step one tool after the other, each time beginning with another one.
//!
//! So whatever else the machine does in the meantime touches all of them alike. Every measured command begins with a cold page cache.

use super::images::{Image, Images};
use super::measure::{Usage, cold_cache, first_difference, folder_bytes, load, measured};
use super::tools::{Kind, Tool};
use crate::error::{Error, Result};
use crate::say::say;
use std::fs;
use std::path::{Path, PathBuf};

/// What is measured, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An image into the store.
    Save(Image),
    /// Day 3 out of it, compared with the image.
    Restore,
    /// Everything in the store read and proven.
    Verify,
    /// Day 1 forgotten, and what it alone used freed.
    Forget,
}

impl Step {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Save(Image::Day1),
        Self::Save(Image::Day2),
        Self::Save(Image::Day3),
        Self::Save(Image::Clone),
        Self::Save(Image::Separate),
        Self::Restore,
        Self::Verify,
        Self::Forget,
    ];

    /// A column's head.
    pub fn title(self) -> &'static str {
        match self {
            Self::Save(Image::Day1) => "first",
            Self::Save(image) => image.name(),
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Forget => "forget",
        }
    }
}

/// One measured step.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Of which tool.
    pub kind: Kind,
    /// Which step.
    pub step: Step,
    /// Its figures.
    pub usage: Usage,
    /// The store after it.
    pub store_bytes: u64,
}

/// All that was measured.
#[derive(Default)]
pub struct Records {
    /// In the order of time.
    pub all: Vec<Record>,
    /// Versions, by tool.
    pub versions: Vec<(Kind, String)>,
    /// The machine's load at the start of each step.
    pub loads: Vec<String>,
    /// What Cairn said of its stages, by step.
    pub stages: Vec<(Step, String)>,
    /// Whether the page cache could be emptied.
    pub cold: bool,
}

/// Where and with what.
pub struct Runner<'a> {
    /// The images.
    pub images: &'a Images,
    /// Tools and their programs.
    pub programs: &'a [(Kind, PathBuf)],
    /// A folder for this run alone.
    pub dir: &'a Path,
}

impl Runner<'_> {
    /// Runs all steps `repeat` times, each time with new stores.
    pub fn run(&self, repeat: usize) -> Result<Records> {
        let mut records = Records { cold: cold_cache(), ..Records::default() };
        for round in 0..repeat {
            let dir = self.dir.join(format!("round{round}"));
            fs::create_dir_all(&dir).map_err(|e| Error::failed(format!("cannot make {}: {e}", dir.display())))?;
            let tools = self.programs.iter().map(|(kind, program)| Tool::new(*kind, program, &dir)).collect::<Result<Vec<_>>>()?;
            if round == 0 {
                records.versions = tools.iter().map(|t| Ok((t.kind, t.version()?))).collect::<Result<_>>()?;
            }
            for (n, step) in Step::ALL.into_iter().enumerate() {
                records.loads.push(load());
                for i in 0..tools.len() {
                    let tool = &tools[(n + i + round) % tools.len()];
                    if let Some(record) = self.step(tool, step, &dir)? {
                        tell(&record);
                        records.stages.extend(stages(&record, &dir));
                        records.all.push(record);
                    }
                }
            }
            fs::remove_dir_all(&dir).map_err(|e| Error::failed(format!("cannot remove {}: {e}", dir.display())))?;
        }
        Ok(records)
    }

    fn step(&self, tool: &Tool, step: Step, dir: &Path) -> Result<Option<Record>> {
        let log = log_of(tool.kind, step, dir);
        let source = dir.join("source/disk.raw");
        let cold = |command: &mut std::process::Command| {
            cold_cache();
            measured(command, &log)
        };
        let usage = match step {
            Step::Save(image) => {
                self.link(image, &source)?;
                cold(&mut tool.save(image, &source))?
            }
            Step::Restore => {
                let (mut command, out) = tool.restore(Image::Day3, &source)?;
                let usage = cold(&mut command)?;
                if let Some(at) = first_difference(&self.images.path(Image::Day3), &out)? {
                    return Err(Error::failed(format!("{}: the restored image differs from the saved one at byte {at}", tool.kind.name())));
                }
                tool.remove_restored()?;
                usage
            }
            Step::Verify => cold(&mut tool.verify())?,
            Step::Forget => {
                let commands = tool.forget()?;
                if commands.is_empty() {
                    return Ok(None);
                }
                commands.into_iter().try_fold(Usage::default(), |sum, mut c| cold(&mut c).map(|u| sum.then(u)))?
            }
        };
        Ok(Some(Record { kind: tool.kind, step, usage, store_bytes: folder_bytes(&tool.store())? }))
    }

    /// Every image is saved under one path, as a disk is.
    fn link(&self, image: Image, source: &Path) -> Result<()> {
        let failed = |e: std::io::Error| Error::failed(format!("cannot link {}: {e}", source.display()));
        fs::create_dir_all(source.parent().expect("it lies in a folder")).map_err(failed)?;
        match fs::remove_file(source) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        fs::hard_link(self.images.path(image), source).map_err(failed)
    }
}

/// How long the stages of a backup waited for each other, in its own words.
fn stages(r: &Record, dir: &Path) -> Option<(Step, String)> {
    if r.kind != Kind::Cairn || !matches!(r.step, Step::Save(_)) {
        return None;
    }
    let said = fs::read_to_string(log_of(r.kind, r.step, dir)).ok()?;
    said.lines().find_map(|line| line.split_once("stages waited, ms: ")).map(|(_, waits)| (r.step, waits.to_owned()))
}

fn log_of(kind: Kind, step: Step, dir: &Path) -> PathBuf {
    dir.join(format!("{}-{}.log", kind.name(), step.title()))
}

fn tell(r: &Record) {
    let mib = |bytes: u64| bytes >> 20;
    let (title, name, u) = (r.step.title(), r.kind.name(), r.usage);
    say!("  {title:9} {name:7} {:7.1} s wall {:7.1} s cpu {:6} MiB rss {:7} MiB store", u.wall_s, u.cpu_s, mib(u.rss_bytes), mib(r.store_bytes));
}
