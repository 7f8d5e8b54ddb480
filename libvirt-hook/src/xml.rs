//! The domain's UUID out of its XML, without an XML library.
//!
//! The root must be `domain`, and the UUID the text of the first `uuid` that is its child. What merely looks like one (in a title, a
//! description, somebody's metadata, a comment, a CDATA section, an attribute) is at another depth or no element, and is passed over.
//!
//! Must not fail on anything: where the text is cut, torn or no XML, there is no UUID.

use crate::Uuid;

/// The UUID, if it is to be found. The XML may end anywhere behind it.
#[must_use]
pub fn domain_uuid(xml: &[u8]) -> Option<Uuid> {
    let mut rest = xml;
    let mut depth = 0_u32;
    loop {
        rest = behind(rest, b"<")?;
        if let Some(comment) = rest.strip_prefix(b"!--") {
            rest = behind(comment, b"-->")?;
        } else if let Some(text) = rest.strip_prefix(b"![CDATA[") {
            rest = behind(text, b"]]>")?;
        } else if let Some(instruction) = rest.strip_prefix(b"?") {
            rest = behind(instruction, b"?>")?;
        } else if rest.starts_with(b"!") {
            // A document type could define entities; libvirt writes none.
            return None;
        } else if let Some(end) = rest.strip_prefix(b"/") {
            rest = behind(end, b">")?;
            depth = depth.checked_sub(1).filter(|d| *d > 0)?;
        } else {
            let (name, is_empty, content) = start_tag(rest)?;
            match depth {
                0 if name != b"domain" || is_empty => return None,
                1 if name == b"uuid" => return if is_empty { None } else { text_uuid(content) },
                _ => {}
            }
            rest = content;
            depth = depth.checked_add(u32::from(!is_empty))?;
        }
    }
}

/// The text up to the next tag; a second `uuid` is not looked for.
fn text_uuid(content: &[u8]) -> Option<Uuid> {
    let end = content.iter().position(|c| *c == b'<')?;
    Uuid::parse(content.get(..end)?.trim_ascii())
}

/// Name, whether it is closed at once, and what follows. A `>` within quotes does not end a tag.
fn start_tag(tag: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let mut quote = None;
    let end = tag.iter().position(|c| match quote {
        Some(q) => {
            if *c == q {
                quote = None;
            }
            false
        }
        None => {
            if matches!(c, b'"' | b'\'') {
                quote = Some(*c);
            }
            *c == b'>'
        }
    })?;
    let (inner, rest) = (tag.get(..end)?, tag.get(end + 1..)?);
    let is_empty = inner.ends_with(b"/");
    let name = inner.split(|c| c.is_ascii_whitespace() || *c == b'/').next()?;
    (!name.is_empty()).then_some((name, is_empty, rest))
}

/// What follows the first `needle`.
fn behind<'a>(text: &'a [u8], needle: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(needle.len()).position(|w| w == needle)?;
    text.get(at + needle.len()..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRUE: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    const FALSE: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";

    fn found(xml: &str) -> Option<String> {
        domain_uuid(xml.as_bytes()).map(|u| u.to_string())
    }

    #[test]
    fn it_is_found_where_libvirt_writes_it() {
        let xml = format!("<?xml version='1.0'?>\n<!-- made by hand -->\n<domain type='kvm' id='1'>\n  <name>a&lt;b</name>\n  <uuid>{TRUE}</uuid>\n</domain>");
        assert_eq!(found(&xml).as_deref(), Some(TRUE));
        assert_eq!(found(&format!("<domain><name>x</name><uuid>\n {TRUE}\n</uuid>")).as_deref(), Some(TRUE), "the rest is cut off");
        assert_eq!(found(&format!("<domain><uuid a='b'>{}</uuid>", TRUE.to_uppercase())).as_deref(), Some(TRUE));
    }

    #[test]
    fn what_looks_like_one_is_not_taken() {
        for before in [
            format!("<title><uuid>{FALSE}</uuid></title>"),
            format!("<description>&lt;uuid&gt;{FALSE}&lt;/uuid&gt;</description>"),
            format!("<title><![CDATA[<uuid>{FALSE}</uuid>]]></title>"),
            format!("<!-- <uuid>{FALSE}</uuid> -->"),
            format!("<?x <uuid>{FALSE}</uuid> ?>"),
            format!("<metadata><a:b xmlns:a='x'><uuid>{FALSE}</uuid></a:b></metadata>"),
            format!("<a:uuid>{FALSE}</a:uuid>"),
            format!("<x y='><uuid>{FALSE}</uuid>'/>"),
            format!("<x y=\"'><uuid>{FALSE}</uuid>\" z='\"'></x>"),
            format!("<uuids>{FALSE}</uuids>"),
        ] {
            assert_eq!(found(&format!("<domain>{before}<uuid>{TRUE}</uuid></domain>")).as_deref(), Some(TRUE), "{before}");
            assert_eq!(found(&format!("<domain>{before}</domain>")), None, "{before}");
        }
    }

    #[test]
    fn another_document_has_none() {
        for xml in [
            "".to_owned(),
            "no XML".to_owned(),
            format!("<uuid>{TRUE}</uuid>"),
            format!("<network><uuid>{TRUE}</uuid></network>"),
            format!("<domain/><uuid>{TRUE}</uuid>"),
            format!("<domain></domain><domain><uuid>{TRUE}</uuid></domain>"),
            format!("<domain></x></y><uuid>{TRUE}</uuid>"),
            format!("<!DOCTYPE d [<!ENTITY x '{TRUE}'>]><domain><uuid>{TRUE}</uuid></domain>"),
            format!("<domain><uuid>{TRUE}"),
            format!("<domain><uuid>{TRUE}x</uuid></domain>"),
            format!("<domain><uuid/>{TRUE}</domain>"),
            "<domain><uuid></uuid></domain>".to_owned(),
            "<domain><".to_owned(),
            "<domain><>".to_owned(),
            "<domain><!--".to_owned(),
        ] {
            assert_eq!(found(&xml), None, "{xml}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = domain_uuid(&bytes);
        }

        /// Pieces of XML in any order: only a child of the root counts.
        #[test]
        fn only_a_child_of_the_root_counts(pieces in proptest::collection::vec(0_usize..10, 0..24)) {
            let piece = ["<a>", "</a>", "<b x='>'/>", "<!--", "-->", "<![CDATA[", "]]>", "<a y=\"", "\">", "text"];
            let middle: String = pieces.iter().map(|i| piece[*i]).collect();
            let inside = format!("<domain><metadata>{middle}<uuid>{FALSE}</uuid></metadata></domain>");
            let answer = found(&inside);
            // Only more end tags than start tags can bring it out of the metadata; libvirt writes none such.
            let ends = pieces.iter().filter(|i| **i == 1).count();
            prop_assert!(answer.is_none() || ends > 0, "{inside}");
        }

        #[test]
        fn cut_anywhere_it_is_right_or_none(cut in 0_usize..300) {
            let xml = format!("<domain><name>n</name><title><![CDATA[<uuid>{FALSE}</uuid>]]></title><uuid>{TRUE}</uuid><metadata><uuid>{FALSE}</uuid></metadata></domain>");
            let cut = cut.min(xml.len());
            let answer = found(&xml[..cut]);
            prop_assert!(answer.is_none() || answer.as_deref() == Some(TRUE));
        }
    }
}
