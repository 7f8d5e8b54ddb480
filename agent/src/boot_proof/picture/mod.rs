//! A guest's screen as a picture of bounded size: what libvirt gives becomes a PNG of ours.
//!
//! - [`pixmap`]: portable pixmaps, from QEMU before 7.1; since then libvirt gives a PNG, which is read row by row
//! - [`pixels`]: what is kept, and its PNG
//!
//! What it must not do: grow with the mode that a guest has set.

mod pixels;
mod pixmap;

use pixels::{Pixels, SIDE_MAX};
use pixmap::Pixmap;

/// Longest PNG that is taken: a screen of noise, 3840 x 2160, in three colours.
const PNG_BYTES_MAX: usize = 32 << 20;
const PNG: &[u8] = b"\x89PNG";

/// A picture of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// PNG.
    pub png: Vec<u8>,
    /// Width and height that the guest had set.
    pub screen: (u32, u32),
    /// It is of one colour.
    pub blank: bool,
}

/// Takes a screenshot as it comes.
#[derive(Debug)]
pub enum Screenshot {
    /// Not known yet.
    Beginning(Vec<u8>),
    /// A portable pixmap.
    Pixmap(Pixmap),
    /// A PNG.
    Png(Vec<u8>),
}

impl Default for Screenshot {
    fn default() -> Self {
        Self::Beginning(Vec::new())
    }
}

impl Screenshot {
    /// Takes a piece; false once no more is wanted.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        match self {
            Self::Pixmap(pixmap) => pixmap.push(piece),
            Self::Png(bytes) => {
                bytes.extend_from_slice(piece);
                bytes.len() <= PNG_BYTES_MAX
            }
            Self::Beginning(bytes) => {
                bytes.extend_from_slice(piece);
                if bytes.len() < PNG.len() {
                    return true;
                }
                let bytes = std::mem::take(bytes);
                if bytes.starts_with(PNG) {
                    *self = Self::Png(bytes);
                    return true;
                }
                let mut pixmap = Pixmap::default();
                let more = pixmap.push(&bytes);
                *self = Self::Pixmap(pixmap);
                more
            }
        }
    }

    /// The picture, once all of it came.
    pub fn finish(self) -> Result<Picture, String> {
        match self {
            Self::Pixmap(pixmap) => pixmap.finish()?.finish(),
            Self::Png(bytes) if bytes.len() > PNG_BYTES_MAX => Err(format!("it has more than {} MiB", PNG_BYTES_MAX >> 20)),
            Self::Png(bytes) => png_pixels(&bytes)?.finish(),
            Self::Beginning(_) => Err("it is not whole".to_owned()),
        }
    }
}

/// Row by row: a few bytes may say that they are a picture of gigabytes.
fn png_pixels(bytes: &[u8]) -> Result<Pixels, String> {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let info = reader.info();
    let side = |n: u32| usize::try_from(n).ok().filter(|n| (1..=SIDE_MAX).contains(n)).ok_or("it is larger than any screen, or empty");
    let (width, height) = (side(info.width)?, side(info.height)?);
    if info.interlaced {
        return Err("it is interlaced".to_owned());
    }
    let mut pixels = Pixels::new(width, height);
    let samples = reader.output_color_type().0.samples();
    let mut row_rgb = Vec::with_capacity(width * pixels::PIXEL_BYTES);
    while let Some(row) = reader.next_row().map_err(|e| e.to_string())? {
        row_rgb.clear();
        // Grey, grey and opacity, three colours, three colours and opacity.
        row_rgb.extend(row.data().chunks_exact(samples).flat_map(|p| if samples < 3 { [p[0]; 3] } else { [p[0], p[1], p[2]] }));
        pixels.push(&row_rgb);
    }
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::{
        pixels::{HEIGHT_MAX, PIXEL_BYTES, WIDTH_MAX},
        *,
    };
    use cairn_store::format::limits::PICTURE_BYTES_MAX;

    fn whole(bytes: &[u8], piece_bytes: usize) -> Result<Picture, String> {
        let mut shot = Screenshot::default();
        for piece in bytes.chunks(piece_bytes) {
            if !shot.push(piece) {
                break;
            }
        }
        shot.finish()
    }

    fn decode(png: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("bounded")];
        let info = reader.next_frame(&mut pixels).expect("a frame");
        (info.width, info.height, pixels)
    }

    #[test]
    fn pixels_come_through_whatever_the_pieces() {
        let pixels: Vec<u8> = (0..5 * 4 * 3).map(|n| u8::try_from(n * 4).expect("small")).collect();
        let text = [&b"P6\n# QEMU\n5 4\n255\n"[..], &pixels].concat();
        for piece_bytes in [1, 7, 4096] {
            let picture = whole(&text, piece_bytes).expect("a picture");
            assert_eq!((decode(&picture.png), picture.screen, picture.blank), ((5, 4, pixels.clone()), (5, 4), false));
        }
        let black = whole(&[&b"P6 2 2 255\n"[..], &[0; 12]].concat(), 5).expect("a picture");
        assert!(black.blank);
    }

    fn noise(width: usize, height: usize) -> Pixels {
        let (mut pixels, mut state) = (Pixels::new(width, height), 1_u32);
        let mut row = vec![0; width * PIXEL_BYTES];
        for _ in 0..height {
            for byte in &mut row {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                *byte = state.to_le_bytes()[1];
            }
            pixels.push(&row);
        }
        pixels
    }

    #[test]
    fn a_huge_screen_and_noise_stay_small() {
        let pixels = noise(16384, 1024);
        assert!(pixels.capacity() <= WIDTH_MAX * HEIGHT_MAX * PIXEL_BYTES);
        let picture = pixels.finish().expect("a picture");
        assert_eq!((picture.screen, picture.blank), ((16384, 1024), false));
        assert_eq!(decode(&picture.png).0, 16384_u32.div_ceil(9));
        let picture = noise(WIDTH_MAX, HEIGHT_MAX).finish().expect("a picture");
        assert!(picture.png.len() <= PICTURE_BYTES_MAX, "{}", picture.png.len());
        let (width, height, _) = decode(&picture.png);
        assert!((240..960).contains(&width) && (150..600).contains(&height), "{width} x {height}");
    }

    fn encoded(colour: png::ColorType, pixels: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, 4, 3);
        encoder.set_color(colour);
        encoder.write_header().and_then(|mut w| w.write_image_data(pixels)).expect("encodes");
        out
    }

    #[test]
    fn a_png_is_read_like_a_pixmap() {
        let rgb: Vec<u8> = (0..4 * 3 * 3).collect();
        let rgba: Vec<u8> = rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 9]).collect();
        for (colour, pixels) in [(png::ColorType::Rgb, &rgb), (png::ColorType::Rgba, &rgba)] {
            let text = encoded(colour, pixels);
            for piece_bytes in [1, 50, 4096] {
                let picture = whole(&text, piece_bytes).expect("a picture");
                assert_eq!((decode(&picture.png), picture.screen), ((4, 3, rgb.clone()), (4, 3)), "{colour:?}");
            }
            for cut in 0..text.len() - 20 {
                assert!(whole(&text[..cut], 7).is_err(), "cut at {cut}");
            }
        }
        let grey = whole(&encoded(png::ColorType::Grayscale, &[7; 12]), 9).expect("a picture");
        assert!(grey.blank && decode(&grey.png).2 == [7; 36]);
        assert!(whole(&[&b"\x89PNG"[..], &vec![0; PNG_BYTES_MAX]].concat(), 1 << 20).expect_err("too long").contains("MiB"));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let refused = |bytes: &[u8]| whole(bytes, 3).expect_err("no picture");
        assert!(refused(b"P5\n1 1\n255\n\0").contains("pixmap"));
        assert!(refused(b"P6\n99999 1\n255\n\0").contains("larger"));
        assert!(refused(b"P6\n0 1\n255\n\0").contains("empty"));
        assert!(refused(b"P6\n9999999999999999999999 1\n255\n").contains("sense"));
        assert!(refused(b"P6\n1 1\n65535\n\0\0\0\0\0\0").contains("shades"));
        assert!(refused(b"P6\n2 2\n255\n\0\0\0").contains("whole"));
        assert!(refused(&[b' '; 1000]).contains("pixmap"));
        assert!(refused(&[&b"P6"[..], &[b' '; 1000]].concat()).contains("header"));
    }
}
