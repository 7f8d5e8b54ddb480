//! Lists of what changed in an image since a point of it was taken, made by whoever keeps the image: `rbd diff --format json`.
//!
//! Invariants
//! - A list saves reading and proves nothing. It counts from one point, which whoever gives the list names; of any other it would be wrong in silence.
//! - It is doubted: some of what it calls unchanged is read and compared. One block that differs, and nothing of it is believed.
//! - A list that cannot be understood to its end is refused: half a list (a command that died, a full disk) would be a wrong one.
//!
//! Must not: guess which point a list counts from.

use crate::failure::{Failure, NOT_FOUND, Outcome};
use cairn_store::{BlockSource, PointSource, ReadOptions, Result, Store, StoreError, format::register::DiskEntry};
use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use std::{
    fmt,
    fs::File,
    io::{BufReader, Read},
    ops::Range,
    path::Path,
};

/// Longest list that is read, bytes.
const LIST_BYTES_MAX: u64 = 256 << 20;
/// Ranges that are kept, those that touch each other being one: 64 MiB of memory.
const RANGES_MAX: usize = 4 << 20;
/// Places that are compared with the point although the list calls them unchanged.
const SAMPLES: u64 = 64;
/// What is compared at each, bytes.
const SAMPLE_BYTES: u64 = 4096;

/// One object of the list. What else stands in it (`exists`) does not matter: trimmed or written, it is read.
#[derive(Deserialize)]
struct Changed {
    offset: u64,
    length: u64,
}

/// The ranges as they come, so that a long list is in memory once.
struct Ranges(Vec<Range<u64>>);

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Ranges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of objects with offset and length")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Ranges, A::Error> {
                let mut ranges = Vec::new();
                while let Some(Changed { offset, length }) = list.next_element()? {
                    let end = offset.checked_add(length).ok_or_else(|| A::Error::custom(format!("{length} bytes at {offset} are more than any disk has")))?;
                    ranges.push(offset..end);
                    if ranges.len() > RANGES_MAX {
                        ranges = merged(ranges);
                        if ranges.len() > RANGES_MAX / 2 {
                            return Err(A::Error::custom(format!("it has more than {} ranges apart from each other; back up without it", RANGES_MAX / 2)));
                        }
                    }
                }
                Ok(Ranges(merged(ranges)))
            }
        }
        deserializer.deserialize_seq(Entries)
    }
}

/// The ranges of a list, sorted and disjoint; `-` is stdin.
pub fn read(path: &Path) -> Outcome<Vec<Range<u64>>> {
    if path == Path::new("-") {
        return parse(std::io::stdin().lock(), "stdin");
    }
    let file = File::open(path).map_err(|e| Failure::new(NOT_FOUND, format!("cannot read the list of changes {}: {e}", path.display())))?;
    parse(file, &path.display().to_string())
}

fn parse(reader: impl Read, name: &str) -> Outcome<Vec<Range<u64>>> {
    let wrong = |why: String| Failure::usage(format!("{name} is no list of changes as 'rbd diff --format json' prints it: {why}"));
    let mut reader = reader.take(LIST_BYTES_MAX + 1);
    let list: serde_json::Result<Ranges> = serde_json::from_reader(BufReader::new(&mut reader));
    if reader.limit() == 0 {
        return Err(wrong(format!("it has more than {} MiB; back up without it", LIST_BYTES_MAX >> 20)));
    }
    let Ranges(ranges) =
        list.map_err(|e| wrong(if e.is_eof() { format!("it ends too early ({e}); did the command that made it fail?") } else { e.to_string() }))?;
    Ok(ranges)
}

fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let joins = next.start <= last.end;
        if joins {
            last.end = last.end.max(next.end);
        }
        joins
    });
    ranges
}

/// Refuses a list that speaks of bytes which neither the image nor the point has: it is another image's.
pub fn check_fits(dirty: &[Range<u64>], base: &DiskEntry, source: &dyn BlockSource) -> Outcome<()> {
    let size = base.size_bytes.max(source.size_bytes());
    match dirty.last() {
        Some(last) if last.start >= size => Err(Failure::usage(format!(
            "the list of changes has bytes at {}, and neither the image nor the point since which it counts has more than {size}: is it another image's?",
            last.start
        ))),
        _ => Ok(()),
    }
}

/// Where the image is not what the point says, although the list calls it unchanged: places all over the image, other ones each time.
pub fn contradiction(store: &Store, base: &DiskEntry, source: &dyn BlockSource, dirty: &[Range<u64>]) -> Result<Option<u64>> {
    let size = base.size_bytes.min(source.size_bytes());
    let then = PointSource::with_options(store, base, ReadOptions { cache_bytes: 0, read_ahead_bytes: 0, record_touches: false })?;
    let chance = uuid::Uuid::new_v4().as_u64_pair().0;
    for at in samples(size, chance).filter(|at| is_clean(dirty, *at..*at + SAMPLE_BYTES)) {
        let (mut a, mut b) = ([0; SAMPLE_BYTES as usize], [1; SAMPLE_BYTES as usize]);
        // Damage that is known is read anew by the backup itself, and this is: of what the point does not give nothing may be called unchanged.
        if let Err(e) = then.read_at(at, &mut a) {
            tracing::warn!("byte {at} of the point that the list of changes counts from cannot be read ({e}): 'cairn verify' tells what else");
            return Ok(Some(at));
        }
        source.read_at(at, &mut b).map_err(|e| StoreError::Block { what: format!("reading {SAMPLE_BYTES} bytes at {at}"), source: e })?;
        if a != b {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Whole blocks, one in each of [`SAMPLES`] equal parts of the disk, at a place of its own in each.
fn samples(size: u64, chance: u64) -> impl Iterator<Item = u64> {
    let blocks = size / SAMPLE_BYTES;
    let part = blocks.div_ceil(SAMPLES).max(1);
    // A step that shares no divisor with powers of two: places differ from part to part.
    (0..blocks.div_ceil(part))
        .map(move |i| i * part + chance.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) % part)
        .filter(move |b| *b < blocks)
        .map(|b| b * SAMPLE_BYTES)
}

fn is_clean(dirty: &[Range<u64>], range: Range<u64>) -> bool {
    dirty.get(dirty.partition_point(|d| d.end <= range.start)).is_none_or(|d| d.start >= range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Outcome<Vec<Range<u64>>> {
        parse(text.as_bytes(), "list.json")
    }

    #[test]
    fn what_rbd_prints_becomes_ranges() {
        let text = r#"[{"offset":8192,"length":4096,"exists":"false"},{"offset":0,"length":4096,"exists":"true"},{"offset":4096,"length":100,"exists":"true"},
            {"offset":9000,"length":1,"exists":"true"},{"offset":77777,"length":0,"exists":"true"}]"#;
        assert_eq!(list(text).expect("a list"), [0..4196, 8192..12288]);
        assert_eq!(list("[]").expect("nothing changed"), []);
    }

    #[test]
    fn half_a_list_and_other_things_are_refused() {
        for text in ["", "[", r#"[{"offset":0,"length":1}"#, r#"[{"offset":0,"length":1},"#] {
            let why = list(text).expect_err("half a list").message;
            assert!(why.contains("list.json") && why.contains("ends too early"), "{text}: {why}");
        }
        for text in ["{}", "null", r#"[{"offset":-1,"length":1}]"#, r#"[{"offset":0}]"#, r#"[{"offset":18446744073709551615,"length":2}]"#, "[] []", "[1]"] {
            let why = list(text).expect_err("no list").message;
            assert!(why.contains("no list of changes"), "{text}: {why}");
        }
    }

    #[test]
    fn samples_are_blocks_of_the_disk_in_every_part() {
        for size in [0, 4095, 4096, 64 * 4096, 65 * 4096 + 1, 1 << 30] {
            for chance in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
                let all: Vec<u64> = samples(size, chance).collect();
                assert!(all.iter().all(|at| at % SAMPLE_BYTES == 0 && at + SAMPLE_BYTES <= size), "{size} {chance}");
                assert!(all.windows(2).all(|w| w[0] < w[1]) && all.len() as u64 <= SAMPLES);
                assert!(all.len() as u64 >= (size / SAMPLE_BYTES).min(SAMPLES) / 2, "{size} {chance}: {}", all.len());
            }
        }
        assert!(is_clean(&[0..4096, 8192..9000], 4096..8192) && !is_clean(&[0..4096, 8192..9000], 8999..9001) && is_clean(&[], 0..1));
    }
}
