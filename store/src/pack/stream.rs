//! A session's packs as they are filled and written: a data pack and a metadata pack in memory, one more on its way to the storage.

use super::{
    FinishedPack, PackBuilder,
    writer::{PackWriter, WrittenPack, must_be_new},
};
use crate::{
    Result, StoreError,
    crypto::{Keys, PackKey, SealedFrame, Sealer},
    platform::{Durability, Platform},
};
use cairn_store_format::{
    Id, Location, ObjectName, PackId, PackKind, SessionId,
    index::{self, IndexedPack},
    limits::FRAME_PLAIN_BYTES_MAX,
    map::Ref,
    pack::{FrameKind, WrapScheme},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// An index file is published every so many packs, and after the first one of a session that goes on: what a killed session stored is found again by
/// the next.
const PACKS_PER_INDEX_FILE: usize = 4;

/// Level of metadata compression: nodes are mostly ids, which do not shrink.
pub(crate) const META_ZSTD_LEVEL: u8 = 3;

/// What this session stored so recently that the local index does not know it yet; shared with the workers.
#[derive(Default)]
pub(crate) struct Pending(Mutex<HashMap<Id, Location>>);

impl Pending {
    pub(crate) fn find(&self, id: &Id) -> Option<Location> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }
    fn insert(&self, id: Id, at: Location) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, at);
    }
    fn forget(&self, pack: &IndexedPack) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for s in &pack.footer.slots {
            if map.get(&s.id).is_some_and(|at| at.pack == pack.pack) {
                map.remove(&s.id);
            }
        }
    }
}

type OnStored = Box<dyn FnMut(&IndexedPack) -> Result<()> + Send>;

/// Fills packs and hands them to a writer thread.
pub(crate) struct PackStream {
    platform: Arc<dyn Platform>,
    keys: Arc<Keys>,
    session: SessionId,
    next_seq: u32,
    next_index_seq: u32,
    data: Option<PackBuilder>,
    meta: Option<PackBuilder>,
    data_key: Mutex<Option<Arc<PackKey>>>,
    meta_keys: Option<MetaKeys>,
    pub(crate) pending: Arc<Pending>,
    writer: PackWriter,
    /// The buffer of a data pack that was written, for the next one; at most one is kept.
    spare: Vec<u8>,
    unpublished: Vec<IndexedPack>,
    /// No more frames come: what is left goes into one index file.
    ends: bool,
    /// Called for every pack that is durable: the local index takes it in.
    on_stored: OnStored,
    pub(crate) stored_bytes: u64,
    /// How long packs waited for the writer, nanoseconds.
    pub(crate) waited_ns: u64,
}

/// Keys of the open metadata pack: nodes under the metadata key, secrets under the data key.
struct MetaKeys {
    meta: Option<Arc<PackKey>>,
    secret: Option<Arc<PackKey>>,
}

impl PackStream {
    pub(crate) fn new(platform: Arc<dyn Platform>, keys: Arc<Keys>, session: SessionId, on_stored: OnStored) -> Self {
        let data_key = Mutex::new(keys.new_pack_key(&*platform, WrapScheme::EpochData));
        Self {
            writer: PackWriter::new(platform.clone()),
            platform,
            keys,
            session,
            next_seq: 0,
            next_index_seq: 0,
            data: None,
            meta: None,
            data_key,
            meta_keys: None,
            pending: Arc::default(),
            spare: Vec::new(),
            unpublished: Vec::new(),
            ends: false,
            on_stored,
            stored_bytes: 0,
            waited_ns: 0,
        }
    }

    /// The key that workers seal chunks with now. It changes with every pack; a frame sealed just before brings its row along.
    pub(crate) fn data_key(&self) -> Option<Arc<PackKey>> {
        self.data_key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Key for a frame of the open metadata pack.
    pub(crate) fn meta_key(&mut self, secret: bool) -> Option<Arc<PackKey>> {
        let k = self.meta_keys.get_or_insert_with(|| MetaKeys {
            meta: self.keys.new_pack_key(&*self.platform, WrapScheme::EpochMeta),
            secret: self.keys.new_pack_key(&*self.platform, WrapScheme::EpochData),
        });
        if secret { k.secret.clone() } else { k.meta.clone() }
    }

    /// Stores a chunk, unless this session did already.
    pub(crate) fn put_chunk(&mut self, f: &SealedFrame) -> Result<(Location, bool)> {
        if let Some(at) = self.pending.find(&f.id) {
            return Ok((at, false));
        }
        if self.data.as_ref().is_some_and(|b| !b.fits(f.stored.len())) {
            self.close_data()?;
        }
        let family = self.keys.family();
        let id = self.pack_id(PackKind::Data, self.data.is_none());
        let spare = &mut self.spare;
        let at = self.data.get_or_insert_with(|| PackBuilder::new(&family, id, std::mem::take(spare))).add(f);
        self.pending.insert(f.id, at);
        self.stored_bytes += f.stored.len() as u64;
        Ok((at, true))
    }

    /// Stores a node or manifest part.
    pub(crate) fn put_meta(&mut self, f: &SealedFrame) -> Result<Location> {
        if self.meta.as_ref().is_some_and(|b| !b.fits(f.stored.len())) {
            self.close_meta()?;
        }
        let family = self.keys.family();
        let id = self.pack_id(PackKind::Meta, self.meta.is_none());
        self.stored_bytes += f.stored.len() as u64;
        Ok(self.meta.get_or_insert_with(|| PackBuilder::new(&family, id, Vec::new())).add(f))
    }

    /// Seals and stores a frame of metadata.
    pub(crate) fn put_plain(&mut self, kind: FrameKind, plain: &[u8], secret: bool) -> Result<Ref> {
        if plain.len() > FRAME_PLAIN_BYTES_MAX {
            return Err(StoreError::Usage(format!("a part of the point has {} bytes, more than a frame may hold", plain.len())));
        }
        let id = self.keys.content_id(kind, 0, plain);
        let key = self.meta_key(secret);
        let frame = Sealer::new(self.keys.family(), META_ZSTD_LEVEL).seal(id, kind, 0, plain, key.as_ref());
        Ok(Ref { id, at: self.put_meta(&frame)? })
    }

    fn pack_id(&mut self, kind: PackKind, new: bool) -> PackId {
        let id = PackId { session: self.session, seq: self.next_seq, kind };
        self.next_seq += u32::from(new);
        id
    }

    fn close_data(&mut self) -> Result<()> {
        let Some(b) = self.data.take() else { return Ok(()) };
        *self.data_key.lock().unwrap_or_else(PoisonError::into_inner) = self.keys.new_pack_key(&*self.platform, WrapScheme::EpochData);
        self.send(b.finish())
    }

    fn close_meta(&mut self) -> Result<()> {
        self.meta_keys = None;
        let Some(b) = self.meta.take() else { return Ok(()) };
        self.send(b.finish())
    }

    /// The third pack is handed over once the first is written, so that the first is told of by then, however slow the storage is.
    fn send(&mut self, pack: FinishedPack) -> Result<()> {
        let begin = std::time::Instant::now();
        let is_sent = self.writer.send(pack);
        self.waited_ns += u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if !is_sent {
            self.collect(true)?;
            return Err(StoreError::Interrupted);
        }
        self.collect(false)
    }

    /// Takes in what the writer finished; waits for all of it where `all`. After a write that failed the packs that are there are published all the same,
    /// so that they are found again: the storage may be full for a pack and have room for an index file.
    fn collect(&mut self, all: bool) -> Result<()> {
        let mut failed = None;
        while let Some(written) = self.writer.written(all) {
            match written {
                Ok(WrittenPack { pack, buffer }) => {
                    if pack.pack.kind == PackKind::Data {
                        self.spare = buffer;
                    }
                    self.unpublished.push(pack);
                }
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        let due = if self.next_index_seq == 0 && !self.ends { 1 } else { PACKS_PER_INDEX_FILE };
        let publish = all || failed.is_some() || self.unpublished.len() >= due;
        let published = if publish { self.publish() } else { Ok(()) };
        failed.map_or(published, Err)
    }

    fn publish(&mut self) -> Result<()> {
        if self.unpublished.is_empty() {
            return Ok(());
        }
        let packs = std::mem::take(&mut self.unpublished);
        // The packs must be durable before anybody is told of them, a later session of this host no less than others: after a sync that
        // failed they may vanish, and syncing again proves nothing.
        self.platform.barrier()?;
        for pack in &packs {
            (self.on_stored)(pack)?;
            self.pending.forget(pack);
        }
        let name = ObjectName::index(&self.session, self.next_index_seq);
        self.next_index_seq += 1;
        let bytes = index::encode(&self.session, &packs);
        must_be_new(&name, self.platform.create(&name, &bytes, Durability::Deferred)?)
    }

    /// B5's end: every pack and index file is in the storage and durable. What can be written is, whatever cannot.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.ends = true;
        let closed = [self.close_data(), self.close_meta(), self.collect(true)];
        // Whatever failed, what was published must last.
        let durable = self.platform.barrier();
        closed.into_iter().chain([durable]).collect()
    }
}
