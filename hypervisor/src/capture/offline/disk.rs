//! One disk of a domain that is off: its images, what to read of it, and the daemon that reads.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cairn_nbd::{Address, ConnectOptions};
use tokio::runtime::Handle;

use super::StampCatalog;
use super::in_use::Writers;
use super::stamp::{Stamp, settled};
use crate::capture::dirty::read_dirty;
use crate::capture::error::CaptureError;
use crate::capture::live::CapturedDisk;
use crate::capture::nbd_disk::NbdDisk;
use crate::capture::plan::{Base, CarrierRecord, DiskPlan, continued_from, decide, thinned, with_tail};
use crate::capture::preflight::file_id;
use crate::disks::{Disk, Source};
use crate::domain::Domain;
use crate::image_tools::chain::{Chain, Look, chain};
use crate::image_tools::daemon::{Access, Daemon, End, Layer, TARGET, layer_export};
use crate::qmp::bitmaps::GRANULARITY_BYTES;
use crate::qmp::nodes::ChainNode;

/// Formats of images that are read without their domain.
const FORMATS: [&str; 2] = ["raw", "qcow2"];

/// What all disks of one capture have in common.
pub(super) struct Around {
    /// The domain's name.
    pub(super) name: String,
    /// First four bytes of the store's id.
    pub(super) store8: [u8; 4],
    /// NBD connections per disk.
    pub(super) connections: usize,
    /// For sockets.
    pub(super) runtime: Handle,
    /// Set when the images are no longer what they were.
    pub(super) worthless: Arc<AtomicBool>,
}

/// A disk and the images that it is made of.
pub(super) struct Image {
    disk: Disk,
    path: PathBuf,
    chain: Vec<ChainNode>,
}

impl Image {
    /// Finds the images. Those of a guest are trusted with nothing: their formats come from the definition and from headers that name them.
    pub(super) fn find(domain: &Domain, name: &str, disk: Disk) -> Result<Self, CaptureError> {
        let unsupported = |problem: String| CaptureError::Unsupported { domain: name.to_owned(), disk: disk.target.clone(), problem };
        if disk.encrypted {
            return Err(unsupported("QEMU encrypts it (LUKS), and it is never saved as plain text; leave it out with --disk".to_owned()));
        }
        let path = match &disk.source {
            Source::File(path) | Source::Block(path) => PathBuf::from(path),
            Source::Volume { pool, volume } => domain
                .volume_path(pool, volume)
                .map_err(|error| unsupported(format!("its volume {volume} of pool {pool} is not to be had ({error}); `virsh pool-start {pool}` may help")))?,
            Source::Network { protocol, .. } => {
                return Err(unsupported(format!(
                    "it lies on the network ({protocol}), and is saved only while the domain runs; start it, or leave the disk out with --disk"
                )));
            }
            Source::Other(kind) => return Err(unsupported(format!("it is of type {kind}, and is saved only while the domain runs"))),
            Source::None => return Err(unsupported("it has no medium".to_owned())),
        };
        if !FORMATS.contains(&disk.format.as_str()) {
            return Err(unsupported(format!("its image is of format {}, and is saved only while the domain runs", disk.format)));
        }
        let found = std::fs::metadata(&path);
        found.map_err(|source| CaptureError::Image { domain: name.to_owned(), disk: disk.target.clone(), path: path.clone(), problem: source.to_string() })?;
        let chain = images(name, &disk, &path)?;
        Ok(Self { disk, path, chain })
    }

    pub(super) fn into_chain(self) -> Vec<ChainNode> {
        self.chain
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.chain.iter().map(|node| PathBuf::from(&node.filename)).collect()
    }

    pub(super) fn refuse_written(&self, name: &str, writers: &Writers) -> Result<(), CaptureError> {
        match self.paths().into_iter().find_map(|path| writers.of(&path).map(|by| (path, by))) {
            None => Ok(()),
            Some((path, by)) => Err(CaptureError::Written { domain: name.to_owned(), disk: self.disk.target.clone(), path, by }),
        }
    }

    /// Stamps of all images, of a moment at which the chain was the one that is known.
    pub(super) fn stamps(&self, name: &str) -> Result<Vec<Stamp>, CaptureError> {
        let (domain, disk) = (name.to_owned(), self.disk.target.clone());
        let stamps = settled(&self.paths()).map_err(|(path, error)| match error {
            Some(error) => CaptureError::Image { domain, disk, path, problem: error.to_string() },
            None => CaptureError::Restless { domain, disk, path },
        })?;
        if images(name, &self.disk, &self.path)? != self.chain {
            return Err(CaptureError::Changed { domain: name.to_owned(), disk: self.disk.target.clone() });
        }
        Ok(stamps)
    }

    /// Starts the daemon, asks what is dirty, connects the readers.
    pub(super) fn open(self, around: &Around, ordinal: u32, images: Vec<Stamp>, catalog: &dyn StampCatalog) -> Result<(Daemon, CapturedDisk), CaptureError> {
        let runtime = &around.runtime;
        let top = self.chain.first().expect("a chain has its top image: image_tools::chain");
        let base = decide(&self.chain, around.store8, catalog, &file_id);
        let continued = continued_from(&self.chain, &base, around.store8, catalog);
        let layers: Vec<Layer> = self.chain.iter().map(|node| self.layer(node, &base, continued.as_deref())).collect();
        let daemon = Daemon::start(&layers, Access::Share, End::Kill)?;
        let address = Address::Unix(daemon.socket());
        let mut dirty = Vec::new();
        for (depth, layer) in layers.iter().enumerate() {
            let Some(bitmap) = &layer.bitmap else { continue };
            let context = format!("qemu:dirty-bitmap:{bitmap}");
            dirty.extend(runtime.block_on(read_dirty(
                ConnectOptions::new(address.clone(), layer_export(depth)).context(context.clone()),
                &context,
                GRANULARITY_BYTES,
            ))?);
        }
        let reader = NbdDisk::connect(runtime, ConnectOptions::new(address, TARGET), around.connections)?;
        if reader.size_bytes() != top.size_bytes {
            return Err(CaptureError::Changed { domain: around.name.clone(), disk: self.disk.target.clone() });
        }
        // An older bitmap goes on recording, so what it marks now is remembered: an image may be set back to an earlier state of its own.
        let marked = if continued.is_some() { thinned(with_tail(dirty.clone(), top.size_bytes, top.size_bytes)) } else { Vec::new() };
        let plan = match catalog.unchanged(&self.disk.target, &self.disk.format, top.size_bytes, &images) {
            Some((base_session, base_ordinal)) => DiskPlan::Incremental { base_session, base_ordinal, dirty: Vec::new() },
            None => plan(base, dirty, top.size_bytes),
        };
        let carrier = CarrierRecord {
            size_bytes: top.size_bytes,
            image_path: self.path.to_string_lossy().into_owned(),
            device_inode: file_id(&top.filename),
            bitmap_name: continued.clone().unwrap_or_default(),
            marked,
        };
        let disk = CapturedDisk {
            target: self.disk.target.clone(),
            ordinal,
            size_bytes: top.size_bytes,
            plan,
            bitmap_name: continued.unwrap_or_default(),
            carrier,
            image_format: self.disk.format,
            images,
            worthless: around.worthless.clone(),
            reader: Arc::new(reader),
        };
        Ok((daemon, disk))
    }

    /// One image with the bitmap that is to be read from it: the base's, or for the top alone the one that the point may be continued from.
    fn layer(&self, node: &ChainNode, base: &Base, continued: Option<&str>) -> Layer {
        let is_top = self.chain.first().is_some_and(|top| top == node);
        let bitmap = match base {
            Base::Bitmap { bitmap, nodes, .. } => nodes.contains(&node.name).then(|| bitmap.clone()),
            Base::None { .. } if is_top => continued.map(str::to_owned),
            Base::None { .. } => None,
        };
        Layer { path: node.filename.clone().into(), format: node.driver.clone(), bitmap }
    }
}

/// The chain of images, all of which can be read here.
fn images(name: &str, disk: &Disk, path: &Path) -> Result<Vec<ChainNode>, CaptureError> {
    let bad = |path: &Path, problem: String| CaptureError::Image { domain: name.to_owned(), disk: disk.target.clone(), path: path.to_owned(), problem };
    let unsupported = |what: String| {
        let problem = format!("{what}, and is saved only while the domain runs; start it, or leave the disk out with --disk");
        CaptureError::Unsupported { domain: name.to_owned(), disk: disk.target.clone(), problem }
    };
    let Chain { nodes, data_file } = chain(path, &disk.format, Look::Shared).map_err(|error| bad(path, error.to_string()))?;
    if let Some((image, data)) = data_file {
        return Err(unsupported(format!("its image {image} keeps its data in another file ({data})")));
    }
    for node in &nodes {
        let file = Path::new(&node.filename);
        if !FORMATS.contains(&node.driver.as_str()) {
            return Err(unsupported(format!("its image {} is of format {}", node.filename, node.driver)));
        }
        std::fs::metadata(file).map_err(|error| bad(file, error.to_string()))?;
    }
    Ok(nodes)
}

fn plan(base: Base, mut dirty: Vec<Range<u64>>, size_bytes: u64) -> DiskPlan {
    match base {
        Base::Bitmap { session, ordinal, marked, base_size_bytes, .. } => {
            dirty.extend(marked);
            DiskPlan::Incremental { base_session: session, base_ordinal: ordinal, dirty: with_tail(dirty, base_size_bytes, size_bytes) }
        }
        Base::None { reason, compare: None } => DiskPlan::Full { reason },
        Base::None { reason, compare } => DiskPlan::Compare { reason, base: compare },
    }
}
