//! What an image is: its chain, sizes and dirty bitmaps, as `qemu-img info` tells without opening it for writing.

use std::path::Path;

use serde::Deserialize;

use super::ToolError;
use super::child::qemu_img;
use super::daemon::protocol;
use crate::qmp::nodes::{Bitmap, ChainNode};

#[derive(Deserialize)]
struct Info {
    filename: String,
    format: String,
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
    #[serde(rename = "backing-filename")]
    backing: Option<String>,
    #[serde(rename = "backing-filename-format")]
    backing_format: Option<String>,
    #[serde(rename = "format-specific")]
    specific: Option<Specific>,
}

#[derive(Deserialize)]
struct Specific {
    #[serde(default)]
    data: Data,
}

#[derive(Deserialize, Default)]
struct Data {
    #[serde(default)]
    bitmaps: Vec<StoredBitmap>,
    #[serde(rename = "data-file")]
    data_file: Option<String>,
}

#[derive(Deserialize)]
struct StoredBitmap {
    name: String,
    granularity: u64,
    #[serde(default)]
    flags: Vec<String>,
}

/// Whether others may have the image open for writing while it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// No: one that somebody has is an error.
    Alone,
    /// Yes; and the look never keeps anybody from opening it.
    Shared,
}

/// What the headers of an image, and of those below it, say.
#[derive(Debug)]
pub struct Chain {
    /// The images, top first; never empty.
    pub nodes: Vec<ChainNode>,
    /// An image that keeps its data in another file, and that file.
    pub data_file: Option<(String, String)>,
}

/// The chain of an image of that format, top first. Names of nodes are the images' paths.
///
/// # Errors
/// [`ToolError`]: among them images that are not there, and a header that does not say of which format the next image is. QEMU would guess that
/// from the content, which a guest may have written.
pub fn chain(image: &Path, format: &str, look: Look) -> Result<Chain, ToolError> {
    // A file name of JSON kind keeps a path with a colon a path.
    let name = serde_json::json!({"driver": format, "file": {"driver": protocol(image), "filename": image.display().to_string()}});
    let name = format!("json:{name}");
    let share: &[&str] = if look == Look::Shared { &["-U"] } else { &[] };
    let told = qemu_img(&[&["info", "--backing-chain", "--output=json"], share, &[&name]].concat(), image)?;
    let fail = |problem: String| ToolError::Failed { program: "qemu-img", image: image.to_owned(), problem: format!("info: {problem}") };
    let mut chain = parse(&told).map_err(fail)?;
    if let Some(top) = chain.nodes.first_mut() {
        top.name = image.display().to_string();
        top.filename.clone_from(&top.name);
    }
    Ok(chain)
}

/// Removes a dirty bitmap from a qcow2 image that nobody else has open for writing: QEMU's lock sees to that.
///
/// # Errors
/// [`ToolError`].
pub fn remove_bitmap(image: &Path, bitmap: &str) -> Result<(), ToolError> {
    // A file name of JSON kind keeps a path with a colon a path, and no format is guessed.
    let file = serde_json::json!({"driver": protocol(image), "filename": image.display().to_string()});
    let name = format!("json:{}", serde_json::json!({"driver": "qcow2", "file": file}));
    qemu_img(&["bitmap", "--remove", &name, bitmap], image).map(drop)
}

fn parse(json: &[u8]) -> Result<Chain, String> {
    let all: Vec<Info> = serde_json::from_slice(json).map_err(|e| format!("its answer cannot be read: {e}"))?;
    if all.is_empty() {
        return Err("its answer is empty".into());
    }
    for i in &all {
        if let (Some(backing), None) = (&i.backing, &i.backing_format) {
            return Err(format!(
                "{} does not say of which format its backing image {backing} is; 'qemu-img rebase -u -b {backing} -F FORMAT' does",
                i.filename
            ));
        }
    }
    let data_file = all.iter().find_map(|i| Some((i.filename.clone(), i.specific.as_ref()?.data.data_file.clone()?)));
    Ok(Chain { nodes: all.into_iter().enumerate().map(|(depth, i)| node(i, depth)).collect(), data_file })
}

fn node(i: Info, depth: usize) -> ChainNode {
    let bitmap = |b: StoredBitmap| {
        let has = |flag: &str| b.flags.iter().any(|f| f == flag);
        Bitmap {
            granularity: b.granularity,
            count: 0,
            recording: has("auto"),
            busy: false,
            persistent: true,
            // QEMU ended without storing it.
            inconsistent: has("in-use"),
            name: Some(b.name),
        }
    };
    let bitmaps = i.specific.map(|s| s.data.bitmaps).unwrap_or_default().into_iter().map(bitmap).collect();
    ChainNode { name: i.filename.clone(), driver: i.format, filename: i.filename, read_only: depth > 0, size_bytes: i.virtual_size, bitmaps }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_and_their_state_are_read() {
        let text = br#"[{"virtual-size": 1048576, "filename": "/i/top", "format": "qcow2", "format-specific": {"type": "qcow2", "data": {"compat": "1.1",
            "bitmaps": [{"flags": ["auto"], "name": "a", "granularity": 65536}, {"flags": ["in-use", "auto"], "name": "b", "granularity": 65536}]}}},
            {"virtual-size": 1048576, "filename": "/i/base", "format": "raw"}]"#;
        let Chain { nodes, data_file } = parse(text).expect("parses");
        assert_eq!(data_file, None);
        assert_eq!((nodes.len(), nodes[0].size_bytes, nodes[1].driver.as_str(), nodes[1].read_only), (2, 1 << 20, "raw", true));
        let [a, b] = nodes[0].bitmaps.as_slice() else { panic!("{nodes:?}") };
        assert!(a.recording && !a.inconsistent && b.inconsistent);
        assert!(parse(b"[]").is_err() && parse(b"{}").is_err());
        let guessed = br#"[{"virtual-size": 1048576, "filename": "/i/top", "format": "qcow2", "backing-filename": "b"}]"#;
        assert!(parse(guessed).expect_err("refused").contains("-F FORMAT"));
        let data = br#"[{"virtual-size": 1048576, "filename": "/i/top", "format": "qcow2", "format-specific": {"data": {"data-file": "/d"}}}]"#;
        assert_eq!(parse(data).expect("parses").data_file, Some(("/i/top".to_owned(), "/d".to_owned())));
    }
}
