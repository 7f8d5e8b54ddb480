//! Which policies take a domain.
//!
//! Invariants
//! - The domain's own word counts most: one that is excluded is taken by none, one that names policies by these alone. It has that word in its metadata, so it keeps it
//!   wherever it moves.
//! - A policy that a domain names and this host does not have is no reason to leave it out: it is selected as if it had named none, and that is told.

use super::{Config, Policy, Select, SelectState};

/// What is known of a domain when it is selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Whether it runs; none where that is not asked, as by an event that made it so.
    pub running: Option<bool>,
    /// What its metadata says.
    pub word: Word,
}

/// What a domain's metadata says about its backups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Policies that are to take it; none named is no word.
    pub policies: Vec<String>,
    /// Tags for policies' selections.
    pub tags: Vec<String>,
    /// No policy is to take it.
    pub excluded: bool,
}

/// Why a policy takes a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The domain names it.
    Named,
    /// By name or tag.
    Selected,
    /// No other does.
    Default,
}

impl Taken {
    /// For people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Named => "metadata",
            Self::Selected => "selection",
            Self::Default => "default",
        }
    }
}

impl Subject {
    /// Of which only the name is known.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Whatever it does now.
    pub fn in_any_state(mut self) -> Self {
        self.running = None;
        self
    }
}

impl Select {
    /// Whether it selects a domain.
    pub fn takes(&self, subject: &Subject) -> bool {
        let selected = self.names.iter().any(|p| p.matches(&subject.name)) || self.tags.iter().any(|tag| subject.word.tags.contains(tag));
        selected && !self.leaves_out(subject)
    }

    /// Whether it leaves a domain out, whatever selects it.
    fn leaves_out(&self, subject: &Subject) -> bool {
        self.except.iter().any(|p| p.matches(&subject.name)) || !self.wants_state(subject)
    }

    fn wants_state(&self, subject: &Subject) -> bool {
        match (self.state, subject.running) {
            (SelectState::Any, _) | (_, None) => true,
            (SelectState::Running, Some(running)) => running,
            (SelectState::Off, Some(running)) => !running,
        }
    }
}

impl Config {
    /// Policies that take a domain, by name, and why.
    pub fn taken_by(&self, subject: &Subject) -> Vec<(&str, &Policy, Taken)> {
        if subject.word.excluded {
            return Vec::new();
        }
        let all = || self.policies.iter().map(|(name, policy)| (name.as_str(), policy));
        let named: Vec<_> =
            all().filter(|(name, _)| subject.word.policies.iter().any(|n| n == name)).map(|(name, policy)| (name, policy, Taken::Named)).collect();
        if !named.is_empty() {
            // What a domain does is no matter of who takes it.
            return named.into_iter().filter(|(_, policy, _)| policy.select.wants_state(subject)).collect();
        }
        let selected: Vec<_> = all().filter(|(_, policy)| policy.select.takes(subject)).map(|(name, policy)| (name, policy, Taken::Selected)).collect();
        let anybody = || {
            let any = subject.clone().in_any_state();
            all().any(|(_, policy)| policy.select.takes(&any))
        };
        if !selected.is_empty() || anybody() {
            return selected;
        }
        all().filter(|(_, policy)| policy.is_default && !policy.select.leaves_out(subject)).map(|(name, policy)| (name, policy, Taken::Default)).collect()
    }

    /// The same without why.
    pub fn policies_of(&self, subject: &Subject) -> Vec<(&str, &Policy)> {
        self.taken_by(subject).into_iter().map(|(name, policy, _)| (name, policy)).collect()
    }

    /// Policies that a domain names and that are not here.
    pub fn unknown_to<'a>(&self, word: &'a Word) -> Vec<&'a str> {
        word.policies.iter().map(String::as_str).filter(|name| !self.policies.contains_key(*name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{check::Programs, text::parse};
    use std::path::Path;

    const TEXT: &str = "\
stores:
  main: { url: /srv }
policies:
  gold: { select: { names: [\"db?\"], tags: [gold], except: [\"*-test\"] }, stores: [main] }
  live: { select: { names: [\"web*\"], state: running }, stores: [main] }
  rest: { default: true, select: { except: [\"tmp-*\"] }, stores: [main] }
";

    #[test]
    fn domains_are_taken_by_name_tag_state_and_their_own_word() {
        let config = parse(Path::new("/c"), TEXT, Programs::There).expect("reads");
        let words = |text: &[&str]| text.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let tagged = |tags: &[&str]| Word { tags: words(tags), ..Word::default() };
        let naming = |policies: &[&str]| Word { policies: words(policies), ..Word::default() };
        for (name, running, word, taken) in [
            ("db1", Some(true), Word::default(), "gold selection"),
            ("db12", Some(true), Word::default(), "rest default"),
            ("x", Some(false), tagged(&["gold"]), "gold selection"),
            ("x-test", Some(false), tagged(&["gold"]), "rest default"),
            ("web1", Some(true), Word::default(), "live selection"),
            ("web1", None, Word::default(), "live selection"),
            // Another takes it at other times: that is none for the rest.
            ("web1", Some(false), Word::default(), ""),
            ("web1", Some(true), tagged(&["gold"]), "gold selection live selection"),
            ("tmp-1", Some(true), Word::default(), ""),
            ("tmp-1", Some(true), naming(&["rest"]), "rest metadata"),
            ("web1", Some(true), naming(&["gold"]), "gold metadata"),
            ("web1", Some(false), naming(&["live"]), ""),
            ("web1", Some(true), naming(&["elsewhere"]), "live selection"),
            ("db1", Some(true), Word { excluded: true, ..naming(&["gold"]) }, ""),
        ] {
            let subject = Subject { name: name.into(), running, word };
            let told: Vec<String> = config.taken_by(&subject).iter().map(|(name, _, why)| format!("{name} {}", why.word())).collect();
            assert_eq!(told.join(" "), taken, "{subject:?}");
        }
        assert_eq!(config.unknown_to(&naming(&["gold", "elsewhere"])), ["elsewhere"]);
    }
}
