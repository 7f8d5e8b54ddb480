//! Driver options that a run sets on its disks, and those that the domain had: one that is kept gets its own back.
//!
//! What it must not do: touch libvirt.

use roxmltree::{Document, Node};

use crate::edits::{Edits, apply, escape};
use crate::restore_xml::RestoreXmlError;
use crate::state_files::child;

/// Options of a run that are no business of the domain's later life. Format and driver go with the image.
const OF_THE_RUN: [&str; 4] = ["cache", "error_policy", "rerror_policy", "discard"];

/// Name and value.
pub type DriverOption = (String, String);

fn driver<'a>(document: &'a Document<'a>, target: &str) -> Result<Node<'a, 'a>, RestoreXmlError> {
    let is_it = |node: &Node<'_, '_>| node.has_tag_name("disk") && child(*node, "target").and_then(|t| t.attribute("dev")) == Some(target);
    let disk = document.descendants().find(is_it).ok_or_else(|| RestoreXmlError::NoDisk(target.to_owned()))?;
    child(disk, "driver").ok_or(RestoreXmlError::Missing("driver of a disk"))
}

/// Those of the options that a disk has by some XML.
///
/// # Errors
/// [`RestoreXmlError`]; among them that there is no such disk.
pub fn options(xml: &str, target: &str) -> Result<Vec<DriverOption>, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let driver = driver(&document, target)?;
    Ok(OF_THE_RUN.iter().filter_map(|name| Some(((*name).to_owned(), driver.attribute(*name)?.to_owned()))).collect())
}

/// The XML with just these of the options; others stay as they are.
///
/// # Errors
/// [`RestoreXmlError`]; among them that there is no such disk.
pub fn with_options(xml: &str, target: &str, wanted: &[DriverOption]) -> Result<String, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let driver = driver(&document, target)?;
    let kept = driver.attributes().filter(|a| !OF_THE_RUN.contains(&a.name())).map(|a| (a.name(), a.value()));
    let wanted = wanted.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let attributes: String = kept.chain(wanted).map(|(name, value)| format!(" {name}='{}'", escape(value))).collect();
    let inner: String = driver.children().map(|c| &xml[c.range()]).collect();
    let edits: Edits = vec![(driver.range(), format!("<driver{attributes}>{inner}</driver>"))];
    Ok(apply(xml, edits))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "<domain><devices><disk><driver name='qemu' type='raw' cache='writeback' io='threads'><metadata_cache/></driver>\
        <target dev='vda'/></disk></devices></domain>";
    const RUN: &str = "<domain><devices><disk><driver name='qemu' type='qcow2' cache='none' error_policy='stop' rerror_policy='stop' discard='unmap' \
        io='threads'><metadata_cache/></driver><target dev='vda'/></disk></devices></domain>";

    #[test]
    fn a_disk_gets_its_own_options_back() {
        let saved = options(SAVED, "vda").expect("has a driver");
        assert_eq!(saved, [("cache".to_owned(), "writeback".to_owned())]);
        let kept = with_options(RUN, "vda", &saved).expect("edits");
        assert!(kept.contains("<driver name='qemu' type='qcow2' io='threads' cache='writeback'><metadata_cache/></driver>"), "{kept}");
        assert_eq!(with_options(&kept, "vda", &saved).expect("edits"), kept, "twice is the same");
        assert!(options(SAVED, "vdz").is_err());
    }
}
