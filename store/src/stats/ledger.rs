//! What is counted, kept in an SQLite file of its own beside the index: a cache, deleting it costs one walk over all maps.
//!
//! A *place* is a pack's number here and an offset, as maps name it: before any relocation. What a map says of a place never changes, so neither
//! relocations nor collections touch what lies here; only the set of points does.
//!
//! - `packs`: number of each pack, and facts of packs that were listed: whole size and bytes of its frames.
//! - `shelves`: a row for each pack that points refer to; for each place its size and how many times nodes and points that count name it.
//! - `nodes`: what a map node names, and the blocks below it that are not zero. There is a row while the node is referred to.
//! - `points`: the points that count, and what their registers and manifests name.
//!
//! Invariants:
//! - A place is on its shelf while its count is not 0; a node's children are counted once for the node, however many name the node.
//! - All that one point changes is one transaction: another process sees it whole or not at all.
//! - A file of its own, so that a long count never keeps a backup from writing to the index.
//!
//! Must not: read the store.

use crate::{Result, StoreError, database, index::is_damage};
use cairn_store_format::{Location, PackId, PackKind, SessionId, pack::FRAME_HEADER_BYTES};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::Duration,
};

/// Version of the layout; another one is thrown away.
const LAYOUT: i64 = 1;
/// How long to wait for another process that counts.
const BUSY_LIMIT: Duration = Duration::from_secs(120);
/// Entries of shelves held in memory, 16 B each.
const CACHED_ENTRIES_MAX: usize = 4_000_000;
/// Bits of a place that are the offset: a pack has at most 64 MiB.
const OFFSET_BITS: u32 = 27;
/// offset u32, stored length u32, references u32, plain blocks u16.
const ENTRY_BYTES: usize = 14;

const TABLES: [&str; 4] = ["packs", "shelves", "nodes", "points"];
const SCHEMA: &str = "
    CREATE TABLE packs (number INTEGER PRIMARY KEY, session BLOB NOT NULL, seq INTEGER NOT NULL, kind INTEGER NOT NULL, size_bytes INTEGER, frame_bytes INTEGER,
        UNIQUE (session, seq, kind));
    CREATE TABLE shelves (pack INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, blocks INTEGER NOT NULL, places INTEGER NOT NULL, entries BLOB NOT NULL);
    CREATE TABLE nodes (place INTEGER PRIMARY KEY, blocks INTEGER NOT NULL, children BLOB NOT NULL);
    CREATE TABLE points (session BLOB PRIMARY KEY, blocks INTEGER NOT NULL, children BLOB NOT NULL) WITHOUT ROWID;";

/// A pack's number and an offset in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Place(i64);

impl Place {
    fn new(pack: i64, offset: u32) -> Self {
        Self(pack << OFFSET_BITS | i64::from(offset))
    }
    pub(super) fn pack(self) -> i64 {
        self.0 >> OFFSET_BITS
    }
    fn offset(self) -> u32 {
        u32::try_from(self.0 & ((1 << OFFSET_BITS) - 1)).expect("27 bits")
    }
}

/// A place on its shelf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    offset: u32,
    /// Stored length, bytes.
    pub(super) stored_len: u32,
    /// Nodes and points that name it.
    pub(super) refs: u32,
    /// Plain length of a chunk, blocks.
    pub(super) blocks: u16,
}

impl Entry {
    /// Only what is no chunk may be a node.
    pub(super) fn is_chunk(&self) -> bool {
        self.blocks > 0
    }
    /// Bytes in the pack.
    pub(super) fn bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + u64::from(self.stored_len)
    }
}

/// What is used of a pack, by places as maps name them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Used {
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    pub(super) places: u64,
}

/// What a pack is, as far as it never changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PackFacts {
    /// Whole size of one copy.
    pub(super) size_bytes: u64,
    /// Frames with their headers.
    pub(super) frame_bytes: u64,
}

/// What a node or a point names, and the blocks below that are not zero.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Below {
    pub(super) blocks: u64,
    pub(super) children: Vec<Place>,
}

#[derive(Default)]
struct Shelf {
    /// By offset.
    entries: Vec<Entry>,
    dirty: bool,
}

/// Opens the file; one that is damaged or of another layout is made anew.
pub(super) fn open(path: &Path) -> Result<Connection> {
    let connect = || {
        let db = database::open(path, BUSY_LIMIT)?;
        // A count that was committed must not come back torn after a power loss: it could not be told from a right one.
        db.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -16384;")?;
        prepare(&db, false)?;
        Ok(db)
    };
    match connect() {
        Err(e) if is_damage(&e) => {
            tracing::warn!("statistics cache {} is damaged and is made anew", path.display());
            crate::index::remove_database(path);
            connect().map_err(|e| fail(path, e))
        }
        other => other.map_err(|e| fail(path, e)),
    }
}

/// Makes the tables where they are not there or of another layout; `anew`: in any case.
pub(super) fn prepare(db: &Connection, anew: bool) -> rusqlite::Result<()> {
    let layout = || db.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0));
    if layout()? == LAYOUT && !anew {
        return Ok(());
    }
    let tx = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    if layout()? != LAYOUT || anew {
        for table in TABLES {
            tx.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
        }
        tx.execute_batch(&format!("{SCHEMA} PRAGMA user_version = {LAYOUT};"))?;
    }
    tx.commit()
}

pub(super) fn fail(path: &Path, source: rusqlite::Error) -> StoreError {
    if matches!(&source, rusqlite::Error::SqliteFailure(f, _) if f.code == rusqlite::ErrorCode::DatabaseBusy) {
        return StoreError::Busy(format!("another process of this host counts this store for more than {} s; try again when it is done", BUSY_LIMIT.as_secs()));
    }
    StoreError::Index { path: path.display().to_string(), source }
}

/// One transaction; dropped, it leaves nothing.
pub(super) struct Ledger<'t> {
    tx: Transaction<'t>,
    path: &'t Path,
    numbers: HashMap<PackId, i64>,
    shelves: HashMap<i64, Shelf>,
    cached_entries: usize,
    /// Counts that contradict each other: the file is of no use and has to be made anew.
    pub(super) broken: bool,
}

impl<'t> Ledger<'t> {
    pub(super) fn begin(db: &'t mut Connection, path: &'t Path) -> Result<Self> {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| fail(path, e))?;
        Ok(Self { tx, path, numbers: HashMap::new(), shelves: HashMap::new(), cached_entries: 0, broken: false })
    }

    pub(super) fn commit(mut self) -> Result<()> {
        self.flush()?;
        let path = self.path;
        self.tx.commit().map_err(|e| fail(path, e))
    }

    fn sql<T>(&self, work: impl FnOnce(&Transaction<'t>) -> rusqlite::Result<T>) -> Result<T> {
        work(&self.tx).map_err(|e| fail(self.path, e))
    }

    /// Number of a pack, if it has one.
    pub(super) fn find_pack(&mut self, pack: &PackId) -> Result<Option<i64>> {
        if let Some(n) = self.numbers.get(pack) {
            return Ok(Some(*n));
        }
        let found = self.sql(|tx| {
            tx.prepare_cached("SELECT number FROM packs WHERE session = ?1 AND seq = ?2 AND kind = ?3")?
                .query_row(params![pack.session.0, pack.seq, pack.kind as u8], |r| r.get(0))
                .optional()
        })?;
        self.numbers.extend(found.map(|n| (*pack, n)));
        Ok(found)
    }

    /// Number of a pack; a new one where it has none.
    pub(super) fn number(&mut self, pack: &PackId) -> Result<i64> {
        if let Some(n) = self.find_pack(pack)? {
            return Ok(n);
        }
        let n = self.sql(|tx| {
            tx.prepare_cached("INSERT INTO packs (session, seq, kind) VALUES (?1, ?2, ?3)")?.execute(params![pack.session.0, pack.seq, pack.kind as u8])?;
            Ok(tx.last_insert_rowid())
        })?;
        self.numbers.insert(*pack, n);
        Ok(n)
    }

    pub(super) fn place(&mut self, at: &Location) -> Result<Place> {
        Ok(Place::new(self.number(&at.pack)?, at.offset))
    }

    /// One more names the place; whether it is the first.
    pub(super) fn add(&mut self, place: Place, stored_len: u32, blocks: u16) -> Result<bool> {
        let shelf = self.shelf(place.pack())?;
        shelf.dirty = true;
        match shelf.entries.binary_search_by_key(&place.offset(), |e| e.offset) {
            Ok(i) => {
                shelf.entries[i].refs += 1;
                Ok(false)
            }
            Err(i) => {
                shelf.entries.insert(i, Entry { offset: place.offset(), stored_len, refs: 1, blocks });
                self.cached_entries += 1;
                Ok(true)
            }
        }
    }

    /// One less names the place; what it was, if that was the last.
    pub(super) fn subtract(&mut self, place: Place) -> Result<Option<Entry>> {
        let shelf = self.shelf(place.pack())?;
        let Ok(i) = shelf.entries.binary_search_by_key(&place.offset(), |e| e.offset) else {
            self.broken = true;
            return Ok(None);
        };
        shelf.dirty = true;
        shelf.entries[i].refs -= 1;
        Ok(if shelf.entries[i].refs > 0 { None } else { Some(shelf.entries.remove(i)) })
    }

    /// A place and its position on its shelf, which holds until the next change.
    pub(super) fn entry(&mut self, place: Place) -> Result<Option<(usize, Entry)>> {
        let shelf = self.shelf(place.pack())?;
        let found = shelf.entries.binary_search_by_key(&place.offset(), |e| e.offset);
        Ok(found.ok().map(|i| (i, shelf.entries[i])))
    }

    /// Places on a shelf.
    pub(super) fn places_of(&mut self, pack: i64) -> Result<usize> {
        Ok(self.shelf(pack)?.entries.len())
    }

    fn shelf(&mut self, pack: i64) -> Result<&mut Shelf> {
        if !self.shelves.contains_key(&pack) {
            if self.cached_entries > CACHED_ENTRIES_MAX {
                self.flush()?;
                self.shelves.clear();
                self.cached_entries = 0;
            }
            let bytes: Option<Vec<u8>> =
                self.sql(|tx| tx.prepare_cached("SELECT entries FROM shelves WHERE pack = ?1")?.query_row([pack], |r| r.get(0)).optional())?;
            let entries: Vec<Entry> = bytes.unwrap_or_default().chunks_exact(ENTRY_BYTES).map(decode_entry).collect();
            self.cached_entries += entries.len();
            self.shelves.insert(pack, Shelf { entries, dirty: false });
        }
        Ok(self.shelves.get_mut(&pack).expect("it is there or was just put there"))
    }

    /// Writes what was changed into the transaction.
    pub(super) fn flush(&mut self) -> Result<()> {
        let mut changed: Vec<(i64, &mut Shelf)> = self.shelves.iter_mut().filter(|(_, s)| s.dirty).map(|(n, s)| (*n, s)).collect();
        changed.sort_unstable_by_key(|(n, _)| *n);
        let work = || {
            for (pack, shelf) in changed {
                shelf.dirty = false;
                if shelf.entries.is_empty() {
                    self.tx.prepare_cached("DELETE FROM shelves WHERE pack = ?1")?.execute([pack])?;
                    continue;
                }
                let mut bytes = Vec::with_capacity(shelf.entries.len() * ENTRY_BYTES);
                shelf.entries.iter().for_each(|e| encode_entry(e, &mut bytes));
                let (used, blocks) = shelf.entries.iter().fold((0, 0), |(b, n), e| (b + e.bytes(), n + u64::from(e.blocks)));
                self.tx
                    .prepare_cached("INSERT OR REPLACE INTO shelves (pack, bytes, blocks, places, entries) VALUES (?1, ?2, ?3, ?4, ?5)")?
                    .execute(params![pack, used.cast_signed(), blocks.cast_signed(), shelf.entries.len() as i64, bytes])?;
            }
            Ok(())
        };
        work().map_err(|e| fail(self.path, e))
    }

    /// Totals of all shelves, by pack number.
    pub(super) fn used(&mut self) -> Result<HashMap<i64, Used>> {
        self.flush()?;
        let used = |r: &rusqlite::Row<'_>| {
            let n = |i| r.get::<_, i64>(i).map(i64::cast_unsigned);
            Ok((r.get(0)?, Used { bytes: n(1)?, blocks: n(2)?, places: n(3)? }))
        };
        self.sql(|tx| tx.prepare("SELECT pack, bytes, blocks, places FROM shelves")?.query_map([], used)?.collect())
    }

    pub(super) fn node(&self, place: Place) -> Result<Option<Below>> {
        self.sql(|tx| tx.prepare_cached("SELECT blocks, children FROM nodes WHERE place = ?1")?.query_row([place.0], below).optional())
    }

    /// Blocks below a node that is there.
    pub(super) fn node_blocks(&self, place: Place) -> Result<u64> {
        let blocks: Option<i64> =
            self.sql(|tx| tx.prepare_cached("SELECT blocks FROM nodes WHERE place = ?1")?.query_row([place.0], |r| r.get(0)).optional())?;
        Ok(blocks.unwrap_or(0).cast_unsigned())
    }

    pub(super) fn put_node(&self, place: Place, b: &Below) -> Result<()> {
        let values = params![place.0, b.blocks.cast_signed(), encode_places(&b.children)];
        self.sql(|tx| tx.prepare_cached("INSERT OR REPLACE INTO nodes (place, blocks, children) VALUES (?1, ?2, ?3)")?.execute(values)).map(drop)
    }

    pub(super) fn remove_node(&self, place: Place) -> Result<()> {
        self.sql(|tx| tx.prepare_cached("DELETE FROM nodes WHERE place = ?1")?.execute([place.0])).map(drop)
    }

    /// The points that count.
    pub(super) fn points(&self) -> Result<HashSet<SessionId>> {
        self.sql(|tx| tx.prepare("SELECT session FROM points")?.query_map([], |r| r.get(0).map(SessionId))?.collect())
    }

    pub(super) fn point(&self, id: &SessionId) -> Result<Option<Below>> {
        self.sql(|tx| tx.prepare_cached("SELECT blocks, children FROM points WHERE session = ?1")?.query_row([id.0], below).optional())
    }

    pub(super) fn put_point(&self, id: &SessionId, b: &Below) -> Result<()> {
        let values = params![id.0, b.blocks.cast_signed(), encode_places(&b.children)];
        self.sql(|tx| tx.prepare_cached("INSERT INTO points (session, blocks, children) VALUES (?1, ?2, ?3)")?.execute(values)).map(drop)
    }

    pub(super) fn remove_point(&self, id: &SessionId) -> Result<()> {
        self.sql(|tx| tx.prepare_cached("DELETE FROM points WHERE session = ?1")?.execute([id.0])).map(drop)
    }

    /// Facts of all packs that were listed once.
    pub(super) fn facts(&self) -> Result<HashMap<PackId, PackFacts>> {
        let fact = |r: &rusqlite::Row<'_>| {
            let n = |i| r.get::<_, i64>(i).map(i64::cast_unsigned);
            let kind = if r.get::<_, u8>(2)? == PackKind::Data as u8 { PackKind::Data } else { PackKind::Meta };
            Ok((PackId { session: SessionId(r.get(0)?), seq: r.get(1)?, kind }, PackFacts { size_bytes: n(3)?, frame_bytes: n(4)? }))
        };
        let query = "SELECT session, seq, kind, size_bytes, frame_bytes FROM packs WHERE size_bytes IS NOT NULL";
        self.sql(|tx| tx.prepare(query)?.query_map([], fact)?.collect())
    }

    pub(super) fn put_facts(&mut self, pack: &PackId, f: &PackFacts) -> Result<()> {
        let values = params![self.number(pack)?, f.size_bytes.cast_signed(), f.frame_bytes.cast_signed()];
        self.sql(|tx| tx.prepare_cached("UPDATE packs SET size_bytes = ?2, frame_bytes = ?3 WHERE number = ?1")?.execute(values)).map(drop)
    }

    /// A pack that is gone and that nothing names is no longer kept.
    pub(super) fn drop_pack(&mut self, pack: &PackId) -> Result<()> {
        let Some(n) = self.find_pack(pack)? else { return Ok(()) };
        if self.places_of(n)? == 0 {
            self.numbers.remove(pack);
            self.shelves.remove(&n);
            self.sql(|tx| tx.prepare_cached("DELETE FROM shelves WHERE pack = ?1")?.execute([n]))?;
            self.sql(|tx| tx.prepare_cached("DELETE FROM packs WHERE number = ?1")?.execute([n]))?;
        }
        Ok(())
    }
}

fn below(r: &rusqlite::Row<'_>) -> rusqlite::Result<Below> {
    Ok(Below { blocks: r.get::<_, i64>(0)?.cast_unsigned(), children: decode_places(r.get_ref(1)?.as_blob()?) })
}

fn encode_entry(e: &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(&e.offset.to_le_bytes());
    out.extend_from_slice(&e.stored_len.to_le_bytes());
    out.extend_from_slice(&e.refs.to_le_bytes());
    out.extend_from_slice(&e.blocks.to_le_bytes());
}

fn decode_entry(b: &[u8]) -> Entry {
    let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
    Entry { offset: u32_at(0), stored_len: u32_at(4), refs: u32_at(8), blocks: u16::from_le_bytes([b[12], b[13]]) }
}

/// Differences between neighbours, zigzag, seven bits a byte: chunks that lie side by side take three bytes each.
fn encode_places(places: &[Place]) -> Vec<u8> {
    let mut out = Vec::with_capacity(places.len() * 3);
    let mut last = 0_i64;
    for p in places {
        let difference = p.0.wrapping_sub(last);
        let mut v = (difference.wrapping_shl(1) ^ (difference >> 63)).cast_unsigned();
        last = p.0;
        while v >= 0x80 {
            out.push((v & 0x7f) as u8 | 0x80);
            v >>= 7;
        }
        out.push(v as u8);
    }
    out
}

fn decode_places(bytes: &[u8]) -> Vec<Place> {
    let (mut out, mut last, mut v, mut shift) = (Vec::new(), 0_i64, 0_u64, 0);
    for b in bytes {
        v |= u64::from(b & 0x7f) << shift;
        shift += 7;
        // Ten bytes hold 64 bits; more are rubbish that ends here.
        if b & 0x80 == 0 || shift > 63 {
            last = last.wrapping_add((v >> 1).cast_signed() ^ -(v & 1).cast_signed());
            out.push(Place(last));
            (v, shift) = (0, 0);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn places_and_entries_come_back(raw in prop::collection::vec(any::<i64>(), 0..50), e in any::<(u32, u32, u32, u16)>()) {
            let places: Vec<Place> = raw.into_iter().map(Place).collect();
            prop_assert_eq!(decode_places(&encode_places(&places)), places);
            let entry = Entry { offset: e.0, stored_len: e.1, refs: e.2, blocks: e.3 };
            let mut bytes = Vec::new();
            encode_entry(&entry, &mut bytes);
            prop_assert_eq!((bytes.len(), decode_entry(&bytes)), (ENTRY_BYTES, entry));
        }
    }

    #[test]
    fn neighbours_take_little_room() {
        let places: Vec<Place> = (0..64).map(|i| Place::new(7, 64 + i * 40_000)).collect();
        assert!(encode_places(&places).len() < 64 * 3 + 8);
        assert_eq!((places[3].pack(), places[3].offset()), (7, 120_064));
    }
}
