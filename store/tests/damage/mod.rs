//! The damage matrix: cells ([`case`]), where fields lie ([`regions`]), copies of a store ([`home`]), what is asked of each ([`trial`]).
#![allow(dead_code, reason = "each suite uses its part")]

pub mod case;
pub mod home;
pub mod regions;
pub mod trial;
