//! What a domain says about its backups in its own metadata, so that it keeps it wherever it moves (docs/policies.md).
//!
//! ```xml
//! <metadata>
//!   <cairn:backup xmlns:cairn="https://cairn-backup.org/xmlns/domain/1.0" policy="nightly" tags="gold,db">
//!     <cairn:disk target="vdb" exclude="yes"/>
//!   </cairn:backup>
//! </metadata>
//! ```
//!
//! Invariant: what is not understood of it is no word, and never an error: a typing mistake must not keep a domain from being saved. So `exclude` counts where it is `yes`.

use crate::domain::METADATA_URI;
use roxmltree::{Document, Node};

/// Most names in one attribute that are looked at.
const WORDS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupWord {
    /// Policies that are to take it.
    pub policies: Vec<String>,
    /// Tags that policies may select by.
    pub tags: Vec<String>,
    /// No policy is to take it.
    pub excluded: bool,
    /// Targets of disks that are left out.
    pub disks_excluded: Vec<String>,
}

impl BackupWord {
    /// From a domain's XML.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(xml: &str) -> Result<Self, roxmltree::Error> {
        Ok(Self::of(&Document::parse(xml)?))
    }

    pub(crate) fn of(document: &Document<'_>) -> Self {
        let metadata = document.root_element().children().find(|node| node.has_tag_name("metadata"));
        let Some(word) = metadata.and_then(|m| m.children().find(|node| node.has_tag_name((METADATA_URI, "backup")))) else { return Self::default() };
        // virsh puts all below its own element into its name space; who writes XML by hand may not.
        let disks = word.children().filter(|node| node.tag_name().name() == "disk" && is_excluded(node));
        Self {
            policies: names(word.attribute("policy")),
            tags: names(word.attribute("tags")),
            excluded: is_excluded(&word),
            disks_excluded: disks.filter_map(|disk| disk.attribute("target")).map(str::to_owned).collect(),
        }
    }
}

fn is_excluded(node: &Node<'_, '_>) -> bool {
    node.attribute("exclude") == Some("yes")
}

/// Blanks and commas stand between them.
fn names(text: Option<&str>) -> Vec<String> {
    let words = text.unwrap_or_default().split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    words.take(WORDS_MAX).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(inner: &str) -> BackupWord {
        BackupWord::parse(&format!("<domain><name>a</name><metadata>{inner}</metadata></domain>")).expect("XML")
    }

    #[test]
    fn a_domain_names_policies_tags_and_disks() {
        let ns = format!("xmlns:cairn='{METADATA_URI}'");
        let said = word(&format!(
            "<o:os xmlns:o='x'/><cairn:backup {ns} policy='nightly' tags='gold, db  x'><cairn:disk target='vdb' exclude='yes'/><disk target='vdc' exclude='yes'/><cairn:disk target='vdd'/></cairn:backup>"
        ));
        let texts = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let wanted = BackupWord { policies: texts(&["nightly"]), tags: texts(&["gold", "db", "x"]), excluded: false, disks_excluded: texts(&["vdb", "vdc"]) };
        assert_eq!(said, wanted);
        assert!(word(&format!("<c:backup xmlns:c='{METADATA_URI}' exclude='yes'/>")).excluded);
    }

    #[test]
    fn what_is_not_understood_is_no_word() {
        for none in [
            "",
            "<backup policy='a'/>",
            "<c:backup xmlns:c='other' exclude='yes'/>",
            &format!("<c:backup xmlns:c='{METADATA_URI}' exclude='perhaps' policy=''/>"),
        ] {
            assert_eq!(word(none), BackupWord::default(), "{none}");
        }
        assert_eq!(BackupWord::parse("<domain/>").expect("XML"), BackupWord::default());
    }
}
