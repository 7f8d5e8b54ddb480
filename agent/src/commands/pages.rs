//! `cairn completions` and `cairn man`: made of the definitions that the parser itself has, so nothing of them can be out of date.
//!
//! Invariant: commands that Cairn starts by itself are in neither.

use super::Done;
use crate::{
    cli::{Cli, Common, Completions, Man, ShellName},
    failure::{FAILED, Failure, Outcome},
    output,
};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use serde_json::json;
use std::{fs, io, path::Path};

const PROGRAM: &str = "cairn";
/// Programs for users; pages of other sections there are none.
const SECTION: &str = "1";

/// `cairn completions`
pub fn completions(o: &Completions) -> Outcome<Done> {
    let shell = match o.shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    out!("{}", script(shell)?.trim_end());
    Ok(Done::Clean)
}

fn script(shell: Shell) -> Outcome<String> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut offered(), PROGRAM, &mut text);
    String::from_utf8(text).map_err(|e| Failure::new(FAILED, format!("the completions for {shell} are no text: {e}")))
}

/// `cairn man`
pub fn man(common: &Common, o: &Man) -> Outcome<Done> {
    let pages = pages()?;
    let Some(dir) = &o.dir else {
        let own = pages.iter().find(|page| page.name == format!("{PROGRAM}.{SECTION}")).map(|page| page.text.as_str());
        out!("{}", own.unwrap_or_default().trim_end());
        return Ok(Done::Clean);
    };
    let fail = |path: &Path, e: &io::Error| Failure::new(FAILED, format!("cannot write {}: {e}", path.display()));
    fs::create_dir_all(dir).map_err(|e| fail(dir, &e))?;
    for page in &pages {
        let path = dir.join(&page.name);
        fs::write(&path, &page.text).map_err(|e| fail(&path, &e))?;
    }
    if common.json {
        let names: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
        output::print_json(&json!({"dir": dir.display().to_string(), "pages": names}));
    } else if !common.quiet {
        out!("{} pages in {}", pages.len(), dir.display());
    }
    Ok(Done::Clean)
}

/// A page as `man` takes it.
struct Page {
    /// Of its file.
    name: String,
    text: String,
}

/// Of the program, and of each command that people give.
fn pages() -> Outcome<Vec<Page>> {
    let mut command = offered();
    // Gives each command the name that its page has, and the options of all.
    command.build();
    let mut pages = Vec::new();
    add(&command, &mut pages).map_err(|e| Failure::new(FAILED, format!("cannot make the pages: {e}")))?;
    Ok(pages)
}

fn add(command: &Command, pages: &mut Vec<Page>) -> io::Result<()> {
    let page = clap_mangen::Man::new(command.clone()).section(SECTION).manual("Cairn").source(format!("cairn {}", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render(&mut text)?;
    pages.push(Page { name: page.get_filename(), text: String::from_utf8(text).map_err(io::Error::other)? });
    command.get_subcommands().try_for_each(|command| add(command, pages))
}

/// What people are offered: all but what Cairn starts by itself. A new command, as clap takes none away.
fn offered() -> Command {
    let whole = Cli::command();
    let mut offered = Command::new(PROGRAM).version(env!("CARGO_PKG_VERSION")).propagate_version(true).disable_help_subcommand(true);
    if let Some(about) = whole.get_about() {
        offered = offered.about(about.clone());
    }
    if let Some(after) = whole.get_after_help() {
        offered = offered.after_help(after.clone());
    }
    let commands: Vec<Command> = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    // What `-h` leaves out would have no words in its page.
    offered.args(whole.get_arguments().cloned().map(|arg| arg.hide_short_help(false))).subcommands(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of pages as the definitions call for them.
    fn wanted(command: &Command, name: &str, names: &mut Vec<(String, String)>) {
        names.push((format!("{name}.1"), command.get_about().map(ToString::to_string).unwrap_or_default()));
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            wanted(command, &format!("{name}-{}", command.get_name()), names);
        }
    }

    /// Roff writes a hyphen as `\-`, an apostrophe as `\*(Aq`.
    fn plain(text: &str) -> String {
        text.replace("\\*(Aq", "'").replace('\\', "").replace('\n', " ")
    }

    #[test]
    fn every_command_has_a_page_with_what_it_is_for() {
        let mut names = Vec::new();
        wanted(&Cli::command(), PROGRAM, &mut names);
        assert!(names.len() > 35, "{names:?}");
        let pages = pages().expect("pages");
        assert_eq!(pages.len(), names.len(), "{:?}", pages.iter().map(|page| &page.name).collect::<Vec<_>>());
        for (name, about) in names {
            let page = pages.iter().find(|page| page.name == name).unwrap_or_else(|| panic!("no page {name}"));
            assert!(!about.is_empty() && plain(&page.text).contains(&plain(&about)), "{name}: {about}\n{}", page.text);
        }
        let own = plain(&pages[0].text);
        assert!(own.contains("cairn-recover-host") && own.contains("Exit codes") && !own.contains("serve-run"), "{own}");
        let backup = plain(&pages.iter().find(|page| page.name == "cairn-backup.1").expect("a page").text);
        assert!(["--store", "--state-dir", "Folder for caches"].iter().all(|word| backup.contains(word)), "options of all commands: {backup}");
    }

    #[test]
    fn every_shell_is_offered_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = script(shell).expect("a script");
            for command in Cli::command().get_subcommands() {
                let name = command.get_name();
                // A hidden one of an everyday word may stand in what options are for.
                if !command.is_hide_set() || name.contains('-') {
                    assert_eq!(text.contains(name), !command.is_hide_set(), "{shell}: {name}");
                }
            }
        }
    }
}
