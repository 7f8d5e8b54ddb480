//! Block status: from what an export tells to descriptors that keep the protocol's rules.
//!
//! Rules: neighbours differ, none is empty, together they lie inside the request and begin at its start; one alone with REQ_ONE.

use std::io;
use std::ops::Range;

use super::export::{Export, ExportExtent};
use super::limits::DESCRIPTORS_MAX;
use crate::codec::transmission::{Descriptor, STATE_HOLE, STATE_ZERO};

/// What an export says of `range`, checked: without gaps, in order, at least one byte, none beyond the range.
pub(super) fn extents(export: &dyn Export, range: Range<u64>, extents_max: usize) -> io::Result<Vec<ExportExtent>> {
    let found = export.extents(range.clone(), extents_max)?;
    let mut at = range.start;
    for extent in &found {
        if extent.range.start != at || extent.range.end <= at || extent.range.end > range.end {
            return Err(io::Error::other(format!("the export tells of {:?} where {at} to {} was asked for", extent.range, range.end)));
        }
        at = extent.range.end;
    }
    if found.is_empty() || found.len() > extents_max {
        return Err(io::Error::other(format!("the export tells {} extents where 1 to {extents_max} were asked for", found.len())));
    }
    Ok(found)
}

/// Descriptors of base:allocation for a request that is not empty.
pub(super) fn descriptors(export: &dyn Export, offset: u64, length: u32, only_one: bool) -> io::Result<Vec<Descriptor>> {
    let found = extents(export, offset..offset + u64::from(length), DESCRIPTORS_MAX)?;
    let mut out: Vec<Descriptor> = Vec::new();
    for extent in found {
        let length = u32::try_from(extent.range.end - extent.range.start).expect("extents lie inside a request of 32-bit length");
        let status = if extent.zero { STATE_HOLE | STATE_ZERO } else { 0 };
        match out.last_mut() {
            Some(last) if last.status == status => last.length += length,
            Some(_) if only_one => break,
            _ => out.push(Descriptor { length, status }),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Told(Vec<(u64, u64, bool)>);

    impl Export for Told {
        fn size_bytes(&self) -> u64 {
            1 << 40
        }
        fn extents(&self, _: Range<u64>, _: usize) -> io::Result<Vec<ExportExtent>> {
            Ok(self.0.iter().map(|&(start, end, zero)| ExportExtent { range: start..end, zero }).collect())
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::Error::other("not read here"))
        }
    }

    #[test]
    fn neighbours_of_one_kind_are_one() {
        let told = Told(vec![(10, 20, false), (20, 30, false), (30, 50, true), (50, 60, true), (60, 61, false)]);
        let all = descriptors(&told, 10, 90, false).expect("good extents");
        let expected = [(20, 0), (30, STATE_HOLE | STATE_ZERO), (1, 0)].map(|(length, status)| Descriptor { length, status });
        assert_eq!(all, expected);
        assert_eq!(descriptors(&told, 10, 90, true).expect("good extents"), expected[..1]);
    }

    #[test]
    fn an_export_that_tells_nonsense_is_not_believed() {
        for nonsense in [vec![], vec![(11, 20, false)], vec![(10, 10, false)], vec![(10, 101, false)], vec![(10, 20, true), (21, 30, true)]] {
            assert!(descriptors(&Told(nonsense.clone()), 10, 90, false).is_err(), "{nonsense:?}");
        }
    }
}
