//! Descriptions of checkpoints, as libvirt reads and writes them (libvirt's formatcheckpoint).

use roxmltree::{Document, Node};

use super::super::preflight::Chosen;
use crate::edits::escape;
use crate::state_files::child;

/// The checkpoint that begins with a backup; `None` if no disk can have one.
pub(in crate::capture) fn of_backup(name: &str, chosen: &[Chosen]) -> Option<String> {
    let targets: Vec<&str> = chosen.iter().filter(|chosen| chosen.can_persist).map(|chosen| chosen.disk.target.as_str()).collect();
    let text = || format!("<domaincheckpoint><name>{}</name><description>Cairn</description>{}</domaincheckpoint>", escape(name), list(&targets));
    (!targets.is_empty()).then(text)
}

/// One that libvirt lost, for disks whose images have its bitmap still.
pub(super) fn anew(name: &str, targets: &[&str], domain_xml: &str) -> String {
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // The domain's description must not bring a declaration of its own.
    let domain = domain_xml.find("<domain").map_or(domain_xml, |at| &domain_xml[at..]);
    format!(
        "<domaincheckpoint><name>{}</name><description>Cairn</description><creationTime>{now_s}</creationTime>{}{domain}</domaincheckpoint>",
        escape(name),
        list(targets)
    )
}

/// Disks that are not listed have no part in it.
fn list(targets: &[&str]) -> String {
    let one = |target: &&str| format!("<disk name='{}' checkpoint='bitmap'/>", escape(target));
    format!("<disks>{}</disks>", targets.iter().map(one).collect::<String>())
}

/// Targets with a bitmap; none of what cannot be read.
pub(super) fn disks(xml: &str) -> Vec<String> {
    let Ok(document) = Document::parse(xml) else { return Vec::new() };
    let listed = child(document.root_element(), "disks").into_iter().flat_map(|disks| disks.children());
    listed.filter(|disk| disk.attribute("checkpoint") == Some("bitmap")).filter_map(|disk| disk.attribute("name")).map(str::to_owned).collect()
}

/// The same checkpoint with other disks.
pub(super) fn with_disks(xml: &str, targets: &[&str]) -> String {
    let range = |document: &Document<'_>| child(document.root_element(), "disks").map(|node: Node<'_, '_>| node.range());
    match Document::parse(xml).ok().as_ref().and_then(range) {
        Some(range) => format!("{}{}{}", &xml[..range.start], list(targets), &xml[range.end..]),
        None => xml.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domaincheckpoint>\n <name>c</name>\n <disks>\n  <disk name='vda' checkpoint='bitmap' bitmap='c'/>\n  <disk name='vdb' checkpoint='no'/>\n \
        </disks>\n <domain><devices><disk name='vdz' checkpoint='bitmap'/></devices></domain>\n</domaincheckpoint>";

    #[test]
    fn disks_are_read_and_replaced_in_their_own_list_alone() {
        assert_eq!(disks(XML), ["vda"]);
        let other = with_disks(XML, &["vdb", "vdc"]);
        assert_eq!(disks(&other), ["vdb", "vdc"]);
        assert!(other.ends_with("<disk name='vdz' checkpoint='bitmap'/></devices></domain>\n</domaincheckpoint>"), "{other}");
        assert!(disks("nonsense").is_empty());
    }

    #[test]
    fn one_that_was_lost_is_described_with_its_domain() {
        let text = anew("c", &["vda"], "<?xml version='1.0'?><domain type='kvm'><name>web</name></domain>");
        assert_eq!(disks(&text), ["vda"]);
        assert!(text.contains("</disks><domain type='kvm'>") && text.contains("<creationTime>"), "{text}");
    }
}
