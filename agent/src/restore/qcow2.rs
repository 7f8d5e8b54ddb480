//! A new qcow2 image: QEMU makes it and writes it.

use super::nbd_image::NbdImage;
use crate::failure::Outcome;
use cairn_hypervisor::image_tools::{child::qemu_img, daemon::Layer};
use std::path::Path;
use tokio::runtime::Runtime;

/// Creates the image and opens it for writing.
pub fn create(path: &Path, size_bytes: u64, runtime: &Runtime) -> Outcome<NbdImage> {
    let (name, size) = (path.display().to_string(), size_bytes.to_string());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=off", &name, &size], path)?;
    NbdImage::open(&[Layer { path: path.to_owned(), format: "qcow2".into(), bitmap: None }], true, true, runtime)
}
