//! How the demo tells what it does: numbered steps, the commands as one would type them, times.

use crate::error::{Error, Result};
use crate::say::say;
use cairn_lab::Cairn;
use cairn_lab::process::Output;
use std::time::Instant;

/// The teller.
pub struct Story {
    start: Instant,
    steps: u32,
}

impl Story {
    /// Begins.
    pub fn begin() -> Self {
        Self { start: Instant::now(), steps: 0 }
    }

    /// One step: its title, what it does, its time.
    pub fn step<T>(&mut self, title: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.steps += 1;
        say!("\n{}. {title}", self.steps);
        let start = Instant::now();
        let value = act()?;
        say!("   [{:.1} s]", start.elapsed().as_secs_f64());
        Ok(value)
    }

    /// The last line before the verdict.
    pub fn end(&self) {
        say!("\n{} steps in {:.0} s, nothing differed", self.steps, self.start.elapsed().as_secs_f64());
    }
}

/// A line of explanation.
pub fn tell(text: &str) {
    say!("   {text}");
}

/// Runs the program, shows the command and what it said; anything but success is the end.
pub fn cairn(program: &Cairn, args: &[&str]) -> Result<Output> {
    say!("   $ cairn {}", args.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" "));
    let start = Instant::now();
    let output = program.run(args)?;
    for line in output.text().lines().chain(output.err_text().lines()) {
        say!("     {line}");
    }
    match output.code() {
        0 => {
            say!("     ({:.2} s)", start.elapsed().as_secs_f64());
            Ok(output)
        }
        code => Err(Error::failed(format!("`cairn {}` ended with exit code {code}", args.join(" ")))),
    }
}

/// An argument as one would type it, with the lab's folder by its name.
fn quoted(arg: &str) -> String {
    let arg = match std::env::var("LAB_DIR") {
        Ok(dir) if !dir.is_empty() => arg.replace(&dir, "$LAB_DIR"),
        _ => arg.to_owned(),
    };
    if arg.contains(|c: char| c.is_whitespace() || c == '\'') { format!("'{}'", arg.replace('\'', "'\\''")) } else { arg }
}
