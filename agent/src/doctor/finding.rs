//! What a check found: one line, with what to do about it.

use serde_json::{Value, json};

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Backups are made, but something is worse than it need be, or will be.
    Warning,
    /// A backup fails, or would be worth nothing.
    Failed,
}

impl Status {
    /// In JSON and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One check's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which check; the words are in docs/doctor.md.
    pub check: &'static str,
    /// How it stands.
    pub status: Status,
    /// Of which domain.
    pub domain: Option<String>,
    /// Of which of its disks.
    pub disk: Option<String>,
    /// Of which store.
    pub store: Option<String>,
    /// What was found.
    pub found: String,
    /// What to do; always there unless all is well.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(check: &'static str, status: Status, found: impl Into<String>, remedy: Option<String>) -> Self {
        Self { check, status, domain: None, disk: None, store: None, found: found.into(), remedy }
    }

    /// All is well.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Status::Ok, found, None)
    }

    /// Worse than it need be.
    pub fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, Status::Warning, found, Some(remedy.into()))
    }

    /// A backup needs it.
    pub fn failed(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, Status::Failed, found, Some(remedy.into()))
    }

    /// From a message of the program's, which names what happened first and then, behind a semicolon, what to do.
    pub fn told(check: &'static str, status: Status, message: &str, otherwise: &str) -> Self {
        let (found, remedy) = message.split_once("; ").unwrap_or((message, otherwise));
        Self::new(check, status, found, Some(remedy.to_owned()))
    }

    /// Of a domain.
    pub fn of_domain(mut self, name: &str) -> Self {
        self.domain = Some(name.to_owned());
        self
    }

    /// Of a disk.
    pub fn of_disk(mut self, target: &str) -> Self {
        self.disk = Some(target.to_owned());
        self
    }

    /// Of a store.
    pub fn of_store(mut self, name: &str) -> Self {
        self.store = Some(name.to_owned());
        self
    }

    /// What it is about: a domain, a disk of it, a store, or the host.
    pub fn subject(&self) -> String {
        match (&self.domain, &self.disk, &self.store) {
            (Some(domain), Some(disk), _) => format!("{domain} {disk}"),
            (Some(name), None, _) | (None, _, Some(name)) => name.clone(),
            (None, _, None) => "host".to_owned(),
        }
    }

    /// As `--json` has it.
    pub fn json(&self) -> Value {
        json!({
            "check": self.check, "status": self.status.word(), "domain": self.domain, "disk": self.disk, "store": self.store, "found": self.found,
            "remedy": self.remedy,
        })
    }
}

/// The worst of all.
pub fn worst(findings: &[Finding]) -> Status {
    findings.iter().map(|f| f.status).max().unwrap_or(Status::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_remedies_stay_with_their_message() {
        let warning = Finding::warning("space", "little", "free some");
        let failed = Finding::told("store", Status::Failed, "it is away; mount it; then try", "see above");
        assert_eq!((failed.found.as_str(), failed.remedy.as_deref()), ("it is away", Some("mount it; then try")));
        assert_eq!(Finding::told("store", Status::Failed, "it is away", "see above").remedy.as_deref(), Some("see above"));
        assert_eq!(worst(&[]), Status::Ok);
        assert_eq!(worst(&[Finding::ok("hook", "there"), warning.clone()]), Status::Warning);
        assert_eq!(worst(&[failed, warning]), Status::Failed);
    }

    #[test]
    fn a_finding_says_what_it_is_about() {
        let disk = Finding::ok("disk", "x").of_domain("web").of_disk("vda");
        assert_eq!((disk.subject().as_str(), disk.json()["remedy"].is_null()), ("web vda", true));
        assert_eq!(Finding::ok("space", "x").of_store("main").subject(), "main");
        assert_eq!(Finding::ok("qemu", "x").subject(), "host");
    }
}
