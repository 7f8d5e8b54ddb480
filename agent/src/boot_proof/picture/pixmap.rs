//! A portable pixmap, read piece by piece: what libvirt gives of a QEMU before 7.1.
//!
//! What it must not do: trust a header.

use super::pixels::{Pixels, SIDE_MAX};

/// No header is longer.
const HEADER_BYTES_MAX: usize = 256;

/// Reads a pixmap.
#[derive(Debug, Default)]
pub struct Pixmap {
    header: Vec<u8>,
    pixels: Option<Pixels>,
    problem: Option<&'static str>,
}

impl Pixmap {
    /// Takes a piece; false once no more is wanted.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        if self.problem.is_some() {
            return false;
        }
        let Some(pixels) = &mut self.pixels else {
            return self.begin(piece).unwrap_or_else(|problem| {
                self.problem = Some(problem);
                false
            });
        };
        pixels.push(piece);
        !pixels.is_whole()
    }

    /// The header may end in this piece.
    fn begin(&mut self, piece: &[u8]) -> Result<bool, &'static str> {
        let before = self.header.len();
        self.header.extend_from_slice(&piece[..piece.len().min(HEADER_BYTES_MAX)]);
        match header(&self.header)? {
            Some((width, height, end)) => {
                let pixels = self.pixels.insert(Pixels::new(width, height));
                pixels.push(&piece[end - before..]);
                Ok(!pixels.is_whole())
            }
            None if self.header.len() < HEADER_BYTES_MAX => Ok(true),
            None => Err("it has no header"),
        }
    }

    /// What came.
    pub fn finish(self) -> Result<Pixels, String> {
        match (self.problem, self.pixels) {
            (Some(problem), _) => Err(problem.to_owned()),
            (None, Some(pixels)) => Ok(pixels),
            (None, None) => Err("it is not whole".to_owned()),
        }
    }
}

/// Width, height and length of a header of netpbm's format P6 (ppm(5)) with one byte a colour; `None` if it is not there as a whole.
fn header(bytes: &[u8]) -> Result<Option<(usize, usize, usize)>, &'static str> {
    if !b"P6".starts_with(&bytes[..bytes.len().min(2)]) {
        return Err("it is no portable pixmap");
    }
    let (mut at, mut numbers) = (2, [0_usize; 3]);
    for number in &mut numbers {
        let mut digits = 0;
        loop {
            let Some(byte) = bytes.get(at) else { return Ok(None) };
            match byte {
                b'0'..=b'9' if digits < 6 => {
                    *number = *number * 10 + usize::from(byte - b'0');
                    digits += 1;
                }
                b'#' if digits == 0 => {
                    let Some(end) = bytes[at..].iter().position(|b| *b == b'\n') else { return Ok(None) };
                    at += end;
                }
                b' ' | b'\t' | b'\r' | b'\n' if digits == 0 => {}
                b' ' | b'\t' | b'\r' | b'\n' => break,
                _ => return Err("its header makes no sense"),
            }
            at += 1;
        }
        // The one blank behind each number.
        at += 1;
    }
    let [width, height, colours] = numbers;
    match (width, height, colours) {
        (1..=SIDE_MAX, 1..=SIDE_MAX, 255) => Ok(Some((width, height, at))),
        (_, _, 255) => Err("it is larger than any screen, or empty"),
        _ => Err("it has more or fewer than 256 shades of a colour"),
    }
}
