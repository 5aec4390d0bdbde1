//! Why a loader's or firmware's description of the machine is refused.
#![forbid(unsafe_code)]

use super::memory_map::{MAX_REGIONS, PhysRange};
use crate::addr::HostPhys;
use abi::text::{Dec, Text};

/// Why what loader and firmware say is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderError {
    /// `what` is at an address that the boot code cannot reach.
    OutOfReach(&'static str, HostPhys),
    /// The structure does not start with its magic number, or is damaged.
    Damaged(&'static str),
    /// There is no memory map.
    NoMemoryMap,
    /// The memory map would have more than [`MAX_REGIONS`] regions.
    TooManyRegions,
    /// What is to be claimed is not usable memory as a whole.
    NotUsable(PhysRange),
}

impl core::fmt::Display for LoaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LoaderError::OutOfReach(what, at) => {
                write!(f, "the loader put {} at {at:?}, out of reach", Text(what))
            }
            LoaderError::Damaged(what) => write!(f, "the loader's {} is damaged", Text(what)),
            LoaderError::NoMemoryMap => f.write_str("the loader passed no memory map"),
            LoaderError::TooManyRegions => {
                let most = Dec(MAX_REGIONS as u64);
                write!(f, "firmware describes more than {most} memory regions")
            }
            LoaderError::NotUsable(range) => write!(f, "{range:?} is not usable memory"),
        }
    }
}
