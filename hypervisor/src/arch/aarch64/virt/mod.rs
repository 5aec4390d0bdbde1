//! The registers of a vCPU: what a guest can change, in one table each.

mod el1;
mod fp;

pub use el1::{El1, Keys, Thread};
pub use fp::Fp;
