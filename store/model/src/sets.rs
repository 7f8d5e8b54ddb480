//! Small sets of packs, locations, points and sessions, one bit a member, so that a state is a few words.
//!
//! The kinds are different types: a set of packs cannot be taken for a set of locations, although both are a byte.

use std::marker::PhantomData;

/// Marks a set of packs. 0 and 1 exist at the start (A and B), 2 + i is the one that session i writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Pack;
/// Marks a set of locations. Location i lies in pack i; [`crate::config::EXTRA`] is a second one in pack A.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Location;
/// Marks a set of points. 0 and 1 may exist at the start, 2 + i is the one that session i may commit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Point;
/// Marks a set of sessions, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Writer;

/// A set of packs.
pub type PackSet = Bits<Pack>;
/// A set of locations.
pub type LocationSet = Bits<Location>;
/// A set of points.
pub type PointSet = Bits<Point>;
/// A set of sessions.
pub type SessionSet = Bits<Writer>;

/// A set of at most eight members of kind `K`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Bits<K>(u8, PhantomData<K>);

impl<K: Copy> Bits<K> {
    /// No member.
    pub const EMPTY: Self = Self(0, PhantomData);

    /// The set whose members are the bits that are set.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits, PhantomData)
    }

    /// One bit a member.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set of `index` alone.
    pub const fn one(index: usize) -> Self {
        Self::from_bits(1 << index)
    }

    /// Whether `index` is a member.
    pub const fn contains(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    /// Whether there is no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of members.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// This set and `index`.
    pub const fn with(self, index: usize) -> Self {
        Self::from_bits(self.0 | 1 << index)
    }

    /// This set less `index`.
    pub const fn without(self, index: usize) -> Self {
        Self::from_bits(self.0 & !(1 << index))
    }

    /// Members of either.
    pub const fn union(self, other: Self) -> Self {
        Self::from_bits(self.0 | other.0)
    }

    /// Members of both.
    pub const fn intersection(self, other: Self) -> Self {
        Self::from_bits(self.0 & other.0)
    }

    /// Members of this one alone.
    pub const fn minus(self, other: Self) -> Self {
        Self::from_bits(self.0 & !other.0)
    }

    /// The members, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..8).filter(move |&i| self.contains(i))
    }

    /// Every subset, the empty one and the set itself among them.
    pub fn subsets(self) -> impl Iterator<Item = Self> {
        let mut next = Some(self.0);
        std::iter::from_fn(move || {
            let bits = next?;
            next = if bits == 0 { None } else { Some((bits - 1) & self.0) };
            Some(Self::from_bits(bits))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_operations_are_those_of_sets() {
        let a = PackSet::one(0).with(3);
        let b = PackSet::one(3).with(4);
        assert_eq!(a.union(b).iter().collect::<Vec<_>>(), [0, 3, 4]);
        assert_eq!(a.minus(b), PackSet::one(0));
        assert_eq!(a.intersection(b), PackSet::one(3));
        assert_eq!(a.without(0).len(), 1);
        let mut subsets: Vec<u8> = a.subsets().map(PackSet::bits).collect();
        subsets.sort_unstable();
        assert_eq!(subsets, [0b0000, 0b0001, 0b1000, 0b1001]);
    }
}
