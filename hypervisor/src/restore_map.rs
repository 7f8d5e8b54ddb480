//! A saved domain's XML for another host: other paths, other networks, volumes of pools; and the mark of what it was restored from.
//!
//! Invariants
//! - Only what was asked for changes, everything else stays byte for byte.
//! - A path is mapped by whole components (`/srv/a` is no prefix of `/srv/ab`), the longest prefix wins, and once: nothing is mapped twice.
//! - Titles, descriptions, foreign metadata and kernel command lines are words, not paths.
//!
//! What it must not do: touch libvirt or files.

use roxmltree::{Document, Node};

use crate::edits::{Edits, apply, escape};
use crate::restore_xml::RestoreXmlError;
use crate::state_files::child;

/// URI of the element in a domain's metadata that says which point it was restored from.
pub const RESTORED_URI: &str = "https://cairn-backup.org/xmlns/restored/1.0";
/// Elements whose text is not looked into.
const WORDS: [&str; 5] = ["name", "title", "description", "metadata", "cmdline"];

/// What is elsewhere on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Old prefix and new one.
    pub paths: Vec<(String, String)>,
    /// Old network, bridge or device of an interface and new one.
    pub networks: Vec<(String, String)>,
    /// Old machine type and new one.
    pub machines: Vec<(String, String)>,
}

impl Mapping {
    /// What of it fits nothing in some XML, as it was asked for: `--map-path /a=/b`.
    ///
    /// # Errors
    /// Not XML.
    pub fn unused(&self, xml: &str) -> Result<Vec<String>, RestoreXmlError> {
        let mut out = Vec::new();
        let alone = |option: &str, pair: &(String, String), mapping: Self| -> Result<Option<String>, RestoreXmlError> {
            let fits = pair.0 == pair.1 || remap(xml, &mapping)? != xml;
            Ok((!fits).then(|| format!("{option} {}={}", pair.0, pair.1)))
        };
        for pair in &self.paths {
            out.extend(alone("--map-path", pair, Self { paths: vec![pair.clone()], ..Self::default() })?);
        }
        for pair in &self.networks {
            out.extend(alone("--map-network", pair, Self { networks: vec![pair.clone()], ..Self::default() })?);
        }
        for pair in &self.machines {
            out.extend(alone("--map-machine", pair, Self { machines: vec![pair.clone()], ..Self::default() })?);
        }
        Ok(out)
    }

    /// Where a path is now; `None` where no prefix fits.
    #[must_use]
    pub fn path(&self, path: &str) -> Option<String> {
        let rest = |old: &str| {
            let rest = path.strip_prefix(old.trim_end_matches('/'))?;
            (rest.is_empty() || rest.starts_with('/')).then_some(rest)
        };
        let fitting = self.paths.iter().filter_map(|(old, new)| Some((old.trim_end_matches('/').len(), new, rest(old)?)));
        let (_, new, rest) = fitting.max_by_key(|(length, ..)| *length)?;
        Some(format!("{}{rest}", new.trim_end_matches('/')))
    }

    /// A path where it is now, or as it was.
    #[must_use]
    pub fn path_or_same(&self, path: &str) -> String {
        self.path(path).unwrap_or_else(|| path.to_owned())
    }
}

fn renamed(pairs: &[(String, String)], name: &str) -> Option<String> {
    pairs.iter().find(|(old, _)| old == name).map(|(_, new)| new.clone())
}

/// Rewrites paths and networks.
///
/// # Errors
/// Not XML.
pub fn remap(xml: &str, mapping: &Mapping) -> Result<String, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let mut edits = Edits::new();
    walk(document.root_element(), mapping, &mut edits);
    Ok(apply(xml, edits))
}

fn walk(node: Node<'_, '_>, mapping: &Mapping, edits: &mut Edits) {
    for inner in node.children() {
        if let Some(text) = inner.text().filter(|text| inner.is_text() && text.trim().starts_with('/')) {
            edits.extend(mapping.path(text.trim()).map(|new| (inner.range(), escape(&new))));
        }
        if !inner.is_element() || WORDS.contains(&inner.tag_name().name()) {
            continue;
        }
        let of_interface = inner.has_tag_name("source") && node.has_tag_name("interface");
        for attribute in inner.attributes() {
            let new = match (attribute.value().starts_with('/'), attribute.name()) {
                (true, _) => mapping.path(attribute.value()),
                (false, "network" | "bridge" | "dev") if of_interface => renamed(&mapping.networks, attribute.value()),
                (false, "machine") if inner.has_tag_name("type") => renamed(&mapping.machines, attribute.value()),
                _ => None,
            };
            edits.extend(new.map(|new| (attribute.range_value(), escape(&new))));
        }
        walk(inner, mapping, edits);
    }
}

/// A disk that lies in a pool now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// vda, ...
    pub target: String,
    /// Pool.
    pub pool: String,
    /// Volume.
    pub volume: String,
}

/// Makes disks refer to volumes of pools. To be used on what [`crate::restore_xml::rewrite`] gave: each disk has a type and a source then.
///
/// # Errors
/// Not XML, or no such disk.
pub fn place_volumes(xml: &str, volumes: &[NewVolume]) -> Result<String, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let mut edits = Edits::new();
    for volume in volumes {
        let disk = disks(&document).find(|disk| target(*disk) == Some(&volume.target)).ok_or_else(|| RestoreXmlError::NoDisk(volume.target.clone()))?;
        let (Some(kind), Some(source)) = (disk.attribute_node("type"), child(disk, "source")) else {
            return Err(RestoreXmlError::NoDisk(volume.target.clone()));
        };
        edits.push((kind.range_value(), "volume".to_owned()));
        edits.push((source.range(), format!("<source pool='{}' volume='{}'/>", escape(&volume.pool), escape(&volume.volume))));
    }
    Ok(apply(xml, edits))
}

/// Takes the media that `is_there` does not find out of CD-ROM and floppy drives: a domain with a medium that is missing cannot start. Gives the
/// targets and paths of what was taken out.
///
/// # Errors
/// Not XML.
pub fn without_lost_media(xml: &str, is_there: impl Fn(&str) -> bool) -> Result<(String, Vec<(String, String)>), RestoreXmlError> {
    let document = Document::parse(xml)?;
    let (mut edits, mut lost) = (Edits::new(), Vec::new());
    for disk in disks(&document).filter(|disk| matches!(disk.attribute("device"), Some("cdrom" | "floppy"))) {
        let Some(source) = child(disk, "source") else { continue };
        let Some(path) = source.attribute("file").filter(|path| !is_there(path)) else { continue };
        edits.push((source.range(), String::new()));
        lost.push((target(disk).unwrap_or_default().to_owned(), path.to_owned()));
    }
    Ok((apply(xml, edits), lost))
}

/// Says in the domain's metadata which point it was restored from; an older mark goes.
///
/// # Errors
/// Not XML, or not a domain's.
pub fn mark(xml: &str, point: &str) -> Result<String, RestoreXmlError> {
    let document = Document::parse(xml)?;
    let root = document.root_element();
    let name = child(root, "name").ok_or(RestoreXmlError::Missing("name"))?;
    let element = format!("<cairn:restored xmlns:cairn='{RESTORED_URI}' point='{}'/>", escape(point));
    let mut edits = Edits::new();
    match child(root, "metadata") {
        Some(metadata) => {
            // Other tools may have copied it: all of them go, and the new one takes the place of the first.
            let old: Vec<_> = metadata.children().filter(|node| is_mark(*node)).collect();
            edits.extend(old.iter().skip(1).map(|node| (node.range(), String::new())));
            edits.push(match (old.first(), metadata.first_child()) {
                (Some(first), _) => (first.range(), element),
                (None, Some(first)) => (first.range().start..first.range().start, element),
                (None, None) => (metadata.range(), format!("<metadata>{element}</metadata>")),
            });
        }
        None => edits.push((name.range().end..name.range().end, format!("<metadata>{element}</metadata>"))),
    }
    Ok(apply(xml, edits))
}

/// The point that a domain's XML says it was restored from.
#[must_use]
pub fn marked(xml: &str) -> Option<String> {
    let document = Document::parse(xml).ok()?;
    let metadata = child(document.root_element(), "metadata")?;
    metadata.children().find(|node| is_mark(*node))?.attribute("point").map(str::to_owned)
}

fn is_mark(node: Node<'_, '_>) -> bool {
    node.tag_name().name() == "restored" && node.tag_name().namespace() == Some(RESTORED_URI)
}

/// UUID in a domain's XML.
#[must_use]
pub fn uuid(xml: &str) -> Option<String> {
    let document = Document::parse(xml).ok()?;
    child(document.root_element(), "uuid").and_then(|node| node.text()).map(|text| text.trim().to_owned())
}

fn disks<'a, 'input>(document: &'a Document<'input>) -> impl Iterator<Item = Node<'a, 'input>> {
    child(document.root_element(), "devices").into_iter().flat_map(|devices| devices.children()).filter(|node| node.has_tag_name("disk"))
}

fn target<'a>(disk: Node<'a, '_>) -> Option<&'a str> {
    child(disk, "target").and_then(|target| target.attribute("dev"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_fit_nothing_are_told() {
        let xml = "<domain><os><type machine='pc-q35-7.2'>hvm</type></os><devices><disk><source file='/srv/a/x.qcow2'/></disk>\
            <interface type='network'><source network='lan'/></interface></devices></domain>";
        let pair = |old: &str, new: &str| (old.to_owned(), new.to_owned());
        let mapping = Mapping {
            paths: vec![pair("/srv/a", "/b"), pair("/srv", "/c"), pair("/srv/ab", "/d"), pair("/srv/a/", "/srv/a/")],
            networks: vec![pair("lan", "default"), pair("lann", "default")],
            machines: vec![pair("pc-q35-7.2", "q35"), pair("pc", "q35")],
        };
        assert_eq!(mapping.unused(xml).expect("XML"), ["--map-path /srv/ab=/d", "--map-network lann=default", "--map-machine pc=q35"]);
    }

    fn mapping() -> Mapping {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        Mapping {
            paths: pairs(&[("/srv/a", "/new"), ("/srv/a/deep/", "/other"), ("/usr/libexec/kvm", "/usr/bin/q")]),
            networks: pairs(&[("lan", "n&w")]),
            machines: pairs(&[("pc-q35-10.0", "q35")]),
        }
    }

    #[test]
    fn prefixes_are_whole_components_and_the_longest_wins() {
        let map = mapping();
        assert_eq!(map.path("/srv/a/x").as_deref(), Some("/new/x"));
        assert_eq!(map.path("/srv/a").as_deref(), Some("/new"));
        assert_eq!(map.path("/srv/a/deep/x").as_deref(), Some("/other/x"));
        assert_eq!(map.path("/srv/ab/x"), None);
        assert_eq!(map.path_or_same("/z"), "/z");
    }

    #[test]
    fn paths_and_networks_are_mapped_and_words_are_not() {
        let xml = "<domain><name>/srv/a</name><description>/srv/a/x</description><os><type machine='pc-q35-10.0'>hvm</type><kernel>/srv/a/k</kernel><cmdline>/srv/a/x</cmdline></os><devices>\
            <emulator>/usr/libexec/kvm</emulator><disk><source file='/srv/a/d&amp;1' index='1'/></disk>\
            <interface type='network'><source network='lan'/></interface><disk><source network='lan'/></disk></devices></domain>";
        let out = remap(xml, &mapping()).expect("XML");
        let expected = xml
            .replace("<kernel>/srv/a/k", "<kernel>/new/k")
            .replace("pc-q35-10.0", "q35")
            .replace("/usr/libexec/kvm", "/usr/bin/q")
            .replace("file='/srv/a/d&amp;1'", "file='/new/d&amp;1'")
            .replace("<interface type='network'><source network='lan'/>", "<interface type='network'><source network='n&amp;w'/>");
        assert_eq!(out, expected);
        assert_eq!(remap(xml, &Mapping::default()).expect("XML"), xml);
    }

    #[test]
    fn disks_become_volumes_and_lost_media_go() {
        let xml = "<domain><devices><disk type='file'><source file='/a'/><target dev='vda'/></disk>\
            <disk type='file' device='cdrom'><source file='/gone.iso'/><target dev='sda'/></disk></devices></domain>";
        let volume = NewVolume { target: "vda".into(), pool: "p".into(), volume: "it's".into() };
        let out = place_volumes(xml, std::slice::from_ref(&volume)).expect("XML");
        assert!(out.contains("<disk type='volume'><source pool='p' volume='it&apos;s'/>"), "{out}");
        assert!(place_volumes(xml, &[NewVolume { target: "vdz".into(), ..volume }]).is_err());
        let (out, lost) = without_lost_media(xml, |_| false).expect("XML");
        assert_eq!(lost, [("sda".to_owned(), "/gone.iso".to_owned())]);
        assert!(!out.contains("gone.iso") && out.contains("/a"), "{out}");
        assert_eq!(without_lost_media(xml, |_| true).expect("XML"), (xml.to_owned(), vec![]));
    }

    #[test]
    fn the_mark_is_read_back_and_replaced() {
        for xml in [
            "<domain><name>a</name></domain>",
            "<domain><name>a</name><metadata/></domain>",
            "<domain><name>a</name><metadata> <x:y xmlns:x='http://x'/></metadata></domain>",
        ] {
            assert_eq!(marked(xml), None);
            let once = mark(xml, "p1").expect("XML");
            assert_eq!(marked(&once).as_deref(), Some("p1"), "{once}");
            let twice = mark(&once, "p2").expect("XML");
            assert_eq!(marked(&twice).as_deref(), Some("p2"), "{twice}");
            assert_eq!(twice.matches(RESTORED_URI).count(), 1, "{twice}");
            assert_eq!(twice.contains("http://x"), xml.contains("http://x"));
        }
        assert!(mark("<x/>", "p").is_err());
    }

    #[test]
    fn a_uuid_is_read_without_what_is_around_it() {
        assert_eq!(uuid("<domain><uuid> u </uuid></domain>").as_deref(), Some("u"));
    }
}
