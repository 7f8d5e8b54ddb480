//! Names of bitmaps: they carry store and point, so no local state is needed to know what a bitmap is for.
//!
//! `cairn:<store id, 8 hex>:<session id, 32 hex>:<disk ordinal in that point>`, and `...:E` for the frozen copy that is exported.
//! Checkpoints of libvirt's (docs/adr/0024), and their bitmaps, have one name for all disks of a point: `cairn-<store id, 8 hex>-<session id, 32 hex>`.
//! Names of any other shape are not ours and never touched.

use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "cairn";

/// What a bitmap is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Records what changes after the point; the number is the disk's ordinal in that point.
    Disk(u32),
    /// Frozen copy for the export of one backup.
    Export,
}

/// A bitmap's name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BitmapName {
    /// First four bytes of the store's id.
    pub store8: [u8; 4],
    /// Session, which is the point's id.
    pub session: [u8; 16],
    /// Role.
    pub role: Role,
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(lower_hex) {
        return None;
    }
    let mut out = [0; N];
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(out)
}

impl fmt::Display for BitmapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}:{}:{}:", hex(&self.store8), hex(&self.session))?;
        match self.role {
            Role::Disk(ordinal) => write!(f, "{ordinal}"),
            Role::Export => f.write_str("E"),
        }
    }
}

impl FromStr for BitmapName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or(());
        if next()? != PREFIX {
            return Err(());
        }
        let store8 = unhex(next()?).ok_or(())?;
        let session = unhex(next()?).ok_or(())?;
        let role = match next()? {
            "E" => Role::Export,
            ordinal => Role::Disk(ordinal.parse().map_err(|_| ())?),
        };
        let name = Self { store8, session, role };
        // "+1" and "01" parse as numbers but are not names we write.
        if parts.next().is_none() && name.to_string() == text { Ok(name) } else { Err(()) }
    }
}

/// A checkpoint's name, taken apart. It is that of its bitmaps, too: libvirt wants them equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CheckpointName {
    /// First four bytes of the store's id.
    pub store8: [u8; 4],
    /// Session, which is the point's id.
    pub session: [u8; 16],
}

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{}", hex(&self.store8), hex(&self.session))
    }
}

impl FromStr for CheckpointName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (store, session) = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')?.split_once('-')).ok_or(())?;
        Ok(Self { store8: unhex(store).ok_or(())?, session: unhex(session).ok_or(())? })
    }
}

/// The point at which a bitmap of this name began, if it is one of ours, whoever keeps it.
#[must_use]
pub fn began_at(bitmap: &str) -> Option<[u8; 16]> {
    let of_checkpoint = bitmap.parse::<CheckpointName>().map(|name| name.session);
    of_checkpoint.or_else(|()| bitmap.parse::<BitmapName>().map(|name| name.session)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_spelling_is_ours() {
        let name = BitmapName { store8: [0xab, 1, 2, 3], session: [7; 16], role: Role::Disk(12) };
        assert_eq!(name.to_string(), format!("cairn:ab010203:{}:12", "07".repeat(16)));
        assert_eq!(name.to_string().parse(), Ok(name));
        let export = BitmapName { role: Role::Export, ..name };
        assert_eq!(export.to_string().parse(), Ok(export));
        let good = name.to_string();
        for bad in
            [good.replace("ab", "AB"), good.replace(":12", ":+12"), good.replace(":12", ":012"), format!("{good}:"), format!("x{good}"), good[..20].to_owned()]
        {
            assert!(bad.parse::<BitmapName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn checkpoints_have_names_of_their_own() {
        let name = CheckpointName { store8: [0xab, 1, 2, 3], session: [7; 16] };
        let text = format!("cairn-ab010203-{}", "07".repeat(16));
        assert_eq!((name.to_string(), text.parse()), (text.clone(), Ok(name)));
        assert!(text.parse::<BitmapName>().is_err(), "what one mode keeps is not the other's");
        for bad in [text.replace("ab", "AB"), format!("{text}-0"), format!("{text}0"), text.replace('-', ":"), text.replace("cairn", "carn")] {
            assert!(bad.parse::<CheckpointName>().is_err(), "{bad}");
        }
        assert_eq!(began_at(&text), Some([7; 16]));
        assert_eq!(began_at(&BitmapName { store8: [1; 4], session: [8; 16], role: Role::Disk(0) }.to_string()), Some([8; 16]));
        assert_eq!(began_at("backup-vda"), None);
    }
}
