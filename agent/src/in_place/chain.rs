//! What a qcow2 image is: its chain, sizes and dirty bitmaps, as `qemu-img info` tells without opening it for writing.

use crate::failure::{FAILED, Failure, Outcome};
use cairn_hypervisor::qmp::nodes::{Bitmap, ChainNode};
use serde::Deserialize;
use std::{
    path::Path,
    process::{Command, Stdio},
};

#[derive(Deserialize)]
struct Info {
    filename: String,
    format: String,
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
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
}

#[derive(Deserialize)]
struct StoredBitmap {
    name: String,
    granularity: u64,
    #[serde(default)]
    flags: Vec<String>,
}

/// The chain of an image that nobody has open, top first. Names of nodes are the images' paths.
pub fn chain(image: &Path) -> Outcome<Vec<ChainNode>> {
    let fail = |why: String| Failure::new(FAILED, format!("qemu-img info {}: {why}; nothing was written", image.display()));
    // It reads headers only, and ends by itself; the file name of JSON kind keeps a path with a colon a path.
    let name = serde_json::json!({"driver": "qcow2", "file": {"driver": driver(image), "filename": image.display().to_string()}});
    let output = Command::new("qemu-img")
        .args(["info", "--backing-chain", "--output=json", &format!("json:{name}")])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fail(format!("{e} (is qemu-utils installed?)")))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect()));
    }
    let mut nodes = parse(&output.stdout).map_err(fail)?;
    if let Some(top) = nodes.first_mut() {
        top.name = image.display().to_string();
        top.filename.clone_from(&top.name);
    }
    Ok(nodes)
}

fn driver(image: &Path) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if std::fs::metadata(image).is_ok_and(|m| m.file_type().is_block_device()) { "host_device" } else { "file" }
}

fn parse(json: &[u8]) -> Result<Vec<ChainNode>, String> {
    let all: Vec<Info> = serde_json::from_slice(json).map_err(|e| format!("its answer cannot be read: {e}"))?;
    if all.is_empty() {
        return Err("its answer is empty".into());
    }
    Ok(all.into_iter().enumerate().map(|(depth, i)| node(i, depth)).collect())
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
        let nodes = parse(text).expect("parses");
        assert_eq!((nodes.len(), nodes[0].size_bytes, nodes[1].driver.as_str(), nodes[1].read_only), (2, 1 << 20, "raw", true));
        let [a, b] = nodes[0].bitmaps.as_slice() else { panic!("{nodes:?}") };
        assert!(a.recording && !a.inconsistent && b.inconsistent);
        assert!(parse(b"[]").is_err() && parse(b"{}").is_err());
    }
}
