//! The end of what somebody says, however much that is.

/// Keeps the last bytes.
#[derive(Debug, Clone)]
pub struct Tail {
    bytes: Vec<u8>,
    bytes_max: usize,
    /// Something visible was said at some time.
    visible: bool,
}

impl Tail {
    /// Of at most so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max, visible: false }
    }

    /// Takes more.
    pub fn push(&mut self, piece: &[u8]) {
        self.visible |= piece.iter().any(u8::is_ascii_graphic);
        let piece = &piece[piece.len().saturating_sub(self.bytes_max)..];
        let kept = self.bytes_max - piece.len();
        // Only now and then: a console may say single bytes.
        if self.bytes.len() > kept {
            self.bytes.drain(..self.bytes.len() - kept);
        }
        self.bytes.extend_from_slice(piece);
    }

    /// Whether anything that can be seen was said.
    pub fn is_visible(&self) -> bool {
        self.visible
    }

    /// What is kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The end of it as one line, escaped, of about `limit` bytes.
    pub fn shown(&self, limit: usize) -> String {
        let text = String::from_utf8_lossy(&self.bytes).trim_end().to_owned();
        let mut start = text.len().saturating_sub(limit);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        crate::output::shown(&text[start..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let mut tail = Tail::new(8);
        tail.push(b"\r\n \x00");
        assert!(!tail.is_visible());
        for piece in [&b"abc"[..], b"defg", b"h", b""] {
            tail.push(piece);
        }
        assert_eq!((tail.bytes(), tail.is_visible()), (&b"abcdefgh"[..], true));
        tail.push(&[b'x'; 100]);
        assert_eq!(tail.bytes(), [b'x'; 8]);
        tail.push("é\u{1b}[m".as_bytes());
        assert_eq!(tail.shown(4), "\\u{1b}[m", "cut at a character, not in it");
    }
}
