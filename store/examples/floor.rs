//! The floor of `cargo xtask bench`: the least work that a deduplicating, encrypting backup of this format can do, without the store's code.
//!
//! `floor backup DIR IMAGE NAME`: read, cut at block edges, HMAC-SHA-256, look up, zstd 3, AES-256-GCM, write, fdatasync; two threads.
//! `floor restore DIR NAME OUT` and `floor verify DIR` are the ways back. It keeps no promise of the store: no packs, no tree, no order of
//! writes, one fixed key and its index in memory. Only its times count; nothing must ever be kept in it.

use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt, KeyInit as _},
};
use hmac::{Hmac, Mac};
use nix::{
    fcntl::{PosixFadviseAdvice, posix_fadvise},
    unistd::{Whence, lseek},
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::Sha256;
use std::{
    collections::{HashMap, HashSet},
    error::Error,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use xxhash_rust::xxh3::xxh3_128;

const THREADS: usize = 2;
const BLOCK: usize = 4096;
const REGION: usize = 4 << 20;
const CHUNK_MIN_BLOCKS: usize = 8;
const CHUNK_MAX_BLOCKS: usize = 32;
/// Mean of 64 KiB, as the store's default profile has it.
const THRESHOLD: u64 = u64::MAX / 8;
/// As `cairn init` has it.
const ZSTD_LEVEL: i32 = 3;
/// Entries taken at once by a thread on the way back.
const BATCH: usize = 64;
const ENTRY_BYTES: usize = 60;

type Id = [u8; 32];
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Where a chunk is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Place {
    file: u32,
    offset: u64,
    stored: u32,
}

/// A chunk of an image.
#[derive(Clone, Copy)]
struct Entry {
    position: u64,
    len: u32,
    place: Place,
    id: Id,
}

impl Entry {
    fn encode(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.position.to_le_bytes())?;
        out.write_all(&self.place.offset.to_le_bytes())?;
        out.write_all(&self.place.file.to_le_bytes())?;
        out.write_all(&self.len.to_le_bytes())?;
        out.write_all(&self.place.stored.to_le_bytes())?;
        out.write_all(&self.id)
    }

    fn decode(b: &[u8; ENTRY_BYTES]) -> Self {
        let eight = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let four = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
        let place = Place { offset: eight(8), file: four(16), stored: four(24) };
        Self { position: eight(0), len: four(20), place, id: b[28..].try_into().expect("32 bytes") }
    }
}

fn write_index(path: &Path, size: u64, entries: &[Entry]) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    out.write_all(&size.to_le_bytes())?;
    entries.iter().try_for_each(|e| e.encode(&mut out))?;
    out.into_inner()?.sync_data()
}

fn read_index(path: &Path) -> Outcome<(u64, Vec<Entry>)> {
    let bytes = fs::read(path)?;
    let (size, entries) = bytes.split_first_chunk::<8>().ok_or("the index is cut short")?;
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err("the index is cut short".into());
    }
    Ok((u64::from_le_bytes(*size), entries.iter().map(Entry::decode).collect()))
}

/// All indexes of the folder.
fn indexes(dir: &Path) -> Outcome<Vec<Vec<Entry>>> {
    let paths = fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.iter().filter(|p| p.extension().is_some_and(|x| x == "index")).map(|p| Ok(read_index(p)?.1)).collect()
}

fn frames_path(dir: &Path, number: u32) -> std::path::PathBuf {
    dir.join(format!("{number}.frames"))
}

/// What every thread has of its own.
struct Crypto {
    cut: Aes128,
    ids: Hmac<Sha256>,
    seal: LessSafeKey,
}

impl Crypto {
    fn new() -> Self {
        Self {
            cut: Aes128::new(&[3; 16].into()),
            ids: Hmac::new_from_slice(&[2; 32]).expect("HMAC takes keys of any length"),
            seal: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).expect("32 bytes")),
        }
    }

    fn is_cut(&self, block: &[u8]) -> bool {
        let mut state = xxh3_128(block).to_le_bytes().into();
        self.cut.encrypt_block(&mut state);
        u64::from_le_bytes(state[..8].try_into().expect("16 bytes")) < THRESHOLD
    }

    fn id(&self, plain: &[u8]) -> Id {
        let mut mac = self.ids.clone();
        mac.update(plain);
        mac.finalize().into_bytes().into()
    }

    fn nonce(id: &Id) -> Nonce {
        Nonce::assume_unique_for_key(id[..12].try_into().expect("12 bytes"))
    }
}

fn is_zero(block: &[u8]) -> bool {
    block[0] == 0 && block[1..] == block[..block.len() - 1]
}

struct Backup<'a> {
    image: &'a File,
    size: u64,
    out: &'a File,
    number: u32,
    next_region: AtomicU64,
    next_offset: AtomicU64,
    /// `None`: a thread is sealing it now.
    known: Mutex<HashMap<Id, Option<Place>>>,
    entries: Mutex<Vec<(u64, u32, Id)>>,
}

impl Backup<'_> {
    fn run(&self) -> Outcome<()> {
        let crypto = Crypto::new();
        let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
        let mut region = vec![0; REGION];
        let mut stored = Vec::with_capacity(1 << 20);
        loop {
            let start = self.next_region.fetch_add(1, Ordering::Relaxed) * REGION as u64;
            if start >= self.size {
                return Ok(());
            }
            let len = usize::try_from((self.size - start).min(REGION as u64))?;
            match lseek(self.image, i64::try_from(start)?, Whence::SeekData) {
                Ok(at) if at.unsigned_abs() < start + len as u64 => {}
                Ok(_) | Err(nix::errno::Errno::ENXIO) => continue,
                Err(e) => return Err(e.into()),
            }
            self.image.read_exact_at(&mut region[..len], start)?;
            posix_fadvise(self.image, i64::try_from(start)?, i64::try_from(len)?, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            let chunks = Chunks { crypto: &crypto, bytes: &region[..len], at: 0 };
            for (from, to) in chunks {
                self.chunk(&crypto, &mut zstd, &mut stored, start + from as u64, &region[from..to])?;
            }
        }
    }

    fn chunk(&self, crypto: &Crypto, zstd: &mut zstd::bulk::Compressor<'_>, stored: &mut Vec<u8>, position: u64, plain: &[u8]) -> Outcome<()> {
        let id = crypto.id(plain);
        lock(&self.entries).push((position, u32::try_from(plain.len())?, id));
        match lock(&self.known).entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => return Ok(()),
            std::collections::hash_map::Entry::Vacant(v) => v.insert(None),
        };
        stored.clear();
        if zstd.compress_to_buffer(plain, stored)? >= plain.len() {
            stored.clear();
            stored.extend_from_slice(plain);
        }
        crypto.seal.seal_in_place_append_tag(Crypto::nonce(&id), Aad::empty(), stored).map_err(|_| "sealing failed")?;
        let offset = self.next_offset.fetch_add(stored.len() as u64, Ordering::Relaxed);
        self.out.write_all_at(stored, offset)?;
        lock(&self.known).insert(id, Some(Place { file: self.number, offset, stored: u32::try_from(stored.len())? }));
        Ok(())
    }
}

/// The chunks of a region, without its zero runs.
struct Chunks<'a> {
    crypto: &'a Crypto,
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Chunks<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let block = |at: usize| &self.bytes[at..(at + BLOCK).min(self.bytes.len())];
        while self.at < self.bytes.len() && is_zero(block(self.at)) {
            self.at += BLOCK;
        }
        let (from, mut blocks) = (self.at, 0);
        while self.at < self.bytes.len() && !is_zero(block(self.at)) {
            let last = block(self.at);
            self.at += last.len();
            blocks += 1;
            if blocks == CHUNK_MAX_BLOCKS || (blocks >= CHUNK_MIN_BLOCKS && self.crypto.is_cut(last)) {
                break;
            }
        }
        (blocks > 0).then_some((from, self.at))
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on every thread; the first error of any.
fn on_threads(work: impl Fn() -> Outcome<()> + Sync) -> Outcome<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(&work)).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    })
}

fn backup(dir: &Path, image: &Path, name: &str) -> Outcome<()> {
    fs::create_dir_all(dir)?;
    let before = indexes(dir)?;
    let number = u32::try_from(before.len())?;
    let known = before.iter().flatten().map(|e| (e.id, Some(e.place))).collect();
    let (image, out) = (File::open(image)?, File::create_new(frames_path(dir, number))?);
    let size = image.metadata()?.len();
    let work = Backup {
        image: &image,
        size,
        out: &out,
        number,
        next_region: AtomicU64::new(0),
        next_offset: AtomicU64::new(0),
        known: Mutex::new(known),
        entries: Mutex::default(),
    };
    on_threads(|| work.run())?;
    out.sync_data()?;
    let known = work.known.into_inner().unwrap_or_else(PoisonError::into_inner);
    let found = work.entries.into_inner().unwrap_or_else(PoisonError::into_inner);
    let place = |id: &Id| known.get(id).copied().flatten().ok_or("a chunk has no place");
    let mut entries =
        found.iter().map(|(position, len, id)| Ok(Entry { position: *position, len: *len, place: place(id)?, id: *id })).collect::<Outcome<Vec<_>>>()?;
    entries.sort_unstable_by_key(|e| e.position);
    write_index(&dir.join(format!("{name}.index")), size, &entries)?;
    Ok(())
}

/// Opens every entry; with `out` writes it, too.
fn back(dir: &Path, entries: &[Entry], out: Option<&File>) -> Outcome<()> {
    let files = (0..u32::try_from(indexes(dir)?.len())?).map(|n| File::open(frames_path(dir, n))).collect::<io::Result<Vec<_>>>()?;
    let next = AtomicUsize::new(0);
    on_threads(|| {
        let crypto = Crypto::new();
        let mut zstd = zstd::bulk::Decompressor::new()?;
        let (mut stored, mut buffer) = (Vec::new(), Vec::with_capacity(REGION));
        loop {
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            if from >= entries.len() {
                return Ok(());
            }
            for e in &entries[from..entries.len().min(from + BATCH)] {
                stored.resize(e.place.stored as usize, 0);
                files[e.place.file as usize].read_exact_at(&mut stored, e.place.offset)?;
                let opened = crypto.seal.open_in_place(Crypto::nonce(&e.id), Aad::empty(), &mut stored).map_err(|_| "a seal does not hold")?;
                let plain = if opened.len() < e.len as usize {
                    buffer.clear();
                    zstd.decompress_to_buffer(opened, &mut buffer)?;
                    &buffer[..]
                } else {
                    opened
                };
                if plain.len() != e.len as usize || crypto.id(plain) != e.id {
                    return Err("a chunk differs".into());
                }
                if let Some(out) = out {
                    out.write_all_at(plain, e.position)?;
                }
            }
        }
    })
}

fn restore(dir: &Path, name: &str, out: &Path) -> Outcome<()> {
    let (size, entries) = read_index(&dir.join(format!("{name}.index")))?;
    let file = OpenOptions::new().write(true).create_new(true).open(out)?;
    file.set_len(size)?;
    back(dir, &entries, Some(&file))?;
    Ok(file.sync_data()?)
}

/// Every frame of the folder once, in its order on disk.
fn verify(dir: &Path) -> Outcome<()> {
    let mut seen = HashSet::new();
    let mut entries: Vec<Entry> = indexes(dir)?.into_iter().flatten().filter(|e| seen.insert(e.place)).collect();
    entries.sort_unstable_by_key(|e| e.place);
    back(dir, &entries, None)
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["backup", dir, image, name] => backup(dir.as_ref(), image.as_ref(), name),
        ["restore", dir, name, out] => restore(dir.as_ref(), name, out.as_ref()),
        ["verify", dir] => verify(dir.as_ref()),
        _ => Err("usage: floor backup DIR IMAGE NAME | restore DIR NAME OUT | verify DIR".into()),
    }
}
