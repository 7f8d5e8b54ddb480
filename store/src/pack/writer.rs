//! Writing finished packs: on a thread of its own, one pack ahead, or on the caller's where the platform wants that.
//!
//! Invariant: packs are answered for in the order they were sent, each once.

use super::FinishedPack;
use crate::{
    Result, StoreError,
    platform::{Created, Durability, Platform},
};
use cairn_store_format::{ObjectName, index::IndexedPack};
use sha2::{Digest, Sha256};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread::JoinHandle,
};

/// A pack that is in the storage, and the buffer that it was put together in.
pub(super) struct WrittenPack {
    pub(super) pack: IndexedPack,
    pub(super) buffer: Vec<u8>,
}

/// Takes packs and says when each is in the storage (durable after the next barrier).
pub(super) enum PackWriter {
    /// At once, on the caller's thread.
    Inline { platform: Arc<dyn Platform>, written: VecDeque<Result<WrittenPack>> },
    /// By a thread.
    Threaded { to_writer: Option<SyncSender<FinishedPack>>, from_writer: Receiver<Result<WrittenPack>>, in_flight: usize, thread: Option<JoinHandle<()>> },
}

impl PackWriter {
    pub(super) fn new(platform: Arc<dyn Platform>) -> Self {
        if platform.single_threaded() {
            return Self::Inline { platform, written: VecDeque::new() };
        }
        let (to_writer, jobs) = sync_channel::<FinishedPack>(1);
        let (done, from_writer) = channel();
        let thread = std::thread::spawn(move || {
            for pack in jobs {
                if done.send(write_pack(&*platform, pack)).is_err() {
                    break;
                }
            }
        });
        Self::Threaded { to_writer: Some(to_writer), from_writer, in_flight: 0, thread: Some(thread) }
    }

    /// Hands a pack over; `false` once the writer has ended, which it does only after an error that [`PackWriter::written`] tells.
    pub(super) fn send(&mut self, pack: FinishedPack) -> bool {
        match self {
            Self::Inline { platform, written } => written.push_back(write_pack(&**platform, pack)),
            Self::Threaded { to_writer, in_flight, .. } => {
                if to_writer.as_ref().expect("open until it is dropped").send(pack).is_err() {
                    return false;
                }
                *in_flight += 1;
            }
        }
        true
    }

    /// The next pack that was written; with `wait`, `None` only once all were answered for.
    pub(super) fn written(&mut self, wait: bool) -> Option<Result<WrittenPack>> {
        match self {
            Self::Inline { written, .. } => written.pop_front(),
            Self::Threaded { in_flight: 0, .. } => None,
            Self::Threaded { from_writer, in_flight, .. } => {
                let pack = if wait { from_writer.recv().ok() } else { from_writer.try_recv().ok() }?;
                *in_flight -= 1;
                Some(pack)
            }
        }
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if let Self::Threaded { to_writer, thread, .. } = self {
            *to_writer = None;
            // The writer ends by itself once its channel is closed; a panic there was already reported as a missing answer.
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}

pub(super) fn must_be_new(name: &ObjectName, created: Created) -> Result<()> {
    match created {
        Created::New => Ok(()),
        Created::Exists => Err(StoreError::damaged(name, "an object of this name exists with other content; names are never used twice")),
    }
}

fn write_pack(platform: &dyn Platform, pack: FinishedPack) -> Result<WrittenPack> {
    let sha256 = Sha256::digest(&pack.bytes).into();
    for name in ObjectName::pack(&pack.pack) {
        must_be_new(&name, platform.create(&name, &pack.bytes, Durability::Deferred)?)?;
    }
    let indexed = IndexedPack { pack: pack.pack, size_bytes: pack.bytes.len() as u64, sha256, footer: pack.footer };
    Ok(WrittenPack { pack: indexed, buffer: pack.bytes })
}
