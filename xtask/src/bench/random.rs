//! Content of the benchmark's images: the same bytes for the same seed, on every machine.
//!
//! Must not depend on anything but its seed: no clock, no address, no iteration order of a hash map.

use std::io::{self, Write};

const WORDS: usize = 4096;
const VOCABULARY_SEED: u64 = 77;
/// Size of a database page, bytes.
pub const PAGE_BYTES: usize = 8192;
const PAGE_HEADER_BYTES: usize = 24;
const ROWS_A_PAGE: u64 = 48;
/// Reads and writes of the generators, bytes.
const BUFFER_BYTES: usize = 1 << 20;
const LETTERS: &[u8] = b"etaoinshrdlucmfwypvbgk";

/// xoshiro256**, seeded by splitmix64.
pub struct Random([u64; 4]);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        Self(std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// Less than `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(n);
        u64::try_from(wide >> 64).expect("the high half")
    }

    /// Less than `n`, for indexes.
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("less than a usize")
    }

    /// Random bytes.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for part in buf.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
    }
}

/// Words of three to ten letters; the front ones are used far more often.
pub struct Vocabulary(Vec<Vec<u8>>);

impl Vocabulary {
    /// Always the same words.
    pub fn new() -> Self {
        let mut random = Random::new(VOCABULARY_SEED);
        let mut word = |_| {
            let len = 3 + random.index(8);
            (0..len).map(|_| LETTERS[random.index(LETTERS.len()).min(random.index(LETTERS.len()))]).collect()
        };
        Self((0..WORDS).map(&mut word).collect())
    }

    fn pick(&self, random: &mut Random) -> &[u8] {
        let among = random.index(WORDS) + 1;
        &self.0[random.index(among)]
    }
}

/// What makes files: a seed's random numbers and the words.
pub struct Generator {
    random: Random,
    words: Vocabulary,
}

impl Generator {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), words: Vocabulary::new() }
    }

    /// Incompressible bytes: media.
    pub fn media(&mut self, out: &mut impl Write, bytes: u64) -> io::Result<()> {
        let mut buf = vec![0; BUFFER_BYTES];
        let mut left = bytes;
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
            self.random.fill(&mut buf[..n]);
            out.write_all(&buf[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    /// Lines of a log, cut at the end.
    pub fn text(&mut self, out: &mut impl Write, bytes: u64) -> io::Result<()> {
        let (mut left, mut time) = (bytes, 1_767_225_600);
        let mut line = Vec::with_capacity(512);
        while left > 0 {
            let r = &mut self.random;
            time += r.below(3);
            line.clear();
            write!(line, "{time} host{} app[{}]: 10.0.{}.{} GET /", r.below(9), r.below(30_000), r.below(256), r.below(256))?;
            for _ in 0..4 + r.below(12) {
                line.extend_from_slice(self.words.pick(r));
                line.push(if r.below(4) == 0 { b'/' } else { b' ' });
            }
            writeln!(line, "{} {}", 200 + r.below(4) * 100, r.below(90_000))?;
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(line.len());
            out.write_all(&line[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    /// A database of 8 KiB pages.
    pub fn database(&mut self, out: &mut impl Write, bytes: u64) -> io::Result<()> {
        (0..bytes / PAGE_BYTES as u64).try_for_each(|number| out.write_all(&self.page(number)))
    }

    /// One page: a header, slots from the front, rows from the back, a gap of zeros between.
    fn page(&mut self, number: u64) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        page[..8].copy_from_slice(&(0x0016_0000_0000 + number * 8300 + self.random.below(4096)).to_le_bytes());
        page[8..10].copy_from_slice(&self.random.next().to_le_bytes()[..2]);
        let fill = PAGE_BYTES * (60 + self.random.index(38)) / 100;
        let (mut upper, mut slot) = (PAGE_BYTES, 0);
        loop {
            let row = self.row(number * ROWS_A_PAGE + slot as u64);
            let front = PAGE_HEADER_BYTES + 4 * (slot + 1);
            if PAGE_BYTES - upper + row.len() + front > fill {
                return page;
            }
            upper -= row.len();
            page[upper..upper + row.len()].copy_from_slice(&row);
            page[front - 4..front - 2].copy_from_slice(&u16_of(upper));
            page[front - 2..front].copy_from_slice(&u16_of(row.len()));
            slot += 1;
        }
    }

    /// A row: header, number, time, one or two random keys, words, an amount; a multiple of 8 bytes.
    fn row(&mut self, number: u64) -> Vec<u8> {
        let mut row = vec![0; 24];
        row[..8].copy_from_slice(&(1_000_000 + number / 50).to_le_bytes());
        row[16..24].copy_from_slice(&[6, 0, 2, 9, 24, 0, 0, 0]);
        row.extend_from_slice(&number.to_le_bytes());
        row.extend_from_slice(&(700_000_000_000_000 + number * 1_370_000 + self.random.below(1_000_000)).to_le_bytes());
        for _ in 0..=number % 2 {
            row.extend_from_slice(&self.random.next().to_le_bytes());
        }
        for _ in 0..3 + self.random.below(10) {
            row.extend_from_slice(self.words.pick(&mut self.random));
            row.push(b' ');
        }
        row.extend_from_slice(&self.random.below(100_000).to_le_bytes());
        row.resize(row.len().next_multiple_of(8), 0);
        row
    }

    /// A page after an update: another log position, one to three rows written over what was there.
    pub fn update_page(&mut self, page: &mut [u8], number: u64, day: u64) {
        page[..8].copy_from_slice(&(0x0099_0000_0000 + (day << 28) + number * 8300).to_le_bytes());
        for _ in 0..1 + self.random.below(3) {
            let number = self.random.next() >> 40;
            let row = self.row(number);
            let at = 512 + self.random.index(page.len() - 1024) / 8 * 8;
            let len = row.len().min(page.len() - at);
            page[at..at + len].copy_from_slice(&row[..len]);
        }
    }

    /// A program as its next build has it: three in a hundred 64-byte words changed, a few bytes pushed in now and then.
    pub fn next_build(&mut self, old: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(old.len() + 1024);
        for (n, word) in old.chunks(64).enumerate() {
            let at = out.len();
            out.extend_from_slice(word);
            if self.random.below(100) < 3 && word.len() == 64 {
                let place = at + self.random.index(60);
                let bytes = self.random.next().to_le_bytes();
                out[place..place + 4].copy_from_slice(&bytes[..4]);
            }
            if n % 4096 == 4095 {
                out.resize(out.len() + 4 * self.random.index(9), 0);
            }
        }
        out
    }

    /// The numbers themselves.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

fn u16_of(n: usize) -> [u8; 2] {
    u16::try_from(n).expect("within a page").to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_bytes_and_another_one_others() {
        let make = |seed| {
            let (mut out, mut generator) = (Vec::new(), Generator::new(seed));
            generator.database(&mut out, 40 * PAGE_BYTES as u64).expect("a vector takes all");
            generator.text(&mut out, 10_001).expect("a vector takes all");
            generator.media(&mut out, 4099).expect("a vector takes all");
            out
        };
        let one = make(1);
        assert_eq!(one.len(), 40 * PAGE_BYTES + 10_001 + 4099);
        assert_eq!(one, make(1));
        assert_ne!(one, make(2));
    }

    #[test]
    fn an_update_leaves_most_of_a_page() {
        let mut generator = Generator::new(3);
        let before = generator.page(5);
        let mut after = before.clone();
        generator.update_page(&mut after, 5, 2);
        let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
        assert!((8..PAGE_BYTES / 3).contains(&changed), "{changed} bytes changed");
    }

    #[test]
    fn a_next_build_is_mostly_the_old_one() {
        let old: Vec<u8> = (0..640_000u32).map(|i| (i / 7) as u8).collect();
        let new = Generator::new(4).next_build(&old);
        let same = old[..200_000].iter().zip(&new).filter(|(a, b)| a == b).count();
        assert!((150_000..200_000).contains(&same), "{same} of 200000 bytes are the same");
    }
}
