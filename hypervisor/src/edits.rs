//! Edits of a text of XML: ranges of it, and what takes their place. What nobody edits stays byte for byte.

use std::ops::Range;

use roxmltree::Node;

/// Ranges of a text and what takes their place.
pub(crate) type Edits = Vec<(Range<usize>, String)>;

/// Edits inside a removed element go with it; the others are applied from the end on.
pub(crate) fn apply(xml: &str, mut edits: Edits) -> String {
    edits.sort_by_key(|e| (e.0.start, std::cmp::Reverse(e.0.end)));
    let mut out = String::with_capacity(xml.len() + 256);
    let mut at = 0;
    for (range, text) in edits {
        if range.start < at {
            continue;
        }
        out.push_str(&xml[at..range.start]);
        out.push_str(&text);
        at = range.end;
    }
    out.push_str(&xml[at..]);
    out
}

pub(crate) fn text_range(node: Node<'_, '_>) -> Option<Range<usize>> {
    node.children().find(Node::is_text).map(|t| t.range())
}

pub(crate) fn after_tag_name(node: Node<'_, '_>) -> Range<usize> {
    let at = node.range().start + 1 + node.tag_name().name().len();
    at..at
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;").replace('"', "&quot;")
}
