//! Transcripts on pages of the documentation: what was typed, and what came of it. Suites type the same, and compare.
//!
//! A transcript is all blocks ` ```console ` of a page, in their order. A line that begins with `# ` is a command, lines with `> ` go on with it (a
//! here-document), all others are what was printed. A line `...` stands for any lines.
//!
//! What is never twice the same is not compared: words with a digit in them (ids, times, sizes, names), the units behind them, blanks and empty lines.

use std::fs;
use std::path::Path;

const BEGIN: &str = "```console";
const UNITS: [&str; 11] = ["B", "KiB", "MiB", "GiB", "TiB", "ms", "s", "m", "h", "d", "%"];
/// In the place of what is not compared.
const ANY: &str = "*";
const DOTS: &str = "...";

/// A command of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// As a shell takes it; more than one line where it has a here-document.
    pub command: String,
    /// What the page says that it prints.
    pub said: String,
}

/// The steps of a page of `docs/`.
///
/// # Panics
/// There is no such page, or it has no transcript.
#[must_use]
pub fn page(name: &str) -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let steps = steps(&text);
    assert!(!steps.is_empty(), "{} has no block {BEGIN}", path.display());
    steps
}

fn steps(text: &str) -> Vec<Step> {
    let (mut out, mut inside) = (Vec::<Step>::new(), false);
    for line in text.lines() {
        if !inside || line == "```" {
            inside = line == BEGIN;
        } else if let Some(command) = line.strip_prefix("# ") {
            out.push(Step { command: command.to_owned(), said: String::new() });
        } else if let Some(step) = out.last_mut() {
            match line.strip_prefix('>') {
                Some(more) => step.command += &format!("\n{}", more.strip_prefix(' ').unwrap_or(more)),
                None => step.said += &format!("{line}\n"),
            }
        }
    }
    out
}

impl Step {
    /// Whether a command said what the page has.
    ///
    /// # Errors
    /// Both texts, as they were compared.
    pub fn compare(&self, said: &str) -> Result<(), String> {
        let (wanted, said) = (lines(&self.said), lines(said));
        if fits(&wanted, &said) {
            return Ok(());
        }
        Err(format!("`{}` is to print\n{}\nand prints\n{}\n", self.command, wanted.join("\n"), said.join("\n")))
    }
}

fn fits(wanted: &[String], said: &[String]) -> bool {
    match wanted.split_first() {
        None => said.is_empty(),
        Some((dots, rest)) if dots == DOTS => (0..=said.len()).any(|n| fits(rest, &said[n..])),
        Some((line, rest)) => said.first() == Some(line) && fits(rest, &said[1..]),
    }
}

/// Lines with something in them, without what is not compared.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(masked).filter(|line| !line.is_empty()).collect()
}

fn masked(line: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let after_any = out.last().is_some_and(|last| last.ends_with(ANY));
        let (bare, mark) = word.strip_suffix([',', ';', ')', '.']).map_or((word, ""), |bare| (bare, &word[bare.len()..]));
        if after_any && UNITS.contains(&bare) {
            if let Some(last) = out.last_mut().filter(|_| !mark.is_empty()) {
                *last += mark;
            }
            continue;
        }
        let word = masked_word(word);
        if !(after_any && word == ANY) {
            out.push(word);
        }
    }
    out.join(" ")
}

/// Each run of letters, digits and what stands within numbers, if there is a digit in it.
fn masked_word(word: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_:+".contains(c);
    let (mut out, mut run) = (String::new(), String::new());
    for c in word.chars().chain(['\0']) {
        if is_part(c) || (c == '.' && run.contains(|c: char| c.is_ascii_digit())) {
            run.push(c);
            continue;
        }
        // The end of a sentence is no part of its last number.
        let (number, mark) = run.strip_suffix(['.', ':']).map_or((run.as_str(), ""), |number| (number, &run[number.len()..]));
        if number.contains(|c: char| c.is_ascii_digit()) {
            out += ANY;
            out += mark;
        } else {
            out += &run;
        }
        run.clear();
        out.push(c);
    }
    out.pop();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_here_documents_and_what_they_print_are_told_apart() {
        let text = "x\n```\n# no\n```\n```console\n# one\nsaid\n\nmore\n# cat <<'END'\n> a:\n>   b\n>\n> END\n```\n# two\n```console\n# three\n```\n";
        let step = |command: &str, said: &str| Step { command: command.into(), said: said.into() };
        assert_eq!(steps(text), [step("one", "said\n\nmore\n"), step("cat <<'END'\na:\n  b\n\nEND", ""), step("three", "")]);
    }

    #[test]
    fn what_is_compared_is_the_words() {
        for (wanted, said, fit) in [
            ("job 1: web1 into main, queued", "job 17: lab1  into main, queued", true),
            ("job 1: web1 into main, queued", "job 1: web1 into main, done", false),
            ("1.5 GiB read, 980.0 KiB stored · 0.4 s · quiesce", "23 MiB read, 4 B stored · 1 m 3 s · quiesce", true),
            ("1.5 GiB read", "1.5 GiB written", false),
            ("2026-11-21 09:12:05  01a1fd608cf7  -", "2027-01-02 10:00:00 ffaa0017 -", true),
            ("domains=1 late=0;;0 age=12s;;9", "domains=3 late=0;;0 age=0s;;9", true),
            ("a\n...\nz", "a\nb\nc\nz", true),
            ("a\n...\nz", "a\nb\nc\n", false),
            ("a\n...", "a", true),
            ("a", "a\nb", false),
            ("took 3 s.", "took 12 ms.", true),
        ] {
            let step = Step { command: String::new(), said: wanted.into() };
            assert_eq!(step.compare(said).is_ok(), fit, "{wanted:?} and {said:?}");
        }
    }
}
