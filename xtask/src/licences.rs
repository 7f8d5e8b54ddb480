//! The licence check: every crate that is built in has a licence we can pass on.
//!
//! Reads `cargo metadata`; decides by an allow list and a few named exceptions, each with its reason.

use crate::error::{Error, Result};
use crate::workspace;
use cairn_lab::process::run_ok;
use serde_json::Value;
use std::time::Duration;

const METADATA_LIMIT: Duration = Duration::from_secs(600);

const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates with another licence, and why they may be used.
const EXCEPTIONS: [(&str, &str); 2] = [
    // Bindings of libvirt under libvirt's own licence. Anybody may relink: all our source is published.
    ("virt", "LGPL-2.1"),
    ("virt-sys", "LGPL-2.1"),
];

/// Checks all crates of the lock file; gives their number.
pub fn check() -> Result<usize> {
    let text = run_ok(&mut workspace::cargo(&["metadata", "--format-version", "1", "--locked"])?, METADATA_LIMIT)?;
    let metadata: Value = serde_json::from_str(&text).map_err(|e| Error::failed(format!("cargo metadata: {e}")))?;
    let packages = metadata["packages"].as_array().ok_or_else(|| Error::failed("cargo metadata lists no packages"))?;
    let bad: Vec<String> = packages.iter().filter_map(|package| complaint(&package["name"], &package["license"])).collect();
    if bad.is_empty() {
        return Ok(packages.len());
    }
    Err(Error::failed(format!("licences that are not on the list in xtask/src/licences.rs:\n  {}", bad.join("\n  "))))
}

fn complaint(name: &Value, licence: &Value) -> Option<String> {
    let name = name.as_str().unwrap_or("?");
    let Some(licence) = licence.as_str() else {
        return Some(format!("{name}: none stated"));
    };
    (!EXCEPTIONS.contains(&(name, licence)) && !allows(licence)).then(|| format!("{name}: {licence}"))
}

/// Whether an SPDX expression can be met by allowed licences. `/` is the old way to write OR.
fn allows(expression: &str) -> bool {
    let text = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut parser = Parser { words: &words, at: 0 };
    let met = parser.either();
    met && parser.at == words.len()
}

/// Reads `either = both (OR both)*`, `both = one (AND one)*`, `one = ( either ) | id [WITH id]`.
struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl Parser<'_> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn either(&mut self) -> bool {
        let mut met = self.both();
        while self.take("OR") {
            met |= self.both();
        }
        met
    }

    fn both(&mut self) -> bool {
        let mut met = self.one();
        while self.take("AND") {
            met &= self.one();
        }
        met
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let met = self.either();
            return self.take(")") && met;
        }
        let Some(id) = self.words.get(self.at) else {
            return false;
        };
        self.at += 1;
        if self.take("WITH") {
            let Some(exception) = self.words.get(self.at) else {
                return false;
            };
            self.at += 1;
            return ALLOWED.contains(&format!("{id} WITH {exception}").as_str());
        }
        ALLOWED.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions() {
        for good in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception OR GPL-2.0"] {
            assert!(allows(good), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "", "(MIT", "MIT MIT", "MIT WITH x", "(MIT OR Apache-2.0) AND GPL-2.0"] {
            assert!(!allows(bad), "{bad}");
        }
    }

    #[test]
    fn exceptions_are_for_one_crate_each() {
        assert_eq!(complaint(&json!("virt"), &json!("LGPL-2.1")), None);
        assert!(complaint(&json!("other"), &json!("LGPL-2.1")).is_some());
        assert!(complaint(&json!("other"), &Value::Null).is_some());
    }
}
