//! What the grammar has against a file, in words for who wrote it: the parser speaks of mappings, sequences and anchors.
//!
//! Invariant: what is not known here is told in the parser's own words; nothing is swallowed.

/// A mark that begins something else than a text, where a text was meant.
const SPECIAL: &str = "*&!@%`|>";
/// More differences are another word.
const DISTANCE_MAX: usize = 2;

/// The text around the place of an error.
#[derive(Debug)]
pub struct Spot {
    /// Of its line, what stands before it and from it on.
    before: String,
    after: String,
}

impl Spot {
    /// Line and column are counted from 1.
    pub fn of(text: &str, (line, column): (u64, u64)) -> Self {
        let nth = |n: u64| usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
        let line = text.lines().nth(nth(line)).unwrap_or_default();
        Self { before: line.chars().take(nth(column)).collect(), after: line.chars().skip(nth(column)).collect() }
    }

    /// The key whose value is here.
    fn key(&self) -> Option<&str> {
        let key = match self.is_empty() {
            true => last_token(self.before.trim_end().trim_end_matches(':')),
            false => last_token(self.before.trim_end().strip_suffix(':')?),
        };
        (!key.is_empty()).then_some(key)
    }

    /// Nothing stands here: the parser points at the colon, or behind it.
    fn is_empty(&self) -> bool {
        let after = self.after.trim();
        after.is_empty() || after == ":" || after.starts_with('#')
    }

    /// The value that begins here, or ended here.
    fn value(&self) -> &str {
        let end = self.after.find([',', ']', '}', '#']).unwrap_or(self.after.len());
        let value = self.after[..end].trim();
        if value.is_empty() { last_token(&self.before) } else { value }
    }

    /// What is to be quoted, if that is it.
    fn special(&self) -> Option<String> {
        let value = self.value().trim_start_matches("- ");
        let first = value.chars().next().filter(|c| SPECIAL.contains(*c))?;
        Some(format!("{first:?} at the beginning has a meaning of its own in YAML; put the text in quotes: \"{}\"", value.replace('"', "")))
    }

    /// Keys are wanted where something else is.
    fn no_mapping(&self) -> String {
        let Some(key) = self.key() else {
            let line = self.after.trim();
            return match line.split_once(':') {
                _ if line.starts_with('-') => "a list ('- ...') is not wanted here, but keys: 'key: value', without the dash".into(),
                Some((key, value)) if !value.starts_with(' ') => format!("a space is missing behind the colon: '{key}: {value}'"),
                _ => format!("a colon is missing: 'key: value', or 'key:' above lines that are indented; {line:?} has none"),
            };
        };
        if self.is_empty() {
            return format!("{key}: has nothing below it; leave the line out, or write '{key}: {{}}'");
        }
        let found = if self.after.starts_with(['[', '-']) { "a list" } else { "a text" };
        format!("{key}: takes keys of its own, not {found}: write '{key}: {{ key: value }}', or 'key: value' in indented lines below it")
    }

    fn no_sequence(&self) -> String {
        let key = self.key().unwrap_or("it");
        match self.after.chars().next() {
            Some('{') | None => format!("{key}: takes a list: '{key}: [one, other]'"),
            Some(_) => format!("{key}: takes a list, and one value is written so: '{key}: [{}]'", self.value()),
        }
    }
}

/// What the parser said, for people.
pub fn say(said: &str, spot: Option<&Spot>) -> String {
    let quoted = || said.split('`').nth(1).unwrap_or_default();
    let listed = || said.rsplit_once("expected one of ").or_else(|| said.rsplit_once("expected ")).map_or("", |(_, all)| all);
    let known = |what: &str| {
        let all = listed().replace('`', "");
        format!("{what}{}; there are: {all}", did_you_mean(quoted(), all.split([',', ' ']).filter(|word| !word.is_empty())))
    };
    let scalar_errors = ["did not find expected alphabetic", "unknown anchor", "unexpected character", "null into string"];
    if let Some(why) = spot.and_then(Spot::special).filter(|_| scalar_errors.iter().any(|e| said.contains(e))) {
        return why;
    }
    match said {
        _ if said.starts_with("tabs disallowed") => "a tab is not allowed where lines are indented; use spaces".into(),
        _ if said.starts_with("unknown field") => known(&format!("there is no key '{}' here", quoted())),
        _ if said.starts_with("unknown variant") => known(&format!("'{}' is not known here", quoted())),
        _ if said.starts_with("missing field") => format!("the key '{}' is missing here", quoted()),
        _ if said.starts_with("duplicate mapping key") => {
            let key = said.trim_start_matches("duplicate mapping key: ").split(", set ").next().unwrap_or_default();
            format!("duplicate key: '{key}' is there already; each may be there once")
        }
        _ if said.starts_with("expected mapping start") => spot.map_or_else(|| said.to_owned(), Spot::no_mapping),
        _ if said.starts_with("expected sequence start") => spot.map_or_else(|| said.to_owned(), Spot::no_sequence),
        _ if said.starts_with("expected string scalar") => "one value is wanted here, neither a list nor keys".into(),
        _ if said.contains("null into string") => "a value is missing; write one, or leave the key out".into(),
        _ if said.starts_with("mapping values are not allowed") => {
            "a second colon in one line; put a text that has ': ' in it in quotes, and a new key in a line of its own".into()
        }
        _ if said.starts_with("unclosed") => format!("{said}: its other end is missing, or behind a ' #', which begins a comment"),
        _ if said.contains("did not find expected key") => "this line is not indented as those that it belongs to, or something before it is not closed".into(),
        _ if said.starts_with("multiple YAML documents") => "'---' begins a second document; a configuration is one".into(),
        _ => said.replace("invalid u64", "a whole number is wanted here"),
    }
}

/// A word for the nearest of those that there are, or nothing if none is near.
pub fn did_you_mean<'a>(word: &str, all: impl Iterator<Item = &'a str>) -> String {
    let near = all.map(|other| (distance(word, other), other)).filter(|(d, other)| *d <= DISTANCE_MAX && *d < other.chars().count());
    near.min().map(|(_, other)| format!(", did you mean '{other}'?")).unwrap_or_default()
}

/// How many letters are to be put in, taken out or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn last_token(text: &str) -> &str {
    text.rsplit(['{', '[', ',', ' ']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::config::{check::Programs, text::parse};
    use std::path::Path;

    /// A policy with this line in it.
    fn policy(line: &str) -> String {
        format!("stores:\n  main: {{ url: /srv }}\npolicies:\n  p:\n    {line}\n    stores: [main]\n")
    }

    #[test]
    fn mistakes_are_told_in_words_for_people() {
        let select = |names: &str| policy(&format!("select: {{ names: {names} }}"));
        let with = |line: &str| format!("{}    {line}\n", select("[a]"));
        let mut odd = Vec::new();
        for (text, at, word) in [
            ("stores:\n\tmain: { url: /srv }\n".to_owned(), "2:2", "use spaces"),
            ("stores:\n  main\n    url: /srv\n".into(), "2:3", "a colon is missing"),
            ("daemon:\n  jobs_max 4\n".into(), "2:3", "\"jobs_max 4\" has none"),
            ("daemon:\n  jobs_max:4\n".into(), "2:3", "a space is missing behind the colon: 'jobs_max: 4'"),
            ("stores:\n  a: { url: /a }\n  a: { url: /b }\n".into(), "3:3", "'a' is there already"),
            ("daemon:\n  reconcile_every: 5\n".into(), "2:20", "write 90s"),
            ("daemon:\n  reconcile_every: 5 fortnights\n".into(), "2:20", "write 90s"),
            ("stores:\n  - main: { url: /a }\n".into(), "2:3", "without the dash"),
            ("stores:\n  main: [ /a ]\n".into(), "2:9", "main: takes keys of its own, not a list"),
            ("stores:\n  main: /srv\n".into(), "2:9", "main: takes keys of its own, not a text"),
            (select("{ a: b }"), "5:22", "names: takes a list: 'names: [one, other]'"),
            (select("\"*\""), "5:22", "'names: [\"*\"]'"),
            (with("on: shutdown"), "7:9", "'on: [shutdown]'"),
            (select("[*]"), "5:23", "put the text in quotes: \"*\""),
            (select("[*-test]"), "5:23", "put the text in quotes: \"*-test\""),
            (select("[!a]"), "5:25", "put the text in quotes: \"!a\""),
            (policy("select:\n      names:\n        - *"), "7:11", "put the text in quotes"),
            ("stores:\n  main: { url: @home }\n".into(), "2:16", "put the text in quotes: \"@home\""),
            ("stores:\n  main:\n    url: /a: b\n".into(), "3:12", "a second colon"),
            ("stores:\n  main: { url: /a #b }\n".into(), "2:9", "begins a comment"),
            ("stores:\n  main: { url: \"/srv }\n".into(), "2:16", "unclosed quote"),
            ("stores:\n  main:\n    url: /srv\n   key_file: /k\n".into(), "4:4", "is not indented as"),
            (
                "store:\n  main: { url: /srv }\n".into(),
                "1:1",
                "there is no key 'store' here, did you mean 'stores'?; there are: stores, policies, alerts, daemon",
            ),
            ("stores:\n  main: { url: /srv, keyfile: /k }\n".into(), "2:22", "did you mean 'key_file'?"),
            ("nonsense: 1\n".into(), "1:1", "there is no key 'nonsense' here; there are"),
            (with("quiesce: { level: required }"), "7:23", "'required' is not known here, did you mean 'require'?"),
            (with("on: [stopped]"), "7:10", "there are: shutdown, started"),
            ("daemon: { jobs_max: many }\n".into(), "1:21", "a whole number is wanted"),
            ("daemon: { jobs_max: [4] }\n".into(), "1:21", "one value is wanted"),
            ("stores:\npolicies:\n".into(), "1:7", "stores: has nothing below it"),
            ("stores:\n  main: { url: }\n".into(), "2:14", "a value is missing"),
            ("policies:\n  p:\n    select: { names: [a] }\n".into(), "3:5", "the key 'stores' is missing"),
            ("stores: {}\n---\nstores: {}\n".into(), "3:1", "a second document"),
            ("- a\n".into(), "1:1", "without the dash"),
            (policy("select: { names: [a] }").replace("[main]", "[mian]"), "6:14", "there is no store \"mian\", did you mean 'main'?; there are: main"),
        ] {
            let Err(errors) = parse(Path::new("/c"), &text, Programs::There) else {
                odd.push(format!("{text:?} is taken"));
                continue;
            };
            let line = errors.lines().join("\n");
            if !line.starts_with(&format!("/c:{at}: ")) || !line.contains(word) {
                odd.push(format!("{text:?}: wanted {at} {word}, got {line}"));
            }
            let jargon = ["mapping", "sequence", "scalar", "anchor", "deserialize", "variant", "field", "Option", "u64"];
            if let Some(word) = jargon.iter().find(|word| line.contains(**word)) {
                odd.push(format!("{text:?}: {word} is no word for people: {line}"));
            }
        }
        assert!(odd.is_empty(), "{odd:#?}");
    }

    #[test]
    fn what_is_near_is_offered_and_what_is_not_is_not() {
        let all = ["stores", "policies", "daemon"];
        for (word, meant) in [("store", "stores"), ("polices", "policies"), ("deamon", "daemon"), ("fortnight", ""), ("x", "")] {
            let said = super::did_you_mean(word, all.into_iter());
            assert_eq!(said, if meant.is_empty() { String::new() } else { format!(", did you mean '{meant}'?") }, "{word}");
        }
    }
}
