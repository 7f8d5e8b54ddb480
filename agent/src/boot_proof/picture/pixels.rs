//! Pixels of a screen that are kept: of bounded number, whatever mode the guest has set.
//!
//! Invariants
//! - Memory is that of a picture of [`WIDTH_MAX`] x [`HEIGHT_MAX`]: larger ones are thinned as they come.
//! - The PNG fits its place in the store: one that does not, like that of noise, is halved until it does.

use super::Picture;
use cairn_store::format::limits::PICTURE_BYTES_MAX;

/// Of the picture that is kept.
pub const WIDTH_MAX: usize = 1920;
/// See [`WIDTH_MAX`].
pub const HEIGHT_MAX: usize = 1200;
/// No screen of a guest is larger.
pub const SIDE_MAX: usize = 32768;
/// Red, green, blue.
pub const PIXEL_BYTES: usize = 3;

/// Pixels that are kept.
#[derive(Debug)]
pub struct Pixels {
    width: usize,
    height: usize,
    /// Every so manieth pixel of every so manieth row is kept.
    step: usize,
    /// Bytes that came.
    at: usize,
    kept: Vec<u8>,
}

impl Pixels {
    /// Of a screen of that size, none of whose sides is 0 or above [`SIDE_MAX`].
    pub fn new(width: usize, height: usize) -> Self {
        let step = width.div_ceil(WIDTH_MAX).max(height.div_ceil(HEIGHT_MAX));
        let kept = Vec::with_capacity(width.div_ceil(step) * height.div_ceil(step) * PIXEL_BYTES);
        Self { width, height, step, at: 0, kept }
    }

    /// All of them came.
    pub fn is_whole(&self) -> bool {
        self.at >= self.width * self.height * PIXEL_BYTES
    }

    /// Bytes that are kept, and will be.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.kept.capacity()
    }

    /// Takes more, red, green and blue in turn, row by row.
    pub fn push(&mut self, piece: &[u8]) {
        let left = self.width * self.height * PIXEL_BYTES - self.at;
        for byte in &piece[..piece.len().min(left)] {
            let pixel = self.at / PIXEL_BYTES;
            if (pixel % self.width).is_multiple_of(self.step) && (pixel / self.width).is_multiple_of(self.step) {
                self.kept.push(*byte);
            }
            self.at += 1;
        }
    }

    /// The picture of them.
    pub fn finish(self) -> Result<Picture, String> {
        if !self.is_whole() {
            return Err("it is not whole".to_owned());
        }
        let screen = (side(self.width), side(self.height));
        let (mut width, mut height, mut pixels) = (self.width.div_ceil(self.step), self.height.div_ceil(self.step), self.kept);
        let blank = pixels.chunks_exact(PIXEL_BYTES).all(|p| p == &pixels[..PIXEL_BYTES]);
        loop {
            let png = encode(width, height, &pixels).map_err(|e| e.to_string())?;
            if png.len() <= PICTURE_BYTES_MAX {
                return Ok(Picture { png, screen, blank });
            }
            (width, height, pixels) = halved(width, height, &pixels);
        }
    }
}

fn side(pixels: usize) -> u32 {
    u32::try_from(pixels).unwrap_or(u32::MAX)
}

fn encode(width: usize, height: usize, pixels: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, side(width), side(height));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(out)
}

/// Four pixels become one.
fn halved(width: usize, height: usize, pixels: &[u8]) -> (usize, usize, Vec<u8>) {
    let (w, h) = (width.div_ceil(2), height.div_ceil(2));
    let mut out = Vec::with_capacity(w * h * PIXEL_BYTES);
    let at = |x: usize, y: usize, c: usize| u32::from(pixels[(y.min(height - 1) * width + x.min(width - 1)) * PIXEL_BYTES + c]);
    for y in 0..h {
        for x in 0..w {
            for c in 0..PIXEL_BYTES {
                let sum = at(2 * x, 2 * y, c) + at(2 * x + 1, 2 * y, c) + at(2 * x, 2 * y + 1, c) + at(2 * x + 1, 2 * y + 1, c);
                out.push(u8::try_from(sum / 4).unwrap_or(u8::MAX));
            }
        }
    }
    (w, h, out)
}
