//! Small changes of an input, as a fuzzer makes them, from a fixed sequence.

/// Numbers that lengths and counts go wrong at.
const NUMBERS: [u32; 9] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x10_0000, 0x7fff_ffff, u32::MAX];
/// Changes of one copy.
const CHANGES_MAX: usize = 4;

/// The sequence; each file has its own.
pub struct Mutator(u64);

impl Mutator {
    /// Starts the sequence of an input.
    pub fn new(data: &[u8]) -> Self {
        Self(u64::from(crc32c::crc32c(data)) << 16 | 0x5eed)
    }

    /// xorshift64: never 0, since it does not start there.
    fn number(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 32).expect("32 bits")
    }

    fn below(&mut self, limit: usize) -> usize {
        self.number() % limit.max(1)
    }

    /// A changed copy; `other` lends its bytes.
    pub fn next(&mut self, data: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = data.to_vec();
        for _ in 0..=self.below(CHANGES_MAX) {
            self.change(&mut out, other);
        }
        out
    }

    fn change(&mut self, out: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(out.len());
        match self.below(7) {
            _ if out.is_empty() => out.extend_from_slice(other),
            0 => out[at] ^= 1 << self.below(8),
            1 => out[at] = u8::try_from(self.below(256)).expect("a byte"),
            2 => out.truncate(at),
            3 => out.insert(at, u8::try_from(self.below(256)).expect("a byte")),
            4 => {
                let end = (at + 1 + self.below(16)).min(out.len());
                out.drain(at..end);
            }
            5 => self.put_number(out, at),
            _ => {
                let start = self.below(other.len());
                let end = (start + 1 + self.below(64)).min(other.len());
                out.splice(at..at, other[start.min(end)..end].iter().copied());
            }
        }
    }

    /// Either byte order, two or four bytes.
    fn put_number(&mut self, out: &mut [u8], at: usize) {
        let number = NUMBERS[self.below(NUMBERS.len())];
        let bytes = if self.below(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
        let bytes = if self.below(2) == 0 { &bytes[..] } else { &bytes[..2] };
        let len = bytes.len().min(out.len() - at);
        out[at..at + len].copy_from_slice(&bytes[..len]);
    }
}
